//! What the partitions of this node are asked, and what they hold: told with every heartbeat, so that the leader of the
//! meta group can see which of them should be split.

use std::collections::HashMap;
use std::sync::OnceLock;

use parking_lot::Mutex;
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
#[derive(Default)]
pub(crate) struct Loads {
    asked: Mutex<HashMap<u64, Asked>>,
    held: OnceLock<Held>,
    /// What was told last of the node as a whole.
    node: Mutex<NodeLoad>,
}

/// What one partition was asked.
struct Asked {
    /// Since it was told last.
    operations: u64,
    since: Instant,
    sample: Vec<Token>,
    next: usize,
    skip: u64,
}

impl Loads {
    /// Notes operations on a partition that this node leads; `token` is asked for the token of one of them now and then.
    pub(crate) fn note(&self, partition: u64, operations: u64, token: impl FnOnce() -> Option<Token>) {
        let mut asked = self.asked.lock();
        let asked = asked.entry(partition).or_insert_with(|| Asked {
            operations: 0,
            since: Instant::now(),
            sample: Vec::new(),
            next: 0,
            skip: 0,
        });
        asked.operations += operations;
        if asked.skip > operations {
            asked.skip -= operations;
            return;
        }
        asked.skip = SAMPLE_EVERY;
        let Some(token) = token() else { return };
        if asked.sample.len() < SAMPLE {
            asked.sample.push(token);
        } else {
            asked.sample[asked.next] = token;
            asked.next = (asked.next + 1) % SAMPLE;
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
        let mut asked = self.asked.lock();
        asked.retain(|partition, _| loads.iter().any(|load| load.partition_id == *partition));
        let now = Instant::now();
        for load in &mut loads {
            let Some(asked) = asked.get_mut(&load.partition_id) else { continue };
            let seconds = now.saturating_duration_since(asked.since).as_secs_f64().max(0.001);
            load.operations = (asked.operations as f64 / seconds) as u64;
            (asked.operations, asked.since) = (0, now);
            if asked.sample.len() == SAMPLE {
                let mut sorted = asked.sample.clone();
                sorted.sort_unstable();
                load.middle_by_operations = sorted[SAMPLE / 2].0;
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
        assert!(!loads.asked.lock().contains_key(&2), "it is led elsewhere");
    }
}
