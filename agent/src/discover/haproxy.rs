//! HAProxy configuration: frontends with the hosts they tell apart, and whom they ask.
//!
//! A host that a condition names is a site; what goes to the default backend is one without a name.
//! HAProxy only speaks to syslog, so its log is where syslog writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::discover::backends::{StatusKind, StatusPage, reachable};
use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog};
use crate::discover::words::{hosts_of_regex, without_comment, words};

const MAIN: [&str; 4] = [
    "/etc/haproxy/haproxy.cfg",
    "/usr/local/etc/haproxy/haproxy.cfg",
    "/etc/haproxy/conf.d/*.cfg",
    "/etc/haproxy/haproxy.d/*.cfg",
];
/// Where its log usually ends up.
const LOG: &str = "/var/log/haproxy.log";
const SYSLOG: [&str; 2] = ["/etc/rsyslog.conf", "/etc/rsyslog.d/*.conf"];
/// Hosts of one list that are taken over.
const HOSTS_MAX: usize = 10_000;
/// Certificates of one list that are taken over.
const CERTIFICATES_MAX: usize = 1_000;

/// All frontends; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let mut reader = Reader::default();
    let mut is_there = false;
    for main in MAIN {
        for path in files.expand(&files.below(main).to_string_lossy()) {
            let Some(text) = files.read_optional(&path) else { continue };
            is_there = true;
            reader.read(files, &path, &text);
        }
    }
    if is_there {
        found.services.insert("haproxy.service".to_owned());
        reader.finish(files, found);
    }
}

/// One file alone.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    let mut reader = Reader::default();
    reader.read(files, path, text);
    reader.finish(files, found);
}

/// A section: `frontend`, `backend` or `listen`, or what `defaults` sets for those after it.
#[derive(Clone, Debug, Default)]
struct Section {
    is_frontend: bool,
    name: String,
    source: String,
    bind: Vec<String>,
    /// Files and folders of certificates, as they are written.
    certificates: Vec<String>,
    servers: Vec<String>,
    /// Of `bind` and `servers`: those that speak TLS, and those that want the PROXY line first.
    tls: Vec<String>,
    wrapped: Vec<String>,
    /// Of `servers`: those that are asked over FastCGI.
    scripts: Vec<String>,
    /// Path of the statistics, and whether they want a password.
    stats_uri: Option<String>,
    has_stats_password: bool,
    default_backend: Option<String>,
    /// Backend with the words of its condition.
    use_backend: Vec<(String, Vec<String>)>,
    /// Hosts by the name of the condition.
    acls: BTreeMap<String, Vec<String>>,
    names_host: bool,
    /// Request headers captured so far, and the place of the Host among them, from 1.
    n_captured: usize,
    host_at: Option<usize>,
    is_logged: bool,
    /// Logged to where nobody can follow.
    is_lost: bool,
}

impl Section {
    fn capture(&mut self, is_host: bool) {
        self.n_captured += 1;
        if is_host {
            self.names_host = true;
            self.host_at.get_or_insert(self.n_captured);
        }
    }

    /// `sample len 64`, or `sample id 0` for a place that is declared.
    fn capture_by(&mut self, rule: &[String]) {
        let is_host = rule.first().is_some_and(|sample| reads_host(sample));
        let id = rule.iter().position(|word| word == "id").and_then(|at| rule.get(at + 1));
        match id.and_then(|id| id.parse::<usize>().ok()) {
            Some(id) if is_host && id < self.n_captured => {
                self.names_host = true;
                self.host_at.get_or_insert(id + 1);
            }
            Some(_) => {}
            None => self.capture(is_host),
        }
    }
}

/// The format of a log that all these frontends write: it tells which of the captured headers is the
/// host, since the others are the client's words.
fn format_of<'s>(fronts: impl Iterator<Item = &'s Section>) -> String {
    let mut at: Option<usize> = None;
    for front in fronts.filter(|front| front.is_logged && front.n_captured > 0) {
        let own = front.host_at.unwrap_or(0);
        // Where two differ nobody can tell whose line it is.
        at = Some(if at.is_none_or(|at| at == own) { own } else { 0 });
    }
    at.map_or("haproxy".to_owned(), |at| format!("haproxy:host={at}"))
}

