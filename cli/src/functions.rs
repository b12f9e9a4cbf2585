//! `trimaran functions`: functions are made, called, listed and deleted, over gRPC.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Subcommand;
use serde_json::json;
use tokio_stream::StreamExt as _;
use trimaran_client::functions::{
    Description, Function, Functions, LogOptions, LogRecord, Request, Runtime, Spec, What,
};

use crate::output::Format;

/// A function is code that runs when it is called: a WebAssembly component or a program that serves HTTP on $PORT.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// gRPC address of a function node; several separated by commas
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:7001",
        env = "TRIMARAN_FUNCTIONS_ADDRESS"
    )]
    address: Vec<String>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a function, or a new revision of one
    Deploy(Deploy),
    /// Show all functions
    List,
    /// Show one function and what it does now
    Describe {
        /// Its name
        name: String,
    },
    /// Call a function and print its answer; exit code 1 if that is an error (400 and above)
    Invoke(Invoke),
    /// Print what a function wrote, and how long its invocations took
    Logs(Logs),
    /// Delete a function with its revisions and logs
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(clap::Args)]
struct Deploy {
    /// Its name, which is also the first part of its path: a-z, 0-9 and -
    name: String,
    /// A WebAssembly component of the world wasi:http/proxy
    #[arg(long, value_name = "FILE", required_unless_present = "process")]
    wasm: Option<PathBuf>,
    /// A folder (or one file, or a zip archive) with a program; what to start follows after --, or is ./bootstrap
    #[arg(long, value_name = "FOLDER", conflicts_with = "wasm")]
    process: Option<PathBuf>,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Time of a request, milliseconds [default: 300000]
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// Memory of an instance, MiB [default: 128 for components, 512 for processes]
    #[arg(long)]
    memory_mib: Option<u64>,
    /// Requests at once in one process [default: 80]
    #[arg(long)]
    concurrency: Option<u32>,
    /// Instances at once on one node [default: 100 for components, 10 for processes]
    #[arg(long)]
    max_instances: Option<u32>,
    /// Requests that wait on one node [default: 1000]
    #[arg(long)]
    queue: Option<u32>,
    /// How long an instance without requests is kept, milliseconds [default: 60000]
    #[arg(long)]
    idle_ms: Option<u64>,
    /// What to start, e.g. `-- python3 main.py`
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(clap::Args)]
struct Invoke {
    /// Its name
    name: String,
    /// Path with query, as the function sees it
    #[arg(long, default_value = "/")]
    path: String,
    /// Method [default: POST with data, else GET]
    #[arg(short = 'X', long, default_value = "")]
    method: String,
    /// A header; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The body; @FILE reads it from a file, @- from standard input
    #[arg(short, long, default_value = "")]
    data: String,
    /// Print status and headers too
    #[arg(short, long)]
    include: bool,
}

