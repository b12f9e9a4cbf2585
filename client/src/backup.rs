//! The keys of a grid out of it, and in again.
//!
//! An [`Export`] gives each partition as it is at one moment, while it is written to; an [`Import`] puts keys into a grid with any
//! number of partitions. What goes between them is opaque; where it is kept is the caller's.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Streaming;
use tracing::debug;
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::backup::backup_client::BackupClient;
use trimaran_proto::api::backup::{ExportChunk, ExportRequest, ImportReply, ImportRequest};
use trimaran_proto::state::grid::{Item, SnapshotChunk, SnapshotHead};

use crate::error::Error;
use crate::grid::{Grid, identified};

/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What it may take longer until a partition begins to be exported, or keys are in.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a partition is begun anew whose export breaks off.
const EXPORTS_BROKEN_OFF_MAX: u32 = 8;

/// About how many bytes of keys are sent at once.
const BATCH_BYTES: usize = 256 << 10;

/// How many such batches are under way.
const BATCHES_MAX: usize = 16;

/// A value of up to about so many bytes is there at once; a larger one comes in such parts.
const WHOLE_VALUE_BYTES: usize = 16 << 20;

/// All keys of a grid, partition by partition.
#[derive(Debug)]
pub struct Export {
    grid: Grid,
    /// Where the next partition begins; `None` behind the last.
    next: Option<Token>,
    under_way: Option<Partition>,
    /// Keys that came with the head of a partition.
    first: Option<SnapshotChunk>,
    broken_off: u32,
}

#[derive(Debug)]
struct Partition {
    stream: Streaming<ExportChunk>,
    last: Option<Token>,
}

/// A part of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exported {
    /// Here a partition begins. What it has of before its first key goes with it: functions.
    Begin {
        /// For [`Import::put`].
        chunk: Bytes,
        /// The partition's version at that moment.
        version: u64,
    },
    /// Some keys of it.
    Keys {
        /// For [`Import::put`].
        chunk: Bytes,
        /// How many.
        count: u64,
    },
    /// The export of the partition was broken off, and is begun anew: forget it from its beginning on.
    Again,
}

/// What became of the keys of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// They are there now.
    pub restored: u64,
    /// There was such a key already.
    pub kept: u64,
    /// Their time to live is over.
    pub expired: u64,
    /// Libraries of functions that could not be taken, and why.
    pub left_out: BTreeSet<String>,
}

impl Imported {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.restored + self.kept + self.expired
    }
}

impl Grid {
    /// All keys with their values and times to live, and the functions. Locks are left out: who holds one will not later.
    pub fn export(&self) -> Export {
        Export { grid: self.clone(), next: Some(Token(0)), under_way: None, first: None, broken_off: 0 }
    }

    /// Puts keys of an export in. A key that is there already is left as it is, unless it is to be replaced.
    pub fn import(&self, replace: bool) -> Import {
        Import {
            grid: self.clone(),
            replace,
            batch: Vec::new(),
            batch_bytes: 0,
            large: None,
            under_way: JoinSet::new(),
            imported: Imported::default(),
        }
    }
}

impl Export {
    /// The next part; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Exported>, Error> {
        loop {
            if let Some(part) = self.first.take().and_then(|first| self.keys(first)) {
                return Ok(Some(part));
            }
            let Some(token) = self.next else { return Ok(None) };
            let Some(partition) = &mut self.under_way else {
                self.under_way = Some(self.begin(token).await?);
                continue;
            };
            let broken = match partition.stream.message().await {
                Ok(Some(ExportChunk { is_last: true, .. })) if partition.last.is_some() => {
                    self.next = partition.last.and_then(|last| last.0.checked_add(1)).map(Token);
                    self.under_way = None;
                    self.broken_off = 0;
                    continue;
                }
                Ok(Some(ExportChunk { chunk, .. })) => {
                    let mut chunk = SnapshotChunk::decode(chunk)
                        .map_err(|_newer| Error::Broken("an export of a newer release".to_owned()))?;
                    let Some(head) = chunk.head.take() else {
                        self.first = Some(chunk);
                        continue;
                    };
                    partition.last = Some(Token(head.last_token));
                    self.first = Some(chunk);
                    let SnapshotHead { version, libraries, .. } = head;
                    let head = SnapshotHead { version, libraries, ..SnapshotHead::default() };
                    let chunk = SnapshotChunk { head: Some(head), ..SnapshotChunk::default() };
                    return Ok(Some(Exported::Begin { chunk: chunk.encode_to_vec().into(), version }));
                }
                Ok(None) => Error::Unavailable("the node has ended the export".to_owned()),
                Err(status) => Error::from_status(&status),
            };
            let had_begun = partition.last.is_some();
            self.under_way = None;
            self.broken_off += 1;
            if self.broken_off > EXPORTS_BROKEN_OFF_MAX {
                return Err(broken);
            }
            debug!(error = %broken, "the export of a partition is begun anew");
            if had_begun {
                return Ok(Some(Exported::Again));
            }
        }
    }

    async fn begin(&self, token: Token) -> Result<Partition, Error> {
        let export = |channel| {
            let mut client = BackupClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move { client.export(ExportRequest { token: token.0 }).await }
        };
        Ok(Partition { stream: self.grid.asked(token, PATIENCE, export).await?, last: None })
    }

    /// `None` if there are none.
    fn keys(&self, mut chunk: SnapshotChunk) -> Option<Exported> {
        let from = token::slot_of(self.next?);
        // It may have become one with the partition before it, which is exported already.
        chunk.items.retain(|item| token::slot(&item.key) >= from);
        chunk.semaphores.clear();
        let count = chunk.items.iter().filter(|item| !item.goes_on).count() as u64;
        (!chunk.items.is_empty()).then(|| Exported::Keys { chunk: chunk.encode_to_vec().into(), count })
    }
}

