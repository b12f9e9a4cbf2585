//! Flushes full segments of a log that does not flush its writes, beside it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::{Condvar, Mutex};

use super::segment_name;
use crate::Error;
use crate::disk::{Disk, DiskFile};

/// Full segments that wait to be flushed; the log waits for one of them before it begins another one.
const WAITING_MAX: usize = 8;

type Segment = (u64, Arc<dyn DiskFile>);

/// A thread that flushes segments in their order. It ends with what it has been given when this is dropped.
pub(super) struct Flusher {
    segments: SyncSender<Segment>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// Segments up to this one are on the medium.
    flushed: u64,
    failed: Option<Error>,
    has_stopped: bool,
}

/// However the thread ends, nobody waits for it any more.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.progress.lock().has_stopped = true;
        self.0.changed.notify_all();
    }
}

impl Flusher {
    /// Segments up to `flushed` are on the medium already.
    pub(super) fn start(disk: Arc<dyn Disk>, flushed: u64) -> std::io::Result<Self> {
        let (segments, given) = sync_channel(WAITING_MAX);
        let shared = Arc::new(Shared::default());
        shared.progress.lock().flushed = flushed;
        let told = Arc::clone(&shared);
        std::thread::Builder::new().name("wal-flush".into()).spawn(move || {
            let running = Running(told);
            let failed = run(&*disk, &given, &running.0).err();
            running.0.progress.lock().failed = failed;
        })?;
        Ok(Self { segments, shared })
    }

    /// Takes a full segment, once the name of the next one is there. Waits while [`WAITING_MAX`] are waiting.
    pub(super) fn flush(&self, number: u64, file: Arc<dyn DiskFile>) -> Result<(), Error> {
        // A thread that has stopped says why when it is asked how far it is.
        let _stopped = self.segments.send((number, file));
        self.flushed().map(drop)
    }

    /// Segments up to this one are on the medium.
    pub(super) fn flushed(&self) -> Result<u64, Error> {
        let mut progress = self.shared.progress.lock();
        match progress.failed.take() {
            Some(failed) => Err(failed),
            None if progress.has_stopped => Err(Error::Poisoned("the log's flusher has stopped".into())),
            None => Ok(progress.flushed),
        }
    }

    /// Returns when segments up to this one are on the medium.
    pub(super) fn wait(&self, number: u64) -> Result<(), Error> {
        let mut progress = self.shared.progress.lock();
        while progress.flushed < number && !progress.has_stopped {
            self.shared.changed.wait(&mut progress);
        }
        drop(progress);
        self.flushed().map(drop)
    }
}

fn run(disk: &dyn Disk, given: &Receiver<Segment>, told: &Shared) -> Result<(), Error> {
    while let Ok((number, file)) = given.recv() {
        let name = segment_name(number);
        file.sync().map_err(|source| Error::io("flush", disk.describe(&name), source))?;
        // The name of the next one too: what is flushed there must be found again.
        disk.sync_dir().map_err(|source| Error::io("flush", disk.describe("."), source))?;
        told.progress.lock().flushed = number;
        told.changed.notify_all();
    }
    Ok(())
}
