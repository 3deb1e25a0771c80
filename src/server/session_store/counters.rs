//! The kernel's counters of a connection to sshd, and what follows from them.
//!
//! After a crash they are the truth: no memory of a process is needed. Nothing here reads from, writes to or changes
//! the connection. The counters are those of the connecting side.

use crate::tcp_info::TcpInfo;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// State of a connection and progress of both directions, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    state: State,
    /// Bytes received, and one for a FIN.
    received: u64,
    /// Bytes received and not yet read. The FIN never counts (`tcp_inq`).
    unread: u64,
    /// Bytes that sshd's side has acknowledged, one for the SYN, and one for our FIN.
    acked: u64,
    /// Bytes sent and not acknowledged, and one for our FIN.
    unacked: u64,
}

/// What a worker must know about the previous worker's use of a connection to sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Bytes read from sshd.
    pub(super) consumed: u64,
    /// Whether sshd has sent a FIN.
    pub(super) fin_received: bool,
    /// Whether the connection is closed, for whatever reason.
    pub(super) closed: bool,
    /// Bytes written to sshd's socket.
    pub(super) written: u64,
    /// Whether our direction was shut down after these bytes.
    pub(super) output_shut: bool,
}

/// How sshd's direction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// By a FIN.
    Fin,
    /// By a reset.
    Reset,
}

/// The kernel's counters do not belong to a connection that a worker used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountersError {
    /// The kernel did not return them.
    #[error("cannot read the kernel's counters of a connection")]
    Read(#[from] io::Error),
    /// The socket was never connected.
    #[error("the connection is in state {state}")]
    NotConnected {
        /// As in Linux's `tcp_states.h`.
        state: u8,
    },
    /// More bytes are unread than were received.
    #[error("{unread} bytes are unread, but only {received} were received")]
    Contradiction {
        /// Unread bytes.
        unread: u64,
        /// Received bytes, with the FIN.
        received: u64,
    },
    /// More was read than was announced.
    #[error("{consumed} bytes were read from sshd, but only {intent} were announced")]
    ReadBeyondIntent {
        /// Bytes read.
        consumed: u64,
        /// Bytes announced.
        intent: u64,
    },
    /// More was written than the direction has.
    #[error("{written} positions were written to sshd, but the direction ends at {end}")]
    WrittenBeyondEnd {
        /// Bytes, and one for the shutdown.
        written: u64,
        /// Bytes of the whole direction.
        end: u64,
    },
    /// Our direction was shut down without an announcement.
    #[error("the direction to sshd was shut down without having been announced")]
    ShutUnannounced,
}

/// The states of `tcp_states.h` that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Neither side has ended: ESTABLISHED.
    Open,
    /// We have ended: FIN_WAIT1, FIN_WAIT2.
    WeEnded,
    /// The peer has ended: CLOSE_WAIT.
    PeerEnded,
    /// Both have ended, but not everything is acknowledged: LAST_ACK, CLOSING.
    BothEnded,
    /// CLOSE, which is also what a process sees of TIME_WAIT. Nothing changes any more.
    Closed,
}

impl Counters {
    /// Reads the counters at one moment. This takes three system calls, repeated until nothing changed in between. It
    /// ends: nobody reads here, so at some time the receive buffer is full.
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

    /// Whether the connection is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether there are unread bytes.
    pub(super) fn is_unread(&self) -> bool {
        self.unread > 0
    }

    /// How sshd's direction has ended, for a reader that has read `consumed` bytes; `None` if bytes are unread or it
    /// is open.
    pub(super) fn input_end(&self, consumed: u64) -> Option<InputEnd> {
        match self.state {
            _ if self.unread > 0 => None,
            State::Open | State::WeEnded => None,
            State::PeerEnded | State::BothEnded => Some(InputEnd::Fin),
            State::Closed if self.received > consumed => Some(InputEnd::Fin),
            State::Closed => Some(InputEnd::Reset),
        }
    }

    /// Bytes and shutdown that were given to sshd's socket, as positions. The SYN of the connecting side counts as
    /// one.
    fn written_positions(&self) -> u64 {
        (self.acked + self.unacked).saturating_sub(1)
    }
}

/// Recovers a connection. Its last owner had announced to read up to `intent`, and that the direction to sshd ends at
/// `output_end`, if it knew.
///
/// Only for the connection's owner: nobody else may read from it or write to it meanwhile.
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
    // In state CLOSE "100 bytes and a FIN" looks like "101 bytes", except for the end that was announced before.
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

/// The part of the kernel's `tcp_info` that must not change between two reads.
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

/// SIOCOUTQ: bytes written and not acknowledged.
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

/// Whether a FIN came before the connection closed; `None` if the kernel does not tell.
///
/// Two of the kernel's counts of unread bytes differ in the FIN: SIOCINQ subtracts it (`tcp_inq`); the value that
/// TCP_INQ attaches to a read does not (`tcp_inq_hint`), and is 1 if there is nothing but a FIN. A peek at the first
/// byte returns it. The peek may consume the pending error of a reset; users of the counters do not need that error.
fn fin_before_close(socket: BorrowedFd<'_>, counters: &Counters) -> io::Result<Option<bool>> {
    if set_inq(socket, true).is_err() {
        return Ok(None);
    }
    let hint = match peek_inq(socket) {
        // The pending error comes first, once.
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

/// Peeks at one byte, and returns the value of TCP_INQ that comes with it.
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
    // SAFETY: the kernel has filled the header in; a message that it announces lies in `control`, which is aligned.
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
