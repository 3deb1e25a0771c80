//! The program as a user meets it: exit codes, and what it says when something is wrong.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn bowline(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    // Nothing of the machine's own: neither settings nor folders.
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder);
    command.stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    bowline(folder).args(arguments).output().expect("bowline runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_and_version_end_cleanly_on_stdout() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [
        &["--help"][..],
        &["proxy", "--help"],
        &["ssh", "--help"],
        &["--version"],
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_into_a_closed_or_full_stdout_is_not_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let status = bowline(folder.path())
        .arg("--help")
        .stdout(full)
        .status()
        .expect("bowline runs");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_missing_command_and_a_port_behind_the_host_are_said_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = run(folder.path(), &["-v"]);
    assert_eq!(missing.status.code(), Some(64));
    assert_eq!(
        stderr(&missing),
        "error: a command is missing\nhint: `bowline --help` lists the commands\n"
    );
    let with_port = run(folder.path(), &["check", "127.0.0.1:22"]);
    assert_eq!(with_port.status.code(), Some(69));
    assert!(
        stderr(&with_port).ends_with("`bowline check HOST PORT`, `bowline ssh -p PORT HOST`\n"),
        "{}",
        stderr(&with_port)
    );
}

#[test]
fn the_reason_why_there_is_no_session_comes_before_what_ssh_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("a port").port().to_string();
    for fallback in ["none", "tcp"] {
        let bowline = ["ssh", "--connect-timeout", "5s", "--fallback", fallback];
        let output = run(
            folder.path(),
            &[&bowline[..], &["-F", "none", "-p", &port, "127.0.0.1", "true"]].concat(),
        );
        assert_eq!(output.status.code(), Some(255));
        let said = stderr(&output);
        let (error, ssh) = (said.find("error: "), said.find("closed by"));
        assert!(error.is_some() && error < ssh, "{said}");
    }
}

#[test]
fn a_bad_flag_is_a_usage_error_with_the_nearest_right_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["proxy", "--patince", "5s", "host"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("'--patience'"), "{}", stderr(&output));
    assert_eq!(run(folder.path(), &[]).status.code(), Some(64));
    assert_eq!(run(folder.path(), &["nonsense"]).status.code(), Some(64));
}

#[test]
fn a_bad_configuration_is_a_usage_error_with_file_line_and_the_nearest_right_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(".config/bowline/bowline.toml");
    std::fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
    std::fs::write(&file, "[client]\npatince = '5s'\n").expect("written");
    for command in [&["proxy", "host"][..], &["ssh", "host"], &["demo"]] {
        let output = run(folder.path(), command);
        assert_eq!(output.status.code(), Some(64), "{command:?}");
        assert_eq!(
            stderr(&output),
            format!(
                "error: {}, line 2: unknown key `patince`\nhint: did you mean `patience`?\n",
                file.display()
            )
        );
    }
}

#[test]
fn a_configuration_file_that_was_asked_for_must_be_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["proxy", "--config", "/nowhere/bowline.toml", "host"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).starts_with("error: cannot read the configuration file /nowhere/bowline.toml: "));
}

