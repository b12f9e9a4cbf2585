//! What other nodes, clients and operators ask of a node about its cluster.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use trimaran_net::status::status;
use trimaran_placement::plan;
use trimaran_placement::token::Token;
use trimaran_proto::api::cluster as admin;
use trimaran_proto::api::cluster::cluster_admin_server::ClusterAdmin;
use trimaran_proto::api::placement as wire;
use trimaran_proto::api::placement::NodeState;
use trimaran_proto::api::placement::placement_server::Placement;
use trimaran_proto::internal::cluster as rpc;
use trimaran_proto::internal::cluster::cluster_server::Cluster as ClusterRpc;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::event::What;
use trimaran_proto::state::meta::meta_command::Command;

use crate::error::Error;
use crate::member::Cluster;
use crate::meta::{Meta, said};

pub(crate) struct Service(pub(crate) Cluster);

fn answer<T>(outcome: Result<T, Error>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|error| status(&error))
}

#[tonic::async_trait]
impl ClusterRpc for Service {
    async fn hello(&self, _request: Request<rpc::HelloRequest>) -> Result<Response<rpc::HelloReply>, Status> {
        Ok(Response::new(self.0.hello_reply()))
    }

    async fn promise(
        &self,
        request: Request<rpc::PromiseRequest>,
    ) -> Result<Response<rpc::PromiseReply>, Status> {
        let nodes = request.into_inner().node_ids;
        let inner = &self.0.inner;
        let unborn = inner.meta.borrow().cluster_id.is_empty();
        let promised = unborn && nodes.contains(&self.0.node()) && inner.promise.give(&nodes);
        Ok(Response::new(rpc::PromiseReply { promised }))
    }

    async fn join(&self, request: Request<rpc::JoinRequest>) -> Result<Response<rpc::JoinReply>, Status> {
        let request = request.into_inner();
        let kind = self.0.inner.options.kind;
        let cluster_id = self.0.known_cluster();
        if cluster_id.is_empty() {
            // It has nothing to compare with yet, and lets nobody in.
            return Err(status(&Error::NotReady("it is not founded yet".into())));
        }
        let refused = if request.kind != kind {
            Some(format!("this is a {kind} cluster, the node is a {} node", request.kind))
        } else if !request.cluster_id.is_empty() && request.cluster_id != cluster_id {
            Some(format!(
                "this is cluster {cluster_id}, the node's data is of cluster {}",
                request.cluster_id
            ))
        } else {
            None
        };
        if let Some(refused) = refused {
            return Err(status(&Error::Refused(refused)));
        }
        let join = state::Join {
            node: request.node,
            lost_memory: request.lost_memory,
            boot_id: request.boot_id,
            has_log: request.has_log,
            format: request.format,
        };
        answer(self.0.propose(Command::Join(join)).await.map(|_| rpc::JoinReply { cluster_id }))
    }

    async fn change(
        &self,
        request: Request<state::MetaCommand>,
    ) -> Result<Response<state::MetaReply>, Status> {
        let command = request.into_inner().command;
        let unknown = || Error::Refused("a command of a newer release".to_owned());
        let command = command.ok_or_else(|| status(&unknown()))?;
        answer(self.0.propose(command).await)
    }

    async fn heartbeat(
        &self,
        request: Request<rpc::HeartbeatRequest>,
    ) -> Result<Response<rpc::HeartbeatReply>, Status> {
        answer(self.0.hear(request.into_inner()))
    }

    async fn version(
        &self,
        _request: Request<rpc::VersionRequest>,
    ) -> Result<Response<rpc::VersionReply>, Status> {
        answer(self.0.version_here().await.map(|version| rpc::VersionReply { version }))
    }

    async fn freeze(
        &self,
        request: Request<rpc::FreezeRequest>,
    ) -> Result<Response<rpc::FreezeReply>, Status> {
        let rpc::FreezeRequest { partition_id, merge } = request.into_inner();
        answer(self.0.freeze_here(partition_id, merge).await.map(|state| rpc::FreezeReply { state }))
    }

