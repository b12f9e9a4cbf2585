//! Clients that do under a lock what would go wrong without it: each reads a number and writes the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use trimaran_client::Error;
use trimaran_client::coordination::Guard;
use trimaran_client::grid::Grid;

/// Shorter than a leader is missed for, so that leases end under way too.
const LEASE: Duration = Duration::from_millis(1500);

/// Longer than everybody before it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// In one slot.
const LOCK: &str = "{number}/lock";
const NUMBER: &str = "{number}";

/// What a client did while it had the lock.
#[derive(Debug)]
struct Turn {
    token: u64,
    /// From when it knew that it had it until it last was certain of it.
    held: (Instant, Instant),
    /// What it wrote; `None` if it was told that the lease is lost.
    wrote: Option<u64>,
    /// It was told that it is written.
    is_acknowledged: bool,
}

/// What came out.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Times that somebody had the lock.
    pub turns: usize,
    /// Numbers that were written and acknowledged.
    pub acknowledged: usize,
    /// Writes that were refused because they came too late.
    pub fenced: usize,
}

/// A load that runs.
pub struct Locks {
    grid: Grid,
    turns: Arc<Mutex<Vec<Turn>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    /// Numbers acknowledged so far.
    pub acknowledged: Arc<AtomicU64>,
}

impl Locks {
    /// Starts `clients` clients.
    pub fn start(grid: &Grid, clients: usize) -> Self {
        let turns: Arc<Mutex<Vec<Turn>>> = Arc::default();
        let (stop, acknowledged): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let client = |_| {
            let (grid, turns) = (grid.clone(), Arc::clone(&turns));
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let lock = grid.lock(LOCK).lease(LEASE);
                    let guard = match lock.acquire(PATIENCE).await {
                        Ok(Some(guard)) => guard,
                        Ok(None) => panic!("nobody gives the lock back"),
                        Err(error) => {
                            no_answer(&error);
                            continue;
                        }
                    };
                    let turn = take_turn(&grid, guard).await;
                    if turn.is_acknowledged {
                        acknowledged.fetch_add(1, Ordering::Release);
                    }
                    turns.lock().await.push(turn);
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { grid: grid.clone(), turns, stop, clients, acknowledged }
    }

    /// Stops the clients and checks what they did; panics where two had the lock at once, or a write of one was lost or
    /// came behind that of a later one.
    pub async fn finish(self) -> Report {
        self.stop.store(true, Ordering::Release);
        for client in self.clients {
            client.await.unwrap();
        }
        let mut turns = self.turns.lock().await;
        turns.sort_by_key(|turn| turn.token);
        for pair in turns.windows(2) {
            assert!(pair[0].token < pair[1].token, "a token was given twice: {pair:#?}");
            assert!(pair[0].held.1 <= pair[1].held.0, "two had the lock at once: {pair:#?}");
        }
        let acknowledged: Vec<(u64, u64)> = turns
            .iter()
            .filter(|turn| turn.is_acknowledged)
            .filter_map(|turn| Some((turn.token, turn.wrote?)))
            .collect();
        for pair in acknowledged.windows(2) {
            assert!(pair[0].1 < pair[1].1, "a number was written over: {pair:?}");
        }
        let fenced = turns.iter().filter(|turn| turn.wrote.is_none()).count();
        let unanswered = turns.len() - acknowledged.len() - fenced;
        let last = number(self.grid.get(NUMBER).await.unwrap());
        let (least, most) = (acknowledged.len() as u64, (acknowledged.len() + unanswered) as u64);
        assert!((least..=most).contains(&last), "the number is {last}, expected {least} to {most}");
        Report { turns: turns.len(), acknowledged: acknowledged.len(), fenced }
    }
}

async fn take_turn(grid: &Grid, guard: Guard) -> Turn {
    let began = Instant::now();
    let mut turn = Turn { token: guard.token(), held: (began, began), wrote: None, is_acknowledged: false };
    let Ok(found) = grid.get(NUMBER).await else { return turn };
    let next = number(found) + 1;
    match guard.grid().set(NUMBER, next.to_string()).await {
        Ok(_version) => (turn.wrote, turn.is_acknowledged) = (Some(next), true),
        Err(Error::Conflict(_)) => {}
        Err(error) => {
            no_answer(&error);
            turn.wrote = Some(next);
        }
    }
    let now = Instant::now();
    if guard.is_held() {
        turn.held.1 = now;
    }
    if let Err(error) = guard.release().await {
        no_answer(&error);
    }
    turn
}

/// Under kills an answer may be missing; it may not be a refusal.
fn no_answer(error: &Error) {
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

fn number(found: Option<Bytes>) -> u64 {
    found.map_or(0, |bytes| std::str::from_utf8(&bytes).unwrap().parse().unwrap())
}
