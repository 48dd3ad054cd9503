//! Every access format: found by itself, left alone by the others, and deaf to a client's words.

use proptest::prelude::*;

use super::*;

/// Folders of the corpus with access logs.
pub(super) const FOLDERS: [&str; 14] = [
    "aws/alb",
    "aws/elb",
    "caddy/json",
    "caddy/lab",
    "cloudflare/logpush",
    "cloudfront/access",
    "envoy/access",
    "haproxy/log",
    "iis/access",
    "iis/httperr",
    "litespeed/access",
    "traefik/clf",
    "traefik/json",
    "nginx/access",
];

/// How a server writes what a client sent.
#[derive(Clone, Copy)]
enum Writes {
    /// As JSON wants it.
    Json,
    /// A quote as `\x22`, as nginx, Apache, Varnish and their like do.
    Escaped,
    /// Quotes, braces and control characters as `#22`.
    Hashed,
    /// A space as `+`.
    Plus,
    /// Everything but letters as `%20`.
    Percent,
    /// As it came.
    Raw,
}

impl Writes {
    fn write(self, words: &[u8]) -> Vec<u8> {
        let each = |is_safe: fn(u8) -> bool, write: fn(u8) -> String| {
            let one = |byte: &u8| if is_safe(*byte) { vec![*byte] } else { write(*byte).into() };
            words.iter().flat_map(one).collect()
        };
        match self {
            Self::Json => {
                let text = serde_json::to_string(&String::from_utf8_lossy(words)).unwrap();
                text.as_bytes()[1..text.len() - 1].to_vec()
            }
            Self::Escaped => each(
                |b| (32..127).contains(&b) && !matches!(b, b'"' | b'\\'),
                |b| format!("\\x{b:02X}"),
            ),
            Self::Hashed => {
                each(|b| (32..127).contains(&b) && !b"\"#{|}".contains(&b), |b| format!("#{b:02X}"))
            }
            Self::Plus => each(|b| b > 32, |_| "+".to_owned()),
            Self::Percent => each(|b| b.is_ascii_alphanumeric(), |b| format!("%{b:02X}")),
            Self::Raw => words.iter().copied().filter(|byte| *byte != b'\n').collect(),
        }
    }
}

/// A format: its name, what `auto` calls it, lines before, how words are written, a line in which
/// `{}` is each place of a client's words and `{@}` its host.
type Case = (&'static str, &'static str, &'static str, Writes, &'static str);

const IIS_FIELDS: &str = "#Fields: date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) cs(Referer) cs-host sc-status sc-substatus sc-win32-status time-taken";

