//! What a node keeps in its data folder: who it is, its log, its snapshots.

use std::path::Path;
use std::sync::Arc;

use trimaran_replication::groups::Durable;
use trimaran_storage::disk::{Disk, RealDisk};
use trimaran_storage::wal;

use crate::identity::Identity;

/// A data folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder itself, or a file in it.
    #[error("the data folder {folder} cannot be used")]
    Folder {
        /// Which.
        folder: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Who this node is.
    #[error("the identity of the node cannot be used")]
    Identity(#[from] crate::Error),
    /// The log, a snapshot or the data.
    #[error("the data in {folder} cannot be used")]
    Storage {
        /// Which.
        folder: String,
        /// Why not.
        #[source]
        source: trimaran_storage::Error,
    },
}

/// Opens a data folder, making it if it is not there. `machine_boot` names the present run of the machine.
pub fn open(
    folder: &Path,
    sync: wal::Sync,
    machine_boot: &str,
    random: &mut impl rand::Rng,
) -> Result<(Arc<dyn Disk>, Identity, Durable), Error> {
    let name = || folder.display().to_string();
    let disk = |folder: &Path| {
        let name = folder.display().to_string();
        RealDisk::open(folder).map_err(|source| Error::Folder { folder: name, source })
    };
    let home: Arc<dyn Disk> = Arc::new(disk(folder)?);
    let identity = Identity::load(&*home, machine_boot, random)?;
    let (log, snapshots) = (disk(&folder.join("log"))?, disk(&folder.join("snapshots"))?);
    let options = wal::Options { sync, ..wal::Options::default() };
    let durable = Durable::open(Arc::new(log), Arc::new(snapshots), options)
        .map_err(|source| Error::Storage { folder: name(), source })?;
    Ok((home, identity, durable))
}

/// The address that others are told: as given, or as it is.
pub fn advertised(given: &str, listening: std::net::SocketAddr) -> String {
    if given.is_empty() { listening.to_string() } else { given.to_owned() }
}
