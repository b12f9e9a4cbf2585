//! Items as they were: superseded versions, kept for as long as their table says, and what is read as of a version.
//!
//! They are rows, too ([`crate::keyspace`]), beside the items: `key · until` holds what an item was until then. So a split, a merge, a
//! move and a snapshot take them along, and every copy has the same.
//!
//! What a transaction over several partitions did happened when it was decided on, which is before its items are written here. So it is
//! kept, too, what an item was about to be between the two: whoever reads as of a version in between sees all of the transaction.

use std::iter::Peekable;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::shard as state;
use trimaran_replication::group::Group;
use trimaran_replication::machine::Machine as _;
use trimaran_storage::engine::{Order, Range};

use crate::error::Error;
use crate::index::propagate::trim;
use crate::key::{parse_head, token_range};
use crate::keyspace::{Kind, beside, table};
use crate::limits::{HISTORY_LOOK_EVERY, HISTORY_PAGE, HISTORY_PAUSE, HISTORY_SLACK, HISTORY_TRIM_ROWS};
use crate::machine::ShardMachine;
use crate::op::query::behind;
use crate::router::Router;
use crate::store::{Current, Row, Store, Stored, View, version_at};
use crate::table::Status;

type StorageError = trimaran_storage::Error;

/// Of the rows beside items: what an item was.
const ITEMS: u32 = 0;

/// What it was about to be, since that was decided.
const INTENTS: u32 = 1;

/// Bytes behind the key: until when.
const UNTIL_BYTES: usize = 8;

fn place(row: &[u8], what: u32, until: u64) -> Bytes {
    let rows = parse_head(row).map_or(0, |(rows, _)| rows);
    let mut place = BytesMut::from(&beside(row, Kind::Past.of(table(rows), what))[..]);
    place.put_u64(until);
    place.freeze()
}

/// Where an item's version goes that is superseded at `until`, and how it is kept.
pub(crate) fn superseded(row: &[u8], before: &Current, until: u64) -> (Bytes, Stored) {
    let mut bytes = BytesMut::with_capacity(8 + before.item.bytes.len());
    bytes.put_u64(before.version);
    bytes.put_slice(&before.item.bytes);
    (place(row, ITEMS, until), Stored { size: before.item.size, bytes: bytes.freeze() })
}

/// Keeps what an item was about to be from when a transaction was decided on to when it is written, which is now.
pub(crate) fn keep_intent(store: &mut Store, row: &[u8], intent: &state::Intent, decided: u64) {
    let past = state::PastIntent { decided, item: intent.item.clone(), size: intent.size };
    let bytes: Bytes = past.encode_to_vec().into();
    // An item and a little.
    let stored = Stored { size: bytes.len() as u32, bytes };
    store.set(&place(row, INTENTS, store.version()), None, Some(stored));
}

/// A row beside the items: the item's row, and until when.
fn parse(place: &Bytes) -> Option<(Bytes, u64)> {
    let (rows, _) = parse_head(place)?;
    let until = u64::from_be_bytes(*place.last_chunk::<UNTIL_BYTES>()?);
    let row = place.slice(..place.len().checked_sub(UNTIL_BYTES)?);
    Some((beside(&row, Kind::Items.of(table(rows), 0)), until))
}

/// What rows a bound is of.
fn keyspace_of(bound: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bound.first_chunk::<8>()?))
}

/// Where the rows beside a range of a table's items are.
fn range_beside(range: &Range, items: u64, what: u32) -> Range {
    let past = Kind::Past.of(table(items), what);
    let end = range.end.as_ref().filter(|end| keyspace_of(end) == Some(items));
    let end = end.map_or_else(|| Bytes::copy_from_slice(&(past + 1).to_be_bytes()), |end| beside(end, past));
    Range::new(beside(&range.start, past), end)
}

fn damaged() -> StorageError {
    StorageError::Damaged { path: "a past row".to_owned(), offset: 0, what: "it cannot be read".to_owned() }
}

