//! From a key to the group that holds it: here if this node leads it, else at the node that does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use trimaran_cluster::member::Cluster;
use trimaran_cluster::meta::{FORMAT, Meta};
use trimaran_cluster::replicas::Replicas;
use trimaran_cluster::route::{self, Piece, Routes, Target, Unanswered};
use trimaran_net::clock::Clock;
use trimaran_net::exchange::GridCalls;
use trimaran_net::pipeline::{Links, Pipeline as Link};
use trimaran_placement::table::{Partition, Table};
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::grid::{Call, Forward, ForwardRead, answer, call};
use trimaran_proto::api::placement::{Node, NodeState};
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Command, Fence, Pipeline, Query, QueryReply, Reply, Run};
use trimaran_replication::Error as ReplicationError;
use trimaran_replication::group::{Consistency, Group};
use trimaran_replication::session::RequestId;

use crate::command::table::{RUN_FORMAT, find};
use crate::error::Error;
use crate::limits::REQUEST_TIMEOUT;
use crate::machine::{GridMachine, query, run};
use crate::memory::Memory;

/// How long one attempt at another node may take before it is tried elsewhere.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

mod pipeline;

pub use pipeline::Said;

/// Sends commands where they belong. Clones are the same.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    routes: Routes<GridMachine>,
    clock: Arc<dyn Clock>,
    links: Links<GridCalls>,
    /// Connections for what waits at other nodes.
    waiting: Mutex<HashMap<u64, (String, Channel)>>,
    /// What every node of the cluster knows; it grows.
    format: AtomicU32,
    memory: Memory,
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
        replicas: Replicas<GridMachine>,
        clock: Arc<dyn Clock>,
        seed: u64,
        leaving: CancellationToken,
        memory: Memory,
    ) -> Self {
        let links = Links::new(cluster.peers().clone());
        let routes = Routes::new(cluster, replicas, seed, leaving);
        Self {
            inner: Arc::new(Inner {
                routes,
                clock,
                links,
                waiting: Mutex::default(),
                format: AtomicU32::new(0),
                memory,
            }),
        }
    }

    /// Before this node leaves, see [`Routes::give_leaderships_away`].
    pub async fn give_leaderships_away(&self, patience: Duration) {
        self.inner.routes.give_leaderships_away(patience).await;
    }

    /// The partition that a token lies in.
    pub fn partition_at(&self, token: Token) -> Result<Partition, Error> {
        self.inner.routes.partition_at(token).ok_or(Error::NotReady)
    }

    /// The table as this node knows it.
    pub fn table(&self) -> Arc<Table> {
        self.inner.routes.table()
    }

    /// This node.
    pub fn node(&self) -> u64 {
        self.inner.routes.cluster().node()
    }

    /// True once every node of the cluster knows the commands of Redis; it stays so.
    pub fn knows_runs(&self) -> bool {
        self.format() >= RUN_FORMAT
    }

    /// The format of the cluster: every node knows the commands that came with it, and before; it only grows.
    pub fn format(&self) -> u32 {
        let known = &self.inner.format;
        if known.load(Ordering::Relaxed) < FORMAT {
            known.store(self.inner.routes.cluster().meta().borrow().format.min(FORMAT), Ordering::Relaxed);
        }
        known.load(Ordering::Relaxed)
    }

    /// Copies of the partition that has fewest.
    pub fn least_copies(&self) -> usize {
        self.table().partitions().map(|found| found.wanted_nodes().count()).min().unwrap_or(0)
    }

    /// The memory of this node's keys.
    pub fn memory(&self) -> &Memory {
        &self.inner.memory
    }

    /// Milliseconds since 1970, as this node's clock has them.
    pub fn clock_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    /// A channel to a node for what waits there: however many wait, they are in nobody's way.
    pub fn waiting_channel(&self, node: u64) -> Option<Channel> {
        let peers = self.inner.routes.cluster().peers();
        let address = peers.address(node)?;
        let mut channels = self.inner.waiting.lock();
        if let Some((known, channel)) = channels.get(&node)
            && *known == address
        {
            return Some(channel.clone());
        }
        let channel = peers.separate_channel(&address).ok()?;
        channels.insert(node, (address, channel.clone()));
        Some(channel)
    }

    /// The node that leads the partition that a token lies in, as far as is known here.
    pub fn leader_of(&self, token: Token) -> Option<u64> {
        let table = self.table();
        table.find(token).and_then(|found| self.inner.routes.leader_of(found))
    }

    /// Who has what: partitions in token order.
    pub fn shards(&self) -> Vec<Shard> {
        let shard = |found: &Partition| {
            let leader = self.inner.routes.leader_of(found);
            let mut nodes: Vec<u64> = found.wanted_nodes().collect();
            nodes.sort_by_key(|&node| (Some(node) != leader, node));
            Shard { first: found.first, last: found.last, nodes }
        };
        self.table().partitions().map(shard).collect()
    }

    /// How Redis clients reach a node.
    pub fn resp_address(&self, node: u64) -> Option<String> {
        let meta = self.inner.routes.cluster().meta();
        let address = meta.borrow().nodes.get(&node).map(|node| node.resp_address.clone());
        address.filter(|address| !address.is_empty())
    }

    /// How Redis clients reach the nodes that are there.
    pub fn resp_addresses(&self) -> Vec<(u64, String)> {
        let meta = self.inner.routes.cluster().meta();
        let meta = meta.borrow();
        let is_there = |node: &&Node| node.state() != NodeState::Gone && !node.resp_address.is_empty();
        meta.nodes.values().filter(is_there).map(|node| (node.id, node.resp_address.clone())).collect()
    }

    /// The other nodes that are there.
    pub fn other_nodes(&self) -> Vec<u64> {
        let meta = self.inner.routes.cluster().meta();
        let meta = meta.borrow();
        let is_there = |node: &&Node| node.state() != NodeState::Gone && node.id != self.node();
        meta.nodes.values().filter(is_there).map(|node| node.id).collect()
    }

    /// Changes when nodes come or go, among others.
    pub fn members(&self) -> watch::Receiver<Arc<Meta>> {
        self.inner.routes.cluster().meta()
    }

    /// The cluster that this node is a member of.
    pub fn cluster(&self) -> &Cluster {
        self.inner.routes.cluster()
    }

    /// Keys of a slot, as this node's copy has them; 0 without a copy.
    pub fn count_in_slot(&self, slot: u16) -> usize {
        let token = token::slot_start(slot);
        let partition = self.inner.routes.partition_id_at(token);
        let group = partition.and_then(|partition| self.inner.routes.replica(partition));
        group.map_or(0, |group| group.read_now(|machine| machine.keys().count_in(token)))
    }

    /// This node's replica of a partition, for watches.
    pub fn replica(&self, partition: u64) -> Result<Group<GridMachine>, Error> {
        self.inner.routes.replica(partition).ok_or_else(|| {
            let address = self.inner.routes.address_of(partition).unwrap_or_default();
            Error::Elsewhere { partition, address }
        })
    }

    /// Where else a partition is: the nodes that have it, who leads it first, with channels to them.
    pub fn elsewhere(&self, partition: u64) -> Vec<Channel> {
        let cluster = self.inner.routes.cluster();
        let table = self.inner.routes.table();
        let Some(found) = table.get(partition) else { return Vec::new() };
        let leader = found.leader_hint.and_then(|leader| found.node_of(leader));
        let mut nodes: Vec<u64> = found.replicas.iter().map(|replica| replica.node).collect();
        nodes.retain(|&node| node != cluster.node());
        nodes.sort_by_key(|&node| Some(node) != leader);
        nodes.into_iter().filter_map(|node| cluster.peers().channel(node)).collect()
    }

    /// All replicas of this node.
    pub fn replicas(&self) -> Vec<(u64, Group<GridMachine>)> {
        self.inner.routes.replicas()
    }

    /// Milliseconds since 1970, never behind what a replica has applied.
    pub fn now_ms(&self, group: &Group<GridMachine>) -> u64 {
        self.inner.clock.now_ms().max(group.stamp_ms())
    }

    /// Has commands applied, those of one partition in order. The replies stand as the commands do. `request_id` is the
    /// caller's own, for commands that the caller may send again: that of the first, and the next ones are those of the others.
    pub async fn write(
        &self,
        writes: Vec<Write>,
        request_id: Option<RequestId>,
    ) -> Vec<Result<Reply, Error>> {
        // Each command has its id before it is sent for the first time, of the session of the partition that it lies in
        // by then; it keeps the id if that is split meanwhile.
        let table = self.table();
        let mut by_partition: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, write) in writes.iter().enumerate() {
            let partition = table.find(write.tokens.0).map_or(0, |partition| partition.id);
            by_partition.entry(partition).or_default().push(at);
        }
        let mut ids: Vec<Option<RequestId>> = vec![None; writes.len()];
        let mut under_way = Vec::with_capacity(by_partition.len());
        for (partition, places) in by_partition {
            let requests = self.inner.routes.session(partition).begin(places.len());
            places.into_iter().enumerate().for_each(|(count, at)| ids[at] = Some(requests.id(count)));
            under_way.push(requests);
        }
        let pieces: Vec<Piece<Numbered>> = writes
            .into_iter()
            .zip(ids)
            .enumerate()
            .filter_map(|(at, (write, id))| {
                let id = request_id.map(|first| first.following(at as u64)).or(id)?;
                let (token, session) = (write.tokens.0, id.session);
                Some(Piece { token, session, what: Numbered { write, id } })
            })
            .collect();
        self.spread_writes(&pieces).await
    }

    async fn spread_writes(&self, pieces: &[Piece<Numbered>]) -> Vec<Result<Reply, Error>> {
        let write_to = |partition, writes| self.write_to(partition, writes);
        let outcomes = self.inner.routes.spread(pieces, REQUEST_TIMEOUT, || Error::NotReady, write_to).await;
        outcomes.into_iter().map(|outcome| outcome.flatten()).collect()
    }

    /// The same for one command.
    pub async fn write_one(&self, write: Write, request_id: Option<RequestId>) -> Result<Reply, Error> {
        if let Some(id) = request_id {
            return self.write_numbered(Numbered { write, id }).await;
        }
        let partition = self.inner.routes.partition_id_at(write.tokens.0).unwrap_or(0);
        let requests = self.inner.routes.session(partition).begin(1);
        self.write_numbered(Numbered { write, id: requests.id(0) }).await
    }

    /// Where it is led here, it is done at once. Whatever goes wrong with that, it is done as any other, with the same id.
    async fn write_numbered(&self, numbered: Numbered) -> Result<Reply, Error> {
        let Numbered { write, id } = &numbered;
        if let Some(group) = self.inner.routes.led_here(write.tokens) {
            let proposed = self.propose(&group, vec![(write.command.clone(), Some(*id))]);
            let attempted = tokio::select! {
                biased;
                attempted = proposed => attempted.ok(),
                () = self.inner.routes.leaving() => None,
            };
            let reply = attempted.and_then(|mut replies| Reply::decode(replies.pop()?).ok());
            if let Some(reply) = reply.filter(|reply| reply.outcome() != Outcome::WrongPartition) {
                return carried_out(reply);
            }
        }
        let pieces = [Piece { token: write.tokens.0, session: id.session, what: numbered }];
        self.spread_writes(&pieces).await.pop().unwrap_or(Err(Error::NotReady))
    }

    async fn write_to(
        &self,
        partition: u64,
        writes: Vec<Numbered>,
    ) -> Result<Vec<Option<Result<Reply, Error>>>, Error> {
        let is_whole = |write: &Numbered| self.is_whole(write.write.tokens);
        let apart: Vec<bool> = writes.iter().map(|write| !is_whole(write)).collect();
        let whole: Vec<Numbered> = writes.into_iter().filter(is_whole).collect();
        let mut replies = Vec::new();
        if !whole.is_empty() {
            match self.until_answered(partition, &Ask::Write { writes: whole }).await? {
                Some(Answers::Encoded(encoded)) => replies = encoded,
                Some(Answers::Read(_)) => return Err(Error::TimedOut { partition }),
                None => {
                    return Ok(apart.iter().map(|apart| apart.then_some(Err(Error::CrossSlot))).collect());
                }
            }
        }
        let mut replies = replies.into_iter();
        let mut next = || {
            let reply = replies.next().and_then(|reply| Reply::decode(reply).ok());
            let reply = reply.ok_or(Error::TimedOut { partition })?;
            Ok((reply.outcome() != Outcome::WrongPartition).then(|| carried_out(reply)))
        };
        apart.into_iter().map(|apart| if apart { Ok(Some(Err(Error::CrossSlot))) } else { next() }).collect()
    }

    /// True if tokens are in one partition: all at once is what was asked for, and two cannot promise it.
    pub fn is_whole(&self, (first, last): (Token, Token)) -> bool {
        let table = self.table();
        first == last || table.find(first).map(|found| found.id) == table.find(last).map(|found| found.id)
    }

    /// Answers reads, none older than anything acknowledged before; the answers stand as the questions do.
    pub async fn read(&self, reads: Vec<Question>) -> Vec<Result<QueryReply, Error>> {
        let pieces: Vec<Piece<Question>> =
            reads.into_iter().map(|what| Piece { token: what.tokens.0, session: 0, what }).collect();
        let read_from = |partition, questions| self.read_from(partition, questions);
        let answers = self.inner.routes.spread(&pieces, REQUEST_TIMEOUT, || Error::NotReady, read_from).await;
        answers.into_iter().map(|answer| answer.flatten()).collect()
    }

    async fn read_from(
        &self,
        partition: u64,
        questions: Vec<Question>,
    ) -> Result<Vec<Option<Result<QueryReply, Error>>>, Error> {
        let apart: Vec<bool> = questions.iter().map(|question| !self.is_whole(question.tokens)).collect();
        let asked = questions.into_iter().zip(&apart).filter(|(_, apart)| !**apart);
        let queries: Vec<Query> = asked.map(|(question, _)| question.query).collect();
        let mut replies = Vec::new();
        if !queries.is_empty() {
            replies = match self.until_answered(partition, &Ask::Read { queries }).await? {
                None => {
                    return Ok(apart
                        .into_iter()
                        .map(|apart| apart.then_some(Err(Error::CrossSlot)))
                        .collect());
                }
                Some(Answers::Read(replies)) => replies,
                Some(Answers::Encoded(replies)) => replies
                    .into_iter()
                    .map(|reply| QueryReply::decode(reply).map_err(|_bad| Error::TimedOut { partition }))
                    .collect::<Result<_, _>>()?,
            };
        }
        let mut replies = replies.into_iter();
        let mut next = || {
            let reply = replies.next().ok_or(Error::TimedOut { partition })?;
            Ok((!reply.wrong_partition).then_some(Ok(reply)))
        };
        apart.into_iter().map(|apart| if apart { Ok(Some(Err(Error::CrossSlot))) } else { next() }).collect()
    }

    /// The same for one question.
    pub async fn read_one(&self, token: Token, query: QueryBody) -> Result<QueryReply, Error> {
        let question = Question { tokens: (token, token), query: Query { body: Some(query) } };
        self.read(vec![question]).await.pop().unwrap_or(Err(Error::NotReady))
    }

    /// Returns when this node's copy of a partition misses nothing that was acknowledged before.
    pub async fn catch_up(&self, partition: u64) -> Result<(), Error> {
        self.until_answered(partition, &Ask::Read { queries: Vec::new() }).await.map(drop)
    }

    /// True if the partition is known to have become part of another one.
    pub fn is_merged_away(&self, partition: u64) -> bool {
        self.inner.routes.is_merged_away(partition)
    }

    /// The version of the table, as it changes.
    pub fn table_version(&self) -> watch::Receiver<u64> {
        self.inner.routes.table_version()
    }

    /// What another node forwards: answered here or not at all, so that two nodes that each take the other for the
    /// leader do not send it to and fro.
    pub async fn forwarded_write(&self, forward: Forward) -> Result<Vec<Bytes>, Error> {
        let group = self.replica(forward.partition)?;
        let Forward { commands, session, first_sequence, answered_below, sequences, .. } = forward;
        let sequence = |at: usize| match sequences.get(at) {
            Some(&sequence) => sequence,
            None => first_sequence.wrapping_add(at as u64),
        };
        let id = |at: usize| RequestId { session, sequence: sequence(at), answered_below };
        let commands = commands.into_iter().enumerate().map(|(at, command)| (command, Some(id(at))));
        self.propose(&group, commands.collect()).await
    }

    /// Likewise for reads.
    pub async fn forwarded_read(&self, forward: ForwardRead) -> Result<Vec<Bytes>, Error> {
        let group = self.replica(forward.partition)?;
        let queries: Result<Vec<Query>, _> = forward.queries.into_iter().map(Query::decode).collect();
        let queries = queries.map_err(|_bad| Error::Invalid { field: "queries", reason: "malformed" })?;
        group.barrier(Consistency::Linearizable).await?;
        Ok(self.read_here(&group, &queries).into_iter().map(|reply| reply.encode_to_vec().into()).collect())
    }

    async fn propose(
        &self,
        group: &Group<GridMachine>,
        commands: Vec<(Bytes, Option<RequestId>)>,
    ) -> Result<Vec<Bytes>, Error> {
        let first = commands.first().map(|(command, _)| command.clone());
        let token = || Command::decode(first?).ok()?.body.as_ref().and_then(first_token);
        self.inner.routes.note(group.id(), commands.len(), token);
        self.inner.memory.room().await;
        Ok(group.propose_many(commands).await?)
    }

    fn read_here(&self, group: &Group<GridMachine>, queries: &[Query]) -> Vec<QueryReply> {
        let token = || match queries.first()?.body.as_ref()? {
            QueryBody::Get(key)
            | QueryBody::Exists(key)
            | QueryBody::Ttl(key)
            | QueryBody::Semaphore(key) => Some(token::grid(key)),
            QueryBody::Run(run) => run_token(run),
            QueryBody::Versions(versions) => versions.keys.first().map(|key| token::grid(key)),
            QueryBody::Pipeline(pipeline) => pipeline_token(pipeline),
            QueryBody::Scan(_) => None,
        };
        self.inner.routes.note(group.id(), queries.len(), token);
        let is_of_semaphore = |query: &Query| matches!(query.body, Some(QueryBody::Semaphore(_)));
        let passed_ms = if queries.iter().any(is_of_semaphore) { group.passed_ms() } else { 0 };
        let times = (self.now_ms(group), passed_ms);
        group.read_now(|machine| queries.iter().map(|query| query::answer(machine, query, times)).collect())
    }

    /// `None` if there is no such partition any more.
    async fn until_answered(&self, partition: u64, ask: &Ask) -> Result<Option<Answers>, Error> {
        let asked = Asked { router: self, partition, ask };
        let outcome = self.inner.routes.until_answered(partition, &asked, REQUEST_TIMEOUT).await;
        match outcome {
            Ok(answers) => Ok(Some(answers)),
            Err(Unanswered::Merged) => Ok(None),
            Err(Unanswered::Lost) => Err(Error::PartitionLost { partition }),
            Err(Unanswered::TimedOut) => Err(Error::TimedOut { partition }),
            Err(Unanswered::Refused(error)) => Err(error),
        }
    }
}

