//! All items of a query or a scan, page after page.

use tokio::time::{Duration, Instant, sleep};
use tonic::{Code, Status, Streaming};
use tracing::debug;
use trimaran_net::retry::Backoff;
use trimaran_proto::api::database as wire;

use super::{Database, Page, ReadOptions, page, put_item, query_request, scan_request};
use crate::error::Error;

/// How long one page may take, and how long it is tried elsewhere.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is read.
#[derive(Clone, Debug)]
enum Wanted {
    Query(Box<wire::QueryRequest>),
    Scan(Box<wire::ScanRequest>),
}

/// What comes.
#[derive(Debug)]
enum Stream {
    Query(Streaming<wire::QueryReply>),
    Scan(Streaming<wire::ScanReply>),
}

impl Stream {
    async fn next(&mut self) -> Result<Option<Result<Page, Error>>, Status> {
        Ok(match self {
            Self::Query(stream) => {
                stream.message().await?.map(|reply| page(reply.items, reply.scanned, reply.last_key))
            }
            Self::Scan(stream) => {
                stream.message().await?.map(|reply| page(reply.items, reply.scanned, reply.last_key))
            }
        })
    }
}

/// All pages of a query or a scan, sent ahead by the node that reads them. When that ends, it goes on at another one, behind
/// the page that came last.
#[derive(Debug)]
pub struct Pages {
    database: Database,
    wanted: Wanted,
    stream: Option<Stream>,
    /// A node knew no such streams: pages are asked for one by one.
    one_by_one: bool,
    is_complete: bool,
}

impl Database {
    /// All items for whose key a key condition holds, page after page; [`ReadOptions::limit`] is for all of them together.
    pub fn query_pages(&self, table: &str, key_condition: &str, options: ReadOptions) -> Pages {
        self.pages(Wanted::Query(Box::new(query_request(table, key_condition, options))))
    }

    /// All items of a table, or of a segment, page after page; [`ReadOptions::limit`] is for all of them together. Not of one
    /// moment: what is written meanwhile may be among them or not.
    pub fn scan_pages(&self, table: &str, options: ReadOptions) -> Pages {
        self.pages(Wanted::Scan(Box::new(scan_request(table, options))))
    }

    fn pages(&self, wanted: Wanted) -> Pages {
        Pages { database: self.clone(), wanted, stream: None, one_by_one: false, is_complete: false }
    }
}

impl Pages {
    /// The next page, which may have no items; `None` at the end.
    ///
    /// Errors: those of [`Database::query`] and [`Database::scan`]; [`Error::Unavailable`] if no node had the next page in
    /// time. It can be asked again.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        if self.is_complete {
            return Ok(None);
        }
        let deadline = Instant::now() + PAGE_TIMEOUT;
        let mut backoff = Backoff::default();
        loop {
            if self.one_by_one {
                let page = self.one().await?;
                self.go_on(&page);
                return Ok(Some(page));
            }
            let error = match tokio::time::timeout_at(deadline, self.sent_ahead()).await {
                Ok(Ok(Some(page))) => {
                    let page = page?;
                    self.go_on(&page);
                    return Ok(Some(page));
                }
                Ok(Ok(None)) => Error::Unavailable("the node ended the pages".to_owned()),
                Ok(Err(Failed::Here(error))) => error,
                Ok(Err(Failed::There(status))) if status.code() == Code::Unimplemented => {
                    self.one_by_one = true;
                    continue;
                }
                Ok(Err(Failed::There(status))) => Error::from_status(&status),
                Err(_elapsed) => Error::Unavailable("the next page did not come".to_owned()),
            };
            self.stream = None;
            let wait = backoff.next(&mut *self.database.routes.random.lock());
            if !error.is_passing() || Instant::now() + wait >= deadline {
                return Err(error);
            }
            debug!(%error, "pages go on elsewhere");
            sleep(wait).await;
        }
    }

    async fn sent_ahead(&mut self) -> Result<Option<Result<Page, Error>>, Failed> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opened = self.open().await?;
                self.stream.insert(opened)
            }
        };
        stream.next().await.map_err(|status| Failed::There(Box::new(status)))
    }

    async fn open(&self) -> Result<Stream, Failed> {
        let routes = &self.database.routes;
        let nobody = || Error::Unavailable("no node of the cluster is known".to_owned());
        let address = routes.any_address().ok_or_else(nobody)?;
        let mut client = self.database.client(&address)?;
        let opened = match &self.wanted {
            Wanted::Query(query) => {
                client.query_stream((**query).clone()).await.map(|stream| Stream::Query(stream.into_inner()))
            }
            Wanted::Scan(scan) => {
                client.scan_stream((**scan).clone()).await.map(|stream| Stream::Scan(stream.into_inner()))
            }
        };
        opened.map_err(|status| {
            if Error::from_status(&status).is_passing() {
                routes.shun(&address);
            }
            Failed::There(Box::new(status))
        })
    }

    /// One page, from a node of a release that knows no streams of them.
    async fn one(&self) -> Result<Page, Error> {
        match &self.wanted {
            Wanted::Query(query) => self.database.query_page((**query).clone()).await,
            Wanted::Scan(scan) => self.database.scan_page((**scan).clone()).await,
        }
    }

    /// As the node does.
    fn go_on(&mut self, page: &Page) {
        let (limit, start_key) = match &mut self.wanted {
            Wanted::Query(query) => (&mut query.limit, &mut query.start_key),
            Wanted::Scan(scan) => (&mut scan.limit, &mut scan.start_key),
        };
        let is_enough = *limit > 0 && *limit <= page.scanned;
        *limit = limit.saturating_sub(page.scanned);
        *start_key = page.last_key.clone().map(put_item);
        self.is_complete = start_key.is_none() || is_enough;
    }
}

/// Why there is no page yet.
enum Failed {
    Here(Error),
    There(Box<Status>),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}
