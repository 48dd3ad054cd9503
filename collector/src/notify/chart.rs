//! The small chart of a page: requests around an incident, and which of them failed. Pure.
//!
//! As a picture it has no letters: times stand beside it as text. Failed requests are solid, the others
//! faint, so darkness alone tells them apart; what is neither is transparent, for light and dark paper.

use std::time::Duration;

use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::words::{many, number, span};

/// Size of the picture in pixels; shown at half of it, so that it is sharp on fine screens.
pub const WIDTH: u32 = 1200;
/// Its height.
pub const HEIGHT: u32 = 280;
/// Bars at most, and blocks of text.
const CELLS_MAX: i64 = 60;
const BLOCKS_MAX: usize = 30;
/// Spans of a bar, seconds.
const STEPS_S: [i64; 12] = [5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600];
/// Lowest bar: one failed request among a thousand must be seen.
const BAR_MIN: u32 = 8;
/// Height of the line that the bars stand on.
const BASE: u32 = 4;

/// Colours by index, and how solid each is.
const PALETTE: [(RGBColor, u8); 4] = [
    (RGBColor(0, 0, 0), 0),
    (RGBColor(100, 116, 139), 120),
    (RGBColor(214, 46, 60), 255),
    (RGBColor(128, 140, 158), 255),
];
const FINE: usize = 1;
const FAILED: usize = 2;
const LINE: usize = 3;

/// Requests of one span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// All.
    pub n: u64,
    /// Gateway errors among them.
    pub n_failed: u64,
}

/// Requests over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chart {
    /// Second of the left edge.
    from_s: i64,
    /// Span of a cell, seconds.
    step_s: i64,
    /// From the left.
    cells: Vec<Cell>,
}

impl Chart {
    /// An empty one of this time; cells begin at multiples of their span.
    #[must_use]
    pub fn new(from: UnixMillis, to: UnixMillis) -> Self {
        let (from, to) = (from.second(), to.second().max(from.second()));
        let n = |step: i64| to.div_euclid(step) - from.div_euclid(step) + 1;
        let last = STEPS_S[STEPS_S.len() - 1];
        let step_s = STEPS_S.into_iter().find(|step| n(*step) <= CELLS_MAX).unwrap_or(last);
        let from_s = from.div_euclid(step_s) * step_s;
        let n = n(step_s).min(CELLS_MAX) as usize;
        Self { from_s, step_s, cells: vec![Cell::default(); n] }
    }

    /// Adds requests of one second; those of another time are left out.
    pub fn add(&mut self, at: UnixMillis, n: u64, n_failed: u64) {
        let ix = usize::try_from((at.second() - self.from_s).div_euclid(self.step_s));
        if let Some(cell) = ix.ok().and_then(|ix| self.cells.get_mut(ix)) {
            cell.n += n;
            cell.n_failed += n_failed;
        }
    }

