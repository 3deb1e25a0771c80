use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use bytes::BytesMut;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::fcntl_getfl,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe().unwrap()
}

/// A pty in raw mode: what goes in comes out.
fn pty() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut settings = rustix::termios::tcgetattr(&slave).unwrap();
    settings.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &settings).unwrap();
    (master.into(), slave)
}

fn is_blocking(fd: impl AsFd) -> bool {
    !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Whether the reader of this pipe goes away, within ten seconds.
fn loses_its_reader(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
    fds[0].revents().contains(PollFlags::ERR)
}

#[tokio::test]
async fn pipe_carries_a_whole_transfer_through_a_real_child() {
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = Stdout::from_fd(child.stdin.take().unwrap().into()).unwrap();
    let mut stdin = Stdin::from_fd(child.stdout.take().unwrap().into()).unwrap();
    let sent = pattern(32 * 1024 * 1024 + 17);
    let send = async {
        stdout.write_all(&sent).await.unwrap();
        stdout.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (_, count) = tokio::join!(send, stdin.read_to_end(&mut received));
    assert_eq!(count.unwrap(), sent.len());
    assert!(received == sent);
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn shared_pipes_sockets_and_terminals_stay_blocking_for_the_others() {
    let (read, write) = pipe();
    let (left, _right) = UnixStream::pair().unwrap();
    let (_master, terminal) = pty();
    for fd in [read, write, left.into(), terminal] {
        let shared = fd.try_clone().unwrap();
        let direction = match fcntl_getfl(&fd).unwrap() & OFlags::RWMODE {
            OFlags::WRONLY => Direction::Write,
            _ => Direction::Read,
        };
        let channel = Channel::new(fd, direction).unwrap();
        assert!(matches!(channel, Channel::Polled(_)), "{channel:?}");
        assert!(is_blocking(&shared));
        drop(channel);
        assert!(is_blocking(&shared));
    }
}

#[tokio::test]
async fn full_pipe_waits_for_its_reader_and_loses_nothing() {
    let (read, write) = pipe();
    let mut stdout = Stdout::from_fd(write).unwrap();
    let sent = pattern(4 * PIPE_SIZE);
    let reader = std::thread::spawn(move || {
        let mut received = Vec::new();
        File::from(read).read_to_end(&mut received).map(|_| received)
    });
    stdout.write_all(&sent).await.unwrap();
    drop(stdout);
    assert!(reader.join().unwrap().unwrap() == sent);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn pipes_are_enlarged() {
    let (read, write) = pipe();
    let _stdout = Stdout::from_fd(write).unwrap();
    // A user over the soft limit of pipe pages keeps what it has; root and a fresh user get all of it.
    if rustix::process::getuid().is_root() {
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&read).unwrap(), PIPE_SIZE);
    }
}

#[tokio::test]
async fn reading_takes_no_more_than_was_asked_for() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern(1000)).unwrap();
    file.rewind().unwrap();
    let (read, write) = pipe();
    File::from(write).write_all(&pattern(1000)).unwrap();
    for fd in [OwnedFd::from(file.try_clone().unwrap()), read.try_clone().unwrap()] {
        let mut stdin = Stdin::from_fd(fd).unwrap();
        let mut first = [0; 10];
        stdin.read_exact(&mut first).await.unwrap();
        assert_eq!(first[..], pattern(1000)[..10]);
    }
    for mut rest in [file, File::from(read)] {
        let mut next = [0; 10];
        rest.read_exact(&mut next).unwrap();
        assert_eq!(next[..], pattern(1000)[10..20]);
    }
}

#[tokio::test]
async fn read_buf_fills_the_spare_room_of_a_buffer() {
    let (read, write) = pipe();
    File::from(write).write_all(b"hello").unwrap();
    let mut stdin = Stdin::from_fd(read).unwrap();
    let mut buffer = BytesMut::with_capacity(4096);
    assert_eq!(stdin.read_buf(&mut buffer).await.unwrap(), 5);
    assert_eq!(&buffer[..], b"hello");
    assert_eq!(stdin.read_buf(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn one_socket_is_both_and_shutdown_ends_only_its_writing_direction() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut stdin = Stdin::from_fd(near.try_clone().unwrap().into()).unwrap();
    let mut stdout = Stdout::from_fd(near.into()).unwrap();
    stdout.write_all(b"there").await.unwrap();
    stdout.shutdown().await.unwrap();
    let mut seen = String::new();
    far.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "there");
    far.write_all(b"and back").unwrap();
    drop(far);
    let mut seen = String::new();
    stdin.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "and back");
}

#[tokio::test]
async fn terminal_is_polled_both_ways() {
    let (mut master, terminal) = pty();
    let mut stdin = Stdin::from_fd(terminal.try_clone().unwrap()).unwrap();
    let mut stdout = Stdout::from_fd(terminal).unwrap();
    master.write_all(b"keys").unwrap();
    let mut keys = [0; 4];
    stdin.read_exact(&mut keys).await.unwrap();
    assert_eq!(&keys, b"keys");
    stdout.write_all(b"screen").await.unwrap();
    let mut screen = [0; 6];
    master.read_exact(&mut screen).unwrap();
    assert_eq!(&screen, b"screen");
}

