//! Scan: all items of a table, in the order of their tokens; in parts side by side if asked.

use trimaran_placement::table::Partition;
use trimaran_placement::token::Token;
use trimaran_proto::internal::shard as wire;
use trimaran_storage::engine::Order;

use super::OnTable;
use super::page::{Options, Page, Prepared, Source};
use super::query::behind;
use crate::capacity::{Consumed, Use};
use crate::error::{Error, Invalid};
use crate::expression::parse::Placeholders;
use crate::key::token_range;
use crate::limits::SEGMENTS_MAX;
use crate::router::Router;
use crate::table::Table;

/// What is asked.
#[derive(Debug, Default)]
pub struct Request {
    /// Name of the table.
    pub table: String,
    /// Name of the index, if it is not the table itself.
    pub index: Option<String>,
    /// Which part (from 0) of how many; everything if absent.
    pub segment: Option<(u32, u32)>,
    /// What it has in common with Query.
    pub options: Options,
    /// For all expressions.
    pub placeholders: Placeholders,
}

/// A request that makes sense.
#[derive(Debug)]
pub struct Scan {
    table: String,
    index: Option<String>,
    /// First and last, inclusive.
    tokens: (Token, Token),
    options: Prepared,
}

impl Request {
    /// Checks what can be checked without the table.
    pub fn prepare(mut self) -> Result<Scan, Invalid> {
        let (segment, segments) = self.segment.unwrap_or((0, 1));
        if segments == 0 || segments > SEGMENTS_MAX {
            return Err(Invalid::new(format!(
                "1 validation error detected: Value '{segments}' at 'totalSegments' failed to satisfy constraint: Member \
                 must have value between 1 and {SEGMENTS_MAX}"
            )));
        }
        if segment >= segments {
            return Err(Invalid::new(format!(
                "The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: {segment} is \
                 not less than TotalSegments: {segments}"
            )));
        }
        let options = self.options.prepare(&mut self.placeholders)?;
        self.placeholders.check_used()?;
        // The part begins where its share of all 2^64 tokens does.
        let begin = |part: u32| (u128::from(part) << 64) / u128::from(segments);
        let last = begin(segment + 1) - 1;
        let tokens = (Token(begin(segment) as u64), Token(last as u64));
        Ok(Scan { table: self.table, index: self.index, tokens, options })
    }
}

impl OnTable for Scan {
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
        let options = &self.options;
        let whole = options.whole(&source)?;
        let as_of = options.as_of(&source, router)?;
        let (mut first, last) = self.tokens;
        let mut after = None;
        if let Some(start_key) = &options.start_key {
            let start = source.start(start_key).map_err(|refused| {
                Invalid::new(format!("The provided starting key is invalid: {refused}"))
            })?;
            if start.token < first || start.token > last {
                return Err(Invalid::new("The provided starting key is outside of the segment").into());
            }
            first = start.token;
            after = Some(start.row);
        }
        let mut page = Page::default();
        loop {
            let question = |partition: &Partition| {
                let last = last.min(partition.last);
                let mut range = token_range(source.layout.keyspace, first, last);
                if let Some(row) = &after {
                    range = behind(range, Order::Ascending, row);
                }
                let question = options.question(&range, Order::Ascending, &page);
                wire::read_request::Body::Page(wire::Page {
                    last_token: Some(last.0),
                    whole: whole.clone(),
                    as_of,
                    ..question
                })
            };
            let (partition, reply) = router.read(first, question).await?;
            after = None;
            if options.add(&mut page, &source, reply)? {
                return Ok(page);
            }
            match partition.last.0.checked_add(1) {
                Some(next) if next <= last.0 => first = Token(next),
                _ => return Ok(page),
            }
        }
    }
}
