//! Members of a sorted set in order: by rank, by score, or by their bytes.

use bytes::Bytes;

use super::super::arguments::{SYNTAX, float, integer, is, range};
use super::super::key::replace;
use super::super::{Done, Read, Refusal, Write, refuse};
use crate::data::sorted_set::{Member, SortedSet};

/// One end of a range.
#[derive(Clone, Debug, PartialEq)]
enum Bound<T> {
    /// Before everything.
    First,
    /// From or up to it, with it.
    With(T),
    /// Without it.
    Without(T),
    /// Behind everything.
    Last,
}

/// Which members.
#[derive(Clone, Debug)]
enum Range {
    /// From, and up to, places; negative from the end.
    Rank(i64, i64),
    /// Scores.
    Score(Bound<f64>, Bound<f64>),
    /// Bytes of members that all have the same score.
    Lex(Bound<Bytes>, Bound<Bytes>),
}

fn score(argument: &[u8]) -> Done<Bound<f64>> {
    let text = "ERR min or max is not a float";
    let (excluded, digits) = match argument.strip_prefix(b"(") {
        Some(digits) => (true, digits),
        None => (false, argument),
    };
    let score = float(digits).ok_or_else(|| Refusal::new(text))?;
    Ok(if excluded { Bound::Without(score) } else { Bound::With(score) })
}

fn member(argument: &Bytes) -> Done<Bound<Bytes>> {
    match argument.first() {
        Some(b'-') if argument.len() == 1 => Ok(Bound::First),
        Some(b'+') if argument.len() == 1 => Ok(Bound::Last),
        Some(b'[') => Ok(Bound::With(argument.slice(1..))),
        Some(b'(') => Ok(Bound::Without(argument.slice(1..))),
        _ => refuse("ERR min or max not valid string range item"),
    }
}

impl Range {
    fn by_rank(start: &[u8], stop: &[u8]) -> Done<Self> {
        Ok(Self::Rank(integer(start)?, integer(stop)?))
    }

    fn by_score(least: &[u8], most: &[u8]) -> Done<Self> {
        Ok(Self::Score(score(least)?, score(most)?))
    }

    fn by_lex(least: &Bytes, most: &Bytes) -> Done<Self> {
        Ok(Self::Lex(member(least)?, member(most)?))
    }

    /// The ranks from the lowest score on: the first, and how many.
    fn ranks(&self, set: &SortedSet, from_top: bool) -> (usize, usize) {
        let (begin, end) = match self {
            Self::Rank(start, stop) => {
                let (begin, len) = range(*start, *stop, set.len());
                return if from_top { (set.len() - begin - len, len) } else { (begin, len) };
            }
            Self::Score(least, most) => {
                (before(set, least, |(score, _)| score), up_to(set, most, |(score, _)| score))
            }
            Self::Lex(least, most) => (
                before(set, &least.as_slice(), |(_, member)| &member[..]),
                up_to(set, &most.as_slice(), |(_, member)| &member[..]),
            ),
        };
        (begin, end.saturating_sub(begin))
    }
}

impl Bound<Bytes> {
    fn as_slice(&self) -> Bound<Box<[u8]>> {
        match self {
            Self::First => Bound::First,
            Self::With(member) => Bound::With((**member).into()),
            Self::Without(member) => Bound::Without((**member).into()),
            Self::Last => Bound::Last,
        }
    }
}

/// How many members come before a bound.
fn before<T, K>(set: &SortedSet, bound: &Bound<T>, key: impl Fn(&Member) -> &K) -> usize
where
    T: std::borrow::Borrow<K>,
    K: PartialOrd + ?Sized,
{
    match bound {
        Bound::First => 0,
        Bound::With(bound) => set.count_while(|member| key(member) < bound.borrow()),
        Bound::Without(bound) => set.count_while(|member| key(member) <= bound.borrow()),
        Bound::Last => set.len(),
    }
}

/// How many members come up to a bound.
fn up_to<T, K>(set: &SortedSet, bound: &Bound<T>, key: impl Fn(&Member) -> &K) -> usize
where
    T: std::borrow::Borrow<K>,
    K: PartialOrd + ?Sized,
{
    match bound {
        Bound::First => 0,
        Bound::With(bound) => set.count_while(|member| key(member) <= bound.borrow()),
        Bound::Without(bound) => set.count_while(|member| key(member) < bound.borrow()),
        Bound::Last => set.len(),
    }
}

/// Which members, in which order, and how many of them.
#[derive(Clone, Debug)]
struct Selection {
    range: Range,
    from_top: bool,
    /// Left out at the begin, and told at most.
    limit: Option<(usize, usize)>,
}

impl Selection {
    fn of<'a>(&self, set: &'a SortedSet) -> impl Iterator<Item = &'a Member> {
        let (begin, len) = self.range.ranks(set, self.from_top);
        let (skipped, most) = self.limit.unwrap_or((0, usize::MAX));
        let skipped = skipped.min(len);
        let len = (len - skipped).min(most);
        let (up, down) = if len == 0 {
            (None, None)
        } else if self.from_top {
            let top = begin + self.range.ranks(set, true).1 - 1;
            (None, Some(set.iter_down_from(top - skipped)))
        } else {
            (Some(set.iter_from(begin + skipped)), None)
        };
        up.into_iter().flatten().chain(down.into_iter().flatten()).take(len)
    }

    fn len(&self, set: &SortedSet) -> usize {
        let (_, len) = self.range.ranks(set, self.from_top);
        let (skipped, most) = self.limit.unwrap_or((0, usize::MAX));
        len.saturating_sub(skipped).min(most)
    }
}

