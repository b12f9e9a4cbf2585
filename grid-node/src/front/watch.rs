//! Watches: the changes of a key, or of all keys with a prefix, in order within each partition, none left out.
//!
//! A watch follows each partition wherever it is: on this node's own copy if there is one, else through a node that has
//! one, and on from where it was when the copy moves away or its node ends. The versions of a partition are the same
//! on all of its copies. Keys that leave a partition, because it is split or becomes part of another one, are watched on
//! where they go: each copy knows how its keys came to it ([`crate::lineage`]).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
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
use crate::limits::{MESSAGE_BYTES_MAX, POSITIONS_MAX, WATCH_PATIENCE};
use crate::lineage::{Forgotten, Place};
use crate::machine::{GridMachine, Placed};
use crate::router::{Router, token_of};
use crate::watch::{Asked, NotHere};

/// Events of one message.
const EVENTS_MAX: usize = 256;

/// Messages that a reader may be behind before the watch waits for it.
const MESSAGES_MAX: usize = 4;

/// Pause before a partition is looked for anew.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

type Messages = mpsc::Sender<Result<WatchEvents, Status>>;

/// Begins a watch; it ends with its reader, when it cannot be served any more, or with `stop`.
pub(crate) async fn begin(
    router: &Router,
    request: WatchRequest,
    stop: &CancellationToken,
) -> Result<mpsc::Receiver<Result<WatchEvents, Status>>, Error> {
    let table = router.table();
    let begins = if request.only_partition != 0 {
        // For another node: what is not here it looks for itself.
        router.replica(request.only_partition)?;
        vec![(only(&request), request.from.first().copied())]
    } else if request.prefix {
        begins(&table, (Token(0), Token(u64::MAX)), &request.from)?
    } else {
        check_key(&request.key)?;
        // All of the slot: no other range begins and ends with token 0, which would mean none.
        let slot = token::slot(&request.key);
        begins(&table, (token::slot_start(slot), token::slot_end(slot)), &request.from)?
    };
    let (messages, stream) = mpsc::channel(MESSAGES_MAX);
    for (part, from) in begins {
        let from = match (from, router.replica(part.partition)) {
            // After everything acknowledged before the watch began.
            (None, Ok(group)) => {
                router.catch_up(part.partition).await?;
                let version = group.read_now(|machine| machine.keys().version());
                Some(part.at(part.partition, version))
            }
            (from, _) => from,
        };
        let (router, request, messages) = (router.clone(), request.clone(), messages.clone());
        let (begun, is_at_end, compacted_since) = (None, false, None);
        Watch { router, part, request, messages, from, begun, is_at_end, compacted_since }.spawn(stop);
    }
    Ok(stream)
}

/// What a watch sees of a partition: keys with slots within these tokens.
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

impl Part {
    fn at(&self, partition: u64, version: u64) -> Position {
        Position { partition, version, first_token: self.first.0, last_token: self.last.0 }
    }

    /// What is also among these tokens.
    fn within(self, (first, last): (Token, Token)) -> Option<Self> {
        let part = Self { first: self.first.max(first), last: self.last.min(last), ..self };
        (part.first <= part.last).then_some(part)
    }

    /// What is not among these tokens.
    fn without(self, (first, last): (Token, Token)) -> impl Iterator<Item = Self> {
        let before = first.0.checked_sub(1).map(|end| (Token(0), Token(end)));
        let behind = last.0.checked_add(1).map(|begin| (Token(begin), Token(u64::MAX)));
        [before, behind].into_iter().flatten().filter_map(move |rest| self.within(rest))
    }
}

/// What another node asks this one for. One of an older release names no tokens.
fn only(request: &WatchRequest) -> Part {
    let (first, last) = match (request.first_token, request.last_token) {
        (0, 0) => (Token(0), Token(u64::MAX)),
        (first, last) => (Token(first), Token(last)),
    };
    Part { partition: request.only_partition, first, last }
}

pub(crate) fn tokens(position: &Position) -> Option<(Token, Token)> {
    let (first, last) = (position.first_token, position.last_token);
    ((first, last) != (0, 0)).then_some((Token(first), Token(last)))
}

/// Where a watch of keys with these tokens begins: from the positions known, in the partitions of now.
fn begins(
    table: &Table,
    (first, last): (Token, Token),
    known: &[Position],
) -> Result<Vec<(Part, Option<Position>)>, Error> {
    if known.len() > POSITIONS_MAX {
        let (actual, max) = (known.len() as u64, POSITIONS_MAX as u64);
        return Err(Error::Limit { field: "from", limit: "POSITIONS_MAX", actual, max });
    }
    let mut begins = Vec::new();
    for part in parts(table, first, last) {
        let mut rest = vec![part];
        // The last one that is about a token counts.
        for position in known.iter().rev() {
            let Some(tokens) = tokens(position).filter(|tokens| part.within(*tokens).is_some()) else {
                continue;
            };
            begins.extend(
                rest.iter().filter_map(|part| part.within(tokens)).map(|part| (part, Some(*position))),
            );
            rest = rest.into_iter().flat_map(|part| part.without(tokens)).collect();
        }
        let whole = position(table, part.partition, known);
        begins.extend(rest.into_iter().map(|part| (part, whole)));
    }
    Ok(begins)
}

