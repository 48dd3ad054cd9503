//! The slow lane: a site that fails too little to wake anybody, for so long that it matters.
//!
//! A site has this state only while it failed within the last six hours: 73 cells of five minutes
//! at most, and of the clients only about how many there were. Seconds inside an incident are no part of
//! it, so an outage that is over leaves no slow burn behind.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::site::Totals;

/// Length of a cell, seconds.
const CELL_S: i64 = 300;
/// Cells kept behind the newest one: the longest window.
const CELLS: i64 = 72;
/// Failures and clients of the long window below which a ratio says nothing.
const FAILED_MIN: u64 = 50;
const CLIENTS_MIN: u32 = 10;
/// Longest text of an error line kept, bytes.
const TEXT_BYTES_MAX: usize = 400;

/// A pair of windows over which the error budget burns too fast: both must show it, the short one
/// so that what is over does not open, or keep open.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Long window, seconds.
    pub long_s: i64,
    /// Short window, seconds.
    pub short_s: i64,
    /// How many times too fast.
    pub times: f64,
}

impl Rule {
    /// The share of requests that must fail, of a site that owes its visitors `slo`.
    #[must_use]
    pub fn limit(&self, slo: f64) -> f64 {
        self.times * (1.0 - slo)
    }
}

/// Multiwindow, multi-burn-rate alerts (The Site Reliability Workbook, chapter 5): 2 % of the budget
/// of 30 days in an hour, 5 % in six hours.
pub const RULES: [Rule; 2] = [
    Rule { long_s: 3600, short_s: 300, times: 14.4 },
    Rule { long_s: 21_600, short_s: 1800, times: 6.0 },
];

/// Five minutes of one site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cell {
    /// Number since the epoch.
    at: i64,
    n: u32,
    /// 502, 503, 504.
    failed: [u32; 3],
    /// Second of the first failure.
    first: Option<i64>,
    /// Which of 64 bins the clients of its failures fell into: two may share one, so there are never
    /// more bins than clients.
    clients: u64,
}

impl Cell {
    fn n_failed(&self) -> u64 {
        self.failed.iter().map(|n| u64::from(*n)).sum()
    }
}

/// Failures of one site of the last six hours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Burn {
    /// Oldest first.
    cells: VecDeque<Cell>,
    /// First second counted: of what was before only the norm is known.
    began: i64,
    /// Second of the newest failure.
    last_failed: i64,
    /// Everything counted since `began`.
    totals: Totals,
    /// Newest error line: when, corrected, ms, and what it says.
    line: Option<(i64, String)>,
}

/// A site that burns.
#[derive(Clone, Debug, PartialEq)]
pub struct Burning {
    /// By which rule.
    pub rule: Rule,
    /// Requests in its long window, those before the first failure as the norm has them.
    pub n: f64,
    /// Failures among them.
    pub n_failed: u64,
    /// All counted in the long window.
    pub totals: Totals,
    /// Second of the first failure in it.
    pub first: i64,
}

#[derive(Default)]
struct Window {
    n: f64,
    totals: Totals,
    first: Option<i64>,
    clients: u64,
}

impl Burn {
    /// A site that fails in this second, for the first time in six hours.
    #[must_use]
    pub fn new(second: i64) -> Self {
        let totals = Totals::default();
        Self { cells: VecDeque::new(), began: second, last_failed: second, totals, line: None }
    }

    /// Adds counts of one second, corrected.
    pub fn fold(&mut self, second: i64, counts: Totals) {
        self.totals.add(counts);
        let failed = [counts.n_502, counts.n_503, counts.n_504];
        if counts.failed() > 0 {
            self.last_failed = self.last_failed.max(second);
        }
        let Some(cell) = self.cell(second) else { return };
        let add =
            |to: &mut u32, n: u64| *to = to.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        add(&mut cell.n, counts.n.max(counts.failed()));
        for (to, n) in cell.failed.iter_mut().zip(failed) {
            add(to, n);
        }
        if counts.failed() > 0 {
            cell.first = Some(cell.first.map_or(second, |first| first.min(second)));
        }
    }

