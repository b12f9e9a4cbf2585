use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::*;
use crate::disk::RealDisk;
use crate::faulty::FaultyDisk;

fn small() -> Options {
    Options { sync: Sync::Always, segment_bytes: 4096 }
}

fn open(disk: &FaultyDisk) -> (Wal, Recovered) {
    Wal::open(Arc::new(disk.clone()), small()).unwrap()
}

fn write(wal: &Wal, group: u64, ops: Vec<Op>) -> Result<(), Error> {
    let (tell, told) = channel();
    wal.submit(group, ops, move |outcome| tell.send(outcome).unwrap());
    told.recv().unwrap()
}

fn write_flushed(wal: &Wal, group: u64, ops: Vec<Op>) {
    let (tell, told) = channel();
    wal.submit_flushed(group, ops, move |outcome| tell.send(outcome).unwrap());
    told.recv().unwrap().unwrap();
}

fn append(index: u64, text: &str) -> Op {
    Op::Append { index, entry: Bytes::copy_from_slice(text.as_bytes()) }
}

fn texts(group: &Group) -> Vec<(u64, String)> {
    group.entries.iter().map(|(&index, entry)| (index, String::from_utf8(entry.to_vec()).unwrap())).collect()
}

/// Small deterministic generator (xorshift64*), so that a failing seed can be named.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let real = || Arc::new(RealDisk::open(folder.path()).unwrap());
    for sync in [Sync::Always, Sync::Never] {
        let options = Options { sync, segment_bytes: 4096 };
        let (wal, _) = Wal::open(real(), options.clone()).unwrap();
        write(&wal, 1, vec![append(1, "a"), append(2, "b"), append(3, "c")]).unwrap();
        write(&wal, 1, vec![Op::Truncate { index: 3 }, append(3, "C")]).unwrap();
        write(&wal, 2, vec![Op::State { slot: 1, value: Bytes::from_static(b"vote") }]).unwrap();
        write(&wal, 1, vec![Op::Purge { index: 1 }]).unwrap();
        drop(wal);
        let (wal, recovered) = Wal::open(real(), options).unwrap();
        assert_eq!(texts(&recovered.groups[&1]), [(2, "b".into()), (3, "C".into())]);
        assert_eq!(recovered.groups[&1].purged, 1);
        assert_eq!(&recovered.groups[&2].states[&1][..], b"vote");
        write(&wal, 1, vec![Op::Remove]).unwrap();
        write(&wal, 2, vec![Op::Remove]).unwrap();
    }
}

#[test]
fn many_writers_share_a_flush() {
    let disk = FaultyDisk::new();
    let (wal, _) = open(&disk);
    let before = disk.syncs();
    let (tell, told) = channel();
    for index in 1..=500 {
        let tell = tell.clone();
        wal.submit(index % 7, vec![append(index / 7 + 1, "entry")], move |outcome| {
            outcome.unwrap();
            tell.send(()).unwrap();
        });
    }
    for _ in 0..500 {
        told.recv().unwrap();
    }
    // Segments of 4 KiB turn over now and then; one flush a write would be 500.
    assert!(disk.syncs() - before < 450, "{} flushes for 500 writes", disk.syncs() - before);
}

#[test]
fn purged_segments_go_and_an_idle_group_does_not_hold_them_back() {
    let disk = FaultyDisk::new();
    let (wal, _) = open(&disk);
    write(&wal, 9, vec![append(1, "idle")]).unwrap();
    for index in 1..=2000 {
        write(&wal, 1, vec![append(index, "0123456789012345678901234567890123456789")]).unwrap();
        if index % 50 == 0 {
            write(&wal, 1, vec![Op::Purge { index: index - 10 }]).unwrap();
        }
    }
    drop(wal);
    let segments = disk.list().unwrap().iter().filter(|name| name.ends_with(".wal")).count();
    assert!(segments as u64 <= GARBAGE_SEGMENTS + 2, "{segments} segments are left");
    let (_wal, recovered) = open(&disk);
    assert_eq!(texts(&recovered.groups[&9]), [(1, "idle".into())]);
    assert_eq!(
        recovered.groups[&1].entries.keys().copied().collect::<Vec<_>>(),
        (1991..=2000).collect::<Vec<_>>()
    );
}

