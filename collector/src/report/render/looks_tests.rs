//! Reports in a real browser: on phones and screens, in light and dark, on paper.

use harness::{Chromium, Scheme};
use serde_json::Value as Json;

use super::{HtmlOptions, Medium, html, sample};
use crate::report::document::Report;

/// Text of a page is no smaller, pixels.
const SMALLEST_PX: u32 = 13;

fn reports() -> [(&'static str, Report); 3] {
    [
        ("capacity", sample::capacity(12)),
        ("outage", sample::outage()),
        ("noise", sample::noise_makers()),
    ]
}

fn is_readable(seen: &Json, width: u32, case: &str) {
    let none = Json::Array(Vec::new());
    assert_eq!(seen["width"], width, "{case}: {seen}");
    assert!(seen["scroll"].as_u64().is_some_and(|w| w <= width.into()), "{case}: {seen}");
    for fault in ["wide", "small", "faint"] {
        assert_eq!(seen[fault], none, "{case}: {fault}");
    }
    assert_eq!(seen["n_scripts"], 0, "{case}");
}

#[test]
fn reports_fit_and_can_be_read_on_phones_and_screens_in_light_and_dark() {
    let mut browser = Chromium::start();
    let mail = HtmlOptions { medium: Medium::Mail, link: Some("https://gw.example/".into()) };
    for (name, report) in reports() {
        for (what, options) in [("page", HtmlOptions::default()), ("mail", mail.clone())] {
            let html = html(&report, &options);
            for width in [375, 768, 1280] {
                for scheme in [Scheme::Light, Scheme::Dark] {
                    let case = format!("{what} of {name} at {width} px, {scheme:?}");
                    browser.open(&html, width, scheme);
                    let seen = browser.look(SMALLEST_PX);
                    is_readable(&seen, width, &case);
                    let is_dark = seen["paper"].as_f64().is_some_and(|light| light < 0.2);
                    assert_eq!(is_dark, scheme == Scheme::Dark, "{case}: {seen}");
                }
            }
        }
    }
}

/// Whoever prints in the evening wants no black paper, and every table whole.
#[test]
fn a_report_on_paper_is_light_and_cuts_no_table_off() {
    const CUT: &str = "[...document.querySelectorAll('.scroll')]
        .filter(box => box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1)
        .map(box => box.getAttribute('aria-label'))";
    let mut browser = Chromium::start();
    for (name, report) in [("capacity", sample::capacity(60)), ("outage", sample::outage())] {
        // A4 across less its margins, in pixels of CSS.
        browser.open(&html(&report, &HtmlOptions::default()), 1032, Scheme::Dark);
        browser.as_paper();
        let seen = browser.look(8);
        assert!(seen["paper"].as_f64().is_some_and(|light| light > 0.9), "{name}: {seen}");
        assert_eq!(seen["faint"], Json::Array(Vec::new()), "{name}");
        assert_eq!(browser.script(CUT), Json::Array(Vec::new()), "{name}");
        let pdf = browser.pdf();
        assert!(pdf.starts_with(b"%PDF-"), "{name}: {} bytes", pdf.len());
    }
}

#[test]
fn charts_have_words_for_those_who_do_not_see_them_and_rows_have_heads() {
    const BARE: &str = "({
        pictures: [...document.querySelectorAll('svg[role=img]')]
            .filter(svg => !svg.querySelector('title')?.textContent.trim()).length,
        others: [...document.querySelectorAll('svg:not([role=img])')]
            .filter(svg => svg.getAttribute('aria-hidden') !== 'true').length,
        tables: [...document.querySelectorAll('table')]
            .filter(table => !table.querySelector('thead th[scope=col]')
                || !table.querySelector('tbody th[scope=row]')).length,
        links: [...document.querySelectorAll('a[href^=\"#\"]')]
            .filter(a => !document.getElementById(a.getAttribute('href').slice(1))).length,
    })";
    let mut browser = Chromium::start();
    for (name, report) in reports() {
        browser.open(&html(&report, &HtmlOptions::default()), 1280, Scheme::Light);
        let bare = serde_json::json!({"pictures": 0, "others": 0, "tables": 0, "links": 0});
        assert_eq!(browser.script(BARE), bare, "{name}");
    }
}
