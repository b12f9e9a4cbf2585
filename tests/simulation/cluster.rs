//! One simulated life of a cluster: the real membership, placement, moves and replication.
//!
//! Without disks a node that crashes is gone with its memory, its id too: what comes back at its place is another node, which
//! joins. With disks it comes back with what it had flushed, unless its grace is over; all of them may crash at once.
//! The dead one is replaced after its grace. Clocks are apart, and go at speeds of their own. Meanwhile nodes are drained, copies moved, partitions split and merged by
//! hand, balancing is paused, and the network is cut. At the end everything must have healed by itself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use trimaran_cluster::autoscale::Usage;
use trimaran_cluster::identity::Identity;
use trimaran_cluster::member::{Cluster, Options};
use trimaran_cluster::meta::Meta;
use trimaran_cluster::replicas::Replicas;
use trimaran_net::clock::{Clock as _, ManualClock};
use trimaran_net::peers::Peers;
use trimaran_placement::plan;
use trimaran_placement::token::Token;
use trimaran_proto::api::cluster::cluster_admin_client::ClusterAdminClient;
use trimaran_proto::api::cluster::{BalanceRequest, DrainRequest, MergeRequest, MoveRequest, SplitRequest};
use trimaran_proto::api::placement::{NodeState, Partition, ReplicaState};
use trimaran_proto::state::meta::event::What;
use trimaran_proto::state::meta::{MergeStep, MoveStep};
use trimaran_replication::groups::{self, Durability, Groups, Timing};
use trimaran_replication::planted::{self, Bug};
use trimaran_replication::session::Session;

use crate::invariant::Watcher;
use crate::journal::{ACCOUNTS, token_of, transfer};
use crate::network::{SimulatedDial, incoming};
use crate::scenario::quiet_for;
use crate::subject::{Disks, Subject};

const PORT: u16 = 7000;

/// Places for nodes; three of them found the cluster, the others join when they are started.
const PLACES: u64 = 5;
const FOUNDERS: u64 = 3;
const PARTITIONS: u64 = 3;
/// Partitions that there are at most.
const PARTITIONS_MAX: usize = 10;
const CLIENTS: u64 = 8;

/// Banks with accounts between which clients transfer.
const BANKS: u32 = 6;

/// Writes that the clients must get done, about a fifth of what they do.
const ACKNOWLEDGED_MIN: usize = 50;

/// Grace of a dead node: short, as simulated time is dear.
const REPLACE_AFTER: Duration = Duration::from_secs(4);

/// Time without use after which a group hibernates.
const HIBERNATE_AFTER: Duration = Duration::from_millis(600);

/// Simulated time under faults, and the time to heal afterwards.
const TROUBLE: Duration = Duration::from_secs(30);
const PEACE: Duration = Duration::from_secs(40);

/// How far the clock of a node may be ahead of others at its start: for longer than answers are remembered. How much faster or
/// slower it may go: as much as one that somebody sets is followed.
const AHEAD_MAX: Duration = Duration::from_hours(2);
const DRIFT_MAX: f64 = 0.125;

/// A node that lives at a place.
struct Life<M: Subject> {
    cluster: Cluster,
    replicas: Replicas<M>,
}

struct World<M: Subject> {
    lives: BTreeMap<u64, Life<M>>,
    /// Places that a node has lived at.
    known: BTreeSet<u64>,
    disks: BTreeMap<u64, Disks>,
    /// Why a node could not go on with what it has.
    failed: Option<String>,
}

/// What all lives at all places share.
struct Shared<M: Subject> {
    world: Arc<Mutex<World<M>>>,
    ids: Arc<AtomicU64>,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    copies: usize,
}

impl<M: Subject> Clone for Shared<M> {
    fn clone(&self) -> Self {
        let (world, ids) = (Arc::clone(&self.world), Arc::clone(&self.ids));
        Self { world, ids, addresses: Arc::clone(&self.addresses), copies: self.copies }
    }
}

/// What a run that went well saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) acknowledged: usize,
    pub(crate) crashes: usize,
    pub(crate) drains: usize,
    pub(crate) cuts: usize,
    pub(crate) moves: usize,
    pub(crate) splits: usize,
    pub(crate) merges: usize,
    /// Steps of the simulation that saw a replica asleep.
    pub(crate) asleep: usize,
}

