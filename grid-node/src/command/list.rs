//! Commands on lists. Those that wait for an element are here as what they do when there is one; the waiting is the
//! front's.

use bytes::Bytes;

use super::arguments::{SYNTAX, blob, count, from_end, integer, is, lower, numbered_keys, positive, range};
use super::{Done, Read, Refusal, Write, refuse};
use crate::data::Keys;
use crate::data::dict::Blob;
use crate::data::list::List;
use crate::data::notice::{Classes, Doing};

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn of(argument: &[u8]) -> Done<Self> {
        if is(argument, "left") {
            Ok(Self::Left)
        } else if is(argument, "right") {
            Ok(Self::Right)
        } else {
            refuse(SYNTAX)
        }
    }

    /// What a command is said to do that adds an element here, or takes one away.
    fn doing(self, adds: bool) -> Doing {
        let event = match (self, adds) {
            (Self::Left, true) => "lpush",
            (Self::Right, true) => "rpush",
            (Self::Left, false) => "lpop",
            (Self::Right, false) => "rpop",
        };
        Doing::new(Classes::LIST, event)
    }

    fn push(self, list: &mut List, element: Blob) {
        match self {
            Self::Left => list.push_front(element),
            Self::Right => list.push_back(element),
        }
    }

    fn pop(self, list: &mut List) -> Option<Blob> {
        match self {
            Self::Left => list.pop_front(),
            Self::Right => list.pop_back(),
        }
    }
}

pub(super) fn lpush(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    push(on, arguments, End::Left, true)
}

pub(super) fn rpush(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    push(on, arguments, End::Right, true)
}

pub(super) fn lpushx(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    push(on, arguments, End::Left, false)
}

pub(super) fn rpushx(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    push(on, arguments, End::Right, false)
}

fn push(on: &mut Write<'_>, arguments: &[Bytes], end: End, create: bool) -> Done {
    if !create && on.look::<List>(&arguments[1])?.is_none() {
        on.out.integer(0);
        return Ok(());
    }
    let len = on.update(&arguments[1], |list: &mut List, _| {
        arguments[2..].iter().for_each(|element| end.push(list, blob(element)));
        (true, list.len())
    })?;
    on.out.count(len);
    Ok(())
}

pub(super) fn lpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop(on, arguments, End::Left)
}

pub(super) fn rpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop(on, arguments, End::Right)
}

fn take(on: &mut Write<'_>, key: &[u8], end: End, wanted: usize) -> Done<Vec<Blob>> {
    on.update(key, |list: &mut List, _| {
        let taken: Vec<Blob> = (0..wanted.min(list.len())).filter_map(|_| end.pop(list)).collect();
        (!taken.is_empty(), taken)
    })
}

fn pop(on: &mut Write<'_>, arguments: &[Bytes], end: End) -> Done {
    let wanted = match &arguments[2..] {
        [] => None,
        [wanted] => Some(count(wanted)?),
        _ => {
            let name = lower(&arguments[0]);
            return refuse(format!("ERR wrong number of arguments for '{name}' command"));
        }
    };
    if on.look::<List>(&arguments[1])?.is_none() {
        match wanted {
            Some(_) => on.out.null_array(),
            None => on.out.null(),
        }
        return Ok(());
    }
    let taken = take(on, &arguments[1], end, wanted.unwrap_or(1))?;
    match wanted {
        Some(_) => {
            on.out.array(taken.len());
            taken.iter().for_each(|element| on.out.bulk(element));
        }
        None => on.out.bulk_or_null(taken.first().map(|element| &element[..])),
    }
    Ok(())
}

pub(super) fn llen(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    on.out.count(on.look::<List>(&arguments[1])?.map_or(0, List::len));
    Ok(())
}

pub(super) fn lindex(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let list = on.look::<List>(&arguments[1])?;
    let index = integer(&arguments[2])?;
    let found = list.and_then(|list| list.get(from_end(index, list.len())?));
    on.out.bulk_or_null(found.map(|element| &element[..]));
    Ok(())
}

