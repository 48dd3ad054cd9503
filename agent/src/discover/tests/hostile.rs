//! Configurations that were made to harm: nothing hangs, nothing grows without end.

use std::time::Duration;

use super::*;
use crate::clock;

/// Far more than any of this takes, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs discovery and says how long it took.
fn timed(root: &Path) -> (Discovery, Duration) {
    let began = clock::instant();
    let found = discover(root);
    (found, clock::instant().saturating_duration_since(began))
}

const MAINS: [&str; 9] = [
    "etc/nginx/nginx.conf",
    "etc/apache2/apache2.conf",
    "etc/php-fpm.conf",
    "etc/haproxy/haproxy.cfg",
    "etc/caddy/Caddyfile",
    "etc/lighttpd/lighttpd.conf",
    "etc/varnish/default.vcl",
    "usr/local/lsws/conf/httpd_config.conf",
    "etc/traefik/traefik.yml",
];

#[test]
fn files_that_include_each_other_end() {
    let dir = root(&[]);
    fs::create_dir_all(dir.path().join("etc/loop")).unwrap();
    for n in 0..8 {
        let text = "include /etc/loop/*;\ninclude \"/etc/loop/*\"\nInclude /etc/loop/*\nimport /etc/loop/*\ninclude=/etc/loop/*\n";
        fs::write(dir.path().join(format!("etc/loop/{n}")), text).unwrap();
    }
    for main in MAINS {
        let path = dir.path().join(main);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, fs::read(dir.path().join("etc/loop/0")).unwrap()).unwrap();
    }
    let (_, took) = timed(dir.path());
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn pipes_devices_and_folders_are_not_opened() {
    let dir = root(&[
        (
            "etc/nginx/nginx.conf",
            "http { include /etc/nginx/x/*; server { server_name a.example; access_log /var/log/pipe; } }",
        ),
        ("etc/nginx/x/folder/file", ""),
        ("var/log/other", ""),
    ]);
    for pipe in ["etc/nginx/x/pipe", "var/log/pipe", "etc/php-fpm.conf"] {
        let path = dir.path().join(pipe);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600))
            .unwrap();
    }
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("etc/nginx/x/zero")).unwrap();
    let (found, took) = timed(dir.path());
    assert_eq!(names(&found), ["a.example"]);
    assert!(found.unreadable.iter().filter(|u| u.reason == "is no regular file").count() >= 3);
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn deep_and_huge_and_broken_texts_are_read_as_far_as_they_go() {
    let long = "x".repeat(1 << 20);
    let texts = [
        "a {\n".repeat(100_000),
        "( ".repeat(100_000),
        "<a>\n".repeat(100_000),
        "a = ( ".repeat(50_000),
        "}".repeat(100_000),
        format!("server_name {long};\nserver_name = \"{long}\"\n"),
        "\\\n".repeat(200_000),
        "\"".to_owned(),
        "`".to_owned(),
        "\u{0}\u{fffd}\u{e9}\u{1f600}{\u{e9}}".to_owned(),
        "Define A ${A}${A}\nServerName ${A}\n".repeat(100),
        "<Macro m $a>\nUse m $a$a\n</Macro>\nUse m x\n".to_owned(),
        "(a) {\nimport a\nimport a\n}\nimport a\n".to_owned(),
        "set $a $a$a;".repeat(1000),
        "a: &b [*b, *b]\n".repeat(1000),
        "backend a { .host = ".to_owned(),
        "/* {\" \"".to_owned(),
        "frontend a\nbind :1-99999999999\nuse_backend %[req.hdr(host),map(\nacl x hdr(host) -f\n"
            .to_owned(),
        "virtualHost a {\nvhRoot $VH_ROOT\ndocRoot $DOC_ROOT\n".to_owned(),
        "[a]\nlisten=\npm.max_children=99999999999\nrequest_terminate_timeout=s\n".to_owned(),
    ];
    for text in texts {
        let start: String = text.chars().take(40).collect();
        for reader in fuzzing::READERS {
            let began = clock::instant();
            drop(fuzzing::read(reader, text.as_bytes()));
            let took = clock::instant().saturating_duration_since(began);
            assert!(took < LIMIT, "{reader}: {took:?} for {start}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_read_too() {
    let dir = root(&[]);
    fs::create_dir_all(dir.path().join("etc/nginx")).unwrap();
    let text = b"http { server { server_name a.example \xff\xfe; access_log /var/log/\xe9.log; } }";
    fs::write(dir.path().join("etc/nginx/nginx.conf"), text).unwrap();
    assert_eq!(discover(dir.path()).sites[0].name, "a.example");
    for reader in fuzzing::READERS {
        for n in 0..2000_u32 {
            let bytes: Vec<u8> = (0..n % 97).map(|i| (n.wrapping_mul(i + 7) >> 3) as u8).collect();
            drop(fuzzing::read(reader, &bytes));
        }
    }
}

#[test]
fn a_site_without_any_name_gets_one() {
    for (reader, text) in [
        ("nginx", "http { server { server_name .; } server { server_name \"\" _; } }"),
        (
            "traefik",
            "accessLog:\n  filePath: /var/log/a.log\nhttp:\n  routers:\n    \"\":\n      service: app\n",
        ),
        (
            "traefik",
            "accessLog:\n  filePath: /var/log/a.log\nhttp:\n  routers:\n    :\n      service: app\n",
        ),
        ("apache", "<VirtualHost *:80>\nServerName .\n</VirtualHost>\n"),
        ("litespeed", "virtualHost {\n}\n"),
    ] {
        let found = fuzzing::read(reader, text.as_bytes());
        assert!(found.sites.iter().all(|site| !site.name.is_empty()), "{reader}: {found:?}");
    }
}
