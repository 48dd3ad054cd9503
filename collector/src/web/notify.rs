//! `/api/v1/notify/*`: what became of pages, how each route stands, and a trial of one. No answer holds
//! a secret, nor more of a receiver's URL than its origin.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::units::Span;

use super::AppState;
use super::api::full_id;
use super::error::{ApiError, InPath, Params, time};
use crate::clock;
use crate::notify::stats::Outcome;
use crate::notify::{Event, Receiver};
use crate::store::notices::{self, Notice, What};
use crate::store::routes;

/// `GET /api/v1/notify/log?...`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// Only of this incident; a beginning of its id is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// Only of this route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only at or after this, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// At most so many, the newest; 1 to 10,000, default 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// How a route stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub route: String,
    /// Kind of the receiver.
    pub kind: String,
    /// Origin of the receiver: scheme, host, port.
    pub place: String,
    /// Least severity.
    pub min_severity: String,
    /// What it must match; empty: anything.
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, String>,
    /// When it may be told; empty: always.
    pub hours: Vec<String>,
    /// When its digest is sent; empty: it gets each incident.
    pub digest: Vec<String>,
    /// Zone of both; null: the machine's.
    pub timezone: Option<String>,
    /// Told of what nobody acknowledged for so long.
    pub escalate_after: Option<Span>,
    /// Whether it hears of ends.
    pub send_resolved: bool,
    /// Messages waiting for it.
    pub n_owed: u64,
    /// Tries in vain of these.
    pub n_tries: u64,
    /// When the first of them was, or is, due.
    #[serde(with = "wire::rfc3339::option")]
    pub oldest_due_at: Option<UnixMillis>,
    /// Pages kept back: by a silence, its hours, or until nobody acknowledged for long enough.
    pub n_held: u64,
    /// When a message arrived last.
    #[serde(with = "wire::rfc3339::option")]
    pub last_delivered_at: Option<UnixMillis>,
    /// Why a try failed last, or a message was given up.
    pub last_error: Option<RouteError>,
    /// Messages that arrived since the collector started.
    pub n_delivered: u64,
    /// Messages given up since then.
    pub n_failed: u64,
}

/// Why a message did not arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteError {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// Why, in words.
    pub why: String,
}

/// A test message that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// True.
    pub ok: bool,
    /// Name of the route.
    pub route: String,
    /// Origin of the receiver.
    pub place: String,
    /// Its delivery, as the receiver was told.
    pub delivery: String,
    /// How long the receiver took.
    pub took_ms: u64,
}

/// `GET /api/v1/notify/log`
pub(super) async fn log(
    State(state): State<AppState>,
    Params(query): Params<LogQuery>,
) -> Result<Json<Vec<Notice>>, ApiError> {
    let since = time("since", query.since.as_deref())?;
    let limit = query.limit.unwrap_or(1000);
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::bad(format!("limit: {limit} is not 1 to 10000"), "ask for fewer"));
    }
    let incident = match query.incident.as_deref() {
        Some(id) => Some(full_id(&state, id).await?),
        None => None,
    };
    if let Some(name) = &query.route {
        let wanted = name.clone();
        let filter = notices::Filter { route: Some(wanted), n_max: 1, ..Default::default() };
        let known = state.store.read(move |conn| notices::list(conn, &filter)).await?;
        if known.is_empty() {
            // One that was configured before may still be asked for.
            receiver(&state, name)?;
        }
    }
    let filter = notices::Filter { incident, route: query.route, since, n_max: limit as usize };
    Ok(Json(state.store.read(move |conn| notices::list(conn, &filter)).await?))
}

