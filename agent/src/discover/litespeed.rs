//! OpenLiteSpeed: vhosts, templates with members, listeners with their maps, and who answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog, php_version};

const SERVER_ROOT: &str = "/usr/local/lsws";
const MAIN: &str = "/usr/local/lsws/conf/httpd_config.conf";
/// Vhosts of configurations whose main file cannot be read.
const VHOSTS: [&str; 2] =
    ["/usr/local/lsws/conf/vhosts/*/vhconf.conf", "/usr/local/lsws/conf/vhosts/*/vhost.conf"];
const DEPTH_MAX: u32 = 16;

/// Its vhosts; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let path = files.below(MAIN);
    if let Some(text) = files.read_optional(&path) {
        return read(files, found, &path, &text);
    }
    let server = Config { root: SERVER_ROOT.to_owned(), ..Config::default() };
    for pattern in VHOSTS {
        for path in files.expand(&files.below(pattern).to_string_lossy()) {
            let Some(text) = files.read_optional(&path) else { continue };
            let name = path.parent().and_then(Path::file_name).unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            let mut own = Own { name, ..Own::default() };
            own.take(&parse(&text), &server.root);
            found.services.insert("lsws.service".to_owned());
            found.vhosts.push(server.vhost(files, &own, format!("{}:1", path.display())));
        }
    }
}

/// The main file with what it names.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    found.services.insert("lsws.service".to_owned());
    let tree = parse(text);
    let mut server = Config { root: SERVER_ROOT.to_owned(), ..Config::default() };
    server.take(&tree);
    if let Some(log) = &server.own.error_log {
        found.add_error_log(files.resolve(Path::new(log)), Server::Litespeed);
    }
    for node in &tree {
        match node.name.as_str() {
            "virtualhost" => {
                let mut own = Own { name: node.value.clone(), ..Own::default() };
                own.root = node.child("vhroot").map(|r| own.fill(r, &server.root));
                let config = node.child("configfile").map(|file| own.fill(file, &server.root));
                let source = server.read_own(files, &mut own, config.as_deref());
                let source = source.unwrap_or_else(|| format!("{}:{}", path.display(), node.line));
                found.vhosts.push(server.vhost(files, &own, source));
            }
            "vhtemplate" => server.template(files, found, path, node),
            _ => {}
        }
    }
}

/// `name value {` with what is inside.
#[derive(Debug, Default)]
struct Node {
    /// In lower case.
    name: String,
    value: String,
    inside: Vec<Node>,
    line: usize,
}

impl Node {
    fn child(&self, name: &str) -> Option<&str> {
        let own = self.inside.iter().find(|node| node.name == name)?;
        Some(own.value.as_str())
    }
}

fn parse(text: &str) -> Vec<Node> {
    let mut open: Vec<Node> = vec![Node::default()];
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "}" {
            if open.len() > 1
                && let (Some(node), Some(parent)) = (open.pop(), open.last_mut())
            {
                parent.inside.push(node);
            }
            continue;
        }
        let (line, opens) = match line.strip_suffix('{') {
            Some(line) => (line.trim_end(), true),
            None => (line, false),
        };
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        // Text over several lines.
        if let Some(end) = value.trim().strip_prefix("<<<") {
            let end = end.trim();
            lines.by_ref().find(|(_, line)| line.trim() == end);
            continue;
        }
        let node = Node {
            name: name.to_ascii_lowercase(),
            value: value.trim().to_owned(),
            inside: Vec::new(),
            line: number + 1,
        };
        if opens && open.len() <= DEPTH_MAX as usize {
            open.push(node);
        } else if let Some(parent) = open.last_mut() {
            parent.inside.push(node);
        }
    }
    // What is left open ends with the file.
    while open.len() > 1 {
        if let (Some(node), Some(parent)) = (open.pop(), open.last_mut()) {
            parent.inside.push(node);
        }
    }
    open.pop().map(|root| root.inside).unwrap_or_default()
}

/// A text in quotes, which may hold quotes.
fn unquoted(text: &str) -> String {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    bare.replace("\\\"", "\"")
}

