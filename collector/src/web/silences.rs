//! `/api/v1/silences`: maintenance windows. They keep pages back, never detection.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::api::person;
use super::error::{ApiError, Body, InPath, Params, time};

use crate::notify::matcher::Matcher;
use crate::notify::reach;
use crate::store::silences::{self, Silence};
use crate::store::{Conn, ReadResult, incidents, subjects};
use crate::{ca, clock};

/// Longest reason, in characters, and most keys of a match.
const REASON_CHARS_MAX: usize = 500;
const KEYS_MAX: usize = 16;

/// Longest silence: a year. What is longer is a typing error, or a route that should not be.
const SPAN_MAX: std::time::Duration = std::time::Duration::from_secs(366 * 86_400);

/// Most silences that are shown at once.
const SHOWN_MAX: usize = 1000;

/// `GET /api/v1/silences?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SilenceQuery {
    /// Also those that are over.
    pub all: bool,
}

/// `POST /api/v1/silences`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceRequest {
    /// What it silences: key to value, all of them; values may hold `*`.
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, String>,
    /// Since when, RFC 3339; default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    /// Until when, RFC 3339.
    pub ends_at: String,
    /// What for.
    pub reason: String,
    /// Who makes it.
    pub by: String,
}

/// `DELETE /api/v1/silences/{id}?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndQuery {
    /// Who ends it; default `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A silence and whether it silences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceView {
    /// `pending` before its begin, `active`, or `ended`.
    pub state: String,
    /// The silence.
    #[serde(flatten)]
    pub silence: Silence,
}

impl SilenceView {
    fn new(silence: Silence, now: UnixMillis) -> Self {
        let state = match () {
            () if now >= silence.end() => "ended",
            () if silence.is_active(now) => "active",
            () => "pending",
        };
        Self { state: state.to_owned(), silence }
    }
}

/// A silence just made, and what it is about now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSilence {
    /// It.
    #[serde(flatten)]
    pub view: SilenceView,
    /// Open incidents that it covers whole.
    pub n_incidents: u64,
    /// Servers that match.
    pub n_servers: u64,
    /// Why no server matches; null when one does.
    pub hint: Option<String>,
}

/// `GET /api/v1/silences`
pub(super) async fn list(
    State(state): State<AppState>,
    Params(query): Params<SilenceQuery>,
) -> Result<Json<Vec<SilenceView>>, ApiError> {
    let now = clock::now();
    let found = state.store.read(move |conn| {
        if query.all { silences::newest(conn, SHOWN_MAX) } else { silences::list(conn, now) }
    });
    let views = found.await?.into_iter().map(|silence| SilenceView::new(silence, now));
    Ok(Json(views.collect()))
}

/// `POST /api/v1/silences`
pub(super) async fn create(
    State(state): State<AppState>,
    Body(request): Body<SilenceRequest>,
) -> Result<(StatusCode, Json<NewSilence>), ApiError> {
    let now = clock::now();
    let silence = read(request, now)?;
    let about = silence.clone();
    let covered = state.store.read(move |conn| covered(conn, &about)).await?;
    tracing::info!(
        silence = silence.id, by = silence.by, matches = ?silence.matches, until = %silence.ends_at,
        reason = silence.reason, "silence made"
    );
    let made = silence.clone();
    state.store.write(move |tx| silences::add(tx, &made)).await?;
    let (n_incidents, n_servers, hint) = covered;
    let view = SilenceView::new(silence, now);
    Ok((StatusCode::CREATED, Json(NewSilence { view, n_incidents, n_servers, hint })))
}

