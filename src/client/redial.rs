//! Brings a running session fresh carriers when its lead is lost or under suspicion.
//!
//! Always a new connection beside the old one: QUIC's own probe timeout backs off for tens of seconds in a hole,
//! a new handshake takes a round trip. Handshakes are raced; `Resume` goes on the first to finish, and on another
//! only once that one is slow to answer.

use super::paths::Paths;
use crate::carrier::quic::{Dialed, MtuCap, QuicDialer};
use crate::carrier::{Carrier, CarrierError};
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::pump::{Arrival, Epochs, Facts, Need, Order};
use crate::session::RedialPacer;
use crate::wire::{Accepted, Answer, DecodeError, Epoch, Hello, Resume, SessionId};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info};

/// Dials under way at once. At 150 ms between attempts, two each, twelve cover a round trip of 900 ms.
const IN_FLIGHT: usize = 12;
/// Of these the oldest are left alone, so that even the slowest path gets one through.
const PATIENT: usize = 4;
/// Longest that one dial, and one resume, may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// After this a resume without an answer no longer keeps others from being sent.
const RESUME_ALLOWANCE: Duration = Duration::from_millis(400);
/// Attempts from one socket. Something between the ends may have taken a dislike to a port.
const ATTEMPTS_PER_SOCKET: usize = 16;

/// Redials one session for as long as it lives.
pub(super) struct Redialer {
    pub(super) session: SessionId,
    pub(super) key: Arc<TlsKey>,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) mtu_cap: MtuCap,
    pub(super) epochs: Arc<Epochs>,
    pub(super) facts: Arc<Facts>,
    pub(super) arrivals: mpsc::Sender<Arrival>,
    pub(super) orders: mpsc::Sender<Order>,
}

impl Redialer {
    /// Runs until the session is gone.
    pub(super) async fn run(mut self, mut need: watch::Receiver<Need>) {
        while let Ok(needed) = need.wait_for(|need| *need != Need::Nothing).await.map(|need| *need) {
            let Need::Carrier { waited_for, signs } = needed else {
                continue;
            };
            let paths = self.paths.clone();
            let mut outage = Outage::new(&mut self, waited_for, signs);
            tokio::select! {
                ended = outage.run(&mut need) => if ended.is_none() { return },
                // Looking the name up again is a side line; it must not hold up a dial.
                () = async { paths.refresh().await; std::future::pending().await } => {}
            }
        }
    }

    fn resume(&mut self) -> Resume {
        let (received, window) = self.facts.room();
        Resume {
            session: self.session,
            epoch: self.epochs.next(),
            received,
            window,
        }
    }
}

/// One outage, or one suspicion.
struct Outage<'a> {
    redialer: &'a mut Redialer,
    pacer: RedialPacer,
    signs: u32,
    steps: JoinSet<Step>,
    dials: VecDeque<AbortHandle>,
    ready: VecDeque<Dialed>,
    resuming_until: Option<Instant>,
    claims: Claims,
    /// Nothing is needed any more.
    called_off: bool,
    /// Sockets for IPv4 and for IPv6.
    dialers: [Option<QuicDialer>; 2],
    attempts: usize,
}

/// What came of a task.
enum Step {
    Dialed(Box<Result<Dialed, String>>, SocketAddr),
    Answered(Box<Result<(Carrier, Answer), CarrierError>>, Epoch),
}

/// The session has what it needs, or is gone.
struct Settled;

impl<'a> Outage<'a> {
    fn new(redialer: &'a mut Redialer, waited_for: bool, signs: u32) -> Outage<'a> {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).expect("the system gives random bytes");
        Outage {
            redialer,
            pacer: RedialPacer::new(clock::now(), waited_for, u64::from_ne_bytes(seed)),
            signs,
            steps: JoinSet::new(),
            dials: VecDeque::new(),
            ready: VecDeque::new(),
            resuming_until: None,
            claims: Claims::default(),
            called_off: false,
            dialers: [None, None],
            attempts: 0,
        }
    }

