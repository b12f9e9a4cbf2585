//! What goes to the leader of a partition: carried out here if that is this node, else on the stream to the node that it is
//! ([`trimaran_net::pipeline`]); what takes long, and what a node of an older release is asked, as a call of its own.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tonic::{Code, Response, Status};
use trimaran_cluster::route::{self, Target};
use trimaran_net::pipeline::Down;
use trimaran_net::status::{detail, of_failure};
use trimaran_proto::internal::shard as wire;
use trimaran_proto::internal::shard::answer::Body as Answered;
use trimaran_proto::internal::shard::ask::Body as Asked;
use trimaran_proto::internal::shard::read_request::Body as Question;
use trimaran_replication::Error as ReplicationError;
use trimaran_replication::session::RequestId;

use super::Router;
use crate::error::{Error, Invalid};
use crate::machine::ShardMachine;

/// How long one attempt at another node may take before it is tried elsewhere.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(6);

/// Commands on their way to one partition, with ids of one session.
pub(super) struct Write<'a> {
    pub(super) router: &'a Router,
    pub(super) partition: u64,
    pub(super) commands: Vec<(Bytes, RequestId)>,
}

impl Write<'_> {
    fn request(&self) -> Result<wire::WriteRequest, Error> {
        let first = self.commands.first().map(|(_, id)| *id).ok_or_else(|| nobody(self.partition))?;
        let mut numbered = self.commands.iter().zip(first.sequence..);
        let is_run = numbered.all(|((_, id), at)| id.sequence == at);
        let sequences = self.commands.iter().map(|(_, id)| id.sequence);
        Ok(wire::WriteRequest {
            partition: self.partition,
            commands: self.commands.iter().map(|(command, _)| command.clone()).collect(),
            session: first.session,
            first_sequence: first.sequence,
            answered_below: first.answered_below,
            sequences: if is_run { Vec::new() } else { sequences.collect() },
        })
    }
}

impl route::Ask<ShardMachine> for Write<'_> {
    type Answer = Vec<Bytes>;
    type Error = Error;

    async fn ask(&self, target: Target<ShardMachine>) -> Result<Vec<Bytes>, Error> {
        let node = match target {
            Target::Here(group) => return self.router.propose(&group, self.commands.clone()).await,
            Target::Nobody => return Err(nobody(self.partition)),
            Target::There(node) => node,
        };
        match on_the_line(self.router, node, self.partition, Asked::Write(self.request()?)).await? {
            Some(Answered::Write(reply)) => Ok(reply.replies),
            Some(_) => {
                Err(unknown(self.partition, "the partition's leader gave an answer to something else"))
            }
            None => {
                let mut client = self.router.client(node).ok_or_else(|| nobody(self.partition))?;
                Ok(answered(self.partition, client.write(self.request()?)).await?.replies)
            }
        }
    }
}

/// A question on its way to one partition.
pub(super) struct Read<'a> {
    pub(super) router: &'a Router,
    pub(super) partition: u64,
    pub(super) question: Question,
}

impl Read<'_> {
    fn request(&self) -> wire::ReadRequest {
        wire::ReadRequest { partition: self.partition, body: Some(self.question.clone()) }
    }
}

impl route::Ask<ShardMachine> for Read<'_> {
    type Answer = wire::ReadReply;
    type Error = Error;

    async fn ask(&self, target: Target<ShardMachine>) -> Result<wire::ReadReply, Error> {
        let node = match target {
            Target::Here(group) => return self.router.read_here(&group, self.question.clone()).await,
            Target::Nobody => return Err(nobody(self.partition)),
            Target::There(node) => node,
        };
        let answer = match self.question {
            Question::Get(_) => {
                on_the_line(self.router, node, self.partition, Asked::Read(self.request())).await?
            }
            Question::Page(_) | Question::Rows(_) | Question::Stats(_) => None,
        };
        match answer {
            Some(Answered::Read(reply)) => Ok(reply),
            Some(_) => {
                Err(unknown(self.partition, "the partition's leader gave an answer to something else"))
            }
            None => {
                let mut client = self.router.client(node).ok_or_else(|| nobody(self.partition))?;
                answered(self.partition, client.read(self.request())).await
            }
        }
    }
}

/// The answer of a node on the stream of calls to it; `None` if it knows no such stream, and has not seen the call.
async fn on_the_line(
    router: &Router,
    node: u64,
    partition: u64,
    body: Asked,
) -> Result<Option<Answered>, Error> {
    let line = router.inner.lines.to(node).ok_or_else(|| nobody(partition))?;
    match timeout(ATTEMPT_TIMEOUT, line.call(wire::Ask { id: 0, body: Some(body) })).await {
        Ok(Ok(answer)) => match answer.body {
            Some(Answered::Failure(failure)) => Err(refused(partition, &of_failure(failure))),
            Some(body) => Ok(Some(body)),
            None => Err(unknown(partition, "an answer of a newer release")),
        },
        Ok(Err(Down::Unsupported)) => Ok(None),
        Ok(Err(Down::Broken)) => Err(unknown(partition, "the connection to the partition's leader broke")),
        Err(_elapsed) => Err(unknown(partition, "the partition's leader did not answer")),
    }
}

pub(super) fn nobody(partition: u64) -> Error {
    ReplicationError::NotLeader { group: partition, leader: None }.into()
}

fn unknown(partition: u64, reason: &'static str) -> Error {
    ReplicationError::Unknown { group: partition, reason }.into()
}

/// What another node said to a call of its own, as an error of ours.
async fn answered<T>(
    partition: u64,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match timeout(ATTEMPT_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(refused(partition, &status)),
        Err(_elapsed) => Err(unknown(partition, "the partition's leader did not answer")),
    }
}

/// Who leads, or what became of a write, is not known after most refusals: it is tried again with the same id.
fn refused(partition: u64, status: &Status) -> Error {
    match status.code() {
        Code::InvalidArgument => Invalid::new(status.message().to_owned()).into(),
        // Without a word of ours it is the connection that broke: HTTP/2 has the same code for that.
        Code::Internal if !detail(status).code.is_empty() => Error::Storage(status.message().to_owned()),
        _ => unknown(partition, "the partition's leader did not take it"),
    }
}
