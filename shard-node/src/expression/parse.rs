//! Text and placeholders to trees. Recursive descent over [`lex`](super::lex); every refusal has DynamoDB's text.

use std::collections::{BTreeMap, BTreeSet};

use super::lex::{Kind, Token, tokens};
use super::reserved::is_reserved;
use super::{Assigned, Comparator, Condition, Operand, Path, Source, Stated, Step, Update};
use crate::error::Invalid;
use crate::item::{Type, Value};
use crate::limits::{EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, EXPRESSION_OPERATORS_MAX, IN_OPERANDS_MAX};

/// What `#name` and `:value` stand for, and which of them were used.
#[derive(Debug, Default)]
pub struct Placeholders {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, Value>,
    used: BTreeSet<String>,
}

impl Placeholders {
    /// Names with their `#`, values with their `:`.
    pub fn new(names: BTreeMap<String, String>, values: BTreeMap<String, Value>) -> Self {
        Self { names, values, used: BTreeSet::new() }
    }

    /// After all expressions of a request: refuses what none of them used.
    pub fn check_used(&self) -> Result<(), Invalid> {
        let unused = |keys: Vec<&String>, of: &str| match keys.is_empty() {
            true => Ok(()),
            false => {
                let keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
                Err(Invalid::new(format!(
                    "Value provided in {of} unused in expressions: keys: {{{}}}",
                    keys.join(", ")
                )))
            }
        };
        let fresh = |key: &&String| !self.used.contains(*key);
        unused(self.names.keys().filter(fresh).collect(), "ExpressionAttributeNames")?;
        unused(self.values.keys().filter(fresh).collect(), "ExpressionAttributeValues")
    }
}

/// Parses a condition (ConditionExpression, FilterExpression: `kind` is the parameter's name).
pub fn condition(
    kind: &'static str,
    text: &str,
    placeholders: &mut Placeholders,
) -> Result<Condition, Invalid> {
    let mut parser = Parser::new(kind, text, placeholders)?;
    let condition = parser.or()?;
    parser.end()?;
    Ok(condition)
}

/// Parses a ConditionExpression, unless that is done.
pub fn stated_condition(
    condition: Stated<Condition>,
    placeholders: &mut Placeholders,
) -> Result<Condition, Invalid> {
    condition.parse(|text| self::condition("ConditionExpression", text, placeholders))
}

/// Parses an UpdateExpression.
pub fn update(text: &str, placeholders: &mut Placeholders) -> Result<Update, Invalid> {
    let mut parser = Parser::new("UpdateExpression", text, placeholders)?;
    let update = parser.update()?;
    let mut paths: Vec<&Path> = Vec::new();
    for path in update.paths() {
        for other in &paths {
            parser.check_apart(other, path)?;
        }
        paths.push(path);
    }
    Ok(update)
}

/// Parses a ProjectionExpression.
pub fn projection(text: &str, placeholders: &mut Placeholders) -> Result<Vec<Path>, Invalid> {
    let mut parser = Parser::new("ProjectionExpression", text, placeholders)?;
    let mut paths: Vec<Path> = Vec::new();
    loop {
        let path = parser.path()?;
        for other in &paths {
            parser.check_apart(other, &path)?;
        }
        paths.push(path);
        if !parser.take(",") {
            break;
        }
    }
    parser.end()?;
    Ok(paths)
}

struct Parser<'a> {
    kind: &'static str,
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    operators: usize,
    /// The condition just parsed stood in parentheses, and where they began.
    in_parentheses: Option<usize>,
    placeholders: &'a mut Placeholders,
}

