//! Every answer that is no success: JSON `{"error","fix"}`, also for requests that cannot be read.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::ca::CaError;
use crate::errors;
use crate::store::StoreError;

/// An answer that says what is wrong and what to do.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

/// `{"error","fix"}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub fix: String,
}

impl ApiError {
    /// `error` names the object, `fix` the next step.
    pub fn new(status: StatusCode, error: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), fix: fix.into() } }
    }

    /// For an answer whose status is sent already.
    pub(super) fn into_parts(self) -> (StatusCode, ErrorBody) {
        (self.status, self.body)
    }

    /// 404.
    pub fn not_found(error: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, fix)
    }

    /// 400.
    pub fn bad(error: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, fix)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if let StoreError::ReadTooLong(time_max) = error {
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("reading took longer than {} s and was cut off", time_max.as_secs()),
                "ask for a shorter time, or again when the collector has less to do",
            );
        }
        tracing::error!(error = %errors::chain(&error), "request failed at the database");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer",
            "look into the collector's log; is the disk full?",
        )
    }
}

impl From<CaError> for ApiError {
    fn from(error: CaError) -> Self {
        tracing::error!(error = %errors::chain(&error), "request failed at the certificate authority");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the certificate authority does not work",
            "look into the collector's log",
        )
    }
}

const SEE_OPENAPI: &str = "see /api/v1/openapi.json";

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), SEE_OPENAPI)
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), SEE_OPENAPI)
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), SEE_OPENAPI)
    }
}

/// An instant given as `key`, RFC 3339; refused with how to write it.
pub(super) fn time(key: &str, text: Option<&str>) -> Result<Option<UnixMillis>, ApiError> {
    let parse = |text: &str| {
        UnixMillis::parse_rfc3339(text).ok_or_else(|| {
            let error = format!("{key}: {text:?} is no time");
            ApiError::bad(error, "write it like 2026-11-20T12:00:00Z")
        })
    };
    text.map(parse).transpose()
}

/// `axum::Json`, refusing in JSON.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub struct Body<T>(pub T);

/// `axum::extract::Query`, refusing in JSON.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub struct Params<T>(pub T);

/// `axum::extract::Path`, refusing in JSON.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct InPath<T>(pub T);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_read_that_took_too_long_is_no_dead_database() {
        let error = ApiError::from(StoreError::ReadTooLong(Duration::from_secs(30)));
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error.body.error, "reading took longer than 30 s and was cut off");
        assert!(error.body.fix.starts_with("ask for a shorter time"), "{}", error.body.fix);
        let dead = ApiError::from(StoreError::Closed);
        assert_eq!(dead.body.error, "the database does not answer");
    }

    #[test]
    fn a_time_is_read_by_one_rule_or_refused_with_its_key() {
        assert_eq!(time("from", None).unwrap(), None);
        let read = time("from", Some("1970-01-01T00:00:01Z")).unwrap();
        assert_eq!(read, Some(UnixMillis(1000)));
        let refused = time("since", Some("yesterday")).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert_eq!(refused.body.error, "since: \"yesterday\" is no time");
    }
}
