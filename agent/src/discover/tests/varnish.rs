//! Varnish: VCL, unit files, and what varnishncsa writes.

use super::*;

const VCL: &str = r#"
vcl 4.1;
import directors;
// backend commented { .host = "192.0.2.9"; }
backend default { .host = "127.0.0.1"; .port = "8080"; .probe = { .url = "/"; .timeout = 1s; } }
backend far { .host = "198.51.100.5"; }
backend socket { .path = "/run/app.sock"; }
sub vcl_init { new all = directors.round_robin(); all.add_backend(far); all.add_backend(socket); }
sub vcl_recv {
    if (req.http.host == "a.example" || req.http.Host ~ "^(www\.)?b\.example$") {
        set req.backend_hint = all.backend();
    } elsif (req.http.host ~ "(^|\.)c\.example$") {
        set req.backend_hint = socket;
    }
    if (req.http.host == "d.example") {
        return (synth(503, "Back soon"));
    }
}
"#;

const UNIT: &str = "[Service]\nExecStart=/usr/sbin/varnishd \\\n  -a http=:6081,HTTP -a /run/v.sock,PROXY \\\n  -f /etc/varnish/own.vcl -s malloc,256m\n";

#[test]
fn its_sites_come_from_the_vcl_and_its_address_from_the_unit() {
    let root = root(&[
        ("etc/varnish/own.vcl", VCL),
        ("lib/systemd/system/varnish.service", UNIT),
        ("var/log/varnish/varnishncsa.log", ""),
    ]);
    let found = discover(root.path());
    for (name, want) in [
        ("a.example", "b.example,www.b.example > 198.51.100.5:80"),
        ("c.example", "*.c.example > /run/app.sock"),
        ("d.example", " > -"),
        ("varnish", " > 127.0.0.1:8080"),
    ] {
        let want = format!("{want} | var/log/varnish/varnishncsa.log=varnish | ");
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    assert_eq!(log(&found, "varnishncsa.log").site, SiteRule::Host, "its %r names the host");
}

#[test]
fn its_log_counts_only_when_something_writes_it() {
    let logger = "[Service]\nExecStart=/usr/bin/varnishncsa -a -w /var/log/v.log -F '%{Host}i %h \"%r\" %s' -D\n";
    let root = root(&[
        ("etc/varnish/default.vcl", VCL),
        ("usr/lib/systemd/system/varnishncsa.service", logger),
    ]);
    let found = discover(root.path());
    assert!(found.logs.is_empty(), "{:?}", found.logs);
    let wants = root.path().join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    fs::write(wants.join("varnishncsa.service"), logger).unwrap();
    let found = discover(root.path());
    assert_eq!(found.logs[0].path, root.path().join("var/log/v.log"));
    assert_eq!(found.logs[0].format, "%{Host}i %h \"%r\" %s");
}
