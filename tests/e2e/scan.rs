//! `gatewatch-agent scan`: what failed in logs that are already there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use harness::{Nginx, Output, Root, Vhost, eventually, get, program};
use serde_json::Value;

use crate::farm::LIMIT;

/// 2026-11-20T12:00:00Z
const NOON: i64 = 1_795_176_000;

fn scan(words: &[&str], files: &[&Path]) -> Output {
    Output::of(Command::new(program("gatewatch-agent")).arg("scan").args(words).args(files))
}

/// Rows by site, and the last line.
struct Found {
    rows: Vec<Value>,
    last: Value,
}

impl Found {
    fn of(words: &[&str], files: &[&Path]) -> Self {
        let words: Vec<_> = ["--json", "--timezone", "UTC"].iter().chain(words).copied().collect();
        Self::parse(&scan(&words, files).good().expect("every file can be read"))
    }

    fn parse(stdout: &str) -> Self {
        let mut rows: Vec<Value> =
            stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        let last = rows.pop().expect("the total comes last");
        assert!(rows.iter().all(|row| row["site"].is_string()), "{stdout}");
        Self { rows, last }
    }

    fn row(&self, site: &str) -> &Value {
        let row = self.rows.iter().find(|row| row["site"] == site);
        row.unwrap_or_else(|| panic!("no {site} in {:?}", self.rows))
    }

    /// What does not depend on the names of the files.
    fn counts(&self) -> (&[Value], [&Value; 3]) {
        (&self.rows, [&self.last["total"], &self.last["n_lines"], &self.last["n_rejected"]])
    }
}

/// One line of nginx's `combined` with the host in front.
fn line(host: &str, second: i64, status: u16) -> String {
    let at = jiff::Timestamp::from_second(second).expect("it is in range");
    format!(
        "{host}:80 203.0.113.{} - - [{}] \"GET /page/{second} HTTP/1.1\" {status} 157 \"-\" \"Mozilla/5.0\"\n",
        second % 250 + 1,
        at.strftime("%d/%b/%Y:%H:%M:%S +0000"),
    )
}

fn error_line(host: &str, second: i64, what: &str, upstream: &str) -> String {
    let at = jiff::Timestamp::from_second(second).expect("it is in range");
    format!(
        "{} [error] 7#7: *{second} {what}, client: 203.0.113.9, server: {host}, request: \
         \"GET /x HTTP/1.1\", upstream: \"{upstream}\", host: \"{host}\"\n",
        at.strftime("%Y/%m/%d %H:%M:%S"),
    )
}

/// Two sites over 10 minutes; `a.example` fails for one of them.
fn two_sites() -> String {
    let requests = (0..600).flat_map(|s| {
        let status = if (60..120).contains(&s) { 502 } else { 200 };
        [line("a.example", NOON + s, status), line("b.example", NOON + s, 200)]
    });
    requests.collect()
}

fn write(root: &Root, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    fs::write(&path, bytes).expect("the directory is writable");
    path
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory is writable");
    encoder.finish().expect("memory is writable")
}

