//! OpenSSH's extensions to sftp version 3, as its `PROTOCOL` file section 4 gives them.

use std::fs;
use std::path::Path;

use bytes::{Buf, BufMut};
use russh_sftp::protocol::{ExtendedReply, Packet, StatusCode, Version};
use rustix::fs::StatVfs;

use super::MAX_PACKET;
use super::files::{Files, MAX_HANDLES, MAX_READ, Refusal, done};

const OFFERED: [(&str, &str); 7] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

pub(super) fn version() -> Packet {
    let mut version = Version::new();
    version.extensions = OFFERED
        .iter()
        .map(|(name, data)| ((*name).to_owned(), (*data).to_owned()))
        .collect();
    version.into()
}

impl Files {
    pub(super) fn extended(&self, id: u32, request: &str, data: Vec<u8>) -> Result<Packet, Refusal> {
        let mut data = data.as_slice();
        let mut text = || take_text(&mut data).ok_or(Refusal::Status(StatusCode::BadMessage));
        match request {
            "posix-rename@openssh.com" => done(id, fs::rename(self.resolve(&text()?), self.resolve(&text()?))),
            "hardlink@openssh.com" => done(id, fs::hard_link(self.resolve(&text()?), self.resolve(&text()?))),
            "fsync@openssh.com" => done(id, self.file(&text()?)?.sync_all()),
            "statvfs@openssh.com" => Ok(space(id, &rustix::fs::statvfs(self.resolve(&text()?))?)),
            "fstatvfs@openssh.com" => Ok(space(id, &rustix::fs::fstatvfs(self.file(&text()?)?)?)),
            "limits@openssh.com" => Ok(limits(id)),
            "expand-path@openssh.com" => self.real_path(id, &self.expand(&text()?)?),
            _ => Err(Refusal::Status(StatusCode::OpUnsupported)),
        }
    }

    /// `~` and `~/...` are the user's home; other users' are not known here.
    fn expand(&self, path: &str) -> Result<String, Refusal> {
        let Some(rest) = path.strip_prefix('~') else {
            return Ok(path.to_owned());
        };
        if !rest.is_empty() && !rest.starts_with('/') {
            return Err(Refusal::Status(StatusCode::NoSuchFile));
        }
        let expanded: &Path = &self.home().join(rest.trim_start_matches('/'));
        Ok(expanded.to_string_lossy().into_owned())
    }
}

fn take_text(data: &mut &[u8]) -> Option<String> {
    let length = data.try_get_u32().ok()? as usize;
    let (text, rest) = data.split_at_checked(length)?;
    *data = rest;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn limits(id: u32) -> Packet {
    let mut data = Vec::new();
    for limit in [MAX_PACKET, MAX_READ, MAX_READ, MAX_HANDLES] {
        data.put_u64(limit as u64);
    }
    ExtendedReply { id, data }.into()
}

fn space(id: u32, system: &StatVfs) -> Packet {
    let mut data = Vec::new();
    for number in [
        system.f_bsize,
        system.f_frsize,
        system.f_blocks,
        system.f_bfree,
        system.f_bavail,
        system.f_files,
        system.f_ffree,
        system.f_favail,
        system.f_fsid,
        // Bits 1 and 2 are read-only and nosuid, on the wire as in Linux.
        system.f_flag.bits() & 3,
        system.f_namemax,
    ] {
        data.put_u64(number);
    }
    ExtendedReply { id, data }.into()
}
