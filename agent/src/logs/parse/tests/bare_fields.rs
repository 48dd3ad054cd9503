//! Formats that write a client's words bare: what could be read in two ways is refused.

use proptest::prelude::*;

use super::*;

/// Formats whose lines a client could make look like others, and a line of each, in which `{}` is
/// each place of a client's words and `{@}` the time.
const CASES: [(&str, &str); 22] = [
    ("$time_iso8601|$host|$uri|$status|$http_user_agent", "{@}|a.example|/{}|200|{}"),
    ("$time_iso8601;$host;$uri;$status;$http_user_agent", "{@};a.example;/{};200;{}"),
    ("$time_iso8601 $host $uri $status $http_user_agent", "{@} a.example /{} 200 {}"),
    (
        "$remote_addr|$time_iso8601|$host|$status|$body_bytes_sent|$http_user_agent",
        "198.51.100.7|{@}|a.example{}|200|17|{}",
    ),
    (
        "$remote_addr $time_iso8601 $http_host $status $body_bytes_sent $http_user_agent",
        "198.51.100.7 {@} a.example{} 200 17 {}",
    ),
    (
        "$time_iso8601;$host;$request_uri;$status;$http_user_agent;$upstream_addr;$upstream_status",
        "{@};a.example;/{};200;{};192.0.2.1:80;200",
    ),
    (
        "$time_iso8601;$host;$uri;$http_user_agent;$upstream_addr;$upstream_status;$status",
        "{@};a.example;/{};{};192.0.2.1:80;200;200",
    ),
    ("$status $http_user_agent $upstream_addr", "200 {} 192.0.2.1:80"),
    ("$status $http_user_agent $upstream_status", "200 {} 200"),
    ("$http_user_agent|$server_name|$http_referer|$status", "{}|a.example|{}|200"),
    ("$server_name|$remote_user|$status|$http_user_agent", "a.example|{}|200|{}"),
    (
        "$server_name $remote_addr - $remote_user [$time_iso8601] $status $http_user_agent",
        "a.example 198.51.100.7 - {} [{@}] 200 {}",
    ),
    (
        "$server_name $remote_addr - $remote_user [$time_iso8601] $request $status $body_bytes_sent $http_user_agent",
        "a.example 198.51.100.7 - {} [{@}] GET /{} HTTP/1.1 200 5 {}",
    ),
    ("$server_name $args $status $body_bytes_sent", "a.example x={} 200 5"),
    ("$server_name $clean_path $status $body_bytes_sent", "a.example /{} 200 5"),
    ("$server_name,$status,$request_time,$http_user_agent", "a.example,200,0.1,{}"),
    ("$server_name\t$http_user_agent\t$status\t$http_referer", "a.example\t{}\t200\t{}"),
    (r#"%v "%m %U%q" %>s %b"#, r#"a.example "GET /{}" 200 5"#),
    ("%v %h %u %r %>s %b %{User-Agent}i", "a.example 198.51.100.7 {} GET /{} HTTP/1.1 200 5 {}"),
    ("%V|%U|%>s|%D|%{User-Agent}i|%{Referer}i", "a.example|/{}|200|1500|{}|{}"),
    (
        r#"$server_name "$request" $status $host $upstream_addr"#,
        r#"a.example "GET /{} HTTP/1.1" 200 a.example{} 192.0.2.1:80"#,
    ),
    (
        r#"$server_name $status "$http_user_agent" $cookie_a $upstream_status"#,
        r#"a.example 200 "{}" {} 200"#,
    ),
];

/// The line of a case with these words in one place, as the server escapes them.
fn line(case: usize, words: &str, place: usize) -> Option<String> {
    let (format, text) = CASES[case];
    if place >= text.matches("{}").count() {
        return None;
    }
    let is_apache = format.contains('%');
    let escape = |c: char| match c {
        '"' if is_apache => "\\\"".to_owned(),
        '\\' if is_apache => "\\\\".to_owned(),
        '"' | '\\' => format!("\\x{:02X}", u32::from(c)),
        c if c.is_ascii_control() => format!("\\x{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    let words: String = words.chars().map(escape).collect();
    let text = text.replace("{@}", "2026-11-20T12:00:00Z");
    let mut parts = text.split("{}");
    let mut line = parts.next().unwrap_or_default().to_owned();
    for (at, part) in parts.enumerate() {
        line += if at == place { &words } else { "" };
        line += part;
    }
    Some(line)
}

/// No words may change status, host or upstream; true when the line is read.
fn check(case: usize, words: &str, place: usize) -> Option<bool> {
    let format = CASES[case].0;
    let line = line(case, words, place)?;
    let mut parser = Parser::for_format(format, &[]);
    let Line::Access(record) = parser.parse(line.as_bytes()) else { return Some(false) };
    assert_eq!(record.status, Some(200), "{format}: {line}");
    let host = record.host.as_deref().unwrap_or("a.example");
    // Who chooses the host may choose any.
    let is_host = host.starts_with("a.example") || format.contains("host");
    assert!(is_host, "{format}: host {host} of {line}");
    for attempt in &record.attempts {
        let is_known = matches!(&*attempt.upstream, "" | "192.0.2.1:80");
        assert!(is_known, "{format}: upstream {} of {line}", attempt.upstream);
        assert!(attempt.status.is_none_or(|status| status == 200), "{format}: {line}");
    }
    assert!(record.attempts.len() < 2, "{format}: {line}");
    Some(true)
}

#[test]
fn words_between_bare_separators_are_no_status_and_no_upstream() {
    for case in 0..CASES.len() {
        for words in [
            "ua|502|x",
            "ua;502;x",
            "ua 502 x",
            "ua,502,x",
            "ua 502 17 x",
            "ua|502|17|x",
            "x\t502\tx",
            "x\" 502 5",
            "|502|5|x",
            ";502;5;x",
            " 502 5 x",
            "|b.example|",
            " [2026-11-20T12:00:01Z] 502 x",
            " [2026-11-20T12:00:01Z] GET / HTTP/1.1 502 5 x",
            ";192.0.2.66:80;502",
            ";192.0.2.66:80;502;502",
            " 192.0.2.66:80",
            " 192.0.2.66:80,",
            " 502,",
            " 502 :",
            " 502",
        ] {
            for place in 0..4 {
                check(case, words, place);
            }
        }
    }
}

#[test]
fn usual_words_are_read_between_bare_separators() {
    for (case, (format, text)) in CASES.iter().enumerate() {
        for words in [
            "",
            "-",
            "curl/8.5.0",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
        ] {
            for place in 0..4 {
                // Nobody's host or address has words behind it.
                let is_host =
                    text.split("{}").nth(place).is_some_and(|before| before.ends_with("a.example"));
                let is_read =
                    (is_host && !words.is_empty()) || check(case, words, place) != Some(false);
                assert!(is_read, "{format}: {words} at {place}");
            }
        }
    }
}

#[test]
fn a_line_of_many_separators_is_refused_in_no_time() {
    for (format, sign) in [
        ("$uri|$http_user_agent|$http_referer|$cookie_a|$status|$arg_b", "|"),
        ("$uri $http_user_agent $http_referer $cookie_a $status $arg_b", " 200 "),
    ] {
        let line = sign.repeat(LINE_BYTES_MAX / sign.len());
        let mut parser = Parser::for_format(format, &[]);
        assert!(matches!(parser.parse(line.as_bytes()), Line::Rejected(_)), "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_words_between_bare_separators_change_a_verdict(words in r#"[a-z| ;,"\\:-]{0,3}((502|503|200|-|0\.1|b\.example|GET|192\.0\.2\.66:80|\[2026-11-20T12:00:01Z\]|[a-z])(\||;| |,|, | : |"|\t|\\)){0,9}"#, case in 0..CASES.len()) {
        for place in 0..4 {
            check(case, &words, place);
        }
    }
}
