//! Descriptors to and from the wire, for nodes and clients alike.

use trimaran_placement::table::{self, Partition, Replica, ReplicaState, Table};
use trimaran_placement::token::Token;
use trimaran_proto::api::placement as wire;

/// As a message, for a partition with a range that does not change.
pub fn put(partition: &Partition) -> wire::Partition {
    wire::Partition {
        id: partition.id,
        first_token: partition.first.0,
        last_token: partition.last.0,
        epoch: partition.epoch,
        replicas: partition
            .replicas
            .iter()
            .map(|replica| wire::Replica {
                id: replica.id,
                node_id: replica.node,
                state: match replica.state {
                    ReplicaState::Member => wire::ReplicaState::Unspecified,
                    ReplicaState::Joining => wire::ReplicaState::Joining,
                    ReplicaState::Leaving => wire::ReplicaState::Leaving,
                }
                .into(),
            })
            .collect(),
        voters: partition.voters.clone(),
        leader_hint: partition.leader_hint.unwrap_or(0),
        preferred_leader: partition.preferred_leader.unwrap_or(0),
        lost: partition.lost,
        split_from: partition.split_from.unwrap_or(0),
        splitting_off: None,
        founded_with: None,
        merging: None,
        unproven: false,
    }
}

/// From a message.
pub fn get(partition: &wire::Partition) -> Partition {
    Partition {
        id: partition.id,
        first: Token(partition.first_token),
        last: Token(partition.last_token),
        epoch: partition.epoch,
        replicas: partition
            .replicas
            .iter()
            .map(|replica| Replica {
                id: replica.id,
                node: replica.node_id,
                state: match replica.state() {
                    wire::ReplicaState::Unspecified => ReplicaState::Member,
                    wire::ReplicaState::Joining => ReplicaState::Joining,
                    wire::ReplicaState::Leaving => ReplicaState::Leaving,
                },
            })
            .collect(),
        voters: partition.voters.clone(),
        leader_hint: Some(partition.leader_hint).filter(|&replica| replica != 0),
        preferred_leader: Some(partition.preferred_leader).filter(|&replica| replica != 0),
        lost: partition.lost,
        range_changes: partition.splitting_off.is_some() || partition.merging.is_some(),
        split_from: Some(partition.split_from).filter(|&partition| partition != 0),
    }
}

/// A whole table from a message; errors if it does not cover every token exactly once.
pub fn get_table(table: &wire::Table) -> Result<Table, table::Error> {
    Table::new(table.version, table.partitions.iter().map(get))
}
