//! Locks, semaphores and elections: with the SDK, over plain gRPC, and as a command.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;
use trimaran_client::Error;
use trimaran_client::coordination::{Guard, Leader};
use trimaran_client::grid::Grid;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::coordination::coordination_client::CoordinationClient;
use trimaran_proto::api::coordination::{AcquireRequest, ReleaseRequest, RenewRequest};
use trimaran_tests::harness::process::{Cluster, binary};
use trimaran_tests::harness::until;

const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(500);

fn client(address: &str) -> CoordinationClient<Channel> {
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    CoordinationClient::new(channel(&dial, address).unwrap())
}

/// Waits for a lock in the background, and returns once it has its place.
async fn queues(grid: &Grid, name: &'static str, ahead: usize) -> tokio::task::JoinHandle<Guard> {
    let waiting = grid.clone();
    let acquired = tokio::spawn(async move { waiting.lock(name).acquire(PATIENCE).await.unwrap().unwrap() });
    until("it has a place in the queue", async || {
        grid.lock(name).describe().await.unwrap().queue.len() == ahead + 1
    })
    .await;
    acquired
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_to_who_waits_in_the_order_in_which_they_came() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let grid = cluster.grid_client().await;
    let first = grid.lock("lock").try_acquire().await.unwrap().unwrap();
    assert!(grid.lock("lock").try_acquire().await.unwrap().is_none());
    assert!(grid.lock("lock").acquire(Duration::from_millis(50)).await.unwrap().is_none());
    assert_eq!(grid.lock("lock").describe().await.unwrap().queue.len(), 0, "those gave their places up");
    let second = queues(&grid, "lock", 0).await;
    let dropped = queues(&grid, "lock", 1).await;
    let third = queues(&grid, "lock", 2).await;
    // One that goes away while it waits is not waited for.
    dropped.abort();
    until("its place is given up", async || grid.lock("lock").describe().await.unwrap().queue.len() == 2)
        .await;
    assert!(first.is_held());
    let tokens = [first.token(), 0, 0];
    assert!(first.release().await.unwrap());
    let second = second.await.unwrap();
    let third_token = {
        assert!(!third.is_finished());
        let token = second.token();
        // Given back without anybody who waits for that.
        drop(second);
        let third = third.await.unwrap();
        assert!(token > tokens[0] && third.token() > token);
        third
    };
    assert_eq!(third_token.run(async { 7 }).await.unwrap(), 7);
    assert!(third_token.release().await.unwrap());
    assert_eq!(grid.lock("lock").describe().await.unwrap().permits, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_semaphore_has_so_many_permits_and_is_no_key() {
    let cluster = Cluster::grid(1, "memory", 2).await;
    let grid = cluster.grid_client().await;
    let two = grid.semaphore("pool", 3).take(2).value("worker 1").try_acquire().await.unwrap().unwrap();
    let one = grid.semaphore("pool", 3).try_acquire().await.unwrap().unwrap();
    assert!(grid.semaphore("pool", 3).try_acquire().await.unwrap().is_none());
    let refused = grid.semaphore("pool", 4).try_acquire().await.unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)) && refused.to_string().contains("permits"), "{refused}");
    let held = grid.semaphore("pool", 3).describe().await.unwrap();
    assert_eq!((held.permits, held.holdings.len(), &held.holdings[0].value[..]), (3, 2, &b"worker 1"[..]));
    assert_eq!((held.holdings[0].token, held.holdings[0].taken), (two.token(), 2));
    // What Redis clients do with keys has nothing to do with it.
    let redis = redis::Client::open(format!("redis://{}", cluster.nodes[0].front)).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SET").arg("pool").arg("a key").exec_async(&mut redis).await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    assert_eq!(redis::cmd("DBSIZE").query_async::<u64>(&mut redis).await.unwrap(), 0);
    assert!(two.is_held() && grid.semaphore("pool", 3).try_acquire().await.unwrap().is_none());
    two.set_value("worker 2").await.unwrap();
    let held = grid.semaphore("pool", 3).describe().await.unwrap();
    assert_eq!(&held.holdings[0].value[..], b"worker 2");
    assert!(one.release().await.unwrap() && two.release().await.unwrap());
    assert!(grid.semaphore("pool", 4).try_acquire().await.unwrap().is_some(), "nobody says otherwise now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_is_told_and_who_leads_next() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let grid = cluster.grid_client().await;
    let election = grid.election("scheduler").lease(SHORT);
    assert_eq!(election.leader().await.unwrap(), None);
    let mut leaders = election.observe();
    assert_eq!(leaders.next().await.unwrap(), None);
    let first = election.campaign("10.0.0.1", PATIENCE).await.unwrap().unwrap();
    let told = Some(Leader { value: "10.0.0.1".into(), token: first.token() });
    assert_eq!((leaders.next().await.unwrap(), election.leader().await.unwrap()), (told.clone(), told));
    let campaign = election.clone();
    let second = tokio::spawn(async move { campaign.campaign("10.0.0.2", PATIENCE).await.unwrap().unwrap() });
    first.set_value("10.0.0.1:80").await.unwrap();
    until_told(&mut leaders, "10.0.0.1:80").await;
    let began = Instant::now();
    until("its lease has begun anew, many times over", async || began.elapsed() > SHORT * 4).await;
    assert!(first.is_held() && !second.is_finished());
    first.release().await.unwrap();
    let second = second.await.unwrap();
    let told = until_told(&mut leaders, "10.0.0.2").await;
    assert_eq!(told.token, second.token());
}

