//! Whether transactions that append to lists and read them could have run one after another, in an order that respects real
//! time (strict serializability).
//!
//! Every value is appended once, so a list that was read tells who wrote what of it, in which order, and what its reader had
//! seen and had not: edges between transactions (write-write, write-read, read-write, and "ended before it began"). They
//! are in an order if there is no cycle; which edges a cycle needs says what went wrong.
//! Source: Adya, "Weak Consistency" (1999), for the classes; Kingsbury and Alvaro, "Elle" (VLDB 2020), for how they are found.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use petgraph::algo::{has_path_connecting, tarjan_scc};
use petgraph::graph::{DiGraph, NodeIndex};

/// What a transaction did with one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Micro {
    /// Appended a value that nobody else appends.
    Append(u64, u64),
    /// Read the whole list.
    Read(u64, Vec<u64>),
}

/// What its caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was carried out.
    Yes,
    /// It was not.
    No,
    /// Nothing, or that it is not known.
    Nothing,
}

/// One transaction, by one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// In its order; at most one append to a list, and reads before it.
    pub micros: Vec<Micro>,
    /// When it was asked for.
    pub began: u64,
    /// When the answer came; of no meaning if there was none.
    pub ended: u64,
    /// What the answer was.
    pub told: Told,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// Two reads of a list are not the beginning one of the other.
    IncompatibleOrders(u64),
    /// A value is in a list that nobody appended to it.
    Unknown(u64),
    /// A value was read of a transaction that did not happen (G1a).
    AbortedRead(u64),
    /// A value is in a list twice.
    Repeated(u64),
    /// A value that was acknowledged is missing in what was read last.
    Lost(u64),
    /// Transactions that wrote over each other in a circle.
    G0(Vec<usize>),
    /// Transactions that saw each other's writes in a circle.
    G1c(Vec<usize>),
    /// One transaction missed a write of another whose effects it saw.
    GSingle(Vec<usize>),
    /// Several transactions missed each other's writes.
    G2(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    /// Wrote what the other one wrote over.
    WriteWrite,
    /// Wrote what the other one read.
    WriteRead,
    /// Read what the other one wrote over.
    ReadWrite,
    /// Ended before the other one began.
    Time,
}

/// Looks for what is wrong. `last` are the lists as they were after everything.
pub fn check(history: &[Transaction], last: &BTreeMap<u64, Vec<u64>>) -> BTreeSet<Anomaly> {
    let mut wrong = BTreeSet::new();
    let mut writers: HashMap<u64, usize> = HashMap::new();
    let mut lists: HashMap<u64, u64> = HashMap::new();
    for (at, transaction) in history.iter().enumerate() {
        for micro in &transaction.micros {
            if let Micro::Append(key, value) = micro {
                assert!(writers.insert(*value, at).is_none(), "{value} is appended twice");
                lists.insert(*value, *key);
            }
        }
    }
    let reads = || {
        let of = |(at, transaction): (usize, &Transaction)| {
            let micros = transaction.micros.iter().filter(move |_| transaction.told == Told::Yes);
            micros
                .filter_map(move |micro| match micro {
                    Micro::Read(key, list) => Some((at, *key, list.clone())),
                    Micro::Append(..) => None,
                })
                .collect::<Vec<_>>()
        };
        history.iter().enumerate().flat_map(of)
    };

    // The longest list of a key is its order.
    let mut orders: BTreeMap<u64, Vec<u64>> = last.clone();
    let all = || reads().map(|(_, key, list)| (key, list)).chain(last.clone());
    for (key, list) in all() {
        let known = orders.entry(key).or_default();
        if list.len() > known.len() {
            *known = list;
        }
    }
    for (key, list) in all() {
        if !orders[&key].starts_with(&list) {
            wrong.insert(Anomaly::IncompatibleOrders(key));
        }
        let mut seen = BTreeSet::new();
        for value in &list {
            match writers.get(value) {
                Some(_) if lists[value] != key => drop(wrong.insert(Anomaly::Unknown(*value))),
                None => drop(wrong.insert(Anomaly::Unknown(*value))),
                Some(&writer) if history[writer].told == Told::No => {
                    wrong.insert(Anomaly::AbortedRead(*value));
                }
                Some(_) => {}
            }
            if !seen.insert(value) {
                wrong.insert(Anomaly::Repeated(*value));
            }
        }
    }
    for (value, &writer) in &writers {
        let key = lists[value];
        if history[writer].told == Told::Yes && !last.get(&key).is_some_and(|list| list.contains(value)) {
            wrong.insert(Anomaly::Lost(*value));
        }
    }
    if !wrong.is_empty() {
        // Without an order of writes nothing more can be said.
        return wrong;
    }

    let mut edges: BTreeMap<(usize, usize), BTreeSet<Edge>> = BTreeMap::new();
    let mut add = |from: usize, to: usize, edge| {
        if from != to {
            edges.entry((from, to)).or_default().insert(edge);
        }
    };
    for order in orders.values() {
        for pair in order.windows(2) {
            add(writers[&pair[0]], writers[&pair[1]], Edge::WriteWrite);
        }
    }
    for (at, key, list) in reads() {
        if let Some(value) = list.last() {
            add(writers[value], at, Edge::WriteRead);
        }
        if let Some(next) = orders[&key].get(list.len()) {
            add(at, writers[next], Edge::ReadWrite);
        }
    }
    // What happened: transactions with an answer, and those whose writes were seen.
    let seen: BTreeSet<usize> = orders.values().flatten().map(|value| writers[value]).collect();
    let happened = |at: &usize| history[*at].told == Told::Yes || seen.contains(at);
    for (from, to) in in_time(history, &happened) {
        add(from, to, Edge::Time);
    }
    cycles(history.len(), &edges, &mut wrong);
    wrong
}

