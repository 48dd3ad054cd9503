//! Takes the pictures of the README: the mails and reports in the first folder, as Chromium shows them,
//! into the second. `tests/screenshots.sh` runs it.

use std::fs;
use std::path::Path;

use harness::{Chromium, Scheme};

/// Largest picture, bytes: they are part of the repository.
const BYTES_MAX: usize = 150_000;
/// The height of a whole page; of a report only the upper part is shown.
const WHOLE: u32 = u32::MAX;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(pages), Some(docs)) = (args.next(), args.next()) else {
        panic!("usage: screenshots PAGES DOCS");
    };
    let mut browser = Chromium::start();
    for (page, width, scheme, height, picture) in [
        ("opened.html", 680, Scheme::Light, WHOLE, "mail-opened.png"),
        ("resolved.html", 680, Scheme::Light, WHOLE, "mail-resolved.png"),
        ("opened.html", 375, Scheme::Dark, WHOLE, "mail-phone.png"),
        ("digest.html", 680, Scheme::Dark, WHOLE, "mail-digest.png"),
        ("capacity.html", 960, Scheme::Light, 760, "report-capacity.png"),
        ("outage.html", 960, Scheme::Light, 1100, "report-outage.png"),
        ("noise.html", 960, Scheme::Dark, 1000, "report-noise.png"),
    ] {
        let html = fs::read_to_string(Path::new(&pages).join(page)).expect("the page is there");
        browser.open(&html, width, scheme);
        let seen = browser.look(13);
        for fault in ["wide", "small", "faint"] {
            assert_eq!(seen[fault], serde_json::json!([]), "{page} at {width} px: {fault}");
        }
        let png = browser.picture_of_top(height);
        assert!(png.len() < BYTES_MAX, "{picture}: {} bytes", png.len());
        fs::write(Path::new(&docs).join(picture), png).expect("the folder is writable");
    }
}
