//! Where randomness enters: a generator seeded by the operating system, to be passed on.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// A generator seeded by the operating system.
pub fn generator() -> StdRng {
    StdRng::from_os_rng()
}

/// The operating system's id of its own start; empty where it has none.
pub fn machine_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
