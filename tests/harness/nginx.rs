//! A real nginx with any number of sites in front of PHP-FPM pools.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::backend::{ProxySite, Upstream};
use crate::php::PhpFpm;
use crate::process::{Process, find_program, is_root};
use crate::root::{Root, loopback};
use crate::wait::eventually;

/// One virtual host: its name and the PHP-FPM pool behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vhost {
    /// Primary name.
    pub name: String,
    /// Pool that runs its PHP.
    pub pool: &'static str,
}

impl Vhost {
    /// `n` sites named `<pool>01.test` and so on.
    #[must_use]
    pub fn many(pool: &'static str, n: usize) -> Vec<Self> {
        (1..=n).map(|i| Self { name: format!("{pool}{i:02}.test"), pool }).collect()
    }
}

/// A site with several servers behind it.
#[derive(Clone, Debug)]
pub struct UpstreamGroup {
    /// Primary name.
    pub name: String,
    /// Each is tried for each request, until one answers.
    pub members: Vec<Upstream>,
    /// Tried when all the members have failed.
    pub backup: Option<Upstream>,
}

/// The server. Sites of the first pool have a `combined` log each; all others share one log with a
/// format of their own that names the host, as both are common.
#[derive(Debug)]
pub struct Nginx {
    root: PathBuf,
    address: SocketAddr,
    process: Process,
}

impl Nginx {
    /// Writes `etc/nginx` below `root` and starts it on an address of its own.
    #[must_use]
    pub fn start(root: &Root, vhosts: &[Vhost]) -> Self {
        let address = loopback(8080);
        let first = vhosts.first().map(|v| v.pool);
        let blocks = vhosts.iter().map(|vhost| {
            let own_log = Some(vhost.pool) == first;
            (vhost.name.clone(), server_block(root, address, vhost, own_log))
        });
        let blocks: Vec<_> = blocks.collect();
        Self::start_with(root, address, &blocks)
    }

    /// The same in front of other servers (`proxy_pass`), for which it waits for 2 s: each site has
    /// a `combined` log of its own.
    #[must_use]
    pub fn start_proxy(root: &Root, sites: &[ProxySite]) -> Self {
        let address = loopback(8080);
        let blocks = sites.iter().map(|site| (site.name.clone(), proxy_block(root, address, site)));
        Self::start_with(root, address, &blocks.collect::<Vec<_>>())
    }

    /// The same in front of groups of servers (`upstream`), all in one log that names host and
    /// upstreams.
    #[must_use]
    pub fn start_groups(root: &Root, groups: &[UpstreamGroup]) -> Self {
        let address = loopback(8080);
        let blocks =
            groups.iter().map(|group| (group.name.clone(), group_block(root, address, group)));
        Self::start_with(root, address, &blocks.collect::<Vec<_>>())
    }

    /// The same with `server` blocks as they are written, each in a file of its name; one of them
    /// listens at `address`.
    #[must_use]
    pub fn start_with(root: &Root, address: SocketAddr, blocks: &[(String, String)]) -> Self {
        Self::start_inside(root, address, blocks, &[])
    }

    /// The same through the words of another program, which lead into a namespace.
    #[must_use]
    pub fn start_inside(
        root: &Root,
        address: SocketAddr,
        blocks: &[(String, String)],
        words: &[String],
    ) -> Self {
        let program = find_program(&["nginx"], "nginx-light").display().to_string();
        write_config(root, blocks);
        let words: Vec<_> = words.iter().chain([&program]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg("-c")
            .arg(root.join("etc/nginx/nginx.conf"))
            .arg("-p")
            .arg(root.path())
            .arg("-e")
            .arg(root.join("var/log/nginx/error.log"))
            .args(["-g", "daemon off;"]);
        let mut process = Process::start("nginx", &mut command, &root.join("run/nginx.out"));
        process.listens_on(address);
        Self { root: root.path().to_owned(), address, process }
    }

    /// Its process, to stop or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes the file of one more site; [`Nginx::reload`] makes nginx read it.
    pub fn add_site(&self, root: &Root, site: &ProxySite) {
        let block = proxy_block(root, self.address, site);
        root.write(&format!("etc/nginx/sites-enabled/{}", site.name), &block);
    }

    /// Removes the file of a site.
    pub fn remove_site(&self, name: &str) {
        let path = self.root.join("etc/nginx/sites-enabled").join(name);
        fs::remove_file(path).expect("the site has a file");
    }

    /// Reads its configuration again, and waits until new workers have taken over: the old ones
    /// finish their requests and are gone.
    pub fn reload(&self) {
        let before = self.process.children();
        self.process.signal(Signal::HUP);
        eventually("nginx has new workers only", Duration::from_secs(20), || {
            let now = self.process.children();
            let has_old = now.iter().any(|pid| before.contains(pid));
            if has_old || now.is_empty() { Err(format!("workers {now:?}")) } else { Ok(()) }
        });
    }

    /// Renames every log to `.1`, as logrotate does. nginx goes on writing to the renamed files.
    pub fn rename_logs(&self) {
        for log in self.logs() {
            let old = PathBuf::from(format!("{}.1", log.display()));
            fs::rename(&log, old).expect("a log can be renamed");
        }
    }

    /// Tells nginx to open its logs anew, and waits until it has: the last step of a rotation.
    pub fn reopen_logs(&self) {
        self.process.signal(Signal::USR1);
        eventually("nginx has opened its logs anew", Duration::from_secs(20), || {
            let missing = self.expected_logs().into_iter().find(|log| !log.exists());
            missing.map_or(Ok(()), |log| Err(format!("no {}", log.display())))
        });
    }

    fn logs(&self) -> Vec<PathBuf> {
        let mut logs: Vec<_> = fs::read_dir(self.root.join("var/log/nginx"))
            .expect("the log directory is readable")
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        logs.sort();
        logs
    }

    fn expected_logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join("var/log/nginx")).expect("it is readable");
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "1"))
            .map(|path| path.with_extension(""))
            .collect()
    }
}