    async fn status(
        &self,
        _request: Request<rpc::StatusRequest>,
    ) -> Result<Response<rpc::StatusReply>, Status> {
        let table = self.0.inner.meta.borrow().table();
        let groups = self
            .0
            .inner
            .groups
            .statuses()
            .into_iter()
            .map(|(group, replica, status)| rpc::GroupStatus {
                group,
                replica,
                state: status.state.to_owned(),
                term: status.term,
                leader: status.leader.map_or(0, |leader| leader.replica),
                last_log_index: status.last_log,
                applied_index: status.applied,
                asleep: status.is_asleep,
                voters: status.voters,
                learners: status.learners,
                progress: status
                    .progress
                    .into_iter()
                    .map(|(replica, matched_index)| rpc::Progress { replica, matched_index })
                    .collect(),
            })
            .collect();
        let load = Some(self.0.inner.loads.of_node());
        Ok(Response::new(rpc::StatusReply { table: Some(table), groups, load, node_id: self.0.node() }))
    }
}

#[tonic::async_trait]
impl Placement for Service {
    async fn get_table(
        &self,
        _request: Request<wire::GetTableRequest>,
    ) -> Result<Response<wire::Table>, Status> {
        let meta = self.0.inner.meta.borrow();
        if meta.cluster_id.is_empty() {
            return Err(status(&Error::NotReady("it is not founded yet".into())));
        }
        Ok(Response::new(meta.table()))
    }

    type WatchTableStream = Pin<Box<dyn Stream<Item = Result<wire::TableChange, Status>> + Send>>;

    async fn watch_table(
        &self,
        _request: Request<wire::WatchTableRequest>,
    ) -> Result<Response<Self::WatchTableStream>, Status> {
        let groups = self.0.groups().clone();
        let state = (self.0.meta(), None::<Arc<Meta>>);
        let changes = futures::stream::unfold(state, |(mut meta, told)| async move {
            loop {
                let now = Arc::clone(&meta.borrow_and_update());
                let change = change(told.as_deref(), &now);
                if let Some(change) = change.filter(|_| !now.cluster_id.is_empty()) {
                    return Some((Ok(change), (meta, Some(now))));
                }
                // What comes meanwhile is told together.
                meta.changed().await.ok()?;
            }
        });
        // A stream that never ended would keep the server from stopping.
        let changes = changes.take_until(async move { groups.left().await });
        Ok(Response::new(Box::pin(changes)))
    }
}

/// What has changed in the table; `None` if nothing has.
fn change(told: Option<&Meta>, now: &Meta) -> Option<wire::TableChange> {
    let Some(told) = told else {
        return Some(wire::TableChange {
            version: now.version,
            whole: true,
            partitions: now.partitions.values().cloned().collect(),
            removed_partitions: Vec::new(),
            nodes: now.nodes.values().cloned().collect(),
        });
    };
    let partitions = now.partitions.values().filter(|found| told.partitions.get(&found.id) != Some(found));
    let nodes = now.nodes.values().filter(|node| told.nodes.get(&node.id) != Some(node));
    let removed = told.partitions.keys().filter(|id| !now.partitions.contains_key(id));
    let change = wire::TableChange {
        version: now.version,
        whole: false,
        partitions: partitions.cloned().collect(),
        removed_partitions: removed.copied().collect(),
        nodes: nodes.cloned().collect(),
    };
    let is_empty =
        change.partitions.is_empty() && change.removed_partitions.is_empty() && change.nodes.is_empty();
    (!is_empty).then_some(change)
}

#[tonic::async_trait]
impl ClusterAdmin for Service {
    async fn drain(
        &self,
        request: Request<admin::DrainRequest>,
    ) -> Result<Response<admin::DrainReply>, Status> {
        let node = request.into_inner().node_id;
        answer(self.0.set_node_state(node, NodeState::Leaving).await.map(|()| admin::DrainReply {}))
    }

    async fn remove(
        &self,
        request: Request<admin::RemoveRequest>,
    ) -> Result<Response<admin::RemoveReply>, Status> {
        let node = request.into_inner().node_id;
        answer(self.0.set_node_state(node, NodeState::Gone).await.map(|()| admin::RemoveReply {}))
    }

