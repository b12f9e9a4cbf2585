//! What transactions do to the rows, on every replica.

use bytes::Bytes;
use prost::Message as _;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::error::Stop;

use super::{intent, item_of, refusal};
use crate::index;
use crate::key::parse_head;
use crate::keyspace::{self, Kind};
use crate::limits::{RECORDS_KEPT, REFUSALS_KEPT, TRANSACTION_MAX};
use crate::machine::stop;
use crate::op::change::{Entries, Evaluated, carry_out, entries, write_nothing, write_with};
use crate::op::{delete_item, put_item, refuse, reply, update_item};
use crate::past;
use crate::store::{Current, Store, Stored, stamp_ms};
use crate::stream::Cause;

/// Who has a hold of an item, if anybody has.
pub(crate) fn held(store: &Store, row: &[u8]) -> Result<Option<state::Held>, Stop> {
    if store.is_free() {
        return Ok(None);
    }
    store.intent(&intent(row)).map(|current| held_by(Bytes::copy_from_slice(row), current)).transpose()
}

/// What an intent says of who has the hold.
pub(crate) fn held_by(row: Bytes, current: &Current) -> Result<state::Held, Stop> {
    let intent = state::Intent::decode(current.item.bytes.clone()).map_err(stop)?;
    Ok(state::Held { row, transaction: intent.transaction, version: current.version })
}

/// The refusal of a write to an item that a transaction has a hold of.
pub(crate) fn refuse_held(held: state::Held) -> state::Reply {
    state::Reply { held: vec![held], ..reply(Outcome::Held) }
}

fn id(transaction: Option<&state::Transaction>) -> Bytes {
    transaction.map(|transaction| transaction.id.clone()).unwrap_or_default()
}

fn evaluate(store: &Store, row: &Bytes, what: What) -> Result<Evaluated, Stop> {
    match what {
        What::Put(put) => put_item::evaluate(store, row, put),
        What::Update(update) => update_item::evaluate(store, row, update),
        What::Delete(delete) => delete_item::evaluate(store, row, delete),
        What::Check(check) => {
            let before = store.get(row).map_err(stop)?;
            let refused = refuse(before.as_ref(), check.condition, check.want_old_on_failure)?;
            let size = before.as_ref().map_or(0, |before| before.item.size);
            let applied = state::Reply { size_before: size, ..reply(Outcome::Applied) };
            Ok(Evaluated::refused(before, refused.unwrap_or(applied)))
        }
        What::Entry(_) => Err(Stop::new("an entry of an index is no item")),
    }
}

/// An action that nothing stands against: its row, whether it only looks, and what it comes to.
type Possible = (Bytes, bool, Evaluated);

/// What the actions of a transaction come to: what is to be written, or why it is not.
fn evaluate_all(
    store: &Store,
    transaction: &[u8],
    actions: Vec<state::Action>,
) -> Result<Result<Vec<Possible>, state::Reply>, Stop> {
    let mut evaluated = Vec::with_capacity(actions.len());
    let mut is_fine = true;
    for action in actions {
        let row = Bytes::copy_from_slice(&action.row);
        let what = action.what.ok_or_else(|| Stop::new("an action that this release does not know"))?;
        let is_check = matches!(what, What::Check(_));
        let others = held(store, &row)?
            .filter(|held| id(held.transaction.as_ref()) != transaction || transaction.is_empty());
        let one = match others {
            Some(held) => Evaluated::refused(None, refuse_held(held)),
            None => match what {
                What::Entry(entry) => {
                    let after = entry.item.map(|bytes| Stored { size: entry.size, bytes });
                    Evaluated { before: None, after: Some(after), item: None, reply: reply(Outcome::Applied) }
                }
                _ if store.is_dropped(parse_head(&row).map_or(0, |(table, _)| table)) => {
                    Evaluated::refused(None, reply(Outcome::TableDropped))
                }
                what => evaluate(store, &row, what)?,
            },
        };
        is_fine &= one.reply.outcome() == Outcome::Applied;
        evaluated.push((row, is_check, one));
    }
    if is_fine {
        return Ok(Ok(evaluated));
    }
    let replies = evaluated.into_iter().map(|(_, _, one)| one.reply).collect();
    Ok(Err(state::Reply { replies, ..reply(Outcome::Cancelled) }))
}

/// The record of a row, unless its time is over.
fn record(store: &Store, row: &Bytes) -> Result<Option<(Current, state::Record)>, Stop> {
    let Some(current) = store.get(row).map_err(stop)? else { return Ok(None) };
    if is_over(&current, store.version())? {
        return Ok(None);
    }
    let record = state::Record::decode(current.item.bytes.clone()).map_err(stop)?;
    Ok(Some((current, record)))
}

