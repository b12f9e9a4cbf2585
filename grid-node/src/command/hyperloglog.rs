//! HyperLogLogs: strings that estimate how many different elements they were given, with an error of 0.81 %.
//!
//! The strings are those of Redis, byte by byte but for the cached estimate, which is never written: one from Redis can
//! be SET here, and the other way round. Sources: `hyperloglog.c` of Redis 7.2 (the format), Ertl, "New cardinality
//! estimation algorithms for HyperLogLog sketches", 2017 (the estimate).

use bytes::Bytes;

use super::{Done, Read, Refusal, Write, refuse};
use crate::data::ByteString;

/// Bits of a hash that choose a register.
const INDEX_BITS: u32 = 14;
const REGISTERS: usize = 1 << INDEX_BITS;
/// Bits of a register of the dense format.
const REGISTER_BITS: usize = 6;
const HEADER_BYTES: usize = 16;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * REGISTER_BITS / 8;
/// Bytes that the sparse format may take, without the header (`hll-sparse-max-bytes`).
const SPARSE_BYTES_MAX: usize = 3000;
/// The greatest value that the sparse format can say.
const SPARSE_VALUE_MAX: u8 = 32;
const MAGIC: &[u8] = b"HYLL";
const DENSE: u8 = 0;
const SPARSE: u8 = 1;

type Registers = Vec<u8>;

fn not_one<T>() -> Done<T> {
    refuse("WRONGTYPE Key is not a valid HyperLogLog string value.")
}

fn corrupted() -> Refusal {
    Refusal::new("INVALIDOBJ Corrupted HLL object detected")
}

/// MurmurHash64A. Source: Austin Appleby, smhasher.
fn hash(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xadc8_3b19;
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> R;
        hash ^= word.wrapping_mul(M);
        hash = hash.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> R
}

/// The register of an element, and the value that it must have at least.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = hash(element);
    let index = hash as usize & (REGISTERS - 1);
    let rest = hash >> INDEX_BITS | 1 << (u64::BITS - INDEX_BITS);
    (index, rest.trailing_zeros() as u8 + 1)
}

fn dense_get(bytes: &[u8], index: usize) -> u8 {
    let bit = index * REGISTER_BITS;
    let (at, shift) = (HEADER_BYTES + bit / 8, bit % 8);
    let word = u16::from(bytes[at]) | u16::from(bytes.get(at + 1).copied().unwrap_or(0)) << 8;
    (word >> shift) as u8 & 0x3f
}

fn dense_set(bytes: &mut [u8], index: usize, value: u8) {
    let bit = index * REGISTER_BITS;
    let (at, shift) = (HEADER_BYTES + bit / 8, bit % 8);
    let (mask, value) = (0x3f_u16 << shift, u16::from(value) << shift);
    bytes[at] = bytes[at] & !(mask as u8) | value as u8;
    if mask > 0xff {
        bytes[at + 1] = bytes[at + 1] & !((mask >> 8) as u8) | (value >> 8) as u8;
    }
}

/// The format of a string, if it is one of a HyperLogLog.
fn format(bytes: &[u8]) -> Done<u8> {
    let is_one = bytes.len() >= HEADER_BYTES && bytes.starts_with(MAGIC) && bytes[4] <= SPARSE;
    if !is_one || (bytes[4] == DENSE && bytes.len() != DENSE_BYTES) {
        return not_one();
    }
    Ok(bytes[4])
}

/// All registers of a string.
fn registers(bytes: &[u8]) -> Done<Registers> {
    if format(bytes)? == DENSE {
        return Ok((0..REGISTERS).map(|index| dense_get(bytes, index)).collect());
    }
    let mut registers = Registers::with_capacity(REGISTERS);
    let mut rest = &bytes[HEADER_BYTES..];
    while let Some((first, more)) = rest.split_first() {
        let (value, run) = match first >> 6 {
            0 => (0, usize::from(first & 0x3f) + 1),
            1 => {
                let (second, behind) = more.split_first().ok_or_else(corrupted)?;
                rest = behind;
                registers
                    .resize(registers.len() + (usize::from(first & 0x3f) << 8 | usize::from(*second)) + 1, 0);
                if registers.len() > REGISTERS {
                    return Err(corrupted());
                }
                continue;
            }
            _ => ((first >> 2 & 0x1f) + 1, usize::from(first & 3) + 1),
        };
        rest = more;
        registers.resize(registers.len() + run, value);
        if registers.len() > REGISTERS {
            return Err(corrupted());
        }
    }
    if registers.len() == REGISTERS { Ok(registers) } else { Err(corrupted()) }
}

fn header(format: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend([format, 0, 0, 0]);
    // The highest bit says that the estimate that follows is none.
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0x80]);
    bytes
}

/// A string of registers, in the shorter format that can say them.
fn encoded(registers: &Registers, dense: bool) -> Vec<u8> {
    if !dense && let Some(sparse) = sparse(registers) {
        return sparse;
    }
    let mut bytes = header(DENSE);
    bytes.resize(DENSE_BYTES, 0);
    for (index, value) in registers.iter().enumerate() {
        dense_set(&mut bytes, index, *value);
    }
    bytes
}

