//! One simulated life of a group of three replicas: in memory, where a crash takes the replica for good, or on disks, where it
//! takes what was not flushed; then all of them crash at once, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use trimaran_net::clock::{Clock as _, ManualClock};
use trimaran_net::peers::Peers;
use trimaran_replication::group::{Group, Member};
use trimaran_replication::groups::{Durability, Durable, Groups, Options, Timing};
use trimaran_replication::session::Session;
use trimaran_storage::faulty::FaultyDisk;
use trimaran_storage::wal;

use crate::invariant::Watcher;
use crate::journal::Journal;
use crate::network::{SimulatedDial, incoming};

const GROUP: u64 = 1;
const PORT: u16 = 7000;
const NODES: u64 = 3;

/// Simulated time under faults, and the time to heal afterwards.
const TROUBLE: Duration = Duration::from_secs(12);
const PEACE: Duration = Duration::from_secs(20);

/// Time without use after which the group hibernates.
const HIBERNATE_AFTER: Duration = Duration::from_millis(600);

/// Nobody begins anything in the last part of every round, so that the group falls asleep, faults or not.
const ROUND: Duration = Duration::from_secs(4);
const QUIET: Duration = Duration::from_millis(1500);

/// How long the quiet time lasts that there is now.
pub(crate) fn quiet_for(elapsed: Duration) -> Option<Duration> {
    let into = Duration::from_micros((elapsed.as_micros() % ROUND.as_micros()) as u64);
    (into >= ROUND.saturating_sub(QUIET)).then(|| ROUND.saturating_sub(into))
}

/// Smallest files of the log: it begins new ones all the time.
const SEGMENT_BYTES: u64 = 16 << 10;

/// What the meta group would know: who holds the group now. Shared by all simulated nodes.
struct Placement {
    members: Vec<Member>,
    next_replica: u64,
    founded: bool,
}

#[derive(Default)]
struct Live {
    groups: HashMap<u64, Group<Journal>>,
    /// Replica that whoever leads is to give its leadership to.
    heir: Option<u64>,
}

/// One run.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) logs: Logs,
}

/// Where the logs are, and so what a crash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logs {
    /// The replica, which comes back under another id.
    Memory,
    /// The planted bug: the replica, which comes back under its old id all the same.
    MemoryUnderOldIds,
    /// What was not flushed, sector by sector; all three may crash at once.
    Disk,
}

/// What a run that went well saw.
pub(crate) struct Outcome {
    pub(crate) acknowledged: usize,
    pub(crate) crashes: usize,
    pub(crate) leaders: usize,
    /// Steps of the simulation that saw a replica asleep.
    pub(crate) asleep: usize,
}

fn host(node: u64) -> String {
    format!("node-{node}")
}

impl Scenario {
    /// Runs it; an error is the invariant that was violated.
    pub(crate) fn run(self) -> Result<Outcome, String> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(self.seed)
            .enable_random_order()
            .simulation_duration(TROUBLE + PEACE + Duration::from_secs(60))
            .tick_duration(Duration::from_millis(2))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .build();

        let placement = Arc::new(Mutex::new(Placement {
            members: (1..=NODES).map(|node| Member { replica: node * 10, node }).collect(),
            next_replica: 100,
            founded: false,
        }));
        let live: Arc<Mutex<Live>> = Arc::default();
        let clock = ManualClock::at(1_000_000);
        let disks: Vec<FaultyDisk> = (0..NODES).map(|_| FaultyDisk::new()).collect();
        for (node, disk) in (1..=NODES).zip(&disks) {
            let (placement, live, clock) = (Arc::clone(&placement), Arc::clone(&live), clock.clone());
            let disk = (self.logs == Logs::Disk).then(|| disk.clone());
            sim.host(host(node), move || {
                run_node(node, Arc::clone(&placement), Arc::clone(&live), clock.clone(), disk.clone())
            });
        }

        let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
        for client in 0..3_u64 {
            let (live, acknowledged) = (Arc::clone(&live), Arc::clone(&acknowledged));
            let seed = self.seed * 100 + client;
            sim.client(format!("client-{client}"), run_client(client, seed, live, acknowledged));
        }

