//! Commands on sorted sets: members one by one, and from either end. [`range`]: many in order; [`combine`]: of several
//! sets.

use bytes::Bytes;
use smallvec::SmallVec;

use super::arguments::{NOT_A_FLOAT, SYNTAX, fitting, integer, is, numbered_keys, positive};
use super::key::{Page, scan_options};
use super::list::syntax_of_keys;
use super::reply::double;
use super::set::{Sample, sample};
use super::{Done, Read, Refusal, Write, matches, refuse};
use crate::data::sorted_set::{Member, SortedSet};

pub(super) mod combine;
pub(super) mod range;

const NOT_A_NUMBER: &str = "ERR resulting score is not a number (NaN)";

#[derive(Clone, Copy, Debug, Default)]
struct Add {
    if_absent: bool,
    if_present: bool,
    if_greater: bool,
    if_less: bool,
    count_changed: bool,
    increment: bool,
}

pub(super) fn zadd(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let mut add = Add::default();
    let mut rest = &arguments[2..];
    while let Some((option, more)) = rest.split_first() {
        let flags = [
            ("nx", &mut add.if_absent),
            ("xx", &mut add.if_present),
            ("gt", &mut add.if_greater),
            ("lt", &mut add.if_less),
            ("ch", &mut add.count_changed),
            ("incr", &mut add.increment),
        ];
        let Some((_, flag)) = flags.into_iter().find(|(word, _)| is(option, word)) else { break };
        *flag = true;
        rest = more;
    }
    let (pairs, odd) = rest.as_chunks();
    if !odd.is_empty() || pairs.is_empty() {
        return refuse(SYNTAX);
    }
    add_members(on, &arguments[1], add, pairs)
}

pub(super) fn zincrby(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let add = Add { increment: true, ..Add::default() };
    add_members(on, &arguments[1], add, &[[arguments[2].clone(), arguments[3].clone()]])
}

fn add_members(on: &mut Write<'_>, key: &[u8], add: Add, pairs: &[[Bytes; 2]]) -> Done {
    if add.if_absent && add.if_present {
        return refuse("ERR XX and NX options at the same time are not compatible");
    }
    if add.if_greater && add.if_less || (add.if_greater || add.if_less) && add.if_absent {
        return refuse("ERR GT, LT, and/or NX options at the same time are not compatible");
    }
    if add.increment && pairs.len() > 1 {
        return refuse("ERR INCR option supports a single increment-element pair");
    }
    let format = on.format;
    let score = |text| fitting(text, format).ok_or_else(|| Refusal::new(NOT_A_FLOAT));
    let pairs: SmallVec<[(f64, &Bytes); 4]> =
        pairs.iter().map(|[text, member]| Ok((score(text)?, member))).collect::<Done<_>>()?;
    if add.if_present && on.look::<SortedSet>(key)?.is_none() {
        match add.increment {
            true => on.out.null(),
            false => on.out.integer(0),
        }
        return Ok(());
    }
    let (fresh, changed, last) = on.update(key, |set: &mut SortedSet, encodings| {
        let (mut fresh, mut changed, mut last) = (0, 0, None);
        for (given, member) in pairs {
            let held = set.score(member);
            let score = if add.increment { held.unwrap_or(0.0) + given } else { given };
            if score.is_nan() {
                return (changed > 0, refuse(NOT_A_NUMBER));
            }
            let is_met = match held {
                None => !add.if_present,
                Some(held) => {
                    !add.if_absent && (!add.if_greater || score > held) && (!add.if_less || score < held)
                }
            };
            if !is_met {
                continue;
            }
            set.insert_over(held, member, score, encodings);
            last = Some(score);
            fresh += usize::from(held.is_none());
            changed += usize::from(held != Some(score));
        }
        (changed > 0, Ok((fresh, changed, last)))
    })??;
    match (add.increment, last) {
        (true, Some(score)) => on.out.double(score),
        (true, None) => on.out.null(),
        (false, _) => on.out.count(if add.count_changed { changed } else { fresh }),
    }
    Ok(())
}

pub(super) fn zrem(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let removed = on.update(&arguments[1], |set: &mut SortedSet, _| {
        let removed = arguments[2..].iter().filter(|member| set.remove(member).is_some()).count();
        (removed > 0, removed)
    })?;
    on.out.count(removed);
    Ok(())
}

pub(super) fn zcard(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.count(on.look::<SortedSet>(&arguments[1])?.map_or(0, SortedSet::len));
    Ok(())
}

pub(super) fn zscore(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    match on.look::<SortedSet>(&arguments[1])?.and_then(|set| set.score(&arguments[2])) {
        Some(score) => on.out.double(score),
        None => on.out.null(),
    }
    Ok(())
}

pub(super) fn zmscore(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let set = on.look::<SortedSet>(&arguments[1])?;
    on.out.array(arguments.len() - 2);
    for member in &arguments[2..] {
        match set.and_then(|set| set.score(member)) {
            Some(score) => on.out.double(score),
            None => on.out.null(),
        }
    }
    Ok(())
}

pub(super) fn zrank(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    rank(on, arguments, false)
}

pub(super) fn zrevrank(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    rank(on, arguments, true)
}

fn rank(on: &mut Read<'_>, arguments: &[Bytes], from_top: bool) -> Done {
    let with_score = match &arguments[3..] {
        [] => false,
        [option] if is(option, "withscore") => true,
        _ => return refuse(SYNTAX),
    };
    let set = on.look::<SortedSet>(&arguments[1])?;
    let Some((rank, score)) = set.and_then(|set| {
        let (rank, score) = set.rank(&arguments[2])?;
        Some((if from_top { set.len() - 1 - rank } else { rank }, score))
    }) else {
        match with_score {
            true => on.out.null_array(),
            false => on.out.null(),
        }
        return Ok(());
    };
    if with_score {
        on.out.array(2);
    }
    on.out.count(rank);
    if with_score {
        on.out.double(score);
    }
    Ok(())
}

