//! The same commands for a grid-node and for a redis-server, drawn at random: they must answer alike, and have the same keys in the
//! end. The shapes of the commands are in `differential.txt`.
//!
//! `TRIMARAN_DIFFERENTIAL_SECONDS` runs it for longer than CI does, `TRIMARAN_DIFFERENTIAL_SEED` repeats a run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;
use trimaran_tests::harness::process::{Cluster, free_port};
use trimaran_tests::harness::{skip, until};

/// Runs that CI makes, and commands of each.
const RUNS: u64 = 4;
const COMMANDS: usize = 4000;

/// Commands that are sent together at most.
const TOGETHER: usize = 12;

/// Answers whose elements are in no order, one by one or in pairs.
const UNORDERED: &[(&str, usize)] = &[
    ("smembers", 1),
    ("sinter", 1),
    ("sunion", 1),
    ("sdiff", 1),
    ("hgetall", 2),
    ("hkeys", 1),
    ("hvals", 1),
    ("keys", 1),
];

/// Answers that are times, and how far they may be apart.
const TIMES: &[(&str, i64)] = &[("ttl", 2), ("expiretime", 2)];

#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Answer {
    Nothing,
    Integer(i64),
    Text(Vec<u8>),
    Error(String),
    Array(Vec<Answer>),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nil"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Text(text) => write!(f, "{:?}", String::from_utf8_lossy(text)),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Array(items) => {
                f.write_str("[")?;
                items.iter().try_for_each(|item| write!(f, "{item} "))?;
                f.write_str("]")
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    inbound: BufReader<TcpStream>,
}

impl Connection {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let inbound = BufReader::new(stream.try_clone().unwrap());
        Self { stream, inbound }
    }

    fn send(&mut self, commands: &[Vec<String>]) {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len()).unwrap();
            for word in command {
                write!(bytes, "${}\r\n{word}\r\n", word.len()).unwrap();
            }
        }
        self.stream.write_all(&bytes).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.inbound.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        let count = |rest: &str| rest.parse::<i64>().unwrap();
        match kind {
            "+" => Answer::Text(rest.into()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Integer(count(rest)),
            "$" | "*" if count(rest) < 0 => Answer::Nothing,
            "$" => {
                let mut text = vec![0; count(rest) as usize + 2];
                self.inbound.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Answer::Text(text)
            }
            "*" => Answer::Array((0..count(rest)).map(|_| self.answer()).collect()),
            other => panic!("an answer that begins with {other:?}"),
        }
    }

    fn ask(&mut self, command: &[&str]) -> Answer {
        self.send(&[command.iter().map(|word| (*word).to_owned()).collect()]);
        self.answer()
    }
}