#[tokio::test]
async fn hung_up_terminal_is_a_broken_pipe() {
    let (master, terminal) = pty();
    let mut stdout = Stdout::from_fd(terminal).unwrap();
    drop(master);
    assert_eq!(
        stdout.write_all(b"x").await.unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn regular_files_are_copied_whole() {
    let sent = pattern(5 * 1024 * 1024 + 3);
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&sent).unwrap();
    source.rewind().unwrap();
    let mut target = tempfile::tempfile().unwrap();
    let mut stdin = Stdin::from_fd(source.into()).unwrap();
    let mut stdout = Stdout::from_fd(target.try_clone().unwrap().into()).unwrap();
    assert_eq!(
        tokio::io::copy(&mut stdin, &mut stdout).await.unwrap(),
        sent.len() as u64
    );
    stdout.shutdown().await.unwrap();
    target.rewind().unwrap();
    let mut received = Vec::new();
    target.read_to_end(&mut received).unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn dev_null_is_at_its_end_and_takes_everything() {
    let mut stdin = Stdin::from_fd(dev_null().unwrap()).unwrap();
    assert_eq!(stdin.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(stdin.read(&mut [0; 10]).await.unwrap(), 0);
    let mut stdout = Stdout::from_fd(dev_null().unwrap()).unwrap();
    stdout.write_all(&pattern(100_000)).await.unwrap();
}

#[tokio::test]
async fn full_disk_is_an_error_of_the_write_itself() {
    let full = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap();
    let mut stdout = Stdout::from_fd(full).unwrap();
    assert_eq!(stdout.write(b"x").await.unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn reader_that_went_away_is_a_broken_pipe() {
    let (read, write) = pipe();
    let thread = Stdout(Channel::Thread(
        Thread::new(write.try_clone().unwrap(), Direction::Write, FileType::Fifo).unwrap(),
    ));
    let polled = Stdout::from_fd(write).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let socket = Stdout::from_fd(near.into()).unwrap();
    drop((read, far));
    for mut stdout in [thread, polled, socket] {
        assert_eq!(
            stdout.write_all(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        stdout.shutdown().await.unwrap();
        assert_eq!(
            stdout.write_all(b"x").await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}

#[tokio::test]
async fn shutdown_shows_the_reader_its_end_while_the_writer_lives() {
    let make = [Channel::new, |fd, direction| {
        Thread::new(fd, direction, FileType::Fifo).map(Channel::Thread)
    }];
    for make in make {
        let (read, write) = pipe();
        let mut stdout = Stdout(make(write, Direction::Write).unwrap());
        stdout.write_all(b"last").await.unwrap();
        stdout.shutdown().await.unwrap();
        let mut seen = String::new();
        File::from(read).read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "last");
        drop(stdout);
    }
}

#[tokio::test]
async fn dropping_a_reader_that_waits_closes_its_descriptor() {
    let (read, write) = pipe();
    let thread = Thread::new(read, Direction::Read, FileType::Fifo).unwrap();
    let mut stdin = Stdin(Channel::Thread(thread));
    tokio::select! {
        biased;
        _ = stdin.read_u8() => panic!("nothing was written"),
        () = tokio::task::yield_now() => {}
    }
    drop(stdin);
    assert!(loses_its_reader(&write));
}

#[tokio::test]
async fn thread_keeps_what_a_cancelled_read_brought() {
    let (read, write) = pipe();
    let thread = Thread::new(read, Direction::Read, FileType::Fifo).unwrap();
    let mut stdin = Stdin(Channel::Thread(thread));
    let mut large = [0; 100];
    tokio::select! {
        biased;
        _ = stdin.read(&mut large) => panic!("nothing was written"),
        () = tokio::task::yield_now() => {}
    }
    File::from(write).write_all(b"abcdef").unwrap();
    let mut small = [0; 4];
    stdin.read_exact(&mut small).await.unwrap();
    assert_eq!(&small, b"abcd");
    let mut rest = Vec::new();
    stdin.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"ef");
}

const AS_CHILD: &str = "BOWLINE_TEST_STDIO_CHILD";

/// Not a test of its own: the process that the next one starts. Copies its input to its output and stays.
#[tokio::test]
async fn child_that_copies_and_stays() {
    if std::env::var_os(AS_CHILD).is_none() {
        return;
    }
    let mut stdin = Stdin::take().unwrap();
    let mut stdout = Stdout::take().unwrap();
    tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    stdout.shutdown().await.unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn process_closes_its_standard_output_and_lives_on() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "client::stdio::tests::child_that_copies_and_stays",
            "--nocapture",
        ])
        .env(AS_CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    input.write_all(b"through and out").unwrap();
    drop(input);
    let mut seen = String::new();
    // The end comes though the process runs on, and though the harness in it has a standard output too.
    output.read_to_string(&mut seen).unwrap();
    assert!(seen.ends_with("through and out"), "{seen}");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_writer_that_has_nothing_to_write_is_woken_when_its_reader_goes() {
    let (read, write) = pipe();
    let (near, far) = UnixStream::pair().unwrap();
    let cases: [(OwnedFd, OwnedFd); 2] = [(write, read), (near.into(), far.into())];
    for (ours, theirs) in cases {
        let mut stdout = Stdout::from_fd(ours).unwrap();
        stdout.write_all(b"x").await.unwrap();
        let mut gone = Box::pin(std::future::poll_fn(|cx| match Pin::new(&mut stdout).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }));
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut gone).await;
        assert!(early.is_err(), "{early:?}");
        drop(theirs);
        let error = tokio::time::timeout(std::time::Duration::from_secs(10), gone).await;
        assert_eq!(error.expect("it is woken").kind(), io::ErrorKind::BrokenPipe);
    }
}
