//! The kernel for any machine: eight bytes at a time, as one number.

use crate::logs::scan::Search;
use crate::logs::scan::lines::{Index, SLAB_BYTES, Slab, part};
use crate::logs::scan::shape::{LITERAL_BYTES_MAX, Literal, MARKS};

/// One in each byte.
const ONES: u64 = u64::from_ne_bytes([1; 8]);
/// The highest bit of each byte.
const HIGH: u64 = ONES << 7;
/// Bytes of the index looked at together.
const BLOCK: usize = 256;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Eight bytes, the first one lowest.
#[inline(always)]
fn word(slab: &Slab, at: usize) -> u64 {
    u64::from_le_bytes(*part(slab, at))
}

/// The n-th eight bytes of a text as long as a literal.
#[inline(always)]
fn eight(text: &[u8; LITERAL_BYTES_MAX], n: usize) -> u64 {
    text.as_chunks().0.get(n).map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// The highest bit of the first byte that is `byte`, and perhaps bits of bytes after it.
#[inline(always)]
fn first(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * u64::from(byte));
    zero.wrapping_sub(ONES) & !zero & HIGH
}

/// Where a byte is that mostly comes soon: cheaper than a search that prepares itself.
pub(crate) fn near(byte: u8, text: &[u8]) -> Option<usize> {
    let (words, _) = text.as_chunks::<8>();
    let words = &words[..words.len().min(4)];
    for (n, word) in words.iter().enumerate() {
        let found = first(u64::from_le_bytes(*word), byte);
        if found != 0 {
            return Some(8 * n + found.trailing_zeros() as usize / 8);
        }
    }
    let from = 8 * words.len();
    memchr::memchr(byte, &text[from..]).map(|n| from + n)
}

/// Writes a one for each byte that the index lists, a zero for any other. Without branches, and with
/// a length that is known when it runs, so that compilers make vectors of it.
#[inline(never)]
fn mark(text: &[u8], are_marks: &mut [u8]) {
    let [a, b, c] = MARKS;
    for (is_mark, byte) in are_marks.iter_mut().zip(text) {
        *is_mark = u8::from(*byte == a) | u8::from(*byte == b) | u8::from(*byte == c);
    }
}

/// Adds the places of bytes that are one to the index after its first `n` entries.
#[inline(always)]
fn list(mut ones: u64, from: usize, n: usize, index: &mut Index) -> usize {
    let mut n = n;
    while ones != 0 {
        index[n & (SLAB_BYTES - 1)] = (from + ones.trailing_zeros() as usize / 8) as u16;
        n += 1;
        ones &= ones - 1;
    }
    n
}

impl Search for Portable {
    #[inline(always)]
    fn index(self, slab: &Slab, n: usize, index: &mut Index) -> usize {
        let mut n_marks = 0;
        let mut are_marks = [0; BLOCK];
        for from in (0..n).step_by(BLOCK) {
            let block = &slab[from..n.min(from + BLOCK)];
            mark(block, &mut are_marks);
            are_marks[block.len()..].fill(0);
            let mut at = from;
            for pair in are_marks.as_chunks::<16>().0 {
                if *pair == [0; 16] {
                    at += 16;
                    continue;
                }
                for eight in pair.as_chunks::<8>().0 {
                    n_marks = list(u64::from_le_bytes(*eight), at, n_marks, index);
                    at += 8;
                }
            }
        }
        n_marks
    }

    #[inline(always)]
    fn find(self, slab: &Slab, at: usize, upto: usize, byte: u8) -> usize {
        let mut at = at;
        while at <= upto {
            let found = first(word(slab, at), byte);
            if found != 0 {
                return at + found.trailing_zeros() as usize / 8;
            }
            at += 8;
        }
        usize::MAX
    }

    #[inline(always)]
    fn matches(self, slab: &Slab, at: usize, literal: &Literal) -> bool {
        let there = part(slab, at);
        for n in 0..LITERAL_BYTES_MAX / 8 {
            let differs = eight(there, n) ^ eight(&literal.bytes, n);
            if differs & eight(&literal.care, n) != 0 {
                return false;
            }
            if literal.len as usize <= 8 * (n + 1) {
                return true;
            }
        }
        true
    }

    #[inline(always)]
    fn has(self, slab: &Slab, at: usize, end: usize, byte: u8) -> bool {
        self.find(slab, at, end, byte) < end
    }

    #[inline(always)]
    fn is_json_text(self, text: &[u8]) -> bool {
        let is_printed = !text.iter().any(|byte| *byte < b' ');
        is_printed && std::str::from_utf8(text).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_found_wherever_it_is_and_whatever_stands_around() {
        for len in 0..80 {
            for fill in [0, b' ' - 1, b' ' + 1, 0x7f, 0x80, 0xa0, 0xff] {
                let mut text = vec![fill; len];
                assert_eq!(near(b' ', &text), None, "{len} of {fill}");
                for at in (0..len).rev() {
                    text[at] = b' ';
                    assert_eq!(near(b' ', &text), Some(at), "{len} of {fill}");
                }
            }
        }
    }
}