/// Pairs of transactions of which the first ended before the second began; those that follow from others are left out.
fn in_time(history: &[Transaction], happened: &impl Fn(&usize) -> bool) -> Vec<(usize, usize)> {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum What {
        // At one moment what begins is first: what is not surely before is at the same time.
        Begins,
        Ends,
    }
    let mut events: Vec<(u64, What, usize)> = Vec::new();
    for at in (0..history.len()).filter(happened) {
        events.push((history[at].began, What::Begins, at));
        if history[at].told == Told::Yes {
            events.push((history[at].ended, What::Ends, at));
        }
    }
    events.sort_unstable();
    let mut pairs = Vec::new();
    // Those that ended, but for whom another one has begun since they ended, and ended too.
    let mut frontier: BTreeSet<usize> = BTreeSet::new();
    let mut before: HashMap<usize, Vec<usize>> = HashMap::new();
    for (_, what, at) in events {
        match what {
            What::Begins => {
                pairs.extend(frontier.iter().map(|&from| (from, at)));
                before.insert(at, frontier.iter().copied().collect());
            }
            What::Ends => {
                for covered in before.remove(&at).unwrap_or_default() {
                    frontier.remove(&covered);
                }
                frontier.insert(at);
            }
        }
    }
    pairs
}

fn cycles(count: usize, edges: &BTreeMap<(usize, usize), BTreeSet<Edge>>, wrong: &mut BTreeSet<Anomaly>) {
    let graph_of = |allowed: &[Edge]| {
        let mut graph = DiGraph::<usize, ()>::with_capacity(count, edges.len());
        let nodes: Vec<NodeIndex> = (0..count).map(|at| graph.add_node(at)).collect();
        for ((from, to), kinds) in edges {
            if kinds.iter().any(|kind| allowed.contains(kind)) {
                graph.add_edge(nodes[*from], nodes[*to], ());
            }
        }
        (graph, nodes)
    };
    let circles = |graph: &DiGraph<usize, ()>| -> Vec<Vec<usize>> {
        let found = tarjan_scc(graph).into_iter().filter(|circle| circle.len() > 1);
        found
            .map(|circle| {
                let mut members: Vec<usize> = circle.into_iter().map(|node| graph[node]).collect();
                members.sort_unstable();
                members
            })
            .collect()
    };
    let all = [Edge::WriteWrite, Edge::WriteRead, Edge::ReadWrite, Edge::Time];
    let (graph, _) = graph_of(&all);
    let suspects = circles(&graph);
    if suspects.is_empty() {
        return;
    }
    // The weakest promise that was broken.
    let (graph, _) = graph_of(&all[..1]);
    let found = circles(&graph);
    if !found.is_empty() {
        wrong.extend(found.into_iter().map(Anomaly::G0));
        return;
    }
    let (graph, nodes) = graph_of(&[Edge::WriteWrite, Edge::WriteRead, Edge::Time]);
    let found = circles(&graph);
    if !found.is_empty() {
        wrong.extend(found.into_iter().map(Anomaly::G1c));
        return;
    }
    for circle in suspects {
        let is_in = |at: &usize| circle.binary_search(at).is_ok();
        let mut missed = edges
            .iter()
            .filter(|((from, to), kinds)| kinds.contains(&Edge::ReadWrite) && is_in(from) && is_in(to));
        let is_single =
            missed.any(|((from, to), _)| has_path_connecting(&graph, nodes[*to], nodes[*from], None));
        wrong.insert(if is_single { Anomaly::GSingle(circle) } else { Anomaly::G2(circle) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transaction that began and ended then.
    fn at(began: u64, ended: u64, micros: &[Micro]) -> Transaction {
        Transaction { micros: micros.to_vec(), began, ended, told: Told::Yes }
    }

    fn append(key: u64, value: u64) -> Micro {
        Micro::Append(key, value)
    }

    fn read(key: u64, list: &[u64]) -> Micro {
        Micro::Read(key, list.to_vec())
    }

    fn found(history: &[Transaction], last: &[(u64, &[u64])]) -> Vec<Anomaly> {
        let last = last.iter().map(|(key, list)| (*key, list.to_vec())).collect();
        check(history, &last).into_iter().collect()
    }

    #[test]
    fn what_can_be_ordered_is_right() {
        let history = [
            at(0, 10, &[append(1, 1), append(2, 2)]),
            at(5, 15, &[read(1, &[1]), read(2, &[2])]),
            at(5, 6, &[read(1, &[]), read(2, &[])]),
            at(12, 20, &[append(1, 3)]),
            Transaction { told: Told::Nothing, ..at(1, 2, &[append(2, 4)]) },
            Transaction { told: Told::Nothing, ..at(1, 2, &[append(2, 5)]) },
            Transaction { told: Told::No, ..at(1, 2, &[append(2, 6)]) },
        ];
        assert_eq!(found(&history, &[(1, &[1, 3]), (2, &[2, 4])]), []);
    }

    #[test]
    fn what_is_planted_is_found() {
        // Two who wrote over each other.
        let history = [at(0, 10, &[append(1, 1), append(2, 2)]), at(0, 10, &[append(1, 3), append(2, 4)])];
        assert_eq!(found(&history, &[(1, &[1, 3]), (2, &[4, 2])]), [Anomaly::G0(vec![0, 1])]);
        // Two who saw each other.
        let history = [at(0, 10, &[append(1, 1), read(2, &[2])]), at(0, 10, &[append(2, 2), read(1, &[1])])];
        assert_eq!(found(&history, &[(1, &[1]), (2, &[2])]), [Anomaly::G1c(vec![0, 1])]);
        // A reader that saw one half of another.
        let history = [at(0, 10, &[append(1, 1), append(2, 2)]), at(0, 10, &[read(1, &[1]), read(2, &[])])];
        assert_eq!(found(&history, &[(1, &[1]), (2, &[2])]), [Anomaly::GSingle(vec![0, 1])]);
        // Two who each missed what the other one wrote.
        let history = [at(0, 10, &[read(1, &[]), append(2, 2)]), at(0, 10, &[read(2, &[]), append(1, 1)])];
        assert_eq!(found(&history, &[(1, &[1]), (2, &[2])]), [Anomaly::G2(vec![0, 1])]);
        // A reader that is late.
        let history = [at(0, 10, &[append(1, 1)]), at(11, 12, &[read(1, &[])])];
        assert_eq!(found(&history, &[(1, &[1])]), [Anomaly::GSingle(vec![0, 1])]);
        // Two writes against time.
        let history = [at(0, 10, &[append(1, 1)]), at(11, 12, &[append(1, 2)])];
        assert_eq!(found(&history, &[(1, &[2, 1])]), [Anomaly::G1c(vec![0, 1])]);
    }

    #[test]
    fn lists_that_cannot_be_are_found() {
        let one = [at(0, 10, &[append(1, 1)])];
        assert_eq!(found(&one, &[(1, &[])]), [Anomaly::Lost(1)]);
        assert_eq!(found(&one, &[(1, &[1, 1])]), [Anomaly::Repeated(1)]);
        assert_eq!(found(&one, &[(1, &[1, 7])]), [Anomaly::Unknown(7)]);
        let refused = [Transaction { told: Told::No, ..one[0].clone() }];
        assert_eq!(found(&refused, &[(1, &[1])]), [Anomaly::AbortedRead(1)]);
        let history = [
            at(0, 10, &[append(1, 1)]),
            at(0, 10, &[append(1, 2)]),
            at(0, 10, &[read(1, &[1])]),
            at(0, 10, &[read(1, &[2])]),
        ];
        assert_eq!(found(&history, &[(1, &[1, 2])]), [Anomaly::IncompatibleOrders(1)]);
    }
}
