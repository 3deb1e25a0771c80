//! The protocol core of bowline, without I/O and without a clock.
//!
//! [`wire`] encodes and decodes what the halves send to each other. [`session`] decides what is sent, resent and
//! acknowledged. [`connection`] decides which path leads, when it is suspected, and when to dial. Callers pass in the time
//! and the bytes.

pub mod connection;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod session;
pub mod wire;

#[cfg(test)]
mod test_tools;