#[test]
fn an_environment_variable_is_a_setting_and_a_flag_beats_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = |arguments: &[&str]| {
        let mut command = bowline(folder.path());
        let output = command
            .args(arguments)
            .env("BOWLINE_PORT", "4022")
            .output()
            .expect("bowline runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(shown(&["ssh", "-G", "-F", "none", "host"]).contains(" --port 4022 "));
    assert!(shown(&["ssh", "--port", "5", "-G", "-F", "none", "host"]).contains(" --port 5 "));
    let output = bowline(folder.path())
        .args(["proxy", "host"])
        .env("BOWLINE_PORT", "x")
        .output()
        .expect("bowline runs");
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn ssh_runs_openssh_with_the_proxy_command_and_without_keepalive() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["ssh", "-F", "none", "-G", "-p", "2222", "ann@host"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_default()
            .to_owned()
    };
    let own = env!("CARGO_BIN_EXE_bowline");
    assert_eq!(
        line("proxycommand"),
        format!("proxycommand {own} proxy --fallback tcp --install no -F none -- '%r@%n' %p")
    );
    assert_eq!(line("serveraliveinterval"), "serveraliveinterval 0");
    assert_eq!(
        (line("user "), line("port ")),
        ("user ann".to_owned(), "port 2222".to_owned())
    );
}

#[test]
fn ssh_s_fallback_follows_the_configuration_of_the_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bowline.toml");
    std::fs::write(&file, "[host.'*.example.org']\nfallback = 'none'\n").expect("written");
    let shown = |host: &str| {
        let config = file.to_str().expect("text");
        let output = run(folder.path(), &["ssh", "--config", config, "-F", "none", "-G", host]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(shown("build.example.org").contains(" --fallback none "));
    assert!(shown("elsewhere").contains(" --fallback tcp "));
}

#[test]
fn the_exit_code_of_ssh_is_ssh_s_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = [
        "ssh",
        "-F",
        "none",
        "-o",
        "ProxyCommand=false",
        "-o",
        "BatchMode=yes",
        "host",
    ];
    assert_eq!(run(folder.path(), &refused).status.code(), Some(255));
    let output = run(folder.path(), &["ssh", "-V"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).starts_with("OpenSSH"), "{}", stderr(&output));
}

#[test]
fn a_long_option_among_those_of_ssh_is_answered_with_its_right_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["ssh", "host", "--port", "22"]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        stderr(&output),
        "error: ssh has no option `--port`\nhint: put bowline's options before ssh's options\n"
    );
    let output = run(folder.path(), &["ssh", "--prot", "22", "host"]);
    assert!(
        stderr(&output).contains("hint: did you mean `--port`?"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn ssh_starts_in_a_container_that_the_leaders_of_session_and_group_are_not_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let output = unshare
        .args(["--pid", "--fork"])
        .arg(env!("CARGO_BIN_EXE_bowline"))
        .args(["ssh", "-G", "-F", "none", "host"])
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_missing_ssh_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bowline(folder.path())
        .env("PATH", "/nowhere")
        .args(["ssh", "host"])
        .output()
        .expect("bowline runs");
    assert_eq!(output.status.code(), Some(69));
    assert!(
        stderr(&output).starts_with("error: cannot run ssh: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_proxy_that_is_none_is_told_without_its_password() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("bowline.toml");
    std::fs::write(&config, "[client]\nproxy = 'socks4://ada:secret@proxy:1'\n").expect("written");
    let bad = "socks4://ada:secret@proxy:1";
    for command in ["proxy", "ssh"] {
        let flag = bowline(folder.path()).args([command, "--proxy", bad, "host"]).output();
        let variable = bowline(folder.path())
            .args([command, "host"])
            .env("BOWLINE_PROXY", bad)
            .output();
        for output in [flag, variable].map(|output| output.expect("bowline runs")) {
            assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
            assert!(
                stderr(&output).contains("socks4://***@proxy:1\n"),
                "{}",
                stderr(&output)
            );
            assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
        }
    }
    let file = bowline(folder.path())
        .arg("--config")
        .arg(&config)
        .args(["proxy", "host"])
        .output();
    let file = file.expect("bowline runs");
    assert_eq!(file.status.code(), Some(64), "{}", stderr(&file));
    assert!(!stderr(&file).contains("secret"), "{}", stderr(&file));
}

#[test]
fn ssh_gives_a_proxy_on_by_the_environment_and_not_by_arguments() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let ssh = folder.path().join("ssh");
    std::fs::write(&ssh, "#!/bin/sh\necho \"$@\"\necho \"environment: $BOWLINE_PROXY\"\n").expect("written");
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o700)).expect("changed");
    let (own, other) = ("http://ada:secret@own:3128", "http://ada:secret@other:3128");
    for (flag, variable, inherited) in [
        (Some(own), Some(other), own),
        (Some(own), None, own),
        (None, Some(other), other),
    ] {
        let mut command = bowline(folder.path());
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        command.env("PATH", path).arg("ssh");
        command.args(flag.iter().flat_map(|url| ["--proxy", url]));
        command.envs(variable.map(|url| ("BOWLINE_PROXY", url)));
        let output = command.args(["-F", "none", "host"]).output().expect("bowline runs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let (arguments, environment) = shown.split_once("\nenvironment: ").expect("ssh ran");
        assert!(
            arguments.contains("ProxyCommand=") && !arguments.contains("3128"),
            "{arguments}"
        );
        assert_eq!(environment.trim_end(), inherited);
    }
}

#[test]
fn beside_a_silent_path_it_is_told_why_the_others_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port().to_string();
    let line = ["proxy", "--port", &port, "--tls-port", "9", "--connect-timeout", "1s"];
    let mut command = bowline(folder.path());
    let output = command.args(line).args(["-o", "HostName=127.0.0.1", "host"]).output();
    let told = stderr(&output.expect("bowline runs"));
    assert!(told.contains(&format!("udp 127.0.0.1:{port}: no answer")), "{told}");
    assert!(told.contains("tcp 127.0.0.1:9: ") && told.contains("refused"), "{told}");
}

