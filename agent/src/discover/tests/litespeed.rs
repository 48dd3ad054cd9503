//! OpenLiteSpeed: vhosts, templates, listeners and processors.

use super::*;

const MAIN: &str = r"serverName box
user nobody
errorlog logs/error.log {
  logLevel DEBUG
}
accesslog logs/access.log {
  rollingSize 10M
}
extprocessor lsphp {
  type lsapi
  address uds://tmp/lshttpd/lsphp.sock
  path lsphp74/bin/lsphp
}
scripthandler {
  add lsapi:lsphp php
}
virtualHost a.example {
  vhRoot /users/$VH_NAME
  configFile $SERVER_ROOT/conf/vhosts/$VH_NAME/vhost.conf
  allowSymbolLink 1
}
virtualHost b {
  vhRoot /srv/b
  configFile conf/vhosts/b/vhconf.conf
}
vhTemplate central {
  templateFile conf/templates/central.conf
  listeners Default
  member c {
    vhDomain c.example
    vhAliases www.c.example
  }
}
listener Default {
  address *:80
  secure 0
  map a.example a.example
  map b b.example, www.b.example
}
";

const A: &str = r#"docRoot $VH_ROOT/public_html
vhDomain $VH_NAME
vhAliases www.$VH_NAME
errorlog $VH_ROOT/logs/$VH_NAME.error_log {
  useServer 0
}
accesslog $VH_ROOT/logs/$VH_NAME.access_log {
  useServer 0
  logFormat "%v %h %l %u %t "%r" %>s %b"
}
scripthandler  {
  add lsapi:auser php
}
extprocessor auser {
  type lsapi
  address UDS://tmp/lshttpd/auser.sock
  extUser auser
  path /usr/local/lsws/lsphp83/bin/lsphp
}
rewrite {
  rules <<<END_rules
accesslog /nowhere {
  END_rules
}
"#;

#[test]
fn vhosts_templates_and_maps_are_sites() {
    let root = root(&[
        ("usr/local/lsws/conf/httpd_config.conf", MAIN),
        ("usr/local/lsws/conf/vhosts/a.example/vhost.conf", A),
        (
            "usr/local/lsws/conf/vhosts/b/vhconf.conf",
            "docRoot $VH_ROOT/html\naccesslog /x {\n useServer 1\n}\nextprocessor app {\n type proxy\n address http://127.0.0.1:3000\n}\ncontext / {\n type proxy\n handler app\n}\n",
        ),
        (
            "usr/local/lsws/conf/templates/central.conf",
            "vhRoot /srv/$VH_NAME\nvirtualHostConfig {\n docRoot $VH_ROOT/web\n accesslog $VH_ROOT/a.log {\n useServer 0\n }\n}\n",
        ),
    ]);
    let found = discover(root.path());
    let format = "%v %h %l %u %t \"%r\" %>s %b";
    let errors = "usr/local/lsws/logs/error.log";
    for (name, want) in [
        (
            "a.example",
            format!(
                "www.a.example > /tmp/lshttpd/auser.sock | users/a.example/logs/a.example.access_log={format} | users/a.example/logs/a.example.error_log"
            ),
        ),
        (
            "b.example",
            format!(
                "www.b.example > 127.0.0.1:3000 | usr/local/lsws/logs/access.log=litespeed | {errors}"
            ),
        ),
        (
            "c.example",
            format!("www.c.example > /tmp/lshttpd/lsphp.sock | srv/c/a.log=litespeed | {errors}"),
        ),
    ] {
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    let a = site(&found, "a.example");
    assert_eq!((a.php_version.as_deref(), a.owner.as_deref()), (Some("8.3"), Some("auser")));
    assert_eq!(a.docroot, Some(root.path().join("users/a.example/public_html")));
    assert_eq!(log(&found, "a.example.error_log").format, "litespeed_error");
}

#[test]
fn vhosts_are_found_without_the_main_file() {
    let root = root(&[("usr/local/lsws/conf/vhosts/d.example/vhost.conf", A)]);
    let found = discover(root.path());
    assert_eq!(site(&found, "d.example").aliases, ["www.d.example"]);
}
