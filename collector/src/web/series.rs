//! `GET /api/v1/series` and `/api/v1/metrics-known`: what is stored of one metric of one server, and which
//! metrics there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::catalog::Metric;
use wire::units::Span;

use super::AppState;
use super::error::{ApiError, Params, time};
use crate::clock;
use crate::store::history::{self, KnownMetric, Limits, Notes, Point, Series, Told, Wanted};
use crate::store::{Conn, ReadResult, fleet, read};

/// Time that is told when none is given.
const SPAN: Duration = Duration::from_secs(3600);
/// Longest step: a year.
const STEP_S_MAX: u64 = 366 * 86_400;

/// `GET /api/v1/series?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeriesQuery {
    /// Name of the server.
    pub server: String,
    /// Name of the metric.
    pub metric: String,
    /// `key=value`; default: the metric without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// First instant, RFC 3339; default: an hour before `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// First instant no longer told, RFC 3339; default: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Puts samples together by so much, like `5m`; default: each sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesView {
    /// Name of the server.
    pub server: String,
    /// Name of the metric.
    pub metric: String,
    /// `key=value`, or empty.
    pub attribute: String,
    /// Unit of the values; of a counter that of its rate.
    pub unit: String,
    /// `gauge` or `counter`; values of a counter are its rate a second.
    pub kind: String,
    /// First instant.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// First instant no longer told.
    #[serde(with = "wire::rfc3339")]
    pub to: UnixMillis,
    /// Seconds of a step; null: each sample is a point.
    pub step_s: Option<i64>,
    /// In order of time; where nothing was sampled there is none.
    pub points: Vec<Point>,
    /// Whether that is all of it.
    #[serde(flatten)]
    pub notes: Notes,
}

/// Cost: one look-up for each hour, and the batches of the server that are not packed yet.
pub(super) async fn show(
    State(state): State<AppState>,
    Params(query): Params<SeriesQuery>,
) -> Result<Json<SeriesView>, ApiError> {
    let (from, to) = span(query.from.as_deref(), query.to.as_deref(), SPAN)?;
    let metric = metric(&query.metric)?;
    let step_s = query.step.as_deref().map(step).transpose()?;
    let (name, attribute) = (query.server, query.attribute.unwrap_or_default());
    let read = state.store.history(Limits::default(), move |history| {
        let Some(member) = fleet::member(history.conn(), &name)? else {
            return no_server(history.conn(), &name).map(Err);
        };
        let server = member.server;
        let wanted = Wanted { server, metric, attribute: attribute.clone(), from, to, step_s };
        let series = history.series(&wanted)?;
        if series.points.is_empty() && !history.is_cut() {
            let known = history.attributes_of(metric.name, server, (from, to))?;
            if !known.is_empty() && !known.contains(&attribute) {
                return Ok(Err(no_attribute(metric, &attribute, &known)));
            }
        }
        Ok(Ok((name, attribute, series)))
    });
    let Told { value, notes } = read.await?;
    let (server, attribute, Series { unit, kind, points }) = value?;
    let metric = metric.name.to_owned();
    Ok(Json(SeriesView { server, metric, attribute, unit, kind, from, to, step_s, points, notes }))
}

/// `GET /api/v1/metrics-known?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsQuery {
    /// Only this metric, or those whose names begin with it and a dot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricsView {
    /// Metrics of which something is packed, by name.
    pub metrics: Vec<KnownMetric>,
    /// Whether that is all of it.
    #[serde(flatten)]
    pub notes: Notes,
}

/// The metrics with their attributes, as far as they are packed: two hours after they came first.
pub(super) async fn metrics(
    State(state): State<AppState>,
    Params(query): Params<MetricsQuery>,
) -> Result<Json<MetricsView>, ApiError> {
    let read = state
        .store
        .history(Limits::default(), move |history| history.metrics(query.metric.as_deref()));
    let Told { value: metrics, notes } = read.await?;
    Ok(Json(MetricsView { metrics, notes }))
}

/// The time that is asked for; `default` before its end when no begin is given.
pub(super) fn span(
    from: Option<&str>,
    to: Option<&str>,
    default: Duration,
) -> Result<(UnixMillis, UnixMillis), ApiError> {
    let to = time("to", to)?.unwrap_or_else(clock::now);
    let from = time("from", from)?.unwrap_or_else(|| to.minus(default));
    if from >= to {
        let error = format!("from: {} is not before to: {}", from.to_rfc3339(), to.to_rfc3339());
        return Err(ApiError::bad(error, "give a `from` that is earlier than `to`"));
    }
    Ok((from, to))
}

fn step(text: &str) -> Result<i64, ApiError> {
    let wrong = |error: String| ApiError::bad(error, "write it like 10s, 5m, 1h or 1d");
    let span: Span = text.parse().map_err(|error| wrong(format!("step: {error}")))?;
    let seconds = span.0.as_secs();
    if span.0.subsec_nanos() > 0 || !(1..=STEP_S_MAX).contains(&seconds) {
        return Err(wrong(format!("step: {text:?} is not whole seconds up to a year")));
    }
    Ok(seconds.cast_signed())
}

/// A metric by its name; refused with those that are near.
pub(super) fn metric(name: &str) -> Result<&'static Metric, ApiError> {
    history::metric(name).map_err(|near| {
        let error = format!("there is no metric {name:?}");
        ApiError::not_found(
            error,
            did_you_mean(&near, "see /api/v1/metrics-known for those there are"),
        )
    })
}

/// Says that there is no such server, and which are near.
pub(super) fn no_server(conn: &Conn, name: &str) -> ReadResult<ApiError> {
    let names: Vec<String> = read::server_names(conn)?.into_iter().map(|(_, name)| name).collect();
    let near = history::near(name, names.iter().map(String::as_str));
    let fix = did_you_mean(&near, "`gatewatch-collector agent list` shows the names");
    Ok(ApiError::not_found(format!("there is no server {name:?}"), fix))
}

fn no_attribute(metric: &Metric, attribute: &str, known: &BTreeSet<String>) -> ApiError {
    let of = metric.name;
    let error = if attribute.is_empty() {
        format!("{of} is sampled with an attribute only")
    } else {
        format!("there is no {of} with attribute {attribute:?} of this server in that time")
    };
    let listed: Vec<String> = known.iter().take(5).map(|known| format!("{known:?}")).collect();
    let more = if known.len() > listed.len() { " and others" } else { "" };
    ApiError::not_found(error, format!("name one of {}{more}", listed.join(", ")))
}

fn did_you_mean(near: &[&str], otherwise: &str) -> String {
    if near.is_empty() {
        return otherwise.to_owned();
    }
    format!("did you mean {}? {otherwise}", near.join(" or "))
}

/// Labels of a query: `k=v`, several with commas between.
pub(super) fn labels(text: Option<&str>) -> Result<BTreeMap<String, String>, ApiError> {
    let pairs = text.into_iter().flat_map(|text| text.split(',')).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (k, v) = pair.split_once('=').ok_or_else(|| {
            ApiError::bad(format!("label: {pair:?} is no label"), "write it like rack=r7")
        })?;
        Ok((k.trim().to_owned(), v.trim().to_owned()))
    };
    pairs.map(pair).collect()
}
