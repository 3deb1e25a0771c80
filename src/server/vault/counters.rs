//! What the kernel itself counts of a connection to sshd, and what follows from it.
//!
//! The truth after a crash: no memory of a process is needed for it. Nothing here reads, writes or changes the
//! connection. The counts are those of the side that connected.

use crate::tcp_info::TcpInfo;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a connection stands, and how far both of its directions got: one moment's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    state: State,
    /// Bytes that arrived, and one for a FIN.
    received: u64,
    /// Of these, bytes that nobody has taken. The FIN never counts (`tcp_inq`).
    unread: u64,
    /// Bytes that sshd's side acknowledged, one for the SYN, and one for our FIN.
    acked: u64,
    /// Bytes that it did not, and one for our FIN.
    unacked: u64,
}

/// What a successor has to know of its predecessor's dealings with sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Bytes taken from sshd.
    pub(super) consumed: u64,
    /// Whether sshd said that it will say no more.
    pub(super) fin_received: bool,
    /// Whether the connection is gone, in whatever way.
    pub(super) closed: bool,
    /// Bytes given to sshd's socket.
    pub(super) written: u64,
    /// Whether our direction was shut down after them.
    pub(super) output_shut: bool,
}

/// The end of what sshd says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// It said so itself.
    Fin,
    /// The connection broke.
    Reset,
}

/// The kernel's counts are not those of a connection that a worker held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountersError {
    /// The kernel did not tell them.
    #[error("cannot read the kernel's counters of a connection")]
    Read(#[from] io::Error),
    /// Neither open nor closed: it never was a session's.
    #[error("the connection is in state {state}")]
    NotConnected {
        /// As in Linux' `tcp_states.h`.
        state: u8,
    },
    /// More is unread than ever came.
    #[error("{unread} bytes are unread, but only {received} were received")]
    Contradiction {
        /// Bytes that wait.
        unread: u64,
        /// Bytes that came, the end among them.
        received: u64,
    },
    /// Someone read who did not announce it.
    #[error("{consumed} bytes were read from sshd, but only {intent} were to be")]
    ReadBeyondIntent {
        /// Bytes taken.
        consumed: u64,
        /// Bytes that were going to be taken.
        intent: u64,
    },
    /// Someone wrote who did not know how much there was.
    #[error("{written} positions were written to sshd, but its direction ends at {end}")]
    WrittenBeyondEnd {
        /// Bytes, and the shutdown as one more.
        written: u64,
        /// Bytes of the whole direction.
        end: u64,
    },
    /// Our direction is shut down, and nobody announced it.
    #[error("the connection's direction to sshd was shut down without notice")]
    ShutUnannounced,
}

/// What matters of `tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Neither side has ended: ESTABLISHED.
    Open,
    /// We have: FIN_WAIT1, FIN_WAIT2.
    WeEnded,
    /// The other side has: CLOSE_WAIT.
    PeerEnded,
    /// Both have, but not all of it is acknowledged: LAST_ACK, CLOSING.
    BothEnded,
    /// Over: CLOSE, which is also what a process sees of TIME_WAIT. Nothing changes any more.
    Closed,
}

impl Counters {
    /// The counts at one moment. TCP_INFO and the two questions are three system calls; repeated until nothing moved
    /// in between, which must come: nobody reads here, so at some time no more fits in.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Counters, CountersError> {
        let mut before = Info::of(socket)?;
        loop {
            let unread = rustix::io::ioctl_fionread(socket).map_err(io::Error::from)?;
            let unacked = unacked(socket)?;
            let after = Info::of(socket)?;
            if after == before {
                return Ok(Counters {
                    state: State::new(after.state)?,
                    received: after.received,
                    unread,
                    acked: after.acked,
                    unacked,
                });
            }
            before = after;
        }
    }

    /// Whether the connection is over.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether anything waits to be read.
    pub(super) fn is_unread(&self) -> bool {
        self.unread > 0
    }

    /// The end of what sshd says, for a reader that has taken `consumed` bytes and left none.
    pub(super) fn input_end(&self, consumed: u64) -> Option<InputEnd> {
        match self.state {
            _ if self.unread > 0 => None,
            State::Open | State::WeEnded => None,
            State::PeerEnded | State::BothEnded => Some(InputEnd::Fin),
            State::Closed if self.received > consumed => Some(InputEnd::Fin),
            State::Closed => Some(InputEnd::Reset),
        }
    }

    /// Bytes and shutdown given to sshd's socket, as positions. The SYN of the side that connects counts one.
    fn written_positions(&self) -> u64 {
        (self.acked + self.unacked).saturating_sub(1)
    }
}

