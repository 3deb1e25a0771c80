//! A whole session without ssh: known bytes from `bowline proxy` to a scripted upstream and back.

use crate::client::Client;
use crate::support::flow::{End, Flow};
use crate::upstream::{Script, Talk, Upstream, Volume, down_seed, up_seed};
use crate::{LIMIT, OpenHouse};
use std::io::Write;
use std::sync::Arc;

/// A client and what the upstream does with it.
pub(crate) struct Session {
    client: Client,
    talk: Arc<Talk>,
    sent: Arc<Flow>,
}

impl Session {
    /// Opens it and begins to send.
    pub(crate) fn start(
        house: &OpenHouse,
        upstream: &Upstream,
        number: u64,
        script: Script,
        volume: Volume,
    ) -> Session {
        let talk = upstream.expect(number, script, volume);
        let mut client = Client::start(house.ssh.proxy(), down_seed(number));
        let sent = Arc::new(Flow::new(up_seed(number)));
        let (flow, mut stdin) = (sent.clone(), client.take_stdin());
        std::thread::spawn(move || {
            // The number first; a session that cannot even take that shows it by its end.
            let _ = stdin.write_all(&number.to_be_bytes());
            flow.send(stdin, volume.pace(up_seed(number)));
        });
        Session { client, talk, sent }
    }

    /// Insists that every byte came and that it ended as the script says.
    #[track_caller]
    pub(crate) fn finish(self, case: &str, house: &OpenHouse) {
        let case = format!("{case}, {:?}", self.talk.script);
        let volume = self.talk.volume;
        let ended = self.client.down.end_within(LIMIT);
        let came = self.client.down.bytes();
        assert!(ended.is_some(), "{case}: stuck after {came} bytes\n{}", house.logs());
        let outcome = self.client.finish(LIMIT);
        assert_eq!(outcome.code, Some(0), "{case}: {}\n{}", outcome.err(), house.logs());
        assert_eq!(came, volume.bytes, "{case}: bytes from the upstream\n{}", house.logs());
        assert_eq!(
            self.talk.up.wrong(),
            None,
            "{case}: the first wrong byte to the upstream"
        );
        if matches!(self.talk.script, Script::EndsFirst | Script::EndsLast) {
            assert_eq!(
                self.talk.up.end_within(LIMIT),
                Some(End::Clean),
                "{case}: the upstream's end"
            );
            assert_eq!(self.talk.up.bytes(), volume.bytes, "{case}: bytes to the upstream");
            assert_eq!(
                self.sent.end_within(LIMIT),
                Some(End::Clean),
                "{case}: the client's end"
            );
        }
    }
}
