//! How a partition takes over the one behind it, driven by the leader of the first: it has the other's group freeze and
//! give its state, has its own group decide, and confirms. See `trimaran_replication::merge` and
//! docs/decisions/0014.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};
use trimaran_proto::api::placement as wire;
use trimaran_proto::internal::cluster::FreezeRequest;
use trimaran_proto::internal::cluster::cluster_client::ClusterClient;
use trimaran_proto::state::meta as state;
use trimaran_proto::state::meta::meta_command::Command;
use trimaran_replication::group::{COMMAND_BYTES_MAX, Consistency, Group};
use trimaran_replication::machine::Machine;
use trimaran_replication::merge::{Merge, Merged};

use crate::error::Error;
use crate::member::{Cluster, answered};

/// How long the other partition is asked before the merge is given up: while it is undecided, neither can be moved away
/// from a node that is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one node may take to answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long until it is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Freezes a partition that this node leads, for a merge.
pub(crate) type Freezer =
    Box<dyn Fn(u64, u64) -> BoxFuture<'static, Result<Vec<Bytes>, Error>> + Send + Sync>;

/// Has the group of a partition decide the merge that its descriptor tells of, and confirms it.
pub(crate) async fn merge<M: Machine>(cluster: &Cluster, id: u64, group: &Group<M>) -> Result<(), Error> {
    cluster.refresh().await?;
    let meta = Arc::clone(&cluster.meta().borrow());
    let Some(partition) = meta.partitions.get(&id).filter(|partition| !partition.lost) else {
        return Ok(());
    };
    let Some(merge) = partition.merging.filter(|merge| merge.into == id) else { return Ok(()) };
    // Whoever led before may have come to it.
    group.barrier(Consistency::ReadIndex).await?;
    let decided = match group.last_merge().filter(|last| last.merge == merge.number) {
        Some(decided) => decided,
        None => decide(cluster, group, merge).await?,
    };
    let confirm = state::ConfirmMerge { partition_id: id, number: merge.number, taken: decided.taken };
    cluster.change(Command::ConfirmMerge(confirm)).await?;
    info!(partition = id, from = merge.from, taken = decided.taken, "merge confirmed");
    Ok(())
}

async fn decide<M: Machine>(
    cluster: &Cluster,
    group: &Group<M>,
    merge: wire::Merge,
) -> Result<Merged, Error> {
    let deadline = Instant::now() + PATIENCE;
    let (first, state) = loop {
        let meta = Arc::clone(&cluster.meta().borrow());
        let Some(from) = meta.partitions.get(&merge.from) else {
            return Err(Error::NotReady("the merge is decided already".to_owned()));
        };
        let given = if from.lost {
            Err(Error::Refused("it is lost".to_owned()))
        } else {
            ask(cluster, from, merge.number).await
        };
        let error = match given {
            Ok(state) => break (from.first_token, state),
            Err(error) => error,
        };
        if matches!(error, Error::Refused(_)) || Instant::now() >= deadline {
            info!(partition = merge.into, from = merge.from, %error, "a merge is given up");
            break (from.first_token, Vec::new());
        }
        debug!(partition = merge.from, %error, "the state of a partition is not to be had yet");
        sleep(ASK_AGAIN_AFTER).await;
    };
    Ok(group.merge(Merge { merge: merge.number, first, state }).await?)
}

/// Asks every replica of the partition to freeze it, all at once: whoever leads answers, wherever that is, and a node that
/// does not answer is not waited for.
async fn ask(cluster: &Cluster, partition: &wire::Partition, merge: u64) -> Result<Vec<Bytes>, Error> {
    let asked =
        partition.replicas.iter().map(|replica| ask_node(cluster, replica.node_id, partition.id, merge));
    let mut answers: FuturesUnordered<_> = asked.collect();
    let mut last = Error::NotReady("it has no replica".to_owned());
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(state) => return Ok(state),
            Err(error @ Error::Refused(_)) => last = error,
            Err(error) if !matches!(last, Error::Refused(_)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

async fn ask_node(cluster: &Cluster, node: u64, partition_id: u64, merge: u64) -> Result<Vec<Bytes>, Error> {
    if node == cluster.node() {
        let frozen = timeout(ATTEMPT_TIMEOUT, cluster.freeze_here(partition_id, merge)).await;
        return frozen.unwrap_or_else(|_elapsed| Err(Error::NotReady("it takes too long".to_owned())));
    }
    let channel = cluster.peers().channel(node);
    let channel = channel.ok_or_else(|| Error::NotReady("the address of a node is not known".to_owned()))?;
    let mut client = ClusterClient::new(channel).max_decoding_message_size(COMMAND_BYTES_MAX);
    let frozen = client.freeze(FreezeRequest { partition_id, merge });
    answered(timeout(ATTEMPT_TIMEOUT, frozen).await).map(|reply| reply.state)
}

impl Cluster {
    /// Freezes a partition that this node leads, if that is what the cluster is about to do, and returns its state.
    pub(crate) async fn freeze_here(&self, partition: u64, merge: u64) -> Result<Vec<Bytes>, Error> {
        self.refresh().await?;
        let merging = self.inner.meta.borrow().partitions.get(&partition).and_then(|found| found.merging);
        if merging.is_none_or(|merging| merging.from != partition || merging.number != merge) {
            // One that is late. If it were carried out all the same, it would be taken back: see [`thaw`].
            return Err(Error::NotReady("there is no such merge".to_owned()));
        }
        let freezer = self.inner.freezer.get();
        let freezer = freezer.ok_or_else(|| Error::NotReady("it has no replicas yet".to_owned()))?;
        freezer(partition, merge).await
    }
}

/// Has a group go on that was frozen for a merge that was decided against. `merge` is what it was seen to be frozen for,
/// before what the cluster knows is asked for here.
pub(crate) async fn thaw<M: Machine>(
    cluster: &Cluster,
    id: u64,
    group: &Group<M>,
    merge: u64,
) -> Result<(), Error> {
    cluster.refresh().await?;
    let meta = Arc::clone(&cluster.meta().borrow());
    let Some(partition) = meta.partitions.get(&id) else { return Ok(()) };
    if partition.merging.is_some_and(|merging| merging.number == merge) {
        return Ok(());
    }
    group.thaw(merge).await?;
    info!(partition = id, "partition goes on: it does not become part of another one");
    Ok(())
}
