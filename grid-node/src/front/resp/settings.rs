//! CONFIG: options of redis.conf that clients ask for or change.
//!
//! What lays values out is changed for the commands that this node takes from then on, and comes with each of them.
//! Options of things that are otherwise here have one value, which may be set again. The rest is not known.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use trimaran_proto::state::grid::Encodings;

use super::plan::{Step, said};
use super::task::Task;
use super::{Front, users};
use crate::access::DEFAULT;
use crate::command::arguments::lower;
use crate::command::reply::Answer;
use crate::command::{Done, matches, refuse};
use crate::data::notice::Classes;
use crate::memory::{Memory, Policy, parse_bytes};

/// What setting an option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It decides how values are laid out.
    Layout,
    /// Which events of keys clients of this node are told of.
    Notices,
    /// What keys may take, and which go.
    Memory,
    /// The password of the default user, in the whole cluster. It is not told.
    Password,
    /// There is nothing that it could change: any value of its kind is kept and told.
    Kept,
    /// It has this value and no other.
    Fixed,
}

/// Name, value at first, effect.
#[rustfmt::skip]
const OPTIONS: &[(&str, &str, Effect)] = &[
    ("acllog-max-len", "128", Effect::Kept),
    ("active-expire-effort", "1", Effect::Kept),
    ("activedefrag", "no", Effect::Fixed),
    ("appendfsync", "everysec", Effect::Fixed),
    ("appendonly", "no", Effect::Fixed),
    ("databases", "1", Effect::Fixed),
    ("hash-max-listpack-entries", "128", Effect::Layout),
    ("hash-max-listpack-value", "64", Effect::Layout),
    ("hash-max-ziplist-entries", "128", Effect::Layout),
    ("hash-max-ziplist-value", "64", Effect::Layout),
    ("hz", "10", Effect::Kept),
    ("lazyfree-lazy-eviction", "no", Effect::Kept),
    ("lazyfree-lazy-expire", "no", Effect::Kept),
    ("lazyfree-lazy-server-del", "no", Effect::Kept),
    ("lazyfree-lazy-user-del", "no", Effect::Kept),
    ("lazyfree-lazy-user-flush", "no", Effect::Kept),
    ("list-compress-depth", "0", Effect::Kept),
    ("list-max-listpack-size", "-2", Effect::Layout),
    ("list-max-ziplist-size", "-2", Effect::Layout),
    ("lua-time-limit", "5000", Effect::Kept),
    ("busy-reply-threshold", "5000", Effect::Kept),
    ("lfu-decay-time", "1", Effect::Fixed),
    ("lfu-log-factor", "10", Effect::Fixed),
    ("maxmemory", "0", Effect::Memory),
    ("maxmemory-policy", "noeviction", Effect::Memory),
    ("maxmemory-samples", "5", Effect::Memory),
    ("notify-keyspace-events", "", Effect::Notices),
    ("proto-max-bulk-len", "16777216", Effect::Fixed),
    ("requirepass", "", Effect::Password),
    ("save", "", Effect::Fixed),
    ("set-max-intset-entries", "512", Effect::Layout),
    ("set-max-listpack-entries", "128", Effect::Layout),
    ("set-max-listpack-value", "64", Effect::Layout),
    ("slowlog-log-slower-than", "10000", Effect::Kept),
    ("slowlog-max-len", "128", Effect::Kept),
    ("stream-node-max-bytes", "4096", Effect::Kept),
    ("stream-node-max-entries", "100", Effect::Layout),
    ("timeout", "0", Effect::Fixed),
    ("tracking-table-max-keys", "1000000", Effect::Kept),
    ("zset-max-listpack-entries", "128", Effect::Layout),
    ("zset-max-listpack-value", "64", Effect::Layout),
    ("zset-max-ziplist-entries", "128", Effect::Layout),
    ("zset-max-ziplist-value", "64", Effect::Layout),
];

/// What this node was told.
#[derive(Debug, Default)]
pub(super) struct Settings {
    told: Mutex<BTreeMap<&'static str, String>>,
    /// What follows from it, for every command.
    encodings: ArcSwapOption<Encodings>,
}

/// Older names stand for newer ones.
fn newer(name: &str) -> String {
    name.replace("ziplist", "listpack")
}

fn find(name: &str) -> Option<&'static (&'static str, &'static str, Effect)> {
    let name = newer(name);
    OPTIONS.iter().find(|(known, ..)| *known == name)
}

impl Settings {
    /// For the commands that this node takes; `None` while nothing was told.
    pub(super) fn encodings(&self) -> Option<Encodings> {
        self.encodings.load().as_deref().copied()
    }

    /// Which events of keys clients are told of.
    fn classes(&self) -> Classes {
        let told = self.told.lock();
        told.get("notify-keyspace-events").and_then(|letters| Classes::parse(letters)).unwrap_or_default()
    }

