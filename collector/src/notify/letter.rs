//! An e-mail from a page: its two texts, and the message as it goes over the wire.
//!
//! The HTML is escaped by the template engine, whatever a page holds; headers are one line each.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context, default_auto_escape_callback};

use super::chart::Chart;
use super::fault::{Fault, Wrong};
use super::mailing::Attached;
use super::message::Message;
use super::page::Page;
use super::template;
use super::words::clean;

const HTML: &str = "email.html";
const TEXT: &str = "email.txt";
const BUILTIN_HTML: &str = include_str!("../../templates/notify/email.html.j2");
const BUILTIN_TEXT: &str = include_str!("../../templates/notify/email.txt.j2");
/// Longest subject, in characters: more is shown nowhere.
const SUBJECT_MAX: usize = 200;
/// Name, key of the configuration, and the built-in one.
const PARTS: [(&str, &str, &str); 2] =
    [(TEXT, "template_file", BUILTIN_TEXT), (HTML, "html_template_file", BUILTIN_HTML)];

/// The templates of a route.
#[derive(Clone, Debug)]
pub struct Templates {
    env: Environment<'static>,
}

/// Text and HTML of one e-mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Complete in itself.
    pub text: String,
    /// The same for eyes.
    pub html: String,
}

impl Templates {
    /// The built-in ones, or those of these files, tried on a page of every event.
    pub fn new(text_file: Option<&Path>, html_file: Option<&Path>) -> Result<Self, Vec<Fault>> {
        let mut env = template::environment();
        env.set_auto_escape_callback(default_auto_escape_callback);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        env.set_syntax(syntax.expect("the usual marks do not clash"));
        env.add_filter("wrap", wrap);
        env.add_filter("firm", firm);
        let mut faults = Vec::new();
        let files = [text_file, html_file];
        for ((name, key, builtin), file) in PARTS.into_iter().zip(files) {
            let source = match file.map(|file| (file, std::fs::read_to_string(file))) {
                None => builtin.to_owned(),
                Some((_, Ok(source))) => source,
                Some((file, Err(error))) => {
                    let what = format!("{}: {error}", file.display());
                    faults.push(Wrong::new(what, template::FIX).at(key));
                    continue;
                }
            };
            if let Err(error) = env.add_template_owned(name, source) {
                faults.push(Wrong::new(fault(&error), template::FIX).at(key));
            }
        }
        let templates = Self { env };
        if faults.is_empty() {
            let own = PARTS.iter().zip(files).filter(|(_, file)| file.is_some());
            faults.extend(own.filter_map(|((name, key, _), _)| templates.tried(name, key).err()));
        }
        if faults.is_empty() { Ok(templates) } else { Err(faults) }
    }

    /// Renders one part for a page of every event, with the chart and without.
    fn tried(&self, name: &str, key: &str) -> Result<(), Fault> {
        for message in template::samples() {
            let mut chart = Chart::new(message.at.minus(Duration::from_secs(600)), message.at);
            chart.add(message.at, 10, 5);
            for chart in [None, Some(&chart)] {
                let page = Page::new(&message, "https://gatewatch.example", chart);
                let picture = page.chart.as_ref().map(|_| "cid:chart");
                self.part(name, &page, picture).map_err(|why| {
                    let event = message.event.name();
                    let what = format!("cannot tell of a sample `{event}`: {why}");
                    Wrong::new(what, template::FIX).at(key)
                })?;
            }
        }
        Ok(())
    }

    /// Both texts; `picture` is the address of the chart that goes with them. `Err` says what a template
    /// of the operator does wrong.
    pub fn render(&self, page: &Page, picture: Option<&str>) -> Result<Letter, String> {
        let text = self.part(TEXT, page, picture)?;
        Ok(Letter { text, html: self.part(HTML, page, picture)? })
    }

    fn part(&self, name: &str, page: &Page, picture: Option<&str>) -> Result<String, String> {
        let page = Value::from(Serde(page));
        let template = self.env.get_template(name).map_err(|error| fault(&error))?;
        template.render(context! { picture, ..page }).map_err(|error| fault(&error))
    }
}

