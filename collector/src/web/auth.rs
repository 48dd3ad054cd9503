//! Who asks. Over the Unix socket: root and the collector's own user are admin. Over HTTP: whoever
//! has the admin token (`DATA_DIR/admin.token`, 0600) as bearer.

use std::io;
use std::path::Path;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use tokio::net::UnixStream;

use super::AppState;
use super::error::ApiError;
use super::evidence;
use crate::ca::{self, CaError};
use crate::files;

/// User at the other end of the Unix socket; the kernel says so.
#[derive(Clone, Copy, Debug)]
pub struct PeerUser(Option<u32>);

impl PeerUser {
    /// Asks the kernel.
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self(stream.peer_cred().ok().map(|peer| peer.uid()))
    }
}

/// SHA-256 of the admin token: what is compared, in constant time.
#[derive(Clone)]
pub struct AdminToken([u8; 32]);

impl AdminToken {
    /// Reads the token, or makes it on the first start: 256 random bits in hexadecimal.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => {
                if files::make_private(path)? {
                    tracing::warn!(path = %path.display(), "admin token was readable by others, now it is not");
                }
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret: [u8; 32] =
                    ca::random().map_err(|error: CaError| io::Error::other(error))?;
                let text = format!("{}\n", ca::hex(&secret));
                files::replace_private(path, text.as_bytes())?;
                text
            }
            Err(error) => return Err(error),
        };
        if text.trim().len() < 32 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "shorter than 32 characters: remove the file, the next start makes a new one",
            ));
        }
        Ok(Self::new(text.trim()))
    }

    fn new(token: &str) -> Self {
        Self(ca::sha256(token.as_bytes()))
    }

    fn is(&self, token: &str) -> bool {
        ca::same_secret(&self.0, &ca::sha256(token.as_bytes()))
    }
}

/// Lets admins pass; all else gets 401 or 403. A browser that follows the link of a message is told in
/// words how to go on: it cannot send a token.
pub async fn require_admin(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let peer = request.extensions().get::<ConnectInfo<PeerUser>>().map(|info| info.0);
    match (bearer(request.headers()), peer) {
        (Some(token), _) if state.admin_token.is(token) => Ok(next.run(request).await),
        (Some(_), _) => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the bearer token is not the admin token of this collector",
            "it is in DATA_DIR/admin.token; give it in GATEWATCH_TOKEN",
        )),
        (None, Some(PeerUser(Some(uid)))) if is_admin(uid, state.own_uid) => {
            Ok(next.run(request).await)
        }
        (None, Some(PeerUser(uid))) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("user {} is no admin", uid.map_or("?".to_owned(), |uid| uid.to_string())),
            "run the command as root or as the collector's user, or use --url with GATEWATCH_TOKEN",
        )),
        (None, None) if is_browser(request.headers()) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer"), evidence::POLICY];
            let page = Html(no_login(request.uri().path()));
            Ok((StatusCode::UNAUTHORIZED, challenge, page).into_response())
        }
        (None, None) => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "a token is needed",
            "send `Authorization: Bearer TOKEN`; the admin token is in DATA_DIR/admin.token",
        )),
    }
}

/// Over the socket: root, and the user the collector runs as.
pub(super) fn is_admin(uid: u32, own_uid: u32) -> bool {
    uid == 0 || uid == own_uid
}

/// Whether it asks for a page, as browsers do and programs do not.
fn is_browser(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// What whoever follows a link is shown as long as there is no login.
fn no_login(path: &str) -> String {
    let id = path.strip_prefix("/incidents/").unwrap_or_default();
    let is_id = (1..=26).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let (of, id) = if is_id { (format!(" of incident {id}"), id) } else { (String::new(), "ID") };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>gatewatch: a token is needed</title>\n\
         <style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 2em auto; \
         padding: 0 1em; }} pre {{ overflow-x: auto; padding: .75em 1em; border: 1px solid; }}</style>\n\
         </head>\n<body>\n<h1>A token is needed</h1>\n\
         <p>There is no login for browsers yet. To see all{of}, run on the collector:</p>\n\
         <pre>gatewatch-collector incident show {id}</pre>\n\
         <p>Or fetch this page with the admin token, which is in DATA_DIR/admin.token, and open the \
         file:</p>\n<pre>curl -H \"Authorization: Bearer $GATEWATCH_TOKEN\" -o incident.html \
         THIS_ADDRESS</pre>\n</body>\n</html>\n"
    )
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
