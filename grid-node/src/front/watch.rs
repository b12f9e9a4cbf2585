//! Watches: the changes of a key, or of all keys with a prefix, in order within each partition, none left out.
//!
//! A watch follows each partition wherever it is: on this node's own copy if there is one, else through a node that has
//! one, and on from where it was when the copy moves away or its node ends. The versions of a partition are the same
//! on all of its copies. When it is split, what it gives up is watched on in the new partition, whose versions go on from there;
//! when it becomes part of another one, it is watched to its end first.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;
use trimaran_net::status::status;
use trimaran_placement::table::{Partition, Table};
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::{Position, WatchEvent, WatchEvents, WatchRequest, watch_event};
use trimaran_replication::group::Group;

use crate::data::{Change, Event};
use crate::error::Error;
use crate::front::check_key;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::machine::GridMachine;
use crate::router::{Router, token_of};
use crate::watch::Compacted;

/// Events of one message.
const EVENTS_MAX: usize = 256;

/// Messages that a reader may be behind before the watch waits for it.
const MESSAGES_MAX: usize = 4;

/// Pause before a partition is looked for anew.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

type Messages = mpsc::Sender<Result<WatchEvents, Status>>;

/// Begins a watch; it ends with its reader, when it cannot be served any more, or with `stop`.
pub(super) async fn begin(
    router: &Router,
    request: WatchRequest,
    stop: &CancellationToken,
) -> Result<mpsc::Receiver<Result<WatchEvents, Status>>, Error> {
    let table = router.table();
    let parts: Vec<Part> = if request.only_partition != 0 {
        // For another node: what is not here it looks for itself, and what is too much it leaves out.
        router.replica(request.only_partition)?;
        vec![Part { partition: request.only_partition, first: Token(0), last: Token(u64::MAX) }]
    } else if request.prefix {
        parts(&table, Token(0), Token(u64::MAX))
    } else {
        check_key(&request.key)?;
        parts(&table, token_of(&request.key), token_of(&request.key))
    };
    let (messages, stream) = mpsc::channel(MESSAGES_MAX);
    for part in parts {
        let from = match position(&table, part.partition, &request.from) {
            Some(position) => Some(position),
            // After everything acknowledged before the watch began.
            None => match router.replica(part.partition) {
                Ok(group) => {
                    router.catch_up(part.partition).await?;
                    let version = group.read_now(|machine| machine.keys().version());
                    Some(Position { partition: part.partition, version })
                }
                Err(_elsewhere) => None,
            },
        };
        let watch = Watch {
            router: router.clone(),
            part,
            request: request.clone(),
            messages: messages.clone(),
            from,
            has_begun: false,
            is_at_end: false,
        };
        watch.spawn(stop);
    }
    Ok(stream)
}

/// What a watch sees of a partition: keys with slots that begin within these tokens.
#[derive(Clone, Copy, Debug)]
struct Part {
    partition: u64,
    first: Token,
    last: Token,
}

/// The partitions of a range of tokens, both inclusive.
fn parts(table: &Table, first: Token, last: Token) -> Vec<Part> {
    let overlaps = |found: &&Partition| found.first <= last && first <= found.last;
    let part = |found: &Partition| Part {
        partition: found.id,
        first: found.first.max(first),
        last: found.last.min(last),
    };
    table.partitions().filter(overlaps).map(part).collect()
}

/// Where a watch goes on in a partition: where it was there, or in one that this was split from.
fn position(table: &Table, partition: u64, known: &[Position]) -> Option<Position> {
    let mut at = Some(partition);
    while let Some(partition) = at {
        if let Some(position) = known.iter().find(|position| position.partition == partition) {
            return Some(*position);
        }
        at = table.get(partition).and_then(|found| found.split_from);
    }
    // It may have become part of this one.
    known.iter().find(|position| table.get(position.partition).is_none()).copied()
}

/// A watch of one partition.
struct Watch {
    router: Router,
    part: Part,
    request: WatchRequest,
    messages: Messages,
    /// Everything up to this was sent, here or in a partition that this was split from; `None` before it is known where
    /// to begin.
    from: Option<Position>,
    has_begun: bool,
    /// The partition is part of another one by now, and everything that happened in it was sent.
    is_at_end: bool,
}

/// Why a copy does not serve a watch any more.
enum Ended {
    /// The reader is gone.
    Unread,
    /// The copy is gone, or was never there.
    Away,
    /// The partition was split: others see to what it has given up.
    Split,
    /// The copy does not remember that far back.
    Compacted(Status),
}

impl Watch {
    fn spawn(self, stop: &CancellationToken) {
        let (stop, messages) = (stop.clone(), self.messages.clone());
        tokio::spawn(async move {
            if stop.run_until_cancelled(self.run(&stop)).await.is_none() {
                // So that its reader goes on elsewhere, and does not take it for the end.
                let _gone = messages.try_send(Err(status(&Error::NotReady)));
            }
        });
    }