fn write_config(root: &Root, blocks: &[(String, String)]) {
    let dir = root.path().display();
    let temp = root.mkdir("var/lib/nginx");
    let logs = root.mkdir("var/log/nginx");
    root.mkdir("run");
    let mut temps = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temps, "  {kind}_temp_path {}/{kind};", temp.display()).expect("to a string");
    }
    let user = if is_root() { "user root;" } else { "" };
    let main = format!(
        "{user}\nworker_processes 2;\npid {dir}/run/nginx.pid;\n\
         error_log {logs}/error.log;\n\
         events {{ worker_connections 512; }}\nhttp {{\n{temps}\
           log_format hosted '$host $remote_addr - $remote_user [$time_local] \"$request\" '\n\
             '$status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" rt=$request_time';\n\
           log_format groups '$host $remote_addr [$time_local] \"$request\" $status '\n\
             '$body_bytes_sent \"$upstream_addr\" \"$upstream_status\" $upstream_response_time';\n\
           set_real_ip_from 127.0.0.0/8;\n  real_ip_header X-Real-IP;\n\
           access_log {logs}/access.log combined;\n\
           include {dir}/etc/nginx/sites-enabled/*;\n}}\n",
        logs = logs.display(),
    );
    root.write("etc/nginx/nginx.conf", &main);
    root.write("etc/nginx/fastcgi.conf", &fastcgi_params(&root.join("srv/www")));
    for (name, text) in blocks {
        root.write(&format!("etc/nginx/sites-enabled/{name}"), text);
    }
}

fn server_block(root: &Root, address: SocketAddr, vhost: &Vhost, own_log: bool) -> String {
    let logs = root.join("var/log/nginx");
    let log = if own_log {
        format!("{}/{}.access.log", logs.display(), vhost.name)
    } else {
        format!("{}/shared.access.log hosted", logs.display())
    };
    format!(
        "server {{\n  listen {address};\n  server_name {name} www.{name};\n  root {dir}/srv/www;\n\
           access_log {log};\n\
           location / {{ include {dir}/etc/nginx/fastcgi.conf; fastcgi_pass {target}; }}\n\
           location /static {{ return 200 \"static\\n\"; }}\n\
           location /missing {{ return 404; }}\n\
           location /planned {{ return 503; }}\n}}\n",
        name = vhost.name,
        dir = root.path().display(),
        target = PhpFpm::target(root, vhost.pool),
    )
}

fn proxy_block(root: &Root, address: SocketAddr, site: &ProxySite) -> String {
    let answer = match &site.upstream {
        None => "return 503;".to_owned(),
        Some(upstream) => {
            let target = match upstream {
                Upstream::Tcp(address) => address.to_string(),
                Upstream::Unix(path) => format!("unix:{}:", path.display()),
            };
            format!(
                "proxy_pass http://{target};\n    proxy_connect_timeout 2s;\n    \
                 proxy_read_timeout 2s;\n    proxy_set_header Host $host;\n    \
                 proxy_set_header X-Real-IP $remote_addr;"
            )
        }
    };
    format!(
        "server {{\n  listen {address};\n  server_name {name} www.{name};\n  \
           access_log {logs}/{name}.access.log combined;\n  location / {{\n    {answer}\n  }}\n}}\n",
        name = site.name,
        logs = root.join("var/log/nginx").display(),
    )
}

fn group_block(root: &Root, address: SocketAddr, group: &UpstreamGroup) -> String {
    let word = group.name.replace('.', "_");
    let mut servers = String::new();
    let members = group.members.iter().map(|member| (member, "max_fails=0"));
    for (upstream, option) in members.chain(group.backup.iter().map(|spare| (spare, "backup"))) {
        let scheme = if matches!(upstream, Upstream::Unix(_)) { "unix:" } else { "" };
        writeln!(servers, "  server {scheme}{upstream} {option};").expect("to a string");
    }
    format!(
        "upstream {word} {{\n{servers}}}\n\
         server {{\n  listen {address};\n  server_name {name};\n  \
           access_log {logs}/groups.access.log groups;\n  \
           location / {{\n    proxy_pass http://{word};\n    proxy_read_timeout 2s;\n  }}\n}}\n",
        name = group.name,
        logs = root.join("var/log/nginx").display(),
    )
}

fn fastcgi_params(docroot: &Path) -> String {
    format!(
        "fastcgi_param SCRIPT_FILENAME {}/index.php;\nfastcgi_param QUERY_STRING $query_string;\n\
         fastcgi_param REQUEST_METHOD $request_method;\nfastcgi_param REQUEST_URI $request_uri;\n\
         fastcgi_param SERVER_PROTOCOL $server_protocol;\nfastcgi_param HTTP_HOST $host;\n\
         fastcgi_read_timeout 20s;\n",
        docroot.display()
    )
}
