//! The kernel against the parsers of servers that write lines of their own, some of which escape no
//! quotes.

use super::*;

/// What a client may send that looks like what the server writes, beside [`HOSTILE`].
const FORGED: [&[u8]; 22] = [
    b" 503 5 ",
    b" 200 5 ",
    b" 503 UF 0 0 0 - ",
    b" 503 - 0 0 0 1 ",
    b"\" 503 5 \"",
    b"\" 200 5 \"",
    b"\" 503 - 0 0 0 - \"x",
    b"\" \"",
    b" x",
    b"GET http://b.example/ HTTP/1.1",
    b"http://",
    b"http://b.example/c",
    b"GET http://u@b.example/ HTTP/1.1",
    b"GET http://b.example?x@y/ HTTP/1.1",
    b"GET https://b.example#x HTTP/1.1",
    b"GET http:// HTTP/1.1",
    b"GET http://b.example/ HTTP/1.1 x",
    b"G3T http://b.example/ HTTP/1.1",
    b"[2001:db8::7]:80",
    b"2026-11-20T12:00:00Z stdout F ",
    b"web-1  | ",
    b"{",
];

/// A value of one of the forms, mostly a good one.
fn word(dice: &mut Dice, field: &str) -> Vec<u8> {
    match dice.roll(60) {
        0 => return dice.of(&HOSTILE).to_vec(),
        1 => return dice.of(&FORGED).to_vec(),
        _ => {}
    }
    let (m, s, part) = (dice.roll(2), dice.roll(61), dice.roll(1_000_000));
    let day = if dice.roll(20) == 0 { "2026-11-31" } else { "2026-11-20" };
    let text = match field {
        "$iso" => match dice.roll(12) {
            0 => format!("{day}T12:{m:02}:{s:02}"),
            1 => format!("{day}T12:{m:02}:{s:02}+01:00"),
            2 => format!("{day} 12:{m:02}:{s:02}.{part:06}Z"),
            3 => format!("{day}T12:{m:02}:{s:02}.{part:06}{part:020}Z"),
            4 => format!("{day}T12:{m:02}:{s:02}.{:05}xZ", part % 100_000),
            5..9 => format!("{day}T12:{m:02}:{s:02}.{part:06}Z"),
            _ => format!("{day}T12:{m:02}:{s:02}.{:03}Z", part % 1000),
        },
        "$date" => dice.of(&[day, day, day, day, day, "-", "2026-11-2"]).to_owned(),
        "$clock" if dice.roll(20) == 0 => format!("12:{m:02}:{s:02}.5"),
        "$clock" => format!("12:{m:02}:{s:02}"),
        "$peer" => dice
            .of(&[
                "198.51.100.7:4711",
                "[2001:db8::7]:80",
                "::7:80",
                "-",
                ":80",
                "a:",
                "10.0.0.1:80",
            ])
            .to_owned(),
        "$forwarded" => dice
            .of(&["-", "198.51.100.7", "2001:db8::7", "198.51.100.7:80", "a, b:1", "", "[::7]"])
            .to_owned(),
        "$server" => dice
            .of(&["192.0.2.1:80", "192.0.2.1:80", "-", "", "a/", "tcp://192.0.2.1:80", "a,", ":"])
            .to_owned(),
        "$url" => {
            let url =
                dice.of(&["http://a.example/p?q", "http://a.example", "https://b.example:80/"]);
            format!("GET {url} HTTP/1.1")
        }
        "$type" => dice.of(&["https", "h2", "http", "wss", "ftp", ""]).to_owned(),
        "$flags" => dice.of(&["-", "-", "-", "DC", "UF,URX", "x y"]).to_owned(),
        "$n" => dice.of(&["0", "17", "123456", "123456789012", "17", "-", "", "-1"]).to_owned(),
        "$s" => dice.of(&["0.001", "12", "-1", "-", "1e3", ".5", "1.", "inf"]).to_owned(),
        "$word" => dice.of(&["-", "0", "app/lb/1", "Mozilla/5.0+(X11)", "/p", ""]).to_owned(),
        "$host" => dice.of(&["a.example", "b.example:80", "a.example", "-"]).to_owned(),
        "$text" => dice.of(&["Mozilla/5.0 (X11; Linux)", "-", "", "curl/8.5.0"]).to_owned(),
        _ => return value(dice, field),
    };
    text.into_bytes()
}

