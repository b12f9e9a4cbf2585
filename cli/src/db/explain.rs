//! `trimaran db explain`: where an item is.

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
    written_ms: u64,
}

pub(super) async fn run(
    database: &Database,
    addresses: &[String],
    table: &str,
    key: Item,
    output: Format,
) -> anyhow::Result<()> {
    let found = database.explain(table, key).await?;
    let place = cluster::explain(addresses, found.token.0).await?;
    let item = found.item.map(|(bytes, written)| There {
        bytes,
        written_ms: written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
    });
    output.show(&Shown { place, item }, |shown| {
        let item = match &shown.item {
            Some(there) => format!("{} bytes, written {}", there.bytes, cluster::time(there.written_ms)),
            None => "there is none".to_owned(),
        };
        format!("{}\nitem       {item}", explained(&shown.place))
    })
}
