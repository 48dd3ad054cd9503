//! Apache configuration: directives line by line, `${VARIABLES}`, and the vhosts in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::discover::LogKind;
use crate::discover::apache_pages::{checked_path, status_pages};
use crate::discover::apache_words::{bare_name, port_of, section_of, words};
use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog, is_no_log};
use crate::discover::pipes;
use crate::discover::words::joined_lines;

/// Main files and the units that run them. A machine may have several, e.g. a panel's own.
const MAIN: [(&str, &str); 9] = [
    ("/etc/apache2/apache2.conf", "apache2.service"),
    ("/etc/apache2-rc/apache2.conf", "apache2-rc.service"),
    ("/etc/httpd/conf/httpd.conf", "httpd.service"),
    ("/etc/apache2/conf/httpd.conf", "httpd.service"),
    ("/usr/local/apache/conf/httpd.conf", "httpd.service"),
    ("/usr/local/apache2/conf/httpd.conf", "httpd.service"),
    ("/www/server/apache/conf/httpd.conf", "httpd.service"),
    ("/usr/local/etc/apache24/httpd.conf", "httpd.service"),
    ("/opt/bitnami/apache/conf/httpd.conf", "httpd.service"),
];
const DEPTH_MAX: u32 = 16;
/// Lines of a macro, lines a configuration may have once its macros are used, and `${VARIABLES}`
/// replaced in one word.
const MACRO_LINES_MAX: usize = 10_000;
const LINES_MAX: usize = 5_000_000;
const WORD_BYTES_MAX: usize = 64 << 10;
/// Backends of one vhost, and members of one balancer, that are looked at.
const BACKENDS_MAX: usize = 32;
/// A log format that `LogFormat` set without a name.
const TRANSFER: &str = "\0transfer";

/// Formats that a configuration may name without defining them.
const FORMATS: [(&str, &str); 3] = [
    ("common", r#"%h %l %u %t "%r" %>s %b"#),
    ("combined", r#"%h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i""#),
    ("vhost_combined", r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i""#),
];

/// All vhosts of Apache; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    for (main, unit) in MAIN {
        let path = files.below(main);
        let Some(text) = files.read_optional(&path) else { continue };
        found.services.insert(unit.to_owned());
        read(files, found, &path, &text);
        if main.starts_with("/etc/apache2/") || main.starts_with("/etc/httpd/") {
            // What a distribution and a panel name differently is often the same by links.
            if found.vhosts.iter().any(|vhost| vhost.server == Server::Apache) {
                return;
            }
        }
    }
}

/// One main file with what it includes.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut variables = environment(files, &folder);
    variables.entry("APACHE_LOG_DIR".to_owned()).or_insert_with(|| "/var/log/apache2".to_owned());
    let root = if folder.ends_with("conf") {
        folder.parent().unwrap_or(&folder).to_path_buf()
    } else {
        folder
    };
    let mut walk = Walk {
        files,
        variables,
        root,
        formats: FORMATS.iter().map(|(n, f)| ((*n).to_owned(), (*f).to_owned())).collect(),
        groups: BTreeMap::new(),
        main: Scope::default(),
        vhosts: Vec::new(),
        sections: Vec::new(),
        macros: BTreeMap::new(),
        open: vec![path.to_path_buf()],
        n_lines: 0,
        audit_logs: Vec::new(),
    };
    walk.file(path, text, 0);
    walk.finish(found);
}

