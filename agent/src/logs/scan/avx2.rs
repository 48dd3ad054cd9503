//! The kernel for vectors of 32 bytes.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8,
    _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_set1_epi8, _mm256_shuffle_epi8,
    _mm256_testz_si256, _mm256_xor_si256,
};

use crate::logs::scan::Search;
use crate::logs::scan::lines::{self, Habit, Index, Lines, SLAB_BYTES, Scratch, Slab, part};
use crate::logs::scan::portable::Portable;
use crate::logs::scan::shape::{Literal, MARKS, Shape};

/// Bytes of a vector.
const VECTOR: usize = 32;

/// Entries of the index that are written for each block without asking how many there are: most
/// blocks hold fewer marks.
const FEW: usize = 4;

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

    /// A bit for each of 32 bytes that is `byte`.
    #[inline(always)]
    fn equal(self, bytes: &[u8; VECTOR], byte: u8) -> u32 {
        let vector = self.load(bytes);
        // SAFETY: `self` proves that the machine has AVX2.
        unsafe {
            let same = _mm256_cmpeq_epi8(vector, _mm256_set1_epi8(byte as i8));
            _mm256_movemask_epi8(same) as u32
        }
    }

    /// A bit for each of 32 bytes that the index lists.
    #[inline(always)]
    fn marks(self, bytes: &[u8; VECTOR]) -> u64 {
        let vector = self.load(bytes);
        // SAFETY: `self` proves that the machine has AVX2; the reference is to 16 readable bytes.
        unsafe {
            let mark_by_half = _mm_loadu_si128(MARK_BY_HALF.as_ptr().cast());
            let mark = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(mark_by_half), vector);
            u64::from(_mm256_movemask_epi8(_mm256_cmpeq_epi8(mark, vector)) as u32)
        }
    }
}

/// The one mark that a byte might be, by its low half; where there is none, a byte with another low
/// half. Bytes above 127 pick zero.
pub(super) const MARK_BY_HALF: [u8; 16] = {
    let mut marks = [0x0f; 16];
    marks[0x0f] = 0;
    let mut at = 0;
    while at < MARKS.len() {
        marks[MARKS[at] as usize & 0x0f] = MARKS[at];
        at += 1;
    }
    marks
};

impl Search for Avx2 {
    #[inline(always)]
    fn index(self, slab: &Slab, n: usize, index: &mut Index) -> usize {
        let mut n_marks = 0;
        for from in (0..n).step_by(2 * VECTOR) {
            let marks =
                self.marks(part(slab, from)) | self.marks(part(slab, from + VECTOR)) << VECTOR;
            n_marks = list(marks, from, n_marks, index);
        }
        n_marks
    }

    #[inline(always)]
    fn find(self, slab: &Slab, at: usize, upto: usize, byte: u8) -> usize {
        match self.equal(part(slab, at), byte) {
            0 => far(slab, at, upto, byte),
            found => at + found.trailing_zeros() as usize,
        }
    }

    #[inline(always)]
    fn matches(self, slab: &Slab, at: usize, literal: &Literal) -> bool {
        let (there, wanted) = (self.load(part(slab, at)), self.load(&literal.bytes));
        // SAFETY: `self` proves that the machine has AVX2.
        unsafe {
            _mm256_testz_si256(_mm256_xor_si256(there, wanted), self.load(&literal.care)) != 0
        }
    }

    #[inline(always)]
    fn has(self, slab: &Slab, at: usize, end: usize, byte: u8) -> bool {
        if end - at < VECTOR {
            return self.equal(part(slab, at), byte) & ((1 << (end - at)) - 1) != 0;
        }
        slab[at..end].contains(&byte)
    }

    #[inline(always)]
    fn is_json_text(self, text: &[u8]) -> bool {
        let (vectors, _) = text.as_chunks::<VECTOR>();
        let mut all = !0;
        // The last bytes once more, with some of those before them.
        let last = text.last_chunk::<VECTOR>();
        for bytes in vectors.iter().chain(last) {
            // SAFETY: `self` proves that the machine has AVX2.
            all &= unsafe {
                // As signed numbers, bytes that are not ASCII are below the space too.
                let below = _mm256_set1_epi8(b' ' as i8 - 1);
                _mm256_movemask_epi8(_mm256_cmpgt_epi8(self.load(bytes), below))
            };
        }
        all == !0 && last.is_some() || Portable.is_json_text(text)
    }
}

/// The first `byte` of a long text.
#[inline(never)]
fn far(slab: &Slab, at: usize, upto: usize, byte: u8) -> usize {
    let text = slab.get(at..=upto).unwrap_or_default();
    memchr::memchr(byte, text).map_or(usize::MAX, |n| at + n)
}

/// Adds the positions of the set bits to the index after its first `n` entries.
#[inline(always)]
fn list(mut bits: u64, from: usize, n: usize, index: &mut Index) -> usize {
    let n_bits = bits.count_ones() as usize;
    // Before the last block of a slab, which has no room for more, `n` is below its length.
    let Some(few) = index[n & (SLAB_BYTES - 1)..].first_chunk_mut::<FEW>() else { return n };
    for entry in few {
        *entry = (from + bits.trailing_zeros() as usize) as u16;
        bits &= bits.wrapping_sub(1);
    }
    if n_bits > FEW {
        list_more(bits, from, n + FEW, index);
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
    scratch: &mut Scratch,
    shapes: &[Shape],
    habit: &mut Habit,
    chunk: &[u8],
    lines: &mut impl Lines,
) -> usize {
    lines::run(avx2, scratch, shapes, habit, chunk, lines)
}
