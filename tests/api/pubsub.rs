//! Messages between clients at different nodes: pub/sub, keyspace notifications, over RESP and gRPC.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncCommands as _, Client};
use tokio::time::timeout;
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::grid::{PublishRequest, SubscribeRequest};
use trimaran_tests::harness::process::Cluster;

/// A test fails rather than waits longer for what should be there at once.
const PATIENCE: Duration = Duration::from_secs(20);

async fn subscriber(address: &str) -> PubSub {
    Client::open(format!("redis://{address}")).unwrap().get_async_pubsub().await.unwrap()
}

pub(crate) async fn connect(address: &str) -> MultiplexedConnection {
    Client::open(format!("redis://{address}")).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Published by a node that has not heard yet that nobody wants it any more; it may be under way to a node for a moment, and
/// find somebody there who has subscribed since.
const LATE: &str = "late";

/// The next message that is not [`LATE`]: its channel and what it says.
async fn next(subscriber: &mut PubSub) -> (String, String) {
    loop {
        let message = timeout(PATIENCE, subscriber.on_message().next()).await.unwrap().unwrap();
        let text: String = message.get_payload().unwrap();
        if text != LATE {
            return (message.get_channel_name().to_owned(), text);
        }
    }
}

fn said(channel: &str, text: &str) -> (String, String) {
    (channel.to_owned(), text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_who_has_subscribed_at_any_node_from_the_moment_that_it_is_told_so() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let mut publishers = Vec::new();
    for node in &cluster.nodes {
        publishers.push(connect(&node.front).await);
    }
    let mut first = subscriber(&cluster.nodes[0].front).await;
    let mut second = subscriber(&cluster.nodes[1].front).await;
    for round in 0..50 {
        // Each time a channel that nobody has known before.
        let channel = format!("news-{round}");
        first.subscribe(&channel).await.unwrap();
        second.psubscribe("news-*").await.unwrap();
        for (at, publisher) in publishers.iter_mut().enumerate() {
            let text = format!("{round} {at}");
            assert_eq!(publisher.publish::<_, _, usize>(&channel, &text).await.unwrap(), 2, "round {round}");
            assert_eq!(next(&mut first).await, said(&channel, &text));
            assert_eq!(next(&mut second).await, said(&channel, &text));
        }
        first.unsubscribe(&channel).await.unwrap();
        second.punsubscribe("news-*").await.unwrap();
        for publisher in &mut publishers {
            // The others hear of it a moment later.
            let is_heard =
                async { while publisher.publish::<_, _, usize>(&channel, LATE).await.unwrap() > 0 {} };
            timeout(PATIENCE, is_heard).await.unwrap();
        }
    }
    // What is subscribed to anywhere is told everywhere.
    first.subscribe("a").await.unwrap();
    second.subscribe(&["a", "b"]).await.unwrap();
    for publisher in &mut publishers {
        let counts: Vec<redis::Value> =
            redis::cmd("PUBSUB").arg("NUMSUB").arg("a").arg("b").query_async(publisher).await.unwrap();
        let counts: (String, usize, String, usize) =
            redis::from_redis_value(redis::Value::Array(counts)).unwrap();
        assert_eq!(counts, ("a".to_owned(), 2, "b".to_owned(), 1));
    }
    // Who is told of what was written before finds it, though both were sent at once.
    let mut reader = connect(&cluster.nodes[1].front).await;
    for round in 0..100_u32 {
        let _: () = redis::pipe()
            .set("seen", round)
            .ignore()
            .publish("b", round)
            .ignore()
            .query_async(&mut publishers[0])
            .await
            .unwrap();
        assert_eq!(next(&mut second).await, said("b", &round.to_string()));
        assert_eq!(reader.get::<_, u32>("seen").await.unwrap(), round);
    }
    // Within a transaction, and within a script: by the leader alone, once.
    let mut publisher = publishers.remove(2);
    let counts: (usize, usize) = redis::pipe()
        .atomic()
        .publish("b", "one")
        .publish("b", "two")
        .query_async(&mut publisher)
        .await
        .unwrap();
    assert_eq!(counts, (1, 1));
    assert_eq!(next(&mut second).await, said("b", "one"));
    assert_eq!(next(&mut second).await, said("b", "two"));
    let script = redis::Script::new("redis.call('PUBLISH', 'b', ARGV[1]) return redis.call('INCR', KEYS[1])");
    for round in 1..=5 {
        let text = round.to_string();
        assert_eq!(script.key("k").arg(&text).invoke_async::<i64>(&mut publisher).await.unwrap(), round);
        assert_eq!(next(&mut second).await, said("b", &text));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_keys_are_told_once_wherever_they_are_led() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let mut redis = connect(&cluster.nodes[0].front).await;
    let mut listener = subscriber(&cluster.nodes[2].front).await;
    let mut at_third = connect(&cluster.nodes[2].front).await;
    // Nothing is told unless it was asked for.
    listener.psubscribe("__key*__:*").await.unwrap();
    let _: () = redis.set("before", 1).await.unwrap();
    let _: () = redis::cmd("CONFIG")
        .arg("SET")
        .arg("notify-keyspace-events")
        .arg("E$x")
        .query_async(&mut at_third)
        .await
        .unwrap();
    // Of another connection: it is in force when this node's interest is known, which a subscription waits for.
    listener.subscribe("settled").await.unwrap();
    for key in 0..40 {
        let _: () = redis.set(format!("k{key}"), key).await.unwrap();
        let _: () = redis.lpush(format!("l{key}"), key).await.unwrap();
        assert_eq!(next(&mut listener).await, said("__keyevent@0__:set", &format!("k{key}")));
    }
    let _: () = redis.pset_ex("short", 1, 1).await.unwrap();
    assert_eq!(next(&mut listener).await, said("__keyevent@0__:set", "short"));
    assert_eq!(next(&mut listener).await, said("__keyevent@0__:expired", "short"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sharded_channels_and_grpc_are_the_same_messages() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let address = |node: usize| format!("http://{}", cluster.nodes[node].grpc);
    let mut grpc = GridClient::connect(address(1)).await.unwrap();
    let request = SubscribeRequest {
        channels: vec![Bytes::from_static(b"plain")],
        patterns: vec![Bytes::from_static(b"pl*")],
        sharded: vec![Bytes::from_static(b"sharded")],
    };
    let mut messages = grpc.subscribe(request).await.unwrap().into_inner();
    let begun = timeout(PATIENCE, messages.message()).await.unwrap().unwrap().unwrap();
    assert!(begun.channel.is_empty());
    let mut redis = connect(&cluster.nodes[0].front).await;
    assert_eq!(redis.spublish::<_, _, usize>("sharded", "1").await.unwrap(), 1);
    assert_eq!(redis.publish::<_, _, usize>("sharded", "nobody").await.unwrap(), 0);
    let request = PublishRequest {
        channel: Bytes::from_static(b"plain"),
        payload: Bytes::from_static(b"2"),
        sharded: false,
    };
    let mut there = GridClient::connect(address(2)).await.unwrap();
    assert_eq!(there.publish(request).await.unwrap().into_inner().receivers, 2);
    let mut told = Vec::new();
    for _ in 0..3 {
        let message = timeout(PATIENCE, messages.message()).await.unwrap().unwrap().unwrap();
        told.push((message.channel, message.payload, message.pattern.is_some()));
    }
    let bytes = Bytes::from_static;
    assert!(told.contains(&(bytes(b"sharded"), bytes(b"1"), false)), "{told:?}");
    assert!(told.contains(&(bytes(b"plain"), bytes(b"2"), false)), "{told:?}");
    assert!(told.contains(&(bytes(b"plain"), bytes(b"2"), true)), "{told:?}");
    let refused = there.subscribe(SubscribeRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}
