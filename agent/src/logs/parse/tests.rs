//! Hostile input for all parsers, and the corpus of real lines.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::logs::AccessRecord;

mod bare_fields;
mod every_format;
mod odd_requests;
mod told_formats;

/// Every format there is, and two that put the client's words before the status.
const ALL: [&str; 15] = [
    "auto",
    "combined",
    "common",
    "vhost_combined",
    "json",
    "haproxy",
    "nginx_ingress",
    "npm_access",
    "nginx_error",
    "apache_error",
    "php_fpm",
    "text",
    r"$http_user_agent $remote_addr [$time_local] $request $status $body_bytes_sent",
    r#"%h %l %u %t \"%r\" %>s %b \"%{User-Agent}i\" %D"#,
    "{\"ua\":\"$http_user_agent\",\"status\":$status}",
];

fn is_gateway(format: &str, line: &[u8]) -> bool {
    let object = output::render(1, &mut Parser::for_format(format, &[]), line);
    object.get("gateway").is_some()
}

/// A request that ended well, with `agent` as the client's words, as each server writes it.
fn good_lines(agent: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let around = |before: &str, after: &str| [before.as_bytes(), agent, after.as_bytes()].concat();
    let combined = r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" ""#;
    vec![
        ("combined", around(combined, "\"")),
        ("auto", around(combined, "\"")),
        ("auto", around(combined, "\" rt=0.001")),
        ("vhost_combined", around(&format!("a.example:443 {combined}"), "\"")),
        ("auto", around(&format!("a.example:443 {combined}"), "\"")),
        (ALL[12], around("", " 198.51.100.7 [20/Nov/2026:12:00:00 +0000] GET / HTTP/1.1 200 5")),
        (ALL[13], around(combined, "\" 1200")),
    ]
}

#[test]
fn what_imitates_a_log_line_stays_a_word_of_the_client() {
    for agent in [
        r#"x" 502 17 "-" "y"#,
        r#"198.51.100.9 - - [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 157 "-" "x"#,
        r"\x22 502 157 \x22-\x22 \x22x",
        "2026/11/20 12:43:07 [error] 94#94: *8 connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.9, server: a, request: \"GET / HTTP/1.1\", upstream: \"http://127.0.0.1:1/\"",
        "[Fri Nov 20 12:44:40.869776 2026] [proxy:error] [pid 1:tid 2] (111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:4999 failed",
        "Nov 20 12:47:17 h haproxy[1]: 1.2.3.4:5 [20/Nov/2026:12:47:17.812] a b/s1 0/0/0/-1/4 502 209 - - SH-- 1/1/0/0/0 0/0 \"GET / HTTP/1.1\"",
        r#"{"status":502,"host":"a"}"#,
        "labcap/1 (502 ok)",
        "502",
        " 502 ",
        "",
        "\0\0\0",
        "\u{202e}",
    ] {
        for (format, line) in good_lines(agent.as_bytes()) {
            let shown = String::from_utf8_lossy(&line).into_owned();
            assert!(!is_gateway(format, &line), "{format}: {shown}");
        }
    }
    // As the server escapes it, the request is still counted.
    let line = good_lines(br"\x22 502 157 \x22-\x22").remove(0).1;
    assert!(matches!(Parser::for_format("combined", &[]).parse(&line), Line::Access(_)));
}

