//! Answers probes with sshd's banner, read for this probe, and with the settings of sshd that would end a session.

use super::ask_sshd::{AskError, read_banner};
use super::authority::{Greeting, refusal};
use super::connect_sshd::{Client, ConnectSshd, Purpose};
use super::shared_read::SharedRead;
use super::upstream::{DroppedClients, Upstream};
use crate::clock;
use crate::wire::{ErrorChain, PeerText, Probed, Refusal, RefusalCode, SshdLimit};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{debug, warn};

/// The shortest time between two reads of the banner, however many clients ask: sshd may count each as a connection
/// without a login against the address that it comes from.
const BANNER_INTERVAL: Duration = Duration::from_secs(1);

/// How long settings may be reused: they change rarely, and no decision depends on them.
const LIMITS_TTL: Duration = Duration::from_secs(1);

/// Limit on reading the banner. On loopback it takes a millisecond; a client that checks waits for some seconds only.
const BANNER_TIMEOUT: Duration = Duration::from_secs(3);

/// Limit on reading sshd's settings: a probe is answered without them too.
const VIEW_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells what sshd's settings mean for sessions.
pub trait SshdView: Send + Sync {
    /// The settings that end or hinder sessions of this user; `None` if they are not known.
    fn limits<'a>(&'a self, user: &'a str) -> Pin<Box<dyn Future<Output = Option<Vec<SshdLimit>>> + Send + 'a>>;
}

/// Answers probes.
pub(super) struct Prober {
    sshd: Arc<dyn ConnectSshd>,
    ttl: Duration,
    view: Option<Box<dyn SshdView>>,
    dropped: Arc<DroppedClients>,
    banner: SharedRead<Result<PeerText, Refusal>>,
    /// Locked while the settings are read.
    limits: Mutex<Option<(Instant, Limits)>>,
}

/// The settings that concern one user.
#[derive(Clone)]
struct Limits {
    user: String,
    limits: Option<Vec<SshdLimit>>,
}

impl Prober {
    /// For clients whose sessions `upstream` connects.
    pub(super) fn new(upstream: &Upstream, ttl: Duration, view: Option<Box<dyn SshdView>>) -> Prober {
        Prober {
            sshd: upstream.sshd(),
            dropped: upstream.dropped(),
            ttl,
            view,
            banner: SharedRead::new(BANNER_INTERVAL),
            limits: Mutex::default(),
        }
    }

    /// The answer for an authorized user whose key has index `key`. `greeting` is what sshd said when it was asked
    /// about the key; without it the banner is read here.
    pub(super) async fn probe(
        &self,
        user: &str,
        key: Option<u8>,
        greeting: Option<Greeting>,
        client: Client,
    ) -> Result<Probed, Refusal> {
        if self.dropped.holds(client.remote.ip(), clock::now()) {
            self.check_again(client).await?;
        }
        let (greeting, limits) = tokio::join!(self.greeting(greeting), self.limits(user));
        let Greeting { line, at } = greeting?;
        let age = clock::now().saturating_duration_since(at);
        Ok(Probed {
            software: concat!("bowline ", env!("CARGO_PKG_VERSION")).into(),
            key,
            banner: line,
            banner_age: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            ttl: self.ttl.as_secs(),
            shows_client: self.sshd.shows(client),
            limits,
        })
    }

    /// A greeting that was read after the probe came.
    async fn greeting(&self, heard: Option<Greeting>) -> Result<Greeting, Refusal> {
        if let Some(heard) = heard {
            return Ok(heard);
        }
        let read = async {
            let read = read_banner(&*self.sshd, Purpose::Banner, BANNER_TIMEOUT).await;
            Ok::<_, Infallible>(read.map_err(|error| no_banner(&error)))
        };
        let Ok(reading) = self.banner.get(read).await;
        let at = reading.at;
        reading.what.map(|line| Greeting { line, at })
    }

    /// sshd did not greet the last session of this client, and may still refuse: sessions come from another address
    /// than questions, which sshd penalizes separately.
    async fn check_again(&self, client: Client) -> Result<(), Refusal> {
        let read = read_banner(&*self.sshd, Purpose::Session(client), BANNER_TIMEOUT).await;
        read.map_err(|error| no_banner(&error))?;
        self.dropped.handle_greeted(client.remote.ip());
        Ok(())
    }

