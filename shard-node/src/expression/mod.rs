//! Expressions: conditions, updates, projections and key conditions, as DynamoDB's developer guide gives their
//! grammar ("Expressions").
//!
//! [`parse`] turns text with placeholders into the trees below before anything is agreed on; [`codec`] is how trees
//! stand in the log; [`evaluate`] and [`update`] carry them out, on every replica alike. Depth and length are bounded
//! where text is parsed, so nothing behind it recurses without end.

use crate::error::Invalid;
use crate::item::{Type, Value};

pub mod codec;
pub mod evaluate;
pub mod key_condition;
pub mod lex;
pub mod parse;
pub mod update;

mod reserved;

/// Where in an item: `name`, then names of maps and positions of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The attribute.
    pub name: String,
    /// What is inside of it.
    pub steps: Vec<Step>,
}

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A member of a map.
    Name(String),
    /// An element of a list, from 0.
    Index(u32),
}

impl Path {
    /// A whole attribute.
    pub fn attribute(name: impl Into<String>) -> Self {
        Self { name: name.into(), steps: Vec::new() }
    }
}

impl std::fmt::Display for Path {
    /// As DynamoDB shows paths in its errors: `[a, b, [0]]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}", self.name)?;
        for step in &self.steps {
            match step {
                Step::Name(name) => write!(f, ", {name}")?,
                Step::Index(index) => write!(f, ", [{index}]")?,
            }
        }
        write!(f, "]")
    }
}

/// An expression as a request has it: text, or what older parameters come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stated<T> {
    /// To be parsed.
    Text(String),
    /// Parsed.
    Tree(T),
}

impl<T> Default for Stated<T> {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl<T> From<String> for Stated<T> {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T> Stated<T> {
    /// What it says.
    pub fn parse(self, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Result<T, Invalid> {
        match self {
            Self::Text(text) => parse(&text),
            Self::Tree(tree) => Ok(tree),
        }
    }
}

/// What a condition compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// What stands there.
    Path(Path),
    /// A constant.
    Value(Value),
    /// The size of what stands there.
    Size(Path),
}

/// `= <> < <= > >=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparator {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Smaller.
    Less,
    /// Smaller or the same.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or the same.
    GreaterOrEqual,
}

impl Comparator {
    /// As written.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// What must hold of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `a = b` and so on.
    Compare(Operand, Comparator, Operand),
    /// `a BETWEEN b AND c`
    Between(Operand, Operand, Operand),
    /// `a IN (b, c)`
    In(Operand, Vec<Operand>),
    /// `attribute_exists(path)`
    Exists(Path),
    /// `attribute_not_exists(path)`
    NotExists(Path),
    /// `attribute_type(path, :type)`
    HasType(Path, Type),
    /// `begins_with(a, b)`
    BeginsWith(Operand, Operand),
    /// `contains(a, b)`
    Contains(Operand, Operand),
    /// All of them.
    And(Vec<Condition>),
    /// At least one.
    Or(Vec<Condition>),
    /// Not that.
    Not(Box<Condition>),
}

/// What an update changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// `SET path = value`
    pub set: Vec<(Path, Assigned)>,
    /// `REMOVE path`
    pub remove: Vec<Path>,
    /// `ADD path :value`
    pub add: Vec<(Path, Value)>,
    /// `DELETE path :set`
    pub delete: Vec<(Path, Value)>,
}

impl Update {
    /// Every path that it changes.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let set = self.set.iter().map(|(path, _)| path);
        let values = self.add.iter().chain(&self.delete).map(|(path, _)| path);
        set.chain(&self.remove).chain(values)
    }
}

/// What is assigned by SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assigned {
    /// `a`
    One(Source),
    /// `a + b`
    Sum(Source, Source),
    /// `a - b`
    Difference(Source, Source),
}

/// Where an assigned value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What stands there, before the update.
    Path(Path),
    /// A constant.
    Value(Value),
    /// `if_not_exists(path, else)`
    IfNotExists(Path, Box<Source>),
    /// `list_append(a, b)`
    ListAppend(Box<Source>, Box<Source>),
}

/// Which items a query is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCondition {
    /// The value of the partition key.
    pub partition: Value,
    /// What must hold of the sort key.
    pub sort: Option<SortCondition>,
}

/// What must hold of a sort key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortCondition {
    /// `= < <= > >=`
    Compare(Comparator, Value),
    /// From, to, both inclusive.
    Between(Value, Value),
    /// Texts or bytes that begin so.
    BeginsWith(Value),
}

#[cfg(test)]
mod tests;
