//! nginx configuration: a tolerant tokenizer, and the vhosts in it.
//!
//! What nginx would refuse is read as far as it makes sense; nothing here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog};
use crate::discover::nginx_pages::{note_listen, status_pages};
use crate::discover::nginx_targets::{
    has_variable, socket_path, substitute, substitute_known, with_port, without_uri,
};
use crate::discover::nginx_tokens::{Token, Tokens};

/// Main files and the units that run them. A machine may have several, e.g. a panel's own.
const MAIN: [(&str, &str); 7] = [
    ("/etc/nginx/nginx.conf", "nginx.service"),
    ("/etc/nginx-rc/nginx.conf", "nginx-rc.service"),
    ("/www/server/nginx/conf/nginx.conf", "nginx.service"),
    ("/usr/local/nginx/conf/nginx.conf", "nginx.service"),
    ("/usr/local/openresty/nginx/conf/nginx.conf", "openresty.service"),
    ("/usr/local/etc/nginx/nginx.conf", "nginx.service"),
    ("/opt/bitnami/nginx/conf/nginx.conf", "nginx.service"),
];
/// What is kept of a configuration: all else says nothing about logs and who answers.
const DIRECTIVES: [&str; 21] = [
    "access_log",
    "error_log",
    "log_format",
    "server_name",
    "listen",
    "root",
    "ssl_certificate",
    "set",
    "include",
    "server",
    "upstream",
    "location",
    "if",
    "http",
    "limit_except",
    "fastcgi_pass",
    "proxy_pass",
    "uwsgi_pass",
    "scgi_pass",
    "stub_status",
    "ssl",
];
/// Included files in each other, and blocks in each other.
const DEPTH_MAX: u32 = 24;
/// Members of a group that are looked at.
const MEMBERS_MAX: usize = 32;

/// One directive with its block.
#[derive(Debug, Default)]
pub(super) struct Directive {
    words: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
    file: usize,
    line: u32,
}

impl Directive {
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    pub(super) fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// All vhosts of nginx; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    for (main, unit) in MAIN {
        let path = files.below(main);
        let Some(text) = files.read_optional(&path) else { continue };
        found.services.insert(unit.to_owned());
        read(files, found, &path, &text);
    }
}

/// One main file with what it includes.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    let mut folder = path.to_path_buf();
    folder.pop();
    let names = vec![path.to_path_buf()];
    let mut reader = Reader { files, names, folder, open: vec![path.to_path_buf()] };
    let tree = reader.parse(text, 0, 0);
    let Reader { names, folder, .. } = reader;
    let mut walk =
        Walk { files, found, names, folder, formats: BTreeMap::new(), groups: BTreeMap::new() };
    walk.definitions(&tree);
    let mut level = Level::default();
    level.error_logs.push(walk.files.below("/var/log/nginx/error.log"));
    walk.block(&tree, &level, 0);
}

/// Reads files into directives; includes are put in place.
struct Reader<'a> {
    files: &'a mut Files,
    names: Vec<PathBuf>,
    folder: PathBuf,
    /// Files that are being read, each in the one before: none includes itself.
    open: Vec<PathBuf>,
}