/// A partition and the nodes that have it, who leads it first.
#[derive(Clone, Debug)]
pub struct Shard {
    /// First and last token, both inclusive.
    pub first: Token,
    /// Last token.
    pub last: Token,
    /// Nodes.
    pub nodes: Vec<u64>,
}

/// A command, and the tokens of its first and last key.
#[derive(Clone, Debug)]
pub struct Write {
    /// The least and the greatest.
    pub tokens: (Token, Token),
    /// As it goes into the log.
    pub command: Bytes,
}

impl Write {
    /// A command on one key.
    pub fn of(key: &[u8], body: Body) -> Self {
        Self::fenced(key, body, None)
    }

    /// The same, as long as a holding in the same slot lasts.
    pub fn fenced(key: &[u8], body: Body, fence: Option<Fence>) -> Self {
        let token = token_of(key);
        let command = Command { body: Some(body), fence, tells_changes: false };
        Self { tokens: (token, token), command: command.encode_to_vec().into() }
    }
}

/// The least and the greatest token of some keys.
pub fn tokens<'a>(keys: impl IntoIterator<Item = &'a Bytes>) -> Option<(Token, Token)> {
    keys.into_iter().map(|key| token_of(key)).fold(None, |range, token| match range {
        None => Some((token, token)),
        Some((first, last)) => Some((token.min(first), token.max(last))),
    })
}

