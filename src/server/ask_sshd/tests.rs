use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::connect_sshd::FromLoopback;
use super::testing::{TestSshd, keygen, proven, proven_blob, ssh_keygen, strange_key, this_user};
use super::*;

const CLIENT: Client = client(1);
const OTHER: Client = client(2);

/// The client at this address of 192.0.2.0/24.
const fn client(number: u8) -> Client {
    let ip = Ipv4Addr::new(192, 0, 2, number);
    Client {
        remote: SocketAddr::new(IpAddr::V4(ip), 40_000),
        local: None,
    }
}

fn at(target: SocketAddr) -> Arc<FromLoopback> {
    Arc::new(FromLoopback::new(target))
}

fn asking(target: SocketAddr) -> AskSshd {
    AskSshd::new(at(target), AskLimits::default())
}

async fn accepted(sshd: &TestSshd, user: &str, keys: &[ProvenKey]) -> Option<usize> {
    asking(sshd.address)
        .would_accept_any(user, keys, CLIENT)
        .await
        .unwrap()
        .accepted
}

#[tokio::test]
async fn keys_of_every_kind_that_sshd_knows_are_accepted_and_others_are_not() {
    let sshd = TestSshd::start("");
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let known = sshd.authorize(kind, kind, "");
        assert_eq!(accepted(&sshd, &this_user(), &[known]).await, Some(0), "{kind}");
        assert_eq!(
            accepted(&sshd, &this_user(), &[strange_key(kind)]).await,
            None,
            "{kind}"
        );
    }
}

#[tokio::test]
async fn an_unknown_user_and_a_user_who_is_not_allowed_look_like_an_unknown_key() {
    let sshd = TestSshd::start("AllowUsers nobody-else");
    let known = sshd.authorize("known", "ed25519", "");
    assert_eq!(accepted(&sshd, &this_user(), std::slice::from_ref(&known)).await, None);
    assert_eq!(accepted(&sshd, "there-is-no-such-user", &[known]).await, None);
}

#[tokio::test]
async fn all_keys_of_an_open_are_tried_in_order_whatever_max_auth_tries_is() {
    for max_auth_tries in [1, 3, 6] {
        let sshd = TestSshd::start(&format!("MaxAuthTries {max_auth_tries}"));
        let mut keys: Vec<_> = (0..7).map(|_| strange_key("ed25519")).collect();
        assert_eq!(accepted(&sshd, &this_user(), &keys).await, None, "{max_auth_tries}");
        keys.push(sshd.authorize("known", "ed25519", ""));
        assert_eq!(accepted(&sshd, &this_user(), &keys).await, Some(7), "{max_auth_tries}");
    }
}

#[tokio::test]
async fn certificates_are_judged_by_sshd_with_their_principals_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let ca = keygen(folder.path(), "ca", "ed25519");
    let lines = format!("TrustedUserCAKeys {}.pub", ca.display());
    let sshd = TestSshd::start_in(folder, &lines);
    let user = this_user();
    for kind in ["ed25519", "rsa"] {
        for (name, options, expected) in [
            ("good", ["-n", &user, "-V", "+1h"], Some(0)),
            ("stranger", ["-n", "somebody", "-V", "+1h"], None),
            ("expired", ["-n", &user, "-V", "20200101:20200102"], None),
        ] {
            let key = keygen(sshd.folder.path(), &format!("{kind}-{name}"), kind);
            let public = key.with_extension("pub");
            let ca = ca.to_str().unwrap();
            ssh_keygen(&[&["-q", "-s", ca, "-I", "id"], &options[..], &[public.to_str().unwrap()]].concat());
            let certificate = std::fs::read_to_string(format!("{}-cert.pub", key.display())).unwrap();
            let certificate = russh::keys::ssh_key::Certificate::from_openssh(&certificate).unwrap();
            let shown = proven_blob(certificate.to_bytes().unwrap());
            assert!(shown.certificate.is_some());
            assert_eq!(accepted(&sshd, &user, &[shown]).await, expected, "{kind} {name}");
            assert_eq!(
                accepted(&sshd, &user, &[proven(&key)]).await,
                None,
                "{kind} {name}, the bare key"
            );
        }
    }
}

#[tokio::test]
async fn a_first_of_several_required_methods_counts_as_accepted() {
    let sshd = TestSshd::start("AuthenticationMethods publickey,password");
    let known = sshd.authorize("known", "ed25519", "");
    assert_eq!(accepted(&sshd, &this_user(), &[known]).await, Some(0));
}

