//! Chooses a few of many relays for a host key by rendezvous hashing (highest random weight). Both
//! ends make the same choice without communicating.
//!
//! Pure. If a relay is added or removed, only the host keys that choose it are affected.

use aws_lc_rs::digest::{Context, SHA256};
use russh::keys::ssh_key::Fingerprint;

use super::{Endpoint, Relay};

/// Relays per host key: one in use, one standby, and one if both fail.
pub const DEFAULT_RELAYS: usize = 3;

/// Fractional bits of a cost.
const PLACES: u32 = 40;

/// The relays for these host keys: for each key the best `per_key`, best first, without duplicates.
///
/// A server half registers at the relays of all its keys. A client half asks the relays of the key
/// that it expects, which are always among them. Among relays of the lowest priority, shares are
/// proportional to weights (RFC 2782). The order of `relays` does not matter. Without a key, the
/// result is the first relays by priority and name.
pub fn choose(relays: &[Relay], host_keys: &[Fingerprint], per_key: usize) -> Vec<Relay> {
    if host_keys.is_empty() {
        // Without a key no server half can be asked for. The dial fails and reports that.
        let mut first = relays.to_vec();
        first.sort_by(|a, b| a.priority.cmp(&b.priority).then_with(|| a.endpoint.cmp(&b.endpoint)));
        first.truncate(per_key);
        return first;
    }
    let mut chosen: Vec<Relay> = Vec::new();
    for key in host_keys {
        let mut ranked: Vec<(Cost, &Relay)> = relays.iter().map(|relay| (Cost::of(relay, key), relay)).collect();
        ranked.sort_by(|(one, a), (other, b)| {
            let by_cost = a.priority.cmp(&b.priority).then(one.cmp_to(other));
            by_cost.then_with(|| a.endpoint.cmp(&b.endpoint))
        });
        for (_, relay) in ranked.into_iter().take(per_key) {
            if !chosen.iter().any(|other| other.endpoint == relay.endpoint) {
                chosen.push(relay.clone());
            }
        }
    }
    chosen
}

/// `-log2(u) / weight`, where `u` is a uniform random number from relay and key: each relay has the
/// lowest cost as often as its weight demands. In integers, because both ends must agree to the
/// last bit.
struct Cost {
    /// `-log2(u)` with [`PLACES`] fractional bits.
    log: u64,
    weight: u16,
}

impl Cost {
    fn of(relay: &Relay, key: &Fingerprint) -> Cost {
        Cost {
            log: negative_log2(hash(&relay.endpoint, key)),
            // RFC 2782 asks for "a very small chance" for weight 0. If all weights are 0, all are
            // equal.
            weight: relay.weight.max(1),
        }
    }

    fn cmp_to(&self, other: &Cost) -> std::cmp::Ordering {
        let (one, two) = (u128::from(self.log), u128::from(other.log));
        (one * u128::from(other.weight)).cmp(&(two * u128::from(self.weight)))
    }
}

