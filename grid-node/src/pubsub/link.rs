//! What a node hears from the others: it says what is subscribed to at it, and gets what is published there.

use std::collections::HashMap;

use futures::{Stream, StreamExt as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::debug;
use trimaran_net::retry::Backoff;
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::{Heard, Interest, heard};

use super::Hub;
use super::mailbox;
use crate::limits::LISTENER_BYTES_MAX;
use crate::router::Router;

/// Keeps a link to every other node of the cluster, until `stop`.
pub async fn run(hub: Hub, router: Router, mut random: StdRng, stop: CancellationToken) {
    let mut changes = router.members();
    let mut links: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        let nodes = router.other_nodes();
        links.retain(|node, link| {
            let stays = nodes.contains(node);
            if !stays {
                link.abort();
                hub.link_closes(*node);
            }
            stays
        });
        for node in nodes {
            links.entry(node).or_insert_with(|| {
                tokio::spawn(keep(hub.clone(), router.clone(), StdRng::from_rng(&mut random), node))
                    .abort_handle()
            });
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = stop.cancelled() => break,
        }
    }
    links.values().for_each(AbortHandle::abort);
}

/// Keeps the link to one node.
async fn keep(hub: Hub, router: Router, mut random: StdRng, node: u64) {
    let mut backoff = Backoff::default();
    loop {
        if let Err(error) = hear(&hub, &router, node, &mut backoff).await {
            // A node that is down, or of an older release.
            debug!(node, %error, "nothing is heard of what is published there");
        }
        hub.link_closes(node);
        tokio::time::sleep(backoff.next(&mut random)).await;
    }
}

async fn hear(hub: &Hub, router: &Router, node: u64, backoff: &mut Backoff) -> Result<(), Status> {
    let gone = || Status::unavailable("the link has ended");
    let channel = router.waiting_channel(node).ok_or_else(gone)?;
    let (sender, interests) = mpsc::channel(1);
    let mut dirty = hub.inner.dirty.subscribe();
    let mut heard = GridClient::new(channel).listen(ReceiverStream::new(interests)).await?.into_inner();
    hub.link_opens(node);
    *backoff = Backoff::default();
    loop {
        if let Some(interest) = hub.interest(node) {
            sender.send(interest).await.map_err(|_closed| gone())?;
        }
        tokio::select! {
            changed = dirty.changed() => changed.map_err(|_closed| gone())?,
            message = heard.message() => match message?.and_then(|message| message.body) {
                Some(heard::Body::Known(version)) => hub.known(node, version),
                Some(heard::Body::Publication(publication)) => hub.deliver(&publication),
                None => return Err(gone()),
            },
        }
    }
}

/// A node listens as long as it has this.
struct Listening {
    hub: Hub,
    id: u64,
    interests: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.interests.abort();
        self.hub.listener_leaves(self.id);
    }
}

/// What another node hears that says what it wants to.
pub fn listen(
    hub: &Hub,
    mut interests: Streaming<Interest>,
) -> impl Stream<Item = Result<Heard, Status>> + Send + use<> {
    let (mailbox, receiver) = mailbox::new(LISTENER_BYTES_MAX);
    let id = hub.listener_enters(mailbox);
    let inbound = {
        let hub = hub.clone();
        async move {
            while let Ok(Some(interest)) = interests.message().await {
                hub.listens(id, interest);
            }
            hub.listener_leaves(id);
        }
    };
    let interests = tokio::spawn(inbound).abort_handle();
    let listening = Listening { hub: hub.clone(), id, interests };
    futures::stream::unfold(Some((receiver, listening)), |state| async move {
        let (mut receiver, listening) = state?;
        match receiver.next().await {
            Some(heard) => Some((Ok(heard), Some((receiver, listening)))),
            None => Some((
                Err(Status::resource_exhausted("LISTENER_BYTES_MAX: too much waits for this node")),
                None,
            )),
        }
    })
    .boxed()
}
