//! Where the keys of a partition were before, so that a watch goes on from wherever it was.
//!
//! A split leaves keys to another partition, a merge takes those of another one over. Versions go on from one to the next:
//! for each key, they only grow on its way. So what a watch has seen of a key's changes is one version on that way, whatever
//! the partition was called in which it saw it.

use trimaran_placement::token::Token;
use trimaran_proto::api::grid::Position;
use trimaran_proto::state::grid::Origin;

use crate::limits::ORIGINS_KEPT;

/// The partitions that keys have left on their way here.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// Oldest first. Those of one key follow each other.
    origins: Vec<Origin>,
    /// What left a partition for another before that one had this version may be forgotten.
    forgotten: u64,
}

/// Where a watch goes on with some keys, all of which have come here the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first token of the keys.
    pub first: Token,
    /// The last one.
    pub last: Token,
    /// The watch has seen what happened up to this version.
    pub version: u64,
    /// The partitions that the keys were in before, and the versions with which they were in the next one, if the watch may
    /// still have to see any of it.
    before: Vec<(u64, u64)>,
}

impl Place {
    /// The partition that the keys were in when they had a version; `own` is the one that they are in.
    pub fn partition_at(&self, version: u64, own: u64) -> u64 {
        self.before.iter().find(|(end, _)| version < *end).map_or(own, |(_, partition)| *partition)
    }
}

/// It is not known any more how keys came here from a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten;

fn range(origin: &Origin) -> (Token, Token) {
    (Token(origin.first_token), Token(origin.last_token))
}

impl Lineage {
    /// As a snapshot has it, of keys with these tokens.
    pub fn restore(origins: Vec<Origin>, forgotten: u64, (first, last): (Token, Token)) -> Self {
        let whole = |origin: Origin| match (origin.first_token, origin.last_token) {
            // Of a release that knows splits only.
            (0, 0) => {
                Origin { next_version: origin.version, first_token: first.0, last_token: last.0, ..origin }
            }
            _ => origin,
        };
        Self { origins: origins.into_iter().map(whole).collect(), forgotten }
    }

    /// The partitions, oldest first.
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// What came to a partition before it had this version may be left out of [`Lineage::origins`].
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// That of the keys from `at` to `last`, which leave this `partition` at a version.
    pub fn split(&mut self, partition: u64, version: u64, (at, last): (Token, Token)) -> Self {
        let mut goes: Vec<Origin> = Vec::new();
        self.origins.retain_mut(|origin| {
            if range(origin).1 >= at {
                goes.push(Origin { first_token: origin.first_token.max(at.0), ..*origin });
                origin.last_token = at.0.wrapping_sub(1);
            }
            range(origin).0 < at
        });
        let mut split = Self { origins: goes, forgotten: self.forgotten };
        split.push(Origin {
            partition,
            version,
            next_version: version,
            first_token: at.0,
            last_token: last.0,
        });
        split
    }

    /// Takes over that of the keys of a partition, which come here now.
    pub fn merge(&mut self, behind: Self, origin: Origin) {
        self.forgotten = self.forgotten.max(behind.forgotten);
        self.origins.extend(behind.origins);
        self.push(origin);
    }

    fn push(&mut self, origin: Origin) {
        self.origins.push(origin);
        let surplus = self.origins.len().saturating_sub(ORIGINS_KEPT);
        let lost = self.origins.drain(..surplus).map(|origin| origin.next_version).max();
        self.forgotten = self.forgotten.max(lost.unwrap_or_default());
    }

    /// Where a watch that is at `from` goes on with the keys of `tokens`, in partition `own`: in as few places as their
    /// ways allow, in the order of the tokens.
    pub fn places(
        &self,
        own: u64,
        (first, last): (Token, Token),
        from: Position,
    ) -> Result<Vec<Place>, Forgotten> {
        let mut cuts: Vec<Token> = vec![first];
        for origin in &self.origins {
            let behind = origin.last_token.checked_add(1).map(Token);
            cuts.extend([Some(range(origin).0), behind].into_iter().flatten());
        }
        cuts.retain(|cut| (first..=last).contains(cut));
        cuts.sort_unstable();
        cuts.dedup();
        let mut places: Vec<Place> = Vec::new();
        for (at, &cut) in cuts.iter().enumerate() {
            let upto = cuts.get(at + 1).map_or(last, |next| Token(next.0 - 1));
            let place = self.place(own, (cut, upto), from)?;
            match places.last_mut() {
                Some(before) if before.version == place.version && before.before == place.before => {
                    before.last = upto;
                }
                _ => places.push(place),
            }
        }
        Ok(places)
    }

