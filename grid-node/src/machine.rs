//! A partition of the grid as a replicated machine: decodes a command, calls its data type, tells the watches.

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::api::placement::Partition;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::{Command, Item, Reply, SnapshotChunk, SnapshotHead};
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{Committed, Machine, SnapshotChunks};

use crate::data::{Entry, Keys, Value, key, string};
use crate::watch::Events;

/// About how many bytes of items go into one chunk of a snapshot.
const CHUNK_BYTES: usize = 1 << 20;

/// The keys of one partition, and who watches them.
#[derive(Debug)]
pub struct GridMachine {
    keys: Keys,
    events: Events,
}

impl GridMachine {
    /// An empty partition.
    pub fn new(partition: &Partition) -> Self {
        let keys = Keys::new(Token(partition.first_token), Token(partition.last_token));
        Self { keys, events: Events::default() }
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The changes.
    pub fn events(&self) -> &Events {
        &self.events
    }

    fn command(&mut self, payload: &Bytes, now_ms: u64) -> Result<Reply, Stop> {
        let body = Command::decode(payload.clone()).ok().and_then(|command| command.body);
        let keys = &mut self.keys;
        Ok(match body {
            Some(Body::Set(set)) => string::set(keys, &set, now_ms),
            Some(Body::MultiSet(set)) => string::multi_set(keys, &set, now_ms),
            Some(Body::Increment(increment)) => string::increment(keys, &increment, now_ms),
            Some(Body::CompareAndSwap(swap)) => string::compare_and_swap(keys, &swap, now_ms),
            Some(Body::Delete(delete)) => key::delete(keys, &delete, now_ms),
            Some(Body::Expire(expire)) => key::expire(keys, &expire, now_ms),
            Some(Body::Reap(reap)) => key::reap(keys, &reap, now_ms),
            None => return Err(Stop::new("a command of the grid that this release does not know")),
        })
    }
}

impl Machine for GridMachine {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Bytes>, Stop> {
        let mut replies = Vec::with_capacity(run.len());
        for committed in run {
            let reply = self.command(committed.payload, committed.stamp_ms)?;
            replies.push(reply.encode_to_vec().into());
        }
        self.events.tell(self.keys.take_events());
        Ok(replies)
    }

    fn snapshot(&self) -> SnapshotChunks {
        let (first, last) = self.keys.range();
        let head = SnapshotHead { version: self.keys.version(), first_token: first.0, last_token: last.0 };
        // Keys are copied here, under the lock; values are shared, and encoding happens when the chunks are asked for.
        let items: Vec<Item> = self
            .keys
            .entries()
            .map(|(key, entry)| {
                let Value::String(value) = &entry.value;
                Item {
                    key: Bytes::copy_from_slice(key),
                    value: value.clone(),
                    version: entry.version,
                    expires_at_ms: entry.expires_at_ms,
                }
            })
            .collect();
        Box::new(chunks(head, items))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let (first, last) = self.keys.range();
        let mut keys = Keys::new(first, last);
        let mut version = 0;
        for chunk in chunks {
            let chunk = SnapshotChunk::decode(chunk?).map_err(|bad| Stop::new(format!("snapshot: {bad}")))?;
            if let Some(head) = chunk.head {
                if (head.first_token, head.last_token) != (first.0, last.0) {
                    return Err(Stop::new("a snapshot of another range of tokens"));
                }
                version = head.version;
            }
            for item in chunk.items {
                let value = Value::String(Bytes::copy_from_slice(&item.value));
                let entry = Entry { value, version: item.version, expires_at_ms: item.expires_at_ms };
                keys.restore(&item.key, entry);
            }
        }
        keys.restore_version(version);
        self.keys = keys;
        self.events.forget_until(version);
        Ok(())
    }
}

fn chunks(head: SnapshotHead, items: Vec<Item>) -> impl Iterator<Item = Result<Bytes, Stop>> + Send {
    let mut items = items.into_iter();
    let mut head = Some(head);
    std::iter::from_fn(move || {
        let mut chunk = SnapshotChunk { head: head.take(), items: Vec::new() };
        let mut bytes = 0;
        while bytes < CHUNK_BYTES {
            let Some(item) = items.next() else { break };
            bytes += item.key.len() + item.value.len() + 32;
            chunk.items.push(item);
        }
        (chunk.head.is_some() || !chunk.items.is_empty()).then(|| Ok(chunk.encode_to_vec().into()))
    })
}

#[cfg(test)]
mod tests;