/// `export NAME=value` lines of Debian's envvars.
fn environment(files: &mut Files, folder: &Path) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let text = files.read_optional(&folder.join("envvars")).unwrap_or_default();
    for line in text.lines() {
        let line = line.trim();
        let Some((name, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=')
        else {
            continue;
        };
        // `$SUFFIX` names further instances and is empty for the first.
        let value = value.trim_matches(['"', '\'']).replace("$SUFFIX", "").replace("${SUFFIX}", "");
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !value.contains('$') {
            variables.entry(name.to_owned()).or_insert(value);
        }
    }
    variables
}

/// An access log as it is written.
#[derive(Clone, Debug, Default)]
struct RawLog {
    target: String,
    format: String,
    is_conditional: bool,
}

/// What a server or a vhost says.
#[derive(Clone, Debug, Default)]
struct Scope {
    names: Vec<String>,
    listen: Vec<String>,
    access_logs: Vec<RawLog>,
    /// `GlobalLog`: beside those of every vhost.
    global_logs: Vec<RawLog>,
    error_log: Option<String>,
    /// A handler before what is merely proxied, and that before what only redirects name.
    backends: Vec<(u8, String)>,
    docroot: Option<String>,
    certificates: Vec<String>,
    owner: Option<String>,
    is_tls: bool,
    /// Of `server-status`.
    status_paths: Vec<String>,
    source: String,
}

/// `<Macro name $a $b>` with its lines.
#[derive(Clone, Debug, Default)]
struct Macro {
    parameters: Vec<String>,
    lines: Vec<String>,
}

struct Walk<'a> {
    files: &'a mut Files,
    variables: BTreeMap<String, String>,
    root: PathBuf,
    formats: BTreeMap<String, String>,
    /// Balancer members by the balancer's name.
    groups: BTreeMap<String, Vec<String>>,
    main: Scope,
    vhosts: Vec<Scope>,
    /// Open sections, innermost last, in lower case with their argument.
    sections: Vec<(String, String)>,
    macros: BTreeMap<String, Macro>,
    /// Files that are being read, each in the one before: none includes itself.
    open: Vec<PathBuf>,
    n_lines: usize,
    /// Of ModSecurity.
    audit_logs: Vec<PathBuf>,
}

