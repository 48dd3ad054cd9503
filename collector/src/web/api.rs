//! `/api/v1`: incidents, agents and tokens as JSON. The operator commands speak nothing else.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::units::Span;

use super::AppState;
use super::error::{ApiError, Body, InPath, Params, time};
use crate::model::Incident;
use crate::store::fleet::{self, ForgetRefusal, ServerDetail, ServerView};
use crate::store::tokens::{self, TokenTerms, TokenView};
use crate::store::{follow, incidents};
use crate::{ca, clock};

/// Longest name of a person, and longest note, in characters.
const BY_CHARS_MAX: usize = 64;
const NOTE_CHARS_MAX: usize = 4000;

/// Longest life of a join token.
const TTL_MAX_MS: u128 = 365 * 86_400_000;

/// Letters of a token: no 0, 1, l, o, so that it can be read out.
const TOKEN_LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// `GET /api/v1/incidents?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IncidentQuery {
    /// Only those still open.
    pub open: bool,
    /// Only those not over before this, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Also those merged into another one.
    pub merged: bool,
    /// At most so many, newest first; 1 to 10,000, default 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// `POST /api/v1/incidents/{id}/ack`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckRequest {
    /// Who takes it.
    pub by: String,
}

/// `POST /api/v1/incidents/{id}/notes`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoteRequest {
    /// Who says it.
    pub by: String,
    /// What.
    pub text: String,
}

/// `POST /api/v1/tokens`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Labels of every server that joins with it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long it can be used, e.g. `1h`.
    #[serde(default = "an_hour")]
    pub ttl: Span,
    /// How many servers may join with it.
    #[serde(default = "once")]
    pub uses: u32,
    /// Server whose name and history the joining one gets.
    #[serde(default)]
    pub replace: Option<String>,
}

fn an_hour() -> Span {
    Span(std::time::Duration::from_secs(3600))
}

fn once() -> u32 {
    1
}

/// A token just made: the only time its secret is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// The public half.
    pub id: String,
    /// The whole token.
    pub token: String,
    /// `sha256:HEX` of the CA.
    pub ca_hash: String,
    /// From when on it is useless.
    #[serde(with = "wire::rfc3339")]
    pub expires_at: UnixMillis,
    /// How many servers may join with it.
    pub uses: u32,
    /// Labels of every server that joins with it.
    pub labels: BTreeMap<String, String>,
    /// Server whose name and history the joining one gets.
    pub replace: Option<String>,
    /// Installs and enrols an agent on a new machine, as root.
    pub command: String,
    /// Enrols an agent that is installed already.
    pub enroll_command: String,
}

/// `GET /api/v1/incidents`
pub async fn list_incidents(
    State(state): State<AppState>,
    Params(query): Params<IncidentQuery>,
) -> Result<Json<Vec<Incident>>, ApiError> {
    let since = time("since", query.since.as_deref())?;
    let limit = query.limit.unwrap_or(1000);
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::bad(format!("limit: {limit} is not 1 to 10000"), "ask for fewer"));
    }
    let filter =
        incidents::Filter { open: query.open, since, merged: query.merged, n_max: limit as usize };
    Ok(Json(state.store.read(move |conn| incidents::list(conn, &filter)).await?))
}

/// `GET /api/v1/incidents/{id}`
pub async fn show_incident(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
) -> Result<Json<Incident>, ApiError> {
    let id = full_id(&state, &id).await?;
    one_incident(&state, id).await
}

/// `POST /api/v1/incidents/{id}/ack`
pub async fn ack_incident(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
    Body(request): Body<AckRequest>,
) -> Result<Json<Incident>, ApiError> {
    let by = person(&request.by)?;
    let (full, at) = (full_id(&state, &id).await?, clock::now());
    let id = full.clone();
    tracing::info!(incident = id, by, "incident acknowledged");
    state.store.write(move |tx| incidents::ack(tx, &id, &by, at)).await?;
    one_incident(&state, full).await
}

