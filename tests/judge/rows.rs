//! The table: each row of the targets, what was measured, and the floor CI holds.

use std::fmt::Write as _;

use crate::score::{Score, quantile, share};

pub(crate) struct Table {
    pub(crate) text: String,
    /// Rows below their floor.
    pub(crate) below: Vec<&'static str>,
}

struct Row {
    name: &'static str,
    what: &'static str,
    measured: f64,
    target: Bound,
    floor: Bound,
}

/// A figure to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Shown, and held by nothing.
    Free,
}

impl Bound {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(bound) => measured >= bound,
            Self::AtMost(bound) => measured <= bound,
            Self::Free => true,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound}"),
            Self::AtMost(bound) => format!("<= {bound}"),
            Self::Free => "-".to_owned(),
        }
    }
}

use Bound::{AtLeast, AtMost, Free};

fn rows(score: &Score) -> Vec<Row> {
    let row = |name, what, measured, target, floor| Row { name, what, measured, target, floor };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let per_year = |n: usize| n as f64 / score.server_years.max(f64::MIN_POSITIVE);
    let s = score;
    let first = share(s.n_cause_first, s.n_caused);
    let first_two = share(s.n_cause_second, s.n_caused);
    vec![
        row("D1", "scope and members exact, F1", s.scope_f1(), AtLeast(0.96), AtLeast(0.97)),
        row("D1s", "set of failing sites, mean F1", mean(&s.site_f1), Free, AtLeast(0.97)),
        row("D2r", "outages found", s.recall(), AtLeast(0.98), AtLeast(0.98)),
        row("D2p", "incidents that are real", s.precision(), AtLeast(0.98), AtLeast(0.98)),
        row("D3a", "cause, first guess", first, AtLeast(0.90), AtLeast(0.97)),
        row("D3b", "cause, first two", first_two, AtLeast(0.98), AtLeast(0.98)),
        row("D3c", "change named", share(s.n_change_named, s.n_changed), Free, AtLeast(0.98)),
        row(
            "D4m",
            "third failing request to open, median s",
            quantile(&s.delays_s, 0.5),
            AtMost(1.0),
            AtMost(1.4),
        ),
        row("D4p", "the same, p95 s", quantile(&s.delays_s, 0.95), AtMost(4.0), AtMost(6.6)),
        row(
            "D4c",
            "from the third failing client, p95 s",
            quantile(&s.client_delays_s, 0.95),
            Free,
            AtMost(6.6),
        ),
        row(
            "D4s",
            "server scope exact, p95 s",
            quantile(&s.server_delays_s, 0.95),
            AtMost(5.0),
            AtMost(5.0),
        ),
        row(
            "D5s",
            "false site incidents a server-year",
            per_year(s.n_false_site),
            AtMost(0.5),
            AtMost(0.5),
        ),
        row("D5w", "false wider incidents", s.n_false_wide as f64, AtMost(0.0), AtMost(0.0)),
        row(
            "D6d",
            "further incidents an outage",
            share(s.n_duplicates, s.n_outages),
            AtMost(0.02),
            AtMost(0.01),
        ),
        row("D6t", "twins after a restart", s.n_twins as f64, AtMost(0.0), AtMost(0.0)),
        row(
            "D6f",
            "flapping keeps one id",
            share(s.n_flapping_one_id, s.n_flapping),
            AtLeast(1.0),
            AtLeast(1.0),
        ),
        row("D7", "pages for 2,000 sites and more", pages(s), AtMost(1.0), AtMost(1.0)),
    ]
}

/// No such outage, or none found, is no success.
fn pages(score: &Score) -> f64 {
    if score.pages_max == 0 { f64::INFINITY } else { score.pages_max as f64 }
}

/// The table as people read it.
pub(crate) fn table(score: &Score) -> Table {
    let mut text = String::new();
    let mut below = Vec::new();
    let head = ["row", "what", "measured", "target", "floor", ""];
    line(&mut text, head);
    for Row { name, what, measured, target, floor } in rows(score) {
        let verdict = match (floor.holds(measured), target.holds(measured)) {
            (false, _) => "BELOW THE FLOOR",
            (true, true) => "met",
            (true, false) => "not met",
        };
        if !floor.holds(measured) {
            below.push(name);
        }
        let shown = format!("{measured:.3}");
        line(&mut text, [name, what, &shown, &target.text(), &floor.text(), verdict]);
    }
    Table { text, below }
}

fn line(text: &mut String, [name, what, measured, target, floor, verdict]: [&str; 6]) {
    writeln!(text, "{name:<5}{what:<42}{measured:>10}  {target:<9}{floor:<9}{verdict}")
        .expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_nothing_is_below_every_floor_that_asks_for_something() {
        let below = table(&Score::default()).below;
        for row in ["D1", "D1s", "D2r", "D2p", "D3a", "D4m", "D4p", "D4s", "D6f", "D7"] {
            assert!(below.contains(&row), "{row} holds of nothing");
        }
    }

    #[test]
    fn the_table_says_what_meets_its_target() {
        let score = Score { n_outages: 2, n_found: 2, ..Score::default() };
        let table = table(&score);
        let found = table.text.lines().find(|line| line.starts_with("D2r")).unwrap();
        assert!(found.ends_with("met") && found.contains("1.000"));
    }
}
