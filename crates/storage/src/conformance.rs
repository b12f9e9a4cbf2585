//! What every engine must do, tried on every engine; and on those with a disk, what must survive.
#![allow(clippy::print_stderr, reason = "a test that cannot run here has to say so")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::engine::{Batch, Engine, KEY_BYTES_MAX, Kind, Order, Range, after_prefix, open};
use crate::faulty_engine::FaultyEngine;

const ON_DISK: [Kind; 2] = [Kind::Fjall, Kind::Sled];

fn on_all(check: impl Fn(&dyn Engine)) {
    for kind in [Kind::Memory, Kind::Fjall, Kind::Sled] {
        let folder = tempfile::tempdir().unwrap();
        check(&*open(kind, folder.path()).unwrap());
    }
    check(&FaultyEngine::default());
}

fn all(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    engine.scan(Range { start: Bytes::new(), end: None }, Order::Ascending).map(Result::unwrap).collect()
}

#[test]
fn a_batch_happens_as_one_and_its_last_word_counts() {
    on_all(|engine| {
        let mut batch = Batch::default();
        batch.put("a", "1");
        batch.put("b", "2");
        batch.delete("a");
        batch.delete("never there");
        batch.put("c", "");
        engine.write(batch).unwrap();
        assert_eq!(engine.get(b"a").unwrap(), None);
        assert_eq!(engine.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(engine.get(b"c").unwrap().as_deref(), Some(&b""[..]), "an empty value is a value");
        engine.write(Batch::default()).unwrap();
        engine.flush().unwrap();
        assert_eq!(all(engine).len(), 2);
    });
}

#[test]
fn a_key_beyond_the_limit_is_refused_and_nothing_of_its_batch_is_there() {
    on_all(|engine| {
        let mut batch = Batch::default();
        batch.put("small", "1");
        batch.put("", "2");
        assert!(engine.write(batch).is_err(), "an empty key");
        let mut batch = Batch::default();
        batch.put("small", "1");
        batch.put(vec![7; KEY_BYTES_MAX + 1], "2");
        assert!(engine.write(batch).is_err());
        assert!(all(engine).is_empty());
        let mut batch = Batch::default();
        batch.put(vec![7; KEY_BYTES_MAX], vec![1; 500_000]);
        engine.write(batch).unwrap();
        assert_eq!(engine.get(&[7; KEY_BYTES_MAX]).unwrap().unwrap().len(), 500_000);
    });
}

#[test]
fn a_scan_may_be_written_under() {
    on_all(|engine| {
        let mut batch = Batch::default();
        for number in 0..2_000_u32 {
            batch.put(number.to_be_bytes().to_vec(), "old");
        }
        engine.write(batch).unwrap();
        let mut seen = Vec::new();
        for pair in engine.scan(Range { start: Bytes::new(), end: None }, Order::Ascending) {
            let (key, _) = pair.unwrap();
            let mut batch = Batch::default();
            batch.delete(key.clone());
            engine.write(batch).unwrap();
            seen.push(key);
        }
        assert_eq!(seen.len(), 2_000);
        assert!(seen.is_sorted());
        assert!(all(engine).is_empty());
    });
}

#[test]
fn the_end_of_a_prefix_is_behind_everything_that_begins_with_it() {
    assert_eq!(after_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
    assert_eq!(after_prefix(&[1, 255, 255]).as_deref(), Some(&[2][..]));
    assert_eq!(after_prefix(&[255, 255]), None);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Vec<u8>, Option<u8>)>),
    Scan(Vec<u8>, Option<Vec<u8>>, bool),
    Get(Vec<u8>),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(127), Just(255)], 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec((key(), prop::option::of(any::<u8>())), 0..20).prop_map(Step::Write),
        2 => (key(), prop::option::of(key()), any::<bool>()).prop_map(|(start, end, up)| Step::Scan(start, end, up)),
        1 => key().prop_map(Step::Get),
        1 => Just(Step::Reopen),
    ]
}

