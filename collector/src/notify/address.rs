//! URLs of receivers, and the certificates they are trusted by. One check for all of them, at `check`
//! and when a file is read again: what is refused there must not be sent to later.

use std::path::Path;

use reqwest::{Certificate, Url};

use super::fault::Wrong;
use super::secret;

/// Schemes of what is asked over HTTP.
pub const WEB: &[&str] = &["https", "http"];

/// A URL with a host and one of these schemes; `Err` quotes nothing of it but its scheme.
pub fn parse(text: &str, schemes: &[&str]) -> Result<Url, Wrong> {
    let example = format!("write it like \"{}://host.example/\"", schemes[0]);
    let url = Url::parse(text.trim())
        .map_err(|error| Wrong::new(format!("is no URL ({error})"), &example))?;
    if !schemes.contains(&url.scheme()) {
        let known: Vec<&str> = schemes.iter().rev().copied().collect();
        let what = format!("{:?} is not {}", url.scheme(), known.join(" or "));
        return Err(Wrong::new(what, example));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Wrong::new("names no host", example));
    }
    if url.password().is_some() || !url.username().is_empty() {
        let what = "holds a name or password that would be seen";
        return Err(Wrong::new(
            what,
            "take it out: what a receiver wants to know stands in secret_file",
        ));
    }
    Ok(url)
}

/// The URL in a file of secrets, as it is now.
pub fn read(path: &Path, schemes: &[&str]) -> Result<Url, Wrong> {
    let text = secret::read(path)?;
    parse(text.expose(), schemes)
        .map_err(|wrong| wrong.in_place(format_args!("what is in {}", path.display())))
}

/// What links begin with: a path follows, so nothing may stand behind its own.
pub fn check_links(text: &str) -> Result<(), Wrong> {
    let url = parse(text, WEB)?;
    if url.query().is_some() || url.fragment().is_some() {
        let fix = "write it like \"https://gatewatch.example\": links add their path to it";
        return Err(Wrong::new("has more than a host and a path", fix));
    }
    Ok(())
}

/// The text of a file of certificates in PEM, of which it has at least one.
pub fn certificates(path: &Path) -> Result<Vec<u8>, Wrong> {
    let shown = path.display();
    let fix = "name a file of certificates in PEM that the collector can read";
    let pem = std::fs::read(path).map_err(|error| Wrong::new(format!("{shown}: {error}"), fix))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(pem),
        _ => Err(Wrong::new(format!("{shown}: holds no certificate"), fix)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_would_not_do_is_refused_without_being_shown() {
        for (text, schemes, told) in [
            ("https://x.example/hunter2", WEB, ""),
            (" http://127.0.0.1:9093 ", WEB, ""),
            ("smtp://mail.example:587", &["smtp"], ""),
            ("hooks/hunter2", WEB, "is no URL"),
            ("https://", WEB, "is no URL"),
            ("ftp://x/hunter2", WEB, "\"ftp\" is not http or https"),
            ("https://x/", &["smtp"], "\"https\" is not smtp"),
            ("https://ann:hunter2@x/", WEB, "would be seen"),
            ("https://hunter2@x/", WEB, "would be seen"),
        ] {
            let wrong = parse(text, schemes).err().map(String::from).unwrap_or_default();
            assert_eq!(wrong.is_empty(), told.is_empty(), "{text}: {wrong}");
            assert!(wrong.contains(told) && !wrong.contains("hunter2"), "{text}: {wrong}");
        }
    }

    #[test]
    fn links_begin_with_a_host_and_perhaps_a_path() {
        for (text, is_good) in [
            ("https://gatewatch.example", true),
            ("http://10.0.0.1:8503/", true),
            ("https://ops.example/gatewatch/", true),
            ("gatewatch.example", false),
            ("mailto:ops@example.com", false),
            ("https://ann:secret@gatewatch.example", false),
            ("https://gatewatch.example/?site=1", false),
            ("https://gatewatch.example/#here", false),
        ] {
            assert_eq!(check_links(text).is_ok(), is_good, "{text}: {:?}", check_links(text));
        }
    }
}
