//! The index for vectors of 64 bytes; all else is as with [`Avx2`].

use std::arch::x86_64::{
    _mm_loadu_si128, _mm512_add_epi16, _mm512_broadcast_i32x4, _mm512_castsi512_si256,
    _mm512_cmpeq_epi8_mask, _mm512_cvtepu8_epi16, _mm512_extracti64x4_epi64, _mm512_loadu_si512,
    _mm512_maskz_compress_epi8, _mm512_set1_epi16, _mm512_shuffle_epi8, _mm512_storeu_si512,
};

use crate::logs::scan::Search;
use crate::logs::scan::avx2::{Avx2, MARK_BY_HALF};
use crate::logs::scan::lines::{
    self, Habit, INDEX_SLACK, Index, Lines, SLAB_BYTES, Scratch, Slab, part,
};
use crate::logs::scan::shape::{Literal, Shape};

/// Bytes of a vector.
const VECTOR: usize = 64;
/// Where each byte of a vector is.
const PLACES: [u8; VECTOR] = {
    let mut places = [0; VECTOR];
    let mut at = 0;
    while at < VECTOR {
        places[at] = at as u8;
        at += 1;
    }
    places
};

/// Proof that the machine has what `Avx2` proves and AVX-512 with BW and VBMI2: only `detect` makes
/// one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi2");
        Avx2::detect().filter(|_| has_all).map(Self)
    }
}

impl Search for Avx512 {
    #[inline(always)]
    fn index(self, slab: &Slab, n: usize, index: &mut Index) -> usize {
        let mut n_marks = 0;
        for from in (0..n).step_by(VECTOR) {
            let bytes: &[u8; VECTOR] = part(slab, from);
            // Before the last block of a slab, which has no room for more, this is below its length.
            let Some(entries) =
                index[n_marks & (SLAB_BYTES - 1)..].first_chunk_mut::<INDEX_SLACK>()
            else {
                return n_marks;
            };
            // SAFETY: `self` proves that the machine has the instructions; the references are to
            // as many bytes as are read and written, for which no alignment is asked.
            unsafe {
                let vector = _mm512_loadu_si512(bytes.as_ptr().cast());
                let mark_by_half = _mm_loadu_si128(MARK_BY_HALF.as_ptr().cast());
                let mark = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(mark_by_half), vector);
                let marks = _mm512_cmpeq_epi8_mask(mark, vector);
                let places = _mm512_loadu_si512(PLACES.as_ptr().cast());
                let places = _mm512_maskz_compress_epi8(marks, places);
                let from = _mm512_set1_epi16(from as i16);
                let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(places));
                _mm512_storeu_si512(entries.as_mut_ptr().cast(), _mm512_add_epi16(low, from));
                let n = marks.count_ones() as usize;
                if n > 32 {
                    let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(places));
                    _mm512_storeu_si512(
                        entries[32..].as_mut_ptr().cast(),
                        _mm512_add_epi16(high, from),
                    );
                }
                n_marks += n;
            }
        }
        n_marks
    }

    #[inline(always)]
    fn find(self, slab: &Slab, at: usize, upto: usize, byte: u8) -> usize {
        self.0.find(slab, at, upto, byte)
    }

    #[inline(always)]
    fn matches(self, slab: &Slab, at: usize, literal: &Literal) -> bool {
        self.0.matches(slab, at, literal)
    }

    #[inline(always)]
    fn has(self, slab: &Slab, at: usize, end: usize, byte: u8) -> bool {
        self.0.has(slab, at, end, byte)
    }

    #[inline(always)]
    fn is_json_text(self, text: &[u8]) -> bool {
        self.0.is_json_text(text)
    }
}

/// [`lines::run`], compiled for the instructions that `Avx512` proves.
#[target_feature(enable = "avx2,bmi1,popcnt,avx512f,avx512bw,avx512vbmi2")]
pub(super) fn run_avx512(
    avx512: Avx512,
    scratch: &mut Scratch,
    shapes: &[Shape],
    habit: &mut Habit,
    chunk: &[u8],
    lines: &mut impl Lines,
) -> usize {
    lines::run(avx512, scratch, shapes, habit, chunk, lines)
}