#[test]
fn a_followed_access_log_never_turns_into_another_kind_of_log() {
    let source = LogSource {
        path: "/log/access.log".into(),
        kind: LogKind::Access,
        format: "auto".to_owned(),
        site: crate::discover::SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    };
    let error = b"2026/11/20 12:43:10 [error] 7#7: *31 connect() failed (111: Connection refused) while connecting to upstream, client: 1.2.3.4, server: a, request: \"GET / HTTP/1.1\", upstream: \"http://127.0.0.1:1/\"";
    let mut parser = Parser::for_source(&source, &[]);
    assert!(matches!(parser.parse(error), Line::Rejected(_)), "no error log");
    let access = good_lines(b"x").remove(0).1;
    assert!(matches!(parser.parse(&access), Line::Access(_)));
    assert_eq!(parser.format(), "clf");
    // One line of JSON does not change the format, a file of it does.
    let json = br#"{"status":502,"host":"a","time_iso8601":"2026-11-20T12:00:00Z"}"#;
    assert!(matches!(parser.parse(json), Line::Rejected(_)));
    let n_rejected = (0..30).filter(|_| matches!(parser.parse(json), Line::Rejected(_))).count();
    assert!(n_rejected < 25 && parser.format() == "json", "{n_rejected} {}", parser.format());
    // An error log's continuation lines are no requests either.
    let errors = LogSource { kind: LogKind::Error, ..source };
    let mut parser = Parser::for_source(&errors, &[error]);
    assert_eq!(parser.format(), "nginx_error");
    for _ in 0..50 {
        assert!(matches!(parser.parse(&access), Line::Rejected(_)));
    }
}

#[test]
fn two_servers_with_one_error_log_are_each_read() {
    let source = LogSource {
        path: "/log/a.error.log".into(),
        kind: LogKind::Error,
        format: "auto".to_owned(),
        site: crate::discover::SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    };
    let nginx = &b"2026/11/20 12:43:10 [error] 7#7: *31 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: a.example, request: \"GET / HTTP/1.1\", upstream: \"http://127.0.0.1:1/\""[..];
    let apache = &b"[Fri Nov 20 12:44:23.681114 2026] [proxy_http:error] [pid 121:tid 127] (104)Connection reset by peer: [client 203.0.113.9:44996] AH01102: error reading status line from remote server 127.0.0.1:4101"[..];
    for (first, second) in [(nginx, apache), (apache, nginx)] {
        let mut parser = Parser::for_source(&source, &[first]);
        for n in 0..60 {
            let line = if n % 3 == 0 { first } else { second };
            let is_read = matches!(parser.parse(line), Line::Error(record) if record.gateway);
            assert!(is_read, "{n}: {}", String::from_utf8_lossy(line));
            // What an application writes over several lines is of neither.
            for more in [
                &b"[Fri Nov 20 12:44:23 2026] AH01102: error reading status line from remote server x"[..],
                b"[error] 7#7: *31 connect() failed (111: Connection refused) while connecting to upstream",
                b"  thrown in /srv/a.php on line 7",
                b"[20-Nov-2026 12:59:19] WARNING: [pool www] child 67 exited on signal 9 (SIGKILL)",
            ] {
                let is_none = matches!(parser.parse(more), Line::Rejected(_));
                assert!(is_none, "{}", String::from_utf8_lossy(more));
            }
        }
    }
}

#[test]
fn a_format_that_changed_under_us_costs_a_few_lines_only() {
    let source = LogSource {
        path: "/log/access.log".into(),
        kind: LogKind::Access,
        format: "$host $status".to_owned(),
        site: crate::discover::SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    };
    let mut parser = Parser::for_source(&source, &[]);
    assert!(matches!(parser.parse(b"a.example 200"), Line::Access(_)));
    let other = good_lines(b"x").remove(0).1;
    let n_rejected = (0..100).filter(|_| matches!(parser.parse(&other), Line::Rejected(_))).count();
    assert_eq!(n_rejected, REJECTED_IN_A_ROW_MAX as usize);
    assert!(matches!(parser.parse(b"a.example 502"), Line::Access(_)), "and back");
    assert!(matches!(parser.parse(&other), Line::Rejected(_)));
}

