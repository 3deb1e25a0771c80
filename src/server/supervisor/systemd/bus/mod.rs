//! Asks systemd on its private socket, with the part of the D-Bus protocol that two kinds of questions need.
//!
//! The message bus is not used: at poweroff it ends before this service is told to stop, and minimal systems have
//! none. No D-Bus crate is used: they bring an async runtime, and look for their sockets in the environment. Answers
//! are bounded in size and time, and every unexpected answer is an error.

mod message;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{clock, server::ipc::seqpacket};
use message::{ERROR, MAX_MESSAGE, METHOD_RETURN, Message, OWN_ENDIANNESS, Reader, SIGNAL, VERSION, Writer};

/// The path of systemd's manager object.
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
/// Its interface.
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The longest answer to the handshake, which is `OK` and 32 digits.
const MAX_HANDSHAKE: usize = 256;

/// The most bytes received for one question. While the machine shuts down there is a signal for every unit.
const MAX_RECEIVED: usize = 4 * 1024 * 1024;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::server::supervisor) enum BusError {
    /// The question could not be sent; `TimedOut` if there was no answer in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The notification socket has no file, so there is no private socket beside it: the manager is not systemd.
    #[error("the service manager has no private socket")]
    NoPrivateSocket,
    /// The handshake was refused.
    #[error("the service manager refused the connection")]
    NotLetIn,
    /// The answer is an error.
    #[error("the service manager answered with the error {name}")]
    Refused { name: String },
    /// The answer has an unexpected format.
    #[error("the service manager's answer has an unexpected format: {what}")]
    NotUnderstood { what: &'static str },
}

impl BusError {
    /// Whether the object or property in question does not exist, or no longer.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { name } if name.starts_with("org.freedesktop.DBus.Error.Unknown"))
    }
}

impl From<rustix::io::Errno> for BusError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

const fn not_understood(what: &'static str) -> BusError {
    BusError::NotUnderstood { what }
}

/// The value of a property.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u32),
    /// A number and the path of an object, as in the property `Job`.
    Object(u32, String),
}

/// A connection to the service manager.
#[derive(Debug)]
pub(super) struct Bus {
    socket: OwnedFd,
    /// The time limit for all answers.
    deadline: Instant,
    serial: u32,
}

impl Bus {
    /// Connects. This process must be root, or the user whose manager it is.
    ///
    /// # Errors
    /// `Io`, `NotLetIn`.
    pub(super) fn connect(path: &Path, limit: Duration) -> Result<Self, BusError> {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Also limits connecting, which blocks if the socket's queue is full (unix(7)).
        set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
        rustix::net::connect(&socket, &address)?;
        let deadline = clock::now() + limit;
        let mut bus = Self {
            socket,
            deadline,
            serial: 0,
        };
        bus.shake_hands()?;
        Ok(bus)
    }

