//! A transaction at the node that was asked for it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use trimaran_net::retry::Backoff;
use trimaran_proto::state::shard as state;
use trimaran_proto::state::shard::action::What;
use trimaran_proto::state::shard::command::Body;
use trimaran_proto::state::shard::reply::Outcome;
use trimaran_replication::session::RequestId;

use super::apply::touched;
use super::recover::resolve;
use super::{ID_BYTES, record, row_key};
use crate::error::Error;
use crate::key::{RowKey, parse_head};
use crate::limits::HELD_MAX;
use crate::router::{Router, within};
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
    /// It had been carried out before, with the same token. Of a single write, the reply.
    Repeated(Vec<state::TouchedItem>, Bytes),
    /// Nothing was changed; a reply for each action, [`Outcome::Applied`] for those that had nothing against it.
    Cancelled(Vec<state::Reply>),
}

/// One attempt's end.
enum Attempt {
    Ended(Ended),
    /// With the partitions that there are by now, or at a later time.
    Again,
    /// In two phases: there are indexes to be written to.
    Indexed,
}

/// Carries a transaction out, or finds why not. Actions are on different items.
///
/// Errors: [`Error::TokenReused`], [`Error::InProgress`]; [`Error::TableDropped`] with nothing done.
pub async fn run(
    router: &Router,
    actions: Vec<(RowKey, What)>,
    token: Option<Token>,
) -> Result<Ended, Error> {
    carry_out(router, &actions, token.as_ref(), false).await
}

/// One write of one item, with the entries of indexes that follow from it. With a request id, what was done is not done again if the
/// caller asks again, who gets the first answer. What another transaction has a hold of is waited for, up to [`HELD_MAX`].
pub async fn single(
    router: &Router,
    key: RowKey,
    what: What,
    request_id: Option<RequestId>,
) -> Result<state::Reply, Error> {
    let deadline = tokio::time::Instant::now() + HELD_MAX;
    let token = request_id.map(|id| token_of(id, &key));
    let mut backoff = Backoff::default();
    let actions = [(key, what)];
    loop {
        let mut replies = match carry_out(router, &actions, token.as_ref(), true).await? {
            Ended::Committed(replies) | Ended::Cancelled(replies) => replies,
            Ended::Repeated(_, reply) => vec![decode_reply(reply)?],
        };
        let reply = replies.pop().ok_or(Error::NotReady)?;
        if reply.outcome() != Outcome::Held || tokio::time::Instant::now() >= deadline {
            return Ok(reply);
        }
        router.settle(reply.held).await?;
        router.pause(&mut backoff).await;
    }
}

fn decode_reply(reply: Bytes) -> Result<state::Reply, Error> {
    let malformed = |malformed| Error::Storage(format!("the reply to a write: {malformed}"));
    state::Reply::decode(reply).map_err(malformed)
}

/// Of a caller's id, as it counts within the table.
fn token_of(id: RequestId, key: &RowKey) -> Token {
    let id = within(id, parse_head(&key.row).map_or(0, |(table, _)| table));
    let mut token = [0; ID_BYTES];
    let (session, sequence) = token.split_at_mut(ID_BYTES / 2);
    session.copy_from_slice(&id.session.to_be_bytes());
    sequence.copy_from_slice(&id.sequence.to_be_bytes());
    // Whoever has the id asks for the same.
    Token { key: token, fingerprint: Bytes::new() }
}