/// A format, and how a line of it is written.
const FORMS: [(&str, &str); 8] = [
    (
        "traefik",
        "$remote_addr| - |$remote_user| [|$time_local|] \"|$request|\" |$status| |$n| \"|$text|\" \"|$text|\" |$n| \"|$host|\" \"http://|$server|\" |$n|ms",
    ),
    (
        "traefik",
        "$remote_addr| - |$remote_user| [|$time_local|] \"|$request|\" |$status| |$n| \"|$text|\" \"|$text|\" |$n| \"|$host|\" \"|$server|\" |$n|ms",
    ),
    (
        "envoy",
        "[|$iso|] \"|$request|\" |$status| |$flags| |$n| |$n| |$n| |$n| \"|$forwarded|\" \"|$text|\" \"|$text|\" \"|$host|\" \"|$server|\"",
    ),
    (
        "alb",
        "$type| |$iso| |$word| |$peer| |$peer| |$s| |$s| |$s| |$status| |$n| |$n| |$n| \"|$url|\" \"|$text|\" |$word| \"|$text|\"",
    ),
    (
        "varnish",
        "$remote_addr| - |$remote_user| [|$time_local|] \"|$url|\" |$status| |$n| \"|$text|\" \"|$text|\"",
    ),
    (
        "litespeed",
        "\"|$remote_addr| - |$remote_user| [|$time_local|] \"|$request|\" |$status| |$n| \"|$text|\" \"|$text|\"\"",
    ),
    (
        "litespeed",
        "$remote_addr| - |$remote_user| [|$time_local|] \"|$request|\" |$status| |$n| \"|$text|\" \"|$text|\"",
    ),
    (
        "auto",
        "$remote_addr| - |$remote_user| [|$time_local|] \"|$request|\" |$status| |$n| \"|$text|\" \"|$text|\" |$n| \"|$host|\" \"http://|$server|\" |$n|ms",
    ),
];

fn made_up_form(dice: &mut Dice, form: &str) -> Vec<u8> {
    let mut line = Vec::new();
    for part in form.split('|') {
        if part.starts_with('$') {
            line.extend(word(dice, part));
        } else {
            line.extend_from_slice(part.as_bytes());
        }
    }
    if dice.roll(3) == 0 { damaged(dice, line) } else { line }
}

const COLUMNS: [(&str, &str); 12] = [
    ("s-ip", "$word"),
    ("cs-method", "$word"),
    ("cs-uri-stem", "$word"),
    ("c-ip", "$remote_addr"),
    ("x-forwarded-for", "$forwarded"),
    ("cs-host", "$host"),
    ("cs(Host)", "$host"),
    ("x-host-header", "$host"),
    ("sc-substatus", "$n"),
    ("sc-status", "$status"),
    ("s-reason", "$word"),
    ("time-taken", "$n"),
];

/// Lines of W3C, whose columns change among them.
fn made_up_w3c(dice: &mut Dice, separator: &str) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for _ in 0..=dice.roll(3) {
        let mut columns = vec![("date", "$date"), ("time", "$clock")];
        if dice.roll(8) == 0 {
            columns.remove(dice.roll(2));
        }
        for _ in 0..dice.roll(8) {
            columns.push(COLUMNS[dice.roll(COLUMNS.len())]);
        }
        let at = columns.len() - dice.roll(columns.len().min(4));
        columns.insert(at, ("sc-status", "$status"));
        if dice.roll(4) == 0 {
            lines.push(b"#Date: 2026-11-20 12:00:00".to_vec());
        }
        let edge = if separator == "\t" { "x-edge-location" } else { "s-port" };
        columns.push((edge, "$n"));
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        lines.push(format!("#Fields: {}", names.join(" ")).into_bytes());
        for _ in 0..dice.roll(12) {
            let words: Vec<_> = columns.iter().map(|(_, field)| word(dice, field)).collect();
            let line = words.join(separator.as_bytes());
            lines.push(if dice.roll(3) == 0 { damaged(dice, line) } else { line });
        }
    }
    for line in &mut lines {
        line.retain(|byte| *byte != b'\n');
    }
    lines
}