    async fn r#move(
        &self,
        request: Request<admin::MoveRequest>,
    ) -> Result<Response<admin::MoveReply>, Status> {
        let request = request.into_inner();
        let start = asked_move(&self.0.inner.meta.borrow(), request);
        let start = start.map_err(|refused| status(&Error::Refused(refused)))?;
        answer(self.0.change(Command::StartMove(start)).await.map(|_| admin::MoveReply {}))
    }

    async fn split(
        &self,
        request: Request<admin::SplitRequest>,
    ) -> Result<Response<admin::SplitReply>, Status> {
        let request = request.into_inner();
        let start = asked_split(&self.0.inner.meta.borrow(), request);
        let start = start.map_err(|refused| status(&Error::Refused(refused)))?;
        let reply = self.0.change(Command::StartSplit(start)).await;
        let told = |reply: state::MetaReply| admin::SplitReply {
            new_partition_id: reply.new_partition_id,
            at_token: start.at_token,
        };
        answer(reply.map(told))
    }

    async fn merge(
        &self,
        request: Request<admin::MergeRequest>,
    ) -> Result<Response<admin::MergeReply>, Status> {
        let into = request.into_inner().partition_id;
        let start = asked_merge(&self.0.inner.meta.borrow(), into);
        let start = start.map_err(|refused| status(&Error::Refused(refused)))?;
        let reply = self.0.change(Command::StartMerge(start)).await;
        let told = |reply: state::MetaReply| admin::MergeReply {
            from_partition_id: start.from_partition_id,
            version: reply.version,
        };
        answer(reply.map(told))
    }

    async fn balance(
        &self,
        request: Request<admin::BalanceRequest>,
    ) -> Result<Response<admin::BalanceReply>, Status> {
        let set = state::SetBalancing { paused: request.into_inner().paused };
        answer(self.0.change(Command::SetBalancing(set)).await.map(|_| admin::BalanceReply {}))
    }

    async fn events(
        &self,
        _request: Request<admin::EventsRequest>,
    ) -> Result<Response<admin::EventsReply>, Status> {
        let meta = self.0.inner.meta.borrow();
        let events = meta
            .events
            .iter()
            .map(|event| admin::Event {
                at_ms: event.at_ms,
                text: event.what.map(|what| text(&meta, what)).unwrap_or_default(),
            })
            .collect();
        Ok(Response::new(admin::EventsReply { events }))
    }
}

fn asked_move(meta: &Meta, request: admin::MoveRequest) -> Result<state::StartMove, String> {
    let id = request.partition_id;
    let partition = meta.partitions.get(&id).ok_or_else(|| format!("there is no partition {id}"))?;
    let from = partition.replicas.iter().find(|replica| replica.node_id == request.from_node);
    let from = from.ok_or_else(|| format!("node {} has no copy of partition {id}", request.from_node))?;
    Ok(state::StartMove {
        partition_id: id,
        epoch: partition.epoch,
        add_on_node: request.to_node,
        remove_replica: from.id,
        reason: state::Reason::Asked.into(),
    })
}

fn asked_split(meta: &Meta, request: admin::SplitRequest) -> Result<state::StartSplit, String> {
    let id = request.partition_id;
    let partition = meta.partitions.get(&id).ok_or_else(|| format!("there is no partition {id}"))?;
    let (first, last) = (Token(partition.first_token), Token(partition.last_token));
    let at = match request.at_token {
        Some(token) => Token(token),
        None => plan::boundary_within(first, last, 0.5)
            .ok_or_else(|| format!("partition {id} cannot be split: it has one slot"))?,
    };
    Ok(state::StartSplit {
        partition_id: id,
        epoch: partition.epoch,
        at_token: at.0,
        reason: state::SplitReason::Asked.into(),
    })
}

fn asked_merge(meta: &Meta, into: u64) -> Result<state::StartMerge, String> {
    let partition = meta.partitions.get(&into).ok_or_else(|| format!("there is no partition {into}"))?;
    let behind = partition.last_token.checked_add(1);
    let behind = meta.partitions.values().find(|found| Some(found.first_token) == behind);
    let behind =
        behind.ok_or_else(|| format!("no partition is behind partition {into}: it has the last token"))?;
    Ok(state::StartMerge {
        partition_id: into,
        epoch: partition.epoch,
        from_partition_id: behind.id,
        from_epoch: behind.epoch,
        reason: state::MergeReason::Asked.into(),
    })
}