const CASES: [Case; 21] = [
    (
        "caddy",
        "caddy",
        "",
        Writes::Json,
        r#"{"level":"info","ts":1795176067.042,"logger":"http.log.access.log0","msg":"handled request","request":{"remote_ip":"198.51.100.7","proto":"HTTP/1.1","method":"GET","host":"{@}","uri":"/{}","headers":{"User-Agent":["{}"],"Referer":["{}"]}},"user_id":"{}","duration":0.01,"size":3,"status":200,"resp_headers":{"Server":["Caddy"]}}"#,
    ),
    (
        "traefik",
        "traefik",
        "",
        Writes::Raw,
        r#"198.51.100.7 - {} [20/Nov/2026:12:00:00 +0000] "GET /{} HTTP/1.1" 200 5 "{}" "{}" 502 "a@docker" "http://192.0.2.1:80" 12ms"#,
    ),
    (
        "traefik",
        "traefik",
        "",
        Writes::Json,
        r#"{"ClientHost":"198.51.100.7","ClientUsername":"{}","DownstreamStatus":200,"Duration":357313,"OriginStatus":200,"RequestCount":502,"RequestHost":"{@}","RequestMethod":"GET","RequestPath":"/{}","RetryAttempts":0,"ServiceAddr":"192.0.2.1:80","StartUTC":"2026-11-20T12:00:00.5Z","request_User-Agent":"{}"}"#,
    ),
    (
        "envoy",
        "envoy",
        "",
        Writes::Raw,
        r#"[2026-11-20T12:00:00.500Z] "GET /{} HTTP/1.1" 200 - 0 502 12 11 "{}" "{}" "{}" "{@}" "192.0.2.1:80""#,
    ),
    (
        "envoy",
        "envoy",
        "",
        Writes::Raw,
        r#"[2026-11-20T12:00:00.500Z] "GET /{} HTTP/2" 200 - via_upstream - "-" 0 502 12 11 "{}" "{}" "id" "{@}" "192.0.2.1:80" outbound|80||a 10.0.0.1:1 10.0.0.1:443 198.51.100.7:4711 - -"#,
    ),
    (
        "envoy",
        "envoy",
        "",
        Writes::Json,
        r#"{":authority":"{@}","duration":12,"method":"GET","response_code":200,"response_flags":"-","start_time":"2026-11-20T12:00:00.5Z","upstream_host":"192.0.2.1:80","user-agent":"{}","path":"/{}","x-forwarded-for":"{}"}"#,
    ),
    (
        "cloudflare",
        "cloudflare",
        "",
        Writes::Json,
        r#"{"ClientIP":"198.51.100.7","ClientRequestHost":"{@}","ClientRequestMethod":"GET","ClientRequestURI":"/{}","ClientRequestUserAgent":"{}","ClientRequestReferer":"{}","EdgeEndTimestamp":1795176067000000000,"EdgeResponseStatus":200,"EdgeStartTimestamp":1795176066000000000,"OriginResponseStatus":200}"#,
    ),
    (
        "json",
        "json",
        "",
        Writes::Json,
        r#"{"time":"2026-11-20T12:00:00Z","remote_addr":"198.51.100.7","host":"{@}","request":"GET /{} HTTP/1.1","status":"200","upstream_status":"502, 200","http_user_agent":"{}"}"#,
    ),
    (
        "json",
        "json",
        "",
        Writes::Escaped,
        r#"{"time":"2026-11-20T12:00:00Z","remote_addr":"198.51.100.7","host":"{@}","request":"GET /{} HTTP/1.1","status":"200","upstream_status":"502, 200","http_user_agent":"{}"}"#,
    ),
    (
        "json:status=a.code,host=vhost,path=a.path,user_agent=ua",
        "auto",
        "",
        Writes::Json,
        r#"{"a":{"code":200,"path":"/{}"},"vhost":"{@}","ua":"{}","status":502}"#,
    ),
    (
        "haproxy",
        "haproxy",
        "",
        Writes::Hashed,
        r#"<134>Nov 20 12:47:17 h haproxy[1]: 198.51.100.7:5 [20/Nov/2026:12:47:17.812] a b/s1 0/0/0/1/4 200 209 - - ---- 1/1/0/0/0 0/0 {{@}|{}} {} "GET /{} HTTP/1.1""#,
    ),
    (
        "iis",
        "iis",
        IIS_FIELDS,
        Writes::Plus,
        r"2026-11-20 12:00:05 192.0.2.1 GET /{} q={} 80 u{} 198.51.100.7 ua{} r{} {@} 200 0 0 502",
    ),
    (
        "alb",
        "alb",
        "",
        Writes::Escaped,
        r#"https 2026-11-20T12:00:00.123456Z app/lb/1 198.51.100.7:4711 192.0.2.1:80 0.001 0.002 0.003 200 200 34 502 "GET https://{@}:443/{} HTTP/1.1" "{}" - - arn "Root=1" "-" "-" 1 2026-11-20T12:00:00.1Z "forward" "-" "-" "192.0.2.1:80" "200" "-" "-""#,
    ),
    (
        "alb",
        "alb",
        "",
        Writes::Raw,
        r#"2026-11-20T12:00:00.123456Z lb 198.51.100.7:4711 192.0.2.1:80 0.001 0.002 0.003 200 200 34 502 "GET https://{@}:443/{} HTTP/1.1" "{}" - -"#,
    ),
    (
        "cloudfront",
        "cloudfront",
        "",
        Writes::Percent,
        "2026-11-20\t12:00:05\tFRA2-C1\t502\t198.51.100.7\tGET\td1.cloudfront.net\t/{}\t200\tr{}\tua{}\tq{}\tc{}\tMiss\tid==\t{@}\thttps\t62\t0.113\t-\tTLSv1.3\tx\tMiss\tHTTP/2.0\t-\t-\t4711\t0.113\tMiss\ttext/html\t-\t-\t-",
    ),
    (
        "varnish",
        "varnish",
        "",
        Writes::Escaped,
        r#"198.51.100.7 - {} [20/Nov/2026:12:00:00 +0000] "GET http://{@}/{} HTTP/1.1" 200 502 "{}" "{}""#,
    ),
    (
        r#"%h %l %u %t "%r" %s %b "%{Referer}i" "%{User-agent}i" "%{VSL:RespReason}x" %{Varnish:hitmiss}x"#,
        "auto",
        "",
        Writes::Escaped,
        r#"198.51.100.7 - {} [20/Nov/2026:12:00:00 +0000] "GET http://{@}/{} HTTP/1.1" 200 502 "{}" "{}" "OK" miss"#,
    ),
    (
        "litespeed",
        "clf",
        "",
        Writes::Raw,
        r#"{@} 198.51.100.7 - {} [20/Nov/2026:12:00:00 +0000] "GET /{} HTTP/1.1" 200 502"#,
    ),
    (
        "litespeed",
        "litespeed",
        "",
        Writes::Raw,
        r#""{@} 198.51.100.7 - {} [20/Nov/2026:12:00:00 +0000] "GET /{} HTTP/1.1" 200 502""#,
    ),
    (
        "lighttpd",
        "clf",
        "",
        Writes::Escaped,
        r#"198.51.100.7 {@} {} [20/Nov/2026:12:00:00 +0000] "GET /{} HTTP/1.1" 200 502 "{}" "{}""#,
    ),
    (
        "auto",
        "clf",
        "",
        Writes::Escaped,
        r#"{@}:443 198.51.100.7 - {} [20/Nov/2026:12:00:00 +0000] "GET /{} HTTP/1.1" 200 502 "{}" "{}" 116075"#,
    ),
];