    fn shake_hands(&mut self) -> Result<(), BusError> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        // Bytes after the line belong to messages.
        while !line.ends_with(b"\r\n") {
            if line.len() == MAX_HANDSHAKE {
                return Err(not_understood("the handshake"));
            }
            line.extend(self.receive::<1>()?);
        }
        match line.starts_with(b"OK ") {
            true => Ok(()),
            false => Err(BusError::NotLetIn),
        }
    }

    /// The path of this process's unit.
    ///
    /// # Errors
    /// See [`BusError`].
    pub(super) fn own_unit(&mut self) -> Result<String, BusError> {
        // Asks for process id 0, which means the caller: an administrator may change the unit's name, and the process
        // id may differ between pid namespaces.
        let reply = self.call(MANAGER_PATH, MANAGER, "GetUnitByPID", "u", &0u32.to_ne_bytes())?;
        let mut body = reply.body("o")?;
        let path = body.text()?;
        body.end()?;
        Ok(path)
    }

    /// A property of an object.
    ///
    /// # Errors
    /// See [`BusError`].
    pub(super) fn property(&mut self, object: &str, interface: &str, name: &str) -> Result<Value, BusError> {
        let mut asked = Writer::default();
        asked.text(interface);
        asked.text(name);
        let reply = self.call(object, PROPERTIES, "Get", "ss", &asked.bytes)?;
        let mut body = reply.body("v")?;
        let value = match &*body.signature()? {
            "s" => Value::Text(body.text()?),
            "u" => Value::Number(body.number()?),
            "(uo)" => {
                body.align(8)?;
                Value::Object(body.number()?, body.text()?)
            }
            _ => return Err(not_understood("the type of a property")),
        };
        body.end()?;
        Ok(value)
    }

    fn call(
        &mut self,
        object: &str,
        interface: &str,
        member: &str,
        signature: &str,
        body: &[u8],
    ) -> Result<Message, BusError> {
        self.serial += 1;
        let call = message::call(self.serial, (object, interface, member), signature, body);
        self.send(&call)?;
        self.answer()
    }

    /// The answer to the last question. Signals are skipped.
    fn answer(&mut self) -> Result<Message, BusError> {
        let mut received = 0;
        while received < MAX_RECEIVED {
            let (message, length) = self.message()?;
            received += length;
            match message.kind {
                METHOD_RETURN | ERROR if message.reply_to != Some(self.serial) => {
                    return Err(not_understood("an answer to something else"));
                }
                METHOD_RETURN => return Ok(message),
                ERROR => {
                    let name = message.error.ok_or(not_understood("an error without a name"))?;
                    return Err(BusError::Refused { name });
                }
                SIGNAL => {}
                _ => return Err(not_understood("the type of a message")),
            }
        }
        Err(not_understood("too much between question and answer"))
    }

    fn message(&mut self) -> Result<(Message, usize), BusError> {
        let start = self.receive::<16>()?;
        let (&[endianness, kind, _, version], lengths) = start.split_first_chunk().expect("16 bytes");
        if (endianness, version) != (OWN_ENDIANNESS, VERSION) {
            return Err(not_understood("the start of a message"));
        }
        let mut lengths = Reader::new(lengths);
        let (body, _serial, fields) = (lengths.length()?, lengths.number()?, lengths.length()?);
        let length = fields.next_multiple_of(8) + body;
        if length > MAX_MESSAGE {
            return Err(not_understood("a message that is too long"));
        }
        let mut rest = vec![0; length];
        self.fill(&mut rest)?;
        let mut message = Message {
            kind,
            ..Message::read_fields(&rest[..fields])?
        };
        message.body = rest.split_off(fields.next_multiple_of(8));
        Ok((message, 16 + length))
    }

    fn send(&self, bytes: &[u8]) -> Result<(), BusError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let flags = SendFlags::NOSIGNAL;
            let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, rest, flags))?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    fn receive<const LENGTH: usize>(&self) -> Result<[u8; LENGTH], BusError> {
        let mut bytes = [0; LENGTH];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), BusError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let left = self.deadline.saturating_duration_since(clock::now());
            if !seqpacket::wait_for(self.socket.as_fd(), PollFlags::IN, left)? {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            let (rest, flags) = (&mut bytes[filled..], RecvFlags::DONTWAIT);
            match rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *rest, flags))?.0 {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                received => filled += received,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
        thread::JoinHandle,
    };

    /// What systemd 252 answered to `own_unit`, and to a property `Job` asked next, on a little-endian machine.
    const OWN_UNIT: &[u8] = b"l\x02\x01\x01\x3c\x00\x00\x00\x01\x00\x00\x007\x00\x00\x00\x05\x01u\x00\x01\x00\x00\x00\
        \x07\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00\x08\x01g\x00\x01o\x00\x00\
        7\x00\x00\x00/org/freedesktop/systemd1/unit/od_2dd_40a_2eb_2eservice\x00";
    const JOB: &[u8] = b"l\x02\x01\x01\x30\x00\x00\x00\x02\x00\x00\x007\x00\x00\x00\x05\x01u\x00\x02\x00\x00\x00\
        \x07\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00\x08\x01g\x00\x01v\x00\x00\
        \x04(uo)\x00\x00\x00\x02\x00\x00\x00\x1f\x00\x00\x00/org/freedesktop/systemd1/job/2\x00";
    const UNKNOWN: &[u8] = b"l\x03\x01\x01\x0b\x00\x00\x00\x01\x00\x00\x00o\x00\x00\x00\x05\x01u\x00\x01\x00\x00\x00\
        \x04\x01s\x00*\x00\x00\x00org.freedesktop.DBus.Error.UnknownProperty\x00\x00\x00\x00\x00\x00\
        \x07\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00\x08\x01g\x00\x01s\x00\x00\
        \x06\x00\x00\x00absent\x00";
    /// The signal `Reloading(true)`.
    const SIGNAL: &[u8] = b"l\x04\x01\x01\x04\x00\x00\x00\x09\x00\x00\x00\x1f\x00\x00\x00\x03\x01s\x00\x09\x00\x00\x00\
        Reloading\x00\x00\x00\x00\x00\x00\x00\x08\x01g\x00\x01b\x00\x00\x01\x00\x00\x00";

    const LIMIT: Duration = Duration::from_millis(300);

    /// Somebody who says this, whatever is asked, and reads until the other has gone.
    fn manager(says: Vec<u8>) -> (tempfile::TempDir, JoinHandle<Vec<u8>>) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("private")).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A reader that gives up closes its end.
            let _ = stream.write_all(&says);
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard);
            heard
        });
        (folder, thread)
    }

    fn bus(folder: &tempfile::TempDir) -> Result<Bus, BusError> {
        Bus::connect(&folder.path().join("private"), LIMIT)
    }

    fn says(messages: &[&[u8]]) -> Vec<u8> {
        [&[b"OK 4c4fb325ad97401190b20e1f918dd47a\r\n".as_slice()], messages]
            .concat()
            .concat()
    }

    fn own_unit(messages: &[&[u8]]) -> Result<String, BusError> {
        let (folder, _manager) = manager(says(messages));
        bus(&folder)?.own_unit()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn answers_of_systemd_are_understood_and_signals_passed_over() {
        let (folder, manager) = manager(says(&[SIGNAL, OWN_UNIT, SIGNAL, SIGNAL, JOB]));
        let mut bus = bus(&folder).unwrap();
        let unit = bus.own_unit().unwrap();
        assert_eq!(unit, "/org/freedesktop/systemd1/unit/od_2dd_40a_2eb_2eservice");
        let job = bus.property(&unit, "org.freedesktop.systemd1.Unit", "Job").unwrap();
        assert_eq!(job, Value::Object(2, "/org/freedesktop/systemd1/job/2".to_owned()));
        drop(bus);
        let heard = manager.join().unwrap();
        assert!(heard.starts_with(b"\0AUTH EXTERNAL "), "{heard:?}");
        let calls = heard.windows(4).filter(|start| *start == b"l\x01\0\x01");
        assert_eq!(calls.count(), 2);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_property_that_there_is_not_is_told_from_other_errors() {
        let error = own_unit(&[UNKNOWN]).unwrap_err();
        assert!(error.is_unknown(), "{error}");
    }

    #[test]
    fn whoever_is_not_let_in_is_told_so() {
        let (folder, _manager) = manager(b"REJECTED EXTERNAL\r\n".to_vec());
        assert!(matches!(bus(&folder), Err(BusError::NotLetIn)));
    }

    #[test]
    fn a_manager_that_says_nothing_is_waited_for_no_longer_than_the_limit() {
        let (folder, _manager) = manager(Vec::new());
        let start = clock::now();
        let Err(BusError::Io(error)) = bus(&folder) else {
            panic!()
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < 10 * LIMIT);
    }

    #[test]
    fn no_socket_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(bus(&folder), Err(BusError::Io(_))));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn answers_that_are_cut_changed_or_of_another_kind_are_errors() {
        // Of another question, of another type, and one that is followed by more.
        for answer in [JOB, &{
            let mut longer = OWN_UNIT.to_vec();
            longer[4] += 1;
            longer.push(0);
            longer
        }] {
            assert!(matches!(own_unit(&[answer]), Err(BusError::NotUnderstood { .. })));
        }
        // Every byte that decides on a length, one after the other, as large as can be.
        for at in [4, 5, 6, 7, 12, 13, 14, 15, 18, 26, 27, 36, 70, 80, 81] {
            let mut bad = OWN_UNIT.to_vec();
            bad[at] = 0xff;
            assert!(own_unit(&[&bad]).is_err(), "byte {at}");
        }
        for length in [0, 1, 15, 16, 60, OWN_UNIT.len() - 1] {
            assert!(own_unit(&[&OWN_UNIT[..length]]).is_err(), "{length} bytes");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn signals_without_end_are_an_error() {
        let flood = SIGNAL.repeat(2 * MAX_RECEIVED / SIGNAL.len());
        assert!(own_unit(&[&flood]).is_err());
    }
}
