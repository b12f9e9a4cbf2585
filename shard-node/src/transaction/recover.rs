//! What to do about intents: look at what was decided, decide against those whose coordinator is gone, and have the
//! decision carried out.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;

use super::{refusal, row_key};
use crate::error::Error;
use crate::key::RowKey;
use crate::limits::ABANDONED_AFTER;
use crate::router::Router;
use crate::store::stamp_ms;

/// What is known of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing was decided when it was looked at.
    None,
    /// Its items are to be written, at this version or later.
    Yes(u64),
    /// They are not.
    No(u64),
}

fn record(found: &wire::MaybeItem) -> Result<Option<state::Record>, Error> {
    let decode = |stored: &Bytes| state::Record::decode(stored.clone());
    let record = found.item.as_ref().map(decode).transpose();
    record.map_err(|malformed| Error::Storage(format!("the record of a transaction: {malformed}")))
}

impl Router {
    /// The record that stands at a row, of whichever transaction it is.
    pub(crate) async fn recorded(&self, row: &Bytes) -> Result<Option<state::Record>, Error> {
        let mut found = self.get(vec![row_key(row.clone())]).await;
        record(&found.pop().unwrap_or(Err(Error::NotReady))?)
    }

    async fn decision(&self, transaction: &state::Transaction) -> Result<Decision, Error> {
        let against = refusal(&transaction.record, &transaction.id);
        let asked = vec![row_key(transaction.record.clone()), row_key(against)];
        let mut found = self.get(asked).await.into_iter();
        let mut next = || found.next().unwrap_or(Err(Error::NotReady));
        let (committed, refused) = (next()?, next()?);
        if let Some(record) = record(&committed)?
            && record.id == transaction.id
        {
            return Ok(Decision::Yes(committed.version));
        }
        Ok(if refused.item.is_some() { Decision::No(refused.version) } else { Decision::None })
    }

    /// Decides against a transaction, unless somebody has decided for it.
    async fn abandon(&self, transaction: &state::Transaction, prepared: u64) -> Result<Decision, Error> {
        let decide = state::Decide {
            transaction: Some(transaction.clone()),
            commit: false,
            prepared,
            items: Vec::new(),
            reply: Bytes::new(),
        };
        let key = row_key(transaction.record.clone());
        let reply = Box::pin(self.write(&key, Body::Decide(decide), None)).await?;
        let committed = reply.record.is_some_and(|record| record.committed && record.id == transaction.id);
        Ok(if committed { Decision::Yes(reply.version) } else { Decision::No(reply.version) })
    }

    /// Has what was decided on these intents carried out, and returns the ids of transactions that were not decided on when
    /// they were looked at.
    pub(crate) async fn settle(&self, held: Vec<state::Held>) -> Result<Vec<Bytes>, Error> {
        let mut transactions: BTreeMap<Bytes, (state::Transaction, Vec<Bytes>, u64)> = BTreeMap::new();
        for one in held {
            let Some(transaction) = one.transaction else { continue };
            let known = transactions.entry(transaction.id.clone());
            let (_, rows, version) = known.or_insert_with(|| (transaction, Vec::new(), one.version));
            rows.push(one.row);
            *version = (*version).min(one.version);
        }
        let mut undecided = Vec::new();
        let mut resolutions = Vec::new();
        for (id, (transaction, rows, version)) in transactions {
            let mut decision = self.decision(&transaction).await?;
            let now = self.now_ms();
            // Milliseconds of seconds.
            let is_abandoned = stamp_ms(version) + (ABANDONED_AFTER.as_millis() as u64) < now;
            if decision == Decision::None && is_abandoned {
                tracing::debug!(record = ?transaction.record, "a transaction is decided against: it takes too long");
                decision = self.abandon(&transaction, version).await?;
            }
            let (commit, decided) = match decision {
                Decision::None => {
                    undecided.push(id);
                    continue;
                }
                Decision::Yes(version) => (true, version),
                Decision::No(version) => (false, version),
            };
            resolutions.extend(resolve(&id, commit, decided, rows));
        }
        for reply in self.write_many(resolutions, None).await {
            reply?;
        }
        Ok(undecided)
    }
}

/// The commands that carry a decision out.
pub(crate) fn resolve(
    id: &Bytes,
    commit: bool,
    decided: u64,
    rows: impl IntoIterator<Item = Bytes>,
) -> Vec<(RowKey, Body)> {
    let one = |row| {
        let resolve = state::Resolve { id: id.clone(), commit, decided };
        (row_key(row), Body::Resolve(resolve))
    };
    rows.into_iter().map(one).collect()
}
