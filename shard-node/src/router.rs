//! From an operation to the partitions that it is about, and to whoever leads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use trimaran_cluster::member::{Cluster, Defined};
use trimaran_cluster::replicas::Replicas;
use trimaran_cluster::route::{self, Piece, Routes, Unanswered};
use trimaran_net::clock::Clock;
use trimaran_net::exchange::ShardCalls;
use trimaran_net::pipeline::Links;
use trimaran_net::retry::Backoff;
use trimaran_placement::table::Partition;
use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::internal::shard::read_request::Body as Question;
use trimaran_proto::internal::shard::shard_client::ShardClient;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::Error as ReplicationError;
use trimaran_replication::group::Group;
use trimaran_replication::session::RequestId;

use crate::access::AccessKeys;
use crate::capacity::{Consumed, Use};
use crate::error::Error;
use crate::hot::{Asked, Hot};
use crate::key::{RowKey, parse_head};
use crate::limits::{CHECKSUM_KEPT, DEFINE_ATTEMPTS, HELD_MAX, MESSAGE_BYTES_MAX, RESOLVING_MAX, SCANS_MAX};
use crate::machine::ShardMachine;
use crate::op::OnTable;
use crate::table::{Status, Table, Tables};
use crate::throttle::Throttle;
use crate::transaction::{ID_BYTES, coordinate};
use crate::verify;

/// How long a request is tried at changing leaders before it is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a transaction that finds its rows elsewhere waits for word of other partitions before it looks again.
const PARTITIONS_PATIENCE: Duration = Duration::from_millis(100);

/// How long a change of a table is tried, and how long between two attempts.
const DEFINE_TIMEOUT: Duration = Duration::from_secs(8);

mod forward;
mod read;

use forward::{Write, nobody};

/// Sends operations where they belong. Clones are the same.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    routes: Routes<ShardMachine>,
    /// To the leaders of partitions.
    lines: Links<ShardCalls>,
    hot: Hot,
    throttle: Throttle,
    tables: ArcSwap<Tables>,
    access_keys: ArcSwap<AccessKeys>,
    clock: Arc<dyn Clock>,
    scans: Semaphore,
    resolving: Arc<Semaphore>,
    seen: AtomicU64,
    changed: Notify,
    random: Mutex<StdRng>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

impl Router {
    /// A router over this node's replicas and its view of the cluster, see [`Routes::new`].
    pub fn new(
        cluster: Cluster,
        replicas: Replicas<ShardMachine>,
        clock: Arc<dyn Clock>,
        throttle: Throttle,
        seed: u64,
        leaving: CancellationToken,
    ) -> Self {
        let lines = Links::new(cluster.peers().clone());
        let routes = Routes::new(cluster, replicas, seed, leaving);
        let scans = Semaphore::new(SCANS_MAX);
        let resolving = Arc::new(Semaphore::new(RESOLVING_MAX));
        let (tables, access_keys, seen) = (ArcSwap::default(), ArcSwap::default(), AtomicU64::new(0));
        let changed = Notify::new();
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        let router = Self {
            inner: Arc::new(Inner {
                routes,
                lines,
                hot: Hot::default(),
                throttle,
                tables,
                access_keys,
                clock,
                scans,
                resolving,
                seen,
                changed,
                random,
            }),
        };
        router.read_tables();
        tokio::spawn(router.clone().follow_tables());
        router
    }

    async fn follow_tables(self) {
        let mut meta = self.cluster().meta();
        while meta.changed().await.is_ok() {
            meta.mark_unchanged();
            self.read_tables();
        }
    }

    fn read_tables(&self) {
        let meta = Arc::clone(&self.cluster().meta().borrow());
        let tables = Arc::new(Tables::of(&meta));
        self.inner.throttle.heard(&tables);
        self.inner.tables.store(tables);
        self.inner.access_keys.store(Arc::new(AccessKeys::of(&meta)));
        self.inner.changed.notify_one();
    }

