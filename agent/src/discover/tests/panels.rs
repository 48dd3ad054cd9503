//! Layouts of hosting panels whose configuration cannot be read, and the same panels when it can.

use super::*;

/// `site path inner` of every access log.
fn check(panel: &str, files: &[&str], want: &[(&str, &str, bool)]) {
    let files: Vec<(&str, &str)> = files.iter().map(|path| (*path, "")).collect();
    let root = root(&files);
    let found = discover(root.path());
    let mut logs: Vec<(String, String, bool)> = Vec::new();
    for log in found.logs.iter().filter(|log| log.kind == LogKind::Access) {
        let path = log.path.strip_prefix(root.path()).unwrap().to_string_lossy().into_owned();
        let owner = found.sites.iter().find(|s| s.access_logs.iter().any(|l| l.path == log.path));
        logs.push((owner.unwrap().name.clone(), path, log.inner));
    }
    let logs: Vec<_> = logs.iter().map(|(s, p, i)| (s.as_str(), p.as_str(), *i)).collect();
    assert_eq!(logs, want, "{panel}");
}

#[test]
fn each_layout_is_known_by_its_paths() {
    check(
        "cPanel",
        &[
            "etc/apache2/logs/domlogs/a.example",
            "etc/apache2/logs/domlogs/a.example-ssl_log",
            "etc/apache2/logs/domlogs/a.example-bytes_log",
            "etc/apache2/logs/domlogs/ftp.a.example-ftp_log",
            "etc/apache2/logs/domlogs/a.example.gz",
            "etc/apache2/logs/domlogs/auser/a.example",
        ],
        &[
            ("a.example", "etc/apache2/logs/domlogs/a.example", false),
            ("a.example", "etc/apache2/logs/domlogs/a.example-ssl_log", false),
        ],
    );
    let plesk = "var/www/vhosts/system/a.example/logs";
    check(
        "Plesk",
        &[
            &format!("{plesk}/access_log"),
            &format!("{plesk}/access_ssl_log"),
            &format!("{plesk}/proxy_access_ssl_log"),
            &format!("{plesk}/access_log.processed"),
            &format!("{plesk}/access_log.webstat"),
            &format!("{plesk}/error_log"),
            "var/www/vhosts/system/b.example/logs/access_log",
        ],
        &[
            ("a.example", &format!("{plesk}/proxy_access_ssl_log"), false),
            ("a.example", &format!("{plesk}/access_log"), true),
            ("b.example", "var/www/vhosts/system/b.example/logs/access_log", false),
            ("a.example", &format!("{plesk}/access_ssl_log"), true),
        ],
    );
    check(
        "HestiaCP",
        &[
            "var/log/nginx/domains/a.example.log",
            "var/log/nginx/domains/a.example.error.log",
            "var/log/nginx/domains/a.example.bytes",
            "var/log/apache2/domains/a.example.log",
            "var/log/apache2/domains/a.example.log.1",
        ],
        &[
            ("a.example", "var/log/nginx/domains/a.example.log", false),
            ("a.example", "var/log/apache2/domains/a.example.log", true),
        ],
    );
}

#[test]
fn layouts_of_one_server_are_known_too() {
    check(
        "DirectAdmin",
        &["var/log/httpd/domains/a.example.log", "var/log/httpd/domains/a.example.bytes"],
        &[("a.example", "var/log/httpd/domains/a.example.log", false)],
    );
    check(
        "ISPConfig",
        &[
            "var/log/ispconfig/httpd/a.example/access.log",
            "var/log/ispconfig/httpd/a.example/20261130-access.log",
        ],
        &[("a.example", "var/log/ispconfig/httpd/a.example/access.log", false)],
    );
    check(
        "CloudPanel and CyberPanel",
        &["home/auser/logs/nginx/access.log", "home/b.example/logs/b.example.access_log"],
        &[
            ("auser", "home/auser/logs/nginx/access.log", false),
            ("b.example", "home/b.example/logs/b.example.access_log", false),
        ],
    );
    check(
        "RunCloud",
        &["home/runcloud/logs/nginx/shop_access.log", "home/runcloud/logs/nginx/shop_error.log"],
        &[("shop", "home/runcloud/logs/nginx/shop_access.log", false)],
    );
    check(
        "others",
        &[
            "var/www/httpd-logs/a.example.access.log",
            "var/log/virtualmin/b.example_access_log",
            "www/wwwlogs/c.example.log",
            "www/wwwlogs/c.example.error.log",
        ],
        &[
            ("a.example", "var/www/httpd-logs/a.example.access.log", false),
            ("b.example", "var/log/virtualmin/b.example_access_log", false),
            ("c.example", "www/wwwlogs/c.example.log", false),
        ],
    );
}

