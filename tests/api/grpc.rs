//! The native API: unary calls, request ids, watches, refusals with names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Request};
use trimaran_client::grid::{Condition, SetOptions};
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::watch_event::Kind;
use trimaran_proto::api::grid::{IncrementRequest, SetRequest, WatchRequest};
use trimaran_tests::harness::process::Cluster;
use trimaran_tests::harness::until;

fn client(address: &str) -> GridClient<tonic::transport::Channel> {
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    GridClient::new(channel(&dial, address).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_reads_what_it_wrote_under_every_condition() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let grid = cluster.grid_client().await;
    assert_eq!(grid.get("k").await.unwrap(), None);
    let version = grid.set("k", "v").await.unwrap();
    let with = |condition| SetOptions { ttl: None, condition };
    assert_eq!(grid.set_with("k", "w", with(Condition::IfAbsent)).await.unwrap(), None);
    assert_eq!(grid.set_with("k", "w", with(Condition::IfVersion(version + 1))).await.unwrap(), None);
    assert!(grid.set_with("k", "w", with(Condition::IfVersion(version))).await.unwrap() > Some(version));
    assert_eq!(grid.increment("n", 7).await.unwrap(), 7);
    let refused = grid.increment("k", 1).await.unwrap_err();
    assert!(refused.to_string().contains("not a 64-bit integer"), "{refused}");
    let (swapped, previous) = grid.compare_and_swap("k", Some(Bytes::from_static(b"w")), None).await.unwrap();
    assert_eq!((swapped, previous.as_deref()), (true, Some(&b"w"[..])));
    assert!(!grid.delete("k").await.unwrap());
    grid.set("short", "lived").await.unwrap();
    assert!(grid.expire("short", Some(Duration::from_millis(1))).await.unwrap());
    until("the key expires", async || grid.get("short").await.unwrap().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_again_with_its_id_is_applied_once() {
    let cluster = Cluster::grid(1, "memory", 1).await;
    let mut client = client(&cluster.nodes[0].grpc);
    for expected in [5, 5, 5] {
        let mut request =
            Request::new(IncrementRequest { key: "n".into(), by: 5, ttl_ms: None, fence: None });
        let id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        request.metadata_mut().insert("trimaran-request-id", id);
        assert_eq!(client.increment(request).await.unwrap().into_inner().value, expected);
    }
    let mut request = Request::new(IncrementRequest { key: "n".into(), by: 5, ttl_ms: None, fence: None });
    request.metadata_mut().insert("trimaran-request-id", "nonsense".parse().unwrap());
    let refused = client.increment(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(trimaran_net::status::detail(&refused).code, "INVALID_REQUEST");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_every_change_and_another_goes_on_where_it_ended() {
    let cluster = Cluster::grid(1, "memory", 2).await;
    let grid = cluster.grid_client().await;
    let mut watch = grid.watch("user:", true, Vec::new()).await.unwrap();
    // One begin a partition: from then on nothing is missed.
    let mut positions = Vec::new();
    while positions.len() < 2 {
        positions.extend(watch.next().await.unwrap().events.into_iter().filter_map(|event| event.position));
    }
    for number in 0..20 {
        grid.set(format!("user:{number}"), "v").await.unwrap();
        grid.set(format!("other:{number}"), "v").await.unwrap();
    }
    grid.delete("user:7").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 21 {
        seen.extend(watch.next().await.unwrap().events);
    }
    drop(watch);
    assert!(seen.iter().all(|event| event.key.starts_with(b"user:")));
    assert_eq!(seen.iter().filter(|event| event.kind() == Kind::Delete).count(), 1);
    let mut again = grid.watch("user:", true, positions).await.unwrap();
    let mut repeated = Vec::new();
    while repeated.len() < 21 {
        let events = again.next().await.unwrap().events;
        repeated.extend(events.into_iter().filter(|event| event.kind() != Kind::Begin));
    }
    let key = |event: &trimaran_proto::api::grid::WatchEvent| {
        let position = event.position.unwrap();
        (position.partition, position.version, event.key.clone())
    };
    seen.sort_by_key(key);
    repeated.sort_by_key(key);
    assert_eq!(repeated, seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_by_name_and_malformed_ones_do_no_harm() {
    let mut cluster = Cluster::grid(1, "memory", 1).await;
    let mut grid = client(&cluster.nodes[0].grpc);
    let refused = async |grid: &mut GridClient<_>, request: SetRequest| grid.set(request).await.unwrap_err();
    let long = SetRequest { key: vec![0; 65_537].into(), ..SetRequest::default() };
    let status = refused(&mut grid, long).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("KEY_BYTES_MAX is 65536"), "{}", status.message());
    let empty = refused(&mut grid, SetRequest::default()).await;
    assert_eq!((empty.code(), empty.message()), (Code::InvalidArgument, "key: it must not be empty"));
    let both = SetRequest { key: "k".into(), if_absent: true, if_present: true, ..SetRequest::default() };
    assert!(refused(&mut grid, both).await.message().contains("contradicts"));

    let lost = WatchRequest {
        key: "k".into(),
        from: vec![trimaran_proto::api::grid::Position { partition: 1, ..Default::default() }],
        ..WatchRequest::default()
    };
    // Version 0 is remembered as long as nothing was forgotten: this one must work.
    assert!(grid.watch(lost).await.is_ok());

    // Bytes that are no protobuf, and bytes that are no HTTP/2.
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut raw = tokio::net::TcpStream::connect(&cluster.nodes[0].grpc).await.unwrap();
    raw.write_all(&[0xff; 1000]).await.unwrap();
    let mut answer = Vec::new();
    let _reset = raw.read_to_end(&mut answer).await;
    let mut codec = tonic::client::Grpc::new({
        let dial: Arc<dyn Dial> = Arc::new(TcpDial);
        channel(&dial, &cluster.nodes[0].grpc).unwrap()
    });
    codec.ready().await.unwrap();
    let malformed: Result<tonic::Response<SetRequest>, _> = codec
        .unary(
            // A length-delimited field that claims more bytes than there are.
            Request::new(Malformed),
            "/trimaran.grid.v1.Grid/Set".parse().unwrap(),
            MalformedCodec,
        )
        .await;
    assert_eq!(malformed.unwrap_err().code(), Code::Internal);

    assert!(cluster.nodes[0].runs());
    assert!(!cluster.nodes[0].log().contains("panicked"), "{}", cluster.nodes[0].log());
    cluster.grid_client().await.set("still", "alive").await.unwrap();
}

struct Malformed;

struct MalformedCodec;

impl tonic::codec::Codec for MalformedCodec {
    type Encode = Malformed;
    type Decode = SetRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for MalformedCodec {
    type Item = Malformed;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        _item: Malformed,
        out: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        use bytes::BufMut as _;
        out.put_slice(&[0x0a, 0xff, 0x01]);
        Ok(())
    }
}

impl tonic::codec::Decoder for MalformedCodec {
    type Item = SetRequest;
    type Error = tonic::Status;

    fn decode(
        &mut self,
        _bytes: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<SetRequest>, tonic::Status> {
        Ok(None)
    }
}