/// What is wrong with a template, in one line that quotes nothing of a page.
fn fault(error: &minijinja::Error) -> String {
    let at = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    let detail = error.detail().map_or_else(String::new, |detail| format!(": {detail}"));
    clean(&format!("the template is wrong{at}: {}{detail}", error.kind()), 300)
}

/// Breaks a text into lines of `width` columns; all but the first begin with `indent` spaces. A word
/// that is longer stays whole: addresses and commands are copied from here.
fn wrap(text: &str, width: usize, indent: Option<usize>) -> String {
    let indent = indent.unwrap_or(0);
    let mut out = String::new();
    let mut column = 0;
    // What stands before the indent is the name of a row, with its blanks.
    let head: String = if indent > 0 { text.chars().take(indent).collect() } else { String::new() };
    let rest = &text[head.len()..];
    out.push_str(&head);
    column += head.chars().count();
    let mut is_first = true;
    let rest = firm(rest);
    for word in rest.split(' ').filter(|word| !word.is_empty()) {
        // Only here: what is copied out of a plain text has plain blanks.
        let word = word.replace("\u{a0}%", " %");
        let n = word.chars().count();
        if !is_first && column + 1 + n > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !is_first {
            out.push(' ');
            column += 1;
        }
        out.push_str(&word);
        column += n;
        is_first = false;
    }
    out
}

/// Keeps a number and its `%` in one line.
fn firm(text: &str) -> String {
    let mut parts = text.split(" %");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(if out.ends_with(|c: char| c.is_ascii_digit()) { "\u{a0}%" } else { " %" });
        out.push_str(part);
    }
    out
}

/// The message for the wire. Its id is that of the delivery, so a retry is the same mail; all mails of
/// an incident refer to the same one, so they stand in one thread.
pub fn build(
    from: &Mailbox,
    to: &[Mailbox],
    message: &Message,
    page: &Page,
    templates: &Templates,
    png: Option<&[u8]>,
) -> Result<lettre::Message, String> {
    let domain = from.email.domain();
    let id = |name: &str| format!("<{}@{domain}>", token(name));
    let cid = format!("chart.{}@gatewatch", token(&page.delivery));
    let png = png.filter(|_| page.chart.is_some());
    let letter = match &message.report {
        Some(report) => Letter { text: report.text.clone(), html: report.html.clone() },
        None => templates.render(page, png.map(|_| format!("cid:{cid}")).as_deref())?,
    };
    let since_epoch = Duration::from_millis(u64::try_from(message.at.0).unwrap_or(0));
    let mut builder = lettre::Message::builder()
        .from(from.clone())
        .subject(clean(&page.headline, SUBJECT_MAX))
        .date(UNIX_EPOCH + since_epoch)
        .message_id(Some(id(&page.delivery)));
    for mailbox in to {
        builder = builder.to(mailbox.clone());
    }
    if !page.incident_id.is_empty() {
        let root = id(&format!("incident.{}", page.incident_id));
        builder = builder.in_reply_to(root.clone()).references(root);
    }
    for (name, value) in [
        (HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()),
        (HeaderName::new_from_ascii_str("X-Auto-Response-Suppress"), "All".to_owned()),
        (HeaderName::new_from_ascii_str("X-Gatewatch-Delivery"), token(&page.delivery)),
    ] {
        builder = builder.raw_header(HeaderValue::new(name, value));
    }
    let texts = MultiPart::alternative()
        .singlepart(SinglePart::plain(letter.text))
        .singlepart(SinglePart::html(letter.html));
    let body = match png {
        None => texts,
        Some(png) => {
            let kind = ContentType::parse("image/png").expect("it is a content type");
            let picture = Attachment::new_inline_with_name(cid, "chart.png".to_owned());
            MultiPart::related().multipart(texts).singlepart(picture.body(png.to_vec(), kind))
        }
    };
    let body = match &message.report {
        None => body,
        Some(report) => with_files(body, &report.files)?,
    };
    builder.multipart(body).map_err(|error| format!("the mail cannot be made: {error}"))
}

