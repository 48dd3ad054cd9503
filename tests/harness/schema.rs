//! What each service takes, from what it publishes: a JSON schema per kind, and the rules that a schema
//! cannot say.

use serde_json::Value;

/// Kinds of receivers and the schemas of their bodies.
const SCHEMAS: [(&str, &str); 9] = [
    ("webhook", include_str!("schemas/webhook.json")),
    ("alertmanager", include_str!("schemas/alertmanager.json")),
    ("slack", include_str!("schemas/slack.json")),
    ("teams", include_str!("schemas/teams.json")),
    ("discord", include_str!("schemas/discord.json")),
    ("telegram", include_str!("schemas/telegram.json")),
    ("ntfy", include_str!("schemas/ntfy.json")),
    ("pagerduty", include_str!("schemas/pagerduty.json")),
    ("opsgenie", include_str!("schemas/opsgenie.json")),
];

/// Tags of Telegram's HTML that we use; it knows more.
const TELEGRAM_TAGS: [&str; 4] = ["a", "b", "code", "i"];

/// Checks bodies for one kind of receiver.
#[derive(Debug)]
pub(crate) struct Schema {
    kind: String,
    validator: jsonschema::Validator,
}

impl Schema {
    /// Of a kind there is a schema for.
    pub(crate) fn of(kind: &str) -> Self {
        let (_, text) = SCHEMAS.iter().find(|(of, _)| *of == kind).expect("a kind with a schema");
        let schema: Value = serde_json::from_str(text).expect("a schema is JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema is valid");
        Self { kind: kind.to_owned(), validator }
    }

    /// Everything the service would refuse in a body.
    pub(crate) fn problems(&self, body: &Value) -> Vec<String> {
        let errors = self.validator.iter_errors(body);
        let mut problems: Vec<String> =
            errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
        let n_bytes = body.to_string().len();
        let mut refuse = |is_wrong: bool, what: String| {
            if is_wrong {
                problems.push(what);
            }
        };
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        match self.kind.as_str() {
            "teams" => {
                refuse(n_bytes > 28 << 10, format!("{n_bytes} bytes, 28 KB are taken"));
            }
            "pagerduty" => {
                refuse(n_bytes > 512 << 10, format!("{n_bytes} bytes, 512 KB are taken"));
            }
            "discord" => {
                let n = n_embed_chars(body);
                refuse(n > 6000, format!("{n} characters in embeds, 6,000 are taken"));
            }
            "ntfy" => {
                let n = text("message").len();
                refuse(n > 4096, format!("a message of {n} bytes becomes an attachment"));
            }
            "telegram" => {
                let (html, max) = match body.get("caption") {
                    Some(_) => (text("caption"), 1024),
                    None => (text("text"), 4096),
                };
                match telegram_text(html) {
                    Ok(shown) => {
                        let n = shown.encode_utf16().count();
                        refuse(n > max || n == 0, format!("{n} characters, 1 to {max} are taken"));
                    }
                    Err(what) => refuse(true, format!("can't parse entities: {what}")),
                }
            }
            "alertmanager" => {
                for alert in body.as_array().into_iter().flatten() {
                    let is_over = alert["endsAt"].as_str() < alert["startsAt"].as_str();
                    refuse(is_over, "start time must be before end time".to_owned());
                }
            }
            _ => {}
        }
        problems
    }
}

/// Characters of title, description, footer and fields, over all embeds.
fn n_embed_chars(body: &Value) -> usize {
    let n = |text: &Value| text.as_str().map_or(0, |text| text.encode_utf16().count());
    let embeds = body["embeds"].as_array().into_iter().flatten();
    embeds
        .map(|embed| {
            let fields = embed["fields"].as_array().into_iter().flatten();
            let fields: usize = fields.map(|field| n(&field["name"]) + n(&field["value"])).sum();
            n(&embed["title"]) + n(&embed["description"]) + n(&embed["footer"]["text"]) + fields
        })
        .sum()
}

/// The text that Telegram shows of its HTML: tags it knows, balanced, and no stray `<` or `&`.
pub(crate) fn telegram_text(html: &str) -> Result<String, String> {
    let (mut open, mut shown, mut rest) = (Vec::new(), String::new(), html);
    while let Some(at) = rest.find(['<', '&']) {
        shown.push_str(&rest[..at]);
        let is_tag = rest[at..].starts_with('<');
        let (part, after) =
            rest[at + 1..].split_once(if is_tag { '>' } else { ';' }).ok_or_else(|| {
                format!("no end of {:?}", rest[at..].chars().take(20).collect::<String>())
            })?;
        rest = after;
        if !is_tag {
            shown.push(match part {
                "lt" => '<',
                "gt" => '>',
                "amp" => '&',
                "quot" => '"',
                "#39" => '\'',
                other => return Err(format!("unknown entity {other:?}")),
            });
        } else if let Some(name) = part.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> ends nothing"));
            }
        } else {
            let name = part.split(' ').next().unwrap_or_default();
            let is_link = part.starts_with("a href=\"http") && part.ends_with('"');
            if !TELEGRAM_TAGS.contains(&name) || (part != name && !is_link) {
                return Err(format!("unsupported start tag {part:?}"));
            }
            open.push(name);
        }
    }
    shown.push_str(rest);
    if open.is_empty() { Ok(shown.trim().to_owned()) } else { Err(format!("{open:?} never end")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_of_telegram_is_balanced_and_knows_few_tags() {
        for (html, expected) in [
            ("<b>a &lt;b&gt;</b> <a href=\"https://x/?a=b&amp;c\">l</a>", Ok("a <b> l")),
            ("<b>a", Err("[\"b\"] never end")),
            ("a</b>", Err("</b> ends nothing")),
            ("<script>", Err("unsupported start tag \"script\"")),
            (
                "<a href=\"javascript:x\">",
                Err("unsupported start tag \"a href=\\\"javascript:x\\\"\""),
            ),
            ("a < b", Err("no end of \"< b\"")),
            ("&nbsp;", Err("unknown entity \"nbsp\"")),
        ] {
            let shown = telegram_text(html);
            assert_eq!(shown.as_deref().map_err(String::as_str), expected, "{html}");
        }
    }

    #[test]
    fn every_schema_refuses_an_empty_body() {
        for (kind, _) in SCHEMAS {
            assert!(!Schema::of(kind).problems(&Value::Null).is_empty(), "{kind}");
        }
    }
}
