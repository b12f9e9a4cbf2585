//! UpdateTable and what else changes of a table that is there: capacity, protection, indexes, expiry, tags.

use crate::error::{Error, Invalid};
use crate::limits::TAGS_MAX;
use crate::op::create_table::{NewIndex, check_history, check_indexes};
use crate::op::transact_write::FORMAT;
use crate::router::Router;
use crate::table::{IndexStatus, OnDemand, Status, StreamStatus, StreamView, Table};

/// What is asked.
#[derive(Debug, Default)]
pub struct Request {
    /// Name of the table.
    pub table: String,
    /// How it is paid for: by request (`None`), or for so many reads and writes per second.
    pub billing: Option<Option<(u64, u64)>>,
    /// The most that it is to be asked if it is paid by request.
    pub on_demand: OnDemandUpdate,
    /// Refuse to delete it.
    pub deletion_protection: Option<bool>,
    /// As its owner calls it.
    pub class: Option<String>,
    /// At most one is made or removed at once.
    pub indexes: Vec<IndexUpdate>,
    /// Begin a stream that has this (`Some(Some)`), or end the one that goes on.
    pub stream: Option<Option<StreamView>>,
    /// Have what items were kept for so many milliseconds (`Some(Some)`), or no more.
    pub history_ms: Option<Option<u64>>,
    /// Have entries of global indexes written in one transaction with their items, or no more.
    pub strong_indexes: Option<bool>,
}

/// What is said anew of [`OnDemand`]: `Some(None)` = anything may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDemandUpdate {
    /// Reads.
    pub reads: Option<Option<u64>>,
    /// Writes.
    pub writes: Option<Option<u64>>,
}

impl OnDemandUpdate {
    /// True if something is said.
    pub fn is_any(self) -> bool {
        self.reads.is_some() || self.writes.is_some()
    }

    fn apply(self, to: &mut OnDemand) {
        to.reads = self.reads.unwrap_or(to.reads);
        to.writes = self.writes.unwrap_or(to.writes);
    }
}

/// A change of a table's global indexes.
#[derive(Debug)]
pub enum IndexUpdate {
    /// One more, which is filled while the table goes on taking requests.
    Create(NewIndex),
    /// Other capacity.
    Update(String, Option<(u64, u64)>, OnDemandUpdate),
    /// One less.
    Delete(String),
}

fn active(table: &Table) -> Result<(), Error> {
    match table.status {
        Status::Active => Ok(()),
        Status::Creating => Err(Error::TableInUse(format!(
            "Attempt to change a resource which is still in use: Table is being created: {}",
            table.name
        ))),
        Status::Deleting => Err(Error::TableInUse(format!(
            "Attempt to change a resource which is still in use: Table is being deleted: {}",
            table.name
        ))),
    }
}

/// Changes the definition; what has to be done for it goes on by itself, see [`crate::index::build`].
pub async fn run(router: &Router, request: Request) -> Result<Table, Error> {
    router.refresh_tables().await?;
    let is_one_at_once = |update: &&IndexUpdate| !matches!(update, IndexUpdate::Update(..));
    if request.indexes.iter().filter(is_one_at_once).count() > 1 {
        return Err(Error::LimitExceeded(
            "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table".into(),
        ));
    }
    if let Some(Some(kept_ms)) = request.history_ms {
        check_history(kept_ms)?;
    }
    let is_new = request.stream.is_some()
        || request.history_ms.is_some()
        || request.strong_indexes.is_some()
        || request.on_demand.is_any();
    if !request.indexes.is_empty() || is_new {
        router.require_format(FORMAT)?;
    }
    let now_ms = router.now_ms();
    router
        .edit(&request.table, |table| {
            active(table)?;
            let before = table.clone();
            if let Some(billing) = request.billing {
                if billing.is_some() && billing == table.throughput && request.indexes.is_empty() {
                    let (reads, writes) = billing.unwrap_or_default();
                    return Err(Invalid::new(format!(
                        "The provisioned throughput for the table will not change. The requested value equals the current \
                         value. Current ReadCapacityUnits provisioned for the table: {reads}. Requested ReadCapacityUnits: \
                         {reads}. Current WriteCapacityUnits provisioned for the table: {writes}. Requested \
                         WriteCapacityUnits: {writes}."
                    ))
                    .into());
                }
                if billing.is_none() && table.throughput.is_some() {
                    table.on_demand_since_ms = Some(now_ms);
                }
                table.throughput = billing;
            }
            request.on_demand.apply(&mut table.on_demand);
            request.indexes.iter().try_for_each(|update| change(table, update))?;
            if table.throughput.is_some() {
                let limits = |update: &IndexUpdate| match update {
                    IndexUpdate::Update(_, _, on_demand) => on_demand.is_any(),
                    IndexUpdate::Create(_) | IndexUpdate::Delete(_) => false,
                };
                if request.on_demand.is_any() || request.indexes.iter().any(limits) {
                    return Err(Invalid::new(
                        "One or more parameter values were invalid: OnDemandThroughput can only be specified when \
                         BillingMode is PAY_PER_REQUEST",
                    )
                    .into());
                }
                table.on_demand = OnDemand::default();
                table.indexes.iter_mut().for_each(|index| index.on_demand = OnDemand::default());
            }
            table.deletion_protection = request.deletion_protection.unwrap_or(table.deletion_protection);
            if request.class.is_some() {
                table.class.clone_from(&request.class);
            }
            if let Some(stream) = request.stream {
                change_stream(table, stream, now_ms)?;
            }
            if let Some(kept_ms) = request.history_ms {
                table.set_history(kept_ms, now_ms)?;
            }
            if let Some(strong) = request.strong_indexes {
                table.set_strong_indexes(strong, now_ms)?;
            }
            check_indexes(table)?;
            Ok(*table != before)
        })
        .await
}

