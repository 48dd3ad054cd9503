//! A real mail server (Exim) on loopback: STARTTLS with a certificate of its own authority, sign-in,
//! receivers that it takes, refuses and puts off; every mail it takes is a file.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fleet::Output;
use crate::process::{Process, find_program};
use crate::root::{Root, loopback};

/// Reads a mail with Python's own parser: its headers, parts and picture.
const READ: &str = r#"
import base64, email, email.policy, json, sys
mail = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
def body(kind):
    part = mail.get_body((kind,))
    return part.get_content() if part else None
png = [p for p in mail.walk() if p.get_content_type() == "image/png"]
print(json.dumps({
    "headers": {name.lower(): str(value) for name, value in mail.items()},
    "names": [name.lower() for name, _ in mail.items()],
    "parts": [p.get_content_type() for p in mail.walk()],
    "text": body("plain"), "html": body("html"),
    "cid": png[0]["content-id"].strip("<>") if png else None,
    "png": base64.b64encode(png[0].get_content()).decode() if png else None}))
"#;

/// A mail as it was delivered.
#[derive(Clone, Debug)]
pub struct Mail(Value);

impl Mail {
    /// A header, unfolded and decoded; empty when it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.0["headers"][name.to_lowercase()].as_str().unwrap_or_default()
    }

    /// How many headers have this name.
    #[must_use]
    pub fn n_headers(&self, name: &str) -> usize {
        let names = self.0["names"].as_array().expect("a list of names");
        names.iter().filter(|known| **known == name.to_lowercase().as_str()).count()
    }

    /// Content types of all parts, outer before inner.
    #[must_use]
    pub fn parts(&self) -> Vec<&str> {
        let parts = self.0["parts"].as_array().expect("a list of parts");
        parts.iter().filter_map(Value::as_str).collect()
    }

    /// The plain text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0["text"].as_str().unwrap_or_default()
    }

    /// The HTML as it came.
    #[must_use]
    pub fn html(&self) -> &str {
        self.0["html"].as_str().unwrap_or_default()
    }

    /// The HTML with the picture in it, as a program for mail shows it.
    #[must_use]
    pub fn shown(&self) -> String {
        let (Some(cid), Some(png)) = (self.0["cid"].as_str(), self.0["png"].as_str()) else {
            return self.html().to_owned();
        };
        self.html().replace(&format!("cid:{cid}"), &format!("data:image/png;base64,{png}"))
    }
}

/// The server; stops in `Drop`.
#[derive(Debug)]
pub struct Smtp {
    root: Root,
    address: SocketAddr,
    _process: Process,
}

impl Smtp {
    /// Name that signs in.
    pub const USER: &str = "ann";
    /// Its password.
    pub const PASSWORD: &str = "correct horse battery staple";

    /// Starts it. It takes mail from who has signed in over TLS, for everybody at `example.com` but
    /// `refused@`, whom it does not know, and `later@`, whom it puts off.
    #[must_use]
    pub fn start() -> Self {
        let program = find_program(&["exim4"], "exim4-daemon-light");
        let root = Root::new();
        let address = loopback(2525);
        for dir in ["spool", "log", "mail"] {
            let path = root.mkdir(dir);
            // Started by root, it works as a user of its own.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("it is ours");
        }
        certificates(&root, address);
        let config = root.write("exim.conf", &config(root.path(), address));
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("it is ours");
        let mut command = Command::new(program);
        command.arg("-C").arg(&config).args(["-bdf", "-q1m"]);
        let mut process = Process::start("exim", &mut command, &root.join("exim.log"));
        process.listens_on(address);
        Self { root, address, _process: process }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// Certificate of the authority that vouches for it.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.root.join("ca.pem")
    }

    /// Certificate of an authority that does not.
    #[must_use]
    pub fn other_ca_file(&self) -> PathBuf {
        self.root.join("other.pem")
    }

