//! What containers put before the lines of a log.

use crate::logs::parse::time;

/// Cuts the prefix of a container runtime, `2026-11-20T12:00:00.1Z stdout F `, or of a compose
/// file's service, `web-1  | `; `None` for a piece of a line that the runtime cut.
pub(crate) fn open(line: &[u8]) -> Option<&[u8]> {
    let first = line.first()?;
    if matches!(first, b'{' | b'[' | b'<' | b'"') {
        return Some(line);
    }
    if first.is_ascii_digit()
        && let Some((_, rest)) = time::iso8601_prefix(line)
        && let Some(rest) = rest.strip_prefix(b" stdout ").or(rest.strip_prefix(b" stderr "))
    {
        return match rest {
            [b'F', b' ', line @ ..] => Some(line),
            _ => None,
        };
    }
    Some(after_service(line).unwrap_or(line))
}

fn after_service(line: &[u8]) -> Option<&[u8]> {
    let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let n_name = line.iter().take(64).take_while(is_name).count();
    let rest = line.get(n_name..).filter(|_| n_name > 0)?;
    let n_spaces = rest.iter().take(64).take_while(|byte| **byte == b' ').count();
    rest.get(n_spaces..).filter(|_| n_spaces > 0)?.strip_prefix(b"| ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_runtime_writes_before_a_line_is_cut() {
        for (line, want) in [
            ("{\"a\":1}", Some("{\"a\":1}")),
            ("2026-11-20T12:00:00.123456789+01:00 stdout F {\"a\":1}", Some("{\"a\":1}")),
            ("2026-11-20T12:00:00Z stderr F x", Some("x")),
            ("2026-11-20T12:00:00Z stdout P {\"a\":", None),
            ("web-1  | {\"a\":1}", Some("{\"a\":1}")),
            ("web  - | x", Some("web  - | x")),
            ("192.0.2.1 - - [", Some("192.0.2.1 - - [")),
            ("2026-11-20T12:00:00Z x", Some("2026-11-20T12:00:00Z x")),
            ("", None),
        ] {
            let got = open(line.as_bytes()).map(String::from_utf8_lossy);
            assert_eq!(got.as_deref(), want, "{line}");
        }
    }
}
