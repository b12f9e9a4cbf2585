//! SORT: the elements of a list, a set or a sorted set in another order, maybe that of what other keys say of them.

use std::cmp::Ordering;

use bytes::Bytes;

use super::arguments::{SYNTAX, fitting, integer, is};
use super::key::replace;
use super::table::STRICT_NUMBERS_FORMAT;
use super::{Done, Read, Refusal, Write, refuse};
use crate::data::dict::Blob;
use crate::data::hash::Hash;
use crate::data::list::List;
use crate::data::{ByteString, Value, WrongType};

#[derive(Clone, Debug, Default)]
struct Wanted<'a> {
    by: Option<&'a Bytes>,
    get: Vec<&'a Bytes>,
    limit: Option<(i64, i64)>,
    descending: bool,
    as_text: bool,
    store: Option<&'a Bytes>,
}

fn wanted(arguments: &[Bytes], may_store: bool) -> Done<Wanted<'_>> {
    let mut wanted = Wanted::default();
    let mut rest = &arguments[2..];
    loop {
        rest = match rest {
            [] => return Ok(wanted),
            [word, more @ ..] if is(word, "asc") => {
                wanted.descending = false;
                more
            }
            [word, more @ ..] if is(word, "desc") => {
                wanted.descending = true;
                more
            }
            [word, more @ ..] if is(word, "alpha") => {
                wanted.as_text = true;
                more
            }
            [word, start, count, more @ ..] if is(word, "limit") => {
                wanted.limit = Some((integer(start)?, integer(count)?));
                more
            }
            [word, key, more @ ..] if is(word, "store") && may_store => {
                wanted.store = Some(key);
                more
            }
            [word, pattern, more @ ..] if is(word, "by") => {
                wanted.by = Some(pattern);
                more
            }
            [word, pattern, more @ ..] if is(word, "get") => {
                wanted.get.push(pattern);
                more
            }
            _ => return refuse(SYNTAX),
        };
    }
}

/// What a pattern of keys says of an element: `#` = itself, `weight_*` = a string, `object_*->field` = a field.
fn said(on: &Read<'_>, pattern: &[u8], element: &Blob) -> Done<Option<Blob>> {
    if pattern == b"#" {
        return Ok(Some(Blob::clone(element)));
    }
    let Some(star) = memchr::memchr(b'*', pattern) else { return Ok(None) };
    let arrow = memchr::memmem::find(&pattern[star..], b"->").map(|at| star + at);
    let arrow = arrow.filter(|arrow| arrow + 2 < pattern.len());
    let end = arrow.unwrap_or(pattern.len());
    let key = [&pattern[..star], element, &pattern[star + 1..end]].concat();
    if !on.keys.has_place_for(&key) {
        return refuse(
            "CROSSSLOT keys of BY and GET must be where the key that is sorted is: give them its hash tag",
        );
    }
    Ok(match arrow {
        Some(arrow) => {
            let hash = on.look::<Hash>(&key).ok().flatten();
            hash.and_then(|hash| hash.get(&pattern[arrow + 2..])).cloned()
        }
        None => on.look::<ByteString>(&key).ok().flatten().map(|value| (**value).into()),
    })
}

fn sorted(on: &Read<'_>, key: &[u8], wanted: &Wanted<'_>) -> Done<Vec<Option<Blob>>> {
    let mut is_set = false;
    let mut elements: Vec<Blob> = match on.keys.get(key, on.now_ms).map(|entry| &entry.value) {
        None => Vec::new(),
        Some(Value::List(list)) => list.iter().cloned().collect(),
        Some(Value::Set(set)) => {
            is_set = true;
            set.iter().collect()
        }
        Some(Value::SortedSet(set)) => set.iter().map(|(_, member)| Blob::clone(member)).collect(),
        Some(_) => return Err(WrongType.into()),
    };
    let is_constant = wanted.by.is_some_and(|by| !by.contains(&b'*'));
    if is_constant && !(is_set && wanted.store.is_some()) {
        // As they come.
        let is_sorted_set =
            matches!(on.keys.get(key, on.now_ms).map(|entry| &entry.value), Some(Value::SortedSet(_)));
        if is_sorted_set && wanted.descending {
            elements.reverse();
        }
    } else {
        let by = wanted.by.filter(|_| !is_constant);
        let mut weighed = Vec::with_capacity(elements.len());
        for element in elements {
            let weight = match by {
                Some(pattern) => said(on, pattern, &element)?,
                None => Some(Blob::clone(&element)),
            };
            let number = match &weight {
                Some(weight) if weight.is_empty() && on.format >= STRICT_NUMBERS_FORMAT => 0.0,
                Some(weight) if !wanted.as_text => fitting(weight, on.format)
                    .ok_or_else(|| Refusal::new("ERR One or more scores can't be converted into double"))?,
                _ => 0.0,
            };
            weighed.push((number, weight, element));
        }
        weighed.sort_by(|a, b| {
            let order =
                if wanted.as_text { a.1.cmp(&b.1) } else { a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal) };
            // Of one weight: by their bytes, so that the order is the same everywhere.
            let order = order
                .then_with(|| if by.is_some() || !wanted.as_text { a.2.cmp(&b.2) } else { Ordering::Equal });
            if wanted.descending { order.reverse() } else { order }
        });
        elements = weighed.into_iter().map(|(_, _, element)| element).collect();
    }
    if let Some((start, count)) = wanted.limit {
        let start = usize::try_from(start).unwrap_or(0).min(elements.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        elements = elements.into_iter().skip(start).take(count).collect();
    }
    if wanted.get.is_empty() {
        return Ok(elements.into_iter().map(Some).collect());
    }
    let mut told = Vec::with_capacity(elements.len() * wanted.get.len());
    for element in &elements {
        for pattern in &wanted.get {
            told.push(said(on, pattern, element)?);
        }
    }
    Ok(told)
}

pub(super) fn sort(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let wanted = wanted(arguments, true)?;
    let Some(target) = wanted.store else { return say(&mut on.reading(), arguments, &wanted) };
    let mut list = List::default();
    for element in sorted(&on.reading(), &arguments[1], &wanted)? {
        list.push_back(element.unwrap_or_default());
    }
    let len = list.len();
    replace(on, target, list.into());
    on.out.count(len);
    Ok(())
}

pub(super) fn sort_ro(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let wanted = wanted(arguments, false)?;
    say(on, arguments, &wanted)
}

fn say(on: &mut Read<'_>, arguments: &[Bytes], wanted: &Wanted<'_>) -> Done {
    let elements = sorted(on, &arguments[1], wanted)?;
    on.out.array(elements.len());
    elements.iter().for_each(|element| on.out.bulk_or_null(element.as_deref()));
    Ok(())
}
