use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use proptest::prelude::*;
use prost::Message as _;
use trimaran_placement::token;
use trimaran_proto::api::placement::Partition;
use trimaran_proto::state::grid::command::Body;
use trimaran_proto::state::grid::reply::Outcome;
use trimaran_proto::state::grid::{Command, Pipeline, Reply, Run as RunMessage, Transaction, Watched};
use trimaran_replication::machine::{Committed, Machine as _};

use super::reply::{Protocol, transcode};
use super::table::{self, LIBRARIES_FORMAT, PIPELINE_FORMAT, Run, TABLE, find};
use super::*;
use crate::data::Entry;
use crate::data::notice::{Classes, Notice};
use crate::machine::{GridMachine, run};
use crate::memory::Memory;
use crate::pubsub::notices::Teller;

fn machine() -> GridMachine {
    GridMachine::new(
        &Partition { id: 1, first_token: 0, last_token: u64::MAX, ..Partition::default() },
        Teller::default(),
        Memory::default().share(),
    )
}

/// The words of a line; `\x00` and the like are bytes, `""` is nothing.
fn words(line: &str) -> Vec<Bytes> {
    let word = |word: &str| {
        let mut bytes = Vec::new();
        let mut rest = if word == "\"\"" { "" } else { word };
        while let Some(at) = rest.find("\\x") {
            bytes.extend(rest[..at].bytes());
            bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
            rest = &rest[at + 4..];
        }
        bytes.extend(rest.bytes());
        Bytes::from(bytes)
    };
    line.split(' ').map(word).collect()
}

fn message(arguments: Vec<Bytes>, seed: u64) -> RunMessage {
    RunMessage { arguments, seed, encodings: None, format: LIBRARIES_FORMAT, actor: None }
}

fn apply(machine: &mut GridMachine, now_ms: u64, body: Body) -> Reply {
    let payload = Bytes::from(Command { body: Some(body), ..Command::default() }.encode_to_vec());
    let replies =
        machine.apply(&[Committed { stamp_ms: now_ms, passed_ms: now_ms, payload: &payload }]).unwrap();
    Reply::decode(replies[0].clone().into_bytes()).unwrap()
}

/// What is answered, in RESP3 with spaces for line ends.
fn ask(machine: &mut GridMachine, now_ms: u64, message: RunMessage) -> String {
    let spec = find(&message.arguments[0]).unwrap();
    assert!(spec.takes(message.arguments.len()), "{:?}", message.arguments);
    let said = match spec.run {
        Run::Read(_) => run::query(machine.keys(), &message, now_ms).said,
        _ => apply(machine, now_ms, Body::Run(message)).said,
    };
    let mut out = BytesMut::new();
    transcode(&said[0], Protocol::Resp3, &mut out);
    String::from_utf8_lossy(&out).trim_end().replace("\r\n", " ")
}

/// Each line is a command and its answer. Time is 1,000 at first; a line with a number sets it.
const EXAMPLES: &str = include_str!("tests/examples.txt");

#[test]
fn every_command_answers_as_in_its_examples() {
    let mut machine = machine();
    let mut now_ms = 1000;
    let mut seen = BTreeSet::new();
    for (at, line) in
        EXAMPLES.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    {
        if let Ok(ms) = line.parse() {
            now_ms = ms;
            continue;
        }
        let (command, answer) = line.split_once(" => ").unwrap_or_else(|| panic!("line {}: {line}", at + 1));
        let words = words(command);
        seen.insert(find(&words[0]).unwrap_or_else(|| panic!("line {}: {line}", at + 1)).name);
        let said = ask(&mut machine, now_ms, message(words, 7));
        assert_eq!(said, answer.replace("\\x00", "\0"), "line {}: {command}", at + 1);
    }
    let offered = TABLE.iter().filter(|spec| !matches!(spec.run, Run::Front)).map(|spec| spec.name);
    let without: Vec<&str> = offered.filter(|name| !seen.contains(name)).collect();
    assert!(without.is_empty(), "without an example: {without:?}");
}

