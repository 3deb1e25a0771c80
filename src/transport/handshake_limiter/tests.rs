use super::*;
use crate::clock;

fn v4(network: u8, host: u8) -> Origin {
    Origin::direct(IpAddr::from([192, 0, network, host]))
}

fn v6(site: u16, subnet: u16) -> Origin {
    Origin::direct(Ipv6Addr::new(0x2001, 0xdb8, site, subnet, 0, 0, 0, 1).into())
}

fn admit(limiter: &HandshakeLimiter, origin: Origin, proved: bool, now: Instant) -> Option<Permit> {
    match limiter.admit(origin, proved, now) {
        Admission::Admitted(permit) => Some(permit),
        Admission::ProveAddress | Admission::Refused => None,
    }
}

fn revoked(permits: &[Permit]) -> usize {
    permits.iter().filter(|permit| permit.revoked.is_cancelled()).count()
}

#[test]
fn forged_addresses_cannot_take_the_permits_of_those_who_prove_theirs() {
    let (limiter, now) = (HandshakeLimiter::new(16), clock::now());
    let forged: Vec<_> = (0..100).filter_map(|n| admit(&limiter, v4(n, 1), false, now)).collect();
    assert_eq!(forged.len(), 4);
    assert!(matches!(limiter.admit(v4(200, 1), false, now), Admission::ProveAddress));
    assert!(admit(&limiter, v4(200, 1), true, now).is_some());
    assert_eq!(revoked(&forged), 0);
}

#[test]
fn one_address_gets_a_quarter_and_its_oldest_peer_is_revoked_first() {
    let (limiter, now) = (HandshakeLimiter::new(16), clock::now());
    let own: Vec<_> = (0..16).filter_map(|_| admit(&limiter, v4(1, 1), true, now)).collect();
    assert_eq!(own.len(), 4);
    assert!(admit(&limiter, v4(2, 1), true, now).is_some());
    assert!(
        admit(&limiter, v4(1, 1), true, now + MIN_AGE).is_none(),
        "a crowd does not end itself"
    );
    let later = admit(&limiter, v4(1, 1), true, now + MIN_AGE_SAME_NETWORK).expect("the oldest gives way");
    assert_eq!((revoked(&own), revoked(&[later])), (1, 0));
    assert!(own[0].revoked.is_cancelled(), "the one that has been waiting longest");
}

#[test]
fn four_networks_cannot_lock_out_others() {
    let (limiter, now) = (HandshakeLimiter::new(2048), clock::now());
    let held: Vec<_> = (0..4)
        .flat_map(|network| std::iter::repeat_n(network, 512))
        .filter_map(|network| admit(&limiter, v4(network, 1), true, now))
        .collect();
    assert_eq!(held.len(), 2048);
    let others: Vec<_> = (10..210).filter_map(|n| admit(&limiter, v4(n, 1), true, now)).collect();
    assert_eq!((others.len(), revoked(&others), revoked(&held)), (200, 0, 200));
}

#[test]
fn a_site_with_all_of_a_48_holds_half_and_one_with_a_56_three_eighths() {
    let (limiter, now) = (HandshakeLimiter::new(256), clock::now());
    let come = |site, subnets: std::ops::Range<u16>| -> Vec<Permit> {
        subnets
            .filter_map(|n| admit(&limiter, v6(site, n), true, now))
            .collect()
    };
    let held = |permits: &[Permit]| permits.len() - revoked(permits);
    let whole = come(1, 0..60_000);
    assert_eq!(held(&whole), 128);
    let part = come(2, 0..256);
    assert_eq!(held(&part), 96);
    let subnet: Vec<_> = (0..256).filter_map(|_| admit(&limiter, v6(3, 1), true, now)).collect();
    assert_eq!(held(&subnet), 64);
    assert_eq!((held(&whole), held(&part)), (96, 96), "who holds most has made room");
}

#[test]
fn within_the_fullest_network_its_fullest_inner_network_is_revoked() {
    let (limiter, now) = (HandshakeLimiter::new(16), clock::now());
    let single = admit(&limiter, v4(1, 1), true, now).expect("a free permit");
    let many: Vec<_> = (0..3).filter_map(|_| admit(&limiter, v4(1, 2), true, now)).collect();
    let rest: Vec<_> = (0..12)
        .filter_map(|n| admit(&limiter, v4(10 + n / 3, n), true, now))
        .collect();
    assert_eq!((many.len(), rest.len()), (3, 12));
    assert!(admit(&limiter, v4(99, 1), true, now).is_some());
    assert_eq!((revoked(&[single]), revoked(&many), revoked(&rest)), (0, 1, 0));
}

