//! The `server-status` pages of Apache.

use crate::discover::backends::{StatusKind, StatusPage, listens};
use crate::discover::found::Vhost;

/// Longest path that is asked for.
const PATH_BYTES_MAX: usize = 256;

/// The path of a `<Location>`, if it can be asked for.
pub(super) fn checked_path(path: &str) -> Option<String> {
    let path = path.trim_matches('"');
    let is_path = path.starts_with('/')
        && path.len() <= PATH_BYTES_MAX
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*');
    is_path.then(|| path.to_owned())
}

/// The pages of a vhost, or of the main server, that can be asked from this machine.
pub(super) fn status_pages(paths: &[String], vhost: &Vhost) -> Vec<StatusPage> {
    // The own addresses are not known here: loopback and what listens everywhere will do.
    let Some(listen) = listens(vhost, &[]).into_iter().next() else { return Vec::new() };
    let page = |path: &String| StatusPage {
        kind: StatusKind::Apache,
        address: listen.address.to_string(),
        path: format!("{path}?auto"),
        host: vhost.names.first().cloned().unwrap_or_else(|| "localhost".to_owned()),
        is_tls: listen.is_tls,
        source: vhost.source.clone(),
    };
    paths.iter().map(page).collect()
}
