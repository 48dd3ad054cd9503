//! `GET` and `POST /api/v1/report/{kind}`: a report in one of its formats; by POST with other plans than
//! those of the config, as TOML in the body.
//!
//! With `Accept: application/x-ndjson` the answer is a stream of JSON lines, and progress comes first:
//! `{"waiting":1}` (how many are served before), `{"progress":{"what","n_done","n"}}`, and at last
//! `{"report":{"content_type","text"}}` or `{"status","error","fix"}`. One that ends without either broke off.
//! Whoever goes away ends the making.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::AppState;
use super::error::{ApiError, ErrorBody, InPath, Params, time};
use super::evidence::POLICY;
use super::series::labels;
use crate::report::ask::Progress;
use crate::report::document::{Kind, Report};
use crate::report::plans::Catalogue;
use crate::report::render::{self, HtmlOptions};
use crate::report::wanted::{Refusal, Wanted};
use crate::report::{Desk, Place, ReportError};
use crate::{clock, errors};

/// Largest list of plans.
pub(super) const PLANS_BYTES_MAX: usize = 1 << 20;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Lines that wait for a slow reader; when full, telling waits, and the making does not.
const LINES_MAX: usize = 4;
/// Widths of text.
const WIDTH: usize = 100;
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=1000;
/// Kind of an answer that is a stream.
const LINES: &str = "application/x-ndjson";

/// `GET /api/v1/report/{kind}?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReportQuery {
    /// `json` (default), `html`, `csv` or `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// First instant, RFC 3339; default: 30 days before `to`. Widened to a whole hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// End, RFC 3339; default: now. Widened to a whole hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Only this server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Only servers with this label, `rack=r7`; several with commas between: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only this table, of `csv` and `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Share of the minutes in which a site is to be outside of any incident; default: `[report] slo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<f64>,
    /// Labels by whose values servers are put together, with commas between; default: `[report] by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Columns of `text`; default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
}

/// A line of an answer that is a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// So many reports are made before this one.
    Waiting(usize),
    /// What is done now.
    Progress {
        /// In words.
        what: String,
        /// Steps done.
        n_done: u64,
        /// All steps.
        n: u64,
    },
    /// The end: the report.
    Report(Rendered),
    /// The end: why there is none.
    #[serde(untagged)]
    Failed {
        /// Status that another answer would have had.
        status: u16,
        /// What is wrong, and what to do.
        #[serde(flatten)]
        body: ErrorBody,
    },
}

/// A report in its format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// Which format it is.
    pub content_type: String,
    /// All of it.
    pub text: String,
}

/// How a report is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    format: Format,
    table: Option<String>,
    width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Html,
    Json,
    Csv,
    Text,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "html" => Self::Html,
            "json" => Self::Json,
            "csv" => Self::Csv,
            "text" => Self::Text,
            _ => return None,
        })
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
        }
    }
}

/// By GET: with the plans of the config.
pub(super) async fn show(
    State(state): State<AppState>,
    InPath(kind): InPath<String>,
    headers: HeaderMap,
    Params(query): Params<ReportQuery>,
) -> Result<Response, ApiError> {
    answer(state, &kind, &headers, &query, None).await
}

/// By POST: with these plans.
pub(super) async fn show_with_plans(
    State(state): State<AppState>,
    InPath(kind): InPath<String>,
    headers: HeaderMap,
    Params(query): Params<ReportQuery>,
    plans: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let plans = plans.map_err(|rejection| {
        let what = format!("plans: {}", rejection.body_text());
        ApiError::new(rejection.status(), what, "send a list of plans of up to 1 MiB")
    })?;
    answer(state, &kind, &headers, &query, Some(&plans)).await
}

/// Cost: reads every hour of that time of those servers. One report at a time; the others wait.
async fn answer(
    state: AppState,
    kind: &str,
    headers: &HeaderMap,
    query: &ReportQuery,
    plans: Option<&[u8]>,
) -> Result<Response, ApiError> {
    let form = form(query)?;
    let wanted = wanted(kind, query, plans)?;
    let now = clock::now();
    wanted.check(now)?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains(LINES)) {
        return Ok(stream(state, wanted, form));
    }
    let making = state.desk.make(state.desk.ask(), &wanted, now, |_| ());
    let made = tokio::select! {
        biased;
        () = state.stop.cancelled() => return Err(stopping()),
        // Not cancelled but ended: by its end.
        made = making => made?,
    };
    let rendered = rendered(made.value, form).await?;
    let kind = HeaderValue::from_str(&rendered.content_type).expect("it is one of ours");
    Ok(([(header::CONTENT_TYPE, kind)], [POLICY], rendered.text).into_response())
}

fn stream(state: AppState, wanted: Wanted, form: Form) -> Response {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let place = state.desk.ask();
        let told = tokio::select! {
            biased;
            // Nobody waits for it: what is being made is left behind.
            () = sender.closed() => return,
            () = state.stop.cancelled() => Err(stopping()),
            // Not cancelled but ended: by its end.
            told = tell(&state.desk, place, wanted, form, &sender) => told,
        };
        let last = told.map_or_else(Line::from, Line::Report);
        drop(sender.send(Ok::<_, std::io::Error>(line(&last))).await);
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    ([(header::CONTENT_TYPE, HeaderValue::from_static(LINES))], body).into_response()
}

