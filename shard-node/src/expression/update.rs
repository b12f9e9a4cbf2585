//! Carries out an update: every value is taken from the item as it was before.

use super::evaluate::resolve;
use super::{Assigned, Path, Source, Step, Update};
use crate::error::Invalid;
use crate::item::{Item, Value};
use crate::number::Number;

const WRONG_TYPE: &str = "An operand in the update expression has an incorrect data type";
const NO_ATTRIBUTE: &str = "The provided expression refers to an attribute that does not exist in the item";
const NO_SUCH_PATH: &str = "The document path provided in the update expression is invalid for update";

/// The item after the update. Errors leave nothing changed, since the item is not touched.
pub fn apply(before: &Item, update: &Update) -> Result<Item, Invalid> {
    let mut after = before.clone();
    let values = update.set.iter().map(|(path, assigned)| Ok((path, assign(before, assigned)?)));
    let mut values = values.collect::<Result<Vec<_>, Invalid>>()?;
    // Positions behind the end of a list append in their own order.
    values.sort_by_key(|(path, _)| *path);
    for (path, value) in values {
        put(&mut after, path, value)?;
    }
    for (path, value) in &update.add {
        let sum = add(resolve(before, path), value)?;
        put(&mut after, path, sum)?;
    }
    for (path, value) in &update.delete {
        match subtract(resolve(before, path), value)? {
            Change::Nothing => {}
            Change::Put(rest) => put(&mut after, path, rest)?,
            Change::Remove => remove(&mut after, path)?,
        }
    }
    // From behind, so that positions in lists stay those of the item before.
    let mut removed: Vec<&Path> = update.remove.iter().collect();
    removed.sort();
    for path in removed.into_iter().rev() {
        remove(&mut after, path)?;
    }
    Ok(after)
}

fn assign(before: &Item, assigned: &Assigned) -> Result<Value, Invalid> {
    let number = |source: &Source| match self::source(before, source)? {
        Value::N(number) => Ok(number),
        _ => Err(Invalid::new(WRONG_TYPE)),
    };
    match assigned {
        Assigned::One(one) => source(before, one),
        Assigned::Sum(a, b) => sum(number(a)?, number(b)?),
        Assigned::Difference(a, b) => Ok(Value::N(number(a)?.minus(number(b)?)?)),
    }
}

fn sum(a: Number, b: Number) -> Result<Value, Invalid> {
    Ok(Value::N(a.plus(b)?))
}

fn source(before: &Item, from: &Source) -> Result<Value, Invalid> {
    match from {
        Source::Value(value) => Ok(value.clone()),
        Source::Path(path) => resolve(before, path).cloned().ok_or_else(|| Invalid::new(NO_ATTRIBUTE)),
        Source::IfNotExists(path, otherwise) => match resolve(before, path) {
            Some(found) => Ok(found.clone()),
            None => source(before, otherwise),
        },
        Source::ListAppend(a, b) => match (source(before, a)?, source(before, b)?) {
            (Value::L(mut list), Value::L(more)) => {
                list.extend(more);
                Ok(Value::L(list))
            }
            _ => Err(Invalid::new(WRONG_TYPE)),
        },
    }
}

fn add(now: Option<&Value>, value: &Value) -> Result<Value, Invalid> {
    match (now, value) {
        (None, value) => Ok(value.clone()),
        (Some(Value::N(now)), Value::N(value)) => sum(*now, *value),
        (Some(Value::Ss(now)), Value::Ss(value)) => Ok(Value::Ss(now | value)),
        (Some(Value::Ns(now)), Value::Ns(value)) => Ok(Value::Ns(now | value)),
        (Some(Value::Bs(now)), Value::Bs(value)) => Ok(Value::Bs(now | value)),
        _ => Err(Invalid::new(WRONG_TYPE)),
    }
}

enum Change {
    Nothing,
    Put(Value),
    /// There are no empty sets.
    Remove,
}

fn subtract(now: Option<&Value>, value: &Value) -> Result<Change, Invalid> {
    let rest = match (now, value) {
        (None, _) => return Ok(Change::Nothing),
        (Some(Value::Ss(now)), Value::Ss(value)) => {
            Some(Value::Ss(now - value)).filter(|_| !now.is_subset(value))
        }
        (Some(Value::Ns(now)), Value::Ns(value)) => {
            Some(Value::Ns(now - value)).filter(|_| !now.is_subset(value))
        }
        (Some(Value::Bs(now)), Value::Bs(value)) => {
            Some(Value::Bs(now - value)).filter(|_| !now.is_subset(value))
        }
        _ => return Err(Invalid::new(WRONG_TYPE)),
    };
    Ok(rest.map_or(Change::Remove, Change::Put))
}

/// The value that holds the last step of a path with more than one.
fn parent<'a>(item: &'a mut Item, path: &Path) -> Option<&'a mut Value> {
    let (_last, before) = path.steps.split_last()?;
    before.iter().try_fold(item.get_mut(&path.name)?, |value, step| match (value, step) {
        (Value::M(map), Step::Name(name)) => map.get_mut(name),
        (Value::L(values), Step::Index(index)) => values.get_mut(*index as usize),
        _ => None,
    })
}

fn put(item: &mut Item, path: &Path, value: Value) -> Result<(), Invalid> {
    let Some(last) = path.steps.last() else {
        item.insert(path.name.clone(), value);
        return Ok(());
    };
    match (parent(item, path), last) {
        (Some(Value::M(map)), Step::Name(name)) => {
            map.insert(name.clone(), value);
            Ok(())
        }
        (Some(Value::L(values)), Step::Index(index)) => {
            match values.get_mut(*index as usize) {
                Some(place) => *place = value,
                None => values.push(value),
            }
            Ok(())
        }
        _ => Err(Invalid::new(NO_SUCH_PATH)),
    }
}

fn remove(item: &mut Item, path: &Path) -> Result<(), Invalid> {
    let Some(last) = path.steps.last() else {
        item.remove(&path.name);
        return Ok(());
    };
    match (parent(item, path), last) {
        (Some(Value::M(map)), Step::Name(name)) => {
            map.remove(name);
            Ok(())
        }
        (Some(Value::L(values)), Step::Index(index)) => {
            if (*index as usize) < values.len() {
                values.remove(*index as usize);
            }
            Ok(())
        }
        _ => Err(Invalid::new(NO_SUCH_PATH)),
    }
}
