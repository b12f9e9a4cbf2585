//! The gRPC front: the native API, unary calls for anybody and a pipeline for clients in a hurry.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use trimaran_net::status::{Classified as _, status};
use trimaran_placement::token::Token;
use trimaran_proto::api::grid::grid_server::{Grid, GridServer};
use trimaran_proto::api::grid::{
    Answer, Call, CompareAndSwapReply, CompareAndSwapRequest, DeleteReply, DeleteRequest, ExpireReply,
    ExpireRequest, Failure, Fence, ForwardReply, GetReply, GetRequest, Heard, IncrementReply,
    IncrementRequest, Interest, Message, PipelineReply, PipelineRequest, PublishReply, PublishRequest,
    QueueRequest, QueueTurn, ScanReply, ScanRequest, SetReply, SetRequest, SubscribeRequest, WatchEvents,
    WatchRequest, answer, call,
};
use trimaran_proto::state::grid as state;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::expiry::When;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Expiry, Reply, ScanQuery};
use trimaran_replication::session::RequestId;

use crate::command::table::SEMAPHORE_FORMAT;
use crate::error::Error;
use crate::front::{check_key, check_value, watch};
use crate::limits::{MESSAGE_BYTES_MAX, SCAN_COUNT_DEFAULT, SCAN_COUNT_MAX, SUBSCRIPTIONS_MAX};
use crate::machine::needs_memory;
use crate::metrics;
use crate::namespaces::Namespaces;
use crate::pubsub::{self, Hub, Kind, Subscriber, link};
use crate::queue;
use crate::router::{Router, Write, token_of};

/// Metadata key of a request id: 32 hexadecimal digits.
const REQUEST_ID: &str = "trimaran-request-id";

/// The key holds a list, a hash, …
const WRONG_TYPE: Error = Error::Operand("the key holds a value of another type than a string");

/// Calls of one pipeline that are worked on at once; more wait in the connection.
const PIPELINE_MESSAGES_MAX: usize = 64;

