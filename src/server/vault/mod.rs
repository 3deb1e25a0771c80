//! Where descriptors live while a worker is replaced: what a session needs to go on in another process.

mod counters;
