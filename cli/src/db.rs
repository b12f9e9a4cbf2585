//! `trimaran db`: tables and items of a database, over gRPC.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use clap::Subcommand;
use serde_json::{Map, Number, Value as Json, json};
use trimaran_client::database::{
    Database, Index, Item, KeyType, MaxThroughput, Pages, Placeholders, Projection, ReadOptions,
    ReturnValues, Table, Value, WriteOptions,
};

use crate::output::Format;

mod access_key;
mod explain;
mod history;
mod hot;
mod transfer;
mod verify;
mod watch;

use history::Moment;
use watch::View;

/// Items and keys are plain JSON: texts, numbers, truth, null, lists, maps. Sets are shown as lists, bytes in base64.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// gRPC address of a shard node; several separated by commas
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:7003",
        env = "TRIMARAN_DATABASE_ADDRESS"
    )]
    address: Vec<String>,
    /// Ask no other addresses than those, where the ones that nodes have for each other lead nowhere from here (mapped ports)
    #[arg(long, global = true)]
    only_address: bool,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Expressions {
    /// What must hold, e.g. 'attribute_not_exists(id)'
    #[arg(long, default_value = "")]
    condition: String,
    /// What `:names` stand for, as JSON, e.g. '{":one": 1}'
    #[arg(long, default_value = "{}")]
    values: String,
    /// What `#names` stand for, as JSON, e.g. '{"#count": "count"}'
    #[arg(long, default_value = "{}")]
    names: String,
}

impl Expressions {
    fn placeholders(&self) -> anyhow::Result<Placeholders> {
        let names = serde_json::from_str(&self.names).context("--names is no JSON object of texts")?;
        Ok(Placeholders { names, values: item(&self.values).context("--values")? })
    }

    fn write(&self, return_values: ReturnValues) -> anyhow::Result<WriteOptions> {
        let placeholders = self.placeholders()?;
        Ok(WriteOptions { condition: self.condition.clone(), placeholders, return_values })
    }
}

