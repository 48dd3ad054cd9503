//! Bytes of access logs -> requests by (site, second, status), many lines at a time.
//!
//! A format is compiled to a [`program`], which reads one line whatever it looks like, and to its
//! [`shape`], which the kernel runs over the lines of a chunk: an index of quotes, backslashes and
//! newlines first, then each line against it. A line that fits is a [`Plain`] request; any other is
//! parsed in full. The kernels differ only in how they look for bytes.
//!
//! Every byte of a line is checked, what follows its status too: a line that only begins like one of
//! the format may say another host behind, and lines that the parser refuses must not pass for sound
//! ones, or a format told wrongly would hide an outage.

use std::cell::RefCell;

use crate::logs::Line;
#[cfg(target_arch = "x86_64")]
use avx2::{Avx2, run_avx2};
#[cfg(target_arch = "x86_64")]
use avx512::{Avx512, run_avx512};
pub(crate) use lines::{Habit, Lines};
use lines::{Index, Scratch, Slab};
use portable::Portable;
pub(crate) use portable::near;
use shape::{Literal, Shape};

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; every block says why it is sound")]
#[expect(clippy::inline_always, reason = "what is not inlined loses its vector instructions")]
#[expect(clippy::unused_self, reason = "having it proves that the machine has the instructions")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; every block says why it is sound")]
#[expect(clippy::inline_always, reason = "what is not inlined loses its vector instructions")]
mod avx512;
#[expect(clippy::inline_always, reason = "what is not inlined loses its vector instructions")]
mod fit;
#[expect(clippy::inline_always, reason = "what is not inlined loses its vector instructions")]
mod lines;
#[expect(clippy::inline_always, reason = "a few instructions, inside the kernel")]
mod portable;
pub(crate) mod program;
#[expect(clippy::inline_always, reason = "one call a line, inside the kernel")]
mod second;
pub(crate) mod shape;
#[expect(clippy::inline_always, reason = "a few instructions, inside the kernel")]
mod value;

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

/// How bytes are looked for. Every one says the same of every line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 32 bytes at a time, and 64 where that helps: with vector instructions of newer servers.
    Avx512,
    /// 32 bytes at a time, with the vector instructions of most machines.
    Avx2,
    /// Eight bytes at a time, which every machine can do.
    Portable,
}

impl Kernel {
    /// The fastest one this machine has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if Avx512::detect().is_some() {
            return Self::Avx512;
        }
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
        SCRATCH.with_borrow_mut(|scratch| {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "calls code for instructions the machine may lack")]
            match (self, Avx512::detect(), Avx2::detect()) {
                (Self::Avx512, Some(avx512), _) => {
                    // SAFETY: `detect` found the instructions that `run_avx512` is compiled for.
                    return unsafe { run_avx512(avx512, scratch, shapes, habit, chunk, lines) };
                }
                (Self::Avx2, _, Some(avx2)) => {
                    // SAFETY: `detect` found the instructions that `run_avx2` is compiled for.
                    return unsafe { run_avx2(avx2, scratch, shapes, habit, chunk, lines) };
                }
                _ => {}
            }
            lines::run(Portable, scratch, shapes, habit, chunk, lines)
        })
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Looks for bytes in a slab; positions count from its start. Having one proves that the machine
/// has what it needs.
pub(crate) trait Search: Copy {
    /// Lists the quotes, backslashes and newlines of the first `n` bytes in order; returns how many
    /// there are.
    fn index(self, slab: &Slab, n: usize, index: &mut Index) -> usize;
    /// The first `byte` from `at` on, or a place beyond `upto` when there is none up to there.
    fn find(self, slab: &Slab, at: usize, upto: usize, byte: u8) -> usize;
    /// The bytes of a literal that matter are at `at`.
    fn matches(self, slab: &Slab, at: usize, literal: &Literal) -> bool;
    /// There is such a byte in `at..end`.
    fn has(self, slab: &Slab, at: usize, end: usize, byte: u8) -> bool;
    /// A text is UTF-8 without control characters.
    fn is_json_text(self, text: &[u8]) -> bool;
}
