//! What a probe is answered with: sshd's banner, read here and now, and what in its settings would end a session.

use super::ask_sshd::{AskError, read_banner};
use super::authority::{chain, refusal};
use super::connect_sshd::ConnectSshd;
use crate::clock;
use crate::wire::{PeerText, Probed, Refusal, RefusalCode, SshdLimit};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{debug, warn};

/// Whoever asks, and however often: sshd is bothered no more than this.
const FRESH: Duration = Duration::from_secs(1);

/// Longest wait for the banner. On loopback it takes a millisecond; a client that checks waits some seconds only.
const BANNER_TIME: Duration = Duration::from_secs(3);

/// Longest wait for sshd's settings: without them the answer is still one.
const VIEW_TIME: Duration = Duration::from_secs(2);

/// Tells what sshd's settings mean for sessions.
pub trait SshdView: Send + Sync {
    /// What ends or hinders sessions of this user; `None` where it cannot be told.
    fn limits<'a>(&'a self, user: &'a str) -> Pin<Box<dyn Future<Output = Option<Vec<SshdLimit>>> + Send + 'a>>;
}

/// Looks at sshd for those who probe.
pub(super) struct Prober {
    sshd: Arc<dyn ConnectSshd>,
    ttl: Duration,
    view: Option<Box<dyn SshdView>>,
    /// Held while sshd is asked: those who come meanwhile get the same answer.
    banner: Mutex<Option<Seen<Result<PeerText, Refusal>>>>,
    limits: Mutex<Option<Seen<Limits>>>,
}

/// What was said of one user's sessions.
#[derive(Clone)]
struct Limits {
    user: String,
    limits: Option<Vec<SshdLimit>>,
}

/// What was seen, and when.
#[derive(Clone)]
struct Seen<T> {
    at: Instant,
    what: T,
}

impl<T> Seen<T> {
    fn now(what: T) -> Seen<T> {
        Seen { at: clock::now(), what }
    }

    fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.at)
    }
}

impl Prober {
    pub(super) fn new(sshd: Arc<dyn ConnectSshd>, ttl: Duration, view: Option<Box<dyn SshdView>>) -> Prober {
        Prober {
            sshd,
            ttl,
            view,
            banner: Mutex::default(),
            limits: Mutex::default(),
        }
    }

    /// The answer for an authorised user, whose key was number `key`.
    pub(super) async fn look(&self, user: &str, key: Option<u8>) -> Result<Probed, Refusal> {
        let (banner, limits) = tokio::join!(self.banner(), self.limits(user));
        let age = banner.age();
        Ok(Probed {
            software: concat!("bowline ", env!("CARGO_PKG_VERSION")).into(),
            key,
            banner: banner.what?,
            banner_age: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            ttl: self.ttl.as_secs(),
            limits,
        })
    }

    async fn banner(&self) -> Seen<Result<PeerText, Refusal>> {
        let mut last = self.banner.lock().await;
        match &*last {
            Some(seen) if seen.age() < FRESH => seen.clone(),
            _ => {
                let read = read_banner(&*self.sshd, BANNER_TIME).await;
                last.insert(Seen::now(read.map_err(|error| no_banner(&error)))).clone()
            }
        }
    }

    async fn limits(&self, user: &str) -> Option<Vec<SshdLimit>> {
        let view = self.view.as_ref()?;
        let mut last = self.limits.lock().await;
        if let Some(seen) = last
            .as_ref()
            .filter(|seen| seen.age() < FRESH && seen.what.user == user)
        {
            return seen.what.limits.clone();
        }
        let limits = timeout(VIEW_TIME, view.limits(user)).await.unwrap_or_else(|_| {
            debug!("sshd's settings do not come in time");
            None
        });
        *last = Some(Seen::now(Limits {
            user: user.to_owned(),
            limits: limits.clone(),
        }));
        limits
    }
}

fn no_banner(error: &AskError) -> Refusal {
    let code = match error {
        AskError::Dropped { .. } => RefusalCode::RetryLater,
        _ => RefusalCode::UpstreamDown,
    };
    warn!(event = "refused", error = %chain(error), "no banner for a probe");
    refusal(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::connect_sshd::FromLoopback;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn many_probes_at_once_read_one_banner_and_ask_once_for_the_settings() {
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
        let prober = Prober::new(sshd, Duration::from_secs(60), Some(Box::new(view)));
        let greeted = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-here\r\n").await.unwrap();
            listener.accept().await.unwrap()
        };
        let probes = async { tokio::join!(prober.look("ada", None), prober.look("ada", Some(1))) };
        let (one, other) = tokio::select! {
            both = probes => both,
            _ = greeted => panic!("sshd was asked twice"),
        };
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(
            (one.banner.as_str(), one.ttl, one.limits),
            ("SSH-2.0-here", 60, Some(vec![]))
        );
        assert_eq!((other.banner.as_str(), other.key), ("SSH-2.0-here", Some(1)));
        assert_eq!(asked.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn without_sshd_the_probe_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sshd = Arc::new(FromLoopback::new(listener.local_addr().unwrap()));
        drop(listener);
        let prober = Prober::new(sshd, Duration::ZERO, None);
        assert_eq!(
            prober.look("ada", None).await.unwrap_err().code,
            RefusalCode::UpstreamDown
        );
    }
}
