//! Caches DNS answers in a small file in the state directory, for when DNS does not answer.
//!
//! While DNS works, a missing or damaged file does no harm.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::{DnsName, Endpoint};
use crate::atomic_file;

/// Name of the file.
const FILE: &str = "relays.json";

/// A file of another version is ignored.
const VERSION: u32 = 1;

/// Most services and most hosts that are cached; beyond that the oldest are removed.
const MAX_NAMES: usize = 200;

/// Largest file that is read. A service with 256 relays takes 25 KiB.
const MAX_FILE_LEN: u64 = 1 << 20;

/// An unchanged answer is written again after this long, to update its date.
const REWRITE_INTERVAL: Duration = Duration::from_secs(3600);

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    pub(super) endpoint: Endpoint,
    pub(super) priority: u16,
    pub(super) weight: u16,
}

/// A cached answer and its age.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CachedAnswer<T> {
    pub(super) answer: T,
    pub(super) age: Duration,
}

/// The cache: read once, changed in memory, written by [`Cache::save`].
#[derive(Debug)]
pub(super) struct Cache {
    file: Option<PathBuf>,
    known: Stored,
    learned: Stored,
}

impl Cache {
    /// Reads the cache. Without a state directory nothing is cached.
    pub(super) fn open(state_dir: Option<&Path>) -> Cache {
        let file = state_dir.map(|folder| folder.join(FILE));
        Cache {
            known: file.as_deref().map(Stored::read).unwrap_or_default(),
            learned: Stored::default(),
            file,
        }
    }

    pub(super) fn service(&self, name: &DnsName, now: SystemTime) -> Option<CachedAnswer<Vec<ServiceRecord>>> {
        let entry = self.known.services.get(name.as_str())?;
        let members = entry.answer.iter().map(StoredMember::read).collect::<Option<_>>()?;
        Some(CachedAnswer {
            answer: members,
            age: entry.age(now),
        })
    }

    pub(super) fn host(&self, name: &DnsName, now: SystemTime) -> Option<CachedAnswer<Vec<IpAddr>>> {
        let entry = self.known.hosts.get(name.as_str())?;
        Some(CachedAnswer {
            answer: entry.answer.clone(),
            age: entry.age(now),
        })
    }

    pub(super) fn learn_service(&mut self, name: &DnsName, members: &[ServiceRecord], now: SystemTime) {
        let answer = members.iter().map(StoredMember::of).collect();
        let known = self.known.services.get(name.as_str());
        learn(&mut self.learned.services, known, name, answer, now);
    }

    pub(super) fn learn_host(&mut self, name: &DnsName, addresses: &[IpAddr], now: SystemTime) {
        let known = self.known.hosts.get(name.as_str());
        learn(&mut self.learned.hosts, known, name, addresses.to_vec(), now);
    }

    /// Writes new answers. Replaces the file as a whole, with mode 0600. If two processes do this
    /// at the same time, the answers of one may be lost.
    pub(super) fn save(self) {
        let Some(file) = self.file else { return };
        if self.learned.services.is_empty() && self.learned.hosts.is_empty() {
            return;
        }
        // Look-ups take seconds, and other processes may have written meanwhile.
        let mut stored = Stored::read(&file);
        stored.version = VERSION;
        stored.services.extend(self.learned.services);
        stored.hosts.extend(self.learned.hosts);
        forget_oldest(&mut stored.services);
        forget_oldest(&mut stored.hosts);
        let text = serde_json::to_vec(&stored).expect("strings and numbers are valid JSON");
        if let Err(error) = atomic_file::replace(&file, &text) {
            debug!(file = %file.display(), %error, "cannot write the relay cache");
        }
    }
}

fn learn<T: PartialEq>(
    learned: &mut BTreeMap<String, Entry<T>>,
    known: Option<&Entry<T>>,
    name: &DnsName,
    answer: T,
    now: SystemTime,
) {
    if known.is_none_or(|known| known.answer != answer || known.age(now) >= REWRITE_INTERVAL) {
        let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        learned.insert(name.as_str().to_owned(), Entry { at, answer });
    }
}

fn forget_oldest<T>(entries: &mut BTreeMap<String, Entry<T>>) {
    while entries.len() > MAX_NAMES {
        let oldest = entries.iter().min_by_key(|(_, entry)| entry.at);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else {
            return;
        };
        entries.remove(&name);
    }
}

