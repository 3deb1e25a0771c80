//! The only source of the present: an `Instant` that goes on while the machine sleeps.