#[derive(Default)]
struct Reader {
    defaults: Section,
    sections: Vec<Section>,
    /// The kind of section we are in.
    kind: String,
    /// `log` lines of `global` name this facility.
    facility: Option<String>,
    /// `global` logs to where nobody can follow, and nowhere else.
    is_global_lost: bool,
    /// Where relative paths of certificates start.
    crt_base: String,
    pages: Vec<StatusPage>,
}

impl Reader {
    fn read(&mut self, files: &mut Files, path: &Path, text: &str) {
        for (number, line) in text.lines().enumerate() {
            let words = words(without_comment(line));
            let Some((first, args)) = words.split_first() else { continue };
            match first.as_str() {
                "global" | "defaults" | "frontend" | "backend" | "listen" | "userlist"
                | "peers" | "resolvers" | "mailers" | "cache" | "program" | "ring"
                | "http-errors" | "fcgi-app" | "crt-store" | "log-forward" | "traces" => {
                    let source = format!("{}:{}", path.display(), number + 1);
                    self.section(first, args, source);
                }
                "stats" if self.kind == "global" => {
                    let source = format!("{}:{}", path.display(), number + 1);
                    self.pages.extend(stats_socket(args, source));
                }
                _ => self.keyword(files, first, args, line),
            }
        }
    }

    fn section(&mut self, kind: &str, args: &[String], source: String) {
        kind.clone_into(&mut self.kind);
        match kind {
            "defaults" => self.defaults = Section::default(),
            "frontend" | "backend" | "listen" => {
                self.sections.push(Section {
                    is_frontend: kind != "backend",
                    name: args.first().cloned().unwrap_or_default(),
                    source,
                    // The old form: `listen name :80`.
                    bind: args.get(1).filter(|w| w.contains(':')).cloned().into_iter().collect(),
                    ..self.defaults.clone()
                });
            }
            _ => {}
        }
    }

    fn keyword(&mut self, files: &mut Files, first: &str, args: &[String], line: &str) {
        let section = match self.kind.as_str() {
            "defaults" => &mut self.defaults,
            "frontend" | "backend" | "listen" => match self.sections.last_mut() {
                Some(section) => section,
                None => return,
            },
            "global" => {
                if let ("crt-base", [folder, ..]) = (first, args) {
                    self.crt_base.clone_from(folder);
                }
                if let ("log", [target, ..]) = (first, args) {
                    if is_lost(target) {
                        self.is_global_lost = self.facility.is_none();
                    } else {
                        self.is_global_lost = false;
                        let facility = args.iter().skip(1).find(|w| is_facility(w)).cloned();
                        self.facility = self.facility.take().or(facility);
                    }
                }
                return;
            }
            _ => return,
        };
        let lower = || line.to_ascii_lowercase();
        note_addresses(section, first, args);
        match (first, args) {
            ("bind", _) => {
                section.certificates.extend(certificates(files, &self.crt_base, args));
            }
            ("default_backend", [name, ..]) => section.default_backend = Some(name.clone()),
            ("use_backend", [name, rest @ ..]) => {
                section.use_backend.push((name.clone(), rest.to_vec()));
            }
            ("acl", [name, rest @ ..]) => {
                let hosts = hosts(files, rest);
                if !hosts.is_empty() {
                    section.acls.entry(name.clone()).or_default().extend(hosts);
                }
            }
            ("log", [target, ..])
                if is_lost(target) || target == "global" && self.is_global_lost =>
            {
                section.is_lost = true;
            }
            ("log", [target, ..]) => {
                section.is_logged = true;
                if target != "global" && self.facility.is_none() {
                    self.facility = args.iter().skip(1).find(|w| is_facility(w)).cloned();
                }
            }
            ("no", [what, ..]) if what == "log" => section.is_logged = false,
            ("capture", [of, what, header, ..]) if what == "header" && of == "request" => {
                section.capture(header.eq_ignore_ascii_case("host"));
            }
            // A place of its own, that a rule fills.
            ("declare", [capture, of, ..]) if capture == "capture" && of == "request" => {
                section.capture(false);
            }
            ("http-request", [what, rest @ ..]) if what == "capture" => section.capture_by(rest),
            ("tcp-request", [content, what, rest @ ..])
                if content == "content" && what == "capture" =>
            {
                section.capture_by(rest);
            }
            ("log-format", [_, ..]) => section.names_host |= lower().contains("hdr(host)"),
            _ => {}
        }
    }

