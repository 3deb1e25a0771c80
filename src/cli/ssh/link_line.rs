//! What the link line says, and when.
//!
//! Pure: no I/O, and time is an argument. The client half is asked only while a key has no answer, or the path is
//! suspected: an idle session wakes nobody.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use crate::observe::LinkReport;

/// A silence as long as this is worth a line.
const SILENCE: Duration = Duration::from_secs(1);

/// How often the client half is asked in an outage.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long good news is shown.
const NEWS: Duration = Duration::from_secs(2);

/// How long it is shown that the session will not survive an outage: long enough to be read after the login.
const WARNING: Duration = Duration::from_secs(5);

/// The end of the session is worth a word so long before.
const END_IS_NEAR: Duration = Duration::from_secs(15 * 60);

/// A packet may wait so long on a busy machine until it counts as heard.
const SCHEDULING_DELAY: Duration = Duration::from_millis(250);

/// Keys are counted up to here.
const MAX_KEYS: usize = 1000;

/// The link, as far as it is known.
#[derive(Debug)]
pub(super) struct LinkLine {
    /// When each key was typed that may have no answer yet.
    keys: VecDeque<Instant>,
    /// When the server half was heard last, as far as that is known.
    heard_at: Instant,
    /// The round-trip time: what is heard earlier than that after a key is no answer to it.
    rtt: Duration,
    /// The last report, and when it came; `None` without a client half.
    report: Option<(LinkReport, Instant)>,
    suspected_at: Option<Instant>,
    asked_at: Option<Instant>,
    /// Since when the silence lasts that is being shown.
    shown_since: Option<Instant>,
    news: Option<(String, Instant)>,
    /// Changes of the path are told too.
    is_verbose: bool,
}

impl LinkLine {
    pub(super) fn new(is_verbose: bool, now: Instant) -> LinkLine {
        LinkLine {
            keys: VecDeque::new(),
            heard_at: now,
            rtt: Duration::ZERO,
            report: None,
            suspected_at: None,
            asked_at: None,
            shown_since: None,
            news: None,
            is_verbose,
        }
    }

    /// Bytes of one read from the keyboard.
    pub(super) fn handle_keys(&mut self, bytes: &[u8], now: Instant) {
        // An escape sequence is one key; so is each character, however many bytes it has.
        let count = match bytes {
            [0x1b, ..] => 1,
            _ => bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count(),
        };
        let room = MAX_KEYS - self.keys.len();
        self.keys.extend(std::iter::repeat_n(now, count.min(room)));
    }

    /// ssh has written something, so it has heard from the server.
    pub(super) fn handle_output(&mut self, now: Instant) {
        self.handle_heard(now, self.rtt);
    }

    pub(super) fn handle_report(&mut self, report: LinkReport, now: Instant) {
        if let Some(rtt) = report.rtt_us {
            self.rtt = Duration::from_micros(rtt);
        }
        // Reports are rounded down, and a key may have been typed within that millisecond.
        let heard = report
            .heard_ms
            .map(|time| Duration::from_millis(time.saturating_add(1)));
        if let Some(heard) = heard.and_then(|time| now.checked_sub(time)) {
            // With bytes on their way, it may have come before the key did.
            let delay = match report.has_unacknowledged {
                true => self.rtt + SCHEDULING_DELAY,
                false => Duration::ZERO,
            };
            self.handle_heard(heard, delay);
        }
        // ssh keeps some keys for itself, as the first one of an escape. On a busy machine it passes others on late.
        if !report.has_unacknowledged
            && !report.is_suspect
            && let Some(arrived) = now.checked_sub(SILENCE)
        {
            self.forget_keys_until(arrived);
        }
        self.suspected_at = match report.is_suspect {
            true => Some(self.suspected_at.unwrap_or(now)),
            false => None,
        };
        let was_plain = self.report.as_ref().is_some_and(|(before, _)| before.is_plain_tcp);
        let before = self.report.as_ref().map(|(before, _)| before.path.clone());
        if report.is_plain_tcp && !was_plain {
            self.warn_of_plain_tcp(now);
        } else if self.is_verbose
            && let (Some(Some(before)), Some(path)) = (before, &report.path)
            && before != *path
        {
            self.news = Some((format!("now over {path}"), now + NEWS));
        }
        self.report = Some((report, now));
    }