/// A question, and the tokens of its first and last key.
#[derive(Clone, Debug)]
pub struct Question {
    /// The least and the greatest.
    pub tokens: (Token, Token),
    /// As it goes to the leader.
    pub query: Query,
}

/// Where a key is looked for: its slot alone decides, for partitions begin and end with slots.
pub fn token_of(key: &[u8]) -> Token {
    token::slot_start(token::slot(key))
}

/// A reply, unless nothing was done for want of memory or because somebody's lease is over.
fn carried_out(reply: Reply) -> Result<Reply, Error> {
    match reply.outcome() {
        Outcome::Full => Err(Error::Full),
        Outcome::Fenced => Err(Error::LeaseLost),
        _ => Ok(reply),
    }
}

fn first_token(body: &Body) -> Option<Token> {
    Some(token::grid(match body {
        Body::Set(set) => &set.key,
        Body::MultiSet(set) => &set.pairs.first()?.key,
        Body::Increment(increment) => &increment.key,
        Body::CompareAndSwap(swap) => &swap.key,
        Body::Delete(delete) => delete.keys.first()?,
        Body::Expire(expire) => &expire.key,
        Body::Reap(reap) => reap.keys.first()?,
        Body::Acquire(acquire) => &acquire.name,
        Body::Renew(renew) => &renew.name,
        Body::Release(release) => &release.name,
        Body::Load(load) => &load.items.first()?.key,
        Body::Evict(evict) => &evict.victims.first()?.key,
        Body::Run(command) => return run_token(command),
        Body::Transaction(transaction) => return transaction.commands.iter().find_map(run_token),
        Body::Pipeline(pipeline) => return pipeline_token(pipeline),
    }))
}