    /// True if the partition is part of another one by now.
    fn is_merged_away(&self) -> bool {
        let table = self.router.table();
        table.version() > 0 && table.get(self.part.partition).is_none()
    }

    /// True if the partition has less than what is watched.
    fn is_split(&self) -> bool {
        let found = self.router.table().get(self.part.partition).map(|found| (found.first, found.last));
        self.request.only_partition == 0
            && found.is_some_and(|(first, last)| self.part.first < first || self.part.last > last)
    }

    /// Leaves what the partition has given up to others, which go on from here. False if nothing is left.
    fn part_ways(&mut self, stop: &CancellationToken) -> bool {
        let (mut own, table) = (None, self.router.table());
        for part in parts(&table, self.part.first, self.part.last) {
            if part.partition == self.part.partition {
                own = Some(part);
                continue;
            }
            let watch = Self {
                router: self.router.clone(),
                part,
                request: self.request.clone(),
                messages: self.messages.clone(),
                from: self.from,
                has_begun: false,
                is_at_end: false,
            };
            watch.spawn(stop);
        }
        self.part = own.unwrap_or(self.part);
        own.is_some()
    }

    async fn run(mut self, stop: &CancellationToken) {
        loop {
            let is_only_here = self.request.only_partition != 0;
            let here = self.router.replica(self.part.partition).ok().filter(|_| !self.is_at_end);
            let is_over = self.is_merged_away() && here.is_none() && !is_only_here;
            if (is_over || self.is_split()) && !self.part_ways(stop) {
                return;
            }
            let mut ended = match here {
                Some(group) => self.follow_here(group).await,
                None if is_only_here => {
                    let status =
                        status(&Error::Elsewhere { partition: self.part.partition, address: String::new() });
                    let _gone = self.messages.send(Err(status)).await;
                    return;
                }
                None => Ended::Away,
            };
            // A copy that came lately does not remember what others do.
            if !is_only_here && !matches!(ended, Ended::Unread | Ended::Split) {
                for node in self.router.elsewhere(self.part.partition) {
                    match self.follow_there(GridClient::new(node)).await {
                        Ended::Away => {}
                        other => {
                            ended = other;
                            break;
                        }
                    }
                }
            }
            match ended {
                Ended::Unread => return,
                Ended::Split => {}
                Ended::Away if self.is_at_end && !is_only_here => {}
                Ended::Compacted(status) => {
                    let _gone = self.messages.send(Err(status)).await;
                    return;
                }
                Ended::Away => {
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
                        () = self.messages.closed() => return,
                    }
                }
            }
        }
    }

    async fn follow_here(&mut self, group: Group<GridMachine>) -> Ended {
        let events = group.read_now(|machine| machine.events().clone());
        let mut newest = events.newest();
        // Only a watch that began through another node does not know yet.
        let mut from = match group.read_now(|machine| self.place(machine)) {
            Ok(Some(from)) => from,
            // A copy that is not filled yet does not know where it comes from.
            Ok(None) => return Ended::Away,
            Err(compacted) => return self.compacted(compacted),
        };
        if self.begin(from).await.is_err() {
            return Ended::Unread;
        }
        let mut table = self.router.table_version();
        let mut is_closed = false;
        loop {
            newest.mark_unchanged();
            table.mark_unchanged();
            if self.is_split() {
                return Ended::Split;
            }
            // Before the changes are looked at: there are none behind its end.
            let is_at_end = is_closed || (self.is_merged_away() && group.read_now(GridMachine::is_elsewhere));
            let found = events.after(from, EVENTS_MAX, |key| self.wants(key));
            let batch: Vec<WatchEvent> = match found {
                Ok((changes, upto)) => {
                    from = upto;
                    changes.into_iter().map(|event| watch_event(self.part.partition, event)).collect()
                }
                Err(compacted) => return self.compacted(compacted),
            };
            let is_idle = batch.is_empty();
            if !is_idle && self.send(batch).await.is_err() {
                return Ended::Unread;
            }
            self.from = Some(self.at(from));
            if is_idle && is_at_end {
                self.is_at_end = !is_closed;
                return Ended::Away;
            }
            if is_idle {
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { return Ended::Away },
                    _ = table.changed() => {}
                    () = group.closed() => is_closed = true,
                    () = self.messages.closed() => return Ended::Unread,
                }
            }
        }
    }

    /// Where to begin in a copy of the partition: the version up to which everything was sent. `None` if the copy does not
    /// know yet.
    fn place(&self, machine: &GridMachine) -> Result<Option<u64>, Compacted> {
        let own = self.part.partition;
        let table = self.router.table();
        // What the reader has seen of partitions that are part of this one by now.
        for seen in self.request.from.iter().filter(|seen| table.get(seen.partition).is_none()) {
            let Some(absorbed) = machine.absorbed(seen.partition) else { continue };
            let is_newer = |from: Position| from.partition == own && from.version >= absorbed.at_version;
            if seen.version < absorbed.last_version && !self.from.is_some_and(is_newer) {
                return Err(Compacted { oldest: absorbed.at_version });
            }
        }
        let Some(from) = self.from else { return Ok(Some(machine.keys().version())) };
        if from.partition == own {
            return Ok(Some(from.version));
        }
        // What came later there was not about the keys here.
        if let Some(at) = machine.split_off_at(from.partition) {
            return Ok(Some(from.version.min(at)));
        }
        let (first, last) = machine.keys().range();
        match machine.absorbed(from.partition) {
            Some(absorbed) if from.version >= absorbed.last_version => Ok(Some(absorbed.at_version)),
            Some(absorbed) => Err(Compacted { oldest: absorbed.at_version }),
            // Of a partition that is long gone.
            None if self.router.is_merged_away(from.partition)
                && first <= self.part.first
                && token::slot_start(token::slot_of(self.part.last)) <= last =>
            {
                Err(Compacted { oldest: machine.keys().version() })
            }
            None => Ok(None),
        }
    }

    fn compacted(&self, compacted: Compacted) -> Ended {
        let error = Error::Compacted { partition: self.part.partition, oldest: compacted.oldest };
        // OUT_OF_RANGE, as the API says: it is not the class's usual code.
        let refused = status(&error);
        let details = refused.details().to_vec().into();
        Ended::Compacted(Status::with_details(Code::OutOfRange, refused.message(), details))
    }

    async fn follow_there(&mut self, client: GridClient<tonic::transport::Channel>) -> Ended {
        let table = self.router.table();
        let merged = self.request.from.iter().filter(|seen| table.get(seen.partition).is_none()).copied();
        let merged = merged.filter(|seen| self.from.is_none_or(|from| from.partition != seen.partition));
        let request = WatchRequest {
            from: self.from.into_iter().chain(merged).collect(),
            only_partition: self.part.partition,
            ..self.request.clone()
        };
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = match client.watch(request).await {
            Ok(stream) => stream.into_inner(),
            Err(refused) => return self.ended(refused),
        };
        let mut table = self.router.table_version();
        loop {
            table.mark_unchanged();
            if self.is_split() {
                return Ended::Split;
            }
            let message = tokio::select! {
                message = stream.message() => message,
                _ = table.changed() => continue,
                () = self.messages.closed() => return Ended::Unread,
            };
            let events = match message {
                Ok(Some(message)) => message.events,
                Ok(None) => return Ended::Away,
                Err(refused) => return self.ended(refused),
            };
            let upto =
                events.iter().filter_map(|event| event.position).map(|position| position.version).max();
            let (begins, changes): (Vec<_>, Vec<_>) =
                events.into_iter().partition(|event| event.kind() == watch_event::Kind::Begin);
            let began = begins.first().and_then(|event| event.position).map(|position| position.version);
            if let Some(began) = began
                && self.begin(began).await.is_err()
            {
                return Ended::Unread;
            }
            // The other node may not know yet what the partition has given up.
            let changes: Vec<_> = changes.into_iter().filter(|event| self.wants(&event.key)).collect();
            if !changes.is_empty() && self.send(changes).await.is_err() {
                return Ended::Unread;
            }
            self.from = upto.map(|version| self.at(version)).or(self.from);
        }
    }

    fn at(&self, version: u64) -> Position {
        Position { partition: self.part.partition, version }
    }

    fn wants(&self, key: &[u8]) -> bool {
        let is_asked =
            if self.request.prefix { key.starts_with(&self.request.key) } else { key == self.request.key };
        is_asked && (self.part.first..=self.part.last).contains(&token_of(key))
    }

    fn ended(&self, refused: Status) -> Ended {
        debug!(partition = self.part.partition, code = ?refused.code(), "a watch looks for another copy");
        if refused.code() == Code::OutOfRange { Ended::Compacted(refused) } else { Ended::Away }
    }

    /// Says once where the watch has begun.
    async fn begin(&mut self, version: u64) -> Result<(), ()> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        let begin = WatchEvent {
            kind: watch_event::Kind::Begin.into(),
            position: Some(self.at(version)),
            ..WatchEvent::default()
        };
        self.from = Some(self.at(version));
        self.send(vec![begin]).await
    }

    /// Errors if nobody reads any more.
    async fn send(&self, events: Vec<WatchEvent>) -> Result<(), ()> {
        self.messages.send(Ok(WatchEvents { events })).await.map_err(|_gone| ())
    }
}

fn watch_event(partition: u64, event: Event) -> WatchEvent {
    let (kind, value) = match event.change {
        Change::Set(value) => (watch_event::Kind::Set, Some(value)),
        Change::Deleted => (watch_event::Kind::Delete, None),
        Change::Expired => (watch_event::Kind::Expire, None),
    };
    WatchEvent {
        kind: kind.into(),
        key: event.key,
        value,
        position: Some(Position { partition, version: event.version }),
    }
}
