//! Whether a condition holds of an item, and which parts of an item a projection names.
//!
//! A comparison of different types, or with something that is not there, does not hold and is no error; only `<>`
//! holds for what is not there.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Comparator, Condition, Operand, Path, Step};
use crate::item::{Item, Value};
use crate::number::Number;

/// What stands at a path.
pub fn resolve<'a>(item: &'a Item, path: &Path) -> Option<&'a Value> {
    path.steps.iter().try_fold(item.get(&path.name)?, |value, step| match (value, step) {
        (Value::M(map), Step::Name(name)) => map.get(name),
        (Value::L(values), Step::Index(index)) => values.get(*index as usize),
        _ => None,
    })
}

/// A constant, what stands in the item, or something reckoned from it.
enum Operated<'a> {
    Found(&'a Value),
    Reckoned(Value),
}

impl Operated<'_> {
    fn value(&self) -> &Value {
        match self {
            Operated::Found(value) => value,
            Operated::Reckoned(value) => value,
        }
    }
}

fn operand<'a>(item: &'a Item, operand: &'a Operand) -> Option<Operated<'a>> {
    match operand {
        Operand::Path(path) => resolve(item, path).map(Operated::Found),
        Operand::Value(value) => Some(Operated::Found(value)),
        Operand::Size(path) => {
            let size = match resolve(item, path)? {
                Value::S(text) => text.chars().count(),
                Value::B(bytes) => bytes.len(),
                Value::L(values) => values.len(),
                Value::M(map) => map.len(),
                Value::Ss(set) => set.len(),
                Value::Ns(set) => set.len(),
                Value::Bs(set) => set.len(),
                Value::N(_) | Value::Bool(_) | Value::Null => return None,
            };
            let size: Number = size.to_string().parse().ok()?;
            Some(Operated::Reckoned(Value::N(size)))
        }
    }
}

/// The order of two values, if they are of one type that has an order.
pub fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::S(a), Value::S(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::N(a), Value::N(b)) => Some(a.cmp(b)),
        (Value::B(a), Value::B(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn compare(a: Option<&Value>, comparator: Comparator, b: Option<&Value>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return comparator == Comparator::NotEqual };
    match comparator {
        Comparator::Equal => a == b,
        Comparator::NotEqual => a != b,
        Comparator::Less => order(a, b).is_some_and(Ordering::is_lt),
        Comparator::LessOrEqual => order(a, b).is_some_and(Ordering::is_le),
        Comparator::Greater => order(a, b).is_some_and(Ordering::is_gt),
        Comparator::GreaterOrEqual => order(a, b).is_some_and(Ordering::is_ge),
    }
}

/// Whether a condition holds.
pub fn holds(item: &Item, condition: &Condition) -> bool {
    match condition {
        Condition::Compare(a, comparator, b) => {
            let (a, b) = (operand(item, a), operand(item, b));
            compare(a.as_ref().map(Operated::value), *comparator, b.as_ref().map(Operated::value))
        }
        Condition::Between(value, low, high) => {
            let (Some(value), Some(low), Some(high)) =
                (operand(item, value), operand(item, low), operand(item, high))
            else {
                return false;
            };
            order(value.value(), low.value()).is_some_and(Ordering::is_ge)
                && order(value.value(), high.value()).is_some_and(Ordering::is_le)
        }
        Condition::In(value, among) => operand(item, value).is_some_and(|value| {
            among.iter().filter_map(|one| operand(item, one)).any(|one| one.value() == value.value())
        }),
        Condition::Exists(path) => resolve(item, path).is_some(),
        Condition::NotExists(path) => resolve(item, path).is_none(),
        Condition::HasType(path, kind) => resolve(item, path).is_some_and(|value| value.kind() == *kind),
        Condition::BeginsWith(value, prefix) => match (operand(item, value), operand(item, prefix)) {
            (Some(value), Some(prefix)) => begins_with(value.value(), prefix.value()),
            _ => false,
        },
        Condition::Contains(value, part) => match (operand(item, value), operand(item, part)) {
            (Some(value), Some(part)) => contains(value.value(), part.value()),
            _ => false,
        },
        Condition::And(parts) => parts.iter().all(|part| holds(item, part)),
        Condition::Or(parts) => parts.iter().any(|part| holds(item, part)),
        Condition::Not(inner) => !holds(item, inner),
    }
}

fn begins_with(value: &Value, prefix: &Value) -> bool {
    match (value, prefix) {
        (Value::S(value), Value::S(prefix)) => value.starts_with(prefix),
        (Value::B(value), Value::B(prefix)) => value.starts_with(prefix),
        _ => false,
    }
}

fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::S(text), Value::S(part)) => text.contains(part),
        (Value::B(bytes), Value::B(part)) => {
            part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
        }
        (Value::Ss(set), Value::S(part)) => set.contains(part),
        (Value::Ns(set), Value::N(part)) => set.contains(part),
        (Value::Bs(set), Value::B(part)) => set.contains(part),
        (Value::L(values), part) => values.contains(part),
        _ => false,
    }
}

/// The parts of an item that paths name, in the documents that they stand in. Elements of lists close ranks.
pub fn project(item: &Item, paths: &[Path]) -> Item {
    let mut tree = Wanted::default();
    for path in paths {
        let mut at = tree.inside.entry(Step::Name(path.name.clone())).or_default();
        for step in &path.steps {
            at = at.inside.entry(step.clone()).or_default();
        }
        at.whole = true;
    }
    tree.of_map(item)
}

/// The paths of a projection as a tree.
#[derive(Default)]
struct Wanted {
    whole: bool,
    inside: BTreeMap<Step, Wanted>,
}

impl Wanted {
    fn of_map(&self, map: &Item) -> Item {
        let found = self.inside.iter().filter_map(|(step, wanted)| {
            let Step::Name(name) = step else { return None };
            Some((name.clone(), wanted.of(map.get(name)?)?))
        });
        found.collect()
    }

    fn of(&self, value: &Value) -> Option<Value> {
        if self.whole {
            return Some(value.clone());
        }
        match value {
            Value::M(map) => Some(self.of_map(map)).filter(|map| !map.is_empty()).map(Value::M),
            Value::L(values) => {
                let found = self.inside.iter().filter_map(|(step, wanted)| match step {
                    Step::Index(index) => wanted.of(values.get(*index as usize)?),
                    Step::Name(_) => None,
                });
                Some(found.collect::<Vec<_>>()).filter(|values| !values.is_empty()).map(Value::L)
            }
            _ => None,
        }
    }
}
