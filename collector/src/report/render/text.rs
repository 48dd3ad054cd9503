//! A report for a terminal: plain text with small lines and bars of blocks. Pure.
//!
//! A table that is wider than the terminal comes in parts, each with the keys of its rows, so that no
//! figure is left out. Nothing that a stranger wrote moves the cursor.

mod plot;

use std::collections::BTreeSet;

use comfy_table::presets::NOTHING;
use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Table as Grid, Width as GridWidth,
};

use super::figure::{is_numeric, level_sign, level_word, shown, time, unit_words};
use super::table::reasons;
use crate::notify::escape::one_line;
use crate::report::document::{Block, Report, Section, Table, Value};

/// Narrower than this nothing is laid out.
const WIDTH_MIN: usize = 40;
/// Wider than this no line of prose is.
const PROSE_MAX: usize = 100;
/// A cell of words is broken at this width.
const WORDS_MAX: usize = 48;
/// A word of a title is broken at this width.
const WORD_MAX: usize = 16;
/// Cells of a small line in a table.
const SPARK_CELLS: usize = 24;
/// Space between columns.
const GAP: usize = 2;

/// The report for a terminal of so many columns.
#[must_use]
pub fn text(report: &Report, width: usize) -> String {
    let mut page = Page { out: String::new(), width: width.max(WIDTH_MIN) };
    page.head(report);
    for section in &report.sections {
        page.section(section);
    }
    page.definitions(report);
    page.out
}

/// What is written so far.
struct Page {
    out: String,
    width: usize,
}

impl Page {
    fn head(&mut self, report: &Report) {
        self.headline(&report.title, '=');
        self.prose("", &format!("{}, {}.", one_line(&report.scope), period(report)));
        self.prose("", &format!("Made {} UTC.", time(report.made_at)));
        if !report.findings.is_empty() {
            self.line("");
        }
        for finding in &report.findings {
            let word = level_word(finding.level).to_uppercase();
            self.prose(&format!("{} {word:<9} ", level_sign(finding.level)), &finding.text);
        }
        if !report.caveats.is_empty() {
            self.line("");
            self.line("Keep in mind:");
        }
        for caveat in &report.caveats {
            self.prose("- ", caveat);
        }
    }

    fn section(&mut self, section: &Section) {
        self.line("");
        self.headline(&section.title, '-');
        for paragraph in &section.text {
            self.prose("", paragraph);
        }
        for block in &section.blocks {
            self.line("");
            match block {
                Block::Table(table) => self.table(table),
                Block::Chart(chart) => {
                    let width = self.width;
                    self.prose("", &chart.title);
                    for line in plot::lines(chart, width) {
                        self.line(&line);
                    }
                    self.prose("", &chart.words);
                }
            }
        }
    }

    fn table(&mut self, table: &Table) {
        self.prose("", &table.title);
        if table.rows.is_empty() {
            return self.prose("  ", table.empty);
        }
        let mut columns: Vec<Drawn> = (0..table.columns.len()).map(|ix| drawn(table, ix)).collect();
        let n_keys = columns.iter().filter(|column| column.is_key).count().max(1);
        // Keys take half of a line at most, so that there is room for what they are about.
        for key in columns.iter_mut().filter(|column| column.is_key && !column.is_numeric) {
            key.width = key.width.min(self.width / 2 / n_keys);
        }
        for (n, part) in parts(&columns, self.width).iter().enumerate() {
            if n > 0 {
                self.line("");
            }
            let grid = grid(&columns, part, table.rows.len(), self.width);
            for line in grid.lines() {
                self.line(line.trim_end());
            }
        }
        if let Some(reasons) = reasons(table) {
            self.prose("", &reasons);
        }
    }

    /// What each column is, once.
    fn definitions(&mut self, report: &Report) {
        let mut told = BTreeSet::new();
        for table in report.tables().filter(|table| !table.rows.is_empty()) {
            let is_new = |column: &&crate::report::document::Column| {
                told.insert((column.title, column.definition))
            };
            let columns: Vec<_> = table.columns.iter().filter(is_new).collect();
            if columns.is_empty() {
                continue;
            }
            self.line("");
            if self.out.contains(DEFINITIONS) {
                self.prose("", &table.title);
            } else {
                self.headline(DEFINITIONS, '-');
                self.prose("", &table.title);
            }
            for column in columns {
                let unit = unit_words(&column.unit);
                let unit = if unit.is_empty() { unit } else { format!(" ({unit})") };
                self.prose("  ", &format!("{}{unit}: {}", column.title, column.definition));
            }
        }
    }

