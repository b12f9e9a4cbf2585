//! How many instances a pool wants now. Pure.

/// What a pool sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests in instances.
    pub(crate) running: usize,
    /// Requests that wait for one.
    pub(crate) waiting: usize,
}

/// What it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Requests at once in one instance.
    pub(crate) concurrency: usize,
    /// Instances at once.
    pub(crate) instances: usize,
}

/// Instances for all requests that are here, within the bounds. Admission is here, so the load is exact, and an
/// instance is asked for in the moment in which a request would wait without it.
pub(crate) fn wanted(load: Load, bounds: Bounds) -> usize {
    (load.running + load.waiting).div_ceil(bounds.concurrency.max(1)).min(bounds.instances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_load_needs_and_no_more_than_allowed() {
        let bounds = Bounds { concurrency: 10, instances: 3 };
        let of = |running, waiting| wanted(Load { running, waiting }, bounds);
        assert_eq!(of(0, 0), 0);
        assert_eq!(of(0, 1), 1);
        assert_eq!(of(10, 0), 1);
        assert_eq!(of(10, 1), 2);
        assert_eq!(of(30, 500), 3);
    }
}
