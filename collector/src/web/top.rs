//! `GET /api/v1/top`: the servers that stand out by one metric over some time.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::AppState;
use super::error::{ApiError, Params};
use super::series::{labels, metric, span};
use crate::model::ServerId;
use crate::store::history::{Contest, Limits, Notes, Ranking, Stat, Told};
use crate::store::{Conn, ReadResult, fleet, read};

/// Time that is looked at when none is given.
const SPAN: Duration = Duration::from_secs(86_400);
/// How many are told when nothing is said, and the most.
const K: usize = 10;
const K_MAX: usize = 1000;

/// `GET /api/v1/top?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopQuery {
    /// Name of the metric.
    pub metric: String,
    /// `p50`, `p95`, `p99`, `max` or `avg`; default: `p95`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stat: Option<String>,
    /// First instant, RFC 3339; default: a day before `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// First instant no longer looked at, RFC 3339; default: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How many are told; default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<usize>,
    /// Only servers with this label, `rack=r7`; several with commas between: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopView {
    /// Name of the metric.
    pub metric: String,
    /// What the servers are judged by.
    pub stat: String,
    /// How, and who.
    #[serde(flatten)]
    pub ranking: Ranking,
    /// Whether that is all of it.
    #[serde(flatten)]
    pub notes: Notes,
}

/// Cost: every sample of the metric in that time; of `max` and `avg` over whole hours only sums.
pub(super) async fn show(
    State(state): State<AppState>,
    Params(query): Params<TopQuery>,
) -> Result<Json<TopView>, ApiError> {
    let (from, to) = span(query.from.as_deref(), query.to.as_deref(), SPAN)?;
    let metric = metric(&query.metric)?;
    let name = query.stat.unwrap_or_else(|| "p95".to_owned());
    let stat = Stat::named(&name).ok_or_else(|| {
        ApiError::bad(format!("stat: {name:?} is not known"), "give p50, p95, p99, max or avg")
    })?;
    let k = query.k.unwrap_or(K);
    if !(1..=K_MAX).contains(&k) {
        let error = format!("k: {k} servers cannot be told");
        return Err(ApiError::bad(error, format!("give a number from 1 to {K_MAX}")));
    }
    let wanted = labels(query.label.as_deref())?;
    let read = state.store.history(Limits::default(), move |history| {
        let servers = members(history.conn(), &wanted)?;
        if servers.is_empty() && !wanted.is_empty() {
            return Ok(Err(ApiError::not_found(
                "no server has these labels",
                "`gatewatch-collector agent list` shows the labels",
            )));
        }
        history.top(&Contest { metric, stat, from, to, k, servers }).map(Ok)
    });
    let Told { value, notes } = read.await?;
    Ok(Json(TopView { metric: metric.name.to_owned(), stat: name, ranking: value?, notes }))
}

/// The servers with all of these labels.
fn members(
    conn: &Conn,
    labels: &BTreeMap<String, String>,
) -> ReadResult<BTreeMap<ServerId, String>> {
    let mut found = BTreeMap::new();
    for (server, name) in read::server_names(conn)? {
        if !labels.is_empty() {
            let of = fleet::labels(conn, server)?;
            if !labels.iter().all(|(k, v)| of.get(k) == Some(v)) {
                continue;
            }
        }
        found.insert(server, name);
    }
    Ok(found)
}