    /// Returns when tables may have changed since the last call. For one caller.
    pub async fn tables_changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Changes the definition of a table, whoever else does; `edit` says whether there is something to change.
    pub async fn edit(
        &self,
        name: &str,
        edit: impl Fn(&mut Table) -> Result<bool, Error>,
    ) -> Result<Table, Error> {
        let not_found = || Error::TableNotFound { table: name.to_owned() };
        for _ in 0..DEFINE_ATTEMPTS {
            let mut table = self.tables().get(name).cloned().ok_or_else(not_found)?;
            if !edit(&mut table)? {
                return Ok(table);
            }
            match self.define(name, Some(table.encode()), table.revision).await? {
                Defined::Done(revision) => {
                    table.revision = revision;
                    return Ok(table);
                }
                Defined::Changed(_) => self.refresh_tables().await?,
            }
        }
        Err(Error::TableInUse(format!("Attempt to change a resource which is still in use: {name}")))
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.inner.routes.cluster()
    }

    /// Before this node leaves, see [`Routes::give_leaderships_away`].
    pub async fn give_leaderships_away(&self, patience: Duration) {
        self.inner.routes.give_leaderships_away(patience).await;
    }

    /// True if this node leads the meta group, and so looks after what was begun and not ended.
    pub fn leads_meta(&self) -> bool {
        self.cluster().leads_meta()
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    /// The tables as this node knows them.
    pub fn tables(&self) -> Arc<Tables> {
        self.inner.tables.load_full()
    }

    /// The keys of the DynamoDB API as this node knows them.
    pub fn access_keys(&self) -> Arc<AccessKeys> {
        self.inner.access_keys.load_full()
    }

    /// Catches up with the tables that the cluster has agreed on. An error if the meta group does not answer: then what
    /// this node knows may be old, and that a table is not there cannot be said.
    pub async fn refresh_tables(&self) -> Result<(), Error> {
        self.cluster().refresh().await?;
        self.read_tables();
        Ok(())
    }

    /// The table of a name, ready for requests.
    pub async fn table(&self, name: &str) -> Result<Table, Error> {
        let active = || self.tables().get(name).filter(|table| table.status == Status::Active).cloned();
        if let Some(table) = active() {
            return Ok(table);
        }
        // Another node may know of it already.
        self.refresh_tables().await?;
        active().ok_or_else(|| Error::TableNotFound { table: name.to_owned() })
    }

    /// Carries out an operation on one table.
    pub async fn run<O: OnTable>(&self, operation: O) -> Result<O::Reply, Error> {
        let table = self.table(operation.table()).await?;
        match self.run_on(&operation, &table).await {
            Err(Error::TableDropped) => {}
            outcome => return outcome,
        }
        // Deleted, and perhaps made again under the same name.
        self.refresh_tables().await?;
        let again = self.table(operation.table()).await?;
        let not_found = || Error::TableNotFound { table: operation.table().to_owned() };
        if again.id == table.id {
            return Err(not_found());
        }
        match self.run_on(&operation, &again).await {
            Err(Error::TableDropped) => Err(not_found()),
            outcome => outcome,
        }
    }

    /// Likewise, if as much may be asked of the table, which is charged with what it cost.
    async fn run_on<O: OnTable>(&self, operation: &O, table: &Table) -> Result<O::Reply, Error> {
        let Some(used) = operation.uses() else { return operation.run(self, table).await };
        self.admit(table, used)?;
        let outcome = operation.run(self, table).await;
        match &outcome {
            Ok(reply) => self.charge(table, used.asked, || operation.consumed(table, reply)),
            // It was looked at, and found to be otherwise.
            Err(Error::ConditionFailed { .. }) => self.charge(table, used.asked, || Consumed::table(1.0)),
            Err(_) => {}
        }
        outcome
    }

    /// See [`Throttle::admit`].
    pub(crate) fn admit(&self, table: &Table, used: Use<'_>) -> Result<(), Error> {
        let throttle = &self.inner.throttle;
        if throttle.is_idle() { Ok(()) } else { throttle.admit(table, used, self.now_ms()) }
    }

    /// See [`Throttle::charge`]; it is reckoned only where something is limited.
    pub(crate) fn charge(&self, table: &Table, asked: Asked, consumed: impl FnOnce() -> Consumed) {
        let throttle = &self.inner.throttle;
        if !throttle.is_idle() {
            throttle.charge(table, asked, &consumed(), self.now_ms());
        }
    }

    /// See [`Table::as_of`].
    pub(crate) fn as_of(&self, table: &Table, as_of_ms: Option<u64>) -> Result<u64, Error> {
        as_of_ms.map_or(Ok(0), |as_of_ms| table.as_of(as_of_ms, self.now_ms()))
    }

    /// Changes the definition of a table, from the revision that was seen (0 = there was none).
    pub async fn define(&self, name: &str, value: Option<Bytes>, revision: u64) -> Result<Defined, Error> {
        self.define_named(&Table::definition_name(name), value, revision).await
    }

    /// Likewise any definition of the cluster, by its whole name.
    pub(crate) async fn define_named(
        &self,
        name: &str,
        value: Option<Bytes>,
        revision: u64,
    ) -> Result<Defined, Error> {
        let defined = self.cluster().define_within(name, value, revision, DEFINE_TIMEOUT).await?;
        self.read_tables();
        Ok(defined)
    }

    /// What this node was asked as a leader.
    pub fn hot(&self) -> &Hot {
        &self.inner.hot
    }

    /// All replicas of this node.
    pub fn replicas(&self) -> Vec<(u64, Group<ShardMachine>)> {
        self.inner.routes.replicas()
    }

    /// Has one command applied. What a transaction has a hold of is waited for, up to [`HELD_MAX`].
    pub async fn write(
        &self,
        key: &RowKey,
        body: Body,
        request_id: Option<RequestId>,
    ) -> Result<state::Reply, Error> {
        let deadline = tokio::time::Instant::now() + HELD_MAX;
        let mut backoff = Backoff::default();
        loop {
            let mut replies = self.write_many(vec![(key.clone(), body.clone())], request_id).await;
            let reply = replies.pop().unwrap_or(Err(Error::NotReady))?;
            if reply.outcome() != Outcome::Held || tokio::time::Instant::now() >= deadline {
                return Ok(reply);
            }
            if !self.settle(reply.held).await?.is_empty() {
                self.pause(&mut backoff).await;
            }
        }
    }

    /// Waits a little longer each time.
    pub(crate) async fn pause(&self, backoff: &mut Backoff) {
        let pause = backoff.next(&mut *self.inner.random.lock());
        tokio::time::sleep(pause).await;
    }

    /// Writes to one item, alone or in one transaction with the entries of strong indexes that follow from it; `may_touch` = it is likely
    /// that some do. What has an id is a transaction as long as it may have been one: its record has the answer.
    pub async fn write_item(
        &self,
        table: &Table,
        key: RowKey,
        mut body: Body,
        request_id: Option<RequestId>,
        may_touch: bool,
    ) -> Result<state::Reply, Error> {
        let is_wanted = table.strong_indexes.is_wanted();
        let has_changed =
            request_id.is_some() && table.strong_changed_ms > 0 && table.has_changed_strength(self.now_ms());
        let is_transaction = match request_id {
            Some(_) => is_wanted || has_changed,
            None => is_wanted && may_touch,
        };
        // What was done alone before is remembered by the partition, which lets nothing with an id pass since.
        if !is_transaction || (is_wanted && has_changed) {
            let alone = is_wanted && request_id.is_none();
            match &mut body {
                Body::Put(put) => put.alone = alone,
                Body::Update(update) => update.alone = alone,
                Body::Delete(delete) => delete.alone = alone,
                _ => {}
            }
            let reply = self.write(&key, body.clone(), request_id).await?;
            // This node may not have heard of it yet, or was wrong.
            if reply.outcome() != Outcome::Indexed {
                return Ok(reply);
            }
        }
        let what = match body {
            Body::Put(put) => What::Put(put),
            Body::Update(update) => What::Update(update),
            Body::Delete(delete) => What::Delete(delete),
            _ => return Err(Error::NotReady),
        };
        coordinate::single(self, key, what, request_id).await
    }

    /// Has commands applied as [`Router::write_many`] does, and waits for what transactions have a hold of.
    pub async fn write_all(
        &self,
        commands: Vec<(RowKey, Body)>,
        request_id: Option<RequestId>,
    ) -> Vec<Result<state::Reply, Error>> {
        let mut replies = self.write_many(commands.clone(), request_id).await;
        for ((reply, (key, body)), at) in replies.iter_mut().zip(commands).zip(0..) {
            if matches!(reply, Ok(reply) if reply.outcome() == Outcome::Held) {
                *reply = self.write(&key, body, request_id.map(|id| id.following(at))).await;
            }
        }
        replies
    }

    /// Has commands applied, those of one partition and table in order. The replies stand as the commands do. `request_id`
    /// is the caller's own, for the first of them; the others follow it, so that the same request has the same ids
    /// wherever its rows are by then.
    pub async fn write_many(
        &self,
        commands: Vec<(RowKey, Body)>,
        request_id: Option<RequestId>,
    ) -> Vec<Result<state::Reply, Error>> {
        let table = self.inner.routes.table();
        let mut under_way: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, (key, _)) in commands.iter().enumerate() {
            let partition = table.find(key.token).map_or(0, |partition| partition.id);
            under_way.entry(partition).or_default().push(at);
        }
        let mut ids: Vec<Option<RequestId>> = vec![None; commands.len()];
        let mut open = Vec::with_capacity(under_way.len());
        for (partition, places) in under_way {
            let requests = self.inner.routes.session(partition).begin(places.len());
            places.into_iter().enumerate().for_each(|(count, at)| ids[at] = Some(requests.id(count)));
            open.push(requests);
        }
        let own = |at: u64, row: &[u8]| {
            let id = request_id?;
            let sequence = id.sequence.wrapping_add(at);
            Some(within(RequestId { sequence, ..id }, parse_head(row).map_or(0, |(table, _)| table)))
        };
        let pieces = commands.into_iter().zip(ids).zip(0..).filter_map(|(((key, body), id), at)| {
            let id = own(at, &key.row).or(id)?;
            let command = state::Command { row: key.row, body: Some(body) }.encode_to_vec().into();
            Some(Piece { token: key.token, session: id.session, what: (command, id) })
        });
        let pieces: Vec<Piece<(Bytes, RequestId)>> = pieces.collect();
        let send = async |partition, commands: Vec<_>| {
            let count = commands.len();
            let write = Write { router: self, partition, commands };
            let Some(replies) = self.until_answered(partition, &write).await? else {
                return Ok(vec![None; count]);
            };
            if replies.len() != count {
                // What became of the others is not known.
                return Err(Error::TimedOut { partition });
            }
            let decode = |reply| {
                let reply = state::Reply::decode(reply).map_err(|_bad| Error::TimedOut { partition })?;
                Ok((reply.outcome() != Outcome::WrongPartition).then_some(reply))
            };
            replies.into_iter().map(decode).collect()
        };
        self.inner.routes.spread(&pieces, REQUEST_TIMEOUT, || Error::NotReady, send).await
    }

