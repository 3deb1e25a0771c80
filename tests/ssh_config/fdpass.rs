//! `ProxyUseFdpass yes` for everybody: ssh then waits for a connected socket from whatever is its ProxyCommand.

use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::ssh::HOST;
use crate::{LIMIT, bowline, put_first, setup};
use serde_json::Value;

#[test]
fn check_reports_it_and_the_proxy_says_so_instead_of_waiting() {
    let rig = Rig::with(ServeOptions::here(), |setup| setup.option("ProxyUseFdpass yes"));
    let failed = rig.ssh.remote("true", LIMIT).expect_code(255).err();
    assert!(
        failed.contains(
            "error: ssh expects a connected socket from its ProxyCommand for box (ProxyUseFdpass yes), but \
             bowline cannot pass one\n"
        ),
        "{failed}"
    );
    assert!(
        failed.contains("hint: add `ProxyUseFdpass no` next to this ProxyCommand"),
        "{failed}"
    );

    let told = run(&mut rig.ssh.check(&[]), LIMIT).expect_code(69).out();
    assert!(
        told.contains("ssh cannot use these paths: ProxyUseFdpass is set next to bowline's ProxyCommand"),
        "{told}"
    );
    let told = run(&mut rig.ssh.check(&["--json"]), LIMIT).expect_code(69);
    let document: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(document["works"], false);
    assert!(
        document["obstacle"]["message"]
            .as_str()
            .is_some_and(|words| words.contains("ProxyUseFdpass")),
        "{document:#}"
    );
    assert!(
        document["paths"]
            .as_array()
            .expect("paths")
            .iter()
            .any(|path| path["diagnosis"] == "works"),
        "{document:#}"
    );
}

#[test]
fn it_means_nothing_to_check_where_ssh_does_not_go_over_bowline() {
    let rig = Rig::with(ServeOptions::here(), |setup| setup);
    let mut check = bowline(&rig, "check");
    run(
        check.args(["-o", "ProxyCommand=nc %h %p", "-o", "ProxyUseFdpass=yes", HOST]),
        LIMIT,
    )
    .expect_code(0);
}

#[test]
fn setup_and_bowline_ssh_switch_it_off() {
    let sshd_port = |rig: &Rig| rig.serve().udp().port().to_string();
    let rig = Rig::with(ServeOptions::here(), |setup| setup);
    let environment = sshd_port(&rig);
    put_first(&rig.ssh, "Host *\n  ProxyUseFdpass yes\n");
    let mut ssh = rig.ssh.command(crate::support::BOWLINE);
    ssh.args(["ssh", "--port", &environment, "--state-dir"])
        .arg(rig.ssh.state());
    ssh.arg("-F").arg(rig.ssh.config()).args([HOST, "echo through"]);
    assert_eq!(run(&mut ssh, LIMIT).expect_code(0).out(), "through\n");

    let told = setup(&rig, &["--yes", HOST]).expect_code(0).out();
    assert!(told.contains("+    ProxyUseFdpass no\n"), "{told}");
    let mut ssh = rig.ssh.ssh(&[HOST, "echo through"]);
    ssh.env("BOWLINE_PORT", &environment);
    assert_eq!(run(&mut ssh, LIMIT).expect_code(0).out(), "through\n");
    assert_eq!(rig.serve().logged("event=\"opened\""), 2, "{}", rig.serve().log());
    let again = setup(&rig, &[HOST]).expect_code(0).out();
    assert!(again.starts_with("nothing to do: "), "{again}");
}
