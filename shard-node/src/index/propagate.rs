//! The leader of a partition carries to global indexes what waits for them, and sees to what is left behind: marks
//! and records whose time is over, changes in streams that are a day old, intents whose coordinator is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::group::Group;
use trimaran_storage::engine::Order;

use crate::error::Error;
use crate::keyspace::Kind;
use crate::limits::{ABANDONED_AFTER, PROPAGATE_EVERY, PROPAGATED_MAX, PROPAGATIONS_MAX, TIDY_EVERY};
use crate::machine::ShardMachine;
use crate::router::Router;
use crate::store::{Current, Row, Shared, Stored, version_at};
use crate::stream;
use crate::transaction::{apply, coordinate, row_key};

/// Runs until the task is dropped.
pub(crate) async fn run(router: Router, shared: Arc<Shared>) {
    tokio::join!(carry(&router, &shared), keep(&router));
}

/// Carries to indexes what waits for them: where it is announced, and now and then everywhere, since others may have led.
async fn carry(router: &Router, shared: &Arc<Shared>) {
    let places = Arc::new(Semaphore::new(PROPAGATIONS_MAX));
    let busy: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let mut everywhere = tokio::time::interval(PROPAGATE_EVERY);
    everywhere.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let announced = tokio::select! {
            announced = shared.announced() => Some(announced),
            _ = everywhere.tick() => None,
        };
        for (partition, group) in router.replicas() {
            let is_meant = announced.as_ref().is_none_or(|announced| announced.contains(&partition));
            if !is_meant || !group.is_leader() || !busy.lock().insert(partition) {
                continue;
            }
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (router, busy, shared) = (router.clone(), Arc::clone(&busy), Arc::clone(shared));
            tokio::spawn(async move {
                let _place = place;
                let done = carry_on(&router, &group).await;
                busy.lock().remove(&partition);
                let is_left = match done {
                    // What came while the last of it was looked at was announced to nobody.
                    Ok(()) => some(&group, Kind::Waiting, |_| true).await.is_ok_and(|rows| !rows.is_empty()),
                    Err(error) => {
                        tracing::warn!(partition, %error, "what waits here for indexes is carried on later");
                        false
                    }
                };
                if is_left && group.is_leader() {
                    shared.announce(partition);
                }
            });
        }
    }
}

