//! `GET /api/v1/counts`: exact counts of one server, from what is stored of it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::{ApiError, Params, time};
use super::series::no_server;
use crate::ingest::counts;
use crate::store::fleet;
use crate::store::history::{Limits, Notes, Told};

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
    /// Whether that is all of it.
    #[serde(flatten)]
    notes: Notes,
}

/// Cost: reads what is stored of the server in that time, hour by hour.
pub(super) async fn show(
    State(state): State<AppState>,
    Params(query): Params<CountsQuery>,
) -> Result<Json<CountsView>, ApiError> {
    let from = time("from", query.from.as_deref())?.unwrap_or(UnixMillis(i64::MIN));
    let to = time("to", query.to.as_deref())?.unwrap_or(UnixMillis(i64::MAX));
    let name = query.server;
    let summed = state.store.history(Limits::default(), move |history| {
        let Some(member) = fleet::member(history.conn(), &name)? else {
            return no_server(history.conn(), &name).map(Err);
        };
        // The first second counted is the one `from` lies in, as is the first one not counted.
        let sites = history.counts(member.server, (from.second(), to.second()))?;
        Ok(Ok((name, sites)))
    });
    let Told { value, notes } = summed.await?;
    let (server, sites) = value?;
    Ok(Json(CountsView { server, sites, notes }))
}
