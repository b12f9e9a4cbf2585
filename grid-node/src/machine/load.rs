//! Keys of a backup that are put in. What comes in may be anything: nothing in it is taken for granted but its form.

use std::sync::Arc;

use prost::Message as _;
use trimaran_proto::state::grid::item::Kind;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Element, Item, Load, Loaded, Reply, StreamState};

use super::snapshot::restore_libraries;
use crate::command::scripting::function;
use crate::data::hash::Hash;
use crate::data::list::List;
use crate::data::set::Set;
use crate::data::sorted_set::SortedSet;
use crate::data::stream::{Id, Stream};
use crate::data::{ByteString, Encodings, Keys, Value};

/// What is to be put in is no value that this release knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Puts keys in. What is not a value ends it; what was before it stays.
pub(super) fn load(keys: &mut Keys, load: Load, now_ms: u64) -> Reply {
    let Load { items, replace, after_version, least_version, libraries, .. } = load;
    keys.advance_to(least_version);
    let mut loaded = Loaded::default();
    for (name, library) in restore_libraries(&libraries).iter() {
        if !replace && keys.libraries.get(name).is_some() {
            continue;
        }
        let added = vec![(name.to_owned(), library.clone())];
        if let Err(refusal) = function::add(&mut keys.libraries, added, replace) {
            loaded.left_out.push(format!("library {name}: {}", refusal.text()));
        }
    }
    let last_token = items.is_empty().then(|| keys.range().1.0);
    let mut after_version = after_version;
    let mut outcome = Outcome::Applied;
    let mut version = keys.version();
    let mut items = items.into_iter();
    while outcome == Outcome::Applied
        && let Some(first) = items.next()
    {
        let key = first.key.clone();
        let mut parts = vec![first];
        while parts.last().is_some_and(|part| part.goes_on)
            && let Some(next) = items.next()
        {
            parts.push(next);
        }
        outcome = match after_version.take() {
            Some(after) => go_on(keys, &key, parts, after, now_ms),
            None => put(keys, &key, parts, replace, now_ms, &mut loaded),
        };
        version = keys.get(&key, now_ms).map_or(version, |entry| entry.version);
    }
    Reply { outcome: outcome.into(), version, loaded: Some(loaded), last_token, ..Reply::default() }
}

/// Puts the value of a key in, or as much of it as there is.
fn put(
    keys: &mut Keys,
    key: &[u8],
    parts: Vec<Item>,
    replace: bool,
    now_ms: u64,
    loaded: &mut Loaded,
) -> Outcome {
    if has_ended(&parts, now_ms) {
        loaded.expired += 1;
        return Outcome::Applied;
    }
    let expires_at_ms = parts.first().map_or(0, |part| part.expires_at_ms);
    if !replace && keys.get(key, now_ms).is_some() {
        loaded.kept += 1;
        return Outcome::Applied;
    }
    match value(parts) {
        Ok(value) => {
            loaded.restored += 1;
            if !value.is_gone() {
                keys.put(key, value, expires_at_ms);
            }
            Outcome::Applied
        }
        Err(Malformed) => Outcome::Malformed,
    }
}

/// Goes on with the value of a key, if nobody has changed it since. One whose time to live is over by now needs no more.
fn go_on(keys: &mut Keys, key: &[u8], parts: Vec<Item>, after: u64, now_ms: u64) -> Outcome {
    if has_ended(&parts, now_ms) {
        return Outcome::Applied;
    }
    if keys.get(key, now_ms).is_none_or(|entry| entry.version != after) {
        return Outcome::ConditionFailed;
    }
    let elements = parts.into_iter().flat_map(|part| part.elements);
    match keys.edit(key, |value| (true, extend(value, elements))) {
        Some(Ok(())) => Outcome::Applied,
        _ => Outcome::Malformed,
    }
}

fn has_ended(parts: &[Item], now_ms: u64) -> bool {
    parts.first().is_some_and(|part| part.expires_at_ms != 0 && part.expires_at_ms <= now_ms)
}

