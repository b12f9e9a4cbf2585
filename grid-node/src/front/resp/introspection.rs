//! COMMAND: what the table says of commands.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::plan::{Step, said};
use crate::command::arguments::{is, lower};
use crate::command::reply::Answer;
use crate::command::table::{Keys, Spec, TABLE, find};
use crate::command::{Done, matches, refuse};

/// Answers COMMAND.
pub(super) fn plan(arguments: &[Bytes]) -> Done<Step> {
    let Some(sub) = arguments.get(1) else {
        return Ok(said(|out| {
            out.array(TABLE.len());
            TABLE.iter().for_each(|spec| describe(out, spec));
        }));
    };
    let rest = &arguments[2..];
    Ok(match lower(sub).as_str() {
        "count" if rest.is_empty() => said(|out| out.count(TABLE.len())),
        "info" => said(|out| {
            let named: Vec<Option<&Spec>> = match rest {
                [] => TABLE.iter().map(Some).collect(),
                names => names.iter().map(|name| find(name)).collect(),
            };
            out.array(named.len());
            for spec in named {
                match spec {
                    Some(spec) => describe(out, spec),
                    None => out.null_array(),
                }
            }
        }),
        "docs" => said(|out| {
            let named: Vec<&Spec> = match rest {
                [] => TABLE.iter().collect(),
                names => names.iter().filter_map(|name| find(name)).collect(),
            };
            out.map(named.len());
            named.into_iter().for_each(|spec| document(out, spec));
        }),
        "list" => {
            let wanted: Box<dyn Fn(&Spec) -> bool> = match rest {
                [] => Box::new(|_| true),
                [by, kind, value] if is(by, "filterby") && is(kind, "pattern") => {
                    Box::new(|spec| matches(&value.to_ascii_lowercase(), spec.name.as_bytes()))
                }
                [by, kind, value] if is(by, "filterby") && is(kind, "aclcat") => {
                    let category = format!("@{}", lower(value));
                    Box::new(move |spec| spec.categories().contains(&category.as_str()))
                }
                [by, kind, _] if is(by, "filterby") && is(kind, "module") => Box::new(|_| false),
                _ => return refuse("ERR syntax error"),
            };
            said(|out| {
                out.counted(TABLE.iter().filter(|spec| wanted(spec)), |out, spec| {
                    out.bulk(spec.name.as_bytes());
                });
            })
        }
        "getkeys" if !rest.is_empty() => {
            let Some(spec) = find(&rest[0]) else { return refuse("ERR Invalid command specified") };
            if !spec.takes(rest.len()) {
                return refuse("ERR Invalid number of arguments specified for command");
            }
            let keys: Vec<&Bytes> = spec.keys(rest).collect();
            if keys.is_empty() {
                return refuse("ERR The command has no key arguments");
            }
            said(|out| {
                out.array(keys.len());
                keys.iter().for_each(|key| out.bulk(key));
            })
        }
        _ => {
            return refuse(
                "ERR unknown subcommand or wrong number of arguments for 'command'. Try COMMAND HELP.",
            );
        }
    })
}

/// The answer to `… HELP`.
pub(super) fn help(spec: &Spec, arguments: &[Bytes]) -> Option<Done<Step>> {
    let sub = arguments.get(1).filter(|sub| is(sub, "help"));
    if sub.is_none() || !(spec.has_subcommands() || spec.name == "debug") {
        return None;
    }
    if arguments.len() > 2 {
        let name = spec.name;
        return Some(refuse(format!("ERR wrong number of arguments for '{name}|help' command")));
    }
    let name = spec.name.to_uppercase();
    Some(Ok(said(|out| {
        out.array(3);
        out.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. {}", spec.summary));
        out.simple(spec.syntax);
        out.simple("HELP -- Print this help.");
    })))
}

/// How often each command was asked for at this node, and how often it was refused before it was carried out.
#[derive(Debug)]
pub(super) struct Statistics {
    /// As the table has them.
    counts: Vec<(AtomicU64, AtomicU64)>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { counts: TABLE.iter().map(|_| Default::default()).collect() }
    }
}

