//! The loop over the lines of a chunk: the index of a slab, then each line against the shapes.
//!
//! A slab is what one index covers; it begins at a line. All positions are counted from its start,
//! and a line that does not end in it starts the next one.

use crate::logs::scan::fit::{Found, fit};
use crate::logs::scan::portable::Portable;
use crate::logs::scan::second::Seconds;
use crate::logs::scan::shape::Shape;
use crate::logs::scan::{Plain, Search};

/// Bytes of a slab: the index of the worst text stays in the first-level cache. A power of two.
pub(crate) const SLAB_BYTES: usize = 4096;
/// Bytes that can be read behind a slab: what is looked at together may begin at its last byte.
const SLACK_BYTES: usize = 64;
/// Entries that [`Search::index`] may write beyond the marks there are.
pub(crate) const INDEX_SLACK: usize = 64;

/// Text with what may be read behind it, which is no part of it.
pub(crate) type Slab = [u8; SLAB_BYTES + SLACK_BYTES];

/// Bytes from a place of a slab on, whatever is there. Costs no check: a place beyond the slab,
/// which there is none of, would be taken for one in it.
#[inline(always)]
pub(crate) fn part<const N: usize>(slab: &Slab, at: usize) -> &[u8; N] {
    const { assert!(N <= SLACK_BYTES + 1) }
    slab[at & (SLAB_BYTES - 1)..].first_chunk().expect("the slack has as many")
}

/// Positions of the marks and newlines of a slab, in order.
pub(crate) type Index = [u16; SLAB_BYTES + INDEX_SLACK];

/// What takes the lines that the loop finds.
pub(crate) trait Lines {
    /// A line that fits a shape. False = it is wanted whole, and comes by `full`.
    fn plain(&mut self, plain: &Plain<'_>) -> bool;
    /// Reads a time that is not like the one of the line before, in milliseconds since the epoch;
    /// only one with an offset counts. True = in one of the ways that [`Seconds`] knows.
    fn time(&mut self, text: &[u8]) -> Option<(i64, bool)>;
    /// Any other line. False = the shapes are those of this file no more.
    fn full(&mut self, raw: &[u8]) -> bool;
}

/// What the lines so far say of the next one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habit {
    seconds: Seconds,
    /// The shape that fitted last.
    shape: usize,
    /// Lines that fitted none since then.
    n_strange: u32,
}

/// Strange lines for each of which every shape is tried; of those after them, one in as many.
const STRANGE_MAX: u32 = 32;

/// What a run works with, kept from run to run: to clear it each time costs more than small runs.
pub(crate) struct Scratch {
    index: Index,
    /// The last bytes of a chunk, which nothing can be read behind.
    rest: Slab,
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self { index: [0; SLAB_BYTES + INDEX_SLACK], rest: [0; SLAB_BYTES + SLACK_BYTES] }
    }
}

/// Gives every line of a chunk that ends with a newline to `lines`; returns the bytes of the lines
/// given, fewer than there are only when `full` said so.
#[inline(always)]
pub(crate) fn run<S: Search>(
    search: S,
    Scratch { index, rest }: &mut Scratch,
    shapes: &[Shape],
    habit: &mut Habit,
    chunk: &[u8],
    lines: &mut impl Lines,
) -> usize {
    let mut at = 0;
    while at < chunk.len() {
        let text = &chunk[at..];
        let n = text.len().min(SLAB_BYTES);
        let slab = if let Some(slab) = text.first_chunk() {
            slab
        } else {
            rest[..n].copy_from_slice(&text[..n]);
            rest[n..][..SLACK_BYTES].fill(0);
            &*rest
        };
        let (n_done, go_on) = match last_line_end(search, slab, n, index) {
            Some(last) => {
                let page = Page { slab, marks: index };
                lines_of_page(search, shapes, habit, page, last, lines)
            }
            // A line longer than a slab.
            None => match memchr::memchr(b'\n', text) {
                Some(end) => (end + 1, lines.full(&text[..end])),
                None => return at,
            },
        };
        at += n_done;
        if !go_on {
            return at;
        }
    }
    at
}

/// Makes the index of a slab; returns the entry of its last newline.
#[inline(always)]
fn last_line_end<S: Search>(search: S, slab: &Slab, n: usize, index: &mut Index) -> Option<usize> {
    let n_marks = search.index(slab, n, index);
    index[..n_marks].iter().rposition(|mark| part::<1>(slab, *mark as usize) == b"\n")
}

/// A slab and its index.
#[derive(Clone, Copy)]
pub(super) struct Page<'s> {
    pub(super) slab: &'s Slab,
    pub(super) marks: &'s Index,
}

/// The lines of a slab up to its entry `last`; returns their bytes, and false when `full` did.
#[inline(always)]
fn lines_of_page<S: Search>(
    search: S,
    shapes: &[Shape],
    habit: &mut Habit,
    page: Page<'_>,
    last: usize,
    lines: &mut impl Lines,
) -> (usize, bool) {
    let Some(mut shape) = shapes.get(habit.shape) else { return (0, false) };
    let mut line = Place { start: 0, mark: 0 };
    let mut changed_at = usize::MAX;
    // Not cleared for each line: of each line that fits, a shape keeps the same fields.
    let mut found = Found::default();
    while line.mark <= last {
        line = match fit(search, shape, &mut habit.seconds, &mut found, page, line, lines) {
            Some((plain, next)) if lines.plain(&plain) => next,
            fitting => {
                let other = fitting.is_none() && changed_at != line.start;
                if other && change(shapes, habit, page, line, lines) {
                    shape = &shapes[habit.shape];
                    found = Found::default();
                    changed_at = line.start;
                    continue;
                }
                let (go_on, next) = full(page, line, lines);
                if !go_on {
                    return (next.start, false);
                }
                next
            }
        };
    }
    (line.start, true)
}

/// Start of a line, and its first entry in the index.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) mark: usize,
}

/// Hands on a line that fits no shape.
#[inline(never)]
fn full(page: Page<'_>, line: Place, lines: &mut impl Lines) -> (bool, Place) {
    let mut mark = line.mark;
    while page.slab[mark_at(page.marks, mark)] != b'\n' {
        mark += 1;
    }
    let end = mark_at(page.marks, mark);
    let go_on = lines.full(&page.slab[line.start..end]);
    (go_on, Place { start: end + 1, mark: mark + 1 })
}

/// Looks for another shape that fits; true when the habit was changed to one.
#[inline(never)]
fn change(
    shapes: &[Shape],
    habit: &mut Habit,
    page: Page<'_>,
    line: Place,
    lines: &mut impl Lines,
) -> bool {
    habit.n_strange = habit.n_strange.saturating_add(1);
    if habit.n_strange > STRANGE_MAX && !habit.n_strange.is_multiple_of(STRANGE_MAX) {
        return false;
    }
    for (at, shape) in shapes.iter().enumerate().filter(|(at, _)| *at != habit.shape) {
        // What follows a time is remembered with it, and may be another text here.
        let mut seconds = Seconds::default();
        let mut found = Found::default();
        if fit(Portable, shape, &mut seconds, &mut found, page, line, lines).is_some() {
            *habit = Habit { seconds, shape: at, n_strange: 0 };
            return true;
        }
    }
    false
}

/// An entry of the index.
#[inline(always)]
pub(super) fn mark_at(marks: &Index, mark: usize) -> usize {
    // Never cut off: a slab has no more marks than bytes.
    marks[mark & (SLAB_BYTES - 1)] as usize
}
