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
    let nginx = "http { server { server_name a.example; access_log /var/log/nginx/a.log; location / { proxy_pass http://127.0.0.1:8080; } } }";
    let apache = "<VirtualHost *:8080>\nServerName a.example\nCustomLog /var/log/apache2/a-inner.log combined\n</VirtualHost>\n<VirtualHost *:81>\nServerName b.example\nCustomLog /var/log/apache2/b.log combined\n</VirtualHost>\n<VirtualHost *:443>\nServerName a.example\nCustomLog /var/log/apache2/a-ssl.log combined\n</VirtualHost>\n";
    let root = root(&[("etc/nginx/nginx.conf", nginx), ("etc/apache2/apache2.conf", apache)]);
    assert_eq!(inner(&discover(root.path())), ["a-inner.log"]);
}
