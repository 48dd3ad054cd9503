//! Caddy: its Caddyfile with snippets and imports, or its JSON configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog};

const MAIN: [&str; 2] = ["/etc/caddy/Caddyfile", "/usr/local/etc/caddy/Caddyfile"];
/// Only looked at when there is no Caddyfile: Caddy writes the last one by itself.
const JSON: [&str; 4] = [
    "/etc/caddy/caddy.json",
    "/etc/caddy/config.json",
    "/var/lib/caddy/.config/caddy/autosave.json",
    "/root/.config/caddy/autosave.json",
];
const PROGRAMS: [&str; 2] = ["/usr/bin/caddy", "/usr/local/bin/caddy"];
const DEPTH_MAX: u32 = 24;
/// Addresses of one site.
const ADDRESSES_MAX: usize = 10_000;
/// Directives of one configuration: imports in each other multiply them.
const NODES_MAX: usize = 1_000_000;

/// All sites of Caddy; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    for main in MAIN {
        let path = files.below(main);
        if let Some(text) = files.read_optional(&path) {
            return read(files, found, &path, &text);
        }
    }
    let is_installed = PROGRAMS.iter().any(|program| files.exists(&files.below(program)));
    for main in JSON {
        let path = files.below(main);
        if !is_installed && files.refusal(&path).is_some() {
            // The home of root is closed on every machine: that says nothing of Caddy.
            continue;
        }
        if let Some(text) = files.read_optional(&path) {
            return read_json(files, found, &path, &text);
        }
    }
}

/// One Caddyfile with what it imports.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    found.services.insert("caddy.service".to_owned());
    let mut reader = Reader { files, snippets: BTreeMap::new(), names: Vec::new(), n_nodes: 0 };
    let tree = reader.file(path, text, 0);
    let names = std::mem::take(&mut reader.names);
    let mut walk = Walk { files, found, names, http: 80, https: 443, default_log: None };
    walk.top(&tree);
}

/// A directive: its words, and its block.
#[derive(Clone, Debug, Default)]
struct Node {
    words: Vec<String>,
    block: Option<Vec<Node>>,
    file: usize,
    line: usize,
}

impl Node {
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    fn block(&self) -> &[Node] {
        self.block.as_deref().unwrap_or_default()
    }
}

struct Reader<'a> {
    files: &'a mut Files,
    snippets: BTreeMap<String, Vec<Node>>,
    names: Vec<PathBuf>,
    n_nodes: usize,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: u32) -> Vec<Node> {
        self.names.push(path.to_path_buf());
        let file = self.names.len() - 1;
        let lines = lines(text);
        let mut at = 0;
        let mut out = Vec::new();
        while at < lines.len() {
            // A brace too many ends nothing.
            self.block(&lines, &mut at, file, depth, &mut out);
        }
        out
    }

    fn block(
        &mut self,
        lines: &[(usize, Vec<String>)],
        at: &mut usize,
        file: usize,
        depth: u32,
        out: &mut Vec<Node>,
    ) {
        while let Some((line, words)) = lines.get(*at) {
            *at += 1;
            if words.first().is_some_and(|word| word == "}") {
                return;
            }
            self.n_nodes += 1;
            let is_open = words.last().is_some_and(|word| word == "{");
            let words = if is_open { &words[..words.len() - 1] } else { &words[..] };
            let mut node = Node { words: words.to_vec(), block: None, file, line: *line };
            if is_open {
                let mut block = Vec::new();
                if depth < DEPTH_MAX {
                    self.block(lines, at, file, depth + 1, &mut block);
                } else {
                    skip(lines, at);
                }
                node.block = Some(block);
            }
            let name = node.name();
            if let Some(snippet) = name.strip_prefix('(').and_then(|n| n.strip_suffix(')'))
                && node.block.is_some()
            {
                self.snippets.insert(snippet.to_owned(), node.block.unwrap_or_default());
            } else if name == "import" {
                self.import(&node, file, depth, out);
            } else if self.n_nodes < NODES_MAX {
                out.push(node);
            }
        }
    }

    fn import(&mut self, node: &Node, file: usize, depth: u32, out: &mut Vec<Node>) {
        let Some((target, args)) = node.args().split_first() else { return };
        if depth >= DEPTH_MAX {
            return;
        }
        if let Some(snippet) = self.snippets.get(target) {
            let snippet: Vec<Node> = snippet.iter().map(|node| with_args(node, args)).collect();
            self.n_nodes += count(&snippet);
            if self.n_nodes < NODES_MAX {
                out.extend(snippet);
            }
            return;
        }
        let pattern = match self.names[file].parent() {
            Some(folder) if !target.starts_with('/') => folder.join(target),
            _ => PathBuf::from(target),
        };
        for path in self.files.expand(&pattern.to_string_lossy()) {
            if self.n_nodes >= NODES_MAX {
                return;
            }
            if let Some(text) = self.files.read_included(&path) {
                let nodes = self.file(&path, &text, depth + 1);
                out.extend(nodes.iter().map(|node| with_args(node, args)));
            }
        }
    }
}

