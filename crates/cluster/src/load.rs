//! What the partitions of this node are asked, and what they hold: told with every heartbeat, so that the leader of the
//! meta group can see which of them should be split.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use trimaran_placement::token::Token;
use trimaran_proto::internal::cluster::{NodeLoad, PartitionLoad};

use crate::autoscale::Usage;

/// Tokens of late requests that are remembered for each partition. Their median is off by less than a tenth of the
/// requests, nineteen times of twenty.
const SAMPLE: usize = 128;

/// Requests of which one is remembered.
const SAMPLE_EVERY: u64 = 16;

/// What the partitions here hold, if this node leads them: partition, bytes, middle.
type Held = Box<dyn Fn() -> Vec<PartitionLoad> + Send + Sync>;

/// Loads of the partitions of a node.
pub(crate) struct Loads {
    asked: RwLock<HashMap<u64, Arc<Asked>>>,
    /// When operations were told last.
    told_at: Mutex<Instant>,
    held: OnceLock<Held>,
    /// What was told last of the node as a whole.
    node: Mutex<NodeLoad>,
}

impl Default for Loads {
    fn default() -> Self {
        Self {
            asked: RwLock::default(),
            told_at: Mutex::new(Instant::now()),
            held: OnceLock::new(),
            node: Mutex::default(),
        }
    }
}

/// What one partition was asked.
#[derive(Default)]
struct Asked {
    /// Since they were told last.
    operations: AtomicU64,
    sample: Mutex<Sample>,
}

#[derive(Default)]
struct Sample {
    tokens: Vec<Token>,
    next: usize,
}

impl Loads {
    /// Notes operations on a partition that this node leads; `token` is asked for the token of one of them now and then.
    /// Requests of different partitions do not wait for each other here, and those of one only for a sample.
    pub(crate) fn note(&self, partition: u64, operations: u64, token: impl FnOnce() -> Option<Token>) {
        let known = self.asked.read().get(&partition).cloned();
        let asked = known.unwrap_or_else(|| Arc::clone(self.asked.write().entry(partition).or_default()));
        let before = asked.operations.fetch_add(operations, Ordering::Relaxed);
        if before / SAMPLE_EVERY == (before + operations) / SAMPLE_EVERY {
            return;
        }
        let Some(token) = token() else { return };
        let mut sample = asked.sample.lock();
        let Sample { tokens, next } = &mut *sample;
        if tokens.len() < SAMPLE {
            tokens.push(token);
        } else {
            tokens[*next] = token;
            *next = (*next + 1) % SAMPLE;
        }
    }

    /// Says where it can be seen what the partitions hold.
    pub(crate) fn held_by(&self, held: Held) {
        // There is one keeper of replicas in a process.
        let _second = self.held.set(held);
    }

    /// The load of the node as a whole, as it was told last.
    pub(crate) fn of_node(&self) -> NodeLoad {
        *self.node.lock()
    }

    /// What is told of the node as a whole.
    pub(crate) fn tell_of_node(&self, usage: Usage, partitions: &[PartitionLoad], queue: usize) -> NodeLoad {
        let permille = |share: f64| (share.clamp(0.0, 1.0) * 1000.0).round() as u32;
        let load = NodeLoad {
            cpu_permille: permille(usage.cpu),
            memory_permille: permille(usage.memory),
            operations: partitions.iter().map(|partition| partition.operations).sum(),
            queue: queue as u64,
        };
        *self.node.lock() = load;
        load
    }

    /// What is told: about the partitions that this node leads. What they were asked is counted anew from here on.
    pub(crate) fn told(&self) -> Vec<PartitionLoad> {
        let mut loads = self.held.get().map_or_else(Vec::new, |held| held());
        self.asked.write().retain(|partition, _| loads.iter().any(|load| load.partition_id == *partition));
        let now = Instant::now();
        let since = std::mem::replace(&mut *self.told_at.lock(), now);
        let seconds = now.saturating_duration_since(since).as_secs_f64().max(0.001);
        let asked = self.asked.read();
        for load in &mut loads {
            let Some(asked) = asked.get(&load.partition_id) else { continue };
            load.operations = (asked.operations.swap(0, Ordering::Relaxed) as f64 / seconds) as u64;
            let mut tokens = asked.sample.lock().tokens.clone();
            if tokens.len() == SAMPLE {
                tokens.sort_unstable();
                load.middle_by_operations = tokens[SAMPLE / 2].0;
            }
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn operations_are_counted_by_the_second_and_their_middle_is_known() {
        let loads = Loads::default();
        loads.held_by(Box::new(|| {
            vec![PartitionLoad { partition_id: 1, bytes: 9, ..PartitionLoad::default() }]
        }));
        assert_eq!(loads.told()[0].operations, 0);
        for number in 0..4096_u64 {
            loads.note(1, 1, || Some(Token(number % 1000)));
            loads.note(2, 1, || None);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        let told = loads.told();
        assert_eq!((told.len(), told[0].partition_id, told[0].bytes, told[0].operations), (1, 1, 9, 2048));
        assert!((350..650).contains(&told[0].middle_by_operations), "{told:?}");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(loads.told()[0].operations, 0);
        assert!(!loads.asked.read().contains_key(&2), "it is led elsewhere");
    }
}
