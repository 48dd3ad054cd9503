//! nginx configuration: a tolerant tokenizer, and the vhosts in it.
//!
//! What nginx would refuse is read as far as it makes sense; nothing here fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::discover::AccessLog;
use crate::discover::assemble::{Found, Server, Vhost};
use crate::discover::files::Files;

const MAIN: [&str; 3] = [
    "/etc/nginx/nginx.conf",
    "/usr/local/nginx/conf/nginx.conf",
    "/usr/local/openresty/nginx/conf/nginx.conf",
];
/// Included files in each other, and blocks in each other.
const DEPTH_MAX: u32 = 24;

/// One directive with its block.
#[derive(Debug, Default)]
struct Directive {
    words: Vec<String>,
    block: Option<Vec<Directive>>,
    file: usize,
    line: u32,
}

impl Directive {
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// All vhosts of nginx; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let read = |main: &&str| {
        let path = files.below(main);
        let text = files.read_optional(&path)?;
        Some((path, text))
    };
    let Some((main, text)) = MAIN.iter().find_map(read) else { return };
    found.services.insert("nginx.service".to_owned());
    let mut reader = Reader { files, names: vec![main.clone()], folder: main };
    reader.folder.pop();
    let tree = reader.parse(&text, 0, 0);
    let names = reader.names;
    let folder = reader.folder;
    let mut walk =
        Walk { files, found, names, folder, formats: BTreeMap::new(), groups: BTreeMap::new() };
    walk.definitions(&tree);
    let mut level = Level::default();
    level.error_logs.push(walk.path("/var/log/nginx/error.log"));
    walk.block(&tree, &level, 0);
}

/// Reads files into directives; includes are put in place.
struct Reader<'a> {
    files: &'a mut Files,
    names: Vec<PathBuf>,
    folder: PathBuf,
}

impl Reader<'_> {
    fn parse(&mut self, text: &str, file: usize, depth: u32) -> Vec<Directive> {
        let mut tokens = Tokens { text: text.as_bytes(), at: 0, line: 1 };
        self.block(&mut tokens, file, depth)
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
                    } else if !directive.words.is_empty() {
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
                    let inner = if depth < DEPTH_MAX {
                        self.block(tokens, file, depth + 1)
                    } else {
                        tokens.skip_block();
                        Vec::new()
                    };
                    directive.block = Some(inner);
                    out.push(directive);
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
            let Some(text) = self.files.read_included(&path) else { continue };
            self.names.push(path);
            let file = self.names.len() - 1;
            out.extend(self.parse(&text, file, depth + 1));
        }
    }
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
}

