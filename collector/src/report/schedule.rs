//! Reports that are sent by themselves: at set times, by e-mail, whole, once.
//!
//! A report is due at the newest of its times. It is made, and in one transaction its mail goes into the
//! outbox and its mark moves: a crash before makes it again, one after finds it in the outbox. A
//! collector that was down makes up for the newest missed time, within a week. What cannot be told (no
//! such server any more) is mailed as that.

mod times;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::document::{Finding, Kind, Level, Report};
use super::render::{self, HtmlOptions, Medium};
use super::wanted::{Refusal, Wanted};
use super::{Desk, ReportError};
use crate::config::ScheduleConfig;
use crate::notify::mailing::{Attached, Mailing};
use crate::notify::{Event, Fault, Message, Wrong, email};
use crate::store::notices::{self, Notice, What};
use crate::store::{Store, StoreError, outbox, schedules};
use crate::{ca, clock, errors, store};
use times::{Period, Times};

/// How late a report may be; then it is left out.
const LATE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How often is looked whether one is due.
const POLL: Duration = Duration::from_millis(500);
/// After how long one that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// Files of a mail at most, before they are encoded: many servers take no more than 10 to 20 MB.
const FILES_BYTES_MAX: usize = 6 << 20;
/// Findings in the text of a mail.
const FINDINGS_MAX: usize = 20;

/// A report that is sent by itself.
#[derive(Clone, Debug)]
pub struct Schedule {
    name: String,
    route: String,
    to: Vec<String>,
    wanted: Wanted,
    period: Period,
    times: Times,
}

/// What is wrong with the tables, each with its place, from 0. `routes`: names and kinds of receivers.
#[must_use]
pub fn faults(configs: &[ScheduleConfig], routes: &[(String, String)]) -> Vec<(usize, Fault)> {
    let mut faults = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let mut fault = |key, wrong: Wrong| faults.push((index, wrong.at(key)));
        let name = config.name(index);
        let is_taken = (0..index).any(|other| configs[other].name(other) == name);
        if is_taken {
            let wrong = Wrong::new(format!("{name:?} is taken"), "give every report its own");
            fault("name", wrong);
        }
        match routes.iter().find(|(known, _)| *known == config.route) {
            Some((_, kind)) if kind == "email" => {}
            Some((_, kind)) => {
                let what = format!("{:?} is a route of kind {kind}", config.route);
                fault("route", Wrong::new(what, "name one of kind email: it takes files"));
            }
            None => {
                let what = format!("{:?} is no [[notify]] route", config.route);
                fault("route", Wrong::new(what, "give the name of one of kind email"));
            }
        }
        for found in Schedule::new(config, index).err().unwrap_or_default() {
            faults.push((index, found));
        }
    }
    faults
}

/// Every `[[report.schedule]]` table; `Err`: what is wrong, in one line.
pub fn all(configs: &[ScheduleConfig]) -> Result<Vec<Schedule>, String> {
    let schedule = |(index, config)| {
        Schedule::new(config, index).map_err(|faults| {
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            told.join("; ")
        })
    };
    configs.iter().enumerate().map(schedule).collect()
}