/// Content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    version: u32,
    services: BTreeMap<String, Entry<Vec<StoredMember>>>,
    hosts: BTreeMap<String, Entry<Vec<IpAddr>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry<T> {
    /// Unix time in seconds.
    at: u64,
    answer: T,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredMember {
    host: String,
    port: u16,
    priority: u16,
    weight: u16,
}

impl Stored {
    fn read(file: &Path) -> Stored {
        let mut text = String::new();
        let read = File::open(file).and_then(|file| file.take(MAX_FILE_LEN).read_to_string(&mut text));
        let stored = read.ok().and_then(|_| serde_json::from_str::<Stored>(&text).ok());
        stored.filter(|stored| stored.version == VERSION).unwrap_or_default()
    }
}

impl<T> Entry<T> {
    /// Zero if the clock was set back.
    fn age(&self, now: SystemTime) -> Duration {
        let at = UNIX_EPOCH.checked_add(Duration::from_secs(self.at));
        at.and_then(|at| now.duration_since(at).ok()).unwrap_or_default()
    }
}

impl StoredMember {
    fn of(member: &ServiceRecord) -> StoredMember {
        StoredMember {
            host: member.endpoint.host.to_string(),
            port: member.endpoint.port,
            priority: member.priority,
            weight: member.weight,
        }
    }

    fn read(&self) -> Option<ServiceRecord> {
        Some(ServiceRecord {
            endpoint: Endpoint {
                host: self.host.parse().ok()?,
                port: Some(self.port).filter(|port| *port != 0)?,
            },
            priority: self.priority,
            weight: self.weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    fn member(host: &str) -> ServiceRecord {
        ServiceRecord {
            endpoint: Endpoint {
                host: host.parse().unwrap(),
                port: 4433,
            },
            priority: 1,
            weight: 2,
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn cached_answers_survive_with_their_age() {
        let state = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(Some(state.path()));
        cache.learn_service(&name("_r._udp.x"), &[member("a.x"), member("b.x")], now());
        cache.learn_host(&name("a.x"), &addresses(&["192.0.2.1", "2001:db8::1"]), now());
        cache.save();
        let mut cache = Cache::open(Some(state.path()));
        cache.learn_host(&name("b.x"), &addresses(&["192.0.2.2"]), now());
        cache.save();

        let cache = Cache::open(Some(state.path()));
        let year = Duration::from_secs(365 * 86400);
        let service = cache.service(&name("_r._udp.x"), now() + year).unwrap();
        assert_eq!(service.answer, [member("a.x"), member("b.x")]);
        assert_eq!(service.age, year);
        let host = cache.host(&name("a.x"), now() - year).unwrap();
        assert_eq!(host.answer, addresses(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(host.age, Duration::ZERO);
        assert!(cache.host(&name("b.x"), now()).is_some() && cache.host(&name("c.x"), now()).is_none());
        let mode = fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn damaged_cache_file_is_ignored_and_rewritten() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join(FILE);
        let learn = || {
            let mut cache = Cache::open(Some(state.path()));
            cache.learn_service(&name("_r._udp.x"), &[member("a.x")], now());
            cache.save();
        };
        learn();
        let whole = fs::read_to_string(&file).unwrap();
        for damaged in [
            String::new(),
            "\0".repeat(100),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"version\":1", "\"version\":2"),
            whole.replace("4433", "0"),
            whole.replace("4433", "70000"),
            whole.replace("a.x", "-a"),
            " ".repeat(MAX_FILE_LEN as usize) + &whole,
        ] {
            fs::write(&file, &damaged).unwrap();
            assert!(
                Cache::open(Some(state.path()))
                    .service(&name("_r._udp.x"), now())
                    .is_none()
            );
            learn();
            assert!(
                Cache::open(Some(state.path()))
                    .service(&name("_r._udp.x"), now())
                    .is_some()
            );
        }
    }

    #[test]
    fn unchanged_answer_is_rewritten_once_an_hour() {
        let state = tempfile::tempdir().unwrap();
        let learn = |at| {
            let mut cache = Cache::open(Some(state.path()));
            cache.learn_host(&name("a.x"), &addresses(&["192.0.2.1"]), at);
            cache.save();
            Cache::open(Some(state.path())).host(&name("a.x"), at).unwrap().age
        };
        assert_eq!(learn(now()), Duration::ZERO);
        let minute = Duration::from_secs(60);
        assert_eq!(learn(now() + minute), minute);
        assert_eq!(learn(now() + REWRITE_INTERVAL), Duration::ZERO);
    }

    #[test]
    fn number_of_cached_names_is_bounded_and_the_oldest_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(Some(state.path()));
        for number in 0..=MAX_NAMES as u64 {
            let at = now() + Duration::from_secs(number);
            cache.learn_host(&name(&format!("h{number}")), &addresses(&["192.0.2.1"]), at);
        }
        cache.save();
        let cache = Cache::open(Some(state.path()));
        assert_eq!(cache.known.hosts.len(), MAX_NAMES);
        assert!(cache.host(&name("h0"), now()).is_none());
    }

    #[test]
    fn unwritable_cache_directory_is_ignored() {
        for state in [None, Some(Path::new("/nonexistent/state"))] {
            let mut cache = Cache::open(state);
            cache.learn_host(&name("a.x"), &addresses(&["192.0.2.1"]), now());
            cache.save();
        }
    }
}
