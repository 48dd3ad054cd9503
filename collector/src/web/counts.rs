//! `GET /api/v1/counts`: exact counts of one server, from its stored batches.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::{ApiError, Params, time};
use crate::ingest::{convert, counts};
use crate::store::{fleet, read};

/// `GET /api/v1/counts?...`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountsQuery {
    /// Name of the server.
    server: String,
    /// First second, RFC 3339; default: all.
    from: Option<String>,
    /// First second no longer counted, RFC 3339; default: all.
    to: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CountsView {
    /// Name of the server.
    server: String,
    /// By site and status.
    sites: BTreeMap<String, counts::ByStatus>,
    /// Batches that could not be read; their counts are missing here.
    n_batches_unreadable: u64,
}

/// Cost: reads every stored batch of the server in that time, one after the other.
pub(super) async fn show(
    State(state): State<AppState>,
    Params(query): Params<CountsQuery>,
) -> Result<Json<CountsView>, ApiError> {
    let from = time("from", query.from.as_deref())?.unwrap_or(UnixMillis(i64::MIN));
    let to = time("to", query.to.as_deref())?.unwrap_or(UnixMillis(i64::MAX));
    let server = query.server.clone();
    let summed = state.store.read(move |conn| {
        let Some(member) = fleet::member(conn, &server)? else { return Ok(None) };
        let mut view = CountsView { server, sites: BTreeMap::new(), n_batches_unreadable: 0 };
        // The first second counted is the one `from` lies in, as is the first one not counted.
        let (from_s, to_s) = (from.second(), to.second());
        read::hot_of(conn, member.server, from, to, &mut |codec, body| match convert::unpack(
            codec, body,
        ) {
            Ok(body) => counts::add(&body, from_s, to_s, &mut view.sites),
            Err(_) => view.n_batches_unreadable += 1,
        })?;
        Ok(Some(view))
    });
    summed.await?.map(Json).ok_or_else(|| {
        let fix = "`gatewatch-collector agent list` shows the names";
        ApiError::not_found(format!("there is no server {:?}", query.server), fix)
    })
}
