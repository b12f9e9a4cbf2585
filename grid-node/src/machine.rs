//! A partition of the grid as a replicated machine: decodes a command, calls its data type, tells the watches.

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::grid::Position;
use trimaran_proto::api::placement::Partition;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{
    Changes, Command, Item, Origin, OwnChanges, Reply, Semaphore, SnapshotChunk, SnapshotHead,
};
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{self, Committed, Machine, Remember, SnapshotChunks};

use crate::command::event::doing_of_typed;
use crate::data::{Entries, Keys, key, semaphore, string};
use crate::lineage::{Forgotten, Lineage, Place};
use crate::memory::Share;
use crate::pubsub::notices::Teller;
use crate::waiters::Waiters;
use crate::watch::Events;

mod load;
pub(crate) mod query;
pub(crate) mod run;
mod snapshot;

/// About how many bytes of items go into one chunk of a snapshot.
const CHUNK_BYTES: usize = 1 << 20;

/// The keys of one partition, and who watches them.
#[derive(Debug)]
pub struct GridMachine {
    partition: u64,
    keys: Keys,
    events: Events,
    lineage: Lineage,
    waiters: Waiters,
    teller: Teller,
    /// Of the node's memory.
    share: Share,
    is_frozen: bool,
}

/// Where a watch goes on in a copy of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Here, as far as the copy has the keys; in the order of the tokens.
    Here(Vec<Place>),
    /// The copy does not know yet.
    NotYet,
}

impl GridMachine {
    /// An empty partition.
    pub fn new(partition: &Partition, teller: Teller, share: Share) -> Self {
        let keys = Keys::new(Token(partition.first_token), Token(partition.last_token));
        Self {
            partition: partition.id,
            keys,
            events: Events::default(),
            lineage: Lineage::default(),
            waiters: Waiters::default(),
            teller,
            share,
            is_frozen: false,
        }
    }

    /// Who waits for an element.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The changes.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Where a watch of the keys with these tokens, both inclusive, goes on that is at `from`, or begins.
    ///
    /// Errors if it is not known any more what it has to see.
    pub fn place(&self, (first, last): (Token, Token), from: Option<Position>) -> Result<Placed, Forgotten> {
        let range = self.keys.range();
        let here = (first.max(range.0), last.min(range.1));
        // A copy that is not filled yet does not know where it comes from.
        if here.0 > here.1 || (self.keys.version() == 0 && from.is_some_and(|from| from.version > 0)) {
            return Ok(Placed::NotYet);
        }
        let now = Position { partition: self.partition, version: self.keys.version(), ..Position::default() };
        self.lineage.places(self.partition, here, from.unwrap_or(now)).map(Placed::Here)
    }

    /// True if nothing is to be looked up here: another partition has the keys, or is about to.
    pub fn is_elsewhere(&self) -> bool {
        self.is_frozen
    }

    fn command(&mut self, committed: &Committed<'_>) -> Result<Reply, Stop> {
        let Committed { stamp_ms: now_ms, passed_ms, payload } = *committed;
        self.keys.passed_ms = passed_ms;
        let Command { body, fence, tells_changes } = Command::decode(payload.clone()).unwrap_or_default();
        if let Some(body) = &body
            && !(is_here(&self.keys, body)
                && fence.as_ref().is_none_or(|fence| self.keys.has_place_for(&fence.name)))
        {
            return Ok(wrong_partition());
        }
        let keys = &mut self.keys;
        keys.clock_ms = now_ms;
        if fence.is_some_and(|fence| !keys.is_held(&fence, passed_ms)) {
            return Ok(Reply { outcome: Outcome::Fenced.into(), ..Reply::default() });
        }
        if keys.is_full && body.as_ref().is_some_and(needs_memory) {
            return Ok(Reply { outcome: Outcome::Full.into(), ..Reply::default() });
        }
        if let (true, Some(body)) = (keys.notices.are_wanted(), &body) {
            keys.notices.announce(doing_of_typed(body));
        }
        let behind = keys.version();
        let mut reply = match body {
            Some(Body::Set(set)) => string::set(keys, &set, now_ms),
            Some(Body::MultiSet(set)) => string::multi_set(keys, &set, now_ms),
            Some(Body::Increment(increment)) => string::increment(keys, &increment, now_ms),
            Some(Body::CompareAndSwap(swap)) => string::compare_and_swap(keys, &swap, now_ms),
            Some(Body::Delete(delete)) => key::delete(keys, &delete, now_ms),
            Some(Body::Expire(expire)) => key::expire(keys, &expire, now_ms),
            Some(Body::Evict(evict)) => key::evict(keys, &evict),
            Some(Body::Reap(reap)) => key::reap(keys, &reap, now_ms),
            Some(Body::Run(command)) => run::run(keys, &command, now_ms),
            Some(Body::Transaction(transaction)) => run::transaction(keys, &transaction, now_ms),
            Some(Body::Pipeline(pipeline)) => run::pipeline(keys, &pipeline, now_ms),
            Some(Body::Acquire(acquire)) => semaphore::acquire(keys, &acquire, passed_ms),
            Some(Body::Renew(renew)) => semaphore::renew(keys, &renew, passed_ms),
            Some(Body::Release(release)) => semaphore::release(keys, &release, passed_ms),
            Some(Body::Load(load)) => load::load(keys, load, now_ms),
            None => return Err(Stop::new("a command of the grid that this release does not know")),
        };
        let upto = keys.version();
        if tells_changes && upto > behind {
            reply.changes = Some(OwnChanges { partition: self.partition, behind, upto });
        }
        Ok(reply)
    }
}

