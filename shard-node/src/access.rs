//! Who may use the DynamoDB API: keys that are kept in the cluster, and signatures made with them.
//!
//! Source: AWS Signature Version 4; its canonical request and the comparison in constant time are `rustack_auth`'s. Here is
//! what depends on whom is asked: which keys there are, how old a signature may be, and what it has to cover, so that nobody
//! takes a signature that was seen for another request.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Parts;
use prost::Message as _;
use rand::Rng as _;
use rand::rngs::StdRng;
use rustack_auth::sigv4::{parse_authorization_header, verify_sigv4};
use rustack_auth::{AuthError, CredentialProvider};
use sha2::{Digest as _, Sha256};
use trimaran_cluster::member::Defined;
use trimaran_cluster::meta::Meta;
use trimaran_proto::state::shard as state;

use crate::error::{Error, Invalid};
use crate::limits::{ACCESS_KEY_NOTE_BYTES_MAX, ACCESS_KEYS_MAX, SIGNATURE_SKEW};
use crate::router::Router;

/// Definitions of keys have names that begin with this.
const PREFIX: &str = "access-key/";

/// What the ids of keys begin with; 16 letters and digits follow.
const ID_PREFIX: &str = "TMRN";
const ID_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Bytes of a secret, before they are text of 40 characters.
const SECRET_BYTES: usize = 30;

/// What signatures are for, as clients name it.
const SERVICE: &str = "dynamodb";

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What requests name.
    pub id: String,
    /// What they are signed with.
    pub secret: String,
    /// Whose it is, for people.
    pub note: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    revision: u64,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// All keys of a cluster, by their ids.
#[derive(Clone, Debug, Default)]
pub struct AccessKeys(BTreeMap<String, AccessKey>);

