//! Pages by e-mail: a real mail server takes and refuses them, a real browser shows them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use harness::{
    AgentSpec, Chromium, Fleet, Mail, Nginx, PhpFpm, Pool, Root, Scheme, Smtp, Vhost, Webhook,
    eventually, get, now_s, pause,
};
use serde_json::Value;

use crate::changes::{changes, wait_for_first_look};
use crate::incident::{break_server, mend_server};

/// For mails: several programs must come by turns on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// What a stranger may get into a log.
const NASTY: &str =
    "</div><script>document.title='taken over'</script><img src=x onerror=alert(1)>";

/// A `[[notify]]` table for a mail to `to`.
pub(crate) fn route(name: &str, smtp: &Smtp, ca_file: &Path, password: &Path, to: &str) -> String {
    format!(
        "[[notify]]\nkind = \"email\"\nname = \"{name}\"\nurl = \"{}\"\nca_file = \"{}\"\n\
         user = \"{}\"\nsecret_file = \"{}\"\nfrom = \"gatewatch <gatewatch@watch.example>\"\n\
         to = [\"{to}\"]\n",
        smtp.url(),
        ca_file.display(),
        Smtp::USER,
        password.display()
    )
}

/// Waits for a mail whose subject begins so.
fn mail(smtp: &Smtp, fleet: &Fleet, to: &str, subject: &str) -> Mail {
    eventually(&format!("a mail `{subject}` for {to}"), LIMIT, || {
        let mails = smtp.mails(to);
        let subjects: Vec<&str> = mails.iter().map(|mail| mail.header("subject")).collect();
        let found = mails.iter().find(|mail| mail.header("subject").starts_with(subject));
        found
            .cloned()
            .ok_or_else(|| format!("{subjects:?}\n{}\n{}", smtp.log_text(), fleet.collector_log()))
    })
}

#[test]
fn an_outage_and_its_end_are_mailed_over_tls_with_text_picture_and_html_in_one_thread() {
    let root = Root::new();
    let smtp = Smtp::start();
    let password = root.secret("password", Smtp::PASSWORD);
    let fpm = root.write("fpm.log", "");
    let source = format!("[[logs.source]]\npath = \"{}\"\nkind = \"php_fpm\"\n", fpm.display());
    let mut fleet = Fleet::builder()
        .agent(AgentSpec::new("web-1").toml(&source))
        .batch_interval("200ms")
        .toml(&route("mail", &smtp, &smtp.ca_file(), &password, "ops@example.com"))
        .start();
    let mut fpm = File::options().append(true).open(fpm).expect("it is ours");
    let at = jiff::Timestamp::from_second(now_s()).expect("now is in range");
    writeln!(
        fpm,
        "[{}] WARNING: [pool www] server reached pm.max_children setting (5), consider {NASTY}",
        at.strftime("%d-%b-%Y %H:%M:%S")
    )
    .expect("the log is writable");
    crate::evidence::line(&fleet, "the pool's words are stored", |line| {
        line.message.contains("max_children")
    });
    let open = break_server(&mut fleet, "web-1");
    let opened = mail(&smtp, &fleet, "ops@example.com", "CRITICAL web-1: ");
    assert_eq!(
        opened.parts(),
        ["multipart/related", "multipart/alternative", "text/plain", "text/html", "image/png"]
    );
    assert_eq!(opened.header("to"), "ops@example.com");
    assert_eq!(opened.header("from"), "gatewatch <gatewatch@watch.example>");
    assert_eq!(opened.header("auto-submitted"), "auto-generated");
    assert!(opened.header("received").contains("esmtpsa"), "TLS and sign-in: {opened:?}");
    for words in ["Since", "Affected", "Cause", open.id(), "requests failed", "UTC"] {
        assert!(opened.text().contains(words), "no {words} in {}", opened.text());
        assert!(opened.html().contains(words), "no {words} in {}", opened.html());
    }
    assert!(opened.text().contains('█'), "the chart in letters: {}", opened.text());
    // Whether this line is among the two strongest pieces of evidence depends on what else this machine
    // does; what a stranger wrote and every mail shows has a test of its own.
    assert!(!opened.html().contains("<script"), "{}", opened.html());

    mend_server(&mut fleet, "web-1", open.id());
    let resolved = mail(&smtp, &fleet, "ops@example.com", "RESOLVED after ");
    let id = |mail: &Mail| mail.header("message-id").to_owned();
    assert_ne!(id(&opened), id(&resolved));
    for mail in [&opened, &resolved] {
        assert_eq!(mail.n_headers("message-id"), 1);
        assert_eq!(mail.n_headers("bcc"), 0);
        let thread = format!("<incident.{}@watch.example>", open.id());
        assert_eq!((mail.header("references"), mail.header("in-reply-to")), (&*thread, &*thread));
        let delivery = mail.header("x-gatewatch-delivery");
        assert_eq!(id(mail), format!("<{delivery}@watch.example>"));
    }
    assert!(resolved.text().contains("Lasted"), "{}", resolved.text());
    looks_right(&opened, &resolved);
}

