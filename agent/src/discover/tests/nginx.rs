//! nginx: names, logs whose path speaks of the vhost, inheritance, groups.

use super::*;

fn with(servers: &str) -> tempfile::TempDir {
    let text = format!("http {{ access_log /var/log/nginx/access.log; {servers} }}");
    root(&[("etc/nginx/nginx.conf", &text), ("var/log/nginx/access.log", "")])
}

#[test]
fn names_of_every_kind_become_a_site_and_its_aliases() {
    for (names_text, site, aliases) in [
        ("A.Example www.a.example", "a.example", &["www.a.example"][..]),
        ("*.a.example a.example", "a.example", &["*.a.example"]),
        (".a.example", "a.example", &["*.a.example"]),
        ("www.a.*", "www.a.*", &[]),
        (r"~^(?<sub>.+)\.A\.example$", r"~^(?<sub>.+)\.A\.example$", &[]),
        (r#""~^x{2}\.example$" b.example"#, "b.example", &[]),
        ("_", "default", &[]),
        ("\"\"", "default", &[]),
        ("", "default", &[]),
    ] {
        let root = with(&format!("server {{ server_name {names_text}; }}"));
        let found = discover(root.path());
        assert_eq!(names(&found), [site], "{names_text}");
        assert_eq!(found.sites[0].aliases, aliases, "{names_text}");
    }
}

#[test]
fn logs_named_by_variables_tell_their_site() {
    let root = with(
        "server { server_name a.example; access_log /var/log/nginx/$server_name.log; }
         server { server_name b.example; access_log /var/log/nginx/${host}-access.log; }
         server { server_name c.example; set $name own; access_log /var/log/nginx/$name.log; }
         server { server_name d.example; access_log /var/log/nginx/d-$year$month.log; }
         server { server_name e.example; access_log /var/log/$hostname/x/$http_host/a.log; }",
    );
    let found = discover(root.path());
    for (end, rule) in [
        ("nginx/a.example.log", "a.example"),
        ("nginx/*-access.log", "{1}"),
        ("nginx/own.log", "c.example"),
        ("nginx/d-*.log", "d.example"),
        ("x/*/a.log", "{2}"),
    ] {
        assert_eq!(log(&found, end).site, SiteRule::Fixed(rule.to_owned()), "{end}");
    }
    let first_pattern = found.logs.iter().position(|l| l.path.to_string_lossy().contains('*'));
    let last_plain = found
        .logs
        .iter()
        .rposition(|l| l.kind == LogKind::Access && !l.path.to_string_lossy().contains('*'));
    assert!(first_pattern > last_plain, "a log named elsewhere is what it is there");
}

#[test]
fn locations_conditions_and_groups_say_who_answers() {
    let root = with(
        "upstream php { server unix:/run/php/php8.1-fpm.sock weight=5; server 127.0.0.1:9001; }
         server { server_name a.example; location / { proxy_pass http://127.0.0.1:1; location ~ \\.php$ { fastcgi_pass php; } } }
         server { server_name b.example; location / { if ($x) { access_log /var/log/nginx/if.log; uwsgi_pass unix:/run/u.sock; } } }
         server { server_name c.example; location / { grpc_pass grpcs://[2001:db8::1]; } location /x { error_log /var/log/nginx/x.error.log; root /srv/c; } }
         server { server_name d.example; set $up 127.0.0.1:77; location / { proxy_pass http://$up; } }
         server { server_name e.example; location / { proxy_pass http://$unknown; } }
         server { server_name f.example; access_log /var/log/nginx/f.gz combined gzip; location / { scgi_pass localhost:4000; } }",
    );
    let found = discover(root.path());
    let access = "var/log/nginx/access.log=combined";
    let error = "var/log/nginx/error.log";
    for (name, want) in [
        ("a.example", format!(" > /run/php/php8.1-fpm.sock | {access} | {error}")),
        ("b.example", format!(" > /run/u.sock | {access} var/log/nginx/if.log=combined | {error}")),
        (
            "c.example",
            format!(" > [2001:db8::1]:443 | {access} | {error} var/log/nginx/x.error.log"),
        ),
        ("d.example", format!(" > 127.0.0.1:77 | {access} | {error}")),
        ("e.example", format!(" > - | {access} | {error}")),
        ("f.example", format!(" > 127.0.0.1:4000 |  | {error}")),
    ] {
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    assert_eq!(site(&found, "a.example").php_version.as_deref(), Some("8.1"));
    assert_eq!(site(&found, "c.example").docroot, Some(root.path().join("srv/c")));
    assert!(found.unreadable.iter().any(|u| u.reason.contains("compressed")));
}

#[test]
fn every_main_file_of_a_machine_is_read() {
    let server = |name: &str| format!("http {{ server {{ server_name {name}; }} }}");
    let root = root(&[
        ("etc/nginx/nginx.conf", &server("a.example")),
        ("etc/nginx-rc/nginx.conf", &server("b.example")),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example", "b.example"]);
    assert_eq!(found.services, ["nginx-rc.service", "nginx.service"]);
}

#[test]
fn a_link_below_a_root_means_a_file_below_it() {
    let root = root(&[
        ("etc/nginx/nginx.conf", "http { include /etc/nginx/sites-enabled/*; }"),
        ("etc/nginx/sites-available/a", "server { server_name a.example; }"),
        ("etc/nginx/sites-enabled/.hidden", "server { server_name h.example; }"),
    ]);
    let link = root.path().join("etc/nginx/sites-enabled/a");
    std::os::unix::fs::symlink("/etc/nginx/sites-available/a", link).unwrap();
    assert_eq!(names(&discover(root.path())), ["a.example"]);
}
