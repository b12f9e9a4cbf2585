//! Where half of a partition's bytes are on either side, for a split by size: keys are spread evenly, what is under each of
//! them is not. Whoever leads a partition that will soon be large enough looks at what is there, in the background.

use std::collections::HashMap;
use std::time::Duration;

use trimaran_placement::plan::UNIT_TOKENS as UNIT_BITS;
use trimaran_placement::token::Token;
use trimaran_replication::group::Group;
use trimaran_replication::machine::Machine as _;
use trimaran_storage::engine::Order;

use crate::error::Error;
use crate::key::{parse_head, token_range};
use crate::machine::ShardMachine;
use crate::router::Router;
use crate::store::View;

/// Parts of the size at which it is split that a partition has when it is looked at.
const LOOKED_AT: f64 = 0.75;

/// By which part it has grown when it is looked at again.
const GROWN: f64 = 0.125;

/// How often it is looked whether a partition is due.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs until the task is dropped.
pub(crate) async fn run(router: Router, split_above: u64) {
    let mut looked = Looked::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let replicas = router.replicas();
        looked.0.retain(|known, _| replicas.iter().any(|(partition, _)| partition == known));
        for (partition, group) in replicas.into_iter().filter(|(_, group)| group.is_leader()) {
            if let Err(error) = looked.look(partition, &group, split_above).await {
                tracing::warn!(partition, %error, "where its middle is was not found out yet");
            }
        }
    }
}

/// What was looked at: partition, its last token, its bytes then.
#[derive(Debug, Default)]
struct Looked(HashMap<u64, (Token, u64)>);

impl Looked {
    fn is_due(&self, partition: u64, last: Token, bytes: u64, split_above: u64) -> bool {
        let is_large = bytes as f64 > split_above as f64 * LOOKED_AT;
        let has_grown = self
            .0
            .get(&partition)
            .is_none_or(|&(before, then)| before != last || bytes as f64 > then as f64 * (1.0 + GROWN));
        is_large && has_grown
    }

    async fn look(
        &mut self,
        partition: u64,
        group: &Group<ShardMachine>,
        split_above: u64,
    ) -> Result<(), Error> {
        let (bytes, range) = group.read_now(|machine| (machine.bytes(), machine.tokens()));
        if !self.is_due(partition, Token(range.1), bytes, split_above) {
            return Ok(());
        }
        let (kinds, tokens, view) = group.read_now(ShardMachine::everything);
        let found = tokio::task::spawn_blocking(move || middle(&view, &kinds, tokens)).await;
        let found = found.map_err(|panicked| Error::Storage(panicked.to_string()))??;
        self.0.insert(partition, (tokens.1, bytes));
        group.read_now(|machine| {
            // It may have become another one meanwhile.
            if let Some(found) = found.filter(|_| machine.tokens() == range) {
                machine.found_middle(found);
            }
        });
        Ok(())
    }
}