#[test]
fn a_configuration_is_stronger_than_a_layout() {
    let root = root(&[
        (
            "etc/nginx/nginx.conf",
            "http { server { server_name a.example; access_log /var/log/nginx/domains/a.example.log; } }",
        ),
        ("var/log/nginx/domains/a.example.log", ""),
        ("var/log/nginx/domains/gone.example.log", ""),
    ]);
    assert_eq!(names(&discover(root.path())), ["a.example"]);
}

#[test]
fn plesk_as_its_own_configuration_has_it() {
    let nginx = "http { include /etc/nginx/conf.d/*.conf; }";
    let vhost = "server { listen 192.0.2.7:443 ssl; server_name a.example www.a.example; access_log \"/var/www/vhosts/system/a.example/logs/proxy_access_ssl_log\"; error_log \"/var/www/vhosts/system/a.example/logs/proxy_error_log\"; location / { proxy_pass https://192.0.2.7:7081; } }";
    let apache = "LogFormat \"%a %l %u %t \\\"%r\\\" %>s %O \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\"\" plesklog\nIncludeOptional conf.d/*.conf\n";
    let behind = "<VirtualHost 192.0.2.7:7081 127.0.0.1:7081>\nServerName \"a.example:443\"\nServerAlias \"www.a.example\"\nSuexecUserGroup \"auser\" \"psacln\"\nDocumentRoot \"/var/www/vhosts/a.example/httpdocs\"\nCustomLog /var/www/vhosts/system/a.example/logs/access_ssl_log plesklog\n<FilesMatch \\.php$>\nSetHandler \"proxy:unix:///var/www/vhosts/system/a.example/php-fpm.sock|fcgi://127.0.0.1:9000\"\n</FilesMatch>\n</VirtualHost>\n";
    let root = root(&[
        ("etc/nginx/nginx.conf", nginx),
        ("etc/nginx/conf.d/a.conf", vhost),
        ("etc/httpd/conf/httpd.conf", apache),
        ("etc/httpd/conf.d/a.conf", behind),
        (
            "opt/plesk/php/8.2/etc/php-fpm.d/a.example.conf",
            "[a.example]\nuser = auser\nlisten = \"/var/www/vhosts/system/a.example/php-fpm.sock\"\n",
        ),
        ("var/www/vhosts/system/a.example/logs/access_ssl_log", ""),
        ("var/www/vhosts/system/a.example/logs/proxy_access_ssl_log", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(inner(&found), ["access_ssl_log"]);
    let site = site(&found, "a.example");
    assert_eq!(site.pool.as_deref(), Some("a.example"));
    assert_eq!(site.php_version.as_deref(), Some("8.2"));
    assert_eq!(site.owner.as_deref(), Some("auser"));
}

#[test]
fn logs_that_a_panel_links_are_listed_once_and_files_of_no_site_not_at_all() {
    let root = root(&[
        ("var/log/apache2/domlogs/a.example", ""),
        ("var/log/apache2/domlogs/ftpxferlog", ""),
        ("var/log/apache2/domlogs/proxy-subdomains-vhost.localhost", ""),
        ("etc/apache2/logs/error_log", ""),
    ]);
    let link = root.path().join("etc/apache2/logs/domlogs");
    std::os::unix::fs::symlink("../../../var/log/apache2/domlogs", link).unwrap();
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example"]);
    assert_eq!(found.logs.iter().filter(|log| log.kind == LogKind::Access).count(), 1);
}

#[test]
fn a_vhost_named_by_an_address_is_no_rotated_log() {
    check(
        "DirectAdmin",
        &["var/log/httpd/domains/192.0.2.1.log", "var/log/httpd/domains/a.example.1.log"],
        &[("192.0.2.1", "var/log/httpd/domains/192.0.2.1.log", false)],
    );
}

#[test]
fn a_layout_puts_no_front_before_another_site() {
    check(
        "HestiaCP",
        &["var/log/nginx/domains/a.example.log", "var/log/apache2/domains/b.example.log"],
        &[
            ("a.example", "var/log/nginx/domains/a.example.log", false),
            ("b.example", "var/log/apache2/domains/b.example.log", false),
        ],
    );
}
