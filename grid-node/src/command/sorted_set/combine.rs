//! Sorted sets made of others: unions, intersections, differences. Sets are taken too, each member with the score 1.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::arguments::{SYNTAX, fitting, integer, is, lower, positive};
use super::super::key::replace;
use super::super::{Done, Read, Refusal, Write, refuse};
use crate::data::dict::Blob;
use crate::data::set::Set;
use crate::data::sorted_set::{Member, SortedSet};
use crate::data::{Encodings, Value, WrongType};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Union,
    Inter,
    Diff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            // Infinity and its opposite.
            Self::Sum if (a + b).is_nan() => 0.0,
            Self::Sum => a + b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }
}

/// What is asked for behind the keys.
#[derive(Clone, Debug)]
struct Wanted<'a> {
    keys: &'a [Bytes],
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: usize,
}

fn wanted<'a>(
    arguments: &'a [Bytes],
    at: usize,
    operation: Operation,
    (stores, counts): (bool, bool),
    format: u32,
) -> Done<Wanted<'a>> {
    let count = integer(&arguments[at])?;
    let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
        let name = lower(&arguments[0]);
        Refusal::new(format!("ERR at least 1 input key is needed for '{name}' command"))
    })?;
    if count > arguments.len() - at - 1 {
        return refuse(SYNTAX);
    }
    let (keys, mut rest) = arguments[at + 1..].split_at(count);
    let mut wanted =
        Wanted { keys, weights: vec![1.0; count], aggregate: Aggregate::Sum, with_scores: false, limit: 0 };
    let combines = operation != Operation::Diff && !counts;
    while let Some((option, more)) = rest.split_first() {
        rest = more;
        if is(option, "weights") && combines && rest.len() >= count {
            let (weights, more) = rest.split_at(count);
            let weight = |weight: &Bytes| {
                fitting(weight, format).ok_or_else(|| Refusal::new("ERR weight value is not a float"))
            };
            wanted.weights = weights.iter().map(weight).collect::<Done<_>>()?;
            rest = more;
        } else if let (true, true, [how, more @ ..]) = (is(option, "aggregate"), combines, rest) {
            wanted.aggregate = if is(how, "sum") {
                Aggregate::Sum
            } else if is(how, "min") {
                Aggregate::Min
            } else if is(how, "max") {
                Aggregate::Max
            } else {
                return refuse(SYNTAX);
            };
            rest = more;
        } else if is(option, "withscores") && !stores && !counts {
            wanted.with_scores = true;
        } else if let (true, true, [limit, more @ ..]) = (is(option, "limit"), counts, rest) {
            let text = "ERR LIMIT can't be negative";
            wanted.limit = positive(limit, text).map_err(|_| Refusal::new(text))?;
            rest = more;
        } else {
            return refuse(SYNTAX);
        }
    }
    Ok(wanted)
}

/// Refuses keys of other types before anything is said of the options behind them, as Redis does.
fn must_be_sets(on: &Read<'_>, arguments: &[Bytes], at: usize) -> Done {
    let Ok(count) = integer(&arguments[at]) else { return Ok(()) };
    let Some(keys) = usize::try_from(count).ok().and_then(|count| arguments[at + 1..].get(..count)) else {
        return Ok(());
    };
    let is_other = |key: &Bytes| {
        let held = on.keys.get(key, on.now_ms).map(|entry| &entry.value);
        held.is_some_and(|value| !matches!(value, Value::SortedSet(_) | Value::Set(_)))
    };
    if keys.iter().any(is_other) { Err(WrongType.into()) } else { Ok(()) }
}

/// A set of either kind.
#[derive(Clone, Copy)]
enum Source<'a> {
    Sorted(&'a SortedSet),
    Plain(&'a Set),
}

impl<'a> Source<'a> {
    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Sorted(set) => set.score(member),
            Self::Plain(set) => set.contains(member).then_some(1.0),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Sorted(set) => set.len(),
            Self::Plain(set) => set.len(),
        }
    }

    fn members(self) -> Box<dyn Iterator<Item = Member> + 'a> {
        match self {
            Self::Sorted(set) => Box::new(set.iter().cloned()),
            Self::Plain(set) => Box::new(set.iter().map(|member| (1.0, member))),
        }
    }
}

