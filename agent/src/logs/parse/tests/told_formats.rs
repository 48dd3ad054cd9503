//! What the fields of a line tell: attempts, paths, and the keys and directives of told formats.

use super::every_format::CloneStatic;
use super::*;

#[test]
fn attempts_are_told_one_by_one() {
    type Attempts = &'static [(&'static str, Option<u16>, Option<f64>)];
    let cases: [(&str, &str, Attempts); 12] = [
        (
            "$status [$upstream_addr] [$upstream_status] [$upstream_response_time]",
            "200 [a:1, b:1] [502, 200] [0.1, 0.2]",
            &[("a:1", Some(502), Some(0.1)), ("b:1", Some(200), Some(0.2))],
        ),
        (
            "$status [$upstream_addr] [$upstream_status] [$upstream_response_time]",
            "200 [a:1, b:1 : c:1] [502, 504 : 200] [0.1, - : 0.3]",
            &[
                ("a:1", Some(502), Some(0.1)),
                ("b:1", Some(504), None),
                ("c:1", Some(200), Some(0.3)),
            ],
        ),
        (
            "$status [$upstream_addr] [$upstream_status] [$upstream_response_time]",
            "502 [a:1, unix:/run/b.sock] [-, 502] [-, 0.2]",
            &[("a:1", None, None), ("unix:/run/b.sock", Some(502), Some(0.2))],
        ),
        (
            "$status $upstream_addr $upstream_status $upstream_response_time x",
            "200 a:1, b:1 : c:1 502, 504 : 200 0.1, - : 0.3 x",
            &[
                ("a:1", Some(502), Some(0.1)),
                ("b:1", Some(504), None),
                ("c:1", Some(200), Some(0.3)),
            ],
        ),
        ("$status [$upstream_addr] [$upstream_status]", "404 [-] [-]", &[]),
        (
            "$status [$upstream_status]",
            "200 [502, 200]",
            &[("", Some(502), None), ("", Some(200), None)],
        ),
        ("$status [$upstream_status]", "404 [-]", &[]),
        (
            "json",
            r#"{"status":200,"upstream_addr":"a:1, b:1","upstream_status":"504, 200","upstream_response_time":"1.0, 0.5"}"#,
            &[("a:1", Some(504), Some(1.0)), ("b:1", Some(200), Some(0.5))],
        ),
        (
            "json",
            r#"{"status":200,"upstream_status":"502 : 200"}"#,
            &[("", Some(502), None), ("", Some(200), None)],
        ),
        ("json", r#"{"status":200,"upstream_addr":"-","upstream_status":"-"}"#, &[]),
        (
            "json:status=s,upstream=u.a,upstream_status=u.s",
            r#"{"s":200,"u":{"a":"a:1, b:1","s":"502, 200"}}"#,
            &[("a:1", Some(502), None), ("b:1", Some(200), None)],
        ),
        (
            r#"%h %t "%r" %>s %b %{BALANCER_WORKER_NAME}e %D"#,
            r#"a [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 http://192.0.2.1:80 17"#,
            &[("http://192.0.2.1:80", None, None)],
        ),
    ];
    for (format, line, want) in cases {
        let mut parser = Parser::for_format(format, &[]);
        let Line::Access(r) = parser.parse(line.as_bytes()) else { panic!("{format}: {line}") };
        let got: Vec<_> = r.attempts.iter().map(|a| (&*a.upstream, a.status, a.time)).collect();
        assert_eq!(got, want, "{format}: {line}");
    }
}