/// `DELETE /api/v1/silences/{id}`
pub(super) async fn end(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
    Params(query): Params<EndQuery>,
) -> Result<StatusCode, ApiError> {
    let by = person(query.by.as_deref().unwrap_or("admin"))?;
    let fix = "`gatewatch-collector silence list` shows the ids";
    let unknown = || ApiError::not_found(format!("there is no silence {id:?}"), fix);
    let prefix = id.to_ascii_uppercase();
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(unknown());
    }
    let found = state.store.read(move |conn| silences::with_prefix(conn, &prefix)).await?;
    let silence = match <[Silence; 1]>::try_from(found) {
        Ok([only]) => only,
        Err(none) if none.is_empty() => return Err(unknown()),
        Err(_) => {
            let error = format!("several silences begin with {id:?}");
            return Err(ApiError::new(StatusCode::CONFLICT, error, "give more letters of the id"));
        }
    };
    let (full, now, who) = (silence.id.clone(), clock::now(), by.clone());
    if !state.store.write(move |tx| silences::end(tx, &full, &who, now)).await? {
        let error = format!("silence {} is over since {}", silence.id, silence.end().to_rfc3339());
        return Err(ApiError::new(StatusCode::CONFLICT, error, "nothing is left to do"));
    }
    tracing::info!(silence = silence.id, by, "silence ended");
    Ok(StatusCode::NO_CONTENT)
}

/// The silence asked for, or what is wrong with it.
fn read(request: SilenceRequest, now: UnixMillis) -> Result<Silence, ApiError> {
    let matches: BTreeMap<String, String> = request.matches;
    if matches.is_empty() {
        let fix = "name what is in maintenance, e.g. --match server=web-07 or --match rack=r7; to \
                   silence everything say so with --match 'server=*'";
        return Err(ApiError::bad("match: is empty: it would silence everything", fix));
    }
    if matches.len() > KEYS_MAX {
        let error = format!("match: has more than {KEYS_MAX} keys");
        return Err(ApiError::bad(error, "make it of fewer"));
    }
    if let Some(fault) = reach::check_match(&matches).first() {
        return Err(ApiError::bad(format!("match: {}: {}", fault.key, fault.what), &fault.fix));
    }
    let reason = request.reason.trim().to_owned();
    if reason.is_empty()
        || reason.chars().count() > REASON_CHARS_MAX
        || reason.chars().any(char::is_control)
    {
        let error =
            format!("reason: is empty, or not one line of at most {REASON_CHARS_MAX} characters");
        return Err(ApiError::bad(
            error,
            "say what the maintenance is, e.g. --reason 'kernel update'",
        ));
    }
    let by = person(&request.by)?;
    let starts_at = time("starts_at", request.starts_at.as_deref())?.unwrap_or(now);
    let ends_at = time("ends_at", Some(&request.ends_at))?.unwrap_or(now);
    let (from, until) = (starts_at.to_rfc3339(), ends_at.to_rfc3339());
    if ends_at <= starts_at {
        let error = format!("ends_at: {until} is not after its begin, {from}");
        return Err(ApiError::bad(error, "give an --until that is later"));
    }
    if ends_at <= now {
        let error = format!("ends_at: {until} is in the past, it is {} now", now.to_rfc3339());
        return Err(ApiError::bad(error, "give a later time, or a span such as 2h"));
    }
    if ends_at.since(starts_at) > SPAN_MAX {
        let fix =
            "give an earlier end; what nobody is ever to hear of is better left out of a route";
        return Err(ApiError::bad("ends_at: is more than a year after its begin", fix));
    }
    Ok(Silence {
        id: ca::new_id(now)?.to_string(),
        matches,
        starts_at,
        ends_at,
        reason,
        by,
        made_at: now,
        ended_at: None,
        ended_by: None,
    })
}

/// Open incidents and servers that a silence is about, and why no server is.
fn covered(conn: &Conn, silence: &Silence) -> ReadResult<(u64, u64, Option<String>)> {
    let filter = incidents::Filter { open: true, n_max: 100_000, ..Default::default() };
    let matcher = Matcher::new(&silence.matches).unwrap_or_default();
    let mut n_incidents = 0;
    let keys = matcher.keys().map(str::to_owned).collect();
    for incident in incidents::list(conn, &filter)? {
        n_incidents += u64::from(matcher.matches_all(&subjects::subject(conn, &incident, &keys)?));
    }
    let fleet = reach::fleet(conn, [&silence.matches])?;
    let n_servers = fleet.iter().filter(|server| server.is_in(&silence.matches)).count() as u64;
    Ok((n_incidents, n_servers, reach::unmatched(&silence.matches, &fleet)))
}