    /// Whether nothing was counted: then there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.iter().all(|cell| cell.n == 0 && cell.n_failed == 0)
    }

    /// Its left edge.
    #[must_use]
    pub fn from(&self) -> UnixMillis {
        UnixMillis::from_second(self.from_s)
    }

    /// Its right edge.
    #[must_use]
    pub fn to(&self) -> UnixMillis {
        UnixMillis::from_second(self.from_s + self.step_s * self.cells.len() as i64)
    }

    /// One block per cell: how many failed, or, when none did, how many requests there were. Also one
    /// failure is higher than none.
    #[must_use]
    pub fn spark(&self) -> String {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let per = self.cells.len().div_ceil(BLOCKS_MAX).max(1);
        let failed = |cells: &[Cell]| cells.iter().map(|cell| cell.n_failed).sum::<u64>();
        let all = |cells: &[Cell]| cells.iter().map(|cell| cell.n).sum::<u64>();
        let of = if failed(&self.cells) > 0 { failed } else { all };
        let values: Vec<u64> = self.cells.chunks(per).map(of).collect();
        let max = values.iter().copied().max().unwrap_or(0).max(1);
        let block = |value: u64| BLOCKS[(value * 7).div_ceil(max) as usize];
        values.into_iter().map(block).collect()
    }

    /// What it shows, for those who do not see it: its worst cell, or its highest when none failed.
    #[must_use]
    pub fn words(&self) -> String {
        let step = span(Duration::from_secs(self.step_s.unsigned_abs()));
        let worst = self.cells.iter().max_by_key(|cell| cell.n_failed).filter(|c| c.n_failed > 0);
        let peak = self.cells.iter().map(|cell| cell.n).max().unwrap_or(0);
        match worst {
            Some(worst) => format!(
                "At worst {} of {} failed in {step}",
                number(worst.n_failed),
                many(worst.n.max(worst.n_failed), "request")
            ),
            None => format!("At most {} in {step}, none failed", many(peak, "request")),
        }
    }

    /// The picture as PNG; the same bytes for the same numbers.
    #[must_use]
    pub fn png(&self) -> Vec<u8> {
        let mut pixels = vec![0; (WIDTH * HEIGHT * 3) as usize];
        self.draw(&mut pixels).expect("a buffer in memory takes every pixel");
        let index = |pixel: &[u8]| {
            let is = |(color, _): &(RGBColor, u8)| [color.0, color.1, color.2] == pixel;
            PALETTE.iter().position(is).unwrap_or(0) as u8
        };
        let indexed: Vec<u8> = pixels.chunks_exact(3).map(index).collect();
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, WIDTH, HEIGHT);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        let colors: Vec<u8> = PALETTE.iter().flat_map(|(c, _)| [c.0, c.1, c.2]).collect();
        encoder.set_palette(colors);
        encoder.set_trns(PALETTE.iter().map(|(_, solid)| *solid).collect::<Vec<u8>>());
        let written = encoder.write_header().and_then(|mut png| png.write_image_data(&indexed));
        written.expect("memory takes every byte");
        out
    }

    fn draw(&self, pixels: &mut [u8]) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = BitMapBackend::with_buffer(pixels, (WIDTH, HEIGHT)).into_drawing_area();
        let fill = |x: (u32, u32), y: (u32, u32), color: usize| {
            if x.0 >= x.1 || y.0 >= y.1 {
                return Ok(());
            }
            let corners = [(x.0 as i32, y.0 as i32), (x.1 as i32, y.1 as i32)];
            area.draw(&Rectangle::new(corners, PALETTE[color].0.filled()))
        };
        let floor = HEIGHT - BASE;
        let max = self.cells.iter().map(|cell| cell.n.max(cell.n_failed)).max().unwrap_or(0).max(1);
        let high = |n: u64| match n {
            0 => 0,
            n => ((n * u64::from(floor) / max) as u32).max(BAR_MIN),
        };
        let n_cells = self.cells.len() as u32;
        let gap = (WIDTH / n_cells.max(1) / 5).clamp(2, 8);
        for (ix, cell) in (0..).zip(&self.cells) {
            let x = (ix * WIDTH / n_cells, (ix + 1) * WIDTH / n_cells - gap);
            let failed = high(cell.n_failed);
            let all = high(cell.n.max(cell.n_failed)).max(failed);
            fill(x, (floor - all, floor - failed), FINE)?;
            fill(x, (floor - failed, floor), FAILED)?;
        }
        fill((0, WIDTH), (floor, HEIGHT), LINE)?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::START;

    fn later(s: i64) -> UnixMillis {
        UnixMillis(START.0 + s * 1000)
    }

    /// Ten minutes of ten requests a second, then two of which half fail.
    fn outage() -> Chart {
        let mut chart = Chart::new(later(-600), later(120));
        for s in -600..=120 {
            chart.add(later(s), 10, if s >= 0 { 5 } else { 0 });
        }
        chart
    }

    #[test]
    fn any_time_takes_sixty_cells_at_most_and_none_is_lost() {
        for (from, to, n, step) in [
            (0, 0, 1, 5),
            (-600, 10, 42, 15),
            (-600, 120, 49, 15),
            (-600, 3600, 36, 120),
            (-600, 6 * 3600, 38, 600),
            (-600, 40 * 86_400, 60, 3600),
            (10, -10, 1, 5),
        ] {
            let chart = Chart::new(later(from), later(to));
            assert_eq!((chart.cells.len(), chart.step_s), (n, step), "{from} {to}");
            assert!(chart.from() <= later(from) && chart.from_s % step == 0);
        }
        let chart = outage();
        let n: u64 = chart.cells.iter().map(|cell| cell.n).sum();
        assert_eq!(n, 7210);
        let mut outside = chart.clone();
        outside.add(later(-10_000), 5, 5);
        outside.add(later(10_000), 5, 5);
        assert_eq!(outside, chart);
    }

    #[test]
    fn blocks_show_failures_or_else_requests() {
        let spark = outage().spark();
        assert_eq!(spark.chars().count(), 25);
        assert!(spark.starts_with("▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁"), "{spark}");
        assert!(spark.contains("██"), "{spark}");
        let mut one = Chart::new(later(0), later(9));
        one.add(later(0), 1000, 1000);
        one.add(later(5), 1000, 1);
        assert_eq!(one.spark(), "█▂▁", "one failure is not none");
        let mut silent = Chart::new(later(0), later(9));
        silent.add(later(0), 40, 0);
        assert_eq!(silent.spark(), "█▁▁");
        assert_eq!(silent.words(), "At most 40 requests in 5 s, none failed");
        let words = outage().words();
        assert_eq!(words, "At worst 75 of 150 requests failed in 15 s");
        assert!(!outage().is_empty() && Chart::new(later(0), later(9)).is_empty());
    }

    /// Kind of each column's pixels from the floor up: how many failed and how many fine.
    fn columns(png: &[u8]) -> Vec<(usize, usize)> {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(png));
        decoder.set_transformations(png::Transformations::IDENTITY);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (WIDTH, HEIGHT));
        let trns = reader.info().trns.clone().unwrap();
        assert_eq!(trns[0], 0, "what is nothing is transparent");
        let count = |x: u32, kind: usize| {
            (0..HEIGHT).filter(|y| pixels[(y * WIDTH + x) as usize] as usize == kind).count()
        };
        (0..WIDTH).map(|x| (count(x, FAILED), count(x, FINE))).collect()
    }

    #[test]
    fn the_picture_has_its_failing_bars_where_requests_failed() {
        let chart = outage();
        let png = chart.png();
        assert_eq!(png, chart.png(), "the same bytes each time");
        assert!(png.len() < 10_000, "{}", png.len());
        let columns = columns(&png);
        let n_cells = chart.cells.len() as u32;
        for (ix, cell) in (0..).zip(&chart.cells) {
            let (failed, fine) = columns[(ix * WIDTH / n_cells + 4) as usize];
            assert_eq!(failed > 0, cell.n_failed > 0, "cell {ix}: {cell:?}");
            assert!(fine > 0 || cell.n == cell.n_failed, "cell {ix}: {cell:?}");
            if cell.n == 150 && cell.n_failed == 75 {
                assert!(failed.abs_diff(fine) <= 1, "half and half: {failed} {fine}");
            }
        }
    }

    #[test]
    fn one_failure_among_thousands_is_seen() {
        let mut chart = Chart::new(later(0), later(300));
        chart.add(later(0), 100_000, 0);
        chart.add(later(150), 100_000, 1);
        assert!(columns(&chart.png()).iter().any(|(failed, _)| *failed >= BAR_MIN as usize));
        assert!(!Chart::new(later(0), later(1)).png().is_empty());
    }

    /// Share of light by which two colours on the same paper differ, as WCAG counts it.
    fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
        let light = |c: [f64; 3]| {
            let linear = |v: f64| {
                let v = v / 255.0;
                if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2])
        };
        let (a, b) = (light(a) + 0.05, light(b) + 0.05);
        a.max(b) / a.min(b)
    }

    #[test]
    fn failed_and_fine_differ_in_darkness_on_white_and_on_black() {
        for paper in [[255.0; 3], [24.0; 3]] {
            let on_paper = |ix: usize| {
                let (color, solid) = PALETTE[ix];
                let solid = f64::from(solid) / 255.0;
                let c = [color.0, color.1, color.2].map(f64::from);
                [0, 1, 2].map(|n| c[n] * solid + paper[n] * (1.0 - solid))
            };
            assert!(contrast(on_paper(FAILED), paper) > 3.0, "failed on {paper:?}");
            assert!(contrast(on_paper(FINE), paper) > 1.5, "fine on {paper:?}");
            assert!(contrast(on_paper(FAILED), on_paper(FINE)) > 1.8, "each other on {paper:?}");
        }
    }
}
