//! lighttpd configuration: assignments and conditions, of which those on the host are the vhosts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost};
use crate::discover::pipes;
use crate::discover::words::hosts_of_regex;

const MAIN: [&str; 2] = ["/etc/lighttpd/lighttpd.conf", "/usr/local/etc/lighttpd/lighttpd.conf"];
const DEPTH_MAX: u32 = 24;
/// What `accesslog.format` is unless it is set.
const FORMAT: &str = "%h %V %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"";
/// Programs of Debian that print what is no concern of ours.
const HARMLESS: [&str; 2] = ["create-mime", "use-ipv6"];

/// Its vhosts; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    for main in MAIN {
        let path = files.below(main);
        if let Some(text) = files.read_optional(&path) {
            return read(files, found, &path, &text);
        }
    }
}

/// One configuration with what it includes.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    found.services.insert("lighttpd.service".to_owned());
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut reader = Reader {
        files,
        folder,
        variables: BTreeMap::new(),
        scopes: vec![Scope { source: format!("{}:1", path.display()), ..Scope::default() }],
        current: vec![0],
    };
    reader.file(path, text, 0);
    let scopes = reader.scopes;
    for ix in 0..scopes.len() {
        let scope = &scopes[ix];
        let chain = Chain { scopes: &scopes, ix };
        let has_hosts = scopes.iter().any(|scope| !scope.hosts.is_empty());
        // A condition on a socket is the main server again; without hosts it is all there is.
        if ix > 0 && scope.hosts.is_empty() && (has_hosts || scope.backends.is_empty()) {
            continue;
        }
        let mut vhost = Vhost::new(Server::Lighttpd, scope.source.clone());
        vhost.names.clone_from(&scope.hosts);
        vhost.listen = listen(&scopes, chain);
        let backends = chain.get(|scope| Some(scope.backends.clone()).filter(|b| !b.is_empty()));
        vhost.backends = backends.unwrap_or_default();
        let scripts = chain.get(|scope| Some(scope.scripts.clone()).filter(|s| !s.is_empty()));
        vhost.scripts = scripts.unwrap_or_default();
        vhost.docroot = chain.get(|scope| scope.docroot.clone());
        if let Some(target) = chain.get(|scope| scope.access_log.clone()).filter(|t| !t.is_empty())
        {
            let format = chain.get(|scope| scope.format.clone());
            let format = format.unwrap_or_else(|| FORMAT.to_owned());
            match pipes::target(files, &target, &format) {
                Some(log) => vhost.access_logs.push(log),
                None => pipes::note(files, &target, &scope.source),
            }
        }
        if let Some(target) = chain.get(|scope| scope.error_log.clone())
            && let Some(log) = pipes::target(files, &target, "")
        {
            vhost.error_logs.push(log.path);
        }
        found.vhosts.push(vhost);
    }
}

/// What holds in the main part or inside one condition.
#[derive(Debug, Default)]
struct Scope {
    parent: usize,
    hosts: Vec<String>,
    listen: Vec<String>,
    port: Option<String>,
    bind: Option<String>,
    access_log: Option<String>,
    format: Option<String>,
    error_log: Option<String>,
    docroot: Option<String>,
    backends: Vec<String>,
    /// Those of `backends` that are asked over FastCGI or the like.
    scripts: Vec<String>,
    source: String,
}

/// A scope with all around it.
#[derive(Clone, Copy)]
struct Chain<'a> {
    scopes: &'a [Scope],
    ix: usize,
}

impl Chain<'_> {
    /// The innermost value.
    fn get<T>(self, value: impl Fn(&Scope) -> Option<T>) -> Option<T> {
        let mut ix = self.ix;
        loop {
            if let Some(found) = value(&self.scopes[ix]) {
                return Some(found);
            }
            if ix == 0 {
                return None;
            }
            ix = self.scopes[ix].parent;
        }
    }
}

