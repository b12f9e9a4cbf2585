//! Has what was planned done, and answers in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::Instant;
use trimaran_proto::state::grid::{QueryReply, Reply};

use super::plan::{self, Join, Part, Planned, Session, Step, error_text};
use super::{Front, together, tracking};
use crate::command::reply::{Answer, Protocol, elements_of, integer_of, is_error, transcode};
use crate::error::Error;
use crate::limits::{PIPELINE_BYTES_MAX, UNREAD_ANSWER_MAX};
use crate::metrics;

/// Answers requests in order, and takes them out. False if the client asked to be closed, or has gone while it waited. Without a stream
/// nothing is waited for: what would wait is answered as if its time was over.
pub(crate) async fn answer(
    front: &Front,
    session: &mut Session,
    stream: Option<&TcpStream>,
    requests: &mut Vec<Vec<Bytes>>,
    outbound: &mut BytesMut,
) -> bool {
    if requests.is_empty() {
        return true;
    }
    if front.pause.is_on() {
        let client = Arc::clone(&session.client);
        tokio::select! {
            () = front.pause.wait(session, requests) => {}
            () = client.killed() => return false,
        }
    }
    session.commands.increment(requests.len() as u64);
    let own = tracking::Changing::begin(front, session);
    front.slow_log.begin(requests, &mut session.slow);
    let began = Instant::now();
    let answered = answer_each(front, session, stream, requests, outbound).await;
    own.end(session);
    if answered == Answered::HasWaited {
        // That is what it was for.
        session.slow.forget();
    }
    front.slow_log.end(front, session, began.elapsed());
    answered != Answered::Ends
}

/// How requests were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    All,
    /// One of them has waited for something to come.
    HasWaited,
    /// The connection ends.
    Ends,
}

async fn answer_each(
    front: &Front,
    session: &mut Session,
    stream: Option<&TcpStream>,
    requests: &mut Vec<Vec<Bytes>>,
    outbound: &mut BytesMut,
) -> Answered {
    let mut answered = Answered::All;
    let mut planned: Vec<Planned> = Vec::with_capacity(requests.len());
    // Of what is planned, and bytes of it.
    let (mut kind, mut bytes) = (None, 0);
    for arguments in requests.drain(..) {
        let plan = plan::plan(front, session, arguments);
        let (of_plan, more) = match &plan.step {
            Step::Plain(plain) => (plan.kind(), plain.bytes()),
            _ => (plan.kind(), 0),
        };
        // What can go together: reads with reads, writes with writes; some alone.
        if kind.is_some()
            && of_plan.is_some_and(|of_plan| kind != Some(of_plan) || bytes + more > PIPELINE_BYTES_MAX)
        {
            carry_out(front, session, &mut planned, outbound).await;
            bytes = 0;
        }
        kind = of_plan.or(kind);
        bytes += more;
        let closes = plan.closes;
        match plan.step {
            Step::Task(task) => {
                carry_out(front, session, &mut planned, outbound).await;
                (kind, bytes) = (None, 0);
                if task.blocks() {
                    answered = Answered::HasWaited;
                }
                // What was answered before it may be long in coming else.
                if task.waits()
                    && let Some(stream) = stream
                    && flush(stream, outbound).await.is_err()
                {
                    return Answered::Ends;
                }
                let Some(answer) = task.perform(front, session, stream).await else { return Answered::Ends };
                if !plan.quiet {
                    say(answer, plan.protocol, outbound);
                }
            }
            step => planned.push(Planned { step, ..plan }),
        }
        if closes {
            carry_out(front, session, &mut planned, outbound).await;
            return Answered::Ends;
        }
    }
    carry_out(front, session, &mut planned, outbound).await;
    answered
}

