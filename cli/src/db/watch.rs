//! `trimaran db watch`: the changes of a table, a line each.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value as Json, json};
use trimaran_client::database::{Change, ChangeKind, Database, Item, StreamView, WatchFrom};

use super::shown_item;
use crate::output::Format;

/// What a stream is to have.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum View {
    /// The item's key
    KeysOnly,
    /// The item as it is
    NewImage,
    /// The item as it was
    OldImage,
    /// Both
    NewAndOldImages,
    /// There is to be no stream
    Off,
}

impl View {
    pub(super) fn view(self) -> Option<StreamView> {
        match self {
            Self::KeysOnly => Some(StreamView::KeysOnly),
            Self::NewImage => Some(StreamView::NewImage),
            Self::OldImage => Some(StreamView::OldImage),
            Self::NewAndOldImages => Some(StreamView::NewAndOldImages),
            Self::Off => None,
        }
    }
}

pub(super) async fn run(
    database: &Database,
    table: &str,
    oldest: bool,
    cursor: Option<String>,
    output: Format,
) -> anyhow::Result<()> {
    let from = match cursor {
        Some(cursor) => WatchFrom::Cursor(BASE64.decode(cursor).context("--cursor is none")?.into()),
        None if oldest => WatchFrom::Oldest,
        None => WatchFrom::Now,
    };
    let mut watch = database.watch_table(table, from).await?;
    while let Some(changes) = watch.next().await? {
        let cursor = BASE64.encode(watch.cursor());
        let count = changes.len();
        for (change, at) in changes.into_iter().zip(1..) {
            // Whoever goes on from a line has everything up to there.
            let cursor = (at == count).then_some(cursor.as_str());
            output.show(&shown(change, cursor), line)?;
        }
    }
    Ok(())
}

fn shown(change: Change, cursor: Option<&str>) -> Json {
    let image = |image: Option<Item>| image.map(|image| Json::Object(shown_item(image)));
    let kind = match change.kind {
        ChangeKind::Insert => "insert",
        ChangeKind::Modify => "modify",
        ChangeKind::Remove => "remove",
    };
    json!({
        "kind": kind,
        "key": shown_item(change.key),
        "old_image": image(change.old_image),
        "new_image": image(change.new_image),
        "sequence_number": change.sequence_number,
        "at_ms": change.at_ms,
        "expired": change.expired,
        "transaction": change.transaction.map(|id| BASE64.encode(id)),
        "partial": change.partial,
        "cursor": cursor,
    })
}

fn line(change: &Json) -> String {
    let mut line = format!("{} {}", change["kind"].as_str().unwrap_or_default(), change["key"]);
    for (image, sign) in [("old_image", "-"), ("new_image", "+")] {
        if !change[image].is_null() {
            line = format!("{line} {sign}{}", change[image]);
        }
    }
    line
}
