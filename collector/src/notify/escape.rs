//! Makes text of strangers harmless for each service: the filters of templates; pure.
//!
//! Text within a card is one line: white space becomes one space, so that no text can begin a line,
//! where quotes and lists begin. A limit counts what is sent, in UTF-16 units, which are never fewer
//! than the characters a service counts; an escape is never cut in two.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::words::is_hidden;

/// Looks like nothing and breaks words: `@everyone` is one word, `@` + this + `everyone` is none.
const GAP: &str = "\u{200b}";

/// Says that more was there.
const MORE: char = '…';

/// Text without characters that nobody sees but that change what others see: control characters other
/// than line ends, and marks that turn the direction of writing.
#[must_use]
pub fn clean(text: &str) -> String {
    let keep = |c: char| match c {
        '\n' => Some('\n'),
        '\t' | '\r' => Some(' '),
        c if is_hidden(c) => None,
        c if c.is_control() => Some('\u{fffd}'),
        c => Some(c),
    };
    text.chars().filter_map(keep).collect()
}

/// `clean` text on one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `limit` UTF-16 units, the last of them `…` when there was more.
#[must_use]
pub fn cut(text: &str, limit: usize) -> String {
    within(limit, text.chars().map(|c| Cow::Owned(c.to_string())))
}

/// For Slack's mrkdwn: no entity, link, mention, code or emphasis comes out of it.
#[must_use]
pub fn slack(text: &str, limit: usize) -> String {
    let text = one_line(text);
    within(
        limit,
        neighbours(&text).map(|(before, c, after)| {
            let is_inside = is_word(before) && is_word(after);
            match c {
                '&' | '<' | '>' => entity(c),
                // Look-alikes: Slack has no escape for these.
                '`' => "\u{2cb}".into(),
                '*' if !is_inside => "\u{2217}".into(),
                '_' if !is_inside => "\u{2cd}".into(),
                '~' if !is_inside => "\u{223c}".into(),
                '@' if !is_word(before) => format!("@{GAP}").into(),
                c => c.to_string().into(),
            }
        }),
    )
}

/// For code in Slack: entities are written out and a backtick, which would end it, becomes `'`.
#[must_use]
pub fn slack_code(text: &str, limit: usize) -> String {
    let text = clean(text);
    within(
        limit,
        text.chars().map(|c| match c {
            '&' | '<' | '>' => entity(c),
            '`' => "'".into(),
            c => c.to_string().into(),
        }),
    )
}

/// For Markdown as Discord reads it: no markup, link or mention comes out of it.
#[must_use]
pub fn markdown(text: &str, limit: usize) -> String {
    let text = one_line(text);
    let mut is_number = true;
    within(
        limit,
        neighbours(&text).map(move |(_, c, after)| {
            let begins_list = c == '.' && is_number;
            is_number &= c.is_ascii_digit();
            let is_address = c == ':' && (after == '/' || after.is_alphabetic());
            match c {
                '@' => format!("@{GAP}").into(),
                '\\' | '`' | '*' | '_' | '~' | '|' | '[' | ']' | '(' | ')' | '<' | '>' | '#'
                | '+' | '-' | '!' | '{' | '}' => format!("\\{c}").into(),
                '.' | ':' if begins_list || is_address => format!("\\{c}").into(),
                c => c.to_string().into(),
            }
        }),
    )
}

/// For a block of code in Markdown: a backtick, which would end it, becomes `'`.
#[must_use]
pub fn code(text: &str, limit: usize) -> String {
    let text = clean(text).replace('`', "'");
    let text = ["everyone", "here"]
        .iter()
        .fold(text, |text, all| text.replace(&format!("@{all}"), &format!("@{GAP}{all}")));
    cut(&text, limit)
}

/// For HTML, in a text or an attribute.
#[must_use]
pub fn html(text: &str, limit: usize) -> String {
    let text = one_line(text);
    within(
        limit,
        text.chars().map(|c| match c {
            '&' | '<' | '>' | '"' => entity(c),
            '\'' => "&#39;".into(),
            c => c.to_string().into(),
        }),
    )
}

/// For plain text that some of the receiver's pages show as HTML (Opsgenie): no tag begins.
#[must_use]
pub fn tagless(text: &str, limit: usize) -> String {
    let text = clean(text);
    within(
        limit,
        text.chars().map(|c| match c {
            '<' => format!("<{GAP}").into(),
            c => c.to_string().into(),
        }),
    )
}

/// For a text run of an Adaptive Card: it knows no markup, but `{{DATE()}}` of its templates.
#[must_use]
pub fn card(text: &str, limit: usize) -> String {
    let text = one_line(text);
    within(
        limit,
        neighbours(&text).map(|(before, c, _)| match c {
            '{' if matches!(before, '{' | '$') => format!("{GAP}{{").into(),
            c => c.to_string().into(),
        }),
    )
}