/// `GET /api/v1/notify/routes`
pub(super) async fn list(State(state): State<AppState>) -> Result<Json<Vec<RouteView>>, ApiError> {
    let read = state.store.read(|conn| Ok((routes::waiting(conn)?, routes::pasts(conn)?)));
    let (mut waiting, mut pasts) = read.await?;
    let mut counts = state.notify_stats.by_route();
    let view = |receiver: &Receiver| {
        let route = &receiver.target.route;
        let waiting = waiting.remove(&route.name).unwrap_or_default();
        let past = pasts.remove(&route.name).unwrap_or_default();
        let counts = counts.remove(&route.name).unwrap_or_default();
        // What is tried now says more than what was given up before.
        let last_error = past.last_error.into_iter().chain(counts.last_error);
        let last_error = last_error.max_by_key(|(at, _)| *at);
        RouteView {
            route: route.name.clone(),
            kind: receiver.kind.clone(),
            place: receiver.target.sender.place(),
            min_severity: route.min_severity.clone(),
            matches: receiver.matches.clone(),
            hours: receiver.hours.clone(),
            digest: receiver.digest.clone(),
            timezone: receiver.timezone.clone(),
            escalate_after: receiver.escalate_after,
            send_resolved: route.send_resolved,
            n_owed: waiting.n_owed,
            n_tries: waiting.n_tries,
            oldest_due_at: waiting.oldest_due_at,
            n_held: waiting.n_held,
            last_delivered_at: past.last_delivered_at,
            last_error: last_error.map(|(at, why)| RouteError { at, why }),
            n_delivered: counts.n_delivered,
            n_failed: counts.n_refused + counts.n_expired,
        }
    };
    Ok(Json(state.receivers.iter().map(view).collect()))
}

/// `POST /api/v1/notify/routes/{name}/test`: a trial is done whole although its asker goes away, so that
/// the log knows of it.
pub(super) async fn test(
    State(state): State<AppState>,
    InPath(name): InPath<String>,
) -> Result<Json<Tested>, ApiError> {
    let receiver = receiver(&state, &name)?.clone();
    let trial = tokio::spawn(async move {
        let begin = clock::now();
        let (message, ended) = receiver.try_out(&state.links, begin).await;
        let (now, place) = (clock::now(), receiver.target.sender.place());
        let notice = Notice {
            at: now,
            incident: None,
            route: name.clone(),
            event: Event::Test.name().to_owned(),
            what: if ended.is_ok() { What::Delivered } else { What::Refused },
            why: ended.as_ref().err().map_or("a test".to_owned(), |error| error.why.clone()),
            delivery: Some(message.delivery.clone()),
        };
        let outcome = if ended.is_ok() { Outcome::Delivered } else { Outcome::Refused };
        state.notify_stats.count(&name, outcome);
        state.store.write(move |tx| notices::add(tx, &notice)).await?;
        let took_ms = u64::try_from(now.since(begin).as_millis()).unwrap_or(u64::MAX);
        match ended {
            Ok(()) => {
                tracing::info!(route = name, to = place, "test message delivered");
                Ok(Tested { ok: true, route: name, place, delivery: message.delivery, took_ms })
            }
            Err(error) => {
                tracing::warn!(
                    route = name,
                    to = place,
                    reason = error.why,
                    "test message refused"
                );
                let told = format!("{name}: the test did not arrive at {place}: {}", error.why);
                Err(ApiError::new(StatusCode::BAD_GATEWAY, told, fix(&receiver.kind, &error.why)))
            }
        }
    });
    let told = trial.await.unwrap_or_else(|_| {
        let (error, fix) = ("the test was cut off", "look into the collector's log");
        Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error, fix))
    });
    told.map(Json)
}

fn receiver<'a>(state: &'a AppState, name: &str) -> Result<&'a Receiver, ApiError> {
    let found = state.receivers.iter().find(|receiver| receiver.target.route.name == name);
    found.ok_or_else(|| {
        let fix = "`gatewatch-collector notify routes` shows the names; a new one takes a restart";
        ApiError::not_found(format!("there is no route {name:?}"), fix)
    })
}

