//! What a write to an item brings with it, on every replica alike: entries of local indexes in the same batch, and word for
//! the global ones, which waits beside the item until they have it ([`crate::index`]).

use bytes::Bytes;
use prost::Message as _;
use trimaran_proto::state::shard as state;
use trimaran_replication::error::Stop;

use super::{decode, encode, invalid};
use crate::item::{self, Item};
use crate::key::{Layout, parse_head};
use crate::machine::stop;
use crate::store::{Current, Store, Stored};
use crate::stream::{self, Cause};
use crate::table::{Index, IndexStatus, Table};
use crate::transaction::apply;

/// What a command on one item comes to, before anything is written.
#[derive(Debug)]
pub(crate) struct Evaluated {
    /// The item as it was.
    pub(crate) before: Option<Current>,
    /// What it is to be (`Some(None)` = removed); `None` if it is to stay as it is.
    pub(crate) after: Option<Option<Stored>>,
    /// The same, decoded, if somebody has.
    pub(crate) item: Option<Item>,
    /// For the caller, once it is written.
    pub(crate) reply: state::Reply,
}

impl Evaluated {
    /// Nothing is to be written.
    pub(crate) fn refused(before: Option<Current>, reply: state::Reply) -> Self {
        Self { before, after: None, item: None, reply }
    }

    /// Refuses an item that does not fit the table's indexes.
    pub(crate) fn check(self, store: &Store, row: &[u8]) -> Result<Self, Stop> {
        let (Some(Some(after)), Some(schema)) = (&self.after, indexed(store, row)) else { return Ok(self) };
        let item = match self.item {
            Some(item) => item,
            None => item::decode_item(&mut after.bytes.clone()).map_err(stop)?,
        };
        Ok(match schema.check_index_keys(&item) {
            Ok(()) => Self { item: Some(item), ..self },
            Err(refused) => Self::refused(self.before, invalid(refused)),
        })
    }
}

fn schema<'a>(store: &'a Store, row: &[u8]) -> Option<&'a std::sync::Arc<Table>> {
    let (table, _) = parse_head(row)?;
    store.schema(table)
}

fn indexed<'a>(store: &'a Store, row: &[u8]) -> Option<&'a std::sync::Arc<Table>> {
    schema(store, row).filter(|schema| !schema.indexes.is_empty())
}

/// Writes what was evaluated, and what follows from it.
pub(crate) fn carry_out(
    store: &mut Store,
    row: &Bytes,
    evaluated: Evaluated,
    cause: &Cause,
) -> Result<state::Reply, Stop> {
    let Evaluated { before, after, item, mut reply } = evaluated;
    if let Some(after) = after {
        reply.touched = write_decoded(store, row, (before.as_ref(), after), item, (cause, &[]))?;
        reply.version = store.version();
    }
    Ok(reply)
}

/// Puts down that a transaction wrote an item that was not there, and is not there now.
pub(crate) fn write_nothing(store: &mut Store, row: &Bytes, cause: &Cause) -> Result<(), Stop> {
    match schema(store, row).cloned() {
        Some(schema) => stream::record(store, &schema, row, (None, None), cause),
        None => Ok(()),
    }
}

/// Writes an item (`Some`) or removes it; `before` is what the store has. Returns what that is to indexes.
pub(crate) fn write(
    store: &mut Store,
    row: &Bytes,
    before: Option<&Current>,
    after: Option<Stored>,
    cause: &Cause,
) -> Result<Vec<state::Touched>, Stop> {
    write_decoded(store, row, (before, after), None, (cause, &[]))
}

/// Likewise as part of a transaction that writes the entries of some global indexes itself.
pub(crate) fn write_with(
    store: &mut Store,
    row: &Bytes,
    before: Option<&Current>,
    after: Option<Stored>,
    cause: (&Cause, &[u32]),
) -> Result<Vec<state::Touched>, Stop> {
    write_decoded(store, row, (before, after), None, cause)
}

