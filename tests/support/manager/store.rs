//! The descriptor store, and the socket by which a service fills it: sd_notify(3), sd_pid_notify_with_fds(3).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    recvmsg, socket_with, sockopt,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Longer messages are not taken, as by systemd.
const MOST_BYTES: usize = 4096;

/// The most descriptors in a message, unix(7).
const MOST_DESCRIPTORS: usize = 253;

/// A name that is not said, or not allowed.
const UNNAMED: &str = "stored";

/// A message of a process.
pub struct Notice {
    pub sender: Option<u32>,
    lines: Vec<String>,
    pub descriptors: Vec<OwnedFd>,
}

impl Notice {
    /// The value of an assignment.
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut lines = self.lines.iter();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether it says `KEY=1`.
    pub fn says(&self, key: &str) -> bool {
        self.value(key) == Some("1")
    }
}

/// Where services send their messages.
pub struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

impl NotifySocket {
    pub fn at(path: &Path) -> io::Result<NotifySocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        sockopt::set_socket_passcred(&socket, true)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(NotifySocket {
            socket,
            path: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.socket, PollFlags::IN)
    }

    /// The next message, if one has come.
    pub fn receive(&self) -> Option<Notice> {
        let mut text = [0; MOST_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut text)];
        let received = recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
        let mut notice = Notice {
            sender: None,
            lines: vec![],
            descriptors: vec![],
        };
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(descriptors) => notice.descriptors.extend(descriptors),
                RecvAncillaryMessage::ScmCredentials(of) => notice.sender = Some(of.pid.as_raw_nonzero().get() as u32),
                _ => {}
            }
        }
        let text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
        notice.lines = text.lines().map(str::to_owned).collect();
        Some(notice)
    }
}

/// Descriptors that wait for the next start.
pub struct Store {
    most: usize,
    /// The newest first.
    held: Vec<Held>,
}

struct Held {
    name: String,
    descriptor: OwnedFd,
    /// Let go when it reports an error or a hang-up.
    polled: bool,
}

impl Store {
    pub fn new(most: usize) -> Store {
        Store { most, held: vec![] }
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// Lets go of what is too many, without a word; the newest stay.
    pub fn limit(&mut self, most: usize) {
        self.most = most;
        self.held.truncate(most);
    }

    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// What a message says of the store: `FDSTOREREMOVE=1`, or `FDSTORE=1`; says nothing when it takes nothing.
    pub fn handle(&mut self, notice: &mut Notice) {
        if notice.says("FDSTOREREMOVE") {
            let name = notice.value("FDNAME").map(str::to_owned);
            self.held.retain(|held| Some(&held.name) != name.as_ref());
        } else if notice.says("FDSTORE") {
            let named = notice.value("FDNAME").filter(|name| is_valid(name));
            let name = named.unwrap_or(UNNAMED).to_owned();
            let polled = notice.value("FDPOLL") != Some("0");
            for descriptor in std::mem::take(&mut notice.descriptors) {
                if self.held.len() < self.most && !self.held.iter().any(|held| is_same(&held.descriptor, &descriptor)) {
                    let name = name.clone();
                    self.held.insert(
                        0,
                        Held {
                            name,
                            descriptor,
                            polled,
                        },
                    );
                }
            }
        }
    }

    /// Lets go of polled descriptors that report an error or a hang-up.
    pub fn drop_hung_up(&mut self) {
        let mut fds: Vec<_> = self.poll_fds().collect();
        if !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..)) {
            return;
        }
        let mut gone = fds
            .iter()
            .map(|fd| !fd.revents().is_empty())
            .collect::<Vec<_>>()
            .into_iter();
        self.held.retain(|held| !held.polled || gone.next() == Some(false));
    }

    /// One for each polled descriptor; errors and hang-ups are always reported.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let polled = self.held.iter().filter(|held| held.polled);
        polled.map(|held| PollFd::new(&held.descriptor, PollFlags::empty()))
    }

    /// Names and duplicates, in the order in which a service gets them; the duplicates' numbers are `from` and above.
    pub fn duplicates(&self, from: i32) -> io::Result<Vec<(String, OwnedFd)>> {
        let duplicate = |held: &Held| {
            let descriptor = rustix::io::fcntl_dupfd_cloexec(&held.descriptor, from)?;
            Ok((held.name.clone(), descriptor))
        };
        self.held.iter().map(duplicate).collect()
    }
}

/// At most 255 characters of ASCII, neither control characters nor `:`.
fn is_valid(name: &str) -> bool {
    name.len() <= 255 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
}

#[allow(unsafe_code, reason = "no crate here wraps kcmp(2)")]
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    const KCMP_FILE: libc::c_long = 0;
    let own = std::process::id();
    let (one, other) = (one.as_fd().as_raw_fd(), other.as_fd().as_raw_fd());
    // SAFETY: it only reads this process's table of descriptors.
    unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, one, other) == 0 }
}