/// An address with everything percent-encoded that could end it in markup.
#[must_use]
pub fn url(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let is_safe = byte.is_ascii_alphanumeric() || b"-._~:/?#@!$&*+,;=%".contains(&byte);
        if is_safe {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes all");
        }
    }
    out
}

fn entity(c: char) -> Cow<'static, str> {
    match c {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        _ => "&quot;",
    }
    .into()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric()
}

/// Each character with the one before and the one after it; a space stands at both ends.
fn neighbours(text: &str) -> impl Iterator<Item = (char, char, char)> {
    let after = text.chars().skip(1).chain([' ']);
    let before = [' '].into_iter().chain(text.chars());
    before.zip(text.chars()).zip(after).map(|((before, c), after)| (before, c, after))
}

/// Joins pieces as long as they fit into `limit` UTF-16 units.
fn within<'a>(limit: usize, pieces: impl Iterator<Item = Cow<'a, str>>) -> String {
    let (mut out, mut n_units, mut fits) = (String::new(), 0, 0);
    for piece in pieces {
        n_units += piece.encode_utf16().count();
        if n_units > limit {
            out.truncate(fits);
            if limit > 0 {
                out.push(MORE);
            }
            break;
        }
        out.push_str(&piece);
        if n_units < limit {
            fits = out.len();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: fn(&str, usize) -> String, text: &str, expected: &str) {
        assert_eq!(filter(text, 1000), expected, "{text:?}");
    }

    #[test]
    fn text_for_slack_holds_no_markup_of_slack() {
        check(slack, "plain max_children (5) of a*b", "plain max_children (5) of a*b");
        check(slack, "<!channel> & <@U1> <http://x|y>", {
            "&lt;!channel&gt; &amp; &lt;@\u{200b}U1&gt; &lt;http://x|y&gt;"
        });
        check(slack, "*bold* _it_ ~no~", "\u{2217}bold\u{2217} ˍitˍ \u{223c}no\u{223c}");
        check(slack, "`id` @here me@x.example", "ˋidˋ @\u{200b}here me@x.example");
        check(slack, "a\n> quote\r\n\0b", "a &gt; quote \u{fffd}b");
        check(slack_code, "a `b` <c>\n&d", "a 'b' &lt;c&gt;\n&amp;d");
    }

    #[test]
    fn text_for_markdown_holds_no_markup() {
        check(markdown, "at 12:01:07, 3.5 s", "at 12:01:07, 3.5 s");
        check(markdown, "[x](javascript:alert(1))", "\\[x\\]\\(javascript\\:alert\\(1\\)\\)");
        check(markdown, "@everyone <@1> ||s||", {
            "@\u{200b}everyone \\<@\u{200b}1\\> \\|\\|s\\|\\|"
        });
        check(markdown, "# a\n- b `c` **d** \\", "\\# a \\- b \\`c\\` \\*\\*d\\*\\* \\\\");
        check(markdown, "https://x/ 1.2", "https\\://x/ 1.2");
        check(markdown, "12. list", "12\\. list");
        check(code, "``` x", "''' x");
    }

    #[test]
    fn text_for_html_holds_no_tag_and_ends_no_attribute() {
        check(html, "<script>'\"&", "&lt;script&gt;&#39;&quot;&amp;");
        check(tagless, "a <b>\nc", "a <\u{200b}b>\nc");
        check(card, "{{DATE(x)}} ${y}", "{\u{200b}{DATE(x)}} $\u{200b}{y}");
    }

    #[test]
    fn an_address_ends_no_markup() {
        assert_eq!(url("https://gw/incidents/01J?a=b&c"), "https://gw/incidents/01J?a=b&c");
        assert_eq!(url("https://gw/a|b>(c)\" é"), "https://gw/a%7Cb%3E%28c%29%22%20%C3%A9");
    }

    #[test]
    fn text_that_is_cut_says_so_and_no_escape_is_cut_in_two() {
        for (limit, expected) in [(0, ""), (1, "…"), (2, "a…"), (3, "abc"), (4, "abc")] {
            assert_eq!(cut("abc", limit), expected, "{limit}");
        }
        assert_eq!(cut("a😀b", 3), "a…", "the face is two units");
        assert_eq!(cut("a😀", 3), "a😀");
        assert_eq!(html("a<b", 5), "a…");
        assert_eq!(html("a<", 5), "a&lt;");
        assert_eq!(markdown("ab*c", 4), "ab…");
    }

    #[test]
    fn marks_that_turn_the_writing_and_control_characters_are_taken_out() {
        assert_eq!(clean("a\u{202e}b\u{2066}c\0\u{1b}[1m\t\n"), "abc\u{fffd}\u{fffd}[1m \n");
        assert_eq!(clean("a\u{200d}\u{ad}\u{e0041}b"), "ab", "the table of pages");
        assert_eq!(one_line(" a \n\n b "), "a b");
    }
}
