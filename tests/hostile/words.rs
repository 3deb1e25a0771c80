//! Peers whose words are meant for a terminal or for a log: whatever they say, it stays text, on one line, and it stays little.

use crate::support::echo::TcpEcho;
use crate::support::peer::{FakeServer, RawClient, open, open_by};
use crate::support::process::run;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::SshSetup;
use crate::support::sshd::TestSshd;
use crate::support::{Scratch, data, heavy, measured, wait_for};
use bowline::identity::raw_key::TlsKey;
use bowline::wire::{Answer, Authorization, CloseCode, Frame, Probed, Refusal, RefusalCode, SessionId, is_active};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
/// What takes its place on the way: as long, and all of it active.
const PLACEHOLDER: &str = "placeholder-placeholder-placeholder-";
const WORDS: &str = "\u{1b}[2J\r\nerror: forged\u{9b}31m\u{202e}x\u{2028}\u{7}\0\u{7f}yz";
const ID: SessionId = SessionId::new([0x55; 16]);

#[test]
fn the_words_of_a_hostile_server_half_stay_text() {
    assert_eq!(WORDS.len(), PLACEHOLDER.len());
    let sshd = TestSshd::start();
    let refusal = |code| {
        Answer::Refused(Refusal {
            code,
            message: PLACEHOLDER.into(),
        })
    };
    let probed = Answer::Probed(Box::new(Probed {
        software: PLACEHOLDER.into(),
        key: None,
        banner: PLACEHOLDER.into(),
        banner_age: 1,
        ttl: 60,
        shows_client: false,
        limits: Some(vec![bowline::wire::SshdLimit {
            what: PLACEHOLDER.into(),
            survives: None,
            mend: PLACEHOLDER.into(),
            file: PLACEHOLDER.into(),
        }]),
    }));
    for answer in [
        refusal(RefusalCode::NotAuthorized),
        refusal(RefusalCode::Desync),
        refusal(RefusalCode::Busy),
        probed,
    ] {
        let said = data::replaced(&answer.encode(), PLACEHOLDER.as_bytes(), WORDS.as_bytes());
        expect_text(&sshd, &FakeServer::repeating(&sshd, said));
    }
    expect_text(&sshd, &FakeServer::closing_with(WORDS));
}

/// Opens and checks, and looks at all that is shown or kept.
fn expect_text(sshd: &TestSshd, server: &FakeServer) {
    for format in ["human", "json"] {
        let ssh = SshSetup::bowline(sshd, server.port())
            .proxy_arguments(&[
                "--connect-timeout",
                "3s",
                "--transport",
                "quic",
                "-vv",
                "--log-format",
                format,
            ])
            .write();
        let proxy = run(&mut ssh.proxy(), LIMIT);
        let check = run(&mut ssh.check(&[]), LIMIT);
        let shown = [proxy.err(), check.out(), check.err(), ssh.proxy_log()];
        assert!(
            shown.iter().any(|text| text.contains("forged")),
            "it said nothing: {shown:?}"
        );
        for text in &shown {
            expect_no_active(text);
            let forged = text.lines().find(|line| line.starts_with("error: forged"));
            assert_eq!(forged, None, "{text}");
        }
        let json = run(&mut ssh.check(&["--json"]), LIMIT);
        expect_no_active(&json.out());
    }
}

#[test]
fn the_words_of_a_hostile_client_half_stay_text_in_the_log() {
    for format in ["human", "json"] {
        let (sshd, echo) = (TestSshd::start(), TcpEcho::start());
        let mut options = ServeOptions::here().argument("--auth").argument("none").argument("-vv");
        options = options.argument("--log-format").argument(format);
        for key in sshd.host_keys() {
            options = options.argument("--host-key").argument(key);
        }
        let serve = Serve::start_before(echo.address(), options);
        let key = TlsKey::generate();
        let mut client = RawClient::dial(serve.udp(), &key);
        assert!(matches!(client.ask(&open(ID, 1)), Some(Answer::Accepted(_))));
        let close = Frame::Close {
            code: CloseCode::Ended,
            message: PLACEHOLDER.into(),
        };
        let mut encoded = bytes::BytesMut::new();
        close.encode(&mut encoded);
        client
            .send_raw(&data::replaced(&encoded, PLACEHOLDER.as_bytes(), WORDS.as_bytes()))
            .expect("an open carrier");
        expect_logged(&serve, "closed by the client half");
    }
}

