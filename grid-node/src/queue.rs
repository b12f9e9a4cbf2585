//! A place in the queue for an element of a key, or for what becomes of a semaphore, wherever its partition is led.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tonic::{Status, Streaming};
use trimaran_placement::token::Token;
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::{EntryId, QueueRequest, QueueTurn, queue_request};
use trimaran_replication::group::Group;

use crate::data::stream::Id;
use crate::error::Error;
use crate::limits::WAITING_MAX;
use crate::machine::GridMachine;
use crate::router::Router;
use crate::waiters::{Awaited, Ticket, Turn};

/// How often a place is looked after: whether its partition is still led here.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is waited for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// An element of the first of these that has some. All are in one partition.
    pub keys: Vec<Bytes>,
    /// Of which type.
    pub awaited: Awaited,
    /// Since when, milliseconds since 1970: who comes back has its place again.
    pub since_ms: u64,
}

/// A place in a queue. It is given up when it is dropped.
#[derive(Debug)]
pub enum Place {
    /// In the one of this node.
    Here(Here),
    /// In that of the node that leads.
    There(Box<Streaming<QueueTurn>>),
}

impl Place {
    /// Returns when there is an element, or when it has to be asked again who has the keys.
    pub async fn turn(&mut self) -> Turn {
        match self {
            Self::Here(here) => here.turn().await,
            Self::There(turns) => match turns.message().await {
                Ok(Some(QueueTurn {})) => Turn::Has,
                Ok(None) | Err(_) => Turn::Gone,
            },
        }
    }
}

/// A place in the queue of a partition that this node leads.
#[derive(Debug)]
pub struct Here {
    router: Router,
    group: Group<GridMachine>,
    ticket: Ticket,
}

impl Here {
    /// Takes one.
    ///
    /// Errors: [`Error::Elsewhere`] if the partition is not led here, or does not have all the keys; [`Error::Limit`] if
    /// too many wait.
    pub fn enter(router: &Router, partition: u64, wanted: &Wanted) -> Result<Self, Error> {
        let elsewhere = Error::Elsewhere { partition, address: String::new() };
        let group = router.replica(partition)?;
        let now_ms = router.now_ms(&group);
        let ticket = group.read_now(|machine| {
            let keys = machine.keys();
            let has_all = wanted.keys.iter().all(|key| keys.has_place_for(key)) && !machine.is_elsewhere();
            has_all.then(|| {
                machine.waiters().enter(keys, &wanted.keys, wanted.awaited.clone(), wanted.since_ms, now_ms)
            })
        });
        match ticket {
            Some(Some(ticket)) => {
                let here = Self { router: router.clone(), group, ticket };
                if here.group.is_leader() { Ok(here) } else { Err(elsewhere) }
            }
            Some(None) => {
                let max = WAITING_MAX as u64;
                Err(Error::Limit { field: "clients that wait", limit: "WAITING_MAX", actual: max + 1, max })
            }
            None => Err(elsewhere),
        }
    }

    async fn turn(&mut self) -> Turn {
        loop {
            tokio::select! {
                turn = self.ticket.turn() => return turn,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if !self.group.is_leader() {
                        return Turn::Gone;
                    }
                    let now_ms = self.router.now_ms(&self.group);
                    self.group.read_now(|machine| machine.waiters().look(machine.keys(), &self.ticket, now_ms));
                }
            }
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let now_ms = self.router.now_ms(&self.group);
        self.group.read_now(|machine| machine.waiters().leave(machine.keys(), &self.ticket, now_ms));
    }
}

/// Takes a place where the keys with a token are led.
///
/// Errors: [`Error::NotReady`] while nobody is known to lead; others as [`Here::enter`].
pub async fn enter(router: &Router, token: Token, wanted: &Wanted) -> Result<Place, Error> {
    let partition = router.partition_at(token)?.id;
    let leader = router.leader_of(token).ok_or(Error::NotReady)?;
    if leader == router.node() {
        return Here::enter(router, partition, wanted).map(Place::Here);
    }
    let channel = router.waiting_channel(leader).ok_or(Error::NotReady)?;
    let (keys, since_ms) = (wanted.keys.clone(), wanted.since_ms);
    let mut request = QueueRequest { partition, keys, since_ms, ..QueueRequest::default() };
    let awaited = match &wanted.awaited {
        Awaited::List => queue_request::Awaited::List,
        Awaited::SortedSet => queue_request::Awaited::SortedSet,
        Awaited::Entry(seen) => {
            request.seen = seen.iter().map(|id| EntryId { ms: id.ms, sequence: id.sequence }).collect();
            queue_request::Awaited::Entry
        }
        Awaited::News(group) => {
            request.group = group.clone();
            queue_request::Awaited::News
        }
        Awaited::Permit(holder) => {
            request.holder = holder.clone();
            queue_request::Awaited::Permit
        }
        Awaited::Change(version) => {
            request.version = *version;
            queue_request::Awaited::Change
        }
    };
    request.set_awaited(awaited);
    let turns = GridClient::new(channel).queue(request).await.map_err(|_refused| Error::NotReady)?;
    Ok(Place::There(Box::new(turns.into_inner())))
}

/// What another node asked for.
pub fn wanted(request: QueueRequest) -> Result<Wanted, Error> {
    let awaited = match request.awaited() {
        queue_request::Awaited::List => Awaited::List,
        queue_request::Awaited::SortedSet => Awaited::SortedSet,
        queue_request::Awaited::Entry => {
            let id = |id: &EntryId| Id { ms: id.ms, sequence: id.sequence };
            Awaited::Entry(request.seen.iter().map(id).collect())
        }
        queue_request::Awaited::News => Awaited::News(request.group),
        queue_request::Awaited::Permit => Awaited::Permit(request.holder),
        queue_request::Awaited::Change => Awaited::Change(request.version),
        queue_request::Awaited::Unspecified => {
            return Err(Error::Invalid { field: "awaited", reason: "it is missing or of a newer release" });
        }
    };
    Ok(Wanted { keys: request.keys, awaited, since_ms: request.since_ms })
}

/// The turns of a place, for another node. It is held until the stream is dropped.
pub fn turns(here: Here) -> impl Stream<Item = Result<QueueTurn, Status>> + Send {
    futures::stream::unfold(Some((here, Turn::Waits)), |state| async move {
        let (mut here, before) = state?;
        if before == Turn::Has {
            // Its owner takes the element, or has ended.
            std::future::pending::<()>().await;
        }
        match here.turn().await {
            Turn::Has => Some((Ok(QueueTurn {}), Some((here, Turn::Has)))),
            Turn::Gone | Turn::Waits => Some((Err(Status::unavailable("ask again who leads")), None)),
        }
    })
    .boxed()
}
