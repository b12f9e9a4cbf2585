//! From a key to the group that holds it: here if this node leads it, else at the node that does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use trimaran_cluster::member::Cluster;
use trimaran_cluster::replicas::Replicas;
use trimaran_cluster::route::{self, Routes, Target, Unanswered};
use trimaran_net::clock::Clock;
use trimaran_net::pipeline::Pipeline;
use trimaran_placement::table::{Partition, Table};
use trimaran_placement::token::{self, Token};
use trimaran_proto::api::grid::{Call, Forward, ForwardRead, answer, call};
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::{Query, QueryReply};
use trimaran_replication::Error as ReplicationError;
use trimaran_replication::group::{Consistency, Group};
use trimaran_replication::session::RequestId;

use crate::data::{Value, key};
use crate::error::Error;
use crate::limits::REQUEST_TIMEOUT;
use crate::machine::GridMachine;

/// How long one attempt at another node may take before it is tried elsewhere.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// Sends commands where they belong. Clones are the same.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    routes: Routes<GridMachine>,
    clock: Arc<dyn Clock>,
    links: Mutex<HashMap<u64, (String, Pipeline)>>,
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
    ) -> Self {
        let routes = Routes::new(cluster, replicas, seed, leaving);
        Self { inner: Arc::new(Inner { routes, clock, links: Mutex::default() }) }
    }

    /// Before this node leaves, see [`Routes::give_leaderships_away`].
    pub async fn give_leaderships_away(&self, patience: Duration) {
        self.inner.routes.give_leaderships_away(patience).await;
    }

    /// The partition that a token lies in.
    pub fn partition_at(&self, token: Token) -> Result<Partition, Error> {
        self.inner.routes.partition_at(token).ok_or(Error::NotReady)
    }

    /// The id of the partition that a key lies in.
    pub fn partition_of(&self, key: &[u8]) -> Result<u64, Error> {
        // The slot alone decides: partitions begin and end with slots.
        let token = token::slot_start(token::slot(key));
        self.inner.routes.partition_id_at(token).ok_or(Error::NotReady)
    }

    /// The table as this node knows it.
    pub fn table(&self) -> Arc<Table> {
        self.inner.routes.table()
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

    /// Has commands of one partition applied, in order, and returns their replies. `request_id` is the caller's own,
    /// for a single command that the caller may send again.
    pub async fn write(
        &self,
        partition: u64,
        commands: Vec<Bytes>,
        request_id: Option<RequestId>,
    ) -> Result<Vec<Bytes>, Error> {
        let session = self.inner.routes.session(partition);
        let requests = session.begin(commands.len());
        let first = request_id.unwrap_or_else(|| requests.id(0));
        let write = Ask::Write { commands, first };
        match self.until_answered(partition, &write).await? {
            Answers::Encoded(replies) => Ok(replies),
            Answers::Read(_) => Err(Error::TimedOut { partition }),
        }
    }

    /// Answers reads of one partition, none older than anything acknowledged before.
    pub async fn read(&self, partition: u64, queries: Vec<Query>) -> Result<Vec<QueryReply>, Error> {
        match self.until_answered(partition, &Ask::Read { queries }).await? {
            Answers::Read(replies) => Ok(replies),
            Answers::Encoded(replies) => replies
                .into_iter()
                .map(|reply| QueryReply::decode(reply).map_err(|_bad| Error::TimedOut { partition }))
                .collect(),
        }
    }

    /// What another node forwards: answered here or not at all, so that two nodes that each take the other for the
    /// leader do not send it to and fro.
    pub async fn forwarded_write(&self, forward: Forward) -> Result<Vec<Bytes>, Error> {
        let group = self.replica(forward.partition)?;
        let first = RequestId {
            session: forward.session,
            sequence: forward.first_sequence,
            answered_below: forward.answered_below,
        };
        let commands =
            forward.commands.into_iter().zip(0..).map(|(command, at)| (command, Some(after(&first, at))));
        Ok(group.propose_many(commands.collect()).await?)
    }

    /// Likewise for reads.
    pub async fn forwarded_read(&self, forward: ForwardRead) -> Result<Vec<Bytes>, Error> {
        let group = self.replica(forward.partition)?;
        let queries: Result<Vec<Query>, _> = forward.queries.into_iter().map(Query::decode).collect();
        let queries = queries.map_err(|_bad| Error::Invalid { field: "queries", reason: "malformed" })?;
        group.barrier(Consistency::Linearizable).await?;
        Ok(self.read_here(&group, &queries).into_iter().map(|reply| reply.encode_to_vec().into()).collect())
    }

    fn read_here(&self, group: &Group<GridMachine>, queries: &[Query]) -> Vec<QueryReply> {
        let now_ms = self.now_ms(group);
        group.read_now(|machine| queries.iter().map(|query| answer_query(machine, query, now_ms)).collect())
    }

    async fn until_answered(&self, partition: u64, ask: &Ask) -> Result<Answers, Error> {
        let asked = Asked { router: self, partition, ask };
        let outcome = self.inner.routes.until_answered(partition, &asked, REQUEST_TIMEOUT).await;
        outcome.map_err(|unanswered| match unanswered {
            Unanswered::Lost => Error::PartitionLost { partition },
            Unanswered::TimedOut => Error::TimedOut { partition },
            Unanswered::Refused(error) => error,
        })
    }

    fn link(&self, node: u64) -> Option<Pipeline> {
        let peers = self.inner.routes.cluster().peers();
        let address = peers.address(node)?;
        let mut links = self.inner.links.lock();
        if let Some((known, link)) = links.get(&node)
            && *known == address
        {
            return Some(link.clone());
        }
        let link = Pipeline::new(peers.separate_channel(&address).ok()?);
        links.insert(node, (address, link.clone()));
        Some(link)
    }
}