#[test]
fn a_proxy_of_the_environment_that_cannot_be_used_stops_no_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let mut command = bowline(folder.path());
        command.env("HTTPS_PROXY", "https://ada:secret@proxy:3128");
        let line = ["proxy", "--port", "9", "--tls-port", "9", "--connect-timeout", "300ms"];
        let output = command
            .args(line)
            .args(arguments)
            .args(["-o", "HostName=127.0.0.1", "host"]);
        output.output().expect("bowline runs")
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("127.0.0.1:9"), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("HTTPS_PROXY cannot be used"),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
    let output = run(&["--transport", "quic"]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(!stderr(&output).contains("HTTPS_PROXY"), "{}", stderr(&output));
}

#[test]
fn config_says_what_counts_and_where_it_came_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bowline.toml");
    let text =
        "[client]\npatience = '1h'\nproxy = 'http://ada:secret@proxy:3128'\n\n[host.'*.example.org']\nport = 4022\n";
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("plain");
    let shown = |arguments: &[&str]| {
        let mut command = bowline(folder.path());
        command
            .env("BOWLINE_TLS_PORT", "8443")
            .args(["config", "--config", file]);
        let output = command.args(arguments).output().expect("bowline runs");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let for_host = shown(&["ada@build.example.org"]);
    let said = |text: &str, line: &str, origin: &str| {
        let found = text.lines().find(|found| found.starts_with(line));
        let found = found.unwrap_or_else(|| panic!("no {line:?} in {text}"));
        assert!(found.ends_with(origin), "{found:?} does not end with {origin:?}");
    };
    said(&for_host, "port = 4022 ", "# line 6, [host.\"*.example.org\"]");
    said(&for_host, "patience = \"1h\" ", "# line 2, [client]");
    said(&for_host, "tls-port = 8443 ", "# BOWLINE_TLS_PORT");
    said(&for_host, "connect-timeout = \"10s\" ", "# default");
    said(&for_host, "# pin ", "# not set");
    assert!(!for_host.contains("secret"), "{for_host}");
    assert!(!for_host.contains("[serve]"), "{for_host}");
    let all = shown(&[]);
    said(&all, "# port ", "# default: ssh's port");
    said(&all, "session-ttl = \"7d\" ", "# default");
    let json: serde_json::Value = serde_json::from_str(&shown(&["build.example.org", "--json"])).expect("JSON");
    let settings = json["settings"].as_array().expect("a list");
    let port = settings.iter().find(|one| one["key"] == "port").expect("the port");
    assert_eq!(
        (&port["value"], &port["origin"], &port["place"]["line"]),
        (&"4022".into(), &"file".into(), &6.into())
    );
    std::fs::write(file, "[client]\nprot = 1\n").expect("written");
    let refused = run(folder.path(), &["config", "--config", file]);
    assert_eq!(refused.status.code(), Some(64), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("`port`"), "{}", stderr(&refused));
}

#[test]
fn config_takes_a_variable_as_the_command_takes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = bowline(folder.path());
        command.envs(variables.iter().copied()).arg("config").args(arguments);
        command.output().expect("bowline runs")
    };
    let two = shown(&[("BOWLINE_RELAY", "r1.example.org,r2.example.org:4433")], &["box"]);
    let text = String::from_utf8(two.stdout).expect("text");
    assert!(
        text.contains("relay = [\"r1.example.org\", \"r2.example.org:4433\"]  # BOWLINE_RELAY\n"),
        "{text}"
    );
    let listed = [("BOWLINE_OPEN", "0"), ("BOWLINE_ALLOW_SERVERS", "/etc/bowline/servers")];
    let text = String::from_utf8(shown(&listed, &["--relay"]).stdout).expect("text");
    let open = text
        .lines()
        .find(|line| line.starts_with("open = false "))
        .expect("open");
    assert!(open.ends_with("# BOWLINE_OPEN") && !text.contains("[serve]"), "{text}");
    for (variables, arguments, said) in [
        (
            &[("BOWLINE_PORT", "x")][..],
            &["box"][..],
            "invalid value 'x' for '--port",
        ),
        (
            &[("BOWLINE_SESSION_TTL", "7")],
            &[],
            "invalid value '7' for '--session-ttl",
        ),
        (&[], &["--relay"], "error: one of these is needed: "),
    ] {
        let refused = shown(variables, arguments);
        assert_eq!(refused.status.code(), Some(64), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(said), "{}", stderr(&refused));
    }
}

