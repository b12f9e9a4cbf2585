use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Request;
use trimaran_proto::internal::shard as wire;
use trimaran_proto::internal::shard::answer::Body as Answered;
use trimaran_proto::internal::shard::ask::Body as Asked;
use trimaran_proto::internal::shard::shard_server::{Shard, ShardServer};

use super::*;
use crate::dial::{Dial, TcpDial, channel};
use crate::exchange::ShardCalls;

/// What a node makes of streams.
#[derive(Clone, Copy)]
enum Release {
    Before,
    This,
    /// Its first streams break once they have been asked something.
    Breaks(usize),
}

/// Answers writes with what they say; one of partition 0 waits until it may.
struct Node {
    release: Release,
    streams: AtomicUsize,
    may: Arc<Notify>,
}

#[tonic::async_trait]
impl Shard for Node {
    type LineStream = Pin<Box<dyn Stream<Item = Result<wire::Answers, Status>> + Send>>;

    async fn line(
        &self,
        request: Request<Streaming<wire::Asks>>,
    ) -> Result<Response<Self::LineStream>, Status> {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        match self.release {
            Release::Before => return Err(Status::unimplemented("")),
            Release::Breaks(streams) if stream < streams => {
                request.into_inner().message().await?;
                return Err(Status::internal("broken"));
            }
            _ => {}
        }
        let may = Arc::clone(&self.may);
        let answers =
            answer::<ShardCalls, _>(request.into_inner(), CancellationToken::new(), move |ask: wire::Ask| {
                let may = Arc::clone(&may);
                async move {
                    let Some(Asked::Write(write)) = ask.body else { panic!("no write") };
                    if write.partition == 0 {
                        may.notified().await;
                    }
                    let reply = wire::WriteReply { replies: write.commands };
                    wire::Answer { id: ask.id, body: Some(Answered::Write(reply)) }
                }
            });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn write(&self, _: Request<wire::WriteRequest>) -> Result<Response<wire::WriteReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read(&self, _: Request<wire::ReadRequest>) -> Result<Response<wire::ReadReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn hot(&self, _: Request<wire::HotRequest>) -> Result<Response<wire::HotReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn checksum(
        &self,
        _: Request<wire::ChecksumRequest>,
    ) -> Result<Response<wire::ChecksumReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn pipeline_to(release: Release) -> (Pipeline<ShardCalls>, Arc<Notify>) {
    let may: Arc<Notify> = Arc::default();
    let node = Node { release, streams: AtomicUsize::new(0), may: Arc::clone(&may) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = ShardServer::new(node).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let service = service.max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    (Pipeline::new(channel(&dial, &address).unwrap()), may)
}

fn write(partition: u64, command: Bytes) -> wire::Ask {
    let write = wire::WriteRequest { partition, commands: vec![command], ..Default::default() };
    wire::Ask { id: 0, body: Some(Asked::Write(write)) }
}

async fn answered(pipeline: &Pipeline<ShardCalls>, partition: u64, command: Bytes) -> Result<Bytes, Down> {
    let answer = pipeline.call(write(partition, command)).await?;
    let Some(Answered::Write(reply)) = answer.body else { panic!("{:?}", answer.body) };
    Ok(reply.replies[0].clone())
}

#[tokio::test]
async fn each_call_gets_its_own_answer_and_none_waits_for_a_slow_one() {
    let (pipeline, may) = pipeline_to(Release::This).await;
    let slow = answered(&pipeline, 0, Bytes::from_static(b"slow"));
    let others = (0..3000_u32).map(|number| {
        let pipeline = &pipeline;
        async move {
            let command = Bytes::copy_from_slice(&number.to_be_bytes());
            assert_eq!(answered(pipeline, 1, command.clone()).await, Ok(command));
        }
    });
    let others = async {
        futures::future::join_all(others).await;
        may.notify_one();
    };
    // The slow one is asked first, and its answer comes last.
    let (slow, ()) = futures::future::join(slow, others).await;
    assert_eq!(slow, Ok(Bytes::from_static(b"slow")));
}

#[tokio::test]
async fn what_does_not_fit_into_one_message_goes_in_several() {
    let (pipeline, _may) = pipeline_to(Release::This).await;
    let large = Bytes::from(vec![7; 1 << 20]);
    let calls = (0..MESSAGE_BYTES_MAX >> 19).map(|_| answered(&pipeline, 1, large.clone()));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.as_ref().map(Bytes::len), Ok(large.len()));
    }
}

#[tokio::test]
async fn a_broken_stream_is_said_to_be_and_the_next_call_finds_another() {
    let (pipeline, _may) = pipeline_to(Release::Breaks(2)).await;
    let command = Bytes::from_static(b"x");
    for _ in 0..2 {
        assert_eq!(answered(&pipeline, 1, command.clone()).await, Err(Down::Broken));
    }
    assert_eq!(answered(&pipeline, 1, command.clone()).await, Ok(command));
}

#[tokio::test]
async fn a_node_of_the_release_before_is_said_to_know_no_streams() {
    let (pipeline, _may) = pipeline_to(Release::Before).await;
    for _ in 0..3 {
        assert_eq!(answered(&pipeline, 1, Bytes::from_static(b"x")).await, Err(Down::Unsupported));
    }
}
