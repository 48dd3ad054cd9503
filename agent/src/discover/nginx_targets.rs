//! Whom a `…_pass` of nginx names: variables with what is known of them, sockets, ports.

use std::collections::BTreeMap;

/// Longest target of a pass once its variables are replaced.
const VALUE_BYTES_MAX: usize = 4096;
/// Variables that are set to variables in turn.
const SETS_MAX: u32 = 4;

/// The path of `unix:/run/a.sock:/uri`, which may be written `unix:///run/a.sock`.
pub(super) fn socket_path(text: &str) -> String {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    let path = path.split(':').next().unwrap_or_default();
    if path.starts_with('/') {
        format!("/{}", path.trim_start_matches('/'))
    } else {
        path.to_owned()
    }
}

/// The host and port before a URI, which a variable may begin once they are complete.
pub(super) fn without_uri(rest: &str) -> &str {
    const URIS: [&str; 6] =
        ["request_uri", "uri", "document_uri", "is_args", "args", "fastcgi_script_name"];
    let host = rest.split('/').next().unwrap_or_default();
    let Some((before, variable)) = host.split_once('$') else { return host };
    let variable = variable.trim_start_matches('{');
    let end = variable.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let name = &variable[..end.unwrap_or(variable.len())];
    let bracket = before.rfind(']').map_or(0, |at| at + 1);
    let has_port = before[bracket..].rsplit_once(':').is_some_and(|(_, port)| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    let is_capture = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    if has_port || is_capture || URIS.contains(&name) { before } else { host }
}

/// True when a text names a variable.
pub(super) fn has_variable(text: &str, name: &str) -> bool {
    let known = BTreeMap::from([(name.to_owned(), String::new())]);
    substitute_once(text, &known) != text
}

/// Replaces `$name` and `${name}`; what has no value becomes `*`, and neighbours one `*`.
pub(super) fn substitute(text: &str, mut value: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name = after.strip_prefix('{').unwrap_or(after);
        let is_braced = name.len() < after.len();
        let end =
            name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
        rest = &name[end..];
        if is_braced {
            rest = rest.strip_prefix('}').unwrap_or(rest);
        }
        if end == 0 {
            out.push('*');
        } else if out.ends_with('*') {
            // One wildcard stands for both.
            let known = value(&name[..end]);
            out.push_str(&known.unwrap_or_default());
        } else {
            out.push_str(&value(&name[..end]).unwrap_or_else(|| "*".to_owned()));
        }
    }
    out.push_str(rest);
    out
}

/// Replaces the variables that have a value, which may name variables in turn, and leaves the others
/// as they are.
pub(super) fn substitute_known(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    for _ in 0..SETS_MAX {
        let next = substitute_once(&text, variables);
        if next.len() > VALUE_BYTES_MAX {
            return String::new();
        }
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn substitute_once(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        let name = after.strip_prefix('{').unwrap_or(after);
        let end =
            name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
        let behind = &name[end..];
        let behind = if name.len() < after.len() { behind.strip_prefix('}') } else { Some(behind) };
        let known = variables.get(&name[..end]).zip(behind);
        if let Some((value, behind)) = known.filter(|_| out.len() <= VALUE_BYTES_MAX) {
            out.push_str(&rest[..at]);
            out.push_str(value);
            rest = behind;
        } else {
            out.push_str(&rest[..=at]);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The address with the port its scheme implies.
pub(super) fn with_port(host: &str, scheme: &str) -> String {
    let bracket = host.rfind(']').map_or(0, |at| at + 1);
    if host.starts_with('/') || host[bracket..].contains(':') {
        return host.to_owned();
    }
    let port = if matches!(scheme, "https" | "grpcs") { 443 } else { 80 };
    format!("{host}:{port}")
}