fn limit(skipped: &[u8], most: &[u8]) -> Done<(usize, usize)> {
    let (skipped, most) = (integer(skipped)?, integer(most)?);
    Ok(match usize::try_from(skipped) {
        Ok(skipped) => (skipped, usize::try_from(most).unwrap_or(usize::MAX)),
        // Before the first: nothing.
        Err(_negative) => (0, 0),
    })
}

fn say(on: &mut Read<'_>, key: &[u8], selection: &Selection, with_scores: bool) -> Done {
    let Some(set) = on.look::<SortedSet>(key)? else {
        on.out.array(0);
        return Ok(());
    };
    let len = selection.len(set);
    if with_scores {
        on.out.pairs(len);
    } else {
        on.out.array(len);
    }
    for (score, member) in selection.of(set) {
        on.out.bulk(member);
        if with_scores {
            on.out.double(*score);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// `start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`, and whether scores are asked for.
fn selection(
    arguments: &[Bytes],
    mut by: By,
    mut from_top: bool,
    fixed: bool,
    stores: bool,
) -> Done<(Selection, bool)> {
    let (start, stop) = (&arguments[0], &arguments[1]);
    let (mut with_scores, mut limited) = (false, None);
    let mut rest = &arguments[2..];
    while let Some((option, more)) = rest.split_first() {
        rest = more;
        if is(option, "withscores") && !stores {
            with_scores = true;
        } else if let (true, [skipped, most, more @ ..]) = (is(option, "limit"), rest) {
            limited = Some(limit(skipped, most)?);
            rest = more;
        } else if is(option, "byscore") && !fixed {
            by = By::Score;
        } else if is(option, "bylex") && !fixed {
            by = By::Lex;
        } else if is(option, "rev") && !fixed {
            from_top = true;
        } else {
            return refuse(SYNTAX);
        }
    }
    if limited.is_some() && by == By::Rank {
        return refuse(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
        );
    }
    if with_scores && by == By::Lex {
        return refuse("ERR syntax error, WITHSCORES not supported in combination with BYLEX");
    }
    let (least, most) = if from_top { (stop, start) } else { (start, stop) };
    let range = match by {
        By::Rank => Range::by_rank(start, stop)?,
        By::Score => Range::by_score(least, most)?,
        By::Lex => Range::by_lex(least, most)?,
    };
    Ok((Selection { range, from_top, limit: limited }, with_scores))
}

pub(in super::super) fn zrange(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (selection, with_scores) = selection(&arguments[2..], By::Rank, false, false, false)?;
    say(on, &arguments[1], &selection, with_scores)
}

pub(in super::super) fn zrevrange(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (selection, with_scores) = selection(&arguments[2..], By::Rank, true, true, false)?;
    say(on, &arguments[1], &selection, with_scores)
}

pub(in super::super) fn zrangebyscore(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (selection, with_scores) = selection(&arguments[2..], By::Score, false, true, false)?;
    say(on, &arguments[1], &selection, with_scores)
}

pub(in super::super) fn zrevrangebyscore(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (selection, with_scores) = selection(&arguments[2..], By::Score, true, true, false)?;
    say(on, &arguments[1], &selection, with_scores)
}

pub(in super::super) fn zrangebylex(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (selection, with_scores) = selection(&arguments[2..], By::Lex, false, true, false)?;
    say(on, &arguments[1], &selection, with_scores)
}

pub(in super::super) fn zrevrangebylex(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (selection, with_scores) = selection(&arguments[2..], By::Lex, true, true, false)?;
    say(on, &arguments[1], &selection, with_scores)
}

pub(in super::super) fn zrangestore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (selection, _) = selection(&arguments[3..], By::Rank, false, false, true)?;
    let mut result = SortedSet::default();
    if let Some(set) = on.look::<SortedSet>(&arguments[2])? {
        for (score, member) in selection.of(set) {
            result.insert(member, *score, on.encodings);
        }
    }
    let len = result.len();
    replace(on, &arguments[1], result.into());
    on.out.count(len);
    Ok(())
}

fn count(on: &mut Read<'_>, key: &[u8], range: &Range) -> Done {
    let set = on.look::<SortedSet>(key)?;
    on.out.count(set.map_or(0, |set| range.ranks(set, false).1));
    Ok(())
}

pub(in super::super) fn zcount(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    count(on, &arguments[1], &Range::by_score(&arguments[2], &arguments[3])?)
}

pub(in super::super) fn zlexcount(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    count(on, &arguments[1], &Range::by_lex(&arguments[2], &arguments[3])?)
}

fn remove(on: &mut Write<'_>, key: &[u8], range: Range) -> Done {
    let selection = Selection { range, from_top: false, limit: None };
    let removed = on.update(key, |set: &mut SortedSet, _| {
        let members: Vec<Member> = selection.of(set).cloned().collect();
        for (_, member) in &members {
            set.remove(member);
        }
        (!members.is_empty(), members.len())
    })?;
    on.out.count(removed);
    Ok(())
}

pub(in super::super) fn zremrangebyrank(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    remove(on, &arguments[1], Range::by_rank(&arguments[2], &arguments[3])?)
}

pub(in super::super) fn zremrangebyscore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    remove(on, &arguments[1], Range::by_score(&arguments[2], &arguments[3])?)
}

pub(in super::super) fn zremrangebylex(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    remove(on, &arguments[1], Range::by_lex(&arguments[2], &arguments[3])?)
}
