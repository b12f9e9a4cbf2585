//! PartiQL as DynamoDB has it: one statement about one table, to the same trees that expressions become.
//!
//! Recursive descent; depth and length are bounded where text is parsed. Source: DynamoDB developer guide, "PartiQL - a
//! SQL-compatible query language for Amazon DynamoDB".

use crate::error::Invalid;
use crate::expression::{Condition, Path, Update};
use crate::item::{Item, Value};
use crate::limits::STATEMENT_BYTES_MAX;
use crate::op::ReturnValues;

mod lex;
mod parse;

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT`
    Select(Select),
    /// `INSERT INTO table VALUE {…}`
    Insert {
        /// The table.
        table: String,
        /// The item; refused if there is one with its key.
        item: Item,
    },
    /// `UPDATE table SET … REMOVE … WHERE …`
    Update {
        /// The table.
        table: String,
        /// What changes.
        update: Update,
        /// Which item, and what must hold of it.
        condition: Condition,
        /// `RETURNING`
        return_values: ReturnValues,
    },
    /// `DELETE FROM table WHERE …`
    Delete {
        /// The table.
        table: String,
        /// Which item, and what must hold of it.
        condition: Condition,
        /// `RETURNING ALL OLD *`
        return_values: ReturnValues,
    },
    /// `EXISTS(SELECT * FROM table WHERE …)`, in a transaction.
    Exists {
        /// The table.
        table: String,
        /// Which item, and what must hold of it.
        condition: Condition,
    },
}

/// What is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// Parts of the items; everything if empty.
    pub paths: Vec<Path>,
    /// The table.
    pub table: String,
    /// One of its indexes.
    pub index: Option<String>,
    /// What must hold.
    pub condition: Option<Condition>,
    /// Largest sort key first.
    pub descending: bool,
}

impl Statement {
    /// The table that it is about.
    pub fn table(&self) -> &str {
        match self {
            Self::Select(select) => &select.table,
            Self::Insert { table, .. }
            | Self::Update { table, .. }
            | Self::Delete { table, .. }
            | Self::Exists { table, .. } => table,
        }
    }
}

/// Parses a statement; `parameters` stand for its question marks, in order.
pub fn parse(text: &str, parameters: Vec<Value>) -> Result<Statement, Invalid> {
    if text.is_empty() || text.len() > STATEMENT_BYTES_MAX {
        return Err(Invalid::new(format!(
            "1 validation error detected: Value at 'statement' failed to satisfy constraint: Member must have length \
             between 1 and {STATEMENT_BYTES_MAX}"
        )));
    }
    parse::Parser::new(text, parameters)?.statement()
}

/// Takes the equalities on these attributes out of a condition: their values, and what remains. `None` if one of them is
/// missing.
pub fn take_key(condition: Condition, names: &[&str]) -> Option<(Item, Option<Condition>)> {
    use crate::expression::{Comparator, Operand};
    let parts = match condition {
        Condition::And(parts) => parts,
        one => vec![one],
    };
    let mut key = Item::new();
    let mut rest = Vec::new();
    for part in parts {
        match part {
            Condition::Compare(Operand::Path(path), Comparator::Equal, Operand::Value(value))
                if path.steps.is_empty()
                    && names.contains(&path.name.as_str())
                    && !key.contains_key(&path.name) =>
            {
                key.insert(path.name, value);
            }
            other => rest.push(other),
        }
    }
    if key.len() != names.len() {
        return None;
    }
    let rest = match rest.len() {
        0 => None,
        1 => rest.pop(),
        _ => Some(Condition::And(rest)),
    };
    Some((key, rest))
}

#[cfg(test)]
mod tests;