/// `POST /api/v1/incidents/{id}/notes`
pub async fn note_incident(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
    Body(request): Body<NoteRequest>,
) -> Result<Json<Incident>, ApiError> {
    let by = person(&request.by)?;
    let text = request.text.trim().to_owned();
    if text.is_empty() || text.chars().count() > NOTE_CHARS_MAX {
        let error = format!("text: is empty or longer than {NOTE_CHARS_MAX} characters");
        return Err(ApiError::bad(error, "say it in fewer words"));
    }
    let (full, at) = (full_id(&state, &id).await?, clock::now());
    let id = full.clone();
    state.store.write(move |tx| incidents::note(tx, &id, &by, at, &text)).await?;
    one_incident(&state, full).await
}

/// `GET /api/v1/agents`
pub async fn list_agents(State(state): State<AppState>) -> Result<Json<Vec<ServerView>>, ApiError> {
    let now = clock::now();
    Ok(Json(state.store.read(move |conn| fleet::list(conn, now)).await?))
}

/// `GET /api/v1/agents/{name}`
pub async fn show_agent(
    State(state): State<AppState>,
    InPath(name): InPath<String>,
) -> Result<Json<ServerDetail>, ApiError> {
    one_agent(&state, name).await
}

/// `PATCH /api/v1/agents/{name}/labels`
pub async fn label_agent(
    State(state): State<AppState>,
    InPath(name): InPath<String>,
    Body(labels): Body<BTreeMap<String, String>>,
) -> Result<Json<ServerDetail>, ApiError> {
    check_labels(&labels)?;
    let server = name.clone();
    tracing::info!(server, ?labels, "labels set by the operator");
    if !state.store.write(move |tx| fleet::label(tx, &server, &labels)).await? {
        return Err(no_agent(&name));
    }
    one_agent(&state, name).await
}

/// `POST /api/v1/agents/{name}/revoke`
pub async fn revoke_agent(
    State(state): State<AppState>,
    InPath(name): InPath<String>,
) -> Result<Json<ServerDetail>, ApiError> {
    let (server, now) = (name.clone(), clock::now());
    if !state.store.write(move |tx| fleet::revoke(tx, &server, now)).await? {
        return Err(no_agent(&name));
    }
    tracing::info!(server = name, "server revoked");
    one_agent(&state, name).await
}

