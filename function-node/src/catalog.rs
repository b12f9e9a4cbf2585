//! Which functions exist: a cached view of the catalog that is kept in the database.
//!
//! The view is read again all the time; a function that it does not have is looked up at once, so that one deployed
//! through another node can be called in the same moment. When the database does not answer, what was known goes on
//! being served.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prost::Message as _;
use trimaran_client::Error as ClientError;
use trimaran_client::database::{Database, Item, Placeholders, ReadOptions, Value, WriteOptions};
use trimaran_proto::state::functions as state;

use crate::error::Error;
use crate::limits::REVISIONS_KEPT;
use crate::spec::{self, Revision, Spec};
use crate::tables::{self, FUNCTIONS, REVISIONS, n};

/// Attempts of a deployment against others of the same function.
const ATTEMPTS_MAX: usize = 5;

/// Items that are deleted with one request.
const BATCH: usize = 25;

/// The catalog. Clones share the view.
#[derive(Clone)]
pub(crate) struct Catalog {
    database: Database,
    view: Arc<ArcSwap<HashMap<String, Arc<Revision>>>>,
}

impl Catalog {
    pub(crate) fn new(database: Database) -> Self {
        Self { database, view: Arc::default() }
    }

    /// The newest revision of a function.
    pub(crate) async fn get(&self, name: &str) -> Result<Arc<Revision>, Error> {
        if let Some(known) = self.view.load().get(name) {
            return Ok(Arc::clone(known));
        }
        // What can be no function's name (half of what the internet asks for) is not worth a request.
        let missing = || Error::FunctionNotFound(name.to_owned());
        spec::check_name(name).map_err(|_no_name| missing())?;
        let found = self.read(name).await?.ok_or_else(missing)?;
        let found = Arc::new(found);
        self.put_in_view(&found);
        Ok(found)
    }

    /// All functions by name, as they are known now.
    pub(crate) fn all(&self) -> Vec<Arc<Revision>> {
        let mut all: Vec<Arc<Revision>> = self.view.load().values().cloned().collect();
        all.sort_by(|one, other| one.function.cmp(&other.function));
        all
    }

