use super::*;
use crate::identity::test_tools;

async fn resolve(config: &str, edit: impl FnOnce(&mut SshQuery)) -> Result<SshConfig, SshConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, config).unwrap();
    let mut query = SshQuery::new("build");
    query.config_file = Some(file);
    edit(&mut query);
    SshConfig::resolve(&query).await
}

fn account_home() -> PathBuf {
    let passwd = std::process::Command::new("sh")
        .args(["-c", "getent passwd $(id -u) | cut -d: -f6"])
        .output()
        .unwrap();
    PathBuf::from(String::from_utf8(passwd.stdout).unwrap().trim())
}

#[tokio::test]
async fn alias_gives_names_files_and_time_limits() {
    let config = resolve(
        "Host build\n HostName Build.Example.ORG\n Port 2222\n User alice\n IdentityFile ~/keys/one\n \
         IdentityFile \"/tmp/two words\"\n CertificateFile ~/keys/one-cert.pub\n IdentitiesOnly yes\n \
         UserKnownHostsFile \"~/known hosts\" /tmp/kh2\n GlobalKnownHostsFile ~/global\n RevokedHostKeys ~/revoked\n \
         ConnectTimeout 7\n AddressFamily inet6\n ServerAliveInterval 15\n ServerAliveCountMax 4\n BatchMode yes\n",
        |_| {},
    )
    .await
    .unwrap();
    let home = account_home();
    assert_eq!(
        (
            config.alias.as_str(),
            config.hostname.as_str(),
            config.port,
            config.user.as_str()
        ),
        ("build", "build.example.org", 2222, "alice")
    );
    assert_eq!(config.identity_files, [home.join("keys/one"), "/tmp/two words".into()]);
    assert_eq!(config.certificate_files, [home.join("keys/one-cert.pub")]);
    assert!(config.identities_only && config.batch_mode);
    assert_eq!(
        config.user_known_hosts_files,
        [home.join("known hosts"), "/tmp/kh2".into()]
    );
    assert_eq!(config.global_known_hosts_files, [home.join("global")]);
    assert_eq!(config.revoked_host_keys, [home.join("revoked")]);
    assert_eq!(config.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(config.address_family, AddressFamily::Inet6);
    assert_eq!(
        (config.server_alive_interval, config.server_alive_count_max),
        (Some(Duration::from_secs(15)), 4)
    );
}

#[tokio::test]
async fn command_line_wins_over_the_configuration() {
    let config = resolve("Host *\n User alice\n Port 2222\n", |query| {
        query.user = Some("bob".into());
        query.port = Some(2200);
    })
    .await
    .unwrap();
    assert_eq!((config.user.as_str(), config.port), ("bob", 2200));
}

#[tokio::test]
async fn tokens_and_variables_in_key_names_are_expanded_as_ssh_does() {
    let text = "Host *\n HostName h.example\n User alice\n IdentityFile ~/.ssh/%r@%h-%n\n IdentityFile /plain\n \
                IdentityFile \"/tmp/${PATH}/100%% \\\"x\"\n CertificateFile %d/c-%p\n";
    let config = resolve(text, |_| {}).await.unwrap();
    let home = account_home();
    let path = std::env::var("PATH").unwrap();
    assert_eq!(
        config.identity_files,
        [
            home.join(".ssh/alice@h.example-build"),
            "/plain".into(),
            format!("/tmp/{path}/100% \"x").into()
        ]
    );
    assert_eq!(config.certificate_files, [home.join("c-22")]);
}

#[tokio::test]
async fn identity_agent_is_parsed_in_all_forms() {
    let agent = async |line: &str| resolve(line, |_| {}).await.unwrap().identity_agent;
    assert_eq!(agent("").await, IdentityAgent::Environment("SSH_AUTH_SOCK".into()));
    assert_eq!(
        agent("IdentityAgent SSH_AUTH_SOCK\n").await,
        IdentityAgent::Environment("SSH_AUTH_SOCK".into())
    );
    assert_eq!(
        agent("IdentityAgent $OTHER\n").await,
        IdentityAgent::Environment("OTHER".into())
    );
    assert_eq!(agent("IdentityAgent none\n").await, IdentityAgent::None);
    assert_eq!(
        agent("IdentityAgent ~/agent.sock\n").await,
        IdentityAgent::Socket(account_home().join("agent.sock"))
    );
}

#[tokio::test]
async fn known_hosts_names_follow_alias_and_port() {
    let name = async |text: &str| resolve(text, |_| {}).await.unwrap().known_hosts_name();
    assert_eq!(name("").await, HostName::new("build", 22));
    assert_eq!(name("Port 2222\nHostName Other\n").await, HostName::new("other", 2222));
    assert_eq!(name("Port 2222\nHostKeyAlias Farm\n").await, HostName::alias("farm"));
}

#[tokio::test]
async fn hosts_that_look_like_options_are_refused() {
    for host in ["-oProxyCommand=touch /tmp/x", "", "a\nb"] {
        let refused = SshConfig::resolve(&SshQuery::new(host)).await;
        assert!(
            matches!(refused, Err(SshConfigError::NotAHost { .. })),
            "{host:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn missing_ssh_and_bad_configuration_are_told_apart() {
    let missing = resolve("", |query| query.ssh_program = "/nonexistent/ssh".into()).await;
    assert!(matches!(missing, Err(SshConfigError::Missing { .. })), "{missing:?}");
    let bad = resolve("Frobnicate yes\n", |_| {}).await.unwrap_err();
    let SshConfigError::Rejected { stderr, .. } = &bad else {
        panic!("{bad:?}")
    };
    assert!(stderr.contains("frobnicate"), "{stderr}");
}

#[tokio::test]
async fn ssh_that_never_ends_times_out() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ssh");
    test_tools::write_script(&program, "exec sleep 1000");
    let hung = resolve("", |query| {
        query.ssh_program = program;
        query.deadline = Duration::from_millis(50);
    })
    .await;
    assert!(matches!(hung, Err(SshConfigError::TimedOut { .. })), "{hung:?}");
}