/// Makes commands of shapes.
struct Maker {
    random: StdRng,
    shapes: Vec<&'static str>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let lines = include_str!("differential.txt").lines();
        let shapes = lines.filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        Self { random: StdRng::seed_from_u64(seed), shapes }
    }

    fn command(&mut self) -> Vec<String> {
        let shape = *self.shapes.choose(&mut self.random).unwrap();
        let expanded = self.expand(shape);
        // Of a value that is empty, or has a space, there is a mark.
        expanded
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| word.replace('~', " ").replace("''", ""))
            .collect()
    }

    /// Up to the end, or what closes it.
    fn expand(&mut self, shape: &str) -> String {
        let mut out = String::new();
        let mut rest = shape;
        while let Some(letter) = rest.chars().next() {
            let closing = match letter {
                '[' if is_group(rest) => ']',
                '(' if is_group(rest) => ')',
                '{' => '}',
                '<' => '>',
                letter => {
                    out.push(letter);
                    rest = &rest[letter.len_utf8()..];
                    continue;
                }
            };
            let end = matching(rest, letter, closing);
            let inner = &rest[1..end];
            rest = &rest[end + 1..];
            match letter {
                '[' => {
                    if self.random.random_bool(0.4) {
                        out.push_str(&self.expand(inner));
                    }
                }
                '(' => {
                    let choices = alternatives(inner);
                    let choice = *choices.choose(&mut self.random).unwrap();
                    out.push_str(&self.expand(choice));
                }
                '{' => {
                    for _ in 0..self.random.random_range(1..=3) {
                        out.push_str(&self.expand(inner));
                        out.push(' ');
                    }
                }
                _ => out.push_str(&self.word(inner)),
            }
        }
        out
    }

    fn word(&mut self, kind: &str) -> String {
        let random = &mut self.random;
        let chosen = |random: &mut StdRng, words: &[&str]| (*words.choose(random).unwrap()).to_owned();
        match kind {
            "s" | "l" | "h" | "S" | "z" | "x" | "k" => {
                let kinds = ["s", "l", "h", "S", "z", "x"];
                let is_other = kind == "k" || random.random_bool(0.05);
                let kind = if is_other { chosen(random, &kinds) } else { kind.to_owned() };
                format!("{{t}}{kind}{}", random.random_range(0..3))
            }
            "F" => format!("{{t}}f{}", random.random_range(0..2)),
            "H" => format!("{{t}}g{}", random.random_range(0..2)),
            "d" => {
                chosen(random, &["0", "1", "-1", "2.5", "-0.5", "0.25", "1024", "inf", "nan", "abc", "3e2"])
            }
            "P" => format!("{{t}}p{}", random.random_range(0..3)),
            "v" => match random.random_range(0..10) {
                0 => "''".to_owned(),
                1 => "x".repeat(random.random_range(60..80)),
                2 => self.word("n"),
                3 => self.word("f"),
                _ => chosen(random, &["a", "b", "ab", "abc", "hello~world", "0", "10", "\u{e9}t\u{e9}"]),
            },
            "i" => random.random_range(-3..6).to_string(),
            "n" => chosen(
                random,
                &[
                    "0",
                    "1",
                    "-1",
                    "7",
                    "100",
                    "-100",
                    "9223372036854775807",
                    "-9223372036854775808",
                    "9223372036854775808",
                    "1.5",
                    "abc",
                    "007",
                ],
            ),
            "f" => chosen(
                random,
                &[
                    "0", "1", "-1", "2.5", "-0.5", "3e2", "inf", "-inf", "nan", "1e400", "abc", "17", "0.1",
                    "1000000",
                ],
            ),
            "m" => chosen(random, &["a", "b", "c", "d", "1", "2", "10", "mm", "''"]),
            "id" => match random.random_range(0..8) {
                0 => "0".to_owned(),
                1 => "0-0".to_owned(),
                2 => "abc".to_owned(),
                _ => format!("{}-{}", random.random_range(0..30), random.random_range(0..4)),
            },
            "p" => chosen(random, &["*", "{t}s*", "*1", "{t}[a-l]?", "nothing", "{t}\\s1"]),
            other => panic!("<{other}> is no kind of word"),
        }
    }
}

/// True for a bracket that groups: one that is a word's own (`(1`, `[a`) is not closed before the next space.
fn is_group(rest: &str) -> bool {
    let (open, close) = if rest.starts_with('[') { ('[', ']') } else { ('(', ')') };
    let mut depth = 0_i32;
    for letter in rest.chars() {
        depth += i32::from(letter == open) - i32::from(letter == close);
        if depth == 0 {
            return true;
        }
    }
    false
}

