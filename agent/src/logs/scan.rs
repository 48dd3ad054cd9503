//! Bytes of access logs -> requests by (site, second, status), many lines at a time.
//!
//! A format is compiled to a [`program`], which reads one line whatever it looks like, and to its
//! [`shape`], which the kernel runs over the lines of a chunk: an index of quotes, backslashes and
//! newlines first, then each line against it. A line that fits is a [`Plain`] request; any other is
//! parsed in full. The kernel and its portable twin differ only in how they look for bytes.

use crate::logs::Line;
use lines::Index;
pub(crate) use lines::Lines;
use second::Seconds;
use shape::{Literal, Shape};

#[expect(
    clippy::inline_always,
    reason = "what is not inlined into the kernel loses its vector instructions"
)]
mod lines;
pub(crate) mod program;
#[expect(clippy::inline_always, reason = "one call a line, inside the kernel")]
pub(crate) mod second;
pub(crate) mod shape;

/// A request that needs no second look: no gateway error, at most one upstream attempt, a time with
/// offset. What the whole parser would say of the line is the same; the parts borrow from the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'l> {
    /// The line without its newline.
    pub raw: &'l [u8],
    /// Host as the line has it; empty = the line does not say.
    pub host: &'l [u8],
    /// Client address as the line has it; empty = the line does not say.
    pub client: &'l [u8],
    /// The one upstream that was asked; empty = none, or the line does not say.
    pub upstream: &'l [u8],
    /// Second of the end of the request, since the epoch; `None` = the format has no time.
    pub second: Option<i64>,
    /// 100 to 599.
    pub status: u16,
}

/// What takes the lines of a chunk, in order.
pub trait Sink {
    /// A plain request. `false` asks for the whole record, which then comes by [`Sink::line`].
    fn plain(&mut self, plain: &Plain<'_>) -> bool;

    /// Any other line, or one asked for; `raw` is without its
    /// newline, so that `raw.len() + 1` bytes of the log are accounted for.
    fn line(&mut self, raw: &[u8], line: Line<'_>);
}

/// How bytes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 32 bytes at a time, with the vector instructions of the machine.
    Avx2,
    /// What every machine can do; says the same of every line.
    Portable,
}

impl Kernel {
    /// The fastest one this machine has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if Avx2::detect().is_some() {
            return Self::Avx2;
        }
        Self::Portable
    }

    /// [`lines::run`] with this kernel; with the portable one where the machine lacks it.
    pub(crate) fn run(
        self,
        shapes: &[Shape],
        seconds: &mut Seconds,
        chunk: &[u8],
        lines: &mut impl Lines,
    ) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx2
            && let Some(avx2) = Avx2::detect()
        {
            #[expect(unsafe_code, reason = "calls code for instructions the machine may lack")]
            // SAFETY: `detect` found the instructions that `run_avx2` is compiled for.
            return unsafe { run_avx2(avx2, shapes, seconds, chunk, lines) };
        }
        lines::run(Portable, shapes, seconds, chunk, lines)
    }
}

/// Looks for bytes. Positions count from the start of `text`.
pub(crate) trait Search: Copy {
    /// Lists the quotes, backslashes and newlines of a slab in order; returns how many there are.
    fn index(self, slab: &[u8], index: &mut Index) -> usize;
    /// The first `byte` from `at` on; the length of the text when there is none.
    fn find(self, text: &[u8], at: usize, byte: u8) -> usize;
    /// The bytes of a literal that matter are at `at`.
    fn matches(self, text: &[u8], at: usize, literal: &Literal) -> bool;
    /// There is such a byte in `at..end`.
    fn has(self, text: &[u8], at: usize, end: usize, byte: u8) -> bool;
    /// All bytes of `at..end` are digits.
    fn is_digits(self, text: &[u8], at: usize, end: usize) -> bool;
}

