//! What a fuzzer feeds to control sockets.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::messages::{self, Request, Response};

/// Requests, and what `status` reads of a process.
pub fn control_requests(input: &[u8]) {
    read::<Request>(input);
    read::<Response>(input);
}

/// Reads one line after the other. What is understood is the same after it was written.
fn read<T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(input: &[u8]) {
    let mut rest = input;
    while let Some(value) = next::<T>(&mut rest) {
        let line = messages::of(&value).expect("our own message");
        if let Some(again) = next::<T>(&mut &line[..]) {
            assert_eq!(again, value);
        }
    }
}

fn next<T: serde::de::DeserializeOwned>(rest: &mut &[u8]) -> Option<T> {
    let Poll::Ready(read) = pin!(messages::read(rest)).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for more than was sent");
    };
    read.ok().flatten()
}
