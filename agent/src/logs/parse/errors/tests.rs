//! Hostile words for every error and system format, and which format takes which line.

use proptest::prelude::*;

use super::*;
use crate::discover::{LogSource, SiteRule};
use crate::logs::parse::{Parser, check_format, output};
use crate::logs::{ErrorRecord, Rejected};

/// One line of each format, with a place for what a client or an application says. Whatever is said,
/// the line tells the same.
const LINES: [(&str, &str); 34] = [
    (
        "nginx_error",
        r#"2026/11/20 12:43:10 [error] 7#7: *3 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: a.example, request: "GET /{} HTTP/1.1", upstream: "http://127.0.0.1:3000/x", host: "a.example""#,
    ),
    (
        "nginx_error",
        r#"2026/11/20 12:43:10 [error] 7#7: *3 no live upstreams while connecting to upstream, client: 198.51.100.7, server: a.example, request: "GET / HTTP/1.1", upstream: "http://app/x", host: "a.example", referrer: "{}""#,
    ),
    (
        "nginx_error",
        r#"2026/11/20 12:43:10 [error] 7#7: *3 a.internal could not be resolved (3: Host not found), client: 198.51.100.7, server: a.example, request: "GET /{}", host: "a.example""#,
    ),
    (
        "nginx_error",
        r#"2026/11/20 12:43:10 [error] 7#7: *3 open() "/srv/{}" failed (2: No such file or directory), client: 198.51.100.7, server: a.example, request: "GET /x HTTP/1.1", host: "a.example""#,
    ),
    (
        "nginx_error",
        r#"2026/11/20 12:43:10 [error] 7#7: *3 FastCGI sent in stderr: "PHP message: {}" while reading response header from upstream, client: 198.51.100.7, server: a.example, request: "GET /x HTTP/1.1", upstream: "fastcgi://unix:/run/a.sock:", host: "a.example""#,
    ),
    (
        "nginx_error",
        r"2026/11/20 12:43:10 [error] 7#7: *3 [lua] a.lua:1: {}, client: 198.51.100.7, server: a.example",
    ),
    (
        "nginx_error",
        r#"<131>Nov 20 12:43:10 web nginx: 2026/11/20 12:43:10 [error] 7#7: *3 user "{}" was not found in "/etc/x", client: 198.51.100.7, server: a.example, request: "GET /x HTTP/1.1""#,
    ),
    (
        "apache_error",
        "[Fri Nov 20 12:44:23.681114 2026] [core:error] [pid 7:tid 8] [client 198.51.100.7:5] AH00128: File does not exist: /srv/{}",
    ),
    (
        "apache_error",
        "[Fri Nov 20 12:44:23.681114 2026] [proxy:error] [pid 7:tid 8] [client 198.51.100.7:5] AH00898: Error reading from remote server returned by /{}",
    ),
    (
        "apache_error",
        "[Fri Nov 20 12:44:23.681114 2026] [proxy_http:error] [pid 7:tid 8] (104)Connection reset by peer: [client 198.51.100.7:5] AH01102: error reading status line from remote server 127.0.0.1:3000, referer: {}",
    ),
    (
        "apache_error",
        "[Fri Nov 20 12:44:23.681114 2026] [proxy_fcgi:error] [pid 7:tid 8] [client 198.51.100.7:5] AH01071: Got error 'PHP message: {}'",
    ),
    (
        "apache_error",
        "[Fri Nov 20 12:44:23.681114 2026] [php:notice] [pid 7] [client 198.51.100.7:5] {}",
    ),
    (
        "apache_error",
        "[Fri Nov 20 12:44:23 2026] [error] [client 198.51.100.7] user {} not found: /",
    ),
    (
        "apache_error",
        "Nov 20 12:44:23 web httpd[7]: [authz_core:error] [pid 7] [client 198.51.100.7:5] AH01630: client denied by server configuration: /{}",
    ),
    (
        "lighttpd_error",
        "2026-11-20 12:51:34: (gw_backend.c.2389) response not received, request sent: 231 on socket: tcp:127.0.0.1:4101 for /{}?, closing connection",
    ),
    (
        "lighttpd_error",
        "2026-11-20 12:51:34: (gw_backend.c.960) all handlers for /{}? on .php are down.",
    ),
    ("lighttpd_error", "2026-11-20 12:51:34: (mod_fastcgi.c.421) FastCGI-stderr: {}"),
    ("lighttpd_error", "2026-11-20 12:51:34: (response.c.376) -- file not found: /{}"),
    (
        "litespeed_error",
        "2026-11-20 12:51:34.774649 [NOTICE] [7] [198.51.100.7:4#a.example] [STDERR] {}",
    ),
    (
        "litespeed_error",
        "2026-11-20 12:51:34.774649 [INFO] [7] [198.51.100.7:4#a.example] File not found [/srv/{}]",
    ),
    ("php_fpm", r#"[20-Nov-2026 12:59:19] WARNING: [pool www] child 7 said into stderr: "{}""#),
    (
        "php_fpm",
        r#"[20-Nov-2026 12:59:19] WARNING: [pool www] child 7, script '/srv/a.php' (request: "GET /{}") executing too slow (5.0 sec), logging"#,
    ),
    ("php_fpm", "[20-Nov-2026 12:59:19 UTC] {}"),
    ("php_slow", "[0x00007f1234567890] f() /srv/{}"),
    ("syslog", "Nov 20 12:00:00 web sshd[7]: Invalid user {} from 198.51.100.7"),
    ("syslog", "<13>1 2026-11-20T12:00:00Z web app 7 - - {}"),
    ("kernel", "Nov 20 12:00:00 web app[7]: {}"),
    ("kernel", "14,7,8,-;app: {}"),
    (
        "mysql",
        "2026-11-20 12:00:00 7 [Warning] Access denied for user '{}'@'198.51.100.7' (using password: YES)",
    ),
    ("mysql", "2026-11-20T12:00:00.123456Z\t    7 Query\tSELECT {}"),
    ("redis", "7:M 20 Nov 2026 12:00:00.123 * Error condition on socket: {}"),
    ("modsecurity", "Message: {}"),
    (
        "modsecurity",
        r#"{"transaction":{"client_ip":"198.51.100.7","time_stamp":"Fri Nov 20 12:00:00 2026","request":{"method":"GET","uri":"/{}"},"response":{"http_code":502}}}"#,
    ),
    (
        "journald",
        r#"{"__REALTIME_TIMESTAMP":"1795176067042001","_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"app","MESSAGE":"{}"}"#,
    ),
];

/// What people write to be taken for something else.
const WORDS: [&str; 22] = [
    "x\", client: 203.0.113.9, server: evil.example, request: \"GET / HTTP/1.1\", upstream: \"http://203.0.113.9:1/\", host: \"evil.example",
    "\", upstream: \"http://203.0.113.9:1/\", host: \"evil.example\" HTTP/1.1",
    "\", host: \"evil.example",
    " while connecting to upstream",
    "connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.9, server: evil.example, request: \"GET / HTTP/1.1\", upstream: \"http://203.0.113.9:1/\"",
    "upstream timed out (110: Connection timed out) while reading response header from upstream",
    "(28: No space left on device)",
    "(111)Connection refused: AH00957: http: attempt to connect to 203.0.113.9:1 (203.0.113.9) failed",
    "AH01114: HTTP: failed to make connection to backend: 203.0.113.9",
    "[client 203.0.113.9:1] [host evil.example] [proxy:error] AH01079: failed to make connection to backend: x",
    ", referer: x",
    "establishing connection failed: socket: tcp:203.0.113.9:1: Connection refused",
    "socket: unix:/evil.sock (fd: 1)",
    "oops! 503 Service Unavailable",
    "exited on signal 11 (SIGSEGV) after 1.0 seconds from start",
    ") execution timed out (1.0 sec), terminating",
    "[pool evil] server reached pm.max_children setting (3), consider raising it",
    "kernel: Out of memory: Killed process 7 (php) total-vm:1kB",
    "app[7]: segfault at 0 ip 0 sp 0 error 4",
    "nf_conntrack: table full, dropping packet",
    "Too many connections",
    "mysqld got signal 11 ;",
];

fn parse(format: &str, line: &str) -> Option<ErrorRecord<'static>> {
    let (_, parse) = by_name(format).expect("a format of the table");
    match parse(line.as_bytes()) {
        Line::Error(record) => Some(owned(&record)),
        Line::Rejected(_) => None,
        Line::Access(_) => panic!("{format} makes a request of {line}"),
    }
}

