//! The kernel against the parser, and against its portable twin: hostile lines in made-up formats.

use jiff::tz::TimeZone;
use proptest::prelude::*;
use wire::UnixMillis;

use crate::logs::event_time::EventClock;
use crate::logs::parse::{LINE_BYTES_MAX, Mode, Parser, built_in};
use crate::logs::scan::{Kernel, Plain, Sink};
use crate::logs::{AccessRecord, Line, LineTime};

mod forms;

/// What a sink was told of one line.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Plain { host: String, client: String, upstream: String, second: Option<i64>, status: u16 },
    Full(String),
}

#[derive(Default)]
struct Story {
    lines: Vec<(Vec<u8>, Seen)>,
    /// Plain lines are asked for in full, every n-th of them.
    refuse_every: usize,
    n_asked: usize,
}

impl Story {
    fn n_plain(&self) -> usize {
        self.lines.iter().filter(|(_, seen)| matches!(seen, Seen::Plain { .. })).count()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Sink for Story {
    fn plain(&mut self, plain: &Plain<'_>) -> bool {
        self.n_asked += 1;
        if self.refuse_every > 0 && self.n_asked.is_multiple_of(self.refuse_every) {
            return false;
        }
        let seen = Seen::Plain {
            host: lossy(plain.host),
            client: lossy(plain.client),
            upstream: lossy(plain.upstream),
            second: plain.second,
            status: plain.status,
        };
        self.lines.push((plain.raw.to_vec(), seen));
        true
    }

    fn line(&mut self, raw: &[u8], line: Line<'_>) {
        self.lines.push((raw.to_vec(), Seen::Full(format!("{line:?}"))));
    }
}

/// The zone of times without offset.
fn zone() -> TimeZone {
    crate::config::zone("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn with_zone(format: &str) -> Parser {
    let mut parser = Parser::for_format(format, &[]);
    parser.set_zone(zone());
    parser
}

/// The family of the Common Log Format, and no other.
fn clf() -> Parser {
    Parser::new("clf", Mode::One(built_in("clf")))
}

/// What a plain line has to say when this is its record, whenever it is read.
fn plain_of(record: &AccessRecord<'_>) -> Seen {
    let lasted = record.request_time.filter(|_| record.time_is_start).unwrap_or(0.0);
    let lasted_ms = (lasted.min(1e9) * 1000.0) as i64;
    let second = record.time.map(|time| {
        let mut clock = EventClock::new(zone());
        let [early, late] = [0, i64::MAX].map(|now| match time {
            LineTime::Instant { at, .. } => at.0,
            LineTime::Wall(wall) => clock.instant_of(wall, UnixMillis(now)),
            LineTime::WallNoYear(_) => panic!("{time:?} needs to know what year it is"),
        });
        assert_eq!(early, late, "{time:?} may be read in two ways");
        (early + lasted_ms).div_euclid(1000)
    });
    assert!(record.attempts.len() <= 1, "{record:?}");
    Seen::Plain {
        host: record.host.as_deref().unwrap_or_default().to_owned(),
        client: record.client.as_deref().unwrap_or_default().to_owned(),
        upstream: record.attempts.first().map(|a| a.upstream.to_string()).unwrap_or_default(),
        second,
        status: record.status.expect("a plain line has a status"),
    }
}

/// Scans the lines and compares with the parser line by line; returns how many were plain.
fn check(parser: &Parser, lines: &[Vec<u8>], cut: usize, context: &str) -> usize {
    let chunk: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
    let mut story = Story::default();
    parser.clone().scan(&chunk, &mut story);
    let told: usize = story.lines.iter().map(|(raw, _)| raw.len() + 1).sum();
    assert_eq!(told, chunk.len(), "{context}: bytes");
    let mut alone = parser.clone();
    for ((raw, seen), line) in story.lines.iter().zip(lines) {
        assert_eq!(raw, line, "{context}");
        let record = alone.parse(line);
        match (&record, seen) {
            (Line::Access(record), Seen::Plain { status, .. }) => {
                assert_eq!(*seen, plain_of(record), "{context}: {}", lossy(line));
                assert!(!(502..=504).contains(status), "{context}: {}", lossy(line));
            }
            (record, Seen::Full(full)) => assert_eq!(*full, format!("{record:?}"), "{context}"),
            (record, seen) => panic!("{context}: {} is {record:?}, not {seen:?}", lossy(line)),
        }
    }
    for kernel in [Kernel::Avx2, Kernel::Portable] {
        let mut with_kernel = Parser { kernel, ..parser.clone() };
        let mut twin = Story::default();
        with_kernel.scan(&chunk, &mut twin);
        assert_eq!(twin.lines, story.lines, "{context}: {kernel:?}");
    }
    // In pieces, with some of the plain lines asked for in full.
    let (mut pieces, mut rest) = (Story { refuse_every: 3, ..Story::default() }, &chunk[..]);
    let mut in_pieces = parser.clone();
    while !rest.is_empty() {
        let least = cut.min(rest.len() - 1);
        let end = least + memchr::memchr(b'\n', &rest[least..]).expect("ends with one") + 1;
        in_pieces.scan(&rest[..end], &mut pieces);
        rest = &rest[end..];
    }
    let mut alone = parser.clone();
    for ((raw, seen), (whole_raw, whole)) in pieces.lines.iter().zip(&story.lines) {
        let record = format!("{:?}", alone.parse(raw));
        assert!(seen == whole || *seen == Seen::Full(record), "{context}: pieces");
        assert_eq!(raw, whole_raw, "{context}: pieces");
    }
    assert_eq!(pieces.lines.len(), lines.len(), "{context}: pieces");
    story.n_plain()
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, pool: &[&'a T]) -> &'a T {
        pool[self.roll(pool.len())]
    }
}

const NGINX: [&str; 24] = [
    "$remote_addr",
    "$remote_user",
    "$time_local",
    "$time_iso8601",
    "$msec",
    "$request",
    "$status",
    "$body_bytes_sent",
    "$http_referer",
    "$http_user_agent",
    "$host",
    "$http_host",
    "$server_name",
    "$upstream_addr",
    "$upstream_status",
    "$upstream_response_time",
    "$request_time",
    "$http_x_forwarded_for",
    "$request_uri",
    "$uri",
    "$args",
    "$request_method",
    "$upstream_cache_status",
    "$ssl_protocol",
];
const APACHE: [&str; 18] = [
    "%h",
    "%l",
    "%u",
    "%t",
    "%r",
    "%>s",
    "%b",
    "%D",
    "%T",
    "%{ms}T",
    "%v",
    "%{Host}i",
    "%{sec}t",
    "%{msec}t",
    "%{%Y-%m-%d %H:%M:%S %z}t",
    "%{%d/%b/%Y:%H:%M:%S}t",
    "%{User-Agent}i",
    "%a",
];
const BETWEEN: [&str; 14] =
    [" ", " ", " ", " - ", " [", "] ", " \"", "\" \"", "\" ", "|", "\t", ",", "; ", "] \""];
const HOSTILE: [&[u8]; 30] = [
    b"",
    b"-",
    b"--",
    b" ",
    b"\"",
    b"\\",
    b"\\\"",
    b"\\x22",
    b"[",
    b"]",
    b" [",
    b"] \"",
    b"\0",
    b"\xff\xfe",
    b"\r",
    b",",
    b", ",
    b" : ",
    b":",
    b"10.0.0.1:80, 10.0.0.2:80",
    b"a : b",
    b"20/Nov/2026:12:00:00 +0000",
    b"[20/Nov/2026:12:00:00 +0000]",
    b" - - ",
    b"502",
    b"200",
    b"1.2",
    b"99999999999999999999",
    b"unix:/run/php/php8.2-fpm-of-a-long-site-name.example.sock",
    b"\xc3\xa9t\xc3\xa9",
];

/// A value that fits its field, mostly.
fn value(dice: &mut Dice, field: &str) -> Vec<u8> {
    if dice.roll(25) == 0 {
        return dice.of(&HOSTILE).to_vec();
    }
    let (h, m, s) = (dice.roll(2), dice.roll(2), dice.roll(61));
    let status = dice.of(&["200", "200", "304", "404", "499", "500", "502", "99", "2000", "20x"]);
    let number = ["0", "17", "1234", "987654", "-"][dice.roll(5)];
    let text = match field {
        "$remote_addr" | "%h" | "%a" => format!("198.51.100.{}", dice.roll(256)),
        "$time_local" => format!("20/Nov/2026:{h:02}:{m:02}:{s:02} +0{}00", dice.roll(2)),
        "%t" => format!("[20/Nov/2026:{h:02}:{m:02}:{s:02} +0{}00]", dice.roll(2)),
        "%{%d/%b/%Y:%H:%M:%S}t" => format!("20/Nov/2026:{h:02}:{m:02}:{s:02}"),
        "%{%Y-%m-%d %H:%M:%S %z}t" => format!("2026-11-20 {h:02}:{m:02}:{s:02} +0000"),
        "$time_iso8601" => format!("2026-11-20T{h:02}:{m:02}:{s:02}{}", dice.of(&["+00:00", "Z"])),
        "$msec" => format!("17951760{:02}.{:03}", dice.roll(100), dice.roll(1000)),
        "%{sec}t" => format!("17951760{:02}", dice.roll(100)),
        "%{msec}t" => format!("17951760{:05}", dice.roll(100_000)),
        "$request" | "%r" => format!("GET /{number} HTTP/1.1"),
        "$status" | "%>s" => status.to_owned(),
        "$upstream_status" => dice.of(&["200", "-", "502", "502, 200"]).to_owned(),
        "$upstream_addr" => {
            dice.of(&["10.0.0.1:80", "unix:/run/a.sock", "-", "a:1, b:2"]).to_owned()
        }
        "$host" | "$http_host" | "$server_name" | "%v" | "%{Host}i" => {
            dice.of(&["a.example", "www.b.example", "-", ""]).to_owned()
        }
        "%T" | "%D" | "%{ms}T" | "$request_time" | "$upstream_response_time" => {
            dice.of(&["0", "1500", "2500000", "0.001", "-"]).to_owned()
        }
        "$http_user_agent" | "%{User-Agent}i" => "Mozilla/5.0 (X11; Linux)"
            .repeat(dice.roll(if dice.0.is_multiple_of(97) { 300 } else { 4 })),
        "$remote_user" | "%l" | "%u" => dice.of(&["-", "-", "joe", "jane doe"]).to_owned(),
        _ => number.to_owned(),
    };
    text.into_bytes()
}

/// What comes behind the time in most formats.
const REQUEST: [&str; 13] = [
    "[",
    "$time_local",
    "] \"",
    "$request",
    "\" ",
    "$status",
    " ",
    "$body_bytes_sent",
    " \"",
    "$http_referer",
    "\" \"",
    "$http_user_agent",
    "\"",
];

/// A format string and lines of it, some of them damaged.
fn made_up(dice: &mut Dice) -> (String, Vec<Vec<u8>>) {
    let pool: &[&str] = if dice.roll(3) > 0 { &NGINX } else { &APACHE };
    let mut parts: Vec<&str> = Vec::new();
    if dice.roll(3) == 0 {
        parts.push(dice.of(&["[", "\"", "x "]));
    }
    for _ in 0..=dice.roll(7) {
        parts.extend([dice.of(pool), dice.of(&BETWEEN)]);
    }
    // In half of the nginx formats as nearly everybody has it.
    if pool.len() == NGINX.len() && dice.roll(2) == 0 {
        parts.extend([&REQUEST[..dice.roll(3)], &REQUEST[2..]].concat());
    } else {
        parts.push(pool[if pool.len() == NGINX.len() { 6 } else { 5 }]);
    }
    for _ in 0..dice.roll(4) {
        parts.extend([dice.of(&BETWEEN), dice.of(pool)]);
    }
    if dice.roll(2) == 0 {
        parts.push(dice.of(&["\"", "]", " end", " a literal that is longer than one vector \""]));
    }
    let lines = (0..12).map(|_| line_of(dice, &parts)).collect();
    (parts.concat(), lines)
}

fn line_of(dice: &mut Dice, parts: &[&str]) -> Vec<u8> {
    let mut line = Vec::new();
    for part in parts {
        if part.starts_with('$') || part.starts_with('%') && part.len() > 1 {
            line.extend(value(dice, part));
        } else {
            line.extend_from_slice(part.as_bytes());
        }
    }
    damaged(dice, line)
}

fn damaged(dice: &mut Dice, mut line: Vec<u8>) -> Vec<u8> {
    match dice.roll(12) {
        0 => line.push(b'\r'),
        1 => line.truncate(dice.roll(line.len() + 1)),
        2 if !line.is_empty() => {
            let at = dice.roll(line.len());
            line[at] = dice.of(&HOSTILE).first().copied().unwrap_or(b' ');
        }
        3 => {
            let at = dice.roll(line.len() + 1);
            line.splice(at..at, dice.of(&HOSTILE).iter().copied());
        }
        4 => line = [&line[..], b" ", &line[..]].concat(),
        _ => {}
    }
    line.retain(|byte| *byte != b'\n');
    line
}

const BUILT_IN: [(&str, &[&str]); 5] = [
    ("combined", &COMBINED),
    ("common", &COMBINED),
    ("vhost_combined", &VHOST),
    ("auto", &COMBINED),
    ("auto", &VHOST),
];
const COMBINED: [&str; 15] = [
    "$remote_addr",
    " - ",
    "$remote_user",
    " [",
    "$time_local",
    "] \"",
    "$request",
    "\" ",
    "$status",
    " ",
    "$body_bytes_sent",
    " \"",
    "$http_referer",
    "\" \"",
    "$http_user_agent",
];
const VHOST: [&str; 17] = [
    "$host",
    " ",
    "$remote_addr",
    " - ",
    "$remote_user",
    " [",
    "$time_local",
    "] \"",
    "$request",
    "\" ",
    "$status",
    " ",
    "$body_bytes_sent",
    " \"",
    "$http_referer",
    "\" \"",
    "$http_user_agent",
];

/// A line whose time has no offset, in any of a few days and around the change of the clocks.
fn wall_line(dice: &mut Dice, format: &str) -> Vec<u8> {
    let day = dice.of(&["20/Nov/2026", "20/Nov/2026", "25/Oct/2026", "29/Mar/2026", "31/Nov/2026"]);
    let time = format!("{day}:0{}:{:02}:{:02}", dice.roll(4), dice.roll(4) * 15, dice.roll(61));
    let status = dice.of(&["200", "200", "304", "404", "499", "500", "502", "503", "099"]);
    let host = dice.of(&["a.example", "www.b.example", "-", "", "a|b", "10.0.0.1", "a b.c"]);
    let client = dice.of(&["198.51.100.7:4711", "2001:db8::7:4711", "-", "unix:1"]);
    let line = if format.starts_with('%') {
        format!("198.51.100.7 {time} {status} {host}")
    } else {
        let header = dice.of(&[
            "<134>Nov 20 12:01:07 lb haproxy[1]: ",
            "Nov 20 12:01:07 lb haproxy[1]: ",
            "Nov 20 12:01:07.123 lb haproxy[1]: ",
            "Nov  2 12:01:08 lb haproxy[1]: ",
            "Nov 20 12:01:07 lb haproxy ",
            "2026-11-20T12:01:07+01:00 lb haproxy[1]: ",
            "",
        ]);
        let backend = dice.of(&["app/srv1", "app/srv2", "app/<NOSRV>", "Server", "x"]);
        let timer = dice.of(&["65", "0", "-1", "+29", "999", "++1", "290", "99999999999999999999"]);
        let asked = dice.of(&["", "", "", "c.example "]);
        format!(
            "{header}{client} [{time}.{:03}] https~ {backend} {asked}0/0/1/{timer}/{timer} {status} \
             17 - - {} 1/1/0/0/0 0/0 {{{host}}} \"GET /a HTTP/1.1\"",
            dice.roll(1000),
            dice.of(&["----", "SC--", "--"]),
        )
    };
    damaged(dice, line.into_bytes())
}

/// Names behind the Common Log Format.
const NAMES: [&str; 14] = [
    "rt",
    "request_time",
    "host",
    "vhost",
    "server_name",
    "us",
    "upstream_status",
    "upstream",
    "upstream_addr",
    "urt",
    "ua",
    "xff",
    "x",
    "",
];

/// Lines of the Common Log Format with the same pairs and strings behind it, mostly.
fn made_up_pairs(dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut tail: Vec<(&str, &str)> = Vec::new();
    for _ in 0..dice.roll(5) {
        tail.push((dice.of(&NAMES), dice.of(&["=", "=", "=\"", "=\"", "\"", ""])));
    }
    let space = dice.of(&[" ", " ", " ", "  ", "\t", ""]);
    let line = |dice: &mut Dice| {
        let mut line = line_of(dice, &COMBINED);
        line.push(b'"');
        for (name, sign) in &tail {
            let field = match *name {
                "host" | "vhost" | "server_name" => "$host",
                "us" | "upstream_status" => "$upstream_status",
                "upstream" | "upstream_addr" | "ua" => "$upstream_addr",
                _ => dice.of(&["$request_time", "$remote_user", "$http_user_agent"]),
            };
            let value = value(dice, field);
            let end = if sign.ends_with('"') { "\"" } else { "" };
            line.extend([space, name, sign].concat().bytes());
            line.extend(value);
            line.extend(end.bytes());
        }
        damaged(dice, line)
    };
    (0..30).map(|_| line(dice)).collect()
}

const KEYS: [&str; 22] = [
    "status",
    "status_code",
    "host",
    "server_name",
    "http_host",
    "remote_addr",
    "client_ip",
    "upstream_addr",
    "upstream",
    "upstream_status",
    "time_local",
    "time_iso8601",
    "@timestamp",
    "timestamp",
    "time",
    "msec",
    "ts",
    "request",
    "request_time",
    "http_user_agent",
    "n",
    "status",
];
const SCALARS: [&str; 16] = [
    "0",
    "-1",
    "0.5",
    "00",
    "01",
    "1.",
    ".5",
    "1e3",
    "null",
    "true",
    "nul",
    "-",
    "",
    "99999999999999999999999999",
    "17951760.9999999",
    "1795176001.9999999",
];

/// The value of a key as JSON, mostly valid.
fn json_value(dice: &mut Dice, key: &str, style: usize) -> Vec<u8> {
    if dice.roll(40) == 0 {
        return SCALARS[dice.roll(SCALARS.len())].into();
    }
    let of = |dice: &mut Dice, field| value(dice, field);
    let text = match (key, style) {
        ("status" | "status_code", 0) => return of(dice, "$status"),
        ("status" | "status_code", _) => of(dice, "$status"),
        ("host" | "server_name" | "http_host", _) => of(dice, "$host"),
        ("remote_addr" | "client_ip", _) => of(dice, "$remote_addr"),
        ("upstream_addr" | "upstream", _) => of(dice, "$upstream_addr"),
        ("time_local", _) | ("timestamp" | "time", 0) => of(dice, "$time_local"),
        ("time_iso8601" | "@timestamp", _) | ("timestamp" | "time", 1) => of(dice, "$time_iso8601"),
        ("msec" | "ts" | "time", 2) => return of(dice, "$msec"),
        ("msec" | "ts" | "time", _) => of(dice, "$msec"),
        ("http_user_agent", _) => of(dice, "$http_user_agent"),
        ("n", 0) => b"a\tb".to_vec(),
        ("n", 1) => return br#"{"host":"inner","status":502}"#.to_vec(),
        ("n", 2) => return br#"["x", 1, {}]"#.to_vec(),
        _ => return of(dice, "$request_time"),
    };
    let text =
        String::from_utf8_lossy(&text).replace(['"', '\\'], if style == 3 { "\\\\" } else { "" });
    format!("\"{text}\"").into_bytes()
}

/// Lines of JSON with the same keys in the same order, mostly.
fn made_up_json(dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut keys = vec!["status"];
    for _ in 0..dice.roll(9) {
        let key = dice.of(&KEYS);
        if !keys.contains(&key) || dice.roll(8) == 0 {
            keys.insert(dice.roll(keys.len() + 1), key);
        }
    }
    let styles: Vec<usize> = keys.iter().map(|_| dice.roll(5)).collect();
    let comma = dice.of(&[",", ",", ", ", " ,\t"]);
    let line = |dice: &mut Dice| {
        let mut line = b"{".to_vec();
        for (at, key) in keys.iter().enumerate() {
            line.extend(if at > 0 { comma } else { "" }.bytes());
            line.extend(format!("\"{key}\":").bytes());
            line.extend(json_value(dice, key, styles[at]));
        }
        line.push(b'}');
        damaged(dice, line)
    };
    (0..30).map(|_| line(dice)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 500 }))]

    #[test]
    fn a_plain_line_of_any_format_is_what_the_parser_says(seed: u64) {
        let mut dice = Dice(seed);
        let (format, lines) = made_up(&mut dice);
        check(&Parser::for_format(&format, &[]), &lines, dice.roll(600), &format);
    }

    #[test]
    fn a_plain_line_with_a_wall_clock_is_what_the_parser_says(seed: u64) {
        let mut dice = Dice(seed);
        let format = dice.of(&["haproxy", "auto", "%h %{%d/%b/%Y:%H:%M:%S}t %>s %{Host}i"]);
        let lines: Vec<Vec<u8>> = (0..20).map(|_| wall_line(&mut dice, format)).collect();
        check(&with_zone(format), &lines, dice.roll(600), format);
    }

    #[test]
    fn a_plain_line_of_json_is_what_the_parser_says(seed: u64) {
        let mut dice = Dice(seed);
        let lines = made_up_json(&mut dice);
        let format = dice.of(&["json", "auto"]);
        check(&Parser::for_format(format, &[]), &lines, dice.roll(600), format);
    }

    #[test]
    fn a_plain_line_with_pairs_is_what_the_parser_says(seed: u64) {
        let mut dice = Dice(seed);
        let lines = made_up_pairs(&mut dice);
        let parser = if dice.roll(2) == 0 { clf() } else { Parser::for_format("auto", &[]) };
        check(&parser, &lines, dice.roll(600), "pairs");
    }

    #[test]
    fn a_plain_line_of_a_known_format_is_what_the_parser_says(seed: u64) {
        let mut dice = Dice(seed);
        let (format, parts) = BUILT_IN[dice.roll(BUILT_IN.len())];
        let lines: Vec<Vec<u8>> = (0..20)
            .map(|_| {
                let tail = dice.of(&["\"", "\"", "\" \"more\"", "\" rt=0.1", ""]);
                line_of(&mut dice, &[parts, &[tail]].concat())
            })
            .collect();
        check(&Parser::for_format(format, &[]), &lines, dice.roll(600), format);
    }
}

#[test]
fn made_up_lines_are_plain_often_enough_to_mean_something() {
    let (mut n, mut n_plain, mut formats) = (0, 0, 0);
    for seed in 0..1000 {
        let mut dice = Dice(seed);
        let (format, lines) = made_up(&mut dice);
        let plain = check(&Parser::for_format(&format, &[]), &lines, 0, &format);
        n += lines.len();
        n_plain += plain;
        formats += usize::from(plain > 0);
    }
    assert!(n_plain * 10 > n && formats > 200, "{n_plain} of {n} in {formats} of 1000 formats");
    let walls = |seed: u64| {
        let lines: Vec<_> =
            (0..20_u64).map(|n| wall_line(&mut Dice(seed * 20 + n), "haproxy")).collect();
        check(&with_zone("haproxy"), &lines, 0, "haproxy")
    };
    let n: usize = (0..200).map(walls).sum();
    assert!(n > 200, "{n} of 4000");
    let free = "$remote_addr [$time_local] $status $http_user_agent $host $request_time";
    let line = b"::1 [20/Nov/2026:12:00:00 +0000] 200 curl 7 200 a.example 0.1".to_vec();
    assert_eq!(check(&Parser::for_format(free, &[]), &[line], 0, free), 1);
    let json =
        |seed| check(&Parser::for_format("json", &[]), &made_up_json(&mut Dice(seed)), 0, "json");
    let pairs = |seed| check(&clf(), &made_up_pairs(&mut Dice(seed)), 0, "pairs");
    let n: usize = (0..300).map(pairs).sum();
    assert!(n > 2000, "{n} of 9000");
    let n_plain: Vec<usize> = (0..1000).map(json).filter(|n| *n > 0).collect();
    let n: usize = n_plain.iter().sum();
    assert!(n > 3000 && n_plain.len() > 400, "{n} in {} of 1000 forms", n_plain.len());
}

fn combined(host: &str, second: usize, status: &str) -> Vec<u8> {
    format!("{host}198.51.100.7 - - [20/Nov/2026:12:00:{second:02} +0000] \"GET /a HTTP/1.1\" {status} 5 \"-\" \"curl/8.5.0\"").into_bytes()
}

#[test]
fn good_lines_are_plain() {
    let lines: Vec<_> = (0..300).map(|n| combined("", n % 60, "200")).collect();
    for format in ["combined", "auto"] {
        assert_eq!(check(&Parser::for_format(format, &[&lines[0]]), &lines, 5000, format), 300);
    }
    let lines: Vec<_> = (0..300).map(|n| combined("a.example:443 ", n % 60, "404")).collect();
    for format in ["vhost_combined", "auto"] {
        assert_eq!(check(&Parser::for_format(format, &[&lines[0]]), &lines, 0, format), 300);
    }
}

#[test]
fn lines_that_need_a_second_look_are_not_plain() {
    let upstream = |addr: &str| [combined("", 1, "200"), format!(" {addr}").into_bytes()].concat();
    let with_upstream = format!("{} $upstream_addr", crate::logs::parse::log_format::COMBINED);
    for (format, line, plain) in [
        ("combined", combined("", 1, "500"), true),
        ("combined", combined("", 1, "502"), false),
        ("combined", combined("", 1, "503"), false),
        ("combined", combined("", 1, "504"), false),
        ("combined", combined("", 61, "200"), false),
        ("combined", combined("", 1, "099"), false),
        ("combined", combined("", 1, "600"), false),
        ("combined", combined("\"", 1, "200"), false),
        ("combined", [combined("", 1, "200"), b"\r".to_vec()].concat(), true),
        ("combined", [combined("", 1, "200"), b"x".to_vec()].concat(), false),
        ("combined", combined("", 1, "200")[..80].to_vec(), false),
        (&with_upstream, upstream("10.0.0.1:80"), true),
        (&with_upstream, upstream("-"), true),
        (&with_upstream, upstream("10.0.0.1:80, 10.0.0.2:80"), false),
        (&with_upstream, upstream("a : b"), false),
        ("$host|$status", b"a.example|200".to_vec(), true),
        ("$host|$status", b"a.exa\"ple|200".to_vec(), false),
        ("$host [$time_local] $status", b"a [20/Nov/2026:12:00:00] 200".to_vec(), false),
        ("%h %t %>s %D", b"::1 [20/Nov/2026:12:00:00 +0000] 200 1500000".to_vec(), true),
        ("%h %t %>s %D", b"::1 [20/Nov/2026:12:00:00 +0000] 200 -".to_vec(), false),
    ] {
        let n = check(&Parser::for_format(format, &[]), std::slice::from_ref(&line), 0, format);
        assert_eq!(n == 1, plain, "{format}: {}", lossy(&line));
    }
}

#[test]
fn a_line_may_lie_anywhere_in_its_chunk() {
    for before in 0..130 {
        for after in [0, 1, 31, 32, 33, 63, 64, 65] {
            let lines = [vec![b'x'; before], combined("", 7, "200"), vec![b'y'; after]];
            assert_eq!(check(&Parser::for_format("combined", &[]), &lines, 0, "combined"), 1);
        }
    }
}

#[test]
fn the_form_of_pairs_is_learned_and_says_the_host() {
    let line = |n: usize| {
        let line = lossy(&combined("", n % 60, "200"));
        let tail = format!("rt=0.{n} us=\"200\" host=www.{n}.example upstream=10.0.0.{n}:80");
        format!("{line} {tail}").into_bytes()
    };
    let lines: Vec<_> = (0..200).map(line).collect();
    assert_eq!(check(&Parser::for_format("auto", &[&lines[0]]), &lines, 3000, "pairs"), 200);
    let mut parser = clf();
    parser.scan(&[&line(1)[..], b"\n"].concat(), &mut Story::default());
    let quick = parser.quick();
    assert_eq!(quick.shapes.len(), quick.n_given + 1, "the kernel has learned a form");
}

#[test]
fn long_lines_and_marks_in_plenty_cost_no_neighbour() {
    let quotes = vec![b'"'; 20_000];
    let long = vec![b'z'; LINE_BYTES_MAX + 1];
    let huge_agent = [combined("", 9, "200"), vec![b'u'; 9000], b"\"".to_vec()].concat();
    let good = combined("", 8, "200");
    let lines = [&good, &quotes, &good, &long, &good, &huge_agent, &good, &vec![], &good];
    let lines: Vec<Vec<u8>> = lines.into_iter().cloned().collect();
    assert_eq!(check(&Parser::for_format("combined", &[]), &lines, 3000, "combined"), 5);
    let mut story = Story::default();
    Parser::for_format("combined", &[]).scan(b"no newline", &mut story);
    assert!(story.lines.is_empty(), "a chunk holds whole lines");
}

#[test]
fn real_lines_are_counted_alike_by_chunk_and_line_by_line() {
    let Ok(corpus) = std::env::var("GATEWATCH_CORPUS") else {
        eprintln!("NOT RUN: GATEWATCH_CORPUS is not set, no real lines were read");
        return;
    };
    let (mut n, mut n_plain) = (0, 0);
    for folder in
        ["nginx/access", "nginx/json", "nginx/lab", "nginx/npm", "apache/access", "apache/lab"]
    {
        for entry in std::fs::read_dir(std::path::Path::new(&corpus).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let text = std::fs::read(&path).unwrap();
            let lines: Vec<Vec<u8>> =
                text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            for format in ["auto", "combined", "json", "vhost_combined"] {
                let context = format!("{} as {format}", path.display());
                n_plain += check(&Parser::for_format(format, &[]), &lines, 9000, &context);
            }
            n += lines.len();
        }
    }
    assert!(n_plain * 2 > n, "{n_plain} of {n}");
}

#[test]
fn both_kernels_are_there() {
    let mut parser = Parser::for_format("combined", &[]);
    let fast = cfg!(target_arch = "x86_64") && Kernel::detect() == Kernel::Avx2;
    eprintln!("vector kernel tested: {fast}");
    parser.use_portable();
    let mut story = Story::default();
    parser.scan(&[combined("", 8, "200"), b"\n".to_vec()].concat(), &mut story);
    assert_eq!(story.n_plain(), 1);
}