#[test]
fn plain_gzip_zstd_and_standard_input_say_the_same() {
    let root = Root::new();
    let text = two_sites();
    let (first, second) = text.as_bytes().split_at(text.len() / 3);
    let cut = second.iter().position(|b| *b == b'\n').expect("lines end") + 1;
    let (first, second) = (&text.as_bytes()[..first.len() + cut], &second[cut..]);
    let plain = Found::of(&[], &[&write(&root, "all.log", text.as_bytes())]);
    assert_eq!(plain.last["n_lines"], 1200);
    assert_eq!(plain.last["total"]["n"], 1200);
    assert_eq!(plain.last["total"]["n_502"], 60);
    let a = plain.row("a.example");
    assert_eq!((&a["n"], &a["n_502"]), (&600.into(), &60.into()));
    assert_eq!(a["first_at"], "2026-11-20T12:00:00.000Z");
    assert_eq!(a["last_at"], "2026-11-20T12:09:59.000Z");
    assert_eq!(a["first_error_at"], "2026-11-20T12:01:00.000Z");
    assert_eq!(a["last_error_at"], "2026-11-20T12:01:59.000Z");
    assert_eq!(plain.rows[0]["site"], "a.example", "the worst comes first");
    assert_eq!(plain.row("b.example")["first_error_at"], Value::Null);

    let portable = Found::of(&["--portable"], &[&root.join("all.log")]);
    assert_eq!(portable.counts(), plain.counts(), "with and without vector instructions");
    let two_members = [gz(first), gz(second)].concat();
    let zst = zstd::encode_all(second, 3).expect("memory to memory");
    for parts in [
        vec![write(&root, "all.log.gz", &gz(text.as_bytes()))],
        // A name tells nothing.
        vec![write(&root, "members.log", &two_members)],
        vec![write(&root, "one.log.1", first), write(&root, "two.log.gz", &gz(second))],
        vec![write(&root, "three.log.zst", &zst), write(&root, "four.log.gz", &gz(first))],
    ] {
        let parts: Vec<&Path> = parts.iter().map(PathBuf::as_path).collect();
        assert_eq!(Found::of(&[], &parts).counts(), plain.counts(), "{parts:?}");
    }
    for bytes in [text.clone().into_bytes(), gz(text.as_bytes())] {
        let mut command = Command::new(program("gatewatch-agent"));
        command.args(["scan", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        let feed = std::thread::spawn(move || stdin.write_all(&bytes));
        let done = child.wait_with_output().expect("it ends");
        feed.join().expect("no panic").expect("it reads all of it");
        let found = Found::parse(&String::from_utf8(done.stdout).expect("JSON is UTF-8"));
        assert_eq!(found.counts(), plain.counts());
    }
}

#[test]
fn the_json_has_the_shape_of_the_contract() {
    let root = Root::new();
    let log = write(&root, "all.log", two_sites().as_bytes());
    let errors: String = (60..90)
        .map(|s| error_line("a.example", NOON + s, REFUSED, "http://10.0.0.7:80/x"))
        .collect();
    let errors = write(&root, "error.log", errors.as_bytes());
    let found = Found::of(&[], &[&log, &errors]);
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let want = |words: &str| words.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let counts = "n n_502 n_503 n_504 n_5xx_app n_503_app n_499 n_retried n_crawler n_timeless \
                  n_error_lines first_at last_at first_error_at last_error_at signals upstreams";
    assert_eq!(keys(&found.rows[0]), want(&format!("site {counts}")));
    assert_eq!(keys(&found.last["total"]), want(&format!("n_sites {counts}")));
    let last = "total n_lines n_rejected rejected n_bytes n_outside n_other since until rule_503 \
                n_explanations_dropped files";
    assert_eq!(keys(&found.last), want(last));
    let file = "path kind format n_bytes n_lines n_rejected rejected n_outside n_error_log_lines \
                problem note";
    assert_eq!(keys(&found.last["files"][0]), want(file));
    let a = found.row("a.example");
    assert_eq!(a["signals"], serde_json::json!({"connect_refused": 30}));
    assert_eq!(a["upstreams"], serde_json::json!({"10.0.0.7:80": 30}));
    assert_eq!(found.last["files"][1]["kind"], "error");
    assert_eq!(found.last["files"][1]["format"], "nginx_error");
}

const REFUSED: &str = "connect() failed (111: Connection refused) while connecting to upstream";

#[test]
fn since_and_until_count_only_what_lies_between() {
    let root = Root::new();
    let log = write(&root, "all.log", two_sites().as_bytes());
    for (words, n, n_502) in [
        (&["--since", "2026-11-20T12:01:30Z"][..], 1020, 30),
        (&["--until", "2026-11-20 12:01"], 120, 0),
        (&["--since", "20/Nov/2026:12:01:00 +0000", "--until", "2026-11-20T12:01:01Z"], 2, 1),
        (&["--since", "2026-11-20T13:01:00+01:00", "--until", "2026-11-20 12:02"], 120, 60),
        (&["--since", "2026-11-21"], 0, 0),
    ] {
        let found = Found::of(words, &[&log]);
        assert_eq!(found.last["total"]["n"], n, "{words:?}");
        assert_eq!(found.last["total"]["n_502"], n_502, "{words:?}");
        assert_eq!(found.last["n_outside"], 1200 - n, "{words:?}");
        assert_eq!(found.last["n_lines"], 1200, "{words:?}");
    }
    // A rule needs no database of zones.
    let berlin = ["--json", "--timezone", "CET-1", "--since", "2026-11-20 13:09"];
    let found = Found::parse(&scan(&berlin, &[&log]).good().expect("scanned"));
    assert_eq!(found.last["total"]["n"], 120);
}

#[test]
fn an_error_log_explains_503s_whatever_the_order_of_the_files() {
    let root = Root::new();
    let text: String = (0..100)
        .map(|s| line("a.example", NOON + s, 503))
        .chain((0..100).map(|s| line("b.example", NOON + s, 503)))
        .collect();
    let log = write(&root, "access.log", text.as_bytes());
    let alone = Found::of(&[], &[&log]);
    assert_eq!(alone.row("a.example")["n_503"], 0);
    assert_eq!(alone.row("a.example")["n_503_app"], 100);
    assert_eq!(alone.row("a.example")["n_5xx_app"], 100);
    assert_eq!(alone.last["rule_503"], "line");

    // The access lines tell no duration, so an error line may come 70 s after their time.
    let second = NOON + 75;
    let text = error_line("a.example", second, REFUSED, "http://10.0.0.7:80/x");
    let errors = write(&root, "error.log", text.as_bytes());
    for files in [[&*log, &*errors], [&*errors, &*log]] {
        let found = Found::of(&[], &files);
        let a = found.row("a.example");
        assert_eq!((&a["n_503"], &a["n_5xx_app"]), (&80.into(), &20.into()), "{a}");
        assert_eq!(a["first_error_at"], "2026-11-20T12:00:05.000Z");
        assert_eq!(a["last_error_at"], "2026-11-20T12:01:24.000Z");
        assert_eq!(found.row("b.example")["n_503"], 0, "the line is of another site");
        assert_eq!(found.last["rule_503"], "line_or_error_log");
    }
}

#[test]
fn a_real_nginx_without_its_pool_is_told_with_cause_and_upstream() {
    let root = Root::new();
    let nginx = Nginx::start(&root, &Vhost::many("www", 2));
    let (site, other) = ("www01.test", "www02.test");
    for _ in 0..5 {
        assert_eq!(get(nginx.address(), site, "/"), 502);
        assert_eq!(get(nginx.address(), site, "/static"), 200);
        assert_eq!(get(nginx.address(), other, "/planned"), 503);
    }
    let logs = root.join("var/log/nginx");
    let files = [site, other].map(|site| logs.join(format!("{site}.access.log")));
    let errors = logs.join("error.log");
    let found = eventually("nginx has written its logs", LIMIT, || {
        let words = ["scan", "--json"];
        let done = Output::of(
            Command::new(program("gatewatch-agent")).args(words).args(&files).arg(&errors),
        );
        let found = Found::parse(&done.good()?);
        if found.last["total"]["n"] == 15 { Ok(found) } else { Err(found.last.to_string()) }
    });
    let row = found.row(site);
    assert_eq!((&row["n"], &row["n_502"]), (&10.into(), &5.into()), "{row}");
    assert_eq!(row["signals"], serde_json::json!({"no_such_socket": 5}), "{row}");
    let upstreams = row["upstreams"].as_object().expect("an object");
    let (upstream, n) = upstreams.iter().next().expect("nginx names it");
    assert!(upstream.starts_with("unix:/"), "{row}");
    assert_eq!(n, 5);
    let row = found.row(other);
    assert_eq!((&row["n_503"], &row["n_503_app"]), (&0.into(), &5.into()), "it was planned: {row}");
}

#[test]
fn fifty_thousand_hosts_are_two_thousand_rows_and_other() {
    let root = Root::new();
    let hosts = || (0..50_000).map(|n| format!("h{n}.example"));
    let text: String = (0..2).flat_map(|s| hosts().map(move |h| line(&h, NOON + s, 502))).collect();
    let log = write(&root, "all.log", text.as_bytes());
    let found = Found::of(&[], &[&log]);
    assert_eq!(found.rows.len(), 2001);
    assert_eq!(found.row("other")["n_502"], 96_000);
    assert_eq!(found.row("h7.example")["n_502"], 2);
    assert_eq!(found.last["n_other"], 96_000);
    assert_eq!(found.last["total"]["n_502"], 100_000);
    let table = scan(&[], &[&log]).good().expect("scanned");
    assert!(table.contains("and 1,981 more sites: --top 0 shows all"), "{table}");
    assert!(table.contains("96,000 requests of hosts over the limit"), "{table}");
}

#[test]
fn what_a_stranger_wrote_never_steers_the_terminal() {
    let root = Root::new();
    let mut text = line("evil\u{9b}31m\u{202e}.example", NOON, 502).into_bytes();
    text.extend(line("\u{1b}[2J", NOON, 502).bytes());
    text.extend(b"\0\x1b[31m\xff\xfe binary\n");
    let log = write(&root, "all.log", &text);
    let errors = error_line("a.example", NOON, REFUSED, "http://\u{1b}]0;pwned\u{7}\u{9d}:80/x");
    let errors = write(&root, "er\u{1b}[31mror.log", errors.as_bytes());
    let missing = root.join("\u{1b}[31mmissing.log");
    for words in [&[][..], &["--json"]] {
        let done = scan(words, &[&log, &errors, &missing]);
        assert_eq!(done.code, 1, "{done:?}");
        for text in [&done.stdout, &done.stderr] {
            let steers = |c: &char| *c != '\n' && c.is_control() || *c == '\u{202e}';
            assert_eq!(text.chars().find(steers), None, "{text:?}");
        }
    }
    let found = Found::parse(&scan(&["--json"], &[&log, &errors, &missing]).stdout);
    assert_eq!(found.row("evil\u{9b}31m\u{202e}.example")["n_502"], 1, "JSON keeps what it says");
    assert_eq!(found.row("other")["n_502"], 1, "an escape sequence is no host");
    assert_eq!(found.last["n_rejected"], 1);
}

#[test]
fn damaged_missing_and_foreign_files_are_named_and_the_others_counted() {
    let root = Root::new();
    let text = two_sites();
    let good = write(&root, "good.log", text.as_bytes());
    let packed = gz(text.as_bytes());
    let cut = write(&root, "cut.log.gz", &packed[..packed.len() / 2]);
    let xz = write(&root, "old.log.xz", b"\xfd7zXZ\0\0\x04");
    let missing = root.join("missing.log");
    let files: [&Path; 6] = [&good, &cut, &xz, &missing, root.path(), &good];
    let done = scan(&["--json"], &files);
    assert_eq!(done.code, 1, "{done:?}");
    for part in [
        "cut.log.gz: counted only up to byte",
        "xz -dc FILE | gatewatch-agent scan -",
        "missing.log: there is no such file",
        "is a directory: name its logs",
        "good.log: is the same file as",
    ] {
        assert!(done.stderr.contains(part), "no {part} in {}", done.stderr);
    }
    let found = Found::parse(&done.stdout);
    let n = |at: usize| found.last["files"][at]["n_lines"].as_u64().expect("a number");
    assert_eq!((n(0), n(2), n(3), n(4), n(5)), (1200, 0, 0, 0, 0));
    assert!((200..1200).contains(&n(1)), "half of it can be read: {}", n(1));
    assert_eq!(found.last["n_lines"], 1200 + n(1));

    let twice = scan(&["--json"], &[&good, &good]);
    assert_eq!(twice.code, 0, "nothing is missing: {twice:?}");
    assert_eq!(scan(&[], &[]).code, 2);
    let wrong = scan(&["--since", "yesterday"], &[&good]);
    assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""));
    assert!(wrong.stderr.contains("2026-11-20T12:00:00Z"), "it says what is accepted: {wrong:?}");
}

