//! The RESP front: existing Redis clients. RESP2 and RESP3, inline commands, pipelines.
//!
//! A connection takes every whole command that it has, sends those that can go together to their partitions at once,
//! and writes all answers in one go. Order is kept: reads wait for the writes before them on the same connection.
//! Next: [`parse`] (bytes to arguments), `plan` (what they ask of whom), `carry_out` (has it done, in order), `task`
//! (what is done alone, because it waits or asks everybody). What a command does is in [`crate::command`].

use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use trimaran_net::listen::{Arrival, Doorway};

use crate::access::users::Users;
use crate::command::Random;
use crate::command::reply::Answer;
use crate::limits::{CONNECTIONS_MAX, HALF_REQUEST_MAX, PIPELINE_COMMANDS_MAX, UNREAD_ANSWER_MAX};
use crate::metrics;
use crate::namespaces::Namespaces;
use crate::pubsub::{Hub, Message, Subscriber};
use crate::router::Router;
use crate::tracking::Tracking;

pub mod parse;

mod carry_out;
mod clients;
mod cluster;
mod connection;
mod introspection;
mod pause;
mod plan;
mod scripts;
mod server;
mod settings;
mod slow_log;
mod subscriptions;
mod task;
mod together;
mod tracking;
mod transaction;
mod typed;
mod users;

pub(crate) use carry_out::answer;
pub(crate) use clients::Client;
use clients::Clients;
use introspection::Statistics;
use parse::Parsed;
use pause::Pause;
pub(crate) use plan::Session;
use scripts::Scripts;
use settings::Settings;
use slow_log::SlowLog;
use users::AccessLog;
pub(crate) use users::enter_by as enter;

/// Bytes read at once, of a client that sends much, and of any other: what was read is kept as long as its commands are, and
/// memory that is not used meanwhile is not in anybody's cache.
const READ_BYTES_MAX: usize = 64 << 10;
const READ_BYTES_MIN: usize = 4 << 10;

/// What the connections of a node share.
#[derive(Debug)]
pub struct Front {
    pub(crate) router: Router,
    hub: Hub,
    tracking: Tracking,
    namespaces: Namespaces,
    pub(crate) users: Arc<Users>,
    access_log: AccessLog,
    settings: Settings,
    clients: Clients,
    statistics: Statistics,
    slow_log: SlowLog,
    pause: Pause,
    /// What is answered is on disks, here and at a majority.
    is_flushed: bool,
    scripts: Scripts,
    chance: Mutex<Random>,
    secrets: Mutex<StdRng>,
    started_ms: u64,
}

impl Front {
    /// A front over a router; what is chosen at random, passwords too, follows from `secrets`. `is_flushed`: what is answered is on
    /// disks.
    pub fn new(
        router: Router,
        hub: Hub,
        tracking: Tracking,
        namespaces: Namespaces,
        users: Arc<Users>,
        is_flushed: bool,
        mut secrets: StdRng,
    ) -> Arc<Self> {
        let seed = secrets.random();
        let started_ms = router.clock_ms();
        Arc::new(Self {
            router,
            hub,
            tracking,
            namespaces,
            users,
            access_log: AccessLog::default(),
            settings: Settings::default(),
            clients: Clients::default(),
            statistics: Statistics::default(),
            slow_log: SlowLog::default(),
            pause: Pause::default(),
            is_flushed,
            scripts: Scripts::default(),
            chance: Mutex::new(Random::new(seed)),
            secrets: Mutex::new(secrets),
            started_ms,
        })
    }

    /// A number that nobody can guess.
    fn secret(&self) -> u64 {
        self.secrets.lock().random()
    }

    fn random(&self) -> u64 {
        self.chance.lock().number()
    }
}

/// Accepts connections until `stop`; those that are open end when their client has its answers. With `redirect`, what is led
/// elsewhere is answered with MOVED.
pub async fn serve(listener: TcpListener, front: Arc<Front>, redirect: bool, stop: CancellationToken) {
    let doorway = Doorway::new(listener, CONNECTIONS_MAX, stop.clone());
    while let Some(arrival) = doorway.next().await {
        let (stream, address, place) = match arrival {
            Arrival::Admitted(stream, address, place) => (stream, address, place),
            Arrival::Refused(mut stream) => {
                metrics::refused("resp").increment(1);
                tokio::spawn(async move {
                    let text = format!(
                        "-ERR max number of clients reached (CONNECTIONS_MAX = {CONNECTIONS_MAX})\r\n"
                    );
                    // It is told if it listens.
                    let _gone = timeout(UNREAD_ANSWER_MAX, stream.write_all(text.as_bytes())).await;
                });
                continue;
            }
        };
        let client = front.clients.enter(address, front.router.clock_ms());
        let mut session = Session::new("resp", Arc::clone(&client), redirect);
        session.enter(&front);
        let (users, stop) = (front.users.changes(), stop.clone());
        let connection = Connection {
            stream,
            front: Arc::clone(&front),
            session,
            users,
            read_bytes: READ_BYTES_MIN,
            stop,
        };
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            metrics::connections("resp").increment(1);
            if let Err(error) = connection.run().await {
                debug!(%error, "connection ended");
            }
            front.tracking.end(client.id());
            front.clients.leave(&client);
            metrics::connections("resp").decrement(1);
            drop(place);
        });
    }
    // Nobody who waits for it holds the node up.
    front.pause.end();
}