impl Machine for GridMachine {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<machine::Reply>, Stop> {
        self.keys.notices.want(self.teller.wanted());
        let mut replies = Vec::with_capacity(run.len());
        for committed in run {
            let reply = self.command(committed)?;
            let encoded = reply.encode_to_vec().into();
            replies.push(match reply.outcome() {
                Outcome::WrongPartition => machine::Reply::Elsewhere(encoded),
                _ => machine::Reply::Done(encoded),
            });
        }
        self.waiters.tell(&self.keys, run.last().map_or(0, |committed| committed.stamp_ms));
        self.events.tell(&self.keys.changes);
        self.keys.changes.clear();
        self.keys.changed_semaphores.clear();
        self.teller.tell(self.partition, self.keys.notices.take());
        self.share.is(self.keys.bytes());
        Ok(replies)
    }

    fn tokens(&self) -> (u64, u64) {
        let (first, last) = self.keys.range();
        (first.0, last.0)
    }

    fn bytes(&self) -> u64 {
        self.keys.bytes() as u64
    }

    fn middle(&self) -> Option<u64> {
        self.keys.middle().map(|token| token.0)
    }

    fn split(&mut self, at: u64, group: u64, _remember: Remember) -> Result<Self, Stop> {
        let slot = token::slot_of(Token(at));
        if token::slot_start(slot) != Token(at) {
            return Err(Stop::new("a split within a slot"));
        }
        let version = self.keys.version();
        let lineage = self.lineage.split(self.partition, version, (Token(at), self.keys.range().1));
        let events = self.events.split(Token(at));
        let keys = self.keys.split(Token(at));
        self.waiters.disperse();
        self.share.is(self.keys.bytes());
        let mut share = self.share.another();
        share.is(keys.bytes());
        Ok(Self {
            partition: group,
            keys,
            events,
            lineage,
            waiters: Waiters::default(),
            teller: self.teller.clone(),
            share,
            is_frozen: false,
        })
    }

    fn elsewhere(&self) -> Bytes {
        wrong_partition().encode_to_vec().into()
    }

    fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
        self.events.wake();
        self.waiters.disperse();
    }

    fn merge(&mut self, chunks: &mut SnapshotChunks, passed_ms: u64) -> Result<(), Stop> {
        let (mut head, keys) = read(chunks)?;
        let (own, (first, last)) = (self.keys.range(), keys.range());
        let version = keys.version();
        let behind = lineage(&mut head);
        self.keys.passed_ms = passed_ms;
        self.keys.merge(keys);
        self.share.is(self.keys.bytes());
        let next_version = self.keys.version();
        self.lineage.merge(
            behind,
            Origin {
                partition: head.partition,
                version,
                next_version,
                first_token: first.0,
                last_token: last.0,
            },
        );
        let changes = head.changes.unwrap_or_else(|| Changes { forgotten: version, ..Changes::default() });
        self.events.merge(changes, (own, (first, last)), next_version)
    }

    fn snapshot(&self) -> SnapshotChunks {
        let (first, last) = self.keys.range();
        let head = SnapshotHead {
            version: self.keys.version(),
            first_token: first.0,
            last_token: last.0,
            origins: self.lineage.origins().to_vec(),
            origins_forgotten: self.lineage.forgotten(),
            partition: self.partition,
            changes: self.is_frozen.then(|| self.events.newest_changes()),
            libraries: snapshot::libraries(&self.keys.libraries),
            is_full: self.keys.is_full,
            passed_ms: self.keys.passed_ms,
        };
        Box::new(chunks(head, self.keys.entries()))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        // The range of now: the partition may have been split or merged since this copy was made.
        let (mut head, keys) = read(chunks)?;
        self.lineage = lineage(&mut head);
        self.events.forget_until(keys.version());
        self.keys = keys;
        self.share.is(self.keys.bytes());
        self.waiters.disperse();
        Ok(())
    }
}