impl Reader<'_> {
    fn parse(&mut self, text: &str, file: usize, depth: u32) -> Vec<Directive> {
        self.block(&mut Tokens::new(text), file, depth)
    }

    fn block(&mut self, tokens: &mut Tokens<'_>, file: usize, depth: u32) -> Vec<Directive> {
        let mut out = Vec::new();
        let mut words = Vec::new();
        let mut line = tokens.line;
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) => {
                    if words.is_empty() {
                        line = tokens.line;
                    }
                    words.push(word);
                }
                Token::End => {
                    let directive =
                        Directive { words: std::mem::take(&mut words), block: None, file, line };
                    if directive.name() == "include" {
                        self.include(&directive, depth, &mut out);
                    } else if is_of_use(directive.name()) {
                        out.push(directive);
                    }
                }
                Token::Open => {
                    let mut directive =
                        Directive { words: std::mem::take(&mut words), block: None, file, line };
                    if directive.name().ends_with("_by_lua_block") {
                        tokens.skip_block();
                        continue;
                    }
                    let inner = if depth < DEPTH_MAX && is_of_use(directive.name()) {
                        self.block(tokens, file, depth + 1)
                    } else {
                        tokens.skip_block();
                        Vec::new()
                    };
                    directive.block = Some(inner);
                    if is_of_use(directive.name()) {
                        out.push(directive);
                    }
                }
                Token::Close => break,
            }
        }
        out
    }

    fn include(&mut self, directive: &Directive, depth: u32, out: &mut Vec<Directive>) {
        let Some(pattern) = directive.args().first() else { return };
        if depth >= DEPTH_MAX || pattern.ends_with("mime.types") {
            return;
        }
        let pattern = if pattern.starts_with('/') {
            pattern.clone()
        } else {
            self.folder.join(pattern).to_string_lossy().into_owned()
        };
        for path in self.files.expand(&pattern) {
            if self.open.contains(&path) {
                continue;
            }
            let Some(text) = self.files.read_included(&path) else { continue };
            self.names.push(path.clone());
            let file = self.names.len() - 1;
            self.open.push(path);
            out.extend(self.parse(&text, file, depth + 1));
            self.open.pop();
        }
    }
}

fn is_of_use(name: &str) -> bool {
    DIRECTIVES.contains(&name) || name == "grpc_pass"
}

/// An access log as it is written: its path may speak of the vhost.
#[derive(Clone, Debug, PartialEq)]
struct RawLog {
    path: String,
    format: String,
    is_conditional: bool,
    scope: usize,
}

/// What a block inherits.
#[derive(Clone, Debug, Default)]
struct Level {
    access_logs: Vec<RawLog>,
    error_logs: Vec<PathBuf>,
    docroot: Option<String>,
    certificates: Vec<String>,
}

/// What the locations of a vhost say.
#[derive(Default)]
struct Inside {
    variables: BTreeMap<String, String>,
    /// Who answers: a script's interpreter (0) before what is merely proxied (1), e.g. a socket for
    /// push messages.
    passes: Vec<(u8, String)>,
    logs: Vec<RawLog>,
    error_logs: Vec<PathBuf>,
    docroot: Option<String>,
    /// Who is asked where the request is logged.
    logged: BTreeSet<String>,
    /// Who is asked over TLS.
    tls_to: Vec<String>,
    /// Locations and conditions so far.
    n_blocks: usize,
}

struct Walk<'a> {
    files: &'a mut Files,
    found: &'a mut Found,
    names: Vec<PathBuf>,
    folder: PathBuf,
    formats: BTreeMap<String, String>,
    /// `upstream` groups: addresses of their servers.
    groups: BTreeMap<String, Vec<String>>,
}

