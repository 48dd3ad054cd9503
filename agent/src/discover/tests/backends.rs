//! Backends, status pages, stores and listeners, as configurations name them.

use super::*;
use crate::discover::stores::StoreKind;

fn backends(found: &Discovery) -> Vec<String> {
    let shown = |b: &Backend| {
        let marks = [(b.is_tls, " tls"), (b.is_script, " script")];
        let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
        format!("{}{marks} for {}", b.address, b.sites.join(","))
    };
    found.backends.iter().map(shown).collect()
}

fn pages(found: &Discovery) -> Vec<String> {
    let shown = |p: &StatusPage| format!("{} {} {} {}", p.kind.name(), p.address, p.path, p.host);
    found.status_pages.iter().map(shown).collect()
}

fn listens(found: &Discovery, name: &str) -> Vec<String> {
    let shown = |l: &Listen| format!("{}{}", l.address, if l.is_tls { " tls" } else { "" });
    site(found, name).listen.iter().map(shown).collect()
}

#[test]
fn nginx_names_its_backends_listeners_and_status_pages() {
    let root = root(&[(
        "etc/nginx/nginx.conf",
        r"http {
    upstream app { server 10.0.0.7:3000; server 10.0.0.8:3000; }
    server {
        listen 80; listen [::]:443 ssl http2; listen 8443 ssl proxy_protocol;
        server_name a.example;
        location / { proxy_pass https://app; }
        location ~ \.php$ { fastcgi_pass unix:/var/run/php/a.sock; }
    }
    server {
        listen 127.0.0.1:8081; server_name localhost _;
        location = /nginx_status { stub_status on; }
        location ~ ^/s$ { stub_status; }
        location /off { stub_status off; }
    }
    server { listen unix:/run/s.sock; location /x { stub_status; } }
}",
    )]);
    let found = discover(root.path());
    let want = [
        "/run/php/a.sock script for a.example",
        "10.0.0.7:3000 tls for a.example",
        "10.0.0.8:3000 tls for a.example",
    ];
    assert_eq!(backends(&found), want);
    assert_eq!(listens(&found, "a.example"), ["127.0.0.1:80", "[::1]:443 tls"]);
    assert_eq!(pages(&found), ["nginx stub_status 127.0.0.1:8081 /nginx_status localhost"]);
    let text = render::render_text(&found);
    assert!(text.contains("3 backends\n  /run/php/a.sock  for 1 site\n"), "{text}");
    assert!(text.contains("nginx stub_status at 127.0.0.1:8081/nginx_status\n"), "{text}");
    let json = render::render_json(&found);
    assert_eq!(json["backends"][1]["address"], "10.0.0.7:3000", "{json:#}");
    assert_eq!(json["status_pages"][0]["kind"], "nginx stub_status", "{json:#}");
}

#[test]
fn apache_names_its_backends_listeners_and_status_page() {
    let root = root(&[(
        "etc/apache2/apache2.conf",
        r#"Listen 80
Listen 443
<IfModule mod_status.c>
  <Location "/server-status">
    SetHandler server-status
  </Location>
  <LocationMatch "^/other$">
    SetHandler server-status
  </LocationMatch>
</IfModule>
<Proxy balancer://far>
  BalancerMember https://10.0.0.9:8443
</Proxy>
<VirtualHost *:443>
  ServerName b.example
  SSLEngine on
  ProxyPass / balancer://far/
  <FilesMatch \.php$>
    SetHandler "proxy:unix:/run/php/b.sock|fcgi://localhost"
  </FilesMatch>
</VirtualHost>
"#,
    )]);
    let found = discover(root.path());
    let want = ["/run/php/b.sock script for b.example", "10.0.0.9:8443 tls for b.example"];
    assert_eq!(backends(&found), want);
    assert_eq!(listens(&found, "b.example"), ["127.0.0.1:443 tls"]);
    let want = ["Apache mod_status 127.0.0.1:80 /server-status?auto localhost"];
    assert_eq!(pages(&found), want);
}