/// The first token of what a split gives away, so that the sides are as alike as they can be; `None` if there is nothing.
/// Reads every row.
pub fn middle(view: &View, kinds: &[u64], (first, last): (Token, Token)) -> Result<Option<Token>, Error> {
    let unit = |token: Token| (token.0 >> UNIT_BITS) - (first.0 >> UNIT_BITS);
    // At most 2¹⁴.
    let mut bytes = vec![0_u64; unit(last) as usize + 1];
    for &kind in kinds {
        for row in view.scan(token_range(kind, first, last), Order::Ascending) {
            let (row, _, stored) = row?;
            if let Some(bytes) = parse_head(&row).and_then(|(_, token)| bytes.get_mut(unit(token) as usize)) {
                *bytes += u64::from(stored.size);
            }
        }
    }
    let all: u64 = bytes.iter().sum();
    let (mut best, mut before) = (None, 0);
    for (at, pair) in (1..).zip(bytes.windows(2)) {
        before += pair[0];
        let difference = all.abs_diff(before * 2);
        if best.is_none_or(|(least, _)| difference < least) {
            best = Some((difference, at));
        }
    }
    let token = |at: u64| Token(((first.0 >> UNIT_BITS) + at) << UNIT_BITS);
    Ok(best.filter(|_| all > 0).map(|(_, at)| token(at)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use prost::Message as _;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use trimaran_proto::state::shard as state;
    use trimaran_replication::machine::{Committed, Remember};
    use trimaran_storage::faulty_engine::FaultyEngine;

    use super::*;
    use crate::item::{Item, Value};
    use crate::key::head;
    use crate::op::encode;
    use crate::store::Shared;

    fn put(machine: &mut ShardMachine, token: Token, bytes: usize) {
        let stored = encode(&Item::from([("n".to_owned(), Value::B(vec![0; bytes].into()))]));
        let put = state::Put { item: stored.bytes, size: stored.size, ..state::Put::default() };
        let row = head(4, token).freeze();
        let payload: Bytes =
            state::Command { row, body: Some(state::command::Body::Put(put)) }.encode_to_vec().into();
        machine.apply(&[Committed { stamp_ms: 1, passed_ms: 1, payload: &payload }]).unwrap();
        machine.commit(Remember::default()).unwrap();
    }

    fn middle_of(machine: &ShardMachine) -> Option<Token> {
        let (kinds, tokens, view) = machine.everything();
        middle(&view, &kinds, tokens).unwrap()
    }

    #[test]
    fn the_sides_are_as_alike_as_they_can_be() {
        for seed in 0..30 {
            let mut random = StdRng::seed_from_u64(seed);
            let (first, last) = (Token(40 << UNIT_BITS), Token((104 << UNIT_BITS) - 1));
            let shared = Arc::new(Shared::new(Arc::new(FaultyEngine::default())));
            let mut machine = ShardMachine::new(shared, 1, first, last);
            assert_eq!((middle_of(&machine), machine.middle()), (None, None));
            // Most of it at a few tokens.
            let few: Vec<u64> = (0..4).map(|_| random.random_range(first.0..=last.0)).collect();
            let mut rows = std::collections::BTreeMap::new();
            for _ in 0..60 {
                let token = match random.random_bool(0.6) {
                    true => few[random.random_range(0..few.len())] + random.random_range(0..9),
                    false => random.random_range(first.0..=last.0),
                };
                let bytes = random.random_range(1..5000);
                put(&mut machine, Token(token.min(last.0)), bytes);
                // The name of the attribute counts, too.
                rows.insert(token.min(last.0), bytes as u64 + 1);
            }
            let all: u64 = rows.values().sum();
            let difference = |at: Token| {
                let before: u64 = rows.range(..at.0).map(|(_, bytes)| bytes).sum();
                all.abs_diff(before * 2)
            };
            let best = (41..104).map(|unit| difference(Token(unit << UNIT_BITS))).min().unwrap();
            let found = middle_of(&machine).unwrap();
            assert_eq!(difference(found), best, "seed {seed}");
            machine.found_middle(found);
            assert_eq!(machine.middle(), Some(found.0));
            // Neither part knows of its own yet.
            let new = machine.split(found.0, 2, Remember::default()).unwrap();
            machine.commit(Remember::default()).unwrap();
            assert_eq!((machine.middle(), new.middle()), (None, None));
        }
    }

    #[test]
    fn it_is_looked_for_before_a_split_is_due_and_again_when_it_has_grown() {
        let mut looked = Looked::default();
        let last = Token(u64::MAX);
        assert!(!looked.is_due(1, last, 75, 100));
        assert!(looked.is_due(1, last, 76, 100));
        looked.0.insert(1, (last, 80));
        assert!(!looked.is_due(1, last, 90, 100));
        assert!(looked.is_due(1, last, 91, 100));
        assert!(looked.is_due(1, Token(7), 80, 100));
    }
}
