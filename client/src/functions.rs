//! Functions: made, called, and what they wrote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;
use tonic::{Response as Reply, Status};
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_net::status::detail;
use trimaran_proto::api::functions as wire;
use trimaran_proto::api::functions::deploy_request::Part;
use trimaran_proto::api::functions::functions_client::FunctionsClient;

use crate::error::Error;

pub use trimaran_proto::api::functions::log_record::What;
pub use trimaran_proto::api::functions::{LogRecord, Report};

/// Bytes of a package in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// Largest message: 16 MiB of a body, and its head.
const MESSAGE_BYTES_MAX: usize = (16 << 20) + (64 << 10);

type Client = FunctionsClient<Channel>;

/// A client of function nodes. Clones share its connections.
#[derive(Clone)]
pub struct Functions {
    nodes: Arc<Vec<Client>>,
    next: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

/// How code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// A WebAssembly component of the world `wasi:http/proxy`.
    Wasm,
    /// A program that serves HTTP on `$PORT`.
    Process,
}

/// What to run and how. `None` is the default of the service, which is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// How it runs.
    pub runtime: Runtime,
    /// For processes: the program and its arguments; empty = `./bootstrap`.
    pub command: Vec<String>,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// From the first byte of a request to the last of its response; 300 s.
    pub timeout: Option<Duration>,
    /// Of one instance; 128 MiB for components, 512 MiB for processes.
    pub memory_bytes: Option<u64>,
    /// Requests at once in one process; 80.
    pub concurrency: Option<u32>,
    /// Instances at once on one node; 100 for components, 10 for processes.
    pub max_instances: Option<u32>,
    /// Requests that wait on one node; 1,000.
    pub queue: Option<u32>,
    /// How long an instance without requests is kept; 60 s.
    pub idle: Option<Duration>,
}

impl Spec {
    /// With all defaults.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            command: Vec::new(),
            environment: BTreeMap::new(),
            timeout: None,
            memory_bytes: None,
            concurrency: None,
            max_instances: None,
            queue: None,
            idle: None,
        }
    }
}

/// A function that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Counts up from 1.
    pub revision: u64,
    /// What it runs and how.
    pub spec: Spec,
    /// SHA-256 of its package, hexadecimal.
    pub package_digest: String,
    /// Size of its package.
    pub package_bytes: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// A function with what it does on the node that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it is.
    pub function: Function,
    /// Instances that are there.
    pub instances: u32,
    /// Requests in them.
    pub running: u32,
    /// Requests that wait for one.
    pub queued: u32,
}

/// A request to a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Empty = POST if there is a body, else GET.
    pub method: String,
    /// With the query; empty = `/`.
    pub path: String,
    /// Names and values.
    pub headers: Vec<(String, Bytes)>,
    /// 16 MiB at most.
    pub body: Bytes,
}

/// The answer of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Of HTTP.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, Bytes)>,
    /// 16 MiB at most.
    pub body: Bytes,
    /// Under which its log is found.
    pub invocation_id: String,
}

/// Which log records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only of this invocation; empty = of all.
    pub invocation_id: String,
    /// The newest so many; 0 = 1,000.
    pub limit: u32,
    /// Go on with what comes.
    pub follow: bool,
}

