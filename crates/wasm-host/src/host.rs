//! The engine, the memory of all instances, and the threads that guests run on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use tokio::runtime::{Handle, Runtime};
use tracing::info;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::data::bindings::Data;
use crate::error::Error;
use crate::limits::{PARTS_MAX, TABLE_ELEMENTS_MAX, TICK};
use crate::program::Program;
use crate::state::State;

/// Bytes of a slot that are cleared when an instance ends instead of being given back to the operating system: what
/// a request touches is there for the next one.
const KEEP_MEMORY_BYTES: usize = 1 << 20;
const KEEP_STACK_BYTES: usize = 128 << 10;
const KEEP_TABLE_BYTES: usize = 64 << 10;

/// Guests yield to the timer and to sockets after so many steps; tokio's 61 lets eight looping guests hold up the
/// timeouts of all others for a second.
const EVENT_INTERVAL: u32 = 4;

/// How a host is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Instances at once.
    pub instances_max: u32,
    /// Threads that guests run on.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { instances_max: 1000, threads: thread::available_parallelism().map_or(2, usize::from) }
    }
}

/// Runs components. Clones share it.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    linker: Linker<State>,
    guests: Option<Runtime>,
    ticker: Ticker,
    pub(crate) instances_max: u32,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// Starts the engine and the threads that guests run on.
    pub fn new(options: Options) -> Result<Self, Error> {
        let engine = pooled(options).or_else(|error| {
            // Address space is limited here (a container with a limit on virtual memory, say): slower, not broken.
            info!(%error, "instances get their memory one by one");
            Engine::new(&config())
        });
        let engine = engine.map_err(|error| Error::Engine(format!("{error:#}")))?;
        let linker = linker(&engine).map_err(|error| Error::Engine(format!("{error:#}")))?;
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .thread_name("guest")
            .event_interval(EVENT_INTERVAL)
            .enable_all()
            .build()
            .map_err(|error| Error::Engine(error.to_string()))?;
        let ticker = Ticker::start(engine.clone()).map_err(|error| Error::Engine(error.to_string()))?;
        let instances_max = options.instances_max;
        Ok(Self { inner: Arc::new(Inner { engine, linker, guests: Some(guests), ticker, instances_max }) })
    }

    /// Compiles a component, which takes a tenth of a second for each hundred kilobytes and more; not for async
    /// threads. With `cache`, what was compiled is kept there, in a file that only this release on this kind of
    /// processor takes; the folder must belong to this host alone, since it holds code that is run as it is.
    pub fn load(&self, component: &[u8], digest: &str, cache: Option<&Path>) -> Result<Program, Error> {
        let engine = &self.inner.engine;
        let component = match cache {
            None => Component::from_binary(engine, component).map_err(not_a_component)?,
            Some(folder) => {
                let path = folder.join(format!("{digest}-{:016x}.cwasm", compatibility(engine)));
                if !path.exists() {
                    let compiled = engine.precompile_component(component).map_err(not_a_component)?;
                    keep(&path, &compiled).map_err(|error| Error::Cache {
                        path: path.display().to_string(),
                        reason: error.to_string(),
                    })?;
                }
                open(engine, &path)?
            }
        };
        let pre = self.inner.linker.instantiate_pre(&component);
        let pre = pre.and_then(ProxyPre::new).map_err(|error| Error::World(format!("{error:#}")))?;
        Ok(Program::new(pre, Arc::clone(&self.inner)))
    }
}

impl Inner {
    /// Where guests run.
    pub(crate) fn guests(&self) -> Option<&Handle> {
        self.guests.as_ref().map(Runtime::handle)
    }

    /// While it lives, running guests are interrupted from time to time.
    pub(crate) fn running(self: &Arc<Self>) -> Running {
        self.ticker.enter();
        Running(Arc::clone(self))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Dropping a runtime waits for its tasks, which async code must not do.
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

/// One call that runs.
pub(crate) struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ticker.leave();
    }
}

/// Moves the epoch on while guests run, from a thread of its own: guests may hold all others.
struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    stop: AtomicBool,
}

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let ticking = thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            while !watched.stop.load(Ordering::Acquire) {
                if watched.running.load(Ordering::Acquire) == 0 {
                    thread::park();
                } else {
                    thread::park_timeout(TICK);
                    engine.increment_epoch();
                }
            }
        })?;
        Ok(Self { shared, thread: ticking.thread().clone() })
    }

    fn enter(&self) {
        if self.shared.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.unpark();
        }
    }

    fn leave(&self) {
        self.shared.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .memory_init_cow(true)
        // A trap names the functions it went through; files and lines would cost milliseconds each time.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn pooled(options: Options) -> wasmtime::Result<Engine> {
    let instances = options.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances)
        .max_core_instances_per_component(PARTS_MAX)
        .max_memories_per_component(PARTS_MAX)
        .max_tables_per_component(PARTS_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEEP_MEMORY_BYTES)
        .async_stack_keep_resident(KEEP_STACK_BYTES)
        .table_keep_resident(KEEP_TABLE_BYTES)
        // Without it the whole of what is kept would be cleared each time, not what was touched.
        .pagemap_scan(Enabled::Auto);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    // Guests made for the command world import files and sockets too; they find none.
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Data::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What a compiled component depends on besides its source: release, settings, processor.
fn compatibility(engine: &Engine) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// A file is there whole or not at all.
fn keep(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[allow(unsafe_code, reason = "maps code that this host compiled into a folder of its own")]
fn open(engine: &Engine, path: &Path) -> Result<Component, Error> {
    // SAFETY: `load` names the file by the component's digest and by everything the compiler depends on, and writes
    // it whole; nobody else may write to the folder.
    unsafe { Component::deserialize_file(engine, path) }
        .map_err(|error| Error::Cache { path: path.display().to_string(), reason: format!("{error:#}") })
}

fn not_a_component(error: wasmtime::Error) -> Error {
    Error::NotAComponent(format!("{error:#}"))
}
