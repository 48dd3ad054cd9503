//! One report in four formats: every number of every table is the same in all of them.
//!
//! CSV and the page have each number whole, in its place; what people read of it, on the page and in the
//! text, must be that number to the digits that are written.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table::{self, Table};

/// A number on the page.
struct Cell {
    /// Headline of its column.
    title: String,
    /// One number, or likeliest, low and high.
    whole: Vec<f64>,
    words: String,
}

/// Compares the numbers of a report in JSON with those of the other formats; returns how many there are.
pub(super) fn same(told: &Value, [csv, html, text]: [&str; 3]) -> usize {
    let in_csv = csv_numbers(csv);
    let mut in_text = BTreeMap::<&str, usize>::new();
    for cell in text.lines().flat_map(|line| line.split("  ")) {
        *in_text.entry(cell.trim()).or_default() += 1;
    }
    let mut wanted = BTreeMap::<String, usize>::new();
    let mut n = 0;
    for (key, table) in table::tables(told) {
        n += same_csv(&key, &table, &in_csv);
        for (cell, unit) in same_page(told, &key, &table, html) {
            for (number, (read, off)) in cell.whole.iter().zip(read_all(&cell.words, &unit)) {
                let off = off + 1e-9 * number.abs();
                assert!((number - read).abs() <= off, "{key}: {number} is shown as {}", cell.words);
            }
            *wanted.entry(cell.words).or_default() += 1;
        }
    }
    for (words, n_wanted) in wanted {
        let n = in_text.get(words.as_str()).copied().unwrap_or(0);
        assert!(n >= n_wanted, "the text has {words:?} {n} times, the page {n_wanted} times");
    }
    n
}

/// A number of JSON, or the three of an interval; of anything else none.
fn numbers(value: &Value) -> Vec<f64> {
    match value.as_f64() {
        Some(number) => vec![number],
        None => ["mid", "low", "high"].iter().filter_map(|key| value[*key].as_f64()).collect(),
    }
}

/// By table and figure the numbers from its first to its last row.
fn csv_numbers(csv: &str) -> BTreeMap<(String, String), Vec<f64>> {
    let mut found: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for line in csv.lines().skip(1) {
        let cells = csv_cells(line);
        assert_eq!(cells.len(), 6, "{line}");
        let of = found.entry((cells[0].clone(), cells[2].clone())).or_default();
        of.extend(cells[3].parse::<f64>());
    }
    found
}

fn same_csv(key: &str, table: &Table, csv: &BTreeMap<(String, String), Vec<f64>>) -> usize {
    let mut n = 0;
    for column in &table.columns {
        let rows: Vec<Vec<f64>> = table.rows.iter().map(|row| numbers(&row[column])).collect();
        for (ix, ending) in ["", "_low", "_high"].iter().enumerate() {
            let want: Vec<f64> = rows.iter().filter_map(|all| all.get(ix)).copied().collect();
            let of = (key.to_owned(), format!("{column}{ending}"));
            // A key is part of the subject; words may look like numbers.
            let Some(found) = csv.get(&of).filter(|_| !want.is_empty()) else { continue };
            assert_eq!(*found, want, "{key}.{column}{ending} in CSV");
            n += want.len();
        }
    }
    n
}

/// The numbers of a table on the page, each in the row and column in which JSON has it, with its unit.
fn same_page(told: &Value, key: &str, table: &Table, html: &str) -> Vec<(Cell, String)> {
    let rows = page_rows(key, html);
    assert_eq!(rows.len(), table.rows.len(), "rows of {key} on the page");
    let mut found = Vec::new();
    for (row, mut cells) in table.rows.iter().zip(rows) {
        for column in &table.columns {
            let whole = numbers(&row[column]);
            if whole.is_empty() {
                continue;
            }
            let defined = &told["definitions"][key][column];
            let is_it = |cell: &Cell| defined["title"] == cell.title && cell.whole == whole;
            let at = cells.iter().position(is_it);
            let at = at.unwrap_or_else(|| panic!("the page has no {whole:?} {column} of {row}"));
            let unit = defined["unit"].as_str().expect("every column has a unit");
            found.push((cells.swap_remove(at), unit.to_owned()));
        }
        let left = cells.first().map(|cell| &cell.words);
        assert_eq!(left, None, "the page has a number more in a row of {key}: {row}");
    }
    found
}

/// The cells with numbers of each row of a table.
fn page_rows(key: &str, html: &str) -> Vec<Vec<Cell>> {
    let start = format!("id=\"t-{key}\">");
    let after = html.split(&start).nth(1).unwrap_or_else(|| panic!("the page has no table {key}"));
    let body = after.split("<div class=\"table").next().unwrap_or_default();
    let body = body.split("</table>").next().unwrap_or_default();
    let Some(body) = body.split("<tbody>").nth(1) else { return Vec::new() };
    let is_row = |row: &&str| !row.starts_with(" class=\"below\"");
    body.split("<tr").skip(1).filter(is_row).map(page_cells).collect()
}

