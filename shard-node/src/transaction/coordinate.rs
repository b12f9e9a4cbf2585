//! A transaction at the node that was asked for it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;

use super::apply::touched;
use super::recover::resolve;
use super::{ID_BYTES, record, row_key};
use crate::error::Error;
use crate::key::RowKey;
use crate::router::Router;
use crate::store::version_at;

/// How long a transaction is tried.
const PATIENCE: Duration = Duration::from_secs(8);

/// An idempotency token, and what it was given for.
#[derive(Clone, Debug)]
pub struct Token {
    /// Of the token.
    pub key: [u8; ID_BYTES],
    /// Of everything that is asked.
    pub fingerprint: Bytes,
}

/// What became of a transaction.
#[derive(Debug)]
pub enum Ended {
    /// It was carried out; a reply for each action.
    Committed(Vec<state::Reply>),
    /// It had been carried out before, with the same token.
    Repeated(Vec<state::TouchedItem>),
    /// Nothing was changed; a reply for each action, [`Outcome::Applied`] for those that had nothing against it.
    Cancelled(Vec<state::Reply>),
}

/// One attempt's end.
enum Attempt {
    Ended(Ended),
    /// With the partitions that there are by now, or at a later time.
    Again,
}

/// Carries a transaction out, or finds why not. Actions are on different items.
///
/// Errors: [`Error::TokenReused`], [`Error::InProgress`]; [`Error::TableDropped`] with nothing done.
pub async fn run(
    router: &Router,
    actions: Vec<(RowKey, What)>,
    token: Option<Token>,
) -> Result<Ended, Error> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let attempt = attempt(router, &actions, token.as_ref(), &router.new_id()).await?;
        match attempt {
            Attempt::Ended(ended) => return Ok(ended),
            Attempt::Again if tokio::time::Instant::now() < deadline => {}
            Attempt::Again => return Err(Error::Held),
        }
    }
}

async fn attempt(
    router: &Router,
    actions: &[(RowKey, What)],
    token: Option<&Token>,
    id: &[u8; ID_BYTES],
) -> Result<Attempt, Error> {
    let record = record(token.map_or(id, |token| &token.key));
    let is_write = |(_, what): &&(RowKey, What)| !matches!(what, What::Check(_));
    let writing = actions.iter().filter(is_write).map(|(key, _)| &key.row);
    let transaction = state::Transaction {
        id: Bytes::copy_from_slice(id),
        record: record.row.clone(),
        writes: super::writes(writing),
        fingerprint: token.map(|token| token.fingerprint.clone()).unwrap_or_default(),
    };
    // Places of the actions by partition.
    let mut parts: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, (key, _)) in actions.iter().enumerate() {
        parts.entry(router.partition_of(key.token).ok_or(Error::NotReady)?).or_default().push(place);
    }
    let action = |place: &usize| {
        let (key, what) = &actions[*place];
        state::Action { row: key.row.clone(), what: Some(what.clone()) }
    };
    let is_one = parts.len() == 1
        && (token.is_none()
            || router.partition_of(record.token) == parts.first_key_value().map(|(id, _)| *id));
    if is_one {
        let transact = state::Transact {
            transaction: token.map(|_| transaction),
            actions: (0..actions.len()).map(|place| action(&place)).collect(),
        };
        let key = &actions.first().ok_or(Error::NotReady)?.0;
        let reply = router.write(key, Body::Transact(transact), None).await?;
        return match reply.outcome() {
            Outcome::Applied => Ok(Attempt::Ended(Ended::Committed(reply.replies))),
            Outcome::Cancelled => cancelled(router, reply.replies, &record, token).await,
            Outcome::Known => repeated(reply.record, token),
            Outcome::TableDropped => Err(Error::TableDropped),
            _ => {
                router.wait_for_partitions().await;
                Ok(Attempt::Again)
            }
        };
    }
    let two_phases = TwoPhases { router, actions, token, transaction, record };
    two_phases.run(parts.into_values().collect(), action).await
}