#[tokio::test]
async fn sshd_sees_each_source_under_an_alias_and_a_from_option_is_its_own_verdict() {
    let sshd = TestSshd::start("");
    let inside = sshd.authorize("inside", "ed25519", r#"from="127.64.0.0/10""#);
    let outside = sshd.authorize("outside", "ed25519", r#"from="192.0.2.0/24",command="echo a b""#);
    let ask = asking(sshd.address);
    let verdict = ask
        .would_accept_any(&this_user(), &[outside, inside], CLIENT)
        .await
        .unwrap();
    assert_eq!(verdict.accepted, Some(1));
    assert!(
        sshd.log().contains(&format!("from {} port", verdict.asked_from.ip())),
        "{}",
        sshd.log()
    );

    let strange = [strange_key("ed25519")];
    let other = ask.would_accept_any(&this_user(), &strange, OTHER).await.unwrap();
    assert_ne!(other.asked_from.ip(), verdict.asked_from.ip());
    let again = ask.would_accept_any(&this_user(), &strange, OTHER).await.unwrap();
    assert_eq!(again.asked_from.ip(), other.asked_from.ip());
}

#[tokio::test]
async fn the_verdict_names_who_gave_it() {
    let sshd = TestSshd::start("");
    let ask = asking(sshd.address);
    let verdict = ask
        .would_accept_any(&this_user(), &[strange_key("ed25519")], CLIENT)
        .await
        .unwrap();
    let host_key = proven(&sshd.folder.path().join("host"));
    assert_eq!(verdict.server.host_key.unwrap().key_data(), &host_key.key);
    assert!(verdict.server.identification.starts_with("SSH-2.0-OpenSSH_"));
    let banner = read_banner(&*at(sshd.address), Purpose::Banner, Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(banner, verdict.server.identification);
}

#[tokio::test]
async fn a_source_that_fails_too_often_is_not_asked_about_and_others_are() {
    let sshd = TestSshd::start("");
    let known = [sshd.authorize("known", "ed25519", "")];
    let limits = AskLimits {
        failures: 2,
        ..AskLimits::default()
    };
    let ask = AskSshd::new(at(sshd.address), limits);
    let strange = [strange_key("ed25519")];
    for _ in 0..2 {
        assert_eq!(
            ask.would_accept_any(&this_user(), &strange, CLIENT)
                .await
                .unwrap()
                .accepted,
            None
        );
    }
    let refused = ask.would_accept_any(&this_user(), &known, CLIENT).await;
    assert!(matches!(refused, Err(AskError::TooManyFailed { .. })), "{refused:?}");
    let other = ask.would_accept_any(&this_user(), &known, OTHER).await.unwrap();
    assert_eq!(other.accepted, Some(0));
}

#[tokio::test]
async fn a_stopped_sshd_is_reported_as_down() {
    let sshd = TestSshd::start("");
    let target = sshd.address;
    drop(sshd);
    let verdict = asking(target)
        .would_accept_any("me", &[strange_key("ed25519")], CLIENT)
        .await;
    assert!(matches!(verdict, Err(AskError::UpstreamDown { .. })), "{verdict:?}");
    let banner = read_banner(&*at(target), Purpose::Banner, Duration::from_secs(5)).await;
    assert!(matches!(banner, Err(AskError::UpstreamDown { .. })), "{banner:?}");
}

#[tokio::test]
async fn a_silent_server_times_out_before_and_after_its_greeting() {
    for said in ["", "SSH-2.0-Silent\r\n"] {
        let limits = AskLimits {
            time: Duration::from_millis(300),
            ..AskLimits::default()
        };
        let verdict = against(said, limits, true).await;
        assert!(
            matches!(verdict, Err(AskError::TimedOut { .. })),
            "{said:?}: {verdict:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_ssh_server_or_hangs_up_is_told_apart() {
    let limits = AskLimits {
        room: Duration::ZERO,
        ..AskLimits::default()
    };
    let web = against("HTTP/1.1 400 Bad Request\r\n\r\n", limits, false).await;
    assert!(
        matches!(&web, Err(AskError::NotSsh { said, .. }) if said == "HTTP/1.1 400 Bad Request"),
        "{web:?}"
    );
    let endless = against(&"x".repeat(100_000), limits, true).await;
    assert!(matches!(endless, Err(AskError::NotSsh { .. })), "{endless:?}");
    for said in ["", "Exceeded MaxStartups\r\n", "Not allowed at this time\r\n"] {
        let dropped = against(said, limits, false).await;
        assert!(
            matches!(dropped, Err(AskError::Dropped { .. })),
            "{said:?}: {dropped:?}"
        );
    }
    let cut = against("SSH-2.0-Cut\r\n", limits, false).await;
    assert!(matches!(cut, Err(AskError::Ssh { .. })), "{cut:?}");
}

#[tokio::test]
async fn sshd_is_asked_a_few_at_a_time_and_one_source_holds_no_more_than_its_turn() {
    // Nothing is answered, so the running questions stay counted.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let limits = AskLimits {
        // One of these, and four of those in the queue, are for other sources.
        at_once: 3,
        queued: 16,
        wait: Duration::from_millis(200),
        time: Duration::from_millis(600),
        ..AskLimits::default()
    };
    let ask = Arc::new(AskSshd::new(at(listener.local_addr().unwrap()), limits));
    let keys = [strange_key("ed25519")];
    // Each about another user: the same question would share the answer.
    let asked = std::cell::Cell::new(0);
    let from = |number: u8| {
        let (ask, keys) = (ask.clone(), keys.clone());
        asked.set(asked.get() + 1);
        let user = format!("user{}", asked.get());
        async move { ask.would_accept_any(&user, &keys, client(number)).await }
    };
    let flood = async {
        // Ten from one source: one runs, four wait without success, five are refused; then three from other sources.
        tokio::join!(
            async { tokio::join!(from(1), from(1), from(1), from(1), from(1)) },
            async { tokio::join!(from(1), from(1), from(1), from(1), from(1)) },
            from(2),
            from(3),
            from(4),
        )
    };
    let (connections, results) = tokio::join!(count(&listener, Duration::from_millis(1000)), flood);
    let (first, second, other, third, fourth) = results;
    let crowd = [
        first.0, first.1, first.2, first.3, first.4, second.0, second.1, second.2, second.3, second.4,
    ];
    assert_eq!(connections, 2);
    assert_eq!(
        crowd
            .iter()
            .filter(|result| matches!(result, Err(AskError::TimedOut { .. })))
            .count(),
        1
    );
    assert_eq!(
        crowd
            .iter()
            .filter(|result| matches!(result, Err(AskError::Busy)))
            .count(),
        9
    );
    assert!(matches!(other, Err(AskError::TimedOut { .. })), "{other:?}");
    assert!(matches!((third, fourth), (Err(AskError::Busy), Err(AskError::Busy))));
}

#[tokio::test]
async fn strangers_from_many_networks_leave_room_for_who_was_accepted_before() {
    let sshd = TestSshd::start("MaxStartups 100");
    let known = [sshd.authorize("known", "ed25519", "")];
    let limits = AskLimits {
        queued: 16,
        ..AskLimits::default()
    };
    let ask = Arc::new(AskSshd::new(at(sshd.address), limits));
    let user = this_user();
    ask.would_accept_any(&user, &known, OTHER).await.unwrap();
    let strange = Arc::new([strange_key("ed25519")]);
    let mut flood = tokio::task::JoinSet::new();
    for number in 10..200 {
        let (ask, strange, user) = (ask.clone(), strange.clone(), user.clone());
        flood.spawn(async move { ask.would_accept_any(&user, &*strange, client(number)).await });
    }
    // All of them are in the queue now.
    tokio::task::yield_now().await;
    let newcomer = ask.would_accept_any(&user, &known, CLIENT).await;
    assert!(matches!(newcomer, Err(AskError::Busy)), "{newcomer:?}");
    let verdict = ask.would_accept_any(&user, &known, OTHER).await.unwrap();
    assert_eq!(verdict.accepted, Some(0));
    assert!(!flood.is_empty());
    flood.shutdown().await;
}

#[tokio::test]
async fn queries_that_end_in_an_error_count_as_failures_also_if_they_are_given_up() {
    let limits = AskLimits {
        failures: 2,
        time: Duration::from_millis(200),
        room: Duration::ZERO,
        ..AskLimits::default()
    };
    let keys = [strange_key("ed25519")];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for said in [
        "SSH-2.0-Cut\r\n",
        "Not allowed at this time\r\n",
        "Exceeded MaxStartups\r\n",
    ] {
        let ask = AskSshd::new(at(listener.local_addr().unwrap()), limits);
        for _ in 0..2 {
            let hang_up = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(said.as_bytes()).await;
            };
            let (verdict, ()) = tokio::join!(ask.would_accept_any("me", &keys, CLIENT), hang_up);
            assert!(
                matches!(verdict, Err(AskError::Ssh { .. } | AskError::Dropped { .. })),
                "{verdict:?}"
            );
        }
        let verdict = ask.would_accept_any("me", &keys, CLIENT).await;
        assert!(matches!(verdict, Err(AskError::TooManyFailed { .. })), "{verdict:?}");
    }
    // No answer comes, and nobody waits for one.
    let ask = AskSshd::new(at(listener.local_addr().unwrap()), limits);
    let timed_out = ask.would_accept_any("me", &keys, CLIENT).await;
    assert!(matches!(timed_out, Err(AskError::TimedOut { .. })), "{timed_out:?}");
    let given_up = timeout(Duration::from_millis(50), ask.would_accept_any("me", &keys, CLIENT)).await;
    assert!(given_up.is_err());
    // It runs to its end nevertheless.
    let counted = async {
        while ask.failures().check(CLIENT.remote.ip(), clock::now()).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), counted).await.expect("it counts");
    let verdict = ask.would_accept_any("me", &keys, CLIENT).await;
    assert!(matches!(verdict, Err(AskError::TooManyFailed { .. })), "{verdict:?}");
}

#[tokio::test]
async fn a_question_whose_client_has_left_counts_by_what_sshd_says() {
    let user = this_user();
    let folder = tempfile::tempdir().unwrap();
    let [begun, go_on, keys] = ["begun", "go-on", "known.pub"].map(|name| folder.path().join(name));
    let known = [proven(&keygen(folder.path(), "known", "ed25519"))];
    // sshd answers when the test says so.
    let command = format!(
        r#"/bin/sh -c "touch {}; until [ -e {} ]; do sleep 0.05; done; cat {}""#,
        begun.display(),
        go_on.display(),
        keys.display()
    );
    let lines = format!("AuthorizedKeysCommandUser {user}\nAuthorizedKeysCommand {command}");
    let sshd = TestSshd::start_in(folder, &lines);
    let limits = AskLimits {
        failures: 1,
        ..AskLimits::default()
    };
    for (keys, is_failure) in [(known, false), ([strange_key("ed25519")], true)] {
        let ask = AskSshd::new(at(sshd.address), limits);
        let is_asking = async {
            while !begun.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = ask.would_accept_any(&user, &keys, CLIENT) => panic!("sshd has not answered"),
            asking = timeout(Duration::from_secs(20), is_asking) => asking.expect("sshd is asked"),
        }
        let failures = || ask.failures().check(CLIENT.remote.ip(), clock::now()).is_err();
        assert!(!failures(), "sshd has not answered");
        std::fs::write(&go_on, "").unwrap();
        // The question ends, and with it its connection.
        let has_ended = async {
            while !ask.tasks.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), has_ended).await.expect("sshd answers");
        assert_eq!(failures(), is_failure);
        std::fs::remove_file(&begun).unwrap();
        std::fs::remove_file(&go_on).unwrap();
    }
}

#[tokio::test]
async fn a_question_waits_for_room_in_sshd_and_counts_against_nobody_meanwhile() {
    let sshd = TestSshd::start("MaxStartups 1");
    let known = [sshd.authorize("known", "ed25519", "")];
    let limits = AskLimits {
        failures: 1,
        ..AskLimits::default()
    };
    let (ask, user) = (AskSshd::new(at(sshd.address), limits), this_user());
    let holder = TcpStream::connect(sshd.address).await.unwrap();
    let mut greeting = [0; 4];
    holder.readable().await.unwrap();
    assert_eq!((holder.try_read(&mut greeting).unwrap(), &greeting), (4, b"SSH-"));
    let room = async {
        let why = async {
            while ask.why_full(CLIENT.remote.ip()).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), why).await.expect("it waits");
        drop(holder);
    };
    let (verdict, ()) = tokio::join!(ask.would_accept_any(&user, &known, CLIENT), room);
    assert_eq!(verdict.unwrap().accepted, Some(0));
    assert_eq!(ask.why_full(CLIENT.remote.ip()), None);
    let verdict = ask.would_accept_any(&user, &known, CLIENT).await;
    assert_eq!(verdict.unwrap().accepted, Some(0), "no failure was counted");
}