    /// `None` when the session is gone.
    async fn run(&mut self, need: &mut watch::Receiver<Need>) -> Option<Settled> {
        loop {
            if self.called_off && self.claims.are_settled() {
                return Some(Settled);
            }
            self.resume_next();
            let wake = self.next_wake();
            tokio::select! {
                changed = need.changed() => {
                    changed.ok()?;
                    let now_needed = *need.borrow_and_update();
                    self.handle_need(now_needed);
                }
                Some(step) = self.steps.join_next() => match step {
                    Ok(Step::Dialed(dialed, address)) => self.handle_dialed(*dialed, address),
                    Ok(Step::Answered(answered, epoch)) => self.handle_answered(*answered, epoch).await?,
                    // A dial that was given up for a newer one.
                    Err(_) => {}
                },
                () = clock::sleep_until(wake) => {
                    if self.pacer.poll_attempt(clock::now()) {
                        self.dial();
                    }
                }
            }
        }
    }

    fn handle_need(&mut self, need: Need) {
        self.called_off = need == Need::Nothing;
        if let Need::Carrier { signs, .. } = need
            && signs != self.signs
        {
            self.signs = signs;
            self.pacer.handle_sign(clock::now());
        }
    }

    fn next_wake(&self) -> Instant {
        let attempt = self.pacer.poll_timeout();
        match self.resuming_until.filter(|_| !self.ready.is_empty()) {
            Some(until) => attempt.min(until),
            None => attempt,
        }
    }

    /// The address that worked last, and beside it one of the others in turn: a host that moved is found as well.
    fn dial(&mut self) {
        let addresses = self.redialer.paths.addresses();
        let Some((best, others)) = addresses.split_first() else {
            return;
        };
        let fresh = self.attempts.is_multiple_of(ATTEMPTS_PER_SOCKET);
        self.dial_one(*best, fresh);
        if let Some(other) = others.get(self.attempts.checked_rem(others.len()).unwrap_or(0)) {
            self.dial_one(*other, fresh);
        }
        self.attempts += 1;
    }

    fn dial_one(&mut self, address: SocketAddr, fresh: bool) {
        let Some(dialer) = self.dialer_for(address, fresh) else {
            return;
        };
        self.dials.retain(|dial| !dial.is_finished());
        if self.dials.len() >= IN_FLIGHT
            && let Some(given_up) = self.dials.remove(PATIENT)
        {
            given_up.abort();
        }
        let (key, server_key) = (Arc::clone(&self.redialer.key), self.redialer.server_key.clone());
        self.dials.push_back(self.steps.spawn(async move {
            let dialing = dialer.dial(address, &key, ServerKey::Exactly(server_key));
            let dialed = match timeout(DIAL_TIMEOUT, dialing).await {
                Ok(dialed) => dialed.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            };
            Step::Dialed(Box::new(dialed), address)
        }));
    }

    /// A socket of the right family; a fresh one now and then.
    fn dialer_for(&mut self, address: SocketAddr, fresh: bool) -> Option<QuicDialer> {
        let slot = &mut self.dialers[usize::from(address.is_ipv6())];
        if let Some(dialer) = slot.as_ref().filter(|_| !fresh) {
            return Some(dialer.clone());
        }
        match QuicDialer::new(address, self.redialer.mtu_cap) {
            Ok(dialer) => Some(slot.insert(dialer).clone()),
            Err(error) => {
                debug!(%error, "no socket to dial from");
                None
            }
        }
    }

    fn handle_dialed(&mut self, dialed: Result<Dialed, String>, address: SocketAddr) {
        match dialed {
            Ok(dialed) => {
                self.redialer.paths.prefer(address);
                self.ready.push_back(dialed);
            }
            Err(error) => debug!(%address, error, "dial failed"),
        }
    }

    /// Sends `Resume` on the freshest finished handshake, unless an earlier one may still be answered.
    fn resume_next(&mut self) {
        let now = clock::now();
        if self.resuming_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(Dialed { mut carrier, .. }) = self.ready.pop_back() else {
            return;
        };
        let rtt = carrier.rtt().unwrap_or_default();
        self.resuming_until = Some(now + RESUME_ALLOWANCE.max(rtt * 3));
        let resume = self.redialer.resume();
        self.claims.handle_sent(resume.epoch);
        self.steps.spawn(async move {
            let exchange = async {
                carrier.send_message(Hello::Resume(resume).encode()).await?;
                let answer = Answer::decode(carrier.read_message().await?)?;
                Ok((carrier, answer))
            };
            let answered = timeout(DIAL_TIMEOUT, exchange).await;
            let answered = answered.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
            Step::Answered(Box::new(answered), resume.epoch)
        });
    }