/// The main address and those of `$SERVER["socket"]`, or only the one around a host.
fn listen(scopes: &[Scope], chain: Chain<'_>) -> Vec<String> {
    let around = chain.get(|scope| scope.listen.first().cloned());
    if let Some(around) = around {
        return vec![around];
    }
    let main = &scopes[0];
    let port = main.port.as_deref().unwrap_or("80");
    let bind = main.bind.as_deref().unwrap_or("*");
    let first = if bind.starts_with('/') { bind.to_owned() } else { format!("{bind}:{port}") };
    std::iter::once(first).chain(scopes.iter().flat_map(|scope| scope.listen.clone())).collect()
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `server.port`, `$HTTP["host"]`, `8080`.
    Word(String),
    Text(String),
    Sign(&'static str),
    Line,
}

struct Reader<'a> {
    files: &'a mut Files,
    folder: PathBuf,
    variables: BTreeMap<String, String>,
    scopes: Vec<Scope>,
    /// Open scopes, innermost last.
    current: Vec<usize>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: u32) {
        let tokens = tokens(text);
        let n_open = self.current.len();
        let mut at = 0;
        // What the last condition compared with, for `else`.
        while let Some((line, token)) = tokens.get(at) {
            at += 1;
            let sign = |n: usize| tokens.get(at + n).map(|(_, token)| token);
            match token {
                Token::Sign("}") if self.current.len() > n_open => {
                    self.current.pop();
                }
                // `else {` holds for no host of its own.
                Token::Sign("{") => self.open(Vec::new(), Vec::new(), path, *line),
                Token::Word(word) if word.starts_with('$') => {
                    let (Some(Token::Sign(operator)), Some(Token::Text(value))) =
                        (sign(0), sign(1))
                    else {
                        continue;
                    };
                    let (hosts, listen) = condition(word, operator, value);
                    at += 2;
                    while matches!(tokens.get(at), Some((_, Token::Line))) {
                        at += 1;
                    }
                    if matches!(tokens.get(at), Some((_, Token::Sign("{")))) {
                        at += 1;
                        self.open(hosts, listen, path, *line);
                    }
                }
                Token::Word(word) if word == "include" || word == "include_shell" => {
                    let (value, end) = value(&tokens, at, &self.variables);
                    at = end;
                    if word == "include" {
                        self.include(&value.text(), depth);
                    } else if !HARMLESS.iter().any(|program| value.text().contains(program)) {
                        let reason = format!(
                            "what `{}` prints is not read: nothing is run ({}:{line})",
                            value.text(),
                            path.display()
                        );
                        let fix = "include a file with what it prints".to_owned();
                        self.files.note(path, reason, fix);
                    }
                }
                Token::Word(word) => {
                    let Some(Token::Sign(operator @ ("=" | "+=" | ":="))) = sign(0) else {
                        continue;
                    };
                    let (value, end) = value(&tokens, at + 1, &self.variables);
                    at = end;
                    self.assign(word, *operator == "+=", &value);
                }
                _ => {}
            }
        }
        self.current.truncate(n_open);
    }

    fn open(&mut self, hosts: Vec<String>, listen: Vec<String>, path: &Path, line: usize) {
        let parent = self.current.last().copied().unwrap_or(0);
        // What lies inside a host without being one itself speaks of that host.
        if hosts.is_empty() && listen.is_empty() {
            self.current.push(parent);
            return;
        }
        let source = format!("{}:{line}", path.display());
        self.scopes.push(Scope { parent, hosts, listen, source, ..Scope::default() });
        self.current.push(self.scopes.len() - 1);
    }

    fn include(&mut self, pattern: &str, depth: u32) {
        if depth >= DEPTH_MAX || pattern.is_empty() {
            return;
        }
        let pattern = if pattern.starts_with('/') {
            pattern.to_owned()
        } else {
            self.folder.join(pattern).to_string_lossy().into_owned()
        };
        for path in self.files.expand(&pattern) {
            if let Some(text) = self.files.read_included(&path) {
                self.file(&path, &text, depth + 1);
            }
        }
    }

    fn assign(&mut self, key: &str, adds: bool, value: &Val) {
        let text = value.text();
        if let Some(name) = key.strip_prefix("var.") {
            let old = self.variables.get(name).filter(|_| adds).cloned().unwrap_or_default();
            self.variables.insert(name.to_owned(), format!("{old}{text}"));
            return;
        }
        let Some(scope) = self.current.last().and_then(|ix| self.scopes.get_mut(*ix)) else {
            return;
        };
        match key {
            "server.port" => scope.port = Some(text),
            "server.bind" => scope.bind = Some(text),
            "server.document-root" => scope.docroot = Some(text),
            "server.errorlog" => scope.error_log = Some(text),
            "accesslog.filename" => scope.access_log = Some(text),
            "accesslog.format" => scope.format = Some(text),
            "accesslog.use-syslog" if text == "enable" => {
                scope.access_log = Some("syslog:".to_owned());
            }
            "proxy.server" => value.addresses(&mut scope.backends, 0),
            "fastcgi.server" | "scgi.server" | "uwsgi.server" | "ajp13.server" => {
                let mut before = Vec::new();
                value.addresses(&mut before, 0);
                scope.scripts.extend(before.iter().cloned());
                scope.backends.splice(0..0, before);
            }
            _ => {}
        }
    }
}

/// Hosts or sockets that a condition is about.
fn condition(field: &str, operator: &str, value: &str) -> (Vec<String>, Vec<String>) {
    let field = field.to_ascii_lowercase();
    if field.starts_with("$server") && field.contains("socket") {
        return (Vec::new(), vec![value.to_owned()]);
    }
    if !(field.starts_with("$http") && field.contains("\"host\"")) {
        return (Vec::new(), Vec::new());
    }
    let host = value.to_lowercase();
    let hosts = match operator {
        "==" => vec![host],
        "=~" => hosts_of_regex(value),
        "=$" => vec![format!("*{host}")],
        "=^" => vec![format!("{host}*")],
        _ => Vec::new(),
    };
    (hosts, Vec::new())
}

