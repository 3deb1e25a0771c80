//! In place of sshd: a TCP service that drains, sends, half-closes and resets as each session wants it.
//!
//! A session begins with its number, eight bytes; then each direction is the pattern of [`up_seed`] and [`down_seed`].

use crate::support::flow::Flow;
use crate::support::link::Rng;
use crate::support::upstream::Service;
use crate::support::wait_for;
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// What the upstream does in a session, and what the client must then see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Script {
    /// Sends all, half-closes while the client still sends; both ends are clean.
    EndsFirst,
    /// Sends most of it only after the client's end.
    EndsLast,
    /// Sends all, and resets once the other kernel has it, with bytes of the client unread.
    Resets,
    /// Sends all and goes, while the client still sends: an end, and then a reset.
    Goes,
}

pub(crate) const SCRIPTS: [Script; 4] = [Script::EndsFirst, Script::EndsLast, Script::Resets, Script::Goes];

/// How much goes each way, in how large pieces, with which pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub bytes: u64,
    pub largest_piece: u64,
    pub longest_pause: Duration,
}

impl Volume {
    /// How [`Flow::send`] is to go on: random pieces, random pauses, `bytes` in all.
    pub(crate) fn pace(self, seed: u64) -> impl FnMut(u64) -> Option<usize> {
        let mut rng = Rng::new(seed);
        move |sent| {
            let left = self.bytes.checked_sub(sent).filter(|left| *left > 0)?;
            // Pauses come in some places only: bursts have to happen as well.
            if sent > 0 && rng.draw().is_multiple_of(2) {
                sleep(self.longest_pause.mul_f64(rng.unit()));
            }
            Some((1 + rng.draw() % self.largest_piece).min(left) as usize)
        }
    }
}

/// One session, as the upstream sees it.
pub(crate) struct Talk {
    pub(crate) script: Script,
    pub(crate) volume: Volume,
    /// What has come from the client.
    pub(crate) up: Flow,
    seed: u64,
}

/// Of the bytes that the client sends.
pub(crate) fn up_seed(number: u64) -> u64 {
    number * 2 + 1
}

/// Of the bytes that the client gets.
pub(crate) fn down_seed(number: u64) -> u64 {
    number * 2 + 2
}

/// The service; it stops accepting with its owner.
pub(crate) struct Upstream {
    service: Service,
    talks: Arc<Mutex<HashMap<u64, Arc<Talk>>>>,
}

impl Upstream {
    /// On a free port of loopback.
    pub(crate) fn start() -> Upstream {
        let talks = Arc::<Mutex<HashMap<u64, Arc<Talk>>>>::default();
        let known = talks.clone();
        let service = Service::start(move |stream| {
            let talks = known.clone();
            std::thread::spawn(move || serve(stream, &talks));
        });
        Upstream { service, talks }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// What it will do in the session of this number.
    pub(crate) fn expect(&self, number: u64, script: Script, volume: Volume) -> Arc<Talk> {
        let talk = Arc::new(Talk {
            script,
            volume,
            up: Flow::new(up_seed(number)),
            seed: down_seed(number),
        });
        let mut talks = self.talks.lock().unwrap_or_else(PoisonError::into_inner);
        talks.insert(number, talk.clone());
        talk
    }
}

fn serve(mut stream: TcpStream, talks: &Mutex<HashMap<u64, Arc<Talk>>>) {
    let mut number = [0; 8];
    if stream.read_exact(&mut number).is_err() {
        return;
    }
    let number = u64::from_be_bytes(number);
    let talk = talks
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&number)
        .cloned();
    if let Some(talk) = talk {
        talk.play(&stream);
    }
}

impl Talk {
    fn play(&self, stream: &TcpStream) {
        match self.script {
            Script::EndsFirst => std::thread::scope(|scope| {
                scope.spawn(|| self.drain(stream));
                self.send(stream, self.volume.bytes);
                let _ = stream.shutdown(Shutdown::Write);
            }),
            Script::EndsLast => std::thread::scope(|scope| {
                scope.spawn(|| self.drain(stream));
                let flow = self.send(stream, self.volume.bytes / 4);
                wait_for(crate::LIMIT, || self.up.end());
                flow.send(stream, self.volume.pace(self.seed));
                let _ = stream.shutdown(Shutdown::Write);
            }),
            Script::Resets => {
                self.send(stream, self.volume.bytes);
                wait_until_taken(stream);
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            Script::Goes => {
                let goes = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| self.drain_until(stream, &goes));
                    self.send(stream, self.volume.bytes);
                    let _ = stream.shutdown(Shutdown::Write);
                    // What is still on this side goes with it, and nobody could bring it.
                    wait_until_taken(stream);
                    sleep(self.volume.longest_pause);
                    goes.store(true, SeqCst);
                });
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
    }

    fn send(&self, stream: &TcpStream, bytes: u64) -> Flow {
        let flow = Flow::new(self.seed);
        let volume = Volume { bytes, ..self.volume };
        flow.send(stream, volume.pace(self.seed));
        flow
    }

    /// Reads to the end, sometimes slowly.
    fn drain(&self, stream: &TcpStream) {
        let mut rng = Rng::new(self.seed);
        self.up.check_slowly(stream, || {
            if rng.draw().is_multiple_of(8) {
                sleep(self.volume.longest_pause.mul_f64(rng.unit()));
            }
        });
    }

    fn drain_until(&self, mut stream: &TcpStream, goes: &AtomicBool) {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
        let mut buffer = [0; 4096];
        while !goes.load(SeqCst) {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => self.up.take(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Until the other end's kernel has acknowledged everything: a reset throws away what it has not.
pub(crate) fn wait_until_taken(stream: &TcpStream) {
    wait_for(crate::LIMIT, || (unacknowledged(stream) == 0).then_some(()));
}

#[allow(unsafe_code)]
fn unacknowledged(stream: &TcpStream) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ, by its other name, writes one int there; the descriptor is open as long as the stream.
    unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    bytes
}
