//! Words of a line as shells and many servers cut them, and hosts as conditions name them.

/// Words; quotes keep spaces, and a backslash keeps what follows it outside single quotes.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return out;
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(c) = chars.next() {
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (None, c) if c.is_whitespace() => break,
                (None | Some('"'), '\\') => match chars.next() {
                    // Inside quotes only a quote and a backslash need it.
                    Some(next) if quote.is_some() && !matches!(next, '"' | '\\' | '$') => {
                        word.extend(['\\', next]);
                    }
                    Some(next) => word.push(next),
                    None => word.push('\\'),
                },
                (_, c) => word.push(c),
            }
        }
        out.push(word);
    }
}

/// The line without a comment that `#` begins outside quotes.
pub(super) fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            _ if is_escaped => is_escaped = false,
            (_, '\\') if quote != Some('\'') => is_escaped = true,
            (None, '#') => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

/// Lines with those joined that end in a backslash, each with the number of its first, from 1.
pub(super) fn joined_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (number, line) = lines.next()?;
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, more)) = lines.next() else { break };
            whole.push_str(more);
        }
        Some((number + 1, whole))
    })
}

/// Names that one expression is taken apart into.
const NAMES_MAX: usize = 50;

/// The hosts a regular expression means, where it is of the simple kind that configurations hold:
/// `^(www\.)?a\.example$`, `(^|\.)a\.example$`, `^(a|b)\.example$`. Others become `~expression`.
pub(super) fn hosts_of_regex(regex: &str) -> Vec<String> {
    let bare = regex.trim_start_matches("(?i)");
    let (bare, below) = match ["(^|\\.)", "(^|.*\\.)", "(?:^|\\.)"]
        .iter()
        .find_map(|start| bare.strip_prefix(start))
    {
        Some(rest) => (rest, true),
        None => (bare.trim_start_matches('^'), false),
    };
    let bare =
        bare.trim_end_matches('$').trim_end_matches("(:[0-9]+)?").trim_end_matches("(:\\d+)?");
    match alternatives(bare) {
        Some(names) if !names.is_empty() => names
            .into_iter()
            .flat_map(|name| {
                let wildcard = below.then(|| format!("*.{name}"));
                std::iter::once(name).chain(wildcard)
            })
            .collect(),
        _ => vec![format!("~{regex}")],
    }
}

/// All texts of an expression of literals, groups of literals and optional groups.
fn alternatives(regex: &str) -> Option<Vec<String>> {
    let mut texts = vec![String::new()];
    let mut rest = regex;
    while let Some(c) = rest.chars().next() {
        let mut choices: Vec<String> = Vec::new();
        match c {
            '(' => {
                let (inside, after) = rest[1..].split_once(')')?;
                let inside = inside.strip_prefix("?:").unwrap_or(inside);
                for choice in inside.split('|') {
                    choices.push(literal(choice)?);
                }
                rest = match after.strip_prefix('?') {
                    Some(after) => {
                        choices.push(String::new());
                        after
                    }
                    None => after,
                };
            }
            '|' => {
                let mut others = alternatives(&rest[1..])?;
                texts.append(&mut others);
                texts.truncate(NAMES_MAX);
                return Some(texts);
            }
            _ => {
                let end = rest.find(['(', '|']).unwrap_or(rest.len());
                choices.push(literal(&rest[..end])?);
                rest = &rest[end..];
            }
        }
        if texts.len() * choices.len() > NAMES_MAX {
            return None;
        }
        texts = texts.iter().flat_map(|t| choices.iter().map(move |c| format!("{t}{c}"))).collect();
    }
    // The shortest is the name, e.g. the one without `www.`.
    texts.sort_by_key(String::len);
    Some(texts)
}

fn literal(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '.' | '-' | '_'))?),
            // Many forget the backslash before a dot.
            '.' | '-' | '_' | ':' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            _ => return None,
        }
    }
    Some(out.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_a_shell_does() {
        for (line, want) in [
            ("a b  c", &["a", "b", "c"][..]),
            ("a \"b c\" 'd e'", &["a", "b c", "d e"]),
            (r#"-F "%h \"%r\" %t""#, &["-F", r#"%h "%r" %t"#]),
            (r"a\ b c", &["a b", "c"]),
            ("open \"quote", &["open", "quote"]),
            (r#""a\d""#, &[r"a\d"]),
            ("\\", &["\\"]),
            ("", &[]),
        ] {
            assert_eq!(words(line), want, "{line}");
        }
        assert_eq!(without_comment("a '#' b # c"), "a '#' b ");
        let joined: Vec<_> = joined_lines("a \\\nb\nc\\").collect();
        assert_eq!(joined, [(1, "a b".to_owned()), (3, "c".to_owned())]);
    }

    #[test]
    fn simple_expressions_are_names() {
        for (regex, want) in [
            (r"^(www\.)?a\.example$", &["a.example", "www.a.example"][..]),
            (r"(^|\.)a\.example$", &["a.example", "*.a.example"]),
            (r"^(a|b)\.example(:[0-9]+)?$", &["a.example", "b.example"]),
            (r"^a\.example$|^b\.example$", &[r"~^a\.example$|^b\.example$"]),
            (r"a.example|bb.example", &["a.example", "bb.example"]),
            (r"^.+\.example$", &[r"~^.+\.example$"]),
            ("(", &["~("]),
            ("", &[""]),
        ] {
            assert_eq!(hosts_of_regex(regex), want, "{regex}");
        }
    }
}
