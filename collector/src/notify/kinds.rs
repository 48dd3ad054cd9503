//! What each kind of receiver needs and takes, as a table, and the check of a `[[notify]]` table
//! against it. No text of a problem holds a URL or what is in a file: both may be secret.

use std::slice;
use std::time::Duration;

use super::fault::{Fault, Wrong};
use super::hours::{self, Hours};
use super::secret::Secret;
use super::{address, email, reach, secret, webhook};
use crate::config::NotifyConfig;
use crate::store::incidents::severity_rank;

/// How often an Alertmanager may be told again what is not over.
const REPEAT_MIN: Duration = Duration::from_secs(1);
const REPEAT_MAX: Duration = Duration::from_secs(300);

/// A kind of receiver.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As `kind` names it.
    pub name: &'static str,
    /// Where it is when `url` is not set; `None`: it must be.
    pub url: Option<&'static str>,
    /// Schemes of its URL.
    pub schemes: &'static [&'static str],
    /// Keys it cannot do without.
    pub needs: &'static [&'static str],
    /// Further keys it takes.
    pub takes: &'static [&'static str],
    /// Whether whoever knows its URL can write to it.
    pub is_url_secret: bool,
}

/// Every kind.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "webhook",
        url: None,
        schemes: address::WEB,
        needs: &["url", "secret_file"],
        takes: &["url_file", "ca_file", "template_file", "digest"],
        is_url_secret: false,
    },
    Kind {
        name: "alertmanager",
        url: None,
        schemes: address::WEB,
        needs: &["url"],
        takes: &["url_file", "secret_file", "ca_file", "template_file", "repeat_interval"],
        is_url_secret: false,
    },
    Kind {
        name: "email",
        url: None,
        schemes: &["smtp"],
        needs: &["url", "from", "to"],
        takes: &[
            "tls",
            "user",
            "secret_file",
            "ca_file",
            "template_file",
            "html_template_file",
            "digest",
        ],
        is_url_secret: false,
    },
    chat("slack"),
    chat("teams"),
    chat("discord"),
    Kind {
        name: "telegram",
        url: Some("https://api.telegram.org"),
        schemes: address::WEB,
        needs: &["secret_file", "chat_id"],
        takes: &["url", "url_file", "ca_file", "template_file", "digest"],
        is_url_secret: false,
    },
    Kind {
        name: "ntfy",
        url: Some("https://ntfy.sh"),
        schemes: address::WEB,
        needs: &["topic"],
        takes: &["url", "url_file", "secret_file", "ca_file", "template_file", "digest"],
        is_url_secret: false,
    },
    pager("pagerduty", "https://events.pagerduty.com"),
    pager("opsgenie", "https://api.opsgenie.com"),
];

/// A chat whose webhook URL lets anybody write.
const fn chat(name: &'static str) -> Kind {
    Kind {
        name,
        url: None,
        schemes: address::WEB,
        needs: &["url"],
        takes: &["url_file", "ca_file", "template_file", "digest"],
        is_url_secret: true,
    }
}

/// What wakes people: no digest.
const fn pager(name: &'static str, url: &'static str) -> Kind {
    Kind {
        name,
        url: Some(url),
        schemes: address::WEB,
        needs: &["secret_file"],
        takes: &["url", "url_file", "ca_file", "template_file"],
        is_url_secret: false,
    }
}

/// The kind of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// What is wrong with one table: keys, values and files. What templates do wrong is told when a
/// [`super::Sender`] is made.
#[must_use]
pub fn check(config: &NotifyConfig) -> Vec<Fault> {
    let mut faults = Vec::new();
    match find(&config.kind) {
        None => faults.push(unknown(&config.kind)),
        Some(kind) => {
            keys(kind, config, &mut faults);
            urls(kind, config, &mut faults);
            if kind.name == "email" {
                let more = email::faults(config);
                let is_told = |fault: &Fault| faults.iter().any(|told| told.key == fault.key);
                let more: Vec<Fault> = more.into_iter().filter(|fault| !is_told(fault)).collect();
                faults.extend(more);
            }
        }
    }
    files(config, &mut faults);
    values(config, &mut faults);
    reach::impossible(config, &mut faults);
    faults
}

fn unknown(name: &str) -> Fault {
    let mut known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    if !name.is_empty() {
        known.sort_by_key(|known| distance(name, known));
    }
    let fix = format!("write one of {}", known.join(", "));
    let what =
        if name.is_empty() { "is missing".to_owned() } else { format!("{name:?} is not known") };
    Wrong::new(what, fix).at("kind")
}