/// Commands, one after the other, and what clients are told of them.
const EVENTS: &[(&str, &str)] = &[
    ("SET k v", "new k, set k"),
    ("SET k v EX 10", "set k, expire k"),
    ("PERSIST k", "persist k"),
    ("GETEX k PX 100", "expire k"),
    ("SETNX k v", ""),
    ("MSET k v m 1", "set k, new m, set m"),
    ("INCR m", "incrby m"),
    ("APPEND k v", "append k"),
    ("SETRANGE k 0 x", "setrange k"),
    ("RENAME k n", "rename_from k, new n, rename_to n"),
    ("COPY n c", "new c, copy_to c"),
    ("DEL n c x", "del n, del c"),
    ("RPUSH l a b c", "new l, rpush l"),
    ("LMOVE l t LEFT RIGHT", "lpop l, new t, rpush t"),
    ("LPUSHX l z", "lpush l"),
    ("LMPOP 1 l RIGHT COUNT 9", "rpop l, del l"),
    ("LSET t 0 b", "lset t"),
    ("LREM t 0 nothing", ""),
    ("SADD s a b", "new s, sadd s"),
    ("SADD s a", ""),
    ("SMOVE s r a", "srem s, new r, sadd r"),
    ("SINTERSTORE d s r", ""),
    ("SUNIONSTORE d s r", "new d, sunionstore d"),
    ("SPOP r", "spop r, del r"),
    ("ZADD z 1 a 2 b", "new z, zadd z"),
    ("ZADD z INCR 1 a", "zincr z"),
    ("ZMPOP 1 z MAX", "zpopmax z"),
    ("ZREMRANGEBYRANK z 0 -1", "zremrangebyrank z, del z"),
    ("HSET h f 1 g 2", "new h, hset h"),
    ("HINCRBY h f 1", "hincrby h"),
    ("HPEXPIRE h 100 FIELDS 1 f", "hexpire h"),
    ("HPERSIST h FIELDS 1 f", "hpersist h"),
    ("HDEL h f g", "hdel h, del h"),
    ("XADD x 1-1 a b", "new x, xadd x"),
    ("XADD x MAXLEN 1 1-2 a b", "xadd x, xtrim x"),
    ("XGROUP CREATE x g 0", "xgroup-create x"),
    ("XREADGROUP GROUP g c STREAMS x >", "xgroup-createconsumer x"),
    ("XACK x g 1-2", ""),
    ("SORT d ALPHA STORE o", "new o, sortstore o"),
    (
        "EVAL \"redis.call('SET',KEYS[1],'v') redis.call('LPUSH',KEYS[2],'v')\" 2 k l",
        "new k, set k, new l, lpush l",
    ),
    ("EXPIRE k -1", "del k"),
    ("FLUSHALL", ""),
];

#[test]
fn clients_are_told_of_changes_as_redis_tells_them() {
    let mut keys = Keys::new(token::Token(0), token::Token(u64::MAX));
    for (command, events) in EVENTS {
        keys.notices.want(Classes::parse("An").unwrap());
        let words = if command.starts_with("EVAL") {
            let (name, rest) = command.split_once(" \"").unwrap();
            let (script, rest) = rest.split_once("\" ").unwrap();
            let rest = rest.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes()));
            [name, script]
                .into_iter()
                .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                .chain(rest)
                .collect()
        } else {
            words(command)
        };
        run::run(&mut keys, &message(words, 7), 1000);
        let told: Vec<String> = keys
            .notices
            .take()
            .into_iter()
            .map(|notice| match notice {
                Notice::Event { doing, key } => format!("{} {}", doing.event, String::from_utf8_lossy(&key)),
                Notice::Publication { .. } => "a publication".to_owned(),
            })
            .collect();
        assert_eq!(told.join(", "), *events, "{command}");
    }
    run::run(&mut keys, &message(words("SET k v PX 1"), 7), 1000);
    keys.notices.want(Classes::parse("x").unwrap());
    keys.notices.take();
    let reap =
        trimaran_proto::state::grid::Reap { keys: vec![Bytes::from_static(b"k")], ..Default::default() };
    crate::data::key::reap(&mut keys, &reap, 2000);
    assert_eq!(keys.notices.take().len(), 1, "expired");
}