        let watcher = Rc::new(RefCell::new(Watcher::default()));
        let (mut crashes, mut asleep) = (0, 0);
        let mut next_fault = Duration::from_secs(1);
        let mut down: Option<(Vec<u64>, Duration)> = None;
        let mut cut: Option<(u64, u64, bool, Duration)> = None;
        loop {
            let finished = sim.step().map_err(|error| format!("the simulation failed: {error}"))?;
            clock.advance(Duration::from_millis(2));
            let now = sim.elapsed();
            asleep += usize::from(look(&live, &watcher)?);
            if finished {
                break;
            }
            if let Some((a, b, one_way, until)) = cut.filter(|(_, _, _, until)| now >= *until) {
                let _ended = until;
                if one_way {
                    sim.repair_oneway(host(a), host(b));
                } else {
                    sim.repair(host(a), host(b));
                }
                cut = None;
            }
            for node in down.take_if(|(_, until)| now >= *until).map_or(Vec::new(), |(nodes, _)| nodes) {
                if self.logs == Logs::Memory {
                    let mut placement = placement.lock();
                    let fresh = placement.next_replica;
                    placement.next_replica += 1;
                    for member in placement.members.iter_mut().filter(|member| member.node == node) {
                        member.replica = fresh;
                    }
                }
                sim.bounce(host(node));
            }
            if now < TROUBLE && now >= next_fault && down.is_none() && cut.is_none() {
                next_fault = now + Duration::from_millis(random.random_range(300..1500));
                let a = random.random_range(1..=NODES);
                let b = a % NODES + 1;
                let lasts = now + Duration::from_millis(random.random_range(100..2500));
                match random.random_range(0..5) {
                    0 => {
                        let all = self.logs == Logs::Disk && random.random_bool(0.3);
                        // A copy in memory may be lost only while all others are whole; with the planted bug, never mind.
                        let may = self.logs != Logs::Memory || is_whole(&placement, &live);
                        let victims: Vec<u64> = if all { (1..=NODES).collect() } else { vec![a] };
                        for &node in victims.iter().filter(|_| may) {
                            sim.crash(host(node));
                            live.lock().groups.remove(&node);
                            disks[node as usize - 1].lose_power(|| random.random_bool(0.5));
                            crashes += 1;
                        }
                        down = may.then_some((victims, lasts));
                    }
                    3 => {
                        let heirs = placement.lock().members.clone();
                        live.lock().heir =
                            heirs.iter().find(|member| member.node == a).map(|heir| heir.replica);
                    }
                    1 => {
                        sim.partition_oneway(host(a), host(b));
                        cut = Some((a, b, true, lasts));
                    }
                    _ => {
                        sim.partition(host(a), host(b));
                        cut = Some((a, b, false, lasts));
                    }
                }
            }
        }
        let acknowledged = acknowledged.lock().clone();
        watcher.borrow().at_the_end(&acknowledged)?;
        if acknowledged.is_empty() {
            return Err("nothing was acknowledged".to_owned());
        }
        let leaders = watcher.borrow().terms();
        Ok(Outcome { acknowledged: acknowledged.len(), crashes, leaders, asleep })
    }
}

/// All replicas that should be there are voters, and have applied what the leader has.
fn is_whole(placement: &Mutex<Placement>, live: &Mutex<Live>) -> bool {
    let placement = placement.lock();
    let live = live.lock();
    let mut wanted: Vec<u64> = placement.members.iter().map(|member| member.replica).collect();
    wanted.sort_unstable();
    let statuses: Vec<_> = live.groups.values().map(Group::status).collect();
    let Some(leader) = statuses.iter().find(|status| status.state == "leader") else { return false };
    let mut voters = leader.voters.clone();
    voters.sort_unstable();
    statuses.len() as u64 == NODES
        && voters == wanted
        && leader.learners.is_empty()
        && statuses.iter().all(|status| status.applied + 50 >= leader.applied && status.voters.len() == 3)
}

/// Looks at everything. True if some replica is asleep.
fn look(live: &Mutex<Live>, watcher: &RefCell<Watcher>) -> Result<bool, String> {
    let mut watcher = watcher.borrow_mut();
    let mut is_asleep = false;
    for group in live.lock().groups.values() {
        let status = group.status();
        watcher.see_status(group.replica(), &status)?;
        is_asleep |= status.is_asleep;
        group.read_now(|journal| watcher.see_journal(group.replica(), journal))?;
    }
    Ok(is_asleep)
}

