//! The examples of `PROTOCOL.md` are what the code says and understands, so that the page cannot rot.

use bowline::wire::{
    ALPN, Accepted, Answer, Authorization, CloseCode, Code, Epoch, Frame, Hello, Host, KeyQuery, MAX_AUTHORIZATIONS,
    MAX_DATA, MAX_HELLO, MAX_LIMITS, MAX_STATEMENTS, Offset, Open, Probe, Probed, Reap, Refusal, RefusalCode, Resume,
    SessionId, SshdLimit, Statement, UserName, VERSION, next_message,
};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../PROTOCOL.md");
const ID: SessionId = SessionId::new([
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
]);

#[test]
fn every_message_has_an_example_that_reads_and_writes_as_it_is_told() {
    let mut examples = examples();
    let host = Host {
        statements: vec![Statement {
            key: Bytes::from_static(b"key"),
            signature: Bytes::from_static(b"sig"),
        }],
    };
    let bytes = examples.remove("Host").expect("an example of Host");
    assert_eq!(host.encode(), bytes);
    assert_eq!(Host::decode(whole(&bytes)), Ok(host));
    for (name, hello) in hellos() {
        let bytes = examples.remove(name).unwrap_or_else(|| panic!("no example of {name}"));
        assert_eq!(hello.encode(), bytes, "{name}");
        assert_eq!(Hello::decode(whole(&bytes)), Ok(hello), "{name}");
    }
    for (name, answer) in answers() {
        let bytes = examples.remove(name).unwrap_or_else(|| panic!("no example of {name}"));
        assert_eq!(answer.encode(), bytes, "{name}");
        assert_eq!(Answer::decode(whole(&bytes)), Ok(answer), "{name}");
    }
    for (name, frame) in frames() {
        let bytes = examples.remove(name).unwrap_or_else(|| panic!("no example of {name}"));
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded);
        assert_eq!(encoded, bytes, "{name}");
        assert_eq!(Frame::decode(&mut encoded), Ok(Some(frame)), "{name}");
        assert!(encoded.is_empty(), "{name}");
    }
    assert!(examples.is_empty(), "examples of nothing: {:?}", examples.keys());
}

#[test]
fn limits_and_names_on_the_page_are_those_of_the_code() {
    let facts = [
        format!("`{}`", String::from_utf8_lossy(ALPN)),
        format!("protocol version {VERSION}"),
        format!("at most {MAX_HELLO} bytes"),
        format!("at most {MAX_DATA} bytes"),
        format!("at most {MAX_STATEMENTS} statements"),
        format!("at most {MAX_LIMITS} limits"),
        format!("at most {MAX_AUTHORIZATIONS} authorizations"),
        String::from_utf8_lossy(bowline::identity::statement::EXPORTER_LABEL).into_owned(),
        bowline::identity::statement::HOST_NAMESPACE.to_owned(),
        bowline::identity::statement::OPEN_NAMESPACE.to_owned(),
        format!("at most {} bytes", bowline::identity::statement::MAX_KEY_LEN),
        format!("at most {} bytes", bowline::identity::sshsig::MAX_BLOB_LEN),
    ];
    for fact in facts {
        assert!(PAGE.contains(&fact), "PROTOCOL.md does not say: {fact}");
    }
    for number in 1..=8 {
        let refused = [3, 0x34, number, 0];
        let Ok(Answer::Refused(refusal)) = Answer::decode(whole(&refused)) else {
            panic!("refusal {number}")
        };
        let row = format!("| {number} | `{}` |", refusal.code.name());
        assert!(PAGE.contains(&row), "PROTOCOL.md does not say: {row}");
    }
}

