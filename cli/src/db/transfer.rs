//! Items of a table to a file and back: a line each, in the form of DynamoDB's exports, `{"Item": {"id": {"S": "a"}}}`, in
//! which nothing is lost.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use trimaran_client::Error;
use trimaran_client::database::{Database, Item, ReadOptions, Value};

/// Items that are written with one request, as many as DynamoDB takes.
const BATCH_ITEMS: usize = 25;

/// Bytes of lines that are written with one request, about.
const BATCH_BYTES: usize = 4 << 20;

/// Requests under way at once.
const BATCHES_AT_ONCE: usize = 8;

/// How long it waits before it asks a table again that is asked too much, and after how long it gives up.
const THROTTLED_PAUSE: Duration = Duration::from_millis(500);

/// See [`THROTTLED_PAUSE`].
const THROTTLED_MAX: Duration = Duration::from_secs(600);

/// How often it is said how far it is.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Longest line, bytes: an item and what JSON adds to it.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Says on stderr how far it is.
struct Progress {
    what: &'static str,
    items: u64,
    began: Instant,
    said: Instant,
    /// When something was added last.
    added: Instant,
}

impl Progress {
    #[allow(clippy::disallowed_methods, reason = "how long a person has waited")]
    fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self { what, items: 0, began: now, said: now, added: now }
    }

    #[allow(clippy::disallowed_methods, reason = "how long a person has waited")]
    fn add(&mut self, items: u64) {
        self.items += items;
        self.added = Instant::now();
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let rate = self.items as f64 / self.began.elapsed().as_secs_f64();
            eprintln!("{} items {}, {rate:.0} a second", self.items, self.what);
        }
    }
}

impl Progress {
    /// Since something was added.
    fn waited(&self) -> Duration {
        self.added.elapsed()
    }
}

/// Writes every item of a table; `-` is stdout. Returns how many.
///
/// As they were at one moment if that is given. Else not all of one: what is written meanwhile may be there or not.
pub(super) async fn export(
    database: &Database,
    table: &str,
    path: &Path,
    as_of_ms: Option<u64>,
) -> anyhow::Result<u64> {
    let mut out: Box<dyn std::io::Write> = if path == Path::new("-") {
        Box::new(std::io::stdout().lock())
    } else {
        let file = std::fs::File::create_new(path);
        let file =
            file.with_context(|| format!("{} cannot be made; is it there already?", path.display()))?;
        Box::new(std::io::BufWriter::new(file))
    };
    let mut progress = Progress::new("written");
    let mut pages = database.scan_pages(table, ReadOptions { as_of_ms, ..ReadOptions::default() });
    loop {
        let page = match pages.next().await {
            // The table is asked too much; what came last is known.
            Err(Error::Exhausted(_)) if progress.waited() < THROTTLED_MAX => {
                tokio::time::sleep(THROTTLED_PAUSE).await;
                continue;
            }
            next => next?,
        };
        let Some(page) = page else { break };
        let count = page.items.len() as u64;
        for item in page.items {
            serde_json::to_writer(&mut out, &json!({ "Item": typed_item(item) }))?;
            out.write_all(b"\n")?;
        }
        progress.add(count);
    }
    out.flush()?;
    Ok(progress.items)
}

/// Puts every item of a file; `-` is stdin. Returns how many. What was put before an error stays.
pub(super) async fn import(database: &Database, table: &str, path: &Path) -> anyhow::Result<u64> {
    let input: Box<dyn AsyncBufRead + Unpin> = if path == Path::new("-") {
        Box::new(BufReader::new(tokio::io::stdin()))
    } else {
        let file = tokio::fs::File::open(path).await;
        Box::new(BufReader::new(file.with_context(|| path.display().to_string())?))
    };
    let mut lines = input.lines();
    let mut progress = Progress::new("put");
    let mut under_way = tokio::task::JoinSet::new();
    let (mut batch, mut bytes, mut number) = (Vec::new(), 0, 0_u64);
    loop {
        let line = lines.next_line().await?;
        number += 1;
        let is_end = line.is_none();
        if let Some(line) = line.filter(|line| !line.trim().is_empty()) {
            if line.len() > LINE_BYTES_MAX {
                bail!("line {number} has more than LINE_BYTES_MAX = {LINE_BYTES_MAX} bytes");
            }
            bytes += line.len();
            batch.push(parse(&line).with_context(|| format!("line {number}"))?);
        }
        if batch.len() == BATCH_ITEMS || bytes >= BATCH_BYTES || (is_end && !batch.is_empty()) {
            if under_way.len() == BATCHES_AT_ONCE
                && let Some(done) = under_way.join_next().await
            {
                progress.add(done??);
            }
            let (database, table, items) = (database.clone(), table.to_owned(), std::mem::take(&mut batch));
            bytes = 0;
            under_way.spawn(async move {
                let count = items.len() as u64;
                put(&database, &table, items).await.map(|()| count)
            });
        }
        if is_end {
            break;
        }
    }
    while let Some(done) = under_way.join_next().await {
        progress.add(done??);
    }
    Ok(progress.items)
}