fn matching(rest: &str, open: char, close: char) -> usize {
    let mut depth = 0;
    for (at, letter) in rest.char_indices() {
        if letter == open {
            depth += 1;
        } else if letter == close {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    panic!("{rest:?} is not closed");
}

/// What stands between bars that are in no bracket of their own.
fn alternatives(inner: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut found) = (0, 0, Vec::new());
    for (at, letter) in inner.char_indices() {
        match letter {
            '(' | '{' => depth += 1,
            ')' | '}' => depth -= 1,
            '|' if depth == 0 => {
                found.push(&inner[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(&inner[begin..]);
    found
}

fn are_alike(name: &str, ours: &Answer, theirs: &Answer) -> bool {
    let name = name.to_lowercase();
    if let (Answer::Integer(ours), Answer::Integer(theirs)) = (ours, theirs)
        && let Some((_, apart)) = TIMES.iter().find(|(time, _)| *time == name)
    {
        return ours.abs_diff(*theirs) <= *apart as u64;
    }
    if let (Answer::Array(ours), Answer::Array(theirs)) = (ours, theirs)
        && let Some((_, together)) = UNORDERED.iter().find(|(unordered, _)| *unordered == name)
    {
        return grouped(ours, *together) == grouped(theirs, *together);
    }
    are_equal(ours, theirs)
}

/// Numbers with a fraction are written with seventeen digits by Redis 7.0, and with as many as it takes since 7.2.
fn are_equal(ours: &Answer, theirs: &Answer) -> bool {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
    match (ours, theirs) {
        (Answer::Array(ours), Answer::Array(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|(ours, theirs)| are_equal(ours, theirs))
        }
        (Answer::Text(ours), Answer::Text(theirs)) => {
            ours == theirs || number(ours).is_some_and(|ours| number(theirs) == Some(ours))
        }
        _ => ours == theirs,
    }
}

/// What a key has in the end.
fn content(connection: &mut Connection, key: &str) -> Answer {
    let Answer::Text(kind) = connection.ask(&["TYPE", key]) else { panic!("no type") };
    let content = match &kind[..] {
        b"string" => connection.ask(&["GET", key]),
        b"list" => connection.ask(&["LRANGE", key, "0", "-1"]),
        b"hash" => sorted(connection.ask(&["HGETALL", key]), 2),
        b"set" => sorted(connection.ask(&["SMEMBERS", key]), 1),
        b"zset" => connection.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
        b"stream" => connection.ask(&["XRANGE", key, "-", "+"]),
        _ => Answer::Nothing,
    };
    Answer::Array(vec![Answer::Text(kind), content])
}

fn sorted(answer: Answer, together: usize) -> Answer {
    match answer {
        Answer::Array(items) => Answer::Array(grouped(&items, together).concat()),
        other => other,
    }
}

/// Elements that belong together, in an order that depends on them alone.
fn grouped(items: &[Answer], together: usize) -> Vec<Vec<Answer>> {
    let mut groups: Vec<Vec<Answer>> = items.chunks(together).map(<[Answer]>::to_vec).collect();
    groups.sort_by(|a, b| a.partial_cmp(b).unwrap());
    groups
}

/// A redis-server that ends with this.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The differences of one run, each with the commands before it on the same keys.
fn run(seed: u64, ours: &mut Connection, theirs: &mut Connection) -> Vec<String> {
    for connection in [&mut *ours, &mut *theirs] {
        assert_eq!(connection.ask(&["FLUSHALL"]), Answer::Text(b"OK".to_vec()));
    }
    let mut maker = Maker::new(seed);
    let mut differences = Vec::new();
    let mut said: Vec<String> = Vec::new();
    while said.len() < COMMANDS && differences.is_empty() {
        let count = maker.random.random_range(1..=TOGETHER);
        let commands: Vec<Vec<String>> = (0..count).map(|_| maker.command()).collect();
        ours.send(&commands);
        theirs.send(&commands);
        for command in commands {
            let (ours, theirs) = (ours.answer(), theirs.answer());
            let shown = command.join(" ");
            if !are_alike(&command[0], &ours, &theirs) {
                let keys: Vec<&String> = command.iter().filter(|word| word.starts_with("{t}")).collect();
                let about = said.iter().filter(|said| keys.iter().any(|key| said.contains(*key)));
                let before: Vec<&String> = about.collect();
                let before = &before[before.len().saturating_sub(12)..];
                differences.push(format!(
                    "seed {seed}: {shown}\n  grid:  {ours}\n  redis: {theirs}\n  before: {before:#?}"
                ));
                break;
            }
            said.push(format!("{shown} -> {theirs}"));
        }
    }
    if !differences.is_empty() {
        // What was sent behind it is not looked at.
        return differences;
    }
    for kind in ["s", "l", "h", "S", "z", "x"] {
        for number in 0..3 {
            let key = format!("{{t}}{kind}{number}");
            let (ours, theirs) = (content(ours, &key), content(theirs, &key));
            if !are_equal(&ours, &theirs) {
                differences
                    .push(format!("seed {seed}: {key} in the end\n  grid:  {ours}\n  redis: {theirs}"));
            }
        }
    }
    differences
}

#[allow(clippy::disallowed_methods, reason = "the one way to hand a test its length and its seed")]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_answered_as_redis_answers_them() {
    let port = free_port();
    let mut redis = Command::new("redis-server");
    redis.args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    let Ok(redis) = redis.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        skip("redis-server is not here");
        return;
    };
    let _redis = Redis(redis);
    let theirs = format!("127.0.0.1:{port}");
    until("redis-server answers", async || TcpStream::connect(&theirs).is_ok()).await;
    let cluster = Cluster::grid(1, "memory", 1).await;
    let ours = cluster.nodes[0].front.clone();
    let seconds = told("TRIMARAN_DIFFERENTIAL_SECONDS");
    let only = told("TRIMARAN_DIFFERENTIAL_SEED");
    let compared = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let (mut differences, mut runs) = (Vec::new(), 0);
        let last = if seconds.is_some() { u64::MAX } else { RUNS };
        for seed in only.map_or(1..=last, |seed| seed..=seed) {
            if seconds.is_some_and(|seconds| began.elapsed() > Duration::from_secs(seconds)) {
                break;
            }
            // Anew each time: what is behind a difference is unread.
            let (mut ours, mut theirs) = (Connection::new(&ours), Connection::new(&theirs));
            differences.extend(run(seed, &mut ours, &mut theirs));
            runs += 1;
        }
        println!("{runs} runs of {COMMANDS} commands in {:?}", began.elapsed());
        differences
    });
    let differences = compared.await.unwrap();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