impl Walk<'_> {
    /// Formats and groups may stand anywhere, also after their use.
    fn definitions(&mut self, tree: &[Directive]) {
        for directive in tree {
            match (directive.name(), directive.args()) {
                ("log_format", [name, parts @ ..]) => {
                    let parts = parts.iter().filter(|part| !part.starts_with("escape="));
                    self.formats.insert(name.clone(), parts.map(String::as_str).collect());
                }
                ("upstream", [name]) => {
                    let servers = directive.block.iter().flatten().filter(|d| d.name() == "server");
                    let addresses = servers.filter_map(|d| d.args().first().cloned()).collect();
                    self.groups.insert(name.clone(), addresses);
                }
                _ => {}
            }
            if let Some(block) = &directive.block {
                self.definitions(block);
            }
        }
    }

    fn block(&mut self, tree: &[Directive], outer: &Level, depth: u32) {
        let level = self.level(tree, outer);
        if tree.iter().any(|directive| directive.name() == "error_log") {
            for path in &level.error_logs {
                self.found.add_error_log(path.clone(), Server::Nginx);
            }
        }
        for directive in tree {
            let Some(block) = &directive.block else { continue };
            match directive.name() {
                "server" => self.server(directive, block, &level),
                "http" if depth == 0 => self.block(block, &level, depth + 1),
                _ => {}
            }
        }
    }

    /// Logs given in a block replace the inherited ones.
    fn level(&mut self, tree: &[Directive], outer: &Level) -> Level {
        let mut level = outer.clone();
        let logs: Vec<&Directive> = tree.iter().filter(|d| d.name() == "access_log").collect();
        if !logs.is_empty() {
            level.access_logs = logs.iter().filter_map(|d| self.access_log(d)).collect();
        }
        let logs: Vec<&Directive> = tree.iter().filter(|d| d.name() == "error_log").collect();
        if !logs.is_empty() {
            level.error_logs = logs.iter().filter_map(|d| self.error_log(d)).collect();
        }
        if let Some(root) = tree.iter().find(|d| d.name() == "root").and_then(|d| d.args().first())
        {
            level.docroot = Some(root.clone());
        }
        let own: Vec<String> = tree.iter().filter_map(|d| self.certificate(d)).collect();
        if !own.is_empty() {
            level.certificates = own;
        }
        level
    }

    /// The file of a certificate; only a request decides which one a variable means.
    fn certificate(&self, directive: &Directive) -> Option<String> {
        let path = directive.args().first().filter(|_| directive.name() == "ssl_certificate")?;
        if path.contains('$') || path.starts_with("data:") || path.starts_with("engine:") {
            return None;
        }
        Some(self.folder.join(path).to_string_lossy().into_owned())
    }

    fn access_log(&mut self, directive: &Directive) -> Option<RawLog> {
        let path = directive.args().first()?;
        if path == "off" || path == "/dev/null" {
            return None;
        }
        let place = self.place(directive);
        if path.starts_with("syslog:") || path.starts_with("/dev/std") {
            let reason = format!("access log goes to {path} ({place})");
            let fix = "add an access_log with a file beside it".to_owned();
            self.files.note(Path::new(path), reason, fix);
            return None;
        }
        if directive.args().iter().skip(2).any(|word| word == "gzip" || word.starts_with("gzip=")) {
            let reason = format!("access log is compressed while it is written ({place})");
            self.files.note(Path::new(path), reason, "take `gzip` from its access_log".to_owned());
            return None;
        }
        let name = directive.args().get(1).filter(|word| !word.contains('='));
        let format = match name.map(String::as_str) {
            None | Some("combined") => "combined".to_owned(),
            Some(name) => self.formats.get(name).cloned().unwrap_or_else(|| "auto".to_owned()),
        };
        let is_conditional = directive.args().iter().any(|word| word.starts_with("if="));
        Some(RawLog { path: path.clone(), format, is_conditional, scope: 0 })
    }

    fn error_log(&mut self, directive: &Directive) -> Option<PathBuf> {
        let path = directive.args().first()?;
        if path == "/dev/null" || path == "stderr" || path == "off" || path.starts_with("/dev/std")
        {
            return None;
        }
        let level = directive.args().get(1).map_or("error", String::as_str);
        let is_syslog = path.starts_with("syslog:");
        if is_syslog || matches!(level, "crit" | "alert" | "emerg") {
            let place = self.place(directive);
            let reason = if is_syslog {
                format!("error log goes to {path} ({place})")
            } else {
                format!("level {level} hides most failed upstreams ({place})")
            };
            let fix = if is_syslog {
                "add `error_log /var/log/nginx/error.log error;` beside it".to_owned()
            } else {
                format!("error_log {path} error;")
            };
            self.files.note(Path::new(path), reason, fix);
        }
        if is_syslog {
            return None;
        }
        Some(self.absolute(path))
    }

    /// The log of one vhost. What only a request decides becomes a `*`; the host is the site.
    fn log(&self, raw: &RawLog, vhost: &Vhost, variables: &BTreeMap<String, String>) -> VhostLog {
        let mut host_wildcard = None;
        let mut n_wildcards = 0;
        let path = substitute(&raw.path, |name| match name {
            "server_name" => {
                let name = vhost.names.iter().find(|name| !name.starts_with(['_', '~', '*', '.']));
                Some(name.map_or(String::new(), |name| name.to_lowercase()))
            }
            _ if variables.contains_key(name) && !variables[name].contains('$') => {
                variables.get(name).cloned()
            }
            _ => {
                n_wildcards += 1;
                if matches!(name, "host" | "http_host" | "ssl_server_name") {
                    host_wildcard.get_or_insert(n_wildcards);
                }
                None
            }
        });
        // Where two wildcards became one nobody can tell what stands for the host.
        let host_wildcard =
            host_wildcard.filter(|_| path.bytes().filter(|b| *b == b'*').count() == n_wildcards);
        VhostLog {
            path: self.absolute(&path),
            format: raw.format.clone(),
            host_wildcard,
            names_host: None,
            is_conditional: raw.is_conditional,
            scope: raw.scope,
        }
    }

    /// A log's path, which may be relative to the prefix.
    fn absolute(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        if path.is_absolute() {
            return self.files.resolve(path);
        }
        // Debian's prefix, then that of nginx itself, then the folder of the configuration.
        let prefixes = ["/usr/share/nginx", "/usr/local/nginx", "/etc/nginx"];
        let candidates = prefixes.iter().map(|p| self.files.resolve(&Path::new(p).join(path)));
        let above = self.folder.parent().map(|prefix| prefix.join(path));
        candidates
            .chain(above)
            .chain([self.folder.join(path)])
            .find(|candidate| candidate.parent().is_some_and(Path::is_dir))
            .unwrap_or_else(|| self.folder.join(path))
    }

    fn place(&self, directive: &Directive) -> String {
        format!("{}:{}", self.names[directive.file].display(), directive.line)
    }

    fn server(&mut self, directive: &Directive, block: &[Directive], outer: &Level) {
        let level = self.level(block, outer);
        let mut vhost = Vhost::new(Server::Nginx, self.place(directive));
        for directive in block {
            match directive.name() {
                "server_name" => vhost.names.extend(directive.args().iter().cloned()),
                "listen" => note_listen(&mut vhost, directive.args()),
                _ => {}
            }
        }
        if vhost.listen.is_empty() {
            vhost.listen.push("80".to_owned());
        }
        if block.iter().any(|d| d.name() == "ssl" && d.args().first().is_some_and(|on| on == "on"))
        {
            vhost.tls_at.clone_from(&vhost.listen);
        }
        self.found.status_pages.extend(status_pages(block, &vhost));
        let mut inside = Inside::default();
        let is_logged = !level.access_logs.is_empty();
        self.locations(block, &mut inside, 0, is_logged);
        inside.passes.sort_by_key(|(rank, _)| *rank);
        let unlogged = inside.passes.iter().filter(|(_, to)| !inside.logged.contains(to));
        vhost.unlogged = unlogged.map(|(_, to)| to.clone()).collect();
        let scripts = inside.passes.iter().filter(|(rank, _)| *rank == 0);
        vhost.scripts = scripts.map(|(_, to)| to.clone()).collect();
        vhost.tls_to = inside.tls_to;
        vhost.backends = inside.passes.into_iter().map(|(_, address)| address).collect();
        for raw in level.access_logs.iter().chain(&inside.logs) {
            let log = self.log(raw, &vhost, &inside.variables);
            if !vhost.access_logs.contains(&log) {
                vhost.access_logs.push(log);
            }
        }
        vhost.error_logs = level.error_logs;
        for path in inside.error_logs {
            if !vhost.error_logs.contains(&path) {
                vhost.error_logs.push(path);
            }
        }
        vhost.certificates = level.certificates;
        let docroot = level.docroot.or(inside.docroot).map(|docroot| {
            substitute(&docroot, |name| match name {
                "server_name" | "host" => {
                    Some(vhost.names.first().cloned().unwrap_or_default().to_lowercase())
                }
                name => inside.variables.get(name).cloned(),
            })
        });
        vhost.docroot = docroot.filter(|docroot| !docroot.contains(['$', '*']));
        self.found.vhosts.push(vhost);
    }

    /// Collects who answers, in all locations, and what only a location says.
    fn locations(&mut self, block: &[Directive], inside: &mut Inside, depth: u32, is_logged: bool) {
        let scope = inside.n_blocks;
        inside.n_blocks += 1;
        let is_on = |log: &&Directive| log.args().first().is_some_and(|path| path != "off");
        let mut own = block.iter().filter(|d| d.name() == "access_log").peekable();
        let is_logged = if own.peek().is_some() { own.any(|log| is_on(&log)) } else { is_logged };
        for directive in block {
            let (name, args) = (directive.name(), directive.args());
            match (name, args) {
                ("set", [name, value]) => {
                    let name = name.trim_start_matches('$').to_owned();
                    inside.variables.insert(name, value.clone());
                }
                (
                    "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "proxy_pass" | "grpc_pass",
                    [target],
                ) => {
                    let rank = u8::from(matches!(name, "proxy_pass" | "grpc_pass"));
                    let is_tls = target.starts_with("https://") || target.starts_with("grpcs://");
                    for address in self.addresses(target, &inside.variables) {
                        if is_tls && !inside.tls_to.contains(&address) {
                            inside.tls_to.push(address.clone());
                        }
                        if is_logged {
                            inside.logged.insert(address.clone());
                        }
                        if !inside.passes.iter().any(|(_, known)| *known == address) {
                            inside.passes.push((rank, address));
                        }
                    }
                }
                ("access_log", _) if depth > 0 => {
                    let log = self.access_log(directive);
                    inside.logs.extend(log.map(|log| RawLog { scope, ..log }));
                }
                ("error_log", _) if depth > 0 => {
                    inside.error_logs.extend(self.error_log(directive));
                }
                ("root", [root]) if depth > 0 && inside.docroot.is_none() => {
                    inside.docroot = Some(root.clone());
                }
                _ => {}
            }
            if let Some(inner) = &directive.block {
                self.locations(inner, inside, depth + 1, is_logged);
            }
        }
    }

    /// The addresses behind a `…_pass`; none when only a request can tell.
    fn addresses(&self, target: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
        let target = substitute_known(target, variables);
        if !has_variable(&target, "scheme") {
            return self.addresses_of(&target);
        }
        // A request over either may come, and each may go another way.
        let mut found = Vec::new();
        for scheme in ["http", "https"] {
            let known = BTreeMap::from([("scheme".to_owned(), scheme.to_owned())]);
            for address in self.addresses_of(&substitute_known(&target, &known)) {
                if !found.contains(&address) {
                    found.push(address);
                }
            }
        }
        found
    }

    fn addresses_of(&self, target: &str) -> Vec<String> {
        let (scheme, rest) = match target.split_once("://") {
            Some((scheme, rest)) if scheme != "unix" => (scheme, rest),
            _ => ("", target),
        };
        if rest.starts_with("unix:") {
            let path = socket_path(rest);
            return if path.contains('$') { Vec::new() } else { vec![path] };
        }
        let host = without_uri(rest);
        if host.is_empty() || host.contains('$') {
            return Vec::new();
        }
        match self.groups.get(host) {
            Some(group) => {
                let member = |member: &String| match member.strip_prefix("unix:") {
                    Some(_) => socket_path(member),
                    None => with_port(member, ""),
                };
                group.iter().take(MEMBERS_MAX).map(member).collect()
            }
            None => vec![with_port(host, scheme)],
        }
    }
}
