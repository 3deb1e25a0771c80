//! What a fuzzer feeds to the messages between keeper and worker, and between keepers.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ControlReply, ControlRequest, KeeperMessage, Notification, WorkerMessage, is_name};

/// One packet, of any sender.
pub fn keeper_messages(input: &[u8]) {
    read_back::<WorkerMessage>(input);
    read_back::<KeeperMessage>(input);
    read_back::<ControlRequest>(input);
    read_back::<ControlReply>(input);
    if let Some(notification) = Notification::of(input) {
        if let Notification::Store { name } | Notification::Remove { name } = &notification {
            assert!(is_name(name));
        }
        assert_eq!(Notification::of(notification.text().as_bytes()), Some(notification));
    }
}

/// What is understood is the same after it was written.
fn read_back<T: Serialize + DeserializeOwned>(input: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(input) else {
        return;
    };
    let written = serde_json::to_vec(&message).expect("our own message");
    let again: T = serde_json::from_slice(&written).expect("our own text");
    assert_eq!(serde_json::to_vec(&again).expect("our own message"), written);
}
