//! How much a table and its indexes may be asked.

use std::collections::BTreeMap;

use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::update_table_request::Change;

use super::Database;
use crate::error::Error;

/// The most that a table or an index is to be asked, over all nodes, in DynamoDB's capacity units per second: a unit is a write of up
/// to a kibibyte, or a read of up to four. `None` = anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxThroughput {
    /// Reads.
    pub read_units: Option<u64>,
    /// Writes.
    pub write_units: Option<u64>,
}

pub(super) fn get(wire: Option<&wire::MaxThroughput>) -> MaxThroughput {
    let some = |units: u64| Some(units).filter(|units| *units > 0);
    let wire::MaxThroughput { read_units, write_units } = wire.copied().unwrap_or_default();
    MaxThroughput { read_units: some(read_units), write_units: some(write_units) }
}

pub(super) fn of_indexes(described: &[wire::IndexDescription]) -> BTreeMap<String, MaxThroughput> {
    let indexes = described.iter().filter_map(|described| described.index.as_ref());
    let limited = indexes.filter(|index| index.max_throughput.is_some());
    limited.map(|index| (index.name.clone(), get(index.max_throughput.as_ref()))).collect()
}

impl Database {
    /// Says how much a table, or a global index of it, may be asked. What is beyond fails with [`Error::Exhausted`]; what is not asked
    /// is saved up for five minutes.
    pub async fn limit_throughput(
        &self,
        table: &str,
        index: Option<&str>,
        max: MaxThroughput,
    ) -> Result<(), Error> {
        let max = wire::MaxThroughput {
            read_units: max.read_units.unwrap_or_default(),
            write_units: max.write_units.unwrap_or_default(),
        };
        let change = match index {
            None => Change::MaxThroughput(max),
            Some(index) => Change::IndexThroughput(wire::IndexThroughput {
                index: index.to_owned(),
                max_throughput: Some(max),
            }),
        };
        self.update(table, change).await
    }
}
