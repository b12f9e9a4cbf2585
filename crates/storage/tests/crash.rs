//! Engines that are killed with -9 in the middle of writing, and whose power is cut: nothing acknowledged is lost.
//!
//! A program of its own, since it starts itself as the process that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and one that cannot run here has to say so"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_storage::engine::{Batch, Engine, Kind, open};

const ON_DISK: [Kind; 2] = [Kind::Fjall, Kind::Sled];

/// First argument of the process that is killed.
const CHILD: &str = "--child";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, kind, folder] = &arguments[..]
        && first == CHILD
    {
        return child(kind, folder);
    }
    nothing_acknowledged_is_lost_by_kill_9();
    nothing_acknowledged_is_lost_with_the_power();
    println!("nothing acknowledged was lost");
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

/// What is killed: writes numbered batches and says when each is durable.
fn child(kind: &str, folder: &str) {
    let engine = open(kind.parse().unwrap(), Path::new(folder)).unwrap();
    let mut n = check_numbered(&*engine, 0);
    let mut out = std::io::stdout().lock();
    loop {
        n += 1;
        engine.write(numbered(n)).unwrap();
        engine.flush().unwrap();
        // Nobody reads any more: the parent is done with this one.
        if writeln!(out, "{n}").is_err() {
            return;
        }
    }
}

/// Starts the child on a folder and returns it when it has acknowledged `count` batches: it, and the last number.
fn run_child(kind: Kind, folder: &Path, count: usize) -> (std::process::Child, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, kind.name()])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let numbers = lines.map(|line| line.unwrap().parse::<u64>().unwrap());
    let last = numbers.take(count).last().expect("the child writes");
    (child, last)
}

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
        println!("SKIPPED: no power can be cut here: it takes root, loop devices and mkfs.ext4");
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

fn nothing_acknowledged_is_lost_with_the_power() {
    let mut random = StdRng::seed_from_u64(11);
    for kind in ON_DISK {
        let Some(mount) = Mount::new() else { return };
        for _cut in 0..5 {
            let (mut child, acknowledged) = run_child(kind, &mount.path(), random.random_range(1..80));
            if !mount.lose_power() {
                println!("SKIPPED: no power can be cut here: it takes python3 and ext4's shutdown call");
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(mount.unmount() && mount.mount());
            let engine: Arc<dyn Engine> = open(kind, &mount.path()).unwrap();
            let last = check_numbered(&*engine, acknowledged);
            println!("{}: {acknowledged} acknowledged, {last} found", kind.name());
        }
    }
}
