//! Writes sample reports in every format into a folder, to look at.

#[path = "../src/report/render/sample.rs"]
mod sample;

/// Where the sample finds what it is made of.
mod report {
    pub(crate) use gatewatch_collector::report::document;
}

use std::path::Path;

use gatewatch_collector::report::render::{self, HtmlOptions, Medium};

fn main() {
    let folder = std::env::args().nth(1).expect("usage: report_pages FOLDER");
    for (name, report) in [
        ("capacity", sample::capacity(12)),
        ("capacity-500", sample::capacity(500)),
        ("outage", sample::outage()),
        ("noise", sample::noise_makers()),
    ] {
        let link = Some("https://gatewatch.example/reports".to_owned());
        let mail = HtmlOptions { medium: Medium::Mail, link };
        for (ending, text) in [
            ("html", render::html(&report, &HtmlOptions::default())),
            ("mail.html", render::html(&report, &mail)),
            ("txt", render::text(&report, 110)),
            ("csv", render::csv(&report)),
            ("json", format!("{:#}", render::json(&report))),
        ] {
            let path = Path::new(&folder).join(format!("{name}.{ending}"));
            std::fs::write(path, text).expect("the folder is writable");
        }
    }
}
