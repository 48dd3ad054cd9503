//! Tests of all renderers together: the same numbers everywhere, and strangers' texts do nothing.

use proptest::prelude::*;
use serde_json::Value as Json;
use wire::UnixMillis;

use super::figure::{NOT_KNOWN, exact, shown};
use super::{HtmlOptions, Medium, csv, csv_table, html, json, sample, text};
use crate::report::document::{
    Block, Chart, Column, Finding, Kind, Level, Line, Plot, Report, Section, Stretch, Stroke,
    Table, Unit, Value,
};

/// Texts that do harm where they are not made harmless.
const NASTY: [&str; 9] = [
    "</td></table><script>document.title='taken over'</script>",
    "<img src=x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)",
    "=HYPERLINK(\"http://evil.example\",\"click\")",
    "+1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "-2+3",
    "\u{1b}[2Jgone\u{7}\r\nnext \u{202e}turned",
    "]]></style>{{7*7}}&amp;",
];

const COLUMNS: [&str; 4] = ["first", "second", "third", "fourth"];
const TABLES: [&str; 3] = ["one", "two", "three"];

fn unit() -> impl Strategy<Value = Unit> {
    prop_oneof![
        Just(Unit::Text),
        Just(Unit::Count),
        Just(Unit::Number),
        Just(Unit::Share),
        Just(Unit::Bytes),
        Just(Unit::BytesPerSecond),
        Just(Unit::PerSecond),
        Just(Unit::Seconds),
        Just(Unit::Minutes),
        Just(Unit::Days),
        Just(Unit::Time),
        Just(Unit::Money("EUR".into())),
        Just(Unit::Money("<b>=1".into())),
        Just(Unit::Spark),
    ]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..1.0_f64,
        8 => -1e3..1e12_f64,
        2 => any::<f64>(),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-0.0),
    ]
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,12}( [a-z]{1,9}){0,12}",
        (0..NASTY.len()).prop_map(|ix| NASTY[ix].to_owned()),
        any::<String>(),
    ]
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Good), Just(Level::Note), Just(Level::Warning), Just(Level::Critical)]
}

fn value(unit: &Unit) -> BoxedStrategy<Value> {
    let unknown = Just(Value::Unknown("too few samples"));
    let interval = (number(), number(), number());
    let spark = prop::collection::vec(prop::option::of(number()), 0..40);
    match unit {
        Unit::Text => prop_oneof![
            unknown,
            words().prop_map(Value::Text),
            (level(), words()).prop_map(|(level, words)| Value::Level(level, words)),
        ]
        .boxed(),
        Unit::Time => {
            prop_oneof![unknown, any::<i64>().prop_map(|ms| Value::Time(UnixMillis(ms)))].boxed()
        }
        Unit::Spark => spark.prop_map(Value::Spark).boxed(),
        _ => prop_oneof![
            unknown,
            number().prop_map(Value::Number),
            any::<u64>().prop_map(Value::Count),
            interval.prop_map(|(mid, low, high)| Value::Interval { mid, low, high }),
        ]
        .boxed(),
    }
}

fn table(key: &'static str) -> impl Strategy<Value = Table> {
    let columns = prop::collection::vec(unit(), 1..=COLUMNS.len());
    (columns, words()).prop_flat_map(move |(units, title)| {
        let row: Vec<_> = units.iter().map(value).collect();
        let columns: Vec<Column> = units
            .into_iter()
            .zip(COLUMNS)
            .enumerate()
            .map(|(ix, (unit, key))| Column {
                key,
                title: NASTY[ix],
                unit,
                is_key: ix == 0,
                definition: NASTY[ix + 4],
            })
            .collect();
        prop::collection::vec(row, 0..40).prop_map(move |rows| Table {
            key,
            title: title.clone(),
            columns: columns.clone(),
            rows,
            empty: "Nothing <b>here</b>.",
        })
    })
}

fn time() -> impl Strategy<Value = UnixMillis> {
    prop_oneof![(0..4_000_000_000_000_i64).prop_map(UnixMillis), any::<i64>().prop_map(UnixMillis)]
}

fn plot() -> impl Strategy<Value = Plot> {
    let stroke = prop_oneof![Just(Stroke::Solid), Just(Stroke::Dashed), Just(Stroke::Dotted)];
    let points = prop::collection::vec((time(), prop::option::of(number())), 0..2000);
    let line =
        (words(), stroke, points).prop_map(|(name, stroke, points)| Line { name, stroke, points });
    let lines = (
        (time(), time()),
        prop::collection::vec(line, 0..4),
        prop::collection::vec((time(), number(), number()), 0..30),
        prop::option::of((number(), words())),
    );
    let stretch =
        (time(), time(), level()).prop_map(|(from, to, level)| Stretch { from, to, level });
    let rows = prop::collection::vec((words(), prop::collection::vec(stretch, 0..30)), 0..6);
    prop_oneof![
        lines.prop_map(|((from, to), lines, band, limit)| Plot::Lines {
            from,
            to,
            lines,
            band,
            limit
        }),
        prop::collection::vec((words(), number()), 0..12).prop_map(Plot::Bars),
        (time(), time(), rows).prop_map(|(from, to, rows)| Plot::Spans { from, to, rows }),
    ]
}