/// The line of a case with these words in one of its places, counted from 0; `None` when it has no
/// such place.
fn line(case: &Case, writes: Writes, words: &[u8], place: usize) -> Option<Vec<u8>> {
    let (.., text) = *case;
    let text = text.replace("{@}", "a.example");
    let n = text.matches("{}").count();
    if place >= n {
        return None;
    }
    let mut line = Vec::new();
    for (at, part) in text.split("{}").enumerate() {
        if at > 0 {
            line.extend(if at - 1 == place { writes.write(words) } else { b"x".to_vec() });
        }
        line.extend(part.bytes());
    }
    Some(line)
}

fn good(case: &Case) -> Vec<u8> {
    line(case, Writes::Raw, b"x", 0).unwrap()
}

fn parser(format: &str, case: &Case) -> Parser {
    let mut parser = Parser::for_format(format, &[]);
    parser.parse(case.2.as_bytes());
    parser
}

pub(super) fn access_source(format: &str) -> LogSource {
    LogSource {
        path: "/log/access.log".into(),
        kind: LogKind::Access,
        format: format.to_owned(),
        site: crate::discover::SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    }
}

/// What a client's words in one place must not do, as the server writes them, and, where the form of
/// a line holds even then, as they came.
fn check(case: &Case, words: &[u8]) {
    check_written(case, case.3, words, &[case.0, "auto"]);
    if !matches!(case.3, Writes::Escaped | Writes::Raw) {
        check_written(case, Writes::Raw, words, &[case.0]);
    }
}

