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
    /// True if the node has run before and its machine has started anew since: what the operating system had not
    /// written out then is gone.
    pub machine_restarted: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u16,
    node_id: u64,
    /// The operating system's id of its own start, at the last start of the node.
    machine_boot: String,
}

impl Identity {
    /// An identity that lasts as long as the process.
    pub fn passing(random: &mut impl Rng) -> Self {
        Self { node: draw(random), boot: draw(random), machine_restarted: false }
    }

    /// Reads the identity from the data folder, or draws one and writes it. `machine_boot` is the operating system's
    /// id of its own start (on Linux /proc/sys/kernel/random/boot_id).
    pub fn load(folder: &dyn Disk, machine_boot: &str, random: &mut impl Rng) -> Result<Self, Error> {
        let failed = |action: &'static str| {
            let path = folder.describe(FILE);
            move |source: std::io::Error| Error::Identity { action, path, source }
        };
        let stored: Option<Stored> = match disk::read(folder, FILE).map_err(failed("read"))? {
            None => None,
            Some(contents) => {
                let stored = serde_json::from_slice(&contents).map_err(std::io::Error::other);
                Some(stored.map_err(failed("understand"))?)
            }
        };
        let node = stored.as_ref().map_or_else(|| draw(random), |stored| stored.node_id);
        let machine_restarted = stored.as_ref().is_some_and(|stored| stored.machine_boot != machine_boot);
        let now = Stored { version: 1, node_id: node, machine_boot: machine_boot.to_owned() };
        let contents =
            serde_json::to_vec_pretty(&now).map_err(std::io::Error::other).map_err(failed("write"))?;
        disk::replace(folder, FILE, &contents).map_err(failed("write"))?;
        Ok(Self { node, boot: draw(random), machine_restarted })
    }
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
    }
}