fn pipeline_token(pipeline: &Pipeline) -> Option<Token> {
    run::commands(pipeline)
        .find_map(|(spec, arguments)| spec?.keys(arguments).next().map(|key| token::grid(key)))
}

fn run_token(run: &Run) -> Option<Token> {
    let spec = find(run.arguments.first()?)?;
    spec.keys(&run.arguments).next().map(|key| token::grid(key))
}

/// A command with its id.
#[derive(Clone, Debug)]
struct Numbered {
    write: Write,
    id: RequestId,
}

/// What is asked of a partition.
enum Ask {
    /// Commands in order, with ids of one session.
    Write {
        writes: Vec<Numbered>,
    },
    Read {
        queries: Vec<Query>,
    },
}

enum Answers {
    /// Of writes, or of reads at another node.
    Encoded(Vec<Bytes>),
    Read(Vec<QueryReply>),
}

/// A question on its way.
struct Asked<'a> {
    router: &'a Router,
    partition: u64,
    ask: &'a Ask,
}

impl route::Ask<GridMachine> for Asked<'_> {
    type Answer = Answers;
    type Error = Error;

    async fn ask(&self, target: Target<GridMachine>) -> Result<Answers, Error> {
        let partition = self.partition;
        let nobody = || Error::from(ReplicationError::NotLeader { group: partition, leader: None });
        match (target, self.ask) {
            (Target::Here(group), Ask::Write { writes }) => {
                let commands = writes.iter().map(|write| (write.write.command.clone(), Some(write.id)));
                Ok(Answers::Encoded(self.router.propose(&group, commands.collect()).await?))
            }
            (Target::Here(group), Ask::Read { queries }) => {
                group.barrier(Consistency::Linearizable).await?;
                Ok(Answers::Read(self.router.read_here(&group, queries)))
            }
            (Target::There(node), Ask::Write { writes }) => {
                let link = self.router.inner.links.to(node).ok_or_else(nobody)?;
                let first = writes.first().map(|write| write.id).ok_or_else(nobody)?;
                let is_run = writes.iter().zip(first.sequence..).all(|(write, at)| write.id.sequence == at);
                let sequences = writes.iter().map(|write| write.id.sequence);
                let forward = Forward {
                    partition,
                    commands: writes.iter().map(|write| write.write.command.clone()).collect(),
                    session: first.session,
                    first_sequence: first.sequence,
                    answered_below: first.answered_below,
                    sequences: if is_run { Vec::new() } else { sequences.collect() },
                };
                let replies = forwarded(partition, &link, call::Body::Forward(forward)).await?;
                Ok(Answers::Encoded(replies))
            }
            (Target::There(node), Ask::Read { queries }) => {
                let link = self.router.inner.links.to(node).ok_or_else(nobody)?;
                let queries = queries.iter().map(|query| query.encode_to_vec().into()).collect();
                let body = call::Body::ForwardRead(ForwardRead { partition, queries });
                forwarded(partition, &link, body).await.map(Answers::Encoded)
            }
            (Target::Nobody, _) => Err(nobody()),
        }
    }
}