    /// Asks for rows, wherever they are; the answers stand as the questions do.
    pub async fn get(&self, keys: Vec<RowKey>) -> Vec<Result<wire::MaybeItem, Error>> {
        self.get_as_of(keys, 0).await
    }

    /// Likewise for items as they were at a version (0 = as they are), in all partitions alike.
    pub async fn get_as_of(&self, keys: Vec<RowKey>, as_of: u64) -> Vec<Result<wire::MaybeItem, Error>> {
        let pieces = keys.into_iter().map(|key| Piece { token: key.token, session: 0, what: key.row });
        let pieces: Vec<Piece<Bytes>> = pieces.collect();
        let send = async |partition, rows: Vec<Bytes>| {
            let count = rows.len();
            let get = wire::Get { rows, undecided: Vec::new(), as_of };
            let Some(reply) = self.read_from(partition, Question::Get(get)).await? else {
                return Ok(vec![None; count]);
            };
            if reply.items.len() != count {
                return Err(Error::TimedOut { partition });
            }
            Ok(reply.items.into_iter().map(Some).collect())
        };
        self.inner.routes.spread(&pieces, REQUEST_TIMEOUT, || Error::NotReady, send).await
    }

    /// Asks the partition that a token lies in; the answer misses nothing acknowledged before. What is asked may depend
    /// on the partition; it is returned as it was when it was asked.
    pub async fn read(
        &self,
        token: Token,
        question: impl Fn(&Partition) -> Question,
    ) -> Result<(Partition, wire::ReadReply), Error> {
        let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
        loop {
            let table = self.inner.routes.table();
            let partition = table.find(token).ok_or(Error::NotReady)?;
            if let Some(reply) = self.read_from(partition.id, question(partition)).await? {
                return Ok((partition.clone(), reply));
            }
            if !self.inner.routes.wait_for_newer(&table, deadline).await {
                return Err(Error::TimedOut { partition: partition.id });
            }
        }
    }