    /// The user is logged in, and lines are shown from now on.
    pub(super) fn handle_login(&mut self, now: Instant) {
        if self.report.as_ref().is_some_and(|(report, _)| report.is_plain_tcp) {
            self.warn_of_plain_tcp(now);
        }
    }

    fn warn_of_plain_tcp(&mut self, now: Instant) {
        let text = "plain TCP: this session ends if its connection breaks";
        self.news = Some((text.to_owned(), now + WARNING));
    }

    /// Whether the lead is neither lost nor suspected, as far as that is known.
    pub(super) fn is_up(&self) -> bool {
        self.suspected_at.is_none()
    }

    /// The client half has gone; ssh will say why.
    pub(super) fn handle_closed(&mut self) {
        self.report = None;
        self.suspected_at = None;
        self.shown_since = None;
    }

    /// Whether the client half is to be asked now.
    pub(super) fn poll_request(&mut self, now: Instant) -> bool {
        let is_due = self.request_due().is_some_and(|due| due <= now);
        if is_due {
            self.asked_at = Some(now);
        }
        is_due
    }

    /// When something is to be done.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let news = self.news.as_ref().map(|(_, until)| *until);
        self.request_due().into_iter().chain(news).min()
    }

    /// The line to show now.
    pub(super) fn poll_line(&mut self, now: Instant) -> Option<String> {
        self.news.take_if(|(_, until)| *until <= now);
        if let Some((report, at)) = &self.report
            && let Some(since) = self.silent_since()
            && *at >= since + SILENCE
        {
            let since = *self.shown_since.get_or_insert(since);
            return Some(self.silence(report, now.saturating_duration_since(since)));
        }
        if let Some(since) = self.shown_since.filter(|_| self.silent_since().is_none()) {
            self.shown_since = None;
            let lasted = DurationText(self.heard_at.saturating_duration_since(since));
            let path = self.report.as_ref().and_then(|(report, _)| report.path.as_ref());
            let over = path.map(|path| format!(" over {path}")).unwrap_or_default();
            self.news = Some((format!("back after {lasted}{over}"), now + NEWS));
        }
        self.news.as_ref().map(|(text, _)| format!("bowline: {text}"))
    }

    fn silence(&self, report: &LinkReport, lasts: Duration) -> String {
        let mut line = format!("bowline: no answer for {}", DurationText(lasts));
        if !report.trying.is_empty() && report.is_suspect {
            line += &format!("; trying {}", report.trying.join(", "));
        }
        match self.keys.len() {
            0 => {}
            1 => line += "; 1 key waits",
            MAX_KEYS.. => line += &format!("; {MAX_KEYS} keys or more wait"),
            count => line += &format!("; {count} keys wait"),
        }
        if let Some(left) = report.ends_in_ms.map(Duration::from_millis)
            && left < END_IS_NEAR
        {
            line += &format!("; the session is given up in {}", DurationText(left));
        }
        line + "; ~. ends"
    }

    /// Keys typed later than `delay` before that have no answer.
    fn handle_heard(&mut self, at: Instant, delay: Duration) {
        self.heard_at = self.heard_at.max(at);
        if let Some(answered) = at.checked_sub(delay) {
            self.forget_keys_until(answered);
        }
    }

    fn forget_keys_until(&mut self, at: Instant) {
        while self.keys.front().is_some_and(|typed| *typed <= at) {
            self.keys.pop_front();
        }
    }

    /// Since when something has had no answer.
    fn silent_since(&self) -> Option<Instant> {
        let since = self.keys.front().copied().into_iter().chain(self.suspected_at).min();
        since.map(|since| since.max(self.heard_at))
    }

    fn request_due(&self) -> Option<Instant> {
        let (report, _) = self.report.as_ref()?;
        if report.is_plain_tcp {
            return None;
        }
        let first = self.silent_since()? + SILENCE;
        let next = self.asked_at.map(|asked| asked + INTERVAL);
        Some(next.map_or(first, |next| next.max(first)))
    }
}

/// A duration as people say it.
struct DurationText(Duration);