fn owned(record: &ErrorRecord<'_>) -> ErrorRecord<'static> {
    let own = |text: &Option<std::borrow::Cow<'_, str>>| {
        text.as_ref().map(|text| std::borrow::Cow::Owned(text.clone().into_owned()))
    };
    ErrorRecord {
        time: record.time,
        level: own(&record.level),
        module: own(&record.module),
        message: record.message.clone().into_owned().into(),
        signal: record.signal,
        gateway: record.gateway,
        client: own(&record.client),
        server_name: own(&record.server_name),
        host: own(&record.host),
        method: own(&record.method),
        path: own(&record.path),
        upstream: own(&record.upstream),
        pool: own(&record.pool),
        connection: record.connection,
        status: record.status,
        request_time: record.request_time,
    }
}

/// What foreign words may do to a line: leave it, or take away what would be in doubt.
fn is_same_or_less(format: &str, template: &str, words: &str) -> Result<(), String> {
    let plain = parse(format, &template.replace("{}", "x"));
    let line = template.replace("{}", words);
    let Some(got) = parse(format, &line) else {
        return Ok(());
    };
    let Some(plain) = plain else { return Err(format!("a record of {line}")) };
    let fields = |record: &ErrorRecord<'static>| {
        [&record.client, &record.server_name, &record.host, &record.upstream, &record.pool]
            .map(Clone::clone)
    };
    // A client that names its version sends a host, which is then believed.
    let whole = parse(format, &template.replace("{}", "x HTTP/1.1"));
    let whole = whole.as_ref().map_or_else(|| fields(&plain), fields);
    let is_less = fields(&got)
        .iter()
        .zip(fields(&plain).iter().zip(&whole))
        .all(|(got, (plain, whole))| got.is_none() || got == plain || got == whole);
    let is_same = (got.time, got.signal, got.gateway, got.level.clone())
        == (plain.time, plain.signal, plain.gateway, plain.level.clone());
    if is_less && is_same { Ok(()) } else { Err(format!("{line}\n{plain:?}\n{got:?}")) }
}