/// What a row beside an item says of how it was at a version, if it says something of that.
fn told(
    place: &Bytes,
    stored: &Stored,
    what: u32,
    at: u64,
) -> Result<Option<(Bytes, Option<Current>)>, StorageError> {
    let (row, until) = parse(place).ok_or_else(damaged)?;
    if until <= at {
        return Ok(None);
    }
    let mut bytes = stored.bytes.clone();
    let (version, item) = match what {
        ITEMS => {
            let version = bytes.try_get_u64().map_err(|_short| damaged())?;
            (version, Some(Stored { size: stored.size, bytes }))
        }
        _ => {
            let past = state::PastIntent::decode(bytes).map_err(|_malformed| damaged())?;
            (past.decided, past.item.map(|bytes| Stored { size: past.size, bytes }))
        }
    };
    Ok((version <= at).then(|| (row, item.map(|item| Current { version, item }))))
}

/// An item as it was at a version.
pub(crate) fn get(view: &View, row: &Bytes, at: u64) -> Result<Option<Current>, StorageError> {
    let first = |what: u32| {
        // The one that ended first after it.
        let own = Range::prefix(&place(row, what, 0)[..row.len()]);
        let behind = Range { start: place(row, what, at.saturating_add(1)), end: own.end };
        let Some(found) = view.scan(behind, Order::Ascending).next() else { return Ok(None) };
        let (place, _, stored) = found?;
        told(&place, &stored, what, at)
    };
    if let Some((_, about_to_be)) = first(INTENTS)? {
        return Ok(about_to_be);
    }
    match view.get(row)? {
        Some(current) if current.version <= at => Ok(Some(current)),
        _ => Ok(first(ITEMS)?.and_then(|(_, was)| was)),
    }
}

type Told = Result<(Bytes, Option<Current>), StorageError>;

