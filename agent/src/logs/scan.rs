//! Bytes of access logs -> requests by (site, second, status), many lines at a time.
//!
//! A format is compiled to a [`program`], which reads one line whatever it looks like, and to its
//! [`shape`], which the kernel runs over the lines of a chunk: an index of quotes, backslashes and
//! newlines first, then each line against it. A line that fits is a [`Plain`] request; any other is
//! parsed in full. The kernel and its portable twin differ only in how they look for bytes.

use crate::logs::Line;
use lines::Index;
pub(crate) use lines::{Habit, Lines};
use shape::{Literal, Shape};

#[expect(
    clippy::inline_always,
    reason = "what is not inlined into the kernel loses its vector instructions"
)]
mod lines;
pub(crate) mod program;
#[expect(clippy::inline_always, reason = "one call a line, inside the kernel")]
mod second;
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
        habit: &mut Habit,
        chunk: &[u8],
        lines: &mut impl Lines,
    ) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx2
            && let Some(avx2) = Avx2::detect()
        {
            #[expect(unsafe_code, reason = "calls code for instructions the machine may lack")]
            // SAFETY: `detect` found the instructions that `run_avx2` is compiled for.
            return unsafe { run_avx2(avx2, shapes, habit, chunk, lines) };
        }
        lines::run::<Portable<'_>>((), shapes, habit, chunk, lines)
    }
}

/// Looks for bytes in one text, which it holds; positions count from its start.
pub(crate) trait Search<'t>: Copy {
    /// What proves that this search may be used here.
    type Proof: Copy;

    fn of(proof: Self::Proof, text: &'t [u8]) -> Self;
    /// Lists the quotes, backslashes and newlines of a slab in order; returns how many there are.
    fn index(proof: Self::Proof, slab: &[u8], index: &mut Index) -> usize;
    /// The first `byte` from `at` on; the length of the text when there is none.
    fn find(self, at: usize, byte: u8) -> usize;
    /// The bytes of a literal that matter are at `at`.
    fn matches(self, at: usize, literal: &Literal) -> bool;
    /// There is such a byte in `at..end`.
    fn has(self, at: usize, end: usize, byte: u8) -> bool;
    /// All bytes of `at..end` are digits.
    fn is_digits(self, at: usize, end: usize) -> bool;
    /// `at..end` is UTF-8 without control characters.
    fn is_json_text(self, at: usize, end: usize) -> bool;
}

/// The portable twin.
#[derive(Clone, Copy)]
pub(crate) struct Portable<'t>(&'t [u8]);

#[expect(
    clippy::inline_always,
    reason = "what is not inlined into the kernel loses its vector instructions"
)]
impl<'t> Search<'t> for Portable<'t> {
    type Proof = ();

    #[inline(always)]
    fn of((): (), text: &'t [u8]) -> Self {
        Self(text)
    }

    #[inline(always)]
    fn index((): (), slab: &[u8], index: &mut Index) -> usize {
        let mut n = 0;
        for at in memchr::memchr3_iter(b'"', b'\\', b'\n', slab) {
            index[n] = at as u16;
            n += 1;
        }
        n
    }

    #[inline(always)]
    fn find(self, at: usize, byte: u8) -> usize {
        let rest = self.0.get(at..).unwrap_or_default();
        memchr::memchr(byte, rest).map_or(self.0.len(), |n| at + n)
    }

    #[inline(always)]
    fn matches(self, at: usize, literal: &Literal) -> bool {
        let Some(there) = self.0.get(at..at + literal.len as usize) else { return false };
        if literal.is_whole {
            return *there == literal.bytes[..there.len()];
        }
        let pairs = there.iter().zip(&literal.bytes).enumerate();
        pairs.fold(true, |all, (bit, (a, b))| all && (literal.mask >> bit & 1 == 0 || a == b))
    }

    #[inline(always)]
    fn has(self, at: usize, end: usize, byte: u8) -> bool {
        self.0[at..end].contains(&byte)
    }

    #[inline(always)]
    fn is_digits(self, at: usize, end: usize) -> bool {
        self.0[at..end].iter().all(u8::is_ascii_digit)
    }

    #[inline(always)]
    fn is_json_text(self, at: usize, end: usize) -> bool {
        let text = &self.0[at..end];
        let is_printed = !text.iter().any(|byte| *byte < b' ');
        is_printed && std::str::from_utf8(text).is_ok()
    }
}

#[cfg(target_arch = "x86_64")]
use avx2::{Avx2, run_avx2};