/// One run.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// What is done wrong on purpose.
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// One copy has nowhere to go but where it is moved to; three may lose one at any time.
    fn copies(self) -> usize {
        [3, 1, 3, 2, 3][self.seed as usize % 5]
    }
}

fn host(place: u64) -> String {
    format!("place-{place}")
}

impl Scenario {
    /// Runs it; an error is the invariant that was violated.
    pub(crate) fn run<M: Subject>(self) -> Result<Outcome, String> {
        planted::plant(self.bug);
        let outcome = self.run_as_it_is::<M>();
        planted::plant(None);
        outcome
    }

    fn run_as_it_is<M: Subject>(self) -> Result<Outcome, String> {
        let copies = self.copies();
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(self.seed)
            .enable_random_order()
            .simulation_duration(TROUBLE + PEACE + Duration::from_secs(60))
            .tick_duration(Duration::from_millis(5))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(15))
            .build();
        let world =
            World { lives: BTreeMap::new(), known: BTreeSet::new(), disks: BTreeMap::new(), failed: None };
        let world: Arc<Mutex<World<M>>> = Arc::new(Mutex::new(world));
        let addresses: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
        let shared = Shared {
            world: Arc::clone(&world),
            ids: Arc::new(AtomicU64::new(self.seed * 1_000_000 + 1)),
            addresses: Arc::clone(&addresses),
            copies,
        };
        let mut clocks: Vec<(ManualClock, f64)> = Vec::new();
        for place in 1..=PLACES {
            let ahead = random.random_range(0..=AHEAD_MAX.as_millis() as u64);
            let clock = ManualClock::at(1_000_000 + ahead);
            clocks.push((clock.clone(), 1.0 + random.random_range(-DRIFT_MAX..DRIFT_MAX)));
            let shared = shared.clone();
            sim.host(host(place), move || run_place(place, shared.clone(), clock.clone()));
        }
        *addresses.lock() = (1..=PLACES).map(|place| sim.lookup(host(place))).collect();
        let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
        for client in 0..CLIENTS {
            let (world, acknowledged) = (Arc::clone(&world), Arc::clone(&acknowledged));
            let seed = self.seed * 100 + client;
            sim.client(format!("client-{client}"), run_client(client, seed, world, acknowledged));
        }
        let operator: Arc<Mutex<Vec<Order>>> = Arc::default();
        sim.client("operator", run_operator(Arc::clone(&operator), Arc::clone(&addresses)));

