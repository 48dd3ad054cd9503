//! Words of Apache's configuration: directives, sections, names and ports.

/// The port of `80`, `*:80`, `[::]:80`.
pub(super) fn port_of(listen: &str) -> Option<u16> {
    listen.rsplit(':').next()?.parse().ok()
}

/// What `<Name argument>` holds behind its name.
pub(super) fn section_of<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let inside = line.strip_prefix('<')?.trim_end_matches('>');
    let (own, argument) = inside.split_once(char::is_whitespace)?;
    own.eq_ignore_ascii_case(name).then_some(argument.trim())
}

/// `https://a.example:443` -> `a.example`.
pub(super) fn bare_name(name: &str) -> String {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    name.split_once(':').map_or(name, |(host, _)| host).to_owned()
}

/// Words of a directive; quotes keep spaces, and a backslash keeps a quote.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.next() else { return out };
        let quote = matches!(first, '"' | '\'').then_some(first);
        let mut word = String::new();
        if quote.is_none() {
            word.push(first);
        }
        while let Some(c) = chars.next() {
            if Some(c) == quote || quote.is_none() && c.is_whitespace() {
                break;
            }
            match (c, chars.peek()) {
                ('\\', Some(next)) if Some(*next) == quote => {
                    word.push(*next);
                    chars.next();
                }
                _ => word.push(c),
            }
        }
        out.push(word);
    }
}