/// The kernel for vectors of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; every block says why it is sound")]
#[expect(clippy::unused_self, reason = "having it proves that the machine has the instructions")]
#[expect(
    clippy::inline_always,
    reason = "what is not inlined into the kernel loses its vector instructions"
)]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_min_epu8,
        _mm256_movemask_epi8, _mm256_set1_epi8, _mm256_setr_epi8, _mm256_shuffle_epi8,
        _mm256_sub_epi8,
    };

    use super::lines::{self, Habit, INDEX_SLACK, Index, Lines, SLAB_BYTES};
    use super::shape::{Literal, Shape};
    use super::{Portable, Search};

    /// Bytes of a vector.
    const VECTOR: usize = 32;

    /// Proof that the machine has AVX2, BMI1 and POPCNT: only `detect` makes one.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        pub(crate) fn detect() -> Option<Self> {
            let has_all = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("popcnt");
            has_all.then_some(Self(()))
        }

        #[inline(always)]
        fn load(self, bytes: &[u8; VECTOR]) -> __m256i {
            // SAFETY: `self` proves that the machine has AVX2; the reference is to 32 readable
            // bytes, and `loadu` asks for no alignment.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }

        /// A bit for each of 32 bytes that the index lists.
        #[inline(always)]
        fn marks(self, bytes: &[u8; VECTOR]) -> u64 {
            // By its low half each byte picks the one mark that it might be. Where there is none
            // it picks a byte with another low half; bytes above 127 pick zero.
            const ANY: i8 = 0x0f;
            const N: i8 = b'\n' as i8;
            const Q: i8 = b'"' as i8;
            const B: i8 = b'\\' as i8;
            let vector = self.load(bytes);
            // SAFETY: `self` proves that the machine has AVX2.
            unsafe {
                let mark_by_half = _mm256_setr_epi8(
                    ANY, ANY, Q, ANY, ANY, ANY, ANY, ANY, ANY, ANY, N, ANY, B, ANY, ANY, 0, //
                    ANY, ANY, Q, ANY, ANY, ANY, ANY, ANY, ANY, ANY, N, ANY, B, ANY, ANY, 0,
                );
                let mark = _mm256_shuffle_epi8(mark_by_half, vector);
                u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(mark, vector)) as u32)
            }
        }

        /// A bit for each of 64 bytes that the index lists.
        #[inline(always)]
        fn marks_of_block(self, block: &[u8; 2 * VECTOR]) -> u64 {
            match block.as_chunks::<VECTOR>().0 {
                [low, high] => self.marks(low) | self.marks(high) << VECTOR,
                _ => 0,
            }
        }
    }

    /// A text and how far into it vectors can be loaded.
    #[derive(Clone, Copy)]
    pub(crate) struct Vectors<'t> {
        text: &'t [u8],
        /// Invariant: `at + VECTOR <= text.len()` for every `at` below this.
        loadable: usize,
        proof: Avx2,
    }

    impl Vectors<'_> {
        /// The 32 bytes from `at` on, if the text has as many.
        #[inline(always)]
        fn load(self, at: usize) -> Option<__m256i> {
            if at >= self.loadable {
                return None;
            }
            // SAFETY: `proof` proves that the machine has AVX2; `at` is below `loadable`, so all 32
            // bytes lie in `text`, and `loadu` asks for no alignment.
            Some(unsafe { _mm256_loadu_si256(self.text.as_ptr().add(at).cast()) })
        }

        /// A bit for each of 32 bytes that is `byte`.
        #[inline(always)]
        fn equal(self, vector: __m256i, byte: u8) -> u32 {
            // SAFETY: `proof` proves that the machine has AVX2.
            unsafe {
                let same = _mm256_cmpeq_epi8(vector, _mm256_set1_epi8(byte as i8));
                _mm256_movemask_epi8(same) as u32
            }
        }
    }

    impl<'t> Search<'t> for Vectors<'t> {
        type Proof = Avx2;

        #[inline(always)]
        fn of(proof: Avx2, text: &'t [u8]) -> Self {
            Self { text, loadable: (text.len() + 1).saturating_sub(VECTOR), proof }
        }

        #[inline(always)]
        fn index(proof: Avx2, slab: &[u8], index: &mut Index) -> usize {
            let mut n = 0;
            let (blocks, rest) = slab.as_chunks::<{ 2 * VECTOR }>();
            let mut from = 0;
            for block in blocks {
                n = list(proof.marks_of_block(block), from, n, index);
                from += 2 * VECTOR;
            }
            if !rest.is_empty() {
                let mut block = [0; 2 * VECTOR];
                block[..rest.len()].copy_from_slice(rest);
                n = list(proof.marks_of_block(&block), from, n, index);
            }
            n
        }

        #[inline(always)]
        fn find(self, at: usize, byte: u8) -> usize {
            let mut at = at;
            while let Some(vector) = self.load(at) {
                let found = self.equal(vector, byte);
                if found != 0 {
                    return at + found.trailing_zeros() as usize;
                }
                at += VECTOR;
            }
            Portable(self.text).find(at, byte)
        }

        #[inline(always)]
        fn matches(self, at: usize, literal: &Literal) -> bool {
            let Some(vector) = self.load(at) else {
                return Portable(self.text).matches(at, literal);
            };
            // SAFETY: `proof` proves that the machine has AVX2.
            let same = unsafe {
                let literal = self.proof.load(&literal.bytes);
                _mm256_movemask_epi8(_mm256_cmpeq_epi8(vector, literal)) as u32
            };
            !same & literal.mask == 0
        }

        #[inline(always)]
        fn has(self, at: usize, end: usize, byte: u8) -> bool {
            match self.load(at) {
                Some(vector) if end - at < VECTOR => {
                    self.equal(vector, byte) & ((1 << (end - at)) - 1) != 0
                }
                _ => Portable(self.text).has(at, end, byte),
            }
        }

        #[inline(always)]
        fn is_digits(self, at: usize, end: usize) -> bool {
            match self.load(at) {
                Some(vector) if end - at < VECTOR => {
                    // SAFETY: `proof` proves that the machine has AVX2.
                    let digits = unsafe {
                        let value = _mm256_sub_epi8(vector, _mm256_set1_epi8(b'0' as i8));
                        let capped = _mm256_min_epu8(value, _mm256_set1_epi8(9));
                        _mm256_movemask_epi8(_mm256_cmpeq_epi8(value, capped)) as u32
                    };
                    let wanted = (1 << (end - at)) - 1;
                    digits & wanted == wanted
                }
                _ => Portable(self.text).is_digits(at, end),
            }
        }

        #[inline(always)]
        fn is_json_text(self, at: usize, end: usize) -> bool {
            let (vectors, rest) = self.text[at..end].as_chunks::<VECTOR>();
            let mut all = !0;
            for bytes in vectors {
                // SAFETY: `proof` proves that the machine has AVX2.
                all &= unsafe {
                    // As signed numbers, bytes that are not ASCII are below the space too.
                    let below = _mm256_set1_epi8(b' ' as i8 - 1);
                    _mm256_movemask_epi8(_mm256_cmpgt_epi8(self.proof.load(bytes), below))
                };
            }
            let portable = Portable(self.text);
            all == !0 && portable.is_json_text(end - rest.len(), end)
                || portable.is_json_text(at, end)
        }
    }

    /// Adds the positions of the set bits to the index after its first `n` entries.
    #[inline(always)]
    fn list(mut bits: u64, from: usize, n: usize, index: &mut Index) -> usize {
        let n_bits = bits.count_ones() as usize;
        // Before the last block of a slab, which has no room for more, `n` is below its length.
        let from_n = &mut index[n & (SLAB_BYTES - 1)..];
        let Some(few) = from_n.first_chunk_mut::<INDEX_SLACK>() else { return n };
        // Most blocks hold few marks: writing four without asking is cheaper than asking.
        let mut next = || {
            let at = (from + bits.trailing_zeros() as usize) as u16;
            bits &= bits.wrapping_sub(1);
            at
        };
        *few = [next(), next(), next(), next()];
        if n_bits > INDEX_SLACK {
            list_more(bits, from, n + INDEX_SLACK, index);
        }
        n + n_bits
    }

    /// The marks of a block with many.
    #[inline(never)]
    fn list_more(mut bits: u64, from: usize, n: usize, index: &mut Index) {
        for entry in &mut index[n..] {
            if bits == 0 {
                return;
            }
            *entry = (from + bits.trailing_zeros() as usize) as u16;
            bits &= bits - 1;
        }
    }

    /// [`lines::run`], compiled for the instructions that `Avx2` proves.
    #[target_feature(enable = "avx2,bmi1,popcnt")]
    pub(super) fn run_avx2(
        avx2: Avx2,
        shapes: &[Shape],
        habit: &mut Habit,
        chunk: &[u8],
        lines: &mut impl Lines,
    ) -> usize {
        lines::run::<Vectors<'_>>(avx2, shapes, habit, chunk, lines)
    }
}