/// Once there were always eight segments: a log that was needed was written again with every record, for ever.
#[test]
fn what_is_needed_is_not_written_again_without_need() {
    let disk = FaultyDisk::new();
    let (wal, _) = open(&disk);
    let newest = || {
        let names = disk.list().unwrap();
        let numbers = names.iter().filter_map(|name| name.strip_suffix(".wal"));
        numbers.map(|hex| u64::from_str_radix(hex, 16).unwrap()).max().unwrap()
    };
    let text = "0123456789012345678901234567890123456789";
    // About thirty segments, all needed.
    for index in 1..=400 {
        for group in 1..=4 {
            write(&wal, group, vec![append(index, text)]).unwrap();
        }
    }
    let needed = disk.list().unwrap().len() as u64;
    assert!(needed > 2 * GARBAGE_SEGMENTS, "{needed}");
    assert!(newest() <= needed + 1, "{} segments were written for {needed}", newest());
    // One group goes on and forgets; the others hold its garbage back, but not for ever.
    let before = newest();
    for index in 401..=4000 {
        write(&wal, 1, vec![append(index, text), Op::Purge { index: index - 10 }]).unwrap();
    }
    let (written, left) = (newest() - before, disk.list().unwrap().len() as u64);
    assert!(left <= 3 * needed + GARBAGE_SEGMENTS, "{left} segments are left, {needed} were needed");
    assert!(written <= 3 * 4000 * 100 / 4096, "{written} segments were written");
    drop(wal);
    let (_wal, recovered) = open(&disk);
    assert_eq!(recovered.groups[&2].entries.len(), 400);
    assert_eq!(recovered.groups[&1].entries.len(), 10);
}

#[test]
fn a_failed_flush_stops_the_log_for_good() {
    let disk = FaultyDisk::new();
    let (wal, _) = open(&disk);
    write(&wal, 1, vec![append(1, "a")]).unwrap();
    disk.fail_after_syncs(0);
    assert!(matches!(write(&wal, 1, vec![append(2, "b")]), Err(Error::Poisoned(_))));
    disk.fail_after_syncs(1000);
    assert!(
        matches!(write(&wal, 1, vec![append(3, "c")]), Err(Error::Poisoned(_))),
        "not even once it works again"
    );
}

#[test]
fn damage_to_a_full_segment_is_told_from_a_torn_end() {
    let disk = FaultyDisk::new();
    let (wal, _) = open(&disk);
    for index in 1..=200 {
        write(&wal, 1, vec![append(index, "0123456789012345678901234567890123456789")]).unwrap();
    }
    drop(wal);
    disk.damage(&segment_name(1), 2000);
    let outcome = Wal::open(Arc::new(disk), small());
    assert!(matches!(outcome, Err(Error::Damaged { .. })), "{:?}", outcome.err());
}

#[test]
fn a_log_of_a_newer_release_is_refused() {
    let disk = FaultyDisk::new();
    let mut head = BytesMut::new();
    format::put(&mut head, 1, kind::HEAD, 0, |out| out.put_u16_le(VERSION + 1));
    disk.open(&segment_name(1)).unwrap().write_at(&head, 0).unwrap();
    assert!(matches!(Wal::open(Arc::new(disk), small()), Err(Error::TooNew { found: 2, .. })));
}