impl Schedule {
    /// `Err` lists what is wrong with the table by itself.
    pub fn new(config: &ScheduleConfig, index: usize) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == config.kind);
        if kind.is_none() {
            let what = format!("{:?} is no report", config.kind);
            faults.push(Wrong::new(what, "write capacity, outage or noise").at("kind"));
        }
        let times = Times::parse(&config.at, config.timezone.as_deref());
        let times = times.map_err(|(key, wrong)| faults.push(wrong.at(key))).ok();
        let usual = times.as_ref().map_or("7d", Times::usual_period);
        let period = Period::parse(config.period.as_deref().unwrap_or(usual));
        let period = period.map_err(|wrong| faults.push(wrong.at("period"))).ok();
        let wanted = Wanted {
            server: config.server.clone(),
            labels: config.label.clone(),
            by: config.by.clone(),
            slo: config.slo,
            ..Wanted::of(kind.unwrap_or(Kind::Capacity))
        };
        if let Err(refusal) = wanted.settings(&super::settings::Settings::default()) {
            faults.push(Wrong::new(refusal.what, refusal.fix).at("slo"));
        }
        for wrong in config.to.iter().filter_map(|to| email::check_receiver(to).err()) {
            faults.push(wrong.at("to"));
        }
        match (times, period) {
            (Some(times), Some(period)) if faults.is_empty() => {
                let (name, route) = (config.name(index), config.route.clone());
                let to = config.to.clone();
                Ok(Self { name, route, to, wanted, period, times })
            }
            _ => Err(faults),
        }
    }

    /// Looks once: whether the report is due at `now`, makes it and puts its mail into the outbox.
    pub async fn turn(
        &self,
        desk: &Desk,
        store: &Store,
        now: UnixMillis,
    ) -> Result<(), ReportError> {
        let name = self.name.clone();
        let mark = store.read(move |conn| schedules::mark(conn, &name)).await?;
        // Of a clock that was wrong by more than a week, nothing is believed.
        let Some(mark) = mark.filter(|mark| *mark <= now.plus(LATE_MAX)) else {
            return Ok(self.settle(store, now, None).await?);
        };
        let due = self.times.latest(now).filter(|due| *due > mark && now.since(*due) < LATE_MAX);
        let Some(due) = due else { return Ok(()) };
        let (from, to) = self.times.span(self.period, due);
        let wanted = Wanted { from: Some(from), to: Some(to), ..self.wanted.clone() };
        let mailing = match desk.make(desk.ask(), &wanted, now, |_| ()).await {
            Ok(made) => {
                let mailing = tokio::task::spawn_blocking(move || mailing(made.value));
                mailing.await.map_err(|_| ReportError::Broke)?
            }
            Err(ReportError::Refused(refusal)) => self.not_made(&refusal),
            Err(error) => return Err(error),
        };
        Ok(self.settle(store, due, Some((now, mailing))).await?)
    }

    /// One transaction: the mark, the mail, and a line in the log of what was told.
    async fn settle(
        &self,
        store: &Store,
        mark: UnixMillis,
        owed: Option<(UnixMillis, Mailing)>,
    ) -> Result<(), StoreError> {
        let this = self.clone();
        store
            .write(move |tx| {
                schedules::set_mark(tx, &this.name, mark)?;
                let Some((now, mailing)) = owed else { return Ok(()) };
                let delivery = ca::new_id(now).map_err(store::failed)?.to_string();
                let message = this.message(now, &delivery, mailing);
                let body = serde_json::to_string(&message).expect("a message is JSON");
                outbox::owe(tx, "", &this.route, now, &delivery, &body)?;
                notices::add(
                    tx,
                    &Notice {
                        at: now,
                        incident: None,
                        route: this.route.clone(),
                        event: Event::Report.name().to_owned(),
                        what: What::Owed,
                        why: message.reason,
                        delivery: Some(delivery),
                    },
                )
            })
            .await
    }

    fn message(&self, now: UnixMillis, delivery: &str, mailing: Mailing) -> Message {
        Message {
            event: Event::Report,
            delivery: delivery.to_owned(),
            at: now,
            reason: format!("{}: {}", self.name, mailing.subject),
            incident: None,
            before: None,
            changed_back: None,
            digest: Vec::new(),
            report: Some(Box::new(Mailing { to: self.to.clone(), ..mailing })),
        }
    }

    /// The mail in the place of a report that cannot be.
    fn not_made(&self, refusal: &Refusal) -> Mailing {
        let kind = self.wanted.kind.name();
        let title = format!("The {kind} report {} was not made", self.name);
        let finding = |text: String| Finding { level: Level::Warning, text };
        let findings = vec![
            finding(format!("Why: {}.", refusal.what)),
            finding(format!("What to do: {}.", refusal.fix)),
        ];
        let report = Report {
            kind: self.wanted.kind,
            title: title.clone(),
            scope: String::new(),
            from: UnixMillis(0),
            to: UnixMillis(0),
            made_at: UnixMillis(0),
            caveats: Vec::new(),
            findings,
            sections: Vec::new(),
        };
        let text = format!("{title}.\n\n{}", findings_text(&report));
        let html =
            format!("<!doctype html>\n<pre>{}</pre>\n", crate::notify::escape::html(&text, 4000));
        Mailing { to: Vec::new(), subject: title, text, html, files: Vec::new() }
    }
}

