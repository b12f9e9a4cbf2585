//! Commands on sets.

use bytes::Bytes;
use hashbrown::HashSet;

use super::arguments::{SYNTAX, count, integer, is, numbered_keys, positive};
use super::key::{Page, replace, scan_options};
use super::{Done, Random, Read, Refusal, Write, matches, refuse};
use crate::data::Encodings;
use crate::data::dict::Blob;
use crate::data::notice::{Classes, Doing};
use crate::data::set::Set;
use crate::limits::SAMPLE_MAX;

/// How many of the elements, at random.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sample {
    /// As many, and none twice.
    Distinct(usize),
    /// As many, whichever.
    Any(usize),
}

impl Sample {
    /// A negative number asks for elements that may come again.
    pub(super) fn of(argument: &[u8], in_pairs: bool) -> Done<Self> {
        let wanted = integer(argument)?;
        let limit = if in_pairs { i64::MAX / 2 } else { i64::MAX };
        if !(-limit..=limit).contains(&wanted) {
            return refuse("ERR value is out of range");
        }
        let count = usize::try_from(wanted.unsigned_abs()).unwrap_or(usize::MAX);
        if wanted < 0 && count > SAMPLE_MAX {
            return refuse(format!("ERR {count} elements exceed SAMPLE_MAX = {}", SAMPLE_MAX));
        }
        Ok(if wanted < 0 { Self::Any(count) } else { Self::Distinct(count) })
    }
}

/// Places below `len`, at random.
pub(super) fn sample(random: &mut Random, wanted: Sample, len: usize) -> Vec<usize> {
    match wanted {
        _ if len == 0 => Vec::new(),
        Sample::Any(count) => (0..count).map(|_| random.below(len)).collect(),
        Sample::Distinct(count) if count >= len => (0..len).collect(),
        // Floyd: as many draws as are wanted, however many there are.
        Sample::Distinct(count) => {
            let mut chosen = HashSet::with_capacity(count);
            let mut places = Vec::with_capacity(count);
            for most in len - count..len {
                let place = random.below(most + 1);
                let place = if chosen.insert(place) { place } else { most };
                chosen.insert(place);
                places.push(place);
            }
            places
        }
    }
}

pub(super) fn sadd(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let added = on.update(&arguments[1], |set: &mut Set, encodings| {
        let added = arguments[2..].iter().filter(|member| set.insert(member, encodings)).count();
        (added > 0, added)
    })?;
    on.out.count(added);
    Ok(())
}

pub(super) fn srem(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let removed = on.update(&arguments[1], |set: &mut Set, _| {
        let removed = arguments[2..].iter().filter(|member| set.remove(member)).count();
        (removed > 0, removed)
    })?;
    on.out.count(removed);
    Ok(())
}

pub(super) fn scard(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.count(on.look::<Set>(&arguments[1])?.map_or(0, Set::len));
    Ok(())
}

pub(super) fn sismember(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.flag(on.look::<Set>(&arguments[1])?.is_some_and(|set| set.contains(&arguments[2])));
    Ok(())
}

pub(super) fn smismember(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let set = on.look::<Set>(&arguments[1])?;
    on.out.array(arguments.len() - 2);
    for member in &arguments[2..] {
        on.out.flag(set.is_some_and(|set| set.contains(member)));
    }
    Ok(())
}

fn say(on: &mut Read<'_>, members: &[Blob]) {
    on.out.set(members.len());
    members.iter().for_each(|member| on.out.bulk(member));
}

pub(super) fn smembers(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let members: Vec<Blob> = on.look::<Set>(&arguments[1])?.into_iter().flat_map(Set::iter).collect();
    say(on, &members);
    Ok(())
}

pub(super) fn smove(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let member = &arguments[3];
    let is_there = on.look::<Set>(&arguments[1])?.map(|set| set.contains(member));
    if is_there.is_some() {
        on.look::<Set>(&arguments[2])?;
    }
    let moves = is_there == Some(true);
    if moves && arguments[1] != arguments[2] {
        on.keys.notices.announce(Doing::new(Classes::SET, "srem"));
        on.update(&arguments[1], |set: &mut Set, _| (set.remove(member), ()))?;
        on.keys.notices.announce(Doing::new(Classes::SET, "sadd"));
        on.update(&arguments[2], |set: &mut Set, encodings| (set.insert(member, encodings), ()))?;
    }
    on.out.flag(moves);
    Ok(())
}

pub(super) fn spop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let wanted = match &arguments[2..] {
        [] => None,
        [wanted] => Some(count(wanted)?),
        _ => return refuse(SYNTAX),
    };
    let mut random = on.random;
    let popped = on.update(&arguments[1], |set: &mut Set, _| {
        let places = sample(&mut random, Sample::Distinct(wanted.unwrap_or(1)), set.len());
        let popped: Vec<Blob> = places.into_iter().filter_map(|place| set.at(place)).collect();
        for member in &popped {
            set.remove(member);
        }
        (!popped.is_empty(), popped)
    })?;
    on.random = random;
    match wanted {
        Some(_) => say(&mut on.reading(), &popped),
        None => on.out.bulk_or_null(popped.first().map(|member| &member[..])),
    }
    Ok(())
}

