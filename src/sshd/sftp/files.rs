//! The requests of sftp version 3, answered from the file system. Blocking: runs off the async threads.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use russh_sftp::protocol::{
    Attrs, Data, FileAttributes, Handle, Name, Open, OpenFlags, Packet, Read, Status, StatusCode, Write,
};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{attributes, extensions};

/// Most bytes of one answer to a read: a packet less room for its header, as OpenSSH's.
pub(super) const MAX_READ: usize = super::MAX_PACKET - 1024;

/// Most files and directories open at once, for one client.
pub(super) const MAX_HANDLES: usize = 512;

/// Directory entries per answer, as OpenSSH's; with names of 255 bytes they fit one packet.
const ENTRIES: usize = 100;

/// What one client has open.
pub(super) struct Files {
    home: PathBuf,
    open: HashMap<String, Opened>,
    next_handle: u64,
}

enum Opened {
    File(File),
    Directory {
        path: PathBuf,
        dots: bool,
        entries: ReadDir,
    },
}

/// Why a request is refused.
pub(super) enum Refusal {
    Io(io::Error),
    Status(StatusCode),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Refusal {
        Refusal::Io(error.into())
    }
}

impl Refusal {
    fn into_packet(self, id: u32) -> Packet {
        match self {
            Refusal::Status(code) => Packet::error(id, code),
            Refusal::Io(error) => Packet::status(id, code_of(&error), &error.to_string(), "en"),
        }
    }
}

fn code_of(error: &io::Error) -> StatusCode {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP) => StatusCode::NoSuchFile,
        Some(Errno::ACCESS | Errno::PERM | Errno::FAULT) => StatusCode::PermissionDenied,
        Some(Errno::NAMETOOLONG | Errno::INVAL) => StatusCode::BadMessage,
        Some(Errno::NOSYS) => StatusCode::OpUnsupported,
        _ => StatusCode::Failure,
    }
}

type Answer = Result<Packet, Refusal>;

impl Files {
    pub(super) fn new(home: PathBuf) -> Files {
        Files {
            home,
            open: HashMap::new(),
            next_handle: 0,
        }
    }

    pub(super) fn answer(&mut self, request: Packet) -> Packet {
        let id = request.get_request_id();
        self.dispatch(id, request)
            .unwrap_or_else(|refusal| refusal.into_packet(id))
    }

    fn dispatch(&mut self, id: u32, request: Packet) -> Answer {
        match request {
            Packet::Init(_) => Ok(extensions::version()),
            Packet::Open(open) => self.open(open),
            Packet::Close(close) => self.close(id, &close.handle),
            Packet::Read(read) => self.read(read),
            Packet::Write(write) => self.write(&write),
            Packet::Lstat(lstat) => shown(id, fs::symlink_metadata(self.resolve(&lstat.path))),
            Packet::Stat(stat) => shown(id, fs::metadata(self.resolve(&stat.path))),
            Packet::Fstat(fstat) => shown(id, self.file(&fstat.handle)?.metadata()),
            Packet::SetStat(set) => done(id, attributes::set_on_path(&self.resolve(&set.path), &set.attrs)),
            Packet::FSetStat(set) => done(id, attributes::set_on_file(self.file(&set.handle)?, &set.attrs)),
            Packet::OpenDir(open) => self.open_directory(id, &open.path),
            Packet::ReadDir(read) => self.read_directory(id, &read.handle),
            Packet::Remove(remove) => done(id, fs::remove_file(self.resolve(&remove.filename))),
            Packet::MkDir(make) => self.make_directory(id, &make.path, &make.attrs),
            Packet::RmDir(remove) => done(id, fs::remove_dir(self.resolve(&remove.path))),
            Packet::RealPath(path) => self.real_path(id, &path.path),
            Packet::Rename(rename) => self.rename(id, &rename.oldpath, &rename.newpath),
            Packet::ReadLink(link) => named(id, &fs::read_link(self.resolve(&link.path))?),
            // The draft says link, target; OpenSSH's client and server say target, link, and everyone follows them.
            Packet::Symlink(link) => done(
                id,
                std::os::unix::fs::symlink(&link.linkpath, self.resolve(&link.targetpath)),
            ),
            Packet::Extended(extended) => self.extended(id, &extended.request, extended.data),
            _ => Err(Refusal::Status(StatusCode::OpUnsupported)),
        }
    }

