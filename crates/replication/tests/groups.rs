//! Groups as their users see them: three nodes in one process, over real connections.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells what it sees"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use trimaran_net::clock::SystemClock;
use trimaran_net::dial::TcpDial;
use trimaran_net::peers::Peers;
use trimaran_proto::internal::replication::replication_client::ReplicationClient;
use trimaran_proto::internal::replication::{SnapshotChunk, SnapshotHeader};
use trimaran_proto::state::log::{Membership, SnapshotMeta, Vote};
use trimaran_replication::Error;
use trimaran_replication::error::Stop;
use trimaran_replication::group::{Consistency, Group, Member};
use trimaran_replication::groups::{Durability, Durable, Groups, Options, Timing};
use trimaran_replication::machine::{Committed, Machine, Remember, Reply, SnapshotChunks};
use trimaran_replication::merge::{Merge, Merged};
use trimaran_replication::session::{RequestId, Session};
use trimaran_replication::split::Split;
use trimaran_storage::faulty::FaultyDisk;
use trimaran_storage::wal;

const GROUP: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes everything down in order; the reply is the place. A text belongs where its first byte says, and none at all
/// everywhere.
struct Journal {
    texts: Vec<Bytes>,
    tokens: (u64, u64),
    is_frozen: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self { texts: Vec::new(), tokens: (0, u64::MAX), is_frozen: false }
    }
}

/// Where texts with this first letter belong.
fn token(letter: u8) -> u64 {
    u64::from(letter) << 56
}

impl Machine for Journal {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop> {
        Ok(run
            .iter()
            .map(|command| {
                let token = command.payload.first().map_or(0, |&letter| token(letter));
                if !(self.tokens.0..=self.tokens.1).contains(&token) {
                    return Reply::Elsewhere(Bytes::from_static(b"elsewhere"));
                }
                self.texts.push(command.payload.clone());
                Reply::Done(Bytes::from(self.texts.len().to_string()))
            })
            .collect())
    }

    fn tokens(&self) -> (u64, u64) {
        self.tokens
    }

    fn split(&mut self, at: u64, _group: u64, _remember: Remember) -> Result<Self, Stop> {
        let new = Self { tokens: (at, self.tokens.1), ..Self::default() };
        self.tokens.1 = at - 1;
        let (stay, go) = std::mem::take(&mut self.texts).into_iter().partition(|text| token(text[0]) < at);
        self.texts = stay;
        Ok(Self { texts: go, ..new })
    }

    fn elsewhere(&self) -> Bytes {
        Bytes::from_static(b"elsewhere")
    }

    fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
    }

    fn merge(&mut self, chunks: &mut SnapshotChunks, _passed_ms: u64) -> Result<(), Stop> {
        let mut behind = Self::default();
        behind.restore(chunks)?;
        self.tokens.1 = behind.tokens.1;
        self.texts.extend(behind.texts);
        Ok(())
    }

    fn snapshot(&self) -> SnapshotChunks {
        let tokens = Bytes::from([self.tokens.0.to_be_bytes(), self.tokens.1.to_be_bytes()].concat());
        Box::new(std::iter::once(tokens).chain(self.texts.clone()).map(Ok))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let tokens = chunks.next().unwrap()?;
        self.tokens = (
            u64::from_be_bytes(tokens[..8].try_into().unwrap()),
            u64::from_be_bytes(tokens[8..].try_into().unwrap()),
        );
        self.texts = chunks.collect::<Result<_, _>>()?;
        Ok(())
    }
}

struct Node {
    id: u64,
    groups: Groups,
    group: Group<Journal>,
    server: JoinHandle<()>,
    peers: Peers,
    address: String,
}