/// Whether nobody may ask for a record any more, at this version.
pub(crate) fn is_over(current: &Current, now: u64) -> Result<bool, Stop> {
    let record = state::Record::decode(current.item.bytes.clone()).map_err(stop)?;
    let kept = if record.committed { RECORDS_KEPT } else { REFUSALS_KEPT };
    // At most an hour.
    let is_old = stamp_ms(current.version) + (kept.as_millis() as u64) < stamp_ms(now);
    Ok(is_old && (record.resolved || !record.committed))
}

fn known(current: &Current, record: state::Record) -> state::Reply {
    state::Reply { version: current.version, record: Some(record), ..reply(Outcome::Known) }
}

fn set_record(store: &mut Store, row: &Bytes, record: &state::Record) -> Result<(), Stop> {
    let before = store.get(row).map_err(stop)?;
    let bytes: Bytes = record.encode_to_vec().into();
    // A hundred items with their entries at most, and the answer to a single write.
    store.set(row, before.as_ref(), Some(Stored { size: bytes.len() as u32, bytes }));
    Ok(())
}

/// A whole transaction.
pub(crate) fn transact(store: &mut Store, request: state::Transact) -> Result<state::Reply, Stop> {
    if let Some(transaction) = &request.transaction
        && let Some((current, record)) = record(store, &transaction.record)?
    {
        return Ok(known(&current, record));
    }
    let evaluated = match evaluate_all(store, &[], request.actions)? {
        Ok(evaluated) => evaluated,
        Err(cancelled) => return Ok(cancelled),
    };
    for (row, _, one) in &evaluated {
        if !entries(store, row, one)?.changes.is_empty() {
            return Ok(reply(Outcome::Indexed));
        }
    }
    let mut replies = Vec::with_capacity(evaluated.len());
    let mut items = Vec::with_capacity(evaluated.len());
    let id = request.transaction.as_ref().map(|transaction| transaction.id.clone());
    // One that nothing is recorded of is told by when and where it was.
    let id =
        id.unwrap_or_else(|| [store.version(), store.tokens().0.0].map(u64::to_be_bytes).concat().into());
    let writing = evaluated.iter().filter(|(_, is_check, _)| !is_check).map(|(row, _, _)| row);
    let writes = super::writes(writing);
    for (row, is_check, one) in evaluated {
        let cause = cause(&id, &writes, &row);
        if !is_check && one.after.is_none() {
            write_nothing(store, &row, &cause)?;
        }
        let reply = carry_out(store, &row, one, &cause)?;
        items.push(touched(row, &reply));
        replies.push(reply);
    }
    if let Some(transaction) = request.transaction {
        let record = state::Record {
            id: transaction.id,
            committed: true,
            fingerprint: transaction.fingerprint,
            items,
            resolved: true,
            reply: Bytes::new(),
        };
        set_record(store, &Bytes::copy_from_slice(&transaction.record), &record)?;
    }
    Ok(state::Reply { version: store.version(), replies, ..reply(Outcome::Applied) })
}

/// What a transaction's change of a row comes from.
fn cause(id: &Bytes, writes: &[state::TableWrites], row: &[u8]) -> Cause {
    let table = parse_head(row).map_or(0, |(table, _)| table);
    let of_table = writes.iter().find(|writes| writes.table == table);
    Cause::Transaction { id: id.clone(), writes: of_table.map_or(0, |of_table| of_table.writes) }
}

/// What a record says of an item.
pub(crate) fn touched(row: Bytes, reply: &state::Reply) -> state::TouchedItem {
    state::TouchedItem { row, size_before: reply.size_before, size_after: reply.size_after }
}

/// Puts down intents, if everything that is asked can be done.
pub(crate) fn prepare(store: &mut Store, request: state::Prepare) -> Result<state::Reply, Stop> {
    store.follow(request.begun);
    if is_late(store, request.begun) {
        return Ok(state::Reply { version: store.version(), ..reply(Outcome::TooLate) });
    }
    let transaction = request.transaction.unwrap_or_default();
    let evaluated = match evaluate_all(store, &transaction.id, request.actions)? {
        Ok(evaluated) => evaluated,
        Err(cancelled) => return Ok(cancelled),
    };
    let mut replies = Vec::with_capacity(evaluated.len());
    for (row, check, mut one) in evaluated {
        let place = intent(&row);
        let rows = parse_head(&row).map_or(0, |(rows, _)| rows);
        let entry = keyspace::kind(rows) == Some(Kind::Index);
        // An index that is dropped is to have nothing.
        if entry && store.is_dropped(rows) {
            replies.push(one.reply);
            continue;
        }
        let of_indexes = if entry { Entries::default() } else { entries(store, &row, &one)? };
        (one.reply.entries, one.reply.touched) = (of_indexes.changes, of_indexes.touched);
        let before = store.get(&place).map_err(stop)?;
        let after = one.after.flatten();
        let intent = state::Intent {
            transaction: Some(transaction.clone()),
            // What is not there and is to be removed stays as it is, too.
            check: !entry && (check || (after.is_none() && one.before.is_none())),
            write: !check && !entry,
            entry,
            indexes: of_indexes.indexes,
            size: after.as_ref().map_or(0, |after| after.size),
            item: after.map(|after| after.bytes),
        };
        let bytes: Bytes = intent.encode_to_vec().into();
        // An item and a little.
        store.set(&place, before.as_ref(), Some(Stored { size: bytes.len() as u32, bytes }));
        replies.push(one.reply);
    }
    Ok(state::Reply { version: store.version(), replies, ..reply(Outcome::Applied) })
}

