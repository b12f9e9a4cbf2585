//! `trimaran db hot`: which keys of a table are asked for the most.

use serde_json::{Value as Json, json};
use trimaran_client::database::{Database, HotKeys, HotReport};

use super::shown_item;
use crate::output::Format;

fn table(part: &HotKeys) -> String {
    let mut lines = Vec::new();
    let name = part.index.as_ref().map_or_else(|| "table".to_owned(), |index| format!("index {index}"));
    let all = part.rates.reads + part.rates.writes;
    lines.push(format!("{name}: about {:.0} reads/s, {:.0} writes/s", part.rates.reads, part.rates.writes));
    for key in &part.keys {
        let share = 100.0 * (key.rates.reads + key.rates.writes) / all.max(f64::MIN_POSITIVE);
        lines.push(format!(
            "{share:>5.1} %  {:>8.0} reads/s  {:>8.0} writes/s  partition {:<5} {}",
            key.rates.reads,
            key.rates.writes,
            key.partition,
            Json::Object(shown_item(key.key.clone()))
        ));
    }
    lines.join("\n")
}

fn text(report: &HotReport) -> String {
    let mut parts: Vec<String> = report.parts.iter().map(table).collect();
    if parts.is_empty() {
        parts.push("nothing was asked lately".to_owned());
    }
    if !report.silent.is_empty() {
        let silent: Vec<String> = report.silent.iter().map(u64::to_string).collect();
        parts.push(format!("nodes that did not answer: {}", silent.join(", ")));
    }
    parts.join("\n")
}

fn json(report: &HotReport) -> Json {
    let parts = report.parts.iter().map(|part| {
        let keys = part.keys.iter().map(|key| {
            json!({
                "key": shown_item(key.key.clone()),
                "reads_per_second": key.rates.reads,
                "writes_per_second": key.rates.writes,
                "partition": key.partition,
            })
        });
        json!({
            "index": part.index,
            "reads_per_second": part.rates.reads,
            "writes_per_second": part.rates.writes,
            "keys": keys.collect::<Vec<_>>(),
        })
    });
    json!({ "parts": parts.collect::<Vec<_>>(), "silent_nodes": report.silent })
}

pub(super) async fn run(database: &Database, name: &str, limit: u32, output: Format) -> anyhow::Result<()> {
    let report = database.hot_keys(name, limit).await?;
    output.show(&json(&report), |_| text(&report))
}