pub(super) fn zrandmember(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let with_scores = match arguments.get(3) {
        None => false,
        Some(option) if is(option, "withscores") && arguments.len() == 4 => true,
        Some(_) => return refuse(SYNTAX),
    };
    let wanted = arguments.get(2).map(|wanted| Sample::of(wanted, with_scores)).transpose()?;
    let set = on.look::<SortedSet>(&arguments[1])?;
    let len = set.map_or(0, SortedSet::len);
    let Some(wanted) = wanted else {
        let place = on.random.below(len);
        on.out.bulk_or_null(set.and_then(|set| set.at(place)).map(|(_, member)| &member[..]));
        return Ok(());
    };
    let places = sample(&mut on.random, wanted, len);
    if with_scores {
        on.out.pairs(places.len());
    } else {
        on.out.array(places.len());
    }
    for (score, member) in places.into_iter().filter_map(|place| set?.at(place)) {
        on.out.bulk(member);
        if with_scores {
            on.out.double(*score);
        }
    }
    Ok(())
}

pub(super) fn zscan(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let Page { cursor, count, pattern, .. } = scan_options(&arguments[2..], &[])?;
    let set = on.look::<SortedSet>(&arguments[1])?;
    let (found, next) = set.map_or((Vec::new(), 0), |set| set.scan(cursor, count));
    on.out.array(2);
    on.out.bulk(next.to_string().as_bytes());
    let wanted = |(_, member): &Member| pattern.as_ref().is_none_or(|pattern| matches(pattern, member));
    let elements = found
        .into_iter()
        .filter(wanted)
        .flat_map(|(score, member)| [member.to_vec(), double(score).into_bytes()]);
    on.out.counted(elements, |out, element| out.bulk(&element));
    Ok(())
}

/// An end of a sorted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Lowest,
    Highest,
}

/// Takes members from an end.
fn take(on: &mut Write<'_>, key: &[u8], end: End, wanted: usize) -> Done<Vec<Member>> {
    on.update(key, |set: &mut SortedSet, _| {
        let wanted = wanted.min(set.len());
        let taken: Vec<Member> = match end {
            End::Lowest => set.iter().take(wanted).cloned().collect(),
            End::Highest => set.iter().rev().take(wanted).cloned().collect(),
        };
        for (_, member) in &taken {
            set.remove(member);
        }
        (!taken.is_empty(), taken)
    })
}

pub(super) fn zpopmin(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop(on, arguments, End::Lowest)
}

pub(super) fn zpopmax(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop(on, arguments, End::Highest)
}

fn pop(on: &mut Write<'_>, arguments: &[Bytes], end: End) -> Done {
    let wanted = match &arguments[2..] {
        [] => None,
        [wanted] => Some(positive(wanted, "ERR value is out of range, must be positive")?),
        _ => return refuse(SYNTAX),
    };
    let taken = take(on, &arguments[1], end, wanted.unwrap_or(1))?;
    match wanted {
        Some(_) => on.out.pairs(taken.len()),
        None => on.out.array(taken.len() * 2),
    }
    for (score, member) in taken {
        on.out.bulk(&member);
        on.out.double(score);
    }
    Ok(())
}

fn first_set<'a>(on: &Write<'_>, keys: &'a [Bytes]) -> Done<Option<&'a Bytes>> {
    for key in keys {
        if on.look::<SortedSet>(key)?.is_some() {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

pub(super) fn bzpopmin(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_first(on, arguments, End::Lowest)
}

pub(super) fn bzpopmax(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_first(on, arguments, End::Highest)
}

fn pop_first(on: &mut Write<'_>, arguments: &[Bytes], end: End) -> Done {
    let Some(key) = first_set(on, &arguments[1..arguments.len() - 1])? else {
        on.out.null_array();
        return Ok(());
    };
    let taken = take(on, key, end, 1)?;
    on.out.array(3);
    on.out.bulk(key);
    for (score, member) in taken {
        on.out.bulk(&member);
        on.out.double(score);
    }
    Ok(())
}

pub(super) fn zmpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_many(on, arguments, 1)
}

pub(super) fn bzmpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_many(on, arguments, 2)
}

fn pop_many(on: &mut Write<'_>, arguments: &[Bytes], at: usize) -> Done {
    let (keys, rest) = numbered_keys(arguments, at).map_err(syntax_of_keys)?;
    let end = |word: &Bytes| {
        if is(word, "min") {
            Ok(End::Lowest)
        } else if is(word, "max") {
            Ok(End::Highest)
        } else {
            refuse(SYNTAX)
        }
    };
    let (end, wanted) = match rest {
        [word] => (end(word)?, 1),
        [word, option, wanted] if is(option, "count") => {
            let end = end(word)?;
            match integer(wanted)
                .ok()
                .and_then(|wanted| usize::try_from(wanted).ok())
                .filter(|wanted| *wanted > 0)
            {
                Some(wanted) => (end, wanted),
                None => return refuse("ERR count should be greater than 0"),
            }
        }
        _ => return refuse(SYNTAX),
    };
    let Some(key) = first_set(on, keys)? else {
        on.out.null_array();
        return Ok(());
    };
    let taken = take(on, key, end, wanted)?;
    on.out.array(2);
    on.out.bulk(key);
    on.out.array(taken.len());
    for (score, member) in taken {
        on.out.array(2);
        on.out.bulk(&member);
        on.out.double(score);
    }
    Ok(())
}
