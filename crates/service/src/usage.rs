//! How much this process uses of the processors and the memory that it may use.

use parking_lot::Mutex;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Reads the usage of this process, again and again.
pub struct Usage {
    /// Absent where the operating system does not tell.
    system: Option<Mutex<System>>,
    processors: f64,
}

impl std::fmt::Debug for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usage").field("processors", &self.processors).finish_non_exhaustive()
    }
}

impl Default for Usage {
    fn default() -> Self {
        // What the operating system, or a limit of its container, gives it.
        let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
        Self { system: System::new().ok().map(Mutex::new), processors }
    }
}

impl Usage {
    /// Processors since the last call, and memory now; each as a share, 0 to 1. The first call knows of no processors.
    pub fn read(&self) -> (f64, f64) {
        let (Some(system), Ok(own)) = (&self.system, sysinfo::get_current_pid()) else { return (0.0, 0.0) };
        let mut system = system.lock();
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, what);
        system.refresh_memory();
        let limit =
            system.cgroup_limits().map_or_else(|| system.total_memory(), |limits| limits.total_memory);
        let Some(process) = system.process(own) else { return (0.0, 0.0) };
        let cpu = f64::from(process.cpu_usage()) / 100.0 / self.processors;
        (cpu, process.memory() as f64 / limit.max(1) as f64)
    }
}

/// Seconds of processors that this process has used since it began: for itself, and by the kernel for it. `None` where
/// the operating system does not tell. Source: proc(5), `/proc/pid/stat`.
pub fn processor_seconds() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name of the program, which may have spaces: the 14th and 15th field, counted from 1.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut seconds =
        || Some(fields.next()?.parse::<f64>().ok()? / rustix::param::clock_ticks_per_second() as f64);
    Some((seconds()?, seconds()?))
}
