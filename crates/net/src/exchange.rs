//! What goes over streams of calls ([`crate::pipeline`]): between clients and nodes, and between nodes.

use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};
use trimaran_proto::api::database::database_client::DatabaseClient;
use trimaran_proto::api::grid::grid_client::GridClient;
use trimaran_proto::api::{database, grid};
use trimaran_proto::internal::shard;
use trimaran_proto::internal::shard::shard_client::ShardClient;

use crate::pipeline::{Exchange, MESSAGE_BYTES_MAX};

/// Implements it for messages whose calls, and answers, have an `id`.
macro_rules! exchange {
    ($(#[$doc:meta])* $name:ident, $api:ident: $client:ident.$method:ident($calls:ident.$each:ident: $call:ident) -> $answers:ident: $answer:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Exchange for $name {
            type Call = $api::$call;
            type Answer = $api::$answer;
            type Calls = $api::$calls;
            type Answers = $api::$answers;

            async fn open(
                channel: Channel,
                calls: ReceiverStream<Self::Calls>,
            ) -> Result<Response<Streaming<Self::Answers>>, Status> {
                let client = $client::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                client.max_encoding_message_size(MESSAGE_BYTES_MAX).$method(calls).await
            }

            fn number(call: &mut Self::Call, id: u64) {
                call.id = id;
            }

            fn number_of(answer: &Self::Answer) -> u64 {
                answer.id
            }

            fn calls(calls: Vec<Self::Call>) -> Self::Calls {
                Self::Calls { $each: calls }
            }

            fn into_calls(calls: Self::Calls) -> Vec<Self::Call> {
                calls.$each
            }

            fn answers(answers: Vec<Self::Answer>) -> Self::Answers {
                Self::Answers { answers }
            }

            fn into_answers(answers: Self::Answers) -> Vec<Self::Answer> {
                answers.answers
            }
        }
    };
}

exchange! {
    /// Of the grid, from clients and from nodes.
    GridCalls, grid: GridClient.pipeline(PipelineRequest.calls: Call) -> PipelineReply: Answer
}

exchange! {
    /// Of the database, from clients: operations on one item.
    DatabaseCalls, database: DatabaseClient.pipeline(PipelineRequest.calls: Call) -> PipelineReply: Answer
}

exchange! {
    /// Of the database, from the node that was asked to the one that leads a partition.
    ShardCalls, shard: ShardClient.line(Asks.asks: Ask) -> Answers: Answer
}