fn sparse(registers: &Registers) -> Option<Vec<u8>> {
    const RUN_MAX: usize = 4;
    const ZEROS_MAX: usize = 64;
    let mut bytes = header(SPARSE);
    for run in registers.chunk_by(|a, b| a == b) {
        let value = run[0];
        if value > SPARSE_VALUE_MAX {
            return None;
        }
        let mut left = run.len();
        while left > 0 {
            let taken = if value > 0 {
                let taken = left.min(RUN_MAX);
                bytes.push(0x80 | (value - 1) << 2 | (taken - 1) as u8);
                taken
            } else if left <= ZEROS_MAX {
                bytes.push((left - 1) as u8);
                left
            } else {
                let length = left - 1;
                bytes.extend([0x40 | (length >> 8) as u8, length as u8]);
                left
            };
            left -= taken;
        }
        if bytes.len() > HEADER_BYTES + SPARSE_BYTES_MAX {
            return None;
        }
    }
    Some(bytes)
}

/// How many different elements such registers have seen.
fn estimate(registers: &Registers) -> u64 {
    const Q: usize = 64 - INDEX_BITS as usize;
    /// 0.5 / ln 2
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let mut histogram = [0_u32; 64];
    registers.iter().for_each(|value| histogram[usize::from(*value & 0x3f)] += 1);
    let m = REGISTERS as f64;
    let mut z = m * tau((m - f64::from(histogram[Q + 1])) / m);
    for value in histogram[1..=Q].iter().rev() {
        z = (z + f64::from(*value)) * 0.5;
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    (ALPHA * m * m / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

pub(super) fn pfadd(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let key = &arguments[1];
    let held = on.look::<ByteString>(key)?;
    let is_dense = held.map(|bytes| format(bytes)).transpose()? == Some(DENSE);
    if is_dense {
        let changed = on.update(key, |bytes: &mut ByteString, _| {
            let raised: Vec<(usize, u8)> = arguments[2..]
                .iter()
                .map(|element| place(element))
                .filter(|(index, value)| dense_get(bytes, *index) < *value)
                .collect();
            if !raised.is_empty() {
                bytes.edit(|bytes| {
                    // Two elements of one register: the greater one stays.
                    for (index, value) in &raised {
                        let value = dense_get(bytes, *index).max(*value);
                        dense_set(bytes, *index, value);
                    }
                    bytes[HEADER_BYTES - 1] |= 0x80;
                });
            }
            (!raised.is_empty(), !raised.is_empty())
        })?;
        on.out.flag(changed);
        return Ok(());
    }
    let is_new = held.is_none();
    let mut registers = held.map_or_else(|| Ok(vec![0; REGISTERS]), |bytes| registers(bytes))?;
    let mut changed = is_new;
    for (index, value) in arguments[2..].iter().map(|element| place(element)) {
        changed |= registers[index] < value;
        registers[index] = registers[index].max(value);
    }
    if changed {
        let bytes = ByteString::from(encoded(&registers, false));
        on.update(key, |held: &mut ByteString, _| {
            *held = bytes;
            (true, ())
        })?;
    }
    on.out.flag(changed);
    Ok(())
}

/// The greatest of each register of several strings, and whether one of them is dense.
fn merged(on: &Read<'_>, keys: &[Bytes]) -> Done<(Registers, bool)> {
    let (mut all, mut dense) = (vec![0; REGISTERS], false);
    for key in keys {
        let Some(bytes) = on.look::<ByteString>(key)? else { continue };
        dense |= format(bytes)? == DENSE;
        let one = registers(bytes)?;
        all.iter_mut().zip(one).for_each(|(held, value)| *held = value.max(*held));
    }
    Ok((all, dense))
}

pub(super) fn pfcount(on: &mut Read<'_>, arguments: &[Bytes]) -> Done {
    let (registers, _) = merged(on, &arguments[1..])?;
    on.out.integer(i64::try_from(estimate(&registers)).unwrap_or(i64::MAX));
    Ok(())
}

pub(super) fn pfmerge(on: &mut Write<'_>, arguments: &[Bytes]) -> Done {
    let (registers, dense) = merged(&on.reading(), &arguments[1..])?;
    let bytes = ByteString::from(encoded(&registers, dense));
    on.update(&arguments[1], |held: &mut ByteString, _| {
        *held = bytes;
        (true, ())
    })?;
    on.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn estimates_are_near() {
        let mut registers = vec![0; REGISTERS];
        for number in 1..=100_000_u32 {
            let (index, value) = place(&number.to_le_bytes());
            registers[index] = registers[index].max(value);
            if [10, 1000, 100_000].contains(&number) {
                let off = estimate(&registers).abs_diff(u64::from(number)) as f64 / f64::from(number);
                assert!(off < 0.03, "{number}: {off}");
            }
        }
    }

    proptest! {
        #[test]
        fn registers_are_the_same_in_both_formats(set in proptest::collection::vec((0..REGISTERS, 0..=SPARSE_VALUE_MAX), 0..300)) {
            let mut registers = vec![0; REGISTERS];
            set.into_iter().for_each(|(index, value)| registers[index] = value);
            for dense in [false, true] {
                let bytes = encoded(&registers, dense);
                prop_assert_eq!(&super::registers(&bytes).unwrap(), &registers);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            bytes.splice(0..0, header(SPARSE));
            let _whatever = registers(&bytes);
        }
    }
}
