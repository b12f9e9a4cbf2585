//! The other nodes by id: their addresses, as the meta group knows them, and a channel to each.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::dial::{Dial, channel};

/// The address book of a node. Clones share it.
#[derive(Clone)]
pub struct Peers {
    dial: Arc<dyn Dial>,
    book: Arc<RwLock<HashMap<u64, Peer>>>,
    /// Counts changes of the book, to wake who waits for one.
    changes: watch::Sender<u64>,
}

struct Peer {
    address: String,
    channel: Channel,
}

impl Peers {
    /// An empty book.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, book: Arc::default(), changes: watch::Sender::new(0) }
    }

    /// Enters or corrects an address, "host:port". A channel in use goes on until its streams end.
    pub fn set(&self, node: u64, address: &str) -> io::Result<()> {
        if !self.is_at(node, address) {
            let peer = Peer { address: address.to_owned(), channel: channel(&self.dial, address)? };
            self.book.write().insert(node, peer);
            self.changes.send_modify(|changes| *changes += 1);
        }
        Ok(())
    }

    /// The channel to a node, if its address is known.
    pub fn channel(&self, node: u64) -> Option<Channel> {
        self.book.read().get(&node).map(|peer| peer.channel.clone())
    }

    /// A node's address, if known.
    pub fn address(&self, node: u64) -> Option<String> {
        self.book.read().get(&node).map(|peer| peer.address.clone())
    }

    /// True if the node is known under this address.
    pub fn is_at(&self, node: u64, address: &str) -> bool {
        self.book.read().get(&node).is_some_and(|peer| peer.address == address)
    }

    /// Returns when the node is known under another address than this one.
    pub async fn moved(&self, node: u64, address: &str) {
        let mut changes = self.changes.subscribe();
        while self.address(node).is_none_or(|now| now == address) {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// A channel to an address that belongs to no known node yet, or one of its own for bulk data.
    pub fn separate_channel(&self, address: &str) -> io::Result<Channel> {
        channel(&self.dial, address)
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let book = self.book.read();
        f.debug_map().entries(book.iter().map(|(node, peer)| (node, &peer.address))).finish()
    }
}