#[test]
fn a_path_is_read_as_the_client_sent_it() {
    for (format, written, want) in [
        ("combined", r"/a\x22b\x5Cc\xC3\xA9", "/a\"b\\cé"),
        ("combined", r"/a\x0Ab\x7F", r"/a\x0Ab\x7F"),
        ("combined", r"/a\\x22", r"/a\\x22"),
        ("combined", r#"/a\"b\\c"#, r#"/a\"b\\c"#),
        ("combined", r"/a\x2", r"/a\x2"),
        ("combined", r"/a\x", r"/a\x"),
        ("combined", r"/a\\", r"/a\\"),
        ("combined", "/plain", "/plain"),
    ] {
        let line = format!(
            r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET {written} HTTP/1.1" 200 5 "-" "x""#
        );
        let Line::Access(record) =
            Parser::for_format(format, &[]).parse(line.as_bytes()).clone_static()
        else {
            panic!("{line}")
        };
        assert_eq!(record.path.as_deref(), Some(want), "{written}");
    }
    let json = r#"{"path":"$request_uri","status":"$status"}"#;
    let line = br#"{"path":"/a\u0022b\/c\"d\\e\n","status":"200"}"#;
    let Line::Access(record) = Parser::for_format(json, &[]).parse(line).clone_static() else {
        panic!("a request")
    };
    assert_eq!(record.path.as_deref(), Some(r#"/a"b/c"d\e\n"#));
}

#[test]
fn apache_formats_tell_what_they_hold() {
    for (format, line, want) in [
        (
            r#"%v %V %p %{c}a %a %t "%r" %>s %I %O %{UNIQUE_ID}e %{us}T "%{X-Forwarded-For}i""#,
            r#"a.example b.example 443 198.51.100.7 198.51.100.8 [20/Nov/2026:12:00:00 +0000] "GET /p HTTP/1.1" 503 10 20 Zx1 1500000 "203.0.113.7, 10.0.0.2""#,
            ("a.example", "198.51.100.7", Some("203.0.113.7, 10.0.0.2"), 503, Some(1.5)),
        ),
        (
            r#"%{Host}i %h %t \"%r\" %s %b %T"#,
            r#"a.example 198.51.100.7 [20/Nov/2026:12:00:00 +0000] "GET /p HTTP/1.1" 502 - 2"#,
            ("a.example", "198.51.100.7", None, 502, Some(2.0)),
        ),
        (
            r"%h %{%s}t %>s %{ms}T %{Host}i",
            "198.51.100.7 1795176067 504 1500 a.example",
            ("a.example", "198.51.100.7", None, 504, Some(1.5)),
        ),
    ] {
        let mut parser = Parser::for_format(format, &[]);
        let Line::Access(r) = parser.parse(line.as_bytes()) else { panic!("{line}") };
        let got = (
            r.host.as_deref().unwrap_or_default(),
            r.client.as_deref().unwrap_or_default(),
            r.forwarded_for.as_deref(),
            r.status.unwrap_or_default(),
            r.request_time,
        );
        assert_eq!(got, want, "{format}");
    }
}

#[test]
fn a_wrong_format_is_refused_with_what_to_write() {
    for (format, part) in [
        ("caddyy", "write auto, combined"),
        ("json:stauts=a", "\"stauts\" is no field: write one of status, host, client"),
        ("json:", "is no NAME=KEY"),
        ("json:status=a.", "status has no key"),
    ] {
        let fix = check_format(format).expect_err(format);
        assert!(fix.contains(part), "{format}: {fix}");
    }
    for format in ["varnish:%h %s", "json:status=code,time=ts", "traefik", "$status", "iis"] {
        assert_eq!(check_format(format), Ok(()), "{format}");
    }
}

/// Counts the lines by how they come.
#[derive(Default)]
struct Counts {
    n_plain: usize,
    told: Vec<(Option<u16>, String)>,
}

impl crate::logs::scan::Sink for Counts {
    fn plain(&mut self, plain: &crate::logs::scan::Plain<'_>) -> bool {
        self.n_plain += 1;
        let host = String::from_utf8_lossy(plain.host).into_owned();
        self.told.push((Some(plain.status), host));
        true
    }

    fn line(&mut self, _raw: &[u8], line: Line<'_>) {
        self.told.push(told(&line));
    }
}

fn told(line: &Line<'_>) -> (Option<u16>, String) {
    match line {
        Line::Access(record) => {
            (record.status, record.host.as_deref().unwrap_or_default().to_owned())
        }
        _ => (None, String::new()),
    }
}

#[test]
fn a_form_with_told_keys_is_learned() {
    let parser = Parser::for_format("json:status=a.code,host=a.vhost,time=a.at,client=peer", &[]);
    let line = |n: usize, tail: &str| {
        let status = [200, 404, 502][n % 3];
        format!(
            r#"{{"peer":"198.51.100.{n}","a":{{"at":"2026-11-20T12:00:{:02}Z","code":{status},"vhost":"h{n}.example","list":[1,"x"]}},"status":502{tail}}}"#,
            n % 60
        )
    };
    let mut lines: Vec<String> = (0..200).map(|n| line(n, "")).collect();
    lines.push(line(1, r#","a.code":200"#));
    lines.push(line(1, r#","more":1"#));
    let chunk = lines.join("\n") + "\n";
    let mut counts = Counts::default();
    parser.clone().scan(chunk.as_bytes(), &mut counts);
    let mut alone = parser;
    let want: Vec<_> = lines.iter().map(|line| told(&alone.parse(line.as_bytes()))).collect();
    assert_eq!(counts.told, want);
    assert!(counts.n_plain > 120, "{}", counts.n_plain);
    assert_eq!(want[200], (None, String::new()), "the same path twice");
}
