//! What travels between the halves: ids, frames, hello messages and their limits.
//!
//! Pure: bytes in, values out. No I/O, no clock.