fn value(parts: Vec<Item>) -> Result<Value, Malformed> {
    let first = parts.first().ok_or(Malformed)?;
    let mut value = match Kind::try_from(first.kind).map_err(|_newer| Malformed)? {
        // A value of its own: it would keep the whole entry in memory else.
        Kind::String => Value::String(ByteString::from(&first.value[..])),
        Kind::List => List::default().into(),
        Kind::Hash => Hash::default().into(),
        Kind::Set => Set::default().into(),
        Kind::SortedSet => SortedSet::default().into(),
        Kind::Stream => {
            let state = StreamState::decode(first.value.clone()).map_err(|_newer| Malformed)?;
            Stream::with_state(state).into()
        }
    };
    extend(&mut value, parts.into_iter().flat_map(|part| part.elements))?;
    Ok(value)
}

/// Adds elements. They are laid out anew: how they were laid out elsewhere is nothing to rely on.
fn extend(value: &mut Value, elements: impl Iterator<Item = Element>) -> Result<(), Malformed> {
    let encodings = Encodings::default();
    for element in elements {
        let name = &element.name[..];
        match value {
            Value::String(_) => return Err(Malformed),
            Value::List(list) => Arc::make_mut(list).push_back(name.into()),
            Value::Hash(hash) => {
                let hash = Arc::make_mut(hash);
                hash.insert(name, (*element.value).into(), &encodings);
                hash.set_end(name, element.expires_at_ms);
            }
            Value::Set(set) => drop(Arc::make_mut(set).insert(name, &encodings)),
            Value::SortedSet(set) if !element.score.is_nan() => {
                Arc::make_mut(set).insert(name, element.score, &encodings);
            }
            Value::SortedSet(_) => return Err(Malformed),
            Value::Stream(stream) => {
                let stream = Arc::make_mut(stream);
                let id = Id::from(element.id.unwrap_or_default());
                let is_behind = stream.iter().next_back().is_none_or(|last| last.id < id);
                if !is_behind || id > stream.last || element.words.len() % 2 != 0 {
                    return Err(Malformed);
                }
                let words = element.words.iter().map(|word| (**word).into()).collect();
                stream.restore(id, words, element.begins);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use trimaran_placement::token::Token;
    use trimaran_proto::state::grid::{self, LibraryFunction};

    use super::*;
    use crate::limits::LIBRARIES_BYTES_MAX;

    fn keys() -> Keys {
        Keys::new(Token(0), Token(u64::MAX))
    }

    fn item(kind: Kind, names: &[&'static str]) -> Item {
        let element =
            |name: &&'static str| Element { name: name.as_bytes().into(), score: 1.5, ..Element::default() };
        Item {
            key: "key".into(),
            value: "text".into(),
            kind: kind.into(),
            elements: names.iter().map(element).collect(),
            ..Item::default()
        }
    }

    fn of(items: Vec<Item>) -> Load {
        Load { items, ..Load::default() }
    }

    #[test]
    fn what_is_there_stays_unless_it_is_to_be_replaced() {
        let mut keys = keys();
        let first = load(&mut keys, of(vec![item(Kind::List, &["a"])]), 1000);
        assert_eq!(first.loaded.unwrap(), Loaded { restored: 1, ..Loaded::default() });
        let second = load(&mut keys, of(vec![item(Kind::Set, &["b"])]), 1000);
        assert_eq!(second.loaded.unwrap(), Loaded { kept: 1, ..Loaded::default() });
        assert!(matches!(keys.get(b"key", 1000).unwrap().value, Value::List(_)));
        let replacing = Load { replace: true, ..of(vec![item(Kind::Set, &["b"])]) };
        load(&mut keys, replacing, 1000);
        assert!(matches!(keys.get(b"key", 1000).unwrap().value, Value::Set(_)));
        let ended = Item { expires_at_ms: 999, ..item(Kind::String, &[]) };
        let reply = load(&mut keys, Load { replace: true, ..of(vec![ended]) }, 1000);
        assert_eq!(reply.loaded.unwrap(), Loaded { expired: 1, ..Loaded::default() });
    }

    #[test]
    fn a_value_in_parts_goes_on_unless_somebody_has_changed_it() {
        let mut keys = keys();
        let begins = Item { goes_on: true, ..item(Kind::List, &["a", "b"]) };
        let reply = load(&mut keys, of(vec![begins]), 1);
        let next = |version| Load { after_version: Some(version), ..of(vec![item(Kind::List, &["c"])]) };
        let reply = load(&mut keys, next(reply.version), 1);
        assert_eq!(reply.outcome(), Outcome::Applied);
        let stale = load(&mut keys, next(reply.version - 1), 1);
        assert_eq!(stale.outcome(), Outcome::ConditionFailed);
        let mut ended = next(reply.version - 1);
        ended.items[0].expires_at_ms = 1;
        assert_eq!(load(&mut keys, ended, 1).outcome(), Outcome::Applied, "it is over");
        let Value::List(list) = &keys.get(b"key", 1).unwrap().value else { panic!("no list") };
        let elements: Vec<&[u8]> = list.iter().map(|element| &**element).collect();
        assert_eq!(elements, [b"a", b"b", b"c"]);
    }

    #[test]
    fn what_is_no_value_is_refused_and_nothing_of_it_is_there() {
        let unordered = |ids: [u64; 2]| {
            let state =
                StreamState { last: Some(Id { ms: 9, sequence: 0 }.into()), ..StreamState::default() };
            let element = |ms| Element { id: Some(Id { ms, sequence: 0 }.into()), ..Element::default() };
            Item {
                value: state.encode_to_vec().into(),
                elements: ids.map(element).into(),
                ..item(Kind::Stream, &[])
            }
        };
        let mut unknown = item(Kind::String, &[]);
        unknown.kind = 77;
        let mut not_a_number = item(Kind::SortedSet, &["a"]);
        not_a_number.elements[0].score = f64::NAN;
        let cases =
            [unknown, not_a_number, item(Kind::String, &["a"]), unordered([2, 1]), unordered([1, 10])];
        for case in cases {
            let mut keys = keys();
            let reply = load(&mut keys, of(vec![case.clone()]), 1);
            assert_eq!(reply.outcome(), Outcome::Malformed, "{case:?}");
            assert!(keys.get(b"key", 1).is_none(), "{case:?}");
        }
        assert_eq!(load(&mut keys(), of(vec![unordered([1, 9])]), 1).outcome(), Outcome::Applied);
    }

    #[test]
    fn a_library_that_cannot_be_taken_is_told() {
        let library = |name: &str, function: &str| grid::Library {
            name: name.to_owned(),
            code: "code".into(),
            functions: vec![LibraryFunction { name: function.to_owned(), ..LibraryFunction::default() }],
        };
        let mut keys = keys();
        let with = |library, replace| Load { libraries: vec![library], replace, ..Load::default() };
        let left_out = |keys: &mut Keys, load: Load| super::load(keys, load, 1).loaded.unwrap().left_out;
        assert!(left_out(&mut keys, with(library("one", "f"), false)).is_empty());
        assert!(left_out(&mut keys, with(library("one", "g"), false)).is_empty(), "it is there already");
        assert!(keys.libraries.function("f").is_some());
        for replace in [false, true] {
            let said = left_out(&mut keys, with(library("two", "F"), replace));
            assert!(
                said.len() == 1 && said[0].contains("library two: ") && said[0].contains("already"),
                "{said:?}"
            );
        }
        let mut large = library("three", "h");
        large.code = vec![b'x'; LIBRARIES_BYTES_MAX + 1].into();
        let said = left_out(&mut keys, with(large, false));
        assert!(said[0].contains("LIBRARIES_BYTES_MAX"), "{said:?}");
        assert_eq!(keys.libraries.len(), 1);
    }

    #[test]
    fn versions_go_on_above_those_of_the_backup() {
        let mut keys = keys();
        let reply = load(&mut keys, Load { least_version: 700, ..Load::default() }, 1);
        assert_eq!((reply.last_token, keys.version()), (Some(u64::MAX), 700));
        let reply = load(&mut keys, of(vec![item(Kind::String, &[])]), 1);
        assert_eq!(reply.version, 701);
        load(&mut keys, Load { least_version: 3, ..Load::default() }, 1);
        assert_eq!(keys.version(), 701);
    }
}
