//! DNS queries, and what is used of their answers.

use super::cache::ServiceRecord;
use super::resolver::{LookupError, MAX_REFRESH_INTERVAL};
use super::{DnsName, Endpoint};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Most relays of a service that are used: the first by priority and name, the same ones at both
/// ends.
const MAX_MEMBERS: usize = 256;

/// Most addresses of one relay that are tried.
const MAX_ADDRESSES: usize = 16;

/// Most CNAME records followed from a service name to its SRV records. hickory follows as many for
/// addresses.
const MAX_ALIASES: usize = 8;

/// Most concurrent queries, so that name servers do not limit us.
const MAX_CONCURRENT: usize = 16;

/// An answer and its TTL.
pub(super) type Answer<T> = Result<(T, Duration), LookupError>;

/// Queries all names, [`MAX_CONCURRENT`] at a time. Without a resolver there are no answers.
pub(super) async fn ask_all<T, F>(
    dns: Option<TokioResolver>,
    names: Vec<DnsName>,
    limit_of: impl Fn(&DnsName) -> Duration,
    ask: impl Fn(TokioResolver, DnsName) -> F,
) -> Vec<(DnsName, Option<Answer<T>>)>
where
    T: Send + 'static,
    F: Future<Output = Answer<T>> + Send + 'static,
{
    let mut answers: Vec<_> = names.iter().map(|name| (name.clone(), None)).collect();
    let Some(dns) = dns else { return answers };
    let mut waiting = names.into_iter().enumerate();
    let mut asking = JoinSet::new();
    loop {
        for (index, name) in waiting.by_ref().take(MAX_CONCURRENT - asking.len()) {
            let (limit, answer) = (limit_of(&name), ask(dns.clone(), name.clone()));
            asking.spawn(async move {
                let answer = timeout(limit, answer).await;
                (index, answer.unwrap_or(Err(LookupError::Timeout { name, limit })))
            });
        }
        match asking.join_next().await {
            Some(Ok((index, answer))) => answers[index].1 = Some(answer),
            // The resolver panicked: no answer.
            Some(Err(_)) => {}
            None => return answers,
        }
    }
}

pub(super) async fn look_up_service(dns: TokioResolver, name: DnsName) -> Answer<Vec<ServiceRecord>> {
    let found = find_service(&dns, &name).await;
    let records = found.map_err(|error| lookup_error(name.clone(), error))?;
    let services: Vec<&SRV> = records.iter().filter_map(as_service).collect();
    let count = services.len();
    if count == 0 {
        return Err(LookupError::Unknown { name });
    }
    // A single record whose target is the root means that there is no relay (RFC 2782).
    if let [only] = services[..]
        && only.target.is_root()
    {
        return Err(LookupError::NotOffered { name });
    }
    let members = members(services);
    if members.is_empty() {
        return Err(LookupError::NoTarget { name, records: count });
    }
    Ok((members, lifetime(records.iter().map(|record| record.ttl).collect())))
}

/// The SRV records of a name or of the name that it is an alias for, including the CNAME records.
///
/// hickory treats the target of an SRV record as an alias too, and therefore loses SRV records
/// behind a CNAME.
async fn find_service(dns: &TokioResolver, name: &DnsName) -> Result<Vec<Record>, NetError> {
    let mut owner = Name::from_ascii(name.as_str())?;
    let mut records = Vec::new();
    loop {
        let error = match dns.srv_lookup(owner.clone()).await {
            Ok(answer) => {
                records.extend_from_slice(answer.answers());
                return Ok(records);
            }
            Err(error) => error,
        };
        if records.len() == MAX_ALIASES {
            return Err(error);
        }
        let Some((alias, target)) = find_alias(dns, &owner).await else {
            return Err(error);
        };
        owner = target;
        records.push(alias);
    }
}

/// The CNAME record of a name, and its target.
async fn find_alias(dns: &TokioResolver, name: &Name) -> Option<(Record, Name)> {
    let answer = dns.lookup(name.clone(), RecordType::CNAME).await.ok()?;
    answer.answers().iter().find_map(|record| match &record.data {
        RData::CNAME(target) => Some((record.clone(), target.0.clone())),
        _ => None,
    })
}

fn as_service(record: &Record) -> Option<&SRV> {
    match &record.data {
        RData::SRV(service) => Some(service),
        _ => None,
    }
}

