//! How many nodes a cluster should have. Pure: what is observed and what time it is are passed in.
//!
//! Target tracking: so many nodes that none of the signals is above its target on average. A cluster with state moves data
//! for each node that comes or goes, so it changes by one at a time, upwards only when more were wanted all the time for a
//! while, downwards only when fewer would have done all the time for a long while, and not before the last change is done.
//! Source: Kubernetes' HorizontalPodAutoscaler, "Algorithm details" and "Stabilization window".

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What one node carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Of all processors that it may use, 0 to 1.
    pub cpu: f64,
    /// Of the memory that it may use, 0 to 1.
    pub memory: f64,
    /// Reads and writes per second.
    pub operations: u64,
    /// Proposals that wait.
    pub queue: u64,
}

/// What is seen of the cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Of every node that stays.
    pub loads: Vec<Load>,
    /// Nobody joins or leaves, and no copy moves.
    pub is_settled: bool,
}

/// What it may and should do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Nodes at least; never fewer than copies of a partition.
    pub min: usize,
    /// Nodes at most.
    pub max: usize,
    /// Share of the processors that should be used on average, 0 to 1.
    pub cpu: f64,
    /// Share of the memory, likewise.
    pub memory: f64,
    /// Reads and writes per second and node; 0 = whatever comes.
    pub operations: u64,
    /// Proposals that may wait on a node; 0 = whatever comes.
    pub queue: u64,
    /// How long more nodes must be wanted.
    pub up_after: Duration,
    /// How long fewer nodes must do.
    pub down_after: Duration,
    /// Pause after a change.
    pub pause: Duration,
}

/// What a number of nodes is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The bounds alone.
    Bounds,
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
    /// Reads and writes.
    Operations,
    /// Waiting proposals.
    Queue,
}

/// A number of nodes, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How many.
    pub nodes: usize,
    /// The signal that asks for most.
    pub reason: Reason,
}

/// How many nodes this moment alone would ask for.
pub fn desired(observed: &Observed, limits: &Limits) -> Wanted {
    let sum = |of: fn(&Load) -> f64| observed.loads.iter().map(of).sum::<f64>();
    // A hair above a whole number is a matter of rounding, not of load.
    let for_target = |sum: f64, target: f64| (sum / target.max(0.01) - 1e-9).ceil() as usize;
    let now = observed.loads.len();
    let mut wanted = Wanted { nodes: limits.min, reason: Reason::Bounds };
    let mut ask = |nodes: usize, reason| {
        if nodes > wanted.nodes {
            wanted = Wanted { nodes, reason };
        }
    };
    ask(for_target(sum(|load| load.cpu), limits.cpu), Reason::Cpu);
    ask(for_target(sum(|load| load.memory), limits.memory), Reason::Memory);
    if limits.operations != 0 {
        ask(for_target(sum(|load| load.operations as f64), limits.operations as f64), Reason::Operations);
    }
    if limits.queue != 0 && observed.loads.iter().any(|load| load.queue > limits.queue) {
        ask(now + 1, Reason::Queue);
    }
    wanted.nodes = wanted.nodes.min(limits.max.max(limits.min));
    wanted
}

/// What was wanted of late, and when something was changed.
#[derive(Debug, Default)]
pub struct Policy {
    seen: VecDeque<(Instant, Wanted)>,
    changed: Option<Instant>,
}

