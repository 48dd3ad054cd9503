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
    /// What was read: `samples`, `hours` where samples are kept no more, or `hours and samples`.
    pub source: String,
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
    let (server, attribute, Series { unit, kind, source, points }) = value?;
    Ok(Json(SeriesView {
        server,
        metric: metric.name.to_owned(),
        attribute,
        unit,
        kind,
        from,
        to,
        source,
        step_s,
        points,
        notes,
    }))
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

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::{Value, json};
    use wire::v1;

    use super::super::tests::Site;
    use super::*;
    use crate::model::ServerId;
    use crate::store::{Ledger, NewBatch};

    const NOON: i64 = 1_795_176_000_000;

    /// Server web-07, whose steal is 0.01, 0.02 and 0.05 from noon on, each ten seconds.
    async fn site() -> Site {
        let site = Site::new();
        site.add_server("web-07").await;
        let series = |metric: &str, attribute: &str| v1::Series {
            metric: metric.into(),
            attribute: attribute.into(),
        };
        let tick = |(ix, steal): (i64, i64)| v1::Tick {
            at_unix_ms: NOON + ix * 10_000,
            series: vec![0, 1],
            value: vec![steal, 5000],
        };
        let disk = "system.filesystem.mountpoint=/var";
        let body = v1::BatchBody {
            series: vec![
                series("system.cpu.steal", ""),
                series("system.filesystem.utilization", disk),
            ],
            ticks: (0..).zip([100, 200, 500]).map(tick).collect(),
            ..v1::BatchBody::default()
        };
        let batch = NewBatch {
            server: ServerId(1),
            epoch: 1,
            seq: 1,
            n_evicted: 0,
            n_lines_evicted: 0,
            n_bytes_evicted: 0,
            at: UnixMillis(NOON + 30_000),
            t_min: UnixMillis(NOON),
            t_max: UnixMillis(NOON + 20_000),
            complete_until: UnixMillis(NOON + 30_000),
            urgent: true,
            codec: 1,
            body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
            sites: Vec::new(),
            losses: Vec::new(),
            ledger: Ledger::default(),
        };
        site.state.store.append(batch).await.unwrap().await.unwrap().unwrap();
        site
    }

    const HOUR: &str = "from=2026-11-20T12:00:00Z&to=2026-11-20T13:00:00Z";

    #[tokio::test]
    async fn a_series_is_told_in_this_form() {
        let site = site().await;
        let path = format!("/api/v1/series?server=web-07&metric=system.cpu.steal&{HOUR}&step=20s");
        let point = |at: &str, n: u64, min: f64, max: f64, sum: f64| json!({"at": at, "n": n, "min": min, "max": max, "sum": sum, "last": max});
        let want = json!({
            "server": "web-07", "metric": "system.cpu.steal", "attribute": "",
            "unit": "1", "kind": "gauge", "source": "samples", "step_s": 20,
            "from": "2026-11-20T12:00:00.000Z", "to": "2026-11-20T13:00:00.000Z",
            "points": [
                point("2026-11-20T12:00:00.000Z", 2, 0.01, 0.02, 0.03),
                point("2026-11-20T12:00:20.000Z", 1, 0.05, 0.05, 0.05),
            ],
            "cut": null, "holes": [], "n_batches_unreadable": 0,
        });
        assert_eq!(site.get(&path).await, want);
    }

    #[tokio::test]
    async fn a_ranking_is_told_in_this_form() {
        let site = site().await;
        let path = format!("/api/v1/top?metric=system.filesystem.utilization&stat=max&{HOUR}&k=3");
        let want = json!({
            "metric": "system.filesystem.utilization", "stat": "max", "unit": "1",
            "from": "2026-11-20T12:00:00.000Z", "to": "2026-11-20T13:00:00.000Z",
            "source": "samples", "error": 0.0, "n_series": 1,
            "top": [{
                "server": "web-07", "attribute": "system.filesystem.mountpoint=/var",
                "value": 0.5, "n": 3,
            }],
            "cut": null, "holes": [], "n_batches_unreadable": 0,
        });
        assert_eq!(site.get(&path).await, want);
        let none = json!({"metrics": [], "cut": null, "holes": [], "n_batches_unreadable": 0});
        assert_eq!(site.get("/api/v1/metrics-known").await, none, "nothing is packed yet");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_question_is_said_with_what_to_do() {
        let site = site().await;
        let steal = "metric=system.cpu.steal";
        for (path, status, error, fix) in [
            (
                format!("series?server=web-7&{steal}"),
                404,
                "there is no server \"web-7\"",
                "did you mean web-07?",
            ),
            (
                "series?server=web-07&metric=system.cpu.stael".into(),
                404,
                "there is no metric \"system.cpu.stael\"",
                "did you mean system.cpu.steal",
            ),
            (
                format!("series?server=web-07&metric=system.filesystem.utilization&{HOUR}"),
                404,
                "system.filesystem.utilization is sampled with an attribute only",
                "name one of \"system.filesystem.mountpoint=/var\"",
            ),
            (format!("series?server=web-07&{steal}&step=x"), 400, "step: ", "write it like 10s"),
            (format!("series?server=web-07&{steal}&step=1ms"), 400, "step: ", "write it like 10s"),
            (
                format!(
                    "series?server=web-07&{steal}&from=2026-11-20T12:00:00Z&to=2026-11-20T11:00:00Z"
                ),
                400,
                "from: ",
                "give a `from` that is earlier",
            ),
            (format!("top?{steal}&stat=p75"), 400, "stat: \"p75\"", "give p50, p95"),
            (format!("top?{steal}&k=0"), 400, "k: 0", "give a number from 1"),
            (format!("top?{steal}&label=rack"), 400, "label: ", "write it like rack=r7"),
            (format!("top?{steal}&label=rack=none"), 404, "no server has", "`gatewatch-collector"),
            ("counts?server=web-7".into(), 404, "there is no server", "did you mean web-07?"),
        ] {
            let (found, body) = site.ask("get", &format!("/api/v1/{path}"), Value::Null).await;
            assert_eq!(found, status, "{path}: {body}");
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            assert!(text("error").starts_with(error), "{path}: {body}");
            assert!(text("fix").starts_with(fix), "{path}: {body}");
        }
    }
}
