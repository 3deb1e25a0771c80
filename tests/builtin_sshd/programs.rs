//! Programs with pipes.

use crate::harness::{Running, Server, assert_success, eventually, is_alive, noise, text};

#[test]
fn exit_codes_are_the_programs() {
    let server = Server::start();
    for code in [0, 1, 7, 255] {
        assert_eq!(server.run(&[], &format!("exit {code}"), b"").status.code(), Some(code));
    }
}

#[test]
fn a_program_killed_by_a_signal_is_reported_as_such() {
    let server = Server::start();
    let output = server.run(&["-v"], "kill -TERM $$", b"");
    assert_eq!(output.status.code(), Some(255));
    assert!(
        text(&output.stderr).contains("rtype exit-signal"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let server = Server::start();
    let output = server.run(&["-o", "LogLevel=ERROR"], "echo out; echo err >&2", b"");
    assert_eq!(
        (text(&output.stdout).as_str(), text(&output.stderr).as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn the_end_of_stdin_reaches_the_program_and_its_answer_comes_back() {
    let server = Server::start();
    assert_eq!(
        text(&server.run(&[], "cat | wc -c", &noise(1_000_000)).stdout).trim(),
        "1000000"
    );
}

#[test]
fn a_program_that_closes_stdout_first_still_gets_its_stdin() {
    let server = Server::start();
    let output = server.run(&["-o", "LogLevel=ERROR"], "exec >&-; wc -c >&2", &noise(500_000));
    assert_eq!(text(&output.stderr).trim(), "500000");
}

#[test]
fn a_program_that_reads_only_the_start_ends_the_session() {
    let server = Server::start();
    assert_eq!(text(&server.run(&[], "head -c 5", &[b'x'; 20_000_000]).stdout), "xxxxx");
}

#[test]
fn commands_are_given_to_the_shell_as_they_are() {
    let server = Server::start();
    let output = server.run(&[], r#"printf '%s|' "a b" 'c"d' $((6*7)); pwd"#, b"");
    let home = std::env::var("HOME").unwrap();
    assert_eq!(text(&output.stdout), format!("a b|c\"d|42|{home}\n"));
}

#[test]
fn without_a_command_the_login_shell_runs() {
    let server = Server::start();
    let mut command = server.command("ssh");
    command.arg("target");
    let output = crate::harness::run_with_input(command, b"echo $0; exit 3\n");
    assert!(
        text(&output.stdout).lines().any(|line| line.starts_with('-')),
        "{}",
        text(&output.stdout)
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn programs_inherit_nothing_but_their_three_descriptors() {
    let server = Server::start();
    // A descriptor without CLOEXEC, as this process's own parent might have left one.
    let (leak, _other) = rustix::pipe::pipe().unwrap();
    let output = server.run(&[], "ls -l /proc/self/fd", b"");
    let said = text(&output.stdout);
    let leaked = said
        .lines()
        .filter(|line| line.contains("pipe:") || line.contains("socket:"))
        .count();
    assert_eq!(leaked, 3, "{said}");
    drop(leak);
}

#[test]
fn a_killed_clients_program_is_hung_up() {
    let server = Server::start();
    let mut client = server.start_ssh(&[], "echo $$; exec sleep 1000");
    let pid = client.first_line.clone();
    assert!(is_alive(&pid));
    client.child.kill().unwrap();
    eventually("the remote program is gone", || !is_alive(&pid));
}

#[test]
fn shutting_the_server_down_ends_its_programs_and_tells_the_clients() {
    let mut server = Server::start();
    let client = server.start_ssh(&[], "echo $$; exec sleep 1000");
    let pid = client.first_line.clone();
    server.stop();
    assert!(!is_alive(&pid));
    assert_eq!(client.finish().1, Some(255));
}

#[test]
fn ten_sessions_share_one_connection() {
    let server = Server::start();
    let control = format!("ControlPath={}", server.path("control").display());
    let master = server.start_ssh(&["-M", "-o", &control], "echo ready; cat");
    assert_eq!(master.first_line, "ready");
    let sessions: Vec<Running> = (0..10)
        .map(|number| {
            server.start_ssh(
                &["-o", &control],
                &format!("echo {number}; read line; echo got $line; exit 9"),
            )
        })
        .collect();
    for (number, mut session) in sessions.into_iter().enumerate() {
        assert_eq!(session.first_line, number.to_string());
        session.send(format!("line{number}\n").as_bytes());
        assert_eq!(session.finish(), (format!("got line{number}\n"), Some(9)));
    }
}

#[test]
fn git_clones_and_pushes() {
    let server = Server::start();
    let (bare, work) = (server.path("repo.git"), server.path("work"));
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "init.defaultBranch=main",
        ]);
        command
            .args(arguments)
            .env("GIT_SSH_COMMAND", format!("ssh -F {}", server.path("config").display()));
        assert_success(&command.output().unwrap());
    };
    git(&["init", "-q", "--bare", bare.to_str().unwrap()]);
    let url = format!("target:{}", bare.display());
    git(&["clone", "-q", &url, work.to_str().unwrap()]);
    std::fs::write(work.join("noise"), noise(3_000_000)).unwrap();
    let inside = work.to_str().unwrap();
    git(&["-C", inside, "add", "."]);
    git(&["-C", inside, "commit", "-qm", "noise"]);
    git(&["-C", inside, "push", "-q", "origin", "HEAD:main"]);
    git(&[
        "clone",
        "-q",
        "-b",
        "main",
        &url,
        server.path("again").to_str().unwrap(),
    ]);
    assert!(std::fs::read(server.path("again").join("noise")).unwrap() == noise(3_000_000));
}