    /// The same for keys that have all come the same way.
    fn place(&self, own: u64, (first, last): (Token, Token), from: Position) -> Result<Place, Forgotten> {
        let way = self.origins.iter().filter(|origin| range(origin).0 <= first && last <= range(origin).1);
        let mut since = self.forgotten;
        let mut version = None;
        let mut is_known = false;
        let mut before: Vec<(u64, u64)> = Vec::new();
        for origin in way {
            if origin.partition == from.partition {
                is_known = true;
                // What came later there was not about these keys.
                if from.version >= since {
                    version = Some(from.version.min(origin.version));
                }
            }
            before.push((origin.next_version, origin.partition));
            since = origin.next_version;
        }
        if from.partition == own {
            is_known = true;
            if from.version >= since {
                version = Some(from.version);
            }
        }
        // Of a partition before it had the keys, where nothing about them is missed either.
        let early = (is_known && self.forgotten == 0).then_some(from.version);
        let version = version.or(early).ok_or(Forgotten)?;
        before.retain(|(end, _)| version < *end);
        Ok(Place { first, last, version, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Token = Token(u64::MAX);

    fn at(partition: u64, version: u64) -> Position {
        Position { partition, version, ..Position::default() }
    }

    /// Keys from 100 on were split off from partition 1 at its version 10, and came back when it had 30: theirs was 25.
    fn there_and_back() -> Lineage {
        let mut lineage = Lineage::default();
        let behind = lineage.split(1, 10, (Token(100), END));
        let origin =
            Origin { partition: 2, version: 25, next_version: 31, first_token: 100, last_token: END.0 };
        lineage.merge(behind, origin);
        lineage
    }

    fn versions(from: Position) -> Vec<(u64, u64)> {
        let places = there_and_back().places(1, (Token(0), END), from).unwrap();
        places.iter().map(|place| (place.first.0, place.version)).collect()
    }

    #[test]
    fn keys_that_were_away_are_watched_on_from_where_they_left() {
        for (from, expected) in [
            (at(1, 40), vec![(0, 40)]),
            // They had left by then.
            (at(1, 20), vec![(0, 20), (100, 10)]),
            (at(1, 5), vec![(0, 5), (100, 5)]),
        ] {
            assert_eq!(versions(from), expected, "{from:?}");
        }
        let behind = |from| there_and_back().places(1, (Token(100), END), from);
        let place = &behind(at(2, 20)).unwrap()[0];
        assert_eq!(place.version, 20);
        assert_eq!((place.partition_at(25, 1), place.partition_at(31, 1)), (2, 1));
        assert_eq!(behind(at(2, 99)).unwrap()[0].version, 25);
        assert_eq!(behind(at(3, 20)), Err(Forgotten));
    }

    #[test]
    fn a_way_that_is_forgotten_is_not_guessed() {
        let mut lineage = Lineage::default();
        for round in 0..ORIGINS_KEPT as u64 {
            let behind = lineage.split(1, round * 10 + 5, (Token(100), END));
            let version = round * 10 + 7;
            let origin = Origin {
                partition: round + 2,
                version,
                next_version: version + 1,
                first_token: 100,
                last_token: END.0,
            };
            lineage.merge(behind, origin);
        }
        assert_eq!(lineage.origins().len(), ORIGINS_KEPT);
        let keys = (Token(100), END);
        assert_eq!(lineage.places(1, keys, at(1, 6)), Err(Forgotten));
        assert_eq!(lineage.places(1, keys, at(2, 6)), Err(Forgotten));
        let newest = ORIGINS_KEPT as u64;
        assert!(lineage.places(1, keys, at(newest, newest * 10 - 14)).is_ok());
        assert!(lineage.places(1, keys, at(1, newest * 10)).is_ok());
    }
}
