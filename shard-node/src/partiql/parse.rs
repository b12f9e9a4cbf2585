//! Tokens to statements.

use super::lex::{Token, tokens, unexpected};
use super::{Select, Statement};
use crate::error::Invalid;
use crate::expression::{Assigned, Comparator, Condition, Operand, Path, Source, Step, Update};
use crate::item::{Item, Type, Value, set};
use crate::limits::{EXPRESSION_DEPTH_MAX, EXPRESSION_OPERATORS_MAX, IN_OPERANDS_MAX};
use crate::op::ReturnValues;

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    operators: usize,
    parameters: std::vec::IntoIter<Value>,
}

fn wrong(what: impl std::fmt::Display) -> Invalid {
    Invalid::new(format!("Statement wasn't well formed, can't be processed: {what}"))
}

impl Parser {
    pub(super) fn new(text: &str, parameters: Vec<Value>) -> Result<Self, Invalid> {
        Ok(Self { tokens: tokens(text)?, at: 0, depth: 0, operators: 0, parameters: parameters.into_iter() })
    }

    fn token(&self) -> &Token {
        // The last one is the end, and nothing takes it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn unexpected(&self) -> Invalid {
        unexpected(&match self.token() {
            Token::Word(text) | Token::Quoted(text) | Token::Text(text) | Token::Number(text) => text.clone(),
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::End => "end of the statement".to_owned(),
        })
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.token(), Token::Word(text) if text.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<(), Invalid> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.token(), Token::Symbol(found) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Invalid> {
        if self.take(symbol) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Counts one storey; they are bounded, as are operators.
    fn descend(&mut self) -> Result<(), Invalid> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(wrong(format!(
                "it is nested too deeply; EXPRESSION_DEPTH_MAX: {EXPRESSION_DEPTH_MAX}"
            )));
        }
        Ok(())
    }

    fn count_operator(&mut self) -> Result<(), Invalid> {
        self.operators += 1;
        if self.operators > EXPRESSION_OPERATORS_MAX {
            return Err(wrong(format!(
                "it has too many operators; the maximum is {EXPRESSION_OPERATORS_MAX}"
            )));
        }
        Ok(())
    }

    pub(super) fn statement(mut self) -> Result<Statement, Invalid> {
        let statement = if self.take_word("SELECT") {
            Statement::Select(self.select()?)
        } else if self.take_word("INSERT") {
            self.expect_word("INTO")?;
            let table = self.name()?;
            self.expect_word("VALUE")?;
            match self.value()? {
                Value::M(item) => Statement::Insert { table, item },
                _ => return Err(wrong("VALUE is to be a tuple: {'name': value, …}")),
            }
        } else if self.take_word("UPDATE") {
            self.update()?
        } else if self.take_word("DELETE") {
            self.expect_word("FROM")?;
            let table = self.name()?;
            let condition = self.condition()?;
            Statement::Delete { table, condition, return_values: self.returning()? }
        } else if self.take_word("EXISTS") {
            self.expect("(")?;
            self.expect_word("SELECT")?;
            let select = self.select()?;
            self.expect(")")?;
            let condition = select.condition.ok_or_else(|| wrong("EXISTS needs a WHERE"))?;
            Statement::Exists { table: select.table, condition }
        } else {
            return Err(self.unexpected());
        };
        if *self.token() != Token::End {
            return Err(self.unexpected());
        }
        if self.parameters.next().is_some() {
            return Err(Invalid::new("Number of parameters in request and statement don't match."));
        }
        Ok(statement)
    }

    fn select(&mut self) -> Result<Select, Invalid> {
        let mut paths = Vec::new();
        if !self.take("*") {
            paths.push(self.path()?);
            while self.take(",") {
                paths.push(self.path()?);
            }
        }
        self.expect_word("FROM")?;
        let table = self.name()?;
        let index = if self.take(".") { Some(self.name()?) } else { None };
        let condition = if self.is_word("WHERE") { Some(self.condition()?) } else { None };
        let mut descending = false;
        if self.take_word("ORDER") {
            self.expect_word("BY")?;
            loop {
                self.path()?;
                // The partition key may stand before the sort key, which decides.
                descending = self.take_word("DESC");
                if !descending {
                    self.take_word("ASC");
                }
                if !self.take(",") {
                    break;
                }
            }
        }
        Ok(Select { paths, table, index, condition, descending })
    }