/// Puts keys into a grid, many at once. Nothing is certain until [`Import::finish`] has returned.
#[derive(Debug)]
pub struct Import {
    grid: Grid,
    replace: bool,
    batch: Vec<Item>,
    batch_bytes: usize,
    large: Option<Large>,
    under_way: JoinSet<Result<ImportReply, Error>>,
    imported: Imported,
}

/// A value that comes in several items.
#[derive(Debug, Default)]
struct Large {
    items: Vec<Item>,
    bytes: usize,
    /// What was sent of it before.
    sent: Sent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sent {
    #[default]
    Nothing,
    /// The key had this version then.
    UpTo(u64),
    /// It is left out: there is such a key, or its time to live is over.
    LeftOut,
}

impl Import {
    /// What was put in for certain until now.
    pub fn imported(&self) -> &Imported {
        &self.imported
    }

    /// Puts the keys of a part of an export in, which must come in their order.
    ///
    /// Errors: [`Error::Invalid`] if it is none, [`Error::Conflict`] if somebody else changed a large value meanwhile,
    /// [`Error::Exhausted`] if there is no memory for it. What was put in before stays.
    pub async fn put(&mut self, chunk: Bytes) -> Result<(), Error> {
        let mut chunk = SnapshotChunk::decode(chunk)
            .map_err(|_bad| Error::Invalid("the chunk is none of an export".to_owned()))?;
        if let Some(head) = chunk.head.take() {
            let chunk = SnapshotChunk { head: Some(head), ..SnapshotChunk::default() };
            let told = send(self.grid.clone(), Token(0), chunk, self.replace, None).await?;
            self.count(&told);
        }
        for item in chunk.items {
            let (goes_on, bytes) = (item.goes_on, item.encoded_len());
            if goes_on || self.large.is_some() {
                let is_full =
                    |large: &Large| !large.items.is_empty() && large.bytes + bytes > WHOLE_VALUE_BYTES;
                if self.large.as_ref().is_some_and(is_full) {
                    self.put_large(true).await?;
                }
                let large = self.large.get_or_insert_default();
                large.bytes += bytes;
                large.items.push(item);
                if !goes_on {
                    self.put_large(false).await?;
                }
                continue;
            }
            if self.batch_bytes + bytes > BATCH_BYTES {
                self.put_batch().await?;
            }
            self.batch_bytes += bytes;
            self.batch.push(item);
        }
        Ok(())
    }

    /// Returns when everything is in.
    pub async fn finish(mut self) -> Result<Imported, Error> {
        if self.large.is_some() {
            return Err(Error::Invalid("the last value is not complete".to_owned()));
        }
        self.put_batch().await?;
        self.settle(0).await?;
        Ok(self.imported)
    }

    async fn put_batch(&mut self) -> Result<(), Error> {
        let items = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let Some(first) = items.first() else { return Ok(()) };
        let token = token::grid(&first.key);
        let chunk = SnapshotChunk { items, ..SnapshotChunk::default() };
        self.settle(BATCHES_MAX - 1).await?;
        self.under_way.spawn(send(self.grid.clone(), token, chunk, self.replace, None));
        Ok(())
    }

    /// Waits until no more than so many batches are under way.
    async fn settle(&mut self, most: usize) -> Result<(), Error> {
        while self.under_way.len() > most
            && let Some(ended) = self.under_way.join_next().await
        {
            let reply = ended.map_err(|ended| Error::Broken(ended.to_string()))??;
            self.count(&reply);
        }
        Ok(())
    }

    fn count(&mut self, reply: &ImportReply) {
        self.imported.restored += reply.restored;
        self.imported.kept += reply.kept;
        self.imported.expired += reply.expired;
        self.imported.left_out.extend(reply.left_out.iter().cloned());
    }

    /// Sends what has come of a large value.
    async fn put_large(&mut self, goes_on: bool) -> Result<(), Error> {
        let Some(Large { items, sent, .. }) = self.large.take() else { return Ok(()) };
        let after = match sent {
            Sent::Nothing => None,
            Sent::UpTo(version) => Some(version),
            Sent::LeftOut => {
                self.large = goes_on.then(|| Large { sent, ..Large::default() });
                return Ok(());
            }
        };
        let token = items.first().map_or(Token(0), |first| token::grid(&first.key));
        let chunk = SnapshotChunk { items, ..SnapshotChunk::default() };
        let reply = send(self.grid.clone(), token, chunk, self.replace, after).await?;
        self.count(&reply);
        let is_in = after.is_some() || reply.restored > 0;
        let sent = if is_in { Sent::UpTo(reply.version) } else { Sent::LeftOut };
        self.large = goes_on.then(|| Large { sent, ..Large::default() });
        Ok(())
    }
}

/// Under one request id, however often it takes: what was put in once is not there twice.
async fn send(
    grid: Grid,
    token: Token,
    chunk: SnapshotChunk,
    replace: bool,
    after_version: Option<u64>,
) -> Result<ImportReply, Error> {
    let id = grid.request_id();
    let request = ImportRequest { chunk: chunk.encode_to_vec().into(), replace, after_version };
    let import = |channel| {
        let request = identified(request.clone(), id);
        let mut client = BackupClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        async move { client.import(request).await }
    };
    grid.asked(token, PATIENCE, import).await
}
