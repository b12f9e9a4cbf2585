//! Streams: every change of a table's items, in order for each item.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tonic::Streaming;
use tracing::debug;
use trimaran_net::retry::Backoff;
use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::database_client::DatabaseClient;

use super::{Database, Item, MESSAGE_BYTES_MAX, get_item, missing};
use crate::error::Error;

/// How often a table is looked at whose stream begins, or ends.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a watch looks for a node that goes on with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a stream has of an item that changes, beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamView {
    /// Nothing.
    KeysOnly,
    /// The item as it is.
    NewImage,
    /// The item as it was.
    OldImage,
    /// Both.
    NewAndOldImages,
}

fn put(view: Option<StreamView>) -> wire::StreamView {
    match view {
        None => wire::StreamView::None,
        Some(StreamView::KeysOnly) => wire::StreamView::KeysOnly,
        Some(StreamView::NewImage) => wire::StreamView::NewImage,
        Some(StreamView::OldImage) => wire::StreamView::OldImage,
        Some(StreamView::NewAndOldImages) => wire::StreamView::NewAndOldImages,
    }
}

pub(super) fn get(view: wire::StreamView) -> Option<StreamView> {
    match view {
        wire::StreamView::None => None,
        wire::StreamView::KeysOnly => Some(StreamView::KeysOnly),
        wire::StreamView::NewImage => Some(StreamView::NewImage),
        wire::StreamView::OldImage => Some(StreamView::OldImage),
        wire::StreamView::NewAndOldImages => Some(StreamView::NewAndOldImages),
    }
}

/// Where a watch begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// With what comes from now on.
    #[default]
    Now,
    /// With the oldest change that is there, at most a day old.
    Oldest,
    /// Where another watch was, see [`TableWatch::cursor`].
    Cursor(Bytes),
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there.
    Insert,
    /// It was another one.
    Modify,
    /// It is not there any more.
    Remove,
}

/// A change of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// Its key.
    pub key: Item,
    /// The item as it was, if the stream has that.
    pub old_image: Option<Item>,
    /// The item as it is, if the stream has that.
    pub new_image: Option<Item>,
    /// Grows for each item.
    pub sequence_number: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Nobody asked for it: the item's time was over.
    pub expired: bool,
    /// The transaction that it is part of, if that wrote several items of the table. Its changes follow each other and
    /// come with one call of [`TableWatch::next`].
    pub transaction: Option<Bytes>,
    /// A part of the transaction did not come: it was carried out before the stream began, or comes later, alone.
    pub partial: bool,
}

fn change(change: wire::TableChange) -> Result<Change, Error> {
    let kind = match change.kind() {
        wire::table_change::Kind::Insert => ChangeKind::Insert,
        wire::table_change::Kind::Modify => ChangeKind::Modify,
        wire::table_change::Kind::Remove => ChangeKind::Remove,
        wire::table_change::Kind::Unspecified => return Err(missing("kind")),
    };
    Ok(Change {
        kind,
        key: get_item(change.key.ok_or_else(|| missing("key"))?)?,
        old_image: change.old_image.map(get_item).transpose()?,
        new_image: change.new_image.map(get_item).transpose()?,
        sequence_number: change.sequence_number,
        at_ms: change.at_ms,
        expired: change.expired,
        transaction: Some(change.transaction).filter(|id| !id.is_empty()),
        partial: change.partial,
    })
}

/// The changes of a table: every one, once, in order for each item. When the node that serves it ends, it goes on at another
/// one, from where it was.
#[derive(Debug)]
pub struct TableWatch {
    database: Database,
    table: String,
    from: WatchFrom,
    stream: Option<Streaming<wire::TableChanges>>,
}

impl TableWatch {
    /// What another watch may begin from, by whoever has taken in everything that this one told. It is good for a day.
    pub fn cursor(&self) -> Bytes {
        match &self.from {
            WatchFrom::Cursor(cursor) => cursor.clone(),
            // A watch begins with word of where it is.
            WatchFrom::Now | WatchFrom::Oldest => Bytes::new(),
        }
    }

    /// The next changes, as soon as there are some; `None` if the stream has ended and everything is told.
    ///
    /// Errors: [`Error::Conflict`] if changes since the last ones are more than a day old and gone: read the table and begin
    /// anew. [`Error::Unavailable`] if no node went on with the watch for a minute.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, Error> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.message().await {
                    Ok(Some(said)) => {
                        self.from = WatchFrom::Cursor(said.cursor);
                        if said.ended {
                            self.stream = None;
                            return Ok(None);
                        }
                        if !said.changes.is_empty() {
                            return said.changes.into_iter().map(change).collect::<Result<_, _>>().map(Some);
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
            let wait = backoff.next(&mut *self.database.routes.random.lock());
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            debug!(%error, "a watch goes on elsewhere");
            sleep(wait).await;
        }
    }

    async fn connect(&self) -> Result<Streaming<wire::TableChanges>, Error> {
        let routes = &self.database.routes;
        let nobody = || Error::Unavailable("no node of the cluster is known".to_owned());
        let address = routes.any_address().ok_or_else(nobody)?;
        let request = wire::WatchTableRequest {
            table: self.table.clone(),
            cursor: self.cursor(),
            oldest: self.from == WatchFrom::Oldest,
        };
        let mut client =
            DatabaseClient::new(routes.channel(&address)?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        match client.watch_table(request).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(status) => {
                let error = Error::from_status(&status);
                if error.is_passing() {
                    routes.shun(&address);
                }
                Err(error)
            }
        }
    }
}

impl Database {
    /// Begins a stream of a table's changes, and returns when it has every change. The table takes requests meanwhile.
    pub async fn enable_stream(&self, table: &str, view: StreamView) -> Result<(), Error> {
        self.change_stream(table, Some(view)).await
    }

    /// Ends the stream of a table. What is in it can be read for a day.
    pub async fn disable_stream(&self, table: &str) -> Result<(), Error> {
        self.change_stream(table, None).await
    }

    async fn change_stream(&self, table: &str, view: Option<StreamView>) -> Result<(), Error> {
        self.update(table, wire::update_table_request::Change::Stream(put(view).into())).await?;
        while !self.describe_table(table).await?.stream_ready {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Follows the changes of a table that has a stream, and returns when it has begun.
    ///
    /// Errors: [`Error::NotFound`] if there is no such table, or it has no stream.
    pub async fn watch_table(&self, table: &str, from: WatchFrom) -> Result<TableWatch, Error> {
        let table = table.to_owned();
        let mut watch = TableWatch { database: self.clone(), table, from, stream: None };
        let deadline = Instant::now() + super::REQUEST_TIMEOUT;
        let mut backoff = Backoff::default();
        loop {
            let begun = match watch.connect().await {
                Ok(mut stream) => match stream.message().await {
                    Ok(Some(said)) => {
                        watch.from = WatchFrom::Cursor(said.cursor);
                        watch.stream = Some(stream);
                        Ok(())
                    }
                    Ok(None) => Err(Error::Unavailable("the node ended the watch".to_owned())),
                    Err(status) => Err(Error::from_status(&status)),
                },
                Err(error) => Err(error),
            };
            let Err(error) = begun else { return Ok(watch) };
            let wait = backoff.next(&mut *self.routes.random.lock());
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            sleep(wait).await;
        }
    }
}