    /// Where to go on with something that is done with every partition, one after another; `None` at the end. `told` is up
    /// to which token that partition reached which `token` was for: so none is left out, whatever is split meanwhile.
    pub fn behind(&self, token: Token, told: Option<u64>) -> Result<Option<Token>, Error> {
        let known = || self.inner.routes.partition_at(token).map(|partition| partition.last.0);
        let last = told.or_else(known).ok_or(Error::NotReady)?;
        Ok(last.checked_add(1).map(Token))
    }

    /// This node's replica of a partition.
    pub fn replica(&self, partition: u64) -> Option<Group<ShardMachine>> {
        self.inner.routes.replica(partition)
    }

    /// The partition that a token lies in, as far as this node knows.
    pub fn partition_at(&self, token: Token) -> Option<Partition> {
        self.inner.routes.partition_at(token)
    }

    /// What a node's copy of a partition had when it came to a checksum in its log.
    pub async fn checksum(&self, node: u64, partition: u64, id: Bytes) -> Result<wire::ChecksumReply, Error> {
        if node == self.cluster().node() {
            return verify::here(self, partition, &id).await;
        }
        let mut client = self.client(node).ok_or_else(|| nobody(partition))?;
        // The rows of a whole partition are looked at.
        let call = client.checksum(wire::ChecksumRequest { partition, id });
        let reply = tokio::time::timeout(CHECKSUM_KEPT, call).await;
        let lost = |reason| Error::from(ReplicationError::Unknown { group: partition, reason });
        let reply = reply.map_err(|_elapsed| lost("a copy did not answer"))?;
        Ok(reply.map_err(|_status| lost("a copy did not say what it has"))?.into_inner())
    }