/// What becomes of a row of an index, if anything does, for an item that was and one that is.
struct EntryChange {
    /// The row that is to have no entry any more, unless it is the other one.
    removed: Option<Bytes>,
    entry: Option<(Bytes, Stored)>,
    /// Bytes of each entry that is written or removed.
    sizes: Vec<u32>,
}

impl EntryChange {
    fn of(table: &Table, index: &Index, old: Option<&Item>, new: Option<&Item>) -> Option<Self> {
        let layout = Layout::of_index(table, index);
        let entry = |item: Option<&Item>| {
            let item = item?;
            Some((layout.row(item)?.row, encode(&index.project(table, item))))
        };
        let (old, new) = (entry(old), entry(new));
        let sizes = match (&old, &new) {
            (None, None) => return None,
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) if old.0 == new.0 => vec![old.1.size.max(new.1.size)],
            (old, new) => old.iter().chain(new).map(|(_, entry)| entry.size).collect(),
        };
        let removed = old.filter(|(row, _)| new.as_ref().is_none_or(|(kept, _)| kept != row));
        Some(Self { removed: removed.map(|(row, _)| row), entry: new, sizes })
    }

    fn rows(self) -> impl Iterator<Item = (Bytes, Option<Stored>)> {
        let removed = self.removed.map(|row| (row, None));
        removed.into_iter().chain(self.entry.map(|(row, entry)| (row, Some(entry))))
    }
}

/// What strong global indexes are to have once an item is what was evaluated; that has to be written in one transaction with it.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// Their numbers, whether anything changes there or not.
    pub(crate) indexes: Vec<u32>,
    pub(crate) changes: Vec<state::IndexChange>,
    pub(crate) touched: Vec<state::Touched>,
}

/// Whether entries of global indexes are to be written in one transaction with an item.
pub(crate) fn is_strong(store: &Store, row: &[u8]) -> bool {
    indexed(store, row).is_some_and(|schema| schema.strong_indexes.is_wanted())
}

/// See [`Entries`]; nothing where indexes follow their items.
pub(crate) fn entries(store: &Store, row: &[u8], evaluated: &Evaluated) -> Result<Entries, Stop> {
    let mut entries = Entries::default();
    let strong = indexed(store, row).filter(|schema| schema.strong_indexes.is_wanted());
    let (Some(schema), Some(after)) = (strong, &evaluated.after) else { return Ok(entries) };
    let decoded = |stored: &Stored| item::decode_item(&mut stored.bytes.clone()).map_err(stop);
    let old = evaluated.before.as_ref().map(|before| decoded(&before.item)).transpose()?;
    let new = after.as_ref().map(decoded).transpose()?;
    for index in schema.indexes.iter().filter(|index| !index.local && index.status != IndexStatus::Deleting) {
        entries.indexes.push(index.number);
        let Some(change) = EntryChange::of(schema, index, old.as_ref(), new.as_ref()) else { continue };
        entries.touched.push(state::Touched { index: index.number, sizes: change.sizes.clone() });
        entries.changes.extend(change.rows().map(|(row, stored)| index_change(index.number, row, stored)));
    }
    Ok(entries)
}

/// Likewise; `new` is what `after` has, if that is known. Global indexes that are named are seen to by others.
fn write_decoded(
    store: &mut Store,
    row: &Bytes,
    (before, after): (Option<&Current>, Option<Stored>),
    new: Option<Item>,
    (cause, others): (&Cause, &[u32]),
) -> Result<Vec<state::Touched>, Stop> {
    let schema = schema(store, row).cloned();
    if let Some(schema) = &schema {
        stream::record(store, schema, row, (before, after.as_ref()), cause)?;
    }
    let Some(schema) = schema.filter(|schema| !schema.indexes.is_empty()) else {
        store.set(row, before, after);
        return Ok(Vec::new());
    };
    let old = before.map(|_| decode(before)).transpose()?;
    let decoded = |after: &Stored| item::decode_item(&mut after.bytes.clone()).map_err(stop);
    let new = match new {
        None => after.as_ref().map(decoded).transpose()?,
        known => known,
    };
    store.set(row, before, after);
    let mut touched = Vec::new();
    let mut changes = Vec::new();
    for index in schema.indexes.iter().filter(|index| index.status != IndexStatus::Deleting) {
        let Some(change) = EntryChange::of(&schema, index, old.as_ref(), new.as_ref()) else { continue };
        touched.push(state::Touched { index: index.number, sizes: change.sizes.clone() });
        for (entry, stored) in change.rows() {
            if index.local {
                let before = store.get(&entry).map_err(stop)?;
                if before.is_some() || stored.is_some() {
                    store.set(&entry, before.as_ref(), stored);
                }
            } else if !others.contains(&index.number) {
                changes.push(index_change(index.number, entry, stored));
            }
        }
    }
    wait(store, row, changes);
    Ok(touched)
}