        let started: Vec<u64> = clocks.iter().map(|(clock, _)| clock.now_ms()).collect();
        let watchers: Rc<RefCell<BTreeMap<u64, Watcher>>> = Rc::default();
        let mut outcome = Outcome::default();
        let mut next_fault = Duration::from_secs(3);
        let mut down: Option<(Vec<u64>, Duration)> = None;
        let mut cut: Option<(u64, u64, bool, Duration)> = None;
        loop {
            let finished = sim.step().map_err(|error| format!("the simulation failed: {error}"))?;
            let now = sim.elapsed();
            for (place, (clock, speed)) in (1..).zip(&clocks) {
                let should = started[place - 1] + (now.as_millis() as f64 * speed) as u64;
                clock.advance(Duration::from_millis(should.saturating_sub(clock.now_ms())));
            }
            outcome.asleep += usize::from(look(&world, &watchers)?);
            if let Some(why) = &world.lock().failed {
                return Err(format!("a node cannot go on: {why}"));
            }
            if finished {
                break;
            }
            if let Some((a, b, one_way, _)) = cut.filter(|(_, _, _, until)| now >= *until) {
                if one_way {
                    sim.repair_oneway(host(a), host(b));
                } else {
                    sim.repair(host(a), host(b));
                }
                cut = None;
            }
            for place in down.take_if(|(_, until)| now >= *until).map_or(Vec::new(), |(places, _)| places) {
                sim.bounce(host(place));
            }
            if now < TROUBLE && now >= next_fault && down.is_none() && cut.is_none() {
                next_fault = now + Duration::from_millis(random.random_range(200..1200));
                let a = random.random_range(1..=PLACES);
                let b = (a + random.random_range(1..PLACES) - 1) % PLACES + 1;
                let lasts = now + Duration::from_millis(random.random_range(100..5000));
                match random.random_range(0..11) {
                    0 | 1 if can_lose(&world.lock(), a, copies) => {
                        let all = M::HAS_DISKS && random.random_bool(0.2);
                        let victims: Vec<u64> = if all { (1..=PLACES).collect() } else { vec![a] };
                        for &place in &victims {
                            sim.crash(host(place));
                            let mut world = world.lock();
                            world.lives.remove(&place);
                            if let Some(disks) = world.disks.get_mut(&place) {
                                disks.lose_power(&mut random);
                            }
                            outcome.crashes += 1;
                        }
                        down = Some((victims, lasts));
                    }
                    2 => {
                        sim.partition_oneway(host(a), host(b));
                        outcome.cuts += 1;
                        cut = Some((a, b, true, lasts));
                    }
                    3 | 4 => {
                        sim.partition(host(a), host(b));
                        outcome.cuts += 1;
                        cut = Some((a, b, false, lasts));
                    }
                    5 => {
                        let node = world.lock().lives.get(&a).map(|life| life.cluster.node());
                        operator.lock().extend(node.map(|node| Order::Drain { over: b, node }));
                        outcome.drains += 1;
                    }
                    6 => {
                        let order = some_split(&world.lock(), &mut random);
                        operator.lock().extend(order.map(|order| Order::Split { over: b, order }));
                    }
                    8 | 9 => {
                        let order = some_merge(&world.lock(), &mut random);
                        operator.lock().extend(order.map(|order| Order::Merge { over: b, order }));
                    }
                    7 => {
                        let order = some_move(&world.lock(), &mut random);
                        operator.lock().extend(order.map(|order| Order::Move { over: b, order }));
                    }
                    _ => operator.lock().push(Order::Balance { over: b, paused: random.random_bool(0.3) }),
                }
            }
            if now >= TROUBLE && cut.is_none() && down.is_none() && !operator.lock().contains(&Order::Peace) {
                operator.lock().push(Order::Peace);
            }
        }
        let acknowledged = acknowledged.lock();
        let world_now = world.lock();
        let meta = newest(&world_now).ok_or("nobody lives")?;
        drop(world_now);
        let mut by_partition: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for text in acknowledged.iter() {
            let partition = partition_of(&meta, text).ok_or("a text that belongs nowhere")?;
            by_partition.entry(partition).or_default().push(text.clone());
        }
        outcome.acknowledged = acknowledged.len();
        if outcome.acknowledged < ACKNOWLEDGED_MIN {
            return Err(format!("only {} writes were acknowledged", outcome.acknowledged));
        }
        let world = world.lock();
        if !is_whole(&world, copies) {
            return Err(format!("it did not heal: {}", describe(&world)));
        }
        let is_up = |life: &Life<M>| {
            meta.nodes.get(&life.cluster.node()).is_some_and(|node| node.state() == NodeState::Up)
        };
        if !world.lives.values().all(is_up) {
            return Err(format!("a node that is gone does not know it: {}", describe(&world)));
        }
        for (id, group) in world.lives.values().flat_map(|life| life.replicas.all()) {
            let watchers = watchers.borrow();
            let watcher = watchers.get(&id).ok_or("a partition that nobody has")?;
            let texts = by_partition.get(&id).map_or(&[][..], Vec::as_slice);
            let seen = group.read_now(|machine| machine.at_the_end(watcher, texts));
            seen.map_err(|error| format!("partition {id}, replica {}: {error}", group.replica()))?;
        }
        for what in meta.events.iter().filter_map(|event| event.what) {
            match what {
                What::Move(event) if event.step() == MoveStep::Done => outcome.moves += 1,
                What::Split(event) if event.done => outcome.splits += 1,
                What::Merge(event) if event.step() == MergeStep::Done => outcome.merges += 1,
                _ => {}
            }
        }
        Ok(outcome)
    }
}

/// The newest agreed state that anybody has.
fn newest<M: Subject>(world: &World<M>) -> Option<Arc<Meta>> {
    let all = world.lives.values().map(|life| Arc::clone(&life.cluster.meta().borrow()));
    all.max_by_key(|meta| meta.version)
}

/// The partition that a text belongs to.
fn partition_of(meta: &Meta, text: &str) -> Option<u64> {
    let token = token_of(text).0;
    let found =
        meta.partitions.values().find(|found| (found.first_token..=found.last_token).contains(&token));
    found.map(|found| found.id)
}