    /// `None` when the session is gone for good.
    async fn handle_answered(&mut self, answered: Result<(Carrier, Answer), CarrierError>, epoch: Epoch) -> Option<()> {
        // After an `Accepted` the pump says in a moment that it needs no other.
        let accepted = matches!(answered, Ok((_, Answer::Accepted(_))));
        self.resuming_until = accepted.then(|| clock::now() + RESUME_ALLOWANCE);
        self.claims
            .handle_answered(epoch, answered.as_ref().ok().map(|(_, answer)| answer));
        match answered {
            Ok((carrier, Answer::Accepted(accepted))) => self.deliver(carrier, accepted, epoch).await,
            Ok((_, Answer::Refused(refusal))) if refusal.code.is_final() => {
                info!(event = "refused", %refusal, "the server half will not resume the session");
                self.redialer.orders.send(Order::Lost(refusal.to_string())).await.ok()?;
                None
            }
            Ok((_, Answer::Refused(refusal))) => {
                debug!(%refusal, "not resumed yet");
                Some(())
            }
            Ok((_, Answer::Standing | Answer::Reaped)) => {
                let error = CarrierError::Protocol(DecodeError::UnknownType {
                    what: "answer to a resume",
                    value: 0,
                });
                debug!(%error, "not resumed");
                Some(())
            }
            Err(error) => {
                debug!(%error, "carrier lost before its answer");
                Some(())
            }
        }
    }

    async fn deliver(&mut self, carrier: Carrier, accepted: Accepted, epoch: Epoch) -> Option<()> {
        let arrival = Arrival {
            carrier,
            epoch,
            peer_received: accepted.received,
            peer_window: accepted.window,
        };
        self.redialer.arrivals.send(arrival).await.ok()
    }
}

/// Resumes that may have made their carrier the server half's lead, for all we know.
///
/// A race must not be called off over one: the server half would send on a carrier that nobody reads, and the old
/// one, which still answers probes, would look well for ever.
#[derive(Debug, Default)]
struct Claims(Vec<Epoch>);

impl Claims {
    fn handle_sent(&mut self, epoch: Epoch) {
        self.0.push(epoch);
    }

    /// `answer` is `None` where the carrier was lost first: whether the resume arrived is then open, until a later
    /// one is accepted.
    fn handle_answered(&mut self, epoch: Epoch, answer: Option<&Answer>) {
        match answer {
            Some(Answer::Accepted(_)) => self.0.retain(|claim| *claim > epoch),
            Some(Answer::Refused(_) | Answer::Standing | Answer::Reaped) => self.0.retain(|claim| *claim != epoch),
            None => {}
        }
    }

    fn are_settled(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Refusal, RefusalCode};

    fn claims(epochs: &[u32]) -> Claims {
        let mut claims = Claims::default();
        epochs.iter().for_each(|epoch| claims.handle_sent(Epoch::new(*epoch)));
        claims
    }

    fn accepted() -> Answer {
        Answer::Accepted(Accepted {
            received: Default::default(),
            window: 0,
            ttl: 0,
            key: None,
        })
    }

    #[test]
    fn a_resume_that_may_have_arrived_keeps_the_race_open() {
        let mut claims = claims(&[2]);
        assert!(!claims.are_settled());
        claims.handle_answered(Epoch::new(2), None);
        assert!(!claims.are_settled(), "lost before its answer: it may have arrived");
        claims.handle_sent(Epoch::new(3));
        claims.handle_answered(Epoch::new(3), Some(&accepted()));
        assert!(claims.are_settled(), "the later one leads on both sides");
    }

    #[test]
    fn an_accepted_resume_does_not_settle_a_later_one() {
        let mut claims = claims(&[2, 3]);
        claims.handle_answered(Epoch::new(2), Some(&accepted()));
        assert!(!claims.are_settled());
        let refused = Answer::Refused(Refusal {
            code: RefusalCode::RetryLater,
            message: String::new(),
        });
        claims.handle_answered(Epoch::new(3), Some(&refused));
        assert!(claims.are_settled());
    }
}
