//! A report as the body of an e-mail: what it found, in short. Pure.
//!
//! Mail programs show no SVG and drop style sheets: styles are written out, bars are cells of a table,
//! and the dark look is an extra that some of them take.

use std::fmt::Write as _;

use super::figure::{level_sign, level_word, number, time};
use super::html::escaped;
use crate::notify::escape::url;
use crate::report::document::{Chart, Level, Plot, Report};

const SANS: &str = "font-family:-apple-system,BlinkMacSystemFont,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif";
/// Findings in a mail; the report has all.
const FINDINGS_MAX: usize = 12;
/// Bars in a mail.
const BARS_MAX: usize = 8;

/// What some mail programs take: the dark look, and less space on phones.
const STYLE: &str = "\
:root { color-scheme: light dark; supported-color-schemes: light dark; }
@media (max-width: 480px) {
  .pad { padding-left: 20px !important; padding-right: 20px !important; }
  .edge { padding: 0 !important; }
  .sheet { border-radius: 0 !important; border-left: 0 !important; border-right: 0 !important; }
  .button { display: block !important; text-align: center !important; }
}
@media (prefers-color-scheme: dark) {
  body, .paper { background: #0c0e12 !important; }
  .sheet { background: #16191f !important; border-color: #2a2f38 !important; }
  .ink { color: #f2f4f7 !important; }
  .mute { color: #a3acba !important; }
  .rule { border-color: #2a2f38 !important; }
  .track { background: #2a2f38 !important; }
  .critical { color: #ff8a7d !important; }
  .warning { color: #fdb022 !important; }
  .note { color: #84adff !important; }
  .good { color: #47cd89 !important; }
  .button { background: #f2f4f7 !important; color: #101828 !important; }
}
";

/// The body; `link`: where the whole report is.
pub(super) fn mail(report: &Report, link: Option<&str>) -> String {
    let title = escaped(&report.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"format-detection\" content=\"telephone=no,date=no,address=no,email=no,url=no\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body class=\"paper\" style=\"margin:0;padding:0;background:#f2f4f7\">\n\
         <table role=\"presentation\" class=\"paper\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" style=\"background:#f2f4f7;table-layout:fixed\">\n\
         <tr><td class=\"edge\" align=\"center\" style=\"padding:24px 12px\">\n\
         <table role=\"presentation\" class=\"sheet\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" style=\"max-width:600px;background:#ffffff;border:1px solid #e4e7ec;border-radius:12px;border-collapse:separate;table-layout:fixed;text-align:left\">\n"
    );
    let kind = report.kind.name().to_uppercase();
    let about = format!("{} to {} UTC, {}", time(report.from), time(report.to), report.scope);
    row(
        &mut out,
        28,
        &format!(
            "<div class=\"mute\" style=\"{SANS};font-size:14px;line-height:20px;font-weight:700;letter-spacing:.06em;color:#667085\">{kind} REPORT</div>\n\
         <h1 class=\"ink\" style=\"{SANS};margin:6px 0 0;font-size:22px;line-height:30px;font-weight:650;color:#101828;overflow-wrap:anywhere\">{title}</h1>\n\
         <p class=\"mute\" style=\"{SANS};margin:6px 0 0;font-size:14px;line-height:20px;color:#667085;overflow-wrap:anywhere\">{}</p>",
            escaped(&about)
        ),
    );
    for finding in report.findings.iter().take(FINDINGS_MAX) {
        row(&mut out, 18, &finding_html(finding.level, &finding.text));
    }
    let n_more = report.findings.len().saturating_sub(FINDINGS_MAX);
    if n_more > 0 {
        row(&mut out, 18, &mute(&format!("and {n_more} more in the report")));
    }
    if let Some((chart, bars)) = report.charts().find_map(|chart| match &chart.plot {
        Plot::Bars(bars) if !bars.is_empty() => Some((chart, bars)),
        _ => None,
    }) {
        row(&mut out, 24, &bars_html(chart, bars));
    }
    for caveat in &report.caveats {
        row(&mut out, 14, &mute(&format!("Keep in mind: {caveat}")));
    }
    if let Some(link) = link {
        row(
            &mut out,
            26,
            &format!(
                "<a href=\"{}\" class=\"button\" style=\"{SANS};display:inline-block;background:#101828;color:#ffffff;font-size:16px;line-height:24px;font-weight:600;text-decoration:none;padding:12px 22px;border-radius:8px\">Open the report</a>",
                escaped(&url(link))
            ),
        );
    }
    let foot = format!(
        "Made by gatewatch on {} UTC. The whole report is attached: tables, charts, and what each figure is.",
        time(report.made_at)
    );
    row(
        &mut out,
        24,
        &format!(
            "<div class=\"rule mute\" style=\"{SANS};font-size:14px;line-height:20px;color:#667085;border-top:1px solid #e4e7ec;padding:16px 0 28px\">{}</div>",
            escaped(&foot)
        ),
    );
    out.push_str("</table>\n</td></tr>\n</table>\n</body>\n</html>\n");
    out
}

fn row(out: &mut String, above: u32, inside: &str) {
    writeln!(
        out,
        "<tr><td class=\"pad\" style=\"padding:{above}px 32px 0\">\n{inside}\n</td></tr>"
    )
    .ok();
}

fn mute(words: &str) -> String {
    format!(
        "<div class=\"mute\" style=\"{SANS};font-size:14px;line-height:20px;color:#667085;overflow-wrap:anywhere\">{}</div>",
        escaped(words)
    )
}

fn finding_html(level: Level, text: &str) -> String {
    let (word, sign) = (level_word(level), level_sign(level));
    let color = match level {
        Level::Critical => "#b42318",
        Level::Warning => "#b54708",
        Level::Note => "#175cd3",
        Level::Good => "#067647",
    };
    format!(
        "<div class=\"{word}\" style=\"{SANS};font-size:14px;line-height:20px;font-weight:700;letter-spacing:.06em;color:{color}\">{sign} {}</div>\n\
         <div class=\"ink\" style=\"{SANS};font-size:16px;line-height:24px;color:#101828;overflow-wrap:anywhere\">{}</div>",
        word.to_uppercase(),
        escaped(text)
    )
}

/// Bars as cells of a table, which every mail program shows.
fn bars_html(chart: &Chart, bars: &[(String, f64)]) -> String {
    let most = bars.iter().map(|(_, value)| *value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let mut out = format!(
        "<div class=\"ink\" style=\"{SANS};font-size:16px;line-height:24px;font-weight:650;color:#101828\">{}</div>\n",
        escaped(&chart.title)
    );
    for (name, value) in bars.iter().take(BARS_MAX) {
        let share = if most > 0.0 && value.is_finite() { value / most } else { 0.0 };
        let full = (share.clamp(0.0, 1.0) * 100.0).round().max(1.0);
        write!(
            out,
            "<table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" style=\"table-layout:fixed;margin-top:8px\"><tr>\
             <td class=\"ink\" style=\"{SANS};font-size:14px;line-height:20px;color:#101828;overflow-wrap:anywhere\">{}</td>\
             <td class=\"ink\" align=\"right\" width=\"110\" style=\"{SANS};font-size:14px;line-height:20px;color:#101828\">{}</td></tr></table>\n\
             <table role=\"presentation\" class=\"track\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\" style=\"background:#e4e7ec;border-radius:3px\"><tr>\
             <td style=\"width:{full}%;background:#175cd3;height:6px;line-height:6px;font-size:6px;border-radius:3px\">&nbsp;</td>\
             <td style=\"height:6px;line-height:6px;font-size:6px\">&nbsp;</td></tr></table>\n",
            escaped(name),
            escaped(&number(*value, &chart.unit))
        )
        .ok();
    }
    out
}