/// A transaction over several partitions, or whose record is in another one.
struct TwoPhases<'a> {
    router: &'a Router,
    actions: &'a [(RowKey, What)],
    token: Option<&'a Token>,
    transaction: state::Transaction,
    record: RowKey,
}

impl TwoPhases<'_> {
    async fn run(
        self,
        parts: Vec<Vec<usize>>,
        action: impl Fn(&usize) -> state::Action,
    ) -> Result<Attempt, Error> {
        let router = self.router;
        let begun = router.seen(version_at(router.now_ms()));
        let prepare = |part: &Vec<usize>| {
            let prepare = state::Prepare {
                transaction: Some(self.transaction.clone()),
                actions: part.iter().map(&action).collect(),
                begun,
            };
            (self.actions[part[0]].0.clone(), Body::Prepare(prepare))
        };
        let replies = router.write_many(parts.iter().map(prepare).collect(), None).await;

        let mut by_action: Vec<state::Reply> = vec![state::Reply::default(); self.actions.len()];
        let mut prepared = u64::MAX;
        let mut refused = None;
        let (mut is_cancelled, mut unknown) = (false, false);
        for (part, reply) in parts.iter().zip(replies) {
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    unknown = true;
                    refused = Some(Err(error));
                    continue;
                }
            };
            match reply.outcome() {
                Outcome::Applied => prepared = prepared.min(reply.version),
                Outcome::Cancelled => is_cancelled = true,
                Outcome::TableDropped => refused = Some(Err(Error::TableDropped)),
                Outcome::TooLate => {
                    router.seen(reply.version);
                    refused = refused.or(Some(Ok(Attempt::Again)));
                }
                _ => {
                    router.wait_for_partitions().await;
                    refused = refused.or(Some(Ok(Attempt::Again)));
                }
            }
            for (place, reply) in part.iter().zip(reply.replies) {
                by_action[*place] = reply;
            }
        }
        if is_cancelled || refused.is_some() {
            if unknown || prepared != u64::MAX {
                self.let_go(unknown).await;
            }
            return match refused {
                // What is known to stand against it counts more than what is not known.
                _ if is_cancelled => cancelled(router, by_action, &self.record, self.token).await,
                Some(refused) => refused,
                None => Ok(Attempt::Again),
            };
        }

        let items =
            self.actions.iter().zip(&by_action).map(|((key, _), reply)| touched(key.row.clone(), reply));
        let decide = state::Decide {
            transaction: Some(self.transaction.clone()),
            commit: true,
            prepared,
            items: items.collect(),
        };
        let reply = router.write(&self.record, Body::Decide(decide), None).await?;
        match reply.record {
            Some(record) if record.id == self.transaction.id && record.committed => {
                self.carry_out(reply.version).await;
                Ok(Attempt::Ended(Ended::Committed(by_action)))
            }
            Some(record) if record.committed => {
                self.let_go(false).await;
                repeated(Some(record), self.token)
            }
            // Somebody has decided against it, or the clocks are far apart.
            _ => {
                router.seen(reply.version);
                self.let_go(false).await;
                Ok(Attempt::Again)
            }
        }
    }

    /// The caller need not wait for it: whoever comes to an item before it is written sees to that.
    async fn carry_out(self, decided: u64) {
        let rows: Vec<Bytes> = self.actions.iter().map(|(key, _)| key.row.clone()).collect();
        let commands = resolve(&self.transaction.id, true, decided, rows);
        let end = resolve(&self.transaction.id, true, decided, [self.record.row.clone()]).pop();
        let Some(place) = self.router.resolving().await else { return };
        let router = self.router.clone();
        tokio::spawn(async move {
            let _place = place;
            let done = router.write_many(commands, None).await;
            if done.iter().all(Result::is_ok)
                && let Some((key, end)) = end
                && let Err(error) = router.write(&key, end, None).await
            {
                tracing::debug!(%error, "that a transaction is written is noted later");
            }
        });
    }

    /// Nothing of it is to be written. Only this node could have decided for it, so what was prepared can be let go at once; what
    /// is not let go now is when somebody meets it. `unknown`: a part may be prepared yet, and whoever meets that is to find
    /// what was decided.
    async fn let_go(&self, unknown: bool) {
        if unknown {
            let decide = state::Decide {
                transaction: Some(self.transaction.clone()),
                commit: false,
                prepared: 0,
                items: Vec::new(),
            };
            if let Err(error) = self.router.write(&self.record, Body::Decide(decide), None).await {
                tracing::debug!(%error, "a transaction is decided against later");
            }
        }
        let rows = self.actions.iter().map(|(key, _)| key.row.clone());
        let commands = resolve(&self.transaction.id, false, 0, rows);
        for left in self.router.write_many(commands, None).await {
            if let Err(error) = left {
                tracing::debug!(%error, "an intent is let go later");
            }
        }
    }
}