async fn run_node(
    node: u64,
    placement: Arc<Mutex<Placement>>,
    live: Arc<Mutex<Live>>,
    clock: ManualClock,
    disk: Option<FaultyDisk>,
) -> turmoil::Result {
    let peers = Peers::new(Arc::new(SimulatedDial));
    for other in (1..=NODES).filter(|&other| other != node) {
        peers.set(other, &format!("{}:{PORT}", host(other)))?;
    }
    // Another one for every start: the time of it will do.
    let boot = clock.now_ms();
    let options = Options {
        timing: Timing {
            proposal: Duration::from_secs(2),
            hibernate_after: HIBERNATE_AFTER,
            ..Timing::default()
        },
        // Short, so that replicas that come back need snapshots.
        log_bytes_max: 4 << 10,
        log_bytes_min: 4 << 10,
        entries_kept: 8,
        boot,
    };
    let durability = if disk.is_some() { Durability::Flushed } else { Durability::Memory };
    let durable = disk.map(|disk| {
        let wal = wal::Options { segment_bytes: SEGMENT_BYTES, ..wal::Options::default() };
        Durable::open(Arc::new(disk.clone()), Arc::new(disk), wal)
    });
    let groups = Groups::new(node, options, Arc::new(clock), peers, durable.transpose()?);
    let replica = placement.lock().members.iter().find(|member| member.node == node).unwrap().replica;
    let group = groups.open(GROUP, replica, durability, Journal::default()).await?;
    live.lock().groups.insert(node, group.clone());
    let found = {
        let mut placement = placement.lock();
        let found = node == 1 && !placement.founded;
        placement.founded |= found;
        found.then(|| placement.members.clone())
    };
    let server = tonic::transport::Server::builder().add_service(groups.service());
    let serve = server.serve_with_incoming(incoming(PORT).await?);
    tokio::spawn(async move {
        if let Some(members) = found {
            group.found(&members).await.unwrap();
        }
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let wanted = placement.lock().members.clone();
            let mut ids: Vec<u64> = wanted.iter().map(|member| member.replica).collect();
            ids.sort_unstable();
            let status = group.status();
            let heir = live.lock().heir.take_if(|_| status.state == "leader");
            if let Some(heir) = heir.filter(|&heir| heir != group.replica()) {
                // It may not be ready to lead; then whoever is elected does.
                let _asked = group.transfer_leader(heir).await;
            }
            let mut voters = status.voters.clone();
            voters.sort_unstable();
            if status.state == "leader" && (voters != ids || !status.learners.is_empty()) {
                // It is tried again; the network may be cut.
                let _later = tokio::time::timeout(Duration::from_secs(3), group.set_members(&wanted)).await;
            }
        }
    });
    serve.await?;
    Ok(())
}

/// Appends, each text once, in a quiet time none, again with the same id until it is answered.
async fn run_client(
    client: u64,
    seed: u64,
    live: Arc<Mutex<Live>>,
    acknowledged: Arc<Mutex<Vec<String>>>,
) -> turmoil::Result {
    let mut random = StdRng::seed_from_u64(seed);
    let session = Session::new(client + 1);
    let began = tokio::time::Instant::now();
    let mut number = 0;
    while began.elapsed() < TROUBLE {
        if let Some(quiet) = quiet_for(began.elapsed()) {
            tokio::time::sleep(quiet).await;
            continue;
        }
        number += 1;
        let text = format!("client {client} write {number}");
        let request = session.begin(1);
        while began.elapsed() < TROUBLE + PEACE {
            let node = random.random_range(1..=NODES);
            let group = live.lock().groups.get(&node).cloned();
            if let Some(group) = group {
                let proposed = group.propose(Bytes::from(text.clone()), Some(request.id(0)));
                if matches!(tokio::time::timeout(Duration::from_secs(3), proposed).await, Ok(Ok(_))) {
                    acknowledged.lock().push(text);
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(5..40))).await;
        }
    }
    // Long enough for everybody to catch up.
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(())
}