#[test]
fn a_group_that_asks_for_flushes_survives_in_a_log_that_does_not_flush() {
    let disk = FaultyDisk::new();
    let options = Options { sync: Sync::Never, segment_bytes: 4096 };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), options.clone()).unwrap();
    for index in 1..=300 {
        write(&wal, 1, vec![append(index, "not flushed, not flushed, not flushed")]).unwrap();
        if index % 10 == 0 {
            write_flushed(&wal, 2, vec![append(index / 10, "flushed")]);
        }
    }
    write(&wal, 1, vec![append(301, "after the last flush")]).unwrap();
    disk.lose_power(|| false);
    drop(wal);
    let (_wal, recovered) = Wal::open(Arc::new(disk), options).unwrap();
    assert_eq!(recovered.groups[&2].entries.len(), 30);
    assert_eq!(recovered.groups[&1].entries.len(), 300, "written before a flush, so flushed with it");
}

/// A disk whose flushes wait while it is shut.
#[derive(Clone, Default)]
struct Gated {
    disk: FaultyDisk,
    is_shut: Arc<(parking_lot::Mutex<bool>, parking_lot::Condvar)>,
}

struct GatedFile(Arc<dyn DiskFile>, Gated);

impl Gated {
    fn shut(&self, shut: bool) {
        *self.is_shut.0.lock() = shut;
        self.is_shut.1.notify_all();
    }
}

impl Disk for Gated {
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(GatedFile(self.disk.open(name)?, self.clone())))
    }

    fn list(&self) -> std::io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> std::io::Result<()> {
        self.disk.sync_dir()
    }

    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }
}

