//! Apache configuration: directives line by line, `${VARIABLES}`, and the vhosts in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::discover::AccessLog;
use crate::discover::assemble::{Found, Server, Vhost};
use crate::discover::files::Files;

/// Main files, the unit that runs them, and their error log and environment where Debian sets them.
const MAIN: [(&str, &str); 4] = [
    ("/etc/apache2/apache2.conf", "apache2.service"),
    ("/etc/httpd/conf/httpd.conf", "httpd.service"),
    ("/etc/apache2/conf/httpd.conf", "httpd.service"),
    ("/usr/local/apache2/conf/httpd.conf", "httpd.service"),
];
const DEPTH_MAX: u32 = 16;

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
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut variables = environment(files, &folder);
        variables
            .entry("APACHE_LOG_DIR".to_owned())
            .or_insert_with(|| "/var/log/apache2".to_owned());
        let mut walk = Walk {
            files,
            variables,
            root: if folder.ends_with("conf") {
                folder.parent().unwrap_or(&folder).to_path_buf()
            } else {
                folder
            },
            formats: FORMATS.iter().map(|(n, f)| ((*n).to_owned(), (*f).to_owned())).collect(),
            groups: BTreeMap::new(),
            main: Scope::default(),
            vhosts: Vec::new(),
            sections: Vec::new(),
        };
        walk.file(&path, &text, 0);
        walk.finish(found);
        return;
    }
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

/// What a server or a vhost says.
#[derive(Clone, Debug, Default)]
struct Scope {
    names: Vec<String>,
    listen: Vec<String>,
    access_logs: Vec<(String, String)>,
    error_log: Option<String>,
    backend: Option<String>,
    docroot: Option<String>,
    source: String,
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
}