impl<'a> Parser<'a> {
    fn new(kind: &'static str, text: &'a str, placeholders: &'a mut Placeholders) -> Result<Self, Invalid> {
        let invalid = |what: String| Err(Invalid::new(format!("Invalid {kind}: {what}")));
        if text.is_empty() {
            return invalid("The expression can not be empty;".to_owned());
        }
        if text.len() > EXPRESSION_BYTES_MAX {
            return invalid(format!(
                "Expression size has exceeded the maximum allowed size; expression size: {}",
                text.len()
            ));
        }
        let tokens = tokens(text);
        Ok(Self { kind, text, tokens, at: 0, depth: 0, operators: 0, in_parentheses: None, placeholders })
    }

    fn invalid(&self, what: impl std::fmt::Display) -> Invalid {
        Invalid::new(format!("Invalid {}: {what}", self.kind))
    }

    fn token(&self) -> &Token {
        // The last one is the end, and nothing takes it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn shown(&self, token: &Token) -> &'a str {
        &self.text[token.at.clone()]
    }

    fn syntax_error(&self) -> Invalid {
        let token = self.token();
        if token.kind == Kind::End {
            let last = self.tokens.iter().rev().nth(1).map_or("", |last| self.shown(last));
            return self.invalid(format!("Syntax error; token: \"<EOF>\", near: \"{last}\""));
        }
        // The token with its neighbours, as they stand in the text.
        let from = self.at.checked_sub(1).map_or(token.at.start, |before| self.tokens[before].at.start);
        let to = self.tokens.get(self.at + 1).map_or(token.at.end, |next| next.at.end);
        let near = &self.text[from..to];
        self.invalid(format!("Syntax error; token: \"{}\", near: \"{near}\"", self.shown(token)))
    }

    fn is(&self, symbol: &str) -> bool {
        self.token().kind == Kind::Symbol && self.shown(self.token()) == symbol
    }

