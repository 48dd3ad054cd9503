//! Hosting panels as their own configurations lay a machine out: nginx before Apache before PHP-FPM.

use super::*;

/// An access log of a site: the end of its path, and whether it is evidence only.
fn check(found: &Discovery, site_name: &str, want: &[(&str, bool)]) {
    let site = site(found, site_name);
    let mut logs = Vec::new();
    for own in &site.access_logs {
        let log = found.logs.iter().find(|log| log.path == own.path).unwrap();
        logs.push((log.path.clone(), log.inner || log.inner_sites.contains(&site.name)));
    }
    let fits = logs.len() == want.len()
        && logs.iter().zip(want).all(|((path, is), (end, want))| path.ends_with(end) && is == want);
    assert!(fits, "{site_name}: {logs:?}");
}

#[test]
fn cpanel_with_nginx_before_apache_counts_in_the_logs_of_nginx() {
    let nginx = "http { include conf.d/*.conf; }";
    let groups = "upstream apache_backend_http_192_0_2_1 { server 192.0.2.1:81; keepalive 64; } upstream apache_backend_https_192_0_2_1 { server 192.0.2.1:444; keepalive 64; }";
    let user = r"server {
    server_name a.example www.a.example mail.a.example;
    listen 80;
    listen [::]:80;
    listen 443 ssl;
    access_log /var/log/nginx/domains/a.example combined;
    access_log /var/log/nginx/domains/a.example-bytes_log bytes;
    set $CPANEL_APACHE_PROXY_IP 192.0.2.1;
    set $CPANEL_APACHE_PROXY_PASS $scheme://apache_backend_${scheme}_192_0_2_1;
    location / { try_files /none @cpanel; }
    location @cpanel { proxy_pass $CPANEL_APACHE_PROXY_PASS; }
}";
    let vhost = |port: u16, log: &str| {
        format!(
            "<VirtualHost 192.0.2.1:{port}>\nServerName a.example\nServerAlias mail.a.example www.a.example\nDocumentRoot /srv/a/public_html\nCustomLog /etc/apache2/logs/domlogs/{log} combined\nCustomLog /etc/apache2/logs/domlogs/a.example-bytes_log \"%{{%s}}t %I .\\n%{{%s}}t %O .\"\n<FilesMatch \\.(phtml|php[0-9]*)$>\nSetHandler proxy:unix:/opt/cpanel/ea-php82/root/usr/var/run/php-fpm/0123.sock|fcgi://a.example\n</FilesMatch>\n</VirtualHost>\n"
        )
    };
    let apache = format!(
        "Listen 0.0.0.0:81\nListen 0.0.0.0:444\nErrorLog logs/error_log\n{}{}",
        vhost(81, "a.example"),
        vhost(444, "a.example-ssl_log")
    );
    let pool = "[a_example]\nlisten = /opt/cpanel/ea-php82/root/usr/var/run/php-fpm/0123.sock\nuser = auser\n";
    let root = root(&[
        ("etc/nginx/nginx.conf", nginx),
        ("etc/nginx/conf.d/groups.conf", groups),
        ("etc/nginx/conf.d/a.conf", user),
        ("etc/apache2/conf/httpd.conf", &apache),
        ("opt/cpanel/ea-php82/root/etc/php-fpm.d/a.conf", pool),
        ("var/log/nginx/domains/a.example", ""),
        ("etc/apache2/logs/domlogs/a.example", ""),
        ("etc/apache2/logs/domlogs/a.example-ssl_log", ""),
        ("etc/apache2/logs/domlogs/ftpxferlog", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example"]);
    check(
        &found,
        "a.example",
        &[
            ("nginx/domains/a.example", false),
            ("domlogs/a.example", true),
            ("domlogs/a.example-ssl_log", true),
        ],
    );
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some("a_example"));
    assert_eq!(site(&found, "a.example").php_version.as_deref(), Some("8.2"));
}

#[test]
fn plesk_pools_below_their_prefix_are_joined() {
    let logs = "/var/www/vhosts/system/a.example/logs";
    let vhost = |port: u16, tls: &str, log: &str, to: &str| {
        format!(
            "server {{ listen 192.0.2.7:{port}{tls}; server_name a.example www.a.example; access_log \"{logs}/{log}\"; error_log \"{logs}/proxy_error_log\"; location / {{ proxy_pass {to}; }} location ~ \\.php$ {{ fastcgi_pass \"unix:///var/www/vhosts/system/a.example/php-fpm.sock\"; }} }}"
        )
    };
    let nginx = vhost(80, "", "proxy_access_log", "http://192.0.2.7:7080")
        + &vhost(443, " ssl", "proxy_access_ssl_log", "https://192.0.2.7:7081");
    let apache = |port: u16, log: &str| {
        format!(
            "<VirtualHost 192.0.2.7:{port}>\nServerName \"a.example:{port}\"\nServerAlias \"www.a.example\"\nCustomLog {logs}/{log} plesklog\nErrorLog \"{logs}/error_log\"\n<FilesMatch \\.php$>\nSetHandler \"proxy:unix:///var/www/vhosts/system/a.example/php-fpm.sock|fcgi://127.0.0.1:9000\"\n</FilesMatch>\n</VirtualHost>\n"
        )
    };
    let apache = "LogFormat \"%a %l %u %t \\\"%r\\\" %>s %O \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\"\" plesklog\n".to_owned()
        + &apache(7080, "access_log")
        + &apache(7081, "access_ssl_log");
    let pool = "[a.example]\nprefix = /var/www/vhosts/system/$pool\nuser = auser\ngroup = psacln\nlisten = php-fpm.sock\nlisten.owner = root\npm = ondemand\npm.max_children = 16\n";
    let below = |log: &str| format!("{}/{log}", &logs[1..]);
    let root = root(&[
        ("etc/nginx/nginx.conf", &format!("http {{ {nginx} }}")),
        ("etc/httpd/conf/httpd.conf", &apache),
        ("opt/plesk/php/8.3/etc/php-fpm.d/a.example.conf", pool),
        (&below("proxy_access_log"), ""),
        (&below("proxy_access_ssl_log"), ""),
        (&below("access_log"), ""),
        (&below("access_ssl_log"), ""),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example"]);
    check(
        &found,
        "a.example",
        &[
            ("logs/proxy_access_log", false),
            ("logs/proxy_access_ssl_log", false),
            ("logs/access_log", true),
            ("logs/access_ssl_log", true),
        ],
    );
    assert_eq!(
        log(&found, "logs/access_log").format,
        "%a %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\""
    );
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some("a.example"));
    assert_eq!(found.pools[0].listen, "/var/www/vhosts/system/a.example/php-fpm.sock");
}

#[test]
fn hestia_has_two_servers_on_one_error_log() {
    let server = |port: u16, tls: &str, to: u16| {
        format!(
            "server {{ listen 192.0.2.9:{port}{tls}; server_name a.example www.a.example; error_log /var/log/apache2/domains/a.example.error.log error; location / {{ proxy_pass http://192.0.2.9:{to}; location ~* ^.+\\.(css|js|png)$ {{ root /srv/auser/web/a.example/public_html; access_log /var/log/apache2/domains/a.example.log combined; access_log /var/log/apache2/domains/a.example.bytes bytes; }} }} }}"
        )
    };
    let nginx = format!(
        "http {{ log_format bytes '$body_bytes_sent'; access_log off; error_log /var/log/nginx/error.log; {} {} }}",
        server(80, "", 8080),
        server(443, " ssl", 8080)
    );
    let apache = "Listen 192.0.2.9:8080\nErrorLog ${APACHE_LOG_DIR}/error.log\n<VirtualHost 192.0.2.9:8080>\nServerName a.example\nServerAlias www.a.example\nDocumentRoot /srv/auser/web/a.example/public_html\nCustomLog /var/log/apache2/domains/a.example.bytes bytes\nCustomLog /var/log/apache2/domains/a.example.log combined\nErrorLog /var/log/apache2/domains/a.example.error.log\n<FilesMatch \\.php$>\nSetHandler \"proxy:unix:/run/php/php8.2-fpm-a.example.sock|fcgi://localhost\"\n</FilesMatch>\n</VirtualHost>\n";
    let pool = "[a.example]\nlisten = /run/php/php8.2-fpm-a.example.sock\nuser = auser\n";
    let root = root(&[
        ("etc/nginx/nginx.conf", &nginx),
        ("etc/apache2/apache2.conf", apache),
        ("etc/php/8.2/fpm/pool.d/a.example.conf", pool),
        ("var/log/apache2/domains/a.example.log", ""),
        ("var/log/apache2/domains/a.example.error.log", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example"]);
    // Both write it, each in its own words for the same format: nginx what it serves itself.
    check(&found, "a.example", &[("domains/a.example.log", false); 2]);
    let error = log(&found, "a.example.error.log");
    assert_eq!((error.format.as_str(), error.inner), ("auto", false));
    assert_eq!(error.site, SiteRule::Fixed("a.example".to_owned()));
    assert_eq!(log(&found, "nginx/error.log").format, "nginx_error");
    assert_eq!(log(&found, "apache2/error.log").format, "apache_error");
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some("a.example"));
}

#[test]
fn directadmin_adds_its_handlers_by_extension() {
    let nginx = "http { server { listen 192.0.2.4:80; listen 192.0.2.4:443 ssl; server_name a.example www.a.example; access_log /var/log/nginx/domains/a.example.log; error_log /var/log/nginx/domains/a.example.error.log; location / { proxy_pass http://192.0.2.4:8080; } } }";
    let apache = "Listen 8080\n<VirtualHost 192.0.2.4:8080>\nServerName www.a.example\nServerAlias www.a.example a.example\nDocumentRoot /srv/auser/domains/a.example/public_html\nSuexecUserGroup auser auser\nCustomLog /var/log/httpd/domains/a.example.bytes bytes\nCustomLog /var/log/httpd/domains/a.example.log combined\nErrorLog /var/log/httpd/domains/a.example.error.log\n<FilesMatch \"\\.(inc|php|phtml)$\">\nAddHandler \"proxy:unix:/usr/local/php83/sockets/auser.sock|fcgi://localhost\" .inc .php .phtml\n</FilesMatch>\n</VirtualHost>\n";
    let master = "[global]\nerror_log = /usr/local/php83/var/log/php-fpm.log\ninclude=/usr/local/directadmin/data/users/*/php/php-fpm83.conf\n";
    let root = root(&[
        ("etc/nginx/nginx.conf", nginx),
        ("etc/httpd/conf/httpd.conf", apache),
        ("usr/local/php83/etc/php-fpm.conf", master),
        (
            "usr/local/directadmin/data/users/auser/php/php-fpm83.conf",
            "[auser]\nuser = $pool\nlisten = /usr/local/php83/sockets/$pool.sock\n",
        ),
        ("var/log/nginx/domains/a.example.log", ""),
        ("var/log/httpd/domains/a.example.log", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example"], "whichever name comes first");
    check(
        &found,
        "a.example",
        &[("nginx/domains/a.example.log", false), ("httpd/domains/a.example.log", true)],
    );
    let site = site(&found, "a.example");
    assert_eq!(site.pool.as_deref(), Some("auser"));
    assert_eq!(site.owner.as_deref(), Some("auser"));
    assert_eq!(site.php_version.as_deref(), Some("8.3"));
}

#[test]
fn ispconfig_writes_a_folder_a_vhost_through_a_program() {
    let apache = "Listen 80\nListen 443\nLogFormat \"%v %h %l %u %t \\\"%r\\\" %>s %O \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\"\" combined_ispconfig\nCustomLog \"| /usr/local/ispconfig/server/scripts/vlogger -s access.log -t \\\"%Y%m%d-access.log\\\" -d \\\"/etc/vlogger-dbi.conf\\\" /var/log/ispconfig/httpd\" combined_ispconfig\nInclude sites-enabled/*.vhost\n";
    let vhost = |port: u16| {
        format!(
            "<VirtualHost *:{port}>\nServerName a.example\nServerAlias www.a.example\nDocumentRoot /var/www/a.example/web\nErrorLog /var/log/ispconfig/httpd/a.example/error.log\n<FilesMatch \"\\.php[345]?$\">\nSetHandler \"proxy:unix:/var/lib/php8.2-fpm/web1.sock|fcgi://localhost\"\n</FilesMatch>\n</VirtualHost>\n"
        )
    };
    let root = root(&[
        ("etc/apache2/apache2.conf", apache),
        ("etc/apache2/sites-enabled/100-a.example.vhost", &(vhost(80) + &vhost(443))),
        (
            "etc/php/8.2/fpm/pool.d/web1.conf",
            "[web1]\nlisten = /var/lib/php8.2-fpm/web1.sock\nuser = web1\n",
        ),
        ("var/log/ispconfig/httpd/a.example/access.log", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example"]);
    check(&found, "a.example", &[("ispconfig/httpd/*/access.log", false)]);
    let log = log(&found, "httpd/*/access.log");
    assert!(log.format.starts_with("%h %l %u %t"), "{}", log.format);
    assert_eq!(log.site, SiteRule::Fixed("{1}".to_owned()));
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some("web1"));
}

#[test]
fn cloudpanel_with_varnish_in_between_counts_at_the_front() {
    let main = "http { log_format main '$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" \"$http_x_forwarded_for\"'; access_log off; include sites-enabled/*.conf; }";
    let site_conf = r"server {
    listen 80; listen 443 ssl; server_name www.a.example; return 301 https://a.example$request_uri;
}
server {
    listen 80; listen 443 ssl; server_name a.example www1.a.example; root /srv/auser/htdocs/a.example;
    access_log /srv/auser/logs/nginx/access.log main;
    error_log /srv/auser/logs/nginx/error.log;
    location / { proxy_pass http://127.0.0.1:8080; }
}
server {
    listen 8080; listen [::]:8080; server_name a.example www1.a.example;
    location ~ \.php$ { fastcgi_pass 127.0.0.1:17001; }
}";
    let root = root(&[
        ("etc/nginx/nginx.conf", main),
        ("etc/nginx/sites-enabled/a.example.conf", site_conf),
        (
            "etc/php/8.2/fpm/pool.d/a.example.conf",
            "[a.example]\nlisten = 127.0.0.1:17001\nuser = auser\n",
        ),
        ("srv/auser/logs/nginx/access.log", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example", "www.a.example"]);
    check(&found, "a.example", &[("auser/logs/nginx/access.log", false)]);
    assert!(log(&found, "logs/nginx/access.log").format.ends_with("\"$http_x_forwarded_for\""));
    assert_eq!(site(&found, "a.example").pool.as_deref(), Some("a.example"));
}