impl Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link line, and the present.
    struct Sim {
        line: LinkLine,
        now: Instant,
    }

    impl Sim {
        fn new(is_verbose: bool) -> Sim {
            let now = crate::clock::now() + Duration::from_secs(100_000);
            let mut line = LinkLine::new(is_verbose, now);
            line.handle_report(report(0, false), now);
            Sim { line, now }
        }

        fn after(&mut self, seconds: f64) -> &mut Sim {
            self.now += Duration::from_secs_f64(seconds);
            self
        }

        fn type_keys(&mut self, keys: &[u8]) {
            self.line.handle_keys(keys, self.now);
        }

        fn output(&mut self) {
            self.line.handle_output(self.now);
        }

        fn report(&mut self, report: LinkReport) -> Option<String> {
            self.line.handle_report(report, self.now);
            self.line.poll_line(self.now)
        }
    }

    fn report(heard_ms: u64, is_suspect: bool) -> LinkReport {
        LinkReport {
            heard_ms: Some(heard_ms),
            rtt_us: None,
            is_suspect,
            path: Some("quic".to_owned()),
            trying: vec!["quic".to_owned(), "relay r1".to_owned()],
            ends_in_ms: None,
            is_plain_tcp: false,
            has_unacknowledged: true,
        }
    }

    #[test]
    fn a_key_without_an_answer_for_a_second_is_shown_until_there_is_one() {
        let mut sim = Sim::new(false);
        sim.after(20.0).type_keys(b"l");
        assert_eq!(sim.line.poll_timeout(), Some(sim.now + SILENCE));
        assert!(!sim.line.poll_request(sim.now));
        sim.after(1.0);
        assert!(sim.line.poll_request(sim.now), "asked after a second");
        assert_eq!(
            sim.report(report(21_000, false)).as_deref(),
            Some("bowline: no answer for 1 s; 1 key waits; ~. ends")
        );
        sim.after(3.0).type_keys("s\u{fc}\r".as_bytes());
        assert_eq!(
            sim.report(report(24_000, true)).as_deref(),
            Some("bowline: no answer for 4 s; trying quic, relay r1; 4 keys wait; ~. ends")
        );
        sim.after(248.5);
        assert_eq!(
            sim.report(report(0, false)).as_deref(),
            Some("bowline: back after 4 min 12 s over quic")
        );
        sim.after(2.0);
        assert_eq!(sim.line.poll_line(sim.now), None);
        assert_eq!(sim.line.poll_timeout(), None, "an idle session wakes nobody");
    }

    #[test]
    fn what_was_on_its_way_before_a_key_arrived_there_is_no_answer_to_it() {
        let mut sim = Sim::new(false);
        let of = |heard_ms, is_suspect| LinkReport {
            rtt_us: Some(300_000),
            ..report(heard_ms, is_suspect)
        };
        sim.after(1.0).report(of(0, false));
        sim.type_keys(b"l");
        // Of an earlier key, or of a program that goes on writing.
        sim.after(0.2).output();
        sim.after(0.9);
        assert!(!sim.line.poll_request(sim.now), "output came less than a second ago");
        sim.after(0.2);
        assert!(sim.line.poll_request(sim.now));
        assert_eq!(
            sim.report(of(1_100, true)).as_deref(),
            Some("bowline: no answer for 1 s; trying quic, relay r1; 1 key waits; ~. ends")
        );
        sim.after(1.0).output();
        assert_eq!(
            sim.report(of(0, false)).as_deref(),
            Some("bowline: back after 2 s over quic")
        );
        assert!(!sim.line.poll_request(sim.now), "nothing waits");
    }

    #[test]
    fn a_silence_after_good_news_leaves_no_timeout_in_the_past() {
        let mut sim = Sim::new(false);
        sim.after(1.0).type_keys(b"l");
        sim.after(2.0);
        assert!(sim.line.poll_request(sim.now));
        sim.report(report(3000, true));
        assert!(sim.after(1.0).report(report(0, false)).unwrap().contains("back after"));
        sim.after(0.5).type_keys(b"s");
        sim.after(1.1);
        assert!(sim.report(report(1_600, false)).unwrap().contains("no answer"));
        for _ in 0..10 {
            sim.after(0.3);
            assert!(sim.line.poll_line(sim.now).unwrap().contains("no answer"));
            sim.line.poll_request(sim.now);
            assert!(sim.line.poll_timeout().unwrap() > sim.now);
        }
    }

    #[test]
    fn a_program_that_does_not_echo_is_not_an_outage() {
        let mut sim = Sim::new(false);
        sim.after(5.0).type_keys(b"secret");
        sim.after(1.0);
        assert!(sim.line.poll_request(sim.now));
        // The server half has acknowledged the key.
        let acknowledged = LinkReport {
            has_unacknowledged: false,
            ..report(950, false)
        };
        assert_eq!(sim.report(acknowledged), None);
        assert_eq!(sim.line.poll_timeout(), None);
    }

    #[test]
    fn a_key_that_ssh_keeps_for_itself_is_not_an_outage() {
        let mut sim = Sim::new(false);
        sim.after(20.0).type_keys(b"~");
        sim.after(1.0);
        assert!(sim.line.poll_request(sim.now));
        let arrived = LinkReport {
            has_unacknowledged: false,
            ..report(21_000, false)
        };
        assert_eq!(sim.report(arrived.clone()), None);
        assert_eq!(sim.line.poll_timeout(), None);
        sim.type_keys(b"l");
        sim.after(0.1);
        assert_eq!(sim.report(arrived), None);
        assert!(
            sim.line.poll_timeout().is_some(),
            "it may not have reached the client half yet"
        );
    }

    #[test]
    fn output_is_an_answer() {
        let mut sim = Sim::new(false);
        sim.after(1.0).type_keys(b"l");
        let now = sim.after(0.2).now;
        sim.line.handle_output(now);
        assert_eq!(sim.line.poll_timeout(), None);
    }

    #[test]
    fn an_outage_without_keys_is_shown_if_it_lasts() {
        let mut sim = Sim::new(false);
        assert_eq!(sim.after(5.0).report(report(2000, true)), None, "too early to say");
        let line = sim.after(1.0).report(LinkReport {
            heard_ms: None,
            ..report(0, true)
        });
        assert_eq!(
            line.as_deref(),
            Some("bowline: no answer for 1 s; trying quic, relay r1; ~. ends")
        );
        sim.line.handle_closed();
        assert_eq!(sim.line.poll_line(sim.now), None, "ssh says why it has ended");
    }

    #[test]
    fn the_end_of_the_session_is_announced_if_it_is_near() {
        let mut sim = Sim::new(false);
        sim.after(1.0).type_keys(b"l");
        let line = sim.after(7300.0).report(LinkReport {
            ends_in_ms: Some(61_000),
            ..report(7_400_000, true)
        });
        let line = line.expect("a line");
        assert!(
            line.starts_with("bowline: no answer for 2 h 1 min; ") && line.contains("given up in 1 min 1 s; ~. ends"),
            "{line}"
        );
    }

    #[test]
    fn plain_tcp_is_said_for_a_while_and_asks_nothing() {
        let mut sim = Sim::new(false);
        let plain = LinkReport {
            is_plain_tcp: true,
            ..LinkReport::default()
        };
        assert_eq!(
            sim.report(plain).as_deref(),
            Some("bowline: plain TCP: this session ends if its connection breaks")
        );
        sim.after(5.0).type_keys(b"l");
        assert_eq!(sim.line.poll_line(sim.now), None);
        assert_eq!(sim.line.poll_timeout(), None);
        let again = LinkReport {
            is_plain_tcp: true,
            ..LinkReport::default()
        };
        assert_eq!(sim.report(again), None, "said once");
        sim.line.handle_login(sim.now);
        assert!(
            sim.line.poll_line(sim.now).is_some(),
            "a password may take long to type"
        );
    }

    #[test]
    fn a_new_path_is_told_only_with_verbose() {
        let tls = || LinkReport {
            path: Some("tls".to_owned()),
            ..report(0, false)
        };
        assert_eq!(Sim::new(false).report(tls()), None);
        assert_eq!(Sim::new(true).report(tls()).as_deref(), Some("bowline: now over tls"));
    }
}