    /// Reads the whole catalog again.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let before = self.view.load_full();
        let mut view = HashMap::new();
        let mut start_key = None;
        loop {
            let options = ReadOptions { start_key, ..ReadOptions::default() };
            let page = self.database.scan(FUNCTIONS, options).await?;
            for item in page.items {
                let revision = read(&item)?;
                // One that did not change stays the same to those who compare pointers.
                let revision = match before.get(&revision.function) {
                    Some(known) if **known == revision => Arc::clone(known),
                    _ => Arc::new(revision),
                };
                view.insert(revision.function.clone(), revision);
            }
            start_key = page.last_key;
            if start_key.is_none() {
                break;
            }
        }
        // What was put into the view meanwhile is newer than this read, or is in it: read again next time.
        self.view.compare_and_swap(&before, Arc::new(view));
        Ok(())
    }

    /// Makes the next revision of a function, or its first. The second value is false if the newest was the same.
    pub(crate) async fn put(&self, mut revision: Revision) -> Result<(Arc<Revision>, bool), Error> {
        for _ in 0..ATTEMPTS_MAX {
            let newest = self.read(&revision.function).await?;
            if let Some(newest) = &newest
                && newest.digest == revision.digest
                && newest.wire == revision.wire
            {
                let same = Arc::new(newest.clone());
                self.put_in_view(&same);
                return Ok((same, false));
            }
            revision.number = self.last_number(&revision.function).await? + 1;
            let first = WriteOptions {
                condition: "attribute_not_exists(#name)".to_owned(),
                placeholders: Placeholders::default().name("#name", "name"),
                ..WriteOptions::default()
            };
            match self.database.put_item_with(REVISIONS, write(&revision), first.clone()).await {
                Ok(_) => {}
                Err(ClientError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            let unchanged = match &newest {
                None => first,
                Some(newest) => WriteOptions {
                    condition: "#revision = :newest".to_owned(),
                    placeholders: Placeholders {
                        names: [("#revision".to_owned(), "revision".to_owned())].into(),
                        values: [(":newest".to_owned(), n(newest.number))].into(),
                    },
                    ..WriteOptions::default()
                },
            };
            match self.database.put_item_with(FUNCTIONS, write(&revision), unchanged).await {
                Ok(_) => {
                    let revision = Arc::new(revision);
                    self.put_in_view(&revision);
                    let kept_from = (revision.number + 1).saturating_sub(REVISIONS_KEPT);
                    self.delete_revisions(&revision.function, kept_from).await?;
                    return Ok((revision, true));
                }
                Err(ClientError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::ChangedMeanwhile(revision.function))
    }

    /// Deletes a function with its revisions.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        let there = WriteOptions {
            condition: "attribute_exists(#name)".to_owned(),
            placeholders: Placeholders::default().name("#name", "name"),
            ..WriteOptions::default()
        };
        match self.database.delete_item(FUNCTIONS, key(name), there).await {
            Ok(_) => {}
            Err(ClientError::Conflict(_)) => return Err(Error::FunctionNotFound(name.to_owned())),
            Err(error) => return Err(error.into()),
        }
        self.view.rcu(|view| {
            let mut view = HashMap::clone(view);
            view.remove(name);
            view
        });
        self.delete_revisions(name, u64::MAX).await
    }

    /// Deletes the revisions before one.
    async fn delete_revisions(&self, name: &str, before: u64) -> Result<(), Error> {
        loop {
            let mut options = ReadOptions { limit: BATCH as u32, ..of_function(name) };
            options.placeholders = options.placeholders.name("#revision", "revision");
            options.placeholders.values.insert(":before".to_owned(), n(before));
            let condition = "#name = :name AND #revision < :before";
            let page = self.database.query(REVISIONS, condition, options).await?;
            let keys: Vec<Item> = page.items.into_iter().map(|item| revision_key(item, name)).collect();
            if keys.is_empty() {
                return Ok(());
            }
            self.database.batch_write(REVISIONS, Vec::new(), keys).await?;
        }
    }

    /// Digests of all packages that some revision runs.
    pub(crate) async fn digests(&self) -> Result<std::collections::HashSet<String>, Error> {
        let mut digests = std::collections::HashSet::new();
        let mut start_key = None;
        loop {
            let options = ReadOptions { start_key, ..ReadOptions::default() };
            let page = self.database.scan(REVISIONS, options).await?;
            for item in &page.items {
                digests.insert(read(item)?.digest);
            }
            start_key = page.last_key;
            if start_key.is_none() {
                return Ok(digests);
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Revision>, Error> {
        let found = self.database.get_item(FUNCTIONS, key(name)).await?;
        found.map(|item| read(&item)).transpose()
    }

    /// The largest number that a revision of the function ever had, as far as it was not deleted.
    async fn last_number(&self, name: &str) -> Result<u64, Error> {
        let options = ReadOptions { limit: 1, descending: true, ..of_function(name) };
        let page = self.database.query(REVISIONS, "#name = :name", options).await?;
        page.items.first().map_or(Ok(0), |item| tables::number(item, "revision"))
    }

    fn put_in_view(&self, revision: &Arc<Revision>) {
        self.view.rcu(|view| {
            let mut view = HashMap::clone(view);
            view.insert(revision.function.clone(), Arc::clone(revision));
            view
        });
    }
}

fn key(name: &str) -> Item {
    Item::from([("name".to_owned(), name.into())])
}

fn revision_key(mut item: Item, name: &str) -> Item {
    let mut key = key(name);
    key.extend(item.remove_entry("revision"));
    key
}

fn of_function(name: &str) -> ReadOptions {
    ReadOptions {
        placeholders: Placeholders::default().name("#name", "name").value(":name", name),
        ..ReadOptions::default()
    }
}

fn write(revision: &Revision) -> Item {
    let state = state::Revision {
        spec: Some(revision.wire.clone()),
        package_digest: revision.digest.clone(),
        package_bytes: revision.bytes,
        created_ms: revision.created_ms,
    };
    Item::from([
        ("name".to_owned(), revision.function.as_str().into()),
        ("revision".to_owned(), n(revision.number)),
        ("state".to_owned(), Value::B(state.encode_to_vec().into())),
    ])
}

fn read(item: &Item) -> Result<Revision, Error> {
    let state = state::Revision::decode(tables::bytes(item, "state")?)
        .map_err(|error| Error::CatalogDamaged(error.to_string()))?;
    let wire = state.spec.unwrap_or_default();
    Ok(Revision {
        function: tables::text(item, "name")?,
        number: tables::number(item, "revision")?,
        spec: Spec::read(&wire)?,
        wire,
        digest: state.package_digest,
        bytes: state.package_bytes,
        created_ms: state.created_ms,
    })
}
