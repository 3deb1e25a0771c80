//! What sshd refuses for good, or for now, and what is told of it.

use super::LIMIT;
use super::support::place::Place;
use super::support::process::{Outcome, run};
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{SshFiles, SshSetup};
use super::support::sshd::{TestSshd, version};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;

/// How a client ends that got no session; that was refused one.
const UNAVAILABLE: i32 = 69;
const REFUSED: i32 = 77;

struct Half {
    sshd: TestSshd,
    serve: Serve,
    client: SshFiles,
}

impl Half {
    fn before(sshd: TestSshd, arguments: &[&str]) -> Half {
        let serve = Serve::start(&sshd, ServeOptions::here());
        let client = SshSetup::bowline(&sshd, serve.udp().port()).proxy_arguments(arguments);
        Half {
            client: client.write(),
            sshd,
            serve,
        }
    }

    fn open(&self) -> Outcome {
        run(&mut self.client.proxy(), LIMIT)
    }

    /// What `bowline check` ends with, and says of the one path.
    fn check(&self, code: i32) -> String {
        run(&mut self.client.check(&["--json"]), LIMIT).expect_code(code).out()
    }
}

#[test]
fn an_sshd_without_a_common_algorithm_is_asked_once_and_the_cause_is_told() {
    let sshd = TestSshd::start_at(Place::here(), "Ciphers aes256-ctr\nMACs umac-64@openssh.com");
    let half = Half::before(sshd, &[]);
    let said = half.open().expect_code(UNAVAILABLE).err();
    assert!(
        said.contains("no MAC algorithm in common; it offers umac-64@openssh.com"),
        "{said}"
    );
    assert!(!said.contains("try again"), "{said}");
    assert_eq!(half.sshd.connections_from(""), 1, "{}", half.sshd.log());
    let checked = half.check(UNAVAILABLE);
    assert!(
        checked.contains("\"sshd-unfit\"") && checked.contains("umac-64"),
        "{checked}"
    );
}

#[test]
fn an_sshd_that_hangs_up_on_each_question_is_asked_twice_and_no_more() {
    let mut sshd = TestSshd::start();
    std::fs::write(sshd.authorized_keys(), "").expect("the scratch folder");
    if version() >= 909 {
        sshd.configure("RefuseConnection yes");
    } else {
        // Its process that serves the connection ends as it does by that option.
        let kill = "AuthorizedKeysCommand /bin/sh -c \"kill -9 $PPID\"\nAuthorizedKeysCommandUser";
        sshd.configure(&format!("{kill} {}", sshd.user()));
    }
    let half = Half::before(sshd, &[]);
    let said = half.open().expect_code(UNAVAILABLE).err();
    assert!(
        said.contains("closes every connection on which it is asked about a key"),
        "{said}"
    );
    assert!(!said.contains("try again"), "{said}");
    assert_eq!(half.sshd.connections_from(""), 2, "{}", half.sshd.log());
}

#[test]
fn what_sshd_says_before_it_hangs_up_on_a_session_is_told_everywhere() {
    if Place::here().address != std::net::Ipv4Addr::LOCALHOST {
        // Sessions and questions come from one address there: sshd hangs up on the question already.
        return;
    }
    // With its penalties, sshd would get no session from clients whose addresses it does not see.
    let penalties = if version() >= 908 {
        "PerSourcePenalties no\n"
    } else {
        ""
    };
    let lines = format!("{penalties}PerSourceMaxStartups 1\nPerSourceNetBlockSize 11:64");
    let half = Half::before(TestSshd::start_at(Place::here(), &lines), &["--connect-timeout", "2s"]);
    // Questions come from another network of that size than sessions.
    let holder = from_the_network_of_sessions(&half.sshd);
    let line = if version() >= 908 {
        "Not allowed at this time"
    } else {
        "Exceeded MaxStartups"
    };
    let said = half.open().expect_code(UNAVAILABLE).err();
    assert!(said.contains(line) && said.contains("PerSourceMaxStartups"), "{said}");
    let log = half.serve.log();
    assert!(log.contains(line) && !log.contains("ended normally"), "{log}");
    let checked = half.check(UNAVAILABLE);
    assert!(checked.contains(line), "{checked}");
    drop(holder);
    half.client.remote("exit 7", LIMIT).expect_code(7);
    half.check(0);
}

#[test]
fn a_login_that_begins_with_a_password_is_told_at_the_start_and_to_its_user() {
    let lines = "PasswordAuthentication yes\nAuthenticationMethods password,publickey";
    let half = Half::before(TestSshd::start_at(Place::here(), lines), &[]);
    let log = half.serve.log();
    let warned = log
        .lines()
        .find(|line| line.contains("--auth sshd lets no session be opened"));
    let warned = warned.unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(
        warned.contains("password,publickey") && warned.contains("--auth none"),
        "{warned}"
    );
    let said = half.open().expect_code(REFUSED).err();
    assert!(said.contains("requires password before a key"), "{said}");
    assert!(
        said.contains("--auth none") && !said.contains("the right key is in this list"),
        "{said}"
    );
    let checked = half.check(REFUSED);
    assert!(checked.contains("\"other-method\""), "{checked}");
}

/// A connection that never logs in.
fn from_the_network_of_sessions(sshd: &TestSshd) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let from = std::net::SocketAddr::from(([127, 97, 0, 1], 0));
    socket.bind(&from.into()).expect("an address of loopback");
    socket.connect(&sshd.address().into()).expect("sshd listens");
    let stream = TcpStream::from(socket);
    let mut greeting = String::new();
    let read = BufReader::new(&stream).read_line(&mut greeting);
    assert!(read.is_ok() && greeting.starts_with("SSH-"), "{greeting:?}");
    stream
}