fn hellos() -> [(&'static str, Hello); 7] {
    let open = Open {
        version: VERSION,
        session: ID,
        epoch: Epoch::new(1),
        user: UserName::new("ada").expect("a user name"),
        authorizations: vec![Authorization {
            key: Bytes::from_static(b"key"),
            signature: Bytes::from_static(b"sig"),
        }],
        window: 8 << 20,
        reap_hash: [0xab; 32],
        first: Bytes::from_static(b"SSH-2.0-x\r\n"),
    };
    let resume = Resume {
        session: ID,
        epoch: Epoch::new(2),
        received: at(1000),
        window: 8 << 20,
    };
    let probe = Probe {
        version: VERSION,
        session: ID,
        user: UserName::new("ada").expect("a user name"),
        authorizations: open.authorizations.clone(),
    };
    let query = KeyQuery {
        version: VERSION,
        user: UserName::new("ada").expect("a user name"),
        keys: vec![Bytes::from_static(b"key")],
    };
    let reap = Reap {
        session: ID,
        token: [0xcd; 32],
    };
    [
        ("Open", Hello::Open(open)),
        ("Resume", Hello::Resume(resume)),
        ("Standby", Hello::Standby { session: ID }),
        ("Probe", Hello::Probe(probe)),
        ("Reap", Hello::Reap(reap)),
        ("Wait", Hello::Wait),
        ("KeyQuery", Hello::KeyQuery(query)),
    ]
}

fn answers() -> [(&'static str, Answer); 7] {
    let accepted = Accepted {
        received: at(0),
        window: 8 << 20,
        ttl: 604_800,
        key: Some(0),
    };
    let probed = Probed {
        software: "bowline".into(),
        key: Some(0),
        banner: "SSH-2.0-x".into(),
        banner_age: 12,
        ttl: 604_800,
        shows_client: true,
        limits: Some(vec![SshdLimit {
            what: "no answer".into(),
            survives: Some(45),
            mend: "ClientAliveInterval 0".into(),
            file: "".into(),
        }]),
    };
    let refused = Refusal {
        code: RefusalCode::Gone,
        message: "there is no such session".into(),
    };
    [
        ("Accepted", Answer::Accepted(accepted)),
        ("Standing", Answer::Standing),
        ("Probed", Answer::Probed(Box::new(probed))),
        ("Reaped", Answer::Reaped),
        ("KeyOk", Answer::KeyOk(Some(0))),
        ("Refused", Answer::Refused(refused)),
        ("Asking", Answer::Asking("Exceeded MaxStartups".into())),
    ]
}

fn frames() -> [(&'static str, Frame); 8] {
    let token = 0x0102_0304_0506_0708;
    [
        (
            "DATA",
            Frame::Data {
                offset: at(1000),
                bytes: Bytes::from_static(b"hello"),
            },
        ),
        (
            "ACK",
            Frame::Ack {
                delivered: at(1005),
                window: 8 << 20,
            },
        ),
        ("FIN", Frame::Fin { offset: at(1005) }),
        ("PING", Frame::Ping { token }),
        ("PONG", Frame::Pong { token }),
        ("DRAIN", Frame::Drain),
        (
            "RESUME",
            Frame::Resume {
                epoch: Epoch::new(2),
                received: at(1000),
                window: 8 << 20,
            },
        ),
        (
            "CLOSE",
            Frame::Close {
                code: CloseCode::UpstreamClosed,
                message: "sshd ended".into(),
            },
        ),
    ]
}

fn at(bytes: u64) -> Offset {
    Offset::new(bytes).expect("a varint")
}

/// A hello message without its length.
fn whole(bytes: &[u8]) -> Bytes {
    let mut input = BytesMut::from(bytes);
    let message = next_message(&mut input);
    assert!(input.is_empty(), "bytes after the message");
    message.expect("within its limit").expect("a whole message")
}

/// Blocks that begin with "```hex NAME": bytes in hex, each line up to a `#`.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let blocks = PAGE.split("```hex ").skip(1);
    blocks
        .map(|block| {
            let (name, rest) = block.split_once('\n').expect("a name and a line end");
            let (lines, _) = rest.split_once("```").expect("the block ends");
            let digits: String = lines
                .lines()
                .map(|line| line.split('#').next().unwrap_or_default())
                .collect::<String>()
                .split_whitespace()
                .collect();
            (name.trim(), bytes_of(&digits))
        })
        .collect()
}

fn bytes_of(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hex digits"))
        .collect()
}