fn chart() -> impl Strategy<Value = Chart> {
    (words(), words(), words(), unit(), plot()).prop_map(|(key, title, words, unit, plot)| Chart {
        key,
        title,
        words,
        unit,
        plot,
    })
}

fn report() -> impl Strategy<Value = Report> {
    let tables = (table(TABLES[0]), table(TABLES[1]), table(TABLES[2]));
    let findings = prop::collection::vec(
        (level(), words()).prop_map(|(level, text)| Finding { level, text }),
        0..5,
    );
    let texts = (words(), words(), prop::collection::vec(words(), 0..4));
    (tables, prop::collection::vec(chart(), 0..3), findings, texts, (time(), time(), time()))
        .prop_map(|((one, two, three), charts, findings, (title, scope, caveats), times)| {
            let charts = charts.into_iter().map(Block::Chart).collect();
            let section = |key, blocks| Section {
                key,
                title: title.clone(),
                text: vec![scope.clone()],
                blocks,
            };
            Report {
                kind: Kind::Capacity,
                title: title.clone(),
                scope: scope.clone(),
                from: times.0,
                to: times.1,
                made_at: times.2,
                caveats,
                findings,
                sections: vec![
                    section("a", vec![Block::Table(one), Block::Table(two)]),
                    section("b", charts),
                    section("c", vec![Block::Table(three)]),
                ],
            }
        })
}

/// Cells of CSV, a line each; the reverse of the writer, written anew.
fn parsed(csv: &str) -> Vec<Vec<String>> {
    let (mut lines, mut cell, mut is_quoted) = (vec![Vec::new()], String::new(), false);
    let mut chars = csv.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => lines.last_mut().unwrap().push(std::mem::take(&mut cell)),
            '\n' if !is_quoted => {
                lines.last_mut().unwrap().push(std::mem::take(&mut cell));
                lines.push(Vec::new());
            }
            c => cell.push(c),
        }
    }
    lines.pop();
    lines
}

/// All that stands in `value="..."`, in order, of table cells.
fn html_values(html: &str) -> Vec<String> {
    let cells = html.split("<td").skip(1).chain(html.split("<th scope=\"row\"").skip(1));
    let of = |cell: &str| {
        let cell = cell.split("</t").next().unwrap_or_default();
        let value = cell.split("<data value=\"").nth(1)?;
        value.split('"').next().map(str::to_owned)
    };
    let mut values: Vec<String> = cells.filter_map(of).collect();
    values.sort();
    values
}

/// The numbers of a value as programs read them.
fn numbers(value: &Value) -> Vec<String> {
    let number = |number: &f64| exact(*number).unwrap_or_default();
    match value {
        Value::Number(one) => vec![number(one)],
        Value::Count(n) => vec![n.to_string()],
        Value::Interval { mid, low, high } => vec![number(mid), number(low), number(high)],
        _ => Vec::new(),
    }
}

/// The numbers of JSON, `null` as empty text.
fn json_numbers(value: &Json) -> Vec<String> {
    let number = |value: &Json| match value {
        Json::Number(n) if n.is_f64() => exact(n.as_f64().unwrap()).unwrap(),
        Json::Number(n) => n.to_string(),
        _ => String::new(),
    };
    match value {
        Json::Object(of) if of.contains_key("mid") => {
            ["mid", "low", "high"].map(|key| number(&of[key])).to_vec()
        }
        value => vec![number(value)],
    }
}

