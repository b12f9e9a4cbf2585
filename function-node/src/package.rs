//! Code packages: received, verified, kept in the database in pieces, and on the disk of the nodes that run them.
//!
//! A package is named by the SHA-256 of its bytes. Its item in `trimaran.packages` says that it is complete; its
//! pieces are in `trimaran.chunks` under the id of the upload that brought them, so that those who remove what nobody
//! needs never meet a later upload of the same bytes.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use sha2::{Digest as _, Sha256};
use trimaran_client::Error as ClientError;
use trimaran_client::database::{Database, Item, Placeholders, ReadOptions, Value, WriteOptions};
use trimaran_net::clock::Clock;

use crate::error::Error;
use crate::limits::{
    CHUNK_BYTES, CHUNKS_AT_ONCE, PACKAGE_BYTES_MAX, PACKAGE_FILES_MAX, PACKAGE_KEEP, UNPACKED_BYTES_MAX,
};
use crate::tables::{self, CHUNKS, PACKAGES, n};

/// Times that an upload is begun anew because the package was removed under it.
const ATTEMPTS_MAX: usize = 3;

/// Pieces that are removed with one request.
const BATCH: usize = 25;

/// Where packages are.
pub(crate) struct Packages {
    database: Database,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    random: Mutex<StdRng>,
}

/// What the database says of a package.
struct Head {
    upload: String,
    complete: bool,
    bytes: u64,
    touched_ms: u64,
}

impl Packages {
    /// `folder` belongs to this node alone.
    pub(crate) fn new(database: Database, folder: PathBuf, clock: Arc<dyn Clock>, random: StdRng) -> Self {
        Self { database, folder, clock, random: Mutex::new(random) }
    }