    /// Adds the client of one failure; 0: nobody knows it, and a second stands for one.
    pub fn fold_client(&mut self, second: i64, client: u64) {
        let who = if client == 0 { second.cast_unsigned() } else { client };
        let bin = who.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        if let Some(cell) = self.cell(second) {
            cell.clients |= 1 << bin;
        }
    }

    /// Keeps an error line for whoever asks why.
    pub fn fold_line(&mut self, at: i64, text: &str) {
        if text.is_empty() || self.line.as_ref().is_some_and(|(newest, _)| *newest > at) {
            return;
        }
        self.line = Some((at, text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()));
    }

    /// The cell of a second; `None` when that is too old to be in any window.
    fn cell(&mut self, second: i64) -> Option<&mut Cell> {
        let at = second.div_euclid(CELL_S);
        let newest = self.cells.back().map_or(at, |cell| cell.at).max(at);
        while self.cells.front().is_some_and(|cell| cell.at < newest - CELLS) {
            self.cells.pop_front();
        }
        if at < newest - CELLS {
            return None;
        }
        let place = self.cells.partition_point(|cell| cell.at < at);
        if self.cells.get(place).is_none_or(|cell| cell.at != at) {
            self.cells.insert(place, Cell { at, ..Cell::default() });
        }
        self.began = self.began.min(second);
        self.cells.get_mut(place)
    }

    /// Whether no window holds a failure any more at this second.
    #[must_use]
    pub fn is_over(&self, second: i64) -> bool {
        second - self.last_failed > (CELLS + 1) * CELL_S
    }

    /// What failed since `from` belongs to an incident of its own.
    pub fn forget_since(&mut self, from: i64) {
        let from = from.div_euclid(CELL_S);
        for cell in self.cells.iter_mut().rev().take_while(|cell| cell.at >= from) {
            *cell = Cell { at: cell.at, ..Cell::default() };
        }
    }

    /// Second of the newest failure.
    #[must_use]
    pub fn last_failed(&self) -> i64 {
        self.last_failed
    }

    /// Everything counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The newest error line: when, ms, and its text.
    #[must_use]
    pub fn line(&self) -> Option<(i64, &str)> {
        self.line.as_ref().map(|(at, text)| (*at, text.as_str()))
    }

    /// Whether the budget of `slo` (0.999: one failure in a thousand) burns too fast at `second`, up
    /// to which everything is known. `rate` is what is normal, requests a second: it stands for what
    /// was before the first failure.
    #[must_use]
    pub fn judge(&self, second: i64, slo: f64, rate: f64) -> Option<Burning> {
        RULES.iter().find_map(|rule| {
            let long = self.window(second, rule.long_s, rate);
            let n_failed = long.totals.failed();
            let enough = n_failed >= FAILED_MIN && long.clients.count_ones() >= CLIENTS_MIN;
            let limit = rule.limit(slo);
            let over = |window: &Window| window.totals.failed() as f64 > limit * window.n;
            let burns = enough && over(&long) && over(&self.window(second, rule.short_s, rate));
            burns.then(|| Burning {
                rule: *rule,
                n: long.n,
                n_failed,
                totals: long.totals,
                first: long.first.unwrap_or(second),
            })
        })
    }

