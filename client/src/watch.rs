//! A watch of the grid that outlives the nodes that serve it.

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
    /// How far it is, each position about other keys.
    seen: Vec<Position>,
    stream: Option<Streaming<WatchEvents>>,
}

impl Watch {
    pub(crate) async fn begin(
        grid: Grid,
        key: Bytes,
        prefix: bool,
        from: Vec<Position>,
    ) -> Result<Self, Error> {
        let mut watch = Self { grid, key, prefix, seen: from, stream: None };
        watch.stream = Some(watch.connect().await?);
        Ok(watch)
    }

    /// Where the watch is: what another one may begin from.
    pub fn positions(&self) -> Vec<Position> {
        self.seen.clone()
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

    /// The next changes that the node tells that tells them now: an error when it does not any more.
    pub(crate) async fn next_of_this_node(&mut self) -> Result<WatchEvents, Error> {
        let ended = || Error::Unavailable("the node ended the watch".to_owned());
        loop {
            let stream = self.stream.as_mut().ok_or_else(ended)?;
            let told = stream.message().await.map_err(|status| Error::from_status(&status))?;
            let events = self.note(told.ok_or_else(ended)?);
            if !events.events.is_empty() {
                return Ok(events);
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
            ..WatchRequest::default()
        };
        let stream = client.watch(request).await;
        stream.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
    }

    /// Remembers how far it is, and leaves out that a partition is watched from where it was watched to.
    fn note(&mut self, mut events: WatchEvents) -> WatchEvents {
        events.events.retain(|event| {
            let Some(position) = event.position else { return true };
            let is_news = event.kind() != watch_event::Kind::Begin
                || self.seen.iter().all(|seen| seen.partition != position.partition);
            replace(&mut self.seen, position);
            is_news
        });
        events
    }
}

/// Takes a position in, instead of what older ones say about the same tokens. One that names none (of a node of an older
/// release, or made by hand) is about those that no other one names.
fn replace(seen: &mut Vec<Position>, newer: Position) {
    let tokens = |position: &Position| (position.first_token, position.last_token);
    let is_whole = |position: &Position| tokens(position) == (0, 0);
    // As almost always.
    if !is_whole(&newer)
        && let Some(same) = seen.iter_mut().find(|seen| tokens(seen) == tokens(&newer))
    {
        *same = newer;
        return;
    }
    let before = std::mem::take(seen);
    for older in before {
        if is_whole(&newer) {
            if older.partition != newer.partition {
                seen.push(older);
            }
            continue;
        }
        if is_whole(&older) {
            seen.push(older);
            continue;
        }
        if older.first_token < newer.first_token {
            let last_token = older.last_token.min(newer.first_token - 1);
            seen.push(Position { last_token, ..older });
        }
        if older.last_token > newer.last_token {
            let first_token = older.first_token.max(newer.last_token + 1);
            seen.push(Position { first_token, ..older });
        }
    }
    seen.push(newer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_position_replaces_older_ones_of_the_same_tokens() {
        let at = |partition, version, first_token, last_token| Position {
            partition,
            version,
            first_token,
            last_token,
        };
        let mut seen = vec![at(1, 7, 0, 0), at(1, 8, 0, 50)];
        replace(&mut seen, at(2, 3, 0, 99));
        assert_eq!(seen, [at(1, 7, 0, 0), at(2, 3, 0, 99)]);
        replace(&mut seen, at(1, 9, 0, 0));
        assert_eq!(seen, [at(2, 3, 0, 99), at(1, 9, 0, 0)]);
        seen = vec![at(1, 9, 0, 99)];
        replace(&mut seen, at(2, 9, 100, 199));
        replace(&mut seen, at(3, 4, 50, 149));
        assert_eq!(seen, [at(1, 9, 0, 49), at(2, 9, 150, 199), at(3, 4, 50, 149)]);
        replace(&mut seen, at(3, 5, 120, 130));
        assert_eq!(seen.len(), 5);
        replace(&mut seen, at(4, 1, 0, u64::MAX));
        assert_eq!(seen, [at(4, 1, 0, u64::MAX)]);
    }
}
