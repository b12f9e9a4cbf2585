//! A watch of the grid that outlives the nodes that serve it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tonic::Streaming;
use tracing::debug;
use trimaran_net::retry::Backoff;
use trimaran_proto::api::grid::{Position, WatchEvents, WatchRequest, watch_event};

use crate::error::Error;
use crate::grid::Grid;

/// How long a watch looks for a node that goes on with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The changes of a key, or of all keys with a prefix: every one, once, in order within each partition. When the node
/// that serves it ends, it goes on at another one, from where it was.
#[derive(Debug)]
pub struct Watch {
    grid: Grid,
    key: Bytes,
    prefix: bool,
    /// The version up to which everything of a partition was seen.
    seen: BTreeMap<u64, u64>,
    stream: Option<Streaming<WatchEvents>>,
}

impl Watch {
    pub(crate) async fn begin(
        grid: Grid,
        key: Bytes,
        prefix: bool,
        from: Vec<Position>,
    ) -> Result<Self, Error> {
        let seen = from.into_iter().map(|position| (position.partition, position.version)).collect();
        let mut watch = Self { grid, key, prefix, seen, stream: None };
        watch.stream = Some(watch.connect().await?);
        Ok(watch)
    }

    /// Where the watch is, per partition: what another one may begin from.
    pub fn positions(&self) -> Vec<Position> {
        self.seen.iter().map(|(&partition, &version)| Position { partition, version }).collect()
    }

    /// The next changes. An event of the kind "begin" says from which version on a partition is watched, once.
    ///
    /// Errors: [`Error::Compacted`] if the changes since the last ones seen are not remembered any more: read the keys
    /// again and begin anew. [`Error::Unavailable`] if no node went on with the watch for a minute.
    pub async fn next(&mut self) -> Result<WatchEvents, Error> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.message().await {
                    Ok(Some(events)) => {
                        let events = self.note(events);
                        if !events.events.is_empty() {
                            return Ok(events);
                        }
                        continue;
                    }
                    Ok(None) => Error::Unavailable("the node ended the watch".to_owned()),
                    Err(status) => Error::from_status(&status),
                },
                None => match self.connect().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            if self.stream.take().is_some() {
                // It had worked until now.
                deadline = Instant::now() + PATIENCE;
            }
            let wait = backoff.next(&mut *self.grid.routes.random.lock());
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            debug!(%error, "a watch goes on elsewhere");
            sleep(wait).await;
            if let Err(stale) = self.grid.routes.refresh().await {
                debug!(error = %stale, "the partition table was not refreshed");
            }
        }
    }

    async fn connect(&self) -> Result<Streaming<WatchEvents>, Error> {
        // Any node follows all partitions; the one that leads the key's has least to pass on.
        let mut client = self.grid.client_for(&self.key)?;
        let request = WatchRequest {
            key: self.key.clone(),
            prefix: self.prefix,
            from: self.positions(),
            only_partition: 0,
        };
        let stream = client.watch(request).await;
        stream.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
    }

    /// Remembers how far it is, and leaves out that a partition is watched from where it was watched to.
    fn note(&mut self, mut events: WatchEvents) -> WatchEvents {
        events.events.retain(|event| {
            let Some(position) = event.position else { return true };
            let known = self.seen.insert(position.partition, position.version);
            event.kind() != watch_event::Kind::Begin || known.is_none()
        });
        events
    }
}