    /// Whether a package is stored; if so, it is kept for as long as a deployment may take.
    pub(crate) async fn touch(&self, digest: &str) -> Result<bool, Error> {
        let complete = WriteOptions {
            condition: "complete = :yes".to_owned(),
            placeholders: Placeholders {
                names: [].into(),
                values: [(":yes".to_owned(), Value::Bool(true)), (":now".to_owned(), n(self.clock.now_ms()))]
                    .into(),
            },
            ..WriteOptions::default()
        };
        match self.database.update_item(PACKAGES, key(digest), "SET touched_ms = :now", complete).await {
            Ok(_) => Ok(true),
            Err(ClientError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a package, whose bytes were verified.
    pub(crate) async fn store(&self, digest: &str, package: Bytes) -> Result<(), Error> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(upload) = self.begin(digest, package.len() as u64).await? else { return Ok(()) };
            let pieces = stream::iter(0_u64..).zip(stream::iter(pieces(&package)));
            pieces
                .map(Ok)
                .try_for_each_concurrent(CHUNKS_AT_ONCE, |(number, piece)| {
                    let item = Item::from([
                        ("upload".to_owned(), upload.as_str().into()),
                        ("chunk".to_owned(), n(number)),
                        ("bytes".to_owned(), Value::B(piece)),
                    ]);
                    self.database.put_item(CHUNKS, item)
                })
                .await?;
            let same = WriteOptions {
                condition: "upload = :upload".to_owned(),
                placeholders: Placeholders {
                    names: [].into(),
                    values: [
                        (":upload".to_owned(), upload.as_str().into()),
                        (":yes".to_owned(), Value::Bool(true)),
                        (":now".to_owned(), n(self.clock.now_ms())),
                    ]
                    .into(),
                },
                ..WriteOptions::default()
            };
            let update = "SET complete = :yes, touched_ms = :now";
            match self.database.update_item(PACKAGES, key(digest), update, same).await {
                Ok(_) => return Ok(()),
                Err(ClientError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::ChangedMeanwhile(digest.to_owned()))
    }

    /// The id to upload under; nothing if the package is stored already. Two who upload the same bytes at once share
    /// one: their pieces are the same.
    async fn begin(&self, digest: &str, bytes: u64) -> Result<Option<String>, Error> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(head) = self.head(digest).await? {
                if head.complete && self.touch(digest).await? {
                    return Ok(None);
                }
                let same = WriteOptions {
                    condition: "upload = :upload".to_owned(),
                    placeholders: Placeholders {
                        names: [].into(),
                        values: [
                            (":upload".to_owned(), head.upload.as_str().into()),
                            (":now".to_owned(), n(self.clock.now_ms())),
                        ]
                        .into(),
                    },
                    ..WriteOptions::default()
                };
                match self.database.update_item(PACKAGES, key(digest), "SET touched_ms = :now", same).await {
                    Ok(_) => return Ok(Some(head.upload)),
                    Err(ClientError::Conflict(_)) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            let id: u128 = self.random.lock().random();
            let upload = format!("{digest}.{id:032x}");
            let item = Item::from([
                ("digest".to_owned(), digest.into()),
                ("upload".to_owned(), upload.as_str().into()),
                ("complete".to_owned(), Value::Bool(false)),
                ("bytes".to_owned(), n(bytes)),
                ("touched_ms".to_owned(), n(self.clock.now_ms())),
            ]);
            let absent = WriteOptions {
                condition: "attribute_not_exists(digest)".to_owned(),
                ..WriteOptions::default()
            };
            match self.database.put_item_with(PACKAGES, item, absent).await {
                Ok(_) => return Ok(Some(upload)),
                Err(ClientError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::ChangedMeanwhile(digest.to_owned()))
    }

    async fn head(&self, digest: &str) -> Result<Option<Head>, Error> {
        let found = self.database.get_item(PACKAGES, key(digest)).await?;
        found.map(|item| head(&item)).transpose()
    }

    /// The file with a package on this node's disk, from the database if it is not there yet.
    pub(crate) async fn fetch(&self, digest: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join("packages").join(digest);
        if tokio::fs::try_exists(&path).await.map_err(disk)? {
            return Ok(path);
        }
        let head = self.head(digest).await?.filter(|head| head.complete);
        let head =
            head.ok_or_else(|| Error::CatalogDamaged(format!("the package {digest} is not stored")))?;
        let count = head.bytes.div_ceil(CHUNK_BYTES as u64);
        let pieces: Vec<Bytes> = stream::iter(0..count)
            .map(|number| {
                let upload = head.upload.as_str();
                async move {
                    let key =
                        Item::from([("upload".to_owned(), upload.into()), ("chunk".to_owned(), n(number))]);
                    let found = self.database.get_item(CHUNKS, key).await?;
                    let item = found.ok_or_else(|| {
                        Error::CatalogDamaged(format!("piece {number} of {digest} is missing"))
                    })?;
                    tables::bytes(&item, "bytes")
                }
            })
            .buffered(CHUNKS_AT_ONCE)
            .try_collect()
            .await?;
        let mut hasher = Sha256::new();
        for piece in &pieces {
            hasher.update(piece);
        }
        if hex(&hasher.finalize()) != digest {
            return Err(Error::CatalogDamaged(format!(
                "the package {digest} has other bytes than its name says"
            )));
        }
        let written = path.clone();
        tokio::task::spawn_blocking(move || keep(&written, &pieces))
            .await
            .map_err(|error| Error::Disk(error.to_string()))??;
        Ok(path)
    }

    /// The folder with a package's files, unpacked from its zip archive if they are not there yet.
    pub(crate) async fn unpack(&self, digest: &str) -> Result<PathBuf, Error> {
        let target = self.folder.join("code").join(digest);
        if tokio::fs::try_exists(&target).await.map_err(disk)? {
            return Ok(target);
        }
        let archive = self.fetch(digest).await?;
        let folder = target.clone();
        let unpacked = tokio::task::spawn_blocking(move || unpack(&archive, &folder)).await;
        unpacked.map_err(|error| Error::Disk(error.to_string()))??;
        Ok(target)
    }

    /// Where compiled components are kept.
    pub(crate) fn compiled(&self) -> PathBuf {
        self.folder.join("compiled")
    }

    /// Removes packages that no revision runs and nobody asked for lately. `referenced` is read after the packages
    /// were listed: what is deployed meanwhile was touched.
    pub(crate) async fn remove_unused(
        &self,
        referenced: impl AsyncFnOnce() -> Result<std::collections::HashSet<String>, Error>,
    ) -> Result<usize, Error> {
        let keep_ms = u64::try_from(PACKAGE_KEEP.as_millis()).unwrap_or(u64::MAX);
        let before = self.clock.now_ms().saturating_sub(keep_ms);
        let mut old = Vec::new();
        let mut start_key = None;
        loop {
            let options = ReadOptions { start_key, ..ReadOptions::default() };
            let page = self.database.scan(PACKAGES, options).await?;
            for item in &page.items {
                let head = head(item)?;
                if head.touched_ms < before {
                    old.push((tables::text(item, "digest")?, head));
                }
            }
            start_key = page.last_key;
            if start_key.is_none() {
                break;
            }
        }
        if old.is_empty() {
            return Ok(0);
        }
        let referenced = referenced().await?;
        let mut removed = 0;
        for (digest, head) in old.into_iter().filter(|(digest, _)| !referenced.contains(digest)) {
            let untouched = WriteOptions {
                condition: "touched_ms = :seen".to_owned(),
                placeholders: Placeholders {
                    names: [].into(),
                    values: [(":seen".to_owned(), n(head.touched_ms))].into(),
                },
                ..WriteOptions::default()
            };
            match self.database.delete_item(PACKAGES, key(&digest), untouched).await {
                Ok(_) => {}
                Err(ClientError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            self.remove_pieces(&head).await?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes what this node's disk has of packages that no revision runs. A revision that is made in this moment
    /// finds its files gone at worst, and fetches them again.
    pub(crate) async fn forget_unused(
        &self,
        referenced: std::collections::HashSet<String>,
    ) -> Result<usize, Error> {
        let folder = self.folder.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let mut removed = 0;
            for kind in ["packages", "code", "compiled"] {
                let Ok(entries) = std::fs::read_dir(folder.join(kind)) else { continue };
                for entry in entries {
                    let entry = entry.map_err(disk)?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    let digest = name.split('-').next().unwrap_or_default();
                    if digest.len() != 64 || referenced.contains(digest) {
                        continue;
                    }
                    let path = entry.path();
                    if path.is_dir() {
                        std::fs::remove_dir_all(path).map_err(disk)?;
                    } else {
                        std::fs::remove_file(path).map_err(disk)?;
                    }
                    removed += 1;
                }
            }
            Ok(removed)
        });
        removed.await.map_err(|error| Error::Disk(error.to_string()))?
    }

    async fn remove_pieces(&self, head: &Head) -> Result<(), Error> {
        let numbers: Vec<u64> = (0..head.bytes.div_ceil(CHUNK_BYTES as u64)).collect();
        for numbers in numbers.chunks(BATCH) {
            let keys = numbers.iter().map(|number| {
                Item::from([
                    ("upload".to_owned(), head.upload.as_str().into()),
                    ("chunk".to_owned(), n(*number)),
                ])
            });
            self.database.batch_write(CHUNKS, Vec::new(), keys.collect()).await?;
        }
        Ok(())
    }
}

/// Takes a package as it arrives, and compares it with what was announced.
pub(crate) struct Receiving {
    bytes: Vec<u8>,
    announced: u64,
    hasher: Sha256,
}

impl Receiving {
    pub(crate) fn new(announced: u64) -> Result<Self, Error> {
        if announced > PACKAGE_BYTES_MAX || announced == 0 {
            return Err(Error::Invalid(format!(
                "package_bytes = {announced}: from 1 to {PACKAGE_BYTES_MAX}"
            )));
        }
        Ok(Self { bytes: Vec::new(), announced, hasher: Sha256::new() })
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if (self.bytes.len() + chunk.len()) as u64 > self.announced {
            return Err(Error::BadPackage(format!(
                "it has more than the announced {} bytes",
                self.announced
            )));
        }
        self.hasher.update(chunk);
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn finish(self, digest: &str) -> Result<Bytes, Error> {
        if self.bytes.len() as u64 != self.announced {
            let (came, announced) = (self.bytes.len(), self.announced);
            return Err(Error::BadPackage(format!("{came} of the announced {announced} bytes came")));
        }
        let came = hex(&self.hasher.finalize());
        if came != digest {
            return Err(Error::BadPackage(format!("its SHA-256 is {came}, not the announced {digest}")));
        }
        Ok(self.bytes.into())
    }
}

fn pieces(package: &Bytes) -> Vec<Bytes> {
    (0..package.len())
        .step_by(CHUNK_BYTES)
        .map(|at| package.slice(at..package.len().min(at + CHUNK_BYTES)))
        .collect()
}

fn head(item: &Item) -> Result<Head, Error> {
    Ok(Head {
        upload: tables::text(item, "upload")?,
        complete: item.get("complete") == Some(&Value::Bool(true)),
        bytes: tables::number(item, "bytes")?,
        touched_ms: tables::number(item, "touched_ms")?,
    })
}

fn key(digest: &str) -> Item {
    Item::from([("digest".to_owned(), digest.into())])
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A file is there whole or not at all.
fn keep(path: &Path, pieces: &[Bytes]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(disk)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(disk)?;
    for piece in pieces {
        file.write_all(piece).map_err(disk)?;
    }
    file.as_file().sync_all().map_err(disk)?;
    file.persist(path).map_err(|error| disk(error.error))?;
    Ok(())
}

/// Unpacks a zip archive; the folder is there whole or not at all.
fn unpack(archive: &Path, target: &Path) -> Result<(), Error> {
    let bad = |error: zip::result::ZipError| Error::BadPackage(format!("it is no zip archive: {error}"));
    let file = std::fs::File::open(archive).map_err(disk)?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(bad)?;
    if archive.len() > PACKAGE_FILES_MAX {
        return Err(Error::BadPackage(format!("it has more than {PACKAGE_FILES_MAX} files")));
    }
    let parent = target.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(parent).map_err(disk)?;
    let unpacked = tempfile::TempDir::new_in(parent).map_err(disk)?;
    let mut left = UNPACKED_BYTES_MAX;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(bad)?;
        // Nothing leaves the folder: no absolute paths, no `..`, no links.
        let outside =
            || Error::BadPackage(format!("the file {:?} would lie outside of the package", entry.name()));
        let path = unpacked.path().join(entry.enclosed_name().ok_or_else(outside)?);
        if entry.is_symlink() {
            return Err(outside());
        }
        if entry.is_dir() {
            std::fs::create_dir_all(&path).map_err(disk)?;
            continue;
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(disk)?;
        }
        let mut file = std::fs::File::create(&path).map_err(disk)?;
        let written = std::io::copy(&mut entry.by_ref().take(left + 1), &mut file);
        let written =
            written.map_err(|error| Error::BadPackage(format!("{:?}: {error}", path.file_name())))?;
        left = left.checked_sub(written).ok_or_else(|| {
            Error::BadPackage(format!("it is larger than {UNPACKED_BYTES_MAX} bytes when unpacked"))
        })?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // Archives made elsewhere say nothing of what may be run.
            let mode = entry.unix_mode().map_or(0o755, |mode| (mode & 0o755) | 0o400);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(disk)?;
        }
    }
    match std::fs::rename(unpacked.path(), target) {
        // Gone to its place: nothing is left to remove.
        Ok(()) => drop(unpacked.keep()),
        // Another request unpacked the same.
        Err(_) if target.exists() => {}
        Err(error) => return Err(disk(error)),
    }
    Ok(())
}

fn disk(error: std::io::Error) -> Error {
    Error::Disk(error.to_string())
}

#[cfg(test)]
mod tests {
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
        let path = folder.join("archive.zip");
        let mut writer = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        for (name, text) in files {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    #[test]
    fn an_archive_is_unpacked_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let good = archive(folder.path(), &[("main.py", "print(1)"), ("lib/a.py", "")]);
        let target = folder.path().join("code/x");
        unpack(&good, &target).unwrap();
        unpack(&good, &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("main.py")).unwrap(), "print(1)");
        let bad = archive(folder.path(), &[("main.py", ""), ("../../evil", "")]);
        let refused = unpack(&bad, &folder.path().join("code/y")).unwrap_err().to_string();
        assert!(refused.contains("outside"), "{refused}");
        assert_eq!(std::fs::read_dir(folder.path().join("code")).unwrap().count(), 1);
    }

    #[test]
    fn what_comes_is_compared_with_what_was_announced() {
        let digest = hex(&Sha256::digest(b"abc"));
        let receive = |announced, chunks: &[&[u8]]| {
            let mut receiving = Receiving::new(announced)?;
            for chunk in chunks {
                receiving.push(chunk)?;
            }
            receiving.finish(&digest)
        };
        assert_eq!(receive(3, &[b"a", b"bc"]).unwrap(), Bytes::from_static(b"abc"));
        assert!(receive(3, &[b"ab"]).unwrap_err().to_string().contains("2 of the announced 3"));
        assert!(receive(3, &[b"abcd"]).unwrap_err().to_string().contains("more than"));
        assert!(receive(3, &[b"abd"]).unwrap_err().to_string().contains("SHA-256"));
        assert!(receive(PACKAGE_BYTES_MAX + 1, &[]).unwrap_err().to_string().contains("package_bytes"));
    }
}
