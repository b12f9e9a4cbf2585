//! Whether all copies of a partition have the same: each keeps in view what it has when it comes to one entry of the log, and
//! reckons a checksum of that, while everybody goes on reading and writing.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use trimaran_placement::table::Partition;
use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_storage::engine::Order;

use crate::error::Error;
use crate::key::{RowKey, head, token_range};
use crate::limits::{CHECKSUM_KEPT, CHECKSUM_MAX};
use crate::router::Router;
use crate::store::{Store, View, stamp_ms};

/// What a copy had when it came to the entry.
#[derive(Clone, Debug)]
pub struct Moment {
    /// What was asked for.
    id: Bytes,
    /// The entry's.
    version: u64,
    view: View,
    tokens: (Token, Token),
    /// Kinds of rows that there are, but those of tables that are dropped: they are swept at any time.
    keyspaces: Vec<u64>,
}

impl Moment {
    /// On every replica, where the log says so.
    pub(crate) fn of(store: &Store, id: Bytes) -> Self {
        let keyspaces = store.tables().into_iter().map(|stats| stats.table);
        Self {
            id,
            version: store.version(),
            view: store.view(),
            tokens: store.tokens(),
            keyspaces: keyspaces.filter(|&rows| !store.is_dropped(rows)).collect(),
        }
    }

    /// Whether nobody will ask for it any more, at this version. While it is kept, so is what is overwritten.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        // Minutes.
        stamp_ms(self.version) + (CHECKSUM_KEPT.as_millis() as u64) < stamp_ms(now)
    }

    /// The one of this id.
    pub(crate) fn is(&self, id: &[u8]) -> bool {
        self.id == id
    }

    /// Reckons.
    pub(crate) fn sum(self) -> Result<wire::ChecksumReply, Error> {
        let (first, last) = self.tokens;
        let mut hash = Sha256::new();
        let mut reply = wire::ChecksumReply { found: true, version: self.version, ..Default::default() };
        for rows in self.keyspaces {
            for row in self.view.scan(token_range(rows, first, last), Order::Ascending) {
                let (row, version, stored) = row?;
                // Each with its length, so that nothing can be taken for something else.
                for part in [&row[..], &version.to_be_bytes(), &stored.bytes[..]] {
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
                reply.rows += 1;
                reply.bytes += (row.len() + stored.bytes.len()) as u64;
            }
        }
        reply.checksum = hash.finalize().to_vec().into();
        Ok(reply)
    }
}

/// A copy of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it is.
    pub node: u64,
    /// What it has; `None` if it did not say so in time.
    pub found: Option<wire::ChecksumReply>,
}

/// A partition that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// As it is now.
    pub partition: Partition,
    /// Its copies.
    pub copies: Vec<Replica>,
}

impl Verified {
    /// True if those that answered have the same.
    pub fn is_equal(&self) -> bool {
        let mut found = self.copies.iter().filter_map(|copy| copy.found.as_ref());
        let first = found.next();
        found.all(|found| Some(found) == first)
    }
}

/// What the copy on this node had, as soon as it has come there.
pub async fn here(router: &Router, partition: u64, id: &[u8]) -> Result<wire::ChecksumReply, Error> {
    let group = router.replica(partition).ok_or(Error::Elsewhere { partition })?;
    let came = async {
        loop {
            if let Some(moment) = group.read_now(|machine| machine.moment(id)) {
                return moment;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let Ok(moment) = tokio::time::timeout(CHECKSUM_MAX, came).await else {
        return Ok(wire::ChecksumReply::default());
    };
    let sum = tokio::task::spawn_blocking(move || moment.sum()).await;
    sum.map_err(|panicked| Error::Storage(panicked.to_string()))?
}

/// How often a copy looks whether it has come to the entry.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks at the partition that a token lies in.
pub async fn partition_at(router: &Router, token: Token) -> Result<Verified, Error> {
    let id = Bytes::copy_from_slice(&router.new_id());
    let key = RowKey { token, row: head(0, token).freeze() };
    let checksum = Body::Checksum(state::Checksum { id: id.clone() });
    router.write(&key, checksum, None).await?;
    let partition = router.partition_at(token).ok_or(Error::NotReady)?;
    let asked = partition.replicas.iter().map(|replica| {
        let (id, partition) = (id.clone(), partition.id);
        async move {
            let found = router.checksum(replica.node, partition, id).await;
            let found = found.inspect_err(|error| {
                tracing::warn!(partition, node = replica.node, %error, "a copy did not say what it has");
            });
            Replica { node: replica.node, found: found.ok().filter(|found| found.found) }
        }
    });
    let copies = futures::future::join_all(asked).await;
    Ok(Verified { partition, copies })
}