fn check_form(seed: u64) -> usize {
    let mut dice = Dice(seed);
    let (format, form) = FORMS[dice.roll(FORMS.len())];
    let lines: Vec<_> = (0..20).map(|_| made_up_form(&mut dice, form)).collect();
    check(&with_zone(format), &lines, dice.roll(900), format)
}

fn check_w3c(seed: u64) -> usize {
    let mut dice = Dice(seed);
    let (format, separator) = [("iis", " "), ("cloudfront", "\t"), ("auto", " ")][dice.roll(3)];
    let lines = made_up_w3c(&mut dice, separator);
    check(&Parser::for_format(format, &[]), &lines, dice.roll(600), format)
}

/// Lines of JSON of three servers: format, and keys with their values; a star stands before what
/// is no text.
const JSON: [(&str, &str); 4] = [
    (
        "caddy",
        r#"level=$level|*ts=$ts|logger=$logger|msg=$msg|*request={"remote_ip":"$client","client_ip":"$client","method":"GET","host":"$host","headers":{"User-Agent":["$text"]}}|*duration=$s|*status=$status"#,
    ),
    (
        "caddy",
        r#"level=$level|*ts=$ts|logger=$logger|msg=$msg|*request={"remote_addr":"$peer","method":"$text","host":"$host"}|*status=$status|error=$text"#,
    ),
    (
        "traefik",
        r"ClientHost=$client|*DownstreamStatus=$status|*Duration=$n|RequestHost=$host|RequestMethod=GET|*RetryAttempts=$few|ServiceAddr=$server|ServiceURL=$server|StartUTC=$iso|*OriginStatus=$status",
    ),
    (
        "envoy",
        r"start_time=$iso|*response_code=$status|response_flags=$flags|*duration=$n|:authority=$host|authority=$host|upstream_host=$server|downstream_remote_address=$peer|upstream_cluster=$text|*upstream_request_attempt_count=$few",
    ),
];

fn made_up_object(dice: &mut Dice, keys: &[&str]) -> Vec<u8> {
    let mut line = b"{".to_vec();
    let is_good = dice.roll(2) == 0;
    for (at, pair) in keys.iter().enumerate() {
        let (key, value) = pair.split_once('=').unwrap();
        let sign = if key.starts_with('*') || dice.roll(200) == 0 { "" } else { "\"" };
        let comma = if at > 0 { "," } else { "" };
        line.extend(format!("{comma}\"{}\":{sign}", key.trim_start_matches('*')).bytes());
        for (n, part) in value.split('$').enumerate() {
            let end = part.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(part.len());
            let (field, rest) = part.split_at(if n == 0 { 0 } else { end });
            if n > 0 {
                line.extend(json_word(dice, field, is_good));
            }
            line.extend(rest.bytes());
        }
        line.extend(sign.bytes());
    }
    line.push(b'}');
    if !is_good && dice.roll(3) == 0 { damaged(dice, line) } else { line }
}