async fn until_told(leaders: &mut trimaran_client::coordination::Leaders, value: &str) -> Leader {
    loop {
        if let Some(leader) = leaders.next().await.unwrap()
            && leader.value == value
        {
            return leader;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_stood_still_cannot_write() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    let grid = cluster.grid_client().await;
    let (held, holds) = std::sync::mpsc::channel();
    let (goes_on, stands_still) = std::sync::mpsc::channel();
    let addresses = cluster.addresses();
    // With one thread, which stands still as a whole: so does what renews the lease.
    let holder = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let grid = Grid::connect(addresses).await.unwrap();
            let guard = grid.lock("{17}/lock").lease(SHORT).try_acquire().await.unwrap().unwrap();
            guard.grid().set("{17}/state", "first").await.unwrap();
            held.send(guard.token()).unwrap();
            stands_still.recv().unwrap();
            let is_held = guard.is_held();
            let refused = guard.grid().set("{17}/state", "too late").await.unwrap_err();
            let stopped = guard.run(std::future::pending::<()>()).await.unwrap_err();
            (is_held, refused, stopped, guard.release().await.unwrap())
        })
    });
    let token = holds.recv().unwrap();
    let next = grid.lock("{17}/lock").acquire(PATIENCE).await.unwrap().unwrap();
    assert!(next.token() > token);
    next.grid().set("{17}/state", "second").await.unwrap();
    goes_on.send(()).unwrap();
    let (is_held, refused, stopped, was_held) = holder.join().unwrap();
    assert!(!is_held && !was_held);
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    assert!(matches!(stopped, Error::LeaseLost(_)), "{stopped}");
    assert_eq!(grid.get("{17}/state").await.unwrap().as_deref(), Some(&b"second"[..]));
    // Everything that writes is refused with what is over, and a key elsewhere with anything.
    let late = grid.fenced(trimaran_proto::api::grid::Fence { name: "{17}/lock".into(), token });
    assert!(matches!(late.delete("{17}/state").await, Err(Error::Conflict(_))));
    assert!(matches!(late.increment("{17}/count", 1).await, Err(Error::Conflict(_))));
    assert!(matches!(
        late.compare_and_swap("{17}/new", None, Some("v".into())).await,
        Err(Error::Conflict(_))
    ));
    assert!(matches!(late.expire("{17}/state", None).await, Err(Error::Conflict(_))));
    assert!(matches!(next.grid().set("elsewhere", "v").await, Err(Error::Invalid(_))));
    assert_eq!(next.grid().increment("{17}/count", 1).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_while_the_lock_is_held_and_ends_with_it() {
    let cluster = Cluster::grid(1, "memory", 2).await;
    let grid = cluster.grid_client().await;
    let address = cluster.nodes[0].grpc.clone();
    let folder = tempfile::tempdir().unwrap();
    let lock = |lease_ms: &str, script: &str| {
        let mut command = Command::new(binary());
        command.args(["grid", "--address", &address, "lock", "{17}/lock", "--lease-ms", lease_ms]);
        command.args(["--", "sh", "-c", script]).env("TRIMARAN", binary()).env("ADDRESS", &address);
        command.current_dir(folder.path()).stdin(Stdio::null());
        command
    };
    let script = r#"echo "$TRIMARAN_FENCE $TRIMARAN_FENCING_TOKEN"; exit 7"#;
    let ran = lock("10000", script).output().unwrap();
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    let said = String::from_utf8(ran.stdout).unwrap();
    let (fence, first) = said.trim().split_once(' ').unwrap();
    assert_eq!(fence, format!("{{17}}/lock:{first}"));

    // It stands still as a whole, and another one has the lock meanwhile. What it writes then is refused.
    let script = r#"touch begun; while [ ! -e late ]; do sleep 0.05; done
        "$TRIMARAN" grid --address "$ADDRESS" set "{17}/state" late --fence "$TRIMARAN_FENCE" 2> said; touch wrote; sleep 60"#;
    let mut paused = lock("500", script).stderr(Stdio::piped()).spawn().unwrap();
    until("it has begun", async || folder.path().join("begun").exists()).await;
    let pid = Pid::from_raw(paused.id() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let guard = grid.lock("{17}/lock").acquire(PATIENCE).await.unwrap().unwrap();
    assert!(guard.token() > first.parse().unwrap());
    guard.grid().set("{17}/state", "in time").await.unwrap();
    std::fs::write(folder.path().join("late"), "").unwrap();
    until("it has written", async || folder.path().join("wrote").exists()).await;
    let refused = std::fs::read_to_string(folder.path().join("said")).unwrap();
    assert!(refused.contains("is over"), "{refused}");
    kill_process(pid, Signal::CONT).unwrap();
    let mut code = None;
    until("it has ended with its command", async || {
        code = paused.try_wait().unwrap();
        code.is_some()
    })
    .await;
    assert_eq!(code.unwrap().code(), Some(75));
    assert_eq!(grid.get("{17}/state").await.unwrap().as_deref(), Some(&b"in time"[..]));

    // Who is not served in time says so, and where to look.
    let mut held = Command::new(binary());
    held.args(["grid", "--address", &address, "lock", "{17}/lock", "--wait-ms", "50", "--", "true"]);
    let held = held.output().unwrap();
    assert_eq!(held.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&held.stderr).contains("grid holders {17}/lock"), "{held:?}");
    let mut holders = Command::new(binary());
    holders.args(["grid", "--address", &address, "-o", "json", "holders", "{17}/lock"]);
    let holders: serde_json::Value = serde_json::from_slice(&holders.output().unwrap().stdout).unwrap();
    assert_eq!(holders["holdings"][0]["token"], guard.token());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_the_sdk_are_told_what_is_wrong_and_lose_their_place_when_they_go() {
    let cluster = Cluster::grid(3, "memory", 2).await;
    let mut any = client(&cluster.nodes[1].grpc);
    let asks = |holder: &'static str| AcquireRequest {
        name: "lock".into(),
        holder: holder.into(),
        lease_ms: 60_000,
        ..AcquireRequest::default()
    };
    for (bad, field) in [
        (AcquireRequest { name: "".into(), ..asks("a") }, "name"),
        (AcquireRequest { name: vec![b'n'; 1025].into(), ..asks("a") }, "SEMAPHORE_NAME_BYTES_MAX"),
        (asks(""), "holder"),
        (AcquireRequest { holder: vec![b'h'; 257].into(), ..asks("a") }, "HOLDER_BYTES_MAX"),
        (AcquireRequest { lease_ms: 99, ..asks("a") }, "LEASE_MS"),
        (AcquireRequest { lease_ms: 86_400_001, ..asks("a") }, "LEASE_MS"),
        (AcquireRequest { permits: 65_537, ..asks("a") }, "PERMITS_MAX"),
        (AcquireRequest { permits: 2, take: 3, ..asks("a") }, "take"),
        (AcquireRequest { value: vec![0; 4097].into(), ..asks("a") }, "HOLDER_VALUE_BYTES_MAX"),
    ] {
        let refused = any.acquire(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    let token = any.acquire(asks("a")).await.unwrap().into_inner().token;
    assert_eq!(any.acquire(asks("a")).await.unwrap().into_inner().token, token, "it has it already");
    // What is sent again with its id is answered as the first time.
    any.acquire(AcquireRequest { name: "other".into(), ..asks("a") }).await.unwrap();
    for _ in 0..2 {
        let release = ReleaseRequest { name: "other".into(), holder: "a".into(), token: 0 };
        let mut request = tonic::Request::new(release);
        let id = "00112233445566778899aabbccddeeff".parse().unwrap();
        request.metadata_mut().insert("trimaran-request-id", id);
        assert!(any.release(request).await.unwrap().into_inner().released);
    }
    // A client that breaks off what it asked for.
    let mut elsewhere = client(&cluster.nodes[2].grpc);
    let waits =
        tokio::spawn(
            async move { elsewhere.acquire(AcquireRequest { wait_ms: 600_000, ..asks("b") }).await },
        );
    let grid = cluster.grid_client().await;
    let waiting = async || grid.lock("lock").describe().await.unwrap().queue.len();
    until("it has a place", async || waiting().await == 1).await;
    waits.abort();
    until("its place is given up", async || waiting().await == 0).await;
    let renew = RenewRequest {
        name: "lock".into(),
        holder: "a".into(),
        token: token + 1,
        lease_ms: 1000,
        value: None,
    };
    let refused = any.renew(renew).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(trimaran_net::status::detail(&refused).code, "LEASE_LOST");
}