/// Keys that only some kinds take, and whether they are set.
fn set(config: &NotifyConfig) -> [(&'static str, bool); 14] {
    let usual = NotifyConfig::default().repeat_interval;
    [
        ("repeat_interval", config.repeat_interval != usual),
        ("url", config.url.is_some()),
        ("url_file", config.url_file.is_some()),
        ("secret_file", config.secret_file.is_some()),
        ("ca_file", config.ca_file.is_some()),
        ("template_file", config.template_file.is_some()),
        ("html_template_file", config.html_template_file.is_some()),
        ("digest", !config.digest.is_empty()),
        ("tls", config.tls.is_some()),
        ("user", config.user.is_some()),
        ("from", config.from.is_some()),
        ("to", !config.to.is_empty()),
        ("chat_id", config.chat_id.is_some()),
        ("topic", config.topic.is_some()),
    ]
}

fn keys(kind: &Kind, config: &NotifyConfig, faults: &mut Vec<Fault>) {
    let name = kind.name;
    for (key, is_set) in set(config) {
        let (is_needed, is_taken) = (kind.needs.contains(&key), kind.takes.contains(&key));
        let stands_in =
            key == "url" && config.url_file.is_some() && kind.takes.contains(&"url_file");
        if is_set && !is_needed && !is_taken {
            let fix = match key {
                "digest" => "remove it, and send digests by another kind, e.g. email".to_owned(),
                key => {
                    let others: Vec<&str> = KINDS
                        .iter()
                        .filter(|kind| kind.needs.contains(&key) || kind.takes.contains(&key))
                        .map(|kind| kind.name)
                        .collect();
                    format!("remove it, it is for {}", others.join(", "))
                }
            };
            faults.push(Wrong::new(format!("is nothing that {name} takes"), fix).at(key));
        }
        if is_needed && !is_set && !stands_in {
            faults.push(Wrong::new("is missing", what_to_write(kind, key)).at(key));
        }
    }
    if config.url.is_some() && config.url_file.is_some() && kind.takes.contains(&"url_file") {
        faults.push(Wrong::new("is set beside url", "keep one of them").at("url_file"));
    }
}

fn what_to_write(kind: &Kind, key: &str) -> String {
    match (kind.name, key) {
        ("email", "url") => "write the mail server, e.g. \"smtp://mail.example:587\"".into(),
        ("webhook" | "alertmanager", "url") => {
            format!("write where it listens, e.g. \"https://{}.example/\"", kind.name)
        }
        (name, "url") => {
            format!("{name} shows one for its incoming webhook: write it to a file, name that as url_file")
        }
        ("webhook", "secret_file") => {
            "the receiver could not tell our messages from others: `openssl rand -hex 32` makes a key".into()
        }
        ("telegram", "secret_file") => "name the file with the token of your bot".into(),
        ("pagerduty", "secret_file") => "name the file with the integration key (Events API v2)".into(),
        (name, "secret_file") => format!("name the file with the key of {name}"),
        (_, "from") => "write who sends, e.g. \"gatewatch@example.com\"".into(),
        (_, "to") => "write who gets the mail, e.g. [\"oncall@example.com\"]".into(),
        (_, "chat_id") => "write the chat, e.g. \"-1001234567890\" or \"@channel\"".into(),
        (_, "topic") => "write the topic to publish to, e.g. \"gatewatch\"".into(),
        (name, key) => format!("{name} needs {key}"),
    }
}

/// The URL, out of its file too. That of an e-mail is looked at there.
fn urls(kind: &Kind, config: &NotifyConfig, faults: &mut Vec<Fault>) {
    if kind.name == "email" {
        return;
    }
    if let Some(text) = &config.url
        && let Err(wrong) = address::parse(text, kind.schemes)
    {
        faults.push(wrong.at("url"));
    }
    if let Some(path) = config.url_file.as_deref().filter(|_| kind.takes.contains(&"url_file"))
        && let Err(wrong) = address::read(path, kind.schemes)
    {
        faults.push(wrong.at("url_file"));
    }
}

fn files(config: &NotifyConfig, faults: &mut Vec<Fault>) {
    if let Some(path) = &config.secret_file {
        let is_webhook = config.kind == "webhook";
        let read = if is_webhook { webhook::read_secret(path) } else { secret::read(path) };
        // Others put it into a header, a URL or a line of SMTP.
        let is_lines = |secret: &Secret| secret.expose().chars().any(char::is_control);
        match read {
            Err(wrong) => faults.push(wrong.at("secret_file")),
            Ok(secret) if !is_webhook && is_lines(&secret) => {
                let what = format!("{}: holds more than one line", path.display());
                let fix = "leave only the key, token or password in it";
                faults.push(Wrong::new(what, fix).at("secret_file"));
            }
            Ok(_) => {}
        }
    }
    if let Some(path) = &config.ca_file
        && let Err(wrong) = address::certificates(path)
    {
        faults.push(wrong.at("ca_file"));
    }
    let templates = [
        ("template_file", &config.template_file),
        ("html_template_file", &config.html_template_file),
    ];
    for (key, path) in templates {
        let Some(path) = path else { continue };
        if let Err(error) = std::fs::read_to_string(path) {
            let what = format!("{}: {error}", path.display());
            let fix = "name a file the collector can read, or remove the line for the built-in one";
            faults.push(Wrong::new(what, fix).at(key));
        }
    }
}

fn values(config: &NotifyConfig, faults: &mut Vec<Fault>) {
    if config.messages_per_minute_max == 0 {
        let fix = "write 1 or more, or remove the line for 30";
        faults.push(Wrong::new("= 0 tells nothing ever", fix).at("messages_per_minute_max"));
    }
    // An alert ends after 15 minutes unless it is told again: two repetitions may be lost.
    let repeat = config.repeat_interval.0;
    if repeat < REPEAT_MIN || repeat > REPEAT_MAX {
        let wrong = if repeat < REPEAT_MIN { "short" } else { "long, alerts would end between" };
        faults.push(Wrong::new(format!("is too {wrong}"), "write 1s to 5m").at("repeat_interval"));
    }
    let severity = config.min_severity.as_str();
    if severity_rank(severity) == 0 && severity != "info" {
        let what = format!("{severity:?} is not known");
        faults.push(Wrong::new(what, "write info, warning or critical").at("min_severity"));
    }
    if let Some(name) = &config.name {
        let good = |c: char| c.is_alphanumeric() || "._:@-+ ".contains(c);
        if name.trim() != name
            || !(1..=64).contains(&name.chars().count())
            || !name.chars().all(good)
        {
            let fix = "write 1 to 64 letters, digits, spaces or ._:@+-";
            faults.push(Wrong::new(format!("{name:?} is no good name of a route"), fix).at("name"));
        }
    }
    week(config, faults);
    if let Some(span) = config.escalate_after {
        if span.0.is_zero() {
            faults.push(Wrong::new("= 0s waits for nobody", "remove it").at("escalate_after"));
        } else if !config.digest.is_empty() {
            let fix = "remove one, or make two tables of it";
            let what = "is set beside digest, which waits for its time";
            faults.push(Wrong::new(what, fix).at("escalate_after"));
        }
    }
    if let Some(topic) = &config.topic {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        if !(1..=64).contains(&topic.len()) || !topic.bytes().all(good) {
            let fix = "write 1 to 64 letters, digits, hyphens or underscores";
            faults.push(Wrong::new(format!("{topic:?} is no topic"), fix).at("topic"));
        }
    }
    if let Some(chat) = &config.chat_id {
        let is_number = chat.parse::<i64>().is_ok();
        let is_name = chat.strip_prefix('@').is_some_and(|name| !name.is_empty());
        if !is_number && !is_name {
            let fix = "write its number, e.g. \"-1001234567890\", or \"@channel\"";
            faults.push(Wrong::new(format!("{chat:?} is no chat"), fix).at("chat_id"));
        }
    }
}

/// Times of the week, and their zone.
fn week(config: &NotifyConfig, faults: &mut Vec<Fault>) {
    if let Some(zone) = &config.timezone
        && hours::time_zone(Some(zone)).is_err()
    {
        let fix = "write it like \"Europe/Berlin\", or remove it for the zone of this machine";
        faults.push(Wrong::new(format!("{zone:?} is not known"), fix).at("timezone"));
    }
    for text in &config.hours {
        if Hours::parse(slice::from_ref(text), None).is_err() {
            let fix = "write it like \"Mon-Fri 08:00-18:00\"";
            faults.push(Wrong::new(format!("{text:?} is no span of the week"), fix).at("hours"));
        }
    }
    for text in &config.digest {
        let (days, at) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
        if hours::weekdays(days).is_none() || hours::time(at).is_none() {
            let fix = "write it like \"08:00\" or \"Mon-Fri 08:00\"";
            faults.push(Wrong::new(format!("{text:?} is no time of the week"), fix).at("digest"));
        }
    }
}

/// Levenshtein distance.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// Files of every sort, by name.
    fn file(dir: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn read(text: &str) -> NotifyConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn every_kind_is_sound_with_its_keys_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let key = file(&dir, "key", "0123456789abcdef\n", 0o640).display().to_string();
        let url = file(&dir, "url", "https://hooks.example/T0/B0/x\n", 0o600).display().to_string();
        for (kind, rest) in [
            ("webhook", format!("url = 'https://x.example'\nsecret_file = '{key}'")),
            ("alertmanager", "url = 'http://127.0.0.1:9093'".into()),
            (
                "email",
                "url = 'smtp://m:587'\nfrom = 'g@example.com'\nto = ['Ops <o@example.com>']".into(),
            ),
            ("slack", format!("url_file = '{url}'")),
            ("teams", "url = 'https://x.example/hook'".into()),
            ("discord", format!("url_file = '{url}'\ndigest = ['Mon-Fri 08:00', '12:30']")),
            ("telegram", format!("secret_file = '{key}'\nchat_id = '-100123'")),
            ("ntfy", "topic = 'gatewatch'".into()),
            ("pagerduty", format!("secret_file = '{key}'")),
            ("opsgenie", format!("secret_file = '{key}'")),
        ] {
            let config = read(&format!("kind = '{kind}'\n{rest}\n"));
            assert_eq!(check(&config), [], "{kind}");
            let bare = check(&read(&format!("kind = '{kind}'\n")));
            assert_eq!(bare.len(), find(kind).unwrap().needs.len(), "{kind}: {bare:?}");
            assert!(bare.iter().all(|fault| fault.what == "is missing"), "{bare:?}");
        }
        assert_eq!(KINDS.len(), 10, "each has a case here");
        for kind in KINDS {
            assert_eq!(kind.url.is_none(), kind.needs.contains(&"url"), "{}", kind.name);
            assert!(kind.takes.iter().all(|key| !kind.needs.contains(key)), "{}", kind.name);
            let bare = NotifyConfig::default();
            let known = |key: &&str| set(&bare).iter().any(|(known, _)| known == key);
            assert!(kind.needs.iter().chain(kind.takes).all(known), "{}", kind.name);
        }
    }

    /// Each case: a table, and key, a word and a word of the fix of the one problem it has.
    fn check_cases(cases: &[(String, &str, &str, &str)]) {
        for (text, key, word, fix) in cases {
            let found = check(&read(text));
            let [problem] = &found[..] else { panic!("{text}: {found:?}") };
            assert_eq!(problem.key, *key, "{text}: {problem}");
            assert!(problem.what.contains(word), "{text}: {problem}");
            assert!(problem.fix.contains(fix), "{text}: {problem}");
            let problem = problem.to_string();
            assert!(!problem.contains("secret@") && !problem.contains("hunter2"), "{problem}");
            assert!(!problem.contains("/secret"), "{problem}");
        }
    }

    #[test]
    fn keys_that_a_kind_needs_or_does_not_take_are_told_with_their_fix() {
        let dir = tempfile::tempdir().unwrap();
        let url = file(&dir, "url", "https://x/y", 0o640);
        let url = url.display();
        let key = file(&dir, "key", "0123456789abcdef", 0o640);
        let key = key.display();
        let slack = "kind = 'slack'\nurl = 'https://x/y'";
        check_cases(&[
            ("kind = 'slak'".into(), "kind", "\"slak\"", "one of slack, "),
            ("kind = ''".into(), "kind", "is missing", "write one of "),
            (format!("{slack}\nchat_id = '1'"), "chat_id", "slack", "it is for telegram"),
            (format!("{slack}\nto = ['a@b.c']"), "to", "slack", "it is for email"),
            (format!("{slack}\nurl_file = '{url}'"), "url_file", "beside url", "keep one"),
            (
                format!("kind = 'pagerduty'\nsecret_file = '{key}'\ndigest = ['08:00']"),
                "digest",
                "pagerduty",
                "another kind, e.g. email",
            ),
            (
                "kind = 'alertmanager'\nurl = 'http://x'\ndigest = ['1:00']".into(),
                "digest",
                "alertmanager",
                "another kind",
            ),
            (
                "kind = 'email'\nurl = 'smtp://m:25'\nfrom = 'a@b.example'".into(),
                "to",
                "missing",
                "who gets the mail",
            ),
            ("kind = 'teams'".into(), "url", "missing", "url_file"),
        ]);
    }

    #[test]
    fn urls_and_files_are_told_with_their_fix_and_nothing_of_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let open = file(&dir, "open", "0123456789abcdef", 0o644);
        let open = open.display();
        let nonsense = file(&dir, "nonsense", "hunter2", 0o600);
        let nonsense = nonsense.display();
        let slack = "kind = 'slack'\nurl = 'https://x/y'";
        check_cases(&[
            (
                "kind = 'slack'\nurl = 'hooks/secret'".into(),
                "url",
                "no URL",
                "https://host.example/",
            ),
            (
                "kind = 'slack'\nurl = 'ftp://x/secret'".into(),
                "url",
                "\"ftp\" is not http or https",
                "write",
            ),
            (
                "kind = 'slack'\nurl = 'https://me:secret@x/'".into(),
                "url",
                "would be seen",
                "secret_file",
            ),
            (
                format!("kind = 'slack'\nurl_file = '{nonsense}'"),
                "url_file",
                "is no URL",
                "write it like",
            ),
            (format!("kind = 'slack'\nurl_file = '{open}'"), "url_file", "everybody", "chmod o="),
            (
                format!("kind = 'opsgenie'\nsecret_file = '{open}'"),
                "secret_file",
                "everybody",
                "chmod o=",
            ),
            ("kind = 'opsgenie'\nsecret_file = '/no/key'".into(), "secret_file", "/no/key", "0640"),
            (format!("{slack}\nca_file = '{nonsense}'"), "ca_file", "no certificate", "PEM"),
            (
                format!("{slack}\ntemplate_file = '/no/t.j2'"),
                "template_file",
                "/no/t.j2",
                "built-in",
            ),
        ]);
    }

    #[test]
    fn values_that_make_no_sense_are_told_with_their_fix() {
        let dir = tempfile::tempdir().unwrap();
        let key = file(&dir, "key", "0123456789abcdef", 0o640);
        let key = key.display();
        let slack = "kind = 'slack'\nurl = 'https://x/y'";
        let mail =
            "kind = 'email'\nurl = 'smtp://m:25'\nfrom = 'a@b.example'\nto = ['a@b.example']";
        check_cases(&[
            (
                format!("{slack}\nmessages_per_minute_max = 0"),
                "messages_per_minute_max",
                "= 0",
                "1 or more",
            ),
            (format!("{slack}\nname = 'a/b'"), "name", "\"a/b\"", "letters"),
            (format!("{slack}\ntimezone = 'Mars/Base'"), "timezone", "Mars/Base", "Europe/Berlin"),
            (format!("{slack}\ndigest = ['8 o clock']"), "digest", "8 o clock", "Mon-Fri 08:00"),
            (format!("{slack}\nescalate_after = '0s'"), "escalate_after", "nobody", "remove"),
            (
                format!("{slack}\ndigest = ['08:00']\nescalate_after = '5m'"),
                "escalate_after",
                "digest",
                "two tables",
            ),
            (
                "kind = 'alertmanager'\nurl = 'http://x'\nrepeat_interval = '6m'".into(),
                "repeat_interval",
                "too long",
                "1s to 5m",
            ),
            (
                "kind = 'alertmanager'\nurl = 'http://x'\nrepeat_interval = '999ms'".into(),
                "repeat_interval",
                "too short",
                "1s to 5m",
            ),
            ("kind = 'ntfy'\ntopic = 'a b'".into(), "topic", "\"a b\"", "1 to 64"),
            (
                format!("kind = 'telegram'\nsecret_file = '{key}'\nchat_id = 'us'"),
                "chat_id",
                "\"us\"",
                "number",
            ),
            (
                mail.replace("from = 'a@b.example'", "from = 'nobody'"),
                "from",
                "\"nobody\"",
                "ops@example.com",
            ),
            (format!("{mail}\ntls = 'ssl'"), "tls", "\"ssl\"", "starttls"),
            (format!("{mail}\nuser = 'u'"), "user", "no password", "secret_file"),
            (format!("{mail}\nsecret_file = '{key}'"), "secret_file", "nobody", "set user"),
        ]);
    }

    #[test]
    fn the_nearest_kind_is_named_first() {
        for (text, nearest) in
            [("mail", "email"), ("pager_duty", "pagerduty"), ("web-hook", "webhook")]
        {
            let told = unknown(text).to_string();
            assert!(told.contains(&format!("write one of {nearest}, ")), "{told}");
            assert!(KINDS.iter().all(|kind| told.contains(kind.name)), "{told}");
        }
    }
}
