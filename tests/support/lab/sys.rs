//! Namespaces and TUN devices: the few things that std lacks.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: libc::c_short = 0x0001;
const IFF_NO_PI: libc::c_short = 0x1000;

/// `struct ifreq` as TUNSETIFF reads it: 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Runs `ip` with these words.
///
/// # Panics
/// With ip's own message when it fails.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("the ip program");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a namespace whose programs resolve names by `hosts_file`.
pub fn make_namespace(namespace: &str, hosts_file: &str) {
    ip(&format!("netns add {namespace}"));
    // `ip netns exec` puts these files over those of /etc.
    let folder = format!("/etc/netns/{namespace}");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(format!("{folder}/hosts"), hosts_file))
        .expect("root's /etc");
}

/// Programs that start in the namespace from now on ask this name server.
pub fn set_name_server(namespace: &str, address: Ipv4Addr) {
    let settings = format!("nameserver {address}\n");
    fs::write(format!("/etc/netns/{namespace}/resolv.conf"), settings).expect("root's /etc");
}

/// Ends what still runs in a namespace of ours, and removes it. Never panics: it serves drops.
pub fn remove_namespace(namespace: &str) {
    let list = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
        .map(|output| output.stdout);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    for pid in String::from_utf8_lossy(&list.unwrap_or_default())
        .split_whitespace()
        .flat_map(str::parse::<i32>)
    {
        if pid != own
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", namespace]).output();
    let _ = fs::remove_dir_all(format!("/etc/netns/{namespace}"));
}

/// Removes the namespaces of runs that were killed: those whose name holds the id of a process that is gone.
pub fn remove_leftovers(prefix: &str) {
    for entry in fs::read_dir("/var/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| fs::metadata(format!("/proc/{pid}")).is_err()) {
            remove_namespace(&name);
        }
    }
}

/// Does something inside a namespace; what it opens there then serves from anywhere.
///
/// # Errors
/// Those of entering the namespace, and its own.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = open_namespace(namespace)?;
    // Only the calling thread moves, so a thread made for it, and then ended, keeps us where we are.
    let thread = std::thread::spawn(move || {
        move_to(&namespace)?;
        work()
    });
    thread.join().expect("the thread only makes system calls")
}

/// A namespace by its name.
///
/// # Errors
/// Those of opening its file.
pub fn open_namespace(name: &str) -> io::Result<File> {
    File::open(format!("/var/run/netns/{name}"))
}

/// Moves the calling thread into a namespace, and with it the processes and threads that it starts from now on.
///
/// # Errors
/// Those of the system call: not root, or no namespace.
pub fn move_to(namespace: &File) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
}

/// Makes a TUN device, where the calling thread is.
///
/// # Errors
/// Those of opening `/dev/net/tun` and making the device.
pub fn make_device(device: &str) -> io::Result<File> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    set_interface(&file, &mut request)?;
    Ok(file)
}

#[allow(unsafe_code, reason = "no crate here wraps TUNSETIFF")]
fn set_interface(tun: &File, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the request has the layout and size of struct ifreq.
    match unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF as _, request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Until there is something to read, for at most `limit`.
pub fn wait_readable(file: &File, limit: Duration) {
    let limit = Timespec::try_from(limit).expect("a limit of seconds");
    let _ = poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit));
}