    fn finish(self, files: &mut Files, found: &mut Found) {
        let (path, is_written) = log_path(files, self.facility.as_deref());
        let format = format_of(self.sections.iter().filter(|section| section.is_frontend));
        let is_readable = format != "haproxy:host=0";
        let backends: BTreeMap<&str, &Section> =
            self.sections.iter().map(|section| (section.name.as_str(), section)).collect();
        let servers = |name: &str| -> Vec<String> {
            backends.get(name).map(|section| section.servers.clone()).unwrap_or_default()
        };
        let tls: BTreeSet<&String> = self.sections.iter().flat_map(|s| &s.tls).collect();
        let scripts: BTreeSet<&String> = self.sections.iter().flat_map(|s| &s.scripts).collect();
        found.status_pages.extend(self.pages.iter().cloned());
        for front in self.sections.iter().filter(|section| section.is_frontend) {
            found.status_pages.extend(stats_page(front));
            if front.is_lost && !front.is_logged {
                let file = front.source.rsplit_once(':').map_or(&*front.source, |(file, _)| file);
                let reason = format!("frontend {} logs to no syslog", front.name);
                let fix = "write `log /dev/log local0` beside it".to_owned();
                files.note(Path::new(file), reason, fix);
            }
            let mut sites: Vec<(Vec<String>, Vec<String>)> = Vec::new();
            let mut rest = front.servers.clone();
            rest.extend(front.default_backend.iter().flat_map(|name| servers(name)));
            let mut used = Vec::new();
            for (backend, condition) in &front.use_backend {
                if let Some(map) = host_map(files, backend) {
                    sites.extend(map.into_iter().map(|(host, to)| (vec![host], servers(&to))));
                    continue;
                }
                let hosts = condition_hosts(files, front, condition, &mut used);
                if hosts.is_empty() {
                    rest.extend(servers(backend));
                } else {
                    sites.push((hosts, servers(backend)));
                }
            }
            // Hosts that only redirects or rules name go where all else goes.
            let unused = front.acls.iter().filter(|(name, _)| !used.contains(*name));
            sites.extend(unused.map(|(_, hosts)| (hosts.clone(), rest.clone())));
            if sites.is_empty() || !rest.is_empty() {
                sites.push((Vec::new(), rest));
            }
            let log = VhostLog {
                names_host: Some(front.names_host && is_written && is_readable),
                ..VhostLog::new(path.clone(), &format)
            };
            for (names, backends) in sites {
                let mut vhost = Vhost::new(Server::Haproxy, front.source.clone());
                vhost.label = Some(front.name.to_lowercase());
                vhost.access_logs = front.is_logged.then(|| log.clone()).into_iter().collect();
                vhost.listen.clone_from(&front.bind);
                vhost.certificates.clone_from(&front.certificates);
                vhost.tls_at.clone_from(&front.tls);
                vhost.wrapped_at.clone_from(&front.wrapped);
                vhost.tls_to = backends.iter().filter(|to| tls.contains(to)).cloned().collect();
                vhost.scripts =
                    backends.iter().filter(|to| scripts.contains(to)).cloned().collect();
                (vhost.names, vhost.backends) = (names, backends);
                found.vhosts.push(vhost);
            }
        }
        if self.facility.is_some() && !self.sections.iter().any(|s| s.is_frontend && s.is_logged) {
            found.add_error_log(path, Server::Haproxy);
        }
    }
}

/// The certificates of a `bind`: `crt FILE`, `crt FOLDER`, and those that a `crt-list FILE` names.
fn certificates(files: &mut Files, base: &str, args: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let absolute = |path: &str| Path::new(base).join(path).to_string_lossy().into_owned();
    for pair in args.windows(2) {
        match pair[0].as_str() {
            "crt" => found.push(absolute(&pair[1])),
            "crt-list" => {
                let text = files.read_optional(Path::new(&absolute(&pair[1]))).unwrap_or_default();
                let paths = text.lines().filter_map(|line| line.split_whitespace().next());
                let paths = paths.filter(|path| !path.starts_with('#'));
                found.extend(paths.take(CERTIFICATES_MAX).map(absolute));
            }
            _ => {}
        }
    }
    found.retain(|path| path.starts_with('/'));
    found
}

