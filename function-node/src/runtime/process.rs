//! Processes under the contract of Cloud Run and Knative: any program that serves HTTP on `$PORT`.
//!
//! Each runs in the folder of its package, with an environment of its own and nothing inherited, in a process group of
//! its own, and dies with the node. `RLIMIT_DATA` bounds the memory that each of its processes can write to. That is
//! order, not isolation: code that must not be trusted belongs into a component.
//!
//! Source: Knative runtime contract (knative/specs, specs/serving/runtime-contract.md); Cloud Run container contract.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::OptionFuture;
use http::{Request, Response, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};
use trimaran_net::dial::{Dial as _, Stream, TcpDial};
use trimaran_net::listen;
use trimaran_proto::api::functions::LogRecord;
use trimaran_proto::api::functions::log_record::What;

use crate::error::Error;
use crate::invocation::Invocation;
use crate::limits::{LOG_LINE_BYTES_MAX, START_MAX, STOP_GRACE};
use crate::logs::Logs;
use crate::package::Packages;
use crate::runtime::{Body, Failure, Instance, Prepared, Runtime};
use crate::spec::Revision;

/// How long a process that broke an answer off has to end before it gets another request.
const DOUBT: Duration = Duration::from_millis(200);

/// How often a new process is asked whether it listens: first, and at most.
const PROBE_FIRST: Duration = Duration::from_millis(2);
const PROBE_LAST: Duration = Duration::from_millis(50);

/// Lines of stderr that an error quotes when a process did not start.
const QUOTED_LINES: usize = 5;

/// Runs processes.
pub(crate) struct Processes {
    pub(crate) packages: Arc<Packages>,
    pub(crate) logs: Logs,
    pub(crate) spawner: Spawner,
    /// What every process finds in its environment besides what belongs to it.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) node: String,
}

#[async_trait]
impl Runtime for Processes {
    async fn prepare(&self, revision: Arc<Revision>) -> Result<Arc<dyn Prepared>, Error> {
        let folder = self.packages.unpack(&revision.digest).await?;
        Ok(Arc::new(Program {
            revision,
            folder,
            logs: self.logs.clone(),
            spawner: self.spawner.clone(),
            environment: self.environment.clone(),
            node: self.node.clone(),
            started: AtomicU64::new(0),
        }))
    }
}

/// A package that is unpacked.
struct Program {
    revision: Arc<Revision>,
    folder: PathBuf,
    logs: Logs,
    spawner: Spawner,
    environment: Vec<(String, String)>,
    node: String,
    started: AtomicU64,
}

#[async_trait]
impl Prepared for Program {
    async fn start(&self) -> Result<Arc<dyn Instance>, Error> {
        let revision = &self.revision;
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}@{}/{number}", revision.function, revision.number, self.node);
        let port = free_port()?;
        let child = self.spawner.spawn(self.command(port)).await?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = group.ok_or_else(|| Error::StartFailed("it ended at once".to_owned()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (ended, has_ended) = watch::channel(None);
        let running = Arc::new(Running {
            name,
            address,
            group,
            revision: Arc::clone(revision),
            logs: self.logs.clone(),
            has_ended,
            invocations: Mutex::default(),
            idle: Arc::default(),
            in_doubt: Arc::default(),
            last_lines: Mutex::default(),
        });
        tokio::spawn(supervise(child, Arc::clone(&running), ended));
        running.listens().await?;
        Ok(running)
    }
}

impl Program {
    fn command(&self, port: u16) -> std::process::Command {
        let spec = &self.revision.spec;
        let program = spec.command.first().map_or("./bootstrap", String::as_str);
        let mut command = std::process::Command::new(in_folder(&self.folder, program));
        command
            .args(spec.command.iter().skip(1))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .envs([
                ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LANG", "C.UTF-8"),
                ("HOME", "/tmp"),
            ])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(&spec.environment)
            .env("PORT", port.to_string())
            .env("K_SERVICE", &self.revision.function)
            .env("K_CONFIGURATION", &self.revision.function)
            .env("K_REVISION", format!("{}-{}", self.revision.function, self.revision.number))
            .process_group(0);
        limit(&mut command, spec.memory_bytes);
        command
    }
}

/// `./x` is in the package; a bare name is looked for in PATH.
fn in_folder(folder: &Path, program: &str) -> OsString {
    if program.contains('/') && !program.starts_with('/') {
        folder.join(program).into_os_string()
    } else {
        program.into()
    }
}

#[allow(unsafe_code, reason = "limits have to be set between fork and exec")]
fn limit(command: &mut std::process::Command, memory_bytes: u64) {
    let limit = Rlimit { current: Some(memory_bytes), maximum: Some(memory_bytes) };
    // SAFETY: two system calls, no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            rustix::process::setrlimit(Resource::Data, limit)?;
            Ok(())
        });
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16, Error> {
    let listener = listen::listen((Ipv4Addr::LOCALHOST, 0).into(), "net.ipv4.ip_local_port_range");
    let address = listener.map_err(|error| Error::StartFailed(error.to_string()))?.local_addr();
    Ok(address.map_err(|error| Error::StartFailed(error.to_string()))?.port())
}