/// Those of gRPC and of older releases; commands of Redis are each asked by themselves.
pub(crate) fn needs_memory(body: &Body) -> bool {
    matches!(
        body,
        Body::Set(_)
            | Body::MultiSet(_)
            | Body::Increment(_)
            | Body::CompareAndSwap(_)
            | Body::Acquire(_)
            | Body::Load(_)
    )
}

fn wrong_partition() -> Reply {
    Reply { outcome: Outcome::WrongPartition.into(), ..Reply::default() }
}

fn lineage(head: &mut SnapshotHead) -> Lineage {
    let tokens = (Token(head.first_token), Token(head.last_token));
    Lineage::restore(std::mem::take(&mut head.origins), head.origins_forgotten, tokens)
}

/// Reads a snapshot: its head and the keys.
fn read(chunks: &mut SnapshotChunks) -> Result<(SnapshotHead, Keys), Stop> {
    let mut read: Option<(SnapshotHead, Keys)> = None;
    let mut restored = snapshot::Restored::default();
    for chunk in chunks {
        let chunk = SnapshotChunk::decode(chunk?).map_err(|bad| Stop::new(format!("snapshot: {bad}")))?;
        if let Some(head) = chunk.head {
            let mut keys = Keys::new(Token(head.first_token), Token(head.last_token));
            keys.libraries = snapshot::restore_libraries(&head.libraries);
            keys.is_full = head.is_full;
            keys.passed_ms = head.passed_ms;
            read = Some((head, keys));
        }
        let (_, keys) = read.as_mut().ok_or_else(|| Stop::new("a snapshot without its head"))?;
        for item in chunk.items {
            restored.take(item, keys)?;
        }
        for semaphore in &chunk.semaphores {
            keys.restore_semaphore(semaphore);
        }
    }
    let (head, mut keys) = read.ok_or_else(|| Stop::new("an empty snapshot"))?;
    keys.restore_version(head.version);
    Ok((head, keys))
}

/// True if all that a command is about is in this partition. What is reaped may have gone meanwhile.
fn is_here(keys: &Keys, body: &Body) -> bool {
    let here = |key: &Bytes| keys.has_place_for(key);
    match body {
        Body::Set(set) => here(&set.key),
        Body::MultiSet(set) => set.pairs.iter().all(|pair| here(&pair.key)),
        Body::Increment(increment) => here(&increment.key),
        Body::CompareAndSwap(swap) => here(&swap.key),
        Body::Delete(delete) => delete.keys.iter().all(here),
        Body::Expire(expire) => here(&expire.key),
        Body::Reap(_) | Body::Evict(_) => true,
        Body::Run(command) => run::is_here(keys, command),
        Body::Pipeline(pipeline) => run::are_here(keys, pipeline),
        Body::Acquire(acquire) => here(&acquire.name),
        Body::Renew(renew) => here(&renew.name),
        Body::Release(release) => here(&release.name),
        Body::Load(load) if load.items.is_empty() => {
            let (first, last) = keys.range();
            (first..=last).contains(&Token(load.token))
        }
        Body::Load(load) => load.items.iter().all(|item| here(&item.key)),
        Body::Transaction(transaction) => {
            transaction.watched.iter().all(|watched| here(&watched.key))
                && transaction.commands.iter().all(|command| run::is_here(keys, command))
        }
    }
}

fn chunks(head: SnapshotHead, entries: Entries) -> impl Iterator<Item = Result<Bytes, Stop>> + Send {
    let mut head = Some(head);
    let mut slots = 0..;
    // Of the slot that is being written.
    let mut items = Vec::new().into_iter();
    let mut semaphores = Vec::new().into_iter();
    std::iter::from_fn(move || {
        let mut chunk = SnapshotChunk { head: head.take(), ..SnapshotChunk::default() };
        let mut bytes = 0;
        while bytes < CHUNK_BYTES {
            if let Some(semaphore) = semaphores.next() {
                let semaphore: Semaphore = semaphore;
                bytes += semaphore.encoded_len();
                chunk.semaphores.push(semaphore);
                continue;
            }
            if let Some(item) = items.next() {
                let item: Item = item;
                bytes += snapshot::size(&item);
                chunk.items.push(item);
                continue;
            }
            let Some((place, slot)) = slots.next().and_then(|place| Some((place, entries.slot(place)?)))
            else {
                break;
            };
            let states = entries.semaphores(place).map(|(name, semaphore)| semaphore.state(name));
            semaphores = states.collect::<Vec<_>>().into_iter();
            items = slot.flat_map(|(key, entry)| snapshot::items(key, entry)).collect::<Vec<_>>().into_iter();
        }
        let is_something = chunk.head.is_some() || !chunk.items.is_empty() || !chunk.semaphores.is_empty();
        is_something.then(|| Ok(chunk.encode_to_vec().into()))
    })
}

#[cfg(test)]
mod tests;
