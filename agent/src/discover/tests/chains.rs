//! Chains of servers on one machine: which log counts, and who answers in the end.

use super::*;

const VCL: &str = "backend default { .host = \"127.0.0.1\"; .port = \"8080\"; }";
const VARNISH: &str = "ExecStart=/usr/sbin/varnishd -a :6081 -f /etc/varnish/default.vcl\n";
const NGINX_8080: &str = "http { access_log /var/log/nginx/inner.log; server { listen 127.0.0.1:8080; server_name a.example; location / { fastcgi_pass unix:/run/php/a.sock; } } }";
const NGINX_FRONT: &str = "http { access_log /var/log/nginx/front.log; server { server_name a.example; location / { proxy_pass http://127.0.0.1:8080; } } }";
const APACHE_8080: &str = "Listen 8080\nCustomLog /var/log/apache2/inner.log combined\n<VirtualHost *:8080>\nServerName a.example\nProxyPass / fcgi://127.0.0.1:9000/\n</VirtualHost>\n";
const HAPROXY: &str = "global\nlog /dev/log local0\nfrontend web\nbind :80\nlog global\ndefault_backend b\nbackend b\n";

fn haproxy(port: u16, captures: bool) -> String {
    let capture = if captures { "capture request header Host len 64\n" } else { "" };
    let text = HAPROXY.replace("default_backend", &format!("{capture}default_backend"));
    format!("{text}server a 127.0.0.1:{port}\n")
}

/// Inner access logs, and who answers for a.example.
fn check(files: &[(&str, &str)], want_inner: &[&str], answers: &str) {
    let root = root(files);
    let found = discover(root.path());
    assert_eq!(inner(&found), want_inner, "{:?}", found.logs);
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some(answers), "{:?}", found.sites);
}

#[test]
fn the_first_log_that_names_its_site_counts() {
    let (blind, seeing) = (haproxy(8080, false), haproxy(8080, true));
    let to_varnish = haproxy(6081, true);
    let nginx = ("etc/nginx/nginx.conf", NGINX_8080);
    let log = ("var/log/haproxy.log", "");
    let vcl = ("etc/varnish/default.vcl", VCL);
    let varnish = ("lib/systemd/system/varnish.service", VARNISH);
    let cfg = "etc/haproxy/haproxy.cfg";
    check(&[(cfg, &seeing), log, nginx], &["inner.log"], "/run/php/a.sock");
    check(&[(cfg, &seeing), nginx], &["haproxy.log"], "/run/php/a.sock");
    check(&[(cfg, &blind), log, nginx], &["haproxy.log"], "/run/php/a.sock");
    check(&[(cfg, &to_varnish), log, vcl, varnish, nginx], &["inner.log"], "/run/php/a.sock");
    check(&[vcl, varnish, nginx], &[], "/run/php/a.sock");
    check(
        &[vcl, varnish, nginx, ("var/log/varnish/varnishncsa.log", "")],
        &["inner.log"],
        "/run/php/a.sock",
    );
}

#[test]
fn any_server_may_stand_before_any_other() {
    let apache = ("etc/apache2/apache2.conf", APACHE_8080);
    check(&[("etc/nginx/nginx.conf", NGINX_FRONT), apache], &["inner.log"], "127.0.0.1:9000");
    let caddy = "a.example {\nlog {\noutput file /var/log/caddy/front.log\n}\nreverse_proxy localhost:8080\n}\n";
    check(&[("etc/caddy/Caddyfile", caddy), apache], &["inner.log"], "127.0.0.1:9000");
    let lighttpd = "accesslog.filename = \"/var/log/front.log\"\n$HTTP[\"host\"] == \"a.example\" { proxy.server = (\"\" => ((\"host\" => \"127.0.0.1\", \"port\" => 8080))) }";
    check(&[("etc/lighttpd/lighttpd.conf", lighttpd), apache], &["inner.log"], "127.0.0.1:9000");
    let front = APACHE_8080
        .replace("8080", "80")
        .replace("inner", "front")
        .replace("fcgi://127.0.0.1:9000/", "http://127.0.0.1:8080/");
    let behind = ("etc/nginx/nginx.conf", NGINX_8080);
    check(&[("etc/apache2/apache2.conf", &front), behind], &["inner.log"], "/run/php/a.sock");
    let traefik = "accessLog: {filePath: /var/log/traefik.log, format: json}\nentryPoints: {web: {address: \":80\"}}\nproviders: {file: {filename: /etc/traefik/dyn.yml}}\n";
    let dynamic = "http:\n  routers:\n    a:\n      rule: Host(`a.example`)\n      service: s\n  services:\n    s:\n      loadBalancer:\n        servers:\n          - url: http://127.0.0.1:8080\n";
    check(
        &[("etc/traefik/traefik.yml", traefik), ("etc/traefik/dyn.yml", dynamic), behind],
        &["inner.log"],
        "/run/php/a.sock",
    );
}