/// Makes the report and tells how far it is meanwhile.
async fn tell(
    desk: &Desk,
    place: Place,
    wanted: Wanted,
    form: Form,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) -> Result<Rendered, ApiError> {
    let (step, mut steps) = watch::channel(None);
    if place.n_before > 0 {
        sender.try_send(Ok(line(&Line::Waiting(place.n_before)))).ok();
    }
    let progress = move |told: Progress| _ = step.send_replace(Some(told));
    let mut making = std::pin::pin!(desk.make(place, &wanted, clock::now(), progress));
    let mut tick = tokio::time::interval(TELL_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let made = loop {
        tokio::select! {
            biased;
            // Not cancelled but ended: by its end.
            made = making.as_mut() => break made?,
            // Cancel-safe: a tick that is not taken is the next one.
            _ = tick.tick() => {}
        }
        let is_new = steps.has_changed().unwrap_or(false);
        let next = is_new.then(|| steps.borrow_and_update().clone()).flatten();
        // A reader that takes none does not hold up the making: the next line tells more.
        if let Some(next) = next {
            sender.try_send(Ok(line(&next.into()))).ok();
        }
    };
    rendered(made.value, form).await
}

impl From<ApiError> for Line {
    fn from(error: ApiError) -> Self {
        let (status, body) = error.into_parts();
        Self::Failed { status: status.as_u16(), body }
    }
}

impl From<Progress> for Line {
    fn from(progress: Progress) -> Self {
        let Progress { what, n_done, n } = progress;
        Self::Progress { what: what.to_owned(), n_done, n }
    }
}

fn line(line: &Line) -> Bytes {
    let mut text = serde_json::to_string(line).expect("our own types are JSON");
    text.push('\n');
    text.into()
}

fn form(query: &ReportQuery) -> Result<Form, ApiError> {
    let name = query.format.as_deref().unwrap_or("json");
    let format = Format::named(name).ok_or_else(|| {
        ApiError::bad(format!("format: {name:?} is not known"), "give html, json, csv or text")
    })?;
    if query.table.is_some() && !matches!(format, Format::Csv | Format::Json) {
        let fix = "leave `table` out, or ask for csv or json";
        return Err(ApiError::bad(format!("table: {name} has all of them"), fix));
    }
    let width = query.width.unwrap_or(WIDTH).clamp(*WIDTHS.start(), *WIDTHS.end());
    Ok(Form { format, table: query.table.clone(), width })
}

fn wanted(kind: &str, query: &ReportQuery, plans: Option<&[u8]>) -> Result<Wanted, ApiError> {
    let found = Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or_else(|| {
        let fix = "ask for capacity, outage or noise";
        ApiError::not_found(format!("there is no report {kind:?}"), fix)
    })?;
    let by = query.by.as_deref().unwrap_or_default().split(',').map(str::trim);
    Ok(Wanted {
        kind: found,
        from: time("from", query.from.as_deref())?,
        to: time("to", query.to.as_deref())?,
        server: query.server.clone(),
        labels: labels(query.label.as_deref())?,
        slo: query.slo,
        by: by.filter(|label| !label.is_empty()).map(str::to_owned).collect(),
        plans: plans.map(catalogue).transpose()?,
    })
}

fn catalogue(text: &[u8]) -> Result<Catalogue, ApiError> {
    let fix = "send the catalogue as TOML, as deploy/config/plans.toml shows it";
    let refused = |why: String| ApiError::bad(format!("plans: {why}"), fix);
    let text = std::str::from_utf8(text).map_err(|error| refused(error.to_string()))?;
    Catalogue::parse("plans", text).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        refused(told.join("; "))
    })
}

/// Writes the report on a thread of its own: a large one takes a while.
async fn rendered(report: Report, form: Form) -> Result<Rendered, ApiError> {
    let written = tokio::task::spawn_blocking(move || written(&report, &form));
    let (content_type, text) = written.await.map_err(|_| ReportError::Broke)??;
    Ok(Rendered { content_type: content_type.to_owned(), text })
}

fn written(report: &Report, form: &Form) -> Result<(&'static str, String), ApiError> {
    let no_table = |key: &str| {
        let keys: Vec<&str> = report.tables().map(|table| table.key).collect();
        let fix = format!("this report has {}", keys.join(", "));
        ApiError::not_found(format!("there is no table {key:?}"), fix)
    };
    let text = match (form.format, &form.table) {
        (Format::Html, _) => render::html(report, &HtmlOptions::default()),
        (Format::Text, _) => render::text(report, form.width),
        (Format::Csv, None) => render::csv(report),
        (Format::Csv, Some(key)) => render::csv_table(report, key).ok_or_else(|| no_table(key))?,
        (Format::Json, None) => format!("{}\n", render::json(report)),
        (Format::Json, Some(key)) => {
            let whole = render::json(report);
            format!("{}\n", whole["tables"].get(key).ok_or_else(|| no_table(key))?)
        }
    };
    Ok((form.format.content_type(), text))
}

fn stopping() -> ApiError {
    let fix = "ask again when it runs";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the collector stops", fix)
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { what, fix, is_missing } = refusal;
        if is_missing { Self::not_found(what, fix) } else { Self::bad(what, fix) }
    }
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Refused(refusal) => refusal.into(),
            ReportError::Store(error) => error.into(),
            error @ ReportError::Cut(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                errors::chain(&error),
                "ask for a shorter time or fewer servers, or when the collector has less to do",
            ),
            error @ ReportError::Plans(_) => Self::new(
                StatusCode::FAILED_DEPENDENCY,
                errors::chain(&error),
                "mend what `[report] plans` names; it is read anew for each report",
            ),
            error @ ReportError::Broke => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                errors::chain(&error),
                "look into the collector's log, and report it",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
