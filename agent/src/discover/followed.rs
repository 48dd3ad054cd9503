//! Which logs to follow, whose lines they hold, and what an admin should be told about them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::discover::chain::Chain;
use crate::discover::files::Files;
use crate::discover::found::{Found, Server, VhostLog, names_host};
use crate::discover::{Discovery, LogKind, LogSource, SiteRule};

/// Sites named in one note.
const NAMED_MAX: usize = 5;

/// The vhosts of one access log.
#[derive(Debug, Default)]
pub(super) struct Written<'a> {
    vhosts: Vec<usize>,
    sites: BTreeSet<&'a str>,
    is_refused: bool,
}

/// Every access log with who writes into it. Cost: each is opened once, to see whether it may be.
pub(super) fn written<'a>(
    files: &Files,
    found: &Found,
    names: &[&'a str],
) -> HashMap<PathBuf, Written<'a>> {
    let mut written: HashMap<PathBuf, Written<'a>> = HashMap::new();
    for (ix, vhost) in found.vhosts.iter().enumerate() {
        for log in &vhost.access_logs {
            if !written.contains_key(&log.path) {
                let is_refused = !log.is_pattern() && files.refusal(&log.path).is_some();
                let new = Written { is_refused, ..Written::default() };
                written.insert(log.path.clone(), new);
            }
            let known = written.entry(log.path.clone()).or_default();
            if known.vhosts.last() != Some(&ix) {
                known.vhosts.push(ix);
            }
            known.sites.insert(names[ix]);
        }
    }
    written
}

/// By vhost: a log of it can be read and tells its site, so that requests count there.
pub(super) fn counts(found: &Found, written: &HashMap<PathBuf, Written<'_>>) -> Vec<bool> {
    let counts = |log: &VhostLog| {
        let Some(its) = written.get(&log.path) else { return false };
        let is_own = its.sites.len() == 1 && log.names_host != Some(false);
        !its.is_refused && (log.host_wildcard.is_some() || log.names_host() || is_own)
    };
    found.vhosts.iter().map(|vhost| vhost.access_logs.iter().any(counts)).collect()
}

#[derive(Default)]
struct Logs {
    all: Vec<LogSource>,
    known: HashSet<(PathBuf, LogKind)>,
}

impl Logs {
    fn add(&mut self, path: &Path, kind: LogKind, format: &str, site: SiteRule, inner: bool) {
        if self.known.insert((path.to_path_buf(), kind)) {
            self.all.push(LogSource {
                path: path.to_path_buf(),
                kind,
                format: format.to_owned(),
                site,
                timezone: None,
                inner,
                inner_sites: Vec::new(),
            });
        }
    }
}

/// Every log to follow, each once; those with wildcards last, so that a log named elsewhere is what
/// it is there.
pub(super) fn logs(
    found: &Found,
    discovery: &Discovery,
    chain: &Chain,
    written: &HashMap<PathBuf, Written<'_>>,
) -> Vec<LogSource> {
    let mut logs = Logs::default();
    let all = || found.vhosts.iter().flat_map(|vhost| &vhost.access_logs);
    for log in all().filter(|l| !l.is_pattern()).chain(all().filter(|l| l.is_pattern())) {
        let Some(its) = written.get(&log.path) else { continue };
        let is_inner = its.vhosts.iter().all(|ix| is_evidence(found, chain, *ix, log));
        logs.add(&log.path, LogKind::Access, &log.format, site_of(log, its), is_inner);
    }
    add_error_logs(found, chain, discovery, &mut logs);
    for pool in &discovery.pools {
        if let Some(path) = &pool.error_log {
            logs.add(path, LogKind::PhpFpm, "php_fpm", SiteRule::Host, false);
        }
        if let Some(path) = pool.slow_log.as_ref().filter(|_| writes_slow_log(pool)) {
            logs.add(path, LogKind::PhpSlow, "auto", SiteRule::Host, false);
        }
    }
    for (path, kind, format) in &found.other_logs {
        logs.add(path, *kind, format, SiteRule::Host, false);
    }
    logs.all
}

fn writes_slow_log(pool: &crate::discover::Pool) -> bool {
    pool.request_slowlog_timeout_s.is_some_and(|seconds| seconds > 0)
}

/// True for a log whose requests are counted elsewhere: another one stands before it, or it tells no
/// sites while the servers behind it do.
fn is_evidence(found: &Found, chain: &Chain, ix: usize, log: &VhostLog) -> bool {
    let is_blind =
        matches!(found.vhosts[ix].server, Server::Haproxy | Server::Varnish) && !log.names_host();
    chain.is_inner(ix) || is_blind && chain.leads_only_on(ix)
}

fn site_of(log: &VhostLog, its: &Written<'_>) -> SiteRule {
    if let Some(at) = log.host_wildcard {
        return SiteRule::Fixed(format!("{{{at}}}"));
    }
    match its.sites.first() {
        Some(only) if its.sites.len() == 1 && !log.names_host() => {
            SiteRule::Fixed((*only).to_owned())
        }
        _ => SiteRule::Host,
    }
}