#[test]
fn a_log_of_which_nothing_is_understood_does_not_read_as_a_sound_one() {
    let root = Root::new();
    let strange = write(&root, "strange.log", b"no request\nof anybody\n");
    let good = write(&root, "good.log", two_sites().as_bytes());
    let without_status = "$host $remote_addr - - [$time_local] \"$request\" $bogus";
    for (words, file) in [(vec![], &strange), (vec!["--format", without_status], &good)] {
        let done = scan(&[&words[..], &["--json"]].concat(), &[file]);
        assert!(done.stderr.contains("none of its lines is a request"), "{done:?}");
        let note = &Found::parse(&done.stdout).last["files"][0]["note"];
        assert!(note.as_str().is_some_and(|note| note.contains("--format")), "{note}");
    }
    let done = scan(&["--json"], &[&good]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

#[test]
fn lines_that_are_no_records_are_counted_by_their_reason() {
    let root = Root::new();
    let mut bytes = two_sites().into_bytes();
    bytes.extend(b"\n");
    bytes.extend(vec![b'x'; 1 << 20]);
    bytes.extend(b"\n\x7fELF\x02\x01\0\0\n");
    bytes.extend(line("a.example", NOON, 200).trim_end().bytes());
    let found = Found::of(&[], &[&write(&root, "all.log", &bytes)]);
    assert_eq!(found.last["n_lines"], 1204);
    assert_eq!(found.last["n_rejected"], 2);
    let reasons = serde_json::json!({"blank": 1, "malformed": 1, "too_long": 1});
    assert_eq!(found.last["rejected"], reasons);
    assert_eq!(found.last["total"]["n"], 1201, "the last line needs no newline");
    assert_eq!(found.last["n_bytes"], bytes.len());
}

#[test]
fn the_table_shows_the_worst_sites_first_and_the_files() {
    let root = Root::new();
    let text: String = (0..30)
        .flat_map(|n| (0..=n).map(move |s| line(&format!("s{n:02}.example"), NOON + s, 502)))
        .collect();
    let log = write(&root, "all.log", text.as_bytes());
    let table = scan(&["--top", "3", "--timezone", "UTC"], &[&log]).good().expect("scanned");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("SITE"), "{table}");
    for (at, site) in ["s29.example", "s28.example", "s27.example"].iter().enumerate() {
        assert!(lines[at + 1].starts_with(site), "{table}");
    }
    assert!(lines[1].contains("2026-11-20 12:00:00  2026-11-20 12:00:29"), "{table}");
    assert_eq!(lines[4], "and 27 more sites: --top 0 shows all");
    assert!(table.contains("Failed     465: 465 x 502"), "{table}");
    assert!(table.contains(&log.display().to_string()), "{table}");
    let all = scan(&["--top", "0"], &[&log]).good().expect("scanned");
    assert!(all.contains("s00.example") && !all.contains("more sites"), "{all}");
    let many: Vec<PathBuf> = (0..5).map(|n| write(&root, &format!("{n}.log"), b"")).collect();
    let bad = write(&root, "bad.log", b"this is no record\n");
    let many: Vec<&Path> = many.iter().chain([&bad]).map(PathBuf::as_path).collect();
    let few = scan(&["--top", "1"], &many).good().expect("scanned");
    assert!(few.contains("bad.log") && few.contains("and 5 more files"), "{few}");
}

#[test]
fn sites_are_named_by_the_file_where_the_lines_name_none() {
    let root = Root::new();
    let text: String =
        two_sites().lines().map(|l| l.split_once(' ').unwrap().1.to_owned() + "\n").collect();
    let log = write(&root, "shop.example.access.log.2.gz", &gz(text.as_bytes()));
    let found = Found::of(&[], &[&log]);
    assert_eq!(found.row("shop.example")["n"], 1200);
    let found =
        Found::of(&["--site", "mine"], &[&log, &write(&root, "b.log", two_sites().as_bytes())]);
    assert_eq!(found.rows.len(), 1);
    assert_eq!(found.row("mine")["n"], 2400);
    let own = "$remote_addr|$status|$host|$time_iso8601";
    let text = "192.0.2.1|502|own.example|2026-11-20T12:00:00+00:00\n";
    let found = Found::of(&["--format", own], &[&write(&root, "own.log", text.as_bytes())]);
    assert_eq!(found.row("own.example")["n_502"], 1);
}

#[test]
fn pipes_streams_of_containers_and_logs_of_workers_are_read_too() {
    let root = Root::new();
    // What `docker logs` gives: requests and errors in one stream.
    let mut stream =
        "2026/11/20 11:59:00 [notice] 1#1: using the \"epoll\" event method\n".to_owned();
    for s in 0..50 {
        stream += &error_line("a.example", NOON + s, REFUSED, "http://10.0.0.7:80/x");
        stream += &line("a.example", NOON + s, 502);
    }
    let stream = write(&root, "container.log", stream.as_bytes());
    let workers = "[20-Nov-2026 12:00:01] WARNING: [pool www] server reached pm.max_children \
                   setting (5), consider raising it\n";
    let workers = write(&root, "php-fpm.log", workers.as_bytes());
    let found = Found::of(&[], &[&stream, &workers]);
    assert_eq!(found.last["files"][0]["kind"], "mixed");
    assert_eq!(found.row("a.example")["n_502"], 50);
    assert_eq!(found.row("a.example")["signals"]["connect_refused"], 50);
    assert_eq!(found.last["total"]["signals"]["max_children"], 1);
    assert_eq!(found.last["n_rejected"], 0);

    let mut cat = Command::new("cat").arg(&stream).stdout(Stdio::piped()).spawn().expect("cat");
    let pipe = cat.stdout.take().expect("it is piped");
    let mut command = Command::new(program("gatewatch-agent"));
    command.args(["scan", "--json", "--timezone", "UTC"]).arg(&workers).arg("/dev/stdin");
    let done = Output::of(command.stdin(pipe));
    assert!(cat.wait().expect("it ends").success());
    let piped = Found::parse(&done.good().expect("a pipe is read once and whole"));
    assert_eq!(piped.counts(), found.counts());
}