/// Starts processes from one thread that lives as long as the node: Linux ends a process when the *thread* that
/// started it ends, if it is asked to end it with its parent.
#[derive(Clone)]
pub(crate) struct Spawner {
    asks: mpsc::UnboundedSender<(std::process::Command, oneshot::Sender<std::io::Result<Child>>)>,
}

impl Spawner {
    pub(crate) fn start() -> std::io::Result<Self> {
        // Unbounded: each entry is one instance that some pool counts already.
        let (asks, mut asked) = mpsc::unbounded_channel::<(std::process::Command, oneshot::Sender<_>)>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _entered = runtime.enter();
            while let Some((command, answer)) = asked.blocking_recv() {
                let mut command = Command::from(command);
                let _gone = answer.send(command.kill_on_drop(true).spawn());
            }
        })?;
        Ok(Self { asks })
    }

    async fn spawn(&self, command: std::process::Command) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (answer, answered) = oneshot::channel();
        let failed = |reason: String| Error::StartFailed(format!("{program}: {reason}"));
        if self.asks.send((command, answer)).is_err() {
            return Err(Error::NotReady);
        }
        let child = answered.await.map_err(|_gone| Error::NotReady)?;
        child.map_err(|error| failed(error.to_string()))
    }
}

/// A process.
struct Running {
    name: String,
    address: SocketAddr,
    group: Pid,
    revision: Arc<Revision>,
    logs: Logs,
    has_ended: watch::Receiver<Option<String>>,
    invocations: Mutex<Vec<Weak<Invocation>>>,
    /// Connections without a request.
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
    /// It broke an answer off: it may be about to end, and take what it is sent with it.
    in_doubt: Arc<AtomicBool>,
    last_lines: Mutex<Vec<String>>,
}

/// Reads what the process writes and waits for its end.
async fn supervise(mut child: Child, running: Arc<Running>, ended: watch::Sender<Option<String>>) {
    let stdout = child.stdout.take().map(|stream| read_lines(stream, Arc::clone(&running), What::Stdout));
    let stderr = child.stderr.take().map(|stream| read_lines(stream, Arc::clone(&running), What::Stderr));
    let reading = tokio::spawn(async move {
        tokio::join!(OptionFuture::from(stdout), OptionFuture::from(stderr));
    });
    let status = child.wait().await;
    // What it started goes with it; a group that is empty already is no error.
    let _gone = kill_process_group(running.group, Signal::KILL);
    // Its last words; a process that left the group may hold the pipes for ever.
    let _late = timeout(Duration::from_secs(1), reading).await;
    let why = match status {
        Ok(status) => format!("the process ended: {status}"),
        Err(error) => format!("the process cannot be waited for: {error}"),
    };
    running.write(What::Platform(format!("{}: {why}", running.name)));
    let _unwatched = ended.send(Some(why));
}

async fn read_lines(stream: impl AsyncRead + Unpin, running: Arc<Running>, what: fn(String) -> What) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // In pieces of a bounded size, whatever is written.
        let end = loop {
            let Ok(buffer) = reader.fill_buf().await else { break true };
            if buffer.is_empty() {
                break true;
            }
            let room = LOG_LINE_BYTES_MAX - line.len();
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let taken = newline.unwrap_or(buffer.len()).min(room);
            line.extend_from_slice(&buffer[..taken]);
            let whole = newline == Some(taken);
            reader.consume(taken + usize::from(whole));
            if whole || line.len() == LOG_LINE_BYTES_MAX {
                break false;
            }
        };
        if !end || !line.is_empty() {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            running.remember(&text);
            running.write(what(text));
        }
        if end {
            return;
        }
    }
}

impl Running {
    /// A log line: of the invocation, if there is only one now.
    fn write(&self, what: What) {
        let mut invocations = self.invocations.lock();
        invocations.retain(|invocation| invocation.strong_count() > 0);
        let only = if let [one] = invocations.as_slice() { one.upgrade() } else { None };
        drop(invocations);
        match only {
            Some(invocation) => invocation.wrote(what),
            None => self.logs.record(
                &self.revision.function,
                LogRecord {
                    time_ms: self.logs.now_ms(),
                    revision: self.revision.number,
                    invocation_id: String::new(),
                    instance: self.name.clone(),
                    what: Some(what),
                },
            ),
        }
    }