impl AccessKeys {
    /// Those that the agreed state has.
    pub fn of(meta: &Meta) -> Self {
        let definitions = meta.definitions.range(PREFIX.to_owned()..);
        let of_keys = definitions.map_while(|(name, found)| Some((name.strip_prefix(PREFIX)?, found)));
        let keys = of_keys.filter_map(|(id, definition)| {
            let Ok(stored) = state::AccessKey::decode(definition.value.clone()) else {
                tracing::error!(id, "an access key cannot be read; is this release too old?");
                return None;
            };
            let key = AccessKey {
                id: id.to_owned(),
                secret: stored.secret,
                note: stored.note,
                created_ms: stored.created_ms,
                revision: definition.revision,
            };
            Some((id.to_owned(), key))
        });
        Self(keys.collect())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &AccessKey> {
        self.0.values()
    }
}

impl CredentialProvider for AccessKeys {
    fn get_secret_key(&self, id: &str) -> Result<String, AuthError> {
        let found = self.0.get(id).map(|key| key.secret.clone());
        found.ok_or_else(|| AuthError::AccessKeyNotFound(id.to_owned()))
    }
}

/// Makes a key; its secret is told once. `random` is of the operating system.
pub async fn create(router: &Router, note: String, random: &mut StdRng) -> Result<AccessKey, Error> {
    if note.len() > ACCESS_KEY_NOTE_BYTES_MAX {
        return Err(Invalid::new(format!(
            "note: it has {} bytes, ACCESS_KEY_NOTE_BYTES_MAX = {ACCESS_KEY_NOTE_BYTES_MAX}",
            note.len()
        ))
        .into());
    }
    router.refresh_tables().await?;
    if router.access_keys().0.len() >= ACCESS_KEYS_MAX {
        return Err(Error::Limit { limit: "ACCESS_KEYS_MAX", max: ACCESS_KEYS_MAX });
    }
    let letters = (0..16).map(|_| char::from(ID_LETTERS[random.random_range(0..ID_LETTERS.len())]));
    let id = format!("{ID_PREFIX}{}", letters.collect::<String>());
    let secret: [u8; SECRET_BYTES] = random.random();
    let stored =
        state::AccessKey { secret: BASE64.encode(secret), note: note.clone(), created_ms: router.now_ms() };
    let value = Some(stored.encode_to_vec().into());
    match router.define_named(&format!("{PREFIX}{id}"), value, 0).await? {
        Defined::Done(revision) => {
            let (secret, created_ms) = (stored.secret, stored.created_ms);
            Ok(AccessKey { id, secret, note, created_ms, revision })
        }
        // 80 bits: an attempt of ours whose answer was lost has made it, and nobody else knows the secret.
        Defined::Changed(_) => Err(Error::NotReady),
    }
}

/// Removes a key. Requests that are signed with it are refused once a node knows, which is soon.
pub async fn delete(router: &Router, id: &str) -> Result<(), Error> {
    router.refresh_tables().await?;
    let key = router.access_keys().0.get(id).cloned();
    let key = key.ok_or_else(|| Error::AccessKeyNotFound(id.to_owned()))?;
    router.define_named(&format!("{PREFIX}{id}"), None, key.revision).await?;
    Ok(())
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no signature.
    #[error("Request is missing Authentication Token")]
    Missing,
    /// The signature is none, or does not say what is needed.
    #[error("{0}")]
    Incomplete(String),
    /// There is no such key.
    #[error("The security token included in the request is invalid.")]
    Unknown,
    /// It was made for something else, with another secret, or long ago.
    #[error("{0}")]
    Invalid(String),
}

/// Whether a request with this body, as it was sent, is signed with one of the keys.
pub fn check(keys: &AccessKeys, parts: &Parts, body: &[u8], now_ms: u64) -> Result<(), Refused> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let incomplete = |what: &str| Refused::Incomplete(what.to_owned());
    let authorization = header("authorization").ok_or(Refused::Missing)?;
    let parsed =
        parse_authorization_header(authorization).map_err(|error| Refused::Incomplete(error.to_string()))?;
    let date = header("x-amz-date").ok_or_else(|| {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    // Whatever decides on what the request does: a signature must not be good for another one.
    let has_to_be = |name: &str| name == "host" || name.starts_with("x-amz-");
    let names = parts.headers.keys().map(http::HeaderName::as_str);
    for name in names.filter(|name| has_to_be(name)).chain(["host"]) {
        if !parsed.signed_headers.iter().any(|signed| signed == name) {
            return Err(Refused::Incomplete(format!(
                "'{name}' must be a 'SignedHeader' in the AWS Authorization."
            )));
        }
    }
    let invalid = |what: String| Err(Refused::Invalid(what));
    if parsed.service != SERVICE {
        return invalid(format!("Credential should be scoped to correct service: '{SERVICE}'."));
    }
    let at_ms =
        milliseconds(date).ok_or_else(|| incomplete("X-Amz-Date must be in ISO8601 basic format."))?;
    if !date.starts_with(&parsed.date) {
        return invalid(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date: {date}"
        ));
    }
    // Some minutes.
    let skew_ms = SIGNATURE_SKEW.as_millis() as u64;
    if at_ms + skew_ms < now_ms {
        return invalid(format!("Signature expired: {date} is more than {SIGNATURE_SKEW:?} ago"));
    }
    if now_ms + skew_ms < at_ms {
        return invalid(format!("Signature not yet current: {date} is more than {SIGNATURE_SKEW:?} ahead"));
    }
    let hash = Sha256::digest(body);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    match verify_sigv4(parts, &hash, keys) {
        Ok(_key) => Ok(()),
        Err(AuthError::AccessKeyNotFound(_)) => Err(Refused::Unknown),
        Err(AuthError::SignatureDoesNotMatch | AuthError::InvalidPayloadHash) => invalid(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key \
             and signing method. Consult the service documentation for details."
                .to_owned(),
        ),
        Err(other) => Err(Refused::Incomplete(other.to_string())),
    }
}

/// A date as `20261127T083000Z`, in milliseconds since 1970.
fn milliseconds(date: &str) -> Option<u64> {
    let (day, time) = date.strip_suffix('Z')?.split_once('T')?;
    if day.len() != 8 || time.len() != 6 || !(day.is_ascii() && time.is_ascii()) {
        return None;
    }
    let (year, month, day) = (&day[..4], &day[4..6], &day[6..]);
    let (hour, minute, second) = (&time[..2], &time[2..4], &time[4..]);
    let at = humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    // Milliseconds of a date.
    Some(since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