    /// Which partition a token lies in, as far as this node knows.
    pub fn partition_of(&self, token: Token) -> Option<u64> {
        self.inner.routes.table().find(token).map(|partition| partition.id)
    }

    /// Waits until this node knows of other partitions than it does now, or for a moment.
    pub async fn wait_for_partitions(&self) {
        let table = self.inner.routes.table();
        let soon = tokio::time::Instant::now() + PARTITIONS_PATIENCE;
        let _newer = self.inner.routes.wait_for_newer(&table, soon).await;
    }

    /// A place among those that write what was decided.
    pub async fn resolving(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inner.resolving).acquire_owned().await.ok()
    }

    /// An id that no other transaction has.
    pub fn new_id(&self) -> [u8; ID_BYTES] {
        self.inner.random.lock().random()
    }

    /// The greatest version seen, of those that say that this node's clock is behind.
    pub fn seen(&self, version: u64) -> u64 {
        self.inner.seen.fetch_max(version, Ordering::Relaxed).max(version)
    }

    /// The tables of these names, ready for requests.
    pub async fn tables_of<'a>(&self, names: Vec<&'a str>) -> Result<BTreeMap<&'a str, Table>, Error> {
        let mut tables = BTreeMap::new();
        for name in names {
            if !tables.contains_key(name) {
                tables.insert(name, self.table(name).await?);
            }
        }
        Ok(tables)
    }

    /// Refuses what older nodes of the cluster do not know yet.
    pub fn require_format(&self, format: u32) -> Result<(), Error> {
        let agreed = self.cluster().meta().borrow().format;
        if agreed >= format { Ok(()) } else { Err(Error::NotAgreed) }
    }

    /// `None` if there is no such partition any more.
    async fn until_answered<A>(&self, partition: u64, ask: &A) -> Result<Option<A::Answer>, Error>
    where
        A: route::Ask<ShardMachine, Error = Error>,
    {
        let outcome = self.inner.routes.until_answered(partition, ask, REQUEST_TIMEOUT).await;
        match outcome {
            Ok(answer) => Ok(Some(answer)),
            Err(Unanswered::Merged) => Ok(None),
            Err(Unanswered::Lost) => Err(Error::Lost { partition }),
            Err(Unanswered::TimedOut) => Err(Error::TimedOut { partition }),
            Err(Unanswered::Refused(error)) => Err(error),
        }
    }

    /// What another node forwards: answered here or not at all, so that two nodes that each take the other for the
    /// leader do not send it to and fro.
    pub async fn forwarded_write(&self, request: wire::WriteRequest) -> Result<wire::WriteReply, Error> {
        let partition = request.partition;
        let group = self.inner.routes.replica(partition).ok_or(Error::Elsewhere { partition })?;
        let wire::WriteRequest { commands, session, first_sequence, answered_below, sequences, .. } = request;
        let sequence = |at: usize| match sequences.get(at) {
            Some(&sequence) => sequence,
            None => first_sequence.wrapping_add(at as u64),
        };
        let id = |at: usize| RequestId { session, sequence: sequence(at), answered_below };
        let commands = commands.into_iter().enumerate().map(|(at, command)| (command, id(at)));
        Ok(wire::WriteReply { replies: self.propose(&group, commands.collect()).await? })
    }

    /// Likewise for reads.
    pub async fn forwarded_read(&self, request: wire::ReadRequest) -> Result<wire::ReadReply, Error> {
        let partition = request.partition;
        let group = self.inner.routes.replica(partition).ok_or(Error::Elsewhere { partition })?;
        let question = request
            .body
            .ok_or_else(|| crate::error::Invalid::new("a question of a newer release; upgrade this node"))?;
        self.read_here(&group, question).await
    }

    async fn propose(
        &self,
        group: &Group<ShardMachine>,
        commands: Vec<(Bytes, RequestId)>,
    ) -> Result<Vec<Bytes>, Error> {
        let first = commands.first().map(|(command, _)| command.clone());
        let token = || Some(parse_head(&state::Command::decode(first?).ok()?.row)?.1);
        self.inner.routes.note(group.id(), commands.len(), token);
        let row = |at: usize| {
            let (command, _) = commands.get(at)?;
            let command = state::Command::decode(command.clone()).ok()?;
            let is_asked_for = matches!(command.body?, Body::Put(_) | Body::Update(_) | Body::Delete(_));
            is_asked_for.then_some(command.row)
        };
        self.inner.hot.note(Asked::Write, commands.len(), row, || self.now_ms());
        let commands = commands.into_iter().map(|(command, id)| (command, Some(id)));
        Ok(group.propose_many(commands.collect()).await?)
    }

    pub(crate) fn client(&self, node: u64) -> Option<ShardClient<tonic::transport::Channel>> {
        let client = ShardClient::new(self.cluster().peers().channel(node)?);
        let client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        Some(client.max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// A caller's id as it counts within one table. The same request to a table that was made again under its name is
/// another one: the reply that is remembered for the first says only that the old table is gone.
pub(crate) fn within(id: RequestId, table: u64) -> RequestId {
    RequestId { session: id.session ^ table.wrapping_mul(ODD), ..id }
}

/// 2^64 divided by the golden ratio: neighbouring tables are far apart. Fixed while replies are remembered.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
