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

#[test]
fn a_target_of_variables_is_read_up_to_its_uri() {
    for (body, answers) in [
        (
            "set $up http://127.0.0.1:9999; location / { proxy_pass $up$request_uri; }",
            "127.0.0.1:9999",
        ),
        (
            "set $up http://127.0.0.1:9999; location / { proxy_pass ${up}/x$is_args$args; }",
            "127.0.0.1:9999",
        ),
        ("location / { proxy_pass http://app$request_uri; }", "127.0.0.1:3000"),
        ("location ~ ^/(.*) { proxy_pass http://127.0.0.1$1; }", "127.0.0.1:80"),
        ("set $b $a; set $a 127.0.0.1:77; location / { proxy_pass http://$b; }", "127.0.0.1:77"),
        ("set $up 127.0.0.1; location / { proxy_pass http://$upstream; }", "-"),
        ("location / { proxy_pass http://app$suffix; }", "-"),
        ("location / { proxy_pass $scheme://127.0.0.1:${scheme}1; }", "-"),
        ("location / { proxy_pass $scheme://127.0.0.1; }", "127.0.0.1:80"),
        ("location / { proxy_pass $scheme://to_$scheme; }", "127.0.0.1:81"),
        ("set $a $a$a; location / { proxy_pass http://$a; }", "-"),
    ] {
        let groups = "upstream app { server 127.0.0.1:3000; } upstream to_http { server 127.0.0.1:81; } upstream to_https { server 127.0.0.1:444; }";
        let root = with(&format!("{groups} server {{ server_name a.example; {body} }}"));
        let found = discover(root.path());
        let site = site(&found, "a.example");
        assert_eq!(site.pool.as_deref().unwrap_or("-"), answers, "{body}");
    }
}

#[test]
fn a_socket_with_slashes_before_it_is_a_path() {
    for body in [
        "location / { proxy_pass http://own; }",
        "location / { uwsgi_pass unix:///srv/my.sock; }",
        "location / { fastcgi_pass unix:/srv/my.sock; }",
        "location / { proxy_pass http://unix:/srv/my.sock:/uri; }",
    ] {
        let group = "upstream own { server unix:///srv/my.sock; }";
        let root = with(&format!("{group} server {{ server_name a.example; {body} }}"));
        let found = discover(root.path());
        assert_eq!(site(&found, "a.example").pool.as_deref(), Some("/srv/my.sock"), "{body}");
    }
}