#[test]
fn a_log_that_a_front_vhost_writes_too_is_not_inner() {
    let nginx = "http { access_log /var/log/nginx/all.log; server { server_name a.example; location / { proxy_pass http://127.0.0.1:8080; } } server { listen 8080; server_name a.example; } server { listen 8080; server_name b.example; } }";
    let root = root(&[("etc/nginx/nginx.conf", nginx)]);
    assert!(inner(&discover(root.path())).is_empty());
}

#[test]
fn a_front_whose_log_tells_no_sites_hides_none() {
    let nginx = "http { access_log /var/log/nginx/front.log; server { server_name a.example; location / { proxy_pass http://127.0.0.1:8080; } } server { server_name b.example; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let apache = "CustomLog /var/log/apache2/inner.log vhost_combined\n<VirtualHost *:8080>\nServerName a.example\n</VirtualHost>\n<VirtualHost *:8080>\nServerName b.example\n</VirtualHost>\n";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/apache2/apache2.conf", apache)]);
    let found = discover(root.path());
    assert!(inner(&found).is_empty(), "{:?}", found.logs);
    let note = found.unreadable.iter().find(|u| u.reason.contains("2 sites")).unwrap();
    assert!(note.reason.ends_with("a.example, b.example"), "{}", note.reason);
    assert!(note.fix.contains("log_format with_host '$host $remote_addr"), "{}", note.fix);
}

#[test]
fn one_site_has_one_name_whatever_order_its_vhosts_give() {
    let nginx = "http { server { listen 80; server_name a.example www.a.example; } server { listen 443 ssl; server_name www.a.example a.example; } server { listen 80; server_name b.example c.example; return 301 https://$host; } server { listen 443 ssl; server_name c.example; } }";
    let haproxy = HAPROXY.replace(
        "default_backend",
        "acl w hdr(host) -i www.a.example\nuse_backend b if w\ndefault_backend",
    ) + "server a 127.0.0.1:80\n";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/haproxy/haproxy.cfg", &haproxy)]);
    let found = discover(root.path());
    let want = ["a.example", "b.example", "c.example"];
    assert_eq!(names(&found), want, "a redirect for all is no site for each");
    assert_eq!(site(&found, "a.example").aliases, ["www.a.example"]);
}

#[test]
fn only_vhosts_behind_a_front_are_inner() {
    let nginx = "http { server { server_name a.example; access_log /l/a.log; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let apache = "<VirtualHost *:8080>\nServerName a.example\nCustomLog /var/log/apache2/a-inner.log combined\n</VirtualHost>\n<VirtualHost *:81>\nServerName b.example\nCustomLog /var/log/apache2/b.log combined\n</VirtualHost>\n<VirtualHost *:443>\nServerName a.example\nCustomLog /var/log/apache2/a-ssl.log combined\n</VirtualHost>\n";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/apache2/apache2.conf", apache)]);
    assert_eq!(inner(&discover(root.path())), ["a-inner.log"]);
}

#[test]
fn of_two_logs_of_one_vhost_one_counts() {
    let nginx = |body: &str| {
        format!(
            "http {{ log_format js escape=json '{{\"s\":$status}}'; log_format h '$host $status'; log_format bytes '$body_bytes_sent'; {body} }}"
        )
    };
    let own = |logs: &str| nginx(&format!("server {{ server_name a.example; {logs} }}"));
    for (text, want) in [
        (own("access_log /l/two.log; access_log /l/two.json js;"), &["two.log"][..]),
        (own("access_log /l/bytes.log bytes; access_log /l/two.log;"), &["two.log"]),
        (own("access_log /l/slow.log combined if=$slow; access_log /l/two.log;"), &["two.log"]),
        (
            own("access_log /l/a.log combined if=$a; access_log /l/b.log combined if=$b;"),
            &["a.log", "b.log"],
        ),
        (
            own(
                "access_log /l/a.log; location /api { access_log /l/api.log; access_log /l/api.json js; }",
            ),
            &["a.log", "api.log"],
        ),
        (
            own("access_log /l/a.log; access_log /l/b.log; location /api { access_log /l/b.log; }"),
            &["b.log"],
        ),
        (
            nginx(
                "server { server_name a.example; listen 80; access_log /l/a.log; } server { server_name a.example; listen 443 ssl; access_log /l/a-ssl.log; }",
            ),
            &["a.log", "a-ssl.log"],
        ),
        (
            nginx(
                "server { server_name a.example; access_log /l/all.log h; access_log /l/a.log; } server { server_name b.example; access_log /l/all.log h; }",
            ),
            &["all.log"],
        ),
    ] {
        let root = root(&[("etc/nginx/nginx.conf", &text)]);
        let found = discover(root.path());
        assert_eq!(counting(&found, "a.example"), want, "{text}");
    }
    let vhost = |logs: &str| {
        format!("Listen 80\n<VirtualHost *:80>\nServerName a.example\n{logs}</VirtualHost>\n")
    };
    for (text, want) in [
        (vhost("CustomLog /l/a.log combined\nCustomLog /l/a2.log common\n"), &["a.log"][..]),
        (
            vhost("CustomLog /l/a.log combined\n") + "GlobalLog /l/all.log vhost_combined\n",
            &["a.log"],
        ),
        (vhost("") + "GlobalLog /l/all.log vhost_combined\n", &["all.log"]),
        (
            vhost(
                "CustomLog /l/p.log combined env=proxied\nCustomLog /l/d.log combined env=!proxied\n",
            ),
            &["p.log", "d.log"],
        ),
        (
            vhost("CustomLog /l/b.log \"%I %O\"\nCustomLog /l/a.log combined expr=true\n"),
            &["b.log", "a.log"],
        ),
    ] {
        let root = root(&[("etc/httpd/conf/httpd.conf", &text)]);
        let found = discover(root.path());
        assert_eq!(counting(&found, "a.example"), want, "{text}");
    }
}