fn text(meta: &Meta, what: What) -> String {
    let node = |id: u64| match meta.nodes.get(&id) {
        Some(node) => format!("node {id} ({})", node.address),
        None => format!("node {id}"),
    };
    match what {
        What::Node(event) => format!("{} is {}", node(event.node_id), said(event.state())),
        What::Lost(event) => {
            format!("partition {} is lost: a majority of its copies in memory is gone", event.partition_id)
        }
        What::Split(event) => {
            let (id, fresh, at) = (event.partition_id, event.new_partition_id, Token(event.at_token));
            let reason = match event.reason() {
                state::SplitReason::Unspecified => "",
                state::SplitReason::Asked => ": somebody asked for it",
                state::SplitReason::Size => ": it holds much",
                state::SplitReason::Heat => ": it is asked much",
            };
            let step = if event.done { "has given" } else { "is to give" };
            format!("partition {id} {step} everything from token {at} on to partition {fresh}{reason}")
        }
        What::Merge(event) => {
            let (into, from) = (event.partition_id, event.from_partition_id);
            let reason = match event.reason() {
                state::MergeReason::Unspecified => "",
                state::MergeReason::Asked => ": somebody asked for it",
                state::MergeReason::Cold => ": neither holds or is asked much",
            };
            let (step, end) = match event.step() {
                state::MergeStep::Unspecified | state::MergeStep::Started => ("is to become", reason),
                state::MergeStep::Done => ("has become", ""),
                state::MergeStep::GivenUp => ("does not become", " after all"),
            };
            format!("partition {from} {step} part of partition {into}{end}")
        }
        What::Format(raise) => {
            format!("every node knows commands of format {}, and they are used from now on", raise.format)
        }
        What::Scale(scale) => {
            let (from, to) = (scale.from_nodes, scale.to_nodes);
            let reason = match scale.reason() {
                state::ScaleReason::Unspecified => "",
                state::ScaleReason::Bounds => "no signal needs more",
                state::ScaleReason::Cpu => "the processors are busy",
                state::ScaleReason::Memory => "the memory is full",
                state::ScaleReason::Operations => "there are many requests",
                state::ScaleReason::Queue => "requests wait",
            };
            let percent = |permille: u32| f64::from(permille) / 10.0;
            format!(
                "{to} nodes are wanted instead of {from}: {reason} (processors {:.1} %, memory {:.1} %, {} requests/s, {} waiting at most)",
                percent(scale.cpu_permille),
                percent(scale.memory_permille),
                scale.operations,
                scale.queue
            )
        }
        What::Balancing(set) => format!("balancing is {}", if set.paused { "paused" } else { "on" }),
        What::Move(event) => {
            let from =
                (event.removed_replica != 0).then(|| format!(" from {}", node(event.removed_from_node)));
            let to = (event.added_replica != 0).then(|| format!(" to {}", node(event.added_on_node)));
            let step = match event.step() {
                state::MoveStep::Unspecified => "is moved",
                state::MoveStep::Started => "begins to move",
                state::MoveStep::Cancelled => "does not move after all",
                state::MoveStep::Done => "has moved",
            };
            let reason = match event.reason() {
                state::Reason::Unspecified => "",
                state::Reason::Asked => ": somebody asked for it",
                state::Reason::CopyMissing => ": there are fewer copies than wanted",
                state::Reason::NodeDead => ": the node does not come back",
                state::Reason::NodeLeaving => ": the node is leaving",
                state::Reason::Balance => ": the other node has less to carry",
                state::Reason::CopyTooMany => ": there are more copies than wanted",
                state::Reason::Zone => ": two copies were in one zone",
            };
            let (id, from, to) = (event.partition_id, from.unwrap_or_default(), to.unwrap_or_default());
            format!("a copy of partition {id} {step}{from}{to}{reason}")
        }
    }
}