impl Node {
    async fn start(id: u64, replica: u64, disk: Option<&FaultyDisk>, options: Options) -> Self {
        let peers = Peers::new(Arc::new(TcpDial));
        let durable = disk.map(|disk| {
            let wal = wal::Options { segment_bytes: 1 << 20, ..wal::Options::default() };
            Durable::open(Arc::new(disk.clone()), Arc::new(disk.clone()), wal).unwrap()
        });
        let durability = if disk.is_some() { Durability::Log } else { Durability::Memory };
        let groups = Groups::new(id, options, Arc::new(SystemClock), peers.clone(), durable);
        let listener = trimaran_net::listen::listen("127.0.0.1:0".parse().unwrap(), "--test").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = tonic::transport::Server::builder()
            .add_service(groups.service())
            .serve_with_incoming(trimaran_net::listen::incoming(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        let group = groups.open(GROUP, replica, durability, Journal::default()).await.unwrap();
        Self { id, groups, group, server, peers, address }
    }

    /// As kill -9 for the others: no good-bye, connections cut.
    async fn kill(self) {
        self.server.abort();
        self.groups.close_all().await;
    }
}

fn introduce(nodes: &[&Node]) {
    for one in nodes {
        for other in nodes {
            one.peers.set(other.id, &other.address).unwrap();
        }
    }
}

async fn three(durable: bool, options: Options) -> (Vec<Node>, Vec<FaultyDisk>) {
    let disks: Vec<FaultyDisk> = (0..3).map(|_| FaultyDisk::new()).collect();
    let mut nodes = Vec::new();
    for (id, disk) in (1..=3).zip(&disks) {
        nodes.push(Node::start(id, id * 10, durable.then_some(disk), options.clone()).await);
    }
    introduce(&nodes.iter().collect::<Vec<_>>());
    let members: Vec<Member> =
        nodes.iter().map(|node| Member { replica: node.id * 10, node: node.id }).collect();
    nodes[0].group.found(&members).await.unwrap();
    (nodes, disks)
}

/// Asks everybody until it is answered, with the same request id, as a client does.
async fn write(nodes: &[Node], text: &str, id: RequestId) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for node in nodes {
            match node.group.propose(Bytes::copy_from_slice(text.as_bytes()), Some(id)).await {
                Ok(reply) => return String::from_utf8(reply.to_vec()).unwrap(),
                Err(Error::NotLeader { .. } | Error::NoQuorum { .. } | Error::Unknown { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert!(Instant::now() < deadline, "no leader in {PATIENCE:?}: {:?}", statuses(nodes));
        sleep(Duration::from_millis(5)).await;
    }
}

fn statuses(nodes: &[Node]) -> Vec<trimaran_replication::group::Status> {
    nodes.iter().map(|node| node.group.status()).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    timeout(PATIENCE, async {
        while !holds().await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("did not happen in {PATIENCE:?}: {what}"));
}

async fn leader(nodes: &[Node]) -> usize {
    let mut found = 0;
    until("a leader that serves reads", async || {
        for (position, node) in nodes.iter().enumerate() {
            if node.group.barrier(Consistency::Linearizable).await.is_ok() {
                found = position;
                return true;
            }
        }
        false
    })
    .await;
    found
}

fn journal(node: &Node) -> Vec<String> {
    node.group.read_now(|journal| {
        journal.texts.iter().map(|entry| String::from_utf8(entry.to_vec()).unwrap()).collect()
    })
}

#[tokio::test]
async fn one_durable_replica_finds_its_data_after_a_loss_of_power() {
    let disk = FaultyDisk::new();
    let node = Node::start(1, 10, Some(&disk), Options::default()).await;
    introduce(&[&node]);
    node.group.found(&[Member { replica: 10, node: 1 }]).await.unwrap();
    let session = Session::new(1);
    let nodes = [node];
    for number in 1..=20 {
        assert_eq!(write(&nodes, &format!("w{number}"), session.begin(1).id(0)).await, number.to_string());
    }
    let [node] = nodes;
    node.kill().await;
    disk.lose_power(|| false);

    let nodes = [Node::start(1, 10, Some(&disk), Options::default()).await];
    introduce(&[&nodes[0]]);
    assert!(nodes[0].group.is_founded().await.unwrap());
    assert_eq!(write(&nodes, "after", session.begin(1).id(0)).await, "21");
    assert_eq!(journal(&nodes[0])[19], "w20");
}

#[tokio::test]
async fn writes_go_on_within_two_seconds_of_a_leaders_death_and_each_is_there_once() {
    for durable in [false, true] {
        let (mut nodes, _disks) = three(durable, Options::default()).await;
        let session = Session::new(2);
        write(&nodes, "first", session.begin(1).id(0)).await;
        let gone = leader(&nodes).await;
        // A request whose answer is lost: the leader carries it out, then dies.
        let lost = session.begin(1);
        let first_answer = write(&nodes, "lost", lost.id(0)).await;
        nodes.remove(gone).kill().await;
        let died = Instant::now();
        assert_eq!(write(&nodes, "lost", lost.id(0)).await, first_answer, "a retry gets the first answer");
        let back = died.elapsed();
        assert!(back < Duration::from_secs(10), "durable: {durable}: {back:?}");
        println!("durable: {durable}: writes were back after {back:?}");
        write(&nodes, "last", session.begin(1).id(0)).await;
        let now = leader(&nodes).await;
        assert_eq!(journal(&nodes[now]), ["first", "lost", "last"]);
    }
}

#[tokio::test]
async fn concurrent_proposals_are_answered_each_with_its_own_reply() {
    let (nodes, _) = three(false, Options::default()).await;
    let at = leader(&nodes).await;
    let mut waiting = Vec::new();
    for number in 0..2000_u32 {
        let group = nodes[at].group.clone();
        waiting.push(tokio::spawn(async move {
            let reply = group.propose(Bytes::from(number.to_string()), None).await.unwrap();
            (number, String::from_utf8(reply.to_vec()).unwrap().parse::<usize>().unwrap())
        }));
    }
    let mut places = BTreeMap::new();
    for task in waiting {
        let (number, place) = task.await.unwrap();
        places.insert(place, number.to_string());
    }
    let seen = journal(&nodes[at]);
    assert_eq!(seen.len(), 2000);
    for (place, number) in places {
        assert_eq!(seen[place - 1], number);
    }
    // Far fewer entries than commands: they were batched.
    assert!(nodes[at].group.status().last_log < 1000, "{}", nodes[at].group.status().last_log);
}

#[tokio::test]
async fn a_leader_that_gave_way_serves_no_reads_and_the_next_one_does() {
    let (nodes, _) = three(false, Options::default()).await;
    let session = Session::new(3);
    write(&nodes, "one", session.begin(1).id(0)).await;
    let old = leader(&nodes).await;
    let new = (old + 1) % 3;
    nodes[old].group.transfer_leader(nodes[new].group.replica()).await.unwrap();
    until("the target leads", async || nodes[new].group.is_leader()).await;
    write(&nodes[new..=new], "two", session.begin(1).id(0)).await;
    let refused = nodes[old].group.barrier(Consistency::Linearizable).await;
    assert!(matches!(refused, Err(Error::NotLeader { .. } | Error::NoQuorum { .. })), "{refused:?}");
    let read = nodes[new].group.read(Consistency::ReadIndex, |journal| journal.texts.len()).await.unwrap();
    assert_eq!(read, 2);
}

#[tokio::test]
async fn a_leadership_goes_to_whom_it_is_given_without_a_second_vote() {
    let (nodes, _) = three(false, Options::default()).await;
    let session = Session::new(3);
    write(&nodes, "one", session.begin(1).id(0)).await;
    let mut old = leader(&nodes).await;
    for _ in 0..20 {
        let group = &nodes[old].group;
        let term = group.status().term;
        let mut heir = None;
        until("somebody can take over", async || {
            heir = group.heir();
            heir.is_some()
        })
        .await;
        group.transfer_leader(heir.unwrap()).await.unwrap();
        until("another one leads", async || {
            nodes.iter().any(|node| node.group.is_leader() && node.group.status().term > term)
        })
        .await;
        old = leader(&nodes).await;
        let status = nodes[old].group.status();
        assert_eq!((Some(nodes[old].group.replica()), status.term), (heir, term + 1), "{status:?}");
    }
}

#[tokio::test]
async fn a_replica_that_lost_its_memory_comes_back_under_a_new_id_by_snapshot() {
    // A short log, so that what the new replica needs is no longer in it.
    let options = Options { log_bytes_max: 64 << 10, ..Options::default() };
    let (mut nodes, _) = three(false, options.clone()).await;
    let session = Session::new(4);
    let padding = "x".repeat(600);
    for number in 0..3000 {
        write(&nodes, &format!("{number} {padding}"), session.begin(1).id(0)).await;
    }
    let position = (leader(&nodes).await + 1) % 3;
    let dead = nodes.remove(position);
    let (id, old_replica) = (dead.id, dead.group.replica());
    dead.kill().await;
    write(&nodes, "while it is away", session.begin(1).id(0)).await;

    let back = Node::start(id, old_replica + 1, None, options).await;
    nodes.push(back);
    introduce(&nodes.iter().collect::<Vec<_>>());
    let members: Vec<Member> =
        nodes.iter().map(|node| Member { replica: node.group.replica(), node: node.id }).collect();
    until("the leader replaces the lost replica", async || {
        let at = leader(&nodes).await;
        nodes[at].group.set_members(&members).await.is_ok()
    })
    .await;
    let expected = journal(&nodes[leader(&nodes).await]);
    assert_eq!(expected.len(), 3001);
    until("the new replica has everything", async || journal(&nodes[2]) == expected).await;
    let at = leader(&nodes).await;
    let voters = nodes[at].group.status().voters;
    assert!(voters.contains(&(old_replica + 1)) && !voters.contains(&old_replica), "{voters:?}");
}

#[tokio::test]
async fn without_a_majority_nothing_is_acknowledged() {
    let options = Options {
        timing: Timing { proposal: Duration::from_secs(1), ..Default::default() },
        ..Options::default()
    };
    let (mut nodes, _) = three(false, options).await;
    let at = leader(&nodes).await;
    let survivor = nodes.remove(at);
    for node in nodes {
        node.kill().await;
    }
    let refused = survivor.group.propose(Bytes::from_static(b"lonely"), None).await.unwrap_err();
    assert!(
        matches!(refused, Error::Unknown { .. } | Error::NoQuorum { .. } | Error::NotLeader { .. }),
        "{refused}"
    );
    until("reads are refused once the lease is over", async || {
        survivor.group.barrier(Consistency::Linearizable).await.is_err()
    })
    .await;
}

/// The part of the new group that a node has, opened.
async fn open_new(node: &mut Node, durability: Durability) {
    let group = node.group.clone();
    let mut seed = None;
    until("the split is applied", async || {
        seed = group.take_seed(NEW);
        seed.is_some()
    })
    .await;
    node.group = node.groups.open_split(NEW, node.id * 100, durability, seed.unwrap()).await.unwrap();
}

const NEW: u64 = 8;

#[tokio::test]
async fn a_group_that_is_split_is_two_and_a_retry_finds_its_answer_in_the_new_one() {
    for durability in [Durability::Memory, Durability::Log] {
        let (mut nodes, disks) = three(durability == Durability::Log, Options::default()).await;
        let session = Session::new(5);
        write(&nodes, "a one", session.begin(1).id(0)).await;
        let lost = session.begin(1);
        assert_eq!(write(&nodes, "m two", lost.id(0)).await, "2");
        let at = leader(&nodes).await;
        let members = nodes.iter().map(|node| Member { replica: node.id * 100, node: node.id }).collect();
        let split = Split { at: token(b'm'), group: NEW, members };
        assert_eq!(nodes[at].group.split(split.clone()).await.unwrap(), split);
        // By a leader that did not hear of it, with other replicas: what was agreed counts.
        let again = Split { members: vec![Member { replica: 1, node: 1 }], ..split.clone() };
        assert_eq!(nodes[at].group.split(again).await.unwrap(), split);
        let impossible = Split { group: 9, at: token(b'z'), ..split };
        assert!(nodes[at].group.split(impossible).await.is_err());
        assert_eq!(write(&nodes, "m three", session.begin(1).id(0)).await, "elsewhere");
        assert_eq!(write(&nodes, "a four", session.begin(1).id(0)).await, "2");
        assert_eq!(journal(&nodes[at]), ["a one", "a four"]);
        for node in &mut nodes {
            open_new(node, durability).await;
        }
        nodes[at].group.campaign().await.unwrap();
        assert_eq!(write(&nodes, "m two", lost.id(0)).await, "2", "it was done before the split");
        assert_eq!(write(&nodes, "m five", session.begin(1).id(0)).await, "2");
        if durability == Durability::Memory {
            continue;
        }
        // All of them lose power; the new group goes on from its own snapshot and log.
        for node in nodes.drain(..) {
            node.kill().await;
        }
        for (id, disk) in (1..=3).zip(&disks) {
            disk.lose_power(|| false);
            let mut node = Node::start(id, id * 10, Some(disk), Options::default()).await;
            let opened = node.groups.open(NEW, id * 100, durability, Journal::default()).await;
            node.group = opened.unwrap();
            nodes.push(node);
        }
        introduce(&nodes.iter().collect::<Vec<_>>());
        assert_eq!(write(&nodes, "m six", session.begin(1).id(0)).await, "3");
        let at = leader(&nodes).await;
        assert_eq!(journal(&nodes[at]), ["m two", "m five", "m six"]);
    }
}

/// A split, and back again: what each of the two has done is known to the one that there is then, whoever loses power.
#[tokio::test]
async fn a_group_takes_over_what_the_one_behind_it_has_and_a_retry_finds_its_answer_there() {
    for durability in [Durability::Memory, Durability::Log] {
        let (mut nodes, disks) = three(durability == Durability::Log, Options::default()).await;
        let session = Session::new(5);
        write(&nodes, "a one", session.begin(1).id(0)).await;
        let before = session.begin(1);
        assert_eq!(write(&nodes, "m two", before.id(0)).await, "2");
        let old: Vec<Group<Journal>> = nodes.iter().map(|node| node.group.clone()).collect();
        let at = leader(&nodes).await;
        let members = nodes.iter().map(|node| Member { replica: node.id * 100, node: node.id }).collect();
        let split = Split { at: token(b'm'), group: NEW, members };
        old[at].split(split.clone()).await.unwrap();
        for node in &mut nodes {
            open_new(node, durability).await;
        }
        nodes[at].group.campaign().await.unwrap();
        let behind = session.begin(1);
        assert_eq!(write(&nodes, "m three", behind.id(0)).await, "2");

        let given_up = nodes[leader(&nodes).await].group.freeze(5).await.unwrap();
        let again = nodes[leader(&nodes).await].group.freeze(5).await.unwrap();
        assert_eq!(again[1..], given_up[1..], "asked for again, but for the clock");
        assert_eq!(write(&nodes, "m four", session.begin(1).id(0)).await, "elsewhere");
        let frozen = &nodes[leader(&nodes).await].group;
        frozen.thaw(4).await.unwrap();
        assert_eq!(write(&nodes, "m four", session.begin(1).id(0)).await, "elsewhere", "not for that one");
        frozen.thaw(5).await.unwrap();
        assert_eq!(frozen.frozen_for(), None);
        assert_eq!(write(&nodes, "m four", session.begin(1).id(0)).await, "3");

        let frozen = &nodes[leader(&nodes).await].group;
        let state = frozen.freeze(6).await.unwrap();
        assert!(frozen.freeze(5).await.is_err(), "that one is over");
        let mut leads = None;
        until("the old group has a leader", async || {
            for group in &old {
                if group.barrier(Consistency::Linearizable).await.is_ok() {
                    leads = Some(group.clone());
                }
            }
            leads.is_some()
        })
        .await;
        let leads = leads.unwrap();
        let merge = Merge { merge: 6, first: token(b'm'), state };
        let taken = Merged { merge: 6, taken: true };
        assert_eq!(leads.merge(merge.clone()).await.unwrap(), taken);
        // By a leader that did not hear of it, and gave it up: what was decided first counts.
        assert_eq!(leads.merge(Merge { state: Vec::new(), ..merge.clone() }).await.unwrap(), taken);
        assert!(leads.merge(Merge { merge: 5, ..merge }).await.is_err(), "a later one is decided");
        // A split that comes late does not take anything a second time.
        leads.split(split).await.unwrap();
        for (node, group) in nodes.iter_mut().zip(&old) {
            node.group = group.clone();
            node.groups.remove(NEW).await.unwrap();
        }
        let texts = ["a one", "m two", "m three", "m four"];
        assert_eq!(write(&nodes, "m two", before.id(0)).await, "2", "it was done before the split");
        assert_eq!(write(&nodes, "m three", behind.id(0)).await, "2", "it was done behind");
        assert_eq!(journal(&nodes[leader(&nodes).await]), texts);
        if durability == Durability::Log {
            for node in nodes.drain(..) {
                node.kill().await;
            }
            for (id, disk) in (1..=3).zip(&disks) {
                disk.lose_power(|| false);
                nodes.push(Node::start(id, id * 10, Some(disk), Options::default()).await);
            }
            introduce(&nodes.iter().collect::<Vec<_>>());
            assert_eq!(write(&nodes, "m three", behind.id(0)).await, "2", "still known");
        }
        assert_eq!(write(&nodes, "m five", session.begin(1).id(0)).await, "5");
        assert_eq!(nodes[leader(&nodes).await].group.last_merge(), Some(taken));
    }
}

fn sleepy() -> Options {
    let timing = Timing { hibernate_after: Duration::from_millis(300), ..Timing::default() };
    Options { timing, ..Options::default() }
}

async fn until_all_sleep(nodes: &[Node]) {
    until("all are asleep", async || nodes.iter().all(|node| node.group.status().is_asleep)).await;
}

#[tokio::test]
async fn a_group_that_nobody_uses_falls_asleep_and_wakes_up_when_it_is_asked() {
    let (nodes, _disks) = three(false, sleepy()).await;
    let session = Session::new(1);
    write(&nodes, "a", session.begin(1).id(0)).await;
    let leads = leader(&nodes).await;
    until_all_sleep(&nodes).await;
    let term = nodes[leads].group.status().term;

    // What is stale may be read of those that sleep.
    let read = nodes[leads].group.read(Consistency::Stale, |journal| journal.texts.len()).await;
    assert_eq!(read.unwrap(), 1);
    assert!(nodes[leads].group.status().is_asleep);
    // A read and a write that come after hours find the same leader, awake.
    for _ in 0..3 {
        sleep(Timing::default().election.1 * 2).await;
        let read = nodes[leads].group.read(Consistency::Linearizable, |journal| journal.texts.len()).await;
        assert_eq!(read.unwrap(), 1);
        until_all_sleep(&nodes).await;
    }
    let proposed = nodes[leads].group.propose(Bytes::from_static(b"b"), None).await;
    assert_eq!(proposed.unwrap(), "2");
    until("all have it", async || nodes.iter().all(|node| node.group.read_now(|it| it.texts.len()) == 2))
        .await;
    until_all_sleep(&nodes).await;
    // A follower that is asked wakes its leader, not an election.
    let follows = (leads + 1) % 3;
    let refused = nodes[follows].group.propose(Bytes::from_static(b"c"), None).await;
    assert!(matches!(refused, Err(Error::NotLeader { leader: Some(_), .. })), "{refused:?}");
    until_all_sleep(&nodes).await;
    let statuses: Vec<_> = nodes.iter().map(|node| node.group.status()).collect();
    assert!(statuses.iter().all(|status| status.term == term), "{statuses:?}");
    assert!(nodes[leads].group.is_leader());
}

#[tokio::test]
async fn a_group_alone_falls_asleep_and_wakes_up() {
    let node = Node::start(1, 10, None, sleepy()).await;
    node.group.found(&[Member { replica: 10, node: 1 }]).await.unwrap();
    for count in 1..=3 {
        until("it takes a write", async || node.group.propose(Bytes::from_static(b"a"), None).await.is_ok())
            .await;
        until("it sleeps", async || node.group.status().is_asleep).await;
        sleep(Timing::default().election.1 * 2).await;
        let read = node.group.read(Consistency::Linearizable, |journal| journal.texts.len()).await;
        assert_eq!(read.unwrap(), count);
    }
}

#[tokio::test]
async fn the_death_of_a_leader_wakes_those_that_slept_under_it() {
    let (mut nodes, _disks) = three(false, sleepy()).await;
    write(&nodes, "a", Session::new(1).begin(1).id(0)).await;
    let leads = leader(&nodes).await;
    until_all_sleep(&nodes).await;
    nodes.swap_remove(leads).kill().await;
    // Nobody asks for anything.
    until("another one leads", async || nodes.iter().any(|node| node.group.is_leader())).await;
    let read = async || {
        for node in &nodes {
            if let Ok(texts) = node.group.read(Consistency::Linearizable, |it| it.texts.len()).await {
                return texts == 1;
            }
        }
        false
    };
    until("the new leader has it", read).await;
    // With one of three missing, they stay awake.
    sleep(sleepy().timing.hibernate_after * 4).await;
    assert!(nodes.iter().all(|node| !node.group.status().is_asleep));
}

/// Begins to send a snapshot as the leader of a term, and says no more; ends when it is refused.
fn begin_snapshot(node: &Node, term: u64) -> (mpsc::Sender<SnapshotChunk>, JoinHandle<tonic::Code>) {
    let header = SnapshotHeader {
        group: GROUP,
        from: 20,
        to: node.group.replica(),
        vote: Some(Vote { term, replica: 20, committed: true }),
        meta: Some(SnapshotMeta { membership: Some(Membership::default()), ..SnapshotMeta::default() }),
    };
    let data = Bytes::from_static(b"begun");
    let checksum = trimaran_storage::format::crc(&data);
    let (chunks, stream) = mpsc::channel(1);
    chunks.try_send(SnapshotChunk { header: Some(header), data, checksum, total_chunks: 0 }).unwrap();
    let address = format!("http://{}", node.address);
    let sent = tokio::spawn(async move {
        let mut client = ReplicationClient::connect(address).await.unwrap();
        client.install_snapshot(ReceiverStream::new(stream)).await.unwrap_err().code()
    });
    (chunks, sent)
}

#[tokio::test]
async fn the_newest_attempt_of_the_newest_leader_to_send_a_snapshot_counts() {
    let node = Node::start(1, 10, None, Options::default()).await;
    let (_silent, first) = begin_snapshot(&node, 5);
    // As long as nothing of the first is there, an older leader's counts, until the first comes.
    until("an older leader is refused", async || {
        let (_chunks, older) = begin_snapshot(&node, 4);
        matches!(timeout(Duration::from_millis(500), older).await, Ok(Ok(tonic::Code::Unavailable)))
    })
    .await;
    assert!(!first.is_finished());
    // The same leader again: whatever became of the first, nobody waits for it.
    let (_silent, second) = begin_snapshot(&node, 5);
    assert_eq!(timeout(PATIENCE, first).await.unwrap().unwrap(), tonic::Code::Aborted);
    let (_silent, newer) = begin_snapshot(&node, 6);
    assert_eq!(timeout(PATIENCE, second).await.unwrap().unwrap(), tonic::Code::Aborted);
    assert!(!newer.is_finished());
}
