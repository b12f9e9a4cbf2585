//! What operations cost, in DynamoDB's capacity units.
//!
//! Source: DynamoDB developer guide, "DynamoDB read and write operations".

use std::collections::BTreeMap;

use crate::hot::Asked;
use crate::op::Written;

/// What an operation uses of a table's capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use<'a> {
    /// Reads or writes.
    pub asked: Asked,
    /// The index that is read, if it is not the table itself.
    pub index: Option<&'a str>,
}

impl<'a> Use<'a> {
    /// Something is written.
    pub const WRITE: Self = Self { asked: Asked::Write, index: None };

    /// Something is read, of the table or of an index.
    pub fn read(index: Option<&'a str>) -> Self {
        Self { asked: Asked::Read, index }
    }
}

/// What an operation cost a table and its indexes, in capacity units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Consumed {
    /// Of the table itself.
    pub table: f64,
    /// By the number of the index.
    pub indexes: BTreeMap<u32, f64>,
}

impl Consumed {
    /// For the table alone.
    pub fn table(units: f64) -> Self {
        Self { table: units, ..Self::default() }
    }

    /// What so many bytes cost that were read, of the table or of an index.
    pub fn read(index: Option<u32>, bytes: u64, consistent: bool) -> Self {
        let units = read_units(bytes, consistent);
        match index {
            Some(index) => Self { indexes: [(index, units)].into(), ..Self::default() },
            None => Self::table(units),
        }
    }

    /// What a write cost.
    pub fn write(written: &Written) -> Self {
        let entries = |sizes: &Vec<u32>| sizes.iter().map(|&size| write_units(size)).sum();
        Self {
            table: write_units(written.size),
            indexes: written.touched.iter().map(|(index, sizes)| (*index, entries(sizes))).collect(),
        }
    }

    /// What part of a transaction costs: it is paid for twice, to prepare it and to do it.
    pub fn twice(mut self) -> Self {
        self.add(self.clone());
        self
    }

    /// Adds what another operation cost.
    pub fn add(&mut self, other: Self) {
        self.table += other.table;
        for (index, units) in other.indexes {
            *self.indexes.entry(index).or_default() += units;
        }
    }
}

/// One for every kilobyte begun.
pub fn write_units(bytes: u32) -> f64 {
    f64::from(bytes.div_ceil(1024).max(1))
}

/// One for every four kilobytes begun, half as many for a read that need not be consistent.
pub fn read_units(bytes: u64, consistent: bool) -> f64 {
    let units = bytes.div_ceil(4096).max(1) as f64;
    if consistent { units } else { units / 2.0 }
}