    /// A number that was told.
    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.told.lock().get(name).and_then(|value| value.parse().ok())
    }

    fn get(&self, patterns: &[Bytes], memory: &Memory) -> Vec<(&'static str, String)> {
        let told = self.told.lock();
        let is_asked = |name: &str| {
            patterns.iter().any(|pattern| matches(pattern.to_ascii_lowercase().as_slice(), name.as_bytes()))
        };
        let value = |name: &str, default: &str| match find(name) {
            // It may come from the options of the node.
            Some(("maxmemory", ..)) => memory.most().to_string(),
            Some(("maxmemory-policy", ..)) => memory.policy().name().to_owned(),
            Some(("maxmemory-samples", ..)) => memory.samples().to_string(),
            Some((known, ..)) => told.get(known).cloned().unwrap_or_else(|| default.to_owned()),
            None => default.to_owned(),
        };
        let asked = OPTIONS.iter().filter(|(name, ..)| is_asked(name));
        asked.map(|(name, default, _)| (*name, value(name, default))).collect()
    }

    /// What is left to be done is a change of a user.
    fn set(&self, pairs: &[[Bytes; 2]], memory: &Memory) -> Done<Option<users::Change>> {
        let mut password = None;
        let (mut most, mut policy, mut samples) = (None, None, None);
        let mut wanted = Vec::new();
        for [name, value] in pairs {
            let name = lower(name);
            let value = String::from_utf8_lossy(value).into_owned();
            let Some((known, default, effect)) = find(&name) else {
                return refuse(format!(
                    "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                ));
            };
            let failed = |why: &str| {
                refuse(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
            };
            let is_number = default.parse::<i64>().is_ok();
            match effect {
                Effect::Password if value.is_empty() => {
                    password = Some(vec![Bytes::from_static(b"nopass")]);
                    continue;
                }
                Effect::Password => {
                    let rule = Bytes::from(format!(">{value}"));
                    password = Some(vec![Bytes::from_static(b"resetpass"), rule]);
                    continue;
                }
                Effect::Fixed if value == *default => continue,
                Effect::Fixed => return failed(&format!("it is always '{default}' here")),
                Effect::Memory if *known == "maxmemory" => match parse_bytes(&value) {
                    Some(bytes) => most = Some(bytes),
                    None => return failed("argument must be a memory value"),
                },
                Effect::Memory if *known == "maxmemory-policy" => {
                    match Policy::parse(&value.to_lowercase()) {
                        Some(chosen) => policy = Some(chosen),
                        None => {
                            return failed(
                                "argument(s) must be one of the following: volatile-lru, volatile-lfu, volatile-random, volatile-ttl, allkeys-lru, allkeys-lfu, allkeys-random, noeviction",
                            );
                        }
                    }
                }
                Effect::Memory => match value.parse().ok().filter(|count| (1..=64).contains(count)) {
                    Some(count) => samples = Some(count),
                    None => return failed("argument must be between 1 and 64 inclusive"),
                },
                _ if is_number && value.parse::<i64>().is_err() => {
                    return failed("argument couldn't be parsed into an integer");
                }
                Effect::Layout if *known != "list-max-listpack-size" && value.starts_with('-') => {
                    return failed("argument must be between 0 and 9223372036854775807 inclusive");
                }
                Effect::Notices => match Classes::parse(&value) {
                    Some(classes) => wanted.push((*known, classes.to_string())),
                    None => return failed("Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
                },
                Effect::Layout | Effect::Kept => wanted.push((*known, value)),
            }
        }
        policy.into_iter().for_each(|policy| memory.choose_by(policy));
        samples.into_iter().for_each(|samples| memory.look_at(samples));
        most.into_iter().for_each(|most| memory.limit(most));
        let mut told = self.told.lock();
        told.extend(wanted);
        let number = |name: &str| told.get(name).and_then(|value| value.parse::<u64>().ok());
        let size = told.get("list-max-listpack-size").and_then(|value| value.parse().ok());
        let encodings = Encodings {
            hash_max_listpack_entries: number("hash-max-listpack-entries"),
            hash_max_listpack_value: number("hash-max-listpack-value"),
            set_max_intset_entries: number("set-max-intset-entries"),
            set_max_listpack_entries: number("set-max-listpack-entries"),
            set_max_listpack_value: number("set-max-listpack-value"),
            zset_max_listpack_entries: number("zset-max-listpack-entries"),
            zset_max_listpack_value: number("zset-max-listpack-value"),
            list_max_listpack_size: size,
            stream_node_max_entries: number("stream-node-max-entries"),
        };
        let differs = encodings != Encodings::default();
        self.encodings.store(differs.then(|| Arc::new(encodings)));
        Ok(password.map(|rules| users::Change::Set { name: DEFAULT.to_owned(), rules }))
    }
}

/// CONFIG.
pub(super) fn plan(front: &Front, arguments: &[Bytes]) -> Done<Step> {
    match (lower(&arguments[1]).as_str(), &arguments[2..]) {
        ("get", patterns) if !patterns.is_empty() => Ok(said(|out: &mut Answer| {
            let found = front.settings.get(patterns, front.router.memory());
            out.map(found.len());
            for (name, value) in found {
                out.bulk(name.as_bytes());
                out.bulk(value.as_bytes());
            }
        })),
        ("set", pairs) => match pairs.as_chunks() {
            (pairs, []) if !pairs.is_empty() => {
                let change = front.settings.set(pairs, front.router.memory())?;
                front.hub.set_classes(front.settings.classes());
                if let Some(most) = front.settings.number("acllog-max-len") {
                    front.access_log.keep(most);
                }
                let settings = &front.settings;
                let slower_than = settings.number("slowlog-log-slower-than");
                front.slow_log.set(slower_than, settings.number("slowlog-max-len"));
                if let Some(most) = settings.number("tracking-table-max-keys") {
                    front.tracking.limit(most);
                }
                Ok(match change {
                    Some(change) => Step::Task(Box::new(Task::Users(change))),
                    None => said(Answer::ok),
                })
            }
            _ => refuse("ERR wrong number of arguments for 'config|set' command"),
        },
        // The other counters are those of the process, which metrics has.
        ("resetstat", []) => {
            front.router.memory().forget_evicted();
            Ok(said(Answer::ok))
        }
        ("rewrite", []) => refuse("ERR The server is running without a config file"),
        _ => refuse("ERR unknown subcommand or wrong number of arguments for 'config'. Try CONFIG HELP."),
    }
}