/// The usable SRV records.
pub(super) fn members(records: Vec<&SRV>) -> Vec<ServiceRecord> {
    let members = records.into_iter().filter_map(|srv| {
        let host = srv.target.to_ascii().parse().ok()?;
        let port = Some(srv.port).filter(|port| *port != 0)?;
        Some(ServiceRecord {
            endpoint: Endpoint { host, port },
            priority: srv.priority,
            weight: srv.weight,
        })
    });
    let mut members: Vec<ServiceRecord> = members.collect();
    members.sort_by(|a, b| a.priority.cmp(&b.priority).then_with(|| a.endpoint.cmp(&b.endpoint)));
    members.truncate(MAX_MEMBERS);
    members
}

pub(super) async fn look_up_host(dns: TokioResolver, name: DnsName, asks_system: bool) -> Answer<Vec<IpAddr>> {
    // A string would be parsed as an RFC 952 host name, which contains no `_`.
    let found = match Name::from_ascii(name.as_str()) {
        Ok(name) => dns.lookup_ip(name).await,
        Err(error) => Err(error.into()),
    };
    let (found, ttls): (Vec<IpAddr>, Vec<u32>) = match found {
        Ok(answer) => {
            let ttls = answer.as_lookup().answers().iter().map(|record| record.ttl);
            (answer.iter().collect(), ttls.collect())
        }
        Err(error) if asks_system && error.is_no_records_found() => {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found = found.map(|found| found.map(|address| address.ip()).collect());
            (found.unwrap_or_default(), Vec::new())
        }
        Err(error) => return Err(lookup_error(name, error)),
    };
    let ips = interleave_families(found);
    if ips.is_empty() {
        return Err(LookupError::Unknown { name });
    }
    Ok((ips, lifetime(ttls)))
}

/// The addresses of a name in the system's `hosts` file. Names found there are not queried.
pub(super) fn find_in_hosts_file(hosts: &Hosts, name: &DnsName) -> Vec<IpAddr> {
    let Ok(name) = Name::from_ascii(name.as_str()) else {
        return Vec::new();
    };
    let of_family = |family| hosts.lookup_static_host(&Query::query(name.clone(), family));
    let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of_family);
    let records = found.flat_map(|found| found.answers().to_vec());
    interleave_families(records.filter_map(|record| record.data.ip_addr()).collect())
}

fn lookup_error(name: DnsName, error: NetError) -> LookupError {
    if error.is_no_records_found() {
        LookupError::Unknown { name }
    } else {
        LookupError::Failed {
            name,
            source: error.into(),
        }
    }
}

fn lifetime(ttls: Vec<u32>) -> Duration {
    let least = ttls.into_iter().min();
    least.map_or(MAX_REFRESH_INTERVAL, |seconds| Duration::from_secs(seconds.into()))
}

/// Usable addresses without duplicates, alternating between the address families, IPv6 first (RFC
/// 8305 section 4).
pub(super) fn interleave_families(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let usable = found
        .into_iter()
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    let mut per_family = [0, 0];
    let mut unique: Vec<(usize, IpAddr)> = Vec::new();
    for ip in usable {
        if unique.iter().all(|(_, other)| *other != ip) {
            let turn = &mut per_family[usize::from(ip.is_ipv4())];
            unique.push((*turn, ip));
            *turn += 1;
        }
    }
    unique.sort_by_key(|(turn, ip)| (*turn, ip.is_ipv4()));
    unique.truncate(MAX_ADDRESSES);
    unique.into_iter().map(|(_, ip)| ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn srv(priority: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, 5, port, target.parse().unwrap())
    }

    #[test]
    fn address_families_alternate_and_unusable_addresses_are_removed() {
        let found = ips(&[
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.1",
            "0.0.0.0",
            "2001:db8::1",
            "ff02::1",
            "192.0.2.3",
        ]);
        let wanted = ips(&["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(interleave_families(found), wanted);
    }

    #[test]
    fn unusable_srv_records_are_skipped_and_the_rest_is_ordered() {
        let records = [
            srv(2, 443, "a.x."),
            srv(1, 443, "C.x."),
            srv(1, 443, "b.x."),
            srv(0, 443, "."),
            srv(0, 0, "d.x."),
        ];
        let found = members(records.iter().collect());
        let names: Vec<String> = found.iter().map(|member| member.endpoint.to_string()).collect();
        assert_eq!(names, ["b.x:443", "c.x:443", "a.x:443"]);
        let many: Vec<SRV> = (0..300).map(|number| srv(1, 443, &format!("r{number}.x."))).collect();
        assert_eq!(members(many.iter().collect()).len(), MAX_MEMBERS);
    }
}