/// Every variable that the program takes, as its help names them.
fn variables_of(folder: &Path, command: &str) -> Vec<String> {
    let help = String::from_utf8(run(folder, &[command, "--help"]).stdout).expect("text");
    let named = help.split("[env: ").skip(1);
    named
        .filter_map(|rest| rest.split([']', '=']).next().map(str::to_owned))
        .collect()
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = variables_of(folder.path(), "proxy");
    for variable in ["BOWLINE_PORT", "BOWLINE_CONFIG", "BOWLINE_FALLBACK"] {
        assert!(proxy.iter().any(|known| known == variable), "{proxy:?}");
    }
    for command in ["proxy", "ssh", "check", "serve", "relay", "sshd", "status"] {
        let empty = variables_of(folder.path(), command);
        assert!(!empty.is_empty(), "{command}");
        let table = match command {
            "serve" | "relay" | "sshd" => format!("--{command}"),
            _ => "box".to_owned(),
        };
        let config = |variables: &[String]| {
            let mut config = bowline(folder.path());
            config.args(["config", &table]);
            // Somebody has to say whom a relay takes.
            config.env("BOWLINE_ALLOW_SERVERS", "/etc/bowline/servers");
            let others = variables.iter().filter(|name| *name != "BOWLINE_ALLOW_SERVERS");
            config.envs(others.map(|name| (name, ""))).env("BOWLINE_LOG", "");
            config.output().expect("bowline runs")
        };
        let (unset, set) = (config(&[]), config(&empty));
        assert_eq!(set.status.code(), Some(0), "{command}: {}", stderr(&set));
        assert_eq!(set, unset, "{command}");
        let mut help = bowline(folder.path());
        help.args([command, "--help"]).envs(empty.iter().map(|name| (name, "")));
        let help = help.output().expect("bowline runs");
        assert_eq!(
            help.stdout,
            run(folder.path(), &[command, "--help"]).stdout,
            "{command}"
        );
    }
    // As a unit or a script may pass it on to ssh's ProxyCommand.
    let mut proxy = bowline(folder.path());
    proxy.args(["proxy", "--connect-timeout", "300ms", "-F", "none", "127.0.0.1", "9"]);
    proxy.env("BOWLINE_PORT", "").env("BOWLINE_PIN", "");
    let output = proxy.output().expect("bowline runs");
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
}

#[test]
fn what_a_variable_said_wrong_is_told_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = |variable: &str, value: &str, arguments: &[&str]| {
        let mut command = bowline(folder.path());
        let output = command.args(arguments).env(variable, value).output();
        let output = output.expect("bowline runs");
        assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
        stderr(&output)
    };
    let variable = "BOWLINE_PORT";
    assert!(told(variable, "x", &["proxy", "host"]).contains(variable));
    // It is the flag's own value that is wrong here.
    assert!(!told(variable, "4022", &["proxy", "--port", "x", "host"]).contains(variable));
    assert!(!told(variable, "4022", &["proxy", "--port=x", "host"]).contains(variable));
    let variable = "BOWLINE_SESSION_TTL";
    assert!(told(variable, "7", &["serve"]).contains(variable));
    assert!(told(variable, "0s", &["serve"]).contains(variable));
    assert!(told(variable, "7", &["config"]).contains(variable));
    assert!(told("BOWLINE_AUTH", "none", &["serve", "--authorized-keys", "/keys"]).contains("BOWLINE_AUTH"));
}

#[test]
fn mandoc_finds_nothing_to_remark_on_in_the_manuals() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages = std::fs::read_dir(folder)
        .expect("man/")
        .map(|entry| entry.expect("a page").path());
    let linted = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .args(pages)
        .output()
        .expect("mandoc; ./run-tests installs it");
    let said = String::from_utf8_lossy(&linted.stdout).into_owned() + &stderr(&linted);
    assert!(linted.status.success() && said.is_empty(), "{said}");
}
