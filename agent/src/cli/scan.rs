//! `scan`: the words of the command line -> what to scan; the report -> stdout, its problems and
//! hints -> stderr.

use std::io::{self, IsTerminal as _, Write as _};

use jiff::tz::TimeZone;
use wire::UnixMillis;

use super::ScanArgs;
use super::commands::{CommandError, EXIT_NO, print};
use crate::triage::{self, Options};
use crate::{clock, config, logs};

/// Scans and prints; the answer is no when a file could not be read to its end.
pub(super) fn scan(args: &ScanArgs) -> Result<u8, CommandError> {
    let options = options(args, clock::now())?;
    let report = triage::scan(&options);
    for remark in report.remarks() {
        tell(&format!("gatewatch-agent: {remark}"));
    }
    let text = if args.json {
        triage::render_json(&report)
    } else {
        triage::render_text(&report, args.top)
    };
    print(text.as_bytes())?;
    if !args.json && io::stderr().is_terminal() {
        for hint in triage::hints(&report) {
            tell(&format!("hint: {hint}"));
        }
    }
    Ok(if report.is_complete() { 0 } else { EXIT_NO })
}

/// Nobody is left to tell when stderr is closed.
fn tell(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

fn options(args: &ScanArgs, now: UnixMillis) -> Result<Options, CommandError> {
    let usage = |what: String| move |fix: String| CommandError::Usage { what, fix };
    logs::parse::check_format(&args.format)
        .map_err(usage(format!("--format {:?} is not known", args.format)))?;
    let zone = match &args.timezone {
        None => TimeZone::system(),
        Some(name) => config::zone(name).ok_or_else(|| CommandError::Usage {
            what: format!("--timezone {name:?} is not known"),
            fix: "write UTC, a name like Europe/Berlin, or a rule like CET-1CEST,M3.5.0,M10.5.0/3"
                .to_owned(),
        })?,
    };
    let when = |flag: &str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let at = triage::parse_when(text, now, &zone);
        at.map(Some).map_err(usage(format!("{flag} {text:?} is no time")))
    };
    let (since, until) = (when("--since", &args.since)?, when("--until", &args.until)?);
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(CommandError::Usage {
            what: format!("--since ({since}) is not before --until ({until})"),
            fix: "nothing lies between them: exchange or change them".to_owned(),
        });
    }
    Ok(Options {
        files: args.files.clone(),
        format: args.format.clone(),
        site: args.site.clone(),
        since,
        until,
        zone,
        now,
        portable: args.portable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn check(words: &[&str], want: &str) {
        let all = ["gatewatch-agent", "scan"].iter().chain(words).chain(&["a.log"]);
        let cli = crate::cli::Cli::try_parse_from(all).unwrap();
        let crate::cli::Command::Scan(args) = cli.command else { panic!("it is scan") };
        let now = UnixMillis::parse_rfc3339("2026-11-20T12:00:00Z").unwrap();
        let got = match options(&args, now) {
            Ok(options) => format!("{:?} {:?}", options.since, options.until),
            Err(error) => format!("{} {error}", error.exit_code()),
        };
        assert!(got.contains(want), "{words:?}: {got}");
    }

    #[test]
    fn wrong_words_are_told_what_to_write() {
        check(&["--since", "1h", "--timezone", "UTC"], "Some(UnixMillis(1795172400000)) None");
        for (words, want) in [
            (&["--since", "soon"][..], "2 --since \"soon\" is no time: write a time like"),
            (&["--until", "99:00"], "2 --until \"99:00\" is no time: write a time like"),
            (&["--timezone", "Mars/Base"], "2 --timezone \"Mars/Base\" is not known: write UTC"),
            (&["--format", "combned"], "2 --format \"combned\" is not known: write auto"),
            (&["--since", "1h", "--until", "2h"], "2 --since (2026-11-20T11:00:00.000Z)"),
        ] {
            check(words, want);
        }
    }
}