impl Statistics {
    pub(super) fn note(&self, spec: Option<&'static Spec>, refused: bool) {
        let place = spec.and_then(|spec| TABLE.element_offset(spec));
        if let Some((calls, refusals)) = place.and_then(|place| self.counts.get(place)) {
            if refused { refusals } else { calls }.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As INFO has them.
    pub(super) fn lines(&self) -> String {
        let counted = TABLE.iter().zip(&self.counts).map(|(spec, (calls, refusals))| {
            (spec.name, calls.load(Ordering::Relaxed), refusals.load(Ordering::Relaxed))
        });
        counted
            .filter(|(_, calls, refusals)| calls + refusals > 0)
            .map(|(name, calls, refusals)| {
                format!("cmdstat_{name}:calls={calls},rejected_calls={refusals}\r\n")
            })
            .collect()
    }
}

fn flags(spec: &Spec) -> Vec<&'static str> {
    let movable =
        matches!(spec.keys, Keys::Numbered { .. } | Keys::AndStore | Keys::Streams).then_some("movablekeys");
    let own = spec.flags.split(' ').filter(|flag| !flag.is_empty() && *flag != "dangerous");
    own.chain(movable).collect()
}

fn describe(out: &mut Answer, spec: &Spec) {
    let (first, last, step) = match spec.keys {
        Keys::Range { first, last, step } => (first, last, step),
        Keys::Numbered { first: Some(first), .. } => (first as i64, first as i64, 1),
        Keys::AndStore => (1, 1, 1),
        Keys::Numbered { .. } | Keys::Streams | Keys::None | Keys::All => (0, 0, 0),
    };
    out.array(10);
    out.bulk(spec.name.as_bytes());
    out.integer(spec.arity);
    let flags = flags(spec);
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    [first, last, step].into_iter().for_each(|position| out.integer(position));
    let categories = spec.categories();
    out.set(categories.len());
    categories.iter().for_each(|category| out.simple(category));
    // Tips, key specifications, subcommands.
    out.array(0);
    out.array(0);
    out.array(0);
}

fn document(out: &mut Answer, spec: &Spec) {
    let arguments = parse(spec.syntax);
    out.bulk(spec.name.as_bytes());
    out.map(3 + usize::from(!arguments.is_empty()));
    for (name, value) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group)] {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    if !arguments.is_empty() {
        out.bulk(b"arguments");
        out.array(arguments.len());
        arguments.iter().for_each(|argument| argument.say(out));
    }
}

/// An argument, as the notation of the documentation has it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Argument {
    /// Words in capitals: to be typed as they are.
    token: Option<String>,
    /// What it is called; for several, those that follow.
    name: String,
    children: Vec<Argument>,
    is_choice: bool,
    is_optional: bool,
    is_repeated: bool,
}

impl Argument {
    fn say(&self, out: &mut Answer) {
        let kind = match (&self.children[..], &self.token, self.name.as_str()) {
            ([_, ..], _, _) if self.is_choice => "oneof",
            ([_, ..], _, _) => "block",
            ([], Some(_), "") => "pure-token",
            ([], _, "key" | "source" | "destination" | "newkey" | "destkey" | "sourcekey") => "key",
            ([], _, _) => "string",
        };
        let flags = [("optional", self.is_optional), ("multiple", self.is_repeated)];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        let fields = 2
            + usize::from(self.token.is_some())
            + usize::from(!flags.is_empty())
            + usize::from(!self.children.is_empty());
        out.map(fields);
        let name = match (&self.name[..], &self.token) {
            ("", Some(token)) => token.to_lowercase(),
            ("", None) => kind.to_owned(),
            (name, _) => name.to_owned(),
        };
        out.bulk(b"name");
        out.bulk(name.as_bytes());
        out.bulk(b"type");
        out.bulk(kind.as_bytes());
        if let Some(token) = &self.token {
            out.bulk(b"token");
            out.bulk(token.as_bytes());
        }
        if !flags.is_empty() {
            out.bulk(b"flags");
            out.array(flags.len());
            flags.iter().for_each(|flag| out.simple(flag));
        }
        if !self.children.is_empty() {
            out.bulk(b"arguments");
            out.array(self.children.len());
            self.children.iter().for_each(|child| child.say(out));
        }
    }
}