    fn update(&mut self) -> Result<Statement, Invalid> {
        let table = self.name()?;
        let mut update = Update::default();
        loop {
            if self.take_word("SET") {
                loop {
                    self.count_operator()?;
                    let path = self.path()?;
                    self.expect("=")?;
                    self.assign(path, &mut update)?;
                    if !self.take(",") {
                        break;
                    }
                }
            } else if self.take_word("REMOVE") {
                self.count_operator()?;
                update.remove.push(self.path()?);
            } else {
                break;
            }
        }
        if update.paths().next().is_none() {
            return Err(self.unexpected());
        }
        let condition = self.condition()?;
        Ok(Statement::Update { table, update, condition, return_values: self.returning()? })
    }

    fn assign(&mut self, path: Path, update: &mut Update) -> Result<(), Invalid> {
        for (function, changes) in [("set_add", &mut update.add), ("set_delete", &mut update.delete)] {
            if matches!(self.token(), Token::Word(text) if text.eq_ignore_ascii_case(function)) {
                self.at += 1;
                self.expect("(")?;
                if self.path()? != path {
                    return Err(wrong(format!(
                        "{function} is to change the attribute that it is assigned to"
                    )));
                }
                self.expect(",")?;
                let value = self.value()?;
                self.expect(")")?;
                changes.push((path, value));
                return Ok(());
            }
        }
        let left = self.source()?;
        let join: Option<fn(Source, Source) -> Assigned> = if self.take("+") {
            Some(Assigned::Sum)
        } else if self.take("-") {
            Some(Assigned::Difference)
        } else {
            None
        };
        let assigned = match join {
            Some(join) => join(left, self.source()?),
            None => Assigned::One(left),
        };
        update.set.push((path, assigned));
        Ok(())
    }

    fn source(&mut self) -> Result<Source, Invalid> {
        if self.take_word("list_append") {
            self.descend()?;
            self.expect("(")?;
            let first = self.source()?;
            self.expect(",")?;
            let second = self.source()?;
            self.expect(")")?;
            self.depth -= 1;
            return Ok(Source::ListAppend(Box::new(first), Box::new(second)));
        }
        if self.take_word("if_not_exists") {
            self.descend()?;
            self.expect("(")?;
            let path = self.path()?;
            self.expect(",")?;
            let otherwise = self.source()?;
            self.expect(")")?;
            self.depth -= 1;
            return Ok(Source::IfNotExists(path, Box::new(otherwise)));
        }
        Ok(match self.operand()? {
            Operand::Path(path) => Source::Path(path),
            Operand::Value(value) => Source::Value(value),
            Operand::Size(_) => return Err(wrong("size cannot be assigned")),
        })
    }

    fn returning(&mut self) -> Result<ReturnValues, Invalid> {
        if !self.take_word("RETURNING") {
            return Ok(ReturnValues::None);
        }
        let all = self.take_word("ALL");
        if !all {
            self.expect_word("MODIFIED")?;
        }
        let old = self.take_word("OLD");
        if !old {
            self.expect_word("NEW")?;
        }
        self.expect("*")?;
        Ok(match (all, old) {
            (true, true) => ReturnValues::AllOld,
            (true, false) => ReturnValues::AllNew,
            (false, true) => ReturnValues::UpdatedOld,
            (false, false) => ReturnValues::UpdatedNew,
        })
    }

