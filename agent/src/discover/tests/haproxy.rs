//! HAProxy: hosts of its conditions, whom it asks, and where syslog puts what it says.

use super::*;

const CONFIG: &str = r"
global
    log /dev/log local0
defaults
    mode http
    log global
    option httplog
frontend web
    bind *:80,:8080
    bind *:443 ssl crt /etc/ssl/a.pem # comment
    capture request header Host len 64
    acl is_a hdr(host) -i A.example www.a.example
    acl is_below hdr_end(host) -i .b.example
    acl is_api path_beg /api
    acl is_r hdr(host) -m reg ^(www\.)?r\.example$
    use_backend app if is_a is_api
    use_backend app if is_a
    use_backend far if is_below or { req.hdr(host) -i c.example }
    use_backend %[req.hdr(host),lower,map(/etc/haproxy/hosts.map,rest)]
    redirect scheme https if is_r
    default_backend rest
backend app
    server s1 127.0.0.1:3000 check
    server s2 127.0.0.1:3001 check backup
backend far
    server s1 198.51.100.7:80 check
backend rest
    server s1 unix@/run/rest.sock
listen stats :9000
    no log
    server none 127.0.0.1:1
";

#[test]
fn hosts_of_conditions_are_sites_and_the_rest_goes_to_the_default_backend() {
    let root = root(&[
        ("etc/haproxy/haproxy.cfg", CONFIG),
        ("etc/haproxy/hosts.map", "# hosts\nm.example app\nn.example   rest\n"),
        ("var/log/haproxy.log", ""),
    ]);
    let found = discover(root.path());
    assert_eq!(
        names(&found),
        ["a.example", "c.example", "m.example", "n.example", "r.example", "stats", "web"]
    );
    for (name, want) in [
        ("a.example", "www.a.example > 127.0.0.1:3000 | var/log/haproxy.log=haproxy:host=1 | "),
        ("c.example", "*.b.example > 198.51.100.7:80 | var/log/haproxy.log=haproxy:host=1 | "),
        ("m.example", " > 127.0.0.1:3000 | var/log/haproxy.log=haproxy:host=1 | "),
        ("r.example", "www.r.example > /run/rest.sock | var/log/haproxy.log=haproxy:host=1 | "),
        ("web", " > /run/rest.sock | var/log/haproxy.log=haproxy:host=1 | "),
        ("stats", " > 127.0.0.1:1 |  | "),
    ] {
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    let log = log(&found, "haproxy.log");
    assert_eq!(
        (log.format.as_str(), &log.site, log.inner),
        ("haproxy:host=1", &SiteRule::Host, false)
    );
    assert_eq!(found.services, ["haproxy.service"]);
    assert!(found.config_files.contains(&root.path().join("etc/haproxy/hosts.map")));
}

#[test]
fn a_log_that_nobody_can_follow_is_listed() {
    for (global, own, is_listed) in [
        ("log stdout format raw local0", "log global", true),
        ("log /dev/log local0", "log global", false),
        ("log stdout local0\nlog /dev/log local0", "log global", false),
        ("", "log stderr local0", true),
    ] {
        let text = format!("global\n{global}\nlisten a\nbind :80\n{own}\nserver a 127.0.0.1:1\n");
        let root = root(&[("etc/haproxy/haproxy.cfg", &text)]);
        let found = discover(root.path());
        assert_eq!(
            found.unreadable.iter().any(|u| u.reason.contains("no syslog")),
            is_listed,
            "{text}"
        );
        assert_eq!(found.logs.is_empty(), is_listed, "{text}");
    }
}

#[test]
fn its_log_is_where_syslog_writes_it() {
    let config = "global\nlog 127.0.0.1 local2\ndefaults\nlog global\nlisten a\nbind :80\nserver a 127.0.0.1:1\n";
    for (rules, want) in [
        ("local2.*  -/var/log/lb.log\n", "var/log/lb.log"),
        (
            "$AddUnixListenSocket /var/lib/haproxy/dev/log\n:programname, startswith, \"haproxy\" {\n  /var/log/own.log\n  stop\n}\n",
            "var/log/own.log",
        ),
        (
            "if $programname == 'haproxy' then action(type=\"omfile\" file=\"/var/log/x.log\")",
            "var/log/x.log",
        ),
        ("*.* /var/log/all.log\n# local2.* /var/log/no.log", "var/log/haproxy.log"),
    ] {
        let root =
            root(&[("etc/haproxy/haproxy.cfg", config), ("etc/rsyslog.d/49-haproxy.conf", rules)]);
        let found = discover(root.path());
        assert_eq!(found.logs[0].path, root.path().join(want), "{rules}");
        assert_eq!(found.logs[0].site, SiteRule::Fixed("a".to_owned()), "one frontend is one site");
    }
}

#[test]
fn the_place_of_the_captured_host_is_handed_over_and_no_other_header_is_taken_for_it() {
    let front = |name: &str, lines: &str| {
        format!("frontend {name}\nbind :80\nlog global\n{lines}\ndefault_backend b\n")
    };
    let (host, agent) =
        ("capture request header Host len 64\n", "capture request header User-Agent len 64\n");
    for (fronts, format) in [
        (front("a", ""), "haproxy"),
        (front("a", host), "haproxy:host=1"),
        (front("a", &format!("{agent}{host}")), "haproxy:host=2"),
        (front("a", agent), "haproxy:host=0"),
        (front("a", "capture response header Server len 9\n"), "haproxy"),
        (
            front(
                "a",
                "http-request capture req.hdr(User-Agent) len 9\nhttp-request capture req.hdr(Host) len 9\n",
            ),
            "haproxy:host=2",
        ),
        (
            front(
                "a",
                "declare capture request len 9\ndeclare capture request len 9\nhttp-request capture req.hdr(host) id 1\n",
            ),
            "haproxy:host=2",
        ),
        (front("a", "tcp-request content capture req.ssl_sni len 9\n"), "haproxy:host=1"),
        (front("a", "") + &front("c", host), "haproxy:host=1"),
        (front("a", agent) + &front("c", host), "haproxy:host=0"),
        (front("a", host) + &front("c", &format!("{agent}{host}")), "haproxy:host=0"),
    ] {
        let text =
            format!("global\nlog /dev/log local0\n{fronts}backend b\nserver a 127.0.0.1:1\n");
        let root = root(&[("etc/haproxy/haproxy.cfg", &text), ("var/log/haproxy.log", "")]);
        let found = discover(root.path());
        assert_eq!(log(&found, "haproxy.log").format, format, "{text}");
        let is_told = found.unreadable.iter().any(|u| u.reason.contains("no line names its site"));
        assert_eq!(is_told, text.contains("frontend c") && format == "haproxy:host=0", "{text}");
    }
}
