//! What must hold at every moment, and at the end.

use std::collections::{BTreeMap, HashMap};

use trimaran_replication::group::Status;

use crate::journal::Journal;

/// Watches all replicas of one group.
#[derive(Default)]
pub(crate) struct Watcher {
    leaders: BTreeMap<u64, u64>,
    /// The longest journal seen of any replica: what is applied never changes.
    applied: Vec<String>,
}

impl Watcher {
    /// Terms in which somebody was seen to lead.
    pub(crate) fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// One leader a term (Ongaro 2014, "Election Safety").
    pub(crate) fn see_status(&mut self, replica: u64, status: &Status) -> Result<(), String> {
        if status.state != "leader" {
            return Ok(());
        }
        match self.leaders.insert(status.term, replica) {
            Some(other) if other != replica => {
                Err(format!("replicas {other} and {replica} both led in term {}", status.term))
            }
            _ => Ok(()),
        }
    }

    /// What is transferred between accounts is neither more nor less afterwards; and what [`Watcher::see_texts`] says.
    pub(crate) fn see_journal(&mut self, replica: u64, journal: &Journal) -> Result<(), String> {
        if let Some(bank) = journal.banks().unbalanced() {
            return Err(format!("replica {replica} has more or less than nothing in {bank}"));
        }
        self.see_texts(replica, journal.entries())
    }

    /// Committed entries never change (Ongaro 2014, "State Machine Safety"): what two replicas have applied agrees as
    /// far as the shorter one goes.
    fn see_texts(&mut self, replica: u64, journal: &[String]) -> Result<(), String> {
        let common = journal.len().min(self.applied.len());
        if let Some(at) = (0..common).find(|&at| journal[at] != self.applied[at]) {
            return Err(format!(
                "replica {replica} applied {:?} as command {at}, another one {:?}",
                journal[at], self.applied[at]
            ));
        }
        if journal.len() > self.applied.len() {
            self.applied = journal.to_vec();
        }
        Ok(())
    }

    /// Every acknowledged write is there exactly once, and those without an answer at most once.
    pub(crate) fn at_the_end(&self, acknowledged: &[String]) -> Result<(), String> {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for entry in &self.applied {
            *count.entry(entry).or_default() += 1;
        }
        for (entry, times) in &count {
            if *times > 1 {
                return Err(format!("{entry} was applied {times} times"));
            }
        }
        match acknowledged.iter().find(|entry| !count.contains_key(entry.as_str())) {
            Some(lost) => Err(format!("{lost} was acknowledged and is gone")),
            None => Ok(()),
        }
    }
}
