//! The machine that is replicated in all simulations.

use bytes::Bytes;
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{Committed, Machine, SnapshotChunks};

/// Writes everything down; the reply is the place.
#[derive(Default)]
pub(crate) struct Journal(Vec<String>);

impl Journal {
    /// Everything, in order.
    pub(crate) fn entries(&self) -> &[String] {
        &self.0
    }
}

impl Machine for Journal {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Bytes>, Stop> {
        Ok(run
            .iter()
            .map(|command| {
                self.0.push(String::from_utf8_lossy(command.payload).into_owned());
                Bytes::from(self.0.len().to_string())
            })
            .collect())
    }

    fn snapshot(&self) -> SnapshotChunks {
        let entries: Vec<Bytes> = self.0.iter().map(|entry| Bytes::from(entry.clone())).collect();
        Box::new(entries.into_iter().map(Ok))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        self.0.clear();
        for chunk in chunks {
            self.0.push(String::from_utf8_lossy(&chunk?).into_owned());
        }
        Ok(())
    }
}