/// The position, among those that name no tokens, that is about a partition, or about one that this was split from.
fn position(table: &Table, partition: u64, known: &[Position]) -> Option<Position> {
    let of = |partition: u64| {
        known.iter().find(|known| known.partition == partition && tokens(known).is_none()).copied()
    };
    let mut at = Some(partition);
    while let Some(partition) = at {
        if let Some(position) = of(partition) {
            return Some(position);
        }
        at = table.get(partition).and_then(|found| found.split_from);
    }
    // It may have become part of this one.
    known.iter().find(|known| tokens(known).is_none() && table.get(known.partition).is_none()).copied()
}

/// A watch of one partition.
struct Watch {
    router: Router,
    part: Part,
    request: WatchRequest,
    messages: Messages,
    /// Everything up to this was sent, here or in a partition that the keys were in; `None` before it is known where to
    /// begin.
    from: Option<Position>,
    /// The partition that the reader was told of last.
    begun: Option<u64>,
    /// The partition is part of another one by now, and everything that happened in it was sent.
    is_at_end: bool,
    /// Since when no copy that answers goes back as far as this.
    compacted_since: Option<Instant>,
}

/// Why a copy does not serve a watch any more.
enum Ended {
    /// The reader is gone.
    Unread,
    /// The copy is gone, or was never there.
    Away,
    /// The partition was split: others see to what it has given up.
    Split,
    /// What is watched was elsewhere for a while, or still is: these see to it from here on.
    Divided(Vec<(Part, Option<Position>)>),
    /// The copy has other keys than before.
    OtherKeys,
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
            self.of(part, self.from).spawn(stop);
        }
        self.part = own.unwrap_or(self.part);
        own.is_some()
    }

    /// A watch of some of the keys.
    fn of(&self, part: Part, from: Option<Position>) -> Self {
        let (router, request) = (self.router.clone(), self.request.clone());
        let messages = self.messages.clone();
        let (begun, is_at_end, compacted_since) = (None, false, None);
        Self { router, part, request, messages, from, begun, is_at_end, compacted_since }
    }

    async fn run(mut self, stop: &CancellationToken) {
        loop {
            let is_only_here = self.request.only_partition != 0;
            let here = self.router.replica(self.part.partition).ok().filter(|_| !self.is_at_end);
            let is_over = self.is_merged_away() && here.is_none() && !is_only_here;
            if (is_over || self.is_split()) && !self.part_ways(stop) {
                return;
            }
            let mut is_answered = true;
            let mut ended = match here {
                Some(group) => self.follow_here(group).await,
                None => Ended::Away,
            };
            // A copy that came lately does not remember what others do.
            if !is_only_here && matches!(ended, Ended::Away | Ended::Compacted(_)) {
                for node in self.router.elsewhere(self.part.partition) {
                    match self.follow_there(GridClient::new(node)).await {
                        Ended::Away => is_answered = false,
                        compacted @ Ended::Compacted(_) => ended = compacted,
                        other => {
                            ended = other;
                            break;
                        }
                    }
                }
            }
            match ended {
                Ended::Unread => return,
                Ended::Split | Ended::OtherKeys => continue,
                Ended::Divided(parts) => {
                    parts.into_iter().for_each(|(part, from)| self.of(part, from).spawn(stop));
                    return;
                }
                Ended::Away if is_only_here => {
                    let (partition, address) = (self.part.partition, String::new());
                    let _gone =
                        self.messages.send(Err(status(&Error::Elsewhere { partition, address }))).await;
                    return;
                }
                Ended::Away if self.is_at_end => continue,
                Ended::Away => {}
                Ended::Compacted(status) => {
                    let since = *self.compacted_since.get_or_insert_with(Instant::now);
                    if is_answered || since.elapsed() >= WATCH_PATIENCE {
                        let _gone = self.messages.send(Err(status)).await;
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
                () = self.messages.closed() => return,
            }
        }
    }

    async fn follow_here(&mut self, group: Group<GridMachine>) -> Ended {
        let (events, generation, placed) = group.read_now(|machine| {
            let events = machine.events();
            let placed = machine.place((self.part.first, self.part.last), self.from);
            (events.clone(), events.generation(), placed.map_err(|Forgotten| machine.keys().version()))
        });
        let place = match placed {
            Ok(Placed::Here(places)) => match self.one(places) {
                Ok(place) => place,
                Err(ended) => return ended,
            },
            Ok(Placed::NotYet) => return Ended::Away,
            Err(oldest) => return self.compacted(oldest),
        };
        let at = |part: &Part, version| part.at(place.partition_at(version, part.partition), version);
        let mut from = place.version;
        let now = at(&self.part, from);
        self.from = Some(now);
        let begin = self.begin(now);
        if self.send(begin.into_iter().collect()).await.is_err() {
            return Ended::Unread;
        }
        let asked = Asked { first: self.part.first, last: self.part.last, generation };
        let mut newest = events.newest();
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
            let found = events.after(from, asked, EVENTS_MAX, |key| self.wants(key));
            let (changes, upto) = match found {
                Ok(found) => found,
                Err(NotHere::Compacted { oldest }) => return self.compacted(oldest),
                Err(NotHere::OtherKeys) => return Ended::OtherKeys,
            };
            let is_idle = changes.is_empty();
            let mut batch = Vec::new();
            for change in changes {
                let position = at(&self.part, change.version);
                batch.extend(self.begin(Position { version: position.version - 1, ..position }));
                batch.push(watch_event(position, change));
            }
            from = upto;
            let now = at(&self.part, from);
            batch.extend(self.begin(now));
            if self.send(batch).await.is_err() {
                return Ended::Unread;
            }
            self.from = Some(now);
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

    /// The place in a copy from which all that is watched can be: there may be several, or the copy has not all of it.
    fn one(&mut self, mut places: Vec<Place>) -> Result<Place, Ended> {
        let ranges: Vec<(Token, Token)> = places.iter().map(|place| (place.first, place.last)).collect();
        if ranges == [(self.part.first, self.part.last)] {
            return places.pop().ok_or(Ended::Away);
        }
        if self.request.only_partition != 0 {
            // The other node sees by what begins here that it has to ask for the rest.
            let place = places.swap_remove(0);
            self.part.first = place.first;
            self.part.last = place.last;
            return if self.begun.is_some() { Err(Ended::Away) } else { Ok(place) };
        }
        let mut rest = vec![self.part];
        let mut parts = Vec::new();
        for range in ranges {
            parts.extend(rest.iter().filter_map(|part| part.within(range)));
            rest = rest.into_iter().flat_map(|part| part.without(range)).collect();
        }
        parts.append(&mut rest);
        Err(Ended::Divided(parts.into_iter().map(|part| (part, self.from)).collect()))
    }

    fn compacted(&self, oldest: u64) -> Ended {
        let error = Error::Compacted { partition: self.part.partition, oldest };
        // OUT_OF_RANGE, as the API says: it is not the class's usual code.
        let refused = status(&error);
        let details = refused.details().to_vec().into();
        Ended::Compacted(Status::with_details(Code::OutOfRange, refused.message(), details))
    }

    async fn follow_there(&mut self, client: GridClient<tonic::transport::Channel>) -> Ended {
        let request = WatchRequest {
            from: self.from.into_iter().collect(),
            only_partition: self.part.partition,
            first_token: self.part.first.0,
            last_token: self.part.last.0,
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
            let mut told = Vec::new();
            for event in events {
                let Some(position) = event.position else { continue };
                if event.kind() == watch_event::Kind::Begin {
                    let tokens = tokens(&position).unwrap_or((Token(0), Token(u64::MAX)));
                    let Some(begun) = self.part.within(tokens) else { return Ended::Away };
                    if (begun.first, begun.last) != (self.part.first, self.part.last) {
                        let rest = self.part.without(tokens).map(|part| (part, self.from));
                        return Ended::Divided([(begun, Some(position))].into_iter().chain(rest).collect());
                    }
                    told.extend(self.begin(position));
                } else if self.wants(&event.key) {
                    // The other node may not know yet what the partition has given up.
                    told.push(self.own(event));
                }
                self.from = Some(self.part.at(position.partition, position.version));
            }
            if self.send(told).await.is_err() {
                return Ended::Unread;
            }
        }
    }

    /// An event as this watch tells it.
    fn own(&self, event: WatchEvent) -> WatchEvent {
        let position = event.position.map(|position| self.part.at(position.partition, position.version));
        WatchEvent { position, ..event }
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

    /// What says where the watch has begun, once for each partition.
    fn begin(&mut self, position: Position) -> Option<WatchEvent> {
        self.compacted_since = None;
        let is_begun = self.begun.replace(position.partition) == Some(position.partition);
        let kind = watch_event::Kind::Begin.into();
        let begin = || self.own(WatchEvent { kind, position: Some(position), ..WatchEvent::default() });
        (!is_begun).then(begin)
    }

    /// Errors if nobody reads any more.
    async fn send(&self, events: Vec<WatchEvent>) -> Result<(), ()> {
        if events.is_empty() {
            return Ok(());
        }
        self.messages.send(Ok(WatchEvents { events })).await.map_err(|_gone| ())
    }
}

fn watch_event(position: Position, event: Event) -> WatchEvent {
    let (kind, value) = match event.change {
        Change::Set(value) => (watch_event::Kind::Set, Some(value)),
        Change::Updated => (watch_event::Kind::Update, None),
        Change::Deleted => (watch_event::Kind::Delete, None),
        Change::Expired => (watch_event::Kind::Expire, None),
    };
    WatchEvent { kind: kind.into(), key: event.key, value, position: Some(position) }
}
