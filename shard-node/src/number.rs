//! Exact decimal numbers: 38 significant digits, 1E-130 to 9.9…9E+125, as in DynamoDB. Nothing is ever rounded.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};

/// Significant digits.
pub const DIGITS_MAX: u32 = 38;

/// Decimal exponents of the first digit.
pub const EXPONENT_MAX: i32 = 125;
const EXPONENT_MIN: i32 = -130;

/// 10^38: every mantissa is below.
const MANTISSA_END: u128 = 100_000_000_000_000_000_000_000_000_000_000_000_000;

/// Characters of a number as written. Longer ones hold nothing but zeros that do not count; no caller sends those.
const TEXT_BYTES_MAX: usize = 1024;

/// A decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    negative: bool,
    /// Below 10^38, without trailing zeros; 0 only for zero, which is not negative and has exponent 0.
    mantissa: u128,
    /// Value = mantissa · 10^exponent.
    exponent: i32,
}

/// Why there is no such number. The texts are DynamoDB's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number at all.
    #[error("The parameter cannot be converted to a numeric value: {0}")]
    Malformed(String),
    /// Needs more than 38 digits.
    #[error("Attempting to store more than 38 significant digits in a Number")]
    TooManyDigits,
    /// 1E+126 or more.
    #[error("Number overflow. Attempting to store a number with magnitude larger than supported range")]
    Overflow,
    /// Less than 1E-130, and not zero.
    #[error("Number underflow. Attempting to store a number with magnitude smaller than supported range")]
    Underflow,
}

impl Number {
    /// Zero.
    pub const ZERO: Self = Self { negative: false, mantissa: 0, exponent: 0 };

    fn new(negative: bool, mut mantissa: u128, mut exponent: i32) -> Result<Self, Error> {
        if mantissa == 0 {
            return Ok(Self::ZERO);
        }
        while mantissa.is_multiple_of(10) {
            mantissa /= 10;
            exponent += 1;
        }
        if mantissa >= MANTISSA_END {
            return Err(Error::TooManyDigits);
        }
        let number = Self { negative, mantissa, exponent };
        match number.magnitude() {
            magnitude if magnitude > EXPONENT_MAX => Err(Error::Overflow),
            magnitude if magnitude < EXPONENT_MIN => Err(Error::Underflow),
            _ => Ok(number),
        }
    }

    /// Decimal exponent of the first digit.
    fn magnitude(self) -> i32 {
        self.digits() as i32 - 1 + self.exponent
    }

    /// Significant digits.
    pub fn digits(self) -> u32 {
        self.mantissa.checked_ilog10().map_or(0, |log| log + 1)
    }

    /// The exact sum; an error if it has more than 38 digits or is out of range.
    pub fn plus(self, other: Self) -> Result<Self, Error> {
        let (high, low) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        if high.mantissa == 0 {
            return Ok(low);
        }
        if low.mantissa == 0 {
            return Ok(high);
        }
        // The last digit of `low` is no zero, so the sum has every digit from there on: 38 places must be enough.
        let shift = (high.exponent - low.exponent) as u32;
        let aligned = 10_u128.checked_pow(shift).and_then(|factor| high.mantissa.checked_mul(factor));
        let aligned = aligned.ok_or(Error::TooManyDigits)?;
        if high.negative == low.negative {
            let sum = aligned.checked_add(low.mantissa).ok_or(Error::TooManyDigits)?;
            return Self::new(high.negative, sum, low.exponent);
        }
        let negative = if aligned >= low.mantissa { high.negative } else { low.negative };
        Self::new(negative, aligned.abs_diff(low.mantissa), low.exponent)
    }

    /// The exact difference, as [`Number::plus`].
    pub fn minus(self, other: Self) -> Result<Self, Error> {
        self.plus(other.negated())
    }

    fn negated(self) -> Self {
        Self { negative: self.mantissa != 0 && !self.negative, ..self }
    }