/// Reads the notation: `key [NX|XX] [EX seconds|PX milliseconds] [key ...]`.
fn parse(syntax: &str) -> Vec<Argument> {
    let spaced = syntax.replace('[', " [ ").replace(']', " ] ").replace('|', " | ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    sequence(&words, &mut at)
}

/// Up to the bracket that closes it.
fn sequence(words: &[&str], at: &mut usize) -> Vec<Argument> {
    let mut sequence: Vec<Argument> = Vec::new();
    // Alternatives so far, of which the last is open.
    let mut choices: Vec<Vec<Argument>> = Vec::new();
    let mut one: Vec<Argument> = Vec::new();
    while let Some(word) = words.get(*at) {
        *at += 1;
        match *word {
            "]" => break,
            "[" => {
                let inner = self::sequence(words, at);
                one.push(optional(inner));
            }
            "|" => {
                // What stands before the first alternative, outside of brackets, is none of them.
                let keep = one.len().saturating_sub(1);
                let is_first = choices.is_empty();
                let has_token = one.last().is_some_and(|last| last.token.is_some());
                if is_first && keep > 0 && has_token {
                    sequence.extend(one.drain(..keep));
                }
                choices.push(std::mem::take(&mut one));
            }
            "..." => {
                if let Some(last) = one.last_mut() {
                    last.is_repeated = true;
                }
            }
            word if is_token(word) => {
                one.push(Argument { token: Some(word.to_owned()), ..Argument::default() })
            }
            word => match one.last_mut() {
                // The value of a word that was just said.
                Some(last) if last.token.is_some() && last.name.is_empty() && last.children.is_empty() => {
                    last.name = word.to_owned();
                }
                _ => one.push(Argument { name: word.to_owned(), ..Argument::default() }),
            },
        }
    }
    if choices.is_empty() {
        sequence.extend(one);
        return sequence;
    }
    // Behind the last alternative the rest goes on.
    let rest = if one.len() > 1 { one.split_off(1) } else { Vec::new() };
    choices.push(one);
    let children = choices.into_iter().map(block).collect();
    sequence.push(Argument { children, is_choice: true, ..Argument::default() });
    sequence.extend(rest);
    sequence
}

fn is_token(word: &str) -> bool {
    word.chars().all(|letter| {
        letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '-' || letter == '_'
    }) && word.starts_with(|letter: char| letter.is_ascii_uppercase())
}

fn block(mut arguments: Vec<Argument>) -> Argument {
    match arguments.pop() {
        Some(only) if arguments.is_empty() => only,
        Some(last) => {
            arguments.push(last);
            Argument { children: arguments, ..Argument::default() }
        }
        None => Argument::default(),
    }
}

/// What stands in brackets. One that ends with `...` may come again.
fn optional(inner: Vec<Argument>) -> Argument {
    let is_repeated = inner.len() > 1 && inner.last().is_some_and(|last| last.is_repeated);
    let mut argument = block(inner);
    if is_repeated && let Some(last) = argument.children.last_mut() {
        last.is_repeated = false;
    }
    argument.is_optional = true;
    argument.is_repeated |= is_repeated;
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_is_read() {
        let set = parse("key value [NX|XX] [GET] [EX seconds|PX milliseconds|KEEPTTL]");
        let names: Vec<(&str, usize, bool)> = set
            .iter()
            .map(|argument| (argument.name.as_str(), argument.children.len(), argument.is_optional))
            .collect();
        assert_eq!(
            names,
            [("key", 0, false), ("value", 0, false), ("", 2, true), ("", 0, true), ("", 3, true)]
        );
        assert_eq!(set[4].children[0].token.as_deref(), Some("EX"));
        assert_eq!(set[4].children[0].name, "seconds");
        let push = parse("key element [element ...]");
        assert!(push[2].is_optional && push[2].is_repeated);
        let pairs = parse("key value [key value ...]");
        assert!(pairs[2].is_optional && pairs[2].is_repeated && pairs[2].children.len() == 2);
    }
}