async fn forwarded(partition: u64, link: &Link<GridCalls>, body: call::Body) -> Result<Vec<Bytes>, Error> {
    let call = Call { id: 0, request_id: Bytes::new(), body: Some(body) };
    let unknown = |reason| Error::from(ReplicationError::Unknown { group: partition, reason });
    let answered = tokio::time::timeout(ATTEMPT_TIMEOUT, link.call(call)).await;
    match answered {
        Ok(Ok(answer)) => match answer.body {
            Some(answer::Body::Forward(reply)) => Ok(reply.replies),
            Some(answer::Body::Failure(failure))
                if failure.grpc_code == tonic::Code::InvalidArgument as u32 =>
            {
                Err(Error::Invalid { field: "request", reason: "refused by the partition's leader" })
            }
            Some(answer::Body::Failure(failure))
                if failure.grpc_code == tonic::Code::ResourceExhausted as u32 =>
            {
                Err(ReplicationError::Busy { group: partition, limit: "PROPOSALS_MAX", max: 0 }.into())
            }
            // Who leads, or what became of it, is not known: try again with the same id.
            _ => Err(unknown("the partition's leader did not take it")),
        },
        Ok(Err(_down)) => Err(unknown("the connection to the partition's leader broke")),
        Err(_elapsed) => Err(unknown("the partition's leader did not answer")),
    }
}
