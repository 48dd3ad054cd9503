//! What runs in a document root, and whose it is; and the JSON that tells.

use std::os::unix::fs::MetadataExt as _;

use super::*;

#[test]
fn applications_are_named_with_their_version() {
    for (files, want) in [
        (
            &[("wp-includes/version.php", "<?php\n$wp_version = '6.4.2';\n")][..],
            Some("WordPress 6.4.2"),
        ),
        (&[("wp-config.php", "")], Some("WordPress")),
        (
            &[(
                "administrator/manifests/files/joomla.xml",
                "<extension>\n<version>5.0.1</version>",
            )],
            Some("Joomla 5.0.1"),
        ),
        (
            &[("core/lib/Drupal.php", "class Drupal {\n  const VERSION = '10.2.0';\n")],
            Some("Drupal 10.2.0"),
        ),
        (&[("includes/bootstrap.inc", "define('VERSION', '7.99');")], Some("Drupal 7.99")),
        (
            &[("bin/magento", ""), ("composer.json", "{\"version\": \"2.4.6\"}")],
            Some("Magento 2.4.6"),
        ),
        (
            &[("app/AppKernel.php", "class PrestaShop { const VERSION = '8.1.2';")],
            Some("PrestaShop 8.1.2"),
        ),
        (&[("app/AppKernel.php", "class Own { const VERSION = '3.4.0';")], None),
        (&[("index.html", "")], None),
    ] {
        let mut all: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("srv/a/{path}"), *text)).collect();
        all.push((
            "etc/nginx/nginx.conf".to_owned(),
            "http { server { server_name a.example; root /srv/a; } }",
        ));
        let all: Vec<(&str, &str)> =
            all.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let root = root(&all);
        let found = discover(root.path());
        assert_eq!(site(&found, "a.example").application.as_deref(), want, "{files:?}");
    }
}

#[test]
fn the_owner_is_who_owns_the_document_root() {
    let root = root(&[
        ("etc/nginx/nginx.conf", "http { server { server_name a.example; root /srv/a; } }"),
        ("srv/a/index.html", ""),
    ]);
    let uid = fs::metadata(root.path().join("srv/a")).unwrap().uid();
    fs::write(root.path().join("etc/passwd"), format!("bob:x:{uid}:1::/:\n")).unwrap();
    assert_eq!(site(&discover(root.path()), "a.example").owner.as_deref(), Some("bob"));
}

#[test]
fn the_json_has_the_shape_of_the_contract() {
    let root = root(&[
        (
            "etc/nginx/nginx.conf",
            "http { server { server_name a.example www.a.example; root /srv/a; access_log /var/log/a.log; error_log /var/log/a.error.log; location / { fastcgi_pass 127.0.0.1:9000; } } }",
        ),
        ("srv/a/wp-includes/version.php", "$wp_version = '6.4.2';"),
        (
            "etc/php/8.2/fpm/pool.d/www.conf",
            "[www]\nlisten = 127.0.0.1:9000\npm.max_children = 5\n",
        ),
    ]);
    let found = discover(root.path());
    let json = render::render_json(&found);
    let mut written = Vec::new();
    render::write_json(&found, &mut written).unwrap();
    let text: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(text, json, "made piece by piece or as a whole");
    let path = |path: &str| root.path().join(path).display().to_string();
    let site = &json["sites"][0];
    assert_eq!(site["site"], "a.example");
    assert_eq!(site["aliases"], serde_json::json!(["www.a.example"]));
    let path_of_log = path("var/log/a.log");
    let logs = serde_json::json!([{"path": path_of_log, "format": "combined", "inner": false}]);
    assert_eq!(site["access_logs"], logs);
    assert_eq!(site["error_logs"], serde_json::json!([path("var/log/a.error.log")]));
    assert_eq!(site["pool"], "www");
    assert!(site["upstream"].is_null());
    assert_eq!(site["application"], "WordPress 6.4.2");
    assert_eq!(site["php_version"], "8.2");
    assert_eq!(site["docroot"], path("srv/a"));
    assert!(site.get("owner").is_some());
    assert_eq!(site["source"], format!("{}:1", path("etc/nginx/nginx.conf")));
    assert_eq!(json["pools"][0]["max_children"], 5);
    assert!(json["services"].as_array().unwrap().contains(&"php8.2-fpm.service".into()));
    for entry in json["unreadable"].as_array().unwrap() {
        assert!(
            entry["path"].is_string() && entry["reason"].is_string() && entry["fix"].is_string()
        );
    }
}
