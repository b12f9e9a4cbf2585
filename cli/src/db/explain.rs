//! `trimaran db explain`: where an item is.

use anyhow::Context as _;
use serde::Serialize;
use trimaran_client::database::{Database, Item};

use crate::cluster::{self, explained};
use crate::output::Format;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    place: cluster::Explained,
    /// Absent = there is no such item.
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<There>,
}

#[derive(Serialize)]
struct There {
    bytes: u32,
    written_ms: u128,
}

pub(super) async fn run(
    database: &Database,
    addresses: &[String],
    table: &str,
    key: Item,
    output: Format,
) -> anyhow::Result<()> {
    let found = database.explain(table, key).await?;
    let address = addresses.first().context("no address was given")?;
    let place = cluster::explain(address.clone(), found.token.0).await?;
    let item = found.item.map(|(bytes, written)| There {
        bytes,
        written_ms: written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis(),
    });
    output.show(&Shown { place, item }, |shown| {
        let item = match &shown.item {
            Some(there) => format!("{} bytes, written {} ms after 1970", there.bytes, there.written_ms),
            None => "there is none".to_owned(),
        };
        format!("{}\nitem       {item}", explained(&shown.place))
    })
}
