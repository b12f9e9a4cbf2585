//! Watches: the changes of a key, or of all keys with a prefix, in order within each partition, none left out.
//!
//! A watch follows each partition wherever it is: on this node's own copy if there is one, else through a node that has
//! one, and on from where it was when the copy moves away or its node ends. The versions of a partition are the same
//! on all of its copies.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;
use trimaran_net::status::status;
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::{Position, WatchEvent, WatchEvents, WatchRequest, watch_event};
use trimaran_replication::group::Group;

use crate::data::{Change, Event};
use crate::error::Error;
use crate::front::check_key;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::machine::GridMachine;
use crate::router::Router;

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
    let partitions: Vec<u64> = if request.only_partition != 0 {
        // For another node: what is not here it looks for itself.
        router.replica(request.only_partition)?;
        vec![request.only_partition]
    } else if request.prefix {
        router.table().partitions().map(|partition| partition.id).collect()
    } else {
        check_key(&request.key)?;
        vec![router.partition_of(&request.key)?]
    };
    let (messages, stream) = mpsc::channel(MESSAGES_MAX);
    for partition in partitions {
        let from = request.from.iter().find(|position| position.partition == partition);
        let from = match from {
            Some(position) => Some(position.version),
            // After everything acknowledged before the watch began.
            None => match router.replica(partition) {
                Ok(group) => {
                    router.read(partition, Vec::new()).await?;
                    Some(group.read_now(|machine| machine.keys().version()))
                }
                Err(_elsewhere) => None,
            },
        };
        let watch = Watch {
            router: router.clone(),
            partition,
            request: request.clone(),
            messages: messages.clone(),
            from,
            has_begun: false,
        };
        let (stop, messages) = (stop.clone(), messages.clone());
        tokio::spawn(async move {
            if stop.run_until_cancelled(watch.run()).await.is_none() {
                // So that its reader goes on elsewhere, and does not take it for the end.
                let _gone = messages.try_send(Err(status(&Error::NotReady)));
            }
        });
    }
    Ok(stream)
}

/// A watch of one partition.
struct Watch {
    router: Router,
    partition: u64,
    request: WatchRequest,
    messages: Messages,
    /// Everything up to this version was sent; `None` before the version to begin at is known.
    from: Option<u64>,
    has_begun: bool,
}

/// Why a copy does not serve a watch any more.
enum Ended {
    /// The reader is gone.
    Unread,
    /// The copy is gone, or was never there.
    Away,
    /// The copy does not remember that far back.
    Compacted(Status),
}

impl Watch {
    async fn run(mut self) {
        loop {
            let here = self.router.replica(self.partition).ok();
            let is_only_here = self.request.only_partition != 0;
            let mut ended = match here {
                Some(group) => self.follow_here(group).await,
                None if is_only_here => {
                    let status =
                        status(&Error::Elsewhere { partition: self.partition, address: String::new() });
                    let _gone = self.messages.send(Err(status)).await;
                    return;
                }
                None => Ended::Away,
            };
            // A copy that came lately does not remember what others do.
            if !is_only_here && !matches!(ended, Ended::Unread) {
                for node in self.router.elsewhere(self.partition) {
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
        let mut from = match self.from {
            Some(from) => from,
            None => group.read_now(|machine| machine.keys().version()),
        };
        if self.begin(from).await.is_err() {
            return Ended::Unread;
        }
        loop {
            newest.mark_unchanged();
            let found = events.after(from, EVENTS_MAX, |key| {
                if self.request.prefix { key.starts_with(&self.request.key) } else { key == self.request.key }
            });
            let batch: Vec<WatchEvent> = match found {
                Ok((changes, upto)) => {
                    from = upto;
                    changes.into_iter().map(|event| watch_event(self.partition, event)).collect()
                }
                Err(compacted) => {
                    let error = Error::Compacted { partition: self.partition, oldest: compacted.oldest };
                    // OUT_OF_RANGE, as the API says: it is not the class's usual code.
                    let refused = status(&error);
                    let details = refused.details().to_vec().into();
                    return Ended::Compacted(Status::with_details(
                        Code::OutOfRange,
                        refused.message(),
                        details,
                    ));
                }
            };
            let is_idle = batch.is_empty();
            if !is_idle && self.send(batch).await.is_err() {
                return Ended::Unread;
            }
            self.from = Some(from);
            if is_idle {
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { return Ended::Away },
                    () = group.closed() => return Ended::Away,
                    () = self.messages.closed() => return Ended::Unread,
                }
            }
        }
    }

    async fn follow_there(&mut self, client: GridClient<tonic::transport::Channel>) -> Ended {
        let from = self.from.map(|version| Position { partition: self.partition, version });
        let request = WatchRequest {
            from: from.into_iter().collect(),
            only_partition: self.partition,
            ..self.request.clone()
        };
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = match client.watch(request).await {
            Ok(stream) => stream.into_inner(),
            Err(refused) => return self.ended(refused),
        };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
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
            if !changes.is_empty() && self.send(changes).await.is_err() {
                return Ended::Unread;
            }
            self.from = upto.or(self.from);
        }
    }

    fn ended(&self, refused: Status) -> Ended {
        debug!(partition = self.partition, code = ?refused.code(), "a watch looks for another copy");
        if refused.code() == Code::OutOfRange { Ended::Compacted(refused) } else { Ended::Away }
    }

    /// Says once where the watch has begun.
    async fn begin(&mut self, version: u64) -> Result<(), ()> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        let begin = WatchEvent {
            kind: watch_event::Kind::Begin.into(),
            position: Some(Position { partition: self.partition, version }),
            ..WatchEvent::default()
        };
        self.from = Some(version);
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
