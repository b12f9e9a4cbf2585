//! What waits for one reader: bounded in bytes, never waited for by who writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// What an item costs beside its bytes.
const ITEM_OVERHEAD_BYTES: usize = 128;

/// Where items are put. Clones are the same.
#[derive(Debug)]
pub struct Mailbox<T> {
    items: mpsc::UnboundedSender<(T, usize)>,
    held: Arc<Held>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), held: Arc::clone(&self.held) }
    }
}

/// Where they are read.
#[derive(Debug)]
pub struct Receiver<T> {
    items: mpsc::UnboundedReceiver<(T, usize)>,
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    bytes: AtomicUsize,
    most: usize,
    is_over: AtomicBool,
}

/// An empty one that takes so many bytes.
pub fn new<T>(most: usize) -> (Mailbox<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let held = Arc::new(Held { bytes: AtomicUsize::new(0), most, is_over: AtomicBool::new(false) });
    (Mailbox { items: sender, held: Arc::clone(&held) }, Receiver { items: receiver, held })
}

impl<T> Mailbox<T> {
    /// Puts an item of so many bytes. If it is too much, the reader gets nothing more.
    pub fn put(&self, item: T, bytes: usize) {
        let bytes = bytes + ITEM_OVERHEAD_BYTES;
        if self.held.is_over.load(Ordering::Relaxed) {
            return;
        }
        if self.held.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.held.most {
            self.held.is_over.store(true, Ordering::Relaxed);
        }
        // Nobody reads any more: it is about to leave.
        let _gone = self.items.send((item, bytes));
    }
}

impl<T> Receiver<T> {
    /// The next item; `None` if too much waited, or nobody is going to put anything.
    pub async fn next(&mut self) -> Option<T> {
        if self.is_over() {
            return None;
        }
        let (item, bytes) = self.items.recv().await?;
        self.taken(item, bytes)
    }

    /// The next item, if there is one.
    pub fn try_next(&mut self) -> Option<T> {
        if self.is_over() {
            return None;
        }
        let (item, bytes) = self.items.try_recv().ok()?;
        self.taken(item, bytes)
    }

    fn taken(&self, item: T, bytes: usize) -> Option<T> {
        self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
        (!self.is_over()).then_some(item)
    }

    /// True if too much waited: what was put since is lost.
    pub fn is_over(&self) -> bool {
        self.held.is_over.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_too_slow_gets_nothing_more() {
        let (mailbox, mut receiver) = new(3 * ITEM_OVERHEAD_BYTES);
        mailbox.put(1, 0);
        assert_eq!(receiver.next().await, Some(1));
        (2..=4).for_each(|item| mailbox.put(item, 0));
        assert_eq!(receiver.next().await, Some(2));
        (5..=6).for_each(|item| mailbox.put(item, 0));
        assert!(receiver.is_over());
        assert_eq!(receiver.try_next(), None);
        assert_eq!(receiver.next().await, None);
    }
}