#[test]
fn a_transaction_is_carried_out_if_what_it_has_seen_is_still_so() {
    let mut machine = machine();
    ask(&mut machine, 1, message(words("SET k 1"), 0));
    let version = machine.keys().get(b"k", 1).unwrap().version;
    let transaction = |version| {
        let commands = ["INCR k", "LPUSH k x", "GET k"].map(|line| message(words(line), 0)).to_vec();
        let watched = vec![Watched { key: Bytes::from_static(b"k"), version }];
        Body::Transaction(Transaction { watched, commands })
    };
    let reply = apply(&mut machine, 1, transaction(version));
    // A command that fails does not keep the others from being carried out.
    let said: Vec<&[u8]> = reply.said.iter().map(|said| &said[..]).collect();
    let wrong = &b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"[..];
    assert_eq!(said, [&b":2\r\n"[..], wrong, b"$1\r\n2\r\n"]);
    let reply = apply(&mut machine, 1, transaction(version));
    assert!(reply.said.is_empty(), "it has changed meanwhile");
    assert_eq!(ask(&mut machine, 1, message(words("GET k"), 0)), "$1 2");
}

/// A line of any command, about few keys and few elements, so that they meet.
fn line() -> impl Strategy<Value = String> {
    let key = "k[0-4]";
    let element = prop_oneof![
        "e[0-9]",
        "[0-9]{1,2}",
        "long-element-of-many-bytes-that-is-no-longer-a-listpack-[0-9]{10}"
    ];
    let number = -20..20_i64;
    let verbs: Vec<&str> = "SET:kv GETSET:kv APPEND:kv SETRANGE:kpv SETBIT:kpb INCRBY:kn INCRBYFLOAT:kn GETDEL:k DEL:k \
        LPUSH:kvv RPUSH:kvvv LPOP:kp RPOP:kp LSET:knv LTRIM:knn LREM:knv LMOVE:kkLR RPOPLPUSH:kk \
        SADD:kvvv SREM:kv SPOP:k SPOP:kp SMOVE:kkv SUNIONSTORE:kkk SINTERSTORE:kkk SDIFFSTORE:kkk \
        HSET:kvvvv HDEL:kv HINCRBY:kvn HSETNX:kvv \
        ZADD:knvnv ZINCRBY:knv ZREM:kv ZPOPMIN:kp ZPOPMAX:k ZREMRANGEBYRANK:knn ZREMRANGEBYSCORE:knn \
        XADD:kIvv XADD:kMpIvv XDEL:kW XTRIM:kMp XGROUP:Ckg0 XREADGROUP:GgvXk> XACK:kgW XAUTOCLAIM:kgv0W HPEXPIRE:kpFv \
        PFADD:kvv PFMERGE:kkk BITOP:Akkk EXPIRE:kp PEXPIREAT:kp PERSIST:k RENAME:kk COPY:kk SORT:kATk FLUSHALL: \
        EVAL:S"
        .split_whitespace()
        .collect();
    (proptest::sample::select(verbs), proptest::collection::vec((key, element, number), 8)).prop_map(
        |(verb, arguments)| {
            let (name, shape) = verb.split_once(':').unwrap();
            let mut words = vec![name.to_owned()];
            for (kind, (key, element, number)) in shape.chars().zip(arguments) {
                let word = match kind {
                    'k' => key,
                    'v' => element,
                    'n' => number.to_string(),
                    'p' => (number.unsigned_abs() + 1).to_string(),
                    'b' => (number & 1).to_string(),
                    'L' => "LEFT".to_owned(),
                    'R' => "RIGHT".to_owned(),
                    'A' if name == "BITOP" => "XOR".to_owned(),
                    'A' => "ALPHA".to_owned(),
                    'T' => "STORE".to_owned(),
                    'I' => "*".to_owned(),
                    'M' => "MAXLEN".to_owned(),
                    'W' => format!("{}-0", 1000 + number.unsigned_abs()),
                    'C' => "CREATE".to_owned(),
                    'g' => "group".to_owned(),
                    'G' => "GROUP".to_owned(),
                    'X' => "STREAMS".to_owned(),
                    'F' => {
                        words.extend(["FIELDS".to_owned(), "1".to_owned()]);
                        continue;
                    }
                    '0' => "0".to_owned(),
                    '>' => ">".to_owned(),
                    _ => {
                        let script =
                            "redis.pcall('sadd',KEYS[1],math.random(9))return(redis.pcall('spop',KEYS[1]))";
                        words.extend([script.to_owned(), "1".to_owned()]);
                        key
                    }
                };
                words.push(word);
            }
            words.join(" ")
        },
    )
}

