//! Small values in one string: listpacks, ziplists, sets of integers. Source: `listpack.c`, `ziplist.c`, `intset.c`.

use std::borrow::Cow;

use super::super::Done;
use super::bad;

pub(super) type Elements<'a> = Vec<Cow<'a, [u8]>>;

fn number<'a>(number: i64) -> Cow<'a, [u8]> {
    Cow::Owned(number.to_string().into_bytes())
}

/// A little-endian integer of up to eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let mut all = [if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(all)
}

fn unsigned<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> usize {
    bytes.into_iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// Splits so many bytes off the front.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Done<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(count).ok_or_else(bad)?;
    *rest = behind;
    Ok(taken)
}

/// The elements of a listpack.
pub(super) fn listpack(bytes: &[u8]) -> Done<Elements<'_>> {
    const HEADER_BYTES: usize = 6;
    const END: u8 = 0xff;
    let mut rest = bytes.get(HEADER_BYTES..).ok_or_else(bad)?;
    let mut found = Vec::new();
    loop {
        let before = rest.len();
        let first = take(&mut rest, 1)?[0];
        let element = match first {
            END => return if rest.is_empty() { Ok(found) } else { Err(bad()) },
            0..=0x7f => number(i64::from(first)),
            0x80..=0xbf => Cow::Borrowed(take(&mut rest, usize::from(first & 0x3f))?),
            0xc0..=0xdf => {
                let second = take(&mut rest, 1)?[0];
                // Thirteen bits, the highest of which is the sign.
                let value = i64::from(first & 0x1f) << 8 | i64::from(second);
                number(if value >= 1 << 12 { value - (1 << 13) } else { value })
            }
            0xe0..=0xef => {
                let second = take(&mut rest, 1)?[0];
                Cow::Borrowed(take(&mut rest, usize::from(first & 0x0f) << 8 | usize::from(second))?)
            }
            0xf0 => {
                let length = unsigned(take(&mut rest, 4)?.iter().rev());
                Cow::Borrowed(take(&mut rest, length)?)
            }
            0xf1 => number(signed(take(&mut rest, 2)?)),
            0xf2 => number(signed(take(&mut rest, 3)?)),
            0xf3 => number(signed(take(&mut rest, 4)?)),
            0xf4 => number(signed(take(&mut rest, 8)?)),
            _ => return Err(bad()),
        };
        found.push(element);
        let length = before - rest.len();
        take(&mut rest, back_length(length))?;
    }
}

/// Bytes that the length of an element takes behind it.
fn back_length(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    }
}

/// One element for a listpack.
#[derive(Clone, Copy, Debug)]
pub(super) enum Element<'a> {
    Number(i64),
    Text(&'a [u8]),
}

/// A listpack of elements.
pub(super) fn put_listpack(elements: &[Element<'_>]) -> Vec<u8> {
    let mut out = vec![0; 6];
    for element in elements {
        let before = out.len();
        match element {
            Element::Number(number @ 0..=127) => out.push(*number as u8),
            Element::Number(number) => {
                out.push(0xf4);
                out.extend(number.to_le_bytes());
            }
            Element::Text(text) if text.len() < 64 => {
                out.push(0x80 | text.len() as u8);
                out.extend(*text);
            }
            Element::Text(text) => {
                out.push(0xf0);
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(*text);
            }
        }
        let length = out.len() - before;
        let bytes = back_length(length);
        // Seven bits each, the lowest last, since it is read from its end; all but the first written say that there is more.
        for at in (0..bytes).rev() {
            let bits = (length >> (7 * at)) as u8 & 0x7f;
            out.push(if at + 1 == bytes { bits } else { bits | 0x80 });
        }
    }
    out.push(0xff);
    let total = out.len() as u32;
    out[..4].copy_from_slice(&total.to_le_bytes());
    // As many as fit; the greatest number says that they have to be counted.
    let count = u16::try_from(elements.len()).unwrap_or(u16::MAX);
    out[4..6].copy_from_slice(&count.to_le_bytes());
    out
}

/// The elements of a ziplist.
pub(super) fn ziplist(bytes: &[u8]) -> Done<Elements<'_>> {
    const HEADER_BYTES: usize = 10;
    const END: u8 = 0xff;
    let mut rest = bytes.get(HEADER_BYTES..).ok_or_else(bad)?;
    let mut found = Vec::new();
    loop {
        // The length of the element before.
        match take(&mut rest, 1)?[0] {
            END => return if rest.is_empty() { Ok(found) } else { Err(bad()) },
            0xfe => {
                take(&mut rest, 4)?;
            }
            _ => {}
        }
        let first = take(&mut rest, 1)?[0];
        found.push(match first {
            0..=0x3f => Cow::Borrowed(take(&mut rest, usize::from(first))?),
            0x40..=0x7f => {
                let second = take(&mut rest, 1)?[0];
                Cow::Borrowed(take(&mut rest, usize::from(first & 0x3f) << 8 | usize::from(second))?)
            }
            0x80 => {
                let length = unsigned(take(&mut rest, 4)?);
                Cow::Borrowed(take(&mut rest, length)?)
            }
            0xc0 => number(signed(take(&mut rest, 2)?)),
            0xd0 => number(signed(take(&mut rest, 4)?)),
            0xe0 => number(signed(take(&mut rest, 8)?)),
            0xf0 => number(signed(take(&mut rest, 3)?)),
            0xfe => number(signed(take(&mut rest, 1)?)),
            0xf1..=0xfd => number(i64::from(first & 0x0f) - 1),
            _ => return Err(bad()),
        });
    }
}

/// The members of a set of integers.
pub(super) fn intset(bytes: &[u8]) -> Done<Elements<'_>> {
    let mut rest = bytes;
    let width = unsigned(take(&mut rest, 4)?.iter().rev());
    let count = unsigned(take(&mut rest, 4)?.iter().rev());
    if ![2, 4, 8].contains(&width) || Some(rest.len()) != count.checked_mul(width) {
        return Err(bad());
    }
    Ok(rest.chunks_exact(width).map(|member| number(signed(member))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn listpacks_come_back(
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
            numbers in proptest::collection::vec(any::<i64>(), 0..20),
        ) {
            let of_texts = texts.iter().map(|text| Element::Text(text));
            let of_numbers = numbers.iter().map(|number| Element::Number(*number));
            let bytes = put_listpack(&of_texts.chain(of_numbers).collect::<Vec<_>>());
            let read: Vec<Vec<u8>> = listpack(&bytes).unwrap().iter().map(|element| element.to_vec()).collect();
            let of_numbers = numbers.iter().map(|number| number.to_string().into_bytes());
            prop_assert_eq!(read, texts.iter().cloned().chain(of_numbers).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _whatever = (listpack(&bytes), ziplist(&bytes), intset(&bytes));
        }
    }
}