fn check_written(case: &Case, writes: Writes, words: &[u8], formats: &[&str]) {
    for place in 0..9 {
        let Some(line) = line(case, writes, words, place) else { return };
        let shown = String::from_utf8_lossy(&line).into_owned();
        for format in formats {
            let is_auto = *format == "auto";
            match parser(format, case).parse(&line) {
                Line::Rejected(_) => {}
                Line::Error(record) => panic!("{format}: {record:?} of {shown}"),
                // The log that has its own keys says something else under the usual ones.
                Line::Access(_) if is_auto && case.1 == "auto" => {}
                Line::Access(record) => {
                    let is_good = record.status.is_none_or(|status| status == 200);
                    assert!(is_good && !record.upstream_failed, "{format}: {shown}");
                    let host = record.host.as_deref().unwrap_or("a.example");
                    // The user `- x` of lighttpd makes a line as one with the vhost first has it.
                    let is_host = host.starts_with("a.example") || is_auto && case.0 == "lighttpd";
                    assert!(is_host, "{format}: host {host} of {shown}");
                }
            }
        }
    }
}

const IMITATIONS: [&str; 25] = [
    r#"p" 503 1 "GET /q"#,
    r#"p" 503 1"#,
    r#"p HTTP/1.1" 503 1 "GET /q"#,
    r#"x" 502 17 "-" "y"#,
    r#"x" 502 0 "-" "-" 1 "r" "u" 1ms"#,
    r#"x" 503 UH 0 0 0 - "-" "-" "-" "b.example" "-""#,
    r#"x" "id" "b.example" "192.0.2.66:80"#,
    r#"x HTTP/1.1" 502 5 "x"#,
    r#"x] "GET / HTTP/1.1" 502 5 "-" "x"#,
    r#"198.51.100.9 - - [20/Nov/2026:12:00:00 +0000] "GET http://b.example/ HTTP/1.1" 502 157 "-" "x"#,
    r"\x22 502 157 \x22-\x22 \x22x",
    r#"","status":502,"x":""#,
    r#"","DownstreamStatus":502,"x":""#,
    r#"","EdgeResponseStatus":502,"x":""#,
    r#"","response_code":502,"x":""#,
    r#"","logger":"http.log.error","x":""#,
    r#""},"status":502,"x":{"y":""#,
    r"{b.example} 502",
    "1.2.3.4:5 [20/Nov/2026:12:47:17.812] a b/s1 0/0/0/-1/4 502 209 - - SH-- 1/1/0/0/0 0/0 \"GET / HTTP/1.1\"",
    "- 502 3 12002 1",
    "\t502\t",
    "#Fields: sc-status",
    "Backend fetch failed",
    "2026/11/20 12:43:07 [error] 94#94: *8 connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.9",
    "\0\u{202e}",
];

#[test]
fn what_imitates_a_line_of_any_format_stays_a_word_of_the_client() {
    for case in &CASES {
        for words in IMITATIONS {
            check(case, words.as_bytes());
        }
    }
}

#[test]
fn every_format_is_found_by_its_first_line_and_by_its_name() {
    for case in &CASES {
        let shown = String::from_utf8_lossy(&good(case)).into_owned();
        assert_eq!(check_format(case.0), Ok(()), "{}", case.0);
        let Line::Access(named) = parser(case.0, case).parse(&good(case)).clone_static() else {
            panic!("{}: {shown}", case.0)
        };
        assert_eq!(named.status, Some(200), "{shown}");
        if case.1 == "auto" {
            continue;
        }
        for mut auto in
            [parser("auto", case), Parser::for_source(&access_source("auto"), &[case.2.as_bytes()])]
        {
            let line = good(case);
            let Line::Access(found) = auto.parse(&line) else { panic!("auto: {shown}") };
            assert_eq!((found.status, auto.format()), (Some(200), case.1), "{shown}");
        }
        let mut told = Parser::for_source(&access_source(case.0), &[case.2.as_bytes()]);
        assert!(matches!(told.parse(&good(case)), Line::Access(_)), "{shown}");
    }
}

