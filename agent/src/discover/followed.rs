//! Which logs to follow, whose lines they hold, and what an admin should be told about them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::discover::chain::{Chain, Front};
use crate::discover::counted::{Counted, Written};
use crate::discover::files::Files;
use crate::discover::found::{Found, Server, VhostLog, names_host};
use crate::discover::{Discovery, LogKind, LogSource, SiteRule};

/// Sites named in one note.
const NAMED_MAX: usize = 5;

#[derive(Default)]
struct Logs {
    all: Vec<LogSource>,
    known: HashSet<(PathBuf, LogKind)>,
}

impl Logs {
    /// True for a log that was not there before.
    fn add(
        &mut self,
        path: &Path,
        kind: LogKind,
        format: &str,
        site: SiteRule,
        inner: bool,
    ) -> bool {
        let is_new = self.known.insert((path.to_path_buf(), kind));
        if is_new {
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
        is_new
    }
}

/// Every log to follow, each once; those with wildcards last, so that a log named elsewhere is what
/// it is there.
pub(super) fn logs(discovery: &Discovery, chained: &Chained<'_>) -> Vec<LogSource> {
    let Chained { found, chain, written, .. } = chained;
    let mut logs = Logs::default();
    let all = || found.vhosts.iter().flat_map(|vhost| &vhost.access_logs);
    for log in all().filter(|l| !l.is_pattern()).chain(all().filter(|l| l.is_pattern())) {
        let Some(its) = written.get(&log.path) else { continue };
        let counting = its.by.iter().filter(|(ix, at)| !chained.is_evidence(*ix, *at));
        let counting: BTreeSet<&str> = counting.map(|(ix, _)| chained.sites[*ix]).collect();
        let is_new = logs.add(
            &log.path,
            LogKind::Access,
            &log.format,
            site_of(log, its),
            counting.is_empty(),
        );
        let names_hosts = log.host_wildcard.is_some() || log.names_host();
        if let Some(new) = logs.all.last_mut().filter(|log| is_new && !log.inner && names_hosts) {
            let elsewhere = its.sites.iter().filter(|site| !counting.contains(*site));
            new.inner_sites = elsewhere.map(|site| (*site).to_owned()).collect();
        }
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

/// All vhosts with their sites, who of them stands before whom, and what their logs count.
pub(super) struct Chained<'a> {
    pub(super) found: &'a Found,
    pub(super) sites: &'a [&'a str],
    pub(super) chain: &'a Chain,
    pub(super) written: &'a HashMap<PathBuf, Written<'a>>,
    pub(super) counted: &'a Counted,
    pub(super) fronts: &'a [Front],
}

impl Chained<'_> {
    /// True for a log whose requests are counted elsewhere: another one stands before it, another
    /// one of its vhost holds the same, or it tells no sites while servers behind it do.
    fn is_evidence(&self, ix: usize, at: usize) -> bool {
        self.chain.is_inner(ix)
            || !self.counted.is_counted(ix, at)
            || self.is_blind(ix, at) && self.hands_on(ix)
    }

    /// A proxy's log that names no hosts.
    fn is_blind(&self, ix: usize, at: usize) -> bool {
        let vhost = &self.found.vhosts[ix];
        matches!(vhost.server, Server::Haproxy | Server::Varnish)
            && vhost.access_logs.get(at).is_some_and(|log| !log.names_host())
    }

    /// Some of its requests go to vhosts of this machine that count them.
    fn hands_on(&self, ix: usize) -> bool {
        let mut behind = self.chain.all_behind(ix, true, self.sites).into_iter();
        behind.any(|ix| self.fronts[ix].counts || self.fronts[ix].may_count)
    }

    /// What an admin should know about the requests in a log, with the log that tells it better.
    fn note(&self, its: &Written<'_>) -> Option<String> {
        let goes_both_ways = |(ix, at): &(usize, usize)| {
            self.is_blind(*ix, *at) && self.hands_on(*ix) && !self.chain.leads_only_on(*ix)
        };
        if its.by.iter().any(goes_both_ways) {
            return Some(
                "no line names its site: only what goes to servers of this machine is counted, by \
                 their logs"
                    .to_owned(),
            );
        }
        let mixes = |(ix, at): &(usize, usize)| {
            let (vhost, front) = (&self.found.vhosts[*ix], &self.fronts[*ix]);
            let takes_any = !vhost.default_at.is_empty() || vhost.names.is_empty();
            takes_any
                && front.may_count
                && !front.names_hosts
                && !self.is_evidence(*ix, *at)
                && self.chain.hands_on_others(*ix, self.sites)
        };
        let ix = its.by.iter().find(|of| mixes(of))?.0;
        Some(format!(
            "requests for other sites pass through it and no line names its site: they count for {} \
             as well",
            self.sites[ix]
        ))
    }
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
    // Two servers may write one log: then each line tells by itself whose it is.
    let mut formats: HashMap<&Path, BTreeSet<&str>> = HashMap::new();
    for (path, server) in of_vhosts.clone().chain(found.error_logs.iter().map(|(p, s)| (p, *s))) {
        formats.entry(path).or_default().insert(server.error_format());
    }
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
        let is_shared = formats.get(path.as_path()).is_some_and(|formats| formats.len() > 1);
        let format = if is_shared { "auto" } else { server.error_format() };
        logs.add(path, LogKind::Error, format, site, is_inner);
    }
}

/// Lists logs that cannot be read, and logs whose sites nobody can tell apart.
pub(super) fn note_logs(files: &mut Files, discovery: &Discovery, chained: &Chained<'_>) {
    let Chained { found, written, .. } = chained;
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
        let server = servers.get(log.path.as_path()).copied().unwrap_or(Server::Nginx);
        let its = written.get(&log.path).filter(|_| log.kind == LogKind::Access);
        if let Some(reason) = its.and_then(|its| chained.note(its)) {
            files.note(&log.path, reason, with_host(server, &log.format, &log.path));
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
