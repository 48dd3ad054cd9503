//! Certificates that vhosts of nginx, Apache and HAProxy name.

use super::*;

const NGINX: &str = "http {
    ssl_certificate /etc/ssl/all.pem;
    server { server_name a.example; ssl_certificate /etc/ssl/a.pem; ssl_certificate /etc/ssl/a-ec.pem; }
    server { server_name b.example; ssl_certificate certs/b.pem; }
    server { server_name c.example; }
    server { server_name d.example; ssl_certificate /etc/ssl/$ssl_server_name.pem; }
    server { server_name e.example; ssl_certificate /etc/ssl/shared.pem; }
    server { server_name f.example; ssl_certificate /etc/ssl/shared.pem; }
}";

const APACHE: &str = "
<VirtualHost *:443>
    ServerName g.example
    SSLCertificateFile /etc/ssl/g.pem
</VirtualHost>
";

const HAPROXY: &str = "
global
    crt-base /etc/ssl
frontend web
    bind *:443 ssl crt h.pem crt /etc/haproxy/certs crt-list /etc/haproxy/list
    default_backend app
backend app
    server s1 127.0.0.1:3000
";

#[test]
fn certificates_are_known_with_the_only_site_that_names_them() {
    let root = root(&[
        ("etc/nginx/nginx.conf", NGINX),
        ("etc/apache2/apache2.conf", APACHE),
        ("etc/haproxy/haproxy.cfg", HAPROXY),
        ("etc/haproxy/list", "# all\n/etc/ssl/i.pem [alpn h2] i.example\n"),
        ("etc/ssl/all.pem", ""),
        ("etc/haproxy/certs/j.pem", ""),
    ]);
    let found = discover(root.path());
    let told: Vec<_> = found
        .certificates
        .iter()
        .map(|certificate| {
            let path = certificate.path.strip_prefix(root.path()).unwrap();
            (path.to_str().unwrap(), certificate.site.as_deref().unwrap_or("-"))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("etc/haproxy/certs", "web"),
            ("etc/nginx/certs/b.pem", "b.example"),
            ("etc/ssl/a-ec.pem", "a.example"),
            ("etc/ssl/a.pem", "a.example"),
            // Of `c.example` and of `d.example`, whose own one only a request tells.
            ("etc/ssl/all.pem", "-"),
            ("etc/ssl/g.pem", "g.example"),
            ("etc/ssl/h.pem", "web"),
            ("etc/ssl/i.pem", "web"),
            ("etc/ssl/shared.pem", "-"),
        ]
    );
}
