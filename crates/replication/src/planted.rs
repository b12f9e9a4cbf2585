//! Bugs that the simulation plants, to see that it would notice them. Without the feature `planted-bugs` there are none,
//! and asking costs nothing. To be asked where the simulation's own thread runs, not in blocking tasks.

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A copy is deleted when it is to go, not when the group was confirmed to do without it.
    RemovedAtOnce,
    /// A leader confirms the members that it wants, not those that a majority agrees on.
    ConfirmedBeforeAgreed,
    /// A snapshot does not carry the replies that a retry may still ask for.
    RepliesForgotten,
    /// A leader has forgotten what was answered ten minutes before by its own clock, which may be ahead.
    ForgottenByTheClock,
    /// A snapshot lacks its last piece.
    SnapshotCutShort,
    /// What was answered before a split is not known to the new group.
    RepliesLeftBehind,
    /// What the group behind had answered is not known after a merge.
    RepliesNotMerged,
    /// A group goes on carrying out commands after it has given its state to another one.
    NeverFrozen,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug, or none, in everything that runs on this thread.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// True if the bug is planted here.
#[cfg(feature = "planted-bugs")]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// True if the bug is planted here: never.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is(_bug: Bug) -> bool {
    false
}