/// The rows of a range of a table's items as they were at a version, in order.
pub(crate) fn scan(
    view: &View,
    range: Range,
    order: Order,
    at: u64,
) -> impl Iterator<Item = Result<Row, StorageError>> + Send + use<> {
    let items = keyspace_of(&range.start).unwrap_or_default();
    let kept = |what: u32| -> Source {
        let rows = view.scan(range_beside(&range, items, what), order);
        let told = rows.filter_map(move |found| match found {
            Ok((place, _, stored)) => told(&place, &stored, what, at).transpose(),
            Err(error) => Some(Err(error)),
        });
        (Box::new(told) as Box<dyn Iterator<Item = Told> + Send>).peekable()
    };
    let (were, about_to_be) = (kept(ITEMS), kept(INTENTS));
    let are = view.scan(range, order).filter_map(move |found| match found {
        Ok((row, version, item)) => (version <= at).then(|| Ok((row, Some(Current { version, item })))),
        Err(error) => Some(Err(error)),
    });
    let are: Source = (Box::new(are) as Box<dyn Iterator<Item = Told> + Send>).peekable();
    let mut sources = [are, were, about_to_be];
    std::iter::from_fn(move || {
        loop {
            match next(&mut sources, order)? {
                Ok((row, Some(current))) => return Some(Ok((row, current.version, current.item))),
                Ok((_, None)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

type Source = Peekable<Box<dyn Iterator<Item = Told> + Send>>;

/// The next row of some that are in order; what the last one says of it counts.
fn next(sources: &mut [Source; 3], order: Order) -> Option<Told> {
    let mut front: Option<Bytes> = None;
    for source in &mut *sources {
        match source.peek() {
            Some(Ok((row, _))) => {
                let is_before = |front: &Bytes| match order {
                    Order::Ascending => row < front,
                    Order::Descending => row > front,
                };
                if front.as_ref().is_none_or(is_before) {
                    front = Some(row.clone());
                }
            }
            Some(Err(_)) => return source.next(),
            None => {}
        }
    }
    let front = front?;
    let of_front = |told: &Told| told.as_ref().is_ok_and(|(row, _)| *row == front);
    sources.iter_mut().filter_map(|source| source.next_if(of_front)).last()
}

/// Runs until the task is dropped: removes what is older than tables say, in the partitions that this node leads.
pub(crate) async fn run(router: Router) {
    // When a table's history in a partition is looked at next, milliseconds since 1970.
    let mut next: std::collections::BTreeMap<(u64, u64), u64> = std::collections::BTreeMap::new();
    loop {
        tokio::time::sleep(HISTORY_LOOK_EVERY).await;
        let now_ms = router.now_ms();
        next.retain(|_, at| *at > now_ms);
        for (partition, group) in router.replicas().into_iter().filter(|(_, group)| group.is_leader()) {
            for table in group.read_now(ShardMachine::with_history) {
                if next.contains_key(&(partition, table)) {
                    continue;
                }
                // As it is by now: to go through the one before may have taken long. One that is deleted is swept.
                let tables = router.tables();
                let Some(known) =
                    tables.all().find(|known| known.id == table && known.status == Status::Active)
                else {
                    continue;
                };
                let kept_ms = known.history.filter(|history| !history.ends).map(|history| history.kept_ms);
                match forget(&group, table, kept_ms, router.now_ms()).await {
                    Ok(()) => {
                        // Each version is looked at some times in its life.
                        let pause = kept_ms.unwrap_or_default() / LOOKS;
                        next.insert((partition, table), now_ms + pause);
                    }
                    Err(error) => {
                        tracing::warn!(partition, table, %error, "history is removed later");
                    }
                }
            }
        }
    }
}

/// Times that a version is looked at before it is removed.
const LOOKS: u64 = 8;

/// Removes what was superseded longer ago than is kept of a table in a partition, or all of it if the partition keeps no more: what it
/// keeps once it is told to again is newer than what is removed here.
async fn forget(
    group: &Group<ShardMachine>,
    table: u64,
    kept_ms: Option<u64>,
    now_ms: u64,
) -> Result<(), Error> {
    // Milliseconds of minutes.
    let slack_ms = HISTORY_SLACK.as_millis() as u64;
    for what in [ITEMS, INTENTS] {
        let rows = Kind::Past.of(table, what);
        let found = group.read_now(|machine| {
            let has_some = machine.stats(rows).is_some_and(|stats| stats.items > 0);
            has_some.then(|| (machine.tokens(), machine.version(), machine.keeps_history(table)))
        });
        let Some(((first, last), version, is_kept)) = found else { continue };
        let below = match (is_kept, kept_ms) {
            (false, _) => version + 1,
            (true, Some(kept_ms)) => version_at(now_ms.saturating_sub(kept_ms).saturating_sub(slack_ms)),
            // It is about to be told.
            (true, None) => continue,
        };
        let mut rest = Some(token_range(rows, Token(first), Token(last)));
        while let Some(range) = rest.take() {
            let view = group.read_now(ShardMachine::view);
            let page = tokio::task::spawn_blocking(move || {
                let (mut spent, mut end) = (Vec::new(), None);
                for row in view.scan(range.clone(), Order::Ascending).take(HISTORY_PAGE) {
                    let (place, _, _) = row?;
                    let (_, until) = parse(&place).ok_or_else(damaged)?;
                    if until < below {
                        spent.push(place.clone());
                    }
                    end = Some(place);
                }
                let rest =
                    end.map(|row| behind(range, Order::Ascending, &row)).filter(|rest| !rest.is_empty());
                Ok::<_, Error>((spent, rest))
            });
            let (spent, more) = page.await.map_err(|panicked| Error::Storage(panicked.to_string()))??;
            rest = more;
            for rows in spent.chunks(HISTORY_TRIM_ROWS) {
                trim(group, rows.to_vec()).await?;
            }
            if !group.is_leader() {
                return Ok(());
            }
            tokio::time::sleep(HISTORY_PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