    /// The cells that reach into the last `span_s` seconds.
    fn window(&self, second: i64, span_s: i64, rate: f64) -> Window {
        let from = second - span_s;
        let mut window = Window::default();
        for cell in
            self.cells.iter().filter(|c| (c.at + 1) * CELL_S > from && c.at * CELL_S <= second)
        {
            window.totals.n += u64::from(cell.n);
            window.totals.n_502 += u64::from(cell.failed[0]);
            window.totals.n_503 += u64::from(cell.failed[1]);
            window.totals.n_504 += u64::from(cell.failed[2]);
            window.clients |= cell.clients;
            if cell.n_failed() > 0 {
                window.first = window.first.or(cell.first);
            }
        }
        let unseen = (self.began - from).clamp(0, span_s) as f64 * rate;
        window.n = window.totals.n as f64 + unseen;
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: f64 = 0.999;

    /// A site with `rate` requests a second, of which one in `one_in` fails, for so many seconds.
    fn steady(rate: u64, one_in: u64, clients: u64, seconds: i64) -> Burn {
        let (mut burn, mut n) = (Burn::new(0), 0);
        for second in 0..seconds {
            let mut counts = Totals { n: rate, ..Totals::default() };
            for _ in 0..rate {
                n += 1;
                if n % one_in == 0 {
                    counts.n_502 += 1;
                    burn.fold_client(second, 1 + (n / one_in) % clients * 77);
                }
            }
            burn.fold(second, counts);
        }
        burn
    }

    #[test]
    fn both_windows_of_a_rule_must_burn_with_enough_failures_of_enough_clients() {
        const HOUR: i64 = 3600;
        // Requests a second, one of how many fails, clients, seconds, looked at so much later.
        for (rate, one_in, clients, seconds, later, want) in [
            (2, 50, 400, HOUR, 0, Some(3600)),       // 2 %
            (2, 80, 400, HOUR, 0, None),             // 1.25 % is less than 14.4 times 0.1 %
            (2, 80, 400, 6 * HOUR, 0, Some(21_600)), // but more than 6 times
            (2, 200, 400, 6 * HOUR, 0, None),        // 0.5 %
            (2, 50, 9, HOUR, 0, None),               // nine clients
            (2, 50, 16, HOUR, 0, Some(3600)),
            (1, 75, 400, HOUR, 0, None),   // 48 failures
            (2, 50, 400, HOUR, 700, None), // it has stopped
            (2, 50, 400, HOUR, 8 * HOUR, None),
        ] {
            let burn = steady(rate, one_in, clients, seconds);
            let found = burn.judge(seconds - 1 + later, SLO, rate as f64).map(|b| b.rule.long_s);
            assert_eq!(
                found, want,
                "{rate}/s, 1 in {one_in} of {clients} clients, {seconds} s, {later} s"
            );
        }
    }

    #[test]
    fn requests_before_the_first_failure_are_taken_from_the_norm() {
        // Ten minutes of 5 %: 0.8 % of an hour whose first 50 minutes had none.
        let burn = steady(2, 20, 400, 600);
        assert_eq!(burn.judge(599, SLO, 2.0), None);
        let alone = burn.judge(599, SLO, 0.0).expect("without a norm only what was counted counts");
        assert_eq!((alone.n_failed, alone.n, alone.first), (60, 1200.0, 9));
    }

    #[test]
    fn a_burn_stays_small_however_long_it_lasts_and_whatever_times_it_is_given() {
        let mut burn = steady(2, 50, 400, 100_000);
        assert!(burn.cells.len() as i64 <= CELLS + 1);
        for second in [i64::MIN / 4, 0, 5, 99_999, 100_300] {
            burn.fold(second, Totals { n: 1, n_502: 1, ..Totals::default() });
            burn.fold_client(second, 9);
        }
        assert!(
            burn.cells.len() as i64 <= CELLS + 1
                && burn.began >= 100_300 - (CELLS + 1) * CELL_S - 100_000
        );
        let before = burn.judge(100_300, SLO, 2.0);
        let saved = serde_json::to_vec(&burn).unwrap();
        assert_eq!(
            serde_json::from_slice::<Burn>(&saved).unwrap().judge(100_300, SLO, 2.0),
            before
        );
        assert!(!burn.is_over(100_300 + 21_600) && burn.is_over(100_300 + 22_000));
    }

    #[test]
    fn what_failed_in_an_outage_is_forgotten() {
        let mut burn = steady(2, 2, 400, 3600);
        burn.forget_since(0);
        assert_eq!(burn.judge(3600, SLO, 2.0), None);
    }
}
