//! What is refused in a configuration, and what a stubborn server may say.

use std::os::unix::fs::PermissionsExt;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

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
        let problems = EmailSender::new(&config).err().unwrap_or_default().join("\n");
        let is_right =
            if expected.is_empty() { problems.is_empty() } else { problems.contains(expected) };
        assert!(is_right, "{why}: {problems:?}");
        assert!(!problems.contains("hunter2"), "{problems}");
    };
    check("good", "", &|_| ());
    check("no url", "url: is missing", &|c| c.url = None);
    check("https", "url: \"https\" is not \"smtp\"", &|c| c.url = Some("https://x".into()));
    check("path", "url: has more than", &|c| c.url = Some("smtp://x/path".into()));
    check("password in url", "url: holds a name", &|c| {
        c.url = Some("smtp://ann:hunter2@mail.example.com".into());
    });
    check("no from", "from: is missing", &|c| c.from = None);
    check("bad from", "from: \"nobody\" is no address", &|c| c.from = Some("nobody".into()));
    check("no to", "to: is missing", &|c| c.to.clear());
    check("bad to", "to: \"a b\" is no address", &|c| c.to.push("a b".into()));
    check("lines in to", "is no address", &|c| c.to.push("a@b.example\r\nBcc: c@d".into()));
    check("tls", "tls: \"maybe\" is not \"starttls\"", &|c| c.tls = Some("maybe".into()));
    check("user alone", "secret_file: is missing", &|c| c.user = Some("ann".into()));
    check("file alone", "user: is missing", &|c| c.secret_file = Some(file.clone()));
    check("no CA", "ca_file: /nonexistent", &|c| c.ca_file = Some("/nonexistent".into()));
    check("no PEM", "holds no certificate", &|c| c.ca_file = Some(file.clone()));
    let signed_in = |c: &mut NotifyConfig| {
        (c.user, c.secret_file) = (Some("ann".into()), Some(file.clone()));
    };
    check("signed in", "", &signed_in);
    let plain = "tls: a password over a connection that anybody can read";
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

/// A server without TLS: what it says to each command, by the command's first letters.
async fn server(answers: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(talk(BufReader::new(stream), answers));
        }
    });
    url
}

async fn talk(
    mut stream: BufReader<tokio::net::TcpStream>,
    answers: &'static [(&'static str, &'static str)],
) {
    let said = |line: &str, usual: &str| {
        let found = answers.iter().find(|(command, _)| line.starts_with(command));
        found.map_or(usual.to_owned(), |(_, answer)| (*answer).to_owned()) + "\r\n"
    };
    if stream.write_all(said("CONNECT", "220 test").as_bytes()).await.is_err() {
        return;
    }
    let mut in_text = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let answer = match line.trim_end() {
            "." if in_text => {
                in_text = false;
                said("TEXT", "250 taken")
            }
            _ if in_text => continue,
            line if line.starts_with("EHLO") => said(line, "250-test\r\n250 AUTH PLAIN LOGIN"),
            line if line.starts_with("DATA") => {
                let answer = said(line, "354 go on");
                in_text = answer.starts_with('3');
                answer
            }
            line if line.starts_with("AUTH") => said(line, "235 welcome"),
            line => said(line, "250 fine"),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn tried(config: NotifyConfig) -> Result<(), SendError> {
    let page = sample();
    let message = Message {
        event: Event::Test,
        delivery: page.delivery.clone(),
        at: UnixMillis(0),
        reason: String::new(),
        incident: None,
        before: None,
        changed_back: None,
        digest: Vec::new(),
    };
    EmailSender::new(&config).unwrap().send(&message, &page, None, UnixMillis(0)).await
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