#[test]
fn no_format_takes_the_lines_of_another_one() {
    let family = ["varnish", "litespeed", "lighttpd", "auto"];
    for case in &CASES {
        for other in &CASES {
            let is_family = |name: &str| family.contains(&name) || name.contains('%');
            if case.0 == other.0
                || is_family(case.0) && is_family(other.0)
                || [case.0, other.0].iter().any(|name| name.starts_with("json:") || *name == "auto")
                // Traefik's text is the Common Log Format with more.
                || other.0 == "traefik" && is_family(case.0)
            {
                continue;
            }
            let line = good(other);
            let got = parser(case.0, case).parse(&line).clone_static();
            let shown = String::from_utf8_lossy(&line);
            assert!(matches!(got, Line::Rejected(_)), "{} took {}: {shown}", case.0, other.0);
        }
    }
}

#[test]
fn any_format_may_follow_any_other_in_a_file() {
    let told: Vec<&Case> = CASES.iter().filter(|case| case.1 != "auto").collect();
    for case in &told {
        for other in &told {
            if case.1 == other.1 || (case.1, other.1) == ("clf", "varnish") {
                continue; // A URL in a path's place is a request like any other.
            }
            let mut parser = Parser::for_source(&access_source("auto"), &[case.2.as_bytes()]);
            let line = good(case);
            assert!(matches!(parser.parse(&line), Line::Access(_)));
            parser.parse(other.2.as_bytes());
            let line = good(other);
            let n_lost =
                (0..40).filter(|_| matches!(parser.parse(&line), Line::Rejected(_))).count();
            assert!(n_lost <= REJECTED_IN_A_ROW_MAX as usize, "{} after {}", other.1, case.1);
            let is_family = |name| matches!(name, "clf" | "traefik" | "varnish");
            let is_same = parser.format() == other.1 || is_family(case.1) && is_family(other.1);
            assert!(is_same, "{} after {}: {}", other.1, case.1, parser.format());
        }
    }
}

#[test]
fn a_cut_line_tells_its_status_or_nothing() {
    for case in &CASES {
        let whole = good(case);
        for end in 0..whole.len() {
            for format in [case.0, "auto"] {
                if let Line::Access(record) = parser(format, case).parse(&whole[..end]) {
                    assert!(record.status.is_none_or(|s| s == 200), "{} at {end}", case.0);
                }
            }
        }
    }
}

#[test]
fn a_log_resumed_in_its_middle_can_be_told_its_columns() {
    let case = CASES.iter().find(|case| case.0 == "iis").unwrap();
    let line = good(case);
    for format in ["auto", "iis"] {
        let mut parser = Parser::for_source(&access_source(format), &[&line]);
        assert!(matches!(parser.parse(&line), Line::Rejected(_)));
        parser.teach_header(b"2026-11-20 no header");
        assert!(matches!(parser.parse(&line), Line::Rejected(_)));
        parser.teach_header(format!("{}\r\n", case.2).as_bytes());
        assert!(matches!(parser.parse(&line), Line::Access(_)), "{format}");
        assert_eq!(parser.format(), "iis");
    }
    let mut parser = Parser::for_source(&access_source("auto"), &[&good(&CASES[0])]);
    parser.teach_header(case.2.as_bytes());
    assert!(matches!(parser.parse(&good(&CASES[0])), Line::Access(_)));
}

#[test]
fn many_requests_that_a_format_refuses_do_not_hand_its_log_to_another() {
    let imitation =
        r#"x" 502 17 "-" "y [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 5 "-" "x"#;
    let envoy = r#"x" 502 - 0 0 0 - "y [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 5 "-" "x"#;
    for (case, words) in [(&CASES[1], imitation), (&CASES[3], envoy), (&CASES[4], envoy)] {
        for before in ["", "2026-11-20T12:00:00.1Z stdout F "] {
            let wrap = |line: Vec<u8>| [before.as_bytes(), &line].concat();
            let mut parser = Parser::for_source(&access_source("auto"), &[&wrap(good(case))]);
            let hostile = wrap(line(case, Writes::Raw, words.as_bytes(), 1).unwrap());
            for _ in 0..100 {
                let line = parser.parse(&hostile).clone_static();
                assert!(matches!(line, Line::Rejected(_)), "{}", String::from_utf8_lossy(&hostile));
            }
            assert!(matches!(parser.parse(&wrap(good(case))), Line::Access(_)));
            assert_eq!(parser.format(), case.1);
        }
    }
}