fn same_numbers(report: &Report) {
    let json = json(report);
    let page = html(report, &HtmlOptions::default());
    let words = text(report, 120);
    let mut in_page = Vec::new();
    for table in report.tables() {
        let wide = csv_table(report, table.key).unwrap();
        let wide = parsed(&wide);
        assert_eq!(wide.len(), table.rows.len() + 1);
        for (n, row) in table.rows.iter().enumerate() {
            for (column, value) in table.columns.iter().zip(row) {
                let expected = numbers(value);
                if expected.is_empty() {
                    continue;
                }
                let said = &json["tables"][table.key][n][column.key];
                assert_eq!(json_numbers(said), expected, "JSON of {value:?}");
                let at = wide[0].iter().position(|name| name == column.key).unwrap();
                assert_eq!(wide[n + 1][at..at + expected.len()], expected, "CSV of {value:?}");
                in_page.push(expected.join(";"));
                let words_of = shown(value, &column.unit);
                let first = words_of.split(' ').next().unwrap();
                assert!(words.contains(first), "text of {value:?}: no {first}\n{words}");
            }
        }
    }
    in_page.sort();
    assert_eq!(html_values(&page), in_page, "HTML");
    let long = parsed(&csv(report));
    for line in &long {
        assert_eq!(line.len(), 6, "{line:?}");
    }
    let n_figures = |table: &&Table| {
        let width = |ix: usize| {
            let is_wide = |row: &Vec<Value>| matches!(row[ix], Value::Interval { .. });
            if table.rows.iter().any(is_wide) { 3 } else { 1 }
        };
        let per_row: usize =
            (0..table.columns.len()).filter(|ix| !table.columns[*ix].is_key).map(width).sum();
        per_row * table.rows.len()
    };
    let n = report.tables().map(|table| n_figures(&table)).sum::<usize>();
    assert_eq!(long.iter().skip(1).filter(|line| line[0] != "report").count(), n);
}

fn does_no_harm(report: &Report) {
    let mail = HtmlOptions { medium: Medium::Mail, link: Some("https://x/\"><script>".into()) };
    for page in [html(report, &HtmlOptions::default()), html(report, &mail)] {
        let lower = page.to_lowercase();
        for part in ["<script", "<img", "<iframe", "javascript:", " onerror=", " onmouseover="] {
            let is_quoted = part.starts_with(' ') || part.ends_with(':');
            assert!(is_quoted || !lower.contains(part), "{part} in {page}");
        }
        let (style, rest) = page.split_once("</style>").unwrap();
        assert!(!rest.to_lowercase().contains("<style") && style.matches("<style").count() == 1);
        assert!(!page.contains(['\u{1b}', '\u{7}', '\u{202e}', '\r']), "control characters");
        assert!(!page.contains("src=x>") && !page.contains("<b>here"), "markup of strangers");
        for tag in page.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap_or_default();
            assert!(
                !tag.contains("alert(1)")
                    || tag.contains("title=\"")
                    || tag.contains("aria-label=\"")
                    || tag.contains("data-l=\""),
                "{tag}"
            );
        }
    }
    let words = text(report, 80);
    assert!(!words.contains(['\u{1b}', '\u{7}', '\u{202e}', '\r', '\u{9b}']), "{words}");
    let tables = report.tables().filter_map(|table| csv_table(report, table.key));
    for csv in tables.chain([csv(report)]) {
        for cell in parsed(&csv).into_iter().flatten() {
            let is_number = cell.parse::<f64>().is_ok();
            let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '＝']);
            assert!(is_number || !is_formula, "{cell:?} is a formula");
            assert!(!cell.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{cell:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_number_is_the_same_in_all_formats_and_no_text_does_harm(report in report()) {
        same_numbers(&report);
        does_no_harm(&report);
    }
}

#[test]
fn the_sample_reports_say_the_same_in_all_formats() {
    for report in [sample::capacity(12), sample::outage(), sample::noise_makers()] {
        same_numbers(&report);
        does_no_harm(&report);
    }
}

#[test]
fn a_page_fetches_and_runs_nothing() {
    let page = html(&sample::capacity(3), &HtmlOptions::default());
    for part in ["http:", "https:", "src=", "<script", "<link", "@import", "url("] {
        let page = page.replace("http-equiv", "").replace("'unsafe-inline'", "");
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_terminal_line_is_no_wider_than_the_terminal() {
    for width in [60, 80, 120] {
        for report in [sample::capacity(12), sample::outage(), sample::noise_makers()] {
            for line in text(&report, width).lines() {
                let n = line.chars().count();
                assert!(n <= width, "{n} of {width}: {line}");
            }
        }
    }
}

#[test]
fn what_is_not_known_says_why_and_is_null() {
    let report = sample::capacity(12);
    assert!(json(&report)["tables"]["plan_advice"][1]["to_plan"].is_null());
    let told = format!("{NOT_KNOWN} means not known: no other plan is advised (9×).");
    assert!(text(&report, 100).contains(&told));
    assert!(html(&report, &HtmlOptions::default()).contains(&told));
    assert!(csv(&report).contains("plan_advice,web-07,to_plan,,text,"));
}

#[test]
fn a_table_without_rows_says_so_in_every_format() {
    let report = sample::capacity(1);
    let words = "No pool was seen on these servers.";
    assert!(text(&report, 100).contains(words));
    assert!(html(&report, &HtmlOptions::default()).contains(words));
    assert_eq!(json(&report)["tables"]["pools"], serde_json::json!([]));
    assert_eq!(csv_table(&report, "pools").as_deref(), Some("pool\n"));
    assert_eq!(csv_table(&report, "nothing of this name"), None);
}
