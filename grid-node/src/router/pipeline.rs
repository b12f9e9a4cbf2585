//! Commands that a client sent together: one request of the partition's log, or one look at its keys; each by itself once they
//! have come to lie apart.

use bytes::Bytes;
use prost::Message as _;
use trimaran_placement::token::Token;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::query::Body as QueryBody;
use trimaran_proto::state::grid::{Command, OwnChanges, Pipeline, Query, QueryReply, Reply};
use trimaran_replication::group::Group;

use super::{Question, Router, Write, tokens};
use crate::error::Error;
use crate::machine::run;

impl Router {
    /// Answers the commands of a pipeline, of which none changes anything. Their keys lie between the tokens.
    pub async fn read_pipeline(&self, tokens: (Token, Token), pipeline: Pipeline) -> Result<Said, Error> {
        if let Some(group) = self.inner.routes.led_here(tokens).filter(Group::is_fresh) {
            self.inner.routes.note(group.id(), pipeline.counts.len(), || Some(tokens.0));
            let now_ms = self.now_ms(&group);
            let answered = group.read_now(|machine| {
                let is_here = !machine.is_elsewhere() && run::are_here(machine.keys(), &pipeline);
                is_here.then(|| run::answers(machine.keys(), &pipeline, now_ms))
            });
            if let Some(reply) = answered {
                return Said::of_read(reply);
            }
        }
        let question = |pipeline, tokens| Question {
            tokens,
            query: Query { body: Some(QueryBody::Pipeline(pipeline)) },
        };
        match self.read(vec![question(pipeline.clone(), tokens)]).await.pop().unwrap_or(Err(Error::NotReady))
        {
            Ok(reply) => Said::of_read(reply),
            Err(Error::CrossSlot) if pipeline.counts.len() > 1 => {
                let questions = apart(&pipeline).map(|(one, tokens)| question(one, tokens)).collect();
                let said = |reply: Result<QueryReply, Error>| only(Said::of_read(reply?)?);
                Ok(Said::Apart(self.read(questions).await.into_iter().map(said).collect()))
            }
            Err(error) => Err(error),
        }
    }

    /// Has the commands of a pipeline carried out in order. Their keys lie between the tokens; if those have come to lie in
    /// several partitions, each command is sent by itself.
    /// With `tells_changes` it is also said which changes are its own, where that is certain.
    pub async fn write_pipeline(
        &self,
        tokens: (Token, Token),
        pipeline: Pipeline,
        tells_changes: bool,
    ) -> Result<Said, Error> {
        let count = pipeline.counts.len();
        let write = |pipeline, tokens| {
            let body = Some(Body::Pipeline(pipeline));
            let command = Command { body, tells_changes, ..Command::default() }.encode_to_vec();
            Write { tokens, command: Bytes::from(command) }
        };
        let whole = write(pipeline, tokens);
        let command = whole.command.clone();
        match self.write_one(whole, None).await {
            Ok(reply) => Said::of_write(reply),
            Err(Error::CrossSlot) if count > 1 => {
                // Nothing of it was done, and its id is not used again.
                let Ok(Some(Body::Pipeline(pipeline))) = Command::decode(command).map(|command| command.body)
                else {
                    return Err(Error::CrossSlot);
                };
                let writes = apart(&pipeline).map(|(one, tokens)| write(one, tokens)).collect();
                let said = |reply: Result<Reply, Error>| only(Said::of_write(reply?)?);
                Ok(Said::Apart(self.write(writes, None).await.into_iter().map(said).collect()))
            }
            Err(error) => Err(error),
        }
    }
}

/// What the commands of a pipeline were answered.
#[derive(Debug)]
pub enum Said {
    /// One behind the other.
    Together {
        /// The answers.
        said: Bytes,
        /// How many bytes each has.
        lengths: Vec<u32>,
        /// Something in them is said otherwise in RESP2.
        typed: bool,
        /// What they have changed, where that was asked for.
        changes: Option<OwnChanges>,
    },
    /// Each by itself: the answer, and whether something in it is said otherwise in RESP2.
    Apart(Vec<Result<(Bytes, bool), Error>>),
}

impl Said {
    fn of_write(reply: Reply) -> Result<Self, Error> {
        Self::together(reply.said, reply.lengths, reply.typed, reply.changes)
    }

    fn of_read(reply: QueryReply) -> Result<Self, Error> {
        Self::together(reply.said, reply.lengths, reply.typed, None)
    }

    fn together(
        said: Vec<Bytes>,
        lengths: Vec<u32>,
        typed: bool,
        changes: Option<OwnChanges>,
    ) -> Result<Self, Error> {
        match <[Bytes; 1]>::try_from(said) {
            Ok([said]) if lengths.iter().map(|&length| length as usize).sum::<usize>() == said.len() => {
                Ok(Self::Together { said, lengths, typed, changes })
            }
            // From a duplicate that had its answer before: nobody waits for this one.
            _ => Err(Error::NotReady),
        }
    }
}

/// Of a pipeline of one command.
fn only(said: Said) -> Result<(Bytes, bool), Error> {
    match said {
        Said::Together { said, typed, .. } => Ok((said, typed)),
        Said::Apart(_) => Err(Error::NotReady),
    }
}

/// The commands of a pipeline, each as one of its own, with the tokens of its keys.
fn apart(pipeline: &Pipeline) -> impl Iterator<Item = (Pipeline, (Token, Token))> {
    run::commands(pipeline).map(|(spec, arguments)| {
        let keys = spec.into_iter().flat_map(|spec| spec.keys(arguments));
        let tokens = tokens(keys).unwrap_or((Token(0), Token(0)));
        let one = Pipeline {
            arguments: arguments.to_vec(),
            counts: vec![u32::try_from(arguments.len()).unwrap_or(u32::MAX)],
            encodings: pipeline.encodings,
            format: pipeline.format,
        };
        (one, tokens)
    })
}