fn add_error_logs(found: &Found, chain: &Chain, discovery: &Discovery, logs: &mut Logs) {
    let mut owners: HashMap<&Path, Vec<&str>> = HashMap::new();
    for site in &discovery.sites {
        for path in &site.error_logs {
            owners.entry(path).or_default().push(&site.name);
        }
    }
    let main: HashSet<&Path> = found.error_logs.iter().map(|(path, _)| path.as_path()).collect();
    let mut inner: HashMap<&Path, bool> = HashMap::new();
    for (ix, vhost) in found.vhosts.iter().enumerate() {
        for path in &vhost.error_logs {
            *inner.entry(path).or_insert(true) &= chain.is_inner(ix);
        }
    }
    let of_vhosts =
        found.vhosts.iter().flat_map(|v| v.error_logs.iter().map(|path| (path, v.server)));
    let of_servers = found.error_logs.iter().map(|(path, server)| (path, *server));
    for (path, server) in of_servers.chain(of_vhosts) {
        let is_main = main.contains(path.as_path()) && found.vhosts.len() > 1;
        let site = match owners.get(path.as_path()).map(Vec::as_slice) {
            Some([only]) if !is_main => SiteRule::Fixed((*only).to_owned()),
            _ => SiteRule::Host,
        };
        let is_inner = inner.get(path.as_path()).copied().unwrap_or_else(|| {
            // A log of the server alone: as its vhosts are.
            let mut its =
                found.vhosts.iter().enumerate().filter(|(_, v)| v.server == server).peekable();
            its.peek().is_some() && its.all(|(ix, _)| chain.is_inner(ix))
        });
        logs.add(path, LogKind::Error, server.error_format(), site, is_inner);
    }
}

/// Lists logs that cannot be read, and logs whose sites nobody can tell apart.
pub(super) fn note_logs(
    files: &mut Files,
    found: &Found,
    discovery: &Discovery,
    written: &HashMap<PathBuf, Written<'_>>,
) {
    let servers: HashMap<&Path, Server> = found
        .vhosts
        .iter()
        .flat_map(|vhost| vhost.access_logs.iter().map(|l| (l.path.as_path(), vhost.server)))
        .collect();
    for log in &discovery.logs {
        if crate::discover::files::has_wildcard(&log.path.to_string_lossy()) {
            continue;
        }
        match files.refusal(&log.path) {
            Some(error) => files.cannot_read(&log.path, &error),
            None if !files.exists(&log.path) => {
                let fix = "nothing to do if the server has not written it yet".to_owned();
                files.note(&log.path, "does not exist".to_owned(), fix);
            }
            None => {}
        }
        let shared = written.get(&log.path).filter(|its| its.sites.len() > 1);
        if let Some(its) = shared
            && log.kind == LogKind::Access
            && log.site == SiteRule::Host
            && !names_host(&log.format)
        {
            let n = its.sites.len();
            let mut sites: Vec<&str> = its.sites.iter().copied().take(NAMED_MAX).collect();
            let more = format!("{} more", n.saturating_sub(NAMED_MAX));
            if n > NAMED_MAX {
                sites.push(&more);
            }
            let reason = format!(
                "{n} sites write into it and no line names its site: they count as one: {}",
                sites.join(", ")
            );
            let server = servers.get(log.path.as_path()).copied().unwrap_or(Server::Nginx);
            files.note(&log.path, reason, with_host(server, &log.format, &log.path));
        }
    }
}

/// The text that would make each line of a log name its site.
fn with_host(server: Server, format: &str, path: &Path) -> String {
    const NGINX: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                         $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";
    const APACHE: &str = "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"";
    let path = path.display();
    match server {
        Server::Nginx => {
            let format = if format.contains('$') { format } else { NGINX };
            let format = format.replace('\\', "\\\\").replace('\'', "\\'");
            match format.strip_prefix('{') {
                Some(rest) => format!(
                    "write `log_format with_host escape=json '{{\"host\":\"$host\",{rest}';` and \
                     `access_log {path} with_host;`"
                ),
                None => format!(
                    "write `log_format with_host '$host {format}';` and `access_log {path} with_host;`"
                ),
            }
        }
        Server::Apache | Server::Lighttpd | Server::Litespeed => {
            let format = if format.contains('%') { format } else { APACHE };
            let format = format.replace('\\', "\\\\").replace('"', "\\\"");
            match server {
                Server::Apache => format!(
                    "write `LogFormat \"%v {format}\" with_host` and `CustomLog {path} with_host`"
                ),
                Server::Lighttpd => format!("write `accesslog.format = \"%V {format}\"`"),
                _ => format!("write `logFormat \"%v {format}\"` in its accesslog block"),
            }
        }
        Server::Haproxy => "write `capture request header Host len 64` in its frontend".to_owned(),
        Server::Varnish => "start varnishncsa with `-F '%h %l %u %t \"%r\" %s %b \"%{Referer}i\" \
             \"%{User-agent}i\"'`: its %r names the host"
            .to_owned(),
        Server::Caddy => "write `format json` in its log block".to_owned(),
        Server::Traefik => "write `format: json` in its accessLog".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_tells_sites_apart_keeps_what_is_logged() {
        let path = Path::new("/l/a.log");
        for (server, format, part) in [
            (Server::Nginx, "combined", "'$host $remote_addr - $remote_user [$time_local]"),
            (Server::Nginx, "$status '$request'", r"'$host $status \'$request\'';"),
            (Server::Nginx, r#"{"s":$status}"#, r#"escape=json '{"host":"$host","s":$status}';"#),
            (Server::Apache, r#"%h "%r" %>s"#, r#"LogFormat "%v %h \"%r\" %>s" with_host"#),
            (Server::Apache, "auto", r#"LogFormat "%v %h %l %u %t"#),
            (Server::Lighttpd, "combined", r#"accesslog.format = "%V %h"#),
            (Server::Haproxy, "haproxy", "capture request header Host len 64"),
        ] {
            let text = with_host(server, format, path);
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