/// Where it listens, whom it asks, and where it shows its statistics.
fn note_addresses(section: &mut Section, first: &str, args: &[String]) {
    match (first, args) {
        ("bind", [addresses, rest @ ..]) => {
            for address in addresses.split(',').map(bare_address) {
                note_options(section, &address, rest);
                section.bind.push(address);
            }
        }
        ("server" | "server-template", [_, rest @ ..]) => {
            let at = usize::from(first == "server-template");
            if let Some(address) = rest.get(at).map(|address| bare_address(address)) {
                note_options(section, &address, rest);
                section.servers.push(address);
            }
        }
        ("stats", [what, rest @ ..]) => match (what.as_str(), rest) {
            ("uri", [uri, ..]) => section.stats_uri = Some(uri.clone()),
            ("auth", _) => section.has_stats_password = true,
            _ => {}
        },
        _ => {}
    }
}

/// What the words behind an address say of it.
fn note_options(section: &mut Section, address: &str, options: &[String]) {
    if options.iter().any(|word| word == "ssl") {
        section.tls.push(address.to_owned());
    }
    if options.windows(2).any(|pair| pair[0] == "proto" && pair[1] == "fcgi") {
        section.scripts.push(address.to_owned());
    }
    if options.iter().any(|word| word == "accept-proxy") {
        section.wrapped.push(address.to_owned());
    }
}

/// `stats socket /run/haproxy/admin.sock mode 660 level admin`: any level may read the statistics.
fn stats_socket(args: &[String], source: String) -> Option<StatusPage> {
    let [what, address, ..] = args else { return None };
    if what != "socket" {
        return None;
    }
    let address = bare_address(address);
    let is_path = address.starts_with('/');
    let address = if is_path { address } else { reachable(&address, &[])?.to_string() };
    let kind = StatusKind::HaproxySocket;
    let (path, host) = (String::new(), String::new());
    Some(StatusPage { kind, address, path, host, is_tls: false, source })
}

/// The statistics of a frontend that wants no password for them.
fn stats_page(front: &Section) -> Option<StatusPage> {
    let uri = front.stats_uri.as_deref().filter(|_| !front.has_stats_password)?;
    let is_asked = |bind: &&String| !front.wrapped.contains(bind);
    let (bind, address) = front.bind.iter().filter(is_asked).find_map(|bind| {
        // Only loopback and what listens everywhere: the own addresses are not known here.
        Some((bind, reachable(bind, &[])?))
    })?;
    Some(StatusPage {
        kind: StatusKind::HaproxyPage,
        address: address.to_string(),
        path: format!("{uri};csv"),
        host: "localhost".to_owned(),
        is_tls: front.tls.contains(bind),
        source: front.source.clone(),
    })
}

/// True for a target that ends in no file.
fn is_lost(target: &str) -> bool {
    target == "stdout"
        || target == "stderr"
        || target.starts_with("ring@")
        || target.starts_with("fd@")
}

fn is_facility(word: &str) -> bool {
    word.starts_with("local") || matches!(word, "daemon" | "user" | "syslog")
}

/// `*:80`, `ipv4@0.0.0.0:80`, `unix@/run/a.sock`, `:8000-8010`.
fn bare_address(address: &str) -> String {
    let kinds = ["ipv4@", "ipv6@", "unix@", "uxst@", "abns@", "quic4@", "quic6@", "tcp4@", "tcp@"];
    let bare = kinds.iter().find_map(|kind| address.strip_prefix(kind)).unwrap_or(address);
    match bare.rsplit_once(':') {
        Some((host, ports)) if !bare.starts_with('/') => {
            format!("{host}:{}", ports.split('-').next().unwrap_or(ports))
        }
        _ => bare.to_owned(),
    }
}

/// True for a sample of the Host header: `hdr(host)`, `req.hdr(Host),lower`, `hdr_dom(host)`.
fn reads_host(sample: &str) -> bool {
    let sample = sample.trim_start_matches("%[").to_ascii_lowercase();
    let method = sample.strip_prefix("req.").unwrap_or(&sample);
    method.starts_with("hdr") && method.contains("(host)")
        || sample.starts_with("ssl_fc_sni")
        || sample.starts_with("req.ssl_sni")
        || sample.starts_with("req_ssl_sni")
}

