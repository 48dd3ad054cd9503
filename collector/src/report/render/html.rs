//! A report as a page: one HTML file for screens of any width, light and dark, and for paper. Pure.
//!
//! The file fetches and runs nothing, and says so to the browser. Nothing is told by colour alone:
//! levels have a word and a sign, curves a stroke and a letter, stretches of time a height.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::chart;
use super::figure::{
    exact, is_numeric, level_sign, level_word, shown, spark_words, time, unit_words,
};
use super::picture;
use super::table::{length, reasons};
use crate::notify::escape;
use crate::report::document::{Block, Column, Level, Report, Section, Table, Unit, Value};

/// The style sheet, within the page.
const STYLE: &str = include_str!("../../../templates/report/page.css");
/// What a browser may do with the page: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
                      form-action 'none'";
/// The longest text of one cell, UTF-16 units.
const TEXT_MAX: usize = 2000;
/// More rows than this scroll below their heads.
const ROWS_TALL: usize = 25;
/// A table of about so many characters is too wide for upright paper: the report is printed across.
const WIDE: usize = 105;
/// This one is too wide for paper across in letters of a usual size.
const VAST: usize = 185;
/// A short text stays on one line.
const SHORT: usize = 28;
/// Rows that are cards on a phone; more of them scroll sideways.
const CARDS_MAX: usize = 12;
/// Words of a cell that are a sentence: on a phone its row is a card.
const SENTENCE: usize = 40;

/// The report as a page.
pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let title = escaped(&report.title);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"generator\" content=\"gatewatch\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n",
        paper(report)
    )
    .ok();
    out.push_str(&head(report));
    out.push_str("<main>\n");
    out.push_str(&summary(report));
    let places = Places::of(report);
    for section in &report.sections {
        out.push_str(&self::section(section, &places));
    }
    out.push_str(&definitions(report, &places));
    out.push_str("</main>\n");
    write!(
        out,
        "<footer><p>{title}. Made by gatewatch on {} UTC. All times are UTC.</p></footer>\n\
         </body>\n</html>\n",
        time(report.made_at)
    )
    .ok();
    out
}

/// The paper it is printed on: across when a table needs it.
fn paper(report: &Report) -> &'static str {
    if report.tables().any(|table| width(table) > WIDE) {
        "@page { size: A4 landscape; margin: 12mm; }\n"
    } else {
        "@page { size: A4; margin: 14mm 13mm 16mm; }\n"
    }
}

/// About how many characters a row takes.
fn width(table: &Table) -> usize {
    (0..table.columns.len()).map(|ix| length(table, ix).min(SENTENCE) + 2).sum()
}

/// Text of a stranger, on one line, as HTML.
pub(super) fn escaped(text: &str) -> String {
    escape::html(text, TEXT_MAX)
}

fn head(report: &Report) -> String {
    let mut out = format!(
        "<header>\n<p class=\"brand\"><b>gatewatch</b> {} report</p>\n<h1>{}</h1>\n<dl>\n\
         <div><dt>Time</dt><dd>{} to {} UTC</dd></div>\n<div><dt>About</dt><dd>{}</dd></div>\n\
         <div><dt>Made</dt><dd>{} UTC</dd></div>\n</dl>\n",
        report.kind.name(),
        escaped(&report.title),
        time(report.from),
        time(report.to),
        escaped(&report.scope),
        time(report.made_at)
    );
    if report.sections.len() > 1 {
        out.push_str("<nav aria-label=\"Parts of the report\"><ul>");
        for section in &report.sections {
            write!(
                out,
                "<li><a href=\"#{}\">{}</a></li>",
                escaped(section.key),
                escaped(&section.title)
            )
            .ok();
        }
        out.push_str("<li><a href=\"#definitions\">What the figures are</a></li></ul></nav>\n");
    }
    out.push_str("</header>\n");
    out
}

fn summary(report: &Report) -> String {
    let mut out = String::new();
    if !report.findings.is_empty() {
        out.push_str("<section class=\"summary\" id=\"findings\">\n<h2>Findings</h2>\n<ul>\n");
        for finding in &report.findings {
            let badge = badge(finding.level, level_word(finding.level));
            let class = level_word(finding.level);
            writeln!(out, "<li class=\"{class}\">{badge}<p>{}</p></li>", escaped(&finding.text))
                .ok();
        }
        out.push_str("</ul>\n</section>\n");
    }
    if !report.caveats.is_empty() {
        out.push_str("<aside class=\"caveats\">\n<h2>Keep in mind</h2>\n<ul>\n");
        for caveat in &report.caveats {
            writeln!(out, "<li>{}</li>", escaped(caveat)).ok();
        }
        out.push_str("</ul>\n</aside>\n");
    }
    out
}