/// Who answers for scripts or a context.
#[derive(Clone, Debug, Default)]
struct Processor {
    address: String,
    php: Option<String>,
    user: Option<String>,
}

/// What the server or one vhost says.
#[derive(Clone, Debug, Default)]
struct Own {
    name: String,
    root: Option<String>,
    domain: Vec<String>,
    docroot: Option<String>,
    access_log: Option<String>,
    format: Option<String>,
    error_log: Option<String>,
    processors: BTreeMap<String, Processor>,
    /// Names of processors: scripts before contexts.
    handlers: Vec<String>,
    user: Option<String>,
}

impl Own {
    /// Replaces the variables that paths and names hold.
    fn fill(&self, text: &str, server_root: &str) -> String {
        let mut text = text.trim_matches('"').to_owned();
        let root = self.root.clone().unwrap_or_default();
        let domain = self.domain.first().unwrap_or(&self.name);
        for (variable, value) in [
            ("$SERVER_ROOT", server_root),
            ("$VH_ROOT", root.trim_end_matches('/')),
            ("$VH_NAME", &self.name),
            ("$VH_DOMAIN", domain),
            ("$DOC_ROOT", self.docroot.as_deref().unwrap_or_default()),
        ] {
            text = text.replace(variable, value);
        }
        if text.starts_with('/') || text.is_empty() || !text.contains('/') {
            text
        } else {
            format!("{server_root}/{text}")
        }
    }

    fn take(&mut self, tree: &[Node], server_root: &str) {
        let mut contexts = Vec::new();
        for node in tree {
            match node.name.as_str() {
                "docroot" => self.docroot = Some(self.fill(&node.value, server_root)),
                "vhdomain" => self.domain.splice(0..0, list(&node.value)).for_each(drop),
                "vhaliases" => self.domain.extend(list(&node.value)),
                "user" => self.user = Some(node.value.clone()),
                "accesslog" if !uses_server(node) => {
                    self.access_log = Some(self.fill(&node.value, server_root));
                    self.format = node.child("logformat").map(unquoted);
                }
                "errorlog" if !uses_server(node) => {
                    self.error_log = Some(self.fill(&node.value, server_root));
                }
                "extprocessor" => {
                    let processor = processor(node);
                    self.processors.insert(self.fill(&node.value, server_root), processor);
                }
                "scripthandler" => {
                    let adds = node.inside.iter().filter(|inner| inner.name == "add");
                    let names = adds.filter_map(|add| {
                        let (_, name) = add.value.split_whitespace().next()?.split_once(':')?;
                        Some(self.fill(name, server_root))
                    });
                    let names: Vec<String> = names.collect();
                    self.handlers.extend(names);
                }
                "context" => contexts.extend(node.child("handler").map(str::to_owned)),
                _ => {}
            }
        }
        for handler in contexts {
            self.handlers.push(self.fill(&handler, server_root));
        }
        let named: Vec<String> =
            self.domain.iter().map(|name| self.fill(name, server_root)).collect();
        self.domain = named;
    }
}

fn uses_server(node: &Node) -> bool {
    node.child("useserver").is_some_and(|value| value == "1")
}

fn processor(node: &Node) -> Processor {
    let address = node.child("address").unwrap_or_default();
    let is_socket = address.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("uds:/"));
    let socket = address.get(5..).filter(|_| is_socket);
    let address = if let Some(socket) = socket {
        format!("/{}", socket.trim_start_matches('/'))
    } else {
        let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
        bare.split('/').next().unwrap_or_default().to_owned()
    };
    Processor {
        address,
        php: node.child("path").and_then(php_version),
        user: node.child("extuser").map(str::to_owned),
    }
}

