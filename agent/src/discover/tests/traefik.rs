//! Traefik: static and dynamic configuration, in YAML and TOML.

use super::*;

#[test]
fn routers_are_sites_with_the_servers_of_their_service() {
    let root = root(&[
        (
            "etc/traefik/traefik.toml",
            "[accessLog]\nfilePath = \"/var/log/traefik/access.log\"\n[log]\nfilePath = \"/var/log/traefik/t.log\"\n[entryPoints.web]\naddress = \":80\"\n[providers.file]\ndirectory = \"/etc/traefik/dynamic/\"\n",
        ),
        (
            "etc/traefik/dynamic/a.yml",
            "http:\n  routers:\n    Shop:\n      rule: \"Host(`a.example`) || Host(`www.a.example`)\" # two\n      entryPoints: [web]\n      service: app@file\n  services:\n    app:\n      loadBalancer:\n        servers:\n        - url: \"http://127.0.0.1:3000\"\n        - url: https://198.51.100.2/\n",
        ),
        (
            "etc/traefik/dynamic/b.toml",
            "[http.routers.b]\nrule = \"PathPrefix(`/`)\"\nservice = \"far\"\n[[http.services.far.loadBalancer.servers]]\nurl = \"https://198.51.100.2\"\n",
        ),
    ]);
    let found = discover(root.path());
    let log_text = "var/log/traefik/access.log=traefik";
    assert_eq!(
        shown(root.path(), &found, "a.example"),
        format!("www.a.example > 127.0.0.1:3000 | {log_text} | ")
    );
    assert_eq!(shown(root.path(), &found, "b"), format!(" > 198.51.100.2:443 | {log_text} | "));
    assert!(found.config_files.contains(&root.path().join("etc/traefik/dynamic")));
    let note = found.unreadable.iter().find(|u| u.reason.contains("2 sites"));
    assert!(note.is_some_and(|note| note.fix.contains("format: json")), "CLF names no host");
}
