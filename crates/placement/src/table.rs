//! The partition table: where every range of tokens *is*.
//!
//! Nodes and clients hold it whole, look keys up in it without asking anybody, and patch it from errors
//! (`WRONG_PARTITION`, `NOT_LEADER`) with newer descriptors.

use std::collections::BTreeMap;

use crate::token::Token;
use crate::{NodeId, PartitionId, ReplicaId};

/// One copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Never used twice.
    pub id: ReplicaId,
    /// The node that has it.
    pub node: NodeId,
    /// Where it is in a move.
    pub state: ReplicaState,
}

/// A move adds a copy and takes another away; both are there until the group has changed its voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaState {
    /// A full member.
    #[default]
    Member,
    /// To become one.
    Joining,
    /// To go once the group does without it.
    Leaving,
}

/// One contiguous range of tokens and its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Never used twice.
    pub id: PartitionId,
    /// First token, inclusive.
    pub first: Token,
    /// Last token, inclusive.
    pub last: Token,
    /// Grows with every change of range or replicas.
    pub epoch: u64,
    /// The copies, those that come and go in a move among them.
    pub replicas: Vec<Replica>,
    /// Replicas that vote in the group now; where they differ from `replicas`, a change is under way.
    pub voters: Vec<ReplicaId>,
    /// Where the leader was last seen.
    pub leader_hint: Option<ReplicaId>,
    /// Who is to lead when all is well.
    pub preferred_leader: Option<ReplicaId>,
    /// A majority of the copies is gone and cannot come back.
    pub lost: bool,
    /// The end of the range is about to become a partition of its own, or the range to be part of a larger one.
    pub range_changes: bool,
    /// The partition that this one was split from, if it was.
    pub split_from: Option<PartitionId>,
}

impl Partition {
    /// True if `token` lies in the range.
    pub fn contains(&self, token: Token) -> bool {
        self.first <= token && token <= self.last
    }

    /// True while a copy comes or goes.
    pub fn is_moving(&self) -> bool {
        self.replicas.iter().any(|replica| replica.state != ReplicaState::Member)
    }

    /// The nodes that are to have a copy when all moves are done.
    pub fn wanted_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.replicas
            .iter()
            .filter(|replica| replica.state != ReplicaState::Leaving)
            .map(|replica| replica.node)
    }

    /// The node that has the replica, if it is one of this partition's.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.replicas.iter().find(|candidate| candidate.id == replica).map(|found| found.node)
    }

    /// The replica on a node, if there is one.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas.iter().find(|candidate| candidate.node == node).map(|found| found.id)
    }
}

/// All partitions of a cluster, ordered by their first token. They cover every token exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    version: u64,
    by_first: BTreeMap<u64, Partition>,
}

/// Why a list of partitions is no table.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A token between two partitions, or at an end, belongs to none.
    #[error("no partition covers token {0}")]
    Gap(Token),
    /// A token belongs to two partitions.
    #[error("two partitions cover token {0}")]
    Overlap(Token),
}

impl Table {
    /// Builds a table from partitions in any order. Errors if they do not cover every token exactly once.
    pub fn new(version: u64, partitions: impl IntoIterator<Item = Partition>) -> Result<Self, Error> {
        let mut by_first = BTreeMap::new();
        for partition in partitions {
            let first = partition.first;
            if by_first.insert(first.0, partition).is_some() {
                return Err(Error::Overlap(first));
            }
        }
        let table = Self { version, by_first };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), Error> {
        let mut expected = Some(0_u64);
        for partition in self.by_first.values() {
            match expected {
                Some(token) if partition.first.0 > token => return Err(Error::Gap(Token(token))),
                Some(token) if partition.first.0 < token => return Err(Error::Overlap(partition.first)),
                None => return Err(Error::Overlap(partition.first)),
                Some(_) => expected = partition.last.0.checked_add(1),
            }
        }
        match expected {
            Some(token) => Err(Error::Gap(Token(token))),
            None => Ok(()),
        }
    }

    /// Grows with every change of any descriptor.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The partition that a token lies in. `None` only for an empty table.
    pub fn find(&self, token: Token) -> Option<&Partition> {
        self.by_first.range(..=token.0).next_back().map(|(_, partition)| partition)
    }

    /// The partition with this id.
    pub fn get(&self, id: PartitionId) -> Option<&Partition> {
        self.by_first.values().find(|partition| partition.id == id)
    }

    /// All partitions in token order.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.by_first.values()
    }

    /// Takes over a descriptor from an error answer if it is newer than the one held. Returns whether it was.
    /// The ranges must be unchanged; a caller that learns of another range has to fetch the table whole.
    pub fn patch(&mut self, newer: Partition) -> bool {
        match self.by_first.get_mut(&newer.first.0) {
            Some(held) if held.id == newer.id && held.last == newer.last && held.epoch <= newer.epoch => {
                *held = newer;
                true
            }
            _ => false,
        }
    }

    /// Remembers where the leader of a partition was seen.
    pub fn hint_leader(&mut self, id: PartitionId, leader: ReplicaId) {
        if let Some(partition) = self.by_first.values_mut().find(|partition| partition.id == id) {
            partition.leader_hint = Some(leader);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan;

    fn partition(id: u64, first: u64, last: u64) -> Partition {
        Partition {
            id,
            first: Token(first),
            last: Token(last),
            epoch: 1,
            replicas: vec![Replica { id: id * 10, node: 1, state: ReplicaState::Member }],
            voters: vec![id * 10],
            leader_hint: None,
            preferred_leader: None,
            lost: false,
            range_changes: false,
            split_from: None,
        }
    }

    #[test]
    fn a_table_with_a_gap_or_an_overlap_is_refused() {
        let check = |partitions: Vec<Partition>, expected: Error| {
            assert_eq!(Table::new(1, partitions), Err(expected));
        };
        check(vec![], Error::Gap(Token(0)));
        check(vec![partition(1, 0, 9)], Error::Gap(Token(10)));
        check(vec![partition(1, 5, u64::MAX)], Error::Gap(Token(0)));
        check(vec![partition(1, 0, 9), partition(2, 9, u64::MAX)], Error::Overlap(Token(9)));
        check(vec![partition(1, 0, u64::MAX), partition(2, 9, 10)], Error::Overlap(Token(9)));
    }

    #[test]
    fn a_newer_descriptor_patches_and_an_older_one_does_not() {
        let mut table = Table::new(1, [partition(1, 0, u64::MAX)]).unwrap();
        let mut newer = partition(1, 0, u64::MAX);
        newer.epoch = 3;
        assert!(table.patch(newer.clone()));
        let mut older = newer.clone();
        older.epoch = 2;
        assert!(!table.patch(older));
        assert_eq!(table.get(1), Some(&newer));
    }

    proptest! {
        #[test]
        fn every_token_is_in_exactly_the_partition_found(count in 1_u64..70, token: u64) {
            let ranges = plan::even_ranges(count);
            let table = Table::new(1, ranges.iter().enumerate().map(|(index, &(first, last))| {
                partition(index as u64 + 1, first.0, last.0)
            })).unwrap();
            let token = Token(token);
            let found = table.find(token).unwrap();
            prop_assert!(found.contains(token));
            prop_assert_eq!(table.partitions().filter(|candidate| candidate.contains(token)).count(), 1);
        }
    }
}