#[test]
fn the_names_of_algorithms_stay_text_in_the_log() {
    for format in ["human", "json"] {
        let sshd = TestSshd::start();
        let serve = Serve::start(
            &sshd,
            ServeOptions::here()
                .argument("-vv")
                .argument("--log-format")
                .argument(format),
        );
        let mut client = RawClient::dial(serve.udp(), &TlsKey::generate());
        let authorization = of_an_odd_algorithm();
        let answer = client.ask(&open_by("anyone", ID, vec![authorization]));
        assert!(matches!(answer, Some(Answer::Refused(_))), "{answer:?}");
        expect_logged(&serve, "refused");
    }
}

/// A key whose algorithm, and whose signature's, has a name to clear a screen with.
fn of_an_odd_algorithm() -> Authorization {
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    let name = string(b"\x1b[2J\nforged@example.org");
    let key = [name.clone(), string(b"key")].concat();
    let signature = [name, string(b"signature")].concat();
    let fields = [&key[..], b"bowline-open", b"", b"sha512", &signature].map(string);
    Authorization {
        key: key.clone().into(),
        signature: [b"SSHSIG\0\0\0\x01".to_vec(), fields.concat()].concat().into(),
    }
}

#[test]
fn ten_thousand_refused_opens_are_a_few_lines_with_the_right_number() {
    const OPENS: u64 = 10_000;
    let _turn = heavy();
    let (sshd, scratch) = (TestSshd::start(), Scratch::new());
    let keys = scratch.join("no-keys");
    std::fs::write(&keys, "").expect("a scratch folder");
    let options = ServeOptions::here().argument("--authorized-keys").argument(keys);
    let serve = Serve::start(&sshd, options);
    let (key, mut asked) = (TlsKey::generate(), 0);
    while asked < OPENS {
        let mut client = RawClient::dial(serve.udp(), &key);
        while asked < OPENS
            && let Some(answer) = client.ask(&open(ID, 1))
        {
            assert!(
                matches!(&answer, Answer::Refused(refusal) if refusal.code == RefusalCode::NotAuthorized),
                "{answer:?}"
            );
            asked += 1;
        }
    }
    // What was counted is told when the server half stops, at the latest.
    serve.signal(rustix::process::Signal::TERM);
    let told = wait_for(LIMIT, || Some(serve.log()).filter(|log| counted(log) >= OPENS));
    let text = told.unwrap_or_else(|| panic!("{} are told of: {}", counted(&serve.log()), serve.log()));
    let lines = text.lines().filter(|line| line.contains("event=\"refused\"")).count();
    measured("lines for 10,000 refused opens", lines);
    assert_eq!(counted(&text), OPENS, "{text}");
    // One line and one count a minute.
    assert!(lines <= 20, "{lines} lines");
}

/// The refused opens that a log tells of: each of the lines with a count stands for so many more.
fn counted(log: &str) -> u64 {
    let lines = log.lines().filter(|line| line.contains("event=\"refused\""));
    lines
        .map(|line| {
            let count = line.split_once("suppressed=").map(|(_, rest)| rest);
            count.map_or(1, |rest| {
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
                digits.and_then(|digits| digits.parse().ok()).expect("a number")
            })
        })
        .sum()
}

#[track_caller]
fn expect_logged(serve: &Serve, sentence: &str) {
    let logged = wait_for(LIMIT, || {
        let log = serve.log();
        (log.contains(sentence) && log.contains("forged")).then_some(log)
    });
    let log = logged.unwrap_or_else(|| panic!("{sentence:?} is not logged: {}", serve.log()));
    expect_no_active(&log);
    let forged = log
        .lines()
        .find(|line| line.starts_with("error: forged") || line.starts_with("forged"));
    assert_eq!(forged, None);
}

/// Line ends apart.
#[track_caller]
fn expect_no_active(text: &str) {
    let active = text.chars().find(|c| is_active(*c) && *c != '\n');
    assert_eq!(active, None, "{text:?}");
}