#[derive(clap::Args)]
struct Logs {
    /// Name of the function
    name: String,
    /// Only of this invocation
    #[arg(long, default_value = "")]
    invocation: String,
    /// The newest so many records [default: 1000]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: u32,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let functions = Functions::connect(args.address)?;
    let output = args.output;
    match args.command {
        Command::Deploy(deploy) => {
            let (spec, package) = package(&deploy)?;
            let bytes = package.len();
            if bytes > 1 << 20 {
                eprintln!("sending {} KiB, and making them ready …", bytes >> 10);
            }
            let (function, changed) = functions.deploy(&deploy.name, spec, package).await?;
            let mut shown = shown(&function);
            shown["changed"] = changed.into();
            output.show(&shown, |_| {
                let state = if changed { "is ready" } else { "was the same already" };
                format!("{} revision {} {state}", function.name, function.revision)
            })?;
        }
        Command::List => {
            let all = functions.list().await?;
            output.show(&all.iter().map(shown).collect::<Vec<_>>(), |_| {
                let lines: Vec<String> = all.iter().map(line).collect();
                lines.join("\n")
            })?;
        }
        Command::Describe { name } => {
            let Description { function, instances, running, queued } = functions.describe(&name).await?;
            let mut shown = shown(&function);
            shown["on_this_node"] = json!({ "instances": instances, "running": running, "queued": queued });
            output.show(&shown, |_| {
                let now = format!("{instances} instances, {running} requests in them, {queued} waiting");
                format!("{}\non this node: {now}", line(&function))
            })?;
        }
        Command::Invoke(invoke) => return call(&functions, invoke, output).await,
        Command::Logs(asked) => {
            let Logs { name, invocation, limit, follow } = asked;
            let options = LogOptions { invocation_id: invocation, limit, follow };
            let mut records = std::pin::pin!(functions.logs(&name, options).await?);
            while let Some(record) = records.next().await {
                output.show_line(&json_record(record?), text_record)?;
            }
        }
        Command::Delete { name } => {
            functions.delete(&name).await?;
            output.show(&json!({ "deleted": name }), |_| format!("{name} is deleted"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn call(functions: &Functions, invoke: Invoke, output: Format) -> anyhow::Result<ExitCode> {
    let mut headers = Vec::new();
    for header in &invoke.header {
        let (name, value) =
            header.split_once(':').with_context(|| format!("{header:?} is not NAME: VALUE"))?;
        headers.push((name.trim().to_owned(), Bytes::copy_from_slice(value.trim().as_bytes())));
    }
    let body = match invoke.data.strip_prefix('@') {
        Some("-") => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("standard input")?;
            body.into()
        }
        Some(file) => std::fs::read(file).with_context(|| file.to_owned())?.into(),
        None => Bytes::from(invoke.data),
    };
    let request = Request { method: invoke.method, path: invoke.path, headers, body };
    let response = functions.invoke(&invoke.name, request).await?;
    let header =
        |(name, value): &(String, Bytes)| (name.clone(), String::from_utf8_lossy(value).into_owned());
    let headers: Vec<(String, String)> = response.headers.iter().map(header).collect();
    match output {
        Format::Json => {
            let shown = json!({
                "status": response.status,
                "headers": headers,
                "body": String::from_utf8_lossy(&response.body),
                "invocation_id": response.invocation_id,
            });
            output.show(&shown, |_| String::new())?;
        }
        Format::Text => {
            if invoke.include {
                println!("{}", response.status);
                for (name, value) in &headers {
                    println!("{name}: {value}");
                }
                println!();
            }
            // As it is: it may be no text.
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&response.body)?;
            stdout.flush()?;
            if response.status >= 400 {
                eprintln!("error: {} answered {}", invoke.name, response.status);
            }
        }
    }
    Ok(if response.status < 400 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What to deploy, from flags and files.
fn package(deploy: &Deploy) -> anyhow::Result<(Spec, Bytes)> {
    let mut spec = Spec::new(if deploy.wasm.is_some() { Runtime::Wasm } else { Runtime::Process });
    for variable in &deploy.env {
        let (name, value) =
            variable.split_once('=').with_context(|| format!("{variable:?} is not NAME=VALUE"))?;
        spec.environment.insert(name.to_owned(), value.to_owned());
    }
    spec.command.clone_from(&deploy.command);
    spec.timeout = deploy.timeout_ms.map(Duration::from_millis);
    spec.memory_bytes = deploy.memory_mib.map(|mib| mib.saturating_mul(1 << 20));
    spec.concurrency = deploy.concurrency;
    spec.max_instances = deploy.max_instances;
    spec.queue = deploy.queue;
    spec.idle = deploy.idle_ms.map(Duration::from_millis);
    let package = match (&deploy.wasm, &deploy.process) {
        (Some(file), _) => std::fs::read(file).with_context(|| file.display().to_string())?.into(),
        (None, Some(path)) => archive(path)?,
        (None, None) => bail!("nothing to deploy: --wasm FILE or --process FOLDER"),
    };
    Ok((spec, package))
}

/// A folder as a zip archive: the same files make the same bytes, whenever and wherever.
pub(crate) fn archive(path: &Path) -> anyhow::Result<Bytes> {
    if path.extension().is_some_and(|extension| extension == "zip") {
        return Ok(std::fs::read(path).with_context(|| path.display().to_string())?.into());
    }
    let mut files = Vec::new();
    let root = if path.is_dir() {
        walk(path, &mut files)?;
        path
    } else {
        files.push(path.to_owned());
        path.parent().unwrap_or_else(|| Path::new("."))
    };
    files.sort();
    ensure!(!files.is_empty(), "{} has no files", path.display());
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
        let options = zip::write::SimpleFileOptions::default()
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(mode & 0o777);
        archive.start_file(name, options)?;
        archive.write_all(&std::fs::read(&file).with_context(|| file.display().to_string())?)?;
    }
    Ok(archive.finish()?.into_inner().into())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        // What tools leave behind does not belong to a program.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "__pycache__" || name == ".git" {
            continue;
        }
        if path.is_dir() { walk(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn shown(function: &Function) -> serde_json::Value {
    let spec = &function.spec;
    json!({
        "name": function.name,
        "revision": function.revision,
        "runtime": runtime(spec),
        "command": spec.command,
        "environment": spec.environment,
        "timeout_ms": spec.timeout.map(|time| time.as_millis() as u64),
        "memory_bytes": spec.memory_bytes,
        "concurrency": spec.concurrency,
        "max_instances": spec.max_instances,
        "queue": spec.queue,
        "idle_ms": spec.idle.map(|time| time.as_millis() as u64),
        "package_digest": function.package_digest,
        "package_bytes": function.package_bytes,
        "created_ms": function.created_ms,
    })
}

fn runtime(spec: &Spec) -> &'static str {
    match spec.runtime {
        Runtime::Wasm => "wasm",
        Runtime::Process => "process",
    }
}

fn line(function: &Function) -> String {
    let kib = function.package_bytes.div_ceil(1024);
    format!(
        "{:<24} revision {:<4} {:<8} {kib} KiB",
        function.name,
        function.revision,
        runtime(&function.spec)
    )
}

fn json_record(record: LogRecord) -> serde_json::Value {
    let mut shown = json!({
        "time_ms": record.time_ms,
        "revision": record.revision,
        "invocation_id": record.invocation_id,
        "instance": record.instance,
    });
    match record.what {
        Some(What::Stdout(line)) => shown["stdout"] = line.into(),
        Some(What::Stderr(line)) => shown["stderr"] = line.into(),
        Some(What::Platform(line)) => shown["platform"] = line.into(),
        Some(What::Report(report)) => {
            shown["report"] = json!({
                "status": report.status,
                "error": report.error,
                "queue_ms": report.queue_us as f64 / 1000.0,
                "init_ms": report.init_us as f64 / 1000.0,
                "run_ms": report.run_us as f64 / 1000.0,
                "memory_bytes": report.memory_bytes,
            });
        }
        None => {}
    }
    shown
}

/// One line for people.
fn text_record(shown: &serde_json::Value) -> String {
    let text = |name: &str| shown[name].as_str().unwrap_or_default();
    let ms = shown["time_ms"].as_u64().unwrap_or_default();
    let time = format!("{}.{:03}", time_of_day(ms / 1000), ms % 1000);
    let id = text("invocation_id").split('-').next().unwrap_or_default();
    if let Some(report) = shown.get("report") {
        let mib = report["memory_bytes"].as_f64().unwrap_or_default() / f64::from(1 << 20);
        let error = report["error"].as_str().unwrap_or_default();
        let outcome = if error.is_empty() { String::new() } else { format!("  {error}") };
        let memory = if mib > 0.0 { format!("  memory {mib:.1} MiB") } else { String::new() };
        return format!(
            "{time} {id:<8} REPORT {}  queue {} ms  init {} ms  run {} ms{memory}{outcome}",
            report["status"], report["queue_ms"], report["init_ms"], report["run_ms"]
        );
    }
    for name in ["stdout", "stderr", "platform"] {
        if shown.get(name).is_some() {
            return format!("{time} {id:<8} {name}: {}", text(name));
        }
    }
    format!("{time} {id:<8}")
}

/// Hours, minutes and seconds, UTC.
fn time_of_day(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}
