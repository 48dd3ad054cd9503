//! The part of YAML that configuration files are written in: maps, lists and scalars by indentation,
//! lists and maps in brackets on one line. What is none of it is read as text.

use serde_json::{Map, Value};

/// Levels that are read; deeper ones are left out.
const DEPTH_MAX: usize = 32;
/// Entries of one document.
const LINES_MAX: usize = 200_000;

/// Reads a document; total.
pub(super) fn parse(text: &str) -> Value {
    let mut lines = Vec::new();
    for line in text.lines().take(LINES_MAX) {
        let line = without_comment(line).trim_end();
        let bare = line.trim_start_matches(' ');
        if bare.is_empty() || bare == "---" || bare.starts_with('%') {
            continue;
        }
        lines.push((line.len() - bare.len(), bare.to_owned()));
    }
    let mut at = 0;
    block(&mut lines, &mut at, 0, 0)
}

/// A `#` outside quotes, at the start or behind a space, begins a comment.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '"' | '\'') if before.is_whitespace() || ":[{,-(".contains(before) => {
                quote = Some(c);
            }
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}

/// The map or list whose lines stand at least so far in.
fn block(lines: &mut [(usize, String)], at: &mut usize, indent: usize, depth: usize) -> Value {
    let Some((own, first)) = lines.get(*at).cloned() else { return Value::Null };
    if own < indent {
        return Value::Null;
    }
    if depth > DEPTH_MAX {
        while lines.get(*at).is_some_and(|(its, _)| *its >= indent) {
            *at += 1;
        }
        return Value::Null;
    }
    if first == "-" || first.starts_with("- ") {
        return list(lines, at, own, depth);
    }
    let mut map = Map::new();
    while let Some((its, line)) = lines.get(*at).cloned() {
        if its < own || its == own && (line == "-" || line.starts_with("- ")) {
            break;
        }
        *at += 1;
        let Some((key, value)) = entry(&line) else { continue };
        let value = if value.is_empty() || value.starts_with(['&', '!']) && !value.contains(' ') {
            // A list may stand as far out as its key.
            let is_list = lines.get(*at).is_some_and(|(next, line)| {
                *next == its && (line == "-" || line.starts_with("- "))
            });
            block(lines, at, if is_list { its } else { its + 1 }, depth + 1)
        } else if matches!(value.as_str(), "|" | ">" | "|-" | ">-" | "|+" | ">+") {
            let mut text = String::new();
            while let Some((_, line)) = lines.get(*at).filter(|(next, _)| *next > its) {
                text.push_str(line);
                text.push('\n');
                *at += 1;
            }
            Value::String(text)
        } else {
            scalar(&value, depth)
        };
        map.insert(key, value);
    }
    Value::Object(map)
}

fn list(lines: &mut [(usize, String)], at: &mut usize, own: usize, depth: usize) -> Value {
    let mut list = Vec::new();
    while let Some((its, line)) = lines.get(*at).cloned() {
        if its != own || !(line == "-" || line.starts_with("- ")) {
            break;
        }
        let rest = line[1..].trim_start_matches(' ');
        let inside = own + line.len() - rest.len();
        if rest.is_empty() {
            *at += 1;
            list.push(block(lines, at, own + 1, depth + 1));
        } else if entry(rest).is_some() && !rest.starts_with(['"', '\'', '[', '{']) {
            // `- url: x`: a map whose first line stands behind the dash.
            lines[*at] = (inside, rest.to_owned());
            let before = *at;
            list.push(block(lines, at, inside, depth + 1));
            if *at == before {
                *at += 1;
            }
        } else {
            *at += 1;
            list.push(scalar(rest, depth));
        }
    }
    Value::Array(list)
}

/// `key: value`, `"key": value`, `key:`.
fn entry(line: &str) -> Option<(String, String)> {
    if let Some(quote) = line.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let (key, rest) = line[1..].split_once(quote)?;
        let value = rest.trim_start().strip_prefix(':')?;
        return Some((key.to_owned(), value.trim().to_owned()));
    }
    let (key, value) = match line.split_once(": ") {
        Some(entry) => entry,
        None => (line.strip_suffix(':')?, ""),
    };
    Some((key.trim().to_owned(), value.trim().to_owned()))
}

/// A value on one line.
fn scalar(text: &str, depth: usize) -> Value {
    let text = text.trim();
    let inside =
        |open: char, close: char| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    if depth < DEPTH_MAX {
        if let Some(inside) = inside('[', ']') {
            let parts = parts(inside);
            return Value::Array(parts.iter().map(|part| scalar(part, depth + 1)).collect());
        }
        if let Some(inside) = inside('{', '}') {
            let pairs = parts(inside).into_iter().filter_map(|part| entry(part.trim()));
            return Value::Object(pairs.map(|(k, v)| (k, scalar(&v, depth + 1))).collect());
        }
    }
    if text.len() > 1 {
        for quote in ['"', '\''] {
            if let Some(inside) = inside(quote, quote) {
                let double = format!("{quote}{quote}");
                return Value::String(match quote {
                    '"' => inside.replace("\\\"", "\"").replace("\\\\", "\\"),
                    _ => inside.replace(&double, "'"),
                });
            }
        }
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" | "~" | "" => Value::Null,
        _ => Value::String(text.to_owned()),
    }
}

/// Parts between commas that stand in no quotes or brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut quote, mut n_open, mut start) = (Vec::new(), None, 0, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '[' | '{') => n_open += 1,
            (None, ']' | '}') => n_open -= 1,
            (None, ',') if n_open == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_configurations_are_written_in_is_read() {
        for (text, want) in [
            ("a: 1\nb:\n  c: \"x # y\" # z\n", json!({"a": "1", "b": {"c": "x # y"}})),
            ("a:\n- b\n- c: d\n  e: f\n", json!({"a": ["b", {"c": "d", "e": "f"}]})),
            (
                "a:\n  - url: http://x:1\n  - url: y\nb: {}",
                json!({"a": [{"url": "http://x:1"}, {"url": "y"}], "b": {}}),
            ),
            ("a: [x, \"y, z\", {b: c}]", json!({"a": ["x", "y, z", {"b": "c"}]})),
            (
                "rule: Host(`a.example`) && PathPrefix(`/`)",
                json!({"rule": "Host(`a.example`) && PathPrefix(`/`)"}),
            ),
            ("a:\n  -\n    b: c\n", json!({"a": [{"b": "c"}]})),
            ("a: |\n  x\n  y\nb: true", json!({"a": "x\ny\n", "b": true})),
            ("- - a", json!(["- a"])),
            ("", json!(null)),
            ("::::\n  - [", json!({":::": ["["]})),
            ("\u{e9}: \u{e8}\n\t: x", json!({"\u{e9}": "\u{e8}", "": "x"})),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        let mut deep = String::new();
        for n in 0..5000 {
            deep.push_str(&" ".repeat(n));
            deep.push_str("a:\n");
        }
        drop(parse(&deep));
        drop(parse(&"- ".repeat(20_000)));
        drop(parse(&"[".repeat(20_000)));
    }
}