fn count(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| 1 + count(node.block())).sum()
}

/// `{args[0]}` and the older `{args.0}`.
fn with_args(node: &Node, args: &[String]) -> Node {
    let fill = |word: &String| {
        let mut word = word.clone();
        if word.contains("{args") {
            for (ix, arg) in args.iter().enumerate() {
                word = word.replace(&format!("{{args[{ix}]}}"), arg);
                word = word.replace(&format!("{{args.{ix}}}"), arg);
            }
            word = word.replace("{args[:]}", &args.join(" "));
        }
        word
    };
    let block = node.block.as_ref().map(|b| b.iter().map(|node| with_args(node, args)).collect());
    Node { words: node.words.iter().map(fill).collect(), block, ..*node }
}

fn skip(lines: &[(usize, Vec<String>)], at: &mut usize) {
    let mut n_open = 1;
    while let Some((_, words)) = lines.get(*at) {
        *at += 1;
        n_open += i32::from(words.last().is_some_and(|word| word == "{"));
        n_open -= i32::from(words.first().is_some_and(|word| word == "}"));
        if n_open == 0 {
            return;
        }
    }
}

/// Lines as words; quotes and backticks keep spaces and line ends. A closing brace is a line.
fn lines(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut lines = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let (mut number, mut first) = (1, 1);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '\n' => {
                number += 1;
                if !words.is_empty() {
                    lines.push((first, std::mem::take(&mut words)));
                }
            }
            '\\' if rest[1..].starts_with('\n') => {
                number += 1;
                taken = 2;
            }
            c if c.is_whitespace() => {}
            '#' => taken = rest.find('\n').unwrap_or(rest.len()),
            _ => {
                if words.is_empty() {
                    first = number;
                }
                let (word, end) = word(rest, c);
                number += rest[..end].matches('\n').count();
                taken = end;
                let is_close = word == "}" && c == '}';
                words.push(word);
                if is_close && words.len() > 1 {
                    let close = words.split_off(words.len() - 1);
                    lines.push((first, std::mem::replace(&mut words, close)));
                }
            }
        }
        rest = &rest[taken..];
    }
    if !words.is_empty() {
        lines.push((first, words));
    }
    lines
}

/// One word and where it ends.
fn word(rest: &str, first: char) -> (String, usize) {
    if first == '`' {
        let end = rest[1..].find('`').map_or(rest.len(), |end| end + 2);
        return (rest[..end].trim_matches('`').to_owned(), end);
    }
    if first == '"' {
        let mut word = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return (word, at + 1),
                '\\' => match chars.next() {
                    Some((_, '"')) => word.push('"'),
                    Some((_, other)) => word.extend(['\\', other]),
                    None => {}
                },
                c => word.push(c),
            }
        }
        return (word, rest.len());
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    (environment(&rest[..end]), end)
}

/// `{$NAME:default}`: the environment of the service is not ours, so the default stands.
fn environment(word: &str) -> String {
    let Some((before, rest)) = word.split_once("{$") else { return word.to_owned() };
    let Some((inside, after)) = rest.split_once('}') else { return word.to_owned() };
    let default = inside.split_once(':').map_or("", |(_, default)| default);
    format!("{before}{default}{after}")
}

struct Walk<'a> {
    files: &'a mut Files,
    found: &'a mut Found,
    names: Vec<PathBuf>,
    http: u16,
    https: u16,
    /// Where logs go that name no place of their own.
    default_log: Option<PathBuf>,
}

