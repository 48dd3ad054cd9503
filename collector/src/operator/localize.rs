//! `localize`: of a file here, of the store by the running collector.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::{Answer, answer, say, text};
use crate::cli::{LocalizeArgs, exit};
use crate::clock;
use crate::localize::csv::{self, CsvError};
use crate::localize::{self, Common};
use crate::web::localize::{LocalizeQuery, LocalizeView};

use super::client::{Client, Failure};

/// Of a CSV file, `-` for standard input; needs no collector. The exit code.
pub fn file(path: &Path, by: &[String]) -> u8 {
    super::tell(read(path, by).map(|read| {
        for (line, why) in &read.told {
            say(&format!("line {line} is left out: {}", text::clean(why)));
        }
        if read.n_refused > 0 {
            say(&format!("{} of {} rows are left out", read.n_refused, read.n_rows));
        }
        lines(&localize::localize(&read.table), "the file")
    }))
}

fn read(path: &Path, by: &[String]) -> Result<csv::Read, Failure> {
    let read = if path == Path::new("-") {
        csv::read(io::stdin().lock(), by)
    } else {
        File::open(path).map_err(CsvError::Io).and_then(|file| csv::read(BufReader::new(file), by))
    };
    read.map_err(|error| {
        let fix = match error {
            CsvError::Io(_) => "name a file that can be read, or `-` for standard input",
            CsvError::TooLarge => "add rows up first, or leave old ones out",
            _ => "see `gatewatch-collector localize --help` for what is read",
        };
        Failure::usage(format!("{}: {error}", path.display()), fix)
    })
}

/// Of what the collector has stored.
pub(super) async fn stored(args: LocalizeArgs, client: &Client) -> Result<Answer, Failure> {
    let now = clock::now();
    let query = LocalizeQuery {
        from: args.from.map(|from| from.at(now).to_rfc3339()),
        to: args.to.map(|to| to.at(now).to_rfc3339()),
        by: (!args.by.is_empty()).then(|| args.by.join(",")),
    };
    let view: LocalizeView = client.get(&["localize"], &query).await?;
    if view.n_batches_unreadable > 0 {
        say(&format!("{} batches cannot be read and are missing here", view.n_batches_unreadable));
    }
    let (from, to) = (view.from.to_rfc3339(), view.to.to_rfc3339());
    let what = format!("{} of {} requests failed from {from} to {to}", view.n_failed, view.n);
    Ok(lines(&view.found, &what))
}

/// JSON lines; where there are none, why, and exit code 1.
fn lines(found: &[Common], what: &str) -> Answer {
    let mut told = answer(true, found, |_| String::new());
    if found.is_empty() {
        told.talk =
            format!("nothing stands out: {what}; no values have clearly more failures than before");
        told.code = exit::NO;
    }
    told
}
