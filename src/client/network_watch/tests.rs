use std::{process::Command, time::Duration};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::time::timeout;

use super::*;

/// Long enough for any notification of the kernel, and short enough to wait for one that must not come.
const NOTHING: Duration = Duration::from_millis(200);

/// Runs a test in its own network namespace with a link `a0` (peer `b0`) that is down. Root only.
fn in_a_network(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: the thread leaves nothing but the network namespace, and ends with the test. No memory, no
        // descriptor table is involved.
        #[allow(unsafe_code)]
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        if let Err(error) = unshared {
            #[allow(clippy::print_stderr)]
            let () = eprintln!("skipped: no network namespace to be had: {error}");
            return;
        }
        ip("link add a0 type veth peer name b0");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs ip(8) in the namespace of this thread.
fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn ip_batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

async fn told(watch: &mut NetworkWatch) {
    let hint = timeout(Duration::from_secs(5), watch.changed()).await.expect("a hint");
    assert_eq!(hint, NetworkEvent::Network);
}

/// Counts events until there has been none for a while.
async fn hints(watch: &mut NetworkWatch) -> usize {
    let mut count = 0;
    while timeout(NOTHING, watch.changed()).await.is_ok() {
        count += 1;
    }
    count
}

/// Sets both ends up, and waits until the resulting events are over.
async fn quiet_link() -> NetworkWatch {
    ip("link set b0 addrgenmode none up");
    ip("link set a0 addrgenmode none up");
    ip("address add 10.9.0.1/24 dev a0");
    let mut watch = NetworkWatch::new();
    hints(&mut watch).await;
    watch
}

#[test]
fn what_is_there_already_is_no_change() {
    in_a_network(async || {
        quiet_link().await;
        assert_eq!(hints(&mut NetworkWatch::new()).await, 0);
    });
}

#[test]
fn addresses_added_and_removed_are_told_at_once_but_not_their_refresh() {
    in_a_network(async || {
        let mut watch = quiet_link().await;
        ip("address add 10.9.1.1/24 dev a0");
        let start = clock::now();
        told(&mut watch).await;
        assert!(clock::now() - start < COALESCE_DELAY);
        assert_eq!(hints(&mut watch).await, 0);
        ip("address change 10.9.1.1/24 dev a0 valid_lft 100 preferred_lft 50");
        ip("address change 10.9.0.1/24 dev a0 valid_lft 100 preferred_lft 50");
        assert_eq!(hints(&mut watch).await, 0);
        ip("address del 10.9.1.1/24 dev a0");
        told(&mut watch).await;
        ip("address add fd09::1/64 dev a0 nodad");
        told(&mut watch).await;
        ip("address del fd09::1/64 dev a0");
        told(&mut watch).await;
    });
}

#[test]
fn default_routes_are_told_but_no_other_routes_and_no_neighbours() {
    in_a_network(async || {
        let mut watch = quiet_link().await;
        for change in [
            "add default via 10.9.0.2",
            "replace default via 10.9.0.3",
            "del default",
            "add 0.0.0.0/1 dev a0",
        ] {
            ip(&format!("route {change}"));
            told(&mut watch).await;
            assert_eq!(hints(&mut watch).await, 0);
        }
        ip("route replace 0.0.0.0/1 dev a0");
        ip("route add 10.10.0.0/16 via 10.9.0.2");
        ip("route del 10.10.0.0/16");
        ip("neighbour add 10.9.0.7 lladdr 02:00:00:00:00:07 dev a0");
        ip("link set a0 mtu 1400");
        assert_eq!(hints(&mut watch).await, 0);
    });
}

#[test]
fn links_that_lose_and_regain_their_carrier_are_told() {
    in_a_network(async || {
        let mut watch = quiet_link().await;
        ip("link set b0 down");
        told(&mut watch).await;
        hints(&mut watch).await;
        ip("link set b0 up");
        told(&mut watch).await;
        hints(&mut watch).await;
        ip("link del a0");
        told(&mut watch).await;
    });
}

#[test]
fn default_route_that_went_with_its_link_is_new_when_it_returns() {
    in_a_network(async || {
        let mut watch = quiet_link().await;
        ip("route add default via 10.9.0.2");
        hints(&mut watch).await;
        ip("link set a0 down");
        ip("link set a0 up");
        hints(&mut watch).await;
        ip("route add default via 10.9.0.2");
        told(&mut watch).await;
    });
}

#[test]
fn burst_of_changes_is_told_at_once_and_once_more_at_its_end() {
    in_a_network(async || {
        let mut watch = quiet_link().await;
        let lines: String = (1..=40)
            .map(|i| format!("address add 10.9.2.{i}/32 dev a0\n"))
            .collect();
        ip("address add 10.9.1.1/32 dev a0");
        told(&mut watch).await;
        let start = clock::now();
        ip_batch(&lines);
        let most = 1 + ((clock::now() - start).as_millis() / COALESCE_DELAY.as_millis()) as usize;
        let count = hints(&mut watch).await;
        assert!((1..=most).contains(&count), "{count} hints");
    });
}

#[test]
fn overrun_is_a_change_and_the_picture_is_made_anew() {
    in_a_network(async || {
        let mut watch = quiet_link().await;
        let lines: String = (0..3000)
            .map(|i| format!("address add 10.10.{}.{}/32 dev a0\n", i / 250, i % 250))
            .collect();
        ip_batch(&lines);
        told(&mut watch).await;
        hints(&mut watch).await;
        ip("address change 10.10.11.7/32 dev a0 valid_lft 100 preferred_lft 50");
        ip("address change 10.9.0.1/24 dev a0 valid_lft 100 preferred_lft 50");
        assert_eq!(hints(&mut watch).await, 0);
        ip("address del 10.10.11.7/32 dev a0");
        told(&mut watch).await;
    });
}

#[test]
fn sleep_is_noticed_once_and_only_when_long_enough_to_matter() {
    let mut meter = SleepMeter {
        seen: Duration::from_secs(10),
    };
    assert_eq!(meter.observe(Duration::from_secs(10)), None);
    assert_eq!(meter.observe(Duration::from_millis(10_900)), None);
    assert_eq!(meter.observe(Duration::from_secs(70)), Some(Duration::from_secs(60)));
    assert_eq!(meter.observe(Duration::from_secs(70)), None);
}

#[test]
fn changes_after_a_hint_wait_for_the_end_of_its_quiet_time() {
    let now = clock::now();
    let mut changes = Changes::default();
    assert_eq!(changes.due(), None);
    changes.note(now);
    assert_eq!(changes.due(), Some(now));
    changes.told(now);
    assert_eq!(changes.due(), None);
    changes.note(now + COALESCE_DELAY / 2);
    changes.note(now + COALESCE_DELAY * 2);
    assert_eq!(changes.due(), Some(now + COALESCE_DELAY));
    changes.told(now + COALESCE_DELAY);
    changes.note(now + COALESCE_DELAY * 3);
    assert_eq!(changes.due(), Some(now + COALESCE_DELAY * 3));
}