impl Walk<'_> {
    fn top(&mut self, tree: &[Node]) {
        let mut sites: Vec<&Node> = Vec::new();
        for node in tree {
            match (&node.block, node.words.is_empty()) {
                (Some(block), true) => self.global(block),
                _ if node.name().starts_with("&(") => {}
                _ => sites.push(node),
            }
        }
        // A file for one site may do without braces: its first line is the address.
        let single;
        if let Some((first, rest)) = sites.split_first()
            && first.block.is_none()
        {
            single = Node {
                block: Some(rest.iter().map(|node| (*node).clone()).collect()),
                ..(*first).clone()
            };
            sites = vec![&single];
        }
        for site in sites {
            self.site(site);
        }
    }

    fn global(&mut self, block: &[Node]) {
        for node in block {
            let port = || node.args().first().and_then(|port| port.parse().ok());
            match node.name() {
                "http_port" => self.http = port().unwrap_or(self.http),
                "https_port" => self.https = port().unwrap_or(self.https),
                "log" if node.args().first().is_none_or(|name| name == "default") => {
                    if let Some(path) = output(node) {
                        let path = self.files.resolve(Path::new(&path));
                        self.found.add_error_log(path.clone(), Server::Caddy);
                        self.default_log = Some(path);
                    }
                }
                _ => {}
            }
        }
    }

    fn site(&mut self, node: &Node) {
        let place = format!("{}:{}", self.names[node.file].display(), node.line);
        let mut vhost = Vhost::new(Server::Caddy, place.clone());
        let addresses = node.words.iter().flat_map(|word| word.split(','));
        for address in addresses.take(ADDRESSES_MAX) {
            if !address.is_empty() {
                self.address(address, &mut vhost);
            }
        }
        let block = node.block();
        if let Some(bind) = block.iter().find(|node| node.name() == "bind") {
            let all = |host: &String| -> Vec<String> {
                vhost.listen.iter().map(|listen| listen.replacen('*', host, 1)).collect()
            };
            vhost.listen = bind.args().iter().flat_map(all).collect();
        }
        for log in block.iter().filter(|node| node.name() == "log") {
            match (output(log), &self.default_log) {
                (Some(path), _) if path.starts_with('/') => {
                    let path = self.files.resolve(Path::new(&path));
                    vhost.access_logs.push(VhostLog::new(path, format(log)));
                }
                (None, Some(path)) if !log.block().iter().any(|n| n.name() == "output") => {
                    vhost.access_logs.push(VhostLog::new(path.clone(), format(log)));
                }
                _ => {
                    let reason = format!("its access log goes to no file ({place})");
                    let fix = "write `log { output file /var/log/caddy/access.log }`".to_owned();
                    self.files.note(&self.names[node.file], reason, fix);
                }
            }
        }
        vhost.error_logs.extend(self.default_log.clone());
        let mut parts = Parts::default();
        collect(block, &mut parts, None, 0);
        vhost.docroot = parts.docroot;
        // A host matcher inside a site for many is a site of its own.
        for (names, backends) in parts.by_host {
            let scripts = parts.scripts.clone();
            let own = Vhost { names, backends, scripts, docroot: None, ..vhost.clone() };
            self.found.vhosts.push(own);
        }
        (vhost.backends, vhost.scripts) = (parts.backends, parts.scripts);
        self.found.vhosts.push(vhost);
    }

    /// `https://a.example:8443/path`, `:80`, `http://`, `*.a.example`.
    fn address(&self, address: &str, vhost: &mut Vhost) {
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let host = rest.split('/').next().unwrap_or_default();
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()),
            _ => (host, None),
        };
        match (port, scheme) {
            (Some(port), _) => vhost.listen.push(format!("*:{port}")),
            (None, "http") => vhost.listen.push(format!("*:{}", self.http)),
            (None, "https") => vhost.listen.push(format!("*:{}", self.https)),
            (None, _) => {
                vhost.listen.extend([self.http, self.https].map(|port: u16| format!("*:{port}")));
            }
        }
        let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        if !name.is_empty() && !is_address {
            vhost.names.push(name.to_owned());
        }
    }
}

/// The file a `log` block writes.
fn output(log: &Node) -> Option<String> {
    let output = log.block().iter().find(|node| node.name() == "output")?;
    match output.args() {
        [kind, path, ..] if kind == "file" => Some(path.clone()),
        _ => None,
    }
}

fn format(log: &Node) -> &'static str {
    let format = log.block().iter().find(|node| node.name() == "format");
    match format.map(Node::args) {
        Some([kind, text, ..]) if kind == "transform" => {
            if text.contains("common_log") {
                "common"
            } else {
                "auto"
            }
        }
        Some([kind, ..]) if kind == "formatted" || kind == "single_field" => "auto",
        _ => "caddy",
    }
}

/// What the directives of a site say, at any depth.
#[derive(Default)]
struct Parts {
    backends: Vec<String>,
    /// Those that are asked over FastCGI.
    scripts: Vec<String>,
    docroot: Option<String>,
    /// Hosts by the name of a matcher.
    matchers: BTreeMap<String, Vec<String>>,
    by_host: Vec<(Vec<String>, Vec<String>)>,
}

