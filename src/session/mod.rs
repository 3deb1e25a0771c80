//! The session: one resumable pair of byte streams, without I/O and without a clock.
