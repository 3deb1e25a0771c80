//! What `bowline ssh` knows about the terminal that it writes to.
//!
//! Output of the server goes to the terminal unchanged. Beside it, this crate keeps a shadow of the screen and of the modes,
//! predicts what typed keys will show, and draws predictions and the link line over the screen, so that they can be taken
//! away again before the next output appears.
//!
//! [`Display`] is the whole; a program that owns a terminal needs nothing else:
//!
//! 1. Each input method returns the bytes to write to the terminal now, in one write. They may be none.
//! 2. After each call, [`Display::poll_timeout`] tells when [`Display::handle_timeout`] is due.
//! 3. At the end, [`Display::restore`] gives the bytes that bring the terminal back.
//!
//! Nothing here does I/O or reads a clock: bytes and the present are arguments.

mod boundary;
pub mod display;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod modes;
mod overlay;
pub mod predict;
pub mod screen;
#[cfg(test)]
mod test_tools;

pub use display::{Confirmation, Display, PredictMode, Settings};
pub use modes::ModeTracker;
pub use predict::{Prediction, Predictor};
pub use screen::{Position, Screen};
