//! What a gateway answers and writes into its error log when a backend fails, as real ones do.

use crate::fleet::{Front, Server, Site};

/// How a request failed between gateway and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Nobody listens.
    Refused,
    /// The socket's file is gone.
    NoSocket,
    /// The socket's file belongs to somebody else.
    Permission,
    /// The socket's queue is full.
    QueueFull,
    /// Closed without an answer.
    Closed,
    /// Reset while answering.
    Reset,
    /// No answer in time.
    ReadTimeout,
    /// No connection in time.
    ConnectTimeout,
    /// The host is not there, or a filter says so.
    NoRoute,
    /// The name does not resolve.
    NoName,
    /// The header does not fit.
    BigHeader,
    /// The header is no header.
    BadHeader,
    /// The application answers 502 itself.
    ByApplication,
}

impl Way {
    /// The answer takes as long as the gateway's timeout.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::ReadTimeout | Self::ConnectTimeout)
    }
}

/// Status that this front answers with.
///
/// Apache has no 502 of its own for FastCGI, HAProxy none for a connection that fails.
pub(crate) fn status(front: Front, site: &Site, way: Way) -> u16 {
    let is_fcgi = site.backend.starts_with("fastcgi");
    let is_broken = matches!(way, Way::Closed | Way::Reset | Way::BadHeader);
    match front {
        _ if way == Way::ByApplication => 502,
        Front::Nginx if way.waits() => 504,
        Front::Nginx => 502,
        Front::Apache if is_fcgi && way == Way::ReadTimeout => 504,
        Front::Apache if !is_fcgi && (is_broken || way == Way::ReadTimeout) => 502,
        Front::Haproxy if way == Way::ReadTimeout => 504,
        Front::Haproxy if is_broken || way == Way::BigHeader => 502,
        Front::Apache | Front::Haproxy => 503,
    }
}

/// The error line of one failed request; empty when there is none, `None` when no log says why.
pub(crate) fn message(server: &Server, site: &Site, way: Way, client: &str) -> Option<String> {
    if !server.log_is_readable || server.front == Front::Haproxy {
        return None;
    }
    if way == Way::ByApplication {
        return Some(String::new());
    }
    Some(match server.front {
        Front::Apache => apache(site, way, client),
        _ => nginx(site, way, client),
    })
}

fn nginx(site: &Site, way: Way, client: &str) -> String {
    let backend = &site.backend;
    let socket = backend.strip_prefix("fastcgi://").map(|rest| rest.trim_end_matches(':'));
    let to = socket.map_or(String::new(), |socket| format!(" to {socket}"));
    let address = site.upstream.as_deref().unwrap_or("app.internal");
    let host = address.split(':').next().unwrap_or(address);
    let reading = "while reading response header from upstream";
    let connecting = "while connecting to upstream";
    let what = match way {
        Way::Refused => format!("connect(){to} failed (111: Connection refused) {connecting}"),
        Way::NoSocket => {
            format!("connect(){to} failed (2: No such file or directory) {connecting}")
        }
        Way::Permission => format!("connect(){to} failed (13: Permission denied) {connecting}"),
        Way::QueueFull => {
            format!("connect(){to} failed (11: Resource temporarily unavailable) {connecting}")
        }
        Way::Closed => format!("upstream prematurely closed connection {reading}"),
        Way::Reset => format!("recv() failed (104: Connection reset by peer) {reading}"),
        Way::ReadTimeout => {
            format!("upstream timed out (110: Connection timed out) {reading}")
        }
        Way::ConnectTimeout => {
            format!("upstream timed out (110: Connection timed out) {connecting}")
        }
        Way::NoRoute => format!("connect() failed (113: No route to host) {connecting}"),
        Way::NoName => format!("{host} could not be resolved (2: Server failure)"),
        Way::BigHeader => format!("upstream sent too big header {reading}"),
        Way::BadHeader => format!("upstream sent invalid header: \"Broken\\x20...\" {reading}"),
        Way::ByApplication => String::new(),
    };
    let request = "request: \"GET /page HTTP/1.1\"";
    let name = &site.name;
    if way == Way::NoName {
        return format!("{what}, client: {client}, server: {name}, {request}, host: \"{name}\"");
    }
    format!(
        "{what}, client: {client}, server: {name}, {request}, upstream: \"{backend}\", \
         host: \"{name}\""
    )
}

fn apache(site: &Site, way: Way, client: &str) -> String {
    let socket = site.backend.strip_prefix("fastcgi://unix:").map(|s| s.trim_end_matches(':'));
    let address = site.backend.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let failed = |errno: &str| match socket {
        Some(socket) => format!(
            "{errno}: AH02454: FCGI: attempt to connect to Unix domain socket {socket} \
             ({}:8000) failed",
            site.name
        ),
        None => format!("{errno}: AH00957: http: attempt to connect to {address} failed"),
    };
    let expired = "(70007)The timeout specified has expired";
    let from = format!("[client {client}:45044]");
    match way {
        Way::Refused => failed("(111)Connection refused"),
        Way::NoSocket => failed("(2)No such file or directory"),
        Way::Permission => failed("(13)Permission denied"),
        Way::QueueFull => failed("(11)Resource temporarily unavailable"),
        Way::NoRoute => failed("(113)No route to host"),
        Way::ConnectTimeout => failed(expired),
        Way::ReadTimeout if socket.is_some() => {
            format!("{expired}: {from} AH01075: Error dispatching request to : (polling)")
        }
        Way::ReadTimeout => format!(
            "{expired}: {from} AH01102: error reading status line from remote server {address}"
        ),
        Way::Reset if socket.is_some() => format!(
            "(104)Connection reset by peer: {from} AH01075: Error dispatching request to : "
        ),
        Way::Closed | Way::BigHeader | Way::BadHeader if socket.is_some() => {
            format!("(70014)End of file found: {from} AH01075: Error dispatching request to : ")
        }
        Way::Reset => format!(
            "(104)Connection reset by peer: {from} AH01102: error reading status line from \
             remote server {address}"
        ),
        Way::Closed => format!(
            "(20014)Internal error (specific information not available): {from} AH01102: error \
             reading status line from remote server {address}"
        ),
        Way::BigHeader | Way::BadHeader => {
            format!("{from} AH01106: bad HTTP/1.1 header returned by /page (GET)")
        }
        Way::NoName => {
            format!("(EAI 2)Name or service not known: {from} AH00898: DNS lookup failure")
        }
        Way::ByApplication => String::new(),
    }
}
