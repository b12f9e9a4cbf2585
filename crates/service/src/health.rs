//! What gRPC clients can ask of every node: whether it takes requests, and what calls it has.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpc, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

/// Whether a node takes requests, as its gRPC clients see it.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

/// A node that does not take requests yet, and the service that says so (`grpc.health.v1`).
pub async fn health() -> (Health, HealthServer<impl HealthRpc>) {
    let (reporter, service) = health_reporter();
    let health = Health(reporter);
    // The library begins with "serving".
    health.set(false).await;
    (health, service)
}

impl Health {
    /// Says that the node takes requests, or that it does not.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.0.set_service_status("", status).await;
    }
}

/// All calls of this build, for `grpcurl` and the like.
pub fn reflection() -> ServerReflectionServer<impl ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(trimaran_proto::DESCRIPTORS)
        .build_v1()
        .expect("the descriptors of this build are what its build script wrote")
}

#[cfg(test)]
mod tests {
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Said;
    use tonic_health::server::HealthService;

    use super::*;

    #[tokio::test]
    async fn a_node_takes_no_requests_until_it_says_so() {
        let (health, _service) = health().await;
        let asked = HealthService::from_health_reporter(health.0.clone());
        let said = async || {
            let reply = asked.check(Request::new(HealthCheckRequest::default())).await.unwrap();
            reply.into_inner().status()
        };
        assert_eq!(said().await, Said::NotServing);
        health.set(true).await;
        assert_eq!(said().await, Said::Serving);
        drop(reflection());
    }
}
