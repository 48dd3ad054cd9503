//! Checks what a program can check of the house style: layout, who may use what, words, packages.
//!
//! Each test lists every place that breaks its rule. Function length and banned calls are clippy's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longest file, in lines before its tests.
const FILE_LINES_MAX: usize = 600;

/// Packages and the only places that may name them: a directory ends in `/`.
const OWNERS: [(&str, &[&str]); 10] = [
    ("sysinfo", &["agent/src/probes/"]),
    ("inotify", &["agent/src/", "tests/benches/"]),
    (
        "tonic",
        &[
            "proto/",
            "agent/src/uplink.rs",
            "agent/src/uplink/",
            "agent/src/identity.rs",
            "agent/src/identity/",
            "collector/src/ingest/",
            "collector/src/lib.rs",
            "collector/examples/store_speed/",
        ],
    ),
    ("rusqlite", &["collector/src/store/", "collector/examples/store_speed/", "tests/"]),
    ("rusqlite_migration", &["collector/src/store/"]),
    ("axum", &["collector/src/web/", "collector/src/ingest/"]),
    (
        "clap",
        &[
            "agent/src/cli.rs",
            "agent/src/main.rs",
            "collector/src/cli.rs",
            "collector/src/cli/",
            "collector/src/main.rs",
            "tests/",
        ],
    ),
    ("augurs", &["collector/src/report/forecast.rs", "collector/src/report/forecast/"]),
    ("plotters", &["collector/src/notify/", "collector/src/report/render/"]),
    ("anyhow", &["agent/src/main.rs", "collector/src/main.rs", "tests/"]),
];

/// Modules without IO, clock, randomness, async, logging or globals.
const PURE: [&str; 13] = [
    "agent/src/window/",
    "agent/src/backoff.rs",
    "agent/src/logs/parse/",
    "collector/src/detect/",
    "collector/src/incident.rs",
    "collector/src/incident/",
    "collector/src/ingest/convert.rs",
    "collector/src/ingest/convert/",
    "collector/src/localize.rs",
    "collector/src/localize/",
    "collector/src/render.rs",
    "collector/src/report/",
    "collector/src/web/pages/",
];

/// What reads the store for a pure module beside it, or runs it.
const NOT_PURE: [&str; 4] = [
    "collector/src/report/gather.rs",
    "collector/src/report/gather/",
    "collector/src/report/mod.rs",
    "collector/src/report/schedule.rs",
];

/// What a pure module may not name.
const IMPURE: [&str; 15] = [
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "std::env",
    "std::thread",
    "std::process::",
    "tokio",
    "clock::",
    "SystemTime",
    "Instant::now",
    "tracing",
    "static mut",
    "thread_local!",
];

/// Words that mean unfinished work; the tidy test itself must be able to name them.
const UNFINISHED: [&str; 6] =
    ["TO\u{44}O", "FIX\u{4d}E", "XX\u{58}", "todo\u{21}", "unimplemented\u{21}", "dbg\u{21}"];

/// Home directories of somebody's machine; written so that this file does not contain them.
const MACHINE_PATHS: [&str; 2] = ["/hom\u{65}/", "/root/.carg\u{6f}"];

const TOP_LEVEL: &str = ".cargo .ci .git .github .gitignore agent ARCHITECTURE.md Cargo.lock Cargo.toml \
    CHANGELOG.md clippy.toml collector deploy docs LICENSE proto README.md rustfmt.toml tests";

const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "Unlicense",
    "CDLA-Permissive-2.0",
    "MIT-0",
];

/// Build systems and C libraries that users would have to have.
const BANNED: &str = "openssl openssl-sys aws-lc-rs aws-lc-sys aws-lc-fips-sys native-tls cmake \
                      protoc-bin-vendored bindgen";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").to_owned()
}