fn combined(
    on: &Read<'_>,
    operation: Operation,
    wanted: &Wanted<'_>,
    encodings: &Encodings,
) -> Done<SortedSet> {
    let mut sources: Vec<Option<Source<'_>>> = Vec::new();
    for key in wanted.keys {
        let source = match on.keys.get(key, on.now_ms).map(|entry| &entry.value) {
            None => None,
            Some(Value::SortedSet(set)) => Some(Source::Sorted(set)),
            Some(Value::Set(set)) => Some(Source::Plain(set)),
            Some(_) => return Err(WrongType.into()),
        };
        sources.push(source);
    }
    let weighted = |score: f64, weight: f64| {
        let score = score * weight;
        if score.is_nan() { 0.0 } else { score }
    };
    let mut result = SortedSet::default();
    match operation {
        Operation::Union => {
            let mut scores: HashMap<Blob, f64> = HashMap::new();
            for (source, weight) in sources.into_iter().zip(&wanted.weights) {
                for (score, member) in source.into_iter().flat_map(Source::members) {
                    let score = weighted(score, *weight);
                    scores
                        .entry(member)
                        .and_modify(|held| *held = wanted.aggregate.of(*held, score))
                        .or_insert(score);
                }
            }
            let mut members: Vec<(Blob, f64)> = scores.into_iter().collect();
            // In one order, whatever the order of the map.
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (member, score) in members {
                result.insert(&member, score, encodings);
            }
        }
        Operation::Inter => {
            let Some(sources) = sources.into_iter().collect::<Option<Vec<Source<'_>>>>() else {
                return Ok(result);
            };
            let Some(smallest) = sources.iter().min_by_key(|source| source.len()) else { return Ok(result) };
            for (_, member) in smallest.members() {
                let mut scores = sources
                    .iter()
                    .zip(&wanted.weights)
                    .map(|(source, weight)| source.score(&member).map(|score| weighted(score, *weight)));
                let Some(Some(first)) = scores.next() else { continue };
                if let Some(score) =
                    scores.try_fold(first, |sum, score| Some(wanted.aggregate.of(sum, score?)))
                {
                    result.insert(&member, score, encodings);
                    if wanted.limit > 0 && result.len() >= wanted.limit {
                        break;
                    }
                }
            }
        }
        Operation::Diff => {
            let (first, others) =
                sources.split_first().map_or((None, &[][..]), |(first, others)| (*first, others));
            for (score, member) in first.into_iter().flat_map(Source::members) {
                if !others.iter().flatten().any(|source| source.score(&member).is_some()) {
                    result.insert(&member, score, encodings);
                }
            }
        }
    }
    Ok(result)
}

fn said(on: &mut Read<'_>, arguments: &[Bytes], operation: Operation) -> Done {
    must_be_sets(on, arguments, 1)?;
    let wanted = wanted(arguments, 1, operation, (false, false), on.format)?;
    let result = combined(on, operation, &wanted, on.encodings)?;
    if wanted.with_scores {
        on.out.pairs(result.len());
    } else {
        on.out.array(result.len());
    }
    for (score, member) in result.iter() {
        on.out.bulk(member);
        if wanted.with_scores {
            on.out.double(*score);
        }
    }
    Ok(())
}

pub(in super::super) fn zunion(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    said(on, arguments, Operation::Union)
}

pub(in super::super) fn zinter(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    said(on, arguments, Operation::Inter)
}

pub(in super::super) fn zdiff(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    said(on, arguments, Operation::Diff)
}

pub(in super::super) fn zintercard(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    must_be_sets(on, arguments, 1)?;
    let wanted = wanted(arguments, 1, Operation::Inter, (false, true), on.format)?;
    on.out.count(combined(on, Operation::Inter, &wanted, on.encodings)?.len());
    Ok(())
}

fn stored(on: &mut Write<'_>, arguments: &[Bytes], operation: Operation) -> Done {
    must_be_sets(&on.reading(), arguments, 2)?;
    let wanted = wanted(arguments, 2, operation, (true, false), on.format)?;
    let encodings = on.encodings;
    let result = combined(&on.reading(), operation, &wanted, encodings)?;
    let len = result.len();
    replace(on, &arguments[1], result.into());
    on.out.count(len);
    Ok(())
}

pub(in super::super) fn zunionstore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    stored(on, arguments, Operation::Union)
}

pub(in super::super) fn zinterstore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    stored(on, arguments, Operation::Inter)
}

pub(in super::super) fn zdiffstore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    stored(on, arguments, Operation::Diff)
}
