//! What somebody asks for before it is checked, and what is wrong with it. Pure.
//!
//! A report is over whole hours: a time that was given otherwise is widened to them, and that is said.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::UnixMillis;

use super::ask::Ask;
use super::document::Kind;
use super::plans::Catalogue;
use super::settings::Settings;

/// Time a report is over when nothing is said.
pub const SPAN: Duration = Duration::from_secs(30 * 86_400);
/// Longest time of a report.
const SPAN_MAX: Duration = Duration::from_secs(3 * 366 * 86_400);
/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

/// Why there is no such report: what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// What is wrong, on which object.
    pub what: String,
    /// What to do.
    pub fix: String,
    /// Whether something that was named is not there; else what was asked makes no sense.
    pub is_missing: bool,
}

impl Refusal {
    /// What was asked makes no sense.
    pub fn bad(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), is_missing: false }
    }

    /// What was named is not there.
    pub fn missing(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), is_missing: true }
    }
}

/// A report as somebody asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What about.
    pub kind: Kind,
    /// First instant; `None`: 30 days before the end.
    pub from: Option<UnixMillis>,
    /// End; `None`: now.
    pub to: Option<UnixMillis>,
    /// Only this server.
    pub server: Option<String>,
    /// Only servers with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Another objective than that of the settings, 0..1.
    pub slo: Option<f64>,
    /// Other labels to put servers together by; empty: those of the settings.
    pub by: Vec<String>,
    /// Other plans than those of the settings.
    pub plans: Option<Catalogue>,
}

impl Wanted {
    /// A report of this kind over everything, as the settings have it.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            from: None,
            to: None,
            server: None,
            labels: BTreeMap::new(),
            slo: None,
            by: Vec::new(),
            plans: None,
        }
    }

    /// What it means at `now`, and what is to be said about its time.
    pub fn check(&self, now: UnixMillis) -> Result<(Ask, Vec<String>), Refusal> {
        let to = self.to.unwrap_or(now);
        let from = self.from.unwrap_or_else(|| to.minus(SPAN));
        if from >= to {
            let what =
                format!("the report would begin at {from} and end at {to}, before it begins");
            return Err(Refusal::bad(what, "let `from` be before `to`"));
        }
        if from >= now {
            let what = format!("the report would begin at {from}, which is yet to come");
            return Err(Refusal::bad(what, "let `from` be in the past"));
        }
        if to.since(from) > SPAN_MAX {
            let what = format!("{from} to {to} is longer than three years");
            return Err(Refusal::bad(what, "ask for three years at most"));
        }
        let this_hour_ends = whole(now, HOUR_MS - 1);
        let end = whole(to, HOUR_MS - 1).min(this_hour_ends);
        let ask = Ask {
            kind: self.kind,
            from: whole(from, 0),
            to: end,
            server: self.server.clone(),
            labels: self.labels.clone(),
            now,
        };
        Ok((ask, self.said(from, to, end, now)))
    }

    fn said(
        &self,
        from: UnixMillis,
        to: UnixMillis,
        end: UnixMillis,
        now: UnixMillis,
    ) -> Vec<String> {
        let mut said = Vec::new();
        if to > end {
            said.push(format!("What comes after {} is not known yet.", minute(now)));
        }
        let is_begin_moved = self.from.is_some() && whole(from, 0) != from;
        if is_begin_moved || (self.to.is_some() && to < end) {
            said.push(format!(
                "Reports are over whole hours: {} to {} became {} to {}.",
                minute(from),
                minute(to),
                minute(whole(from, 0)),
                minute(end)
            ));
        }
        if end > now {
            said.push(format!(
                "The last hour is not over: what it shows is of the time until {}.",
                minute(now)
            ));
        }
        said
    }

    /// The settings, with what was asked put over them.
    pub fn settings(&self, usual: &Settings) -> Result<Settings, Refusal> {
        let mut settings = usual.clone();
        if let Some(slo) = self.slo {
            if !(0.5..=0.99999).contains(&slo) {
                let fix = "give a share from 0.5 to 0.99999, like 0.999";
                return Err(Refusal::bad(format!("slo: {slo} is no objective"), fix));
            }
            settings.slo = slo;
        }
        if !self.by.is_empty() {
            settings.by.clone_from(&self.by);
        }
        if let Some(plans) = &self.plans {
            settings.plans = Some(plans.clone());
        }
        Ok(settings)
    }
}