/// What to do when a receiver of this kind does not take a message.
fn fix(kind: &str, why: &str) -> String {
    let why = why.to_lowercase();
    // A status stands alone: the same digits in a port are none.
    let is_status = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    let numbers: Vec<&str> = why.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let found = |word: &&str| {
        if is_status(word) { numbers.contains(word) } else { why.contains(word) }
    };
    let has = |words: &[&str]| words.iter().any(found);
    if has(&["no such file", "everybody can use it", "permission denied", "is empty"]) {
        return "put that file right, mode 0640 and of the collector's group, and test again"
            .into();
    }
    if has(&["corrupt message", "invalidcontenttype"]) {
        return "it speaks no TLS at that port: write http:// (an e-mail: tls = \"starttls\"), or the \
                port that does"
            .into();
    }
    if has(&["chat_id"]) {
        return "check chat_id, and that the bot is in that chat and may write there".into();
    }
    if why.contains("starttls") && !has(&["certificate", "unknownissuer", "handshake"]) {
        return "the mail server offers no STARTTLS: write tls = \"implicit\" if it speaks TLS at \
                once (port 465), or tls = \"none\" for a server on this machine"
            .into();
    }
    if has(&["certificate", "unknownissuer", "tls", "handshake"]) {
        return "trust its authority with ca_file, or name it by a host its certificate is for"
            .into();
    }
    if has(&["dns", "lookup", "resolve"]) {
        return "check the host in url, and this machine's resolver".into();
    }
    if has(&["401", "403", "unauthorized", "forbidden", "authentication", "535", "the secret"]) {
        let what = match kind {
            "slack" | "teams" | "discord" => {
                "make a new webhook URL there and write that to url_file"
            }
            "email" => "check user, and the password in secret_file",
            _ => "check the key in secret_file: the receiver does not take it",
        };
        return what.into();
    }
    if has(&["404", "410", "not found", "gone"]) {
        return "check url (or what is in url_file): the receiver knows nothing at that path"
            .into();
    }
    if has(&["429", "too many"]) {
        return "it limits us: wait, or lower messages_per_minute_max".into();
    }
    if has(&["refused", "unreachable", "timed out", "timeout", "no answer", "connect"]) {
        return "check that it listens at url and that this machine may reach it".into();
    }
    "mend it at the receiver; or in [[notify]], restart the collector, and test again".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_has_a_fix_that_fits() {
        for (kind, why, part) in [
            ("slack", "the receiver answered 403 Forbidden", "url_file"),
            ("slack", "the receiver answered 404", "url_file"),
            ("ntfy", "/k: No such file or directory (os error 2)", "put that file right"),
            ("webhook", "/k: everybody can use it", "put that file right"),
            ("webhook", "received corrupt message of type InvalidContentType", "speaks no TLS"),
            ("pagerduty", "the receiver answered 401 Unauthorized", "secret_file"),
            (
                "pagerduty",
                "the receiver answered 400: is the secret the right one?: \"Invalid routing key\"",
                "key in secret_file",
            ),
            (
                "telegram",
                "the receiver answered 400: is chat_id the right one, and may the bot write there?",
                "may write there",
            ),
            ("email", "STARTTLS is not supported on this server", "tls = \"implicit\""),
            ("email", "starttls: invalid peer certificate: UnknownIssuer", "ca_file"),
            ("email", "535 5.7.8 authentication failed", "password in secret_file"),
            ("webhook", "error sending request: tcp connect error: Connection refused", "listens"),
            (
                "webhook",
                "error sending request: invalid peer certificate: UnknownIssuer",
                "ca_file",
            ),
            ("webhook", "error sending request: dns error: failed to lookup", "resolver"),
            ("discord", "the receiver answered 404 Not Found", "check url"),
            ("ntfy", "the receiver answered 429 Too Many Requests", "limits us"),
            ("webhook", "127.0.0.1:40123: Connection refused", "listens"),
            ("webhook", "no answer within 45 s", "may reach it"),
            ("teams", "the receiver answered 500 Internal Server Error", "test again"),
        ] {
            assert!(fix(kind, why).contains(part), "{kind} {why}: {}", fix(kind, why));
        }
    }
}