fn change_stream(table: &mut Table, view: Option<StreamView>, now_ms: u64) -> Result<(), Error> {
    let name = table.name.clone();
    let live = table.streams.iter_mut().find(|stream| stream.status != StreamStatus::Disabled);
    match (live, view) {
        (None, Some(view)) => table.begin_stream(view, now_ms),
        (None, None) => {
            return Err(Invalid::new(format!("Table has no stream to disable: TableName: {name}")).into());
        }
        (Some(live), None) if live.status == StreamStatus::Enabled => live.status = StreamStatus::Disabling,
        (Some(live), Some(_)) if live.status == StreamStatus::Enabled => {
            return Err(
                Invalid::new(format!("Table already has an enabled stream: TableName: {name}")).into()
            );
        }
        (Some(_), _) => {
            return Err(Error::TableInUse(format!(
                "Attempt to change a resource which is still in use: Table is being updated: {name}"
            )));
        }
    }
    Ok(())
}

fn change(table: &mut Table, update: &IndexUpdate) -> Result<(), Error> {
    let no_index = |name: &str| Error::IndexNotFound(name.to_owned());
    match update {
        IndexUpdate::Create(new) => {
            if table.index(&new.name).is_some() {
                return Err(Invalid::new(format!(
                    "Attempting to create an index which already exists: Index with name {} already exists",
                    new.name
                ))
                .into());
            }
            table.last_index += 1;
            table.indexes.push(new.clone().index(table.last_index, IndexStatus::Creating));
        }
        IndexUpdate::Update(name, throughput, on_demand) => {
            let found = table.indexes.iter_mut().find(|index| index.name == *name && !index.local);
            let index = found.ok_or_else(|| no_index(name))?;
            index.throughput = throughput.or(index.throughput);
            on_demand.apply(&mut index.on_demand);
        }
        IndexUpdate::Delete(name) => {
            let found = table.indexes.iter_mut().find(|index| index.name == *name && !index.local);
            found.ok_or_else(|| no_index(name))?.status = IndexStatus::Deleting;
        }
    }
    Ok(())
}

/// Says, or says no more, which attribute tells when items expire.
pub async fn set_ttl(router: &Router, name: &str, attribute: &str, enabled: bool) -> Result<(), Error> {
    router.require_format(FORMAT)?;
    router.refresh_tables().await?;
    router
        .edit(name, |table| {
            active(table)?;
            match (&table.ttl_attribute, enabled) {
                (Some(_), true) => Err(Invalid::new("TimeToLive is already enabled").into()),
                (None, false) => Err(Invalid::new("TimeToLive is already disabled").into()),
                (Some(known), false) if known != attribute => Err(Invalid::new(
                    "TimeToLive is active on a different AttributeName: current AttributeName is ".to_owned()
                        + known,
                )
                .into()),
                _ => {
                    table.ttl_attribute = enabled.then(|| attribute.to_owned());
                    Ok(true)
                }
            }
        })
        .await?;
    Ok(())
}

/// Adds tags, or gives them other values.
pub async fn tag(router: &Router, name: &str, tags: Vec<(String, String)>) -> Result<(), Error> {
    router.refresh_tables().await?;
    router
        .edit(name, |table| {
            let before = table.tags.len();
            table.tags.extend(tags.iter().cloned());
            if table.tags.len() > TAGS_MAX && table.tags.len() > before {
                return Err(Error::LimitExceeded(format!("a table has at most {TAGS_MAX} tags")));
            }
            Ok(true)
        })
        .await?;
    Ok(())
}

/// Removes tags.
pub async fn untag(router: &Router, name: &str, keys: &[String]) -> Result<(), Error> {
    router.refresh_tables().await?;
    router
        .edit(name, |table| {
            let before = table.tags.len();
            table.tags.retain(|key, _| !keys.contains(key));
            Ok(table.tags.len() != before)
        })
        .await?;
    Ok(())
}
