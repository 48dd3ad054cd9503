//! `GET /api/v1/localize`: what the failing requests of a time have in common, from stored batches.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::{ApiError, Params};
use crate::clock;
use crate::ingest::convert;
use crate::localize::stored::{By, Owner, Stored, Window, usual_dimensions};
use crate::localize::{Common, localize};
use crate::store::{fleet, read};

/// Time in question when none is given.
const SPAN: Duration = Duration::from_secs(15 * 60);
/// Shortest past to compare with: a rate of rare failures needs some traffic.
const BEFORE_MIN: Duration = Duration::from_secs(3600);
/// Longest time in question.
const SPAN_MAX: Duration = Duration::from_secs(7 * 86_400);

/// `GET /api/v1/localize?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalizeQuery {
    /// First second in question, RFC 3339; default: 15 minutes before `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// First second that no longer is, RFC 3339; default: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Dimensions with commas between: `server`, `site`, `pool`, `signal`, `path`, or keys of
    /// labels; default: labels that tell servers apart, server, site and pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalizeView {
    /// Begin of the time compared with, which ends at `from`: as long as the time in question, an
    /// hour at least.
    #[serde(with = "wire::rfc3339")]
    pub before_from: UnixMillis,
    /// First second in question.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// First second that no longer is.
    #[serde(with = "wire::rfc3339")]
    pub to: UnixMillis,
    /// Dimensions.
    pub by: Vec<String>,
    /// Requests in question.
    pub n: u64,
    /// Gateway errors among them.
    pub n_failed: u64,
    /// Batches that could not be read; their counts are missing here.
    pub n_batches_unreadable: u64,
    /// What they have in common, best first.
    pub found: Vec<Common>,
}

/// Cost: reads the stored batches of all servers of both times, within the limit of any read.
pub(super) async fn show(
    State(state): State<AppState>,
    Params(query): Params<LocalizeQuery>,
) -> Result<Json<LocalizeView>, ApiError> {
    let to = time("to", query.to.as_deref())?.unwrap_or_else(clock::now);
    let from = time("from", query.from.as_deref())?.unwrap_or_else(|| to.minus(SPAN));
    let span = to.since(from);
    if from >= to || span > SPAN_MAX {
        let error =
            format!("{} to {} is no time of up to 7 days", from.to_rfc3339(), to.to_rfc3339());
        return Err(ApiError::bad(error, "let `from` be before `to`, and not by more than 7 days"));
    }
    let before_from = from.minus(span.max(BEFORE_MIN));
    // The seconds they lie in.
    let window = Window {
        before_s: before_from.second(),
        from_s: from.second(),
        to_s: to.second().saturating_add(i64::from(query.to.is_none())),
    };
    let now = clock::now();
    let by = query.by;
    let read = state.store.read(move |conn| {
        let owners: BTreeMap<String, Owner> = fleet::list(conn, now)?
            .into_iter()
            .map(|view| (view.server.clone(), Owner { name: view.server, labels: view.labels }))
            .collect();
        let by = match by {
            Some(names) => names.split(',').map(|name| By::named(name.trim())).collect(),
            None => usual_dimensions(owners.values()),
        };
        if let Some(unknown) = unknown_label(&by, &owners) {
            return Ok(Err(format!("no server has a label {unknown:?}")));
        }
        let mut stored = match Stored::new(by.clone(), window) {
            Ok(stored) => stored,
            Err(refusal) => return Ok(Err(refusal.to_string())),
        };
        let mut n_unreadable = 0;
        let (first, last) = (before_from, UnixMillis::from_second(window.to_s));
        read::hot_between(conn, first, last, &mut |server, codec, body| {
            // Batches of a server that was forgotten belong to nobody.
            let Some(owner) = owners.get(server) else { return };
            match convert::unpack(codec, body) {
                Ok(body) => stored.add(owner, &body),
                Err(_) => n_unreadable += 1,
            }
        })?;
        Ok(Ok((by, stored, n_unreadable)))
    });
    let refused = |error: String| {
        let fix = "name server, site, pool, signal, path or keys of labels, each once, at most 8";
        ApiError::bad(format!("by: {error}"), fix)
    };
    let (by, stored, n_batches_unreadable) = read.await?.map_err(refused)?;
    let (n, n_failed) = stored.totals();
    let found = tokio::task::spawn_blocking(move || stored.table().map(|table| localize(&table)));
    let found = found.await.map_err(|_| {
        let fix = "look into the collector's log, and report it";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the search broke off", fix)
    })?;
    let found = found.map_err(|refusal| refused(refusal.to_string()))?;
    let by = by.iter().map(|by| by.name().to_owned()).collect();
    Ok(Json(LocalizeView { before_from, from, to, by, n, n_failed, n_batches_unreadable, found }))
}

fn unknown_label(by: &[By], owners: &BTreeMap<String, Owner>) -> Option<String> {
    by.iter().find_map(|by| match by {
        By::Label(label) if !owners.values().any(|owner| owner.labels.contains_key(label)) => {
            Some(label.clone())
        }
        _ => None,
    })
}

fn time(key: &str, text: Option<&str>) -> Result<Option<UnixMillis>, ApiError> {
    let parse = |text: &str| {
        UnixMillis::parse_rfc3339(text).ok_or_else(|| {
            let error = format!("{key}: {text:?} is no time");
            ApiError::bad(error, "write it like 2026-11-20T12:00:00Z")
        })
    };
    text.map(parse).transpose()
}