#[test]
fn haproxy_names_its_servers_and_where_it_tells_statistics() {
    let root = root(&[(
        "etc/haproxy/haproxy.cfg",
        "global\n  stats socket /run/haproxy/admin.sock mode 660 level admin\n  stats timeout 30s\n\
         frontend in\n  bind :80\n  bind :443 ssl crt /x\n  bind :81 accept-proxy\n\
         \x20 use_backend far if { hdr(host) -i c.example }\n\
         backend far\n  server s1 app.internal:8443 ssl verify none check\n  server s2 unix@/run/c.sock\n\
         listen stats\n  bind 127.0.0.1:8404\n  stats enable\n  stats uri /stats\n\
         listen secret\n  bind 127.0.0.1:8405\n  stats uri /s\n  stats auth a:b\n",
    )]);
    let found = discover(root.path());
    let want = ["/run/c.sock for c.example", "app.internal:8443 tls for c.example"];
    assert_eq!(backends(&found), want);
    assert_eq!(listens(&found, "c.example"), ["127.0.0.1:80", "127.0.0.1:443 tls"]);
    let want = [
        "HAProxy stats socket /run/haproxy/admin.sock  ",
        "HAProxy stats page 127.0.0.1:8404 /stats;csv localhost",
    ];
    assert_eq!(pages(&found), want);
}

#[test]
fn whoever_is_asked_over_fastcgi_is_a_script_whatever_server_asks() {
    let check = |path: &str, text: &str, want: &[&str]| {
        let root = root(&[(path, text)]);
        assert_eq!(backends(&discover(root.path())), want, "{path}");
    };
    check(
        "etc/caddy/Caddyfile",
        "a.example {\n\tphp_fastcgi 10.0.0.7:9000\n\treverse_proxy /api/* 10.0.0.8:3000\n}\n\
         b.example {\n\treverse_proxy 10.0.0.9:9000 {\n\t\ttransport fastcgi\n\t}\n}\n",
        &[
            "10.0.0.7:9000 script for a.example",
            "10.0.0.8:3000 for a.example",
            "10.0.0.9:9000 script for b.example",
        ],
    );
    check(
        "etc/lighttpd/lighttpd.conf",
        "$HTTP[\"host\"] == \"a.example\" {\n\
         fastcgi.server = ( \".php\" => (( \"host\" => \"10.0.0.7\", \"port\" => 9000 )) )\n}\n\
         $HTTP[\"host\"] == \"b.example\" {\n\
         proxy.server = ( \"\" => (( \"host\" => \"10.0.0.8\", \"port\" => 3000 )) )\n}\n",
        &["10.0.0.7:9000 script for a.example", "10.0.0.8:3000 for b.example"],
    );
    check(
        "etc/haproxy/haproxy.cfg",
        "frontend in\n  bind :80\n  use_backend php if { hdr(host) -i c.example }\n\
         backend php\n  use-fcgi-app fpm\n  server s1 10.0.0.7:9000 proto fcgi\n\
         fcgi-app fpm\n  docroot /srv\n",
        &["10.0.0.7:9000 script for c.example"],
    );
}

#[test]
fn stores_are_found_by_their_configurations_or_where_they_usually_are() {
    let root = root(&[
        (
            "etc/mysql/my.cnf",
            "[client]\nport=1\n[mysqld]\nsocket=/run/m.sock\nmax-connections = 40\n",
        ),
        ("etc/redis/redis.conf", "port 6380\nrequirepass geheim\n"),
        ("etc/memcached.conf", "-p 11212\n"),
    ]);
    let found = discover(root.path());
    let of = |kind| found.stores.iter().find(|store| store.kind == kind).expect("one of each");
    let mysql = of(StoreKind::Mysql);
    assert_eq!(mysql.addresses(), ["/run/m.sock", "127.0.0.1:3306"]);
    assert_eq!(mysql.connections_max, Some(40));
    assert_eq!(of(StoreKind::Redis).addresses(), ["127.0.0.1:6380"]);
    assert_eq!(of(StoreKind::Memcached).addresses(), ["127.0.0.1:11212"]);
    let postgres = of(StoreKind::Postgres).addresses();
    assert_eq!(postgres.last().map(String::as_str), Some("127.0.0.1:5432"));
    assert!(!format!("{found:?}").contains("geheim"), "no password is kept");
}