    /// Appends bytes whose order is the order of the numbers and which end themselves: a sign, the exponent, the
    /// digits in pairs. Those of a negative number are complemented. Fixed for ever.
    pub fn encode(self, out: &mut BytesMut) {
        if self.mantissa == 0 {
            out.put_u8(2);
            return;
        }
        let flip = if self.negative { 0xff } else { 0 };
        out.put_u8(if self.negative { 1 } else { 3 });
        // 0 to 255.
        out.put_u8((self.magnitude() - EXPONENT_MIN) as u8 ^ flip);
        let mut digits = [0_u8; DIGITS_MAX as usize + 1];
        let count = self.digits() as usize;
        let mut rest = self.mantissa;
        for digit in digits[..count].iter_mut().rev() {
            *digit = (rest % 10) as u8;
            rest /= 10;
        }
        for pair in digits[..count + count % 2].chunks(2) {
            // 1 to 100, so that the end, 0, is before every pair.
            out.put_u8((pair[0] * 10 + pair[1] + 1) ^ flip);
        }
        out.put_u8(flip);
    }

    /// Reads what [`Number::encode`] wrote, from the front of `bytes`: the number and how many bytes it took.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let negative = match bytes.first()? {
            2 => return Some((Self::ZERO, 1)),
            1 => true,
            3 => false,
            _ => return None,
        };
        let flip = if negative { 0xff } else { 0 };
        let magnitude = i32::from(bytes.get(1)? ^ flip) + EXPONENT_MIN;
        let mut mantissa = 0_u128;
        let mut digits = 0;
        let mut at = 2;
        loop {
            let pair = bytes.get(at)? ^ flip;
            at += 1;
            if pair == 0 {
                break;
            }
            mantissa = mantissa.checked_mul(100)?.checked_add(u128::from(pair - 1))?;
            digits += 2;
        }
        let number = Self::new(negative, mantissa, magnitude + 1 - digits).ok()?;
        Some((number, at))
    }
}

impl FromStr for Number {
    type Err = Error;

    /// `[+-] digits [. digits] [e [+-] digits]`; at least one digit.
    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Malformed(text.to_owned());
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TooManyDigits);
        }
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (digits, exponent) = match rest.iter().position(|byte| byte.eq_ignore_ascii_case(&b'e')) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let exponent: i32 = match exponent {
            None => 0,
            Some(exponent) => {
                let unsigned = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-"));
                let unsigned = unsigned.unwrap_or(exponent);
                if unsigned.is_empty() || !unsigned.iter().all(u8::is_ascii_digit) {
                    return Err(malformed());
                }
                // Nine digits are far out of range already.
                let magnitude = std::str::from_utf8(unsigned).ok().and_then(|text| text.parse::<u64>().ok());
                let magnitude = magnitude.map_or(i32::MAX / 4, |magnitude| magnitude.min(1 << 20) as i32);
                if exponent[0] == b'-' { -magnitude } else { magnitude }
            }
        };
        let (mut mantissa, mut scale, mut seen, mut point) = (0_u128, 0_i32, false, false);
        // Zeros that are written only if another digit follows.
        let mut zeros = 0_u32;
        for &byte in digits {
            match byte {
                b'.' if !point => point = true,
                b'0'..=b'9' => {
                    seen = true;
                    scale -= i32::from(point);
                    if byte == b'0' {
                        zeros += 1;
                        continue;
                    }
                    let factor = if mantissa == 0 { Some(1) } else { 10_u128.checked_pow(zeros + 1) };
                    let shifted = factor.and_then(|factor| mantissa.checked_mul(factor));
                    mantissa = shifted
                        .and_then(|shifted| shifted.checked_add(u128::from(byte - b'0')))
                        .filter(|&mantissa| mantissa < MANTISSA_END)
                        .ok_or(Error::TooManyDigits)?;
                    zeros = 0;
                }
                _ => return Err(malformed()),
            }
        }
        if !seen {
            return Err(malformed());
        }
        Self::new(negative, mantissa, scale + exponent + zeros as i32)
    }
}