/// The hour's first instant; with `more` of an hour's end, the next one unless it is one itself.
fn whole(at: UnixMillis, more: i64) -> UnixMillis {
    let hours = at.0.saturating_add(more).div_euclid(HOUR_MS);
    UnixMillis(hours.saturating_mul(HOUR_MS))
}

/// `2026-11-20 12:00 UTC`.
#[must_use]
pub fn minute(at: UnixMillis) -> String {
    let text = at.to_rfc3339();
    let shown = text.get(..16).unwrap_or(&text);
    format!("{} UTC", shown.replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 12:00 UTC of a day.
    const NOON: UnixMillis = UnixMillis(1_795_176_000_000);

    #[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
    fn at(minutes: i64) -> Option<UnixMillis> {
        Some(UnixMillis(NOON.0 + minutes * 60_000))
    }

    fn check(from: Option<UnixMillis>, to: Option<UnixMillis>, want: &str) {
        let wanted = Wanted { from, to, ..Wanted::of(Kind::Noise) };
        let now = at(30).unwrap();
        let told = match wanted.check(now) {
            Ok((ask, said)) => {
                assert_eq!((ask.from.0 % HOUR_MS, ask.to.0 % HOUR_MS), (0, 0), "whole hours");
                format!("{} h: {}", (ask.to.0 - ask.from.0) / HOUR_MS, said.join(" "))
            }
            Err(refusal) => format!("refused: {refusal}"),
        };
        assert_eq!(told, want);
    }

    #[test]
    fn a_time_is_widened_to_whole_hours_and_that_is_said() {
        let open = "The last hour is not over: what it shows is of the time until \
                    2026-11-20 12:30 UTC.";
        check(None, None, &format!("721 h: {open}"));
        check(at(-120), at(0), "2 h: ");
        let moved = "Reports are over whole hours: 2026-11-20 10:01 UTC to 2026-11-20 11:59 UTC became \
                     2026-11-20 10:00 UTC to 2026-11-20 12:00 UTC.";
        check(at(-119), at(-1), &format!("2 h: {moved}"));
        let later = "What comes after 2026-11-20 12:30 UTC is not known yet.";
        check(at(-60), at(600), &format!("2 h: {later} {open}"));
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        let (noon, later) = ("2026-11-20T12:00:00.000Z", "2026-11-20T12:01:00.000Z");
        check(
            at(1),
            at(0),
            &format!(
                "refused: the report would begin at {later} and end at {noon}, before it begins"
            ),
        );
        check(
            at(0),
            at(0),
            &format!(
                "refused: the report would begin at {noon} and end at {noon}, before it begins"
            ),
        );
        check(
            at(60),
            at(90),
            "refused: the report would begin at 2026-11-20T13:00:00.000Z, which is yet to come",
        );
        let wanted = Wanted { from: Some(UnixMillis(i64::MIN)), ..Wanted::of(Kind::Outage) };
        assert!(wanted.check(NOON).unwrap_err().what.contains("three years"));
        let wanted = Wanted { to: Some(UnixMillis(i64::MAX)), from: at(0), ..wanted };
        assert!(wanted.check(at(30).unwrap()).is_err());
    }

    #[test]
    fn what_is_asked_goes_before_the_settings() {
        let usual = Settings { by: vec!["plan".into()], ..Settings::default() };
        assert_eq!(Wanted::of(Kind::Outage).settings(&usual).unwrap(), usual);
        let wanted =
            Wanted { slo: Some(0.99), by: vec!["rack".into()], ..Wanted::of(Kind::Outage) };
        let settings = wanted.settings(&usual).unwrap();
        assert_eq!((settings.slo, settings.by), (0.99, vec!["rack".to_owned()]));
        for slo in [0.0, 1.0, f64::NAN, -1.0, 99.9] {
            let wanted = Wanted { slo: Some(slo), ..Wanted::of(Kind::Outage) };
            assert!(wanted.settings(&usual).is_err(), "{slo}");
        }
    }
}