    async fn limits(&self, user: &str) -> Option<Vec<SshdLimit>> {
        let view = self.view.as_ref()?;
        let read = async {
            let mut last = self.limits.lock().await;
            let is_fresh = |at: Instant| clock::now().saturating_duration_since(at) < LIMITS_TTL;
            if let Some((at, seen)) = &*last
                && is_fresh(*at)
                && seen.user == user
            {
                return seen.limits.clone();
            }
            let limits = view.limits(user).await;
            let seen = Limits {
                user: user.to_owned(),
                limits: limits.clone(),
            };
            *last = Some((clock::now(), seen));
            limits
        };
        // The time limit includes waiting for other probes.
        timeout(VIEW_TIMEOUT, read).await.unwrap_or_else(|_| {
            debug!("sshd's settings were not read in time");
            None
        })
    }
}

fn no_banner(error: &AskError) -> Refusal {
    let code = match error {
        AskError::Dropped { .. } => RefusalCode::RetryLater,
        _ => RefusalCode::UpstreamDown,
    };
    warn!(event = "refused", error = %ErrorChain(error), "cannot read sshd's banner for a probe");
    refusal(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::connect_sshd::FromLoopback;
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn client() -> Client {
        Client::new(([192, 0, 2, 1], 40_123).into(), None)
    }

    fn before(listener: &TcpListener) -> Upstream {
        Upstream::new(Arc::new(FromLoopback::new(listener.local_addr().unwrap())))
    }

    #[tokio::test]
    async fn probes_at_once_share_a_banner_that_was_read_after_they_came() {
        struct Counting(Arc<AtomicUsize>);
        impl SshdView for Counting {
            fn limits<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Option<Vec<SshdLimit>>> + Send + 'a>> {
                self.0.fetch_add(1, Relaxed);
                Box::pin(std::future::ready(Some(Vec::new())))
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let view = Counting(Arc::clone(&asked));
        let sshd = Arc::new(FromLoopback::new(listener.local_addr().unwrap()));
        let prober = Prober::new(&Upstream::new(sshd), Duration::from_secs(60), Some(Box::new(view)));
        let greeted = Cell::new(0);
        let sshd = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                greeted.set(greeted.get() + 1);
                stream.write_all(b"SSH-2.0-here\r\n").await.unwrap();
            }
        };
        let probe = |key| prober.probe("ada", key, None, client());
        let probes = async { tokio::join!(probe(None), probe(Some(1)), probe(Some(2)), probe(Some(3))) };
        let (one, other, third, fourth) = tokio::select! {
            all = probes => all,
            () = sshd => unreachable!("it greets for ever"),
        };
        let one = one.unwrap();
        assert_eq!(
            (one.banner.as_str(), one.ttl, one.limits),
            ("SSH-2.0-here", 60, Some(vec![]))
        );
        for (at, probed) in [other, third, fourth].into_iter().enumerate() {
            let probed = probed.unwrap();
            assert_eq!(
                (probed.banner.as_str(), probed.key),
                ("SSH-2.0-here", Some(at as u8 + 1))
            );
        }
        assert_eq!(
            greeted.get(),
            2,
            "one for the first, one for all who came while it was read"
        );
        assert!(
            asked.load(Relaxed) <= 2,
            "the settings once more at most, after a second"
        );
    }

    #[tokio::test]
    async fn what_sshd_said_to_another_probe_before_is_no_sign_of_life() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let prober = Prober::new(&before(&listener), Duration::ZERO, None);
        let greeting = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-here\r\n").await.unwrap();
        };
        let (first, ()) = tokio::join!(prober.probe("ada", None, None, client()), greeting);
        first.unwrap();
        drop(listener);
        let second = prober.probe("ada", None, None, client()).await;
        assert_eq!(second.unwrap_err().code, RefusalCode::UpstreamDown);
    }

    #[tokio::test]
    async fn what_sshd_said_when_it_was_asked_about_the_key_is_not_asked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let prober = Prober::new(&before(&listener), Duration::ZERO, None);
        let greeting = Greeting {
            line: "SSH-2.0-there".into(),
            at: clock::now() - Duration::from_millis(70),
        };
        let probed = prober.probe("ada", Some(0), Some(greeting), client()).await.unwrap();
        assert_eq!(probed.banner.as_str(), "SSH-2.0-there");
        assert!(probed.banner_age >= 70, "{} ms", probed.banner_age);
        let asked = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(asked.is_err(), "sshd was asked for a greeting all the same");
    }

    #[tokio::test]
    async fn without_sshd_the_probe_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sshd = Arc::new(FromLoopback::new(listener.local_addr().unwrap()));
        drop(listener);
        let prober = Prober::new(&Upstream::new(sshd), Duration::ZERO, None);
        assert_eq!(
            prober.probe("ada", None, None, client()).await.unwrap_err().code,
            RefusalCode::UpstreamDown
        );
    }
}
