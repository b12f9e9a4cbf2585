//! Sorted sets: members by score, then by their bytes.
//!
//! The order is kept in chunks, each sorted, one after the other: a rank is found by counting chunks, a score or a
//! member by a search over them. With a chunk of 128 a million members are 8,000 chunks, which are counted in
//! microseconds; and a snapshot shares what is not written to. Source: the layout of Python's `sortedcontainers`.

use std::cmp::Ordering;
use std::sync::Arc;

use super::dict::{Blob, Dict};
use super::{ELEMENT_OVERHEAD_BYTES, Encodings, Value};

/// Members of a chunk, at most.
const CHUNK_MEMBERS: usize = 128;

/// What a member takes beside its bytes: its score twice, its places.
const MEMBER_OVERHEAD_BYTES: usize = 2 * ELEMENT_OVERHEAD_BYTES + 8;

/// A member and its score, which is a number.
pub type Member = (f64, Blob);

/// Some members in order, never none. The last score is beside those of the other chunks, so that a search need not look into each.
#[derive(Clone, Debug)]
struct Chunk {
    last: f64,
    members: Arc<Vec<Member>>,
}

impl Chunk {
    fn new(members: Vec<Member>) -> Self {
        Self { last: last_score(&members), members: Arc::new(members) }
    }

    fn edit<R>(&mut self, change: impl FnOnce(&mut Vec<Member>) -> R) -> R {
        let members = Arc::make_mut(&mut self.members);
        let result = change(members);
        self.last = last_score(members);
        result
    }
}

fn last_score(members: &[Member]) -> f64 {
    members.last().map_or(f64::NEG_INFINITY, |(score, _)| *score)
}

/// A sorted set.
#[derive(Clone, Debug, Default)]
pub struct SortedSet {
    chunks: Vec<Chunk>,
    len: usize,
    /// Scores by member, once there are many: before, the chunks are looked through.
    scores: Option<Dict<f64>>,
    bytes: usize,
}

impl PartialEq for SortedSet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

/// The order of a sorted set.
fn order(a: (f64, &[u8]), b: (f64, &[u8])) -> Ordering {
    a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1))
}

/// Zero has no sign here, so that both are one score.
fn normal(score: f64) -> f64 {
    if score == 0.0 { 0.0 } else { score }
}

impl SortedSet {
    /// One that is laid out as a snapshot says: 0 = as a list, else one more than the bits of its table.
    pub fn with_layout(layout: u32) -> Self {
        Self { scores: layout.checked_sub(1).map(Dict::with_bits), ..Self::default() }
    }

    /// See [`SortedSet::with_layout`].
    pub fn layout(&self) -> u32 {
        self.scores.as_ref().map_or(0, |scores| scores.bits() + 1)
    }

