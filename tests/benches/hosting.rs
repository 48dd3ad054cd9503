//! What an agent finds on a hosting machine beside the logs of rows A8 to A10: 50 vhosts, each with a
//! PHP-FPM pool that tells its state, an upstream on loopback and a WordPress in its document root.
//!
//! Nobody listens at the sockets and upstreams: an agent asks them all the same, and looks at the
//! document roots for changes.

use std::fmt::Write as _;

use harness::Root;

/// Vhosts, and pools.
pub(crate) const N_VHOSTS: usize = 50;
const PLUGINS: usize = 20;

/// Writes the configuration and the document roots. No vhost has a log of its own: those that the
/// rows write to stand in the agent's configuration.
pub(crate) fn write(root: &Root) {
    let dir = root.path().display().to_string();
    root.mkdir("var/log/nginx");
    root.write("var/log/nginx/error.log", "");
    root.write(
        "etc/nginx/nginx.conf",
        &format!(
            "events {{}}\nerror_log {dir}/var/log/nginx/error.log;\nhttp {{\n  access_log off;\n  \
             include {dir}/etc/nginx/sites-enabled/*;\n}}\n"
        ),
    );
    root.write(
        "etc/php/8.2/fpm/php-fpm.conf",
        &format!("[global]\ninclude={dir}/etc/php/8.2/fpm/pool.d/*.conf\n"),
    );
    let mut passwd = String::from("root:x:0:0::/root:/bin/sh\n");
    for n in 0..N_VHOSTS {
        let (name, user) = (format!("www.site-{n}.example"), format!("user{n}"));
        let docroot = format!("{dir}/srv/{user}/public");
        writeln!(passwd, "{user}:x:{0}:{0}::/srv/{user}:/bin/sh", 10_000 + n).expect("text");
        root.write(
            &format!("etc/nginx/sites-enabled/{name}"),
            &format!(
                "server {{\n  listen 80;\n  server_name {name};\n  root {docroot};\n  \
                 location ~ \\.php$ {{ fastcgi_pass unix:{dir}/run/php/{user}.sock; }}\n  \
                 location /api {{ proxy_pass http://127.0.0.1:{port}; }}\n}}\n",
                port = 20_000 + n
            ),
        );
        root.write(
            &format!("etc/php/8.2/fpm/pool.d/{user}.conf"),
            &format!(
                "[{user}]\nuser = {user}\nlisten = {dir}/run/php/{user}.sock\npm = dynamic\n\
                 pm.max_children = 10\npm.start_servers = 2\npm.min_spare_servers = 1\n\
                 pm.max_spare_servers = 3\npm.status_path = /status\n"
            ),
        );
        let version = "<?php\n$wp_version = '6.4.2';\n";
        root.write(&format!("srv/{user}/public/wp-includes/version.php"), version);
        root.write(&format!("srv/{user}/public/wp-config.php"), "<?php\n");
        for plugin in 0..PLUGINS {
            let path =
                format!("srv/{user}/public/wp-content/plugins/plugin-{plugin}/plugin-{plugin}.php");
            root.write(&path, "<?php\n/*\nPlugin Name: Some plugin\nVersion: 1.2.3\n*/\n");
        }
    }
    root.write("etc/passwd", &passwd);
}
