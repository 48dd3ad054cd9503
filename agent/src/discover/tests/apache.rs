//! Apache: pipes, macros, conditions, balancers, and what every vhost logs.

use super::*;

fn with(text: &str) -> tempfile::TempDir {
    root(&[("etc/httpd/conf/httpd.conf", text)])
}

#[test]
fn a_folder_a_vhost_is_followed_through_its_link_once() {
    let root = root(&[
        (
            "etc/apache2/apache2.conf",
            "LogFormat \"%v %h %l %u %t \\\"%r\\\" %>s %O\" combined_isp\nCustomLog \"| /usr/local/isp/vlogger -s access.log -t \\\"%Y%m%d-access.log\\\" -d \\\"/etc/v.conf\\\" /var/log/isp/httpd\" combined_isp\n<VirtualHost *:80>\nServerName a.example\nErrorLog /var/log/isp/httpd/a.example/error.log\n</VirtualHost>\n<VirtualHost *:80>\nServerName b.example\n</VirtualHost>\n",
        ),
        ("var/log/isp/httpd/a.example/20261130-access.log", ""),
        ("var/log/isp/httpd/a.example/20261129-access.log", ""),
        ("var/log/isp/httpd/b.example/20261130-access.log", ""),
    ]);
    for site in ["a", "b"] {
        let link = root.path().join(format!("var/log/isp/httpd/{site}.example/access.log"));
        std::os::unix::fs::symlink("20261130-access.log", link).unwrap();
    }
    let found = discover(root.path());
    let log = log(&found, "httpd/*/access.log");
    assert_eq!(log.format, "%h %l %u %t \"%r\" %>s %O", "the program takes the vhost off");
    let config = crate::config::LogsConfig::default();
    let followed = crate::logs::sources::expand(&config, &found.logs).logs;
    let access: Vec<_> = followed.iter().filter(|log| log.kind == LogKind::Access).collect();
    let sites: Vec<_> = access.iter().map(|log| &log.site).collect();
    let of = |site: &str| SiteRule::Fixed(site.to_owned());
    assert_eq!(sites, [&of("a.example"), &of("b.example")], "{access:?}");
}

#[test]
fn of_logs_cut_by_the_day_the_newest_are_followed() {
    let root = with(
        "<VirtualHost *:80>\nServerName a.example\nCustomLog \"|/usr/sbin/rotatelogs /var/log/httpd/a.%Y%m%d 86400\" combined\n</VirtualHost>\n",
    );
    let folder = root.path().join("var/log/httpd");
    fs::create_dir_all(&folder).unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let first = std::time::UNIX_EPOCH + 20_000 * day;
    for n in 0..30 {
        let file = fs::File::create(folder.join(format!("a.202611{:02}", n + 1))).unwrap();
        file.set_modified(first + n * day).unwrap();
    }
    let found = discover(root.path());
    let config = crate::config::LogsConfig::default();
    let followed = crate::logs::sources::expand(&config, &found.logs).logs;
    let kept: Vec<_> = followed.iter().filter(|log| log.kind == LogKind::Access).collect();
    assert_eq!(kept.len(), 3, "the newest and two days before it: {kept:?}");
    assert!(kept.iter().all(|log| log.site == SiteRule::Fixed("a.example".to_owned())));
}

const EVERYTHING: &str = r#"
ServerRoot "/etc/httpd"
Listen 80
Listen 8443
Define BASE /var/log/sites
Define LOGS ${BASE}/all
<Macro Site $name $port>
  <VirtualHost *:80>
    ServerName $name
    ServerAlias www.$name
    CustomLog ${LOGS}/$name.log combined
    RewriteRule ^/(.*) http://127.0.0.1:$port/$1 [P,L]
    ProxyPassReverse / http://127.0.0.1:9/
  </VirtualHost>
</Macro>
Use Site a.example 3000
USE site b.example 3001
<IfDefine !BASE>
  <VirtualHost *:80>
    ServerName no.example
  </VirtualHost>
</IfDefine>
<VirtualHost *>
  ServerName c.example
  SuexecUserGroup carol users
  RewriteRule ^/old /new [R=301]
  TransferLog logs/c.log
  ErrorLog "|/usr/sbin/rotatelogs -L /var/log/c.error.log /var/log/c.%Y 86400"
  <Location "/api">
    ProxyPass balancer://app/api
  </Location>
</VirtualHost>
<Proxy balancer://app>
  BalancerMember ajp://127.0.0.1:8009 route=1
</Proxy>
GlobalLog /var/log/global.log vhost_combined
<IfModule log_config_module>
  LogFormat "%h \"%r\" %>s" combined
</IfModule>
<VirtualHost *:80>
  ServerName d.example
  CustomLog "|/usr/bin/logger -t httpd" combined
  CustomLog /var/log/d-bytes_log "%I %O"
</VirtualHost>
"#;

#[test]
fn macros_conditions_and_main_settings_reach_the_vhosts() {
    let root = with(EVERYTHING);
    let found = discover(root.path());
    let global =
        "var/log/global.log=%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"";
    let own = "=%h \"%r\" %>s";
    for (name, want) in [
        (
            "a.example",
            format!(
                "www.a.example > 127.0.0.1:3000 | var/log/sites/all/a.example.log{own} {global} | "
            ),
        ),
        (
            "b.example",
            format!(
                "www.b.example > 127.0.0.1:3001 | var/log/sites/all/b.example.log{own} {global} | "
            ),
        ),
        (
            "c.example",
            format!(
                " > 127.0.0.1:8009 | etc/httpd/logs/c.log=%h %l %u %t \"%r\" %>s %b {global} | var/log/c.error.log"
            ),
        ),
        ("d.example", format!(" > - | {global} | ")),
    ] {
        assert_eq!(shown(root.path(), &found, name), want, "{name}");
    }
    assert_eq!(site(&found, "c.example").owner.as_deref(), Some("carol"));
    assert_eq!(names(&found).len(), 4, "what is inside <IfDefine !NAME> is not there");
    assert!(found.unreadable.iter().any(|u| u.reason.contains("logger -t httpd")));
}

#[test]
fn a_handler_that_is_added_by_extension_is_who_answers() {
    let root = with(
        "<VirtualHost *:80>\nServerName a.example\nProxyPass /push http://127.0.0.1:3000/\n<FilesMatch \"\\.(inc|php)$\">\nAddHandler \"proxy:unix:/run/php/a.sock|fcgi://localhost\" .inc .php\n</FilesMatch>\nAddHandler cgi-script .cgi\n</VirtualHost>\n",
    );
    assert_eq!(site(&discover(root.path()), "a.example").pool.as_deref(), Some("/run/php/a.sock"));
}

#[test]
fn a_relative_root_finds_the_same() {
    let root = with(
        "Include conf.d/*.conf\nCustomLog logs/access_log combined\n<VirtualHost *:80>\nServerName a.example\n</VirtualHost>\n",
    );
    let here = std::env::current_dir().unwrap();
    let above = "../".repeat(here.components().count() - 1);
    let relative = Path::new(&above).join(root.path().strip_prefix("/").unwrap());
    assert!(relative.is_relative() && relative.exists());
    let found = discover(&relative);
    let log = &site(&found, "a.example").access_logs[0].path;
    assert!(log.is_absolute() && log.ends_with("etc/httpd/logs/access_log"), "{log:?}");
    assert!(found.config_files.iter().all(|path| path.is_absolute()));
}
