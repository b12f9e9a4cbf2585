//! The grid, for components: `trimaran:data/grid`.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use trimaran_client::grid::{Condition as ClientCondition, Grid as Client, SetOptions};
use trimaran_wasm_host::data::{Condition, Entry, Error, Grid, Swap};

use super::error;

/// The grid through the SDK.
pub(crate) struct HostGrid(pub(crate) Client);

#[async_trait]
impl Grid for HostGrid {
    async fn get(&self, key: String) -> Result<Option<Entry>, Error> {
        let found = self.0.get_versioned(key).await.map_err(error)?;
        Ok(found.map(|found| Entry {
            value: found.value.into(),
            version: found.version,
            ttl_ms: found.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        }))
    }

    async fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
        condition: Condition,
    ) -> Result<Option<u64>, Error> {
        let condition = match condition {
            Condition::Always => ClientCondition::Always,
            Condition::IfAbsent => ClientCondition::IfAbsent,
            Condition::IfPresent => ClientCondition::IfPresent,
            Condition::IfVersion(version) => ClientCondition::IfVersion(version),
        };
        let options = SetOptions { ttl: ttl_ms.map(Duration::from_millis), condition };
        self.0.set_with(key, value, options).await.map_err(error)
    }

    async fn delete(&self, key: String) -> Result<bool, Error> {
        self.0.delete(key).await.map_err(error)
    }

    async fn increment(&self, key: String, by: i64) -> Result<i64, Error> {
        self.0.increment(key, by).await.map_err(error)
    }

    async fn compare_and_swap(
        &self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    ) -> Result<Swap, Error> {
        let swap = self.0.compare_and_swap(key, expected.map(Bytes::from), value.map(Bytes::from)).await;
        let (swapped, previous) = swap.map_err(error)?;
        Ok(Swap { swapped, previous: previous.map(Into::into) })
    }

    async fn expire(&self, key: String, ttl_ms: Option<u64>) -> Result<bool, Error> {
        self.0.expire(key, ttl_ms.map(Duration::from_millis)).await.map_err(error)
    }
}
