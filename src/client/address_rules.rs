//! Whether sshd accepts the user's keys from this client's address only (`from=` in authorized_keys, AllowUsers).

use super::{OpenSession, fallback};
use crate::identity::key_query::{KeyAnswer, KeyQuery, KeyQueryError, MAX_QUERIES};
use crate::identity::statement::ProvenKey;
use bytes::Bytes;
use std::time::Duration;
use tokio::time::timeout;
use tracing::debug;

/// How long both connections may take together. If they take longer, the login shows the answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether the sshd behind `session` refuses the user's keys there, and the same sshd, connected to directly at `host` and
/// `port`, accepts one of them. False if that cannot be determined: for passwords, it cannot.
///
/// No key signs. The direct connection is made only if no key is accepted over the session.
pub async fn refuses_keys_of_sessions(
    session: OpenSession,
    (host, port): (&str, u16),
    user: &str,
    keys: &[Bytes],
) -> bool {
    let keys = keys.iter().filter_map(|blob| ProvenKey::unsigned(blob).ok());
    let keys: Vec<ProvenKey> = keys.take(MAX_QUERIES).collect();
    if keys.is_empty() {
        return false;
    }
    let asking = async {
        let mut over_session = KeyQuery::open(session.into_stream(), LIMIT, None).await?;
        let is_accepted = accepts_any(&mut over_session, user, &keys).await?;
        let host_key = over_session.host_key();
        over_session.close().await;
        if is_accepted {
            return Ok::<_, KeyQueryError>(false);
        }
        let Ok((stream, _)) = fallback::connect(host, port, LIMIT).await else {
            return Ok(false);
        };
        // The host key was proved behind an authenticated server half: nobody else learns the user's keys.
        let mut direct = KeyQuery::open(stream, LIMIT, host_key).await?;
        let is_accepted = accepts_any(&mut direct, user, &keys).await?;
        direct.close().await;
        Ok(is_accepted)
    };
    match timeout(LIMIT, asking).await {
        Ok(Ok(refuses)) => refuses,
        Ok(Err(error)) => {
            debug!(?error, "cannot determine whether sshd has rules about addresses");
            false
        }
        Err(_) => false,
    }
}

async fn accepts_any(query: &mut KeyQuery, user: &str, keys: &[ProvenKey]) -> Result<bool, KeyQueryError> {
    for key in keys {
        match query.ask(user, key).await? {
            KeyAnswer::Accepted => return Ok(true),
            KeyAnswer::Refused => {}
            KeyAnswer::RefusedAndClosed | KeyAnswer::OtherMethod(_) => break,
        }
    }
    Ok(false)
}