/// The portable twin.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[expect(
    clippy::inline_always,
    reason = "what is not inlined into the kernel loses its vector instructions"
)]
impl Search for Portable {
    #[inline(always)]
    fn index(self, slab: &[u8], index: &mut Index) -> usize {
        let mut n = 0;
        for at in memchr::memchr3_iter(b'"', b'\\', b'\n', slab) {
            index[n] = at as u16;
            n += 1;
        }
        n
    }

    #[inline(always)]
    fn find(self, text: &[u8], at: usize, byte: u8) -> usize {
        find_short(text, at, byte)
    }

    #[inline(always)]
    fn matches(self, text: &[u8], at: usize, literal: &Literal) -> bool {
        lines::matches_short(text, at, literal)
    }

    #[inline(always)]
    fn has(self, text: &[u8], at: usize, end: usize, byte: u8) -> bool {
        text[at..end].contains(&byte)
    }

    #[inline(always)]
    fn is_digits(self, text: &[u8], at: usize, end: usize) -> bool {
        text[at..end].iter().all(u8::is_ascii_digit)
    }
}

/// [`Search::find`] without vectors.
fn find_short(text: &[u8], at: usize, byte: u8) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    memchr::memchr(byte, rest).map_or(text.len(), |n| at + n)
}

#[cfg(target_arch = "x86_64")]
use avx2::{Avx2, run_avx2};

