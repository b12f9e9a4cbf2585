//! `trimaran grid backup` and `restore`: all keys in a file, which any grid can be filled from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use serde::Serialize;
use tokio::time::Instant;
use trimaran_client::backup::{Exported, Imported};
use trimaran_client::grid::Grid;
use trimaran_net::clock::{Clock as _, SteadyClock};
use trimaran_proto::state::backup::{End, Head};
use trimaran_storage::format;

use crate::output::Format;

/// Of the layout of the file. Fixed for ever, as the kinds are.
const VERSION: u32 = 1;
const KIND_HEAD: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_END: u8 = 3;

/// How often it is said how far it is.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Stands for the standard output, or input.
const STANDARD: &str = "-";

#[derive(clap::Args)]
pub(crate) struct Backup {
    /// Where to; `-` = standard output. It appears when it is complete
    file: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct Restore {
    /// Where from; `-` = standard input
    pub(crate) file: PathBuf,
    /// Also keys that are there already, which are left as they are else
    #[arg(long)]
    replace: bool,
    /// Only look whether the file is complete and unharmed
    #[arg(long)]
    pub(crate) check: bool,
}

/// What a file has.
#[derive(Debug, Serialize)]
struct Contents {
    partitions: u32,
    keys: u64,
    bytes: u64,
    created_ms: u64,
    release: String,
}

#[derive(Debug, Serialize)]
struct Restored {
    restored: u64,
    kept: u64,
    expired: u64,
    left_out: BTreeSet<String>,
}

impl Contents {
    fn new(head: Head, end: End, bytes: u64) -> Self {
        let Head { release, created_ms, .. } = head;
        Self { partitions: end.partitions, keys: end.keys, bytes, created_ms, release }
    }
}

fn unknown(kind: u8) -> String {
    format!("the backup has a record of kind {kind}, which this release does not know")
}

/// Says from time to time how far it is.
struct Teller {
    told: Instant,
}

impl Teller {
    fn new() -> Self {
        Self { told: Instant::now() }
    }

    fn tell(&mut self, how_far: impl FnOnce() -> String) {
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            eprintln!("{} …", how_far());
        }
    }
}

/// A file that is being written.
struct Writer {
    out: Out,
    at: Place,
    record: BytesMut,
}

/// A place between two records.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    byte: u64,
    /// How many records are before it. Each has its number, so that none is missing unseen.
    records: u64,
}

enum Out {
    /// Under another name until it is complete.
    File {
        file: BufWriter<File>,
        aside: PathBuf,
        path: PathBuf,
    },
    Standard(io::Stdout),
}

impl Writer {
    fn create(path: &Path) -> io::Result<Self> {
        let out = if path == Path::new(STANDARD) {
            Out::Standard(io::stdout())
        } else {
            let mut name = path.as_os_str().to_owned();
            name.push(".partial");
            let aside = PathBuf::from(name);
            Out::File { file: BufWriter::new(File::create(&aside)?), aside, path: path.to_owned() }
        };
        Ok(Self { out, at: Place::default(), record: BytesMut::new() })
    }

    fn write(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.record.clear();
        format::put(&mut self.record, 0, kind, self.at.records, |out| out.put_slice(payload));
        match &mut self.out {
            Out::File { file, .. } => file.write_all(&self.record)?,
            Out::Standard(out) => out.write_all(&self.record)?,
        }
        self.at.byte += self.record.len() as u64;
        self.at.records += 1;
        Ok(())
    }

    /// Forgets what is behind a place.
    fn cut(&mut self, at: Place) -> anyhow::Result<()> {
        let Out::File { file, .. } = &mut self.out else {
            bail!(
                "a partition changed its leader meanwhile, and what went to standard output cannot be taken back"
            );
        };
        file.flush()?;
        file.get_ref().set_len(at.byte)?;
        file.seek(SeekFrom::Start(at.byte))?;
        self.at = at;
        Ok(())
    }

    /// Ends it; when this returns it survives a loss of power.
    fn finish(mut self) -> io::Result<u64> {
        match &mut self.out {
            Out::Standard(out) => out.flush()?,
            Out::File { file, aside, path } => {
                file.flush()?;
                file.get_ref().sync_all()?;
                std::fs::rename(aside, &*path)?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
            }
        }
        Ok(self.at.byte)
    }
}

/// What a file says, record by record.
struct Reader {
    input: Box<dyn Read + Send>,
    at: Place,
}

impl Reader {
    fn open(path: &Path) -> anyhow::Result<(Self, Head)> {
        let input: Box<dyn Read + Send> = if path == Path::new(STANDARD) {
            Box::new(io::stdin())
        } else {
            Box::new(BufReader::new(File::open(path).with_context(|| path.display().to_string())?))
        };
        let mut reader = Self { input, at: Place::default() };
        let head = match reader.next() {
            Ok((KIND_HEAD, payload)) => Head::decode(payload).ok(),
            _ => None,
        };
        let head = head.with_context(|| format!("{} is no backup of a grid", path.display()))?;
        if head.version != VERSION {
            bail!(
                "the backup has layout {}, this release reads {VERSION}: use release {}",
                head.version,
                head.release
            );
        }
        Ok((reader, head))
    }