fn json_word(dice: &mut Dice, field: &str, is_good: bool) -> Vec<u8> {
    let part = dice.roll(10_000_000);
    let text = match field {
        "level" if is_good => "info".to_owned(),
        "logger" if is_good => "http.log.access.log0".to_owned(),
        "msg" if is_good => "handled request".to_owned(),
        "client" if is_good => format!("198.51.100.{}", part % 256),
        "host" if is_good => "a.example".to_owned(),
        "server" if is_good => "192.0.2.1:80".to_owned(),
        "peer" if is_good => format!("[2001:db8::{}]:4711", part % 256),
        "status" if is_good => dice.of(&["200", "404", "500", "502"]).to_owned(),
        "flags" if is_good => "-".to_owned(),
        "n" if is_good => (part % 5000).to_string(),
        _ if dice.roll(80) == 0 => "null".to_owned(),
        "level" => dice.of(&["info", "info", "info", "info", "error", "x"]).to_owned(),
        "logger" if dice.roll(10) > 0 => "http.log.access.log0".to_owned(),
        "logger" => dice.of(&["http.log.error", "app", "", "http.log.access"]).to_owned(),
        "msg" if dice.roll(10) > 0 => "handled request".to_owned(),
        "msg" => "handled".to_owned(),
        "ts" => match dice.roll(9) {
            0 => format!("17951760{:02}.9999999", dice.roll(61)),
            1 => format!("17951760{:02}.{:03}", dice.roll(61), part % 1000),
            2 => format!("17951760{:02}", dice.roll(61)),
            _ => format!("17951760{:02}.{part:07}", dice.roll(61)),
        },
        "client" => dice
            .of(&["198.51.100.7", "2001:db8::7", "198.51.100.7", "-", "", "a, b", "a\u{a0}"])
            .to_owned(),
        "few" => dice.of(&["0", "1", "0", "1", "2"]).to_owned(),
        field => {
            let text = word(dice, &format!("${field}"));
            return text.into_iter().filter(|byte| !b"\"\\".contains(byte)).collect();
        }
    };
    text.into_bytes()
}

fn check_json(seed: u64) -> usize {
    let mut dice = Dice(seed);
    let (format, form) = JSON[dice.roll(JSON.len())];
    let mut keys: Vec<&str> = form.split('|').collect();
    for _ in 0..dice.roll(3) {
        keys.remove(dice.roll(keys.len()));
    }
    if dice.roll(3) == 0 {
        let at = dice.roll(keys.len());
        keys.swap(0, at);
    }
    let lines: Vec<_> = (0..60).map(|_| made_up_object(&mut dice, &keys)).collect();
    check(&with_zone(format), &lines, dice.roll(3000), format)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1000 }))]

    #[test]
    fn a_plain_line_of_a_server_of_its_own_is_what_the_parser_says(seed: u64) {
        check_form(seed);
    }

    #[test]
    fn a_plain_line_of_a_servers_json_is_what_the_parser_says(seed: u64) {
        check_json(seed);
    }

    #[test]
    fn a_plain_line_of_w3c_is_what_the_parser_says(seed: u64) {
        check_w3c(seed);
    }
}

#[test]
fn lines_of_these_forms_are_plain_often_enough_to_mean_something() {
    let n: usize = (0..400).map(check_form).sum();
    assert!(n > 1000, "{n} of 8000");
    let n: usize = (0..400).map(check_w3c).sum();
    assert!(n > 250, "{n}");
    let n: usize = (0..400).map(check_json).sum();
    assert!(n > 1200, "{n} of 24000");
}