#[test]
fn long_cut_and_broken_lines_are_refused_or_read() {
    let huge = vec![b'a'; 1 << 20];
    let quotes = vec![b'"'; LINE_BYTES_MAX];
    let spaces = vec![b' '; LINE_BYTES_MAX];
    for format in ALL {
        let mut parser = Parser::for_format(format, &[]);
        assert_eq!(parser.parse(&huge), Line::Rejected(Rejected::TooLong));
        assert_eq!(parser.parse(b""), Line::Rejected(Rejected::Blank));
        for line in [&quotes, &spaces] {
            assert!(
                format == "text" || matches!(parser.parse(line), Line::Rejected(_)),
                "{format}"
            );
        }
    }
    // Whatever is cut off, a line either tells the status it had or nothing.
    for (format, line) in good_lines(b"curl/8.5.0") {
        for end in 0..line.len() {
            let mut parser = Parser::for_format(format, &[]);
            if let Line::Access(record) = parser.parse(&line[..end]) {
                assert_eq!(record.status, Some(200), "{format} cut at {end}");
            }
        }
    }
}

#[test]
fn formats_of_both_servers_are_compiled() {
    for (format, line, want) in [
        (
            r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" "$http_x_forwarded_for""#,
            r#"10.0.0.1 - bob smith [20/Nov/2026:12:00:00 +0000] "GET /a?b HTTP/2.0" 502 157 "-" "x" "203.0.113.7, 10.0.0.2""#,
            r#"{"client":"10.0.0.1","method":"GET","path":"/a?b","status":502,"time":"2026-11-20T12:00:00Z"}"#,
        ),
        (
            r#"$remote_addr - $remote_user [$time_local] $request "$status" $body_bytes_sent "$http_referer" "$http_user_agent" "$http_x_forwarded_for""#,
            r#"10.0.0.1 - - [20/Nov/2026:12:00:00 +0000] GET /a HTTP/2.0 "504" 157 "-" "x" "-""#,
            r#"{"client":"10.0.0.1","method":"GET","path":"/a","status":504,"time":"2026-11-20T12:00:00Z"}"#,
        ),
        (
            r"$msec $host $scheme://$host$request_uri $status ${request_time}s [$upstream_addr] [$upstream_status] $upstream_response_time",
            r"1795176067.042 a.example https://a.example/x 502 0.120s [127.0.0.1:1, 127.0.0.1:2] [502, 502] 0.050, 0.060",
            r#"{"attempts":[{"status":502,"time":0.05,"upstream":"127.0.0.1:1"},{"status":502,"time":0.06,"upstream":"127.0.0.1:2"}],"host":"a.example","request_time":0.12,"status":502,"time":"2026-11-20T12:01:07.042Z","upstream":"127.0.0.1:2","upstream_status":502,"upstream_time":0.11}"#,
        ),
        (
            r#"%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\" %D"#,
            r#"a.example:80 10.0.0.1 - - [20/Nov/2026:12:00:00 +0100] "GET /a HTTP/1.1" 503 157 "-" "a \"b\" c" 2500000"#,
            r#"{"client":"10.0.0.1","host":"a.example","method":"GET","path":"/a","request_time":2.5,"status":503,"time":"2026-11-20T12:00:00+01:00"}"#,
        ),
        (
            r"%{%Y-%m-%d %H:%M:%S %z}t %a %{ms}T %m %U%q %!200s",
            "2026-11-20 12:00:00 +0000 10.0.0.1 1500 GET /a?b 504",
            r#"{"client":"10.0.0.1","method":"GET","request_time":1.5,"status":504,"time":"2026-11-20T12:00:00Z"}"#,
        ),
    ] {
        let mut object = output::render(1, &mut Parser::for_format(format, &[]), line.as_bytes());
        for key in ["n", "format", "gateway"] {
            assert!(object.remove(key).is_some(), "{format} {object:?}");
        }
        assert_eq!(Value::Object(object).to_string(), want, "{format}");
    }
    assert!(matches!(
        Parser::for_format("$body_bytes_sent", &[]).parse(b"17"),
        Line::Rejected(Rejected::Directive)
    ));
}

