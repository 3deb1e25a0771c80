//! Two connections as they ship under a schedule that the fuzzer chooses: every byte arrives once.

#![no_main]
#![allow(dead_code, reason = "the modules are those of a test")]

// The modules of the test name the program, which has all that they need from the protocol core.
extern crate self as bowline;

use bowline_proto::{connection, session, wire};

mod clock {
    pub(crate) fn now() -> std::time::Instant {
        std::time::Instant::now()
    }
}

#[path = "../../tests/session_schedules/carrier.rs"]
mod carrier;
#[path = "../../tests/session_schedules/chance.rs"]
mod chance;
#[path = "../../tests/session_schedules/crashes.rs"]
mod crashes;
#[path = "../../tests/session_schedules/half.rs"]
mod half;
#[path = "../../tests/session_schedules/memory_store.rs"]
mod memory_store;
#[path = "../../tests/session_schedules/world.rs"]
mod world;

fn play(input: &[u8]) {
    world::World::new(chance::Chance::chosen(input)).play();
}

bowline_fuzz::target!(play, memory = 64 << 20);