#[test]
fn good_lines_of_these_forms_are_plain_and_those_with_a_second_reading_are_not() {
    let head = r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET /p HTTP/1.1" 200 5"#;
    let traefik =
        |agent: &str, url: &str| format!(r#"{head} "-" "{agent}" 7 "a@docker" "{url}" 12ms"#);
    let envoy = |agent: &str, status: &str| {
        format!(
            r#"[2026-11-20T12:00:00.500Z] "GET / HTTP/1.1" {status} 0 91 12 11 "-" "{agent}" "id" "a.example" "192.0.2.1:80""#
        )
    };
    let alb = |url: &str, tail: &str| {
        format!(
            r#"h2 2026-11-20T12:00:00.123456Z app/lb/1 198.51.100.7:4711 192.0.2.1:80 0.001 0.002 0.003 200 200 34 366 "GET {url} HTTP/1.1" "curl"{tail}"#
        )
    };
    let varnish = |url: &str| head.replace("/p", url) + r#" "-" "curl""#;
    for (format, line, plain) in [
        ("traefik", traefik("curl", "http://192.0.2.1:80"), true),
        ("traefik", traefik("curl", "https://192.0.2.1:80"), true),
        ("traefik", traefik("curl", "http://192.0.2.1:80/"), false),
        ("traefik", traefik("curl", "-"), false),
        ("traefik", traefik(" 503 5 ", "http://192.0.2.1:80"), false),
        ("traefik", traefik("x\" 503 5 \"y", "http://192.0.2.1:80"), false),
        ("traefik", format!("{{{}", traefik("curl", "http://192.0.2.1:80")), false),
        ("envoy", envoy("curl", "200 -"), true),
        ("envoy", envoy("curl", "503 UF"), false),
        ("envoy", envoy("curl", "0 DC"), false),
        ("envoy", envoy(" 503 UF 0 0 0 - ", "200 -"), false),
        ("envoy", envoy("x\" 503 UF 0 0 0 - \"y", "200 -"), false),
        ("alb", alb("https://a.example:443/p", r#" - - "x" "y""#), true),
        ("alb", alb("https://a.example:443/p", r#" x \" "#), true),
        ("alb", alb("http://a.example", ""), true),
        ("alb", alb("http://u@a.example/", ""), false),
        ("alb", alb("/p", ""), false),
        ("varnish", varnish("http://a.example/p"), true),
        ("varnish", varnish("http:///p"), false),
        ("varnish", varnish("/p"), false),
        ("litespeed", format!("\"{}\"", varnish("/p")), true),
        ("litespeed", varnish("/p"), true),
    ] {
        let line = line.into_bytes();
        let n = check(&Parser::for_format(format, &[]), std::slice::from_ref(&line), 0, format);
        assert_eq!(n == 1, plain, "{format}: {}", lossy(&line));
    }
}

#[test]
fn the_form_of_a_servers_json_is_learned() {
    let caddy = |n: usize| {
        format!(
            r#"{{"level":"info","ts":17951760{:02}.0{n:06},"logger":"http.log.access","msg":"handled request","request":{{"remote_ip":"198.51.100.7","method":"GET","host":"a{n}.example","headers":{{"User-Agent":["curl"]}}}},"status":200}}"#,
            n % 60
        )
    };
    let traefik = |n: usize| {
        format!(
            r#"{{"ClientHost":"198.51.100.7","DownstreamStatus":200,"Duration":{n}000000,"RequestHost":"a{n}.example","RequestMethod":"GET","RetryAttempts":0,"ServiceAddr":"192.0.2.1:80","StartUTC":"2026-11-20T12:00:{:02}.123456789Z"}}"#,
            n % 60
        )
    };
    let envoy = |n: usize| {
        format!(
            r#"{{"start_time":"2026-11-20T12:00:{:02}.123Z","response_code":200,"response_flags":"-","duration":{n},":authority":"a{n}.example","upstream_host":"192.0.2.1:80","downstream_remote_address":"[2001:db8::{n}]:4711"}}"#,
            n % 60
        )
    };
    let forms: [(&str, &dyn Fn(usize) -> String); 3] =
        [("caddy", &caddy), ("traefik", &traefik), ("envoy", &envoy)];
    for (format, line) in forms {
        let lines: Vec<_> = (1..101).map(|n| line(n).into_bytes()).collect();
        assert_eq!(check(&Parser::for_format(format, &[]), &lines, 0, format), 99, "{format}");
    }
}

#[test]
fn new_columns_are_read_in_their_new_places() {
    let lines: Vec<Vec<u8>> = [
        "#Fields: date time c-ip cs-host sc-status time-taken",
        "2026-11-20 12:00:05 198.51.100.7 a.example 200 15",
        "2026-11-20 12:00:06 198.51.100.7 - 200 15",
        "2026-11-20 12:00:06 198.51.100.7 a.example 502 15",
        "2026-11-20 12:00:07  198.51.100.7 a.example 200 15",
        "#Fields: date time cs-host c-ip time-taken sc-status",
        "2026-11-20 12:00:08 a.example 198.51.100.7 503 200",
        "#Fields: date time cs-host sc-status s-reason",
        "2026-11-20 12:00:08 a.example 200 QueueFull",
    ]
    .map(|line| line.as_bytes().to_vec())
    .into();
    // The first line tells `auto` what it is.
    for (format, n_plain) in [("iis", 2), ("auto", 1)] {
        let n = check(&Parser::for_format(format, &[]), &lines, 0, format);
        assert_eq!(n, n_plain, "{format}");
    }
}