    /// Every mail it delivered to `receiver`, in order of delivery.
    #[must_use]
    pub fn mails(&self, receiver: &str) -> Vec<Mail> {
        let Ok(dir) = fs::read_dir(self.root.join("mail/new")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = dir.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort_by_key(|path| {
            let made = fs::metadata(path).and_then(|meta| meta.modified()).ok();
            (made, path.clone())
        });
        let mails = paths.iter().map(|path| read(path));
        mails.filter(|mail| mail.header("envelope-to").contains(receiver)).collect()
    }

    /// What it wrote about its doings.
    #[must_use]
    pub fn log_text(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.root.join(name)).unwrap_or_default();
        ["log/mainlog", "log/rejectlog", "log/paniclog", "exim.log"].map(read).concat()
    }
}

fn read(path: &Path) -> Mail {
    let mut python = Command::new("/usr/bin/python3");
    let text = Output::of(python.args(["-c", READ]).arg(path)).good().expect("Python reads mail");
    Mail(serde_json::from_str(&text).expect("it prints JSON"))
}

/// An authority, the certificate it gives the server, and an authority that has nothing to do with it.
fn certificates(root: &Root, address: SocketAddr) {
    let openssl = find_program(&["openssl"], "openssl");
    let run = |words: &[&str]| {
        let mut command = Command::new(&openssl);
        Output::of(command.args(words).current_dir(root.path())).good().expect("openssl works");
    };
    let new =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for name in ["ca", "other"] {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        run(&[&new[..], &["-days", "2", "-subj", &subject, "-keyout", &key, "-out", &pem]].concat());
    }
    let names = format!("subjectAltName=IP:{}", address.ip());
    let leaf = ["-days", "2", "-subj", "/CN=mail", "-CA", "ca.pem", "-CAkey", "ca.key"];
    let leaf = [&leaf[..], &["-addext", &names, "-addext", "basicConstraints=critical,CA:FALSE"]];
    run(&[&new[..], &leaf.concat(), &["-keyout", "key.pem", "-out", "cert.pem"]].concat());
    for name in ["key.pem", "cert.pem"] {
        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(root.join(name), open).expect("it is ours");
    }
}

/// Its whole configuration. A sign-in is offered over TLS only.
fn config(dir: &Path, address: SocketAddr) -> String {
    let (dir, ip, port) = (dir.display(), address.ip(), address.port());
    let (user, password) = (Smtp::USER, Smtp::PASSWORD);
    let known = |name: &str, word: &str| {
        format!("${{if and{{{{eq{{{name}}}{{{user}}}}}{{eq{{{word}}}{{{password}}}}}}}}}")
    };
    let (plain, login) = (known("$auth2", "$auth3"), known("$auth1", "$auth2"));
    format!(
        "primary_hostname = mail.example.com\nspool_directory = {dir}/spool\n\
         log_file_path = {dir}/log/%slog\npid_file_path = {dir}/spool/exim.pid\n\
         local_interfaces = {ip}\ndaemon_smtp_ports = {port}\ndisable_ipv6 = true\n\
         tls_advertise_hosts = *\ntls_certificate = {dir}/cert.pem\ntls_privatekey = {dir}/key.pem\n\
         auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}\n\
         host_lookup =\nrfc1413_hosts =\nacl_smtp_rcpt = rcpt\nlog_selector = +smtp_protocol_error\n\
         queue_only = false\ndeliver_drop_privilege = true\nsmtp_accept_max = 100\nsmtp_accept_max_per_host = 100\n\
         keep_environment =\n\
         begin acl\nrcpt:\n  deny message = sign in first\n    !authenticated = *\n\
         \x20 deny message = nobody of that name\n    local_parts = refused\n\
         \x20 defer message = come back later\n    local_parts = later\n  accept\n\
         begin routers\nall:\n  driver = accept\n  transport = files\n\
         begin transports\nfiles:\n  driver = appendfile\n  directory = {dir}/mail\n\
         \x20 maildir_format\n  create_directory\n  envelope_to_add\n\
         begin retry\n* * F,1h,1m\n\
         begin authenticators\nplain:\n  driver = plaintext\n  public_name = PLAIN\n\
         \x20 server_prompts = :\n  server_condition = {plain}\n  server_set_id = $auth2\n\
         login:\n  driver = plaintext\n  public_name = LOGIN\n\
         \x20 server_prompts = <| Username: | Password:\n  server_condition = {login}\n\
         \x20 server_set_id = $auth1\n"
    )
}