    /// A name of a table, an index or an attribute.
    fn name(&mut self) -> Result<String, Invalid> {
        match self.token().clone() {
            Token::Word(name) | Token::Quoted(name) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn path(&mut self) -> Result<Path, Invalid> {
        let mut path = Path::attribute(self.name()?);
        while path.steps.len() < EXPRESSION_DEPTH_MAX {
            if self.take(".") {
                path.steps.push(Step::Name(self.name()?));
            } else if self.take("[") {
                match self.token().clone() {
                    Token::Number(text) => {
                        let index = text.parse().map_err(|_bad| wrong("a position of a list is a number"))?;
                        path.steps.push(Step::Index(index));
                    }
                    Token::Text(name) => path.steps.push(Step::Name(name)),
                    _ => return Err(self.unexpected()),
                }
                self.at += 1;
                self.expect("]")?;
            } else {
                return Ok(path);
            }
        }
        Err(wrong("a path has too many steps"))
    }

    fn condition(&mut self) -> Result<Condition, Invalid> {
        self.expect_word("WHERE")?;
        self.or()
    }

    fn or(&mut self) -> Result<Condition, Invalid> {
        let mut parts = vec![self.and()?];
        while self.take_word("OR") {
            self.count_operator()?;
            parts.push(self.and()?);
        }
        Ok(if parts.len() > 1 { Condition::Or(parts) } else { parts.remove(0) })
    }

    fn and(&mut self) -> Result<Condition, Invalid> {
        let mut parts = Vec::new();
        loop {
            match self.not()? {
                Condition::And(more) => parts.extend(more),
                one => parts.push(one),
            }
            if !self.take_word("AND") {
                break;
            }
            self.count_operator()?;
        }
        Ok(if parts.len() > 1 { Condition::And(parts) } else { parts.remove(0) })
    }

    fn not(&mut self) -> Result<Condition, Invalid> {
        if !self.take_word("NOT") {
            return self.primary();
        }
        self.descend()?;
        let inner = self.not()?;
        self.depth -= 1;
        Ok(Condition::Not(Box::new(inner)))
    }

    fn primary(&mut self) -> Result<Condition, Invalid> {
        self.count_operator()?;
        if self.take("(") {
            self.descend()?;
            let inner = self.or()?;
            self.expect(")")?;
            self.depth -= 1;
            return Ok(inner);
        }
        for function in
            ["begins_with", "contains", "attribute_type", "attribute_exists", "attribute_not_exists"]
        {
            if self.is_word(function) && self.tokens.get(self.at + 1) == Some(&Token::Symbol("(")) {
                self.at += 2;
                let condition = self.function(function)?;
                self.expect(")")?;
                return Ok(condition);
            }
        }
        let left = self.operand()?;
        if self.take_word("IS") {
            let is_not = self.take_word("NOT");
            let Operand::Path(path) = left else { return Err(wrong("IS needs a path")) };
            let holds = if self.take_word("MISSING") {
                Condition::NotExists(path)
            } else {
                self.expect_word("NULL")?;
                Condition::HasType(path, Type::Null)
            };
            return Ok(if is_not { Condition::Not(Box::new(holds)) } else { holds });
        }
        if self.take_word("BETWEEN") {
            let low = self.operand()?;
            self.expect_word("AND")?;
            return Ok(Condition::Between(left, low, self.operand()?));
        }
        let is_not_in = self.take_word("NOT");
        if self.take_word("IN") {
            let close = if self.take("[") { "]" } else { ")" };
            if close == ")" {
                self.expect("(")?;
            }
            let mut among = vec![self.operand()?];
            while self.take(",") {
                among.push(self.operand()?);
            }
            self.expect(close)?;
            if among.len() > IN_OPERANDS_MAX {
                return Err(wrong(format!("IN has too many operands; the maximum is {IN_OPERANDS_MAX}")));
            }
            let within = Condition::In(left, among);
            return Ok(if is_not_in { Condition::Not(Box::new(within)) } else { within });
        }
        if is_not_in {
            return Err(self.unexpected());
        }
        let comparator = match self.token() {
            Token::Symbol("=") => Comparator::Equal,
            Token::Symbol("<>" | "!=") => Comparator::NotEqual,
            Token::Symbol("<") => Comparator::Less,
            Token::Symbol("<=") => Comparator::LessOrEqual,
            Token::Symbol(">") => Comparator::Greater,
            Token::Symbol(">=") => Comparator::GreaterOrEqual,
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(Condition::Compare(left, comparator, self.operand()?))
    }

    fn function(&mut self, name: &str) -> Result<Condition, Invalid> {
        let first = self.operand()?;
        if let "attribute_exists" | "attribute_not_exists" = name {
            let Operand::Path(path) = first else { return Err(wrong(format!("{name} needs a path"))) };
            let exists = name == "attribute_exists";
            return Ok(if exists { Condition::Exists(path) } else { Condition::NotExists(path) });
        }
        self.expect(",")?;
        let second = self.operand()?;
        match (name, first, second) {
            ("begins_with", first, second) => Ok(Condition::BeginsWith(first, second)),
            ("contains", first, second) => Ok(Condition::Contains(first, second)),
            (_, Operand::Path(path), Operand::Value(Value::S(kind))) => {
                let kind = Type::from_name(&kind).ok_or_else(|| wrong(format!("there is no type {kind}")))?;
                Ok(Condition::HasType(path, kind))
            }
            _ => Err(wrong("attribute_type needs a path and the name of a type")),
        }
    }

    fn operand(&mut self) -> Result<Operand, Invalid> {
        if self.is_word("size") && self.tokens.get(self.at + 1) == Some(&Token::Symbol("(")) {
            self.at += 2;
            let path = self.path()?;
            self.expect(")")?;
            return Ok(Operand::Size(path));
        }
        let is_constant = ["true", "false", "null"].into_iter().any(|word| self.is_word(word));
        match self.token() {
            Token::Word(_) if !is_constant => self.path().map(Operand::Path),
            Token::Quoted(_) => self.path().map(Operand::Path),
            _ => self.value().map(Operand::Value),
        }
    }

    fn value(&mut self) -> Result<Value, Invalid> {
        self.descend()?;
        let value = self.any_value()?;
        self.depth -= 1;
        Ok(value)
    }

    fn any_value(&mut self) -> Result<Value, Invalid> {
        if self.take("?") {
            return self
                .parameters
                .next()
                .ok_or_else(|| Invalid::new("Number of parameters in request and statement don't match."));
        }
        if self.take("-") {
            let Token::Number(text) = self.token().clone() else { return Err(self.unexpected()) };
            self.at += 1;
            return Ok(Value::N(format!("-{text}").parse()?));
        }
        if self.take("[") {
            return Ok(Value::L(self.values("]")?));
        }
        if self.take("<<") {
            return set_of(self.values(">>")?);
        }
        if self.take("{") {
            let mut item = Item::new();
            while !self.take("}") {
                let name = match self.token().clone() {
                    Token::Text(name) | Token::Quoted(name) => name,
                    _ => return Err(self.unexpected()),
                };
                self.at += 1;
                self.expect(":")?;
                let value = self.value()?;
                if item.insert(name.clone(), value).is_some() {
                    return Err(wrong(format!("{name} stands twice in one tuple")));
                }
                if !self.take(",") {
                    self.expect("}")?;
                    break;
                }
            }
            return Ok(Value::M(item));
        }
        let value = match self.token().clone() {
            Token::Text(text) => Value::S(text),
            Token::Number(text) => Value::N(text.parse()?),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => Value::Null,
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(value)
    }

    fn values(&mut self, close: &str) -> Result<Vec<Value>, Invalid> {
        let mut values = Vec::new();
        while !self.take(close) {
            values.push(self.value()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(values)
    }
}

/// A set of values that are of one of the types that sets have.
fn set_of(values: Vec<Value>) -> Result<Value, Invalid> {
    let (mut texts, mut numbers, mut bytes) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
    let count = values.len();
    for value in values {
        match value {
            Value::S(text) => texts.push(text),
            Value::N(number) => numbers.push(number),
            Value::B(value) => drop(bytes.insert(value)),
            _ => return Err(wrong("a set has texts, numbers or bytes")),
        }
    }
    match (texts.len(), numbers.len(), bytes.len()) {
        (0, 0, 0) => Err(wrong("a set may not be empty")),
        (_, 0, 0) => Ok(Value::Ss(set("string", texts)?)),
        (0, _, 0) => Ok(Value::Ns(set("number", numbers)?)),
        (0, 0, some) if some == count => Ok(Value::Bs(bytes)),
        _ => Err(wrong("a set has values of one type, each once")),
    }
}