/// A word with its sign and colour.
fn badge(level: Level, word: &str) -> String {
    let class = level_word(level);
    format!(
        "<span class=\"badge {class}\"><span aria-hidden=\"true\">{}</span> {}</span>",
        level_sign(level),
        escaped(word)
    )
}

fn section(section: &Section, places: &Places) -> String {
    let key = escaped(section.key);
    let mut out = format!("<section id=\"{key}\">\n<h2>{}</h2>\n", escaped(&section.title));
    for paragraph in &section.text {
        writeln!(out, "<p>{}</p>", escaped(paragraph)).ok();
    }
    for block in &section.blocks {
        match block {
            Block::Table(table) => out.push_str(&self::table(table, places)),
            Block::Chart(chart) => out.push_str(&chart::figure(chart)),
        }
    }
    out.push_str("</section>\n");
    out
}

fn table(table: &Table, places: &Places) -> String {
    let title = escaped(&table.title);
    let key = escaped(table.key);
    if table.rows.is_empty() {
        let empty = escaped(table.empty);
        return format!(
            "<div class=\"table\" id=\"t-{key}\">\n<h3>{title}</h3>\n<p class=\"empty\">{empty}</p>\n</div>\n"
        );
    }
    let mut classes = Vec::new();
    let lengths: Vec<usize> = (0..table.columns.len()).map(|ix| length(table, ix)).collect();
    let width = width(table);
    if width > WIDE {
        classes.push("wide");
    }
    if width > VAST {
        classes.push("vast");
    }
    if table.rows.len() > ROWS_TALL {
        classes.push("tall");
    }
    // Figures stay in their column, however long.
    let is_sentence = |(column, n): (&Column, &usize)| {
        !column.is_key && column.unit == Unit::Text && *n > SENTENCE
    };
    let has_sentences = table.columns.iter().zip(&lengths).any(is_sentence);
    if has_sentences && table.rows.len() <= CARDS_MAX {
        classes.push("cards");
    }
    let mut out = format!(
        "<div class=\"table {}\" id=\"t-{key}\">\n<h3>{title}</h3>\n\
         <div class=\"scroll\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\">\n<table>\n<thead><tr>",
        classes.join(" ")
    );
    // Sentences of a wide table stand below their row, where they are seen without scrolling.
    let is_below = |ix: usize| width > WIDE && is_sentence((&table.columns[ix], &lengths[ix]));
    let (below, beside): (Vec<usize>, Vec<usize>) =
        (0..table.columns.len()).partition(|ix| is_below(*ix));
    for ix in &beside {
        let column = &table.columns[*ix];
        let place = places.of_column(table.key, *ix);
        let class = class(column, lengths[*ix]);
        let hint = escaped(column.definition);
        let title = escaped(column.title);
        write!(
            out,
            "<th scope=\"col\"{class}><a href=\"#{place}\" title=\"{hint}\">{title}</a></th>"
        )
        .ok();
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let has_bars: Vec<bool> = (0..table.columns.len()).map(|ix| has_bars(table, ix)).collect();
    for row in &table.rows {
        out.push_str(if below.is_empty() { "<tr>" } else { "<tr class=\"over\">" });
        for ix in &beside {
            let (Some(column), Some(value)) = (table.columns.get(*ix), row.get(*ix)) else {
                continue;
            };
            out.push_str(&cell(column, value, &class(column, lengths[*ix]), has_bars[*ix]));
        }
        out.push_str("</tr>\n");
        if !below.is_empty() {
            out.push_str(&sentences(table, row, &below, beside.len(), places));
        }
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    if let Some(reasons) = reasons(table) {
        writeln!(out, "<p class=\"reasons\">{}</p>", escaped(&reasons)).ok();
    }
    out.push_str("</div>\n");
    out
}

/// The sentences of a row, below it, each behind the title of its column.
fn sentences(
    table: &Table,
    row: &[Value],
    columns: &[usize],
    n_beside: usize,
    places: &Places,
) -> String {
    let mut out = format!("<tr class=\"below\"><td colspan=\"{n_beside}\"><div>");
    for ix in columns {
        let (Some(column), Some(value)) = (table.columns.get(*ix), row.get(*ix)) else { continue };
        let words = inside(value, &column.unit);
        if words.is_empty() {
            continue;
        }
        let place = places.of_column(table.key, *ix);
        let title = escaped(column.title);
        write!(out, "<p><a href=\"#{place}\">{title}:</a> {words}</p>").ok();
    }
    out.push_str("</div></td></tr>\n");
    out
}

/// Attribute with the classes of a cell: how its column looks.
fn class(column: &Column, length: usize) -> String {
    let class = match &column.unit {
        unit if is_numeric(unit) => "n",
        Unit::Time => "t",
        Unit::Spark => "s",
        _ if length > SENTENCE => "w",
        _ if length <= SHORT => "k",
        _ => return String::new(),
    };
    format!(" class=\"{class}\"")
}

/// Whether a column's shares are drawn as well: all of them can be, and they differ enough to see.
fn has_bars(table: &Table, ix: usize) -> bool {
    let is_share = table.columns.get(ix).is_some_and(|c| c.unit == Unit::Share && !c.is_key);
    let shares: Vec<f64> = table
        .rows
        .iter()
        .filter_map(|row| match row.get(ix) {
            Some(Value::Number(share)) => Some(*share),
            _ => None,
        })
        .collect();
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    is_share && least < 0.9 && shares.iter().all(|share| (0.0..=1.0).contains(share))
}

fn cell(column: &Column, value: &Value, class: &str, has_bar: bool) -> String {
    let (tag, scope) = if column.is_key { ("th", " scope=\"row\"") } else { ("td", "") };
    let label = escaped(column.title);
    let inside = inside(value, &column.unit);
    let share = match value {
        Value::Number(share) if has_bar => format!(" style=\"--v:{:.1}%\"", share * 100.0),
        _ => String::new(),
    };
    format!("<{tag}{scope}{class}{share} data-l=\"{label}\">{inside}</{tag}>")
}

/// What a value looks like, with the whole number where there is one.
fn inside(value: &Value, unit: &Unit) -> String {
    let words = escaped(&shown(value, unit));
    let whole = |number: &f64| exact(*number).unwrap_or_default();
    match value {
        Value::Unknown(why) => {
            format!("<span class=\"unknown\" title=\"{}\">{words}</span>", escaped(why))
        }
        Value::Text(_) => words,
        Value::Level(level, word) => badge(*level, word),
        Value::Number(number) => format!("<data value=\"{}\">{words}</data>", whole(number)),
        Value::Count(n) => format!("<data value=\"{n}\">{words}</data>"),
        Value::Interval { mid, low, high } => {
            let (mid, low, high) = (whole(mid), whole(low), whole(high));
            let (main, between) = words.split_once(" (").unwrap_or((&words, ""));
            let between = between.trim_end_matches(')');
            format!("<data value=\"{mid};{low};{high}\">{main} <small>({between})</small></data>")
        }
        Value::Time(at) => format!("<time datetime=\"{}\">{words}</time>", at.to_rfc3339()),
        Value::Spark(points) => picture::spark(points, &escaped(&spark_words(points))),
    }
}

/// Where the definition of each column stands: columns that say the same share one.
struct Places(BTreeMap<(&'static str, usize), String>);

impl Places {
    fn of(report: &Report) -> Self {
        let mut first: BTreeMap<(&str, &str), String> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for table in report.tables() {
            for (ix, column) in table.columns.iter().enumerate() {
                let own = || format!("d-{}-{}", escaped(table.key), escaped(column.key));
                let place = first.entry((column.title, column.definition)).or_insert_with(own);
                places.insert((table.key, ix), place.clone());
            }
        }
        Self(places)
    }

    fn of_column(&self, table: &'static str, ix: usize) -> &str {
        self.0.get(&(table, ix)).map_or("definitions", String::as_str)
    }
}

fn definitions(report: &Report, places: &Places) -> String {
    let mut out = String::from(
        "<section class=\"definitions\" id=\"definitions\">\n<h2>What the figures are</h2>\n",
    );
    let mut told = std::collections::BTreeSet::new();
    for table in report.tables() {
        let columns = table.columns.iter().enumerate();
        let columns: Vec<_> =
            columns.filter(|(ix, _)| told.insert(places.of_column(table.key, *ix))).collect();
        if columns.is_empty() {
            continue;
        }
        writeln!(out, "<h3>{}</h3>\n<dl>", escaped(&table.title)).ok();
        for (ix, column) in columns {
            let unit = unit_words(&column.unit);
            let unit =
                if unit.is_empty() { unit } else { format!(" <small>{}</small>", escaped(&unit)) };
            writeln!(
                out,
                "<div id=\"{}\"><dt>{}{unit}</dt><dd>{}</dd></div>",
                places.of_column(table.key, ix),
                escaped(column.title),
                escaped(column.definition)
            )
            .ok();
        }
        out.push_str("</dl>\n");
    }
    out.push_str("</section>\n");
    out
}