#[test]
fn a_log_of_all_vhosts_beside_some_own_ones_counts_the_others() {
    let text = "Listen 80\nGlobalLog /l/all.log vhost_combined\n<VirtualHost *:80>\nServerName a.example\nCustomLog /l/a.log combined\n</VirtualHost>\n<VirtualHost *:80>\nServerName b.example\n</VirtualHost>\n";
    let root = root(&[("etc/httpd/conf/httpd.conf", text)]);
    let found = discover(root.path());
    assert_eq!(counting(&found, "a.example"), ["a.log"]);
    assert_eq!(counting(&found, "b.example"), ["all.log"]);
    assert_eq!(log(&found, "all.log").inner_sites, ["a.example"]);
}

const APACHE_THREE: &str = "Listen 127.0.0.1:8080\n<VirtualHost 127.0.0.1:8080>\nServerName main.example\nCustomLog /var/log/apache2/main.log combined\n</VirtualHost>\n<VirtualHost 127.0.0.1:8080>\nServerName b.example\nCustomLog /var/log/apache2/b.log combined\n</VirtualHost>\n<VirtualHost 127.0.0.1:8080>\nServerName c.example\nCustomLog /var/log/apache2/c.log combined\n</VirtualHost>\n";

#[test]
fn the_default_server_leads_to_every_vhost_that_no_other_one_names() {
    let server = |listen: &str, name: &str, log: &str| {
        format!(
            "server {{ listen {listen}; server_name {name}; access_log {log}; location / {{ proxy_pass http://127.0.0.1:8080; }} }}"
        )
    };
    let hosts = "log_format h '$host $remote_addr [$time_local] $status';";
    let front = "/var/log/nginx/front.log h";
    for (servers, want) in [
        (server("80 default_server", "main.example", front), &["b.log", "c.log", "main.log"][..]),
        (server("80", "main.example", front), &["b.log", "c.log", "main.log"]),
        (
            server("80", "x.example", "off") + &server("80 default_server", "main.example", front),
            &["b.log", "c.log", "main.log"],
        ),
        (
            server("80 default_server", "main.example", front) + &server("80", "b.example", "off"),
            &["c.log", "main.log"],
        ),
        (server("80", "x.example", "off") + &server("80", "main.example", front), &["main.log"]),
    ] {
        let text = format!("http {{ {hosts} {servers} }}");
        let root =
            root(&[("etc/nginx/nginx.conf", &text), ("etc/apache2/apache2.conf", APACHE_THREE)]);
        let mut found = inner(&discover(root.path()));
        found.sort();
        assert_eq!(found, want, "{text}");
    }
}

#[test]
fn a_default_server_whose_log_names_no_host_hides_no_site_and_is_told() {
    let nginx = "http { access_log /var/log/nginx/front.log; server { listen 80 default_server; server_name main.example; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/apache2/apache2.conf", APACHE_THREE)]);
    let found = discover(root.path());
    assert_eq!(inner(&found), ["main.log"]);
    let note = found.unreadable.iter().find(|u| u.reason.contains("other sites pass")).unwrap();
    assert!(note.path.ends_with("front.log"), "{note:?}");
    assert!(note.fix.contains("log_format with_host '$host $remote_addr"), "{}", note.fix);
}