pub(super) fn srandmember(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let wanted = match &arguments[2..] {
        [] => None,
        [wanted] => Some(Sample::of(wanted, false)?),
        _ => return refuse(SYNTAX),
    };
    let set = on.look::<Set>(&arguments[1])?;
    let len = set.map_or(0, Set::len);
    match wanted {
        Some(wanted) => {
            let places = sample(&mut on.random, wanted, len);
            on.out.array(places.len());
            for member in places.into_iter().filter_map(|place| set?.at(place)) {
                on.out.bulk(&member);
            }
        }
        None => {
            let place = on.random.below(len);
            on.out.bulk_or_null(set.and_then(|set| set.at(place)).as_deref());
        }
    }
    Ok(())
}

pub(super) fn sscan(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let Page { cursor, count, pattern, .. } = scan_options(&arguments[2..], &[])?;
    let set = on.look::<Set>(&arguments[1])?;
    let (found, next) = set.map_or((Vec::new(), 0), |set| set.scan(cursor, count));
    on.out.array(2);
    on.out.bulk(next.to_string().as_bytes());
    let wanted = |member: &Blob| pattern.as_ref().is_none_or(|pattern| matches(pattern, member));
    on.out.counted(found.into_iter().filter(wanted), |out, member| out.bulk(&member));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Union,
    Inter,
    Diff,
}

/// The members of what comes out, in the order of the first set (for a union, of each in turn).
fn combined(on: &Read<'_>, operation: Operation, keys: &[Bytes], limit: usize) -> Done<Vec<Blob>> {
    let sets = keys.iter().map(|key| on.look::<Set>(key)).collect::<Done<Vec<Option<&Set>>>>()?;
    match operation {
        Operation::Union => {
            let mut seen = HashSet::new();
            let members = sets.into_iter().flatten().flat_map(Set::iter);
            Ok(members.filter(|member| seen.insert(Blob::clone(member))).collect())
        }
        Operation::Inter => {
            let Some(sets) = sets.into_iter().collect::<Option<Vec<&Set>>>() else { return Ok(Vec::new()) };
            // Of the smallest fewest have to be looked for.
            let Some(smallest) = sets.iter().min_by_key(|set| set.len()) else { return Ok(Vec::new()) };
            let is_in_all = |member: &Blob| sets.iter().all(|set| set.contains(member));
            Ok(smallest.iter().filter(is_in_all).take(limit).collect())
        }
        Operation::Diff => {
            let (first, others) =
                sets.split_first().map_or((None, &[][..]), |(first, others)| (*first, others));
            let is_in_none = |member: &Blob| !others.iter().flatten().any(|set| set.contains(member));
            Ok(first.into_iter().flat_map(Set::iter).filter(is_in_none).collect())
        }
    }
}

fn said(on: &mut Read<'_>, arguments: &[Bytes], operation: Operation) -> Done {
    let members = combined(on, operation, &arguments[1..], usize::MAX)?;
    say(on, &members);
    Ok(())
}

pub(super) fn sunion(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    said(on, arguments, Operation::Union)
}

pub(super) fn sinter(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    said(on, arguments, Operation::Inter)
}

pub(super) fn sdiff(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    said(on, arguments, Operation::Diff)
}

pub(super) fn sintercard(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (keys, rest) = numbered_keys(arguments, 1)?;
    let limit = match rest {
        [] => 0,
        [option, limit] if is(option, "limit") => {
            let text = "ERR LIMIT can't be negative";
            positive(limit, text).map_err(|_| Refusal::new(text))?
        }
        _ => return refuse(SYNTAX),
    };
    let limit = if limit == 0 { usize::MAX } else { limit };
    on.out.count(combined(on, Operation::Inter, keys, limit)?.len());
    Ok(())
}

/// A set of these members.
fn set_of(members: &[Blob], encodings: &Encodings) -> Set {
    let mut set = Set::default();
    for member in members {
        set.insert(member, encodings);
    }
    set
}

fn stored(on: &mut Write<'_>, arguments: &[Bytes], operation: Operation) -> Done {
    let members = combined(&on.reading(), operation, &arguments[2..], usize::MAX)?;
    let set = set_of(&members, on.encodings);
    replace(on, &arguments[1], set.into());
    on.out.count(members.len());
    Ok(())
}

pub(super) fn sunionstore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    stored(on, arguments, Operation::Union)
}

pub(super) fn sinterstore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    stored(on, arguments, Operation::Inter)
}

pub(super) fn sdiffstore(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    stored(on, arguments, Operation::Diff)
}
