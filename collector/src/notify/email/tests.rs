//! What is refused in a configuration, and what a stubborn server may say.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::notify::message::Event;

fn good() -> NotifyConfig {
    NotifyConfig {
        kind: "email".into(),
        url: Some("smtp://mail.example.com:587".into()),
        from: Some("gatewatch <gatewatch@example.com>".into()),
        to: vec!["ops@example.com".into()],
        ..NotifyConfig::default()
    }
}

fn password(dir: &tempfile::TempDir, mode: u32) -> PathBuf {
    let path = dir.path().join("password");
    std::fs::write(&path, "correct horse\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_configuration_that_cannot_work_or_is_not_safe_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = password(&dir, 0o640);
    let check = |why: &str, expected: &str, change: &dyn Fn(&mut NotifyConfig)| {
        let mut config = good();
        change(&mut config);
        let problems = crate::notify::check(&[config]).join("\n");
        let is_right =
            if expected.is_empty() { problems.is_empty() } else { problems.contains(expected) };
        assert!(is_right, "{why}: {problems:?}");
        assert!(!problems.contains("hunter2"), "{problems}");
    };
    check("good", "", &|_| ());
    check("no url", "url: is missing", &|c| c.url = None);
    check("https", "url: \"https\" is not smtp", &|c| c.url = Some("https://x".into()));
    check("path", "url: has more than", &|c| c.url = Some("smtp://x/path".into()));
    check("password in url", "url: holds a name", &|c| {
        c.url = Some("smtp://ann:hunter2@mail.example.com".into());
    });
    check("no from", "from: is missing", &|c| c.from = None);
    check("bad from", "from: \"nobody\" is no e-mail address", &|c| c.from = Some("nobody".into()));
    check("no to", "to: is missing", &|c| c.to.clear());
    check("bad to", "to: \"a b\" is no e-mail address", &|c| c.to.push("a b".into()));
    check("lines in to", "is no e-mail address", &|c| c.to.push("a@b.example\r\nBcc: c@d".into()));
    check("tls", "tls: \"maybe\" is not known", &|c| c.tls = Some("maybe".into()));
    check("user alone", "user: has no password", &|c| c.user = Some("ann".into()));
    check("file alone", "secret_file: is a password of nobody", &|c| {
        c.secret_file = Some(file.clone());
    });
    check("no CA", "ca_file: /nonexistent", &|c| c.ca_file = Some("/nonexistent".into()));
    check("no PEM", "holds no certificate", &|c| c.ca_file = Some(file.clone()));
    let signed_in = |c: &mut NotifyConfig| {
        (c.user, c.secret_file) = (Some("ann".into()), Some(file.clone()));
    };
    check("signed in", "", &signed_in);
    let plain = "tls: sends a password over a connection that anybody can read";
    check("signed in, plain", plain, &|c| {
        signed_in(c);
        c.tls = Some("none".into());
    });
    for host in ["localhost", "127.0.0.1:2525", "[::1]:25"] {
        check("signed in, plain, on this machine", "", &|c| {
            signed_in(c);
            c.tls = Some("none".into());
            c.url = Some(format!("smtp://{host}"));
        });
    }
    check("no template", "template_file: /nonexistent", &|c| {
        c.template_file = Some("/nonexistent".into());
    });
    let wrong = dir.path().join("wrong.html");
    std::fs::write(&wrong, "{{ nothing.at.all }}").unwrap();
    check("template that fails", "the template is wrong in line 1", &|c| {
        c.html_template_file = Some(wrong.clone());
    });
    password(&dir, 0o644);
    check("open to all", "everybody can use it", &signed_in);
}

#[test]
fn the_port_follows_from_how_the_connection_is_kept() {
    for (url, tls, expected) in [
        ("smtp://mail.example.com", None, "smtp://mail.example.com:587"),
        ("smtp://mail.example.com/", Some("implicit"), "smtp://mail.example.com:465"),
        ("smtp://mail.example.com", Some("none"), "smtp://mail.example.com:25"),
        ("smtp://mail.example.com:2525", Some("starttls"), "smtp://mail.example.com:2525"),
        ("smtp://[::1]:2525", None, "smtp://[::1]:2525"),
    ] {
        let config = NotifyConfig { url: Some(url.into()), tls: tls.map(Into::into), ..good() };
        assert_eq!(EmailSender::new(&config).unwrap().place(), expected);
    }
}

/// Mails that a server took, by receiver: their texts.
type Taken = Arc<Mutex<BTreeMap<String, Vec<String>>>>;
/// What a server says to each command, by the command's first letters; nothing to `(silence)`.
type Answers = Arc<Mutex<Vec<(&'static str, &'static str)>>>;

/// A server without TLS.
struct Server {
    url: String,
    taken: Taken,
    answers: Answers,
}

impl Server {
    async fn start(answers: &[(&'static str, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let (taken, answers) = (Taken::default(), Answers::new(Mutex::new(answers.to_vec())));
        let this = Self { url, taken: Arc::clone(&taken), answers: Arc::clone(&answers) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answers, taken) = (Arc::clone(&answers), Arc::clone(&taken));
                tokio::spawn(talk(BufReader::new(stream), answers, taken));
            }
        });
        this
    }

    /// How many mails each of these has.
    fn n<const N: usize>(&self, receivers: [&str; N]) -> [usize; N] {
        let taken = self.taken.lock().unwrap();
        receivers.map(|of| taken.get(&format!("{of}@example.com")).map_or(0, Vec::len))
    }
}

