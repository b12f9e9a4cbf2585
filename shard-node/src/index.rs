//! Global secondary indexes: entries stand by the hash of their own key, in other partitions than the items.
//!
//! A write to an item puts down, in the same batch, which entries its indexes are to have ([`crate::op::change`]). The leader of the
//! item's partition carries that to the entries' partitions ([`propagate`]) and removes it when they have it; whoever
//! leads next goes on with it. So an index never misses a change that was acknowledged, whatever dies meanwhile.
//!
//! Every word about an entry carries the version of the write that it follows from, and the newest counts (`apply`): it
//! does not matter how often word comes, or in which order, or from whom. An entry that is removed leaves a mark with its
//! version, so that older word does not bring it back; marks are removed after [`REMOVED_KEPT`], and word from before that is
//! refused: the item is asked for anew. Where indexes are strong, entries are written in one transaction with their items; they carry
//! the version of the decision, so that word that follows anyway (of what expired, say) is told from it. [`build`] enters the items that
//! were there before their index.

use bytes::{BufMut as _, Bytes, BytesMut};
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::error::Stop;

use crate::key::parse_head;
use crate::keyspace::{self, Kind, beside};
use crate::limits::REMOVED_KEPT;
use crate::machine::stop;
use crate::op::reply;
use crate::store::{Current, Store, Stored, stamp_ms};

pub mod build;
pub mod propagate;

/// The version of the write that an entry, or the mark of a removed one, follows from: its last eight bytes.
fn version(current: Option<&Current>) -> u64 {
    let last = current.and_then(|current| current.item.bytes.last_chunk::<8>());
    last.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// On every replica of the entry's partition.
pub(crate) fn apply(store: &mut Store, row: &Bytes, write: state::IndexWrite) -> Result<state::Reply, Stop> {
    store.follow(write.version);
    if is_too_old(store, write.version) {
        return Ok(state::Reply { version: store.version(), ..reply(Outcome::TooLate) });
    }
    set_entry(store, row, write)?;
    Ok(reply(Outcome::Applied))
}

/// Writes or removes an entry, unless it, or that it is not there, follows from something newer.
pub(crate) fn set_entry(store: &mut Store, row: &Bytes, write: state::IndexWrite) -> Result<(), Stop> {
    let Some((rows, _)) = parse_head(row) else { return Ok(()) };
    let mark = beside(row, Kind::Removed.of(keyspace::table(rows), keyspace::number(rows)));
    let (entry, removed) = (store.get(row).map_err(stop)?, store.get(&mark).map_err(stop)?);
    if write.version <= version(entry.as_ref()).max(version(removed.as_ref())) {
        return Ok(());
    }
    let versioned = |item: &[u8], size: u32| {
        let mut bytes = BytesMut::with_capacity(item.len() + 8);
        bytes.put_slice(item);
        bytes.put_u64(write.version);
        Stored { size, bytes: bytes.freeze() }
    };
    match write.item {
        Some(item) => {
            store.set(row, entry.as_ref(), Some(versioned(&item, write.size)));
            if removed.is_some() {
                store.set(&mark, removed.as_ref(), None);
            }
        }
        None => {
            if entry.is_some() {
                store.set(row, entry.as_ref(), None);
            }
            // Eight bytes.
            store.set(&mark, removed.as_ref(), Some(versioned(&[], 8)));
        }
    }
    Ok(())
}

/// Word of this version may be older than a mark that is gone.
fn is_too_old(store: &Store, version: u64) -> bool {
    // Milliseconds of ten minutes.
    stamp_ms(version) + (REMOVED_KEPT.as_millis() as u64) < stamp_ms(store.version())
}

/// Whether the mark of a removed entry has done its duty, at this version.
pub(crate) fn is_spent(mark: &Current, now: u64) -> bool {
    stamp_ms(version(Some(mark))) + (REMOVED_KEPT.as_millis() as u64) < stamp_ms(now)
}
