//! The time of the last line, and which bytes of it are seconds: the next line's differs in these.

use crate::logs::scan::shape::{LITERAL_BYTES_MAX, Literal};

/// A time text with its seconds left out. The default fits no text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seconds {
    /// All but the seconds and what follows their point.
    pub(crate) like: Literal,
    /// What the text says with its seconds at zero, in milliseconds since the epoch.
    base_ms: i64,
    /// Place of the two digits; 0 = the whole text is compared.
    at: u8,
    /// Highest first digit: `5`, or `9` in seconds since the epoch.
    tens_max: u8,
    /// Place of three digits of milliseconds; 0 = none.
    millis_at: u8,
}

impl Seconds {
    /// Remembers a time text and what it means, in milliseconds since the epoch.
    pub(crate) fn whole(text: &[u8], ms: i64) -> Self {
        if text.len() > LITERAL_BYTES_MAX {
            return Self::default();
        }
        Self { like: Literal::new(text), base_ms: ms, ..Self::default() }
    }

    /// The same without its seconds, where they are written in one of the usual ways.
    pub(crate) fn new(text: &[u8], ms: i64) -> Self {
        let whole = Self::whole(text, ms);
        let mut like = whole.like;
        let (at, tens_max, millis_at) = match text {
            // 20/Nov/2026:13:12:55 +0000
            [_, _, b'/', .., b'+' | b'-', _, _, _, _] if text.len() == 26 => (18, b'5', 0),
            // 2026-11-20T13:12:55+00:00, or with a Z
            [_, _, _, _, b'-', ..] if matches!((text.len(), text[10]), (20 | 25, b'T')) => {
                (17, b'5', 0)
            }
            // 1795176067.042 and 1795176067
            [digits @ .., b'.', _, _, _] if digits.len() == 10 => (8, b'9', 11),
            digits if digits.len() == 10 => (8, b'9', 0),
            _ => (0, 0, 0),
        };
        if at == 0 {
            return whole;
        }
        like.mask &= !(0b11 << at);
        if millis_at > 0 {
            like.mask &= !(0b111 << millis_at);
        }
        let learned = Self { like, base_ms: 0, at, tens_max, millis_at };
        match learned.read(text) {
            Some(part_ms) => Self { base_ms: ms - part_ms, ..learned },
            None => whole,
        }
    }

    /// The time of a text that is like the remembered one.
    #[inline(always)]
    pub(crate) fn read(&self, text: &[u8]) -> Option<i64> {
        if self.at == 0 {
            return Some(self.base_ms);
        }
        let at = self.at as usize;
        let [tens, ones] = *text.get(at..at + 2)? else { return None };
        if !(b'0'..=self.tens_max).contains(&tens) || !ones.is_ascii_digit() {
            return None;
        }
        let second = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
        let millis = if self.millis_at == 0 { 0 } else { self.millis(text)? };
        Some(self.base_ms + second * 1000 + millis)
    }

    fn millis(&self, text: &[u8]) -> Option<i64> {
        let digits = text.get(self.millis_at as usize..)?;
        let is_number = digits.len() == 3 && digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
    }
}