/// Too long ago for a transaction that began then, or was prepared then, to be decided on.
fn is_late(store: &Store, begun: u64) -> bool {
    // Milliseconds of minutes.
    stamp_ms(begun) + (TRANSACTION_MAX.as_millis() as u64) < stamp_ms(store.version())
}

/// Decides, if nobody has.
pub(crate) fn decide(store: &mut Store, row: &Bytes, request: state::Decide) -> Result<state::Reply, Stop> {
    store.follow(request.prepared);
    let transaction = request.transaction.unwrap_or_default();
    let against = refusal(row, &transaction.id);
    if let Some((current, refused)) = record(store, &against)? {
        return Ok(known(&current, refused));
    }
    if let Some((current, found)) = record(store, row)?
        && (found.id == transaction.id || request.commit)
    {
        return Ok(known(&current, found));
    }
    let committed = request.commit && !is_late(store, request.prepared);
    let record = state::Record {
        id: transaction.id,
        committed,
        fingerprint: transaction.fingerprint,
        items: if committed { request.items } else { Vec::new() },
        resolved: false,
        reply: if committed { request.reply } else { Bytes::new() },
    };
    set_record(store, if committed { row } else { &against }, &record)?;
    Ok(state::Reply { version: store.version(), record: Some(record), ..reply(Outcome::Applied) })
}

/// Carries out what was prepared for an item, or lets it go.
pub(crate) fn resolve(
    store: &mut Store,
    row: &Bytes,
    request: &state::Resolve,
) -> Result<state::Reply, Stop> {
    store.follow(request.decided);
    let place = intent(row);
    let Some(found) = store.get(&place).map_err(stop)? else { return Ok(reply(Outcome::Applied)) };
    let intent = state::Intent::decode(found.item.bytes.clone()).map_err(stop)?;
    if id(intent.transaction.as_ref()) != request.id {
        return Ok(reply(Outcome::Applied));
    }
    store.set(&place, Some(&found), None);
    let mut done = reply(Outcome::Applied);
    let transaction = intent.transaction.clone().unwrap_or_default();
    let cause = match transaction.single {
        true => Cause::Request,
        false => cause(&transaction.id, &transaction.writes, row),
    };
    if intent.entry {
        let is_left = parse_head(row).is_some_and(|(rows, _)| !store.is_dropped(rows));
        if request.commit && is_left {
            let write = state::IndexWrite { version: request.decided, item: intent.item, size: intent.size };
            index::set_entry(store, row, write)?;
        }
    } else if request.commit && !intent.check {
        if store.has_history(row) {
            past::keep_intent(store, row, &intent, request.decided);
        }
        let before = store.get(row).map_err(stop)?;
        let after = intent.item.map(|bytes| Stored { size: intent.size, bytes });
        if before.is_some() || after.is_some() {
            let cause = (&cause, &intent.indexes[..]);
            done.touched = write_with(store, row, before.as_ref(), after, cause)?;
        }
    } else if request.commit && intent.write {
        write_nothing(store, row, &cause)?;
    }
    done.version = store.version();
    Ok(done)
}

/// Notes that all items of a committed transaction are written.
pub(crate) fn end(store: &mut Store, row: &Bytes) -> Result<state::Reply, Stop> {
    if let Some((_, mut found)) = record(store, row)?.filter(|(_, found)| !found.resolved) {
        found.resolved = true;
        set_record(store, row, &found)?;
    }
    Ok(reply(Outcome::Applied))
}

/// The holds in a range of rows of items, but those of transactions that are known not to be decided.
pub(crate) fn held_within(
    store: &Store,
    range: &trimaran_storage::engine::Range,
    undecided: &[Bytes],
) -> Result<Vec<state::Held>, Stop> {
    let found = store.intents(range).map(|(place, current)| held_by(item_of(place), current));
    let is_open = |held: &state::Held| !undecided.contains(&id(held.transaction.as_ref()));
    found.filter(|held| held.as_ref().map_or(true, is_open)).collect()
}