/// Every file of the repository as (path from the top, text); binary files are left out.
fn files() -> Vec<(String, String)> {
    let top = repository();
    let mut found = Vec::new();
    let mut left = vec![top.clone()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("the repository is readable") {
            let entry = entry.expect("the repository is readable");
            let path = entry.path();
            let kind = entry.file_type().expect("a listed file has a type");
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                left.push(path);
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                let relative = path.strip_prefix(&top).expect("the walk started there");
                found.push((relative.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(String, String)> {
    let files: Vec<_> = files().into_iter().filter(|(path, _)| is_a(path, "rs")).collect();
    assert!(files.len() > 20, "the repository has Rust files");
    files
}

/// The code of a file: without its tests, comments and the insides of string literals. Its tests begin
/// with a module in it; `mod tests;` is a line like others, because the code goes on below.
fn code(path: &str, text: &str) -> Vec<(usize, String)> {
    if path.ends_with("/tests.rs") || path.ends_with("_tests.rs") {
        return Vec::new();
    }
    let lines: Vec<&str> = text.lines().collect();
    let end = (0..lines.len()).find(|at| begins_tests(&lines[*at..])).unwrap_or(lines.len());
    let code = lines[..end].iter().enumerate();
    code.map(|(n, line)| (n + 1, without_words(line))).collect()
}

/// True where a module of tests begins that has its text here.
fn begins_tests(lines: &[&str]) -> bool {
    let mut item = lines.iter().skip(1).skip_while(|line| line.trim().starts_with("#["));
    lines.first().is_some_and(|line| line.trim() == "#[cfg(test)]")
        && item.next().is_some_and(|line| names(line, "mod") && line.trim_end().ends_with('{'))
}

/// A line without its comment and its string literals.
fn without_words(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => drop(chars.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

/// True when `line` names the crate or path `word`, and not just a longer name that holds it.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let ends_open = word.ends_with(|c: char| !is_part(c));
        !before.is_some_and(is_part) && (ends_open || !after.is_some_and(is_part))
    })
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|p| if p.ends_with('/') { path.starts_with(p) } else { path == *p })
}

fn is_a(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == extension)
}

/// Fails with every line of `broken`.
fn none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let broken: Vec<_> = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path)
        .collect();
    none("must start with `//!` and its purpose", &broken);
}

#[test]
fn no_file_is_longer_than_600_lines_before_its_tests() {
    let broken: Vec<_> = rust_files()
        .iter()
        .map(|(path, text)| (path, code(path, text).len()))
        .filter(|(_, n)| *n > FILE_LINES_MAX)
        .map(|(path, n)| format!("{path}: {n} lines"))
        .collect();
    none("must be split", &broken);
}

#[test]
fn each_package_has_one_owner() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (n, line) in code(&path, &text) {
            for (package, places) in OWNERS {
                if names(&line, &format!("{package}::")) && !is_in(&path, places) {
                    broken.push(format!("{path}:{n} uses {package}, which belongs to {places:?}"));
                }
            }
        }
    }
    none("packages outside their place", &broken);
}

#[test]
fn pure_modules_name_nothing_impure() {
    let mut broken = Vec::new();
    let mut n_pure = 0;
    for (path, text) in rust_files() {
        let is_pure = is_in(&path, &PURE) && !is_in(&path, &NOT_PURE);
        if !is_pure && !path.ends_with("/render.rs") {
            continue;
        }
        n_pure += 1;
        for (n, line) in code(&path, &text) {
            for word in IMPURE {
                if names(&line, word) {
                    broken.push(format!("{path}:{n} names {word}"));
                }
            }
        }
    }
    assert!(n_pure >= 2, "the pure modules are where STYLE says");
    none("pure modules take time, limits and seeds as arguments", &broken);
}

/// The only file of the agent that starts a program: `journalctl`, with fixed arguments.
const STARTS_PROGRAMS: &str = "agent/src/logs/kernel/journal.rs";

/// Ways to open a port. A `UnixListener` is none.
const LISTENS: [&str; 8] = [
    "TcpListener",
    "TcpSocket",
    "UdpSocket::bind",
    "net::listen",
    "net::bind",
    "rustix::net::*",
    "socket2",
    "serve_with_incoming",
];

/// Everything is stored in UTC: the zone of the machine is only for the hours in which people are paged.
#[test]
fn the_collector_knows_the_local_zone_in_one_place() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        let places = ["collector/src/notify/hours.rs"];
        if !path.starts_with("collector/src/") && !path.starts_with("proto/")
            || is_in(&path, &places)
        {
            continue;
        }
        for (number, line) in code(&path, &text) {
            for word in ["TimeZone::system", "try_system", "Zoned::now"] {
                if line.contains(word) {
                    broken.push(format!("{path}:{number}: {word}"));
                }
            }
        }
    }
    none("store and show times in UTC", &broken);
}