/// The kernel for vectors of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; every block says why it is sound")]
#[expect(
    clippy::inline_always,
    reason = "what is not inlined into the kernel loses its vector instructions"
)]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
        _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };

    use super::lines::{self, INDEX_SLACK, Index, Lines};
    use super::second::Seconds;
    use super::shape::{Literal, Shape};
    use super::{Portable, Search, find_short};

    /// Bytes of a vector.
    const VECTOR: usize = 32;

    /// Proof that the machine has AVX2, BMI1 and POPCNT: only `detect` makes one.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    #[expect(
        clippy::unused_self,
        reason = "having it proves that the machine has the instructions"
    )]
    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            let has_all = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("popcnt");
            has_all.then_some(Self(()))
        }

        /// A bit for each of 32 bytes that is `byte`.
        #[inline(always)]
        fn equal(self, vector: __m256i, byte: u8) -> u32 {
            // SAFETY: `self` proves that the machine has AVX2.
            unsafe {
                let same = _mm256_cmpeq_epi8(vector, _mm256_set1_epi8(byte as i8));
                _mm256_movemask_epi8(same) as u32
            }
        }

        /// A bit for each of 32 bytes that the index lists.
        #[inline(always)]
        fn marks(self, vector: __m256i) -> u32 {
            // SAFETY: `self` proves that the machine has AVX2.
            unsafe {
                let is = |byte: u8| _mm256_cmpeq_epi8(vector, _mm256_set1_epi8(byte as i8));
                let quotes = _mm256_or_si256(is(b'"'), is(b'\\'));
                _mm256_movemask_epi8(_mm256_or_si256(quotes, is(b'\n'))) as u32
            }
        }

        #[inline(always)]
        fn load(self, bytes: &[u8; VECTOR]) -> __m256i {
            // SAFETY: `self` proves that the machine has AVX2; the reference is to 32 readable
            // bytes, and `loadu` asks for no alignment.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }

        /// The 32 bytes from `at` on, if the text has as many.
        #[inline(always)]
        fn load_at(self, text: &[u8], at: usize) -> Option<__m256i> {
            let bytes = text.get(at..)?.first_chunk::<VECTOR>()?;
            Some(self.load(bytes))
        }

        /// A bit for each of the 64 bytes that the index lists.
        #[inline(always)]
        fn marks_of_block(self, block: &[u8; 2 * VECTOR]) -> u64 {
            let (low, high) = block.split_at(VECTOR);
            let half = |bytes: &[u8]| match bytes.first_chunk() {
                Some(bytes) => u64::from(self.marks(self.load(bytes))),
                None => 0,
            };
            half(low) | half(high) << VECTOR
        }
    }

    impl Search for Avx2 {
        #[inline(always)]
        fn index(self, slab: &[u8], index: &mut Index) -> usize {
            let mut n = 0;
            let (blocks, rest) = slab.as_chunks::<{ 2 * VECTOR }>();
            for (at, block) in blocks.iter().enumerate() {
                n = list(self.marks_of_block(block), at * 2 * VECTOR, n, index);
            }
            if !rest.is_empty() {
                let mut block = [0; 2 * VECTOR];
                block[..rest.len()].copy_from_slice(rest);
                n = list(self.marks_of_block(&block), slab.len() - rest.len(), n, index);
            }
            n
        }

        #[inline(always)]
        fn find(self, text: &[u8], at: usize, byte: u8) -> usize {
            let mut at = at;
            while let Some(vector) = self.load_at(text, at) {
                let found = self.equal(vector, byte);
                if found != 0 {
                    return at + found.trailing_zeros() as usize;
                }
                at += VECTOR;
            }
            find_short(text, at, byte)
        }

        #[inline(always)]
        fn matches(self, text: &[u8], at: usize, literal: &Literal) -> bool {
            let Some(vector) = self.load_at(text, at) else {
                return lines::matches_short(text, at, literal);
            };
            // SAFETY: `self` proves that the machine has AVX2.
            let same = unsafe {
                _mm256_movemask_epi8(_mm256_cmpeq_epi8(vector, self.load(&literal.bytes))) as u32
            };
            same & literal.mask == literal.mask
        }

        #[inline(always)]
        fn has(self, text: &[u8], at: usize, end: usize, byte: u8) -> bool {
            match self.load_at(text, at) {
                Some(vector) if end - at < VECTOR => {
                    self.equal(vector, byte) & ((1 << (end - at)) - 1) != 0
                }
                _ => Portable.has(text, at, end, byte),
            }
        }

        #[inline(always)]
        fn is_digits(self, text: &[u8], at: usize, end: usize) -> bool {
            match self.load_at(text, at) {
                Some(vector) if end - at < VECTOR => {
                    // SAFETY: `self` proves that the machine has AVX2.
                    let digits = unsafe {
                        let value = _mm256_sub_epi8(vector, _mm256_set1_epi8(b'0' as i8));
                        let capped = _mm256_min_epu8(value, _mm256_set1_epi8(9));
                        _mm256_movemask_epi8(_mm256_cmpeq_epi8(value, capped)) as u32
                    };
                    let wanted = (1 << (end - at)) - 1;
                    digits & wanted == wanted
                }
                _ => Portable.is_digits(text, at, end),
            }
        }
    }

    /// Adds the positions of the set bits to the index after its first `n` entries.
    #[inline(always)]
    fn list(mut bits: u64, from: usize, n: usize, index: &mut Index) -> usize {
        let n_bits = bits.count_ones() as usize;
        let Some((first, more)) = index[n..].split_first_chunk_mut::<INDEX_SLACK>() else {
            return n;
        };
        // Most blocks hold few marks: writing four without asking is cheaper than asking.
        let (first, second) = first.split_at_mut(4);
        for entry in first {
            *entry = (from + bits.trailing_zeros() as usize) as u16;
            bits &= bits.wrapping_sub(1);
        }
        for entry in second.iter_mut().chain(more) {
            if bits == 0 {
                break;
            }
            *entry = (from + bits.trailing_zeros() as usize) as u16;
            bits &= bits - 1;
        }
        n + n_bits
    }

    /// [`lines::run`], compiled for the instructions that `Avx2` proves.
    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) fn run_avx2(
        avx2: Avx2,
        shapes: &[Shape],
        seconds: &mut Seconds,
        chunk: &[u8],
        lines: &mut impl Lines,
    ) -> usize {
        lines::run(avx2, shapes, seconds, chunk, lines)
    }
}