    fn is_word(&self, word: &str) -> bool {
        self.token().kind == Kind::Word && self.shown(self.token()).eq_ignore_ascii_case(word)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Invalid> {
        if self.take(symbol) { Ok(()) } else { Err(self.syntax_error()) }
    }

    fn end(&self) -> Result<(), Invalid> {
        if self.token().kind == Kind::End { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// Counts one storey, or one operator; both are bounded.
    fn descend(&mut self) -> Result<(), Invalid> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(self.invalid(format!(
                "The expression is nested too deeply; EXPRESSION_DEPTH_MAX: {EXPRESSION_DEPTH_MAX}"
            )));
        }
        Ok(())
    }

    fn count_operator(&mut self) -> Result<(), Invalid> {
        self.operators += 1;
        if self.operators > EXPRESSION_OPERATORS_MAX {
            return Err(self.invalid(format!(
                "The expression contains too many operators; maximum operator count: {EXPRESSION_OPERATORS_MAX}"
            )));
        }
        Ok(())
    }

    fn or(&mut self) -> Result<Condition, Invalid> {
        self.list("OR", Self::and, Condition::Or)
    }

    fn and(&mut self) -> Result<Condition, Invalid> {
        self.list("AND", Self::not, Condition::And)
    }

    /// One or more parts between a keyword.
    fn list(
        &mut self,
        keyword: &str,
        part: fn(&mut Self) -> Result<Condition, Invalid>,
        join: fn(Vec<Condition>) -> Condition,
    ) -> Result<Condition, Invalid> {
        let first = part(self)?;
        if !self.is_word(keyword) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_word(keyword) {
            self.count_operator()?;
            parts.push(part(self)?);
        }
        self.in_parentheses = None;
        Ok(join(parts))
    }

    fn not(&mut self) -> Result<Condition, Invalid> {
        if !self.take_word("NOT") {
            return self.primary();
        }
        self.descend()?;
        self.count_operator()?;
        let inner = self.not()?;
        self.depth -= 1;
        self.in_parentheses = None;
        Ok(Condition::Not(Box::new(inner)))
    }

    fn primary(&mut self) -> Result<Condition, Invalid> {
        if self.is("(") {
            let begun = self.at;
            self.at += 1;
            self.descend()?;
            self.in_parentheses = None;
            let inner = self.or()?;
            self.expect(")")?;
            self.depth -= 1;
            if self.in_parentheses == Some(begun + 1) {
                return Err(self.invalid("The expression has redundant parentheses;"));
            }
            self.in_parentheses = Some(begun);
            return Ok(inner);
        }
        self.in_parentheses = None;
        if self.token().kind == Kind::Word && self.next_is("(") && !self.is_word("size") {
            return self.function();
        }
        let left = self.operand()?;
        if self.take_word("BETWEEN") {
            self.count_operator()?;
            let low = self.operand()?;
            if !self.take_word("AND") {
                return Err(self.syntax_error());
            }
            let high = self.operand()?;
            self.check_bounds(&low, &high)?;
            return Ok(Condition::Between(left, low, high));
        }
        if self.take_word("IN") {
            self.count_operator()?;
            self.expect("(")?;
            let mut among = vec![self.operand()?];
            while self.take(",") {
                among.push(self.operand()?);
            }
            self.expect(")")?;
            if among.len() > IN_OPERANDS_MAX {
                return Err(self.invalid(format!(
                    "The IN operator is provided with too many operands; number of operands: {}",
                    among.len()
                )));
            }
            return Ok(Condition::In(left, among));
        }
        let comparator = match self.shown(self.token()) {
            "=" => Comparator::Equal,
            "<>" => Comparator::NotEqual,
            "<" => Comparator::Less,
            "<=" => Comparator::LessOrEqual,
            ">" => Comparator::Greater,
            ">=" => Comparator::GreaterOrEqual,
            _ => return Err(self.syntax_error()),
        };
        self.at += 1;
        self.count_operator()?;
        let right = self.operand()?;
        self.check_comparable(comparator, [&left, &right])?;
        Ok(Condition::Compare(left, comparator, right))
    }

    fn next_is(&self, symbol: &str) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|next| self.shown(next) == symbol)
    }

    fn function(&mut self) -> Result<Condition, Invalid> {
        let name = self.shown(self.token());
        let expected = match name {
            "attribute_exists" | "attribute_not_exists" => 1,
            "attribute_type" | "begins_with" | "contains" => 2,
            "if_not_exists" | "list_append" => {
                return Err(self.invalid(format!(
                    "The function is not allowed in a {} expression; function: {name}",
                    if self.kind == "FilterExpression" { "filter" } else { "condition" }
                )));
            }
            _ => return Err(self.invalid(format!("Invalid function name; function: {name}"))),
        };
        self.count_operator()?;
        self.at += 2;
        let mut operands = vec![self.operand()?];
        while self.take(",") {
            operands.push(self.operand()?);
        }
        self.expect(")")?;
        if operands.len() != expected {
            return Err(self.invalid(format!(
                "Incorrect number of operands for operator or function; operator or function: {name}, number of \
                 operands: {}",
                operands.len()
            )));
        }
        let second = if expected == 2 { operands.pop() } else { None };
        let first = operands.pop();
        match (name, first, second) {
            ("begins_with", Some(first), Some(second)) => {
                for operand in [&first, &second] {
                    if let Operand::Value(value) = operand
                        && !matches!(value, Value::S(_) | Value::B(_))
                    {
                        return Err(self.wrong_type(name, value));
                    }
                }
                self.check_distinct(name, &first, &second)?;
                Ok(Condition::BeginsWith(first, second))
            }
            ("contains", Some(first), Some(second)) => {
                self.check_distinct(name, &first, &second)?;
                Ok(Condition::Contains(first, second))
            }
            ("attribute_type", Some(first), Some(second)) => {
                let Operand::Path(path) = first else { return Err(self.not_a_path(name)) };
                match second {
                    Operand::Value(Value::S(kind)) => match Type::from_name(&kind) {
                        Some(kind) => Ok(Condition::HasType(path, kind)),
                        None => Err(self.invalid(format!(
                            "Invalid attribute type name found; type: {kind}, valid types: {{B,NULL,SS,BOOL,L,BS,N,NS,S,M}}"
                        ))),
                    },
                    Operand::Value(other) => Err(self.wrong_type(name, &other)),
                    _ => Err(self.invalid(format!(
                        "Incorrect operand type for operator or function; operator or function: {name}, operand type: \
                         {{NS,SS,L,BS,N,M,B,BOOL,NULL,S}}"
                    ))),
                }
            }
            ("attribute_exists", None, _) | ("attribute_not_exists", None, _) => Err(self.syntax_error()),
            (_, Some(Operand::Path(path)), _) if name == "attribute_exists" => Ok(Condition::Exists(path)),
            (_, Some(Operand::Path(path)), _) => Ok(Condition::NotExists(path)),
            _ => Err(self.not_a_path(name)),
        }
    }

    fn not_a_path(&self, name: &str) -> Invalid {
        self.invalid(format!("Operator or function requires a document path; operator or function: {name}"))
    }

    fn wrong_type(&self, name: &str, value: &Value) -> Invalid {
        self.invalid(format!(
            "Incorrect operand type for operator or function; operator or function: {name}, operand type: {}",
            value.kind().name()
        ))
    }

    fn check_distinct(&self, name: &str, first: &Operand, second: &Operand) -> Result<(), Invalid> {
        match (first, second) {
            (Operand::Path(a), Operand::Path(b)) if a == b => Err(self.invalid(format!(
                "The first operand must be distinct from the remaining operands for this operator or function; operator: \
                 {name}, first operand: {a}"
            ))),
            _ => Ok(()),
        }
    }

    fn check_comparable(&self, comparator: Comparator, operands: [&Operand; 2]) -> Result<(), Invalid> {
        let name = comparator.symbol();
        self.check_distinct(name, operands[0], operands[1])?;
        if matches!(comparator, Comparator::Equal | Comparator::NotEqual) {
            return Ok(());
        }
        for operand in operands {
            if let Operand::Value(value) = operand
                && !matches!(value, Value::S(_) | Value::N(_) | Value::B(_))
            {
                return Err(self.wrong_type(name, value));
            }
        }
        Ok(())
    }

    fn check_bounds(&self, low: &Operand, high: &Operand) -> Result<(), Invalid> {
        let (Operand::Value(low), Operand::Value(high)) = (low, high) else { return Ok(()) };
        if low.kind() != high.kind() {
            return Err(self.invalid(format!(
                "The BETWEEN operator requires same data type for lower and upper bounds; lower bound operand: \
                 AttributeValue: {}, upper bound operand: AttributeValue: {}",
                shown(low),
                shown(high)
            )));
        }
        let greater = match (low, high) {
            (Value::N(low), Value::N(high)) => low > high,
            (Value::S(low), Value::S(high)) => low.as_bytes() > high.as_bytes(),
            (Value::B(low), Value::B(high)) => low > high,
            (other, _) => return Err(self.wrong_type("BETWEEN", other)),
        };
        if greater {
            return Err(self.invalid(format!(
                "The BETWEEN operator requires upper bound to be greater than or equal to lower bound; lower bound \
                 operand: AttributeValue: {}, upper bound operand: AttributeValue: {}",
                shown(low),
                shown(high)
            )));
        }
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand, Invalid> {
        if self.token().kind == Kind::ValuePlaceholder {
            return self.value().map(Operand::Value);
        }
        if self.token().kind == Kind::Word && self.next_is("(") {
            let name = self.shown(self.token());
            if name != "size" {
                return Err(self.invalid(format!("Invalid function name; function: {name}")));
            }
            self.at += 2;
            if self.token().kind == Kind::ValuePlaceholder {
                return Err(self.not_a_path("size"));
            }
            let path = self.path()?;
            self.expect(")")?;
            return Ok(Operand::Size(path));
        }
        self.path().map(Operand::Path)
    }

    fn value(&mut self) -> Result<Value, Invalid> {
        if self.token().kind != Kind::ValuePlaceholder {
            return Err(self.syntax_error());
        }
        let name = self.shown(self.token());
        let value = self.placeholders.values.get(name).cloned().ok_or_else(|| {
            self.invalid(format!(
                "An expression attribute value used in expression is not defined; attribute value: {name}"
            ))
        })?;
        self.placeholders.used.insert(name.to_owned());
        self.at += 1;
        Ok(value)
    }

    fn name(&mut self) -> Result<String, Invalid> {
        let name = self.shown(self.token());
        match self.token().kind {
            Kind::Word if is_reserved(name) => {
                Err(self.invalid(format!("Attribute name is a reserved keyword; reserved keyword: {name}")))
            }
            Kind::Word => {
                self.at += 1;
                Ok(name.to_owned())
            }
            Kind::NamePlaceholder => {
                let real = self.placeholders.names.get(name).cloned().ok_or_else(|| {
                    self.invalid(format!(
                        "An expression attribute name used in the document path is not defined; attribute name: {name}"
                    ))
                })?;
                self.placeholders.used.insert(name.to_owned());
                self.at += 1;
                Ok(real)
            }
            _ => Err(self.syntax_error()),
        }
    }

    fn path(&mut self) -> Result<Path, Invalid> {
        let mut path = Path::attribute(self.name()?);
        loop {
            if self.take(".") {
                path.steps.push(Step::Name(self.name()?));
            } else if self.take("[") {
                let index = self.shown(self.token());
                if self.token().kind != Kind::Number {
                    return Err(self.syntax_error());
                }
                let index = index.parse().map_err(|_too_large| {
                    self.invalid(format!("List index is not within the allowable range; index: [{index}]"))
                })?;
                self.at += 1;
                self.expect("]")?;
                path.steps.push(Step::Index(index));
            } else if path.steps.len() >= EXPRESSION_DEPTH_MAX {
                return Err(self.invalid("The document path has too many nesting elements;"));
            } else {
                return Ok(path);
            }
        }
    }

    /// Two paths that one expression must not name both.
    fn check_apart(&self, one: &Path, two: &Path) -> Result<(), Invalid> {
        if one.name != two.name {
            return Ok(());
        }
        for (a, b) in one.steps.iter().zip(&two.steps) {
            match (a, b) {
                (Step::Name(_), Step::Index(_)) | (Step::Index(_), Step::Name(_)) => {
                    return Err(self.invalid(format!(
                        "Two document paths conflict with each other; must remove or rewrite one of these paths; path \
                         one: {one}, path two: {two}"
                    )));
                }
                _ if a != b => return Ok(()),
                _ => {}
            }
        }
        Err(self.invalid(format!(
            "Two document paths overlap with each other; must remove or rewrite one of these paths; path one: {one}, \
             path two: {two}"
        )))
    }

    fn update(&mut self) -> Result<Update, Invalid> {
        let mut update = Update::default();
        let mut seen = BTreeSet::new();
        while self.token().kind != Kind::End {
            let Some(section) =
                ["SET", "REMOVE", "ADD", "DELETE"].into_iter().find(|section| self.is_word(section))
            else {
                return Err(self.syntax_error());
            };
            self.at += 1;
            if !seen.insert(section) {
                return Err(self.invalid(format!(
                    "The \"{section}\" section can only be used once in an update expression;"
                )));
            }
            loop {
                self.count_operator()?;
                let path = self.path()?;
                match section {
                    "SET" => {
                        self.expect("=")?;
                        let assigned = self.assigned()?;
                        update.set.push((path, assigned));
                    }
                    "REMOVE" => update.remove.push(path),
                    "ADD" => {
                        let value = self.value()?;
                        if !matches!(value, Value::N(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_)) {
                            return Err(self.wrong_type_of_set("ADD", &value));
                        }
                        update.add.push((path, value));
                    }
                    _ => {
                        let value = self.value()?;
                        if !matches!(value, Value::Ss(_) | Value::Ns(_) | Value::Bs(_)) {
                            return Err(self.wrong_type_of_set("DELETE", &value));
                        }
                        update.delete.push((path, value));
                    }
                }
                if !self.take(",") {
                    break;
                }
            }
        }
        Ok(update)
    }

    fn wrong_type_of_set(&self, operator: &str, value: &Value) -> Invalid {
        let kind = match value {
            Value::S(_) => "STRING",
            Value::N(_) => "NUMBER",
            Value::B(_) => "BINARY",
            Value::Bool(_) => "BOOLEAN",
            Value::L(_) => "LIST",
            Value::M(_) => "MAP",
            other => other.kind().name(),
        };
        self.invalid(format!(
            "Incorrect operand type for operator or function; operator: {operator}, operand type: {kind}, typeSet: \
             ALLOWED_FOR_{operator}_OPERAND"
        ))
    }

    fn assigned(&mut self) -> Result<Assigned, Invalid> {
        let left = self.source()?;
        let assigned: fn(Source, Source) -> Assigned = if self.take("+") {
            Assigned::Sum
        } else if self.take("-") {
            Assigned::Difference
        } else {
            return Ok(Assigned::One(left));
        };
        let name = self.shown(&self.tokens[self.at - 1]);
        self.count_operator()?;
        let right = self.source()?;
        for operand in [&left, &right] {
            if let Source::Value(value) = operand
                && !matches!(value, Value::N(_))
            {
                return Err(self.wrong_type(name, value));
            }
        }
        Ok(assigned(left, right))
    }

    fn source(&mut self) -> Result<Source, Invalid> {
        if self.token().kind == Kind::ValuePlaceholder {
            return self.value().map(Source::Value);
        }
        if self.take("(") {
            self.descend()?;
            let inner = self.source()?;
            self.expect(")")?;
            self.depth -= 1;
            return Ok(inner);
        }
        if self.token().kind != Kind::Word || !self.next_is("(") {
            return self.path().map(Source::Path);
        }
        let name = self.shown(self.token());
        if !matches!(name, "if_not_exists" | "list_append") {
            let known = [
                "attribute_exists",
                "attribute_not_exists",
                "attribute_type",
                "begins_with",
                "contains",
                "size",
            ];
            return Err(self.invalid(if known.contains(&name) {
                format!("The function is not allowed in an update expression; function: {name}")
            } else {
                format!("Invalid function name; function: {name}")
            }));
        }
        self.descend()?;
        self.count_operator()?;
        self.at += 2;
        let mut operands = vec![self.source()?];
        while self.take(",") {
            operands.push(self.source()?);
        }
        self.expect(")")?;
        self.depth -= 1;
        let count = operands.len();
        let (Some(second), Some(first), None) = (operands.pop(), operands.pop(), operands.pop()) else {
            return Err(self.invalid(format!(
                "Incorrect number of operands for operator or function; operator or function: {name}, number of operands: \
                 {count}"
            )));
        };
        if name == "if_not_exists" {
            let Source::Path(path) = first else { return Err(self.not_a_path(name)) };
            return Ok(Source::IfNotExists(path, Box::new(second)));
        }
        for operand in [&first, &second] {
            if let Source::Value(value) = operand
                && !matches!(value, Value::L(_))
            {
                return Err(self.wrong_type(name, value));
            }
        }
        Ok(Source::ListAppend(Box::new(first), Box::new(second)))
    }
}

/// A constant as DynamoDB shows it: `{N:5}`.
fn shown(value: &Value) -> String {
    match value {
        Value::S(text) => format!("{{S:{text}}}"),
        Value::N(number) => format!("{{N:{number}}}"),
        other => format!("{{{}}}", other.kind().name()),
    }
}
