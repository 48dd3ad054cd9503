//! Takes the pictures of the README: the mails in the first folder, as Chromium shows them, into the
//! second. `tests/screenshots.sh` runs it.

use std::fs;
use std::path::Path;

use harness::{Chromium, Scheme};

/// Largest picture, bytes: they are part of the repository.
const BYTES_MAX: usize = 150_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(mails), Some(docs)) = (args.next(), args.next()) else {
        panic!("usage: screenshots MAILS DOCS");
    };
    let mut browser = Chromium::start();
    for (mail, width, scheme, picture) in [
        ("opened.html", 680, Scheme::Light, "mail-opened.png"),
        ("resolved.html", 680, Scheme::Light, "mail-resolved.png"),
        ("opened.html", 375, Scheme::Dark, "mail-phone.png"),
        ("digest.html", 680, Scheme::Dark, "mail-digest.png"),
    ] {
        let html = fs::read_to_string(Path::new(&mails).join(mail)).expect("the mail is there");
        browser.open(&html, width, scheme);
        let png = browser.picture();
        assert!(png.len() < BYTES_MAX, "{picture}: {} bytes", png.len());
        fs::write(Path::new(&docs).join(picture), png).expect("the folder is writable");
    }
}