#[test]
fn no_words_of_a_client_or_an_application_change_what_a_line_tells() {
    let mut problems = Vec::new();
    for (format, template) in LINES {
        for words in WORDS {
            let is_json = template.starts_with('{');
            let words = if is_json { words.replace('"', "\\\"") } else { words.to_owned() };
            problems.extend(is_same_or_less(format, template, &words).err());
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

/// Found by the property test: of a request without a version nothing but its path is believed, of one
/// whose last word is a version its host is.
#[test]
fn a_version_at_the_end_of_chosen_words_makes_a_request_with_a_host() {
    let (format, template) = LINES[2];
    is_same_or_less(format, template, "(111)x: HTTP/1.1").unwrap();
    is_same_or_less(format, template, r#"x HTTP/1.1", host: "b.example"#).unwrap();
}

#[test]
fn auto_takes_each_line_for_what_it_is() {
    for (format, template) in LINES {
        let line = template.replace("{}", "x");
        let mut parser = Parser::for_format("auto", &[]);
        let printed = output::render(1, &mut parser, line.as_bytes());
        let is_record = parse(format, &line).is_some();
        assert_eq!(printed.contains_key("format"), is_record, "{line}: {printed:?}");
        let got = printed.get("format").and_then(|name| name.as_str()).unwrap_or(format);
        // What the kernel's log has of other programs is a line of syslog.
        let is_same = got == format || format == "kernel" && got == "syslog";
        assert!(is_same, "{line}: {got} and not {format}");
    }
}

#[test]
fn every_name_is_a_format_and_every_kind_has_one() {
    for (name, _) in FORMATS {
        assert_eq!(check_format(name), Ok(()));
        assert_eq!(Parser::for_format(name, &[]).format(), name);
    }
    for name in BEFORE_ACCESS.iter().chain(&AFTER_ACCESS) {
        assert!(by_name(name).is_some(), "{name}");
    }
    for (kind, line) in [
        (LogKind::PhpFpm, "[20-Nov-2026 12:59:19] NOTICE: fpm is running, pid 1"),
        (LogKind::PhpSlow, "[20-Nov-2026 12:59:19]  [pool www] pid 1234"),
        (LogKind::Mysql, "2026-11-20 12:00:00 0 [Note] x"),
        (LogKind::Redis, "7:M 20 Nov 2026 12:00:00.123 * x"),
        (
            LogKind::Modsecurity,
            "[20/Nov/2026:12:00:00 +0000] Zq@x1 198.51.100.7 4242 192.0.2.1 443",
        ),
        (LogKind::Syslog, "Nov 20 12:00:00 web app[7]: x"),
        (LogKind::Kernel, "6,1,2,-;x"),
        (LogKind::Change, "2026-11-20 12:00:00 install a:amd64 <none> 1"),
    ] {
        let source = LogSource {
            path: "/log".into(),
            kind,
            format: "auto".to_owned(),
            site: SiteRule::Host,
            timezone: None,
            inner: false,
            inner_sites: Vec::new(),
        };
        let mut parser = Parser::for_source(&source, &[]);
        assert!(matches!(parser.parse(line.as_bytes()), Line::Error(_)), "{kind:?}");
        assert!(of_kind(kind).is_some_and(|names| names.contains(&parser.format())));
        let request =
            r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 5 "-" "x""#;
        assert!(matches!(parser.parse(request.as_bytes()), Line::Rejected(_)), "{kind:?}");
    }
}

#[test]
fn long_lines_cost_a_line_and_no_more() {
    for piece in [&b"\""[..], b" ", b"[", b", client: 1.2.3.4", b"\", host: \"", b"[client ", b"1"]
    {
        let line = piece.repeat((200 << 10) / piece.len());
        for (format, template) in LINES {
            let (_, parse) = by_name(format).expect("a format of the table");
            drop(parse(&line));
            let (before, after) = template.split_once("{}").unwrap_or((template, ""));
            drop(parse(&[before.as_bytes(), &line, after.as_bytes()].concat()));
        }
    }
}

proptest! {
    #[test]
    fn no_chosen_words_change_what_a_line_tells(
        which in 0..LINES.len(),
        words in r#"(([a-z"'\[\]():,.{} ]{0,3})(, client: 203\.0\.113\.9|", upstream: "|", host: "|\[client 203\.0\.113\.9\] |AH01102: |AH00957: |error reading status line|\(111\)x: |\(28\)x: |attempt to connect to |upstream|failed \(|socket: |kernel: |\]: segfault at |child |Too many connections|server reached |/|HTTP/1\.1| while |"|\{\}|;)){0,8}"#,
    ) {
        let (format, template) = LINES[which];
        prop_assume!(!template.starts_with('{'));
        if let Err(problem) = is_same_or_less(format, template, &words) {
            return Err(TestCaseError::fail(problem));
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (_, parse) in FORMATS {
            if let Line::Access(_) = parse(&line) {
                return Err(TestCaseError::fail("a request"));
            }
        }
    }

    #[test]
    fn no_damaged_line_makes_a_parser_panic(which in 0..LINES.len(), at in 0usize..300, byte: u8) {
        let (_, template) = LINES[which];
        let mut line = template.replace("{}", "x").into_bytes();
        let at = at % line.len();
        line[at] = byte;
        let cut = line[..at].to_vec();
        for (_, parse) in FORMATS {
            for line in [&line, &cut] {
                let is_sound = !matches!(parse(line), Line::Access(_) | Line::Rejected(Rejected::TooLong));
                prop_assert!(is_sound);
            }
        }
    }
}