/// Puts items, as fast as the table may be asked.
#[allow(clippy::disallowed_methods, reason = "how long a person has waited")]
async fn put(database: &Database, table: &str, items: Vec<Item>) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        match database.batch_write(table, items.clone(), Vec::new()).await {
            Err(Error::Exhausted(_)) if began.elapsed() < THROTTLED_MAX => {
                tokio::time::sleep(THROTTLED_PAUSE).await
            }
            outcome => return outcome,
        }
    }
}

fn parse(line: &str) -> anyhow::Result<Item> {
    let parsed: Map<String, Json> = serde_json::from_str(line).context("it is no JSON object")?;
    match parsed.get("Item") {
        // An item itself may have an attribute of this name, but hardly nothing else.
        Some(Json::Object(item)) if parsed.len() == 1 => read_item(item.clone()),
        _ => read_item(parsed),
    }
}

fn read_item(given: Map<String, Json>) -> anyhow::Result<Item> {
    let read = |(name, json)| {
        let value = read(json).with_context(|| format!("the value of {name}"))?;
        Ok((name, value))
    };
    given.into_iter().map(read).collect()
}

fn texts(json: Json) -> anyhow::Result<Vec<String>> {
    serde_json::from_value(json).context("a set has texts")
}

fn bytes_of(text: &str) -> anyhow::Result<bytes::Bytes> {
    Ok(BASE64.decode(text).context("bytes are to be base64")?.into())
}

fn read(json: Json) -> anyhow::Result<Value> {
    let Json::Object(typed) = json else { bail!("it is to be one type with a value, e.g. {{\"S\": \"a\"}}") };
    let mut typed = typed.into_iter();
    let (Some((kind, json)), None) = (typed.next(), typed.next()) else {
        bail!("it is to be one type with a value, e.g. {{\"S\": \"a\"}}");
    };
    Ok(match (kind.as_str(), json) {
        ("S", Json::String(text)) => Value::S(text),
        ("N", Json::String(text)) => Value::N(text),
        ("B", Json::String(text)) => Value::B(bytes_of(&text)?),
        ("BOOL", Json::Bool(truth)) => Value::Bool(truth),
        ("NULL", Json::Bool(true)) => Value::Null,
        ("L", Json::Array(values)) => Value::L(values.into_iter().map(read).collect::<Result<_, _>>()?),
        ("M", Json::Object(members)) => Value::M(read_item(members)?),
        ("SS", set) => Value::Ss(texts(set)?.into_iter().collect()),
        ("NS", set) => Value::Ns(texts(set)?.into_iter().collect()),
        ("BS", set) => Value::Bs(texts(set)?.iter().map(|text| bytes_of(text)).collect::<Result<_, _>>()?),
        (kind, _) => bail!("{kind:?} is no type of a value, or its value is of another one"),
    })
}

fn typed_item(item: Item) -> Json {
    item.into_iter().map(|(name, value)| (name, typed(value))).collect::<Map<_, _>>().into()
}

fn typed(value: Value) -> Json {
    match value {
        Value::S(text) => json!({ "S": text }),
        Value::N(text) => json!({ "N": text }),
        Value::B(bytes) => json!({ "B": BASE64.encode(bytes) }),
        Value::Bool(truth) => json!({ "BOOL": truth }),
        Value::Null => json!({ "NULL": true }),
        Value::L(values) => json!({ "L": values.into_iter().map(typed).collect::<Vec<_>>() }),
        Value::M(members) => json!({ "M": typed_item(members) }),
        Value::Ss(set) => json!({ "SS": set }),
        Value::Ns(set) => json!({ "NS": set }),
        Value::Bs(set) => json!({ "BS": set.iter().map(|bytes| BASE64.encode(bytes)).collect::<Vec<_>>() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_comes_back_whatever_types_it_has() {
        let line = r#"{"Item":{"Item":{"S":"x"},"b":{"B":"AP8="},"l":{"L":[{"BOOL":true},{"NULL":true},{"M":{"n":{"N":"1.50"}}}]},"s":{"SS":["a","b"]}}}"#;
        let item = parse(line).unwrap();
        assert_eq!(json!({ "Item": typed_item(item.clone()) }).to_string(), line);
        let bare = typed_item(item.clone()).to_string();
        assert_eq!(parse(&bare).unwrap(), item);
        for bad in [
            "7",
            r#"{"a": 1}"#,
            r#"{"a": {"S": 1}}"#,
            r#"{"a": {"X": "1"}}"#,
            r#"{"a": {"S": "1", "N": "1"}}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