fn pipeline(commands: &[&Vec<Bytes>]) -> Pipeline {
    Pipeline {
        arguments: commands.iter().flat_map(|command| command.iter().cloned()).collect(),
        counts: commands.iter().map(|command| command.len() as u32).collect(),
        encodings: None,
        format: PIPELINE_FORMAT,
    }
}

/// A key that lies elsewhere keeps the others from being written, too.
#[test]
fn a_pipeline_is_carried_out_whole_or_not_at_all() {
    let half = token::slot_start(8192).0;
    let partition = Partition { id: 1, first_token: 0, last_token: half - 1, ..Partition::default() };
    let mut machine = GridMachine::new(&partition, Teller::default(), Memory::default().share());
    // Their slots are 5,061 and 12,182.
    let commands = [words("SET bar 1"), words("SET foo 1"), words("INCR bar")];
    let reply = apply(&mut machine, 1000, Body::Pipeline(pipeline(&commands.iter().collect::<Vec<_>>())));
    assert_eq!(reply.outcome(), Outcome::WrongPartition);
    assert_eq!((machine.keys().len(), machine.keys().version()), (0, 0));
    let reply = apply(&mut machine, 1000, Body::Pipeline(pipeline(&[&commands[0], &commands[2]])));
    assert_eq!((&reply.said[0][..], &reply.lengths[..]), (&b"+OK\r\n:2\r\n"[..], &[5, 4][..]));
}

/// What eviction chooses by: whatever uses a key, by reading or by changing it, and nothing that only looks at it.
#[test]
fn a_key_is_idle_until_it_is_used() {
    let made = ["SET s v", "HSET h f v", "RPUSH l a b", "SADD m a", "ZADD z 1 a", "XADD x 1-1 f v"];
    let using = [
        "GET s",
        "APPEND s w",
        "SET s v",
        "EXPIRE s 1000",
        "TOUCH s",
        "HGET h f",
        "HSET h g v",
        "HDEL h g",
        "LRANGE l 0 1",
        "LPUSH l c",
        "LPOP l",
        "SCARD m",
        "SADD m b",
        "ZSCORE z a",
        "ZADD z 2 b",
        "XADD x * f v",
        "XLEN x",
    ];
    let looking = ["TTL s", "TYPE h", "OBJECT ENCODING l", "EXISTS m", "DBSIZE", "OBJECT FREQ z"];
    for (line, is_use) in using.map(|line| (line, true)).into_iter().chain(looking.map(|line| (line, false)))
    {
        let mut machine = machine();
        for made in made {
            ask(&mut machine, 1000, message(words(made), 0));
        }
        ask(&mut machine, 61_000, message(words(line), 0));
        let key = line.split(' ').next_back().filter(|_| line.starts_with("OBJECT"));
        let key = key.or_else(|| line.split(' ').nth(1)).unwrap_or("s");
        let idle = ask(&mut machine, 71_000, message(words(&format!("OBJECT IDLETIME {key}")), 0));
        assert_eq!(idle, if is_use { ":10" } else { ":70" }, "{line}");
    }
}

fn snapshot(machine: &GridMachine) -> Vec<Bytes> {
    machine.snapshot().map(|chunk| chunk.unwrap()).collect()
}