/// The hosts of a condition on the Host header: `hdr(host) -i a.example b.example`.
fn hosts(files: &mut Files, test: &[String]) -> Vec<String> {
    let Some((sample, rest)) = test.split_first() else { return Vec::new() };
    if !reads_host(sample) {
        return Vec::new();
    }
    let mut method = ["_dom", "_end", "_beg", "_reg", "_sub"]
        .into_iter()
        .find(|method| sample.contains(method))
        .unwrap_or_default();
    let mut hosts = Vec::new();
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-m" => {
                method = match rest.next().map(String::as_str) {
                    Some("dom") => "_dom",
                    Some("end") => "_end",
                    Some("beg") => "_beg",
                    Some("reg") => "_reg",
                    Some("sub") => "_sub",
                    _ => "",
                }
            }
            "-f" => {
                let Some(path) = rest.next() else { break };
                let text = files.read_included(Path::new(path)).unwrap_or_default();
                let lines = text.lines().map(|line| without_comment(line).trim());
                let listed = lines.filter(|line| !line.is_empty()).take(HOSTS_MAX);
                hosts.extend(listed.flat_map(|host| with_method(method, host)));
            }
            flag if flag.starts_with('-') => {}
            host => hosts.extend(with_method(method, host)),
        }
    }
    hosts
}

fn with_method(method: &str, host: &str) -> Vec<String> {
    let host = host.to_lowercase();
    match method {
        "_dom" => vec![host.clone(), format!("*.{host}")],
        "_end" if host.starts_with('.') => vec![format!("*{host}")],
        "_beg" if host.ends_with('.') => vec![format!("{host}*")],
        "_reg" => hosts_of_regex(&host),
        "_sub" => Vec::new(),
        _ => vec![host],
    }
}

/// The hosts in the condition of a `use_backend`.
fn condition_hosts(
    files: &mut Files,
    front: &Section,
    condition: &[String],
    used: &mut Vec<String>,
) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    if condition.first().is_none_or(|word| word != "if") {
        return found;
    }
    let mut words = condition.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "{" {
            let test: Vec<String> = words.by_ref().take_while(|w| *w != "}").cloned().collect();
            found.extend(hosts(files, &test));
        } else if let Some(hosts) = front.acls.get(word) {
            found.extend(hosts.iter().cloned());
            used.push(word.clone());
        }
    }
    found
}

/// `use_backend %[req.hdr(host),lower,map(/etc/haproxy/hosts.map,other)]`: host and backend a line.
fn host_map(files: &mut Files, backend: &str) -> Option<Vec<(String, String)>> {
    let sample = backend.strip_prefix("%[").filter(|sample| reads_host(sample))?;
    let map = sample.find(",map")?;
    let (kind, rest) = sample[map + 1..].split_once('(')?;
    let path = rest.split([',', ')']).next()?;
    let text = files.read_included(Path::new(path))?;
    let lines = text.lines().map(|line| without_comment(line).trim());
    let pairs = lines.filter_map(|line| line.split_once(char::is_whitespace));
    let names = pairs.take(HOSTS_MAX).map(|(host, to)| {
        let host = host.to_lowercase();
        let host = if kind.starts_with("map_dom") { format!(".{host}") } else { host };
        (host, to.trim().to_owned())
    });
    Some(names.collect())
}

/// Where syslog writes what HAProxy says, and whether anything shows that it does.
fn log_path(files: &mut Files, facility: Option<&str>) -> (PathBuf, bool) {
    let facility = facility.unwrap_or("local0");
    let mut named = None;
    for pattern in SYSLOG {
        for path in files.expand(&files.below(pattern).to_string_lossy()) {
            let text = files.read_optional(&path).unwrap_or_default();
            named = named.or_else(|| rule(&text, facility));
        }
    }
    let is_named = named.is_some();
    let path = named.map_or_else(|| files.below(LOG), |path| files.resolve(Path::new(&path)));
    if files.exists(&path) {
        return (path, true);
    }
    // Once it is there, requests count in it.
    if let Some(folder) = path.parent() {
        files.watch(folder);
    }
    (path, is_named)
}

/// The file of the rule for HAProxy or its facility in a configuration of rsyslog.
fn rule(text: &str, facility: &str) -> Option<String> {
    let mut is_ours = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', '$']) || line.starts_with("input(") || line.starts_with("module(")
        {
            continue;
        }
        let selector = format!("{facility}.");
        is_ours |= line.contains("haproxy") || line.starts_with(&selector);
        if !is_ours {
            continue;
        }
        let file = match line.split_once("file=\"") {
            Some((_, rest)) => rest.split('"').next(),
            None => line
                .split([' ', '\t', ';', '{'])
                .map(|word| word.trim_start_matches('-'))
                .find(|word| word.starts_with('/')),
        };
        if let Some(file) = file {
            return Some(file.to_owned());
        }
        // A rule's file stands on its line, or in the block that it opens.
        is_ours = !line.ends_with('}') && (line.ends_with('{') || line.contains("then"));
    }
    None
}