/// Settles what nobody else does, and removes what has done its duty, one partition after another.
async fn keep(router: &Router) {
    let mut every = tokio::time::interval(PROPAGATE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidied = tokio::time::Instant::now();
    loop {
        every.tick().await;
        let is_time = tidied.elapsed() >= TIDY_EVERY;
        if is_time {
            tidied = tokio::time::Instant::now();
        }
        for (partition, group) in router.replicas().into_iter().filter(|(_, group)| group.is_leader()) {
            let mut done = settle(router, &group).await;
            if is_time && done.is_ok() {
                done = tidy(router, &group).await;
            }
            if let Err(error) = done {
                tracing::warn!(partition, %error, "what is left behind here is seen to later");
            }
        }
    }
}

/// Some rows of a kind that are meant, from the front.
async fn some(
    group: &Group<ShardMachine>,
    kind: Kind,
    is_meant: impl Fn(&Row) -> bool + Send + 'static,
) -> Result<Vec<Row>, Error> {
    let (view, ranges) = group.read_now(|machine| (machine.view(), machine.rows_of(kind)));
    let ranges = ranges.map_err(|stop| Error::Storage(stop.to_string()))?;
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let read = tokio::task::spawn_blocking(move || {
        let rows = ranges.into_iter().flat_map(|range| view.scan(range, Order::Ascending));
        let rows = rows.filter(|row| row.as_ref().map_or(true, &is_meant));
        rows.take(PROPAGATED_MAX).collect::<Result<Vec<Row>, _>>()
    });
    Ok(read.await.map_err(|panicked| Error::Storage(panicked.to_string()))??)
}

/// Carries to indexes what waits in a partition, until nothing does.
async fn carry_on(router: &Router, group: &Group<ShardMachine>) -> Result<(), Error> {
    loop {
        let rows = some(group, Kind::Waiting, |_| true).await?;
        if rows.is_empty() || !group.is_leader() {
            return Ok(());
        }
        let mut commands = Vec::new();
        // Of each command, the row that it comes from.
        let mut sources = Vec::new();
        for (row, _, stored) in &rows {
            let waiting = state::Waiting::decode(stored.bytes.clone())
                .map_err(|malformed| Error::Storage(format!("what waits for an index: {malformed}")))?;
            for change in waiting.changes {
                let write =
                    state::IndexWrite { version: waiting.version, item: change.item, size: change.size };
                commands.push((row_key(change.row), Body::IndexWrite(write)));
                sources.push(row.clone());
            }
        }
        let mut late: BTreeMap<Bytes, u64> = BTreeMap::new();
        let mut failed = None;
        let mut undone = BTreeSet::new();
        for (source, reply) in sources.into_iter().zip(router.write_many(commands, None).await) {
            match reply {
                Ok(reply) if reply.outcome() == Outcome::TooLate => {
                    let newest = late.entry(source).or_default();
                    *newest = reply.version.max(*newest);
                }
                // An index that is dropped is to have nothing.
                Ok(_) => {}
                Err(error) => {
                    undone.insert(source);
                    failed = Some(error);
                }
            }
        }
        let is_done = |row: &&Bytes| !late.contains_key(*row) && !undone.contains(*row);
        let done: Vec<Bytes> = rows.iter().map(|(row, _, _)| row).filter(is_done).cloned().collect();
        trim(group, done).await?;
        for (row, at_least) in late {
            if !undone.contains(&row) {
                propose(group, row, Body::Restamp(state::Restamp { at_least })).await?;
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
}

async fn propose(group: &Group<ShardMachine>, row: Bytes, body: Body) -> Result<(), Error> {
    let command = state::Command { row, body: Some(body) };
    group.propose(command.encode_to_vec().into(), None).await?;
    Ok(())
}

/// Removes rows that have done their duty.
pub(crate) async fn trim(group: &Group<ShardMachine>, rows: Vec<Bytes>) -> Result<(), Error> {
    let Some(first) = rows.first().cloned() else { return Ok(()) };
    propose(group, first, Body::Trim(state::Trim { rows })).await
}

/// Settles transactions that nobody else does.
async fn settle(router: &Router, group: &Group<ShardMachine>) -> Result<(), Error> {
    let held = group.read_now(|machine| machine.holds_before(before(router)));
    let held = held.map_err(|stop| Error::Storage(stop.to_string()))?;
    if !held.is_empty() {
        router.settle(held).await?;
    }
    Ok(())
}

/// Removes what has done its duty.
async fn tidy(router: &Router, group: &Group<ShardMachine>) -> Result<(), Error> {
    // Nothing may have been written for long.
    let now = group.read_now(ShardMachine::version).max(version_at(router.now_ms()));
    let before = before(router);
    let is_left =
        move |record: &state::Record, version: u64| record.committed && !record.resolved && version < before;
    let decode = |stored: &Stored| state::Record::decode(stored.bytes.clone());
    let current = |(_, version, item): &Row| Current { version: *version, item: item.clone() };
    let is_left_row = move |row: &Row| decode(&row.2).is_ok_and(|record| is_left(&record, row.1));
    for (row, version, stored) in some(group, Kind::Records, is_left_row).await? {
        let malformed = |malformed| Error::Storage(format!("the record of a transaction: {malformed}"));
        coordinate::finish(router, row, &decode(&stored).map_err(malformed)?, version).await?;
    }
    let is_spent = move |row: &Row| super::is_spent(&current(row), now);
    while let rows = some(group, Kind::Removed, is_spent).await?
        && !rows.is_empty()
    {
        trim(group, rows.into_iter().map(|(row, _, _)| row).collect()).await?;
    }
    stream::trim::run(group, now).await?;
    let is_over = move |row: &Row| apply::is_over(&current(row), now).unwrap_or(false);
    while let rows = some(group, Kind::Records, is_over).await?
        && !rows.is_empty()
    {
        trim(group, rows.into_iter().map(|(row, _, _)| row).collect()).await?;
    }
    Ok(())
}

/// The version of things that somebody should have ended by now.
fn before(router: &Router) -> u64 {
    // Milliseconds of seconds.
    version_at(router.now_ms().saturating_sub(ABANDONED_AFTER.as_millis() as u64))
}