/// True if what is at a place may be lost for good: copies in memory only while all others are whole, and only if a
/// majority is left.
fn can_lose<M: Subject>(world: &World<M>, place: u64, copies: usize) -> bool {
    let Some(life) = world.lives.get(&place) else { return false };
    if M::HAS_DISKS {
        return true;
    }
    let holds_nothing = newest(world).is_some_and(|meta| !meta.holds_replicas(life.cluster.node()));
    is_whole(world, copies) && (copies > 2 || holds_nothing)
}

/// Every partition has all of its copies, voting, on nodes that live and are heard of; and so is the meta group.
fn is_whole<M: Subject>(world: &World<M>, copies: usize) -> bool {
    let Some(meta) = newest(world) else { return false };
    let alive: BTreeMap<u64, &Life<M>> =
        world.lives.values().map(|life| (life.cluster.node(), life)).collect();
    let is_up = |node: u64| {
        alive.contains_key(&node) && meta.nodes.get(&node).is_some_and(|node| node.state() == NodeState::Up)
    };
    let is_complete = |partition: &Partition| {
        let replicas: BTreeSet<u64> = partition.replicas.iter().map(|replica| replica.id).collect();
        let groups: Vec<_> = partition
            .replicas
            .iter()
            .filter_map(|replica| alive.get(&replica.node_id)?.replicas.get(partition.id))
            .collect();
        let Some(leader) = groups.iter().find(|group| group.is_leader()) else { return false };
        let members = leader.members();
        let statuses: Vec<_> = groups.iter().map(|group| group.status()).collect();
        !partition.lost
            && partition.splitting_off.is_none()
            && partition.merging.is_none()
            && groups.iter().all(|group| group.read_now(|machine| !machine.is_frozen()))
            && partition.replicas.len() == copies
            && partition
                .replicas
                .iter()
                .all(|replica| is_up(replica.node_id) && replica.state() == ReplicaState::Unspecified)
            && groups.iter().all(|group| replicas.contains(&group.replica()))
            && members.is_ok_and(|members| members.is_settled && members.voters == replicas)
            && statuses.iter().all(|status| status.applied + 50 >= leader.status().applied)
    };
    let meta_voters = world.lives.values().find_map(|life| {
        let status = life.cluster.meta_status();
        (status.state == "leader").then_some(status)
    });
    !meta.partitions.is_empty()
        && meta.partitions.values().all(is_complete)
        && meta_voters.is_some_and(|status| status.voters.iter().all(|&voter| is_up(voter)))
}

fn describe<M: Subject>(world: &World<M>) -> String {
    let Some(meta) = newest(world) else { return "nobody lives".to_owned() };
    let nodes: Vec<String> =
        meta.nodes.values().map(|node| format!("{} {:?}", node.id, node.state())).collect();
    let alive: Vec<u64> = world.lives.values().map(|life| life.cluster.node()).collect();
    let groups: Vec<String> = world
        .lives
        .values()
        .flat_map(|life| {
            let node = life.cluster.node();
            life.replicas.all().into_iter().map(move |(id, group)| {
                let status = group.status();
                format!(
                    "{id}:{}@{node} {}{} term {} log {} applied {} voters {:?} learners {:?}",
                    group.replica(),
                    status.state,
                    if status.is_asleep { " asleep" } else { "" },
                    status.term,
                    status.last_log,
                    status.applied,
                    status.voters,
                    status.learners
                )
            })
        })
        .collect();
    format!("alive {alive:?}\n nodes {nodes:#?}\n {:#?}\n groups {groups:#?}", meta.partitions)
}

/// Looks at everything. True if some replica is asleep.
fn look<M: Subject>(
    world: &Mutex<World<M>>,
    watchers: &RefCell<BTreeMap<u64, Watcher>>,
) -> Result<bool, String> {
    let mut is_asleep = false;
    let mut watchers = watchers.borrow_mut();
    let world = world.lock();
    for (id, group) in world.lives.values().flat_map(|life| life.replicas.all()) {
        let watcher = watchers.entry(id).or_default();
        let status = group.status();
        is_asleep |= status.is_asleep;
        let seen = watcher.see_status(group.replica(), &status);
        let seen = seen.and_then(|()| group.read_now(|machine| machine.see(group.replica(), watcher)));
        seen.map_err(|error| format!("partition {id}: {error}"))?;
    }
    Ok(is_asleep)
}