#[tokio::test]
async fn an_sshd_that_is_down_counts_against_nobody() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let limits = AskLimits {
        failures: 1,
        ..AskLimits::default()
    };
    let ask = AskSshd::new(at(target), limits);
    for _ in 0..3 {
        let verdict = ask.would_accept_any("me", &[strange_key("ed25519")], CLIENT).await;
        assert!(matches!(verdict, Err(AskError::UpstreamDown { .. })), "{verdict:?}");
    }
}

/// How many connections arrive within this time. They are kept open.
async fn count(listener: &TcpListener, time: Duration) -> usize {
    let mut kept = Vec::new();
    let accepting = async {
        loop {
            kept.push(listener.accept().await.unwrap());
        }
    };
    let _: Result<(), _> = timeout(time, accepting).await;
    kept.len()
}

/// Asks a server that sends this and then waits or closes the connection.
async fn against(said: &str, limits: AskLimits, stays: bool) -> Result<SshdVerdict, AskError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ask = AskSshd::new(at(listener.local_addr().unwrap()), limits);
    let keys = [strange_key("ed25519")];
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(said.as_bytes()).await;
        if !stays {
            let _ = stream.shutdown().await;
        }
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    let asked = ask.would_accept_any("me", &keys, CLIENT);
    let (verdict, ()) = tokio::join!(asked, serve);
    verdict
}

