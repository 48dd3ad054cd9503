//! Varnish: its backends from the VCL, where it listens and what varnishncsa writes from unit files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog};
use crate::discover::words::{hosts_of_regex, joined_lines, words};

const VCL: &str = "/etc/varnish/default.vcl";
/// Units and environment files: what a later one says is stronger.
const DAEMON: [&str; 6] = [
    "/usr/lib/systemd/system/varnish.service",
    "/lib/systemd/system/varnish.service",
    "/etc/default/varnish",
    "/etc/varnish/varnish.params",
    "/etc/systemd/system/varnish.service",
    "/etc/systemd/system/varnish.service.d/*.conf",
];
const LOGGER: [&str; 5] = [
    "/usr/lib/systemd/system/varnishncsa.service",
    "/lib/systemd/system/varnishncsa.service",
    "/etc/default/varnishncsa",
    "/etc/systemd/system/varnishncsa.service",
    "/etc/systemd/system/varnishncsa.service.d/*.conf",
];
const ENABLED: [&str; 2] = [
    "/etc/systemd/system/multi-user.target.wants/varnishncsa.service",
    "/etc/systemd/system/varnishncsa.service",
];
const LOG: &str = "/var/log/varnish/varnishncsa.log";
const DEPTH_MAX: u32 = 16;
const FORMAT_BYTES_MAX: usize = 16 << 10;

/// Its vhosts; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let mut options = Options::default();
    for path in of_all(files, &DAEMON) {
        let Some(text) = files.read_optional(&path) else { continue };
        let own = options_of(&text, "varnishd");
        let set = |old: &mut Vec<String>, new: Vec<String>| {
            if !new.is_empty() {
                *old = new;
            }
        };
        set(&mut options.listen, own.listen);
        set(&mut options.files, own.files);
    }
    let path = match options.files.last() {
        Some(vcl) if vcl.starts_with('/') => files.resolve(Path::new(vcl)),
        Some(vcl) => files.below(&format!("/etc/varnish/{vcl}")),
        None => files.below(VCL),
    };
    let Some(text) = files.read_optional(&path) else { return };
    found.services.insert("varnish.service".to_owned());
    if options.listen.is_empty() {
        options.listen.push(":6081".to_owned());
    }
    let log = log(files);
    read_with(files, found, &path, &text, &options.listen, log.as_ref());
}

/// One VCL alone.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    // Unit files are as much anybody's text as a VCL is.
    let options = options_of(text, "varnishd");
    read_with(files, found, path, text, &options.listen, None);
}

fn of_all(files: &mut Files, patterns: &[&str]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for pattern in patterns {
        paths.extend(files.expand(&files.below(pattern).to_string_lossy()));
    }
    paths
}

/// What varnishncsa writes, when anything shows that it runs.
fn log(files: &mut Files) -> Option<VhostLog> {
    let mut target = files.below(LOG);
    let mut format = "varnish".to_owned();
    for path in of_all(files, &LOGGER) {
        let Some(text) = files.read_optional(&path) else { continue };
        let options = options_of(&text, "varnishncsa");
        if let Some(path) = options.target {
            target = files.resolve(Path::new(&path));
        }
        if let Some(own) = options.format {
            format = own;
        } else if let Some(path) = options.files.last() {
            let text = files.read_included(Path::new(path)).unwrap_or_default();
            let first = text.lines().next().unwrap_or_default().to_owned();
            if (1..FORMAT_BYTES_MAX).contains(&first.len()) {
                format = first;
            }
        }
    }
    let path = target;
    let is_enabled = ENABLED.iter().any(|unit| files.below(unit).symlink_metadata().is_ok());
    if !path.exists() {
        // Once it is there, requests count in it.
        let folder = path.parent().filter(|folder| folder.is_dir()).map(Path::to_path_buf);
        files.watch(&folder.unwrap_or_else(|| files.below("/var/log")));
        if !is_enabled {
            return None;
        }
    }
    // The request of varnishncsa is a whole URL.
    let names_host = format.contains("%r").then_some(true);
    Some(VhostLog { names_host, ..VhostLog::new(path, &format) })
}

/// Command-line options in a unit file or an environment file.
#[derive(Debug, Default)]
struct Options {
    /// `-a`.
    listen: Vec<String>,
    /// `-f`.
    files: Vec<String>,
    /// `-F`.
    format: Option<String>,
    /// `-w`.
    target: Option<String>,
}

fn options_of(text: &str, program: &str) -> Options {
    let mut options = Options::default();
    for (_, line) in joined_lines(text) {
        let line = line.trim();
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim_start_matches("export ").trim();
        match key {
            "ExecStart" if value.contains(program) => {
                take_options(value, program == "varnishd", &mut options);
            }
            // A shell's string in an environment file.
            "DAEMON_OPTS" | "VARNISHNCSA_OPTS" => {
                let value = value.trim_matches(['"', '\'']);
                take_options(value, program == "varnishd", &mut options);
            }
            "LOGFILE" => options.target = words(value).into_iter().next(),
            "VARNISH_LISTEN_PORT" => options.listen.push(format!(":{}", value.trim_matches('"'))),
            "VARNISH_VCL_CONF" => options.files.push(value.trim_matches('"').to_owned()),
            _ => {}
        }
    }
    options
}

fn take_options(line: &str, is_daemon: bool, options: &mut Options) {
    let mut words = words(line).into_iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix('-') else { continue };
        let (name, attached) = flag.split_at(flag.chars().next().map_or(0, char::len_utf8));
        // The logger's `-a` means that it appends.
        let is_known = matches!(name, "f" | "F" | "w") || name == "a" && is_daemon;
        if !is_known {
            continue;
        }
        let value = if attached.is_empty() { words.next() } else { Some(attached.to_owned()) };
        let Some(value) = value else { return };
        match name {
            "a" => {
                // `name=:80,PROXY`
                let address = value.split_once('=').map_or(value.as_str(), |(_, rest)| rest);
                options.listen.extend(address.split(',').next().map(str::to_owned));
            }
            "f" => options.files.push(value),
            "F" => options.format = Some(value.replace("%%", "%")),
            _ => options.target = Some(value),
        }
    }
}

