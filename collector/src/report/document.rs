//! A report before it is HTML, text, CSV or JSON: findings, tables and charts. Pure data.
//!
//! Invariant: each number is put in once, as a [`Value`] of a column with its unit and definition.
//! Renderers choose how it is written, never what it is, so all formats say the same.

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What is used of what there is, how long it lasts, and which plan fits.
    Capacity,
    /// What failed, when, for whom, why, and what is left of the error budget.
    Outage,
    /// Who makes most of the trouble.
    Noise,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Capacity, Self::Outage, Self::Noise];

    /// Its name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Outage => "outage",
            Self::Noise => "noise",
        }
    }
}

/// A whole report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What it is about.
    pub kind: Kind,
    /// Its headline.
    pub title: String,
    /// Whom it is about, in words: `all 12 servers`, `3 servers with customer=acme`.
    pub scope: String,
    /// First instant.
    pub from: UnixMillis,
    /// End; not part of it.
    pub to: UnixMillis,
    /// When it was made.
    pub made_at: UnixMillis,
    /// What makes it less than whole, a sentence each: what is missing, damaged or too short.
    pub caveats: Vec<String>,
    /// What somebody with half a minute should read, most important first.
    pub findings: Vec<Finding>,
    /// The rest.
    pub sections: Vec<Section>,
}

/// How much something matters. Shown by a word or sign as well as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Good,
    /// Worth knowing.
    Note,
    /// Needs somebody's time.
    Warning,
    /// Costs customers now.
    Critical,
}

/// One sentence that stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The sentence, with its numbers.
    pub text: String,
}

/// A part of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its name for programs: lower case, unique in the report.
    pub key: &'static str,
    /// Its headline.
    pub title: String,
    /// What is to be said before its tables, a paragraph each.
    pub text: Vec<String>,
    /// Tables and charts, in order.
    pub blocks: Vec<Block>,
}

/// Something in a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Numbers.
    Table(Table),
    /// A picture of numbers.
    Chart(Chart),
}

/// Rows of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its name for programs: lower case with `_`, unique in the report.
    pub key: &'static str,
    /// Its headline.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
    /// What is said in the place of rows when there are none.
    pub empty: &'static str,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name for programs: lower case with `_` and the unit at its end, unique in the table.
    pub key: &'static str,
    /// Its headline, short.
    pub title: &'static str,
    /// Unit of its values.
    pub unit: Unit,
    /// Whether it says what the row is about. Those columns come first.
    pub is_key: bool,
    /// What its values are, exactly: what is counted over what, from which samples.
    pub definition: &'static str,
}

/// Unit of the values of a column or an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Words.
    Text,
    /// How many.
    Count,
    /// A number without a unit.
    Number,
    /// 0..1, shown in percent.
    Share,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// A second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Days.
    Days,
    /// An instant.
    Time,
    /// Money a month, in this currency.
    Money(String),
    /// A small line of a series, from its least to its most.
    Spark,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Not known, and why: shown as a dash, `null` in JSON.
    Unknown(&'static str),
    /// Words. They may come from anywhere: renderers escape them.
    Text(String),
    /// A number in the unit of its column.
    Number(f64),
    /// How many.
    Count(u64),
    /// A number that is not sure: in eight of ten cases it lies between.
    Interval {
        /// The likeliest.
        mid: f64,
        /// Nine of ten are above.
        low: f64,
        /// Nine of ten are below.
        high: f64,
    },
    /// An instant.
    Time(UnixMillis),
    /// A word with how much it matters.
    Level(Level, String),
    /// A series, oldest first; `None` where nothing is known.
    Spark(Vec<Option<f64>>),
}

impl Value {
    /// A number, or why there is none.
    #[must_use]
    pub fn or(number: Option<f64>, why_not: &'static str) -> Self {
        number.map_or(Self::Unknown(why_not), Self::Number)
    }
}

/// A picture of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Its name for programs, unique in the report.
    pub key: String,
    /// Its headline.
    pub title: String,
    /// What it shows, in a sentence, for those who do not see it.
    pub words: String,
    /// Unit of its values.
    pub unit: Unit,
    /// What is drawn.
    pub plot: Plot,
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Plot {
    /// Values over time.
    Lines {
        /// First instant.
        from: UnixMillis,
        /// End.
        to: UnixMillis,
        /// The lines; told apart by their stroke as well.
        lines: Vec<Line>,
        /// Between what a forecast lies in eight of ten cases: instant, low, high.
        band: Vec<(UnixMillis, f64, f64)>,
        /// What must not be reached, with its name.
        limit: Option<(f64, String)>,
    },
    /// One bar each, longest first.
    Bars(Vec<(String, f64)>),
    /// When something was so, a row each: name, spans of time and how much they matter.
    Spans {
        /// First instant.
        from: UnixMillis,
        /// End.
        to: UnixMillis,
        /// The rows.
        rows: Vec<(String, Vec<Stretch>)>,
    },
}

/// A time in which something was so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First instant.
    pub from: UnixMillis,
    /// End.
    pub to: UnixMillis,
    /// How much it matters.
    pub level: Level,
}

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Instant and value, oldest first; `None` breaks it.
    pub points: Vec<(UnixMillis, Option<f64>)>,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// What was measured.
    Solid,
    /// What is expected.
    Dashed,
    /// What is compared with.
    Dotted,
}

impl Report {
    /// Its tables, in order.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.sections.iter().flat_map(|section| &section.blocks).filter_map(|block| match block {
            Block::Table(table) => Some(table),
            Block::Chart(_) => None,
        })
    }

    /// Its charts, in order.
    pub fn charts(&self) -> impl Iterator<Item = &Chart> {
        self.sections.iter().flat_map(|section| &section.blocks).filter_map(|block| match block {
            Block::Chart(chart) => Some(chart),
            Block::Table(_) => None,
        })
    }
}
