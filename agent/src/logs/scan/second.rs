//! The time of the last line, and which bytes of it are seconds: the next line's differs in these.

use crate::logs::scan::shape::{LITERAL_BYTES_MAX, Literal};

const OF_SIXTY: u16 = 0x060a;
const OF_HUNDRED: u16 = 0x0606;

/// A time text with its seconds left out. The default remembers none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seconds {
    /// All but the seconds and what follows their point.
    pub(crate) like: Literal,
    /// Bytes of the time itself; 0 = none is remembered.
    pub(crate) len: u8,
    /// What the text says with its seconds at zero, in seconds since the epoch, and milliseconds.
    base: i64,
    base_ms: i64,
    /// Place of the two digits; 0 = the whole text is compared.
    at: u8,
    /// What the digits lack to 16 when they are one too large: the first may be 5 at most, or 9 in
    /// seconds since the epoch.
    to_sixteen: u16,
    /// Place of three digits of milliseconds; 0 = none.
    millis_at: u8,
    /// Digits after these.
    n_finer: u8,
}

impl Seconds {
    /// Remembers a time text and what it means, in milliseconds since the epoch.
    pub(crate) fn whole(text: &[u8], ms: i64) -> Self {
        if text.len() > LITERAL_BYTES_MAX {
            return Self::default();
        }
        let (base, base_ms) = (ms.div_euclid(1000), ms.rem_euclid(1000));
        Self { like: Literal::new(text), len: text.len() as u8, base, base_ms, ..Self::default() }
    }

    /// The same with the text that follows the time in its lines, if both fit.
    pub(crate) fn before(mut self, until: &Literal) -> Self {
        let (from, upto) = (self.len as usize, self.len as usize + until.len as usize);
        if self.len == 0 || upto > LITERAL_BYTES_MAX {
            return Self::default();
        }
        self.like.bytes[from..upto].copy_from_slice(&until.bytes[..until.len as usize]);
        self.like.care[from..upto].copy_from_slice(&until.care[..until.len as usize]);
        self.like.len += until.len;
        self.like.n_marks += until.n_marks;
        self
    }

    /// The same without its seconds, where they are written in one of the usual ways.
    pub(crate) fn new(text: &[u8], ms: i64) -> Self {
        let whole = Self::whole(text, ms);
        let mut like = whole.like;
        let (at, to_sixteen, millis_at, n_finer) = match text {
            // 20/Nov/2026:13:12:55 +0000
            [_, _, b'/', .., b'+' | b'-', _, _, _, _] if text.len() == 26 => (18, OF_SIXTY, 0, 0),
            // 2026-11-20T13:12:55+00:00, or with a Z
            [_, _, _, _, b'-', ..] if matches!((text.len(), text[10]), (20 | 25, b'T')) => {
                (17, OF_SIXTY, 0, 0)
            }
            // 2026-11-20 13:12:55
            [_, _, _, _, b'-', ..] if matches!((text.len(), text[10]), (19, b' ' | b'\t')) => {
                (17, OF_SIXTY, 0, 0)
            }
            // 2026-11-20T13:12:55.042Z and 2026-11-20T13:12:55.042123Z
            [_, _, _, _, b'-', .., b'Z'] if matches!((text.len(), text[19]), (24 | 27, b'.')) => {
                (17, OF_SIXTY, 20, text.len() as u8 - 24)
            }
            // 1795176067.042 and 1795176067
            [digits @ .., b'.', _, _, _] if digits.len() == 10 => (8, OF_HUNDRED, 11, 0),
            // 1795176067.0421234
            [digits @ .., b'.', _, _, _, _, _, _, _] if digits.len() == 10 => {
                (8, OF_HUNDRED, 11, 4)
            }
            digits if digits.len() == 10 => (8, OF_HUNDRED, 0, 0),
            _ => (0, 0, 0, 0),
        };
        if at == 0 {
            return whole;
        }
        like.care[at as usize..][..2].fill(0);
        if millis_at > 0 {
            like.care[millis_at as usize..][..3 + n_finer as usize].fill(0);
        }
        let learned =
            Self { like, base: 0, base_ms: 0, at, to_sixteen, millis_at, n_finer, ..whole };
        match learned.read(&like.bytes) {
            Some((second, millis)) => {
                let rest = ms - second * 1000 - millis;
                Self { base: rest.div_euclid(1000), base_ms: rest.rem_euclid(1000), ..learned }
            }
            None => whole,
        }
    }

    /// The time at `from`, like the remembered one: seconds since the epoch, milliseconds.
    #[inline(always)]
    pub(crate) fn read(&self, text: &[u8; LITERAL_BYTES_MAX]) -> Option<(i64, i64)> {
        if self.at == 0 {
            return Some((self.base, self.base_ms));
        }
        let two = text.get(self.at as usize..)?.first_chunk::<2>()?;
        let digits = u16::from_le_bytes(*two) ^ 0x3030;
        // A digit too large shows in the high half of its byte, by itself or with the rest.
        if (digits.wrapping_add(self.to_sixteen) | digits) & 0xf0f0 != 0 {
            return None;
        }
        let second = self.base + i64::from((digits & 0xff) * 10 + (digits >> 8));
        if self.millis_at == 0 {
            return Some((second, self.base_ms));
        }
        Some((second, self.base_ms + self.millis(text)?))
    }

    fn millis(&self, text: &[u8]) -> Option<i64> {
        let digits = text.get(self.millis_at as usize..)?.get(..3 + self.n_finer as usize)?;
        // A number that is read as a float may be rounded up.
        let is_clear = self.n_finer == 0 || !digits.starts_with(b"999");
        let is_number = is_clear && digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| digits[..3].iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_as_long_as_a_literal_is_remembered_alone() {
        let text = b"2026-11-20T13:12:55.123456+00:00";
        assert_eq!(text.len(), LITERAL_BYTES_MAX);
        let ms = 1_795_180_375_123;
        let alone = Seconds::new(text, ms).before(&Literal::new(b""));
        assert_eq!((alone.len, alone.like.care), (32, [0xff; 32]));
        assert_eq!(alone.read(text), Some((1_795_180_375, 123)));
        assert_eq!(Seconds::new(text, ms).before(&Literal::new(b" ")).len, 0);
    }
}
