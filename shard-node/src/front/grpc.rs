//! The native API over gRPC.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use trimaran_net::exchange::DatabaseCalls;
use trimaran_net::pipeline;
use trimaran_net::status::{failure, status};
use trimaran_proto::api::database as wire;
use trimaran_proto::api::database::answer::Body as Answered;
use trimaran_proto::api::database::call::Body as Called;
use trimaran_proto::api::database::database_server::{Database, DatabaseServer};
use trimaran_replication::session::RequestId;
use trimaran_service::entropy;

use super::{pages, watch};
use crate::access::{self, AccessKey};
use crate::error::{Error, Invalid};
use crate::expression::Stated;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::metrics;
use crate::op::transact_write::Action;
use crate::op::update_table::IndexUpdate;
use crate::op::{self, ReturnValues, batch_get, batch_write, page};
use crate::router::Router;

mod table;
mod value;

use table::{
    description, key_attribute, max_throughput, new_index, stream_view, throughput_update, uncounted,
};
pub(super) use value::put_item;
use value::{item, placeholders};

/// Metadata key of the request id.
const REQUEST_ID: &str = "trimaran-request-id";

/// Requests go to the router; answers that would go on end when the node does.
#[derive(Clone)]
struct Service(Router, CancellationToken);

/// The gRPC service.
pub(crate) fn service(router: Router, stop: CancellationToken) -> DatabaseServer<impl Database> {
    DatabaseServer::new(Service(router, stop))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn named(name: String) -> Option<String> {
    Some(name).filter(|name| !name.is_empty())
}

fn text<T>(text: String) -> Option<Stated<T>> {
    Some(text).filter(|text| !text.is_empty()).map(Stated::Text)
}

fn put_request(request: wire::PutItemRequest) -> Result<op::put_item::Request, Invalid> {
    Ok(op::put_item::Request {
        table: request.table,
        item: item(request.item)?,
        condition: text(request.condition),
        placeholders: placeholders(request.placeholders)?,
        return_values: return_values(request.return_values)?,
        want_old_on_failure: false,
        request_id: None,
    })
}

fn update_request(request: wire::UpdateItemRequest) -> Result<op::update_item::Request, Invalid> {
    Ok(op::update_item::Request {
        table: request.table,
        key: item(request.key)?,
        update: text(request.update),
        condition: text(request.condition),
        placeholders: placeholders(request.placeholders)?,
        return_values: return_values(request.return_values)?,
        want_old_on_failure: false,
        request_id: None,
    })
}

fn delete_request(request: wire::DeleteItemRequest) -> Result<op::delete_item::Request, Invalid> {
    Ok(op::delete_item::Request {
        table: request.table,
        key: item(request.key)?,
        condition: text(request.condition),
        placeholders: placeholders(request.placeholders)?,
        return_values: return_values(request.return_values)?,
        want_old_on_failure: false,
        request_id: None,
    })
}

fn get_request(request: wire::GetItemRequest) -> Result<op::get_item::Request, Invalid> {
    Ok(op::get_item::Request {
        table: request.table,
        key: item(request.key)?,
        projection: text(request.projection),
        placeholders: placeholders(request.placeholders)?,
        consistent: true,
        as_of_ms: moment(request.as_of_ms),
    })
}

fn moment(as_of_ms: u64) -> Option<u64> {
    Some(as_of_ms).filter(|as_of_ms| *as_of_ms > 0)
}

/// A time that is kept, in milliseconds, from seconds.
fn history(seconds: u32) -> Option<u64> {
    Some(u64::from(seconds) * 1000).filter(|kept_ms| *kept_ms > 0)
}

fn action(wire: wire::TransactAction) -> Result<Action, Invalid> {
    use wire::transact_action::Action as WireAction;
    Ok(match wire.action {
        Some(WireAction::Put(put)) => Action::Put(put_request(put)?),
        Some(WireAction::Update(update)) => Action::Update(update_request(update)?),
        Some(WireAction::Delete(delete)) => Action::Delete(delete_request(delete)?),
        Some(WireAction::Check(check)) => Action::Check(op::transact_write::Check {
            table: check.table,
            key: item(check.key)?,
            condition: Stated::Text(check.condition),
            placeholders: placeholders(check.placeholders)?,
            want_old_on_failure: false,
        }),
        None => return Err(Invalid::new("an action of the transaction is missing")),
    })
}

fn return_values(wire: i32) -> Result<ReturnValues, Invalid> {
    match wire::ReturnValues::try_from(wire) {
        Ok(wire::ReturnValues::None) => Ok(ReturnValues::None),
        Ok(wire::ReturnValues::AllOld) => Ok(ReturnValues::AllOld),
        Ok(wire::ReturnValues::UpdatedOld) => Ok(ReturnValues::UpdatedOld),
        Ok(wire::ReturnValues::AllNew) => Ok(ReturnValues::AllNew),
        Ok(wire::ReturnValues::UpdatedNew) => Ok(ReturnValues::UpdatedNew),
        Err(_unknown) => Err(Invalid::new(format!("return_values: {wire} is none of them"))),
    }
}

fn put_access_key(key: &AccessKey) -> wire::AccessKey {
    wire::AccessKey { id: key.id.clone(), note: key.note.clone(), created_ms: key.created_ms }
}

fn put_hot_keys(report: op::hot_keys::Report) -> wire::HotKeysReply {
    let parts = report.parts.into_iter().map(|part| wire::HotKeys {
        index: part.index,
        reads_per_second: part.rates.reads,
        writes_per_second: part.rates.writes,
        keys: part
            .keys
            .into_iter()
            .map(|key| wire::HotKey {
                key: Some(put_item(key.key)),
                reads_per_second: key.rates.reads,
                writes_per_second: key.rates.writes,
                partition_id: key.partition,
            })
            .collect(),
    });
    wire::HotKeysReply { parts: parts.collect(), silent_nodes: report.silent }
}

fn request_id<T>(request: &Request<T>) -> Result<Option<RequestId>, Invalid> {
    let Some(id) = request.metadata().get(REQUEST_ID) else { return Ok(None) };
    let parsed = id.to_str().ok().filter(|text| text.len() == 32);
    match parsed.and_then(|text| u128::from_str_radix(text, 16).ok()) {
        Some(bits) => Ok(Some(RequestId::from_random(bits))),
        None => Err(Invalid::new(format!("{REQUEST_ID}: it must be 32 hexadecimal digits"))),
    }
}

fn respond<T>(outcome: Result<T, Error>) -> Result<Response<T>, Status> {
    metrics::requests("grpc").increment(1);
    outcome.map(Response::new).map_err(|error| {
        metrics::refused("grpc").increment(1);
        status(&error)
    })
}

/// One of many calls on a stream.
async fn answer(service: Service, call: wire::Call) -> wire::Answer {
    let answered = respond(service.carry_out(call.body, &call.request_id).await);
    let body = match answered {
        Ok(body) => body.into_inner(),
        Err(refused) => Answered::Failure(failure(&refused)),
    };
    wire::Answer { id: call.id, body: Some(body) }
}

impl Service {
    async fn carry_out(&self, called: Option<Called>, id: &[u8]) -> Result<Answered, Error> {
        let id = match (id.is_empty(), <[u8; 16]>::try_from(id)) {
            (true, _) => None,
            (false, Ok(id)) => Some(RequestId::from_random(u128::from_be_bytes(id))),
            (false, Err(_length)) => return Err(Invalid::new("request_id: it must be of 16 bytes").into()),
        };
        Ok(match called {
            Some(Called::GetItem(get)) => Answered::GetItem(self.get_item(get).await?),
            Some(Called::PutItem(put)) => Answered::PutItem(self.put_item(put, id).await?),
            Some(Called::UpdateItem(update)) => Answered::UpdateItem(self.update_item(update, id).await?),
            Some(Called::DeleteItem(delete)) => Answered::DeleteItem(self.delete_item(delete, id).await?),
            None => return Err(Invalid::new("a call of a newer release; upgrade this node").into()),
        })
    }

    async fn create_table(&self, request: wire::CreateTableRequest) -> Result<wire::CreateTableReply, Error> {
        let missing = || Invalid::new("partition_key: it is missing");
        let partition_key = key_attribute(request.partition_key.ok_or_else(missing)?)?;
        let sort_key = request.sort_key.map(key_attribute).transpose()?;
        let request = op::create_table::Request {
            deletion_protection: request.deletion_protection,
            indexes: request.indexes.into_iter().map(new_index).collect::<Result<_, _>>()?,
            stream: stream_view(request.stream)?,
            on_demand: max_throughput(request.max_throughput),
            history_ms: history(request.history_s),
            strong_indexes: request.strong_indexes,
            ..op::create_table::Request::new(request.name, partition_key, sort_key)
        };
        let table = op::create_table::run(&self.0, request).await?;
        Ok(wire::CreateTableReply { table: Some(uncounted(table)) })
    }

    async fn update_table(&self, request: wire::UpdateTableRequest) -> Result<wire::UpdateTableReply, Error> {
        use wire::update_table_request::Change;
        let mut update =
            op::update_table::Request { table: request.name, ..op::update_table::Request::default() };
        match request.change {
            Some(Change::CreateIndex(index)) => update.indexes.push(IndexUpdate::Create(new_index(index)?)),
            Some(Change::DeleteIndex(name)) => update.indexes.push(IndexUpdate::Delete(name)),
            Some(Change::Stream(view)) => update.stream = Some(stream_view(view)?),
            Some(Change::MaxThroughput(max)) => update.on_demand = throughput_update(Some(max)),
            Some(Change::StrongIndexes(strong)) => update.strong_indexes = Some(strong),
            Some(Change::HistoryS(seconds)) => update.history_ms = Some(history(seconds)),
            Some(Change::IndexThroughput(index)) => {
                let max = throughput_update(index.max_throughput);
                update.indexes.push(IndexUpdate::Update(index.index, None, max));
            }
            None => return Err(Invalid::new("change: it is missing").into()),
        }
        let table = op::update_table::run(&self.0, update).await?;
        Ok(wire::UpdateTableReply { table: Some(uncounted(table)) })
    }

    async fn transact_write(
        &self,
        request: wire::TransactWriteRequest,
    ) -> Result<wire::TransactWriteReply, Error> {
        let actions = request.actions.into_iter().map(action).collect::<Result<Vec<_>, _>>()?;
        let token = Some(request.token).filter(|token| !token.is_empty());
        let done = op::transact_write::run(&self.0, actions, token.as_deref()).await?;
        Ok(wire::TransactWriteReply { repeated: done.repeated })
    }

    async fn transact_get(&self, request: wire::TransactGetRequest) -> Result<wire::TransactGetReply, Error> {
        let gets = request.items.into_iter().map(get_request).collect::<Result<Vec<_>, _>>()?;
        let as_of_ms = gets.first().and_then(|get| get.as_of_ms);
        if gets.iter().any(|get| get.as_of_ms != as_of_ms) {
            return Err(Invalid::new("items: all of them are as of the same as_of_ms").into());
        }
        let found = op::transact_get::run(&self.0, gets, as_of_ms).await?;
        let items = found.into_iter().map(|found| wire::GetItemReply { item: found.item.map(put_item) });
        Ok(wire::TransactGetReply { items: items.collect() })
    }

    async fn put_item(
        &self,
        request: wire::PutItemRequest,
        request_id: Option<RequestId>,
    ) -> Result<wire::PutItemReply, Error> {
        let put = op::put_item::Request { request_id, ..put_request(request)? };
        let written = self.0.run(put.prepare()?).await?;
        Ok(wire::PutItemReply { attributes: written.attributes.map(put_item) })
    }

    async fn get_item(&self, request: wire::GetItemRequest) -> Result<wire::GetItemReply, Error> {
        let found = self.0.run(get_request(request)?.prepare()?).await?;
        Ok(wire::GetItemReply { item: found.item.map(put_item) })
    }

    async fn update_item(
        &self,
        request: wire::UpdateItemRequest,
        request_id: Option<RequestId>,
    ) -> Result<wire::UpdateItemReply, Error> {
        let update = op::update_item::Request { request_id, ..update_request(request)? };
        let written = self.0.run(update.prepare()?).await?;
        Ok(wire::UpdateItemReply { attributes: written.attributes.map(put_item) })
    }

    async fn delete_item(
        &self,
        request: wire::DeleteItemRequest,
        request_id: Option<RequestId>,
    ) -> Result<wire::DeleteItemReply, Error> {
        let delete = op::delete_item::Request { request_id, ..delete_request(request)? };
        let written = self.0.run(delete.prepare()?).await?;
        Ok(wire::DeleteItemReply { attributes: written.attributes.map(put_item) })
    }

    async fn query(&self, request: wire::QueryRequest) -> Result<wire::QueryReply, Error> {
        let query = op::query::Request {
            table: request.table,
            index: named(request.index),
            key_condition: Stated::Text(request.key_condition),
            descending: request.descending,
            options: page::Options {
                filter: text(request.filter),
                projection: text(request.projection),
                limit: Some(request.limit).filter(|&limit| limit > 0),
                start_key: request.start_key.map(|key| item(Some(key))).transpose()?,
                count_only: request.count_only,
                as_of_ms: moment(request.as_of_ms),
                ..page::Options::default()
            },
            placeholders: placeholders(request.placeholders)?,
        };
        let page = self.0.run(query.prepare()?).await?;
        Ok(wire::QueryReply {
            items: page.items.into_iter().map(put_item).collect(),
            count: page.count,
            scanned: page.scanned,
            last_key: page.last_key.map(put_item),
        })
    }

    async fn scan(&self, request: wire::ScanRequest) -> Result<wire::ScanReply, Error> {
        let everything = request.segment == 0 && request.segments == 0;
        let scan = op::scan::Request {
            table: request.table,
            index: named(request.index),
            segment: (!everything).then_some((request.segment, request.segments)),
            options: page::Options {
                filter: text(request.filter),
                projection: text(request.projection),
                limit: Some(request.limit).filter(|&limit| limit > 0),
                start_key: request.start_key.map(|key| item(Some(key))).transpose()?,
                count_only: request.count_only,
                as_of_ms: moment(request.as_of_ms),
                ..page::Options::default()
            },
            placeholders: placeholders(request.placeholders)?,
        };
        let page = self.0.run(scan.prepare()?).await?;
        Ok(wire::ScanReply {
            items: page.items.into_iter().map(put_item).collect(),
            count: page.count,
            scanned: page.scanned,
            last_key: page.last_key.map(put_item),
        })
    }

    async fn batch_get(&self, request: wire::BatchGetRequest) -> Result<wire::BatchGetReply, Error> {
        let tables = request.tables.iter().cloned().map(|keys| {
            Ok(batch_get::Keys {
                table: keys.table,
                keys: keys.keys.into_iter().map(|key| item(Some(key))).collect::<Result<_, _>>()?,
                projection: text(keys.projection),
                placeholders: placeholders(keys.placeholders)?,
                consistent: true,
            })
        });
        let as_of_ms = moment(request.as_of_ms);
        let found = batch_get::run(&self.0, tables.collect::<Result<_, Invalid>>()?, as_of_ms).await?;
        let mut reply = wire::BatchGetReply::default();
        for (asked, found) in request.tables.into_iter().zip(found) {
            let items = found.items.into_iter().map(put_item).collect();
            reply.tables.push(wire::TableItems { table: asked.table.clone(), items });
            if !found.unprocessed.is_empty() {
                let left = found.unprocessed.iter().filter_map(|&place| asked.keys.get(place).cloned());
                reply.unprocessed.push(wire::TableKeys { keys: left.collect(), ..asked });
            }
        }
        Ok(reply)
    }

    async fn batch_write(
        &self,
        request: Request<wire::BatchWriteRequest>,
    ) -> Result<wire::BatchWriteReply, Error> {
        let request_id = request_id(&request)?;
        let request = request.into_inner();
        let mut writes = Vec::new();
        for table in request.tables {
            for put in table.puts {
                writes.push((table.table.clone(), batch_write::Write::Put(item(Some(put))?)));
            }
            for delete in table.deletes {
                writes.push((table.table.clone(), batch_write::Write::Delete(item(Some(delete))?)));
            }
        }
        let done = batch_write::run(&self.0, &writes, request_id).await?;
        let mut unprocessed: BTreeMap<String, wire::TableWrites> = BTreeMap::new();
        for ((table, write), _) in writes.into_iter().zip(done).filter(|(_, done)| done.is_none()) {
            let of = unprocessed
                .entry(table.clone())
                .or_insert_with(|| wire::TableWrites { table, ..wire::TableWrites::default() });
            match write {
                batch_write::Write::Put(item) => of.puts.push(put_item(item)),
                batch_write::Write::Delete(key) => of.deletes.push(put_item(key)),
            }
        }
        Ok(wire::BatchWriteReply { unprocessed: unprocessed.into_values().collect() })
    }
}

#[tonic::async_trait]
impl Database for Service {
    async fn create_table(
        &self,
        request: Request<wire::CreateTableRequest>,
    ) -> Result<Response<wire::CreateTableReply>, Status> {
        respond(Service::create_table(self, request.into_inner()).await)
    }

    async fn describe_table(
        &self,
        request: Request<wire::DescribeTableRequest>,
    ) -> Result<Response<wire::DescribeTableReply>, Status> {
        let described = op::describe_table::run(&self.0, &request.into_inner().name).await;
        respond(described.map(|described| wire::DescribeTableReply { table: Some(description(described)) }))
    }

    async fn update_table(
        &self,
        request: Request<wire::UpdateTableRequest>,
    ) -> Result<Response<wire::UpdateTableReply>, Status> {
        respond(Service::update_table(self, request.into_inner()).await)
    }

    async fn transact_write(
        &self,
        request: Request<wire::TransactWriteRequest>,
    ) -> Result<Response<wire::TransactWriteReply>, Status> {
        respond(Service::transact_write(self, request.into_inner()).await)
    }

    async fn transact_get(
        &self,
        request: Request<wire::TransactGetRequest>,
    ) -> Result<Response<wire::TransactGetReply>, Status> {
        respond(Service::transact_get(self, request.into_inner()).await)
    }

    type WatchTableStream = Pin<Box<dyn Stream<Item = Result<wire::TableChanges, Status>> + Send>>;

    async fn watch_table(
        &self,
        request: Request<wire::WatchTableRequest>,
    ) -> Result<Response<Self::WatchTableStream>, Status> {
        let changes = watch::begin(&self.0, request.into_inner(), self.1.clone()).await;
        respond(changes.map(|changes| Box::pin(ReceiverStream::new(changes)) as Self::WatchTableStream))
    }

    type VerifyStream = Pin<Box<dyn Stream<Item = Result<wire::VerifiedPartition, Status>> + Send>>;

    async fn verify(
        &self,
        _request: Request<wire::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let verified = watch::verify(&self.0, self.1.clone());
        respond(Ok(Box::pin(ReceiverStream::new(verified)) as Self::VerifyStream))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainReply>, Status> {
        let wire::ExplainRequest { table, key } = request.into_inner();
        let explained = match item(key) {
            Ok(key) => self.0.run(op::explain::Explain { table, key }).await,
            Err(invalid) => Err(invalid.into()),
        };
        respond(explained.map(|explained| wire::ExplainReply {
            token: explained.token.0,
            partition_id: explained.partition,
            item_bytes: explained.item.map(|item| item.bytes),
            written_ms: explained.item.map_or(0, |item| item.written_ms),
        }))
    }

    async fn hot_keys(
        &self,
        request: Request<wire::HotKeysRequest>,
    ) -> Result<Response<wire::HotKeysReply>, Status> {
        let wire::HotKeysRequest { table, limit } = request.into_inner();
        respond(op::hot_keys::run(&self.0, &table, limit).await.map(put_hot_keys))
    }

    async fn create_access_key(
        &self,
        request: Request<wire::CreateAccessKeyRequest>,
    ) -> Result<Response<wire::CreateAccessKeyReply>, Status> {
        let made = access::create(&self.0, request.into_inner().note, &mut entropy::generator()).await;
        respond(made.map(|made| wire::CreateAccessKeyReply {
            secret: made.secret.clone(),
            key: Some(put_access_key(&made)),
        }))
    }

    async fn list_access_keys(
        &self,
        _request: Request<wire::ListAccessKeysRequest>,
    ) -> Result<Response<wire::ListAccessKeysReply>, Status> {
        let refreshed = self.0.refresh_tables().await;
        let keys = self.0.access_keys();
        respond(
            refreshed.map(|()| wire::ListAccessKeysReply { keys: keys.all().map(put_access_key).collect() }),
        )
    }

    async fn delete_access_key(
        &self,
        request: Request<wire::DeleteAccessKeyRequest>,
    ) -> Result<Response<wire::DeleteAccessKeyReply>, Status> {
        let deleted = access::delete(&self.0, &request.into_inner().id).await;
        respond(deleted.map(|()| wire::DeleteAccessKeyReply {}))
    }

    async fn list_tables(
        &self,
        request: Request<wire::ListTablesRequest>,
    ) -> Result<Response<wire::ListTablesReply>, Status> {
        let request = request.into_inner();
        let limit = Some(request.limit).filter(|&limit| limit > 0);
        let after = named(request.after);
        let listed = op::list_tables::run(&self.0, after.as_deref(), limit).await;
        respond(listed.map(|(names, last)| wire::ListTablesReply { names, last: last.unwrap_or_default() }))
    }

    async fn delete_table(
        &self,
        request: Request<wire::DeleteTableRequest>,
    ) -> Result<Response<wire::DeleteTableReply>, Status> {
        let deleted = op::delete_table::run(&self.0, &request.into_inner().name).await;
        respond(deleted.map(|table| wire::DeleteTableReply { table: Some(uncounted(table)) }))
    }

    async fn put_item(
        &self,
        request: Request<wire::PutItemRequest>,
    ) -> Result<Response<wire::PutItemReply>, Status> {
        let written = async {
            let id = request_id(&request)?;
            Service::put_item(self, request.into_inner(), id).await
        };
        respond(written.await)
    }

    async fn get_item(
        &self,
        request: Request<wire::GetItemRequest>,
    ) -> Result<Response<wire::GetItemReply>, Status> {
        respond(Service::get_item(self, request.into_inner()).await)
    }

    async fn update_item(
        &self,
        request: Request<wire::UpdateItemRequest>,
    ) -> Result<Response<wire::UpdateItemReply>, Status> {
        let written = async {
            let id = request_id(&request)?;
            Service::update_item(self, request.into_inner(), id).await
        };
        respond(written.await)
    }

    async fn delete_item(
        &self,
        request: Request<wire::DeleteItemRequest>,
    ) -> Result<Response<wire::DeleteItemReply>, Status> {
        let written = async {
            let id = request_id(&request)?;
            Service::delete_item(self, request.into_inner(), id).await
        };
        respond(written.await)
    }

    type PipelineStream = Pin<Box<dyn Stream<Item = Result<wire::PipelineReply, Status>> + Send>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<wire::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let service = self.clone();
        let answer = move |call| answer(service.clone(), call);
        let answers = pipeline::answer::<DatabaseCalls, _>(request.into_inner(), self.1.clone(), answer);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn query(
        &self,
        request: Request<wire::QueryRequest>,
    ) -> Result<Response<wire::QueryReply>, Status> {
        respond(Service::query(self, request.into_inner()).await)
    }

    async fn scan(&self, request: Request<wire::ScanRequest>) -> Result<Response<wire::ScanReply>, Status> {
        respond(Service::scan(self, request.into_inner()).await)
    }

    type QueryStreamStream = Pin<Box<dyn Stream<Item = Result<wire::QueryReply, Status>> + Send>>;

    async fn query_stream(
        &self,
        request: Request<wire::QueryRequest>,
    ) -> Result<Response<Self::QueryStreamStream>, Status> {
        let service = self.clone();
        let ask = move |request| {
            let service = service.clone();
            async move { Service::query(&service, request).await }
        };
        let pages = pages::begin(request.into_inner(), self.1.clone(), ask);
        respond(Ok(Box::pin(ReceiverStream::new(pages)) as Self::QueryStreamStream))
    }

    type ScanStreamStream = Pin<Box<dyn Stream<Item = Result<wire::ScanReply, Status>> + Send>>;

    async fn scan_stream(
        &self,
        request: Request<wire::ScanRequest>,
    ) -> Result<Response<Self::ScanStreamStream>, Status> {
        let service = self.clone();
        let ask = move |request| {
            let service = service.clone();
            async move { Service::scan(&service, request).await }
        };
        let pages = pages::begin(request.into_inner(), self.1.clone(), ask);
        respond(Ok(Box::pin(ReceiverStream::new(pages)) as Self::ScanStreamStream))
    }

    async fn batch_get(
        &self,
        request: Request<wire::BatchGetRequest>,
    ) -> Result<Response<wire::BatchGetReply>, Status> {
        respond(Service::batch_get(self, request.into_inner()).await)
    }

    async fn batch_write(
        &self,
        request: Request<wire::BatchWriteRequest>,
    ) -> Result<Response<wire::BatchWriteReply>, Status> {
        respond(Service::batch_write(self, request).await)
    }
}
