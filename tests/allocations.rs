//! What flows costs no memory but what was there before: neither codec nor session core allocates for it. Only what a
//! transport holds for longer is memory of its own.

#[path = "support/cores.rs"]
mod cores;

use bowline::clock;
use bowline::session::{Session, SessionConfig, SessionMemory};
use bowline::wire::{Epoch, Frame, MAX_DATA, Offset};
use bytes::BytesMut;
use cores::{Cores, FILL};
use std::collections::VecDeque;

const MIB: usize = 1 << 20;

#[test]
fn keys_and_their_echoes_allocate_nothing() {
    let mut cores = Cores::joined();
    // Until offsets have taken their longer form, which the buffers grow for.
    (0..100).for_each(|_| cores.echo());
    let allocated = allocation_counter::measure(|| (0..10_000).for_each(|_| cores.echo()));
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
}

#[test]
fn a_transfer_allocates_nothing() {
    let mut cores = Cores::joined();
    cores.transfer(0, MIB);
    let allocated = allocation_counter::measure(|| cores.transfer(0, 64 * MIB));
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
}

#[test]
fn what_a_transport_holds_for_long_was_allocated_once_and_no_larger() {
    const FRAMES: u64 = 100;
    let mut session = Session::new(SessionMemory::heap(&SessionConfig::default()));
    let attached = session.attach(Epoch::new(1), Offset::ZERO, u32::MAX.into());
    attached.expect("nothing was sent");
    let (mut outbox, mut held, now) = (BytesMut::new(), VecDeque::with_capacity(17), clock::now());
    let mut send = || {
        session.commit_input(MAX_DATA);
        session.transmit(&mut outbox, FILL, now);
        // As QUIC does, until it is acknowledged.
        held.push_back(outbox.split().freeze());
        if held.len() > 16 {
            held.pop_front();
        }
        let delivered = session.taken();
        let ack = Frame::Ack {
            delivered,
            window: u32::MAX.into(),
        };
        session.handle_frame(ack).expect("all of it was sent");
    };
    (0..20).for_each(|_| send());
    let allocated = allocation_counter::measure(|| (0..FRAMES).for_each(|_| send()));
    // The bytes, and what counts their holders.
    assert_eq!(allocated.count_total, 2 * FRAMES, "{allocated:?}");
    assert!(allocated.bytes_total < FRAMES * (FILL as u64 + 64), "{allocated:?}");
}
