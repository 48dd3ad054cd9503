//! Names of formats, as a configuration writes them.

use super::{errors, haproxy, json};

/// Formats by name that this build reads; a format string is read as well.
pub const FORMATS: [&str; 18] = [
    "auto",
    "combined",
    "common",
    "vhost_combined",
    "json",
    "haproxy",
    "nginx_ingress",
    "npm_access",
    "caddy",
    "traefik",
    "envoy",
    "varnish",
    "litespeed",
    "lighttpd",
    "iis",
    "alb",
    "cloudflare",
    "cloudfront",
];

/// Every format by name, whatever it is of.
#[cfg(test)]
pub(crate) fn format_names() -> impl Iterator<Item = &'static str> {
    FORMATS.into_iter().chain(errors::names())
}

/// Before the names of the keys of a log of JSON.
pub(super) const JSON_PREFIX: &str = "json:";

/// Before the place of the host among the request headers that HAProxy captures.
pub(super) const HAPROXY_PREFIX: &str = "haproxy:host=";

/// `Err` says what to write unless `format` is a known name or a format string, which may be one
/// without a status: a plain word that is no name would be read as `auto`.
pub fn check_format(format: &str) -> Result<(), String> {
    if let Some(keys) = format.strip_prefix(JSON_PREFIX) {
        return json::Keys::compile(keys).map(drop);
    }
    if let Some(place) = format.strip_prefix(HAPROXY_PREFIX) {
        let fix = "write haproxy:host=N with N the place of the host among the captured request \
                   headers, 0 for none";
        return haproxy::HostAt::told(place).map(drop).ok_or_else(|| fix.to_owned());
    }
    let is_known = FORMATS.contains(&format)
        || errors::by_name(format).is_some()
        || format.contains(['$', '%']);
    let names = FORMATS.join(", ");
    let of_errors = errors::names().collect::<Vec<_>>().join(", ");
    is_known.then_some(()).ok_or_else(|| {
        format!(
            "write {names}, json: with names of keys, or an nginx log_format or Apache \
             LogFormat itself; for an error or system log {of_errors}"
        )
    })
}
