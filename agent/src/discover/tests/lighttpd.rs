//! lighttpd: conditions on the host, formats, backends, includes, and what it would run.

use super::*;

const CONFIG: &str = r#"
server.modules = ( "mod_access", "mod_accesslog", "mod_proxy" )
var.logs = "/var/log/lighttpd"
server.document-root = "/var/www/html"
server.errorlog = var.logs + "/error.log"
accesslog.filename = var.logs + "/access.log"
server.port = 8080
include_shell "/usr/share/lighttpd/create-mime.conf.pl"
include_shell "/usr/local/bin/make-config"
include "conf-enabled/*.conf"
$HTTP["host"] == "a.example" {
    accesslog.filename = "/var/log/lighttpd/a.log"
    accesslog.format = "%h %l %u %t \"%r\" %>s %b"
    $HTTP["url"] =~ "^/app" {
        proxy.server = ( "" => ( ( "host" => "127.0.0.1", "port" => 3000 ) ) )
    }
}
else $HTTP["host"] =~ "^(www\.)?b\.example$"
{
    fastcgi.server += ( ".php" => (
        "localhost" => ( "socket" => "/run/php/b.sock", "broken-scriptfilename" => "enable" )
    ) )
}
$SERVER["socket"] == ":443" { ssl.engine = "enable" }
"#;

#[test]
fn conditions_on_the_host_are_vhosts() {
    let root = root(&[
        ("etc/lighttpd/lighttpd.conf", CONFIG),
        (
            "etc/lighttpd/conf-enabled/c.conf",
            "$HTTP[\"host\"] == \"c.example\" { accesslog.filename = \"|/usr/sbin/cronolog /var/log/c.%Y%m%d.log\" proxy.server = ( \"\" => (( \"host\" => \"198.51.100.3\" )) ) }",
        ),
    ]);
    let found = discover(root.path());
    assert_eq!(names(&found), ["a.example", "b.example", "c.example", "default"]);
    let main =
        "var/log/lighttpd/access.log=%h %V %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"";
    for (name, want) in [
        (
            "a.example",
            " > 127.0.0.1:3000 | var/log/lighttpd/a.log=%h %l %u %t \"%r\" %>s %b | var/log/lighttpd/error.log".to_owned(),
        ),
        ("b.example", format!("www.b.example > /run/php/b.sock | {main} | var/log/lighttpd/error.log")),
        ("default", format!(" > - | {main} | var/log/lighttpd/error.log")),
    ] {
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    let c = site(&found, "c.example");
    assert_eq!((c.upstream.as_deref(), c.pool.as_deref()), (Some("198.51.100.3:80"), None));
    assert!(c.access_logs[0].path.ends_with("var/log/c.*.log"));
    assert_eq!(log(&found, "a.log").site, SiteRule::Fixed("a.example".to_owned()));
    assert_eq!(log(&found, "access.log").site, SiteRule::Host, "%V names it");
    assert_eq!(log(&found, "error.log").format, "lighttpd_error");
    let run: Vec<&Unreadable> =
        found.unreadable.iter().filter(|u| u.reason.contains("nothing is run")).collect();
    assert!(run.len() == 1 && run[0].reason.contains("make-config"), "{run:?}");
}