    fn remember(&self, line: &str) {
        let mut lines = self.last_lines.lock();
        if lines.len() == QUOTED_LINES {
            lines.remove(0);
        }
        lines.push(line.to_owned());
    }

    /// Returns when it listens on its port.
    async fn listens(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START_MAX;
        let mut wait = PROBE_FIRST;
        let mut has_ended = self.has_ended.clone();
        loop {
            if TcpDial.dial(self.address.to_string()).await.is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.stop().await;
                return Err(Error::StartFailed(format!("it did not listen on $PORT within {START_MAX:?}")));
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(PROBE_LAST),
                why = has_ended.wait_for(Option::is_some) => {
                    let why = why.ok().and_then(|why| why.clone()).unwrap_or_default();
                    let lines = self.last_lines.lock().join("\n");
                    return Err(Error::StartFailed(format!("{why} before it listened on $PORT\n{lines}")));
                }
            }
        }
    }

    /// A connection that takes a request now.
    async fn connection(&self) -> std::io::Result<SendRequest<Body>> {
        loop {
            let Some(mut idle) = self.idle.lock().pop() else { break };
            // Its last answer was read to its end; hyper may need a moment to see that.
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let stream: Box<dyn Stream> = TcpDial.dial(self.address.to_string()).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection to a process broke");
            }
        });
        Ok(sender)
    }

    fn signal(&self, signal: Signal) {
        if self.has_ended.borrow().is_none()
            && let Err(error) = kill_process_group(self.group, signal)
        {
            debug!(%error, instance = self.name, "a process cannot be signalled");
        }
    }
}

#[async_trait]
impl Instance for Running {
    fn name(&self) -> &str {
        &self.name
    }

    async fn call(
        &self,
        request: Request<Body>,
        invocation: Arc<Invocation>,
    ) -> Result<Response<Body>, Failure> {
        if self.in_doubt.load(Ordering::Acquire) {
            if let Ok(why) = timeout(DOUBT, self.ended()).await {
                return Err(Failure::Undelivered(Box::new(request), Error::Failed(why)));
            }
            self.in_doubt.store(false, Ordering::Release);
        }
        let mut connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                let error = Error::Failed(format!("it takes no connections: {error}"));
                return Err(Failure::Undelivered(Box::new(request), error));
            }
        };
        self.invocations.lock().push(Arc::downgrade(&invocation));
        let response = match connection.try_send_request(outgoing(request)).await {
            Ok(response) => response,
            Err(mut refused) => {
                let error = Error::Failed(format!("it gave no HTTP response: {}", refused.error()));
                return Err(match refused.take_message() {
                    Some(request) => Failure::Undelivered(Box::new(request), error),
                    None => {
                        self.in_doubt.store(true, Ordering::Release);
                        Failure::Failed(error)
                    }
                });
            }
        };
        let (idle, in_doubt) = (Arc::clone(&self.idle), Arc::clone(&self.in_doubt));
        Ok(response.map(|body| Body::new(Answer { body, connection: Some(connection), idle, in_doubt })))
    }

    async fn ended(&self) -> String {
        let mut has_ended = self.has_ended.clone();
        let why = has_ended.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    async fn stop(&self) {
        self.idle.lock().clear();
        self.signal(Signal::TERM);
        if timeout(STOP_GRACE, self.ended()).await.is_err() {
            warn!(instance = self.name, "did not end within {STOP_GRACE:?} of SIGTERM: it is killed");
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }
}

/// The body of an answer. Its connection takes the next request when it was read to its end, and none if it was not.
struct Answer {
    body: Incoming,
    connection: Option<SendRequest<Body>>,
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
    in_doubt: Arc<AtomicBool>,
}

impl Answer {
    fn give_back(&mut self) {
        // As many as there were requests at once, which the pool bounds.
        if let Some(connection) = self.connection.take() {
            self.idle.lock().push(connection);
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match frame {
            Poll::Ready(None) => self.give_back(),
            Poll::Ready(Some(Err(_))) => self.in_doubt.store(true, Ordering::Release),
            _ => {}
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Whoever reads a body whose length is known need not ask for its end.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

/// The request as the process gets it: HTTP/1.1, the path alone.
fn outgoing(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Ok(uri) = path.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_11;
    request
}