impl Functions {
    /// A client of the nodes at these addresses, "host:port" of gRPC. Connects when first used.
    pub fn connect<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        let dial: Arc<dyn Dial> = Arc::new(TcpDial);
        let mut nodes = Vec::new();
        for address in addresses {
            let address = address.into();
            let channel =
                channel(&dial, &address).map_err(|error| Error::Address(format!("{address}: {error}")))?;
            nodes.push(
                FunctionsClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            );
        }
        if nodes.is_empty() {
            return Err(Error::Address("no address was given".to_owned()));
        }
        Ok(Self { nodes: Arc::new(nodes), next: Arc::default() })
    }

    /// Makes a function, or its next revision. The package is sent only if the service does not have it yet. The
    /// second value is false if the newest revision was the same already.
    pub async fn deploy(&self, name: &str, spec: Spec, package: Bytes) -> Result<(Function, bool), Error> {
        let digest =
            Sha256::digest(&package).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let head = wire::DeployHead {
            name: name.to_owned(),
            spec: Some(put_spec(spec)),
            package_digest: digest,
            package_bytes: package.len() as u64,
        };
        let message = |part| wire::DeployRequest { part: Some(part) };
        let head = message(Part::Head(head));
        let known = self.ask(|mut node| {
            let parts = tokio_stream::iter([head.clone()]);
            async move { node.deploy(parts).await }
        });
        let reply = match known.await {
            Err(status) if detail(&status).code == "PACKAGE_MISSING" => {
                let chunks = (0..package.len())
                    .step_by(CHUNK_BYTES)
                    .map(|at| message(Part::Chunk(package.slice(at..package.len().min(at + CHUNK_BYTES)))));
                let parts: Vec<_> = std::iter::once(head).chain(chunks).collect();
                self.ask(|mut node| {
                    let parts = tokio_stream::iter(parts.clone());
                    async move { node.deploy(parts).await }
                })
                .await
            }
            other => other,
        };
        let reply = reply.map_err(|status| Error::from_status(&status))?;
        Ok((get_function(reply.function.unwrap_or_default()), reply.changed))
    }

    /// What a function is, and what it does on one of the nodes.
    pub async fn describe(&self, name: &str) -> Result<Description, Error> {
        let request = wire::DescribeRequest { name: name.to_owned() };
        let reply = self.ask(|mut node| {
            let request = request.clone();
            async move { node.describe(request).await }
        });
        let reply = reply.await.map_err(|status| Error::from_status(&status))?;
        Ok(Description {
            function: get_function(reply.function.unwrap_or_default()),
            instances: reply.instances,
            running: reply.running,
            queued: reply.queued,
        })
    }

    /// All functions by name.
    pub async fn list(&self) -> Result<Vec<Function>, Error> {
        let reply = self.ask(|mut node| async move { node.list(wire::ListRequest {}).await }).await;
        let reply = reply.map_err(|status| Error::from_status(&status))?;
        Ok(reply.functions.into_iter().map(get_function).collect())
    }

    /// Deletes a function with its revisions and logs.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let request = wire::DeleteRequest { name: name.to_owned() };
        let reply = self.ask(|mut node| {
            let request = request.clone();
            async move { node.delete(request).await }
        });
        reply.await.map_err(|status| Error::from_status(&status))?;
        Ok(())
    }

    /// Calls a function. An error is one of the service; what the function answers, also 500, is a [`Response`]. A
    /// call is not repeated when it may have run.
    pub async fn invoke(&self, function: &str, request: Request) -> Result<Response, Error> {
        let header = |(name, value)| wire::Header { name, value };
        let head = wire::RequestHead {
            function: function.to_owned(),
            method: request.method,
            path: request.path,
            headers: request.headers.into_iter().map(header).collect(),
        };
        let request = wire::InvokeRequest { head: Some(head), body: request.body };
        let reply = self
            .node(self.next.fetch_add(1, Ordering::Relaxed))
            .invoke(request)
            .await
            .map_err(|status| Error::from_status(&status))?;
        let wire::InvokeReply { head, body } = reply.into_inner();
        let head = head.unwrap_or_default();
        Ok(Response {
            status: u16::try_from(head.status).unwrap_or_default(),
            headers: head.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            body,
            invocation_id: head.invocation_id,
        })
    }

    /// What a function wrote and how long it took, oldest first.
    pub async fn logs(
        &self,
        function: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = Result<LogRecord, Error>> + Send + use<>, Error> {
        let request = wire::LogsRequest {
            function: function.to_owned(),
            invocation_id: options.invocation_id,
            limit: options.limit,
            follow: options.follow,
        };
        let batches = self.ask(|mut node| {
            let request = request.clone();
            async move { node.logs(request).await }
        });
        let batches = batches.await.map_err(|status| Error::from_status(&status))?;
        Ok(batches.flat_map(|batch| {
            let records = match batch {
                Ok(batch) => batch.records.into_iter().map(Ok).collect(),
                Err(status) => vec![Err(Error::from_status(&status))],
            };
            futures::stream::iter(records)
        }))
    }

    /// Asks a node, and the others if it cannot be reached; for what may be asked twice.
    async fn ask<T, F: Future<Output = Result<Reply<T>, Status>>>(
        &self,
        call: impl Fn(Client) -> F,
    ) -> Result<T, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut attempt = 0;
        loop {
            match call(self.node(turn + attempt)).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status)
                    if status.code() == tonic::Code::Unavailable && attempt + 1 < self.nodes.len() =>
                {
                    attempt += 1;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Nodes take turns.
    fn node(&self, turn: usize) -> Client {
        self.nodes[turn % self.nodes.len()].clone()
    }
}

fn put_spec(spec: Spec) -> wire::Spec {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let runtime = match spec.runtime {
        Runtime::Wasm => wire::Runtime::Wasm,
        Runtime::Process => wire::Runtime::Process,
    };
    wire::Spec {
        runtime: runtime.into(),
        command: spec.command,
        environment: spec.environment.into_iter().collect(),
        timeout_ms: spec.timeout.map(ms),
        memory_bytes: spec.memory_bytes,
        concurrency: spec.concurrency,
        max_instances: spec.max_instances,
        queue: spec.queue,
        idle_ms: spec.idle.map(ms),
    }
}

fn get_function(function: wire::Function) -> Function {
    let spec = function.spec.unwrap_or_default();
    Function {
        name: function.name,
        revision: function.revision,
        spec: Spec {
            runtime: match spec.runtime() {
                wire::Runtime::Process => Runtime::Process,
                wire::Runtime::Wasm | wire::Runtime::Unspecified => Runtime::Wasm,
            },
            command: spec.command,
            environment: spec.environment.into_iter().collect(),
            timeout: spec.timeout_ms.map(Duration::from_millis),
            memory_bytes: spec.memory_bytes,
            concurrency: spec.concurrency,
            max_instances: spec.max_instances,
            queue: spec.queue,
            idle: spec.idle_ms.map(Duration::from_millis),
        },
        package_digest: function.package_digest,
        package_bytes: function.package_bytes,
        created_ms: function.created_ms,
    }
}
