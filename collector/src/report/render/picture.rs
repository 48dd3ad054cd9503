//! Draws charts as SVG elements without letters: curves, bands, bars and stretches of time. Pure.
//!
//! A picture is as wide as its place and stretched to it, so that one fits phones, screens and paper;
//! letters stand beside it as HTML. Colours are classes of the style sheet, for light, dark and print:
//! the plotting library draws in a colour that names the class.

use plotters::prelude::*;
use wire::UnixMillis;

use crate::report::document::{Level, Stretch, Stroke};

/// Size in which is drawn: steps finer than any screen's.
const WIDTH: i32 = 2400;
/// Its height.
const HEIGHT: i32 = 1000;
/// Points of a curve at most; of more, the lowest and the highest of each of half as many parts.
const POINTS_MAX: usize = 800;
/// The shortest stretch of time that is seen.
const STRETCH_MIN: i32 = 8;

/// What is drawn, and so how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ink {
    Grid,
    Band,
    Limit,
    Bar,
    /// The n-th curve.
    Curve(u8, Stroke),
    Level(Level),
}

impl Ink {
    /// The colour that stands for it while the library draws.
    fn color(self) -> RGBColor {
        match self {
            Self::Grid => RGBColor(1, 0, 0),
            Self::Band => RGBColor(1, 0, 1),
            Self::Limit => RGBColor(1, 0, 2),
            Self::Bar => RGBColor(1, 0, 3),
            Self::Curve(n, stroke) => RGBColor(2, stroke as u8, n),
            Self::Level(level) => RGBColor(3, 0, level as u8),
        }
    }

    /// Its classes in the style sheet.
    fn class(self) -> String {
        match self {
            Self::Grid => "grid".to_owned(),
            Self::Band => "band".to_owned(),
            Self::Limit => "limit".to_owned(),
            Self::Bar => "bar".to_owned(),
            Self::Curve(n, stroke) => format!("curve c{n} {}", stroke_name(stroke)),
            Self::Level(level) => super::figure::level_word(level).to_owned(),
        }
    }
}

/// A stroke's class in the style sheet.
pub(super) fn stroke_name(stroke: Stroke) -> &'static str {
    match stroke {
        Stroke::Solid => "solid",
        Stroke::Dashed => "dashed",
        Stroke::Dotted => "dotted",
    }
}

/// The part of the plane that is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) from: UnixMillis,
    pub(super) to: UnixMillis,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Frame {
    /// Where an instant is, 0..=1 from the left; outside of the frame at its edge.
    pub(super) fn across(&self, at: UnixMillis) -> f64 {
        let whole = (i128::from(self.to.0) - i128::from(self.from.0)).max(1) as f64;
        let at = (i128::from(at.0) - i128::from(self.from.0)) as f64;
        (at / whole).clamp(0.0, 1.0)
    }

    /// How high a value is, 0..=1 from the bottom.
    pub(super) fn up(&self, y: f64) -> f64 {
        let share = (y - self.low) / (self.high - self.low);
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }

    fn point(&self, at: UnixMillis, y: f64) -> (i32, i32) {
        let x = (self.across(at) * f64::from(WIDTH)).round() as i32;
        (x, ((1.0 - self.up(y)) * f64::from(HEIGHT)).round() as i32)
    }
}

/// A picture that is being drawn.
struct Picture {
    shapes: Vec<(Ink, Shape)>,
    size: (i32, i32),
}

enum Shape {
    Path(Vec<(i32, i32)>),
    Area(Vec<(i32, i32)>),
    Box((i32, i32), (i32, i32)),
}

impl Picture {
    fn new(size: (i32, i32)) -> Self {
        Self { shapes: Vec::new(), size }
    }

    fn add(&mut self, ink: Ink, shape: Shape) {
        self.shapes.push((ink, shape));
    }

    /// The SVG element, with a title and more words, which are HTML already.
    fn svg(self, title: &str, words: &str) -> String {
        let mut drawn = String::new();
        // A string takes everything, so that drawing cannot fail.
        self.draw(&mut drawn).ok();
        let mut inks: Vec<Ink> = self.shapes.iter().map(|(ink, _)| *ink).collect();
        inks.dedup();
        for ink in inks {
            let RGBColor(r, g, b) = ink.color();
            let class = format!("class=\"{}\"", ink.class());
            for attribute in ["fill", "stroke"] {
                let color = format!("{attribute}=\"#{r:02X}{g:02X}{b:02X}\"");
                drawn = drawn.replace(&color, &class);
            }
        }
        for noise in [" opacity=\"1\"", " stroke-width=\"1\"", " fill=\"none\"", " stroke=\"none\""]
        {
            drawn = drawn.replace(noise, "");
        }
        let drawn = drawn.split_once('>').map_or("", |(_, inside)| inside.trim_start());
        let (width, height) = self.size;
        let words = match (title, words) {
            ("", "") => String::new(),
            (title, "") => format!("<title>{title}</title>"),
            (title, words) => format!("<title>{title}</title><desc>{words}</desc>"),
        };
        let role = if words.is_empty() { "aria-hidden=\"true\"" } else { "role=\"img\"" };
        format!(
            "<svg {role} viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\">{words}{}",
            drawn.replace('\n', "").replace(" \"", "\"")
        )
    }

    fn draw(&self, out: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let size = (self.size.0.unsigned_abs(), self.size.1.unsigned_abs());
        let area = SVGBackend::with_string(out, size).into_drawing_area();
        for (ink, shape) in &self.shapes {
            let color = ink.color();
            match shape {
                Shape::Path(points) => area.draw(&PathElement::new(points.clone(), color))?,
                Shape::Area(points) => area.draw(&Polygon::new(points.clone(), color.filled()))?,
                Shape::Box(a, b) => area.draw(&Rectangle::new([*a, *b], color.filled()))?,
            }
        }
        area.present()?;
        Ok(())
    }
}