/// The texts, and files beside them.
fn with_files(texts: MultiPart, files: &[Attached]) -> Result<MultiPart, String> {
    let mut mixed = MultiPart::mixed().multipart(texts);
    for file in files {
        let kind =
            ContentType::parse(&file.kind).map_err(|error| format!("{}: {error}", file.name))?;
        mixed = mixed.singlepart(Attachment::new(file.name.clone()).body(file.bytes()?, kind));
    }
    Ok(mixed)
}

/// What may stand in an id: letters, digits and dots.
fn token(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    name.chars().take(64).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Incident;
    use crate::notify::chart::Chart;
    use crate::notify::message::Event;
    use crate::samples::{START, incident};

    fn templates() -> Templates {
        Templates::new(None, None).unwrap()
    }

    fn message(event: Event, incident: Incident) -> Message {
        Message {
            event,
            delivery: "01JD4Z8QK0DE11VERYDE11VERY".into(),
            at: START.plus(Duration::from_secs(247)),
            reason: "it began".into(),
            incident: Some(incident),
            before: None,
            changed_back: None,
            digest: Vec::new(),
            report: None,
        }
    }

    fn chart() -> Chart {
        let mut chart = Chart::new(START.minus(Duration::from_secs(600)), START);
        chart.add(START, 10, 5);
        chart
    }

    fn page(message: &Message) -> Page {
        Page::new(message, "https://gatewatch.example", Some(&chart()))
    }

    fn wire(message: &Message, page: &Page, png: Option<&[u8]>) -> String {
        let from = "gatewatch <gatewatch@watch.example>".parse().unwrap();
        let to = ["ops@example.com".parse().unwrap(), "Ann <ann@example.com>".parse().unwrap()];
        let mail = build(&from, &to, message, page, &templates(), png).unwrap();
        String::from_utf8(mail.formatted()).unwrap()
    }

    #[test]
    fn the_text_is_complete_and_72_columns_wide() {
        let letter = templates().render(&page(&message(Event::Opened, incident())), None).unwrap();
        let expected = "\
CRITICAL
37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www
is exhausted

Since           12:01:07 UTC, 4 min ago
Affected        37 of 41 sites on web-07; 987 of 1,234 requests failed
                (987 x 502)
Cause           overload, 97 % sure
Evidence        [pool www] server reached pm.max_children setting (5),
                consider raising it (log, 12:01:06)
Changed before  package: php8.2-fpm 8.2.7 to 8.2.29 at 12:00:02, 1 min
                before
Next            See whether the pool is up and how busy it is

    systemctl status php8.2-fpm

Sites           a.example, b.example and 35 more

11:51 ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁█ 12:01 UTC
At worst 5 of 10 requests failed in 15 s

https://gatewatch.example/incidents/01JD4Z8QK0A1B2C3D4E5F6G7H8

-- \n\
Sent by gatewatch about incident 01JD4Z8QK0A1B2C3D4E5F6G7H8.
";
        assert_eq!(letter.text, expected, "{}", letter.text);
    }

    #[test]
    fn a_resolution_and_a_digest_have_all_their_words_in_both_parts() {
        let over = Incident {
            resolved_at: Some(START.plus(Duration::from_secs(724))),
            state: "resolved".into(),
            ..incident()
        };
        let mut end = message(Event::Resolved, over.clone());
        end.changed_back = Some("php8.2-fpm.service active again at 12:13:02".into());
        let letter = templates().render(&page(&end), Some("cid:x")).unwrap();
        for words in ["RESOLVED after 12 min", "php8.2-fpm.service active again", "987 of 1,234"] {
            assert!(letter.text.contains(words), "no {words} in {}", letter.text);
            assert!(letter.html.contains(words), "no {words} in {}", letter.html);
        }
        assert!(!letter.html.contains("systemctl"), "nothing is to be done any more");
        let digest = Message {
            incident: None,
            reason: "since yesterday 08:00".into(),
            digest: vec![Incident { severity: "info".into(), ..over }, incident()],
            ..message(Event::Digest, incident())
        };
        let letter = templates().render(&page(&digest), None).unwrap();
        for words in ["2 incidents since yesterday 08:00", "lasted 12 min", "still open"] {
            assert!(letter.text.contains(words), "no {words} in {}", letter.text);
            assert!(letter.html.contains(words), "no {words} in {}", letter.html);
        }
    }

    #[test]
    fn a_digest_tells_severities_apart_without_colours() {
        let of = |severity: &str| Incident { severity: severity.into(), ..incident() };
        let digest = Message {
            incident: None,
            digest: vec![of("info"), of("critical")],
            ..message(Event::Digest, incident())
        };
        let html = templates().render(&page(&digest), None).unwrap().html;
        let at = |part: &str| html.find(part).unwrap_or_else(|| panic!("no {part} in {html}"));
        assert!(at(">CRITICAL</div>") < at(">INFO</div>"), "{html}");
        let (first, second) = html.split_at(at(">CRITICAL</div>") + 1);
        let (critical, info) = second.split_at(second.find(">INFO</div>").unwrap());
        assert!(critical.contains("font-weight:700") && !info.contains("font-weight:700"));
        assert!(first.contains("font-weight:700") && !critical.contains(">CRITICAL web"), "{html}");
    }

    #[test]
    fn hostile_text_stays_text_in_the_html() {
        let nasty = "</div><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}";
        let mut bad = incident();
        bad.title = nasty.into();
        bad.cause.evidence[0].text = nasty.into();
        bad.place.sites = vec![nasty.into()];
        bad.actions[0].command = Some(nasty.into());
        bad.id = "\"><script>".into();
        let letter = templates().render(&page(&message(Event::Opened, bad)), None).unwrap();
        for markup in ["<script", "<img", "onerror=alert(1)>", "49"] {
            assert!(!letter.html.contains(markup), "{markup} in {}", letter.html);
        }
        assert!(letter.html.contains("&lt;script&gt;alert(1)"), "{}", letter.html);
        assert!(letter.text.contains(nasty), "plain text is shown as it is: {}", letter.text);
    }

    #[test]
    fn nothing_in_the_html_is_loaded_from_elsewhere() {
        let page = page(&message(Event::Opened, incident()));
        let html = templates().render(&page, Some("cid:chart")).unwrap().html;
        // The engine writes `/` of a value as a character reference.
        let html = html.replace("&#x2f;", "/");
        let links = html.matches("href=\"https://gatewatch.example/incidents/").count();
        assert_eq!((html.matches("http").count(), links), (1, 1), "{html}");
        assert!(html.contains("src=\"cid:chart\"") && html.matches("src=").count() == 1);
        assert!(!html.contains("url(") && !html.contains("@import") && !html.contains("<link"));
    }

    #[test]
    fn a_mail_has_both_parts_the_picture_and_headers_that_make_one_thread() {
        let opened = message(Event::Opened, incident());
        let text = wire(&opened, &page(&opened), Some(&chart().png()));
        let text = text.replace("\r\n ", " ");
        for line in [
            "From: gatewatch <gatewatch@watch.example>",
            "To: ops@example.com, Ann <ann@example.com>",
            "Date: Fri, 20 Nov 2026 12:05:14 +0000",
            "Message-ID: <01JD4Z8QK0DE11VERYDE11VERY@watch.example>",
            "In-Reply-To: <incident.01JD4Z8QK0A1B2C3D4E5F6G7H8@watch.example>",
            "References: <incident.01JD4Z8QK0A1B2C3D4E5F6G7H8@watch.example>",
            "Auto-Submitted: auto-generated",
            "X-Gatewatch-Delivery: 01JD4Z8QK0DE11VERYDE11VERY",
            "Content-ID: <chart.01JD4Z8QK0DE11VERYDE11VERY@gatewatch>",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in {text}");
        }
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part} in {text}"));
        assert!(at("multipart/related") < at("multipart/alternative"));
        assert!(at("text/plain") < at("text/html") && at("text/html") < at("image/png"));
        let without = wire(&opened, &page(&opened), None);
        assert!(!without.contains("related") && !without.contains("cid:"), "{without}");
    }

    #[test]
    fn a_title_cannot_add_headers_or_lines_to_the_subject() {
        let mut bad = incident();
        bad.title = format!("x\r\nBcc: all@example.com\r\n\r\nbody {}", "ä".repeat(5000));
        let opened = message(Event::Opened, bad);
        let text = wire(&opened, &page(&opened), None);
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.len() < 4000 && head.lines().all(|line| line.len() < 200), "{head}");
    }

    #[test]
    fn lines_break_between_words_and_long_words_stay_whole() {
        for (text, width, indent, expected) in [
            ("one two three", 8, None, "one two\nthree"),
            ("one", 2, None, "one"),
            ("Name  one two three", 14, Some(6), "Name  one two\n      three"),
            ("a https://x.example/very/long", 10, None, "a\nhttps://x.example/very/long"),
            ("ä ö ü", 3, None, "ä ö\nü"),
            ("", 5, None, ""),
            ("ab", 9, Some(6), "ab"),
            ("lost 38 % of it", 8, None, "lost\n38 % of\nit"),
        ] {
            assert_eq!(wrap(text, width, indent), expected, "{text}");
        }
    }

    #[test]
    fn a_broken_template_is_told_by_its_line_and_endless_ones_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.html");
        let made = |source: &str| {
            std::fs::write(&file, source).unwrap();
            Templates::new(None, Some(&file))
        };
        let problems = made("line\n{% if %}").unwrap_err();
        let problem = problems[0].to_string();
        assert!(problem.starts_with("html_template_file: the template is wrong in line 2"));
        let page = page(&message(Event::Opened, incident()));
        let render = |source: &str| made(source).unwrap().render(&page, None);
        assert_eq!(render("<b>{{ title }}</b>").unwrap().html, format!("<b>{}</b>", page.title));
        let endless =
            "{% for a in range(9000) %}{% for b in range(9000) %}x{% endfor %}{% endfor %}";
        for (source, told) in [
            (endless, "cannot tell of a sample `opened`: the template is wrong"),
            ("{{ nothing.at.all }}", "`opened`: the template is wrong in line 1: undefined value"),
            ("{{ titel }}", "`opened`"),
            ("{{ resolved.typo if resolved }}", "`resolved`"),
            ("{{ chart.typo if chart }}", "`opened`"),
            ("{% for entry in digest %}{{ entry.typo }}{% endfor %}", "`digest`"),
        ] {
            let problems = made(source).unwrap_err();
            let [problem] = &problems[..] else { panic!("{source}: {problems:?}") };
            assert!(problem.what.contains(told), "{source}: {problem}");
            assert_eq!((&*problem.key, &*problem.fix), ("html_template_file", template::FIX));
        }
        let missing = Templates::new(Some(Path::new("/nonexistent")), None).unwrap_err();
        let missing = missing[0].to_string();
        assert!(missing.starts_with("template_file: /nonexistent: No such file"), "{missing}");
    }

    #[test]
    fn the_built_in_templates_tell_of_every_event() {
        for (name, key, _) in PARTS {
            templates().tried(name, key).unwrap();
        }
    }

    #[test]
    fn a_number_and_its_percent_sign_stay_in_one_line() {
        for (text, expected) in [
            ("overload, 97 % sure", "overload, 97\u{a0}% sure"),
            ("0.4 % and 38 %", "0.4\u{a0}% and 38\u{a0}%"),
            ("a % b", "a % b"),
            ("%", "%"),
        ] {
            assert_eq!(firm(text), expected);
        }
        let letter = templates().render(&page(&message(Event::Opened, incident())), None).unwrap();
        assert!(letter.html.contains("97\u{a0}% sure"), "{}", letter.html);
        assert!(letter.text.contains("97 % sure"), "{}", letter.text);
    }
}
