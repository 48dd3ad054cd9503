//! One row per figure: what was measured, against what, and whether it is good enough. Pure.

use std::fmt::Write as _;

/// What a figure must keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Told, not judged.
    None,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: String,
    /// What it is compared with.
    pub(crate) reference: String,
    pub(crate) ours: String,
    pub(crate) theirs: String,
    /// The figure that is judged, and its unit: `x` is a ratio of speeds.
    pub(crate) figure: Result<(f64, &'static str), String>,
    pub(crate) target: Target,
}

impl Row {
    /// A row that could not be measured, and why: never left out silently.
    pub(crate) fn missing(id: &'static str, what: &str, reference: &str, why: &str) -> Self {
        Self {
            id,
            what: what.to_owned(),
            reference: reference.to_owned(),
            ours: String::new(),
            theirs: String::new(),
            figure: Err(why.to_owned()),
            target: Target::None,
        }
    }

    /// A figure of ours alone, with an upper bound.
    pub(crate) fn alone(
        id: &'static str,
        what: &str,
        figure: f64,
        unit: &'static str,
        max: f64,
    ) -> Self {
        Self {
            id,
            what: what.to_owned(),
            reference: String::new(),
            ours: number(figure, unit),
            theirs: String::new(),
            figure: Ok((figure, unit)),
            target: Target::AtMost(max),
        }
    }

    /// A figure of ours that is told and not judged.
    pub(crate) fn told(id: &'static str, what: &str, figure: f64, unit: &'static str) -> Self {
        Self { target: Target::None, ..Self::alone(id, what, figure, unit, 0.0) }
    }

    fn verdict(&self) -> &'static str {
        match (&self.figure, self.target) {
            (Err(_), _) => "not measured",
            (_, Target::None) => "",
            (Ok((figure, _)), Target::AtLeast(least)) if *figure >= least => "met",
            (Ok((figure, _)), Target::AtMost(most)) if *figure <= most => "met",
            _ => "NOT met",
        }
    }

    fn cells(&self) -> [String; 8] {
        let unit = self.figure.as_ref().map_or("", |(_, unit)| unit);
        let figure = match &self.figure {
            Ok((figure, "x")) => number(*figure, "x"),
            Ok(_) => String::new(),
            Err(why) => format!("not measured: {why}"),
        };
        let target = match self.target {
            Target::AtLeast(least) => format!(">= {}", number(least, unit)),
            Target::AtMost(most) => format!("<= {}", number(most, unit)),
            Target::None => String::new(),
        };
        let (what, reference) = (self.what.clone(), self.reference.clone());
        let verdict = self.verdict().to_owned();
        let id = self.id.to_owned();
        [id, what, reference, self.ours.clone(), self.theirs.clone(), figure, target, verdict]
    }
}

/// Three significant digits, with the unit.
pub(crate) fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let gap = if unit.is_empty() || unit == "x" { "" } else { " " };
    format!("{value:.digits$}{gap}{unit}")
}

const HEAD: [&str; 8] =
    ["row", "what", "reference", "ours", "reference's", "ratio", "target", "met"];

/// The whole table, as text or as Markdown.
pub(crate) fn render(rows: &[Row], as_markdown: bool) -> String {
    let head = HEAD.map(str::to_owned);
    let all: Vec<[String; 8]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEAD.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for (ix, row) in all.iter().enumerate() {
        let edge = if as_markdown { "| " } else { "" };
        let between = if as_markdown { " | " } else { "  " };
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        let end = if as_markdown { " |" } else { "" };
        let line = format!("{edge}{}{end}", cells.join(between));
        writeln!(out, "{}", line.trim_end()).expect("to a string");
        if ix == 0 && as_markdown {
            writeln!(out, "|{}", "---|".repeat(HEAD.len())).expect("to a string");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_whether_their_target_is_met() {
        let row = |figure, target| Row {
            figure: Ok((figure, "x")),
            target,
            ..Row::missing("A1", "speed", "wc -l", "")
        };
        for (figure, target, want) in [
            (0.5, Target::AtLeast(0.5), "met"),
            (0.49, Target::AtLeast(0.5), "NOT met"),
            (16.0, Target::AtMost(16.0), "met"),
            (16.1, Target::AtMost(16.0), "NOT met"),
            (1.0, Target::None, ""),
        ] {
            assert_eq!(row(figure, target).verdict(), want, "{figure}");
        }
        let table = render(&[row(0.5, Target::AtLeast(0.45))], false);
        assert!(table.contains("0.50x"), "{table}");
        assert!(table.contains(">= 0.45x"), "{table}");
        let missing = render(&[Row::missing("A1", "speed", "mtail", "no mtail")], true);
        assert!(missing.contains("not measured: no mtail"), "{missing}");
    }
}