pub(super) fn lrange(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (start, stop) = (integer(&arguments[2])?, integer(&arguments[3])?);
    let Some(list) = on.look::<List>(&arguments[1])? else {
        on.out.array(0);
        return Ok(());
    };
    let (begin, len) = range(start, stop, list.len());
    on.out.array(len);
    list.iter_from(begin).take(len).for_each(|element| on.out.bulk(element));
    Ok(())
}

pub(super) fn lset(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let Some(len) = on.look::<List>(&arguments[1])?.map(List::len) else { return refuse("ERR no such key") };
    let index = integer(&arguments[2])?;
    let Some(index) = from_end(index, len) else { return refuse("ERR index out of range") };
    on.update(&arguments[1], |list: &mut List, _| (list.set(index, blob(&arguments[3])), ()))?;
    on.out.ok();
    Ok(())
}

pub(super) fn linsert(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let behind = if is(&arguments[2], "after") {
        1
    } else if is(&arguments[2], "before") {
        0
    } else {
        return refuse(SYNTAX);
    };
    let Some(list) = on.look::<List>(&arguments[1])? else {
        on.out.integer(0);
        return Ok(());
    };
    let Some(place) = list.iter().position(|element| **element == arguments[3]) else {
        on.out.integer(-1);
        return Ok(());
    };
    let len = on.update(&arguments[1], |list: &mut List, _| {
        list.insert(place + behind, blob(&arguments[4]));
        (true, list.len())
    })?;
    on.out.count(len);
    Ok(())
}

pub(super) fn lrem(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let wanted = integer(&arguments[2])?;
    let removed = on.update(&arguments[1], |list: &mut List, _| {
        let places = list.iter().enumerate().filter(|(_, element)| ***element == arguments[3]);
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        let most = usize::try_from(wanted.unsigned_abs()).unwrap_or(usize::MAX);
        let chosen = match wanted {
            0 => &places[..],
            1.. => &places[..places.len().min(most)],
            _ => &places[places.len().saturating_sub(most)..],
        };
        // From the end, so that the places of the others stay.
        chosen.iter().rev().for_each(|place| drop(list.remove(*place)));
        (!chosen.is_empty(), chosen.len())
    })?;
    on.out.count(removed);
    Ok(())
}

pub(super) fn ltrim(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (start, stop) = (integer(&arguments[2])?, integer(&arguments[3])?);
    on.update(&arguments[1], |list: &mut List, _| {
        let before = list.len();
        let (begin, len) = range(start, stop, before);
        (begin + len..before).for_each(|_| drop(list.pop_back()));
        let front = if len == 0 { list.len() } else { begin };
        (0..front).for_each(|_| drop(list.pop_front()));
        (list.len() != before, ())
    })?;
    on.out.ok();
    Ok(())
}

pub(super) fn lpos(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (mut rank, mut most, mut compared) = (1, None, 0);
    let (pairs, odd) = arguments[3..].as_chunks::<2>();
    if !odd.is_empty() {
        return refuse(SYNTAX);
    }
    for [option, value] in pairs {
        if is(option, "rank") {
            rank = integer(value)?;
            if rank == 0 {
                return refuse(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
                     or use negative to start from the end of the list",
                );
            }
            if rank == i64::MIN {
                return refuse(
                    "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
                );
            }
        } else if is(option, "count") {
            most = Some(positive(value, "ERR COUNT can't be negative")?);
        } else if is(option, "maxlen") {
            compared = positive(value, "ERR MAXLEN can't be negative")?;
        } else {
            return refuse(SYNTAX);
        }
    }
    let Some(list) = on.look::<List>(&arguments[1])? else {
        match most {
            Some(_) => on.out.array(0),
            None => on.out.null(),
        }
        return Ok(());
    };
    let look_at = if compared == 0 { list.len() } else { compared };
    let skipped = usize::try_from(rank.unsigned_abs() - 1).unwrap_or(usize::MAX);
    let wanted = match most {
        None => 1,
        Some(0) => usize::MAX,
        Some(most) => most,
    };
    let is_it = |(place, element): (usize, &Blob)| (**element == arguments[2]).then_some(place);
    let found: Vec<usize> = if rank > 0 {
        list.iter().enumerate().take(look_at).filter_map(is_it).skip(skipped).take(wanted).collect()
    } else {
        let last = list.len() - 1;
        let backwards = list.iter().rev().enumerate().take(look_at).filter_map(is_it);
        backwards.skip(skipped).take(wanted).map(|place| last - place).collect()
    };
    match (most, found.first()) {
        (Some(_), _) => {
            on.out.array(found.len());
            found.iter().for_each(|place| on.out.count(*place));
        }
        (None, Some(place)) => on.out.count(*place),
        (None, None) => on.out.null(),
    }
    Ok(())
}