impl Walk<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: u32) {
        let mut pending = String::new();
        let mut first = 0;
        for (number, line) in text.lines().enumerate() {
            if pending.is_empty() {
                first = number + 1;
            }
            if let Some(begun) = line.strip_suffix('\\') {
                pending.push_str(begun);
                continue;
            }
            pending.push_str(line);
            let whole = std::mem::take(&mut pending);
            let whole = whole.trim();
            if whole.is_empty() || whole.starts_with('#') {
                continue;
            }
            let place = format!("{}:{first}", path.display());
            if let Some(section) = whole.strip_prefix('<') {
                self.section(section.trim_end_matches('>'), place);
            } else {
                let words: Vec<String> = words(whole).iter().map(|w| self.expand(w)).collect();
                if let Some((name, args)) = words.split_first() {
                    self.directive(&name.to_ascii_lowercase(), args, depth, &place);
                }
            }
        }
    }

    fn section(&mut self, text: &str, place: String) {
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
        if name == "virtualhost" {
            let listen = argument.split_whitespace().map(str::to_owned).collect();
            self.vhosts.push(Scope { listen, source: place, ..Scope::default() });
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
            "logformat" => {
                let nickname = args.get(1).cloned().unwrap_or_else(|| "\0transfer".to_owned());
                self.formats.insert(nickname, first);
            }
            "listen" => self.main.listen.push(first),
            "servername" => self.scope().names.insert(0, first),
            "serveralias" => self.scope().names.extend(args.iter().cloned()),
            "documentroot" => self.scope().docroot = Some(first),
            "errorlog" => self.scope().error_log = Some(first),
            "customlog" | "transferlog" => {
                let format = if name == "transferlog" {
                    "\0transfer"
                } else {
                    args.get(1).map_or("common", String::as_str)
                };
                let format = format.to_owned();
                if first.starts_with('|') || first.starts_with("syslog") {
                    let reason = format!("access log goes to {first} ({place})");
                    let fix = "add a CustomLog with a file beside it, or a [[logs.source]] with what the program writes".to_owned();
                    self.files.note(Path::new(place), reason, fix);
                    return;
                }
                self.scope().access_logs.push((first, format));
            }
            "proxypass" | "proxypassmatch" | "balancermember" | "sethandler" => {
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
        let target = if name == "sethandler" {
            args.first().and_then(|handler| handler.strip_prefix("proxy:"))
        } else {
            // `ProxyPass / url`, or only the url inside <Location>.
            args.iter()
                .find(|word| word.contains("://") || word.starts_with("unix:"))
                .map(String::as_str)
        };
        let Some(target) = target.map(str::to_owned) else { return };
        let scope = self.scope();
        if scope.backend.is_none() || name == "sethandler" {
            scope.backend = Some(target);
        }
    }

    fn include(&mut self, pattern: &str, must_exist: bool, depth: u32) {
        if depth >= DEPTH_MAX || pattern.is_empty() {
            return;
        }
        let path = self.absolute(pattern);
        let path = if path.is_dir() { path.join("*") } else { path };
        for path in self.files.expand(&path.to_string_lossy()) {
            if path.is_dir() {
                continue;
            }
            let text = if must_exist {
                self.files.read_included(&path)
            } else {
                self.files.read_optional(&path)
            };
            if let Some(text) = text {
                self.file(&path, &text, depth + 1);
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
        for (name, value) in &self.variables {
            if out.contains("${") {
                out = out.replace(&format!("${{{name}}}"), value);
            }
        }
        out
    }

    fn finish(self, found: &mut Found) {
        let main = self.main.clone();
        if let Some(log) = &main.error_log
            && let Some(path) = self.error_log(log)
        {
            found.error_logs.push((path, Server::Apache));
        }
        let without_vhost = self.vhosts.is_empty().then(|| Scope {
            listen: main.listen.clone(),
            source: "main server".to_owned(),
            ..Scope::default()
        });
        for scope in self.vhosts.iter().chain(&without_vhost) {
            let logs =
                if scope.access_logs.is_empty() { &main.access_logs } else { &scope.access_logs };
            let error_log = scope.error_log.as_ref().or(main.error_log.as_ref());
            let error_logs: Vec<PathBuf> =
                error_log.and_then(|log| self.error_log(log)).into_iter().collect();
            found.error_logs.extend(error_logs.iter().map(|path| (path.clone(), Server::Apache)));
            let names = if scope.names.is_empty() { &main.names } else { &scope.names };
            found.vhosts.push(Vhost {
                server: Server::Apache,
                names: names.iter().map(|name| bare_name(name)).collect(),
                access_logs: logs
                    .iter()
                    .map(|(path, format)| self.access_log(path, format))
                    .collect(),
                error_logs,
                backend: scope
                    .backend
                    .as_ref()
                    .or(main.backend.as_ref())
                    .and_then(|b| self.address(b)),
                listen: scope.listen.clone(),
                docroot: scope.docroot.clone().or_else(|| main.docroot.clone()),
                source: scope.source.clone(),
            });
        }
    }

    fn access_log(&self, path: &str, format: &str) -> AccessLog {
        let named = self.formats.get(format).cloned();
        let format = match named {
            Some(format) => format,
            None if format.contains('%') => format.to_owned(),
            None if format == "\0transfer" => FORMATS[0].1.to_owned(),
            None => "auto".to_owned(),
        };
        AccessLog { path: self.absolute(path), format }
    }

    fn error_log(&self, log: &str) -> Option<PathBuf> {
        let is_file =
            !log.starts_with('|') && !log.starts_with("syslog") && !log.starts_with("/dev/");
        is_file.then(|| self.absolute(log))
    }

    /// `unix:/run/a.sock|fcgi://localhost/`, `http://127.0.0.1:3000/`, `balancer://name/`.
    fn address(&self, target: &str) -> Option<String> {
        if let Some(socket) = target.strip_prefix("unix:") {
            return Some(socket.split('|').next()?.to_owned());
        }
        let (scheme, rest) = target.split_once("://")?;
        let host = rest.split('/').next()?;
        if scheme == "balancer" {
            let members = self.groups.get(&format!("balancer://{host}"))?;
            return members
                .first()
                .filter(|m| !m.starts_with("balancer:"))
                .and_then(|m| self.address(m));
        }
        let port = match scheme {
            "fcgi" => 8000,
            "https" | "wss" | "h2" => 443,
            "ajp" => 8009,
            _ => 80,
        };
        let bracket = host.rfind(']').map_or(0, |at| at + 1);
        let known = !host.is_empty() && !host.contains('$');
        known.then(|| {
            if host[bracket..].contains(':') { host.to_owned() } else { format!("{host}:{port}") }
        })
    }
}

/// `https://a.example:443` -> `a.example`.
fn bare_name(name: &str) -> String {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    name.split_once(':').map_or(name, |(host, _)| host).to_owned()
}

/// Words of a directive; quotes keep spaces, and a backslash keeps a quote.
fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.next() else { return out };
        let quote = matches!(first, '"' | '\'').then_some(first);
        let mut word = String::new();
        if quote.is_none() {
            word.push(first);
        }
        while let Some(c) = chars.next() {
            if Some(c) == quote || quote.is_none() && c.is_whitespace() {
                break;
            }
            match (c, chars.peek()) {
                ('\\', Some(next)) if Some(*next) == quote => {
                    word.push(*next);
                    chars.next();
                }
                _ => word.push(c),
            }
        }
        out.push(word);
    }
}