/// A value: a text, or a list whose entries may have keys.
#[derive(Clone, Debug, PartialEq)]
enum Val {
    Text(String),
    List(Vec<(String, Val)>),
}

impl Val {
    fn text(&self) -> String {
        if let Self::Text(text) = self { text.clone() } else { String::new() }
    }

    fn entry(&self, key: &str) -> Option<String> {
        let Self::List(list) = self else { return None };
        list.iter().find(|(name, _)| name == key).map(|(_, value)| value.text())
    }

    /// Every `( "host" => "127.0.0.1", "port" => 8080 )` or `( "socket" => "/run/a.sock" )`.
    fn addresses(&self, out: &mut Vec<String>, depth: u32) {
        let Self::List(list) = self else { return };
        let host = self.entry("host").filter(|host| !host.is_empty());
        if let Some(socket) = self.entry("socket").or(host.clone().filter(|h| h.starts_with('/'))) {
            out.push(socket);
        } else if let Some(port) = self.entry("port") {
            out.push(format!("{}:{port}", host.unwrap_or_else(|| "127.0.0.1".to_owned())));
        } else if let Some(host) = host {
            out.push(format!("{host}:80"));
        } else if depth < DEPTH_MAX {
            for (_, inner) in list {
                inner.addresses(out, depth + 1);
            }
        }
    }
}

/// The value at a token and where it ends; `+` puts texts and lists together.
fn value(
    tokens: &[(usize, Token)],
    at: usize,
    variables: &BTreeMap<String, String>,
) -> (Val, usize) {
    let mut at = at;
    let mut sum = one_value(tokens, &mut at, variables, 0);
    while matches!(tokens.get(at), Some((_, Token::Sign("+")))) {
        at += 1;
        match (&mut sum, one_value(tokens, &mut at, variables, 0)) {
            (Val::Text(sum), Val::Text(more)) => sum.push_str(&more),
            (Val::List(sum), Val::List(more)) => sum.extend(more),
            _ => {}
        }
    }
    (sum, at)
}

fn one_value(
    tokens: &[(usize, Token)],
    at: &mut usize,
    variables: &BTreeMap<String, String>,
    depth: u32,
) -> Val {
    let Some((_, token)) = tokens.get(*at) else { return Val::Text(String::new()) };
    match token {
        Token::Text(text) => {
            *at += 1;
            Val::Text(text.clone())
        }
        Token::Word(word) => {
            *at += 1;
            let name = word.strip_prefix("var.").unwrap_or(word);
            Val::Text(variables.get(name).unwrap_or(word).clone())
        }
        Token::Sign("(") => {
            *at += 1;
            let mut list = Vec::new();
            while let Some((_, token)) = tokens.get(*at) {
                match token {
                    Token::Sign(")") => {
                        *at += 1;
                        break;
                    }
                    Token::Text(_) | Token::Word(_) => {
                        let first = one_value(tokens, at, variables, depth + 1);
                        while matches!(tokens.get(*at), Some((_, Token::Line))) {
                            *at += 1;
                        }
                        if matches!(tokens.get(*at), Some((_, Token::Sign("=>")))) {
                            *at += 1;
                            while matches!(tokens.get(*at), Some((_, Token::Line))) {
                                *at += 1;
                            }
                            let inner = one_value(tokens, at, variables, depth + 1);
                            list.push((first.text(), inner));
                        } else {
                            list.push((String::new(), first));
                        }
                    }
                    Token::Sign("(") if depth < DEPTH_MAX => {
                        list.push((String::new(), one_value(tokens, at, variables, depth + 1)));
                    }
                    Token::Sign("{" | "}") => break,
                    _ => *at += 1,
                }
            }
            Val::List(list)
        }
        _ => Val::Text(String::new()),
    }
}

/// Tokens with their lines.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    const SIGNS: [&str; 17] = [
        "+=", ":=", "==", "=~", "=$", "=^", "=>", "!=", "!~", "=", "+", "(", ")", "{", "}", ",",
        "!",
    ];
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if first == '\n' {
            tokens.push((line, Token::Line));
            line += 1;
            1
        } else if first.is_whitespace() {
            first.len_utf8()
        } else if first == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            let (text, end) = quoted(rest);
            tokens.push((line, Token::Text(text)));
            line += rest[..end].matches('\n').count();
            end
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push((line, Token::Sign(sign)));
            sign.len()
        } else {
            let is_word =
                |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '$' | ':' | '/');
            let mut end = rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(first.len_utf8());
            // `$HTTP["host"]`
            if rest[end..].starts_with('[') {
                end = rest[end..].find(']').map_or(rest.len(), |close| end + close + 1);
            }
            tokens.push((line, Token::Word(rest[..end].to_owned())));
            end
        };
        rest = &rest[taken..];
    }
    tokens
}

fn quoted(rest: &str) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, at + 1),
            '\\' => match chars.next() {
                Some((_, next @ ('"' | '\\'))) => text.push(next),
                Some((_, next)) => text.extend(['\\', next]),
                None => {}
            },
            c => text.push(c),
        }
    }
    (text, rest.len())
}