/// What happened to a connection of which its last holder said that it was going to read up to `intent`, and that the
/// other direction ends at `output_end`, if it knew.
///
/// Only for who owns the connection now: nobody else may read or write it meanwhile.
pub(super) fn recover(
    socket: BorrowedFd<'_>,
    intent: u64,
    output_end: Option<u64>,
) -> Result<Recovered, CountersError> {
    let counters = Counters::of(socket)?;
    let fin_received = match counters.state {
        State::Open | State::WeEnded => false,
        State::PeerEnded | State::BothEnded => true,
        State::Closed => fin_before_close(socket, &counters)?.unwrap_or(counters.received > intent),
    };
    let Counters { received, unread, .. } = counters;
    let consumed = received
        .checked_sub(unread + u64::from(fin_received))
        .ok_or(CountersError::Contradiction { unread, received })?;
    if consumed > intent {
        return Err(CountersError::ReadBeyondIntent { consumed, intent });
    }
    let (written, output_shut) = written(&counters, output_end)?;
    Ok(Recovered {
        consumed,
        fin_received,
        closed: counters.is_closed(),
        written,
        output_shut,
    })
}

fn written(counters: &Counters, output_end: Option<u64>) -> Result<(u64, bool), CountersError> {
    let positions = counters.written_positions();
    // In state CLOSE nothing tells "100 bytes and a FIN" from "101 bytes" but the end that was published before.
    let output_shut = output_end.is_some_and(|end| positions > end);
    let written = positions - u64::from(output_shut);
    if let Some(end) = output_end.filter(|end| written > *end) {
        return Err(CountersError::WrittenBeyondEnd {
            written: positions,
            end,
        });
    }
    match counters.state {
        State::WeEnded | State::BothEnded if !output_shut => Err(CountersError::ShutUnannounced),
        State::Open | State::PeerEnded if output_shut => Err(CountersError::WrittenBeyondEnd {
            written: positions,
            end: written,
        }),
        _ => Ok((written, output_shut)),
    }
}

impl State {
    fn new(state: u8) -> Result<State, CountersError> {
        match state {
            1 => Ok(State::Open),
            4 | 5 => Ok(State::WeEnded),
            7 => Ok(State::Closed),
            8 => Ok(State::PeerEnded),
            9 | 11 => Ok(State::BothEnded),
            state => Err(CountersError::NotConnected { state }),
        }
    }
}

/// What of the kernel's `tcp_info` must not move between two looks.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Info {
    state: u8,
    acked: u64,
    received: u64,
}

impl Info {
    fn of(socket: BorrowedFd<'_>) -> io::Result<Info> {
        let TcpInfo {
            state, acked, received, ..
        } = TcpInfo::of(socket)?;
        Ok(Info { state, acked, received })
    }
}

/// SIOCOUTQ: what was written and is not acknowledged.
pub(super) fn unacked(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int to `count`. TIOCOUTQ and SIOCOUTQ are one number.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if outcome == 0 {
        Ok(count.unsigned_abs().into())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a FIN came before a connection closed; `None` where the kernel does not tell.
///
/// Two of the kernel's counts of unread bytes differ in the FIN: SIOCINQ takes it off (`tcp_inq`), what TCP_INQ attaches
/// to a read does not (`tcp_inq_hint`), and says 1 where there is nothing but a FIN. A look at the first byte shows it.
/// The error that a reset left may be taken away by that; who asks the counters needs none.
fn fin_before_close(socket: BorrowedFd<'_>, counters: &Counters) -> io::Result<Option<bool>> {
    if set_inq(socket, true).is_err() {
        return Ok(None);
    }
    let hint = match peek_inq(socket) {
        // The error comes before the hint, once.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => peek_inq(socket),
        other => other,
    };
    set_inq(socket, false)?;
    Ok(hint?.map(|hint| hint > counters.unread))
}

fn set_inq(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    // SAFETY: the kernel reads one int.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INQ,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Room for one control message with an int, with slack for any alignment.
#[repr(align(8))]
struct Control([u8; 64]);

/// Looks at one byte, and gives what TCP_INQ says beside it.
fn peek_inq(socket: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let (mut byte, mut control) = (0_u8, Control([0; 64]));
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: all zeroes is a message header without anything.
    #[allow(unsafe_code)]
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: everything the header points to lives, is writable and as long as it says.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the header is as the kernel left it; a message that it says is there lies in `control`, which is aligned.
    #[allow(unsafe_code)]
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        if message.is_null() || (*message).cmsg_level != libc::SOL_TCP || (*message).cmsg_type != libc::TCP_CM_INQ {
            return Ok(None);
        }
        let hint = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
        Ok(Some(hint.unsigned_abs().into()))
    }
}

#[cfg(test)]
#[path = "counters/tests.rs"]
mod tests;
