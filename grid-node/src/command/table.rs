//! The commands, as data: how each is called, what it is about, and what carries it out.
//!
//! Arity, flags and positions of keys are those of Redis 7.4. Everything that asks for a command asks here: the fronts,
//! transactions, COMMAND, and the page about commands in the documentation.

use std::sync::LazyLock;

use bytes::Bytes;
use hashbrown::HashMap;

use super::arguments::{count as count_of, is};
use super::scripting::function;
use super::sorted_set::{combine, range};
use super::stream::{group, info};
use super::{
    Done, Read, Write, bits, hash, hash_expiry, hyperloglog, key, list, scripting, set, sort, sorted_set,
    stream, string,
};

/// What carries a command out.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// The leader, and nothing changes.
    Read(fn(&mut Read<'_>, &[Bytes]) -> Done),
    /// Every replica, at the same place of the log.
    Write(fn(&mut Write<'_>, &[Bytes]) -> Done),
    /// The node that the client is connected to.
    Front,
}

/// Which arguments are keys; the name of the command is argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// It is about all keys of all partitions.
    All,
    /// From, up to (negative = from the end, -1 is the last), every so many.
    Range {
        /// The first one.
        first: i64,
        /// The last one.
        last: i64,
        /// One in so many.
        step: i64,
    },
    /// As many as an argument says, behind it.
    Numbered {
        /// One that is not counted.
        first: Option<usize>,
        /// Which argument says how many.
        count: usize,
    },
    /// The first argument, and the one that is stored to (SORT).
    AndStore,
    /// The first half of what follows the word STREAMS.
    Streams,
}

/// The categories of access control.
pub const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// The format of a cluster from which on every node knows the commands of Redis.
pub const RUN_FORMAT: u32 = 4;

/// The one from which on they know libraries of functions, and what else came with them.
pub const LIBRARIES_FORMAT: u32 = 5;

/// The one from which on they take the commands of a pipeline as one, and evict.
pub const PIPELINE_FORMAT: u32 = 6;

/// The one from which on they know semaphores, and writes that depend on a holding of one.
pub const SEMAPHORE_FORMAT: u32 = 7;

/// The one from which on keys of a backup may be put in.
pub const LOAD_FORMAT: u32 = 8;

/// The one from which on every node keeps to the quotas of namespaces.
pub const NAMESPACES_FORMAT: u32 = 8;

/// The one from which on numbers that do not fit 64 bits are refused as scores and weights, and what is empty sorts as zero.
pub const STRICT_NUMBERS_FORMAT: u32 = 7;

/// One command.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Lower case.
    pub name: &'static str,
    /// Arguments with the name; negative = at least.
    pub arity: i64,
    /// As `COMMAND INFO` says them, with spaces between.
    pub flags: &'static str,
    /// Which arguments are keys.
    pub keys: Keys,
    /// As the documentation of Redis sorts them.
    pub group: &'static str,
    /// The version of Redis that it came with.
    pub since: &'static str,
    /// Its arguments, in the notation of the documentation.
    pub syntax: &'static str,
    /// For `COMMAND DOCS`.
    pub summary: &'static str,
    /// What carries it out.
    pub run: Run,
    /// It may wait for an element: one of its flags, at hand.
    pub blocks: bool,
    /// It may need more memory: one of its flags, at hand.
    pub needs_memory: bool,
    /// What it does depends on the seed that it is given, or on who runs it.
    pub is_seeded: bool,
    /// From which format of the cluster on every node knows it.
    pub format: u32,
}

/// Comparing words before the program runs.
const fn is_word(text: &[u8], word: &[u8]) -> bool {
    if text.len() != word.len() {
        return false;
    }
    let mut at = 0;
    while at < word.len() {
        if text[at] != word[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// True if a text is one of some words.
const fn is_one_of(text: &str, words: &[&str]) -> bool {
    let mut at = 0;
    while at < words.len() {
        if is_word(text.as_bytes(), words[at].as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

/// True if a word is the last one of a text (the table has it there).
const fn ends_with(text: &str, word: &str) -> bool {
    match text.as_bytes().split_at_checked(text.len().wrapping_sub(word.len())) {
        Some((_, end)) => is_word(end, word.as_bytes()),
        None => false,
    }
}

/// True if a text begins with another (the table has the words there).
const fn has_prefix(text: &str, words: &str) -> bool {
    match text.as_bytes().split_at_checked(words.len()) {
        Some((begin, _)) => is_word(begin, words.as_bytes()),
        None => false,
    }
}

impl Spec {
    /// True if its first argument is a command of its own.
    pub fn has_subcommands(&self) -> bool {
        const CONTAINERS: &[&str] = &[
            "acl", "client", "cluster", "command", "config", "function", "latency", "memory", "object",
            "pubsub", "script", "slowlog", "xgroup", "xinfo",
        ];
        CONTAINERS.contains(&self.name)
    }

    /// Those of its own, in small letters.
    pub fn subcommands(&self) -> impl Iterator<Item = String> + use<> {
        let first = self.syntax.split(' ').next().filter(|_| self.has_subcommands());
        let named = first.into_iter().flat_map(|words| words.split('|')).map(str::to_ascii_lowercase);
        named.chain(self.has_subcommands().then(|| "help".to_owned()))
    }

    /// True if it has a flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.split(' ').any(|held| held == flag)
    }

    /// True if that many arguments, the name included, may be right.
    pub fn takes(&self, arguments: usize) -> bool {
        let count = i64::try_from(arguments).unwrap_or(i64::MAX);
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }

    /// The keys among arguments that [`Spec::takes`] has found right in number. Too few where a number of them is
    /// wrong: the command itself says so.
    pub fn keys<'a>(&self, arguments: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> + Clone {
        let len = arguments.len();
        // One by itself before them, those in a row, one by itself behind them.
        let (before, row, step, behind) = match self.keys {
            Keys::None | Keys::All => (None, 0..0, 1, None),
            Keys::Range { first, last, step } => {
                let last = if last < 0 { i64::try_from(len).unwrap_or(i64::MAX) + last } else { last };
                let place = |at: i64| usize::try_from(at).unwrap_or(0);
                (None, place(first)..place(last + 1), place(step), None)
            }
            Keys::Streams => {
                let begin = arguments.iter().position(|word| is(word, "streams")).map_or(len, |at| at + 1);
                (None, begin..begin + (len - begin) / 2, 1, None)
            }
            Keys::AndStore => {
                let store = arguments.iter().rposition(|word| is(word, "store")).filter(|at| *at > 1);
                (None, 1..2, 1, store.map(|at| at + 1))
            }
            Keys::Numbered { first, count } => {
                let said = arguments.get(count).and_then(|said| count_of(said).ok()).unwrap_or(0);
                (first, count + 1..count.saturating_add(said).saturating_add(1), 1, None)
            }
        };
        let row = row.start..row.end.min(len);
        before.into_iter().chain(row.step_by(step)).chain(behind).filter_map(|at| arguments.get(at))
    }

    /// The categories of access control that it is in. Source: `setImplicitACLCategories` of Redis and the group.
    pub fn categories(&self) -> Vec<&'static str> {
        let mut categories = Vec::new();
        for (flag, category) in [("write", "@write"), ("readonly", "@read"), ("blocking", "@blocking")] {
            if self.is(flag) {
                categories.push(category);
            }
        }
        if self.is("admin") {
            categories.extend(["@admin", "@dangerous"]);
        } else if self.is("dangerous") || self.name.starts_with("flush") || self.name.starts_with("sort") {
            categories.push("@dangerous");
        }
        categories.push(if self.is("fast") { "@fast" } else { "@slow" });
        match (self.group, self.name) {
            ("string", name) if name.starts_with("bit") || name.ends_with("bit") => {
                categories.push("@bitmap")
            }
            ("string", _) => categories.push("@string"),
            ("list", _) => categories.push("@list"),
            ("hash", _) => categories.push("@hash"),
            ("set", _) => categories.push("@set"),
            ("sorted-set", _) => categories.push("@sortedset"),
            ("hyperloglog", _) => categories.push("@hyperloglog"),
            ("stream", _) => categories.push("@stream"),
            ("generic", _) | (_, "dbsize" | "flushall" | "flushdb") => categories.push("@keyspace"),
            ("connection" | "cluster", _) => categories.push("@connection"),
            ("transactions", _) => categories.push("@transaction"),
            ("scripting", _) => categories.push("@scripting"),
            ("pubsub", _) => categories.push("@pubsub"),
            _ => {}
        }
        categories
    }
}

/// The command of a name, in capitals or not.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    /// No name is longer.
    const NAME_BYTES_MAX: usize = 24;
    static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Spec>> =
        LazyLock::new(|| TABLE.iter().map(|spec| (spec.name.as_bytes(), spec)).collect());
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

const fn one(key: i64) -> Keys {
    Keys::Range { first: key, last: key, step: 1 }
}

#[allow(clippy::too_many_arguments, reason = "a row of the table")]
const fn c(
    name: &'static str,
    arity: i64,
    flags: &'static str,
    keys: Keys,
    group: &'static str,
    since: &'static str,
    syntax: &'static str,
    summary: &'static str,
    run: Run,
) -> Spec {
    // Of those that the front carries out, it is about what a script may do.
    let is_newer =
        is_one_of(name, &["dump", "fcall", "fcall_ro", "function", "publish", "restore", "spublish"]);
    Spec {
        name,
        arity,
        flags,
        keys,
        group,
        since,
        syntax,
        summary,
        run,
        blocks: ends_with(flags, "blocking"),
        needs_memory: has_prefix(flags, "write denyoom") || has_prefix(flags, "noscript write denyoom"),
        is_seeded: is_one_of(group, &["scripting"])
            || is_one_of(name, &["hrandfield", "randomkey", "spop", "srandmember", "zrandmember"]),
        format: if is_newer { LIBRARIES_FORMAT } else { RUN_FORMAT },
    }
}

/// All commands offered, by name.
#[rustfmt::skip]
pub static TABLE: &[Spec] = &[
    c("acl", -2, "noscript loading stale admin", Keys::None, "server", "6.0.0", "CAT|DELUSER|DRYRUN|GENPASS|GETUSER|LIST|LOAD|LOG|SAVE|SETUSER|USERS|WHOAMI", "Users, and what each may do.", Run::Front),
    c("append", 3, "write denyoom fast", one(1), "string", "2.0.0", "key value", "Appends to a string.", Run::Write(string::append)),
    c("asking", 1, "fast", Keys::None, "cluster", "3.0.0", "", "Does nothing: there is no half-moved slot.", Run::Front),
    c("auth", -2, "noscript loading stale fast no_auth", Keys::None, "connection", "1.0.0", "[username] password", "Says who the client is.", Run::Front),
    c("bitcount", -2, "readonly", one(1), "string", "2.6.0", "key [start end [BYTE|BIT]]", "Counts the bits that are set.", Run::Read(bits::bitcount)),
    c("bitfield", -2, "write denyoom", one(1), "string", "3.2.0", "key [GET encoding offset|SET encoding offset value|INCRBY encoding offset increment|OVERFLOW WRAP|SAT|FAIL ...]", "Reads and changes integers of any width within a string.", Run::Write(bits::bitfield)),
    c("bitfield_ro", -2, "readonly fast", one(1), "string", "6.0.0", "key [GET encoding offset ...]", "Reads integers of any width within a string.", Run::Read(bits::bitfield_ro)),
    c("bitop", -4, "write denyoom", Keys::Range { first: 2, last: -1, step: 1 }, "string", "2.6.0", "AND|OR|XOR|NOT destkey key [key ...]", "Combines strings bit by bit.", Run::Write(bits::bitop)),
    c("bitpos", -3, "readonly", one(1), "string", "2.8.7", "key bit [start [end [BYTE|BIT]]]", "Finds the first bit that is set, or that is not.", Run::Read(bits::bitpos)),
    c("blmove", 6, "write denyoom blocking", Keys::Range { first: 1, last: 2, step: 1 }, "list", "6.2.0", "source destination LEFT|RIGHT LEFT|RIGHT timeout", "Moves an element to another list, and waits for one.", Run::Write(list::lmove)),
    c("blmpop", -5, "write blocking", Keys::Numbered { first: None, count: 2 }, "list", "7.0.0", "timeout numkeys key [key ...] LEFT|RIGHT [COUNT count]", "Takes elements of the first list that has some, and waits for them.", Run::Write(list::blmpop)),
    c("blpop", -3, "write blocking", Keys::Range { first: 1, last: -2, step: 1 }, "list", "2.0.0", "key [key ...] timeout", "Takes the first element, and waits for one.", Run::Write(list::blpop)),
    c("brpop", -3, "write blocking", Keys::Range { first: 1, last: -2, step: 1 }, "list", "2.0.0", "key [key ...] timeout", "Takes the last element, and waits for one.", Run::Write(list::brpop)),
    c("brpoplpush", 4, "write denyoom blocking", Keys::Range { first: 1, last: 2, step: 1 }, "list", "2.2.0", "source destination timeout", "Moves the last element to the front of another list, and waits for one.", Run::Write(list::rpoplpush)),
    c("bzmpop", -5, "write blocking", Keys::Numbered { first: None, count: 2 }, "sorted-set", "7.0.0", "timeout numkeys key [key ...] MIN|MAX [COUNT count]", "Takes members of the first sorted set that has some, and waits for them.", Run::Write(sorted_set::bzmpop)),
    c("bzpopmax", -3, "write fast blocking", Keys::Range { first: 1, last: -2, step: 1 }, "sorted-set", "5.0.0", "key [key ...] timeout", "Takes the member with the highest score, and waits for one.", Run::Write(sorted_set::bzpopmax)),
    c("bzpopmin", -3, "write fast blocking", Keys::Range { first: 1, last: -2, step: 1 }, "sorted-set", "5.0.0", "key [key ...] timeout", "Takes the member with the lowest score, and waits for one.", Run::Write(sorted_set::bzpopmin)),
    c("client", -2, "noscript loading stale", Keys::None, "connection", "2.4.0", "GETNAME|SETNAME|SETINFO|ID|INFO|LIST|KILL|NO-EVICT|NO-TOUCH|UNBLOCK|PAUSE|UNPAUSE|REPLY|TRACKING|TRACKINGINFO|CACHING|GETREDIR", "About connections.", Run::Front),
    c("cluster", -2, "loading stale", Keys::None, "cluster", "3.0.0", "SLOTS|SHARDS|NODES|INFO|KEYSLOT|MYID|COUNTKEYSINSLOT", "Which slots are where.", Run::Front),
    c("command", -1, "loading stale", Keys::None, "server", "2.8.13", "[COUNT|DOCS|GETKEYS|INFO|LIST]", "What commands there are.", Run::Front),
    c("config", -2, "admin noscript loading stale", Keys::None, "server", "2.0.0", "GET|SET|RESETSTAT|REWRITE", "Options that may be changed while it runs.", Run::Front),
    c("copy", -3, "write denyoom", Keys::Range { first: 1, last: 2, step: 1 }, "generic", "6.2.0", "source destination [DB destination-db] [REPLACE]", "Copies a value to another key.", Run::Write(key::copy)),
    c("dbsize", 1, "readonly fast", Keys::All, "server", "1.0.0", "", "Number of keys.", Run::Read(key::dbsize)),
    c("debug", -2, "admin noscript loading stale", Keys::None, "server", "1.0.0", "SLEEP|JMAP", "For test suites.", Run::Front),
    c("decr", 2, "write denyoom fast", one(1), "string", "1.0.0", "key", "Subtracts one from an integer.", Run::Write(string::decr)),
    c("decrby", 3, "write denyoom fast", one(1), "string", "1.0.0", "key decrement", "Subtracts from an integer.", Run::Write(string::decrby)),
    c("del", -2, "write", Keys::Range { first: 1, last: -1, step: 1 }, "generic", "1.0.0", "key [key ...]", "Deletes keys.", Run::Write(key::del)),
    c("discard", 1, "noscript loading stale fast", Keys::None, "transactions", "2.0.0", "", "Gives up what was queued.", Run::Front),
    c("dump", 2, "readonly", one(1), "generic", "2.6.0", "key", "A value as Redis writes it, for RESTORE.", Run::Read(key::dump)),
    c("echo", 2, "loading stale fast", Keys::None, "connection", "1.0.0", "message", "Says the same.", Run::Front),
    c("eval", -3, "noscript stale", Keys::Numbered { first: None, count: 2 }, "scripting", "2.6.0", "script numkeys [key [key ...]] [arg [arg ...]]", "Carries out a script in Lua.", Run::Write(scripting::eval)),
    c("eval_ro", -3, "readonly noscript stale", Keys::Numbered { first: None, count: 2 }, "scripting", "7.0.0", "script numkeys [key [key ...]] [arg [arg ...]]", "Carries out a script that changes nothing.", Run::Read(scripting::eval_ro)),
    c("evalsha", -3, "noscript stale", Keys::Numbered { first: None, count: 2 }, "scripting", "2.6.0", "sha1 numkeys [key [key ...]] [arg [arg ...]]", "Carries out a script that this node has seen.", Run::Front),
    c("evalsha_ro", -3, "readonly noscript stale", Keys::Numbered { first: None, count: 2 }, "scripting", "7.0.0", "sha1 numkeys [key [key ...]] [arg [arg ...]]", "Carries out a script that this node has seen and that changes nothing.", Run::Front),
    c("exec", 1, "noscript loading stale", Keys::None, "transactions", "1.2.0", "", "Carries out what was queued, with nothing between.", Run::Front),
    c("exists", -2, "readonly fast", Keys::Range { first: 1, last: -1, step: 1 }, "generic", "1.0.0", "key [key ...]", "Counts keys that are there.", Run::Read(key::exists)),
    c("expire", -3, "write fast", one(1), "generic", "1.0.0", "key seconds [NX|XX|GT|LT]", "Sets a time to live in seconds.", Run::Write(key::expire)),
    c("expireat", -3, "write fast", one(1), "generic", "1.2.0", "key unix-time-seconds [NX|XX|GT|LT]", "Sets the second in which a key ends.", Run::Write(key::expireat)),
    c("expiretime", 2, "readonly fast", one(1), "generic", "7.0.0", "key", "The second in which a key ends.", Run::Read(key::expiretime)),
    c("fcall", -3, "noscript stale", Keys::Numbered { first: None, count: 2 }, "scripting", "7.0.0", "function numkeys [key [key ...]] [arg [arg ...]]", "Calls a function of a library.", Run::Write(function::fcall)),
    c("fcall_ro", -3, "readonly noscript stale", Keys::Numbered { first: None, count: 2 }, "scripting", "7.0.0", "function numkeys [key [key ...]] [arg [arg ...]]", "Calls a function that writes nothing.", Run::Read(function::fcall_ro)),
    c("flushall", -1, "write", Keys::All, "server", "1.0.0", "[ASYNC|SYNC]", "Deletes all keys, partition by partition.", Run::Write(key::flush)),
    c("flushdb", -1, "write", Keys::All, "server", "1.0.0", "[ASYNC|SYNC]", "Deletes all keys, partition by partition.", Run::Write(key::flush)),
    c("function", -2, "noscript write denyoom", Keys::None, "scripting", "7.0.0", "DELETE|DUMP|FLUSH|KILL|LIST|LOAD|RESTORE|STATS", "Libraries of functions.", Run::Write(function::function)),
    c("get", 2, "readonly fast", one(1), "string", "1.0.0", "key", "The value of a key.", Run::Read(string::get)),
    c("getbit", 3, "readonly fast", one(1), "string", "2.2.0", "key offset", "One bit of a string.", Run::Read(bits::getbit)),
    c("getdel", 2, "write fast", one(1), "string", "6.2.0", "key", "The value of a key, which is deleted.", Run::Write(string::getdel)),
    c("getex", -2, "write fast", one(1), "string", "6.2.0", "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]", "The value of a key, which gets another time to live.", Run::Write(string::getex)),
    c("getrange", 4, "readonly", one(1), "string", "2.4.0", "key start end", "A part of a string.", Run::Read(string::getrange)),
    c("getset", 3, "write denyoom fast", one(1), "string", "1.0.0", "key value", "Sets a value and answers with the one before.", Run::Write(string::getset)),
    c("hdel", -3, "write fast", one(1), "hash", "2.0.0", "key field [field ...]", "Removes fields.", Run::Write(hash::hdel)),
    c("hello", -1, "noscript loading stale fast no_auth", Keys::None, "connection", "6.0.0", "[protover [AUTH username password] [SETNAME clientname]]", "Begins a connection in RESP2 or RESP3.", Run::Front),
    c("hexists", 3, "readonly fast", one(1), "hash", "2.0.0", "key field", "Whether there is a field.", Run::Read(hash::hexists)),
    c("hexpire", -6, "write denyoom fast", one(1), "hash", "7.4.0", "key seconds [NX|XX|GT|LT] FIELDS numfields field [field ...]", "Gives fields a time to live in seconds.", Run::Write(hash_expiry::hexpire)),
    c("hexpireat", -6, "write denyoom fast", one(1), "hash", "7.4.0", "key unix-time-seconds [NX|XX|GT|LT] FIELDS numfields field [field ...]", "Sets the second in which fields end.", Run::Write(hash_expiry::hexpireat)),
    c("hexpiretime", -5, "readonly fast", one(1), "hash", "7.4.0", "key FIELDS numfields field [field ...]", "The second in which fields end.", Run::Read(hash_expiry::hexpiretime)),
    c("hget", 3, "readonly fast", one(1), "hash", "2.0.0", "key field", "The value of a field.", Run::Read(hash::hget)),
    c("hgetall", 2, "readonly", one(1), "hash", "2.0.0", "key", "All fields and values.", Run::Read(hash::hgetall)),
    c("hincrby", 4, "write denyoom fast", one(1), "hash", "2.0.0", "key field increment", "Adds to the integer of a field.", Run::Write(hash::hincrby)),
    c("hincrbyfloat", 4, "write denyoom fast", one(1), "hash", "2.6.0", "key field increment", "Adds to the number of a field.", Run::Write(hash::hincrbyfloat)),
    c("hkeys", 2, "readonly", one(1), "hash", "2.0.0", "key", "All fields.", Run::Read(hash::hkeys)),
    c("hlen", 2, "readonly fast", one(1), "hash", "2.0.0", "key", "Fields of a hash.", Run::Read(hash::hlen)),
    c("hmget", -3, "readonly fast", one(1), "hash", "2.0.0", "key field [field ...]", "The values of fields.", Run::Read(hash::hmget)),
    c("hmset", -4, "write denyoom fast", one(1), "hash", "2.0.0", "key field value [field value ...]", "Sets fields.", Run::Write(hash::hmset)),
    c("hpersist", -5, "write fast", one(1), "hash", "7.4.0", "key FIELDS numfields field [field ...]", "Takes the time to live of fields away.", Run::Write(hash_expiry::hpersist)),
    c("hpexpire", -6, "write denyoom fast", one(1), "hash", "7.4.0", "key milliseconds [NX|XX|GT|LT] FIELDS numfields field [field ...]", "Gives fields a time to live in milliseconds.", Run::Write(hash_expiry::hpexpire)),
    c("hpexpireat", -6, "write denyoom fast", one(1), "hash", "7.4.0", "key unix-time-milliseconds [NX|XX|GT|LT] FIELDS numfields field [field ...]", "Sets the millisecond in which fields end.", Run::Write(hash_expiry::hpexpireat)),
    c("hpexpiretime", -5, "readonly fast", one(1), "hash", "7.4.0", "key FIELDS numfields field [field ...]", "The millisecond in which fields end.", Run::Read(hash_expiry::hpexpiretime)),
    c("hpttl", -5, "readonly fast", one(1), "hash", "7.4.0", "key FIELDS numfields field [field ...]", "Milliseconds that fields have left.", Run::Read(hash_expiry::hpttl)),
    c("hrandfield", -2, "readonly", one(1), "hash", "6.2.0", "key [count [WITHVALUES]]", "Fields at random.", Run::Read(hash::hrandfield)),
    c("hscan", -3, "readonly", one(1), "hash", "2.8.0", "key cursor [MATCH pattern] [COUNT count] [NOVALUES]", "Fields, page by page.", Run::Read(hash::hscan)),
    c("hset", -4, "write denyoom fast", one(1), "hash", "2.0.0", "key field value [field value ...]", "Sets fields.", Run::Write(hash::hset)),
    c("hsetnx", 4, "write denyoom fast", one(1), "hash", "2.0.0", "key field value", "Sets a field if it is not there.", Run::Write(hash::hsetnx)),
    c("hstrlen", 3, "readonly fast", one(1), "hash", "3.2.0", "key field", "Bytes of the value of a field.", Run::Read(hash::hstrlen)),
    c("httl", -5, "readonly fast", one(1), "hash", "7.4.0", "key FIELDS numfields field [field ...]", "Seconds that fields have left.", Run::Read(hash_expiry::httl)),
    c("hvals", 2, "readonly", one(1), "hash", "2.0.0", "key", "All values.", Run::Read(hash::hvals)),
    c("incr", 2, "write denyoom fast", one(1), "string", "1.0.0", "key", "Adds one to an integer.", Run::Write(string::incr)),
    c("incrby", 3, "write denyoom fast", one(1), "string", "1.0.0", "key increment", "Adds to an integer.", Run::Write(string::incrby)),
    c("incrbyfloat", 3, "write denyoom fast", one(1), "string", "2.6.0", "key increment", "Adds to a number with a fraction.", Run::Write(string::incrbyfloat)),
    c("info", -1, "loading stale", Keys::None, "server", "1.0.0", "[section [section ...]]", "About this node.", Run::Front),
    c("keys", 2, "readonly dangerous", Keys::All, "generic", "1.0.0", "pattern", "All keys that match a pattern.", Run::Read(key::keys)),
    c("latency", -2, "admin noscript loading stale", Keys::None, "server", "2.8.13", "LATEST|HISTORY|RESET|DOCTOR|GRAPH|HISTOGRAM", "Nothing: there is no latency monitor.", Run::Front),
    c("lcs", -3, "readonly", Keys::Range { first: 1, last: 2, step: 1 }, "string", "7.0.0", "key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]", "The longest common subsequence of two strings.", Run::Read(string::lcs)),
    c("lindex", 3, "readonly", one(1), "list", "1.0.0", "key index", "The element at an index.", Run::Read(list::lindex)),
    c("linsert", 5, "write denyoom", one(1), "list", "2.2.0", "key BEFORE|AFTER pivot element", "Inserts an element beside another.", Run::Write(list::linsert)),
    c("llen", 2, "readonly fast", one(1), "list", "1.0.0", "key", "Elements of a list.", Run::Read(list::llen)),
    c("lmove", 5, "write denyoom", Keys::Range { first: 1, last: 2, step: 1 }, "list", "6.2.0", "source destination LEFT|RIGHT LEFT|RIGHT", "Moves an element to another list.", Run::Write(list::lmove)),
    c("lmpop", -4, "write", Keys::Numbered { first: None, count: 1 }, "list", "7.0.0", "numkeys key [key ...] LEFT|RIGHT [COUNT count]", "Takes elements of the first list that has some.", Run::Write(list::lmpop)),
    c("lolwut", -1, "readonly fast", Keys::None, "server", "5.0.0", "[VERSION version]", "Which version this is.", Run::Front),
    c("lpop", -2, "write fast", one(1), "list", "1.0.0", "key [count]", "Takes the first elements.", Run::Write(list::lpop)),
    c("lpos", -3, "readonly", one(1), "list", "6.0.6", "key element [RANK rank] [COUNT num-matches] [MAXLEN len]", "Where an element is.", Run::Read(list::lpos)),
    c("lpush", -3, "write denyoom fast", one(1), "list", "1.0.0", "key element [element ...]", "Adds elements at the front.", Run::Write(list::lpush)),
    c("lpushx", -3, "write denyoom fast", one(1), "list", "2.2.0", "key element [element ...]", "Adds elements at the front of a list that is there.", Run::Write(list::lpushx)),
    c("lrange", 4, "readonly", one(1), "list", "1.0.0", "key start stop", "A range of elements.", Run::Read(list::lrange)),
    c("lrem", 4, "write", one(1), "list", "1.0.0", "key count element", "Removes elements that are equal to one.", Run::Write(list::lrem)),
    c("lset", 4, "write denyoom", one(1), "list", "1.0.0", "key index element", "Replaces the element at an index.", Run::Write(list::lset)),
    c("ltrim", 4, "write", one(1), "list", "1.0.0", "key start stop", "Removes all but a range of elements.", Run::Write(list::ltrim)),
    c("memory", -2, "readonly", one(2), "server", "4.0.0", "USAGE|DOCTOR|STATS|PURGE [key [SAMPLES count]]", "About how many bytes a key takes, or all of this node.", Run::Read(key::memory)),
    c("mget", -2, "readonly fast", Keys::Range { first: 1, last: -1, step: 1 }, "string", "1.0.0", "key [key ...]", "The values of keys.", Run::Read(string::mget)),
    c("mset", -3, "write denyoom", Keys::Range { first: 1, last: -1, step: 2 }, "string", "1.0.1", "key value [key value ...]", "Sets keys, all at once.", Run::Write(string::mset)),
    c("msetnx", -3, "write denyoom", Keys::Range { first: 1, last: -1, step: 2 }, "string", "1.0.1", "key value [key value ...]", "Sets keys, all at once, if none is there.", Run::Write(string::msetnx)),
    c("multi", 1, "noscript loading stale fast", Keys::None, "transactions", "1.2.0", "", "Queues commands from now on.", Run::Front),
    c("object", -2, "readonly", one(2), "generic", "2.2.3", "ENCODING|REFCOUNT key", "How a value is laid out.", Run::Read(key::object)),
    c("persist", 2, "write fast", one(1), "generic", "2.2.0", "key", "Takes the time to live away.", Run::Write(key::persist)),
    c("pexpire", -3, "write fast", one(1), "generic", "2.6.0", "key milliseconds [NX|XX|GT|LT]", "Sets a time to live in milliseconds.", Run::Write(key::pexpire)),
    c("pexpireat", -3, "write fast", one(1), "generic", "2.6.0", "key unix-time-milliseconds [NX|XX|GT|LT]", "Sets the millisecond in which a key ends.", Run::Write(key::pexpireat)),
    c("pexpiretime", 2, "readonly fast", one(1), "generic", "7.0.0", "key", "The millisecond in which a key ends.", Run::Read(key::pexpiretime)),
    c("pfadd", -2, "write denyoom fast", one(1), "hyperloglog", "2.8.9", "key [element [element ...]]", "Counts elements, without keeping them.", Run::Write(hyperloglog::pfadd)),
    c("pfcount", -2, "readonly", Keys::Range { first: 1, last: -1, step: 1 }, "hyperloglog", "2.8.9", "key [key ...]", "About how many different elements there were.", Run::Read(hyperloglog::pfcount)),
    c("pfmerge", -2, "write denyoom", Keys::Range { first: 1, last: -1, step: 1 }, "hyperloglog", "2.8.9", "destkey [sourcekey [sourcekey ...]]", "Counts what others have counted.", Run::Write(hyperloglog::pfmerge)),
    c("ping", -1, "fast", Keys::None, "connection", "1.0.0", "[message]", "Answers PONG.", Run::Front),
    c("psetex", 4, "write denyoom", one(1), "string", "2.6.0", "key milliseconds value", "Sets a value with a time to live in milliseconds.", Run::Write(string::psetex)),
    c("psubscribe", -2, "pubsub noscript loading stale", Keys::None, "pubsub", "2.0.0", "pattern [pattern ...]", "Gets the messages of all channels with such names.", Run::Front),
    c("pttl", 2, "readonly fast", one(1), "generic", "2.6.0", "key", "Milliseconds that a key has left.", Run::Read(key::pttl)),
    c("publish", 3, "pubsub loading stale fast", Keys::None, "pubsub", "2.0.0", "channel message", "A message for everybody who has subscribed to a channel, at any node.", Run::Front),
    c("pubsub", -2, "pubsub loading stale", Keys::None, "pubsub", "2.8.0", "CHANNELS|NUMPAT|NUMSUB|SHARDCHANNELS|SHARDNUMSUB", "What is subscribed to, at all nodes.", Run::Front),
    c("punsubscribe", -1, "pubsub noscript loading stale", Keys::None, "pubsub", "2.0.0", "[pattern [pattern ...]]", "Ends what PSUBSCRIBE began.", Run::Front),
    c("quit", -1, "noscript loading stale fast no_auth", Keys::None, "connection", "1.0.0", "", "Ends the connection.", Run::Front),
    c("randomkey", 1, "readonly", Keys::All, "generic", "1.0.0", "", "A key at random.", Run::Read(key::randomkey)),
    c("readonly", 1, "loading stale fast", Keys::None, "cluster", "3.0.0", "", "Does nothing: every read is at the leader.", Run::Front),
    c("readwrite", 1, "loading stale fast", Keys::None, "cluster", "3.0.0", "", "Does nothing, likewise.", Run::Front),
    c("rename", 3, "write", Keys::Range { first: 1, last: 2, step: 1 }, "generic", "1.0.0", "key newkey", "Gives a value another key.", Run::Write(key::rename)),
    c("renamenx", 3, "write fast", Keys::Range { first: 1, last: 2, step: 1 }, "generic", "1.0.0", "key newkey", "Gives a value another key, if that one is not there.", Run::Write(key::renamenx)),
    c("reset", 1, "noscript loading stale fast no_auth", Keys::None, "connection", "6.2.0", "", "The connection as it was at first.", Run::Front),
    c("restore", -4, "write denyoom dangerous", one(1), "generic", "2.6.0", "key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]", "Puts a value that DUMP has written, here or at a Redis.", Run::Write(key::restore)),
    c("role", 1, "noscript loading stale fast", Keys::None, "server", "2.8.12", "", "Every node is a master.", Run::Front),
    c("rpop", -2, "write fast", one(1), "list", "1.0.0", "key [count]", "Takes the last elements.", Run::Write(list::rpop)),
    c("rpoplpush", 3, "write denyoom", Keys::Range { first: 1, last: 2, step: 1 }, "list", "1.2.0", "source destination", "Moves the last element to the front of another list.", Run::Write(list::rpoplpush)),
    c("rpush", -3, "write denyoom fast", one(1), "list", "1.0.0", "key element [element ...]", "Adds elements at the end.", Run::Write(list::rpush)),
    c("rpushx", -3, "write denyoom fast", one(1), "list", "2.2.0", "key element [element ...]", "Adds elements at the end of a list that is there.", Run::Write(list::rpushx)),
    c("sadd", -3, "write denyoom fast", one(1), "set", "1.0.0", "key member [member ...]", "Adds members.", Run::Write(set::sadd)),
    c("scan", -2, "readonly", Keys::None, "generic", "2.8.0", "cursor [MATCH pattern] [COUNT count] [TYPE type]", "Keys, page by page.", Run::Front),
    c("scard", 2, "readonly fast", one(1), "set", "1.0.0", "key", "Members of a set.", Run::Read(set::scard)),
    c("script", -2, "noscript", Keys::None, "scripting", "2.6.0", "EXISTS|FLUSH|KILL|LOAD", "Which scripts this node has seen.", Run::Front),
    c("sdiff", -2, "readonly", Keys::Range { first: 1, last: -1, step: 1 }, "set", "1.0.0", "key [key ...]", "Members of the first set that are in none of the others.", Run::Read(set::sdiff)),
    c("sdiffstore", -3, "write denyoom", Keys::Range { first: 1, last: -1, step: 1 }, "set", "1.0.0", "destination key [key ...]", "Keeps the difference of sets.", Run::Write(set::sdiffstore)),
    c("select", 2, "loading stale fast", Keys::None, "connection", "1.0.0", "index", "There is database 0 only.", Run::Front),
    c("set", -3, "write denyoom", one(1), "string", "1.0.0", "key value [NX|XX] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]", "Sets a value.", Run::Write(string::set)),
    c("setbit", 4, "write denyoom", one(1), "string", "2.2.0", "key offset value", "Sets one bit of a string.", Run::Write(bits::setbit)),
    c("setex", 4, "write denyoom", one(1), "string", "2.0.0", "key seconds value", "Sets a value with a time to live in seconds.", Run::Write(string::setex)),
    c("setnx", 3, "write denyoom fast", one(1), "string", "1.0.0", "key value", "Sets a value if the key is not there.", Run::Write(string::setnx)),
    c("setrange", 4, "write denyoom", one(1), "string", "2.2.0", "key offset value", "Replaces a part of a string.", Run::Write(string::setrange)),
    c("sinter", -2, "readonly", Keys::Range { first: 1, last: -1, step: 1 }, "set", "1.0.0", "key [key ...]", "Members that are in all sets.", Run::Read(set::sinter)),
    c("sintercard", -3, "readonly", Keys::Numbered { first: None, count: 1 }, "set", "7.0.0", "numkeys key [key ...] [LIMIT limit]", "How many members are in all sets.", Run::Read(set::sintercard)),
    c("sinterstore", -3, "write denyoom", Keys::Range { first: 1, last: -1, step: 1 }, "set", "1.0.0", "destination key [key ...]", "Keeps the intersection of sets.", Run::Write(set::sinterstore)),
    c("sismember", 3, "readonly fast", one(1), "set", "1.0.0", "key member", "Whether it is a member.", Run::Read(set::sismember)),
    c("slowlog", -2, "admin loading stale", Keys::None, "server", "2.2.12", "GET|LEN|RESET [count]", "What took this node long.", Run::Front),
    c("smembers", 2, "readonly", one(1), "set", "1.0.0", "key", "All members.", Run::Read(set::smembers)),
    c("smismember", -3, "readonly fast", one(1), "set", "6.2.0", "key member [member ...]", "Whether each is a member.", Run::Read(set::smismember)),
    c("smove", 4, "write fast", Keys::Range { first: 1, last: 2, step: 1 }, "set", "1.0.0", "source destination member", "Moves a member to another set.", Run::Write(set::smove)),
    c("sort", -2, "write denyoom", Keys::AndStore, "generic", "1.0.0", "key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC|DESC] [ALPHA] [STORE destination]", "Elements in another order.", Run::Write(sort::sort)),
    c("sort_ro", -2, "readonly", one(1), "generic", "7.0.0", "key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC|DESC] [ALPHA]", "Elements in another order.", Run::Read(sort::sort_ro)),
    c("spop", -2, "write fast", one(1), "set", "1.0.0", "key [count]", "Takes members at random.", Run::Write(set::spop)),
    c("spublish", 3, "pubsub loading stale fast", one(1), "pubsub", "7.0.0", "shardchannel message", "A message for everybody who has subscribed to a sharded channel, at any node.", Run::Front),
    c("srandmember", -2, "readonly", one(1), "set", "1.0.0", "key [count]", "Members at random.", Run::Read(set::srandmember)),
    c("srem", -3, "write fast", one(1), "set", "1.0.0", "key member [member ...]", "Removes members.", Run::Write(set::srem)),
    c("sscan", -3, "readonly", one(1), "set", "2.8.0", "key cursor [MATCH pattern] [COUNT count]", "Members, page by page.", Run::Read(set::sscan)),
    c("ssubscribe", -2, "pubsub noscript loading stale", Keys::Range { first: 1, last: -1, step: 1 }, "pubsub", "7.0.0", "shardchannel [shardchannel ...]", "Gets the messages of sharded channels.", Run::Front),
    c("strlen", 2, "readonly fast", one(1), "string", "2.2.0", "key", "Bytes of a string.", Run::Read(string::strlen)),
    c("subscribe", -2, "pubsub noscript loading stale", Keys::None, "pubsub", "2.0.0", "channel [channel ...]", "Gets the messages of channels from now on.", Run::Front),
    c("substr", 4, "readonly", one(1), "string", "1.0.0", "key start end", "A part of a string.", Run::Read(string::getrange)),
    c("sunion", -2, "readonly", Keys::Range { first: 1, last: -1, step: 1 }, "set", "1.0.0", "key [key ...]", "Members that are in any set.", Run::Read(set::sunion)),
    c("sunionstore", -3, "write denyoom", Keys::Range { first: 1, last: -1, step: 1 }, "set", "1.0.0", "destination key [key ...]", "Keeps the union of sets.", Run::Write(set::sunionstore)),
    c("sunsubscribe", -1, "pubsub noscript loading stale", Keys::Range { first: 1, last: -1, step: 1 }, "pubsub", "7.0.0", "[shardchannel [shardchannel ...]]", "Ends what SSUBSCRIBE began.", Run::Front),
    c("time", 1, "loading stale fast", Keys::None, "server", "2.6.0", "", "The time of this node.", Run::Front),
    c("touch", -2, "readonly fast", Keys::Range { first: 1, last: -1, step: 1 }, "generic", "3.2.1", "key [key ...]", "Counts keys that are there, and uses them.", Run::Read(key::touch)),
    c("ttl", 2, "readonly fast", one(1), "generic", "1.0.0", "key", "Seconds that a key has left.", Run::Read(key::ttl)),
    c("type", 2, "readonly fast", one(1), "generic", "1.0.0", "key", "The data type of a key.", Run::Read(key::type_)),
    c("unlink", -2, "write fast", Keys::Range { first: 1, last: -1, step: 1 }, "generic", "4.0.0", "key [key ...]", "Deletes keys.", Run::Write(key::del)),
    c("unsubscribe", -1, "pubsub noscript loading stale", Keys::None, "pubsub", "2.0.0", "[channel [channel ...]]", "Ends what SUBSCRIBE began.", Run::Front),
    c("unwatch", 1, "noscript loading stale fast", Keys::None, "transactions", "2.2.0", "", "Watches no key any more.", Run::Front),
    c("wait", 3, "blocking", Keys::None, "generic", "3.0.0", "numreplicas timeout", "Answers with how many other nodes have what was written: a majority always has.", Run::Front),
    c("waitaof", 4, "noscript blocking", Keys::None, "generic", "7.2.0", "numlocal numreplicas timeout", "Answers on how many disks what was written is.", Run::Front),
    c("watch", -2, "noscript loading stale fast", Keys::Range { first: 1, last: -1, step: 1 }, "transactions", "2.2.0", "key [key ...]", "The next EXEC is carried out only if these keys do not change.", Run::Front),
    c("xack", -4, "write fast", one(1), "stream", "5.0.0", "key group id [id ...]", "Entries are done.", Run::Write(group::xack)),
    c("xadd", -5, "write denyoom fast", one(1), "stream", "5.0.0", "key [NOMKSTREAM] [MAXLEN|MINID [=|~] threshold [LIMIT count]] *|id field value [field value ...]", "Adds an entry.", Run::Write(stream::xadd)),
    c("xautoclaim", -6, "write fast", one(1), "stream", "6.2.0", "key group consumer min-idle-time start [COUNT count] [JUSTID]", "Takes over entries that others have had for long.", Run::Write(group::xautoclaim)),
    c("xclaim", -6, "write fast", one(1), "stream", "5.0.0", "key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-milliseconds] [RETRYCOUNT count] [FORCE] [JUSTID] [LASTID lastid]", "Takes over entries that another one has had.", Run::Write(group::xclaim)),
    c("xdel", -3, "write fast", one(1), "stream", "5.0.0", "key id [id ...]", "Deletes entries.", Run::Write(stream::xdel)),
    c("xgroup", -2, "write denyoom", one(2), "stream", "5.0.0", "CREATE|CREATECONSUMER|DELCONSUMER|DESTROY|SETID key group [id|$] [MKSTREAM] [ENTRIESREAD entries-read]", "Makes and changes groups of consumers.", Run::Write(group::xgroup)),
    c("xinfo", -2, "readonly", one(2), "stream", "5.0.0", "CONSUMERS|GROUPS|STREAM key [group] [FULL [COUNT count]]", "What a stream and its groups are like.", Run::Read(info::xinfo)),
    c("xlen", 2, "readonly fast", one(1), "stream", "5.0.0", "key", "Entries of a stream.", Run::Read(stream::xlen)),
    c("xpending", -3, "readonly", one(1), "stream", "5.0.0", "key group [[IDLE min-idle-time] start end count [consumer]]", "Entries that are not done.", Run::Read(group::xpending)),
    c("xrange", -4, "readonly", one(1), "stream", "5.0.0", "key start end [COUNT count]", "Entries from one id to another.", Run::Read(stream::xrange)),
    c("xread", -4, "readonly blocking", Keys::Streams, "stream", "5.0.0", "[COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]", "Entries behind others, and waits for them.", Run::Read(stream::xread)),
    c("xreadgroup", -7, "write blocking", Keys::Streams, "stream", "5.0.0", "GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...] id [id ...]", "Entries for a consumer of a group, and waits for them.", Run::Write(group::xreadgroup)),
    c("xrevrange", -4, "readonly", one(1), "stream", "5.0.0", "key end start [COUNT count]", "Entries from one id down to another.", Run::Read(stream::xrevrange)),
    c("xsetid", -3, "write denyoom fast", one(1), "stream", "5.0.0", "key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]", "Sets the last id of a stream.", Run::Write(stream::xsetid)),
    c("xtrim", -4, "write", one(1), "stream", "5.0.0", "key MAXLEN|MINID [=|~] threshold [LIMIT count]", "Removes the oldest entries.", Run::Write(stream::xtrim)),
    c("zadd", -4, "write denyoom fast", one(1), "sorted-set", "1.2.0", "key [NX|XX] [GT|LT] [CH] [INCR] score member [score member ...]", "Adds members, or changes their scores.", Run::Write(sorted_set::zadd)),
    c("zcard", 2, "readonly fast", one(1), "sorted-set", "1.2.0", "key", "Members of a sorted set.", Run::Read(sorted_set::zcard)),
    c("zcount", 4, "readonly fast", one(1), "sorted-set", "2.0.0", "key min max", "How many members have such scores.", Run::Read(range::zcount)),
    c("zdiff", -3, "readonly", Keys::Numbered { first: None, count: 1 }, "sorted-set", "6.2.0", "numkeys key [key ...] [WITHSCORES]", "Members of the first set that are in none of the others.", Run::Read(combine::zdiff)),
    c("zdiffstore", -4, "write denyoom", Keys::Numbered { first: Some(1), count: 2 }, "sorted-set", "6.2.0", "destination numkeys key [key ...]", "Keeps the difference of sorted sets.", Run::Write(combine::zdiffstore)),
    c("zincrby", 4, "write denyoom fast", one(1), "sorted-set", "1.2.0", "key increment member", "Adds to a score.", Run::Write(sorted_set::zincrby)),
    c("zinter", -3, "readonly", Keys::Numbered { first: None, count: 1 }, "sorted-set", "6.2.0", "numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM|MIN|MAX] [WITHSCORES]", "Members that are in all sets.", Run::Read(combine::zinter)),
    c("zintercard", -3, "readonly", Keys::Numbered { first: None, count: 1 }, "sorted-set", "7.0.0", "numkeys key [key ...] [LIMIT limit]", "How many members are in all sets.", Run::Read(combine::zintercard)),
    c("zinterstore", -4, "write denyoom", Keys::Numbered { first: Some(1), count: 2 }, "sorted-set", "2.0.0", "destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM|MIN|MAX]", "Keeps the intersection of sorted sets.", Run::Write(combine::zinterstore)),
    c("zlexcount", 4, "readonly fast", one(1), "sorted-set", "2.8.9", "key min max", "How many members are between two, by their bytes.", Run::Read(range::zlexcount)),
    c("zmpop", -4, "write", Keys::Numbered { first: None, count: 1 }, "sorted-set", "7.0.0", "numkeys key [key ...] MIN|MAX [COUNT count]", "Takes members of the first sorted set that has some.", Run::Write(sorted_set::zmpop)),
    c("zmscore", -3, "readonly fast", one(1), "sorted-set", "6.2.0", "key member [member ...]", "The scores of members.", Run::Read(sorted_set::zmscore)),
    c("zpopmax", -2, "write fast", one(1), "sorted-set", "5.0.0", "key [count]", "Takes the members with the highest scores.", Run::Write(sorted_set::zpopmax)),
    c("zpopmin", -2, "write fast", one(1), "sorted-set", "5.0.0", "key [count]", "Takes the members with the lowest scores.", Run::Write(sorted_set::zpopmin)),
    c("zrandmember", -2, "readonly", one(1), "sorted-set", "6.2.0", "key [count [WITHSCORES]]", "Members at random.", Run::Read(sorted_set::zrandmember)),
    c("zrange", -4, "readonly", one(1), "sorted-set", "1.2.0", "key start stop [BYSCORE|BYLEX] [REV] [LIMIT offset count] [WITHSCORES]", "A range of members.", Run::Read(range::zrange)),
    c("zrangebylex", -4, "readonly", one(1), "sorted-set", "2.8.9", "key min max [LIMIT offset count]", "Members between two, by their bytes.", Run::Read(range::zrangebylex)),
    c("zrangebyscore", -4, "readonly", one(1), "sorted-set", "1.0.5", "key min max [WITHSCORES] [LIMIT offset count]", "Members with such scores.", Run::Read(range::zrangebyscore)),
    c("zrangestore", -5, "write denyoom", Keys::Range { first: 1, last: 2, step: 1 }, "sorted-set", "6.2.0", "dst src min max [BYSCORE|BYLEX] [REV] [LIMIT offset count]", "Keeps a range of members.", Run::Write(range::zrangestore)),
    c("zrank", -3, "readonly fast", one(1), "sorted-set", "2.0.0", "key member [WITHSCORE]", "The place of a member from the lowest score.", Run::Read(sorted_set::zrank)),
    c("zrem", -3, "write fast", one(1), "sorted-set", "1.2.0", "key member [member ...]", "Removes members.", Run::Write(sorted_set::zrem)),
    c("zremrangebylex", 4, "write", one(1), "sorted-set", "2.8.9", "key min max", "Removes members between two, by their bytes.", Run::Write(range::zremrangebylex)),
    c("zremrangebyrank", 4, "write", one(1), "sorted-set", "2.0.0", "key start stop", "Removes a range of members.", Run::Write(range::zremrangebyrank)),
    c("zremrangebyscore", 4, "write", one(1), "sorted-set", "1.2.0", "key min max", "Removes members with such scores.", Run::Write(range::zremrangebyscore)),
    c("zrevrange", -4, "readonly", one(1), "sorted-set", "1.2.0", "key start stop [WITHSCORES]", "A range of members from the highest score.", Run::Read(range::zrevrange)),
    c("zrevrangebylex", -4, "readonly", one(1), "sorted-set", "2.8.9", "key max min [LIMIT offset count]", "Members between two, by their bytes, the last first.", Run::Read(range::zrevrangebylex)),
    c("zrevrangebyscore", -4, "readonly", one(1), "sorted-set", "2.2.0", "key max min [WITHSCORES] [LIMIT offset count]", "Members with such scores, the highest first.", Run::Read(range::zrevrangebyscore)),
    c("zrevrank", -3, "readonly fast", one(1), "sorted-set", "2.0.0", "key member [WITHSCORE]", "The place of a member from the highest score.", Run::Read(sorted_set::zrevrank)),
    c("zscan", -3, "readonly", one(1), "sorted-set", "2.8.0", "key cursor [MATCH pattern] [COUNT count]", "Members and scores, page by page.", Run::Read(sorted_set::zscan)),
    c("zscore", 3, "readonly fast", one(1), "sorted-set", "1.2.0", "key member", "The score of a member.", Run::Read(sorted_set::zscore)),
    c("zunion", -3, "readonly", Keys::Numbered { first: None, count: 1 }, "sorted-set", "6.2.0", "numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM|MIN|MAX] [WITHSCORES]", "Members that are in any set.", Run::Read(combine::zunion)),
    c("zunionstore", -4, "write denyoom", Keys::Numbered { first: Some(1), count: 2 }, "sorted-set", "2.0.0", "destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM|MIN|MAX]", "Keeps the union of sorted sets.", Run::Write(combine::zunionstore)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_name_is_found() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for spec in TABLE {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()).unwrap().name, spec.name);
            assert_eq!(spec.blocks, spec.is("blocking"), "{}", spec.name);
            assert_eq!(spec.needs_memory, spec.is("denyoom"), "{}", spec.name);
        }
        assert!(find(b"a name that is much longer than all of them").is_none());
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let keys = |line: &str| -> Vec<String> {
            let arguments: Vec<Bytes> = line.split(' ').map(|word| Bytes::from(word.to_owned())).collect();
            let spec = find(&arguments[0]).unwrap();
            spec.keys(&arguments).map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
        };
        assert_eq!(keys("MSET a 1 b 2"), ["a", "b"]);
        assert_eq!(keys("BLPOP a b 0"), ["a", "b"]);
        assert_eq!(keys("ZUNIONSTORE to 2 a b WEIGHTS 1 2"), ["to", "a", "b"]);
        assert_eq!(keys("LMPOP 9 a LEFT"), ["a", "LEFT"], "the command itself refuses it");
        assert_eq!(keys("OBJECT ENCODING a"), ["a"]);
        assert!(keys("PING a").is_empty());
    }
}