/// Writes what is ready.
async fn flush(stream: &TcpStream, outbound: &mut BytesMut) -> std::io::Result<()> {
    let all = async {
        while !outbound.is_empty() {
            stream.writable().await?;
            match stream.try_write(outbound) {
                Ok(written) => drop(outbound.split_to(written)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    tokio::time::timeout(UNREAD_ANSWER_MAX, all).await?
}

/// Says why a command has no answer.
pub(super) fn refuse(name: &'static str, error: &Error, outbound: &mut BytesMut) {
    metrics::refused(name).increment(1);
    let mut answer = Answer::default();
    answer.error(&error_text(error));
    outbound.extend_from_slice(answer.bytes());
}

/// Writes an answer in a protocol.
pub(super) fn say(answer: Answer, protocol: Protocol, outbound: &mut BytesMut) {
    let (bytes, typed) = answer.finish();
    say_encoded(&bytes, typed, protocol, outbound);
}

pub(super) fn say_encoded(bytes: &[u8], typed: bool, protocol: Protocol, outbound: &mut BytesMut) {
    if typed {
        transcode(bytes, protocol, outbound);
    } else {
        outbound.extend_from_slice(bytes);
    }
}

/// Has commands of one kind done, all at once, and answers each.
async fn carry_out(
    front: &Front,
    session: &mut Session,
    planned: &mut Vec<Planned>,
    outbound: &mut BytesMut,
) {
    if planned.iter().any(|planned| matches!(planned.step, Step::Plain(_))) {
        together::carry_out(front, session, planned, outbound).await;
    } else {
        send_parts(front, session, planned, outbound).await;
    }
}

/// Sends the parts of commands to their partitions, and answers each command with its own.
async fn send_parts(
    front: &Front,
    session: &mut Session,
    planned: &mut Vec<Planned>,
    outbound: &mut BytesMut,
) {
    // Which command each part is of.
    let (mut writers, mut writes) = (Vec::new(), Vec::new());
    let (mut readers, mut reads) = (Vec::new(), Vec::new());
    for (at, plan) in planned.iter_mut().enumerate() {
        let Step::Parts(parts, _) = &mut plan.step else { continue };
        for part in std::mem::take(parts) {
            match part {
                Part::Write(write) => {
                    writers.push(at);
                    writes.push(write);
                }
                Part::Read(question) => {
                    readers.push(at);
                    reads.push(question);
                }
            }
        }
    }
    let mut written: Vec<Vec<Reply>> = vec![Vec::new(); planned.len()];
    let mut read: Vec<Vec<QueryReply>> = vec![Vec::new(); planned.len()];
    let mut failures: BTreeMap<usize, Error> = BTreeMap::new();
    let (replies, answers) = match (writes.is_empty(), reads.is_empty()) {
        (true, true) => (Vec::new(), Vec::new()),
        (false, true) => (front.router.write(writes, None).await, Vec::new()),
        (true, false) => (Vec::new(), front.router.read(reads).await),
        (false, false) => {
            futures::future::join(front.router.write(writes, None), front.router.read(reads)).await
        }
    };
    for (at, reply) in writers.into_iter().zip(replies) {
        match reply {
            Ok(reply) => {
                session.own_changes.extend(reply.changes);
                written[at].push(reply);
            }
            Err(error) => drop(failures.insert(at, error)),
        }
    }
    for (at, answer) in readers.into_iter().zip(answers) {
        match answer {
            Ok(answer) => read[at].push(answer),
            Err(error) => drop(failures.insert(at, error)),
        }
    }
    for (at, ((plan, written), read)) in planned.drain(..).zip(written).zip(read).enumerate() {
        if plan.quiet {
            failures.remove(&at);
            continue;
        }
        if let Some(error) = failures.remove(&at) {
            refuse(session.front, &error, outbound);
            continue;
        }
        match plan.step {
            Step::Said(answer) => say(answer, plan.protocol, outbound),
            Step::Parts(_, join) => join_parts(join, &written, &read, plan.protocol, outbound),
            // They are done otherwise.
            Step::Task(_) | Step::Plain(_) => {}
        }
    }
}

fn join_parts(
    join: Join,
    written: &[Reply],
    read: &[QueryReply],
    protocol: Protocol,
    outbound: &mut BytesMut,
) {
    let of_writes = written.iter().map(|reply| (&reply.said, reply.typed));
    let mut said = of_writes.chain(read.iter().map(|reply| (&reply.said, reply.typed)));
    let mut answer = Answer::default();
    match join {
        Join::One => {
            if let Some((said, typed)) = said.next() {
                said.iter().for_each(|said| say_encoded(said, typed, protocol, outbound));
            }
            return;
        }
        Join::Sum | Join::Concat => {
            let said: Vec<&Bytes> = said.flat_map(|(said, _)| said).collect();
            if let Some(refused) = said.iter().find(|said| is_error(said)) {
                answer.encoded(refused, false);
            } else if matches!(join, Join::Sum) {
                answer.integer(said.into_iter().filter_map(|said| integer_of(said)).sum());
            } else {
                let parts: Vec<(usize, &[u8])> =
                    said.into_iter().filter_map(|said| elements_of(said)).collect();
                answer.array(parts.iter().map(|(count, _)| count).sum());
                // A key that is not there is said otherwise in RESP2.
                parts.iter().for_each(|(_, elements)| answer.encoded(elements, true));
            }
        }
        Join::Typed(render) => render.say(written, read, &mut answer),
    }
    say(answer, protocol, outbound);
}