#[test]
fn the_agent_listens_on_no_port_and_starts_one_program_alone() {
    let is_test = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        path.contains("/tests/") || matches!(name, "tests.rs" | "fake_collector.rs" | "lies.rs")
    };
    let mut broken = Vec::new();
    let mut n_starts = 0;
    for (path, text) in rust_files() {
        if !path.starts_with("agent/src/") || is_test(&path) {
            continue;
        }
        for (n, line) in code(&path, &text) {
            let starts = ["process::Command", "Command::new", "posix_spawn", "execve"];
            if starts.iter().any(|word| names(&line, word)) {
                n_starts += 1;
                if path != STARTS_PROGRAMS {
                    broken.push(format!("{path}:{n} starts a program"));
                }
            }
            for word in LISTENS {
                if names(&line, word) {
                    broken.push(format!("{path}:{n} names {word}"));
                }
            }
        }
    }
    assert!(n_starts > 0, "{STARTS_PROGRAMS} is where it was");
    none("the agent is a guest", &broken);
}

#[test]
fn stages_know_only_what_they_may() {
    let rules: [(&str, &[&str]); 6] = [
        ("agent/src/spool/", &["wire::v1", "prost"]),
        // What is pure of ingest, `convert` and `counts`, opens what the store keeps packed.
        (
            "collector/src/store/",
            &[
                "crate::detect",
                "crate::ingest::enroll",
                "crate::ingest::limits",
                "crate::ingest::live",
                "crate::ingest::port",
                "crate::ingest::service",
                "crate::ingest::session",
                "crate::ingest::status",
                "crate::ingest::tls",
                "crate::web",
                "wire::v1::Batch",
            ],
        ),
        ("collector/src/web/", &["crate::detect"]),
        (
            "collector/src/detect/",
            &["crate::store", "crate::ingest", "crate::web", "crate::notify"],
        ),
        ("agent/src/", &["gatewatch_collector"]),
        ("collector/src/", &["gatewatch_agent"]),
    ];
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (n, line) in code(&path, &text) {
            for (_, words) in rules.iter().filter(|(place, _)| path.starts_with(place)) {
                for word in words.iter().filter(|word| names(&line, word)) {
                    broken.push(format!("{path}:{n} names {word}"));
                }
            }
        }
    }
    none("a stage takes input only from its left", &broken);
}

#[test]
fn nothing_is_left_unfinished_or_bound_to_one_machine() {
    let mut broken = Vec::new();
    for (path, text) in files() {
        for (n, line) in text.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                broken.push(format!("{path}:{} has {word}", n + 1));
            }
            for word in MACHINE_PATHS.iter().filter(|word| line.contains(**word)) {
                // The log corpus beside the repository is CI's business alone.
                if path != ".ci/run" && path != "Cargo.lock" {
                    broken.push(format!("{path}:{} names {word}", n + 1));
                }
            }
        }
    }
    none("finish it, or open an issue; name no machine", &broken);
}

#[test]
fn the_top_level_holds_only_what_the_guide_lists() {
    let broken: Vec<_> = fs::read_dir(repository())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "target" && !TOP_LEVEL.split(' ').any(|known| known == name))
        .collect();
    none("belongs somewhere else", &broken);
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", ".ci/run"] {
        assert!(repository().join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn no_file_is_named_after_nothing() {
    let empty = ["utils.rs", "util.rs", "helpers.rs", "manager.rs", "misc.rs", "common.rs"];
    let named = |path: &String| empty.contains(&path.rsplit('/').next().unwrap_or(path));
    let broken: Vec<_> = rust_files().into_iter().map(|(path, _)| path).filter(named).collect();
    none("a name says what is inside", &broken);
}

#[test]
fn every_field_of_the_wire_says_what_it_means() {
    let mut broken = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| is_a(path, "proto")) {
        let mut above = "";
        let mut in_enum = false;
        for (n, line) in text.lines().enumerate() {
            let words = line.trim();
            in_enum = (in_enum || words.starts_with("enum ")) && words != "}";
            let statement = words.split("//").next().unwrap_or_default().trim_end();
            let is_field = statement.ends_with(';') && statement.contains(" = ");
            let in_oneof = words.split(' ').next().is_some_and(|t| {
                statement.to_lowercase().starts_with(&format!("{t} {t} =").to_lowercase())
            });
            let told = words.contains("//") || above.trim_start().starts_with("//");
            if is_field && !in_enum && !in_oneof && !told && !words.starts_with("syntax") {
                broken.push(format!("{path}:{} {statement}", n + 1));
            }
            above = line;
        }
    }
    none("a field says its meaning, unit and who sets it", &broken);
}

