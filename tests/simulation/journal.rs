//! The machine that is replicated in all simulations.

use std::collections::HashSet;

use bytes::Bytes;
use trimaran_placement::token::{self, Token};
use trimaran_replication::error::Stop;
use trimaran_replication::machine::{Committed, Machine, Remember, Reply, SnapshotChunks};

/// What a journal answers to a text that belongs to another one.
pub(crate) const ELSEWHERE: &str = "elsewhere";

/// Writes every text down that belongs to its tokens; the reply is the place. What is split off begins with the texts that
/// belong there; they stay in the old one too, so that what is written down never changes. What becomes part of this one is written
/// down behind, without what was here before it was split off.
pub(crate) struct Journal {
    tokens: (u64, u64),
    entries: Vec<String>,
    is_frozen: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self::of(0, u64::MAX)
    }
}

/// Where a text belongs.
pub(crate) fn token_of(text: &str) -> Token {
    token::grid(text.as_bytes())
}

impl Journal {
    /// One for tokens, both inclusive.
    pub(crate) fn of(first: u64, last: u64) -> Self {
        Self { tokens: (first, last), entries: Vec::new(), is_frozen: false }
    }

    /// Everything, in order.
    pub(crate) fn entries(&self) -> &[String] {
        &self.entries
    }

    /// True if another journal has everything, or is about to.
    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    fn has_place_for(&self, text: &str) -> bool {
        (self.tokens.0..=self.tokens.1).contains(&token_of(text).0)
    }
}

impl Machine for Journal {
    fn apply(&mut self, run: &[Committed<'_>]) -> Result<Vec<Reply>, Stop> {
        let write = |command: &Committed<'_>| {
            let text = String::from_utf8_lossy(command.payload).into_owned();
            if !self.has_place_for(&text) {
                return Reply::Elsewhere(Bytes::from_static(ELSEWHERE.as_bytes()));
            }
            self.entries.push(text);
            Reply::Done(Bytes::from(self.entries.len().to_string()))
        };
        Ok(run.iter().map(write).collect())
    }

    fn tokens(&self) -> (u64, u64) {
        self.tokens
    }

    fn split(&mut self, at: u64, _group: u64, _remember: Remember) -> Result<Self, Stop> {
        let mut new = Self::of(at, self.tokens.1);
        self.tokens.1 = at - 1;
        new.entries = self.entries.iter().filter(|text| new.has_place_for(text)).cloned().collect();
        Ok(new)
    }

    fn elsewhere(&self) -> Bytes {
        Bytes::from_static(ELSEWHERE.as_bytes())
    }

    fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
    }

    fn merge(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let mut behind = Self::default();
        behind.restore(chunks)?;
        self.tokens.1 = behind.tokens.1;
        // Each once: a text that both have twice between them was carried out twice.
        let mut known: HashSet<String> = self.entries.iter().cloned().collect();
        self.entries.extend(behind.entries.into_iter().filter(|text| !known.remove(text)));
        Ok(())
    }

    fn snapshot(&self) -> SnapshotChunks {
        let tokens = Bytes::from(format!("{} {}", self.tokens.0, self.tokens.1));
        let entries: Vec<Bytes> = self.entries.iter().map(|entry| Bytes::from(entry.clone())).collect();
        Box::new(std::iter::once(tokens).chain(entries).map(Ok))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let mut texts = chunks.map(|chunk| chunk.map(|chunk| String::from_utf8_lossy(&chunk).into_owned()));
        let tokens = texts.next().ok_or_else(|| Stop::new("an empty snapshot"))??;
        let parsed =
            tokens.split_once(' ').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        self.tokens = parsed.ok_or_else(|| Stop::new("a snapshot of no tokens"))?;
        self.entries = texts.collect::<Result<_, _>>()?;
        Ok(())
    }
}