#[tokio::test]
async fn those_who_ask_the_same_at_the_same_time_share_what_sshd_says_after_that() {
    let sshd = TestSshd::start("");
    let known = sshd.authorize("known", "ed25519", "");
    let (ask, keys, user) = (asking(sshd.address), [known], this_user());
    let connections = || sshd.log().matches("Connection from").count();
    let before = connections();
    let question = || ask.would_accept_any(&user, &keys, CLIENT);
    let answers = tokio::join!(question(), question(), question(), question(), question(), question());
    let answers = [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5];
    let verdicts: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().accepted).collect();
    assert_eq!(verdicts, [Some(0); 6]);
    let asked = connections() - before;
    assert!(asked <= 2, "one for the first, one for all who came meanwhile: {asked}");
    assert!(ask.open.lock().is_empty(), "nobody waits any more");
    // An earlier answer does not count for a later question.
    assert_eq!(question().await.unwrap().accepted, Some(0));
    let another = ask
        .would_accept_any("there-is-no-such-user", &keys, CLIENT)
        .await
        .unwrap();
    assert_eq!(another.accepted, None, "another question");
    assert_eq!(connections() - before, asked + 2);
}

/// sshd's lookup of keys takes this long for one user.
const SLOW: Duration = Duration::from_secs(15);

