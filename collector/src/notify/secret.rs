//! Keys, tokens, passwords and URLs that are secrets: read for each use, never shown.

use std::cmp::Reverse;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::Value;

use super::escape;
use super::fault::Wrong;

/// A secret text; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself: only for what is sent to its receiver.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Reads a secret; `Err` names the file and the fix. White space at the end is no part of it: editors
/// add a newline.
pub fn read(path: &Path) -> Result<Secret, Wrong> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let fix = "write the secret there, mode 0640, readable by the collector";
        Wrong::new(format!("{shown}: {error}"), fix)
    };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        let what = format!("{shown}: everybody can use it");
        return Err(Wrong::new(what, format!("`chmod o= {shown}`")));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let text = text.trim_ascii_end();
    if text.is_empty() {
        return Err(Wrong::new(format!("{shown}: is empty"), "write the secret there"));
    }
    Ok(Secret(text.to_owned()))
}

/// What a secret is when it is sent: itself, and as `Authorization: Basic` and `AUTH PLAIN` encode it. A
/// secret that holds `user:password` is taken apart.
#[must_use]
pub fn forms(user: Option<&str>, secret: &Secret) -> Vec<String> {
    let whole = secret.expose();
    let split = whole.split_once(':').filter(|_| user.is_none());
    let (user, password) = split.map_or((user, whole), |(user, password)| (Some(user), password));
    let mut plain = vec![whole.to_owned(), password.to_owned()];
    let mut sent = plain.clone();
    if let Some(user) = user {
        sent.extend([format!("{user}:{password}"), format!("\0{user}\0{password}")]);
    }
    // What fills up the end is no part of it: some leave it out.
    plain.extend(sent.iter().map(|text| STANDARD_NO_PAD.encode(text)));
    plain.retain(|text| !text.is_empty());
    plain
}

/// A text that somebody sent back, without any of `hidden`, also as JSON or on one line.
#[must_use]
pub fn without(text: &str, hidden: &[String]) -> String {
    let mut all: Vec<String> = hidden
        .iter()
        .flat_map(|secret| [secret.clone(), escape::one_line(secret), quoted(secret)])
        .filter(|form| !form.is_empty())
        .collect();
    // The longest first: a part within a whole would leave the rest.
    all.sort_by_key(|form| Reverse(form.len()));
    all.iter().fold(text.to_owned(), |text, form| text.replace(form, "(secret)"))
}

/// A text as JSON writes it, without the quotes.
fn quoted(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_taken_out_of_an_answer_as_it_was_encoded() {
        // Made by `base64` of coreutils.
        let encoded = [
            "Y29ycmVjdCBob3JzZQ==",     // the password
            "YW5uOmNvcnJlY3QgaG9yc2U=", // ann:password
            "AGFubgBjb3JyZWN0IGhvcnNl", // the same for AUTH PLAIN
        ];
        for (user, secret) in [(Some("ann"), "correct horse"), (None, "ann:correct horse")] {
            let hidden = forms(user, &Secret::from(secret.to_owned()));
            for form in encoded {
                let said = without(&format!("535 {form} is wrong"), &hidden);
                assert!(said.starts_with("535 (secret)") && said.ends_with(" is wrong"), "{said}");
            }
            assert_eq!(without("it is correct horse!", &hidden), "it is (secret)!");
        }
        let alone = forms(None, &Secret::from("token".to_owned()));
        assert_eq!(without("Bearer token, dG9rZW4=", &alone), "Bearer (secret), (secret)=");
        let quote = ["a\"b c".to_owned()];
        assert_eq!(without(r#"{"key":"a\"b c"}"#, &quote), r#"{"key":"(secret)"}"#);
        assert_eq!(without("nothing is hidden", &[String::new()]), "nothing is hidden");
    }
}