    fn headline(&mut self, title: &str, under: char) {
        let title = one_line(title);
        let n = title.chars().count().min(self.width);
        self.prose("", &title);
        self.line(&under.to_string().repeat(n));
    }

    /// Words, broken where the line ends; the lines after the first begin below the first's text.
    fn prose(&mut self, lead: &str, words: &str) {
        let width = self.width.min(PROSE_MAX);
        let indent = lead.chars().count();
        for (n, line) in wrap(&one_line(words), width.saturating_sub(indent)).iter().enumerate() {
            let lead = if n == 0 { lead.to_owned() } else { " ".repeat(indent) };
            self.line(&format!("{lead}{line}"));
        }
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }
}

/// The headline of the last part.
const DEFINITIONS: &str = "What the figures are";

/// `2026-10-01 00:00 to 2026-11-01 00:00 UTC`.
pub(super) fn period(report: &Report) -> String {
    format!("{} to {} UTC", time(report.from), time(report.to))
}

/// Lines of at most `width` characters; a longer word is cut into lines.
fn wrap(words: &str, width: usize) -> Vec<String> {
    let width = width.max(10);
    let mut lines = vec![String::new()];
    let mut n = 0;
    for word in words.split(' ') {
        let size = word.chars().count();
        if n > 0 && n + 1 + size > width {
            lines.push(String::new());
            n = 0;
        } else if n > 0 {
            lines.last_mut().into_iter().for_each(|line| line.push(' '));
            n += 1;
        }
        for c in word.chars() {
            if n == width {
                lines.push(String::new());
                n = 0;
            }
            lines.last_mut().into_iter().for_each(|line| line.push(c));
            n += 1;
        }
    }
    lines
}

/// A column as it is to be laid out.
struct Drawn {
    title: String,
    cells: Vec<String>,
    width: usize,
    is_key: bool,
    is_numeric: bool,
}

fn drawn(table: &Table, ix: usize) -> Drawn {
    let column = &table.columns[ix];
    let cell = |row: &Vec<Value>| match row.get(ix) {
        None => String::new(),
        Some(Value::Spark(points)) => plot::spark(points, SPARK_CELLS),
        Some(Value::Level(level, text)) => format!("{} {}", level_sign(*level), one_line(text)),
        Some(value) => one_line(&shown(value, &column.unit)),
    };
    let cells: Vec<String> = table.rows.iter().map(cell).collect();
    let title = column.title.to_owned();
    let longest = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(1);
    let is_numeric = is_numeric(&column.unit);
    let width = if is_numeric {
        // A figure is never broken, a title between its words.
        let word = title.split(' ').map(|word| word.chars().count()).max().unwrap_or(1);
        longest.max(word.min(WORD_MAX))
    } else {
        longest.max(title.chars().count()).min(WORDS_MAX)
    };
    Drawn { title, cells, width, is_key: column.is_key, is_numeric }
}

/// Which columns stand side by side: as many as fit, each time behind the keys.
fn parts(columns: &[Drawn], width: usize) -> Vec<Vec<usize>> {
    let keys: Vec<usize> = (0..columns.len()).filter(|ix| columns[*ix].is_key).collect();
    let size = |ix: &usize| columns[*ix].width + GAP;
    let keys_width: usize = keys.iter().map(size).sum();
    let mut parts = vec![keys.clone()];
    let mut used = keys_width;
    for ix in (0..columns.len()).filter(|ix| !columns[*ix].is_key) {
        let is_alone = parts.last().is_none_or(|part| part.len() == keys.len());
        if used + size(&ix) > width + GAP && !is_alone {
            parts.push(keys.clone());
            used = keys_width;
        }
        parts.last_mut().into_iter().for_each(|part| part.push(ix));
        used += size(&ix);
    }
    parts
}

fn grid(columns: &[Drawn], part: &[usize], n_rows: usize, width: usize) -> String {
    let mut grid = Grid::new();
    grid.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    grid.set_width(u16::try_from(width + GAP).unwrap_or(u16::MAX));
    grid.set_header(part.iter().map(|ix| columns[*ix].title.clone()));
    for row in 0..n_rows {
        grid.add_row(part.iter().map(|ix| columns[*ix].cells[row].clone()));
    }
    for (at, ix) in part.iter().enumerate() {
        let Some(column) = grid.column_mut(at) else { continue };
        column.set_padding((0, GAP as u16));
        let most = u16::try_from(columns[*ix].width + GAP).unwrap_or(u16::MAX);
        if columns[*ix].is_numeric {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::Absolute(GridWidth::Fixed(most)));
        } else {
            column.set_constraint(ColumnConstraint::UpperBoundary(GridWidth::Fixed(most)));
        }
    }
    grid.to_string()
}