fn hash(relay: &Endpoint, key: &Fingerprint) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(relay.to_string().as_bytes());
    // A relay name contains no zero byte, so that no two pairs give the same input.
    context.update(&[0]);
    context.update(key.as_bytes());
    let digest = context.finish();
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// `-log2((hash + 1) / 2^64)`: one bit of the logarithm per squaring.
fn negative_log2(hash: u64) -> u64 {
    let value = u128::from(hash) + 1;
    let whole = value.ilog2();
    let mut log = u64::from(whole) << PLACES;
    // 1 <= mantissa < 2, with 63 fractional bits.
    let mut mantissa = (value << 63) >> whole;
    for place in (0..PLACES).rev() {
        mantissa = (mantissa * mantissa) >> 63;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            log |= 1 << place;
        }
    }
    (64 << PLACES) - log
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn relay(name: &str) -> Relay {
        Relay {
            endpoint: Endpoint {
                host: name.parse().unwrap(),
                port: 443,
            },
            pin: None,
            priority: 0,
            weight: 1,
        }
    }

    fn fleet(count: usize) -> Vec<Relay> {
        (0..count)
            .map(|number| relay(&format!("r{number}.example.org")))
            .collect()
    }

    fn key(seed: u64) -> Fingerprint {
        let digest = aws_lc_rs::digest::digest(&SHA256, &seed.to_be_bytes());
        Fingerprint::Sha256(digest.as_ref().try_into().unwrap())
    }

    fn chosen(relays: &[Relay], key: Fingerprint) -> Vec<Relay> {
        choose(relays, &[key], DEFAULT_RELAYS)
    }

    #[test]
    fn without_a_key_the_first_relays_are_chosen() {
        let (relays, mut backwards) = (fleet(9), fleet(9));
        backwards.reverse();
        let first = choose(&relays, &[], DEFAULT_RELAYS);
        let names: Vec<String> = first.iter().map(|relay| relay.endpoint.to_string()).collect();
        assert_eq!(
            names,
            ["r0.example.org:443", "r1.example.org:443", "r2.example.org:443"]
        );
        assert_eq!(choose(&backwards, &[], DEFAULT_RELAYS), first);
        assert_eq!(choose(&fleet(1), &[], DEFAULT_RELAYS).len(), 1);
    }

    #[test]
    fn the_choice_is_the_same_in_every_build_of_this_and_later_versions() {
        let names: Vec<String> = chosen(&fleet(50), Fingerprint::Sha256([7; 32]))
            .iter()
            .map(|relay| relay.endpoint.to_string())
            .collect();
        assert_eq!(
            names,
            ["r45.example.org:443", "r20.example.org:443", "r0.example.org:443"]
        );
        let hashed = hash(&relay("r1.example.org").endpoint, &Fingerprint::Sha256([7; 32]));
        // From: printf 'r1.example.org:443\0' and 32 times \7, piped through sha256sum.
        assert_eq!(hashed, 0xc960_158f_fccd_1545);
    }

    #[test]
    fn logarithms_are_exact_where_they_are_whole_and_near_elsewhere() {
        assert_eq!(negative_log2(u64::MAX), 0);
        assert_eq!(negative_log2((1 << 63) - 1), 1 << PLACES);
        assert_eq!(negative_log2(0), 64 << PLACES);
        for hash in [1, 2, 12_345_678_901, 1 << 60, u64::MAX / 3, u64::MAX - 5_000_000_000] {
            let right = 64.0 - (hash as f64 + 1.0).log2();
            let found = negative_log2(hash) as f64 / f64::from(2u32.pow(20)) / f64::from(2u32.pow(20));
            assert!((right - found).abs() < 1e-9, "{hash}: {found}, not {right}");
        }
    }

    #[test]
    fn all_relays_of_a_short_list_are_chosen() {
        let relays = fleet(3);
        let mut all = chosen(&relays, key(1));
        all.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        assert_eq!(all, relays);
        assert!(chosen(&[], key(1)).is_empty());
    }

    #[test]
    fn server_half_registers_at_the_relays_of_each_of_its_keys() {
        let relays = fleet(50);
        let keys = [key(1), key(2), key(3)];
        let registered = choose(&relays, &keys, DEFAULT_RELAYS);
        for key in keys {
            assert!(chosen(&relays, key).iter().all(|relay| registered.contains(relay)));
        }
        assert!(registered.len() <= 9);
    }

    #[test]
    fn lower_priorities_go_first_whatever_their_weight() {
        let mut relays = fleet(50);
        for (index, relay) in relays.iter_mut().enumerate() {
            relay.priority = if index < 2 { 1 } else { 2 };
            relay.weight = if index < 2 { 0 } else { 1000 };
        }
        for seed in 0..100 {
            let chosen = chosen(&relays, key(seed));
            assert!(chosen[..2].iter().all(|relay| relay.priority == 1));
            assert_eq!(chosen[2].priority, 2);
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut relays = fleet(4);
        for (relay, weight) in relays.iter_mut().zip([10, 20, 30, 40]) {
            relay.weight = weight;
        }
        let mut shares: HashMap<u16, u32> = HashMap::new();
        for seed in 0..10_000 {
            *shares.entry(choose(&relays, &[key(seed)], 1)[0].weight).or_default() += 1;
        }
        for (weight, share) in shares {
            // Five standard deviations: sqrt(10000 * 0.4 * 0.6) = 49.
            assert!(share.abs_diff(u32::from(weight) * 100) < 245, "{weight}: {share}");
        }
    }

    #[test]
    fn one_relay_of_fifty_is_chosen_by_its_own_share_of_keys() {
        let relays = fleet(50);
        let keys = 5_000;
        let mut shares: HashMap<Endpoint, u32> = HashMap::new();
        for relay in (0..keys).flat_map(|seed| chosen(&relays, key(seed))) {
            *shares.entry(relay.endpoint).or_default() += 1;
        }
        // 3 of 50 relays: 300 of 5,000 keys each, standard deviation 17.
        assert!(shares.values().all(|share| share.abs_diff(300) < 85), "{shares:?}");
    }

    proptest! {
        #[test]
        fn the_order_of_the_list_does_not_matter(
            relays in Just(fleet(50)).prop_shuffle(),
            weights in proptest::collection::vec(0u16..5, 50),
            seed: u64,
        ) {
            let weigh = |relay: Relay| {
                let number = relay.endpoint.to_string().len() + relay.endpoint.to_string().as_bytes()[1] as usize;
                Relay { weight: weights[number % 50], priority: u32::from(weights[(number + 7) % 50] % 2), ..relay }
            };
            let here: Vec<Relay> = fleet(50).into_iter().map(weigh).collect();
            let there: Vec<Relay> = relays.into_iter().map(weigh).collect();
            prop_assert_eq!(chosen(&here, key(seed)), chosen(&there, key(seed)));
        }

        #[test]
        fn added_or_removed_relay_affects_only_the_keys_that_choose_it(gone in 0usize..50, seeds: [u64; 32]) {
            let all = fleet(50);
            let mut fewer = all.clone();
            let gone = fewer.remove(gone);
            for seed in seeds {
                let with = chosen(&all, key(seed));
                let without = chosen(&fewer, key(seed));
                // Keys that did not choose the relay keep theirs. The others lose only this one and
                // get one more at the end.
                let kept: Vec<Relay> = with.iter().filter(|relay| **relay != gone).cloned().collect();
                prop_assert_eq!(&without[..kept.len()], &kept[..]);
                prop_assert_eq!(with.contains(&gone), kept.len() < with.len());
                prop_assert_eq!(without.len(), with.len());
            }
        }
    }
}