async fn carry_out(
    router: &Router,
    actions: &[(RowKey, What)],
    token: Option<&Token>,
    single: bool,
) -> Result<Ended, Error> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // A write of one item comes here for the sake of indexes.
    let mut is_indexed = single;
    loop {
        let attempt = attempt(router, actions, token, &router.new_id(), (single, is_indexed)).await?;
        match attempt {
            Attempt::Indexed => is_indexed = true,
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
    (single, is_indexed): (bool, bool),
) -> Result<Attempt, Error> {
    let record = record(token.map_or(id, |token| &token.key));
    let is_write = |(_, what): &&(RowKey, What)| !matches!(what, What::Check(_));
    let writing = actions.iter().filter(is_write).map(|(key, _)| &key.row);
    let transaction = state::Transaction {
        id: Bytes::copy_from_slice(id),
        record: record.row.clone(),
        writes: super::writes(writing),
        fingerprint: token.map(|token| token.fingerprint.clone()).unwrap_or_default(),
        single,
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
        && !is_indexed
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
            Outcome::Indexed => Ok(Attempt::Indexed),
            _ => {
                router.wait_for_partitions().await;
                Ok(Attempt::Again)
            }
        };
    }
    let two_phases = TwoPhases { router, actions, token, transaction, record };
    two_phases.run(parts.into_values().collect()).await
}

/// A transaction over several partitions, or whose record is in another one.
struct TwoPhases<'a> {
    router: &'a Router,
    actions: &'a [(RowKey, What)],
    token: Option<&'a Token>,
    transaction: state::Transaction,
    record: RowKey,
}

/// What came of preparing some rows.
struct Prepared {
    /// A reply for each row.
    replies: Vec<state::Reply>,
    /// The smallest of the versions at which parts were prepared; `u64::MAX` = none was.
    version: u64,
    /// Something stands against it.
    is_cancelled: bool,
    /// Part of it was not prepared for another reason.
    refused: Option<Result<Attempt, Error>>,
    /// Part of it may be prepared, or may be yet.
    unknown: bool,
}