    /// Relative names are relative to the user's home.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.home.join(path)
    }

    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn file(&self, handle: &str) -> Result<&File, Refusal> {
        match self.open.get(handle) {
            Some(Opened::File(file)) => Ok(file),
            _ => Err(Refusal::Status(StatusCode::Failure)),
        }
    }

    fn keep(&mut self, id: u32, opened: Opened) -> Answer {
        if self.open.len() >= MAX_HANDLES {
            return Err(Errno::MFILE.into());
        }
        let handle = format!("{:x}", self.next_handle);
        self.next_handle += 1;
        self.open.insert(handle.clone(), opened);
        Ok(Handle { id, handle }.into())
    }

    fn open(&mut self, open: Open) -> Answer {
        let mut options = OpenOptions::from(open.pflags);
        if open.pflags.contains(OpenFlags::TRUNCATE) && !open.pflags.contains(OpenFlags::WRITE) {
            options.write(true);
        }
        options.mode(attributes::mode_or(&open.attrs, 0o666));
        let file = options.open(self.resolve(&open.filename))?;
        self.keep(open.id, Opened::File(file))
    }

    fn close(&mut self, id: u32, handle: &str) -> Answer {
        self.open
            .remove(handle)
            .map(|_| ok(id))
            .ok_or(Refusal::Status(StatusCode::Failure))
    }

    fn read(&mut self, read: Read) -> Answer {
        let mut data = vec![0; MAX_READ.min(read.len as usize)];
        let count = self.file(&read.handle)?.read_at(&mut data, read.offset)?;
        if count == 0 && !data.is_empty() {
            return Err(Refusal::Status(StatusCode::Eof));
        }
        data.truncate(count);
        Ok(Data { id: read.id, data }.into())
    }

    fn write(&mut self, write: &Write) -> Answer {
        done(
            write.id,
            self.file(&write.handle)?.write_all_at(&write.data, write.offset),
        )
    }

    fn open_directory(&mut self, id: u32, path: &str) -> Answer {
        let path = self.resolve(path);
        let entries = fs::read_dir(&path)?;
        self.keep(
            id,
            Opened::Directory {
                path,
                dots: true,
                entries,
            },
        )
    }

    fn read_directory(&mut self, id: u32, handle: &str) -> Answer {
        let Some(Opened::Directory { path, dots, entries }) = self.open.get_mut(handle) else {
            return Err(Refusal::Status(StatusCode::Failure));
        };
        let mut files = Vec::new();
        if std::mem::take(dots) {
            for name in [".", ".."] {
                let metadata = fs::symlink_metadata(path.join(name)).ok();
                files.extend(metadata.map(|metadata| attributes::listed(name.to_owned(), &metadata)));
            }
        }
        for entry in entries.by_ref().take(ENTRIES) {
            let entry = entry?;
            // Gone since: not listed.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push(attributes::listed(
                entry.file_name().to_string_lossy().into_owned(),
                &metadata,
            ));
        }
        if files.is_empty() {
            return Err(Refusal::Status(StatusCode::Eof));
        }
        Ok(Name { id, files }.into())
    }

    fn make_directory(&mut self, id: u32, path: &str, wanted: &FileAttributes) -> Answer {
        let mode = attributes::mode_or(wanted, 0o777);
        done(id, DirBuilder::new().mode(mode).create(self.resolve(path)))
    }

    /// Version 3 does not replace a file; posix-rename@openssh.com does.
    fn rename(&mut self, id: u32, old: &str, new: &str) -> Answer {
        let (old, new) = (self.resolve(old), self.resolve(new));
        match rustix::fs::renameat_with(CWD, &old, CWD, &new, RenameFlags::NOREPLACE) {
            // A file system without the flag: not atomic, as good as OpenSSH's own on such.
            Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(&new).is_err() => done(id, fs::rename(old, new)),
            renamed => done(id, renamed.map_err(io::Error::from)),
        }
    }

    /// The last part of a name need not exist.
    pub(super) fn real_path(&self, id: u32, path: &str) -> Answer {
        let path = self.resolve(path);
        let real = match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(error.into());
                };
                folder.canonicalize()?.join(name)
            }
            real => real?,
        };
        named(id, &real)
    }
}

pub(super) fn ok(id: u32) -> Packet {
    Status {
        id,
        status_code: StatusCode::Ok,
        error_message: String::new(),
        language_tag: String::new(),
    }
    .into()
}

pub(super) fn done(id: u32, result: io::Result<()>) -> Answer {
    Ok(result.map(|()| ok(id))?)
}

fn shown(id: u32, metadata: io::Result<fs::Metadata>) -> Answer {
    Ok(Attrs {
        id,
        attrs: attributes::of(&metadata?),
    }
    .into())
}

fn named(id: u32, path: &Path) -> Answer {
    let name = path.to_string_lossy().into_owned();
    let entry = russh_sftp::protocol::File {
        longname: name.clone(),
        filename: name,
        attrs: FileAttributes::empty(),
    };
    Ok(Name { id, files: vec![entry] }.into())
}