fn page_cells(row: &str) -> Vec<Cell> {
    let cells = row.split(" data-l=\"").skip(1);
    let cell = |cell: &str| {
        let (title, rest) = cell.split_once("\">")?;
        let rest = rest.strip_prefix("<data value=\"")?;
        let (whole, words) = rest.split_once("\">")?;
        let words = words.split("</data>").next()?.replace("<small>", "").replace("</small>", "");
        let whole = whole.split(';').filter_map(|number| number.parse().ok()).collect();
        Some(Cell { title: plain(title), whole, words: plain(&words) })
    };
    cells.filter_map(cell).collect()
}

/// Without what stands for signs of HTML.
fn plain(words: &str) -> String {
    let mut words = words.to_owned();
    for (entity, sign) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'")]
    {
        words = words.replace(entity, sign);
    }
    words.replace("&amp;", "&")
}

/// What is read: one number, or those of `23 d (18 to 31)`, each with what its last digit leaves open.
fn read_all(words: &str, unit: &str) -> Vec<(f64, f64)> {
    let Some((mid, between)) = words.split_once(" (") else { return vec![read(words, unit)] };
    let (low, high) = between.trim_end_matches(')').split_once(" to ").expect("LOW to HIGH");
    let end = |words: &str| match mid.split_once(' ') {
        Some((_, of)) if !words.contains(' ') => read(&format!("{words} {of}"), unit),
        _ => read(words, unit),
    };
    vec![read(mid, unit), end(low), end(high)]
}

/// A number with its unit, and what its last digit leaves open.
fn read(words: &str, unit: &str) -> (f64, f64) {
    if let Some(rest) = words.strip_prefix("< ").or_else(|| words.strip_prefix("> ")) {
        let (value, _) = read(rest, unit);
        return (value, if value.abs() < 0.5 { value.abs() } else { 1.0 - value });
    }
    let mut parts = words.split(' ');
    let (mut value, mut off) = (0.0, 0.0);
    while let Some(number) = parts.next() {
        let factor = match (unit, parts.next().unwrap_or_default()) {
            ("ratio", _) => 0.01,
            (_, "KiB" | "KiB/s") => 1024.0,
            (_, "MiB" | "MiB/s") => 1024.0_f64.powi(2),
            (_, "GiB" | "GiB/s") => 1024.0_f64.powi(3),
            (_, "TiB" | "TiB/s") => 1024.0_f64.powi(4),
            ("s", "ms") => 0.001,
            ("s", "min") => 60.0,
            ("s", "h") => 3600.0,
            ("s", "d") => 86_400.0,
            _ => 1.0,
        };
        let bare = number.replace(',', "");
        let (digits, power) = bare.split_once('e').unwrap_or((&bare, "0"));
        let decimals = digits.split_once('.').map_or(0, |(_, part)| part.len()) as i32;
        let power: i32 = power.parse().unwrap_or_else(|_| panic!("{words:?} is no number"));
        let digits: f64 = digits.parse().unwrap_or_else(|_| panic!("{words:?} is no number"));
        value += digits * 10_f64.powi(power) * factor;
        // Hours are told to the minute, days to the hour.
        let least = match (unit, factor as i64) {
            ("s", 60 | 3600) => factor / 60.0,
            ("s", 86_400) => 3600.0,
            _ => factor * 10_f64.powi(power - decimals),
        };
        // The largest part tells to what it was rounded.
        off = if off == 0.0 { least / 2.0 } else { off };
    }
    (value, off)
}

/// The cells of a line of CSV.
fn csv_cells(line: &str) -> Vec<String> {
    let (mut cells, mut is_quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            c => cells.last_mut().expect("there is one").push(c),
        }
    }
    cells
}

#[test]
fn what_people_read_is_read_back() {
    for (words, unit, value, off) in [
        ("80.1 %", "ratio", 0.801, 0.0005),
        ("3.80 GiB", "By", 3.8 * 1_073_741_824.0, 5_368_709.12),
        ("12 min 4 s", "s", 724.0, 0.5),
        ("2 h 5 min", "s", 7500.0, 30.0),
        ("1,234", "count", 1234.0, 0.5),
        ("1.20e-7", "number", 1.2e-7, 5e-10),
    ] {
        let (read, rest) = read(words, unit);
        assert!((read - value).abs() < 1e-6 * value, "{words}: {read}");
        assert!((rest - off).abs() < 1e-6 * off, "{words}: {rest}");
    }
    let between: Vec<f64> = read_all("23 d (18 to 31)", "d").iter().map(|all| all.0).collect();
    assert_eq!(between, [23.0, 18.0, 31.0]);
}