    fn next(&mut self) -> anyhow::Result<(u8, Bytes)> {
        let Place { byte, records } = self.at;
        let damaged = || format!("the backup is damaged, or broken off, at byte {byte}");
        let mut record = vec![0; format::HEADER_BYTES];
        self.input.read_exact(&mut record).with_context(damaged)?;
        let header = record.first_chunk().copied().unwrap_or_default();
        let bytes = format::record_bytes(&header).with_context(damaged)?;
        record.resize(bytes, 0);
        self.input.read_exact(&mut record[format::HEADER_BYTES..]).with_context(damaged)?;
        let record = Bytes::from(record);
        let found = format::get(&record, 0).filter(|(found, _)| found.group == records);
        let (found, used) = found.with_context(damaged)?;
        self.at = Place { byte: byte + used as u64, records: records + 1 };
        Ok((found.kind, record.slice_ref(found.payload)))
    }

    /// What the file has, once all of it was read.
    fn read_through(mut self, head: Head) -> anyhow::Result<Contents> {
        let mut teller = Teller::new();
        loop {
            match self.next()? {
                (KIND_CHUNK, _) => teller.tell(|| format!("{} MiB read", self.at.byte >> 20)),
                (KIND_END, payload) => {
                    let end = End::decode(payload).context("the end of the backup")?;
                    return Ok(Contents::new(head, end, self.at.byte));
                }
                (kind, _) => bail!("{}", unknown(kind)),
            }
        }
    }
}

pub(crate) async fn backup(grid: &Grid, args: Backup, output: Format) -> anyhow::Result<ExitCode> {
    let name = || args.file.display().to_string();
    let head = Head {
        version: VERSION,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        created_ms: SteadyClock::default().now_ms(),
    };
    let mut writer = Writer::create(&args.file).with_context(name)?;
    writer.write(KIND_HEAD, &head.encode_to_vec()).with_context(name)?;
    let mut end = End::default();
    // As it was before the partition that is under way.
    let mut before = (writer.at, end);
    let mut export = grid.export();
    let mut teller = Teller::new();
    while let Some(part) = export.next().await? {
        match part {
            Exported::Begin { chunk, version } => {
                before = (writer.at, end);
                end.partitions += 1;
                end.version = end.version.max(version);
                writer.write(KIND_CHUNK, &chunk).with_context(name)?;
            }
            Exported::Keys { chunk, count } => {
                end.keys += count;
                writer.write(KIND_CHUNK, &chunk).with_context(name)?;
            }
            Exported::Again => {
                writer.cut(before.0).with_context(name)?;
                end = before.1;
            }
        }
        let mib = writer.at.byte >> 20;
        teller.tell(|| format!("{} keys of {} partitions, {mib} MiB", end.keys, end.partitions));
    }
    writer.write(KIND_END, &end.encode_to_vec()).with_context(name)?;
    let contents = Contents::new(head, end, writer.finish().with_context(name)?);
    if args.file == Path::new(STANDARD) {
        eprintln!("{}", said(&contents));
    } else {
        output.show(&contents, said)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn said(contents: &Contents) -> String {
    let Contents { partitions, keys, bytes, .. } = contents;
    format!("{keys} keys of {partitions} partitions, {bytes} bytes")
}

pub(crate) fn check(file: &Path, output: Format) -> anyhow::Result<ExitCode> {
    let (reader, head) = Reader::open(file)?;
    let contents = reader.read_through(head)?;
    output.show(&contents, |contents| {
        format!("complete: {}, by release {}", said(contents), contents.release)
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restore(grid: &Grid, args: Restore, output: Format) -> anyhow::Result<ExitCode> {
    if args.file != Path::new(STANDARD) {
        // Nothing of a file that is damaged is put in.
        let (reader, head) = Reader::open(&args.file)?;
        reader.read_through(head)?;
    }
    let (mut reader, _head) = Reader::open(&args.file)?;
    let mut import = grid.import(args.replace);
    let mut teller = Teller::new();
    let so_far = |imported: &Imported| format!("at least {} keys were put in before that", imported.restored);
    loop {
        let put = match reader.next() {
            Ok((KIND_CHUNK, chunk)) => import.put(chunk).await.map_err(anyhow::Error::from),
            Ok((KIND_END, _)) => break,
            Ok((kind, _)) => Err(anyhow::anyhow!(unknown(kind))),
            Err(damaged) => Err(damaged),
        };
        put.with_context(|| so_far(import.imported()))?;
        teller.tell(|| format!("{} keys, {} MiB", import.imported().all(), reader.at.byte >> 20));
    }
    let Imported { restored, kept, expired, left_out } = import.finish().await?;
    for why in &left_out {
        eprintln!("left out: {why}");
    }
    output.show(&Restored { restored, kept, expired, left_out }, |restored| {
        let Restored { restored, kept, expired, .. } = restored;
        format!("{restored} keys restored, {kept} kept as they were there already, {expired} had expired")
    })?;
    Ok(ExitCode::SUCCESS)
}