#[tokio::test]
async fn one_source_whose_questions_are_slow_holds_no_more_than_half_of_what_runs() {
    let user = this_user();
    let command = r#"/bin/sh -c "[ %u != nobody ] || exec sleep 15""#;
    let sshd = TestSshd::start(&format!(
        "AuthorizedKeysCommandUser {user}\nAuthorizedKeysCommand {command}"
    ));
    let known = [sshd.authorize("known", "ed25519", "")];
    let ask = Arc::new(asking(sshd.address));
    let begun = clock::now();
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (ask, keys) = (Arc::clone(&ask), [strange_key("ed25519")]);
        slow.spawn(async move { ask.would_accept_any("nobody", &keys, CLIENT).await });
    }
    let of_nobody = || sshd.log().matches("Connection from ").count();
    while of_nobody() < 2 && clock::now() - begun < SLOW {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Strangers that came later, side by side and one after the other.
    for round in 0..3 {
        let answers = [2, 3, 4].map(|number| ask.would_accept_any(&user, &known, client(number + 10 * round)));
        for answer in futures(answers).await {
            assert_eq!(answer.unwrap().accepted, Some(0));
        }
    }
    let took = clock::now() - begun;
    assert!(took < SLOW, "they waited for the slow ones: {took:?}");
    assert_eq!(
        slow.try_join_next()
            .map(|ended| ended.unwrap().map(|verdict| verdict.accepted).ok()),
        None,
        "all wait still"
    );
    // A second one does the same: who is known to have a key that counts gets in all the same.
    for _ in 0..6 {
        let (ask, keys) = (Arc::clone(&ask), [strange_key("ed25519")]);
        slow.spawn(async move { ask.would_accept_any("nobody", &keys, OTHER).await });
    }
    let begun = clock::now();
    let verdict = ask.would_accept_any(&user, &known, client(2)).await.unwrap();
    assert_eq!(verdict.accepted, Some(0));
    let took = clock::now() - begun;
    assert!(took < SLOW / 2, "{took:?}");
}

async fn futures<T>(all: [impl Future<Output = T>; 3]) -> [T; 3] {
    let [one, other, third] = all;
    let (one, other, third) = tokio::join!(one, other, third);
    [one, other, third]
}