struct Connection {
    stream: TcpStream,
    front: Arc<Front>,
    session: Session,
    /// The version of all users, as it changes.
    users: watch::Receiver<u64>,
    /// Bytes to be read next.
    read_bytes: usize,
    stop: CancellationToken,
}

impl Connection {
    async fn run(mut self) -> std::io::Result<()> {
        let mut inbound = BytesMut::with_capacity(READ_BYTES_MIN);
        let mut outbound = BytesMut::with_capacity(READ_BYTES_MIN);
        let mut requests = Vec::new();
        loop {
            let mut refused = None;
            while requests.len() < PIPELINE_COMMANDS_MAX {
                match parse::next(&mut inbound) {
                    Ok(Parsed::Request(arguments)) => requests.push(arguments),
                    Ok(Parsed::Nothing) => {}
                    Ok(Parsed::Incomplete) => break,
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
            let whole = !requests.is_empty();
            let go_on =
                answer(&self.front, &mut self.session, Some(&self.stream), &mut requests, &mut outbound)
                    .await;
            subscriptions::say_all(&mut self.session, &mut outbound);
            tracking::say_all(&self.session, &mut outbound);
            if let Some(error) = &refused {
                let mut answer = Answer::default();
                answer.error(&format!("ERR Protocol error: {error}"));
                outbound.extend_from_slice(answer.bytes());
            }
            if !outbound.is_empty() {
                // Most answers are taken at once.
                let written = match self.stream.try_write(&outbound) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
                    written => written?,
                };
                if written < outbound.len() {
                    timeout(UNREAD_ANSWER_MAX, self.stream.write_all(&outbound[written..])).await??;
                }
                outbound.clear();
            }
            if refused.is_some() || !go_on {
                return self.stream.shutdown().await;
            }
            if whole {
                // There may be more in the buffer already.
                if !inbound.is_empty() && inbound.len() >= parse::SHORTEST {
                    if self.try_read(&mut inbound)? == Some(0) {
                        return Ok(());
                    }
                    continue;
                }
            }
            if !self.read(&mut inbound, &mut outbound).await? {
                return Ok(());
            }
            self.session.client.heard(self.front.router.clock_ms());
        }
    }

    /// Waits for more of a request, and hands on messages meanwhile. False if the connection is to end.
    async fn read(&mut self, inbound: &mut BytesMut, outbound: &mut BytesMut) -> std::io::Result<bool> {
        inbound.reserve(self.read_bytes);
        // A client may be silent as long as it likes between two requests.
        let is_idle = inbound.is_empty();
        let late = async {
            match is_idle {
                true => std::future::pending().await,
                false => tokio::time::sleep(HALF_REQUEST_MAX).await,
            }
        };
        tokio::pin!(late);
        loop {
            tokio::select! {
                read = self.stream.read_buf(inbound) => {
                    let read = read?;
                    self.read_bytes = next_read(self.read_bytes, read);
                    return Ok(read > 0);
                }
                message = message(&mut self.session.subscriber) => {
                    // One that reads too slowly is cut off.
                    let Some(message) = message else { return Ok(false) };
                    subscriptions::say(&message, self.session.protocol, outbound);
                    subscriptions::say_all(&mut self.session, outbound);
                    timeout(UNREAD_ANSWER_MAX, self.stream.write_all(outbound)).await??;
                    outbound.clear();
                }
                () = self.session.client.inbox().come() => {
                    tracking::say_all(&self.session, outbound);
                    timeout(UNREAD_ANSWER_MAX, self.stream.write_all(outbound)).await??;
                    outbound.clear();
                }
                _changed = self.users.changed() => {
                    if !users::refresh(&self.front, &mut self.session) || !users::may_hear(&self.session) {
                        return Ok(false);
                    }
                }
                () = &mut late => return Err(std::io::ErrorKind::TimedOut.into()),
                () = self.stop.cancelled(), if is_idle => return Ok(false),
                () = self.session.client.killed() => return Ok(false),
            }
        }
    }

    /// What has arrived meanwhile, without waiting; `None` if nothing has.
    fn try_read(&self, inbound: &mut BytesMut) -> std::io::Result<Option<usize>> {
        inbound.reserve(self.read_bytes);
        match self.stream.try_read_buf(inbound) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How much to read next, after a read of so many bytes.
fn next_read(before: usize, read: usize) -> usize {
    let next = if read >= before { before * 2 } else { (read * 2).next_power_of_two().min(before) };
    next.clamp(READ_BYTES_MIN, READ_BYTES_MAX)
}

/// The next message for one that has subscribed; `None` if too many waited.
async fn message(subscriber: &mut Option<Subscriber>) -> Option<Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}
