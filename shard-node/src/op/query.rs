//! Query: the items of one partition key, in the order of their sort keys.

use bytes::Bytes;
use trimaran_proto::internal::shard as wire;
use trimaran_storage::engine::{Order, Range, after_prefix};

use super::OnTable;
use super::page::{Options, Page, Prepared, Source};
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::expression::parse::{self, Placeholders};
use crate::expression::{Condition, KeyCondition, SortCondition, Stated, key_condition};
use crate::item::{Type, Value};
use crate::key::{Layout, check_type, sort_range};
use crate::router::Router;
use crate::table::Table;

/// What is asked.
#[derive(Debug, Default)]
pub struct Request {
    /// Name of the table.
    pub table: String,
    /// Name of the index, if it is not the table itself.
    pub index: Option<String>,
    /// Which items.
    pub key_condition: Stated<Condition>,
    /// Largest sort key first.
    pub descending: bool,
    /// What it has in common with Scan.
    pub options: Options,
    /// For all expressions.
    pub placeholders: Placeholders,
}

/// A request that makes sense, as far as can be said without the names of the key attributes.
#[derive(Debug)]
pub struct Query {
    table: String,
    index: Option<String>,
    key_condition: Condition,
    order: Order,
    options: Prepared,
}

impl Request {
    /// Checks what can be checked without the table.
    pub fn prepare(mut self) -> Result<Query, Invalid> {
        let options = self.options.prepare(&mut self.placeholders)?;
        // What it means depends on the table.
        let placeholders = &mut self.placeholders;
        let key_condition =
            self.key_condition.parse(|text| parse::condition(key_condition::KIND, text, placeholders))?;
        self.placeholders.check_used()?;
        Ok(Query {
            table: self.table,
            index: self.index,
            key_condition,
            order: if self.descending { Order::Descending } else { Order::Ascending },
            options,
        })
    }
}

impl Query {
    fn key_condition(&self, layout: &Layout<'_>) -> Result<KeyCondition, Invalid> {
        let (partition_key, sort_key) = (layout.partition_key, layout.sort_key);
        let sort_name = sort_key.map(|key| key.name.as_str());
        let condition = key_condition::of(self.key_condition.clone(), &partition_key.name, sort_name)?;
        check_type(&partition_key.name, partition_key.kind, &condition.partition)?;
        check_not_empty(&partition_key.name, &condition.partition)?;
        if let (Some(sort), Some(key)) = (&condition.sort, sort_key) {
            let values = match sort {
                SortCondition::Compare(_, value) | SortCondition::BeginsWith(value) => vec![value],
                SortCondition::Between(low, high) => vec![low, high],
            };
            for value in values {
                check_type(&key.name, key.kind, value)?;
            }
            if matches!(sort, SortCondition::BeginsWith(_)) && key.kind == Type::N {
                return Err(Invalid::new(
                    "Invalid KeyConditionExpression: Incorrect operand type for operator or function; operator or \
                     function: begins_with, operand type: N",
                ));
            }
        }
        Ok(condition)
    }
}

fn check_not_empty(name: &str, value: &Value) -> Result<(), Invalid> {
    let kind = match value {
        Value::S(text) if text.is_empty() => "string",
        Value::B(bytes) if bytes.is_empty() => "binary",
        _ => return Ok(()),
    };
    Err(Invalid::new(format!(
        "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty \
         {kind} value. Key: {name}"
    )))
}

/// What remains of a range behind a row.
pub(crate) fn behind(range: Range, order: Order, row: &Bytes) -> Range {
    match order {
        Order::Ascending => Range { start: after_prefix(row).unwrap_or_else(|| row.clone()), end: range.end },
        Order::Descending => Range { start: range.start, end: Some(row.clone()) },
    }
}

impl OnTable for Query {
    type Reply = Page;

    fn table(&self) -> &str {
        &self.table
    }

    fn uses(&self) -> Option<Use<'_>> {
        Some(Use::read(self.index.as_deref()))
    }

    fn consumed(&self, table: &Table, page: &Page) -> Consumed {
        page.consumed(table, self.index.as_deref(), self.options.consistent)
    }

    async fn run(&self, router: &Router, table: &Table) -> Result<Page, Error> {
        let source = Source::of(table, self.index.as_deref(), self.options.consistent)?;
        let layout = &source.layout;
        let condition = self.key_condition(layout)?;
        let options = &self.options;
        let whole = options.whole(&source)?;
        let as_of = options.as_of(&source, router)?;
        options.check_filter(layout)?;
        let (token, prefix) = layout.prefix(&condition.partition);
        let mut range = sort_range(&prefix, condition.sort.as_ref());
        if let Some(start_key) = &options.start_key {
            let start = source.start(start_key).map_err(|_bad| {
                Invalid::new("The provided starting key is invalid: The provided key element does not match the schema")
            })?;
            let within = range.start <= start.row && range.end.as_ref().is_none_or(|end| start.row < *end);
            if start.token != token || !within {
                return Err(Invalid::new(
                    if start_key.get(&layout.partition_key.name) == Some(&condition.partition) {
                        "The provided starting key does not match the range key predicate"
                    } else {
                        "The provided starting key is outside query boundaries based on provided conditions"
                    },
                )
                .into());
            }
            range = behind(range, self.order, &start.row);
        }
        let mut page = Page::default();
        if range.is_empty() {
            return Ok(page);
        }
        let question = options.question(&range, self.order, &page);
        let question = wire::read_request::Body::Page(wire::Page { whole, as_of, ..question });
        let (_, reply) = router.read(token, |_| question.clone()).await?;
        options.add(&mut page, &source, reply)?;
        Ok(page)
    }
}
