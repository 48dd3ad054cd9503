//! `journalctl --output=json`: one object per entry. Fields whose names begin with `_` are the
//! journal's own and cannot be made up by the program that logs.

use std::borrow::Cow;

use serde_json::{Map, Value};
use wire::signal::classify_kernel;

use crate::logs::parse::{php_fpm, syslog, time};
use crate::logs::{ErrorRecord, Line, Rejected};

const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// One line.
pub(crate) fn parse<'l>(line: &[u8]) -> Line<'l> {
    let line = line.trim_ascii();
    if line.first() != Some(&b'{')
        || memchr::memmem::find(line, b"\"__REALTIME_TIMESTAMP\"").is_none()
    {
        return Line::Rejected(Rejected::Malformed);
    }
    let entry = serde_json::from_slice::<Map<String, Value>>(line).ok();
    entry.as_ref().and_then(record).map_or(Line::Rejected(Rejected::Malformed), Line::Error)
}

fn record<'l>(entry: &Map<String, Value>) -> Option<ErrorRecord<'l>> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let time = time::epoch_units(text("__REALTIME_TIMESTAMP")?.as_bytes(), 1_000_000)?;
    let said = message(entry.get("MESSAGE")?)?;
    let is_kernel = text("_TRANSPORT") == Some("kernel");
    let program = match text("SYSLOG_IDENTIFIER").or_else(|| text("_COMM")) {
        _ if is_kernel => "kernel",
        Some("kernel") | None => "",
        Some(program) => program,
    };
    let level = text("PRIORITY").and_then(|n| n.parse::<usize>().ok()).and_then(|n| LEVELS.get(n));
    let mut pool = None;
    let signal = if is_kernel {
        classify_kernel(&said)
    } else if program.starts_with("php") {
        let fpm = php_fpm::message(said.as_bytes());
        pool = fpm.pool.map(|pool| Cow::Owned(pool.into_owned()));
        fpm.signal
    } else {
        syslog::signal_of(program.as_bytes(), said.as_bytes())
    };
    let message = if program.is_empty() { said } else { format!("{program}: {said}") };
    Some(ErrorRecord {
        time: Some(time),
        level: level.map(|level| Cow::Borrowed(*level)),
        message: Cow::Owned(message),
        signal,
        pool,
        ..ErrorRecord::default()
    })
}

/// Text, or its bytes as numbers where they are no text; `null` where the journal found it too long.
fn message(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some(String::new()),
        Value::Array(bytes) => {
            let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::Signal;

    const OOM: &str = "Out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB";

    #[test]
    fn entries_tell_when_who_and_what() {
        let oom_bytes: Vec<String> = OOM.bytes().map(|byte| byte.to_string()).collect();
        let oom_bytes = format!("[{}]", oom_bytes.join(", "));
        let quoted = format!("{OOM:?}");
        for (fields, message, signal) in [
            (
                format!(
                    r#""_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel","PRIORITY":"3","MESSAGE":{quoted}"#
                ),
                format!("kernel: {OOM}"),
                Some(Signal::Oom),
            ),
            (
                format!(r#""_TRANSPORT":"kernel","MESSAGE":{oom_bytes}"#),
                format!("kernel: {OOM}"),
                Some(Signal::Oom),
            ),
            (
                format!(r#""_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"kernel","MESSAGE":{quoted}"#),
                OOM.to_owned(),
                None,
            ),
            (
                format!(r#""_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"sshd","MESSAGE":{quoted}"#),
                format!("sshd: {OOM}"),
                None,
            ),
            (
                r#""_TRANSPORT":"stdout","SYSLOG_IDENTIFIER":"php-fpm8.2","MESSAGE":"[20-Nov"#
                    .to_owned()
                    + r#" x","_PID":"7""#,
                "php-fpm8.2: [20-Nov x".to_owned(),
                None,
            ),
            (r#""_COMM":"app","MESSAGE":null"#.to_owned(), "app: ".to_owned(), None),
        ] {
            let line = format!(r#"{{"__REALTIME_TIMESTAMP":"1795176067042001",{fields}}}"#);
            let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((&*r.message, r.signal, r.gateway), (&*message, signal, false), "{line}");
            assert!(r.time.is_some());
        }
    }

    #[test]
    fn other_objects_are_none() {
        for line in [
            "",
            "{",
            "{}",
            r#"{"status":502,"host":"a"}"#,
            r#"{"__REALTIME_TIMESTAMP":"x","MESSAGE":"y"}"#,
            r#"{"__REALTIME_TIMESTAMP":"1795176067042001"}"#,
            r#"{"__REALTIME_TIMESTAMP":"1795176067042001","MESSAGE":{"a":1}}"#,
            r#"{"__REALTIME_TIMESTAMP":"1795176067042001","MESSAGE":[256]}"#,
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