/// `DELETE /api/v1/agents/{name}`
pub async fn forget_agent(
    State(state): State<AppState>,
    InPath(name): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let (server, now) = (name.clone(), clock::now());
    match state.store.write(move |tx| fleet::forget(tx, &server, now)).await? {
        Ok(()) => {}
        Err(ForgetRefusal::Unknown) => return Err(no_agent(&name)),
        Err(ForgetRefusal::Up) => {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                format!("server {name:?} is connected"),
                format!("stop its agent, or `gatewatch-collector agent revoke {name}` first"),
            ));
        }
    }
    tracing::info!(server = name, "server forgotten");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/tokens`
pub async fn list_tokens(State(state): State<AppState>) -> Result<Json<Vec<TokenView>>, ApiError> {
    let now = clock::now();
    Ok(Json(state.store.read(move |conn| tokens::list(conn, now)).await?))
}

/// `POST /api/v1/tokens`
pub async fn create_token(
    State(state): State<AppState>,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<NewToken>), ApiError> {
    check_labels(&request.labels)?;
    if !(1..=TTL_MAX_MS).contains(&request.ttl.0.as_millis()) {
        return Err(ApiError::bad("ttl: is not 1 ms to 1 y", "write it like 1h"));
    }
    if request.uses == 0 || (request.replace.is_some() && request.uses != 1) {
        let error = format!("uses: {} makes no sense here", request.uses);
        return Err(ApiError::bad(error, "at least 1; with `replace` exactly 1"));
    }
    if let Some(name) = request.replace.clone() {
        let known = state.store.read(move |conn| fleet::member(conn, &name)).await?;
        known.ok_or_else(|| no_agent(request.replace.as_deref().unwrap_or_default()))?;
    }
    let (id, secret, now) = (letters::<8>()?, letters::<32>()?, clock::now());
    let terms = TokenTerms {
        labels: request.labels.clone(),
        replace: request.replace.clone(),
        expires_at: now.plus(request.ttl.0),
        uses_max: request.uses,
    };
    let made = new_token(&state, &id, &format!("{id}.{secret}"), &terms);
    tracing::info!(token = id, uses = terms.uses_max, expires_at = %terms.expires_at, "join token created");
    state.store.write(move |tx| tokens::insert(tx, &id, &secret, &terms, now)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// `DELETE /api/v1/tokens/{id}`
pub async fn revoke_token(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let (token, now) = (id.clone(), clock::now());
    if !state.store.write(move |tx| tokens::revoke(tx, &token, now)).await? {
        let fix = "`gatewatch-collector token list` shows the ids";
        return Err(ApiError::not_found(format!("there is no token {id:?}"), fix));
    }
    tracing::info!(token = id, "join token revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// Words of the commands that join a machine. The pin makes curl trust this collector's key and no
/// other, whatever the name; `--insecure` only says that no public authority vouches for it.
fn new_token(state: &AppState, id: &str, token: &str, terms: &TokenTerms) -> NewToken {
    let (address, ca_hash) = (&state.agents_address, state.ca.hash());
    let join = format!("--collector {address} --token {token} --ca-hash {ca_hash}");
    let pin = base64(&state.ca.server_key_sha256());
    NewToken {
        id: id.to_owned(),
        token: token.to_owned(),
        expires_at: terms.expires_at,
        uses: terms.uses_max,
        labels: terms.labels.clone(),
        replace: terms.replace.clone(),
        command: format!(
            "curl -fsS --insecure --pinnedpubkey 'sha256//{pin}' https://{address}/install.sh | sh -s -- {join}"
        ),
        enroll_command: format!("gatewatch-agent enroll {join}"),
        ca_hash,
    }
}

async fn one_incident(state: &AppState, id: String) -> Result<Json<Incident>, ApiError> {
    let wanted = id.clone();
    let found = state.store.read(move |conn| incidents::get(conn, &wanted)).await?;
    found.map(Json).ok_or_else(|| no_incident(&id))
}

/// The whole id of an incident, given a beginning that only one has.
pub(super) async fn full_id(state: &AppState, id: &str) -> Result<String, ApiError> {
    let prefix = id.to_ascii_uppercase();
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(no_incident(id));
    }
    let mut ids = state.store.read(move |conn| follow::ids_with_prefix(conn, &prefix)).await?;
    match (ids.pop(), ids.pop()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("several incidents begin with {id:?}"),
            "give more letters of the id",
        )),
        (None, _) => Err(no_incident(id)),
    }
}

async fn one_agent(state: &AppState, name: String) -> Result<Json<ServerDetail>, ApiError> {
    let (wanted, now) = (name.clone(), clock::now());
    let found = state.store.read(move |conn| fleet::show(conn, &wanted, now)).await?;
    found.map(Json).ok_or_else(|| no_agent(&name))
}

pub(super) fn no_incident(id: &str) -> ApiError {
    let fix = "`gatewatch-collector incident list` shows the ids";
    ApiError::not_found(format!("there is no incident {id:?}"), fix)
}

fn no_agent(name: &str) -> ApiError {
    let fix = "`gatewatch-collector agent list` shows the names";
    ApiError::not_found(format!("there is no server {name:?}"), fix)
}

pub(super) fn person(by: &str) -> Result<String, ApiError> {
    let by = by.trim();
    let good =
        !by.is_empty() && by.chars().count() <= BY_CHARS_MAX && !by.chars().any(char::is_control);
    if good {
        return Ok(by.to_owned());
    }
    Err(ApiError::bad("by: is no name of a person", "give a name of 1 to 64 characters"))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    fleet::check_labels(labels)
        .map_err(|why| ApiError::bad(format!("labels: {why}"), "write them like rack=r7"))
}

fn letters<const N: usize>() -> Result<String, ApiError> {
    let bytes: [u8; N] = ca::random()?;
    Ok(bytes.iter().map(|byte| char::from(TOKEN_LETTERS[usize::from(byte % 32)])).collect())
}

/// Base64 with padding (RFC 4648): curl wants a pin in it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