fn collect(block: &[Node], parts: &mut Parts, hosts: Option<&Vec<String>>, depth: u32) {
    for node in block {
        // `@a host a.example`, or a block of such lines.
        if node.name().starts_with('@') {
            let own = std::iter::once(node.args())
                .chain(node.block().iter().map(|inner| inner.words.as_slice()));
            let named = own.filter(|words| words.first().is_some_and(|word| word == "host"));
            let named: Vec<String> = named.flat_map(|words| words[1..].iter().cloned()).collect();
            if !named.is_empty() {
                parts.matchers.insert(node.name().to_owned(), named);
            }
        }
    }
    for node in block {
        let matched = node.args().first().and_then(|word| parts.matchers.get(word)).cloned();
        let hosts = matched.as_ref().or(hosts);
        match node.name() {
            "reverse_proxy" | "php_fastcgi" => {
                let targets: Vec<String> = targets(node).collect();
                let is_fastcgi = |inner: &Node| {
                    inner.name() == "transport"
                        && inner.args().first().is_some_and(|word| word == "fastcgi")
                };
                if node.name() == "php_fastcgi" || node.block().iter().any(is_fastcgi) {
                    parts.scripts.extend(targets.iter().cloned());
                }
                match hosts {
                    Some(hosts) => parts.by_host.push((hosts.clone(), targets)),
                    None if node.name() == "php_fastcgi" => {
                        parts.backends.splice(0..0, targets);
                    }
                    None => parts.backends.extend(targets),
                }
            }
            "root" if parts.docroot.is_none() => parts.docroot = node.args().last().cloned(),
            _ if depth < DEPTH_MAX => collect(node.block(), parts, hosts, depth + 1),
            _ => {}
        }
    }
}

/// The addresses of `reverse_proxy /api/* 127.0.0.1:3000 { to unix//run/a.sock }`.
fn targets(node: &Node) -> impl Iterator<Item = String> {
    let is_matcher = |word: &&String| word.starts_with(['/', '@']) || *word == "*";
    let own = node.args().iter().filter(move |word| !is_matcher(word));
    let inner = node.block().iter().filter(|node| node.name() == "to").flat_map(Node::args);
    own.chain(inner).filter_map(|target| dial(target))
}

/// `h2c://127.0.0.1:3000`, `unix//run/a.sock`, `:9000`, `localhost`.
fn dial(target: &str) -> Option<String> {
    for network in ["unix/", "unix+h2c/", "unix:"] {
        if let Some(path) = target.strip_prefix(network) {
            return Some(path.split('|').next().unwrap_or(path).to_owned());
        }
    }
    let (scheme, rest) = target.split_once("://").unwrap_or(("", target));
    let rest = rest.trim_start_matches("tcp/").split('/').next().unwrap_or_default();
    if rest.is_empty() || rest.contains('{') {
        return None;
    }
    if let Some(port) = rest.strip_prefix(':') {
        return Some(format!("127.0.0.1:{port}"));
    }
    let bracket = rest.rfind(']').map_or(0, |at| at + 1);
    let port = if scheme == "https" { 443 } else { 80 };
    Some(if rest[bracket..].contains(':') { rest.to_owned() } else { format!("{rest}:{port}") })
}

/// The JSON form: servers with routes, and loggers by name.
pub(super) fn read_json(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    let Ok(config) = serde_json::from_str::<Value>(text) else {
        files.note(path, "is no JSON".to_owned(), "correct it".to_owned());
        return;
    };
    found.services.insert("caddy.service".to_owned());
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut logs: Vec<(String, VhostLog)> = Vec::new();
    for (name, log) in config["logging"]["logs"].as_object().into_iter().flatten() {
        if let Some(file) = log["writer"]["filename"].as_str() {
            let path = files.resolve(Path::new(file));
            if name == "default" {
                found.add_error_log(path.clone(), Server::Caddy);
            }
            logs.push((name.clone(), VhostLog::new(path, "caddy")));
        }
    }
    for (name, server) in config["apps"]["http"]["servers"].as_object().into_iter().flatten() {
        let listen: Vec<String> = strings(&server["listen"])
            .iter()
            .map(|l| l.trim_start_matches("tcp/").to_owned())
            .collect();
        let named = server["logs"]["default_logger_name"].as_str().unwrap_or("default");
        let is_logged = server["logs"].is_object();
        let own = logs.iter().filter(|(name, _)| is_logged && (name == named || logs.len() == 1));
        let own: Vec<VhostLog> = own.map(|(_, log)| log.clone()).collect();
        for route in server["routes"].as_array().into_iter().flatten() {
            let mut vhost = Vhost::new(Server::Caddy, format!("{}:1", path.display()));
            let matches = route["match"].as_array().into_iter().flatten();
            vhost.names = matches.flat_map(|one| strings(&one["host"])).collect();
            vhost.label = Some(name.to_lowercase());
            vhost.listen.clone_from(&listen);
            vhost.access_logs.clone_from(&own);
            dials(&route["handle"], &mut vhost.backends, 0);
            found.vhosts.push(vhost);
        }
    }
}

fn dials(value: &Value, backends: &mut Vec<String>, depth: u32) {
    if depth > DEPTH_MAX {
        return;
    }
    if let Some(target) = value["dial"].as_str() {
        backends.extend(dial(target));
    }
    let inner: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => return,
    };
    for inner in inner {
        dials(inner, backends, depth + 1);
    }
}