#[test]
fn migrations_are_numbered_without_gaps_and_all_are_applied() {
    let files = files();
    let mut numbers: Vec<_> = files
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("collector/src/store/migrations/"))
        .collect();
    numbers.sort_unstable();
    assert!(!numbers.is_empty(), "the store has migrations");
    let store: String = files
        .iter()
        .filter(|(path, _)| path.starts_with("collector/src/store/") && is_a(path, "rs"))
        .map(|(_, text)| text.as_str())
        .collect();
    for (i, name) in numbers.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", i + 1)), "{name} is not number {}", i + 1);
        assert!(store.contains(&format!("migrations/{name}")), "{name} is never applied");
    }
}

#[test]
fn the_shipped_configuration_shows_every_key() {
    for half in ["agent", "collector"] {
        let read = |path: String| {
            fs::read_to_string(repository().join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"))
        };
        let config = read(format!("{half}/src/config.rs"));
        let shipped = read(format!("deploy/config/{half}.toml"));
        let keys: BTreeSet<_> = code("config.rs", &config)
            .into_iter()
            .filter_map(|(_, line)| {
                let field = line.strip_prefix("    pub ")?;
                let (name, _) = field.split_once(": ")?;
                name.chars().all(|c| c.is_ascii_lowercase() || c == '_').then(|| name.to_owned())
            })
            .collect();
        assert!(keys.len() > 10, "the keys of {half} are found");
        let broken: Vec<_> = keys
            .into_iter()
            .filter(|key| {
                !shipped.contains(&format!("{key} =")) && !shipped.contains(&format!("{key}]"))
            })
            .collect();
        none(&format!("deploy/config/{half}.toml does not show"), &broken);
    }
}

/// `cargo metadata` of what is locked and built on this kind of machine.
fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let done = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &target])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("cargo prints JSON")
}

#[test]
fn packages_have_allowed_licences_and_need_nothing_but_a_c_compiler() {
    let metadata = metadata();
    // Only what is really built: an optional dependency nobody asks for stays in the lock file.
    let built: BTreeSet<_> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !built.contains(package["id"].as_str().unwrap()) {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or("none stated");
        if !is_allowed(licence) {
            broken.push(format!("{name}: licence {licence}"));
        }
        if BANNED.split(' ').any(|banned| banned == name) {
            broken.push(format!("{name}: banned"));
        }
    }
    none("packages", &broken);
}

#[test]
fn agent_and_collector_depend_on_the_contract_and_never_on_each_other() {
    let metadata = metadata();
    let needs = |name: &str| -> BTreeSet<String> {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|p| p["name"] == name).expect("a workspace member");
        let needs = package["dependencies"].as_array().unwrap().iter();
        needs
            .filter(|d| d["kind"] != "dev") // its own tests may use the harness
            .filter_map(|d| d["name"].as_str())
            .filter(|d| d.starts_with("gatewatch-"))
            .map(str::to_owned)
            .collect()
    };
    let contract = BTreeSet::from(["gatewatch-proto".to_owned()]);
    assert_eq!(needs("gatewatch-agent"), contract);
    assert_eq!(needs("gatewatch-collector"), contract);
    assert_eq!(needs("gatewatch-proto"), BTreeSet::new());
}

/// An SPDX expression whose every AND has an allowed OR.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // `A OR B AND C` in parentheses is always `(A OR B) AND C` among the packages used.
    plain.split(" AND ").all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn the_checks_see_what_they_look_for() {
    for (line, word, seen) in [
        ("use tokio::sync::mpsc;", "tokio", true),
        ("let tokio_like = 1;", "tokio", false),
        ("let now = clock::now();", "clock::", true),
        ("let o = oclock::now();", "clock::", false),
        ("say(\"tokio\"); // tokio", "tokio", false),
        ("rustix::net::listen(&socket, 8)?;", "net::listen", true),
        ("let s = UdpSocket::bind(any).await?;", "UdpSocket::bind", true),
        ("let s = TcpSocket::new_v4()?;", "TcpSocket", true),
    ] {
        assert_eq!(names(&without_words(line), word), seen, "{line}");
    }
    let begun =
        "#[cfg(test)]\nmod tests;\nuse tokio::sync;\n#[cfg(test)]\n#[expect(x)]\nmod more {\n}\n";
    let lines: Vec<usize> = code("store/seal.rs", begun).into_iter().map(|(n, _)| n).collect();
    assert_eq!(lines, [1, 2, 3], "tests elsewhere end no file, tests in it do");
    for (expression, allowed) in [
        ("MIT OR Apache-2.0", true),
        ("MIT/Apache-2.0", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("GPL-3.0", false),
        ("MIT AND GPL-3.0", false),
        ("none stated", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}
