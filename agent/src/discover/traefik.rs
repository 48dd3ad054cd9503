//! Traefik: its static configuration, and the routers and services of its file provider.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::discover::files::Files;
use crate::discover::found::{Found, Server, Vhost, VhostLog};
use crate::discover::yaml;

const MAIN: [&str; 3] =
    ["/etc/traefik/traefik.yml", "/etc/traefik/traefik.yaml", "/etc/traefik/traefik.toml"];
const DEPTH_MAX: usize = 32;

/// Its routers; nothing when it is not installed.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    for main in MAIN {
        let path = files.below(main);
        if let Some(text) = files.read_optional(&path) {
            return read(files, found, &path, &text);
        }
    }
}

/// The static configuration with the files that its provider names.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    found.services.insert("traefik.service".to_owned());
    let main = parse(path, text);
    let mut logs = Vec::new();
    if main["accesslog"].is_object() {
        match main["accesslog"]["filepath"].as_str() {
            Some(file) if file.starts_with('/') => {
                let is_json = main["accesslog"]["format"].as_str() == Some("json");
                let log = VhostLog::new(files.resolve(Path::new(file)), "traefik");
                logs.push(VhostLog { names_host: Some(is_json), ..log });
            }
            _ => files.note(
                path,
                "its access log goes to no file".to_owned(),
                "write `accessLog: { filePath: /var/log/traefik/access.log, format: json }`"
                    .to_owned(),
            ),
        }
    }
    if let Some(file) = main["log"]["filepath"].as_str().filter(|file| file.starts_with('/')) {
        found.add_error_log(files.resolve(Path::new(file)), Server::Traefik);
    }
    let mut listen = BTreeMap::new();
    for (name, point) in main["entrypoints"].as_object().into_iter().flatten() {
        if let Some(address) = point["address"].as_str() {
            let address = address.split('/').next().unwrap_or_default().to_owned();
            listen.insert(name.clone(), address);
        }
    }
    let mut dynamic = vec![(path.to_path_buf(), main.clone())];
    let provider = &main["providers"]["file"];
    for pattern in patterns(provider) {
        for path in files.expand(&pattern) {
            if let Some(text) = files.read_included(&path) {
                let config = parse(&path, &text);
                dynamic.push((path, config));
            }
        }
    }
    routers(found, &dynamic, &listen, &logs);
}

fn patterns(provider: &Value) -> Vec<String> {
    let file = provider["filename"].as_str().map(str::to_owned);
    let folder = provider["directory"].as_str().map(|folder| folder.trim_end_matches('/'));
    let inside = folder.into_iter().flat_map(|folder| {
        ["*.yml", "*.yaml", "*.toml", "*/*.yml", "*/*.yaml"].map(|name| format!("{folder}/{name}"))
    });
    file.into_iter().chain(inside).collect()
}

fn parse(path: &Path, text: &str) -> Value {
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let value =
        if is_toml { toml::from_str::<Value>(text).unwrap_or_default() } else { yaml::parse(text) };
    in_lower_case(value, 0)
}

/// Keys in lower case: Traefik takes them in any.
fn in_lower_case(value: Value, depth: usize) -> Value {
    match value {
        _ if depth > DEPTH_MAX => Value::Null,
        Value::Object(map) => {
            let lower = |(key, value): (String, Value)| {
                (key.to_lowercase(), in_lower_case(value, depth + 1))
            };
            Value::Object(map.into_iter().map(lower).collect::<Map<_, _>>())
        }
        Value::Array(list) => {
            Value::Array(list.into_iter().map(|v| in_lower_case(v, depth + 1)).collect())
        }
        other => other,
    }
}

fn routers(
    found: &mut Found,
    dynamic: &[(PathBuf, Value)],
    listen: &BTreeMap<String, String>,
    logs: &[VhostLog],
) {
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, config) in dynamic {
        for (name, service) in config["http"]["services"].as_object().into_iter().flatten() {
            let servers = service["loadbalancer"]["servers"].as_array().into_iter().flatten();
            let addresses = servers.filter_map(|server| address(server["url"].as_str()?));
            services.insert(name.clone(), addresses.collect());
        }
    }
    for (path, config) in dynamic {
        for (name, router) in config["http"]["routers"].as_object().into_iter().flatten() {
            let mut vhost = Vhost::new(Server::Traefik, format!("{}:1", path.display()));
            vhost.names = hosts(router["rule"].as_str().unwrap_or_default());
            vhost.label = Some(name.clone());
            vhost.access_logs = logs.to_vec();
            let points = router["entrypoints"].as_array().into_iter().flatten();
            let named: Vec<&str> = points.filter_map(Value::as_str).collect();
            let is_named = |point: &String| {
                named.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case(point))
            };
            let addresses = listen.iter().filter(|(point, _)| is_named(point));
            vhost.listen = addresses.map(|(_, address)| address.clone()).collect();
            let service = router["service"].as_str().unwrap_or_default().to_lowercase();
            let service = service.split('@').next().unwrap_or_default();
            vhost.backends = services.get(service).cloned().unwrap_or_default();
            found.vhosts.push(vhost);
        }
    }
}

/// `http://127.0.0.1:3000/` -> `127.0.0.1:3000`.
fn address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next().filter(|host| !host.is_empty())?;
    let port = if scheme == "https" { 443 } else { 80 };
    let bracket = host.rfind(']').map_or(0, |at| at + 1);
    Some(if host[bracket..].contains(':') { host.to_owned() } else { format!("{host}:{port}") })
}

/// The hosts of a rule: ``Host(`a.example`, `b.example`) && PathPrefix(`/x`)``.
fn hosts(rule: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    let mut rest = rule;
    while let Some(at) = rest.find("Host") {
        let before = rest[..at].chars().next_back();
        rest = &rest[at + 4..];
        let (is_regex, inside) = match (rest.strip_prefix('('), rest.strip_prefix("Regexp(")) {
            (Some(inside), _) => (false, inside),
            (_, Some(inside)) => (true, inside),
            _ => continue,
        };
        if before == Some('!') {
            continue;
        }
        let inside = inside.split(')').next().unwrap_or_default();
        for host in inside.split(',').map(|host| host.trim().trim_matches(['`', '"', '\''])) {
            if is_regex {
                hosts.extend(crate::discover::words::hosts_of_regex(host));
            } else if !host.is_empty() {
                hosts.push(host.to_lowercase());
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_its_hosts() {
        for (rule, want) in [
            ("Host(`A.example`)", &["a.example"][..]),
            ("Host(`a.example`, `b.example`) && PathPrefix(`/x`)", &["a.example", "b.example"]),
            ("Host(\"a.example\") || Host(`b.example`)", &["a.example", "b.example"]),
            ("!Host(`a.example`) && HostRegexp(`^(www\\.)?b\\.example$`)", &[]),
            ("PathPrefix(`/`)", &[]),
            ("Host(", &[]),
        ] {
            let found = hosts(rule);
            if rule.starts_with('!') {
                assert!(!found.contains(&"a.example".to_owned()), "{rule}: {found:?}");
            } else {
                assert_eq!(found, want, "{rule}");
            }
        }
    }
}