fn read_with(
    files: &mut Files,
    found: &mut Found,
    path: &Path,
    text: &str,
    listen: &[String],
    log: Option<&VhostLog>,
) {
    let mut vcl = Vcl { source: format!("{}:1", path.display()), ..Vcl::default() };
    vcl.read(files, path, text, 0);
    let mut sites = std::mem::take(&mut vcl.sites);
    let first = vcl.first.clone().unwrap_or_default();
    let default = if vcl.backends.contains_key("default") { "default".to_owned() } else { first };
    sites.push((Vec::new(), vcl.default_hint.clone().unwrap_or(default)));
    for (names, backend) in sites {
        let mut vhost = Vhost::new(Server::Varnish, vcl.source.clone());
        vhost.names = names;
        vhost.label = Some("varnish".to_owned());
        vhost.listen = listen.to_vec();
        vhost.backends = vcl.addresses(&backend);
        vhost.access_logs.extend(log.cloned());
        found.vhosts.push(vhost);
    }
}

#[derive(Default)]
struct Vcl {
    source: String,
    /// Addresses by the name of the backend.
    backends: BTreeMap<String, String>,
    first: Option<String>,
    /// Members by the name of the director.
    directors: BTreeMap<String, Vec<String>>,
    /// Hosts, and the backend a condition on them sets.
    sites: Vec<(Vec<String>, String)>,
    /// What is set outside any condition on a host.
    default_hint: Option<String>,
}

impl Vcl {
    fn addresses(&self, name: &str) -> Vec<String> {
        let members = self.directors.get(name).cloned().unwrap_or_else(|| vec![name.to_owned()]);
        members.iter().filter_map(|member| self.backends.get(member).cloned()).collect()
    }

    fn read(&mut self, files: &mut Files, path: &Path, text: &str, depth: u32) {
        let tokens = tokens(text);
        let mut hosts: Vec<String> = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = |n: usize| tokens.get(at + n).map_or("", String::as_str);
            match token.as_str() {
                "include" if depth < DEPTH_MAX && next(1).starts_with('"') => {
                    let target = next(1).trim_matches('"');
                    let target = match path.parent() {
                        Some(folder) if !target.starts_with('/') => folder.join(target),
                        _ => PathBuf::from(target),
                    };
                    let target = target.to_string_lossy().into_owned();
                    for path in files.expand(&target) {
                        if let Some(text) = files.read_included(&path) {
                            self.read(files, &path, &text, depth + 1);
                        }
                    }
                }
                "backend" if next(2) == "{" => at = self.backend(&tokens, at),
                // A host without a backend of its own is a site as well: Varnish answers itself.
                "}" if !hosts.is_empty() => {
                    self.sites.push((std::mem::take(&mut hosts), String::new()));
                }
                name if name.eq_ignore_ascii_case("req.http.host") => {
                    let host = next(2).trim_matches('"');
                    match next(1) {
                        "==" => hosts.push(host.to_lowercase()),
                        "~" => hosts.extend(hosts_of_regex(host)),
                        _ => {}
                    }
                }
                "req.backend_hint" if next(1) == "=" => {
                    let name = next(2).split('.').next().unwrap_or_default().to_owned();
                    if hosts.is_empty() {
                        self.default_hint.get_or_insert(name);
                    } else {
                        self.sites.push((std::mem::take(&mut hosts), name));
                    }
                }
                name => {
                    if let Some(director) = name.strip_suffix(".add_backend")
                        && next(1) == "("
                    {
                        let members = self.directors.entry(director.to_owned()).or_default();
                        members.push(next(2).to_owned());
                    }
                }
            }
            at += 1;
        }
    }

    /// `backend name { .host = "…"; .port = "…"; }`; returns where its block ends.
    fn backend(&mut self, tokens: &[String], at: usize) -> usize {
        let name = tokens[at + 1].clone();
        let (mut host, mut port, mut depth) = (String::new(), "80".to_owned(), 0);
        let mut end = at + 2;
        while let Some(token) = tokens.get(end) {
            let value = || tokens.get(end + 2).map_or("", |v| v.trim_matches('"')).to_owned();
            match token.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                ".host" if depth == 1 => host = value(),
                ".port" if depth == 1 => port = value(),
                ".path" if depth == 1 => (host, port) = (value(), String::new()),
                _ => {}
            }
            if depth == 0 {
                break;
            }
            end += 1;
        }
        if !host.is_empty() {
            // `.host = "127.0.0.1:8080"` is written too.
            let has_port = host.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':'));
            let is_whole = port.is_empty() || host.starts_with('/') || has_port;
            let address = if is_whole { host } else { format!("{host}:{port}") };
            self.first.get_or_insert_with(|| name.clone());
            self.backends.insert(name, address);
        }
        end
    }
}

/// Words, strings with their quotes, and signs of a VCL; comments are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if first.is_whitespace() {
            first.len_utf8()
        } else if first == '#' || rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("{\"") {
            rest.find("\"}").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            tokens.push(rest[..end].to_owned());
            end
        } else {
            let is_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
            let end = match rest.find(|c| !is_word(c)).unwrap_or(rest.len()) {
                0 if rest.starts_with("==") => 2,
                0 => first.len_utf8(),
                end => end,
            };
            tokens.push(rest[..end].to_owned());
            end
        };
        rest = &rest[taken..];
    }
    tokens
}
