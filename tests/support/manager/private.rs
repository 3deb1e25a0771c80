//! The private socket of a service manager, as systemd's: questions about its one unit in the D-Bus protocol, without a bus.
//!
//! Like systemd's it also sends signals that nobody has asked for.

use super::stand_in::Seen;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/tested_2eservice";
const JOB_PATH: &str = "/org/freedesktop/systemd1/job/7";

/// Whoever asks takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until it is dropped.
pub struct PrivateSocket {
    path: PathBuf,
}

impl PrivateSocket {
    pub fn at(path: &Path, seen: Arc<Mutex<Seen>>) -> io::Result<PrivateSocket> {
        let listener = UnixListener::bind(path)?;
        let file = path.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !file.exists() {
                    return;
                }
                // Whoever breaks off has its answer, or gives up.
                let _ = serve(&stream, &seen);
            }
        });
        Ok(PrivateSocket { path: path.to_owned() })
    }
}

impl Drop for PrivateSocket {
    fn drop(&mut self) {
        let last = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        drop(last);
    }
}

fn serve(stream: &UnixStream, seen: &Mutex<Seen>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut hello = vec![];
    reader.read_until(b'\n', &mut hello)?;
    let user = rustix::process::geteuid().as_raw().to_string();
    let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
    if hello != format!("\0AUTH EXTERNAL {user}\r\n").as_bytes() {
        return (&mut &*stream).write_all(b"REJECTED EXTERNAL\r\n");
    }
    (&mut &*stream).write_all(b"OK 0123456789abcdef0123456789abcdef\r\n")?;
    let mut begin = vec![];
    reader.read_until(b'\n', &mut begin)?;
    assert_eq!(begin, b"BEGIN\r\n");
    loop {
        let call = Call::read(&mut reader)?;
        let strings: Vec<_> = call.strings.iter().map(String::as_str).collect();
        let body = answer(&call.path, &call.member, &strings, seen);
        (&mut &*stream).write_all(&signal())?;
        (&mut &*stream).write_all(&match body {
            Some((signature, body)) => reply(call.serial, signature, &body),
            None => error(call.serial, "org.freedesktop.DBus.Error.UnknownProperty"),
        })?;
    }
}

/// The signature of an answer and its body; `None` for what there is not.
fn answer(path: &str, member: &str, strings: &[&str], seen: &Mutex<Seen>) -> Option<(&'static str, Vec<u8>)> {
    let mut seen = seen.lock().expect("nobody panics");
    let job = seen.job;
    let name = strings.get(1).copied().unwrap_or_default();
    let variant = |signature: &str, pad: usize, value: Vec<u8>| {
        let mut body = vec![signature.len() as u8];
        body.extend(signature.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(pad), 0);
        body.extend(value);
        Some(("v", body))
    };
    match (path, member, name) {
        ("/org/freedesktop/systemd1", "GetUnitByPID", _) => Some(("o", text(UNIT_PATH))),
        ("/org/freedesktop/systemd1", "Get", "SystemState") => variant("s", 4, text("running")),
        (UNIT_PATH, "Get", "Job") => {
            let mut value = u32::from(job.is_some()).to_ne_bytes().to_vec();
            value.extend(text(if job.is_some() { JOB_PATH } else { "/" }));
            variant("(uo)", 8, value)
        }
        (JOB_PATH, "Get", "JobType") => {
            let kind = variant("s", 4, text(job?));
            seen.questions_about_job += 1;
            if let Some(next) = seen.overtaken_by {
                seen.job = Some(next);
            }
            kind
        }
        (UNIT_PATH, "Get", "Restart") => variant("s", 4, text("always")),
        (UNIT_PATH, "Get", "FileDescriptorStorePreserve") => {
            variant("s", 4, text(if seen.preserves { "yes" } else { "restart" }))
        }
        (UNIT_PATH, "Get", "NFileDescriptorStore") => variant("u", 4, (seen.stored as u32).to_ne_bytes().into()),
        (UNIT_PATH, "Get", "FileDescriptorStoreMax") => variant("u", 4, (seen.store_max as u32).to_ne_bytes().into()),
        _ => None,
    }
}

/// A question, as far as the answer depends on it.
struct Call {
    serial: u32,
    path: String,
    member: String,
    /// The strings of the body.
    strings: Vec<String>,
}

impl Call {
    fn read(reader: &mut impl Read) -> io::Result<Call> {
        let mut start = [0; 16];
        reader.read_exact(&mut start)?;
        let number = |at: usize| u32::from_ne_bytes(start[at..at + 4].try_into().expect("4 bytes"));
        let (body, serial, fields) = (number(4) as usize, number(8), number(12) as usize);
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        reader.read_exact(&mut rest)?;
        let (mut path, mut member, mut signature) = <(String, String, String)>::default();
        let mut at = 0;
        while at < fields {
            at = at.next_multiple_of(8);
            let (code, kind) = (rest[at], rest[at + 2]);
            at += 4;
            let length = if kind == b'g' {
                rest[at] as usize
            } else {
                rest[at] as usize | (rest[at + 1] as usize) << 8
            };
            at += if kind == b'g' { 1 } else { 4 };
            let value = String::from_utf8(rest[at..at + length].to_vec()).expect("text");
            at += length + 1;
            match code {
                1 => path = value,
                3 => member = value,
                8 => signature = value,
                _ => {}
            }
        }
        let mut strings = vec![];
        at = fields.next_multiple_of(8);
        for _ in signature.bytes().filter(|kind| *kind == b's') {
            at = at.next_multiple_of(4);
            let length = rest[at] as usize;
            strings.push(String::from_utf8(rest[at + 4..at + 4 + length].to_vec()).expect("text"));
            at += 4 + length + 1;
        }
        Ok(Call {
            serial,
            path,
            member,
            strings,
        })
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

/// A field of a message: a number or a text.
fn field(fields: &mut Vec<u8>, code: u8, kind: u8, value: &[u8]) {
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend([code, 1, kind, 0]);
    fields.extend(value);
}

fn message(kind: u8, fields: &[u8], body: &[u8]) -> Vec<u8> {
    let endianness = if cfg!(target_endian = "little") { b'l' } else { b'B' };
    let mut message = vec![endianness, kind, 1, 1];
    message.extend((body.len() as u32).to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend((fields.len() as u32).to_ne_bytes());
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}

fn reply(serial: u32, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut fields = vec![];
    field(&mut fields, 5, b'u', &serial.to_ne_bytes());
    field(&mut fields, 7, b's', &text("org.freedesktop.systemd1"));
    field(
        &mut fields,
        8,
        b'g',
        &[&[signature.len() as u8], signature.as_bytes(), &[0]].concat(),
    );
    message(2, &fields, body)
}

fn error(serial: u32, name: &str) -> Vec<u8> {
    let mut fields = vec![];
    field(&mut fields, 5, b'u', &serial.to_ne_bytes());
    field(&mut fields, 4, b's', &text(name));
    message(3, &fields, &[])
}

fn signal() -> Vec<u8> {
    let mut fields = vec![];
    field(&mut fields, 1, b'o', &text("/org/freedesktop/systemd1"));
    field(&mut fields, 2, b's', &text("org.freedesktop.systemd1.Manager"));
    field(&mut fields, 3, b's', &text("Reloading"));
    field(&mut fields, 8, b'g', &[1, b'b', 0]);
    message(4, &fields, &1u32.to_ne_bytes())
}