/// What is asked of a partition.
enum Ask {
    /// Commands in order; their ids follow the first one's.
    Write {
        commands: Vec<Bytes>,
        first: RequestId,
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
            (Target::Here(group), Ask::Write { commands, first }) => {
                let commands =
                    commands.iter().zip(0..).map(|(command, at)| (command.clone(), Some(after(first, at))));
                Ok(Answers::Encoded(group.propose_many(commands.collect()).await?))
            }
            (Target::Here(group), Ask::Read { queries }) => {
                group.barrier(Consistency::Linearizable).await?;
                Ok(Answers::Read(self.router.read_here(&group, queries)))
            }
            (Target::There(node), Ask::Write { commands, first }) => {
                let link = self.router.link(node).ok_or_else(nobody)?;
                let forward = Forward {
                    partition,
                    commands: commands.clone(),
                    session: first.session,
                    first_sequence: first.sequence,
                    answered_below: first.answered_below,
                };
                forwarded(partition, &link, call::Body::Forward(forward)).await.map(Answers::Encoded)
            }
            (Target::There(node), Ask::Read { queries }) => {
                let link = self.router.link(node).ok_or_else(nobody)?;
                let queries = queries.iter().map(|query| query.encode_to_vec().into()).collect();
                let body = call::Body::ForwardRead(ForwardRead { partition, queries });
                forwarded(partition, &link, body).await.map(Answers::Encoded)
            }
            (Target::Nobody, _) => Err(nobody()),
        }
    }
}

/// The id of the command `at` places behind the first.
fn after(first: &RequestId, at: u64) -> RequestId {
    RequestId { sequence: first.sequence.wrapping_add(at), ..*first }
}

async fn forwarded(partition: u64, link: &Pipeline, body: call::Body) -> Result<Vec<Bytes>, Error> {
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

fn answer_query(machine: &GridMachine, query: &Query, now_ms: u64) -> QueryReply {
    let held = |key: &Bytes, with_value: bool| {
        let mut reply = QueryReply { now_ms, ..QueryReply::default() };
        if let Some(entry) = machine.keys().get(key, now_ms) {
            let Value::String(value) = &entry.value;
            reply.found = true;
            reply.version = entry.version;
            reply.expires_at_ms = entry.expires_at_ms;
            if with_value {
                reply.value = value.clone();
            }
        }
        reply
    };
    match &query.body {
        Some(QueryBody::Get(key)) => held(key, true),
        Some(QueryBody::Exists(key) | QueryBody::Ttl(key)) => held(key, false),
        Some(QueryBody::Scan(scan)) => {
            let count = usize::try_from(scan.count).unwrap_or(usize::MAX);
            let (keys, next) = key::scan(machine.keys(), Token(scan.cursor), count, now_ms);
            QueryReply { keys, cursor: next.map_or(0, |next| next.0), now_ms, ..QueryReply::default() }
        }
        None => QueryReply::default(),
    }
}
