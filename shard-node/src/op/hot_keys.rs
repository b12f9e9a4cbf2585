//! HotKeys: which partition keys of a table are asked for the most, over all nodes.

use std::time::Duration;

use trimaran_placement::token::Token;
use trimaran_proto::api::placement::NodeState;
use trimaran_proto::internal::shard as wire;

use crate::error::{Error, Invalid};
use crate::hot::{HotKey, HotRows, Rates, together};
use crate::item::Item;
use crate::key::{Layout, parse_head};
use crate::keyspace;
use crate::limits::{HOT_KEYS_DEFAULT, HOT_KEYS_MAX};
use crate::router::Router;
use crate::table::Table;

/// How long another node may take to say what it was asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A key, and what it is asked.
#[derive(Clone, Debug)]
pub struct Key {
    /// The attribute that items are spread by.
    pub key: Item,
    /// A second, at least.
    pub rates: Rates,
    /// Where it is; 0 = not known.
    pub partition: u64,
}

/// What the table, or one of its indexes, is asked.
#[derive(Clone, Debug)]
pub struct Part {
    /// Name of the index; empty = the table.
    pub index: String,
    /// A second, for all keys.
    pub rates: Rates,
    /// The hottest first.
    pub keys: Vec<Key>,
}

/// What is found out.
#[derive(Clone, Debug)]
pub struct Report {
    /// The table first.
    pub parts: Vec<Part>,
    /// Nodes that did not answer.
    pub silent: Vec<u64>,
}

/// What this node was asked.
pub fn here(router: &Router, table: u64) -> wire::HotReply {
    let parts = router.hot().of_table(table, router.now_ms()).into_iter().map(|part| wire::HotRows {
        keyspace: part.keyspace,
        reads: part.rates.reads,
        writes: part.rates.writes,
        rows: part
            .keys
            .into_iter()
            .map(|key| wire::HotRow { row: key.row, reads: key.rates.reads, writes: key.rates.writes })
            .collect(),
    });
    wire::HotReply { parts: parts.collect() }
}

fn told(reply: wire::HotReply) -> impl Iterator<Item = HotRows> {
    reply.parts.into_iter().map(|part| HotRows {
        keyspace: part.keyspace,
        rates: Rates { reads: part.reads, writes: part.writes },
        keys: part
            .rows
            .into_iter()
            .filter_map(|row| {
                let token: Token = parse_head(&row.row)?.1;
                Some(HotKey { token, row: row.row, rates: Rates { reads: row.reads, writes: row.writes } })
            })
            .collect(),
    })
}

/// Carries it out; `limit` 0 = [`HOT_KEYS_DEFAULT`].
pub async fn run(router: &Router, name: &str, limit: u32) -> Result<Report, Error> {
    let limit = if limit == 0 { HOT_KEYS_DEFAULT } else { limit };
    if limit > HOT_KEYS_MAX {
        return Err(Invalid::new(format!("limit: at most {HOT_KEYS_MAX} (HOT_KEYS_MAX), not {limit}")).into());
    }
    let table = router.table(name).await?;
    let nodes: Vec<u64> = {
        let meta = router.cluster().meta();
        let meta = meta.borrow();
        let is_there = |state| matches!(state, NodeState::Up | NodeState::Suspect | NodeState::Leaving);
        meta.nodes.values().filter(|node| is_there(node.state())).map(|node| node.id).collect()
    };
    let asked = nodes.into_iter().map(|node| {
        let table = table.id;
        async move {
            if node == router.cluster().node() {
                return (node, Some(here(router, table)));
            }
            let Some(mut client) = router.client(node) else { return (node, None) };
            let asked = tokio::time::timeout(PATIENCE, client.hot(wire::HotRequest { table })).await;
            let reply = asked.unwrap_or_else(|_elapsed| Err(tonic::Status::deadline_exceeded("")));
            let reply = reply.inspect_err(|status| {
                tracing::debug!(node, code = ?status.code(), "a node did not say what it was asked");
            });
            (node, reply.ok().map(tonic::Response::into_inner))
        }
    });
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (node, reply) in futures::future::join_all(asked).await {
        match reply {
            Some(reply) => found.extend(told(reply)),
            None => silent.push(node),
        }
    }
    let parts = together(found, limit as usize).into_iter().filter_map(|rows| part(router, &table, rows));
    Ok(Report { parts: parts.collect(), silent })
}

/// `None` if the index is gone.
fn part(router: &Router, table: &Table, rows: HotRows) -> Option<Part> {
    let number = keyspace::number(rows.keyspace);
    let index = table.indexes.iter().find(|index| index.number == number);
    let (index, layout) = match (rows.keyspace == table.id, index) {
        (true, _) => (String::new(), Layout::of_table(table)),
        (false, Some(index)) => (index.name.clone(), Layout::of_index(table, index)),
        (false, None) => return None,
    };
    let keys = rows.keys.into_iter().filter_map(|key| {
        let value = layout.partition_of(&key.row)?;
        Some(Key {
            key: Item::from([(layout.partition_key.name.clone(), value)]),
            rates: key.rates,
            partition: router.partition_of(key.token).unwrap_or(0),
        })
    });
    Some(Part { index, rates: rows.rates, keys: keys.collect() })
}
