//! Row F600: what discovery costs on a hosting machine with 600 vhosts.
//!
//! nginx in front of Apache in front of PHP-FPM, as panels set it up: each vhost in files of its own,
//! with its own logs, its own pool and a WordPress in its document root.

use std::fs;
use std::io;
use std::path::Path;

use harness::instant;

use crate::Bench;
use crate::measure::{output, quantile};
use crate::table::Row;

const N_VHOSTS: usize = 600;
const ROUNDS: usize = 9;
/// What issue and release notes promise.
const MS_MAX: f64 = 200.0;
const MIB_MAX: f64 = 16.0;

/// Time and memory of `discover --json`.
pub(crate) fn f600(bench: &Bench) -> Result<Vec<Row>, String> {
    let root = tempfile::tempdir().map_err(|error| error.to_string())?;
    generate(root.path()).map_err(|error| error.to_string())?;
    let root = root.path().display().to_string();
    let words =
        ["/usr/bin/time", "-f", "peak %M", &bench.agent, "discover", "--json", "--root", &root];
    let mut took = Vec::new();
    let mut peaks = Vec::new();
    for round in 0..=ROUNDS {
        let began = instant();
        let (found, talk) = output(&words)?;
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        check(&found)?;
        let peak = talk.lines().find_map(|line| line.strip_prefix("peak ")?.parse::<f64>().ok());
        // The first round puts the files into the page cache.
        if round > 0 {
            took.push(ms);
            peaks.push(peak.ok_or("time told no number")? / 1024.0);
        }
    }
    Ok(vec![
        Row::alone("F600", "discovery of 600 vhosts", quantile(&mut took, 0.5), "ms", MS_MAX),
        Row::alone("F600", "memory of it", quantile(&mut peaks, 0.5), "MiB", MIB_MAX),
    ])
}

/// Fast and wrong is no figure.
fn check(found: &str) -> Result<(), String> {
    let found: serde_json::Value =
        serde_json::from_str(found).map_err(|error| error.to_string())?;
    let list = |name: &str| found[name].as_array().cloned().unwrap_or_default();
    let is_whole = |site: &serde_json::Value| {
        site["application"] == "WordPress 6.4.2"
            && site["php_version"] == "8.2"
            && site["pool"] == site["owner"]
            && site["access_logs"].as_array().is_some_and(|logs| logs.len() == 2)
    };
    let n_whole = list("sites").iter().filter(|site| is_whole(site)).count();
    if n_whole == N_VHOSTS && list("pools").len() == N_VHOSTS {
        Ok(())
    } else {
        Err(format!("{n_whole} of {N_VHOSTS} sites, {} pools", list("pools").len()))
    }
}

fn generate(root: &Path) -> io::Result<()> {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, text)
    };
    write(
        "etc/nginx/nginx.conf",
        "user www-data;\nerror_log /var/log/nginx/error.log;\nhttp {\n    include /etc/nginx/mime.types;\n    log_format main '$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" \"$http_x_forwarded_for\"';\n    access_log /var/log/nginx/access.log main;\n    include /etc/nginx/sites-enabled/*;\n}\n",
    )?;
    write(
        "etc/nginx/snippets/proxy.conf",
        &"proxy_set_header X-Forwarded-For $remote_addr;\n".repeat(12),
    )?;
    write(
        "etc/apache2/apache2.conf",
        "ErrorLog /var/log/apache2/error.log\nLogFormat \"%h %l %u %t \\\"%r\\\" %>s %O \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\"\" combined\nListen 8080\nIncludeOptional sites-enabled/*.conf\n",
    )?;
    write(
        "etc/php/8.2/fpm/php-fpm.conf",
        "[global]\nerror_log = /var/log/php8.2-fpm.log\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n",
    )?;
    let mut passwd = vec!["root:x:0:0::/root:/bin/sh\n".to_owned()];
    for n in 0..N_VHOSTS {
        let (name, user) = (format!("site-{n}.example"), format!("user{n}"));
        passwd.push(format!("{user}:x:{}:{}::/srv/{user}:/bin/sh\n", 10_000 + n, 10_000 + n));
        write(&format!("etc/nginx/sites-enabled/{name}"), &nginx(&name))?;
        write(&format!("etc/apache2/sites-enabled/{name}.conf"), &apache(&name, &user))?;
        write(&format!("etc/php/8.2/fpm/pool.d/{user}.conf"), &pool(&user))?;
        let version = "<?php\n/**\n * The WordPress version string.\n */\n$wp_version = '6.4.2';\n";
        write(&format!("srv/{name}/public/wp-includes/version.php"), version)?;
        for folder in ["nginx", "apache2"] {
            write(&format!("var/log/{folder}/{name}.log"), "")?;
            write(&format!("var/log/{folder}/{name}.error.log"), "")?;
        }
    }
    write("etc/passwd", &passwd.concat())
}

fn nginx(name: &str) -> String {
    let logs = format!(
        "    access_log /var/log/nginx/{name}.log main;\n    error_log /var/log/nginx/{name}.error.log;\n"
    );
    let server = |listen: &str, more: &str| {
        format!(
            "server {{\n    listen {listen};\n    server_name {name} www.{name};\n    root /srv/{name}/public;\n{logs}{more}}}\n"
        )
    };
    let proxy = "    location / {\n        include /etc/nginx/snippets/proxy.conf;\n        proxy_pass http://127.0.0.1:8080;\n    }\n    location ~* \\.(css|js|png)$ {\n        expires 30d;\n        try_files $uri @fallback;\n    }\n";
    server("80", "    return 301 https://$host$request_uri;\n") + &server("443 ssl", proxy)
}

fn apache(name: &str, user: &str) -> String {
    format!(
        "<VirtualHost *:8080>\n    ServerName {name}\n    ServerAlias www.{name}\n    DocumentRoot /srv/{name}/public\n    CustomLog /var/log/apache2/{name}.log combined\n    ErrorLog /var/log/apache2/{name}.error.log\n    <Directory /srv/{name}/public>\n        AllowOverride All\n        Require all granted\n    </Directory>\n    <FilesMatch \\.php$>\n        SetHandler \"proxy:unix:/run/php/{user}.sock|fcgi://localhost\"\n    </FilesMatch>\n</VirtualHost>\n"
    )
}

fn pool(user: &str) -> String {
    format!(
        "[{user}]\nuser = {user}\ngroup = {user}\nlisten = /run/php/{user}.sock\npm = ondemand\npm.max_children = 5\npm.max_requests = 500\nslowlog = /var/log/php/{user}.slow\nrequest_slowlog_timeout = 5s\nphp_admin_value[memory_limit] = 256M\n"
    )
}