/// What lives at a place, one life after another: a node that is gone from its cluster comes back as another one.
async fn run_place<M: Subject>(place: u64, shared: Shared<M>, clock: ManualClock) -> turmoil::Result {
    let Shared { world, ids, addresses, copies } = shared;
    loop {
        let seeds: Vec<String> = addresses.lock().iter().map(|ip| format!("{ip}:{PORT}")).collect();
        let own = seeds[place as usize - 1].clone();
        let id = ids.fetch_add(2, Ordering::Relaxed);
        // The first nodes of three places found the cluster; whoever comes later joins it.
        let founds = world.lock().known.insert(place) && place <= FOUNDERS;
        let disks = world.lock().disks.entry(place).or_default().clone();
        let (home, identity, durable) = if M::HAS_DISKS {
            let (home, identity, durable) = disks.open(id)?;
            (Some(home), identity, Some(durable))
        } else {
            let identity =
                Identity { node: id, boot: id + 1, cluster: String::new(), machine_restarted: false };
            (None, identity, None)
        };
        let peers = Peers::new(Arc::new(SimulatedDial));
        let options = groups::Options {
            timing: Timing {
                proposal: Duration::from_secs(2),
                hibernate_after: HIBERNATE_AFTER,
                ..Timing::default()
            },
            // Short, so that replicas that come need snapshots.
            log_bytes_max: 2 << 10,
            log_bytes_min: 2 << 10,
            entries_kept: 4,
            boot: identity.boot,
        };
        let (node, clock) = (identity.node, Arc::new(clock.clone()));
        let groups = Groups::new(node, options, clock, peers.clone(), durable);
        let cluster = Cluster::open(
            Options {
                kind: "grid",
                version: "simulated",
                identity,
                home,
                address: own,
                resp_address: String::new(),
                zone: String::new(),
                weight: 1,
                seeds,
                bootstrap: founds.then_some(FOUNDERS as usize),
                partitions: PARTITIONS,
                replication_factor: copies as u32,
                meta_durability: if M::HAS_DISKS { Durability::Flushed } else { Durability::Memory },
                lost_memory: !M::HAS_DISKS,
                replace_after: REPLACE_AFTER,
                drain: false,
                split_above: None,
                meter: Arc::new(Usage::default),
                autoscale: None,
            },
            groups.clone(),
            peers,
        )
        .await?;
        let (durability, rows) =
            (if M::HAS_DISKS { Durability::Log } else { Durability::Memory }, disks.rows());
        let replicas = Replicas::keep(cluster.clone(), durability, move |partition| M::of(&rows, partition));
        let server = tonic::transport::Server::builder()
            .add_service(groups.service())
            .add_service(cluster.cluster_service())
            .add_service(cluster.placement_service())
            .add_service(cluster.admin_service());
        let serving = tokio::spawn(server.serve_with_incoming(incoming(PORT).await?));
        world.lock().lives.insert(place, Life { cluster: cluster.clone(), replicas });
        let life = async {
            cluster.enter().await?;
            cluster.gone().await;
            Ok::<_, trimaran_cluster::Error>(())
        };
        tokio::select! {
            // An error is a refusal: this node will not become a member; another one may.
            _refused = life => {}
            why = groups.failed() => world.lock().failed = Some(format!("place {place}: {why}")),
        }
        world.lock().lives.remove(&place);
        groups.close_all().await;
        serving.abort();
        // Another node comes next, with other disks.
        world.lock().disks.remove(&place);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Appends, each text once, in a quiet time none, again with the same id until it is answered.
async fn run_client<M: Subject>(
    client: u64,
    seed: u64,
    world: Arc<Mutex<World<M>>>,
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
        let who = format!("client {client} write {number}");
        let text = if random.random_bool(0.3) {
            let [from, to] = [0; 2].map(|_| random.random_range(0..ACCOUNTS));
            transfer(random.random_range(0..BANKS), from, to, random.random_range(1..10), &who)
        } else {
            who
        };
        let request = session.begin(1);
        // As if the first answer had been lost on its way: it is sent again, perhaps after everything has moved.
        let mut answers = if random.random_bool(0.3) { 2 } else { 1 };
        while began.elapsed() < TROUBLE + PEACE {
            let group = {
                let world = world.lock();
                let place = random.random_range(1..=PLACES);
                // As this node sees the cluster: it may not know yet what was split.
                world.lives.get(&place).and_then(|life| {
                    let partition = partition_of(&life.cluster.meta().borrow(), &text)?;
                    life.replicas.get(partition)
                })
            };
            if let Some(group) = group {
                let proposed = group.propose(M::command(&text), Some(request.id(0)));
                let reply = tokio::time::timeout(Duration::from_secs(3), proposed).await;
                if matches!(reply, Ok(Ok(reply)) if M::is_written(&reply)) {
                    answers -= 1;
                    if answers == 0 {
                        acknowledged.lock().push(text);
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..4000))).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(10..60))).await;
        }
    }
    // Time for the cluster to heal.
    tokio::time::sleep_until(began + TROUBLE + PEACE).await;
    Ok(())
}