impl TwoPhases<'_> {
    async fn run(self, parts: Vec<Vec<usize>>) -> Result<Attempt, Error> {
        let router = self.router;
        let begun = router.seen(version_at(router.now_ms()));
        let mut prepared = self.prepare(self.actions, parts, begun).await;
        // What follows from them for indexes is known only now.
        let entries = prepared.replies.iter_mut().flat_map(|reply| std::mem::take(&mut reply.entries));
        let entry = |change: state::IndexChange| {
            let entry = state::IndexEntry { item: change.item, size: change.size };
            (row_key(change.row), What::Entry(entry))
        };
        let entries: Vec<(RowKey, What)> = entries.map(entry).collect();
        let mut rows: Vec<Bytes> = self.actions.iter().map(|(key, _)| key.row.clone()).collect();
        let is_open = !prepared.is_cancelled && prepared.refused.is_none();
        if is_open && !entries.is_empty() {
            rows.extend(entries.iter().map(|(key, _)| key.row.clone()));
            let mut parts: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
            for (place, (key, _)) in entries.iter().enumerate() {
                let partition = router.partition_of(key.token).ok_or(Error::NotReady)?;
                parts.entry(partition).or_default().push(place);
            }
            let of_entries = self.prepare(&entries, parts.into_values().collect(), begun).await;
            prepared.version = prepared.version.min(of_entries.version);
            prepared.unknown = of_entries.unknown;
            prepared.refused = of_entries.refused;
            if of_entries.is_cancelled {
                // Nobody but a transaction on the same item writes them: one that is decided, and not written there yet.
                let held: Vec<state::Held> =
                    of_entries.replies.into_iter().flat_map(|reply| reply.held).collect();
                self.let_go(&rows, prepared.unknown).await;
                router.settle(held).await?;
                return Ok(Attempt::Again);
            }
        }
        if prepared.is_cancelled || prepared.refused.is_some() {
            if prepared.unknown || prepared.version != u64::MAX {
                self.let_go(&rows, prepared.unknown).await;
            }
            return match prepared.refused {
                // What is known to stand against it counts more than what is not known.
                _ if prepared.is_cancelled => {
                    cancelled(router, prepared.replies, &self.record, self.token).await
                }
                Some(refused) => refused,
                None => Ok(Attempt::Again),
            };
        }

        let of_action = self.actions.iter().zip(&prepared.replies);
        let items = of_action.map(|((key, _), reply)| touched(key.row.clone(), reply));
        let of_index = |(key, _): &(RowKey, What)| state::TouchedItem {
            row: key.row.clone(),
            ..state::TouchedItem::default()
        };
        let reply = prepared.replies.first().filter(|_| self.transaction.single);
        let decide = state::Decide {
            transaction: Some(self.transaction.clone()),
            commit: true,
            prepared: prepared.version,
            items: items.chain(entries.iter().map(of_index)).collect(),
            reply: reply.map(|reply| reply.encode_to_vec().into()).unwrap_or_default(),
        };
        let reply = router.write(&self.record, Body::Decide(decide), None).await?;
        match reply.record {
            Some(record) if record.id == self.transaction.id && record.committed => {
                self.carry_out(rows, reply.version).await;
                Ok(Attempt::Ended(Ended::Committed(prepared.replies)))
            }
            Some(record) if record.committed => {
                self.let_go(&rows, false).await;
                repeated(Some(record), self.token)
            }
            // Somebody has decided against it, or the clocks are far apart.
            _ => {
                router.seen(reply.version);
                self.let_go(&rows, false).await;
                Ok(Attempt::Again)
            }
        }
    }

    /// Has rows prepared, those of each partition together.
    async fn prepare(&self, actions: &[(RowKey, What)], parts: Vec<Vec<usize>>, begun: u64) -> Prepared {
        let action = |place: &usize| {
            let (key, what) = &actions[*place];
            state::Action { row: key.row.clone(), what: Some(what.clone()) }
        };
        let prepare = |part: &Vec<usize>| {
            let prepare = state::Prepare {
                transaction: Some(self.transaction.clone()),
                actions: part.iter().map(action).collect(),
                begun,
            };
            (actions[part[0]].0.clone(), Body::Prepare(prepare))
        };
        let replies = self.router.write_many(parts.iter().map(prepare).collect(), None).await;
        let mut prepared = Prepared {
            replies: vec![state::Reply::default(); actions.len()],
            version: u64::MAX,
            is_cancelled: false,
            refused: None,
            unknown: false,
        };
        for (part, reply) in parts.iter().zip(replies) {
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    prepared.unknown = true;
                    prepared.refused = Some(Err(error));
                    continue;
                }
            };
            match reply.outcome() {
                Outcome::Applied => prepared.version = prepared.version.min(reply.version),
                Outcome::Cancelled => prepared.is_cancelled = true,
                Outcome::TableDropped => prepared.refused = Some(Err(Error::TableDropped)),
                Outcome::TooLate => {
                    self.router.seen(reply.version);
                    prepared.refused = prepared.refused.or(Some(Ok(Attempt::Again)));
                }
                _ => {
                    self.router.wait_for_partitions().await;
                    prepared.refused = prepared.refused.or(Some(Ok(Attempt::Again)));
                }
            }
            for (place, reply) in part.iter().zip(reply.replies) {
                prepared.replies[*place] = reply;
            }
        }
        prepared
    }

    /// The caller need not wait for it: whoever comes to an item before it is written sees to that.
    async fn carry_out(self, rows: Vec<Bytes>, decided: u64) {
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
    async fn let_go(&self, rows: &[Bytes], unknown: bool) {
        if unknown {
            let decide = state::Decide {
                transaction: Some(self.transaction.clone()),
                commit: false,
                prepared: 0,
                items: Vec::new(),
                reply: Bytes::new(),
            };
            if let Err(error) = self.router.write(&self.record, Body::Decide(decide), None).await {
                tracing::debug!(%error, "a transaction is decided against later");
            }
        }
        let commands = resolve(&self.transaction.id, false, 0, rows.iter().cloned());
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
    Ok(Attempt::Ended(Ended::Repeated(record.items, record.reply)))
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
