//! `localize`: of a file here, of the store by the running collector.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::{Answer, answer, say, text};
use crate::cli::{LocalizeArgs, exit};
use crate::clock;
use crate::localize::csv::{self, CsvError};
use crate::localize::{self, Common, Found};
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
        let Found { common, complete } = localize::localize(&read.table);
        lines(&common, complete, "the file")
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
    super::series::tell_notes(&view.notes);
    let (from, to) = (view.from.to_rfc3339(), view.to.to_rfc3339());
    let what = format!("{} of {} requests failed from {from} to {to}", view.n_failed, view.n);
    Ok(lines(&view.found, view.complete, &what))
}

/// JSON lines; where there are none, why, and exit code 1.
fn lines(found: &[Common], complete: bool, what: &str) -> Answer {
    let mut told = answer(true, found, |_| String::new());
    let cut = "not complete: the search was cut off, there are too many combinations of values";
    let fix = "ask by fewer dimensions with `--by`";
    if !complete {
        told.talk = format!("{cut}; these are the best found until then: {fix}");
    }
    if found.is_empty() {
        told.talk = if complete {
            format!("nothing stands out: {what}; no values have clearly more failures than before")
        } else {
            format!("{cut}; nothing was found until then: {what}: {fix}")
        };
        told.code = exit::NO;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_cut_off_says_so_beside_its_lines() {
        let found = Common {
            values: [("rack".to_owned(), "r7".to_owned())].into(),
            score: 9.5,
            n: 10,
            n_failed: 9,
            explained: 1.0,
        };
        for (found, complete, code, talk) in [
            (std::slice::from_ref(&found), true, exit::GOOD, ""),
            (std::slice::from_ref(&found), false, exit::GOOD, "not complete: "),
            (&[], true, exit::NO, "nothing stands out: "),
            (&[], false, exit::NO, "not complete: "),
        ] {
            let told = lines(found, complete, "the file");
            assert_eq!(told.code, code, "{complete}");
            assert!(told.talk.starts_with(talk), "{}", told.talk);
            assert_eq!(told.talk.is_empty(), talk.is_empty(), "{}", told.talk);
        }
    }
}
