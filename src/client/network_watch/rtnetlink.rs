//! The kernel's notifications of network changes (rtnetlink(7)), reduced to those that matter to paths.

use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, netlink::SocketAddrNetlink,
        recv, send, socket_with,
    },
};
use tokio::io::Interest;

use super::network_state::{Message, NetworkState, messages};
use crate::descriptor::Pollable;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// The largest datagram of a dump (`netlink_dump`, af_netlink.c).
const DATAGRAM: usize = 32 * 1024;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;

/// A subscription. It first requests a dump of the current state, so that a refresh is not taken for a change.
#[derive(Debug)]
pub(super) struct Monitor {
    fd: Pollable,
    port: u32,
    state: NetworkState,
    buffer: Vec<u8>,
}

impl Monitor {
    pub(super) fn new() -> io::Result<Self> {
        let fd = subscribe()?;
        let port = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
        request_dump(&fd, RTM_GETLINK)?;
        let fd = Pollable::new(fd, Interest::READABLE)?;
        Ok(Self {
            fd,
            port,
            state: NetworkState::default(),
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Ready for each change that may matter to a path.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let received = guard.try_io(|fd| Ok(recv(fd, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?));
            let Ok(received) = received else { continue };
            let changed = match received {
                Ok((_, length)) if length <= self.buffer.len() => self.handle_datagram(length)?,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => false,
                // Notifications were lost: report a change, and rebuild the state.
                Ok(_) => self.start_over()?,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => self.start_over()?,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if changed {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn handle_datagram(&mut self, length: usize) -> io::Result<bool> {
        let mut changed = false;
        for message in messages(&self.buffer[..length]) {
            let answers_us = message.port == self.port;
            match message.kind {
                NLMSG_DONE if answers_us => next_dump(&self.fd, &message)?,
                // If the kernel refuses a dump, there will be one false event later.
                NLMSG_ERROR if answers_us => {}
                _ => {
                    let is_old = answers_us && message.flags & NLM_F_MULTI != 0;
                    changed |= self.state.handle_message(&message) && !is_old;
                }
            }
        }
        Ok(changed)
    }

    fn start_over(&mut self) -> io::Result<bool> {
        self.state = NetworkState::default();
        match request_dump(&self.fd, RTM_GETLINK) {
            // A dump is still in progress.
            Ok(()) | Err(Errno::BUSY) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn subscribe() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(fd)
}

/// Links first, then addresses: the kernel runs one dump at a time.
fn next_dump(fd: &Pollable, done: &Message<'_>) -> io::Result<()> {
    if done.sequence == u32::from(RTM_GETLINK) {
        request_dump(fd, RTM_GETADDR)?;
    }
    Ok(())
}

/// Requests a dump of one kind. The answers carry the kind as their sequence number.
fn request_dump(fd: impl std::os::fd::AsFd, kind: u16) -> rustix::io::Result<()> {
    // struct nlmsghdr and an all-zero struct ifinfomsg, which is the longest of the kinds asked for.
    const LENGTH: usize = 16 + 16;
    let mut request = [0; LENGTH];
    request[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[8..12].copy_from_slice(&u32::from(kind).to_ne_bytes());
    send(fd, &request, SendFlags::empty())?;
    Ok(())
}