#[test]
fn a_wildcard_leads_to_the_vhosts_below_it() {
    let nginx = "http { log_format h '$host $status'; access_log /var/log/nginx/front.log h; server { server_name x.example; access_log off; } server { server_name wild.example *.wild.example; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let apache = "<VirtualHost *:8080>\nServerName other.example\nCustomLog /l/other.log combined\n</VirtualHost>\n<VirtualHost *:8080>\nServerName shop.wild.example\nCustomLog /l/shop.log combined\n</VirtualHost>\n";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/apache2/apache2.conf", apache)]);
    assert_eq!(inner(&discover(root.path())), ["shop.log"]);
}

#[test]
fn a_log_of_many_vhosts_counts_those_that_no_front_counts() {
    let nginx = "http { server { server_name x.example; access_log off; } server { server_name a.example; access_log /l/a.log; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let apache = "Listen 8080\nListen 81\nCustomLog /l/other_vhosts_access.log vhost_combined\n<VirtualHost *:8080>\nServerName a.example\n</VirtualHost>\n<VirtualHost *:81>\nServerName b.example\n</VirtualHost>\n";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/apache2/apache2.conf", apache)]);
    let found = discover(root.path());
    let shared = log(&found, "other_vhosts_access.log");
    assert!(!shared.inner);
    assert_eq!(shared.inner_sites, ["a.example"]);
    assert_eq!(counting(&found, "a.example"), ["a.log"]);
    assert_eq!(counting(&found, "b.example"), ["other_vhosts_access.log"]);
}

#[test]
fn a_front_whose_log_is_gone_counts_nothing() {
    let nginx = "http { server { server_name a.example; access_log /var/log/nginx/gone/a.log; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let files = [
        ("etc/nginx/nginx.conf", nginx),
        ("etc/apache2/apache2.conf", APACHE_8080),
        ("var/log/apache2/inner.log", ""),
        ("var/log/nginx/gone/a.log", ""),
    ];
    let gone = root(&files[..3]);
    let found = discover(gone.path());
    assert!(!log(&found, "inner.log").inner, "{:?}", found.logs);
    assert!(found.unreadable.iter().any(|u| u.path.ends_with("gone/a.log")));
    assert!(log(&discover(root(&files).path()), "inner.log").inner, "once it is there");
    let neither = root(&files[..2]);
    assert!(log(&discover(neither.path()), "inner.log").inner, "as long as none is there");
}

#[test]
fn a_blind_proxy_with_members_here_and_elsewhere_counts_nothing_twice_and_is_told() {
    let text = haproxy(8080, false) + "server far 10.0.0.2:80\n";
    let files = [
        ("etc/haproxy/haproxy.cfg", text.as_str()),
        ("var/log/haproxy.log", ""),
        ("etc/nginx/nginx.conf", NGINX_8080),
        ("var/log/nginx/inner.log", ""),
    ];
    let root = root(&files);
    let found = discover(root.path());
    assert_eq!(inner(&found), ["haproxy.log"]);
    assert_eq!(counting(&found, "a.example"), ["inner.log"]);
    let note = found.unreadable.iter().find(|u| u.path.ends_with("haproxy.log")).unwrap();
    assert!(note.fix.contains("capture request header Host len 64"), "{note:?}");
}

#[test]
fn a_front_that_logs_no_passed_requests_counts_none() {
    let nginx = |location: &str| {
        format!(
            "http {{ access_log /l/front.log; server {{ server_name a.example; {location} }} }}"
        )
    };
    for (location, want) in [
        ("location / { access_log off; proxy_pass http://127.0.0.1:8080; }", &[][..]),
        (
            "access_log off; location / { proxy_pass http://127.0.0.1:8080; } location /s { access_log /l/s.log; }",
            &[],
        ),
        (
            "location /s { access_log off; proxy_pass http://127.0.0.1:8080; } location / { proxy_pass http://127.0.0.1:8080; }",
            &["inner.log"],
        ),
        (
            "access_log off; location / { access_log /l/own.log; proxy_pass http://127.0.0.1:8080; }",
            &["inner.log"],
        ),
    ] {
        let apache = APACHE_8080.replace("/var/log/apache2", "/l");
        let root = root(&[
            ("etc/nginx/nginx.conf", &nginx(location)),
            ("etc/apache2/apache2.conf", &apache),
        ]);
        assert_eq!(inner(&discover(root.path())), want, "{location}");
    }
}

#[test]
fn the_error_log_of_a_server_behind_belongs_to_the_site_of_the_front() {
    let apache = APACHE_8080.replace("a.example", "behind.example");
    let root = root(&[
        ("etc/nginx/nginx.conf", NGINX_FRONT),
        ("etc/apache2/apache2.conf", &format!("ErrorLog /var/log/apache2/error.log\n{apache}")),
    ]);
    let found = discover(root.path());
    let logs = &site(&found, "a.example").error_logs;
    assert!(logs.iter().any(|log| log.ends_with("apache2/error.log")), "{logs:?}");
}
