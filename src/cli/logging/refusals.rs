//! Not a line for each of many refusals: the first of a kind from a network in a minute is written, the others are counted, and their
//! number is written when the minute is over.
//!
//! Refusals are events whose field `event` is `refused`; the field `remote` says from where, the sentence what kind it is.
//! Of those that are not written one by one a line with the field `suppressed` gives the number.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, info};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock;

/// For so long refusals of one kind are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// Most kinds and networks that are told apart in a minute, about 200 bytes each. All further ones are counted as one.
const MAX_KINDS: usize = 256;

/// Most bytes of a sentence that tells kinds apart.
const MAX_SENTENCE: usize = 120;

/// All of this process: one log, one count.
static COUNTS: Mutex<Option<Counts>> = Mutex::new(None);

/// Keeps refusals from the layers below it, and from all others.
pub(super) struct RefusalLimit;

impl<S: Subscriber> Layer<S> for RefusalLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let mut seen = Seen::default();
        event.record(&mut seen);
        match seen.kind() {
            Some(kind) => held().get_or_insert_default().handle(kind, clock::now()),
            None => true,
        }
    }
}

/// Writes what was suppressed in minutes that are over, for as long as it is polled.
pub(crate) async fn tell_suppressed_each_minute() {
    loop {
        tokio::time::sleep(MINUTE / 12).await;
        let due = held().as_mut().map(|counts| counts.due(clock::now()));
        due.into_iter().flatten().for_each(Suppressed::tell);
    }
}

/// Writes what was suppressed until now.
pub(crate) fn tell_suppressed() {
    let all = held().take().map(Counts::into_all);
    all.into_iter().flatten().for_each(Suppressed::tell);
}

fn held() -> MutexGuard<'static, Option<Counts>> {
    COUNTS.lock()
}

/// What one line stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    sentence: String,
    network: Option<IpAddr>,
}

#[derive(Debug)]
struct Suppressed {
    /// `None` for many.
    kind: Option<Kind>,
    count: u64,
}

impl Suppressed {
    fn tell(self) {
        let Suppressed { kind, count } = self;
        let Some(Kind { sentence, network }) = kind else {
            return info!(
                event = "refused",
                suppressed = count,
                "more refusals, from many networks"
            );
        };
        let network = network.map(tracing::field::display);
        info!(
            event = "refused",
            suppressed = count,
            network,
            "more of the same within a minute: {sentence}"
        );
    }
}

#[derive(Debug, Default)]
struct Counts {
    kinds: HashMap<Kind, Count>,
    others: Option<Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    suppressed: u64,
}

impl Counts {
    /// Whether to write this one.
    fn handle(&mut self, kind: Kind, now: Instant) -> bool {
        if let Some(count) = self.kinds.get_mut(&kind) {
            count.suppressed += 1;
            return false;
        }
        let (since, is_room) = (now, self.kinds.len() < MAX_KINDS);
        if is_room {
            self.kinds.insert(kind, Count { since, suppressed: 0 });
        } else {
            self.others.get_or_insert(Count { since, suppressed: 0 }).suppressed += 1;
        }
        is_room
    }

    /// Those whose minute is over. The next of their kind is written again.
    fn due(&mut self, now: Instant) -> Vec<Suppressed> {
        let is_due = |count: &Count| now.saturating_duration_since(count.since) >= MINUTE;
        let due = self.kinds.extract_if(|_, count| is_due(count));
        let mut due: Vec<_> = due.map(|(kind, count)| (Some(kind), count)).collect();
        due.extend(self.others.take_if(|count| is_due(count)).map(|count| (None, count)));
        suppressed(due)
    }

    fn into_all(self) -> Vec<Suppressed> {
        let kinds = self.kinds.into_iter().map(|(kind, count)| (Some(kind), count));
        suppressed(kinds.chain(self.others.map(|count| (None, count))))
    }
}

fn suppressed(counts: impl IntoIterator<Item = (Option<Kind>, Count)>) -> Vec<Suppressed> {
    let told = counts.into_iter().map(|(kind, count)| Suppressed {
        kind,
        count: count.suppressed,
    });
    told.filter(|suppressed| suppressed.count > 0).collect()
}

/// What an event says of itself.
#[derive(Default)]
struct Seen {
    is_refusal: bool,
    is_count: bool,
    sentence: String,
    remote: String,
}

impl Seen {
    /// `None` for what is no refusal, or tells how many there were.
    fn kind(self) -> Option<Kind> {
        let address = self.remote.parse().map(|remote: SocketAddr| remote.ip());
        let address = address.or_else(|_| self.remote.parse()).ok();
        let mut sentence = self.sentence;
        sentence.truncate(sentence.floor_char_boundary(MAX_SENTENCE));
        (self.is_refusal && !self.is_count).then(|| Kind {
            sentence,
            network: address.map(network),
        })
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.is_refusal = value == "refused",
            "remote" => value.clone_into(&mut self.remote),
            "message" => value.clone_into(&mut self.sentence),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, _: u64) {
        self.is_count |= field.name() == "suppressed";
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = match field.name() {
            "remote" => &mut self.remote,
            "message" => &mut self.sentence,
            _ => return,
        };
        text.clear();
        // A String takes everything.
        let _: fmt::Result = write!(text, "{value:?}");
    }
}

/// One customer has a /64 at least (RFC 6177), and can use all of it.
fn network(source: IpAddr) -> IpAddr {
    crate::transport::handshake_limiter::network(source.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(sentence: &str, address: &str) -> Kind {
        Kind {
            sentence: sentence.to_owned(),
            network: Some(network(address.parse().expect("an address"))),
        }
    }

    #[test]
    fn the_first_of_a_kind_is_written_and_the_others_are_counted() {
        let (mut counts, start) = (Counts::default(), clock::now());
        let written = (0..10_000).filter(|_| counts.handle(kind("no key", "2001:db8::1"), start));
        assert_eq!(written.count(), 1);
        assert!(!counts.handle(kind("no key", "2001:db8::ffff"), start));
        assert!(counts.handle(kind("no key", "192.0.2.1"), start));
        assert!(counts.handle(kind("too many", "2001:db8::1"), start));
        assert!(counts.due(start + MINUTE / 2).is_empty());
        let due = counts.due(start + MINUTE);
        assert_eq!(due.len(), 1, "{due:?}");
        assert_eq!(
            (due[0].kind.as_ref(), due[0].count),
            (Some(&kind("no key", "2001:db8::1")), 10_000)
        );
        assert!(counts.handle(kind("no key", "2001:db8::1"), start + MINUTE));
    }

    #[test]
    fn many_networks_are_counted_as_one() {
        let (mut counts, now) = (Counts::default(), clock::now());
        let many = 2 * u32::try_from(MAX_KINDS).expect("a few");
        let address = |number: u32| std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        let written = (0..many).filter(|number| counts.handle(kind("no key", &address(*number)), now));
        assert_eq!(written.count(), MAX_KINDS);
        let all = counts.into_all();
        assert_eq!((all.len(), all[0].count), (1, MAX_KINDS as u64));
        assert!(all[0].kind.is_none());
    }
}
