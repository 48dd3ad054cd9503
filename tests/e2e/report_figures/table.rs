//! Tables of a report as JSON has them, and the comparison with what they must say.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::truth::{Minutes, Want};

/// Everything that was found wrong: one table does not hide the next.
#[derive(Debug, Default)]
pub(super) struct Wrong(Vec<String>);

impl Wrong {
    /// Looks at something, of which it returns how many figures were compared; none where it is wrong.
    pub(super) fn look(&mut self, at: &str, compare: impl FnOnce() -> usize) -> usize {
        let words = |why: Box<dyn Any + Send>| match why.downcast::<String>() {
            Ok(why) => *why,
            Err(why) => {
                why.downcast_ref::<&str>().map_or_else(String::new, |why| (*why).to_owned())
            }
        };
        match catch_unwind(AssertUnwindSafe(compare)) {
            Ok(n) => n,
            Err(why) => {
                self.0.push(format!("{at}: {}", words(why)));
                0
            }
        }
    }

    /// All of it was right.
    pub(super) fn none(self) {
        assert!(self.0.is_empty(), "{} are wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// A table of a report.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) key: String,
    pub(super) rows: Vec<Value>,
    /// Its columns, all defined.
    pub(super) columns: BTreeSet<String>,
}

/// What a row must say.
#[derive(Debug)]
pub(super) struct Row {
    keys: Vec<(String, String)>,
    cells: BTreeMap<String, Want>,
}

impl Row {
    /// A row about this.
    pub(super) fn new(keys: &[(&str, &str)]) -> Self {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Self { keys: keys.iter().map(owned).collect(), cells: BTreeMap::new() }
    }

    /// A column of it.
    pub(super) fn put(&mut self, column: &str, want: Want) {
        let before = self.cells.insert(column.to_owned(), want);
        assert_eq!(before, None, "{column} is wanted twice");
    }

    /// The columns of p50, p95, p99 and the largest.
    pub(super) fn percentiles(&mut self, columns: [&str; 4], minutes: &Minutes) {
        for (column, q) in columns.into_iter().zip([0.5, 0.95, 0.99]) {
            self.put(column, minutes.quantile(q));
        }
        self.put(columns[3], minutes.max());
    }

    fn is(&self, told: &Value) -> bool {
        self.keys.iter().all(|(key, value)| told[key].as_str() == Some(value))
    }
}

/// All tables of a report by key.
pub(super) fn tables(report: &Value) -> Vec<(String, Table)> {
    let tables = report["tables"].as_object().expect("a report has tables");
    let one = |(key, rows): (&String, &Value)| {
        let defined = report["definitions"][key].as_object().expect("every table is defined");
        for (column, said) in defined {
            let words = said["definition"].as_str().unwrap_or_default();
            assert!(words.len() > 4, "{key}.{column} has no definition: {said}");
        }
        let columns: BTreeSet<String> = defined.keys().cloned().collect();
        let rows = rows.as_array().expect("rows").clone();
        for row in &rows {
            let told: BTreeSet<String> =
                row.as_object().expect("an object").keys().cloned().collect();
            assert_eq!(told, columns, "columns of {key}");
        }
        (key.clone(), Table { key: key.clone(), rows, columns })
    };
    tables.iter().map(one).collect()
}

impl Table {
    /// Compares every cell; `elsewhere` are columns that something else compares. A column that nobody
    /// computes fails, and so does a row too many or too few. Returns how many figures were compared.
    pub(super) fn check(&self, want: &[Row], elsewhere: &[&str]) -> usize {
        let key = &self.key;
        let mut n = 0;
        let mut wrong = Vec::new();
        for told in &self.rows {
            let mut same = want.iter().filter(|row| row.is(told));
            let Some(row) = same.next() else {
                wrong.push(format!("nothing was sent of {told}"));
                continue;
            };
            assert!(same.next().is_none(), "{key}: two rows are wanted like {:?}", row.keys);
            for column in &self.columns {
                if elsewhere.contains(&column.as_str())
                    || row.keys.iter().any(|(key, _)| key == column)
                {
                    continue;
                }
                let Some(want) = row.cells.get(column) else {
                    wrong.push(format!("nobody computes {key}.{column} anew: add it to this test"));
                    continue;
                };
                n += 1;
                if !want.holds(&told[column]) {
                    let told = &told[column];
                    wrong.push(format!("{:?} {column} is {told}, wanted {want:?}", row.keys));
                }
            }
        }
        let missing = want.iter().filter(|row| !self.rows.iter().any(|told| row.is(told)));
        wrong.extend(missing.map(|row| format!("no row of {:?}", row.keys)));
        let n_wrong = wrong.len();
        wrong.truncate(30);
        assert!(wrong.is_empty(), "{key}: {n_wrong} wrong:\n{}", wrong.join("\n"));
        n
    }
}