fn index_change(index: u32, row: Bytes, stored: Option<Stored>) -> state::IndexChange {
    let size = stored.as_ref().map_or(0, |stored| stored.size);
    state::IndexChange { index, row, item: stored.map(|stored| stored.bytes), size }
}

/// Puts down what global indexes are to have, as the item is at the version of the command that was begun.
fn wait(store: &mut Store, row: &Bytes, changes: Vec<state::IndexChange>) {
    if changes.is_empty() {
        return;
    }
    let Some(place) = store.next_waiting(row) else { return };
    let waiting = state::Waiting { row: row.clone(), version: store.version(), changes };
    let bytes: Bytes = waiting.encode_to_vec().into();
    // Bounded by the item's size, for each of its indexes.
    let stored = Stored { size: bytes.len() as u32, bytes };
    store.set(&place, None, Some(stored));
}

/// Puts down once more what waits at a row, as the item is now.
pub(crate) fn restamp(store: &mut Store, place: &Bytes) -> Result<(), Stop> {
    let Some(current) = store.get(place).map_err(stop)? else { return Ok(()) };
    let waiting = state::Waiting::decode(current.item.bytes.clone()).map_err(stop)?;
    // What it is about to be may be decided on already: word of what it is now would be newer than that.
    if apply::held(store, &waiting.row)?.is_some() {
        return Ok(());
    }
    let item = current_item(store, &waiting.row)?;
    let changes = match indexed(store, &waiting.row).cloned() {
        None => Vec::new(),
        Some(schema) => waiting
            .changes
            .into_iter()
            .filter_map(|change| {
                let index = schema.indexes.iter().find(|index| index.number == change.index)?;
                let now = item.as_ref().and_then(|item| {
                    let row = Layout::of_index(&schema, index).row(item)?.row;
                    (row == change.row).then(|| encode(&index.project(&schema, item)))
                });
                Some(index_change(change.index, change.row, now))
            })
            .collect(),
    };
    store.set(place, Some(&current), None);
    wait(store, &waiting.row, changes);
    Ok(())
}

/// Puts down what an index that is being made is to have of some items; nothing if a transaction has a hold of one: what it is about to
/// be may be decided on already, and word of what it is now would be newer than that.
pub(crate) fn backfill(store: &mut Store, backfill: &state::Backfill) -> Result<Vec<state::Held>, Stop> {
    let held = backfill.rows.iter().filter_map(|row| apply::held(store, row).transpose());
    let held = held.collect::<Result<Vec<_>, _>>()?;
    if !held.is_empty() {
        return Ok(held);
    }
    for row in &backfill.rows {
        let Some(schema) = indexed(store, row).cloned() else { continue };
        let index = schema.indexes.iter().find(|index| index.number == backfill.index && !index.local);
        let (Some(index), Some(item)) = (index, current_item(store, row)?) else { continue };
        if let Some(entry) = Layout::of_index(&schema, index).row(&item) {
            let stored = encode(&index.project(&schema, &item));
            // A copy: the row is a slice of the whole log entry.
            let row = Bytes::copy_from_slice(row);
            wait(store, &row, vec![index_change(index.number, entry.row, Some(stored))]);
        }
    }
    Ok(Vec::new())
}

fn current_item(store: &Store, row: &Bytes) -> Result<Option<Item>, Stop> {
    let current = store.get(row).map_err(stop)?;
    current.as_ref().map(|current| decode(Some(current))).transpose()
}