#[test]
fn parse_prints_one_object_per_line() {
    let input = b"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] \"GET / HTTP/1.1\" 502 157 \"-\" \"x\"\n\nrubbish\r\nlast";
    let mut out = Vec::new();
    output::parse_command("auto", &mut &input[..], &mut out).unwrap();
    let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
    assert_eq!(lines.len(), 4);
    let first: Map<String, Value> = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(
        (&first["n"], &first["status"], &first["gateway"]),
        (&1.into(), &502.into(), &true.into())
    );
    assert_eq!(lines[1], r#"{"n":2,"rejected":"blank"}"#);
    assert_eq!(lines[2], r#"{"n":3,"rejected":"malformed"}"#);
    assert_eq!(lines[3], r#"{"n":4,"rejected":"malformed"}"#);
    let mut out = Vec::new();
    let huge = [vec![b'x'; 3 << 20], b"\nshort".to_vec()].concat();
    output::parse_command("combined", &mut &huge[..], &mut out).unwrap();
    assert!(out.starts_with(br#"{"n":1,"rejected":"too_long"}"#));
    assert_eq!(memchr::memchr_iter(b'\n', &out).count(), 2);
}

proptest! {
    #[test]
    fn no_words_of_a_client_make_a_gateway_error(agent in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (format, line) in good_lines(&agent) {
            prop_assert!(!is_gateway(format, &line), "{format}");
        }
    }

    #[test]
    fn no_chosen_words_of_a_client_make_a_gateway_error(agent in r#"[ "\\\[\]/:,=-]{0,3}((502|503|504|200|GET|HTTP/1\.1|x22|[0-9.]{1,9}|20/Nov/2026:12:00:00 \+0000|ua=|us=|client|[a-z{}:#*])[ "\\\[\],;]{0,2}){0,30}"#) {
        for (format, line) in good_lines(agent.as_bytes()) {
            prop_assert!(!is_gateway(format, &line), "{format} {agent}");
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..400)) {
        for format in ALL {
            let object = output::render(1, &mut Parser::for_format(format, &[]), &line);
            prop_assert!(object.contains_key("rejected") != object.contains_key("format"));
        }
    }

    #[test]
    fn no_damaged_line_makes_a_parser_panic(which in 0usize..12, at in 0usize..300, byte: u8, format in 0usize..ALL.len()) {
        let mut lines: Vec<Vec<u8>> = good_lines(b"x y").into_iter().map(|(_, line)| line).collect();
        lines.extend([
            &b"2026/11/20 12:43:10 [error] 7#7: *31 connect() failed (111: Connection refused) while connecting to upstream, client: 1.2.3.4, server: a, request: \"GET / HTTP/1.1\", upstream: \"http://127.0.0.1:1/\", host: \"a\""[..],
            b"[Fri Nov 20 12:44:23.681114 2026] [proxy_http:error] [pid 121:tid 127] (104)Connection reset by peer: [client 203.0.113.9:44996] AH01102: error reading status line from remote server 127.0.0.1:4101",
            b"[20-Nov-2026 12:59:19] WARNING: [pool www] child 67 exited on signal 9 (SIGKILL) after 0.731047 seconds from start",
            b"<134>Nov 20 12:47:17 h haproxy[1]: 1.2.3.4:5 [20/Nov/2026:12:47:17.812] a b/s1 0/0/0/-1/4 502 209 - - SH-- 1/1/0/0/0 0/0 {a.b} \"GET / HTTP/1.1\"",
            br#"{"status":502,"host":"a","time_local":"20/Nov/2026:12:00:00 +0000"}"#,
        ].map(<[u8]>::to_vec));
        let mut line = lines[which % lines.len()].clone();
        let at = at % line.len();
        line[at] = byte;
        let object = output::render(1, &mut Parser::for_format(ALL[format], &[]), &line);
        prop_assert!(object.contains_key("rejected") != object.contains_key("format"));
        line.truncate(at);
        let object = output::render(1, &mut Parser::for_format(ALL[format], &[]), &line);
        prop_assert!(object.contains_key("rejected") != object.contains_key("format"));
    }
}

/// Folders of the corpus whose formats this build reads.
const FOLDERS: [&str; 9] = [
    "nginx/access",
    "nginx/error",
    "nginx/ingress",
    "nginx/json",
    "nginx/lab",
    "nginx/npm",
    "apache/access",
    "apache/lab",
    "haproxy/lab",
];

/// Folders of error and system logs.
const ERROR_FOLDERS: [&str; 10] = [
    "apache/error",
    "litespeed/log",
    "modsecurity/apache",
    "modsecurity/nginx",
    "mysql/error",
    "redis/log",
    "system/journald",
    "system/syslog",
    "change/apt",
    "change/dpkg",
];

#[test]
fn real_lines_are_read_as_their_labels_say() {
    let Ok(corpus) = std::env::var("GATEWATCH_CORPUS") else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "set GATEWATCH_CORPUS: CI must read the corpus"
        );
        eprintln!("NOT RUN: GATEWATCH_CORPUS is not set, no real lines were read");
        return;
    };
    let mut problems = Vec::new();
    let (mut n_lines, mut n_events) = (0, 0);
    for folder in FOLDERS.into_iter().chain(ERROR_FOLDERS).chain(every_format::FOLDERS) {
        let folder = Path::new(&corpus).join(folder);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "log") {
                continue;
            }
            let labels = std::fs::read_to_string(path.with_extension("expected.jsonl")).unwrap();
            let mut got = Vec::new();
            let mut input = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
            output::parse_command("auto", &mut input, &mut got).unwrap();
            let got = String::from_utf8(got).unwrap();
            assert_eq!(got.lines().count(), labels.lines().count(), "{}", path.display());
            for (got, label) in got.lines().zip(labels.lines()) {
                let parse = |text| serde_json::from_str::<Map<String, Value>>(text).unwrap();
                let (got, label) = (parse(got), parse(label));
                n_lines += 1;
                n_events += usize::from(label.get("gateway_event") == Some(&Value::Bool(true)));
                if let Some(problem) = compare(&label, &got) {
                    problems.push(format!("{}:{} {problem}", path.display(), label["n"]));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} of {n_lines}:\n{}", problems.len(), problems.join("\n"));
    assert!(
        n_lines > 7000 && n_events > 100,
        "{n_lines} lines and {n_events} events: is this the corpus?"
    );
}

/// What is wrong with a line: an event made up or missed, a wrong status or time.
fn compare(label: &Map<String, Value>, got: &Map<String, Value>) -> Option<String> {
    let is_event =
        |status: Option<&Value>| status.is_some_and(|s| matches!(s.as_u64(), Some(502..=504)));
    let event = got.get("gateway").is_some() || is_event(got.get("status"));
    let wanted = label.get("gateway_event");
    let parseable = label.get("parseable") == Some(&Value::Bool(true));
    if event && (wanted.is_none() || label.contains_key("never_gateway") || !parseable) {
        return Some("an event out of nothing".to_owned());
    }
    let may_refuse = label.contains_key("may_refuse");
    if wanted == Some(&Value::Bool(true)) && !event && !may_refuse {
        return Some("a missed event".to_owned());
    }
    if !parseable || got.contains_key("rejected") && (may_refuse || !label.contains_key("status")) {
        return None;
    }
    if label.get("status") != got.get("status") {
        return Some(format!("status {:?} and not {:?}", got.get("status"), label.get("status")));
    }
    let time = |object: &Map<String, Value>| {
        let text = object.get("time")?.as_str()?;
        let zoned = text.ends_with('Z') || text.len() > 19 && text[19..].contains(['+', '-']);
        let text = if zoned { text.to_owned() } else { format!("{text}Z") };
        wire::UnixMillis::parse_rfc3339(&text).map(|at| at.0)
    };
    let close = match (time(label), time(got)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1,
        (a, b) => a == b,
    };
    (!close).then(|| format!("time {:?} and not {:?}", got.get("time"), label.get("time")))
}
