//! Keys of the DynamoDB API, for clusters that want signatures.

use trimaran_proto::api::database as wire;

use super::{Database, missing};
use crate::error::Error;

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// What requests name.
    pub id: String,
    /// Whose it is, for people.
    pub note: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

fn get(key: wire::AccessKey) -> AccessKey {
    AccessKey { id: key.id, note: key.note, created_ms: key.created_ms }
}

impl Database {
    /// Makes a key. Returns it with its secret, which is told now and never again.
    pub async fn create_access_key(&self, note: &str) -> Result<(AccessKey, String), Error> {
        let request = wire::CreateAccessKeyRequest { note: note.to_owned() };
        let reply =
            self.call(request, |mut client, request| async move { client.create_access_key(request).await });
        let reply = reply.await?;
        Ok((get(reply.key.ok_or_else(|| missing("key"))?), reply.secret))
    }

    /// All keys.
    pub async fn list_access_keys(&self) -> Result<Vec<AccessKey>, Error> {
        let request = wire::ListAccessKeysRequest {};
        let reply =
            self.call(request, |mut client, request| async move { client.list_access_keys(request).await });
        Ok(reply.await?.keys.into_iter().map(get).collect())
    }

    /// Removes a key. What is signed with it is refused within moments.
    pub async fn delete_access_key(&self, id: &str) -> Result<(), Error> {
        let request = wire::DeleteAccessKeyRequest { id: id.to_owned() };
        self.call(request, |mut client, request| async move { client.delete_access_key(request).await })
            .await?;
        Ok(())
    }
}
