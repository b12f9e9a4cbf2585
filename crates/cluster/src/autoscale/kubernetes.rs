//! Nodes as pods of a stateful set: its scale says how many there are, and the highest number is the one that goes.
//!
//! A stateful set can only lose its last pod, so that is the only one ever drained. Its container, which has ended by then,
//! is started again by Kubernetes and refused by the cluster, until the set is made smaller, which takes the pod away and,
//! by the set's `persistentVolumeClaimRetentionPolicy`, its volume.
//!
//! Whoever else makes the set smaller (`kubectl scale`) has the pods drained by their `preStop` hook, which asks
//! [`StatefulSet::is_wanted`]: a pod that is only started anew must not be.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1;
use k8s_openapi::api::autoscaling::v1::Scale;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::OnceCell;

use super::{Actor, Failed};

/// The stateful set that this node's pod belongs to.
pub struct StatefulSet {
    name: String,
    /// This pod's.
    number: u32,
    /// What follows a pod's name in its address: ".grid:7002".
    rest: String,
    api: OnceCell<Api<v1::StatefulSet>>,
}

impl std::fmt::Debug for StatefulSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatefulSet").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StatefulSet {
    /// By the address that others reach this node at: the first label of its host is the name of its pod. `None` if that
    /// does not end in a number.
    pub fn of(address: &str) -> Option<Self> {
        let (pod, rest) = address.split_at(address.find(['.', ':']).unwrap_or(address.len()));
        let (name, number) = pod.rsplit_once('-')?;
        let number = number.parse().ok().filter(|_| !name.is_empty())?;
        Some(Self { name: name.to_owned(), number, rest: rest.to_owned(), api: OnceCell::new() })
    }

    /// True unless this node's pod is beyond the number of pods that the set should have.
    pub async fn is_wanted(&self) -> Result<bool, Failed> {
        Ok(self.number < replicas(&self.scale().await?))
    }

    /// The interface of Kubernetes, reached as pods reach it, or as `KUBECONFIG` says.
    async fn api(&self) -> Result<&Api<v1::StatefulSet>, Failed> {
        let connect = async || Ok(Api::default_namespaced(Client::try_default().await?));
        let api = self.api.get_or_try_init(connect).await;
        api.map_err(|error: kube::Error| Failed::new("the API of Kubernetes is not reached", error))
    }

    async fn scale(&self) -> Result<Scale, Failed> {
        let scale = self.api().await?.get_scale(&self.name).await;
        scale.map_err(|error| Failed::new("the scale of the stateful set cannot be read", error))
    }

    /// Changes the number of pods, if nobody else has since it was read.
    async fn replace(&self, mut scale: Scale, replicas: u32) -> Result<(), Failed> {
        let unusual = |error: &dyn std::fmt::Display| {
            Failed::new("the scale of the stateful set cannot be changed", error)
        };
        let spec = scale.spec.get_or_insert_default();
        spec.replicas = Some(i32::try_from(replicas).map_err(|error| unusual(&error))?);
        let replaced = self.api().await?.replace_scale(&self.name, &PostParams::default(), &scale).await;
        replaced.map(drop).map_err(|error| unusual(&error))
    }

    fn address(&self, number: u32) -> String {
        format!("{}-{number}{}", self.name, self.rest)
    }
}

/// Pods that there should be.
fn replicas(scale: &Scale) -> u32 {
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    u32::try_from(replicas).unwrap_or(0)
}

#[async_trait::async_trait]
impl Actor for StatefulSet {
    async fn start(&self, _members: &[String]) -> Result<(), Failed> {
        let scale = self.scale().await?;
        let more = replicas(&scale) + 1;
        self.replace(scale, more).await
    }

    async fn started(&self) -> Result<BTreeSet<String>, Failed> {
        let last = replicas(&self.scale().await?).checked_sub(1);
        Ok(last.map(|last| self.address(last)).into_iter().collect())
    }

    async fn clear(&self, address: &str) -> Result<(), Failed> {
        let scale = self.scale().await?;
        match replicas(&scale).checked_sub(1).filter(|&last| self.address(last) == address) {
            Some(fewer) => self.replace(scale, fewer).await,
            // It is not there any more, or not the last one any more.
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_knows_its_set_and_its_siblings_by_its_address() {
        let set = StatefulSet::of("my-grid-12.grid.prod.svc:7002").unwrap();
        assert_eq!((set.name.as_str(), set.number), ("my-grid", 12));
        assert_eq!(set.address(3), "my-grid-3.grid.prod.svc:7002");
        let set = StatefulSet::of("shard-0:7003").unwrap();
        assert_eq!((set.name.as_str(), set.number, set.address(1).as_str()), ("shard", 0, "shard-1:7003"));
        for stranger in ["grid:7002", "127.0.0.1:7002", "-1:7002", "grid-x.grid:7002", ""] {
            assert!(StatefulSet::of(stranger).is_none(), "{stranger}");
        }
    }
}
