//! Caddy: site addresses, snippets, imports, logs, and its JSON form.

use super::*;

const CADDYFILE: &str = r"{
	email admin@a.example
	log {
		output file /var/log/caddy/main.log
	}
}
(logged) {
	log {
		output file /var/log/caddy/{args[0]}.log {
			roll_size 10MiB
		}
		format json
	}
}
a.example, www.a.example {
	import logged a
	root * /srv/a
	php_fastcgi unix//run/php/php8.2-fpm.sock
	file_server
}
http://b.example:8080 {
	bind 127.0.0.1
	log
	handle /api/* {
		reverse_proxy {$API:127.0.0.1:3000} localhost:3001 {
			lb_policy first
		}
	}
}
*.c.example {
	@one host one.c.example
	handle @one {
		reverse_proxy 198.51.100.9
	}
	reverse_proxy :9000
	log {
		output stdout
	}
}
import sites/*
";

#[test]
fn sites_with_their_snippets_logs_and_backends() {
    let root = root(&[
        ("etc/caddy/Caddyfile", CADDYFILE),
        (
            "etc/caddy/sites/d",
            "d.example\nlog {\n output file \"/var/log/caddy/d.log\"\n}\nreverse_proxy 127.0.0.1:3009",
        ),
        ("etc/caddy/sites/e", "e.example {\n\trespond \"brace { in text }\"\n}\n"),
    ]);
    let found = discover(root.path());
    for (name, want) in [
        (
            "a.example",
            "www.a.example > /run/php/php8.2-fpm.sock | var/log/caddy/a.log=caddy | var/log/caddy/main.log",
        ),
        ("b.example", " > 127.0.0.1:3000 | var/log/caddy/main.log=caddy | var/log/caddy/main.log"),
        ("*.c.example", " > 127.0.0.1:9000 |  | var/log/caddy/main.log"),
        ("one.c.example", " > 198.51.100.9:80 |  | var/log/caddy/main.log"),
        ("e.example", " > - |  | var/log/caddy/main.log"),
    ] {
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    assert_eq!(site(&found, "a.example").php_version.as_deref(), Some("8.2"));
    assert!(found.unreadable.iter().any(|u| u.reason.contains("goes to no file")), "stdout");
    assert!(found.config_files.contains(&root.path().join("etc/caddy/sites")));
    assert_eq!(log(&found, "a.log").format, "caddy");
    assert!(found.services.contains(&"caddy.service".to_owned()));
}

#[test]
fn a_file_without_braces_is_one_site() {
    let root = root(&[(
        "etc/caddy/Caddyfile",
        "d.example\n\nlog {\n output file /var/log/d.log\n format transform \"{common_log}\"\n}\nreverse_proxy 127.0.0.1:3009\n",
    )]);
    let found = discover(root.path());
    assert_eq!(
        shown(root.path(), &found, "d.example"),
        " > 127.0.0.1:3009 | var/log/d.log=common | "
    );
}

#[test]
fn the_json_form_is_read_when_there_is_no_caddyfile() {
    let root = root(&[(
        "etc/caddy/caddy.json",
        r#"{"logging":{"logs":{"l0":{"writer":{"output":"file","filename":"/var/log/c.log"}}}},
        "apps":{"http":{"servers":{"srv0":{"listen":["tcp/:443"],"logs":{},"routes":[
        {"match":[{"host":["a.example","b.example"]}],"handle":[{"handler":"subroute","routes":[
        {"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:3000"}]}]}]}]}]}}}}}"#,
    )]);
    let found = discover(root.path());
    assert_eq!(
        shown(root.path(), &found, "a.example"),
        "b.example > 127.0.0.1:3000 | var/log/c.log=caddy | "
    );
}

#[test]
fn a_closed_home_is_told_only_where_caddy_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("root/.config/caddy");
    fs::create_dir_all(&home).unwrap();
    // What cannot be opened, whoever asks.
    std::os::unix::fs::symlink("autosave.json", home.join("autosave.json")).unwrap();
    let told = || discover(dir.path()).unreadable.len();
    assert_eq!(told(), 0);
    fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
    fs::write(dir.path().join("usr/bin/caddy"), "").unwrap();
    assert_eq!(told(), 1);
}