#[test]
fn an_error_log_of_caddy_holds_no_requests() {
    let source = LogSource { kind: LogKind::Error, ..access_source("auto") };
    let error = br#"{"level":"error","ts":1795176067.042,"logger":"http.log.error","msg":"EOF","request":{"remote_ip":"198.51.100.7","method":"GET","host":"a.example","uri":"/"},"status":502,"err_trace":"reverseproxy.x"}"#;
    let mut parser = Parser::for_source(&source, &[error]);
    for _ in 0..30 {
        assert!(matches!(parser.parse(&good(&CASES[0])), Line::Rejected(_)));
    }
    assert!(matches!(parser.parse(error), Line::Error(record) if record.gateway));
}

#[test]
fn byte_counts_are_no_requests() {
    for line in [
        "4711",
        "1795176067 4711 .",
        "1795176067.042 4711 200",
        "4711 200",
        "a.example 4711 17",
        "",
    ] {
        for format in FORMATS {
            let got = Parser::for_format(format, &[]).parse(line.as_bytes()).clone_static();
            assert!(matches!(got, Line::Rejected(_)), "{format}: {line}");
        }
        let mut parser = Parser::for_source(&access_source("auto"), &[]);
        assert!((0..50).all(|_| matches!(parser.parse(line.as_bytes()), Line::Rejected(_))));
    }
}

/// A line that outlives its parser.
pub(super) trait CloneStatic {
    fn clone_static(&self) -> Line<'static>;
}

impl CloneStatic for Line<'_> {
    fn clone_static(&self) -> Line<'static> {
        match self {
            Line::Access(record) => Line::Access(AccessRecord {
                host: record.host.as_ref().map(|text| text.to_string().into()),
                path: record.path.as_ref().map(|text| text.to_string().into()),
                status: record.status,
                ..AccessRecord::default()
            }),
            Line::Error(record) => Line::Error(crate::logs::ErrorRecord {
                gateway: record.gateway,
                ..crate::logs::ErrorRecord::default()
            }),
            Line::Rejected(reason) => Line::Rejected(*reason),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_of_a_client_change_a_verdict(words in proptest::collection::vec(any::<u8>(), 0..60), case in 0usize..CASES.len()) {
        check(&CASES[case], &words);
    }

    #[test]
    fn no_chosen_words_of_a_client_change_a_verdict(words in r#"[ "\\\[\]/:,=#\t-]{0,3}((502|503|504|200|GET|HTTP/1\.1|x22|[0-9.]{1,9}|20/Nov/2026:12:00:00 \+0000|UF|12ms|"status":502|ua=|us=|client|[a-z{}:#*])[ "\\\[\],;]{0,2}){0,20}"#, case in 0usize..CASES.len()) {
        check(&CASES[case], words.as_bytes());
    }

    #[test]
    fn no_damaged_line_of_any_format_makes_a_parser_panic(case in 0usize..CASES.len(), other in 0usize..CASES.len(), at: usize, byte: u8) {
        let case = &CASES[case];
        let mut line = good(&CASES[other]);
        let at = at % line.len();
        line[at] = byte;
        for format in [case.0, "auto"] {
            let object = output::render(1, &mut parser(format, case), &line);
            prop_assert!(object.contains_key("rejected") != object.contains_key("format"));
            let object = output::render(1, &mut parser(format, case), &line[..at]);
            prop_assert!(object.contains_key("rejected") != object.contains_key("format"));
        }
    }
}
