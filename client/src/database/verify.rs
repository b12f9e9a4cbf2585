//! Whether all copies of a database have the same.

use bytes::Bytes;
use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::database_client::DatabaseClient;

use super::Database;
use crate::error::Error;

/// A copy of a partition, at one entry of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCopy {
    /// Where it is.
    pub node: u64,
    /// SHA-256 of all rows with their versions; `None` if it did not say in time.
    pub checksum: Option<Bytes>,
    /// Rows of any kind.
    pub rows: u64,
    /// Bytes of those.
    pub bytes: u64,
}

/// A partition that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPartition {
    /// Which.
    pub id: u64,
    /// Its copies.
    pub copies: Vec<VerifiedCopy>,
    /// Those that answered have the same.
    pub equal: bool,
}

impl VerifiedPartition {
    /// All of them answered, and have the same.
    pub fn is_whole(&self) -> bool {
        self.equal && self.copies.iter().all(|copy| copy.checksum.is_some())
    }
}

impl Database {
    /// Looks at the copies of one partition after another, while everybody goes on reading and writing; `look` is told of
    /// each. It takes as long as reading everything once on each node.
    pub async fn verify(&self, mut look: impl FnMut(VerifiedPartition)) -> Result<(), Error> {
        let nobody = || Error::Unavailable("no node of the cluster is known".to_owned());
        let address = self.routes.any_address().ok_or_else(nobody)?;
        let mut client = DatabaseClient::new(self.routes.channel(&address)?);
        let looked = client.verify(wire::VerifyRequest {}).await;
        let mut looked = looked.map_err(|status| Error::from_status(&status))?.into_inner();
        while let Some(found) = looked.message().await.map_err(|status| Error::from_status(&status))? {
            let copies = found.copies.into_iter().map(|copy| VerifiedCopy {
                node: copy.node_id,
                checksum: copy.answered.then_some(copy.checksum),
                rows: copy.rows,
                bytes: copy.bytes,
            });
            look(VerifiedPartition { id: found.partition_id, copies: copies.collect(), equal: found.equal });
        }
        Ok(())
    }
}