/// A curve to draw.
pub(super) struct Curve<'a> {
    pub(super) stroke: Stroke,
    pub(super) points: &'a [(UnixMillis, Option<f64>)],
}

/// What else a picture of curves has.
pub(super) struct Around<'a> {
    /// Values with a line across the picture.
    pub(super) ticks: &'a [f64],
    pub(super) band: &'a [(UnixMillis, f64, f64)],
    pub(super) limit: Option<f64>,
}

/// Curves over time.
pub(super) fn curves(
    frame: &Frame,
    curves: &[Curve<'_>],
    around: &Around<'_>,
    title: &str,
    words: &str,
) -> String {
    let mut picture = Picture::new((WIDTH, HEIGHT));
    let across = |y: f64| Shape::Path(vec![frame.point(frame.from, y), frame.point(frame.to, y)]);
    for tick in around.ticks {
        picture.add(Ink::Grid, across(*tick));
    }
    let band: Vec<_> = around.band.iter().filter(|b| b.1.is_finite() && b.2.is_finite()).collect();
    if band.len() > 1 {
        let low = band.iter().map(|(at, low, _)| frame.point(*at, *low));
        let high = band.iter().rev().map(|(at, _, high)| frame.point(*at, *high));
        picture.add(Ink::Band, Shape::Area(low.chain(high).collect()));
    }
    if let Some(limit) = around.limit {
        picture.add(Ink::Limit, across(limit));
    }
    for (n, curve) in curves.iter().enumerate() {
        let ink = Ink::Curve((n % CURVES) as u8, curve.stroke);
        for piece in pieces(curve.points, frame) {
            picture.add(ink, Shape::Path(piece));
        }
    }
    picture.svg(title, words)
}

/// Looks of curves; the next one begins anew.
pub(super) const CURVES: usize = 6;

/// A curve as paths between its gaps; a lone point is a dot.
fn pieces(points: &[(UnixMillis, Option<f64>)], frame: &Frame) -> Vec<Vec<(i32, i32)>> {
    let per = points.len().div_ceil(POINTS_MAX / 2).max(1);
    let mut pieces: Vec<Vec<(i32, i32)>> = vec![Vec::new()];
    for part in points.chunks(if points.len() > POINTS_MAX { per } else { 1 }) {
        let known: Vec<_> = part
            .iter()
            .filter_map(|(at, y)| y.filter(|y| y.is_finite()).map(|y| (*at, y)))
            .collect();
        if known.is_empty() {
            pieces.push(Vec::new());
            continue;
        }
        let by = |a: &&(UnixMillis, f64), b: &&(UnixMillis, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (known.iter().min_by(by), known.iter().max_by(by));
        let mut ends: Vec<_> = [low, high].into_iter().flatten().copied().collect();
        ends.sort_by_key(|(at, _)| *at);
        ends.dedup();
        let piece = ends.into_iter().map(|(at, y)| frame.point(at, y));
        pieces.last_mut().into_iter().for_each(|last| last.extend(piece.clone()));
    }
    pieces.retain(|piece| !piece.is_empty());
    for piece in &mut pieces {
        piece.dedup();
        if let [only] = piece[..] {
            piece.push((only.0 + 1, only.1));
        }
    }
    pieces
}

/// A bar of this share of its place.
pub(super) fn bar(share: f64) -> String {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let mut picture = Picture::new((WIDTH, 10));
    let right = (share * f64::from(WIDTH)).round() as i32;
    if right > 0 {
        picture.add(Ink::Bar, Shape::Box((0, 0), (right, 10)));
    }
    picture.svg("", "")
}

/// When something was so: the graver, the higher.
pub(super) fn stretches(frame: &Frame, stretches: &[Stretch], title: &str, words: &str) -> String {
    let mut picture = Picture::new((WIDTH, 100));
    let mut stretches: Vec<_> = stretches.iter().collect();
    stretches.sort_by_key(|stretch| (stretch.level, stretch.from));
    for stretch in stretches {
        let x = |at| (frame.across(at) * f64::from(WIDTH)).round() as i32;
        let left = x(stretch.from).min(WIDTH - STRETCH_MIN);
        let right = x(stretch.to).max(left + STRETCH_MIN);
        let top = match stretch.level {
            Level::Good => 80,
            Level::Note => 60,
            Level::Warning => 30,
            Level::Critical => 0,
        };
        picture.add(Ink::Level(stretch.level), Shape::Box((left, top), (right, 100)));
    }
    picture.svg(title, words)
}

/// A small line of a series, from its least to its most.
pub(super) fn spark(points: &[Option<f64>], words: &str) -> String {
    let known = || points.iter().flatten().copied().filter(|point| point.is_finite());
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    let flat = if low < high { 0.0 } else { 1.0 };
    let frame = Frame {
        from: UnixMillis(0),
        to: UnixMillis(points.len().saturating_sub(1) as i64),
        low: low - flat,
        high: high + flat,
    };
    let points: Vec<_> = (0..).map(UnixMillis).zip(points.iter().copied()).collect();
    let mut picture = Picture::new((240, 48));
    for piece in pieces(&points, &frame) {
        // A little inside, so that no edge cuts the stroke.
        let inside = |(x, y): (i32, i32)| (4 + x * 232 / WIDTH, 5 + y * 38 / HEIGHT);
        let piece = piece.into_iter().map(inside).collect();
        picture.add(Ink::Curve(0, Stroke::Solid), Shape::Path(piece));
    }
    picture.svg(words, "")
}