pub(super) fn lmove(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (from, to) = (End::of(&arguments[3])?, End::of(&arguments[4])?);
    move_one(on, &arguments[1], &arguments[2], from, to)
}

pub(super) fn rpoplpush(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    move_one(on, &arguments[1], &arguments[2], End::Right, End::Left)
}

fn move_one(on: &mut Write<'_>, source: &[u8], target: &[u8], from: End, to: End) -> Done {
    if on.look::<List>(source)?.is_none() {
        on.out.null();
        return Ok(());
    }
    on.look::<List>(target)?;
    on.keys.notices.announce(from.doing(false));
    if source == target {
        let moved = on.update(source, |list: &mut List, _| {
            let moved = from.pop(list);
            if let Some(element) = &moved {
                to.push(list, element.clone());
            }
            (true, moved)
        })?;
        on.keys.notices.note(to.doing(true), target);
        on.out.bulk_or_null(moved.as_deref());
        return Ok(());
    }
    let moved = take(on, source, from, 1)?.pop();
    if let Some(element) = &moved {
        on.keys.notices.announce(to.doing(true));
        on.update(target, |list: &mut List, _| {
            to.push(list, element.clone());
            (true, ())
        })?;
    }
    on.out.bulk_or_null(moved.as_deref());
    Ok(())
}

/// The first of these keys that is there, and the one that has another type before that.
fn first_list<'a>(keys: &Keys, now_ms: u64, names: &'a [Bytes]) -> Done<Option<&'a Bytes>> {
    for key in names {
        if keys.look::<List>(key, now_ms)?.is_some() {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

pub(super) fn lmpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_many(on, arguments, 1)
}

pub(super) fn blmpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_many(on, arguments, 2)
}

fn pop_many(on: &mut Write<'_>, arguments: &[Bytes], at: usize) -> Done {
    let (keys, rest) = numbered_keys(arguments, at).map_err(syntax_of_keys)?;
    let (end, wanted) = match rest {
        [end] => (End::of(end)?, 1),
        [end, option, wanted] if is(option, "count") => {
            let end = End::of(end)?;
            let text = "ERR count should be greater than 0";
            let wanted = positive(wanted, text).map_err(|_| Refusal::new(text))?;
            (end, if wanted == 0 { return refuse(text) } else { wanted })
        }
        _ => return refuse(SYNTAX),
    };
    let Some(key) = first_list(on.keys, on.now_ms, keys)? else {
        on.out.null_array();
        return Ok(());
    };
    let taken = take(on, key, end, wanted)?;
    on.out.array(2);
    on.out.bulk(key);
    on.out.array(taken.len());
    taken.iter().for_each(|element| on.out.bulk(element));
    Ok(())
}

/// Too many keys are no syntax to the commands that take a number of them.
pub(super) fn syntax_of_keys(refusal: Refusal) -> Refusal {
    if refusal.text().starts_with("ERR Number") { Refusal::new(SYNTAX) } else { refusal }
}

pub(super) fn blpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_first(on, arguments, End::Left)
}

pub(super) fn brpop(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    pop_first(on, arguments, End::Right)
}

fn pop_first(on: &mut Write<'_>, arguments: &[Bytes], end: End) -> Done {
    let Some(key) = first_list(on.keys, on.now_ms, &arguments[1..arguments.len() - 1])? else {
        on.out.null_array();
        return Ok(());
    };
    let taken = take(on, key, end, 1)?;
    on.out.array(2);
    on.out.bulk(key);
    on.out.bulk_or_null(taken.first().map(|element| &element[..]));
    Ok(())
}