/// A file of the web server has markup for a name, and was edited before its site failed: every mail
/// shows it as what changed.
#[test]
fn markup_that_a_mail_shows_is_text_in_it_and_in_the_browser() {
    const NAME: &str = "www02.test<img src=x onerror=alert(1)>";
    let root = Root::new();
    let smtp = Smtp::start();
    let password = root.secret("password", Smtp::PASSWORD);
    let _php = PhpFpm::start(&root, &[Pool::new("www")]);
    let nginx = Nginx::start(&root, &Vhost::many("www", 3));
    let sites = root.join("etc/nginx/sites-enabled");
    let file = sites.join(NAME);
    fs::rename(sites.join("www02.test"), &file).expect("it is ours");
    nginx.reload();
    let fleet = Fleet::builder()
        .agent(AgentSpec::new("web-1").root(&root).unprivileged())
        .batch_interval("200ms")
        .toml(&route("mail", &smtp, &smtp.ca_file(), &password, "ops@example.com"))
        .start();
    wait_for_first_look(&fleet, "changes.json", "onerror");
    for _ in 0..30 {
        assert_eq!(get(nginx.address(), "www02.test", "/index.php"), 200);
    }
    eventually("the past is stored", LIMIT, || {
        let n = fleet.db().n_requests("web-1");
        if n == 30 { Ok(()) } else { Err(format!("{n}")) }
    });
    let before = fs::read_to_string(&file).expect("nginx has read it");
    fs::write(&file, before.replace("/run/php/www.sock", "/run/php/gone.sock")).expect("ours");
    eventually("the edit is stored before anything fails", LIMIT, || {
        let all = changes(&fleet);
        if all.iter().any(|change| change.kind == "config") {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
    nginx.reload();
    let opened = eventually("a mail of the outage", LIMIT, || {
        assert_eq!(get(nginx.address(), "www02.test", "/index.php"), 502);
        pause(Duration::from_millis(250)); // the pace of the failing traffic
        let first = smtp.mails("ops@example.com").into_iter().next();
        first.ok_or_else(|| format!("{:#?}\n{}", fleet.incidents(), fleet.collector_log()))
    });
    assert!(opened.text().contains("onerror=alert(1)>"), "it is told: {}", opened.text());
    assert!(
        opened.html().contains("www02.test&lt;img src=x onerror=alert(1)&gt;"),
        "{}",
        opened.html()
    );
    assert!(!opened.html().contains("<img src=x"), "{}", opened.html());
    let mut browser = Chromium::start();
    browser.open(&opened.shown(), 1200, Scheme::Light);
    let seen = browser.look(14);
    assert_eq!(seen["images"], serde_json::json!([1200]), "the chart and no other: {seen}");
    assert_eq!(seen["wide"], Value::Array(Vec::new()), "{seen}");
}

/// The mails on a phone and on a screen, in light and dark: all of it fits and can be read, the chart is
/// there, and strangers' markup is none.
fn looks_right(opened: &Mail, resolved: &Mail) {
    let mut browser = Chromium::start();
    for (mail, width, scheme) in [
        (opened, 375, Scheme::Light),
        (opened, 375, Scheme::Dark),
        (opened, 1200, Scheme::Light),
        (opened, 1200, Scheme::Dark),
        (resolved, 360, Scheme::Dark),
        (resolved, 1200, Scheme::Light),
    ] {
        let case = format!("{} at {width} px, {scheme:?}", mail.header("subject"));
        browser.open(&mail.shown(), width, scheme);
        let seen = browser.look(14);
        let none = Value::Array(Vec::new());
        assert_eq!(seen["width"], width, "{case}: {seen}");
        assert!(seen["scroll"].as_u64().is_some_and(|w| w <= width.into()), "{case}: {seen}");
        for fault in ["wide", "small", "faint"] {
            assert_eq!(seen[fault], none, "{case}: {fault}");
        }
        assert_eq!(seen["images"], serde_json::json!([1200]), "{case}: the picture is there");
        assert_eq!(seen["n_scripts"], 0, "{case}");
        assert_ne!(seen["title"], "taken over", "{case}");
        let is_dark = seen["paper"].as_f64().is_some_and(|light| light < 0.2);
        assert_eq!(is_dark, scheme == Scheme::Dark, "{case}: {seen}");
        let n_colors = colors(&browser.picture());
        assert!(n_colors > 20, "{case}: a picture of {n_colors} colours is blank");
    }
}

/// How many colours a picture has.
fn colors(png: &[u8]) -> usize {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("it is PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits into memory")];
    let info = reader.next_frame(&mut pixels).expect("it is whole");
    let n = info.line_size / info.width as usize;
    pixels.chunks_exact(n).collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn mails_that_cannot_be_sent_are_told_without_the_password_tried_again_and_delay_nobody() {
    const WRONG: &str = "a password nobody has";
    let root = Root::new();
    let smtp = Smtp::start();
    let webhook = Webhook::start(0);
    let password = root.secret("password", Smtp::PASSWORD);
    let wrong = root.secret("wrong", WRONG);
    let (ca, other) = (smtp.ca_file(), smtp.other_ca_file());
    let toml = [
        route("wrong-password", &smtp, &ca, &wrong, "ops@example.com"),
        route("wrong-certificate", &smtp, &other, &password, "cert@example.com"),
        route("refused", &smtp, &ca, &password, "refused@example.com"),
        route("later", &smtp, &ca, &password, "later@example.com"),
        // Puts off the first: the other has it at once, and the route goes on trying.
        route("both", &smtp, &ca, &password, "later@example.com\", \"now@example.com"),
        webhook.toml(),
    ]
    .concat();
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(&toml).start();
    break_server(&mut fleet, "web-1");
    eventually("the webhook is told all the same", LIMIT, || {
        let n = webhook.deliveries().len();
        if n > 0 { Ok(()) } else { Err(fleet.collector_log()) }
    });
    let log = eventually("each failure is told once", LIMIT, || {
        let log = fleet.collector_log();
        let told = |route: &str, words: &str| {
            let is_it = |line: &str| line.contains(route) && line.contains(words);
            log.lines().any(is_it)
        };
        let all = told("wrong-password", "Incorrect authentication data")
            && told("wrong-certificate", "invalid peer certificate: UnknownIssuer: `ca_file`")
            && told("refused", "nobody of that name")
            && told("refused", "notification given up")
            && told("later", "come back later");
        if all { Ok(log.clone()) } else { Err(format!("{log}\n{}", smtp.log_text())) }
    });
    for secret in [WRONG, Smtp::PASSWORD] {
        assert!(!log.contains(secret), "{log}");
    }
    let rows = notices(&fleet);
    let became = |route: &str, what: &str| rows.iter().any(|row| row.0 == route && row.1 == what);
    assert!(became("refused", "refused"), "{rows:?}");
    for route in ["wrong-password", "wrong-certificate", "later", "both"] {
        let is_over = ["delivered", "refused", "expired"].iter().any(|what| became(route, what));
        assert!(!is_over, "{route} is tried again: {rows:?}");
    }
    assert!(!rows.iter().any(|row| row.2.contains(WRONG)), "{rows:?}");
    mail(&smtp, &fleet, "now@example.com", "CRITICAL web-1: ");
    let n_through = smtp.mails("example.com").len();
    assert_eq!(
        (n_through, smtp.mails("now@example.com").len()),
        (1, 1),
        "nothing else got through"
    );

    // The password is put right, and what is owed arrives without a restart.
    fs::write(&wrong, Smtp::PASSWORD).expect("it is ours");
    mail(&smtp, &fleet, "ops@example.com", "CRITICAL web-1: ");
}

/// Route, what became of it, and why: the notify log.
fn notices(fleet: &Fleet) -> Vec<(String, String, String)> {
    let path = fleet.data_dir().join("gatewatch.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = rusqlite::Connection::open_with_flags(path, flags).expect("the database opens");
    let mut query = conn.prepare("SELECT route, what, why FROM notice ORDER BY id").expect("SQL");
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    rows.expect("rows").collect::<Result<_, _>>().expect("texts")
}
