//! Commands that go together: those of one partition are one pipeline, which is one request of its log, or one look at its
//! keys.

use bytes::BytesMut;
use futures::future::join_all;
use trimaran_placement::token::Token;
use trimaran_proto::state::grid::Pipeline;

use super::carry_out::{refuse, say, say_encoded};
use super::plan::{Plain, Planned, Session, Step};
use super::{Front, tracking};
use crate::command::reply::{Answer, Protocol};
use crate::error::Error;
use crate::router::Said;

/// Those of one partition.
struct Batch {
    partition: u64,
    tokens: (Token, Token),
    is_write: bool,
    pipeline: Pipeline,
}

impl Batch {
    fn new(front: &Front, partition: u64, plain: &Plain) -> Self {
        let (encodings, format) = (front.settings.encodings(), front.router.format());
        let pipeline = Pipeline { encodings, format, ..Pipeline::default() };
        Self { partition, tokens: plain.tokens, is_write: plain.is_write, pipeline }
    }

    fn push(&mut self, plain: Plain) {
        let Plain { arguments, tokens: (first, last), .. } = plain;
        self.tokens = (self.tokens.0.min(first), self.tokens.1.max(last));
        self.pipeline.counts.push(u32::try_from(arguments.len()).unwrap_or(u32::MAX));
        match self.pipeline.arguments.is_empty() {
            true => self.pipeline.arguments = arguments,
            false => self.pipeline.arguments.extend(arguments),
        }
    }

    async fn carry_out(self, front: &Front, tells_changes: bool) -> Result<Said, Error> {
        match self.is_write {
            true => front.router.write_pipeline(self.tokens, self.pipeline, tells_changes).await,
            false => front.router.read_pipeline(self.tokens, self.pipeline).await,
        }
    }
}

/// What a client is to be answered, in its turn.
enum Waiting {
    /// This.
    Said(Answer),
    /// What the batch says next, or nothing.
    Of {
        batch: usize,
        quiet: bool,
    },
    Nothing,
}

/// The answers of a batch, of which some are said already.
struct Answers {
    said: Result<Said, Error>,
    /// How many, and bytes of them.
    count: usize,
    bytes: usize,
}

impl Answers {
    /// The next one.
    fn next(&mut self) -> Result<(&[u8], bool), &Error> {
        let place = self.count;
        self.count += 1;
        match &self.said {
            Err(error) => Err(error),
            Ok(Said::Together { said, lengths, typed, .. }) => {
                let length = lengths.get(place).map_or(0, |&length| length as usize);
                let next = said.get(self.bytes..self.bytes + length).unwrap_or_default();
                self.bytes += length;
                Ok((next, *typed))
            }
            Ok(Said::Apart(answers)) => match answers.get(place) {
                Some(Ok((said, typed))) => Ok((&said[..], *typed)),
                Some(Err(error)) => Err(error),
                None => Err(&Error::NotReady),
            },
        }
    }
}

/// Has commands of one kind done, and answers each.
pub(super) async fn carry_out(
    front: &Front,
    session: &mut Session,
    planned: &mut Vec<Planned>,
    outbound: &mut BytesMut,
) {
    let tells_changes = tracking::tells_changes(session);
    let table = front.router.table();
    let mut batches: Vec<Batch> = Vec::new();
    let mut place_of = |plain: Plain| {
        let partition = table.find(plain.tokens.0).map_or(0, |found| found.id);
        let place = batches.iter().position(|batch| batch.partition == partition).unwrap_or_else(|| {
            batches.push(Batch::new(front, partition, &plain));
            batches.len() - 1
        });
        batches[place].push(plain);
        place
    };
    let waiting: Vec<(Waiting, Protocol)> = planned
        .drain(..)
        .map(|Planned { step, protocol, quiet, .. }| {
            let waiting = match step {
                Step::Plain(plain) => Waiting::Of { batch: place_of(plain), quiet },
                Step::Said(answer) if !quiet => Waiting::Said(answer),
                // They are done otherwise.
                Step::Said(_) | Step::Parts(..) | Step::Task(_) => Waiting::Nothing,
            };
            (waiting, protocol)
        })
        .collect();
    drop(table);
    let said = match <[Batch; 1]>::try_from(batches) {
        Ok([batch]) => vec![batch.carry_out(front, tells_changes).await],
        Err(batches) => {
            join_all(batches.into_iter().map(|batch| batch.carry_out(front, tells_changes))).await
        }
    };
    for said in &said {
        if let Ok(Said::Together { changes: Some(changes), .. }) = said {
            session.own_changes.push(*changes);
        }
    }
    let mut answers: Vec<Answers> =
        said.into_iter().map(|said| Answers { said, count: 0, bytes: 0 }).collect();
    for (waiting, protocol) in waiting {
        match waiting {
            Waiting::Said(answer) => say(answer, protocol, outbound),
            Waiting::Of { batch, quiet } => match answers.get_mut(batch).map(Answers::next) {
                _ if quiet => {}
                Some(Ok((said, typed))) => say_encoded(said, typed, protocol, outbound),
                Some(Err(error)) => refuse(session.front, error, outbound),
                None => {}
            },
            Waiting::Nothing => {}
        }
    }
}