/// Any run of operations gives what a sorted map gives.
fn behaves_like_a_map(kind: Kind, steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(kind, folder.path()).unwrap();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Write(writes) => {
                let mut batch = Batch::default();
                for (key, value) in writes {
                    match value {
                        Some(value) => {
                            batch.put(key.clone(), vec![value]);
                            model.insert(key, vec![value]);
                        }
                        None => {
                            batch.delete(key.clone());
                            model.remove(&key);
                        }
                    }
                }
                engine.write(batch).unwrap();
            }
            Step::Scan(start, end, up) => {
                let within = |key: &&Vec<u8>| **key >= start && end.as_ref().is_none_or(|end| *key < end);
                let mut expected: Vec<_> = model.keys().filter(within).cloned().collect();
                if !up {
                    expected.reverse();
                }
                let range = Range { start: start.clone().into(), end: end.clone().map(Bytes::from) };
                let order = if up { Order::Ascending } else { Order::Descending };
                let found: Vec<_> = engine.scan(range, order).map(|pair| pair.unwrap().0.to_vec()).collect();
                assert_eq!(found, expected);
            }
            Step::Get(key) => {
                assert_eq!(engine.get(&key).unwrap().map(|value| value.to_vec()), model.get(&key).cloned());
            }
            Step::Reopen if kind != Kind::Memory => {
                engine.flush().unwrap();
                drop(engine);
                engine = open(kind, folder.path()).unwrap();
            }
            Step::Reopen => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn memory_behaves_like_a_map(steps in prop::collection::vec(step(), 1..40)) {
        behaves_like_a_map(Kind::Memory, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn engines_on_disk_behave_like_a_map(steps in prop::collection::vec(step(), 1..30)) {
        for kind in ON_DISK {
            behaves_like_a_map(kind, steps.clone());
        }
    }
}

#[test]
fn a_folder_of_another_engine_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(Kind::Fjall, folder.path()).unwrap());
    let error = open(Kind::Sled, folder.path()).err().unwrap().to_string();
    assert!(error.contains("written by engine \"fjall 1\""), "{error}");
}

#[test]
fn the_faulty_engine_keeps_what_was_flushed_and_a_prefix_of_the_rest() {
    let engine = FaultyEngine::default();
    let put = |value: u8| {
        let mut batch = Batch::default();
        batch.put(vec![value], vec![value]);
        engine.write(batch)
    };
    put(1).unwrap();
    engine.flush().unwrap();
    put(2).unwrap();
    put(3).unwrap();
    assert_eq!(engine.lose_power(1), 2);
    assert_eq!(all(&engine).len(), 2);
    engine.fail_after(1);
    put(4).unwrap();
    assert!(put(5).is_err());
    assert!(engine.flush().is_err());
}

// What the child of the crash tests does, and what its parent expects: batch `n` sets each of these keys to `n`, so
// that a torn batch shows; a key per batch, so that a lost one does; and now and then a value too large to be inline.
const COUNTERS: u64 = 8;
const LARGE_EVERY: u64 = 16;
const LARGE_BYTES: usize = 200_000;

fn numbered(n: u64) -> Batch {
    let mut batch = Batch::default();
    for counter in 0..COUNTERS {
        batch.put(format!("counter {counter}"), n.to_be_bytes().to_vec());
    }
    let size = if n.is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { 100 };
    batch.put(format!("batch {n:010}"), vec![(n % 251) as u8; size]);
    batch
}