async fn server(answers: &'static [(&'static str, &'static str)]) -> String {
    Server::start(answers).await.url
}

async fn talk(mut stream: BufReader<tokio::net::TcpStream>, answers: Answers, taken: Taken) {
    let said = |line: &str, usual: &str| {
        let answers = answers.lock().unwrap();
        let found = answers.iter().find(|(command, _)| line.starts_with(command));
        found.map_or(usual.to_owned(), |(_, answer)| (*answer).to_owned()) + "\r\n"
    };
    if stream.write_all(said("CONNECT", "220 test").as_bytes()).await.is_err() {
        return;
    }
    let (mut is_text, mut text, mut receivers) = (false, String::new(), Vec::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let answer = match line.trim_end() {
            "." if is_text => {
                is_text = false;
                let answer = said("TEXT", "250 taken");
                if answer.starts_with('2') {
                    let mut taken = taken.lock().unwrap();
                    for receiver in receivers.drain(..) {
                        let mails: &mut Vec<String> = taken.entry(receiver).or_default();
                        mails.push(text.clone());
                    }
                }
                answer
            }
            _ if is_text => {
                text.push_str(&line);
                continue;
            }
            line if line.starts_with("EHLO") => said(line, "250-test\r\n250 AUTH PLAIN LOGIN"),
            line if line.starts_with("DATA") => {
                let answer = said(line, "354 go on");
                is_text = answer.starts_with('3');
                answer
            }
            line if line.starts_with("AUTH") => said(line, "235 welcome"),
            line => {
                let answer = said(line, "250 fine");
                let to = line.strip_prefix("RCPT TO:<").and_then(|rest| rest.split('>').next());
                receivers.extend(to.filter(|_| answer.starts_with('2')).map(str::to_owned));
                answer
            }
        };
        if answer.starts_with("(silence)") {
            std::future::pending::<()>().await;
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn message() -> Message {
    Message {
        event: Event::Test,
        delivery: "01JD4Z8QK0A1B2C3D4E5F6G7H8".into(),
        at: UnixMillis(0),
        reason: String::new(),
        incident: None,
        before: None,
        changed_back: None,
        digest: Vec::new(),
        report: None,
    }
}

/// Sends the same message once, at a second.
async fn try_at(sender: &EmailSender, s: i64) -> Result<(), SendError> {
    let (message, now) = (message(), UnixMillis::from_second(s));
    let page = Page::new(&message, "https://gatewatch.example", None);
    sender.send(&message, &page, None, now).await
}

async fn tried(config: NotifyConfig) -> Result<(), SendError> {
    try_at(&EmailSender::new(&config).unwrap(), 0).await
}

fn sender(server: &Server, to: &[&str]) -> EmailSender {
    EmailSender::new(&NotifyConfig {
        url: Some(server.url.clone()),
        tls: Some("none".into()),
        to: to.iter().map(|name| format!("{name}@example.com")).collect(),
        ..good()
    })
    .unwrap()
}

#[tokio::test]
async fn a_refusal_is_final_only_when_it_is_about_the_mail() {
    for (why, answers, expected) in [
        ("it takes all", &[][..], None),
        ("greylisting", &[("RCPT", "451 later")], Some((false, "later"))),
        ("no such receiver", &[("RCPT", "550 nobody here")], Some((true, "nobody here"))),
        ("too big", &[("MAIL", "552 too big")], Some((true, "too big"))),
        ("spam", &[("TEXT", "554 no, thanks")], Some((true, "no, thanks"))),
        ("we are not wanted at all", &[("CONNECT", "554 go away")], Some((false, "go away"))),
        ("it wants to know us", &[("MAIL", "530 sign in first")], Some((false, "sign in first"))),
        ("busy", &[("CONNECT", "421 busy")], Some((false, "busy"))),
        ("nonsense", &[("EHLO", "hello yourself")], Some((false, "cannot be reached"))),
    ] {
        let url = Some(server(answers).await);
        let config = NotifyConfig { url, tls: Some("none".into()), ..good() };
        let error = tried(config).await.err();
        match (&error, expected) {
            (None, None) => {}
            (Some(error), Some((is_final, words))) => {
                assert_eq!(error.is_final, is_final, "{why}: {error:?}");
                assert!(error.why.contains(words), "{why}: {error:?}");
            }
            _ => panic!("{why}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn one_refused_receiver_does_not_keep_the_page_from_the_others() {
    let gone = &[("RCPT TO:<left@example.com>", "550 left us")];
    let everybody = &[("RCPT", "550 left us")];
    let to = || vec!["left@example.com".to_owned(), "ops@example.com".to_owned()];
    let config = |url| NotifyConfig { url, tls: Some("none".into()), to: to(), ..good() };
    assert_eq!(tried(config(Some(server(gone).await))).await, Ok(()));
    let error = tried(config(Some(server(everybody).await))).await.unwrap_err();
    assert!(error.is_final && error.why.contains("ops@example.com"), "{error:?}");
}

#[tokio::test]
async fn one_receiver_who_is_put_off_does_not_keep_the_page_from_the_others() {
    for first in ["later", "ops"] {
        let server = Server::start(&[("RCPT TO:<later", "451 come back later")]).await;
        let second = if first == "ops" { "later" } else { "ops" };
        let sender = sender(&server, &[first, second]);
        for s in 0..3 {
            let error = try_at(&sender, s).await.unwrap_err();
            assert!(!error.is_final && error.why.contains("later@example.com"), "{error:?}");
            assert!(!error.why.contains("ops@example.com"), "{error:?}");
            assert_eq!(server.n(["ops", "later"]), [1, 0], "at once, and once");
        }
        server.answers.lock().unwrap().clear();
        assert_eq!(try_at(&sender, 3).await, Ok(()));
        assert_eq!(server.n(["ops", "later"]), [1, 1]);
        let taken = server.taken.lock().unwrap();
        let id = "Message-ID: <01JD4Z8QK0A1B2C3D4E5F6G7H8@example.com>";
        assert!(taken.values().flatten().all(|mail| mail.contains(id)), "the same mail: {taken:?}");
    }
}

#[tokio::test]
async fn of_a_taken_a_put_off_and_a_refused_receiver_only_the_one_put_off_is_tried_again() {
    let server = Server::start(&[
        ("RCPT TO:<later", "451 come back later"),
        ("RCPT TO:<gone", "550 nobody here"),
    ])
    .await;
    let sender = sender(&server, &["ops", "later", "gone", "ann"]);
    for s in 0..2 {
        let error = try_at(&sender, s).await.unwrap_err();
        assert!(!error.is_final && error.why.contains("later@example.com"), "{error:?}");
        assert_eq!(server.n(["ops", "later", "gone", "ann"]), [1, 0, 0, 1]);
    }
    // What comes next of the incident waits for this one: a mailbox that stays full is left out.
    assert!(try_at(&sender, 600).await.is_err());
    assert_eq!(try_at(&sender, 601).await, Ok(()));
    assert_eq!(server.n(["ops", "later", "gone", "ann"]), [1, 0, 0, 1]);

    let server = Server::start(&[
        ("RCPT TO:<later", "451 come back later"),
        ("RCPT TO:<gone", "550 nobody here"),
    ])
    .await;
    let sender = self::sender(&server, &["later", "gone"]);
    let error = try_at(&sender, 0).await.unwrap_err();
    assert!(!error.is_final, "one of them may take it yet: {error:?}");
    *server.answers.lock().unwrap() = vec![("RCPT", "550 nobody here")];
    let error = try_at(&sender, 1).await.unwrap_err();
    assert!(error.is_final && error.why.contains("gone@") && error.why.contains("later@"));
}

#[tokio::test]
async fn a_server_that_hangs_on_one_receiver_sends_nobody_else_the_page_twice() {
    let server = Server::start(&[("RCPT TO:<slow", "(silence)")]).await;
    let mut sender = sender(&server, &["slow", "ops", "ann"]);
    Arc::get_mut(&mut sender.inner).unwrap().whole_timeout = Duration::from_secs(1);
    let mut n_tries = 0;
    while server.n(["ops", "ann"]) != [1, 1] {
        let error = try_at(&sender, 0).await.unwrap_err();
        assert!(!error.is_final && error.why.contains("took more than 1 s"), "{error:?}");
        n_tries += 1;
        assert!(n_tries < 50, "{:?}", server.taken.lock().unwrap());
    }
    try_at(&sender, 0).await.unwrap_err();
    server.answers.lock().unwrap().clear();
    while try_at(&sender, 0).await.is_err() {}
    assert_eq!(server.n(["ops", "ann", "slow"]), [1, 1, 1]);
}

#[tokio::test]
async fn a_password_is_not_sent_in_the_clear_and_never_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = |url| NotifyConfig {
        url: Some(url),
        user: Some("ann".into()),
        secret_file: Some(password(&dir, 0o600)),
        ..good()
    };
    // Without TLS on offer nothing is signed in, whatever the server would say.
    let error = tried(config(server(&[("AUTH", "535 correct horse")]).await)).await.unwrap_err();
    assert!(!error.is_final && error.why.to_lowercase().contains("starttls"), "{error:?}");
    let refused = &[("AUTH", "535 correct horse is wrong")];
    let plain = NotifyConfig { tls: Some("none".into()), ..config(server(refused).await) };
    let error = tried(plain).await.unwrap_err();
    assert!(!error.is_final, "somebody may put the password right: {error:?}");
    assert!(error.why.contains("(secret) is wrong"), "{error:?}");
    // As it was sent: `printf '\\0ann\\0correct horse' | base64`.
    let echoes = &[("AUTH", "535 AUTH PLAIN AGFubgBjb3JyZWN0IGhvcnNl is wrong")];
    let plain = NotifyConfig { tls: Some("none".into()), ..config(server(echoes).await) };
    let error = tried(plain).await.unwrap_err();
    assert!(error.why.contains("AUTH PLAIN (secret) is wrong"), "{error:?}");
}

#[tokio::test]
async fn nobody_who_listens_is_told_in_words() {
    let config =
        NotifyConfig { url: Some("smtp://127.0.0.1:9".into()), tls: Some("none".into()), ..good() };
    let error = tried(config).await.unwrap_err();
    assert!(!error.is_final && error.why.contains("cannot be reached"), "{error:?}");
}