    /// Members.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// As OBJECT ENCODING calls it.
    pub fn encoding(&self) -> &'static str {
        if self.scores.is_some() { "skiplist" } else { "listpack" }
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.scores {
            Some(scores) => scores.get(member).copied(),
            None => self.iter().find(|(_, held)| **held == *member).map(|(score, _)| *score),
        }
    }

    /// The place of the first member that is not before the one given: the chunk, and the place in it.
    fn search(&self, wanted: (f64, &[u8])) -> (usize, usize) {
        let is_before = |(score, member): &Member| order((*score, member), wanted) == Ordering::Less;
        let chunk = self.chunks.partition_point(|chunk| match chunk.last.total_cmp(&wanted.0) {
            Ordering::Less => true,
            Ordering::Equal => chunk.members.last().is_some_and(is_before),
            Ordering::Greater => false,
        });
        (chunk, self.place_in(chunk, is_before))
    }

    fn partition(&self, is_before: impl Fn(&Member) -> bool) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|chunk| chunk.members.last().is_some_and(&is_before));
        (chunk, self.place_in(chunk, is_before))
    }

    fn place_in(&self, chunk: usize, is_before: impl Fn(&Member) -> bool) -> usize {
        self.chunks.get(chunk).map_or(0, |chunk| chunk.members.partition_point(is_before))
    }

    /// How many members come first for which this is true, which it is for none behind one for which it is not.
    pub fn count_while(&self, is_before: impl Fn(&Member) -> bool) -> usize {
        let (chunk, place) = self.partition(is_before);
        self.chunks[..chunk].iter().map(|chunk| chunk.members.len()).sum::<usize>() + place
    }

    /// The place of a member from the lowest score, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        let score = self.score(member)?;
        let (chunk, place) = self.search((score, member));
        Some((self.chunks[..chunk].iter().map(|chunk| chunk.members.len()).sum::<usize>() + place, score))
    }

    /// Sets the score of a member, which is new, or has another one then; the one before.
    pub fn insert(&mut self, member: &[u8], score: f64, encodings: &Encodings) -> Option<f64> {
        let before = self.score(member);
        self.insert_over(before, member, score, encodings);
        before
    }

    /// The same where it is known which score it has.
    pub fn insert_over(&mut self, before: Option<f64>, member: &[u8], score: f64, encodings: &Encodings) {
        let score = normal(score);
        if before == Some(score) {
            return;
        }
        let is_large = self.len >= encodings.zset_max_listpack_entries && before.is_none();
        if self.scores.is_none() && (is_large || member.len() > encodings.zset_max_listpack_value) {
            self.become_table();
        }
        let Some(name) = before.and_then(|before| self.take(before, member)) else {
            return self.put(score, member.into());
        };
        if let Some(held) = self.scores.as_mut().and_then(|scores| scores.get_mut(member)) {
            *held = score;
        }
        self.place(score, name);
    }

    /// Adds a member that is not there, however it is laid out.
    pub fn put(&mut self, score: f64, member: Blob) {
        if let Some(scores) = &mut self.scores {
            scores.insert(member.clone(), score);
        }
        self.place(score, member);
    }

    /// Puts a member in its chunk.
    fn place(&mut self, score: f64, member: Blob) {
        self.len += 1;
        self.bytes += member.len() + MEMBER_OVERHEAD_BYTES;
        let (mut chunk, mut place) = self.search((score, &member));
        if chunk == self.chunks.len() {
            // Behind the last.
            let Some(last) = self.chunks.last() else {
                return self.chunks.push(Chunk::new(vec![(score, member)]));
            };
            place = last.members.len();
            chunk -= 1;
        }
        let second = self.chunks[chunk].edit(|members| {
            members.insert(place, (score, member));
            // Who adds in order leaves full chunks behind.
            let at = if place + 1 == members.len() { CHUNK_MEMBERS } else { CHUNK_MEMBERS / 2 };
            (members.len() > CHUNK_MEMBERS).then(|| members.split_off(at))
        });
        if let Some(second) = second {
            self.chunks.insert(chunk + 1, Chunk::new(second));
        }
    }

    fn become_table(&mut self) {
        let mut scores = Dict::default();
        for (score, member) in self.iter() {
            scores.insert(member.clone(), *score);
        }
        self.scores = Some(scores);
    }

    /// Takes a member with its score out of the chunks.
    fn take(&mut self, score: f64, member: &[u8]) -> Option<Blob> {
        let (chunk, place) = self.search((score, member));
        let found = self.chunks.get_mut(chunk)?;
        found.members.get(place).filter(|(_, held)| **held == *member)?;
        let (_, name) = found.edit(|members| members.remove(place));
        if found.members.is_empty() {
            self.chunks.remove(chunk);
        }
        self.len -= 1;
        self.bytes -= member.len() + MEMBER_OVERHEAD_BYTES;
        Some(name)
    }

    /// Removes a member and returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let score = self.score(member)?;
        if let Some(scores) = &mut self.scores {
            scores.remove(member);
        }
        self.take(score, member)?;
        Some(score)
    }

    /// The member at a rank.
    pub fn at(&self, rank: usize) -> Option<&Member> {
        let mut rest = rank;
        for chunk in &self.chunks {
            if rest < chunk.members.len() {
                return chunk.members.get(rest);
            }
            rest -= chunk.members.len();
        }
        None
    }

    /// Members from a rank up.
    pub fn iter_from(&self, rank: usize) -> impl Iterator<Item = &Member> {
        let mut skipped = 0;
        let chunk = self
            .chunks
            .iter()
            .position(|chunk| {
                let is_here = rank < skipped + chunk.members.len();
                skipped += if is_here { 0 } else { chunk.members.len() };
                is_here
            })
            .unwrap_or(self.chunks.len());
        self.chunks[chunk..].iter().flat_map(|chunk| chunk.members.iter()).skip(rank - skipped)
    }

    /// Members from a rank down.
    pub fn iter_down_from(&self, rank: usize) -> impl Iterator<Item = &Member> {
        let behind = self.len.saturating_sub(rank + 1);
        let mut skipped = 0;
        let chunks = self
            .chunks
            .iter()
            .rposition(|chunk| {
                let is_here = behind < skipped + chunk.members.len();
                skipped += if is_here { 0 } else { chunk.members.len() };
                is_here
            })
            .map_or(0, |last| last + 1);
        self.chunks[..chunks].iter().rev().flat_map(|chunk| chunk.members.iter().rev()).skip(behind - skipped)
    }

    /// All members, lowest score first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Member> {
        self.chunks.iter().flat_map(|chunk| chunk.members.iter())
    }

    /// A page of a scan, see [`Dict::scan`]; a small set is one page.
    pub fn scan(&self, cursor: u64, count: usize) -> (Vec<Member>, u64) {
        match &self.scores {
            Some(scores) => {
                let (found, next) = scores.scan(cursor, count);
                (found.into_iter().map(|(name, score)| (*score, name.clone())).collect(), next)
            }
            None => (self.iter().cloned().collect(), 0),
        }
    }
}

