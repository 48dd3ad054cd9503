//! `GET /api/v1/localize`: what the failing requests of a time have in common, from stored batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::{ApiError, Params, time};
use crate::clock;
use crate::localize::stored::{By, Owner, Stored, Window, usual_dimensions};
use crate::localize::{Common, Found, localize};
use crate::model::ServerId;
use crate::store::history::{History, Limits, Notes};
use crate::store::{ReadResult, fleet, read};

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
    /// Whether all that is stored of both times was read.
    #[serde(flatten)]
    pub notes: Notes,
    /// Everything was searched; else `found` is the best of what was when the search was cut off.
    #[serde(default = "yes")]
    pub complete: bool,
    /// What they have in common, best first.
    pub found: Vec<Common>,
}

/// What a collector that did not say so yet did.
fn yes() -> bool {
    true
}

/// Cost: reads what is stored of all servers of both times, within the limit of any read, and
/// searches within a bound of its own; one question at a time.
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
    let place = Arc::clone(&state.localizing).try_acquire_owned().map_err(|_| {
        let error = "the collector localizes for somebody else";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, error, "ask again in a minute")
    })?;
    let before_from = from.minus(span.max(BEFORE_MIN));
    // The seconds they lie in.
    let window = Window {
        before_s: before_from.second(),
        from_s: from.second(),
        to_s: to.second().saturating_add(i64::from(query.to.is_none())),
    };
    let by = query.by;
    // The place goes along: who asks may leave before the work ends.
    let read = move |history: &History<'_>| Ok((gather(history, by, window)?, place));
    let read = state.store.history(Limits::default(), read).await?;
    let refused = |error: String| {
        let fix = "name server, site, pool, signal, path or keys of labels, each once, at most 8";
        ApiError::bad(format!("by: {error}"), fix)
    };
    let ((gathered, place), notes) = (read.value, read.notes);
    let Gathered { by, stored } = gathered.map_err(refused)?;
    let (n, n_failed) = stored.totals();
    let found = tokio::task::spawn_blocking(move || {
        let found = stored.table().map(|table| localize(&table));
        drop(place);
        found
    });
    let found = found.await.map_err(|_| {
        let fix = "look into the collector's log, and report it";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the search broke off", fix)
    })?;
    let Found { common, complete } = found.map_err(|refusal| refused(refusal.to_string()))?;
    let by = by.iter().map(|by| by.name().to_owned()).collect();
    let found = common;
    Ok(Json(LocalizeView { before_from, from, to, by, n, n_failed, notes, complete, found }))
}

/// Stored counts of both times.
struct Gathered {
    by: Vec<By>,
    stored: Stored,
}

/// Adds up what is stored; `Err` inside: why it cannot be told by these dimensions.
fn gather(
    history: &History<'_>,
    by: Option<String>,
    window: Window,
) -> ReadResult<Result<Gathered, String>> {
    let conn = history.conn();
    let owner = |view: fleet::ServerView| {
        let clock_offset_ms = view.clock_offset_ms.unwrap_or(0);
        let owner = Owner { name: view.server.clone(), labels: view.labels, clock_offset_ms };
        (view.server, owner)
    };
    let mut by_name: BTreeMap<String, Owner> =
        fleet::list(conn, clock::now())?.into_iter().map(owner).collect();
    let by = match by {
        Some(names) => names.split(',').map(|name| By::named(name.trim())).collect(),
        None => usual_dimensions(by_name.values()),
    };
    if let Some(unknown) = unknown_label(&by, &by_name) {
        return Ok(Err(format!("no server has a label {unknown:?}")));
    }
    let mut stored = match Stored::new(by.clone(), window) {
        Ok(stored) => stored,
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    let ids = read::server_names(conn)?.into_iter();
    let owners: BTreeMap<ServerId, Owner> =
        ids.filter_map(|(id, name)| Some((id, by_name.remove(&name)?))).collect();
    let ahead = owners.iter().map(|(id, owner)| (*id, owner.clock_offset_ms)).collect();
    let span = (UnixMillis::from_second(window.before_s), UnixMillis::from_second(window.to_s));
    history.requests(&ahead, span, &mut |server, body| {
        if let Some(owner) = owners.get(&server) {
            stored.add(owner, body);
        }
    })?;
    Ok(Ok(Gathered { by, stored }))
}

fn unknown_label(by: &[By], owners: &BTreeMap<String, Owner>) -> Option<String> {
    by.iter().find_map(|by| match by {
        By::Label(label) if !owners.values().any(|owner| owner.labels.contains_key(label)) => {
            Some(label.clone())
        }
        _ => None,
    })
}
