//! Streams: what changes of a table's items, kept for a day.

use trimaran_proto::state::shard as state;

/// A stream of a table. A table has one that goes on, at most, and may have some that have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// From 1, and never that of another stream of the table, also not of one that is gone.
    pub number: u32,
    /// Milliseconds since 1970; no other stream of the table has it.
    pub created_ms: u64,
    /// What it has of the items.
    pub view: StreamView,
    /// Where it stands.
    pub status: StreamStatus,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: Option<u64>,
}

/// What a stream has of an item that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamView {
    /// Its key.
    KeysOnly,
    /// All of it, as it is.
    NewImage,
    /// All of it, as it was.
    OldImage,
    /// Both.
    NewAndOldImages,
}

impl StreamView {
    /// Each, with DynamoDB's word for it.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::NewImage, "NEW_IMAGE"),
        (Self::OldImage, "OLD_IMAGE"),
        (Self::NewAndOldImages, "NEW_AND_OLD_IMAGES"),
        (Self::KeysOnly, "KEYS_ONLY"),
    ];

    /// DynamoDB's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeysOnly => "KEYS_ONLY",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::NewAndOldImages => "NEW_AND_OLD_IMAGES",
        }
    }

    /// What DynamoDB's word stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(view, _)| view)
    }

    /// Whether it has items as they were.
    pub fn has_old(self) -> bool {
        matches!(self, Self::OldImage | Self::NewAndOldImages)
    }

    /// Whether it has items as they are.
    pub fn has_new(self) -> bool {
        matches!(self, Self::NewImage | Self::NewAndOldImages)
    }
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    /// It has every change.
    Enabled,
    /// The partitions are being told that it begins.
    Enabling,
    /// They are being told that it ends.
    Disabling,
    /// It has ended, and is there to be read for a while.
    Disabled,
}

impl Stream {
    /// Whether partitions that know of it are to put changes into it.
    pub fn goes_on(&self) -> bool {
        matches!(self.status, StreamStatus::Enabled | StreamStatus::Enabling)
    }

    /// Whether the partitions are being told that it begins, or ends.
    pub fn is_underway(&self) -> bool {
        matches!(self.status, StreamStatus::Enabling | StreamStatus::Disabling)
    }

    pub(super) fn encode(&self) -> state::Stream {
        let view = match self.view {
            StreamView::KeysOnly => state::StreamView::KeysOnly,
            StreamView::NewImage => state::StreamView::NewImage,
            StreamView::OldImage => state::StreamView::OldImage,
            StreamView::NewAndOldImages => state::StreamView::NewAndOldImages,
        };
        let status = match self.status {
            StreamStatus::Enabled => state::StreamState::Enabled,
            StreamStatus::Enabling => state::StreamState::Enabling,
            StreamStatus::Disabling => state::StreamState::Disabling,
            StreamStatus::Disabled => state::StreamState::Disabled,
        };
        state::Stream {
            number: self.number,
            created_ms: self.created_ms,
            view: view.into(),
            state: status.into(),
            ended_ms: self.ended_ms.unwrap_or_default(),
        }
    }

    pub(super) fn decode(stored: state::Stream) -> Self {
        let view = match stored.view() {
            state::StreamView::KeysOnly => StreamView::KeysOnly,
            state::StreamView::NewImage => StreamView::NewImage,
            state::StreamView::OldImage => StreamView::OldImage,
            state::StreamView::NewAndOldImages => StreamView::NewAndOldImages,
        };
        let status = match stored.state() {
            state::StreamState::Enabled => StreamStatus::Enabled,
            state::StreamState::Enabling => StreamStatus::Enabling,
            state::StreamState::Disabling => StreamStatus::Disabling,
            state::StreamState::Disabled => StreamStatus::Disabled,
        };
        Self {
            number: stored.number,
            created_ms: stored.created_ms,
            view,
            status,
            ended_ms: Some(stored.ended_ms).filter(|ended| *ended > 0),
        }
    }
}
