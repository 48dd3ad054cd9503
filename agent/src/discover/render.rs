//! What discovery found, as JSON and as text for people. Pure.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::discover::backends::{Backend, StatusPage};
use crate::discover::{Discovery, Pool, Site, Unreadable};

/// One object, as the contract has it.
#[must_use]
pub fn render_json(discovery: &Discovery) -> Value {
    let inner = inner_logs(discovery);
    json!({
        "sites": discovery.sites.iter().map(|site| site_json(site, &inner)).collect::<Vec<_>>(),
        "pools": discovery.pools.iter().map(pool_json).collect::<Vec<_>>(),
        "services": discovery.services,
        "backends": discovery.backends.iter().map(backend_json).collect::<Vec<_>>(),
        "status_pages": discovery.status_pages.iter().map(page_json).collect::<Vec<_>>(),
        "unreadable": discovery.unreadable.iter().map(unreadable_json).collect::<Vec<_>>(),
    })
}

/// The same as text, written piece by piece: the whole of a machine with very many sites would take
/// a multiple of the memory that finding them does.
pub fn write_json(discovery: &Discovery, out: &mut dyn Write) -> io::Result<()> {
    let inner = inner_logs(discovery);
    out.write_all(b"{\"sites\":[")?;
    list(out, discovery.sites.iter().map(|site| site_json(site, &inner)))?;
    out.write_all(b"],\"pools\":[")?;
    list(out, discovery.pools.iter().map(pool_json))?;
    out.write_all(b"],\"services\":[")?;
    list(out, discovery.services.iter().map(|service| json!(service)))?;
    out.write_all(b"],\"backends\":[")?;
    list(out, discovery.backends.iter().map(backend_json))?;
    out.write_all(b"],\"status_pages\":[")?;
    list(out, discovery.status_pages.iter().map(page_json))?;
    out.write_all(b"],\"unreadable\":[")?;
    list(out, discovery.unreadable.iter().map(unreadable_json))?;
    out.write_all(b"]}\n")
}

fn list(out: &mut dyn Write, values: impl Iterator<Item = Value>) -> io::Result<()> {
    for (n, value) in values.enumerate() {
        if n > 0 {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, &value)?;
    }
    Ok(())
}

/// Logs behind another server of this machine, whose log counts the requests.
fn inner_logs(discovery: &Discovery) -> BTreeSet<&Path> {
    let inner = discovery.logs.iter().filter(|log| log.inner);
    inner.map(|log| log.path.as_path()).collect()
}

fn site_json(site: &Site, inner: &BTreeSet<&Path>) -> Value {
    let logs = site.access_logs.iter().map(|log| {
        let is_inner = inner.contains(log.path.as_path());
        json!({"path": log.path, "format": log.format, "inner": is_inner})
    });
    json!({
        "site": site.name,
        "aliases": site.aliases,
        "access_logs": logs.collect::<Vec<_>>(),
        "error_logs": site.error_logs,
        "pool": site.pool,
        "upstream": site.upstream,
        "owner": site.owner,
        "application": site.application,
        "php_version": site.php_version,
        "docroot": site.docroot,
        "source": site.source,
    })
}

fn pool_json(pool: &Pool) -> Value {
    json!({
        "pool": pool.name,
        "listen": pool.listen,
        "unit": pool.unit,
        "max_children": pool.max_children,
        "backlog": pool.backlog,
        "error_log": pool.error_log,
        "slow_log": pool.slow_log,
        "php_version": pool.php_version,
        "user": pool.user,
        "group": pool.group,
        "pm": pool.pm,
        "start_servers": pool.start_servers,
        "min_spare_servers": pool.min_spare_servers,
        "max_spare_servers": pool.max_spare_servers,
        "max_requests": pool.max_requests,
        "process_idle_timeout_s": pool.process_idle_timeout_s,
        "request_terminate_timeout_s": pool.request_terminate_timeout_s,
        "request_slowlog_timeout_s": pool.request_slowlog_timeout_s,
        "status_path": pool.status_path,
        "status_listen": pool.status_listen,
        "source": pool.source,
    })
}

fn backend_json(backend: &Backend) -> Value {
    json!({
        "address": backend.address,
        "sites": backend.sites,
        "n_sites": backend.n_sites,
        "tls": backend.is_tls,
        "pool": backend.pool,
    })
}

fn page_json(page: &StatusPage) -> Value {
    json!({
        "kind": page.kind.name(),
        "address": page.address,
        "path": page.path,
        "source": page.source,
    })
}

fn unreadable_json(entry: &Unreadable) -> Value {
    json!({"path": entry.path, "reason": entry.reason, "fix": entry.fix})
}

/// A page of text: sites, pools, services, and what needs a hand.
#[must_use]
pub fn render_text(discovery: &Discovery) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    if discovery.sites.is_empty() {
        line("no sites found: no configuration of a web server here");
    } else {
        line(&count(discovery.sites.len(), "site"));
    }
    let inner = inner_logs(discovery);
    for site in &discovery.sites {
        line(&format!("  {}{}", site.name, describe(site)));
        for log in &site.access_logs {
            let is_inner = inner.contains(log.path.as_path());
            let note = if is_inner { ", not counted: a server in front logs it" } else { "" };
            let format = short_format(&log.format);
            line(&format!("    access {}  {format}{note}", log.path.display()));
        }
        for log in &site.error_logs {
            line(&format!("    error  {}", log.display()));
        }
        line(&format!("    from   {}", site.source));
    }
    if !discovery.pools.is_empty() {
        line(&count(discovery.pools.len(), "pool"));
    }
    for pool in &discovery.pools {
        let children =
            pool.max_children.map_or_else(String::new, |n| format!(", at most {n} workers"));
        line(&format!("  {} on {}{children}  from {}", pool.name, pool.listen, pool.source));
    }
    if !discovery.backends.is_empty() {
        line(&count(discovery.backends.len(), "backend"));
    }
    for backend in &discovery.backends {
        let tls = if backend.is_tls { " over TLS" } else { "" };
        line(&format!("  {}{tls}  for {}", backend.address, count(backend.n_sites, "site")));
    }
    for page in &discovery.status_pages {
        line(&format!("{} at {}{}", page.kind.name(), page.address, page.path));
    }
    if !discovery.services.is_empty() {
        line(&format!("services: {}", discovery.services.join(", ")));
    }
    if !discovery.unreadable.is_empty() {
        line(&format!("{} to look at", count(discovery.unreadable.len(), "thing")));
    }
    for entry in &discovery.unreadable {
        line(&format!("  {}: {}", entry.path.display(), entry.reason));
        line(&format!("    fix: {}", entry.fix));
    }
    out
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn describe(site: &Site) -> String {
    let mut parts = Vec::new();
    if !site.aliases.is_empty() {
        let shown = site.aliases.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = site.aliases.len().saturating_sub(5);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        parts.push(format!(" (also {shown}{more})"));
    }
    for (what, value) in [("pool ", &site.pool), ("upstream ", &site.upstream)] {
        parts.extend(value.as_ref().map(|value| format!(", {what}{value}")));
    }
    parts.extend(site.php_version.as_ref().map(|version| format!(", PHP {version}")));
    parts.extend(site.application.as_ref().map(|name| format!(", {name}")));
    parts.extend(site.owner.as_ref().map(|name| format!(", owner {name}")));
    parts.concat()
}

/// A format by name, or that it is one of its own.
fn short_format(format: &str) -> &str {
    if format.contains(['$', '%']) { "own format" } else { format }
}
