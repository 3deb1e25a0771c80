//! What the kernel reports about a TCP connection (`TCP_INFO`, tcp(7)). Read-only.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The used fields of the kernel's `tcp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// As in Linux's `tcp_states.h`.
    pub(crate) state: u8,
    /// Segments sent and not acknowledged.
    pub(crate) unacked: u32,
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// Bytes that the peer acknowledged, plus one for the SYN and one for our FIN.
    pub(crate) acked: u64,
    /// Bytes received, plus one for a FIN.
    pub(crate) received: u64,
    /// Segments received, with or without data; wraps around.
    pub(crate) segments: u32,
}

/// Offsets in `struct tcp_info` of linux/tcp.h, which are the same on all architectures. libc's structure ends before
/// the counters, which came with Linux 4.1 and 4.2.
const UNACKED: usize = 24;
const RTT_MICROS: usize = 68;
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const SEGMENTS_IN: usize = 140;
const LEN: usize = 144;

impl TcpInfo {
    /// Reads the current values.
    ///
    /// # Errors
    /// As getsockopt(2). `Unsupported` before Linux 4.2.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
        let mut info = [0_u8; LEN];
        let mut len = LEN as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `info`, and the length to `len`.
        #[allow(unsafe_code)]
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        if (len as usize) < LEN {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let word = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().expect("four bytes"));
        let double = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().expect("eight bytes"));
        Ok(TcpInfo {
            state: info[0],
            unacked: word(UNACKED),
            rtt: Duration::from_micros(word(RTT_MICROS).into()),
            acked: double(BYTES_ACKED),
            received: double(BYTES_RECEIVED),
            segments: word(SEGMENTS_IN),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn bytes_and_segments_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        let before = TcpInfo::of(near.as_fd()).unwrap();
        far.write_all(&[7; 1000]).unwrap();
        near.read_exact(&mut [0; 1000]).unwrap();
        let after = TcpInfo::of(near.as_fd()).unwrap();
        assert_eq!((before.received, after.received), (0, 1000));
        assert!(after.segments > before.segments);
        assert!(
            after.rtt > Duration::ZERO && after.rtt < Duration::from_secs(1),
            "{:?}",
            after.rtt
        );
    }
}