/// The service over a router. Streams end when `stop` is cancelled, so that the server can.
pub fn service(
    router: Router,
    hub: Hub,
    namespaces: Namespaces,
    stop: CancellationToken,
) -> GridServer<impl Grid> {
    GridServer::new(Service { router, hub, namespaces, stop })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[derive(Clone)]
struct Service {
    router: Router,
    hub: Hub,
    namespaces: Namespaces,
    stop: CancellationToken,
}

impl Service {
    async fn write(
        &self,
        key: &[u8],
        body: Body,
        fence: Option<Fence>,
        id: Option<RequestId>,
    ) -> Result<Reply, Error> {
        let fence = fence.map(|fence| self.fence(key, fence)).transpose()?;
        self.namespaces.admit([key], needs_memory(&body), self.router.clock_ms())?;
        self.router.write_one(Write::fenced(key, body, fence), id).await
    }

    /// What a write depends on, as it goes into the log.
    fn fence(&self, key: &[u8], fence: Fence) -> Result<state::Fence, Error> {
        if fence.token == 0 {
            return Err(Error::Invalid { field: "fence.token", reason: "it must be that of a holding" });
        }
        if token_of(&fence.name) != token_of(key) {
            // In one partition by chance would be in two some day.
            return Err(Error::CrossSlot);
        }
        if self.router.format() < SEMAPHORE_FORMAT {
            return Err(Error::NotKnownYet);
        }
        Ok(state::Fence { name: fence.name, token: fence.token })
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply, Error> {
        check_key(&request.key)?;
        self.namespaces.admit([&request.key[..]], false, self.router.clock_ms())?;
        let token = token_of(&request.key);
        let reply = self.router.read_one(token, QueryBody::Get(request.key)).await?;
        if reply.wrong_type {
            return Err(WRONG_TYPE);
        }
        Ok(GetReply {
            value: reply.found.then_some(reply.value),
            version: reply.version,
            ttl_ms: (reply.expires_at_ms != 0).then(|| reply.expires_at_ms.saturating_sub(reply.now_ms)),
        })
    }

    async fn set(&self, request: SetRequest, id: Option<RequestId>) -> Result<SetReply, Error> {
        check_key(&request.key)?;
        check_value(&request.value)?;
        if request.if_absent && request.if_present {
            return Err(Error::Invalid { field: "if_absent", reason: "it contradicts if_present" });
        }
        if request.keep_ttl && request.ttl_ms.is_some() {
            return Err(Error::Invalid { field: "keep_ttl", reason: "it contradicts ttl_ms" });
        }
        let condition = match (request.if_absent, request.if_present) {
            (true, _) => state::set::Condition::IfAbsent,
            (_, true) => state::set::Condition::IfPresent,
            _ => state::set::Condition::Always,
        };
        let expiry = if request.keep_ttl {
            Some(Expiry { when: Some(When::Keep(true)) })
        } else {
            time_to_live(request.ttl_ms)?
        };
        let key = request.key.clone();
        let set = state::Set {
            key: request.key,
            value: request.value,
            expiry,
            condition: condition.into(),
            if_version: request.if_version,
            want_previous: false,
        };
        let reply = self.write(&key, Body::Set(set), request.fence, id).await?;
        Ok(SetReply { applied: reply.outcome() == Outcome::Applied, version: reply.version })
    }

    async fn delete(&self, request: DeleteRequest, id: Option<RequestId>) -> Result<DeleteReply, Error> {
        check_key(&request.key)?;
        let key = request.key.clone();
        let delete =
            state::Delete { keys: vec![request.key], if_version: request.if_version, want_previous: false };
        let reply = self.write(&key, Body::Delete(delete), request.fence, id).await?;
        Ok(DeleteReply { deleted: reply.integer > 0 })
    }

    async fn increment(
        &self,
        request: IncrementRequest,
        id: Option<RequestId>,
    ) -> Result<IncrementReply, Error> {
        check_key(&request.key)?;
        let key = request.key.clone();
        let expiry = time_to_live(request.ttl_ms)?;
        let increment = state::Increment { key: request.key, by: request.by, expiry };
        let reply = self.write(&key, Body::Increment(increment), request.fence, id).await?;
        match reply.outcome() {
            Outcome::NotAnInteger => Err(Error::Operand("the value is not a 64-bit integer")),
            Outcome::Overflow => Err(Error::Operand("the result would not fit 64 bits")),
            Outcome::WrongType => Err(WRONG_TYPE),
            _ => Ok(IncrementReply { value: reply.integer, version: reply.version }),
        }
    }

    async fn compare_and_swap(
        &self,
        request: CompareAndSwapRequest,
        id: Option<RequestId>,
    ) -> Result<CompareAndSwapReply, Error> {
        check_key(&request.key)?;
        check_value(request.value.as_deref().unwrap_or_default())?;
        let key = request.key.clone();
        let swap =
            state::CompareAndSwap { key: request.key, expected: request.expected, value: request.value };
        let reply = self.write(&key, Body::CompareAndSwap(swap), request.fence, id).await?;
        if reply.outcome() == Outcome::WrongType {
            return Err(WRONG_TYPE);
        }
        Ok(CompareAndSwapReply {
            swapped: reply.outcome() == Outcome::Applied,
            previous: reply.value,
            version: reply.version,
        })
    }

    async fn expire(&self, request: ExpireRequest, id: Option<RequestId>) -> Result<ExpireReply, Error> {
        check_key(&request.key)?;
        let key = request.key.clone();
        let expiry = time_to_live(request.ttl_ms)?.or(Some(Expiry { when: Some(When::Never(true)) }));
        let expire = state::Expire { key: request.key, expiry, ..state::Expire::default() };
        let reply = self.write(&key, Body::Expire(expire), request.fence, id).await?;
        Ok(ExpireReply { applied: reply.integer > 0 })
    }

    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, Error> {
        let count = match request.count {
            0 => SCAN_COUNT_DEFAULT,
            count if count <= SCAN_COUNT_MAX => count,
            count => {
                return Err(Error::Limit {
                    field: "count",
                    limit: "SCAN_COUNT_MAX",
                    actual: count.into(),
                    max: SCAN_COUNT_MAX.into(),
                });
            }
        };
        let (mut keys, cursor) = scan_page(&self.router, Token(request.cursor), count, "").await?;
        keys.retain(|key| key.starts_with(&request.prefix));
        Ok(ScanReply { cursor: cursor.0, keys })
    }

    async fn answer(&self, call: Call) -> Answer {
        let call_id = call.id;
        let id = <[u8; 16]>::try_from(&call.request_id[..])
            .ok()
            .map(|bytes| RequestId::from_random(u128::from_be_bytes(bytes)));
        let outcome = match call.body {
            Some(call::Body::Get(request)) => self.get(request).await.map(answer::Body::Get),
            Some(call::Body::Set(request)) => self.set(request, id).await.map(answer::Body::Set),
            Some(call::Body::Delete(request)) => self.delete(request, id).await.map(answer::Body::Delete),
            Some(call::Body::Increment(request)) => {
                self.increment(request, id).await.map(answer::Body::Increment)
            }
            Some(call::Body::CompareAndSwap(request)) => {
                self.compare_and_swap(request, id).await.map(answer::Body::CompareAndSwap)
            }
            Some(call::Body::Expire(request)) => self.expire(request, id).await.map(answer::Body::Expire),
            Some(call::Body::Forward(forward)) => {
                let replies = self.router.forwarded_write(forward).await;
                replies.map(|replies| answer::Body::Forward(ForwardReply { replies }))
            }
            Some(call::Body::ForwardRead(forward)) => {
                let replies = self.router.forwarded_read(forward).await;
                replies.map(|replies| answer::Body::Forward(ForwardReply { replies }))
            }
            None => Err(Error::Invalid { field: "body", reason: "it is missing or of a newer release" }),
        };
        let body = outcome.unwrap_or_else(|error| {
            metrics::refused("grpc").increment(1);
            answer::Body::Failure(Failure {
                grpc_code: error.class().grpc() as u32,
                message: error.to_string(),
                detail: error.detail().encode_to_vec().into(),
            })
        });
        Answer { id: call_id, body: Some(body) }
    }
}

/// One page of a scan over all partitions: a cursor is the token to go on from, 0 = the end.
pub(crate) async fn scan_page(
    router: &Router,
    cursor: Token,
    count: u32,
    kind: &str,
) -> Result<(Vec<Bytes>, Token), Error> {
    let partition = router.partition_at(cursor)?;
    let scan = QueryBody::Scan(ScanQuery { cursor: cursor.0, count, kind: kind.to_owned() });
    let reply = router.read_one(cursor, scan).await?;
    // It may have been split since, and be shorter than it was.
    let last = reply.last_token.unwrap_or(partition.last.0);
    let next = if reply.cursor == 0 { last.wrapping_add(1) } else { reply.cursor };
    Ok((reply.keys, Token(next)))
}

fn time_to_live(ttl_ms: Option<u64>) -> Result<Option<Expiry>, Error> {
    match ttl_ms {
        None => Ok(None),
        Some(0) => Err(Error::Invalid { field: "ttl_ms", reason: "it must be at least 1" }),
        Some(ms) => Ok(Some(Expiry { when: Some(When::InMs(ms)) })),
    }
}

pub(super) fn request_id<T>(request: &Request<T>) -> Result<Option<RequestId>, Status> {
    let Some(id) = request.metadata().get(REQUEST_ID) else { return Ok(None) };
    let parsed = id.to_str().ok().filter(|text| text.len() == 32);
    match parsed.and_then(|text| u128::from_str_radix(text, 16).ok()) {
        Some(bits) => Ok(Some(RequestId::from_random(bits))),
        None => {
            Err(status(&Error::Invalid { field: REQUEST_ID, reason: "it must be 32 hexadecimal digits" }))
        }
    }
}

pub(super) fn respond<T>(outcome: Result<T, Error>) -> Result<Response<T>, Status> {
    metrics::commands("grpc").increment(1);
    outcome.map(Response::new).map_err(|error| {
        metrics::refused("grpc").increment(1);
        status(&error)
    })
}

#[tonic::async_trait]
impl Grid for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        respond(Service::get(self, request.into_inner()).await)
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::set(self, request.into_inner(), id).await)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::delete(self, request.into_inner(), id).await)
    }

    async fn increment(
        &self,
        request: Request<IncrementRequest>,
    ) -> Result<Response<IncrementReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::increment(self, request.into_inner(), id).await)
    }

    async fn compare_and_swap(
        &self,
        request: Request<CompareAndSwapRequest>,
    ) -> Result<Response<CompareAndSwapReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::compare_and_swap(self, request.into_inner(), id).await)
    }

    async fn expire(&self, request: Request<ExpireRequest>) -> Result<Response<ExpireReply>, Status> {
        let id = request_id(&request)?;
        respond(Service::expire(self, request.into_inner(), id).await)
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanReply>, Status> {
        respond(Service::scan(self, request.into_inner()).await)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvents, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let events = watch::begin(&self.router, request, &self.stop).await.map_err(|error| status(&error))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    type QueueStream = Pin<Box<dyn Stream<Item = Result<QueueTurn, Status>> + Send>>;

    async fn queue(&self, request: Request<QueueRequest>) -> Result<Response<Self::QueueStream>, Status> {
        let request = request.into_inner();
        let partition = request.partition;
        let wanted = queue::wanted(request).map_err(|error| status(&error))?;
        let here = queue::Here::enter(&self.router, partition, &wanted).map_err(|error| status(&error))?;
        let turns = queue::turns(here).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(turns)))
    }

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishReply>, Status> {
        let PublishRequest { channel, payload, sharded } = request.into_inner();
        metrics::commands("grpc").increment(1);
        check_value(&payload).map_err(|error| status(&error))?;
        let receivers = self.hub.publish(sharded, &channel, &payload) as u64;
        Ok(Response::new(PublishReply { receivers }))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let SubscribeRequest { channels, patterns, sharded } = request.into_inner();
        let asked = channels.len() + patterns.len() + sharded.len();
        if asked == 0 || asked > SUBSCRIPTIONS_MAX {
            let (actual, max) = (asked as u64, SUBSCRIPTIONS_MAX as u64);
            let error = Error::Limit { field: "channels", limit: "SUBSCRIPTIONS_MAX", actual, max };
            return Err(status(&error));
        }
        let mut subscriber = Subscriber::new(&self.hub);
        for (kind, names) in [(Kind::Channel, channels), (Kind::Pattern, patterns), (Kind::Sharded, sharded)]
        {
            if !names.is_empty() {
                subscriber.subscribe(kind, names);
            }
        }
        subscriber.heard().await;
        let begun = futures::stream::once(futures::future::ready(Ok(Message::default())));
        let messages = futures::stream::unfold(Some(subscriber), |state| async move {
            let mut subscriber = state?;
            let Some(message) = subscriber.next().await else {
                let too_slow = "SUBSCRIBER_BYTES_MAX: messages are read more slowly than they are published";
                return Some((Err(Status::resource_exhausted(too_slow)), None));
            };
            let pubsub::Message { channel, payload, pattern, .. } = message;
            Some((Ok(Message { channel, payload, pattern }), Some(subscriber)))
        });
        Ok(Response::new(Box::pin(begun.chain(messages).take_until(self.stop.clone().cancelled_owned()))))
    }

    type ListenStream = Pin<Box<dyn Stream<Item = Result<Heard, Status>> + Send>>;

    async fn listen(
        &self,
        request: Request<Streaming<Interest>>,
    ) -> Result<Response<Self::ListenStream>, Status> {
        let heard = link::listen(&self.hub, request.into_inner());
        Ok(Response::new(Box::pin(heard.take_until(self.stop.clone().cancelled_owned()))))
    }

    type PipelineStream = Pin<Box<dyn Stream<Item = Result<PipelineReply, Status>> + Send>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let inbound = request.into_inner();
        let service = self.clone();
        let replies = inbound
            .take_until(self.stop.clone().cancelled_owned())
            .take_while(|message| futures::future::ready(message.is_ok()))
            .filter_map(|message| futures::future::ready(message.ok()))
            .map(move |message| {
                let service = service.clone();
                async move {
                    metrics::commands("grpc").increment(message.calls.len() as u64);
                    let calls = message.calls.into_iter().map(|call| service.answer(call));
                    let answers = calls.collect::<FuturesUnordered<_>>().collect().await;
                    Ok(PipelineReply { answers })
                }
            })
            .buffer_unordered(PIPELINE_MESSAGES_MAX);
        Ok(Response::new(Box::pin(replies)))
    }
}
