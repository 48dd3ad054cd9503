//! PHP-FPM: every setting of a pool, and where distributions and panels keep them.

use super::*;

const POOL: &str = "[global]\nerror_log = /var/log/fpm.log\n[shop]\nuser = shop\ngroup = shops\nlisten = /run/php/shop.sock\nlisten.backlog = -1\npm = dynamic\npm.max_children = 40\npm.start_servers = 4\npm.min_spare_servers = 2\npm.max_spare_servers = 8\npm.max_requests = 500 ; then a new one\npm.process_idle_timeout = 10s\npm.status_path = /status\npm.status_listen = /run/php/shop-status.sock\nrequest_terminate_timeout = 2m\nrequest_slowlog_timeout = 5\nslowlog = \"/var/log/$pool.slow\"\nphp_admin_value[error_log] = /var/log/other\n";

#[test]
fn every_setting_of_a_pool_is_read() {
    let root = root(&[("etc/php-fpm.conf", POOL)]);
    let found = discover(root.path());
    let want = Pool {
        name: "shop".to_owned(),
        listen: "/run/php/shop.sock".to_owned(),
        unit: Some("php-fpm.service".to_owned()),
        max_children: Some(40),
        backlog: Some(-1),
        error_log: Some(root.path().join("var/log/fpm.log")),
        slow_log: Some(root.path().join("var/log/shop.slow")),
        php_version: None,
        user: Some("shop".to_owned()),
        group: Some("shops".to_owned()),
        pm: Some("dynamic".to_owned()),
        start_servers: Some(4),
        min_spare_servers: Some(2),
        max_spare_servers: Some(8),
        max_requests: Some(500),
        process_idle_timeout_s: Some(10),
        request_terminate_timeout_s: Some(120),
        request_slowlog_timeout_s: Some(5),
        status_path: Some("/status".to_owned()),
        status_listen: Some("/run/php/shop-status.sock".to_owned()),
        source: format!("{}:3", root.path().join("etc/php-fpm.conf").display()),
    };
    assert_eq!(found.pools, [want]);
    assert_eq!(log(&found, "fpm.log").kind, LogKind::PhpFpm);
    assert_eq!(log(&found, "shop.slow").kind, LogKind::PhpSlow);
    let json = render::render_json(&found);
    assert_eq!(json["pools"][0]["max_spare_servers"], 8);
    assert_eq!(json["pools"][0]["request_terminate_timeout_s"], 120);
}

#[test]
fn pools_are_found_where_each_panel_keeps_them() {
    for (path, unit, version) in [
        ("etc/php/8.2/fpm/pool.d/a.conf", "php8.2-fpm.service", Some("8.2")),
        ("etc/php-fpm.d/a.conf", "php-fpm.service", None),
        ("etc/opt/remi/php83/php-fpm.d/a.conf", "php83-php-fpm.service", Some("8.3")),
        ("opt/cpanel/ea-php81/root/etc/php-fpm.d/a.conf", "ea-php81-php-fpm.service", Some("8.1")),
        ("opt/plesk/php/8.0/etc/php-fpm.d/a.conf", "plesk-php8.0-fpm.service", Some("8.0")),
        ("etc/php82rc/fpm.d/a.conf", "php82rc-fpm.service", Some("8.2")),
        ("www/server/php/74/etc/php-fpm.conf", "php-fpm-74.service", Some("7.4")),
        ("opt/alt/php-fpm82/usr/etc/php-fpm.conf", "php-fpm82.service", Some("8.2")),
        ("usr/local/php80/etc/php-fpm.conf", "php-fpm80.service", Some("8.0")),
    ] {
        let root = root(&[(path, "[a]\nlisten = 127.0.0.1:9000\n")]);
        let found = discover(root.path());
        let pool = found.pools.first().unwrap_or_else(|| panic!("no pool of {path}"));
        assert_eq!(pool.unit.as_deref(), Some(unit), "{path}");
        assert_eq!(pool.php_version.as_deref(), version, "{path}");
        assert_eq!(found.pools.len(), 1, "{path}");
    }
}

#[test]
fn a_pool_gives_its_sites_their_php_and_their_owner() {
    let root = root(&[
        (
            "etc/nginx/nginx.conf",
            "http { server { server_name a.example; location / { fastcgi_pass unix:/var/run/php/shop.sock; } } }",
        ),
        ("etc/php/8.3/fpm/pool.d/shop.conf", "[shop]\nuser = shop\nlisten = /run/php/shop.sock\n"),
    ]);
    let found = discover(root.path());
    let site = site(&found, "a.example");
    assert_eq!(site.pool.as_deref(), Some("shop"));
    assert_eq!(site.php_version.as_deref(), Some("8.3"));
    assert_eq!(site.owner.as_deref(), Some("shop"));
    assert!(
        found.config_files.contains(&root.path().join("etc/php/8.3/fpm/pool.d")),
        "a new pool is seen"
    );
}

#[test]
fn relative_paths_of_a_pool_are_below_its_prefix() {
    let pool = "[a.example]\nlisten = php-fpm.sock\nslowlog = logs/slow.log\nrequest_slowlog_timeout = 5s\nprefix = /var/www/vhosts/system/$pool\n[port]\nprefix = /srv\nlisten = 9001\n[address]\nprefix = /srv\nlisten = 127.0.0.1:9002\n[none]\nlisten = own.sock\nslowlog = slow.log\n";
    let root = root(&[("opt/plesk/php/8.2/etc/php-fpm.d/a.conf", pool)]);
    let found = discover(root.path());
    let listen: Vec<&str> = found.pools.iter().map(|pool| pool.listen.as_str()).collect();
    let socket = "/var/www/vhosts/system/a.example/php-fpm.sock";
    assert_eq!(listen, [socket, "9001", "127.0.0.1:9002", "own.sock"]);
    let slow = root.path().join("var/www/vhosts/system/a.example/logs/slow.log");
    assert_eq!(found.pools[0].slow_log.as_ref(), Some(&slow));
    assert_eq!(found.pools[3].slow_log, None, "below a folder nobody knows");
}