/// The mail of a report: what matters in its body, all of it in its files.
fn mailing(mut report: Report) -> Mailing {
    let day = |at: UnixMillis| at.to_rfc3339().get(..10).unwrap_or_default().to_owned();
    let (from, to) = (day(report.from), day(UnixMillis(report.to.0 - 1)));
    let span = if from == to { from } else { format!("{from} to {to}") };
    let subject = format!("{}: {}, {span}", report.title, report.scope);
    let stem = format!("{}-{}", report.kind.name(), span.replace(" to ", "-to-"));
    let (mut files, mut n_bytes, mut left_out) = (Vec::new(), 0, Vec::new());
    for (ending, kind, text) in [
        ("html", "text/html; charset=utf-8", render::html(&report, &HtmlOptions::default())),
        ("csv", "text/csv; charset=utf-8", render::csv(&report)),
    ] {
        if n_bytes + text.len() > FILES_BYTES_MAX {
            left_out.push(ending.to_uppercase());
            continue;
        }
        n_bytes += text.len();
        files.push(Attached::new(format!("{stem}.{ending}"), kind, &text));
    }
    if !left_out.is_empty() {
        report.caveats.push(format!(
            "As {} it is too large for a mail: `gatewatch-collector report {}` writes it to a file.",
            left_out.join(" and as "),
            report.kind.name()
        ));
    }
    let html = render::html(&report, &HtmlOptions { medium: Medium::Mail, link: None });
    Mailing { to: Vec::new(), subject, text: body(&report, &span, &files), html, files }
}

/// The text of a mail.
fn body(report: &Report, span: &str, files: &[Attached]) -> String {
    let mut text = format!("{}\n{}, {span}\n\n", report.title, report.scope);
    text.push_str(&findings_text(report));
    text.extend(report.caveats.iter().map(|caveat| format!("Note: {caveat}\n")));
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    if !names.is_empty() {
        text.extend(["\nAll of it, with what each figure means: ", &names.join(", "), "\n"]);
    }
    text
}

fn findings_text(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .take(FINDINGS_MAX)
        .map(|finding| format!("- {}: {}\n", word(finding.level), finding.text))
        .collect();
    if let Some(n @ 1..) = report.findings.len().checked_sub(FINDINGS_MAX) {
        lines.push(format!("- and {n} more\n"));
    }
    lines.push("\n".to_owned());
    lines.concat()
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Good => "Good",
        Level::Note => "Note",
        Level::Warning => "Warning",
        Level::Critical => "Critical",
    }
}

/// Sends what is due until `stop` fires.
pub async fn run(store: Store, desk: Desk, schedules: Vec<Schedule>, stop: CancellationToken) {
    let names: Vec<String> = schedules.iter().map(|schedule| schedule.name.clone()).collect();
    let forget = move |tx: &store::WriteTx<'_>| schedules::forget_other(tx, &names);
    if let Err(error) = store.write(forget).await {
        tracing::error!(error = %errors::chain(&error), "marks of reports cannot be read");
    }
    if schedules.is_empty() {
        return;
    }
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut not_before: Vec<Option<Instant>> = vec![None; schedules.len()];
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a tick that is not taken is the next one.
            _ = tick.tick() => {}
        }
        for (schedule, not_before) in schedules.iter().zip(&mut not_before) {
            if not_before.is_some_and(|at| clock::instant() < at) {
                continue;
            }
            let turned = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancelled at the end only: what was not written down is made again at the next start.
                turned = schedule.turn(&desk, &store, clock::now()) => turned,
            };
            match turned {
                Ok(()) => {
                    if not_before.take().is_some() {
                        tracing::info!(report = schedule.name, "the report can be made again");
                    }
                }
                Err(error) => {
                    let error = errors::chain(&error);
                    let again_in = AGAIN;
                    tracing::error!(
                        report = schedule.name,
                        error,
                        ?again_in,
                        "a report is not sent"
                    );
                    *not_before = Some(clock::instant() + AGAIN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