#[derive(Subcommand)]
enum Command {
    /// Make a table
    CreateTable {
        /// Its name
        table: String,
        /// Attribute that items are spread by, with its type: S, N or B
        #[arg(long, value_name = "NAME:TYPE")]
        partition_key: String,
        /// Attribute that items of one partition key are sorted by
        #[arg(long, value_name = "NAME:TYPE")]
        sort_key: Option<String>,
    },
    /// Print the names of all tables
    ListTables,
    /// Print what a table is and how much is in it
    DescribeTable {
        /// Its name
        table: String,
    },
    /// Add a global secondary index to a table, and wait until it has all items
    CreateIndex {
        /// Name of the table
        table: String,
        /// Name of the index
        index: String,
        /// Attribute that its entries are spread by, with its type: S, N or B
        #[arg(long, value_name = "NAME:TYPE")]
        partition_key: String,
        /// Attribute that entries of one partition key are sorted by
        #[arg(long, value_name = "NAME:TYPE")]
        sort_key: Option<String>,
        /// Have only keys in it, and these attributes (separated by commas; none = only keys); without it everything
        #[arg(long, value_delimiter = ',', num_args = 0..)]
        only: Option<Vec<String>>,
    },
    /// Remove a global secondary index
    DeleteIndex {
        /// Name of the table
        table: String,
        /// Name of the index
        index: String,
    },
    /// Keys of the DynamoDB API, for nodes with --dynamodb-signatures required
    #[command(subcommand)]
    AccessKey(access_key::Command),
    /// Compare all copies of every partition, while everybody goes on; exit code 1 if one differs or does not answer
    Verify,
    /// Print where an item is, whether it is there or not: token, partition, its epoch, leader and copies
    Explain {
        /// Name of the table
        table: String,
        /// The key, e.g. '{"id": "a"}'
        key: String,
    },
    /// Print which keys of a table are asked for the most: about, of the last minutes
    Hot {
        /// Name of the table
        table: String,
        /// Keys of the table, and of each index, at most
        #[arg(long, default_value_t = 10)]
        limit: u32,
    },
    /// Say how much a table, or a global index of it, may be asked, in capacity units per second over all nodes: a unit is a write of
    /// up to a kibibyte, or a read of up to four. What is not said may be anything
    Limit {
        /// Name of the table
        table: String,
        /// The index, instead of the table itself
        #[arg(long)]
        index: Option<String>,
        /// Reads
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        read_units: Option<u64>,
        /// Writes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        write_units: Option<u64>,
    },
    /// Write entries of a table's global indexes in one transaction with their items, so that queries of indexes miss nothing; or no more
    StrongIndexes {
        /// Name of the table
        table: String,
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        strong: String,
    },
    /// Keep what a table's items were, so that they can be read as they were (--as-of)
    History {
        /// Name of the table
        table: String,
        /// For how long, e.g. 1h, a week at most; off = no more
        kept: String,
    },
    /// Begin a stream of a table's changes, or end it
    Stream {
        /// Name of the table
        table: String,
        /// What it has of an item that changes, beside its key; off ends the stream that goes on
        #[arg(value_enum)]
        view: View,
    },
    /// Print the changes of a table that has a stream, as they come; those of a transaction together
    Watch {
        /// Name of the table
        table: String,
        /// Begin with the oldest change that is there, at most a day old
        #[arg(long, conflicts_with = "cursor")]
        oldest: bool,
        /// Go on where another one was: "cursor" of its last line with -o json
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Write every item of a table to a file, a line each
    Export {
        /// Name of the table
        table: String,
        /// The file, which must not be there; - is standard output
        file: std::path::PathBuf,
        #[command(flatten)]
        moment: Moment,
    },
    /// Put every item of a file that was exported, here or from DynamoDB
    Import {
        /// Name of the table
        table: String,
        /// The file; - is standard input
        file: std::path::PathBuf,
    },
    /// Delete a table with everything in it
    DeleteTable {
        /// Its name
        table: String,
    },
    /// Replace an item or make it
    Put {
        /// Name of the table
        table: String,
        /// The item, e.g. '{"id": "a", "n": 1}'
        item: String,
        #[command(flatten)]
        expressions: Expressions,
    },
    /// Print an item; exit code 1 if there is none
    Get {
        /// Name of the table
        table: String,
        /// The key, e.g. '{"id": "a"}'
        key: String,
        #[command(flatten)]
        moment: Moment,
    },
    /// Change attributes of an item and print it as it is then
    Update {
        /// Name of the table
        table: String,
        /// The key
        key: String,
        /// What to change, e.g. 'ADD clicks :one'
        update: String,
        #[command(flatten)]
        expressions: Expressions,
    },
    /// Remove an item; exit code 1 if there was none
    Delete {
        /// Name of the table
        table: String,
        /// The key
        key: String,
        #[command(flatten)]
        expressions: Expressions,
    },
    /// Print the items of a partition key
    Query {
        /// Name of the table
        table: String,
        /// Which, e.g. 'id = :id AND seq > :from'
        key_condition: String,
        /// Largest sort key first
        #[arg(long)]
        descending: bool,
        /// The index to read, instead of the table itself
        #[arg(long, default_value = "")]
        index: String,
        #[command(flatten)]
        moment: Moment,
        #[command(flatten)]
        expressions: Expressions,
    },
    /// Print all items
    Scan {
        /// Name of the table
        table: String,
        /// The index to read, instead of the table itself
        #[arg(long, default_value = "")]
        index: String,
        #[command(flatten)]
        moment: Moment,
        #[command(flatten)]
        expressions: Expressions,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let connected = match args.only_address {
        true => Database::connect_through(args.address.clone()).await,
        false => Database::connect(args.address.clone()).await,
    };
    let database = connected.with_context(|| {
        let addresses = args.address.join(", ");
        format!("no database at {addresses}; start one with `trimaran dev`, or give --address")
    })?;
    let output = args.output;
    match args.command {
        Command::CreateTable { table, partition_key, sort_key } => {
            let partition_key = key_attribute(&partition_key)?;
            let sort_key = sort_key.as_deref().map(key_attribute).transpose()?;
            database.create_table(Table { name: table.clone(), partition_key, sort_key }).await?;
            output.show(&json!({ "created": table }), |_| format!("table {table} is ready"))?;
        }
        Command::ListTables => {
            output.show(&database.list_tables().await?, |names| names.join("\n"))?;
        }
        Command::DescribeTable { table } => {
            let found = database.describe_table(&table).await?;
            let key = |(name, kind): &(String, KeyType)| format!("{name}:{kind:?}");
            let max =
                |max: MaxThroughput| json!({ "read_units": max.read_units, "write_units": max.write_units });
            let of_index = |name: &str| found.index_throughput.get(name).copied().unwrap_or_default();
            let shown = json!({
                "name": found.table.name,
                "partition_key": key(&found.table.partition_key),
                "sort_key": found.table.sort_key.as_ref().map(key),
                "status": if found.active { "active" } else { "not ready, or being deleted" },
                "indexes": found.indexes.iter().map(|(index, active)| json!({
                    "name": index.name,
                    "local": index.local,
                    "partition_key": key(&index.partition_key),
                    "sort_key": index.sort_key.as_ref().map(key),
                    "status": if *active { "active" } else { "not ready, or being deleted" },
                    "max_per_second": max(of_index(&index.name)),
                })).collect::<Vec<_>>(),
                "stream": found.stream.map(|view| format!("{view:?}")),
                "strong_indexes": found.strong_indexes,
                "history": found.history.map(|history| history::shown(&history)),
                "max_per_second": max(found.max_throughput),
                "items": found.item_count,
                "bytes": found.size_bytes,
            });
            output.show(&shown, |shown| format!("{shown:#}"))?;
        }
        Command::CreateIndex { table, index, partition_key, sort_key, only } => {
            let index = Index {
                name: index,
                local: false,
                partition_key: key_attribute(&partition_key)?,
                sort_key: sort_key.as_deref().map(key_attribute).transpose()?,
                projection: match only {
                    None => Projection::All,
                    Some(names) if names.is_empty() => Projection::KeysOnly,
                    Some(names) => Projection::Include(names),
                },
            };
            let name = index.name.clone();
            eprintln!("index {name} is being filled; the table takes requests meanwhile");
            database.create_index(&table, index).await?;
            output.show(&json!({ "created": name }), |_| format!("index {name} is ready"))?;
        }
        Command::DeleteIndex { table, index } => {
            database.delete_index(&table, &index).await?;
            output.show(&json!({ "deleting": index }), |_| format!("index {index} is being deleted"))?;
        }
        Command::Verify => return verify::run(&database, output).await,
        Command::Explain { table, key } => {
            explain::run(&database, &args.address, &table, item(&key)?, output).await?
        }
        Command::Hot { table, limit } => hot::run(&database, &table, limit, output).await?,
        Command::AccessKey(command) => access_key::run(&database, command, output).await?,
        Command::Limit { table, index, read_units, write_units } => {
            let max = MaxThroughput { read_units, write_units };
            database.limit_throughput(&table, index.as_deref(), max).await?;
            let limited = json!({ "table": table, "index": index, "read_units": read_units, "write_units": write_units });
            let units =
                |units: Option<u64>| units.map_or_else(|| "any".to_owned(), |units| units.to_string());
            output.show(&limited, |_| {
                let what =
                    index.as_ref().map_or_else(|| table.clone(), |index| format!("index {index} of {table}"));
                format!(
                    "{what} may be asked {} units of reads and {} of writes per second",
                    units(read_units),
                    units(write_units)
                )
            })?;
        }
        Command::Stream { table, view } => {
            match view.view() {
                Some(view) => database.enable_stream(&table, view).await?,
                None => database.disable_stream(&table).await?,
            }
            let is_on = view.view().is_some();
            output.show(&json!({ "table": table, "stream": is_on }), |_| {
                format!("the stream of {table} {}", if is_on { "has begun" } else { "has ended" })
            })?;
        }
        Command::Watch { table, oldest, cursor } => {
            watch::run(&database, &table, oldest, cursor, output).await?
        }
        Command::Export { table, file, moment } => {
            let items = transfer::export(&database, &table, &file, moment.as_of_ms()?).await?;
            // What was asked for may be on standard output.
            eprintln!("{items} items of {table} are written");
        }
        Command::Import { table, file } => {
            let items = transfer::import(&database, &table, &file).await?;
            output.show(&json!({ "items": items }), |_| format!("{items} items are put into {table}"))?;
        }
        Command::DeleteTable { table } => {
            database.delete_table(&table).await?;
            output.show(&json!({ "deleting": table }), |_| format!("table {table} is being deleted"))?;
        }
        Command::Put { table, item: given, expressions } => {
            let options = expressions.write(ReturnValues::None)?;
            database.put_item_with(&table, item(&given)?, options).await?;
            output.show(&json!({ "put": true }), |_| String::new())?;
        }
        Command::Get { table, key, moment } => {
            let found = match moment.as_of_ms()? {
                None => database.get_item(&table, item(&key)?).await?,
                Some(as_of_ms) => database.as_of(as_of_ms).get_item(&table, item(&key)?).await?,
            };
            match found {
                Some(found) => show_item(output, found)?,
                None => return Ok(ExitCode::FAILURE),
            }
        }
        Command::StrongIndexes { table, strong } => {
            database.set_strong_indexes(&table, strong == "on").await?;
            output.show(&json!({ "table": table, "strong_indexes": strong == "on" }), |_| {
                let are = if strong == "on" { "are written with its items" } else { "follow its items" };
                format!("indexes of {table} {are}")
            })?;
        }
        Command::History { table, kept } => history::run(&database, &table, &kept, output).await?,
        Command::Update { table, key, update, expressions } => {
            let options = expressions.write(ReturnValues::AllNew)?;
            let updated = database.update_item(&table, item(&key)?, &update, options).await?;
            show_item(output, updated.unwrap_or_default())?;
        }
        Command::Delete { table, key, expressions } => {
            let options = expressions.write(ReturnValues::AllOld)?;
            let Some(old) = database.delete_item(&table, item(&key)?, options).await? else {
                return Ok(ExitCode::FAILURE);
            };
            show_item(output, old)?;
        }
        Command::Query { table, key_condition, descending, index, moment, expressions } => {
            let options = ReadOptions {
                filter: expressions.condition.clone(),
                placeholders: expressions.placeholders()?,
                descending,
                index,
                as_of_ms: moment.as_of_ms()?,
                ..ReadOptions::default()
            };
            show_pages(output, database.query_pages(&table, &key_condition, options)).await?;
        }
        Command::Scan { table, index, moment, expressions } => {
            let options = ReadOptions {
                filter: expressions.condition.clone(),
                placeholders: expressions.placeholders()?,
                index,
                as_of_ms: moment.as_of_ms()?,
                ..ReadOptions::default()
            };
            show_pages(output, database.scan_pages(&table, options)).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_item(output: Format, found: Item) -> anyhow::Result<()> {
    output.show(&Json::Object(shown_item(found)), Json::to_string)
}

/// Prints the items, one a line, as they come.
async fn show_pages(output: Format, mut pages: Pages) -> anyhow::Result<()> {
    while let Some(page) = pages.next().await? {
        for found in page.items {
            show_item(output, found)?;
        }
    }
    Ok(())
}

fn key_attribute(text: &str) -> anyhow::Result<(String, KeyType)> {
    let (name, kind) =
        text.rsplit_once(':').with_context(|| format!("{text}: write it as NAME:TYPE, e.g. id:S"))?;
    let kind = match kind {
        "S" => KeyType::S,
        "N" => KeyType::N,
        "B" => KeyType::B,
        other => bail!("{other:?} is no type of a key; there are S (text), N (number) and B (bytes)"),
    };
    Ok((name.to_owned(), kind))
}

fn item(text: &str) -> anyhow::Result<Item> {
    let parsed: Map<String, Json> =
        serde_json::from_str(text).with_context(|| format!("{text} is no JSON object"))?;
    Ok(parsed.into_iter().map(|(name, json)| (name, value(json))).collect())
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(number) => Value::N(number.to_string()),
        Json::String(text) => Value::S(text),
        Json::Array(values) => Value::L(values.into_iter().map(value).collect()),
        Json::Object(members) => {
            Value::M(members.into_iter().map(|(name, json)| (name, value(json))).collect())
        }
    }
}

fn shown_item(found: Item) -> Map<String, Json> {
    found.into_iter().map(|(name, value)| (name, shown(value))).collect()
}

fn shown(value: Value) -> Json {
    let base64 = |bytes: &[u8]| Json::String(base64::engine::general_purpose::STANDARD.encode(bytes));
    // All digits are kept: numbers are texts to this JSON library too (its feature arbitrary_precision).
    let number = |text: String| text.parse::<Number>().map_or(Json::String(text), Json::Number);
    match value {
        Value::S(text) => Json::String(text),
        Value::N(text) => number(text),
        Value::B(bytes) => base64(&bytes),
        Value::Bool(truth) => Json::Bool(truth),
        Value::Null => Json::Null,
        Value::L(values) => values.into_iter().map(shown).collect(),
        Value::M(members) => Json::Object(shown_item(members)),
        Value::Ss(set) => set.into_iter().collect(),
        Value::Ns(set) => set.into_iter().map(number).collect(),
        Value::Bs(set) => set.iter().map(|bytes| base64(bytes)).collect(),
    }
}