impl Policy {
    /// Looks once; to be called every second or so. The number of nodes, if it is to change now.
    pub fn look(&mut self, observed: &Observed, limits: &Limits, now: Instant) -> Option<Wanted> {
        let current = observed.loads.len();
        self.seen.push_back((now, desired(observed, limits)));
        let since = |at: Instant| now.saturating_duration_since(at);
        let longest = limits.up_after.max(limits.down_after);
        // One that is older than the longest window stays, to know that the window is full.
        while self.seen.get(1).is_some_and(|(at, _)| since(*at) >= longest) {
            self.seen.pop_front();
        }
        if !observed.is_settled || self.changed.is_some_and(|at| since(at) < limits.pause) {
            return None;
        }
        let is_full = |window: Duration| self.seen.front().is_some_and(|(at, _)| since(*at) >= window);
        let within = |window: Duration| self.seen.iter().filter(move |(at, _)| since(*at) <= window);
        let least = within(limits.up_after).map(|(_, wanted)| *wanted).min_by_key(|wanted| wanted.nodes);
        let most = within(limits.down_after).map(|(_, wanted)| *wanted).max_by_key(|wanted| wanted.nodes);
        let change = match (least, most) {
            (Some(least), _) if least.nodes > current && is_full(limits.up_after) => {
                Some(Wanted { nodes: current + 1, ..least })
            }
            (_, Some(most)) if most.nodes < current && is_full(limits.down_after) => {
                Some(Wanted { nodes: current - 1, ..most })
            }
            _ => None,
        };
        if change.is_some() {
            self.changed = Some(now);
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        min: 3,
        max: 6,
        cpu: 0.6,
        memory: 0.75,
        operations: 1000,
        queue: 500,
        up_after: Duration::from_secs(15),
        down_after: Duration::from_secs(300),
        pause: Duration::from_secs(60),
    };

    fn loads(nodes: usize, load: Load) -> Observed {
        Observed { loads: vec![load; nodes], is_settled: true }
    }

    #[test]
    fn as_many_nodes_as_no_signal_is_above_its_target_with() {
        let check = |nodes: usize, load: Load, expected: usize, reason: Reason| {
            let wanted = desired(&loads(nodes, load), &LIMITS);
            assert_eq!(wanted, Wanted { nodes: expected, reason }, "{nodes} nodes with {load:?}");
        };
        let cpu = |cpu| Load { cpu, ..Load::default() };
        check(3, cpu(0.0), 3, Reason::Bounds);
        check(3, cpu(0.6), 3, Reason::Bounds);
        check(3, cpu(0.61), 4, Reason::Cpu);
        check(4, cpu(0.44), 3, Reason::Bounds);
        check(4, cpu(0.46), 4, Reason::Cpu);
        check(5, cpu(1.0), 6, Reason::Cpu);
        check(3, Load { memory: 0.8, ..Load::default() }, 4, Reason::Memory);
        check(3, Load { memory: 0.8, cpu: 0.9, ..Load::default() }, 5, Reason::Cpu);
        check(3, Load { operations: 1000, ..Load::default() }, 3, Reason::Bounds);
        check(3, Load { operations: 1334, ..Load::default() }, 5, Reason::Operations);
        check(3, Load { queue: 500, ..Load::default() }, 3, Reason::Bounds);
        check(4, Load { queue: 501, ..Load::default() }, 5, Reason::Queue);
        check(9, cpu(0.0), 3, Reason::Bounds);
    }

    /// What happens while a load lasts: the seconds in which something changes, and to how many nodes.
    fn run(
        policy: &mut Policy,
        began: Instant,
        seconds: std::ops::Range<u64>,
        observed: &Observed,
    ) -> Vec<(u64, usize)> {
        let at = |second| began + Duration::from_secs(second);
        seconds
            .filter_map(|second| Some((second, policy.look(observed, &LIMITS, at(second))?.nodes)))
            .collect()
    }

    #[test]
    fn more_after_a_while_fewer_after_a_long_while_one_at_a_time() {
        let began = Instant::now();
        let busy = |nodes| loads(nodes, Load { cpu: 0.95, ..Load::default() });
        let idle = |nodes| loads(nodes, Load::default());
        let mut policy = Policy::default();
        assert_eq!(run(&mut policy, began, 0..15, &busy(3)), []);
        assert_eq!(run(&mut policy, began, 15..40, &busy(3)), [(15, 4)]);
        // It is there; the next one is not before the pause is over.
        assert_eq!(run(&mut policy, began, 40..90, &busy(4)), [(75, 5)]);
        assert_eq!(run(&mut policy, began, 90..300, &busy(5)), [(135, 6), (195, 6), (255, 6)]);
        // A burst in between begins the long while anew.
        assert_eq!(run(&mut policy, began, 300..500, &idle(6)), []);
        assert_eq!(run(&mut policy, began, 500..502, &busy(6)), []);
        assert_eq!(run(&mut policy, began, 502..900, &idle(6)), [(802, 5), (862, 5)]);
        assert_eq!(run(&mut policy, began, 900..2000, &idle(3)), [], "never below the least");
    }

    #[test]
    fn nothing_changes_while_something_is_under_way() {
        let began = Instant::now();
        let mut policy = Policy::default();
        let busy = Observed { is_settled: false, ..loads(3, Load { cpu: 1.0, ..Load::default() }) };
        assert_eq!(run(&mut policy, began, 0..100, &busy), []);
        let settled = Observed { is_settled: true, ..busy };
        assert_eq!(run(&mut policy, began, 100..110, &settled), [(100, 4)]);
    }
}
