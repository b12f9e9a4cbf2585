//! The machine that is replicated in all simulations.

use std::collections::{BTreeMap, HashSet};

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
    banks: Banks,
    is_frozen: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self::of(0, u64::MAX)
    }
}

/// Accounts of a bank. All of them are in one partition: their keys have one tag.
pub(crate) const ACCOUNTS: u32 = 4;

/// What an account may owe.
const CREDIT: i64 = 20;

/// Balances of accounts, by bank, which is a tag. Beside the texts, so that what a snapshot, a split and a merge make of it is
/// seen: the texts say what it must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Banks(BTreeMap<String, [i64; ACCOUNTS as usize]>);

/// A text that moves an amount from one account of a bank to another.
pub(crate) fn transfer(bank: u32, from: u32, to: u32, amount: i64, who: &str) -> String {
    format!("{{bank-{bank}}} {from} {to} {amount} {who}")
}

impl Banks {
    /// What these texts, in this order, lead to. One that an account has not enough for does nothing.
    pub(crate) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut banks = Self::default();
        texts.for_each(|text| banks.carry_out(text));
        banks
    }

    fn carry_out(&mut self, text: &str) {
        let mut words = text.split(' ');
        let parsed = (|| {
            let bank = words.next().filter(|bank| bank.starts_with("{bank-"))?;
            let [from, to] = [words.next()?.parse::<usize>().ok()?, words.next()?.parse::<usize>().ok()?];
            Some((bank, from, to, words.next()?.parse::<i64>().ok()?))
        })();
        let Some((bank, from, to, amount)) = parsed else { return };
        let accounts = self.0.entry(bank.to_owned()).or_default();
        if accounts[from] - amount >= -CREDIT {
            accounts[from] -= amount;
            accounts[to] += amount;
        }
    }

    /// A bank that has more or less than nothing, if there is one.
    pub(crate) fn unbalanced(&self) -> Option<&str> {
        let found = self.0.iter().find(|(_, accounts)| accounts.iter().sum::<i64>() != 0);
        found.map(|(bank, _)| bank.as_str())
    }

    fn save(&self) -> String {
        let line = |(bank, accounts): (&String, &[i64; ACCOUNTS as usize])| {
            accounts.iter().fold(bank.clone(), |line, balance| format!("{line} {balance}"))
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn read(saved: &str) -> Option<Self> {
        let bank = |line: &str| {
            let (bank, accounts) = line.split_once(' ')?;
            let accounts: Option<Vec<i64>> =
                accounts.split(' ').map(|balance| balance.parse().ok()).collect();
            Some((bank.to_owned(), accounts?.try_into().ok()?))
        };
        saved.lines().map(bank).collect::<Option<_>>().map(Self)
    }
}

/// Where a text belongs.
pub(crate) fn token_of(text: &str) -> Token {
    token::grid(text.as_bytes())
}

impl Journal {
    /// One for tokens, both inclusive.
    pub(crate) fn of(first: u64, last: u64) -> Self {
        Self { tokens: (first, last), entries: Vec::new(), banks: Banks::default(), is_frozen: false }
    }

    /// Everything, in order.
    pub(crate) fn entries(&self) -> &[String] {
        &self.entries
    }

    /// The accounts of the banks that belong here.
    pub(crate) fn banks(&self) -> &Banks {
        &self.banks
    }

    /// True if the accounts are what the texts say.
    pub(crate) fn adds_up(&self) -> bool {
        let own = self.entries.iter().map(String::as_str).filter(|text| self.has_place_for(text));
        Banks::of(own) == self.banks
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
            self.banks.carry_out(&text);
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
        new.banks.0 = self.banks.0.extract_if(.., |bank, _| new.has_place_for(bank)).collect();
        Ok(new)
    }

    fn elsewhere(&self) -> Bytes {
        Bytes::from_static(ELSEWHERE.as_bytes())
    }

    fn freeze(&mut self, frozen: bool) {
        self.is_frozen = frozen;
    }

    fn merge(&mut self, chunks: &mut SnapshotChunks, _passed_ms: u64) -> Result<(), Stop> {
        let mut behind = Self::default();
        behind.restore(chunks)?;
        self.tokens.1 = behind.tokens.1;
        self.banks.0.extend(behind.banks.0);
        // Each once: a text that both have twice between them was carried out twice.
        let mut known: HashSet<String> = self.entries.iter().cloned().collect();
        self.entries.extend(behind.entries.into_iter().filter(|text| !known.remove(text)));
        Ok(())
    }

    fn snapshot(&self) -> SnapshotChunks {
        let tokens = Bytes::from(format!("{} {}", self.tokens.0, self.tokens.1));
        let banks = Bytes::from(self.banks.save());
        let entries: Vec<Bytes> = self.entries.iter().map(|entry| Bytes::from(entry.clone())).collect();
        Box::new([tokens, banks].into_iter().chain(entries).map(Ok))
    }

    fn restore(&mut self, chunks: &mut SnapshotChunks) -> Result<(), Stop> {
        let mut texts = chunks.map(|chunk| chunk.map(|chunk| String::from_utf8_lossy(&chunk).into_owned()));
        let tokens = texts.next().ok_or_else(|| Stop::new("an empty snapshot"))??;
        let parsed =
            tokens.split_once(' ').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        self.tokens = parsed.ok_or_else(|| Stop::new("a snapshot of no tokens"))?;
        let banks = texts.next().ok_or_else(|| Stop::new("a snapshot without its banks"))??;
        self.banks = Banks::read(&banks).ok_or_else(|| Stop::new("a snapshot of no banks"))?;
        self.entries = texts.collect::<Result<_, _>>()?;
        Ok(())
    }
}
