//! Configurations in a folder of their own, as distributions and people lay them out.

use std::fs;
use std::path::Path;

use super::*;

mod apache;
mod applications;
mod backends;
mod caddy;
mod certificates;
mod chains;
mod daemons;
mod haproxy;
mod hostile;
mod lighttpd;
mod litespeed;
mod nginx;
mod panel_trees;
mod panels;
mod php_fpm;
mod traefik;
mod varnish;

/// A root with files.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// What is found, and that each site with a log that can be read is counted in one.
fn discover(root: &Path) -> Discovery {
    let found = super::discover(root);
    let is_there = |path: &Path| path.exists() || path.to_string_lossy().contains('*');
    for site in &found.sites {
        let counts = |log: &&LogSource| {
            log.kind == LogKind::Access && !log.inner && !log.inner_sites.contains(&site.name)
        };
        let of = |path: &Path| found.logs.iter().filter(counts).any(|log| log.path == path);
        let paths: Vec<&Path> = site.access_logs.iter().map(|log| log.path.as_path()).collect();
        let told = |path: &Path| found.unreadable.iter().any(|u| u.path == path);
        let mut read = paths.iter().filter(|path| is_there(path)).peekable();
        let is_lost = read.peek().is_some() && !read.clone().any(|path| of(path) || told(path));
        assert!(!is_lost, "{} is counted nowhere: {:?}", site.name, found.logs);
    }
    found
}

fn site<'a>(found: &'a Discovery, name: &str) -> &'a Site {
    found.sites.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no {name} in {found:?}"))
}

/// Aliases, pool, upstream and logs of a site without the root, to compare at one glance.
fn shown(root: &Path, found: &Discovery, name: &str) -> String {
    let site = site(found, name);
    let bare = |path: &Path| {
        path.strip_prefix(root).map_or(path, |bare| bare).to_string_lossy().into_owned()
    };
    let logs: Vec<String> =
        site.access_logs.iter().map(|l| format!("{}={}", bare(&l.path), l.format)).collect();
    let errors: Vec<String> = site.error_logs.iter().map(|path| bare(path)).collect();
    let answers = site.pool.as_deref().or(site.upstream.as_deref()).unwrap_or("-");
    format!("{} > {answers} | {} | {}", site.aliases.join(","), logs.join(" "), errors.join(" "))
}

fn names(found: &Discovery) -> Vec<&str> {
    found.sites.iter().map(|site| site.name.as_str()).collect()
}

fn inner(found: &Discovery) -> Vec<String> {
    let inner = found.logs.iter().filter(|log| log.inner && log.kind == LogKind::Access);
    let name = |log: &LogSource| log.path.file_name().unwrap().to_string_lossy().into_owned();
    inner.map(name).collect()
}

/// File names of the access logs that count a site.
fn counting(found: &Discovery, site_name: &str) -> Vec<String> {
    let site = site(found, site_name);
    let counts = |log: &&LogSource| {
        log.kind == LogKind::Access
            && !log.inner
            && !log.inner_sites.contains(&site.name)
            && site.access_logs.iter().any(|own| own.path == log.path)
    };
    let name = |log: &LogSource| log.path.file_name().unwrap().to_string_lossy().into_owned();
    found.logs.iter().filter(counts).map(name).collect()
}

fn log<'a>(found: &'a Discovery, end: &str) -> &'a LogSource {
    let of = |log: &&LogSource| log.path.ends_with(end);
    found.logs.iter().find(of).unwrap_or_else(|| panic!("no {end} in {:?}", found.logs))
}