/// A transaction with this token was carried out before.
fn repeated(record: Option<state::Record>, token: Option<&Token>) -> Result<Attempt, Error> {
    let (Some(record), Some(token)) = (record, token) else { return Ok(Attempt::Again) };
    if record.fingerprint != token.fingerprint {
        return Err(Error::TokenReused);
    }
    Ok(Attempt::Ended(Ended::Repeated(record.items)))
}

/// Why it was not carried out; or it was, by another attempt of the same caller, or what stood against it is gone.
async fn cancelled(
    router: &Router,
    replies: Vec<state::Reply>,
    record: &RowKey,
    token: Option<&Token>,
) -> Result<Attempt, Error> {
    if replies.iter().any(|reply| reply.outcome() == Outcome::TableDropped) {
        return Err(Error::TableDropped);
    }
    if token.is_some()
        && let Some(known) = router.recorded(&record.row).await?
    {
        return repeated(Some(known), token);
    }
    let held: Vec<state::Held> = replies.iter().flat_map(|reply| reply.held.clone()).collect();
    let is_own = |held: &state::Held| {
        token.is_some() && held.transaction.as_ref().is_some_and(|other| other.record == record.row)
    };
    if held.iter().any(is_own) {
        return Err(Error::InProgress);
    }
    // What is decided and not written yet stands against nothing: whoever was told of that transaction is not to be told of a
    // conflict with it, also where something else stands against this one.
    if !held.is_empty() && router.settle(held).await?.is_empty() {
        return Ok(Attempt::Again);
    }
    Ok(Attempt::Ended(Ended::Cancelled(replies)))
}

/// Reads rows as they were all at one moment: they are read twice, and nothing was written in between. Their versions tell,
/// or when something was removed. `None` if that did not come about in some attempts.
pub async fn read_at_once(
    router: &Router,
    keys: Vec<RowKey>,
) -> Result<Option<Vec<trimaran_proto::internal::shard::MaybeItem>>, Error> {
    let read = async || router.get(keys.clone()).await.into_iter().collect::<Result<Vec<_>, Error>>();
    let partitions = || {
        let found = keys.iter().map(|key| router.partition_of(key.token));
        found.collect::<std::collections::BTreeSet<_>>()
    };
    let before = partitions();
    let mut first = read().await?;
    // One question: one moment. But of a transaction that is decided on while it is asked, one part may be there and another not.
    if before.len() == 1 && partitions() == before && !first.iter().any(|item| item.held) {
        return Ok(Some(first));
    }
    for _ in 0..crate::limits::SNAPSHOT_ATTEMPTS {
        let second = read().await?;
        let is_same = first
            .iter()
            .zip(&second)
            .all(|(a, b)| (a.version, a.item.is_some()) == (b.version, b.item.is_some()));
        if is_same {
            return Ok(Some(second));
        }
        first = second;
    }
    Ok(None)
}

/// Carries on with what was decided long ago and whose items may not all be written.
pub(crate) async fn finish(
    router: &Router,
    row: Bytes,
    record: &state::Record,
    decided: u64,
) -> Result<(), Error> {
    let rows = record.items.iter().map(|item| item.row.clone());
    for reply in router.write_many(resolve(&record.id, true, decided, rows), None).await {
        reply?;
    }
    let end = state::Resolve { id: record.id.clone(), commit: true, decided };
    router.write(&row_key(row), Body::Resolve(end), None).await?;
    Ok(())
}