#[test]
fn between_equal_networks_only_an_old_peer_is_revoked() {
    let (limiter, now) = (HandshakeLimiter::new(16), clock::now());
    let each: Vec<_> = (0..16)
        .filter_map(|n| admit(&limiter, v4(n, 1), true, now + Duration::from_millis(n.into())))
        .collect();
    assert_eq!(each.len(), 16);
    assert!(matches!(
        limiter.admit(v4(99, 1), true, now + MIN_AGE / 2),
        Admission::Refused
    ));
    assert!(admit(&limiter, v4(99, 1), true, now + MIN_AGE).is_some());
    assert!(each[0].revoked.is_cancelled(), "the oldest of all");
    assert_eq!(revoked(&each), 1);
}

#[test]
fn peer_being_served_keeps_its_permit() {
    let (limiter, now) = (HandshakeLimiter::new(16), clock::now());
    let mut held: Vec<_> = (0..16)
        .filter_map(|n| admit(&limiter, v4(n / 4, n), true, now))
        .collect();
    let later = now + MIN_AGE;
    assert!(held.iter_mut().all(Permit::begin_service));
    assert!(matches!(limiter.admit(v4(99, 1), true, later), Admission::Refused));
    held[7].end_service(later);
    let next = admit(&limiter, v4(99, 1), true, later + MIN_AGE).expect("one waits again");
    assert!(held[7].revoked.is_cancelled());
    assert!(!held[7].begin_service(), "what it says now comes too late");
    drop(next);
    assert_eq!(limiter.0.state.lock().all.permits, 15);
}

#[test]
fn relay_that_invents_addresses_gets_no_more_than_its_share() {
    let (limiter, now) = (HandshakeLimiter::new(2048), clock::now());
    let (mad, good): (Arc<str>, Arc<str>) = ("mad:443".into(), "good:443".into());
    let claim = |relay, n: u32| Origin::relayed(relay, IpAddr::from(n.wrapping_mul(2_654_435_761).to_be_bytes()));
    let invented: Vec<_> = (0..5000)
        .filter_map(|n| admit(&limiter, claim(&mad, n), true, now))
        .collect();
    assert_eq!(invented.len(), MAX_PER_RELAY);
    assert!(admit(&limiter, claim(&good, 1), true, now).is_some());
    assert!(admit(&limiter, v4(1, 1), true, now).is_some());
    assert_eq!(revoked(&invented), 0);
}

#[test]
fn one_client_of_a_relay_cannot_lock_out_others() {
    let (limiter, now) = (HandshakeLimiter::new(2048), clock::now());
    let relay: Arc<str> = "r1:443".into();
    let at = |network, host| Origin::relayed(&relay, IpAddr::from([198, 51, network, host]));
    let four: Vec<_> = (0..400)
        .filter_map(|n| admit(&limiter, at((n % 4) as u8, 1), true, now))
        .collect();
    assert_eq!(four.len(), MAX_PER_RELAY);
    assert!(admit(&limiter, at(9, 1), true, now).is_some());
    assert_eq!(revoked(&four), 1);
}

#[test]
fn an_owner_keeps_its_newest_carriers() {
    let (limiter, now) = (HandshakeLimiter::new(usize::MAX), clock::now());
    let owner = || Origin::owner(&Bytes::from_static(b"key"));
    let carriers: Vec<_> = (0..100).filter_map(|_| admit(&limiter, owner(), true, now)).collect();
    assert_eq!((carriers.len(), revoked(&carriers)), (100, 100 - MAX_PER_OWNER));
    assert!(!carriers[99].revoked.is_cancelled());
}

#[test]
fn closed_peers_leave_no_state() {
    let (limiter, mut now) = (HandshakeLimiter::new(64), clock::now());
    let (mut permits, mut seed) = (Vec::new(), 7u64);
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [choice, a, b, at, ..] = (seed >> 24).to_le_bytes();
        now += Duration::from_millis(20);
        let chosen = usize::from(at) % permits.len().max(1);
        match choice % 6 {
            0 | 1 => permits.extend(admit(&limiter, v4(a % 8, b % 8), true, now)),
            2 => permits.extend(admit(&limiter, v6(u16::from(a % 4), u16::from(b)), choice > 99, now)),
            3 if !permits.is_empty() => drop(permits.swap_remove(chosen)),
            4 if !permits.is_empty() => drop(permits[chosen].begin_service()),
            5 if !permits.is_empty() => permits[chosen].end_service(now),
            _ => {}
        }
        let state = limiter.0.state.lock();
        let live = permits.iter().filter(|permit| !permit.revoked.is_cancelled()).count();
        assert_eq!(state.all.permits, live);
        assert!(live <= 64 && state.all.waiting == state.waiting.len());
    }
    permits.clear();
    let state = limiter.0.state.lock();
    assert!(state.all.permits == 0 && state.all.waiting == 0 && state.all.inner.is_empty() && state.waiting.is_empty());
}
