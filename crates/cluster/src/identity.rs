//! Who this node is: an id drawn once and kept in its data folder, and whether what it wrote can still be trusted.

use rand::Rng;
use serde::{Deserialize, Serialize};
use trimaran_storage::disk::{self, Disk};

use crate::error::Error;

const FILE: &str = "node.json";

/// A node's name in its cluster, and of this life of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn on the first start; the same ever after.
    pub node: u64,
    /// Drawn at each start of the process.
    pub boot: u64,
    /// The cluster that it belongs to; empty before it has entered one.
    pub cluster: String,
    /// True if the node has run before and its machine has started anew since: what the operating system had not
    /// written out then is gone.
    pub machine_restarted: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u16,
    node_id: u64,
    #[serde(default)]
    cluster_id: String,
    /// The operating system's id of its own start, at the last start of the node.
    machine_boot: String,
}

impl Identity {
    /// An identity that lasts as long as the process.
    pub fn passing(random: &mut impl Rng) -> Self {
        Self { node: draw(random), boot: draw(random), cluster: String::new(), machine_restarted: false }
    }

    /// Reads the identity from the data folder, or draws one and writes it. `machine_boot` is the operating system's
    /// id of its own start (on Linux /proc/sys/kernel/random/boot_id).
    pub fn load(folder: &dyn Disk, machine_boot: &str, random: &mut impl Rng) -> Result<Self, Error> {
        let stored = read(folder)?;
        let node = stored.as_ref().map_or_else(|| draw(random), |stored| stored.node_id);
        let machine_restarted = stored.as_ref().is_some_and(|stored| stored.machine_boot != machine_boot);
        let cluster_id = stored.map(|stored| stored.cluster_id).unwrap_or_default();
        let machine_boot = machine_boot.to_owned();
        write(folder, &Stored { version: 1, node_id: node, cluster_id: cluster_id.clone(), machine_boot })?;
        Ok(Self { node, boot: draw(random), cluster: cluster_id, machine_restarted })
    }
}

/// Keeps which cluster the node belongs to, so that it never meets another one with its data.
pub fn remember_cluster(folder: &dyn Disk, cluster: &str) -> Result<(), Error> {
    match read(folder)? {
        Some(stored) if stored.cluster_id != cluster => {
            write(folder, &Stored { cluster_id: cluster.to_owned(), ..stored })
        }
        _ => Ok(()),
    }
}

fn failed(folder: &dyn Disk, action: &'static str) -> impl Fn(std::io::Error) -> Error {
    let path = folder.describe(FILE);
    move |source| Error::Identity { action, path: path.clone(), source }
}

fn read(folder: &dyn Disk) -> Result<Option<Stored>, Error> {
    let contents = disk::read(folder, FILE).map_err(failed(folder, "read"))?;
    let parse = |contents: Vec<u8>| serde_json::from_slice(&contents).map_err(std::io::Error::other);
    contents.map(parse).transpose().map_err(failed(folder, "understand"))
}

fn write(folder: &dyn Disk, stored: &Stored) -> Result<(), Error> {
    let contents = serde_json::to_vec_pretty(stored).map_err(std::io::Error::other);
    let written = contents.and_then(|contents| disk::replace(folder, FILE, &contents));
    written.map_err(failed(folder, "write"))
}

/// Never 0, which means "none" on the wire; 53 bits, so that it survives JSON readers with floating point.
fn draw(random: &mut impl Rng) -> u64 {
    random.random_range(1..1 << 53)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use trimaran_storage::faulty::FaultyDisk;

    use super::*;

    #[test]
    fn a_node_keeps_its_id_and_notices_a_restart_of_its_machine() {
        let folder = FaultyDisk::new();
        let mut random = StdRng::seed_from_u64(1);
        let first = Identity::load(&folder, "a", &mut random).unwrap();
        assert!(!first.machine_restarted);
        let again = Identity::load(&folder, "a", &mut random).unwrap();
        assert_eq!((again.node, again.machine_restarted), (first.node, false));
        assert_ne!(again.boot, first.boot);
        let later = Identity::load(&folder, "b", &mut random).unwrap();
        assert_eq!((later.node, later.machine_restarted), (first.node, true));
        assert_eq!(later.cluster, "");
        remember_cluster(&folder, "c").unwrap();
        let member = Identity::load(&folder, "b", &mut random).unwrap();
        assert_eq!((member.node, member.cluster.as_str()), (first.node, "c"));
    }
}
