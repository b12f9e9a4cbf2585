//! Tables and their indexes on the line.

use std::collections::BTreeMap;

use trimaran_proto::api::database as wire;

use crate::error::Invalid;
use crate::item::Type;
use crate::op::create_table::NewIndex;
use crate::op::describe_table::Described;
use crate::op::update_table::OnDemandUpdate;
use crate::store::Stats;
use crate::table::{
    self, Index, IndexStatus, KeyAttribute, OnDemand, Projection, StreamView, StrongIndexes, Table,
};

pub(super) fn key_attribute(wire: wire::KeyAttribute) -> Result<KeyAttribute, Invalid> {
    let kind = match wire.r#type() {
        wire::KeyType::S => Type::S,
        wire::KeyType::N => Type::N,
        wire::KeyType::B => Type::B,
        wire::KeyType::Unspecified => {
            return Err(Invalid::new(format!("the type of key attribute {} is missing", wire.name)));
        }
    };
    Ok(KeyAttribute { name: wire.name, kind })
}

fn put_key(key: &KeyAttribute) -> wire::KeyAttribute {
    wire::KeyAttribute {
        name: key.name.clone(),
        r#type: match key.kind {
            Type::N => wire::KeyType::N,
            Type::B => wire::KeyType::B,
            _ => wire::KeyType::S,
        }
        .into(),
    }
}

pub(super) fn max_throughput(wire: Option<wire::MaxThroughput>) -> OnDemand {
    let wire::MaxThroughput { read_units, write_units } = wire.unwrap_or_default();
    OnDemand::stored(read_units, write_units)
}

fn put_max_throughput(on_demand: OnDemand) -> Option<wire::MaxThroughput> {
    let OnDemand { reads, writes } = on_demand;
    on_demand.is_limited().then(|| wire::MaxThroughput {
        read_units: reads.unwrap_or_default(),
        write_units: writes.unwrap_or_default(),
    })
}

/// All of it is said anew.
pub(super) fn throughput_update(wire: Option<wire::MaxThroughput>) -> OnDemandUpdate {
    let OnDemand { reads, writes } = max_throughput(wire);
    OnDemandUpdate { reads: Some(reads), writes: Some(writes) }
}

pub(super) fn new_index(wire: wire::Index) -> Result<NewIndex, Invalid> {
    let projection = match wire.projection() {
        wire::Projection::All => Projection::All,
        wire::Projection::KeysOnly => Projection::KeysOnly,
        wire::Projection::Include => Projection::Include(wire.attributes),
    };
    let missing = || Invalid::new(format!("the partition_key of index {} is missing", wire.name));
    Ok(NewIndex {
        partition_key: key_attribute(wire.partition_key.ok_or_else(missing)?)?,
        sort_key: wire.sort_key.map(key_attribute).transpose()?,
        name: wire.name,
        local: wire.local,
        projection,
        throughput: None,
        on_demand: max_throughput(wire.max_throughput),
    })
}

fn index_description(index: &Index, stats: Stats) -> wire::IndexDescription {
    let (projection, attributes) = match &index.projection {
        Projection::All => (wire::Projection::All, Vec::new()),
        Projection::KeysOnly => (wire::Projection::KeysOnly, Vec::new()),
        Projection::Include(names) => (wire::Projection::Include, names.clone()),
    };
    wire::IndexDescription {
        index: Some(wire::Index {
            name: index.name.clone(),
            local: index.local,
            partition_key: Some(put_key(&index.partition_key)),
            sort_key: index.sort_key.as_ref().map(put_key),
            projection: projection.into(),
            attributes,
            max_throughput: put_max_throughput(index.on_demand),
        }),
        status: match index.status {
            IndexStatus::Active => wire::IndexStatus::Active,
            IndexStatus::Creating => wire::IndexStatus::Creating,
            IndexStatus::Deleting => wire::IndexStatus::Deleting,
        }
        .into(),
        item_count: stats.items,
        size_bytes: stats.bytes,
        // Tokens are spread evenly.
        filled: index.filled_below.map_or(0.0, |below| below as f64 / u64::MAX as f64),
    }
}

pub(super) fn description(described: Described) -> wire::TableDescription {
    let Described { table, items, indexes } = described;
    let kept = table.history.filter(|history| !history.ends);
    let stats = |index: &Index| indexes.get(&index.number).copied().unwrap_or_default();
    wire::TableDescription {
        id: table.id,
        partition_key: Some(put_key(&table.partition_key)),
        sort_key: table.sort_key.as_ref().map(put_key),
        status: match table.status {
            table::Status::Creating => wire::TableStatus::Creating,
            table::Status::Active => wire::TableStatus::Active,
            table::Status::Deleting => wire::TableStatus::Deleting,
        }
        .into(),
        created_ms: table.created_ms,
        item_count: items.items,
        size_bytes: items.bytes,
        indexes: table.indexes.iter().map(|index| index_description(index, stats(index))).collect(),
        stream: put_stream(&table).into(),
        max_throughput: put_max_throughput(table.on_demand),
        strong_indexes: table.strong_indexes == StrongIndexes::On,
        history_s: kept.map_or(0, |history| (history.kept_ms / 1000) as u32),
        history_since_ms: kept.and_then(|history| history.since_ms).unwrap_or_default(),
        stream_ready: table.streams.iter().all(|stream| !stream.is_underway()),
        name: table.name,
    }
}

/// What a stream is to have; `None` = there is to be none.
pub(super) fn stream_view(wire: i32) -> Result<Option<StreamView>, Invalid> {
    match wire::StreamView::try_from(wire) {
        Ok(wire::StreamView::None) => Ok(None),
        Ok(wire::StreamView::KeysOnly) => Ok(Some(StreamView::KeysOnly)),
        Ok(wire::StreamView::NewImage) => Ok(Some(StreamView::NewImage)),
        Ok(wire::StreamView::OldImage) => Ok(Some(StreamView::OldImage)),
        Ok(wire::StreamView::NewAndOldImages) => Ok(Some(StreamView::NewAndOldImages)),
        Err(_unknown) => Err(Invalid::new(format!("stream: {wire} is none of its views"))),
    }
}

fn put_stream(table: &Table) -> wire::StreamView {
    match table.live_stream().map(|stream| stream.view) {
        None => wire::StreamView::None,
        Some(StreamView::KeysOnly) => wire::StreamView::KeysOnly,
        Some(StreamView::NewImage) => wire::StreamView::NewImage,
        Some(StreamView::OldImage) => wire::StreamView::OldImage,
        Some(StreamView::NewAndOldImages) => wire::StreamView::NewAndOldImages,
    }
}

/// One that nobody has counted.
pub(super) fn uncounted(table: Table) -> wire::TableDescription {
    description(Described { table, items: Stats::default(), indexes: BTreeMap::new() })
}