/// Every acknowledged batch is there, none is torn, and what is there is a prefix. Returns its length.
fn check_numbered(engine: &dyn Engine, acknowledged: u64) -> u64 {
    let counter = |counter: u64| {
        let value = engine.get(format!("counter {counter}").as_bytes()).unwrap();
        value.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()))
    };
    let last = counter(0);
    assert!((1..COUNTERS).all(|number| counter(number) == last), "a torn batch");
    assert!(last >= acknowledged, "batches after {last} are lost, {acknowledged} was acknowledged");
    for n in 1..=last {
        let value = engine.get(format!("batch {n:010}").as_bytes()).unwrap();
        let value = value.unwrap_or_else(|| panic!("batch {n} of {last} is lost"));
        assert!(value.iter().all(|&byte| byte == (n % 251) as u8), "batch {n} is damaged");
    }
    last
}

/// Not a test by itself: what is killed. Writes numbered batches and says when each is durable.
#[test]
#[ignore = "the child process of the crash tests"]
fn child_that_writes() {
    let arguments: Vec<String> = std::io::stdin().lock().lines().take(2).map(Result::unwrap).collect();
    let engine = open(arguments[0].parse().unwrap(), Path::new(&arguments[1])).unwrap();
    let mut n = check_numbered(&*engine, 0);
    let mut out = std::io::stderr().lock();
    loop {
        n += 1;
        engine.write(numbered(n)).unwrap();
        engine.flush().unwrap();
        writeln!(out, "{n}").unwrap();
    }
}

/// Starts the child on a folder and returns it when it has acknowledged `count` batches: it, and the last number.
fn run_child(kind: Kind, folder: &Path, count: usize) -> (std::process::Child, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "conformance::child_that_writes", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}\n{}", kind.name(), folder.display()).unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let numbers = lines.map(Result::unwrap).filter_map(|line| line.parse::<u64>().ok());
    let last = numbers.take(count).last().expect("the child writes");
    (child, last)
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let seed = 7;
    let mut random = StdRng::seed_from_u64(seed);
    for kind in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        for _life in 0..6 {
            let count = random.random_range(1..120);
            let (mut child, acknowledged) = run_child(kind, folder.path(), count);
            child.kill().unwrap();
            child.wait().unwrap();
            let engine = open(kind, folder.path()).unwrap();
            check_numbered(&*engine, acknowledged);
        }
    }
}

/// A file system of its own whose power can be taken away.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    /// `None`, with a word about it, where this process may not make one.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let mount = Self { folder };
        if run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]) && mount.mount() {
            return Some(mount);
        }
        eprintln!("SKIPPED: no power can be cut here: it takes root, loop devices and mkfs.ext4");
        None
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("mnt")
    }

    fn mount(&self) -> bool {
        let image = self.folder.path().join("image");
        run("mount", &["-o", "loop", image.to_str().unwrap(), self.path().to_str().unwrap()])
    }

    /// EXT4_IOC_SHUTDOWN without flushing the journal: what was not synced is gone. False if it cannot be done here.
    fn lose_power(&self) -> bool {
        const NO_LOG_FLUSH: &str = "import fcntl,os,sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, b'\\x02\\0\\0\\0')";
        run("python3", &["-c", NO_LOG_FLUSH, self.path().to_str().unwrap()])
    }

    fn unmount(&self) -> bool {
        run("umount", &[self.path().to_str().unwrap()])
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn run(command: &str, arguments: &[&str]) -> bool {
    let done = Command::new(command).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

#[test]
fn nothing_acknowledged_is_lost_with_the_power() {
    let mut random = StdRng::seed_from_u64(11);
    for kind in ON_DISK {
        let Some(mount) = Mount::new() else { return };
        for _cut in 0..5 {
            let (mut child, acknowledged) = run_child(kind, &mount.path(), random.random_range(1..80));
            if !mount.lose_power() {
                eprintln!("SKIPPED: no power can be cut here: it takes python3 and ext4's shutdown call");
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(mount.unmount() && mount.mount());
            let engine: Arc<dyn Engine> = open(kind, &mount.path()).unwrap();
            let last = check_numbered(&*engine, acknowledged);
            eprintln!("{}: {acknowledged} acknowledged, {last} found", kind.name());
        }
    }
}
