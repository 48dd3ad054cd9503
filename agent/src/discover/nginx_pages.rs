//! What a vhost of nginx says of its listeners, and its `stub_status` pages.

use crate::discover::backends::{StatusKind, StatusPage, listens};
use crate::discover::found::Vhost;
use crate::discover::nginx::Directive;

/// Locations in each other that are looked through.
const DEPTH_MAX: u32 = 8;
/// Longest path that is asked for.
const PATH_BYTES_MAX: usize = 256;

/// `listen 443 ssl default_server proxy_protocol`.
pub(super) fn note_listen(vhost: &mut Vhost, args: &[String]) {
    let Some((address, options)) = args.split_first() else { return };
    vhost.listen.push(address.clone());
    let has = |names: &[&str]| options.iter().any(|word| names.contains(&word.as_str()));
    if has(&["default_server", "default"]) {
        vhost.default_at.push(address.clone());
    }
    if has(&["ssl"]) {
        vhost.tls_at.push(address.clone());
    }
    // What waits for another greeting than a request is not asked.
    if has(&["proxy_protocol", "quic"]) {
        vhost.wrapped_at.push(address.clone());
    }
}

/// The status pages of a vhost that can be asked from this machine.
pub(super) fn status_pages(block: &[Directive], vhost: &Vhost) -> Vec<StatusPage> {
    let mut paths = Vec::new();
    collect(block, "/", 0, &mut paths);
    // The own addresses are not known here: loopback and what listens everywhere will do.
    let Some(listen) = listens(vhost, &[]).into_iter().next() else { return Vec::new() };
    let is_plain =
        |name: &&String| !name.starts_with(['_', '~', '*', '.', '$']) && !name.is_empty();
    let host = vhost.names.iter().find(is_plain).cloned();
    let page = |path| StatusPage {
        kind: StatusKind::Nginx,
        address: listen.address.to_string(),
        path,
        host: host.clone().unwrap_or_else(|| "localhost".to_owned()),
        is_tls: listen.is_tls,
        source: vhost.source.clone(),
    };
    paths.into_iter().map(page).collect()
}

fn collect(block: &[Directive], path: &str, depth: u32, paths: &mut Vec<String>) {
    if block
        .iter()
        .any(|d| d.name() == "stub_status" && d.args().first().is_none_or(|w| w != "off"))
    {
        paths.push(path.to_owned());
    }
    for inner in block.iter().filter(|_| depth < DEPTH_MAX) {
        let Some(block) = &inner.block else { continue };
        let path = match (inner.name(), inner.args()) {
            ("location", [path] | [_, path]) => path,
            ("if" | "limit_except", _) => path,
            _ => continue,
        };
        // Nobody can tell what a regular expression matches.
        let is_regex = inner.args().first().is_some_and(|word| word.starts_with('~'));
        let is_path = path.starts_with('/') && path.len() <= PATH_BYTES_MAX;
        if is_path && !is_regex && path.bytes().all(|byte| byte.is_ascii_graphic()) {
            collect(block, path, depth + 1, paths);
        }
    }
}