const NGINX: &str = r#"
user www-data;
error_log /var/log/nginx/error.log;
events { worker_connections 768; }
http {
    log_format hosted '$host $remote_addr - $remote_user [$time_local] "$request" '
                      '$status $body_bytes_sent "$http_referer" "$http_user_agent"'; # two parts
    log_format escaped escape=json '{"host":"$host","status":$status}';
    map $http_upgrade $connection { default upgrade; '' close; }
    upstream app { server 127.0.0.1:3000; server 127.0.0.1:3001 backup; }
    upstream far { zone far 64k; server 198.51.100.4:8080 max_fails=2; }
    access_log /var/log/nginx/access.log hosted;
    include /etc/nginx/mime.types;
    include /etc/nginx/sites-enabled/*;
}
"#;

#[test]
fn nginx_sites_with_their_logs_formats_and_pools() {
    let root = root(&[
        ("etc/nginx/nginx.conf", NGINX),
        ("etc/nginx/mime.types", "types { text/html html; }"),
        (
            "etc/nginx/sites-enabled/a",
            r#"server { listen 80; server_name A.example www.a.example; return 301 https://a.example$request_uri; }
server {
    listen 443 ssl; server_name a.example;
    root /srv/a;
    location ~ \.php$ { include fastcgi_params; fastcgi_pass unix:/run/php/php8.2-fpm.sock; }
    location ~ "^/x{2}" { access_log off; proxy_pass http://127.0.0.1:9999; }
}"#,
        ),
        (
            "etc/nginx/sites-enabled/b",
            "server { server_name b.example; access_log /var/log/nginx/b.log; error_log /var/log/nginx/b.error.log; location / { proxy_pass http://app; } }",
        ),
        (
            "etc/nginx/sites-enabled/c",
            "server { server_name c.example; access_log off; set $up far; location / { proxy_pass http://$up/x; } }",
        ),
        (
            "etc/nginx/sites-enabled/d",
            "server { listen 80 default_server; server_name _; location /api/ { access_log /var/log/nginx/api.log escaped; proxy_pass http://$host; } }",
        ),
        ("etc/nginx/sites-enabled/old~", "server { server_name gone.example; }"),
        (
            "etc/php/8.2/fpm/php-fpm.conf",
            "[global]\nerror_log = /var/log/php8.2-fpm.log\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n",
        ),
        (
            "etc/php/8.2/fpm/pool.d/www.conf",
            "; comment\n[www]\nlisten = /run/php/php8.2-fpm.sock\npm.max_children = 5 ; five\nlisten.backlog = 511\nslowlog = /var/log/$pool.slow\n",
        ),
        ("var/log/nginx/access.log", ""),
        ("srv/a/wp-config.php", ""),
    ]);
    let found = discover(root.path());
    let names: Vec<&str> = found.sites.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a.example", "b.example", "c.example", "default"]);

    let a = site(&found, "a.example");
    assert_eq!(a.aliases, ["www.a.example"], "two blocks are one site");
    assert_eq!(a.pool.as_deref(), Some("www"));
    assert_eq!(a.application.as_deref(), Some("WordPress"));
    assert!(a.source.ends_with("etc/nginx/sites-enabled/a:1"), "{}", a.source);
    assert_eq!(a.access_logs.len(), 1, "inherited");
    assert!(a.access_logs[0].format.ends_with(r#""$http_user_agent""#), "both parts");
    let b = site(&found, "b.example");
    assert_eq!(b.pool.as_deref(), Some("127.0.0.1:3000"), "the first of its group");
    assert_eq!(b.access_logs[0].format, "combined");
    let c = site(&found, "c.example");
    assert_eq!((c.upstream.as_deref(), c.access_logs.len()), (Some("198.51.100.4:8080"), 0));
    assert_eq!(site(&found, "default").access_logs.len(), 2, "{:?}", site(&found, "default"));

    assert_eq!(log(&found, "nginx/access.log").site, SiteRule::Host);
    assert_eq!(log(&found, "nginx/b.log").site, SiteRule::Fixed("b.example".to_owned()));
    assert_eq!(log(&found, "b.error.log").format, "nginx_error");
    assert_eq!(log(&found, "php8.2-fpm.log").kind, LogKind::PhpFpm);
    assert!(found.logs.iter().all(|log| log.path.starts_with(root.path()) && !log.inner));

    let pool = &found.pools[0];
    assert_eq!((pool.name.as_str(), pool.max_children, pool.backlog), ("www", Some(5), Some(511)));
    assert_eq!(pool.unit.as_deref(), Some("php8.2-fpm.service"));
    assert!(pool.slow_log.as_ref().unwrap().ends_with("var/log/www.slow"));
    assert_eq!(found.services, ["nginx.service", "php8.2-fpm.service"]);
    assert!(found.config_files.contains(&root.path().join("etc/nginx/sites-enabled")));
}

#[test]
fn a_private_nginx_that_names_its_own_folder_is_found_there() {
    let root = root(&[("logs/error.log", "")]);
    let dir = root.path().display();
    fs::create_dir_all(root.path().join("etc/nginx/sites")).unwrap();
    let main = format!(
        "error_log {dir}/logs/error.log; http {{ access_log {dir}/logs/all.log; include {dir}/etc/nginx/sites/*; }}"
    );
    fs::write(root.path().join("etc/nginx/nginx.conf"), main).unwrap();
    let block = format!(
        "server {{ server_name a.example; location / {{ fastcgi_pass unix:{dir}/run/a.sock; }} }}"
    );
    fs::write(root.path().join("etc/nginx/sites/a"), block).unwrap();
    let found = discover(root.path());
    assert_eq!(site(&found, "a.example").pool, Some(format!("{dir}/run/a.sock")));
    assert_eq!(log(&found, "all.log").path, root.path().join("logs/all.log"));
    assert_eq!(log(&found, "all.log").site, SiteRule::Fixed("a.example".to_owned()));
}

#[test]
fn apache_vhosts_with_variables_formats_and_handlers() {
    let root = root(&[
        ("etc/apache2/envvars", "SUFFIX=\nexport APACHE_LOG_DIR=/var/log/apache2$SUFFIX\n"),
        (
            "etc/apache2/apache2.conf",
            r#"
ErrorLog ${APACHE_LOG_DIR}/error.log
LogFormat "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"" vhost_combined
LogFormat "%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\" %D" timed
Define port 3000
Include ports.conf
CustomLog ${APACHE_LOG_DIR}/other_vhosts_access.log vhost_combined
<FilesMatch ".+\.php$">
    SetHandler "proxy:unix:/run/php/php8.2-fpm.sock|fcgi://localhost"
</FilesMatch>
IncludeOptional sites-enabled/*.conf
"#,
        ),
        ("etc/apache2/ports.conf", "Listen 80\n<IfModule ssl_module>\n\tListen 443\n</IfModule>\n"),
        (
            "etc/apache2/sites-enabled/all.conf",
            r#"
<VirtualHost *:80>
    ServerName https://a.example:443
    ServerAlias www.a.example \
        a.test
    DocumentRoot /srv/a
    CustomLog ${APACHE_LOG_DIR}/a.log timed env=!dontlog
    ErrorLog ${APACHE_LOG_DIR}/a.error.log
</VirtualHost>
<VirtualHost *:80>
    ServerName b.example
    ProxyPass "/push" "!"
    ProxyPass "/" "http://127.0.0.1:${port}/"
    ProxyPassReverse "/" "http://127.0.0.1:${port}/"
</VirtualHost>
<VirtualHost *:80>
    ServerName c.example
    <Proxy "balancer://group">
        BalancerMember "http://198.51.100.4:8080"
        BalancerMember "http://198.51.100.5:8080"
    </Proxy>
    ProxyPass / balancer://group/
    CustomLog "|/usr/bin/rotatelogs /var/log/c.%Y 86400" combined
</VirtualHost>
"#,
        ),
        ("etc/php/8.2/fpm/pool.d/www.conf", "[www]\nlisten = /run/php/php8.2-fpm.sock\n"),
        ("var/log/apache2/error.log", ""),
    ]);
    let found = discover(root.path());
    let a = site(&found, "a.example");
    assert_eq!(a.aliases, ["www.a.example", "a.test"]);
    assert_eq!(a.pool.as_deref(), Some("www"), "the handler of the whole server");
    assert!(a.access_logs[0].format.ends_with(r#""%{User-Agent}i" %D"#), "{:?}", a.access_logs);
    assert!(a.error_logs[0].ends_with("a.error.log"));
    let b = site(&found, "b.example");
    assert_eq!(b.pool.as_deref(), Some("127.0.0.1:3000"));
    assert!(b.access_logs[0].path.ends_with("other_vhosts_access.log"));
    assert_eq!(site(&found, "c.example").upstream.as_deref(), Some("198.51.100.4:8080"));
    assert_eq!(log(&found, "apache2/error.log").format, "apache_error");
    assert_eq!(log(&found, "var/log/c.*").site, SiteRule::Fixed("c.example".to_owned()));
    assert!(found.services.contains(&"apache2.service".to_owned()));
}

#[test]
fn the_server_behind_another_one_is_inner_and_knows_the_pool() {
    let root = root(&[
        (
            "etc/nginx/nginx.conf",
            "http { access_log /var/log/nginx/access.log; server { server_name a.example; location / { proxy_pass http://127.0.0.1:8080; } } }",
        ),
        (
            "etc/apache2/apache2.conf",
            "Listen 127.0.0.1:8080\nErrorLog /var/log/apache2/error.log\nCustomLog /var/log/apache2/access.log combined\n<VirtualHost 127.0.0.1:8080>\nServerName a.example\nProxyPassMatch ^/(.*\\.php)$ fcgi://127.0.0.1:9000/srv/$1\n</VirtualHost>\n",
        ),
        ("etc/php/8.2/fpm/pool.d/www.conf", "[www]\nlisten = 127.0.0.1:9000\n"),
    ]);
    let found = discover(root.path());
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some("www"));
    assert!(!log(&found, "nginx/access.log").inner);
    assert!(log(&found, "apache2/access.log").inner);
    assert!(log(&found, "apache2/error.log").inner);
}

#[test]
fn what_nobody_can_tell_apart_or_read_is_listed() {
    let root = root(&[
        (
            "etc/nginx/nginx.conf",
            "error_log /var/log/nginx/error.log crit; http { access_log /var/log/nginx/access.log; include missing.conf; server { server_name a.example; } server { server_name b.example; access_log syslog:server=unix:/dev/log; } server { server_name c.example; } }",
        ),
        ("var/log/nginx/access.log", ""),
    ]);
    let found = discover(root.path());
    let reasons: Vec<&str> = found.unreadable.iter().map(|u| u.reason.as_str()).collect();
    for part in ["2 sites write into it", "level crit", "goes to syslog", "does not exist"] {
        assert!(reasons.iter().any(|r| r.contains(part)), "{part}: {reasons:?}");
    }
    assert!(found.unreadable.iter().all(|u| !u.fix.is_empty()));
}

#[test]
fn broken_configurations_are_read_as_far_as_they_go() {
    let mut nested = "http { ".to_owned() + &"a { ".repeat(10_000);
    nested.push_str("server_name x;");
    for text in [
        "",
        "}",
        "{",
        ";;;",
        "http {",
        "http { server { server_name",
        "http { server { server_name a.example; ",
        "http { server { listen ; server_name ; access_log; proxy_pass; } }",
        "http { log_format x; access_log a x; }",
        "http { server { server_name \"a.example",
        "#",
        "include *;",
        "include /etc/nginx/nginx.conf;",
        "\0\u{fffd}",
        &nested,
        "http { server { content_by_lua_block { if x then { } end } server_name a.example; } }",
    ] {
        let root = root(&[
            ("etc/nginx/nginx.conf", text),
            ("etc/apache2/apache2.conf", text),
            ("etc/php-fpm.conf", text),
            ("etc/haproxy/haproxy.cfg", text),
        ]);
        let found = discover(root.path());
        assert!(found.sites.len() <= 2, "{found:?}");
    }
}

#[test]
fn json_and_text_show_the_same_things() {
    let root = root(&[(
        "etc/nginx/nginx.conf",
        "http { server { server_name a.example; location / { fastcgi_pass 127.0.0.1:9000; } } }",
    )]);
    let found = discover(root.path());
    let json = render::render_json(&found);
    assert_eq!(json["sites"][0]["site"], "a.example");
    assert_eq!(json["sites"][0]["pool"], "127.0.0.1:9000");
    assert!(json["sites"][0]["upstream"].is_null());
    for key in ["aliases", "access_logs", "error_logs", "owner", "application", "source"] {
        assert!(json["sites"][0].get(key).is_some(), "{key}");
    }
    assert!(
        json["pools"].is_array() && json["services"].is_array() && json["unreadable"].is_array()
    );
    let text = render::render_text(&found);
    assert!(text.contains("a.example, pool 127.0.0.1:9000"), "{text}");
    assert!(
        render::render_text(&discover(Path::new("/nonexistent"))).starts_with("no sites found")
    );
}