impl Tokens<'_> {
    fn next(&mut self) -> Option<Token> {
        loop {
            let byte = *self.text.get(self.at)?;
            self.at += 1;
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                b'#' => {
                    self.at += memchr::memchr(b'\n', &self.text[self.at..])
                        .unwrap_or(self.text.len() - self.at);
                }
                b';' => return Some(Token::End),
                b'{' => return Some(Token::Open),
                b'}' => return Some(Token::Close),
                b'"' | b'\'' => return Some(Token::Word(self.quoted(byte))),
                _ => {
                    self.at -= 1;
                    return Some(Token::Word(self.bare()));
                }
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> String {
        let mut word = Vec::new();
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            self.line += u32::from(byte == b'\n');
            if byte == quote {
                break;
            }
            if byte == b'\\'
                && let Some(&next) = self.text.get(self.at)
            {
                self.at += 1;
                match next {
                    b'"' | b'\'' | b'\\' => word.push(next),
                    b't' => word.push(b'\t'),
                    b'n' => word.push(b'\n'),
                    b'r' => word.push(b'\r'),
                    _ => word.extend([b'\\', next]),
                }
                continue;
            }
            word.push(byte);
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    fn bare(&mut self) -> String {
        let mut word = Vec::new();
        while let Some(&byte) = self.text.get(self.at) {
            let variable = byte == b'{' && word.last() == Some(&b'$');
            if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b';') || byte == b'{' && !variable {
                break;
            }
            self.at += 1;
            word.push(byte);
            if variable {
                while let Some(&inside) = self.text.get(self.at) {
                    self.at += 1;
                    word.push(inside);
                    if inside == b'}' {
                        break;
                    }
                }
            } else if byte == b'\\'
                && let Some(&next) = self.text.get(self.at)
            {
                self.at += 1;
                word.push(next);
            } else if byte == b'}' && word.len() == 1 {
                break;
            }
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    /// Skips to the brace that closes the block, without reading its words.
    fn skip_block(&mut self) {
        let mut open = 1;
        while open > 0 {
            let Some(&byte) = self.text.get(self.at) else { return };
            self.at += 1;
            self.line += u32::from(byte == b'\n');
            open += match byte {
                b'{' => 1,
                b'}' => -1,
                _ => 0,
            };
        }
    }
}

/// What a block inherits.
#[derive(Clone, Debug, Default)]
struct Level {
    access_logs: Vec<AccessLog>,
    error_logs: Vec<PathBuf>,
    docroot: Option<String>,
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
            self.found
                .error_logs
                .extend(level.error_logs.iter().map(|p| (p.clone(), Server::Nginx)));
        }
        if let Some(root) = tree.iter().find(|d| d.name() == "root").and_then(|d| d.args().first())
        {
            level.docroot = Some(root.clone());
        }
        level
    }

    fn access_log(&mut self, directive: &Directive) -> Option<AccessLog> {
        let path = directive.args().first()?;
        if path == "off" || path == "/dev/null" {
            return None;
        }
        if path.starts_with("syslog:") || path.starts_with("/dev/std") {
            let place = self.place(directive);
            let reason = format!("access log goes to {path} ({place})");
            let fix = "add an access_log with a file beside it".to_owned();
            self.files.note(Path::new(path), reason, fix);
            return None;
        }
        let name = directive.args().get(1).filter(|word| !word.contains('='));
        let format = match name.map(String::as_str) {
            None | Some("combined") => "combined".to_owned(),
            Some(name) => self.formats.get(name).cloned().unwrap_or_else(|| "auto".to_owned()),
        };
        Some(AccessLog { path: self.path(path), format })
    }

    fn error_log(&mut self, directive: &Directive) -> Option<PathBuf> {
        let path = directive.args().first()?;
        if path == "/dev/null" || path == "stderr" || path == "off" || path.starts_with("/dev/std")
        {
            return None;
        }
        let level = directive.args().get(1).map_or("error", String::as_str);
        if path.starts_with("syslog:") || matches!(level, "crit" | "alert" | "emerg") {
            let place = self.place(directive);
            let reason = if path.starts_with("syslog:") {
                format!("error log goes to {path} ({place})")
            } else {
                format!("level {level} hides most failed upstreams ({place})")
            };
            self.files.note(Path::new(path), reason, format!("error_log {path} error;"));
        }
        (!path.starts_with("syslog:")).then(|| self.path(path))
    }

    /// A log's path: absolute, relative to the prefix, with `*` for variables.
    fn path(&self, path: &str) -> PathBuf {
        let mut out = String::new();
        let mut rest = path;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            out.push('*');
            let name = rest[at + 1..].trim_start_matches('{');
            let end =
                name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
            rest = name[end..].trim_start_matches('}');
        }
        out.push_str(rest);
        let path = Path::new(&out);
        if path.is_absolute() {
            return self.files.resolve(path);
        }
        // Debian's prefix, then that of nginx itself, then the folder of the configuration.
        let prefixes = ["/usr/share/nginx", "/usr/local/nginx", "/etc/nginx"];
        let candidates = prefixes.iter().map(|p| self.files.resolve(&Path::new(p).join(path)));
        candidates
            .chain([self.folder.join(path)])
            .find(|candidate| candidate.parent().is_some_and(Path::is_dir))
            .unwrap_or_else(|| self.folder.join(path))
    }

    fn place(&self, directive: &Directive) -> String {
        format!("{}:{}", self.names[directive.file].display(), directive.line)
    }

    fn server(&mut self, directive: &Directive, block: &[Directive], outer: &Level) {
        let level = self.level(block, outer);
        let mut vhost = Vhost {
            server: Server::Nginx,
            names: Vec::new(),
            access_logs: level.access_logs,
            error_logs: level.error_logs,
            backend: None,
            listen: Vec::new(),
            docroot: level.docroot,
            source: self.place(directive),
        };
        for directive in block {
            match directive.name() {
                "server_name" => vhost.names.extend(directive.args().iter().cloned()),
                "listen" => vhost.listen.extend(directive.args().first().cloned()),
                _ => {}
            }
        }
        if vhost.listen.is_empty() {
            vhost.listen.push("80".to_owned());
        }
        let mut variables = BTreeMap::new();
        let mut passes = Vec::new();
        self.locations(block, &mut variables, &mut passes, &mut vhost);
        // A script's interpreter before what is merely proxied, e.g. a socket for push messages.
        passes.sort_by_key(|(rank, _)| *rank);
        vhost.backend = passes.into_iter().next().map(|(_, address)| address);
        self.found.vhosts.push(vhost);
    }

    /// Collects who answers, in all locations, and logs that only a location has.
    fn locations(
        &mut self,
        block: &[Directive],
        variables: &mut BTreeMap<String, String>,
        passes: &mut Vec<(u8, String)>,
        vhost: &mut Vhost,
    ) {
        for directive in block {
            match (directive.name(), directive.args()) {
                ("set", [name, value]) => {
                    variables.insert(name.trim_start_matches('$').to_owned(), value.clone());
                }
                (
                    "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "proxy_pass" | "grpc_pass",
                    [target],
                ) => {
                    let rank = u8::from(matches!(directive.name(), "proxy_pass" | "grpc_pass"));
                    passes.extend(self.address(target, variables).map(|address| (rank, address)));
                }
                _ => {}
            }
            let Some(inner) = &directive.block else { continue };
            for log in inner.iter().filter(|d| d.name() == "access_log") {
                if let Some(log) =
                    self.access_log(log).filter(|log| !vhost.access_logs.contains(log))
                {
                    vhost.access_logs.push(log);
                }
            }
            self.locations(inner, variables, passes, vhost);
        }
    }

    /// The first address behind a `…_pass`; nothing when only a request can tell.
    fn address(&self, target: &str, variables: &BTreeMap<String, String>) -> Option<String> {
        let mut target = target.to_owned();
        for (name, value) in variables {
            target =
                target.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        }
        let (scheme, rest) = match target.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => ("", target.as_str()),
        };
        if let Some(socket) = rest.strip_prefix("unix:") {
            let path = socket.split(':').next()?;
            return (!path.contains('$')).then(|| path.to_owned());
        }
        let host = rest.split('/').next()?;
        if host.is_empty() || host.contains('$') {
            return None;
        }
        if let Some(group) = self.groups.get(host) {
            let first = group.first()?;
            return Some(with_port(first.trim_start_matches("unix:"), ""));
        }
        Some(with_port(host, scheme))
    }
}

/// The address with the port its scheme implies.
fn with_port(host: &str, scheme: &str) -> String {
    let bracket = host.rfind(']').map_or(0, |at| at + 1);
    if host.starts_with('/') || host[bracket..].contains(':') {
        return host.to_owned();
    }
    let port = if matches!(scheme, "https" | "grpcs") { 443 } else { 80 };
    format!("{host}:{port}")
}
