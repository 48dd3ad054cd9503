//! Speaks `/api/v1` to a running collector: through its socket, or over HTTP with a token.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::exit;
use crate::errors;
use crate::web::error::ErrorBody;

/// Longest wait for an answer that is no stream.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a command did not get what it asked for.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub error: String,
    /// What to do.
    pub fix: String,
    /// Exit code of the command.
    pub code: u8,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  fix: {}", self.error, self.fix)
    }
}

impl Failure {
    /// The command line asks for something that cannot be.
    pub fn usage(error: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { error: error.into(), fix: fix.into(), code: exit::USAGE }
    }

    fn internal(error: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { error: error.into(), fix: fix.into(), code: exit::INTERNAL }
    }
}

/// A collector to talk to.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    socket: Option<PathBuf>,
}

impl Client {
    /// The collector of this machine.
    pub fn local(socket: &Path) -> Result<Self, Failure> {
        // Nothing is encrypted on the socket: a machine without CA certificates will do.
        let http = client().unix_socket(socket.to_owned()).tls_certs_only([]).build();
        let http = http.map_err(|e| no_client(&e))?;
        let base = Url::parse("http://collector/").expect("a constant URL");
        Ok(Self { http, base, token: None, socket: Some(socket.to_owned()) })
    }

    /// A remote one; `token` is its admin token.
    pub fn remote(url: &str, token: Option<String>) -> Result<Self, Failure> {
        let fix = "give it as --url http://HOST:8503";
        let base =
            Url::parse(url).map_err(|error| Failure::usage(format!("{url:?}: {error}"), fix))?;
        if !["http", "https"].contains(&base.scheme()) {
            return Err(Failure::usage(format!("{url:?} is neither http nor https"), fix));
        }
        let Some(token) = token.filter(|token| !token.trim().is_empty()) else {
            return Err(Failure::usage(
                "no token for the remote collector",
                "set GATEWATCH_TOKEN to what is in its DATA_DIR/admin.token",
            ));
        };
        let http = client().build().map_err(|error| no_client(&error))?;
        Ok(Self { http, base, token: Some(token.trim().to_owned()), socket: None })
    }

    /// GET.
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = self.request(Method::GET, path).query(query).timeout(TIMEOUT);
        read(self.send(request).await?).await
    }

    /// GET of an answer that is kept as it comes.
    pub async fn get_text(&self, path: &[&str]) -> Result<String, Failure> {
        let response = self.send(self.request(Method::GET, path).timeout(TIMEOUT)).await?;
        response.text().await.map_err(|error| {
            let error = format!("the collector's answer broke off: {}", errors::chain(&error));
            Failure::internal(error, "ask again")
        })
    }

    /// POST or PATCH with a JSON body.
    pub async fn put<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let request = self.request(method, path).json(body).timeout(TIMEOUT);
        read(self.send(request).await?).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &[&str]) -> Result<(), Failure> {
        self.send(self.request(Method::DELETE, path).timeout(TIMEOUT)).await.map(|_| ())
    }

    /// DELETE with a query, e.g. of who does it.
    pub async fn delete_by(&self, path: &[&str], query: &impl Serialize) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, path).query(query).timeout(TIMEOUT);
        self.send(request).await.map(|_| ())
    }

    /// GET of an endless answer.
    pub async fn stream(&self, path: &[&str]) -> Result<Response, Failure> {
        self.send(self.request(Method::GET, path)).await
    }

    /// GET, or POST where there is a body, of an answer that comes as lines of this type.
    pub async fn lines(
        &self,
        path: &[&str],
        query: &impl Serialize,
        body: Option<String>,
    ) -> Result<Response, Failure> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let request = self.request(method, path).query(query);
        let request = request.header(header::ACCEPT, "application/x-ndjson");
        self.send(request.body(body.unwrap_or_default())).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Segments are escaped one by one: a name with a slash stays one name.
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        if let Some(socket) = &self.socket {
            // Asked by hand first: this error says why, the client's does not.
            UnixStream::connect(socket).map_err(|error| not_running(socket, &error))?;
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let Ok(body) = response.json::<ErrorBody>().await else {
            return Err(Failure::internal(
                format!("the collector answered {status}"),
                "is this the address of a gatewatch-collector?",
            ));
        };
        Err(Failure { error: body.error, fix: body.fix, code: code_of(status.as_u16()) })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = error.source().map_or_else(|| error.to_string(), errors::chain);
        Failure::internal(
            format!("the collector at {} does not answer: {why}", self.base),
            "is it running, and is this its address?",
        )
    }
}

/// Exit code of an answer of this status that is no success.
pub(super) fn code_of(status: u16) -> u8 {
    match StatusCode::from_u16(status) {
        // The collector did as it was told, and somebody behind it said no.
        Ok(StatusCode::BAD_GATEWAY) => exit::NO,
        Ok(StatusCode::FAILED_DEPENDENCY) => exit::CONFIG,
        Ok(status) if status.is_client_error() && status != StatusCode::UNAUTHORIZED => exit::USAGE,
        _ => exit::INTERNAL,
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    response.json().await.map_err(|error| {
        Failure::internal(
            format!("the collector's answer cannot be read: {}", errors::chain(&error)),
            "use the gatewatch-collector of the same release",
        )
    })
}

fn client() -> reqwest::ClientBuilder {
    // Installed already when the program runs as a daemon; then this changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
}

fn no_client(error: &reqwest::Error) -> Failure {
    Failure::internal(
        format!("no HTTP client could be made: {}", errors::chain(error)),
        "install the package ca-certificates",
    )
}

fn not_running(socket: &Path, error: &io::Error) -> Failure {
    let shown = socket.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Failure::internal(
            format!("{shown}: you may not talk to the collector"),
            "run the command as root or as the collector's user, or use --url with GATEWATCH_TOKEN",
        );
    }
    Failure::internal(
        format!("the collector is not running: nothing answers on {shown} ({error})"),
        "start it with `systemctl start gatewatch-collector` or `gatewatch-collector run`; if it \
         runs with another configuration, give that with --config",
    )
}