impl DiskFile for GatedFile {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> std::io::Result<()> {
        let (is_shut, changed) = &*self.1.is_shut;
        let mut shut = is_shut.lock();
        while *shut {
            changed.wait(&mut shut);
        }
        drop(shut);
        self.0.sync()
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
}

fn unflushed() -> Options {
    Options { sync: Sync::Never, segment_bytes: 4096 }
}

const LINE: &str = "0123456789012345678901234567890123456789";

/// About five segments' worth.
const LINES: u64 = 300;

#[test]
fn writes_do_not_wait_until_a_full_segment_is_flushed_but_those_that_must_be_flushed_do() {
    let gated = Gated::default();
    let (wal, _) = Wal::open(Arc::new(gated.clone()), unflushed()).unwrap();
    gated.shut(true);
    for index in 1..=LINES {
        write(&wal, 1, vec![append(index, LINE)]).unwrap();
    }
    let (tell, told) = channel();
    wal.submit_flushed(2, vec![append(1, "flushed")], move |outcome| tell.send(outcome).unwrap());
    assert!(told.try_recv().is_err(), "what was written before it is not on the medium");
    gated.shut(false);
    told.recv().unwrap().unwrap();
    gated.disk.lose_power(|| false);
    drop(wal);
    let (_wal, recovered) = Wal::open(Arc::new(gated.disk), unflushed()).unwrap();
    assert_eq!(recovered.groups[&1].entries.len() as u64, LINES);
    assert_eq!(recovered.groups[&2].entries.len(), 1);
}

/// What the power takes is an end of the log, also where later segments reached the medium before earlier ones, and the
/// log goes on from there.
#[test]
fn a_log_that_does_not_flush_loses_its_end_only() {
    for seed in 1..=200 {
        let mut random = Seeded(seed);
        let gated = Gated::default();
        let mut flushed = 0;
        let mut written = 0;
        for life in 0..3 {
            let (wal, recovered) = Wal::open(Arc::new(gated.clone()), unflushed())
                .unwrap_or_else(|failure| panic!("seed {seed} life {life}: {failure}"));
            let found = recovered.groups.get(&1).map(texts).unwrap_or_default();
            let expected: Vec<(u64, String)> =
                (1..=found.len() as u64).map(|index| (index, format!("{LINE}.{index}"))).collect();
            assert_eq!(found, expected, "seed {seed} life {life}");
            let last = found.len() as u64;
            assert!((flushed..=written).contains(&last), "seed {seed} life {life}: {last} of {flushed}");
            (written, flushed) = (last, last);
            for _ in 0..random.next(3) {
                for _ in 0..random.next(200) {
                    written += 1;
                    write(&wal, 1, vec![append(written, &format!("{LINE}.{written}"))]).unwrap();
                }
                write_flushed(&wal, 2, vec![Op::State { slot: 1, value: Bytes::new() }]);
                flushed = written;
            }
            gated.shut(true);
            for _ in 0..random.next(400) {
                written += 1;
                write(&wal, 1, vec![append(written, &format!("{LINE}.{written}"))]).unwrap();
            }
            if random.next(2) == 0 {
                gated.disk.sync_dir().unwrap();
            }
            gated.disk.lose_power(|| random.next(4) > 0);
            gated.shut(false);
            drop(wal);
        }
    }
}

#[test]
fn damage_to_what_was_flushed_is_told_from_what_the_power_took() {
    let disk = FaultyDisk::new();
    let (wal, _) = Wal::open(Arc::new(disk.clone()), unflushed()).unwrap();
    for index in 1..=LINES {
        write(&wal, 1, vec![append(index, LINE)]).unwrap();
    }
    write_flushed(&wal, 2, vec![append(1, "flushed")]);
    drop(wal);
    disk.damage(&segment_name(2), 2000);
    let outcome = Wal::open(Arc::new(disk), unflushed());
    assert!(matches!(outcome, Err(Error::Damaged { .. })), "{:?}", outcome.err());
}

#[test]
fn a_segment_whose_name_is_lost_ends_the_log_unless_it_was_on_the_medium() {
    for must_be_there in [false, true] {
        let gated = Gated::default();
        let (wal, _) = Wal::open(Arc::new(gated.clone()), unflushed()).unwrap();
        gated.shut(!must_be_there);
        for index in 1..=LINES {
            write(&wal, 1, vec![append(index, LINE)]).unwrap();
        }
        if must_be_there {
            write_flushed(&wal, 2, vec![append(1, "flushed")]);
        }
        gated.disk.sync_dir().unwrap();
        gated.disk.lose_power(|| true);
        gated.shut(false);
        drop(wal);
        gated.disk.remove(&segment_name(3)).unwrap();
        let opened = Wal::open(Arc::new(gated.disk.clone()), unflushed());
        if must_be_there {
            assert!(matches!(opened, Err(Error::Damaged { .. })), "{:?}", opened.err());
            continue;
        }
        let (wal, recovered) = opened.unwrap();
        let held = recovered.groups[&1].entries.len() as u64;
        assert!(held > 0 && held < LINES, "{held} of {LINES}: those of the first two segments");
        write(&wal, 1, vec![append(held + 1, "goes on")]).unwrap();
        drop(wal);
        let (_wal, recovered) = Wal::open(Arc::new(gated.disk.clone()), unflushed()).unwrap();
        assert_eq!(recovered.groups[&1].entries.len() as u64, held + 1);
    }
}

#[test]
fn a_flush_that_fails_beside_the_writer_stops_the_log() {
    let disk = FaultyDisk::new();
    let (wal, _) = Wal::open(Arc::new(disk.clone()), unflushed()).unwrap();
    disk.fail_after_syncs(0);
    let refused = (1..=LINES).find(|&index| write(&wal, 1, vec![append(index, LINE)]).is_err());
    assert!(refused.is_some());
}

/// Writers append, truncate and purge; the power goes at a random moment; what was acknowledged must be there and
/// what is there must have been written. Repeat one seed with `WAL_SEED=<n> cargo test -p trimaran-storage power`.
#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let seeds: Vec<u64> = match option_env!("WAL_SEED") {
        Some(seed) => vec![seed.parse().unwrap()],
        None => (1..=150).collect(),
    };
    for seed in seeds {
        let disk = FaultyDisk::new();
        let mut random = Seeded(seed);
        // Model of what was acknowledged: per group the newest text of each index, and what may also be there.
        let acknowledged: Arc<Mutex<HashMap<u64, BTreeMap<u64, String>>>> = Arc::default();
        // Truncations asked for, by group: what they cover is void from then on, as in Raft, where it was never
        // committed; also for writes of before whose answer comes after.
        let void: Arc<Mutex<Vec<(u64, u64, u64)>>> = Arc::default();
        let mut next: HashMap<u64, u64> = HashMap::new();
        let mut purged: HashMap<u64, u64> = HashMap::new();
        for life in 0..3_u64 {
            let (wal, recovered) = Wal::open(Arc::new(disk.clone()), small())
                .unwrap_or_else(|failure| panic!("seed {seed} life {life}: {failure}"));
            for (&group, expected) in acknowledged.lock().unwrap().iter() {
                let found = recovered.groups.get(&group).map(texts).unwrap_or_default();
                let found: BTreeMap<u64, String> = found.into_iter().collect();
                let floor = recovered.groups.get(&group).map_or(0, |held| held.purged);
                for (index, text) in expected.range(floor + 1..) {
                    assert_eq!(
                        found.get(index),
                        Some(text),
                        "seed {seed} life {life} group {group} index {index}"
                    );
                }
            }
            // What is there goes on from there.
            let mut known = acknowledged.lock().unwrap();
            for group in 1..=3 {
                let held = recovered.groups.get(&group);
                let floor = held.map_or(0, |held| held.purged);
                let found: BTreeMap<u64, String> = held.map(texts).unwrap_or_default().into_iter().collect();
                next.insert(group, found.last_key_value().map_or(floor, |(&last, _)| last) + 1);
                purged.insert(group, floor);
                known.insert(group, found);
            }
            drop(known);
            let cut = random.next(120) + 1;
            let mut pending = Vec::new();
            for step in 0..cut {
                let group = random.next(3) + 1;
                let at = next.entry(group).or_insert(1);
                let floor = purged.entry(group).or_insert(0);
                let back = random.next(4).min(at.saturating_sub(*floor + 1));
                let mut ops = Vec::new();
                let start = *at - if random.next(5) == 0 { back } else { 0 };
                if start < *at {
                    ops.push(Op::Truncate { index: start });
                    void.lock().unwrap().push((life * 1000 + step, group, start));
                    acknowledged.lock().unwrap().entry(group).or_default().split_off(&start);
                }
                let count = random.next(4) + 1;
                let texts: Vec<(u64, String)> = (start..start + count)
                    .map(|index| (index, format!("{seed}.{life}.{step}.{index}")))
                    .collect();
                ops.extend(texts.iter().map(|(index, text)| append(*index, text)));
                *at = start + count;
                if random.next(10) == 0 && *at > *floor + 8 {
                    *floor = *at - 6;
                    ops.push(Op::Purge { index: *floor });
                }
                let (acknowledged, void) = (Arc::clone(&acknowledged), Arc::clone(&void));
                let (tell, told) = channel();
                wal.submit(group, ops, move |outcome| {
                    if outcome.is_ok() {
                        let void = void.lock().unwrap();
                        let holds = |index: u64| {
                            !void.iter().any(|&(when, whose, start)| {
                                when > life * 1000 + step && whose == group && start <= index
                            })
                        };
                        let mut known = acknowledged.lock().unwrap();
                        let known = known.entry(group).or_default();
                        known.extend(texts.into_iter().filter(|(index, _)| holds(*index)));
                    }
                    tell.send(()).unwrap();
                });
                // Some writers wait, some are in flight when the power goes.
                if random.next(3) == 0 {
                    told.recv().unwrap();
                } else {
                    pending.push(told);
                }
            }
            // Cut while the last ones are in flight. The model above must not take what is acknowledged later.
            disk.lose_power(|| random.next(2) == 0);
            drop(wal);
        }
    }
}
