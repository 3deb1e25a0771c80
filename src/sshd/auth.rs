//! Who may log in: the calling user, with a key that [`Authorize`] knows.
//!
//! An unknown user, an unknown key and a key with SHA-1 signatures are refused alike, and after the same time.

use std::net::IpAddr;
use std::sync::Arc;

use russh::keys::{Algorithm, PublicKey};
use russh::server::Auth;
use tracing::{debug, info};

use super::Shared;

/// Answers for one offered key, signed or not.
pub(super) async fn judge(
    shared: &Arc<Shared>,
    user: &str,
    key: &PublicKey,
    algorithm: &Algorithm,
    source: IpAddr,
) -> Auth {
    if matches!(algorithm, Algorithm::Rsa { hash: None }) {
        debug!(user, %source, "refused: RSA with SHA-1");
        return Auth::reject();
    }
    // Asked for other users' names too: the answer must take as long.
    let known = ask(shared, user, key, source).await;
    if known && user == shared.account.name {
        return Auth::Accept;
    }
    let fingerprint = key.fingerprint(Default::default());
    info!(user, %source, %fingerprint, "login refused");
    Auth::reject()
}

async fn ask(shared: &Arc<Shared>, user: &str, key: &PublicKey, source: IpAddr) -> bool {
    let (authorize, user, key) = (shared.authorize.clone(), user.to_owned(), key.clone());
    // It reads files, and may hang on a network file system. A panic in it is a no.
    tokio::task::spawn_blocking(move || authorize(&user, &key, source))
        .await
        .unwrap_or(false)
}