impl From<SortedSet> for Value {
    fn from(set: SortedSet) -> Self {
        Self::SortedSet(Arc::new(set))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn members_are_in_order_and_found_by_rank(operations in proptest::collection::vec((0..4_u8, 0..400_u32, 0..50_u32), 1..1500)) {
            let mut set = SortedSet::default();
            let mut model: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            for (kind, number, score) in operations {
                let member = number.to_string().into_bytes();
                if kind == 0 {
                    prop_assert_eq!(set.remove(&member), model.remove(&member).map(f64::from));
                } else {
                    let before = set.insert(&member, f64::from(score), &Encodings::default());
                    prop_assert_eq!(before, model.insert(member, score).map(f64::from));
                }
            }
            let mut sorted: Vec<(u32, Vec<u8>)> = model.into_iter().map(|(member, score)| (score, member)).collect();
            sorted.sort();
            prop_assert_eq!(set.len(), sorted.len());
            let same = |got: &Member, expected: &(u32, Vec<u8>)| got.0 == f64::from(expected.0) && *got.1 == *expected.1;
            prop_assert!(set.iter().zip(&sorted).all(|(got, expected)| same(got, expected)));
            for (rank, expected) in sorted.iter().enumerate() {
                prop_assert!(same(set.at(rank).unwrap(), expected));
                prop_assert_eq!(set.rank(&expected.1).unwrap().0, rank);
                prop_assert!(same(set.iter_from(rank).next().unwrap(), expected));
                prop_assert!(same(set.iter_down_from(rank).next().unwrap(), expected));
            }
            prop_assert_eq!(set.iter_from(sorted.len()).count(), 0);
            prop_assert_eq!(set.count_while(|(score, _)| *score < 25.0), sorted.iter().filter(|(score, _)| *score < 25).count());
            let bytes: usize = sorted.iter().map(|(_, member)| member.len() + MEMBER_OVERHEAD_BYTES).sum();
            prop_assert_eq!(set.bytes(), bytes);
        }
    }
}