impl Walk<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: u32) {
        let n_open = self.sections.len();
        let mut lines = joined_lines(text);
        while let Some((number, line)) = lines.next() {
            let whole = line.trim();
            if whole.is_empty() || whole.starts_with('#') {
                continue;
            }
            if let Some(name) = section_of(whole, "macro") {
                let mut own = Macro::default();
                let mut words = words(name).into_iter();
                let name = words.next().unwrap_or_default().to_ascii_lowercase();
                own.parameters = words.collect();
                let end = |line: &(usize, String)| line.1.trim().eq_ignore_ascii_case("</macro>");
                let inside = lines.by_ref().take_while(|line| !end(line));
                own.lines = inside.map(|(_, line)| line).take(MACRO_LINES_MAX).collect();
                self.macros.insert(name, own);
                continue;
            }
            self.line(whole, &format!("{}:{number}", path.display()), depth);
        }
        // What a file left open does not reach into the one that includes it.
        self.sections.truncate(n_open);
    }

    fn line(&mut self, whole: &str, place: &str, depth: u32) {
        self.n_lines += 1;
        if self.n_lines > LINES_MAX {
            return;
        }
        if let Some(section) = whole.strip_prefix('<') {
            self.section(section.trim_end_matches('>'), place);
            return;
        }
        if self.is_skipped() {
            return;
        }
        let words: Vec<String> = words(whole).iter().map(|w| self.expand(w)).collect();
        if let Some((name, args)) = words.split_first() {
            self.directive(&name.to_ascii_lowercase(), args, depth, place);
        }
    }

    /// True inside `<IfDefine !NAME>` of a name that is defined.
    fn is_skipped(&self) -> bool {
        self.sections.iter().any(|(name, argument)| {
            let not = argument.strip_prefix('!').map(str::trim);
            name == "ifdefine" && not.is_some_and(|not| self.variables.contains_key(not))
        })
    }

    /// `Use name value …`: the macro's lines with its parameters replaced.
    fn use_macro(&mut self, args: &[String], depth: u32, place: &str) {
        let Some((name, values)) = args.split_first() else { return };
        let Some(own) = self.macros.get(&name.to_ascii_lowercase()).cloned() else { return };
        if depth >= DEPTH_MAX {
            return;
        }
        let n_open = self.sections.len();
        for line in &own.lines {
            let mut line = line.clone();
            for (parameter, value) in own.parameters.iter().zip(values) {
                line = line.replace(parameter.as_str(), value);
                line.truncate(line.floor_char_boundary(WORD_BYTES_MAX));
            }
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.line(line, place, depth + 1);
            }
        }
        self.sections.truncate(n_open);
    }

    fn section(&mut self, text: &str, place: &str) {
        if let Some(name) = text.strip_prefix('/') {
            let name = name.trim().to_ascii_lowercase();
            if let Some(at) = self.sections.iter().rposition(|(open, _)| *open == name) {
                self.sections.truncate(at);
            }
            return;
        }
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = name.to_ascii_lowercase();
        let argument = self.expand(argument.trim().trim_matches('"'));
        if name == "virtualhost" && !self.is_skipped() {
            let listen = argument.split_whitespace().map(str::to_owned).collect();
            self.vhosts.push(Scope { listen, source: place.to_owned(), ..Scope::default() });
        }
        self.sections.push((name, argument));
    }

    fn scope(&mut self) -> &mut Scope {
        let in_vhost = self.sections.iter().any(|(name, _)| name == "virtualhost");
        if in_vhost && let Some(vhost) = self.vhosts.last_mut() { vhost } else { &mut self.main }
    }

    fn directive(&mut self, name: &str, args: &[String], depth: u32, place: &str) {
        let first = args.first().cloned().unwrap_or_default();
        match name {
            "include" | "includeoptional" => self.include(&first, name == "include", depth),
            "serverroot" => self.root = self.files.resolve(Path::new(&first)),
            "define" => {
                self.variables.insert(first, args.get(1).cloned().unwrap_or_default());
            }
            "undefine" => {
                self.variables.remove(&first);
            }
            "secauditlog" if first.starts_with('/') => {
                let path = self.files.resolve(Path::new(&first));
                if !self.audit_logs.contains(&path) && self.audit_logs.len() < BACKENDS_MAX {
                    self.audit_logs.push(path);
                }
            }
            "use" => self.use_macro(args, depth, place),
            "logformat" => {
                let nickname = args.get(1).cloned().unwrap_or_else(|| TRANSFER.to_owned());
                self.formats.insert(nickname, first);
            }
            "listen" => self.main.listen.push(first),
            "servername" => self.scope().names.insert(0, first),
            "serveralias" => self.scope().names.extend(args.iter().cloned()),
            "sslengine" => self.scope().is_tls = first.eq_ignore_ascii_case("on"),
            "sethandler" if first == "server-status" => self.status_page(),
            "documentroot" => self.scope().docroot = Some(first),
            "sslcertificatefile" => {
                let path = self.absolute(&first).to_string_lossy().into_owned();
                self.scope().certificates.push(path);
            }
            "errorlog" => self.scope().error_log = Some(first),
            "suexecusergroup" | "assignuserid" | "ruidgid" => self.scope().owner = Some(first),
            "customlog" | "transferlog" | "globallog" => {
                let format = args.get(1).map_or("common", String::as_str);
                let format = if name == "transferlog" { TRANSFER } else { format }.to_owned();
                let is_condition = |word: &String| {
                    let word = word.to_ascii_lowercase();
                    word.starts_with("env=") || word.starts_with("expr=")
                };
                let is_conditional = args.get(2).is_some_and(is_condition);
                let log = RawLog { target: first, format, is_conditional };
                let scope = self.scope();
                match name {
                    "globallog" => scope.global_logs.push(log),
                    _ => scope.access_logs.push(log),
                }
            }
            "proxypass" | "proxypassmatch" | "proxypassreverse" | "balancermember"
            | "sethandler" | "addhandler" | "rewriterule" => {
                self.proxy(name, args);
            }
            _ => {}
        }
    }

    fn proxy(&mut self, name: &str, args: &[String]) {
        let section = |wanted: &str| {
            self.sections
                .iter()
                .rev()
                .find(|(open, _)| open == wanted)
                .map(|(_, argument)| argument.clone())
        };
        if name == "balancermember" {
            let group = section("proxy").filter(|url| url.starts_with("balancer://"));
            let (group, member) = match (group, args) {
                (_, [url, member, ..]) if url.starts_with("balancer://") => (url.clone(), member),
                (Some(group), [member, ..]) => (group, member),
                _ => return,
            };
            self.groups
                .entry(group.trim_end_matches('/').to_owned())
                .or_default()
                .push(member.clone());
            return;
        }
        let target = match (name, args) {
            ("sethandler" | "addhandler", [handler, ..]) => handler.strip_prefix("proxy:"),
            ("rewriterule", [_, target, flags, ..]) => {
                let is_proxy = |flag: &str| matches!(flag.trim(), "P" | "proxy");
                let flags = flags.trim_matches(['[', ']']);
                flags.split(',').any(is_proxy).then_some(target.as_str())
            }
            ("sethandler" | "addhandler" | "rewriterule", _) => None,
            // `ProxyPass / url`, or only the url inside <Location>.
            _ => args
                .iter()
                .find(|word| word.contains("://") || word.starts_with("unix:"))
                .map(String::as_str),
        };
        let Some(target) = target.map(str::to_owned) else { return };
        let rank = match name {
            "sethandler" | "addhandler" => 0,
            "proxypass" | "proxypassmatch" => 1,
            "rewriterule" => 2,
            _ => 3,
        };
        let scope = self.scope();
        if scope.backends.len() < BACKENDS_MAX {
            scope.backends.push((rank, target));
        }
    }

    /// `SetHandler server-status` inside `<Location /server-status>`.
    fn status_page(&mut self) {
        let location = self.sections.iter().rev().find(|(name, _)| name == "location");
        let path = location.and_then(|(_, path)| checked_path(path));
        self.scope().status_paths.extend(path);
    }

    fn include(&mut self, pattern: &str, must_exist: bool, depth: u32) {
        if depth >= DEPTH_MAX || pattern.is_empty() {
            return;
        }
        let path = self.absolute(pattern);
        let path = if path.is_dir() { path.join("*") } else { path };
        for path in self.files.expand(&path.to_string_lossy()) {
            if path.is_dir() || self.open.contains(&path) {
                continue;
            }
            let text = if must_exist {
                self.files.read_included(&path)
            } else {
                self.files.read_optional(&path)
            };
            if let Some(text) = text {
                self.open.push(path.clone());
                self.file(&path, &text, depth + 1);
                self.open.pop();
            }
        }
    }

    fn absolute(&self, path: &str) -> PathBuf {
        if path.starts_with('/') {
            self.files.resolve(Path::new(path))
        } else {
            self.root.join(path)
        }
    }

    /// `${NAME}`; unknown ones stay, as Apache leaves them.
    fn expand(&self, word: &str) -> String {
        let mut out = word.to_owned();
        if !word.contains("${") {
            return out;
        }
        // A value may name variables in turn.
        for _ in 0..DEPTH_MAX {
            let mut next = String::new();
            let mut rest = out.as_str();
            while let Some((before, after)) = rest.split_once("${") {
                if next.len() > WORD_BYTES_MAX {
                    return word.to_owned();
                }
                next.push_str(before);
                let known = after
                    .split_once('}')
                    .and_then(|(name, after)| self.variables.get(name).map(|value| (value, after)));
                if let Some((value, after)) = known {
                    next.push_str(value);
                    rest = after;
                } else {
                    next.push_str("${");
                    rest = after;
                }
            }
            next.push_str(rest);
            if next == out || next.len() > WORD_BYTES_MAX {
                break;
            }
            out = next;
        }
        out
    }

    fn finish(mut self, found: &mut Found) {
        let main = std::mem::take(&mut self.main);
        let vhosts = std::mem::take(&mut self.vhosts);
        if let Some(log) = &main.error_log
            && let Some(path) = self.error_log(log, "its main configuration")
        {
            found.add_error_log(path, Server::Apache);
        }
        for path in &self.audit_logs {
            found.other_logs.push((path.clone(), LogKind::Modsecurity, "auto"));
        }
        let without_vhost = vhosts.is_empty().then(|| Scope {
            listen: main.listen.clone(),
            source: "main server".to_owned(),
            ..Scope::default()
        });
        for scope in vhosts.iter().chain(&without_vhost) {
            let vhost = self.vhost(scope, &main);
            found.status_pages.extend(status_pages(&scope.status_paths, &vhost));
            found.vhosts.push(vhost);
        }
        // That of the main server is in every vhost, also in those that a client asks by address.
        let mut server = Vhost::new(Server::Apache, "main server".to_owned());
        server.listen.clone_from(&main.listen);
        found.status_pages.extend(status_pages(&main.status_paths, &server));
    }

    fn vhost(&mut self, scope: &Scope, main: &Scope) -> Vhost {
        let own = if scope.access_logs.is_empty() { &main.access_logs } else { &scope.access_logs };
        let global = main.global_logs.iter().chain(&scope.global_logs);
        let mut vhost = Vhost::new(Server::Apache, scope.source.clone());
        for raw in own.iter().chain(global) {
            if let Some(log) = self.access_log(raw, &scope.source)
                && !vhost.access_logs.contains(&log)
            {
                vhost.access_logs.push(log);
            }
        }
        let error_log = scope.error_log.as_ref().or(main.error_log.as_ref());
        vhost.error_logs =
            error_log.and_then(|log| self.error_log(log, &scope.source)).into_iter().collect();
        let names = if scope.names.is_empty() { &main.names } else { &scope.names };
        vhost.names = names.iter().map(|name| bare_name(name)).collect();
        let mut backends: Vec<&(u8, String)> = scope.backends.iter().collect();
        if backends.is_empty() {
            backends.extend(&main.backends);
        }
        backends.sort_by_key(|(rank, _)| *rank);
        for (_, target) in backends {
            let (is_tls, is_script) = self.speaks(target);
            for address in self.addresses(target, 0) {
                vhost.tls_to.extend(is_tls.then(|| address.clone()));
                vhost.scripts.extend(is_script.then(|| address.clone()));
                if !vhost.backends.contains(&address) {
                    vhost.backends.push(address);
                }
            }
        }
        for listen in &scope.listen {
            if port_of(listen).is_some() {
                vhost.listen.push(listen.clone());
                continue;
            }
            // `<VirtualHost *>`: on all ports.
            let host = listen.trim_end_matches(":*");
            let ports = main.listen.iter().filter_map(|listen| port_of(listen));
            vhost.listen.extend(ports.map(|port| format!("{host}:{port}")));
        }
        let own = if scope.certificates.is_empty() { main } else { scope };
        vhost.certificates.clone_from(&own.certificates);
        if scope.is_tls {
            vhost.tls_at.clone_from(&vhost.listen);
        }
        vhost.docroot = scope.docroot.clone().or_else(|| main.docroot.clone());
        vhost.owner.clone_from(&scope.owner);
        vhost
    }

    fn access_log(&mut self, raw: &RawLog, place: &str) -> Option<VhostLog> {
        let RawLog { target, format, .. } = raw;
        let format = match self.formats.get(format) {
            Some(format) => format.clone(),
            None if format.contains('%') => format.clone(),
            None if format == TRANSFER => FORMATS[0].1.to_owned(),
            None => "auto".to_owned(),
        };
        if is_no_log(Path::new(target)) {
            return None;
        }
        let Some(mut log) = pipes::target(self.files, target, &format) else {
            pipes::note(self.files, target, place);
            return None;
        };
        if log.path.is_relative() {
            log.path = self.root.join(log.path);
        }
        log.is_conditional = raw.is_conditional;
        Some(log)
    }

    fn error_log(&mut self, target: &str, place: &str) -> Option<PathBuf> {
        let log = pipes::target(self.files, target, "");
        if log.is_none() && !target.starts_with("/dev/null") {
            let reason = format!("error log goes to {target} ({place})");
            let fix = "write it into a file: `ErrorLog ${APACHE_LOG_DIR}/error.log`".to_owned();
            let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
            self.files.note(Path::new(file), reason, fix);
        }
        let path = log?.path;
        Some(if path.is_relative() { self.root.join(path) } else { path })
    }

    /// Whether a target is asked over TLS, and whether over FastCGI or the like; that of a balancer as
    /// its first member.
    fn speaks(&self, target: &str) -> (bool, bool) {
        let group = target.trim_end_matches('/');
        let first = self.groups.get(group).and_then(|members| members.first());
        let target = first.map_or(target, String::as_str);
        let url = target.split_once('|').map_or(target, |(_, url)| url);
        let is = |schemes: &[&str]| schemes.iter().any(|scheme| url.starts_with(scheme));
        (is(&["https://", "wss://", "h2://"]), is(&["fcgi://", "uwsgi://", "scgi://", "ajp://"]))
    }

    /// `unix:/run/a.sock|fcgi://localhost/`, `http://127.0.0.1:3000/`, `balancer://name/`.
    fn addresses(&self, target: &str, depth: u32) -> Vec<String> {
        if let Some(socket) = target.strip_prefix("unix:") {
            // `unix:///run/a.sock` is written too.
            let path = socket.split('|').next().unwrap_or_default();
            return vec![format!("/{}", path.trim_start_matches('/'))];
        }
        let Some((scheme, rest)) = target.split_once("://") else { return Vec::new() };
        let host = rest.split(['/', '$', '%']).next().unwrap_or_default();
        if scheme == "balancer" {
            let members = self.groups.get(&format!("balancer://{host}"));
            let members = members.into_iter().flatten().take(BACKENDS_MAX);
            return if depth > 0 {
                Vec::new()
            } else {
                members.flat_map(|member| self.addresses(member, depth + 1)).collect()
            };
        }
        let port = match scheme {
            "fcgi" => 8000,
            "https" | "wss" | "h2" => 443,
            "ajp" => 8009,
            _ => 80,
        };
        let bracket = host.rfind(']').map_or(0, |at| at + 1);
        let has_port = host[bracket..].contains(':');
        let address = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        if host.is_empty() { Vec::new() } else { vec![address] }
    }
}