/// What the operator is told to do, over which place.
#[derive(Clone, Debug, PartialEq)]
enum Order {
    Drain {
        over: u64,
        node: u64,
    },
    Move {
        over: u64,
        order: MoveRequest,
    },
    Split {
        over: u64,
        order: SplitRequest,
    },
    Merge {
        over: u64,
        order: MergeRequest,
    },
    Balance {
        over: u64,
        paused: bool,
    },
    /// Balancing on again, for good.
    Peace,
}

fn some_move<M: Subject>(world: &World<M>, random: &mut StdRng) -> Option<MoveRequest> {
    let meta = newest(world)?;
    let partition = meta.partitions.values().choose(random)?;
    let from_node = partition.replicas.iter().choose(random)?.node_id;
    let to_node = meta.nodes.values().filter(|node| node.state() == NodeState::Up).choose(random)?.id;
    Some(MoveRequest { partition_id: partition.id, from_node, to_node })
}

fn some_split<M: Subject>(world: &World<M>, random: &mut StdRng) -> Option<SplitRequest> {
    let meta = newest(world)?;
    if meta.partitions.len() >= PARTITIONS_MAX {
        return None;
    }
    let partition = meta.partitions.values().choose(random)?;
    let share = random.random_range(0.0..1.0);
    let (first, last) = (Token(partition.first_token), Token(partition.last_token));
    let at_token = Some(plan::boundary_within(first, last, share)?.0);
    Some(SplitRequest { partition_id: partition.id, at_token })
}

fn some_merge<M: Subject>(world: &World<M>, random: &mut StdRng) -> Option<MergeRequest> {
    let meta = newest(world)?;
    let partition = meta.partitions.values().choose(random)?;
    Some(MergeRequest { partition_id: partition.id })
}

async fn run_operator(orders: Arc<Mutex<Vec<Order>>>, addresses: Arc<Mutex<Vec<IpAddr>>>) -> turmoil::Result {
    let began = tokio::time::Instant::now();
    let mut done = 0;
    let peers = Peers::new(Arc::new(SimulatedDial));
    while began.elapsed() < TROUBLE + PEACE {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(order) = orders.lock().get(done).cloned() else { continue };
        done += 1;
        let over = match order {
            Order::Drain { over, .. }
            | Order::Move { over, .. }
            | Order::Split { over, .. }
            | Order::Merge { over, .. }
            | Order::Balance { over, .. } => over,
            Order::Peace => 1 + done as u64 % PLACES,
        };
        let address = addresses.lock()[over as usize - 1];
        let mut admin = ClusterAdminClient::new(peers.separate_channel(&format!("{address}:{PORT}"))?);
        // It may be refused, or the place be down or cut off: that is the operator's life.
        let is_peace = order == Order::Peace;
        let carried_out = async {
            match order {
                Order::Drain { node: node_id, .. } => admin.drain(DrainRequest { node_id }).await.is_ok(),
                Order::Move { order, .. } => admin.r#move(order).await.is_ok(),
                Order::Split { order, .. } => admin.split(order).await.is_ok(),
                Order::Merge { order, .. } => admin.merge(order).await.is_ok(),
                Order::Balance { paused, .. } => admin.balance(BalanceRequest { paused }).await.is_ok(),
                Order::Peace => admin.balance(BalanceRequest { paused: false }).await.is_ok(),
            }
        };
        let carried_out = tokio::time::timeout(Duration::from_secs(3), carried_out).await.unwrap_or(false);
        if is_peace && !carried_out {
            orders.lock().push(Order::Peace);
        }
    }
    Ok(())
}
