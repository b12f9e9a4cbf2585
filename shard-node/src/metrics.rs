//! All metrics of the database.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// Says what each metric means; call once a process.
pub fn describe() {
    describe_counter!("trimaran_shard_requests_total", "Requests answered, by front.");
    describe_counter!("trimaran_shard_refused_total", "Requests refused with an error, by front.");
    describe_counter!(
        "trimaran_shard_throttled_total",
        "Requests not let through since something was asked too much, by reason."
    );
    describe_gauge!("trimaran_shard_connections", "Open DynamoDB connections.");
}

/// Requests answered by a front ("dynamodb", "grpc").
pub fn requests(front: &'static str) -> Counter {
    counter!("trimaran_shard_requests_total", "front" => front)
}

/// Requests refused by a front.
pub fn refused(front: &'static str) -> Counter {
    counter!("trimaran_shard_refused_total", "front" => front)
}

/// Requests not let through, by DynamoDB's reason, of which there are 16.
pub fn throttled(reason: String) -> Counter {
    counter!("trimaran_shard_throttled_total", "reason" => reason)
}

/// Open DynamoDB connections.
pub fn connections() -> Gauge {
    gauge!("trimaran_shard_connections")
}