/// Everything that is to be seen of a machine.
fn state(machine: &GridMachine, now_ms: u64) -> BTreeMap<Vec<u8>, Entry> {
    machine.keys().iter(now_ms).map(|(key, entry)| (key.to_vec(), entry.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whoever was filled by a snapshot, at whatever time, answers as the others do from then on, and has the same.
    #[test]
    fn replicas_stay_the_same(lines in proptest::collection::vec((line(), any::<u64>()), 1..300), at in 0..300_usize) {
        let (mut one, mut other) = (machine(), machine());
        let mut is_filled = false;
        for (place, (line, seed)) in lines.into_iter().enumerate() {
            let now_ms = 1000 + place as u64;
            if place == at {
                let mut chunks: trimaran_replication::machine::SnapshotChunks =
                    Box::new(snapshot(&one).into_iter().map(Ok));
                other.restore(&mut chunks).unwrap();
                is_filled = true;
            }
            let said = ask(&mut one, now_ms, message(words(&line), seed));
            if is_filled {
                prop_assert_eq!(&ask(&mut other, now_ms, message(words(&line), seed)), &said, "{}", line);
            }
            let bytes = one.keys().bytes();
            let counted: usize = one.keys().iter(0).map(|(key, _)| one.keys().bytes_of(key, 0).unwrap()).sum();
            prop_assert_eq!(bytes, counted, "{}", line);
        }
        if is_filled {
            let now_ms = 1000;
            prop_assert_eq!(state(&one, now_ms), state(&other, now_ms));
            prop_assert_eq!(one.keys().bytes(), other.keys().bytes());
        }
    }

    /// Commands that go together are answered as they are one after the other, and leave the same.
    #[test]
    fn a_pipeline_does_what_its_commands_do(lines in proptest::collection::vec(line(), 1..100), count in 1..20_usize) {
        let (mut alone, mut together) = (machine(), machine());
        let commands: Vec<Vec<Bytes>> = lines.iter().map(|line| words(line)).collect();
        let is_plain = |command: &&Vec<Bytes>| {
            let spec = find(&command[0]).unwrap();
            !spec.is_seeded && spec.keys != table::Keys::All
        };
        let commands: Vec<&Vec<Bytes>> = commands.iter().filter(is_plain).collect();
        for (place, commands) in commands.chunks(count).enumerate() {
            let now_ms = 1000 + place as u64;
            let reply = apply(&mut together, now_ms, Body::Pipeline(pipeline(commands)));
            let mut rest = reply.said[0].clone();
            prop_assert_eq!(reply.lengths.len(), commands.len());
            for (command, length) in commands.iter().zip(reply.lengths) {
                let run = Body::Run(message(command.to_vec(), 0));
                prop_assert_eq!(rest.split_to(length as usize), &apply(&mut alone, now_ms, run).said[0], "{:?}", command);
            }
            prop_assert!(rest.is_empty());
        }
        prop_assert_eq!(state(&alone, 1000), state(&together, 1000));
    }

    /// Whatever comes as arguments is answered.
    #[test]
    fn any_arguments_are_answered(
        place in 0..TABLE.len(),
        arguments in proptest::collection::vec(prop_oneof![
            "[a-z]{0,3}", "-?[0-9]{1,19}", "-?[0-9]{1,3}\\.[0-9]", "\\[[a-c]|\\([a-c]|\\+|-|\\*|inf|nan",
            "(?i)(nx|xx|gt|lt|ch|incr|get|ex|px|keepttl|left|right|min|max|count|limit|withscores|weights|aggregate|sum|byscore|bylex|rev|match|store|by|alpha|fields|idx|len|set|incrby|overflow|sat|u8|i64|bit|and|or|not|rank|maxlen|persist|before|after|encoding|usage)",
        ], 0..8),
        held in 0..6_usize,
    ) {
        let spec = &TABLE[place];
        let mut words: Vec<Bytes> = vec![Bytes::from_static(spec.name.as_bytes())];
        words.extend(arguments.into_iter().map(Bytes::from));
        prop_assume!(spec.takes(words.len()) && !matches!(spec.run, Run::Front));
        let mut machine = machine();
        if let Some(key) = words.get(1).cloned() {
            let values = ["XADD k 1-1 a b", "SET k 5", "RPUSH k a b c", "SADD k a b 1", "HSET k a 1 b 2", "ZADD k 1 a 2 b"];
            let mut value = self::words(values[held]);
            value[1] = key;
            ask(&mut machine, 1000, message(value, 0));
        }
        let said = ask(&mut machine, 1000, message(words, 3));
        prop_assert!(!said.is_empty());
    }
}
