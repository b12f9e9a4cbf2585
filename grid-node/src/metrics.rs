//! All metrics of the grid.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use trimaran_proto::internal::cluster::Usage;

/// Says what each metric means; call once a process.
pub fn describe() {
    describe_counter!("trimaran_grid_commands_total", "Commands answered, by front.");
    describe_counter!("trimaran_grid_refused_total", "Commands refused with an error, by front.");
    describe_counter!("trimaran_grid_published_total", "Messages published at this node.");
    describe_counter!(
        "trimaran_grid_notices_lost_total",
        "Events of keys that subscribers were not told of: too many waited."
    );
    describe_counter!("trimaran_grid_evicted_total", "Keys removed to make room, at this node's word.");
    describe_gauge!("trimaran_grid_connections", "Open connections, by front.");
    describe_gauge!("trimaran_grid_keys", "Keys in memory, by partition.");
    describe_gauge!("trimaran_grid_bytes", "Bytes of keys and values in memory, by partition.");
    describe_gauge!("trimaran_grid_namespace_keys", "Keys of a namespace that this node leads.");
    describe_gauge!("trimaran_grid_namespace_bytes", "Bytes of its keys and values that this node leads.");
    describe_gauge!(
        "trimaran_grid_namespace_operations",
        "Keys of a namespace that this node was asked for per second, refused ones included."
    );
}

/// Commands answered by a front ("resp", "http", "grpc").
pub fn commands(front: &'static str) -> Counter {
    counter!("trimaran_grid_commands_total", "front" => front)
}

/// Commands refused by a front.
pub fn refused(front: &'static str) -> Counter {
    counter!("trimaran_grid_refused_total", "front" => front)
}

/// Messages published.
pub fn published() -> Counter {
    counter!("trimaran_grid_published_total")
}

/// Events of keys that were lost on the way to their subscribers.
pub fn notices_lost() -> Counter {
    counter!("trimaran_grid_notices_lost_total")
}

/// Keys removed to make room.
pub fn evicted() -> Counter {
    counter!("trimaran_grid_evicted_total")
}

/// Open connections of a front ("resp", "http").
pub fn connections(front: &'static str) -> Gauge {
    gauge!("trimaran_grid_connections", "front" => front)
}

/// What a partition holds.
pub fn held(partition: u64, keys: usize, bytes: usize) {
    let partition = partition.to_string();
    gauge!("trimaran_grid_keys", "partition" => partition.clone()).set(keys as f64);
    gauge!("trimaran_grid_bytes", "partition" => partition).set(bytes as f64);
}

/// What a namespace uses of this node.
pub fn used(usage: &Usage) {
    let namespace = &usage.name;
    gauge!("trimaran_grid_namespace_keys", "namespace" => namespace.clone()).set(usage.keys as f64);
    gauge!("trimaran_grid_namespace_bytes", "namespace" => namespace.clone()).set(usage.bytes as f64);
    gauge!("trimaran_grid_namespace_operations", "namespace" => namespace.clone())
        .set(usage.operations as f64);
}
