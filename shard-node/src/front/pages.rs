//! Query and scan as streams over gRPC: page after page, ahead of the reader by as many as [`PAGES_AHEAD`] and
//! the one that is being read, to the end or until as many items were read as were asked for.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use trimaran_net::status::status;
use trimaran_proto::api::database as wire;

use crate::error::Error;
use crate::limits::PAGES_AHEAD;

/// A request that is answered in pages.
pub(super) trait Paged: Clone + Send + Sync + 'static {
    /// One page.
    type Page: Send + 'static;

    /// Items that are to be read at most (0 = all), and where to begin.
    fn bounds(&mut self) -> (&mut u32, &mut Option<wire::Item>);

    /// Where the next page begins, and items read for this one.
    fn end(page: &Self::Page) -> (Option<wire::Item>, u32);

    /// Goes on behind a page; false if that was the last one.
    fn go_on(&mut self, page: &Self::Page) -> bool {
        let (next, read) = Self::end(page);
        let (limit, start) = self.bounds();
        let is_enough = *limit > 0 && *limit <= read;
        *limit = limit.saturating_sub(read);
        *start = next;
        start.is_some() && !is_enough
    }
}

impl Paged for wire::QueryRequest {
    type Page = wire::QueryReply;

    fn bounds(&mut self) -> (&mut u32, &mut Option<wire::Item>) {
        (&mut self.limit, &mut self.start_key)
    }

    fn end(page: &wire::QueryReply) -> (Option<wire::Item>, u32) {
        (page.last_key.clone(), page.scanned)
    }
}

impl Paged for wire::ScanRequest {
    type Page = wire::ScanReply;

    fn bounds(&mut self) -> (&mut u32, &mut Option<wire::Item>) {
        (&mut self.limit, &mut self.start_key)
    }

    fn end(page: &wire::ScanReply) -> (Option<wire::Item>, u32) {
        (page.last_key.clone(), page.scanned)
    }
}

/// Begins; ends behind the last page, with an error, when nobody reads any more, or at `stop`, where the reader goes on
/// elsewhere behind the page that it had last.
pub(super) fn begin<Q: Paged, F>(
    mut request: Q,
    stop: CancellationToken,
    ask: impl Fn(Q) -> F + Send + 'static,
) -> mpsc::Receiver<Result<Q::Page, Status>>
where
    F: Future<Output = Result<Q::Page, Error>> + Send,
{
    let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
    tokio::spawn(async move {
        loop {
            let page = tokio::select! {
                page = ask(request.clone()) => page,
                () = sender.closed() => return,
                () = stop.cancelled() => return,
            };
            let is_more = page.as_ref().is_ok_and(|page| request.go_on(page));
            let sent = tokio::select! {
                sent = sender.send(page.map_err(|error| status(&error))) => sent,
                () = stop.cancelled() => return,
            };
            if sent.is_err() || !is_more {
                return;
            }
        }
    });
    receiver
}