impl fmt::Display for Number {
    /// Plain notation, never an exponent, as DynamoDB answers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.mantissa.to_string();
        let sign = if self.negative { "-" } else { "" };
        if self.exponent >= 0 {
            return write!(f, "{sign}{digits}{:0<1$}", "", self.exponent as usize);
        }
        let places = self.exponent.unsigned_abs() as usize;
        match digits.len().checked_sub(places).filter(|&whole| whole > 0) {
            Some(whole) => write!(f, "{sign}{}.{}", &digits[..whole], &digits[whole..]),
            None => write!(f, "{sign}0.{digits:0>places$}"),
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.mantissa, number.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let by_sign = sign(self).cmp(&sign(other));
        if by_sign != Ordering::Equal || self.mantissa == 0 {
            return by_sign;
        }
        let by_size = self.magnitude().cmp(&other.magnitude()).then_with(|| {
            // Equal magnitudes: written with 38 digits, the mantissas compare.
            let widened = |number: &Self| number.mantissa * 10_u128.pow(DIGITS_MAX - number.digits());
            widened(self).cmp(&widened(other))
        });
        if self.negative { by_size.reverse() } else { by_size }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn numbers_are_answered_in_plain_notation_without_zeros_that_do_not_count() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.000", "0"),
            ("+1", "1"),
            ("007", "7"),
            ("1.500", "1.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-123.4500e1", "-1234.5"),
            ("1e3", "1000"),
            ("12E-5", "0.00012"),
            ("0e999999999999", "0"),
            ("10000000000000000000000000000000000000000000", "10000000000000000000000000000000000000000000"),
            ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
            ("1234567890123456789012345678901234.5678", "1234567890123456789012345678901234.5678"),
        ] {
            assert_eq!(number(text).to_string(), expected, "{text}");
        }
        assert_eq!(number("1e125").to_string().len(), 126);
        assert_eq!(number("1e-130").to_string().len(), 132);
    }

    #[test]
    fn what_is_no_number_is_refused_with_the_reason() {
        for text in
            ["", "-", ".", "e5", "1e", "1e+", "abc", "1 ", " 1", "1.2.3", "0x10", "NaN", "--1", "1e1.5"]
        {
            assert_eq!(text.parse::<Number>(), Err(Error::Malformed(text.to_owned())), "{text:?}");
        }
        for (text, expected) in [
            ("123456789012345678901234567890123456789", Error::TooManyDigits),
            ("1e126", Error::Overflow),
            ("-1e126", Error::Overflow),
            ("1e999999999999", Error::Overflow),
            ("1e-131", Error::Underflow),
        ] {
            assert_eq!(text.parse::<Number>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn sums_are_exact_or_refused() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("1e20", "-1", "99999999999999999999"),
            ("5", "-5", "0"),
            ("-7", "3", "-4"),
            ("3", "-7", "-4"),
            ("0", "-7.5", "-7.5"),
            ("99999999999999999999999999999999999999", "1", "100000000000000000000000000000000000000"),
        ] {
            assert_eq!(number(a).plus(number(b)).unwrap(), number(expected), "{a} + {b}");
            assert_eq!(number(a).minus(number(b).negated()).unwrap(), number(expected), "{a} - -{b}");
        }
        assert_eq!(number("1e38").plus(number("1")), Err(Error::TooManyDigits));
        assert_eq!(number("1e100").plus(number("1e-100")), Err(Error::TooManyDigits));
        assert_eq!(number("9e125").plus(number("9e125")), Err(Error::Overflow));
    }

    #[test]
    fn the_encoding_is_the_one_of_version_1() {
        for (text, expected) in [
            ("0", &[2][..]),
            ("1", &[3, 130, 11, 0]),
            ("-1", &[1, 125, 244, 255]),
            ("123.45", &[3, 132, 13, 35, 51, 0]),
        ] {
            let mut out = BytesMut::new();
            number(text).encode(&mut out);
            assert_eq!(&out[..], expected, "{text}");
        }
    }

    fn any_number() -> impl Strategy<Value = Number> {
        let mantissa = prop_oneof![0..100_u128, 0..MANTISSA_END];
        (any::<bool>(), mantissa, -140..90_i32)
            .prop_filter_map("out of range", |(negative, mantissa, exponent)| {
                Number::new(negative, mantissa, exponent).ok()
            })
    }

    proptest! {
        #[test]
        fn encoded_numbers_come_back_and_sort_as_numbers_do(a in any_number(), b in any_number()) {
            let encode = |number: Number| {
                let mut out = BytesMut::new();
                number.encode(&mut out);
                out
            };
            let (a_bytes, b_bytes) = (encode(a), encode(b));
            prop_assert_eq!(Number::decode(&a_bytes), Some((a, a_bytes.len())));
            prop_assert_eq!(a_bytes.cmp(&b_bytes), a.cmp(&b));
            prop_assert_eq!(a.to_string().parse::<Number>(), Ok(a));
        }

        #[test]
        fn what_is_added_can_be_taken_away(a in any_number(), b in any_number()) {
            if let Ok(sum) = a.plus(b) {
                prop_assert_eq!(b.plus(a), Ok(sum));
                if let Ok(back) = sum.minus(b) {
                    prop_assert_eq!(back, a);
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.eE]{0,60}") {
            let _any = text.parse::<Number>();
        }
    }
}