/// `a.example, www.a.example`.
fn list(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The server: what its vhosts inherit.
#[derive(Default)]
struct Config {
    root: String,
    own: Own,
    /// Listeners: address, and names by vhost.
    listeners: Vec<(String, String, BTreeMap<String, Vec<String>>)>,
}

impl Config {
    fn take(&mut self, tree: &[Node]) {
        let root = self.root.clone();
        self.own.take(tree, &root);
        for node in tree.iter().filter(|node| node.name == "listener") {
            let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for map in node.inside.iter().filter(|inner| inner.name == "map") {
                let Some((vhost, domains)) = map.value.split_once(char::is_whitespace) else {
                    continue;
                };
                names.entry(vhost.to_owned()).or_default().extend(list(domains));
            }
            let address = node.child("address").unwrap_or_default().to_owned();
            self.listeners.push((node.value.clone(), address, names));
        }
    }

    /// Reads a vhost's own file; returns where it is.
    fn read_own(&self, files: &mut Files, own: &mut Own, config: Option<&str>) -> Option<String> {
        let config = config?;
        let path: PathBuf = files.resolve(Path::new(config));
        let text = files.read_included(&path)?;
        own.take(&parse(&text), &self.root);
        Some(format!("{}:1", path.display()))
    }

    fn template(&self, files: &mut Files, found: &mut Found, path: &Path, node: &Node) {
        let file = node.child("templatefile").map(|file| self.own.fill(file, &self.root));
        let text = file.as_deref().and_then(|file| files.read_included(Path::new(file)));
        let tree = parse(&text.unwrap_or_default());
        let inside = tree.iter().find(|node| node.name == "virtualhostconfig");
        for member in node.inside.iter().filter(|inner| inner.name == "member") {
            let mut own = Own { name: member.value.clone(), ..Own::default() };
            own.domain = list(member.child("vhdomain").unwrap_or(&member.value));
            own.domain.extend(list(member.child("vhaliases").unwrap_or_default()));
            let root = member.child("vhroot").or_else(|| {
                tree.iter().find(|node| node.name == "vhroot").map(|node| node.value.as_str())
            });
            own.root = root.map(|root| own.fill(root, &self.root));
            own.take(inside.map_or(&[][..], |node| &node.inside), &self.root);
            let source = format!("{}:{}", path.display(), member.line);
            let mut vhost = self.vhost(files, &own, source);
            let listeners = list(node.child("listeners").unwrap_or_default());
            let addresses = self.listeners.iter().filter(|(name, ..)| listeners.contains(name));
            vhost.listen.extend(addresses.map(|(_, address, _)| address.clone()));
            found.vhosts.push(vhost);
        }
    }

    fn vhost(&self, files: &Files, own: &Own, source: String) -> Vhost {
        let mut vhost = Vhost::new(Server::Litespeed, source);
        for (_, address, names) in &self.listeners {
            if let Some(names) = names.get(&own.name) {
                vhost.names.extend(names.iter().filter(|name| *name != "*").cloned());
                vhost.listen.push(address.clone());
            }
        }
        vhost.names.extend(own.domain.iter().filter(|name| *name != "*").cloned());
        vhost.label = Some(own.name.to_lowercase()).filter(|name| !name.is_empty());
        let mut seen = std::collections::BTreeSet::new();
        vhost.names.retain(|name| seen.insert(name.clone()));
        let (log, format) = match &own.access_log {
            Some(log) => (Some(log), &own.format),
            None => (self.own.access_log.as_ref(), &self.own.format),
        };
        if let Some(log) = log {
            let format = format.as_deref().unwrap_or("litespeed");
            vhost.access_logs.push(VhostLog::new(files.resolve(Path::new(log)), format));
        }
        let error_log = own.error_log.as_ref().or(self.own.error_log.as_ref());
        vhost.error_logs.extend(error_log.map(|log| files.resolve(Path::new(log))));
        let handlers = if own.handlers.is_empty() { &self.own.handlers } else { &own.handlers };
        for name in handlers {
            let Some(known) = own.processors.get(name).or_else(|| self.own.processors.get(name))
            else {
                continue;
            };
            if !known.address.is_empty() {
                vhost.backends.push(known.address.clone());
            }
            vhost.php_version = vhost.php_version.or_else(|| known.php.clone());
            vhost.owner = vhost.owner.or_else(|| known.user.clone());
        }
        vhost.docroot.clone_from(&own.docroot);
        vhost
    }
}
