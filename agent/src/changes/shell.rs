//! Which programs a command line of a crontab starts on this machine.
//!
//! Distributions write conditions into it (`test -x /usr/sbin/anacron || …`). Those on files are decided
//! on the real ones. Behind one that cannot be decided nothing is taken to start; of programs it is
//! assumed that they succeed. Nothing is run.

use std::fs;
use std::io;
use std::iter::Peekable;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::Chars;
use std::vec::IntoIter;

/// Commands in brackets within others.
const DEPTH_MAX: usize = 8;
const OPERATORS: [&str; 8] = ["&&", "||", "|", "&", ";", "(", ")", "\n"];
/// Words that decide what runs in ways that are not followed.
const KEYWORDS: [&str; 9] =
    ["if", "while", "until", "for", "case", "select", "function", "!", "[["];

/// A word, or an operator that nobody quoted.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Operator(&'static str),
}

/// How a command ends; `None` when that cannot be known here.
type Status = Option<bool>;

/// The words of each simple command that is started below `root`, in their order.
pub(super) fn started(line: &str, root: &Path) -> Vec<Vec<String>> {
    let tokens = tokens(line).into_iter().peekable();
    let mut reading = Reading { root, tokens, started: Vec::new(), is_lost: false };
    reading.list(true, 0);
    reading.started
}

struct Reading<'r> {
    root: &'r Path,
    tokens: Peekable<IntoIter<Token>>,
    started: Vec<Vec<String>>,
    /// What follows cannot be followed.
    is_lost: bool,
}

impl Reading<'_> {
    /// `a && b || c; d`, up to the bracket that closes it.
    fn list(&mut self, runs: bool, depth: usize) -> Status {
        let mut status = Some(true);
        let mut is_reached = true;
        loop {
            let closes = |token: &Token| match token {
                Token::Word(word) => word == "}",
                Token::Operator(operator) => *operator == ")",
            };
            if self.tokens.peek().is_none() || self.tokens.next_if(closes).is_some() {
                return status;
            }
            let result = self.pipeline(runs && is_reached, depth);
            if is_reached {
                status = result;
            }
            // What follows a condition that is not known is reached neither way.
            is_reached = match self.tokens.next_if(|token| !closes(token)) {
                Some(Token::Operator("&&")) => status == Some(true),
                Some(Token::Operator("||")) => status == Some(false),
                _ => true,
            };
        }
    }

    /// `a | b`, which ends as its last command does.
    fn pipeline(&mut self, runs: bool, depth: usize) -> Status {
        loop {
            let status = self.command(runs && !self.is_lost, depth);
            if self.tokens.next_if_eq(&Token::Operator("|")).is_none() {
                return status;
            }
        }
    }

    fn command(&mut self, runs: bool, depth: usize) -> Status {
        let opens = |token: &Token| match token {
            Token::Word(word) => word == "{",
            Token::Operator(operator) => *operator == "(",
        };
        if self.tokens.next_if(opens).is_some() {
            if depth == DEPTH_MAX {
                self.is_lost = true;
                return None;
            }
            let status = self.list(runs, depth + 1);
            let is_redirection = |token: &Token| matches!(token, Token::Word(word) if word != "}");
            while self.tokens.next_if(is_redirection).is_some() {}
            return status;
        }
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.next_if(|t| matches!(t, Token::Word(_))) {
            words.push(word);
        }
        let first = words.first().map(String::as_str)?;
        if KEYWORDS.contains(&first) {
            self.is_lost = true;
            return None;
        }
        match first {
            "test" => condition(&words[1..], self.root),
            "[" if words.last().is_some_and(|last| last == "]") => {
                condition(&words[1..words.len() - 1], self.root)
            }
            "[" => None,
            "false" => Some(false),
            _ => {
                if runs {
                    self.started.push(words);
                }
                Some(true)
            }
        }
    }
}

/// `-x FILE -a ! -d DIR -o …`; without brackets.
fn condition(words: &[String], root: &Path) -> Status {
    let all = |words: &[String]| {
        let each: Vec<_> = words.split(|word| word == "-a").map(|words| one(words, root)).collect();
        decide(&each, false)
    };
    let any: Vec<_> = words.split(|word| word == "-o").map(all).collect();
    decide(&any, true)
}

/// One part of this value decides; else all must be known.
fn decide(parts: &[Status], deciding: bool) -> Status {
    if parts.contains(&Some(deciding)) {
        return Some(deciding);
    }
    parts.iter().all(Option::is_some).then_some(!deciding)
}

fn one(words: &[String], root: &Path) -> Status {
    match words {
        [not, rest @ ..] if not == "!" => one(rest, root).map(|is_so| !is_so),
        [operator, path] if path.starts_with('/') && !path.contains(['$', '`', '*', '?']) => {
            file(operator, &root.join(&path[1..]))
        }
        _ => None,
    }
}

fn file(operator: &str, path: &Path) -> Status {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // A link may lead somewhere else than below the root.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return fs::symlink_metadata(path).is_err().then_some(false);
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Some(false),
        Err(_) => return None,
    };
    match operator {
        "-e" => Some(true),
        "-f" => Some(metadata.is_file()),
        "-d" => Some(metadata.is_dir()),
        "-s" => Some(metadata.len() > 0),
        // Of root, who may do all that anybody may.
        "-x" => Some(metadata.permissions().mode() & 0o111 != 0),
        _ => None,
    }
}

/// Words without their quotes. A `%` that nobody escaped ends what cron runs.
fn tokens(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        let is_escape = c == '\\' && (quote != Some('\'') || next == Some('%'));
        match c {
            '%' => break,
            _ if is_escape => word.get_or_insert_default().extend(chars.next()),
            c if quote == Some(c) => quote = None,
            c if quote.is_some() => word.get_or_insert_default().push(c),
            '"' | '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            '`' => substitution(c, &mut chars, word.get_or_insert_default()),
            '$' if next == Some('(') => {
                substitution(c, &mut chars, word.get_or_insert_default());
            }
            '#' if word.is_none() => break,
            // `2>&1` is no command in the background.
            '&' if word.as_ref().is_some_and(|word| word.ends_with('>')) => {
                word.get_or_insert_default().push(c);
            }
            '&' | '|' | ';' | '(' | ')' | '\n' => {
                tokens.extend(word.take().map(Token::Word));
                let is_double = matches!(c, '&' | '|') && next == Some(c);
                if is_double {
                    chars.next();
                }
                let len = if is_double { 2 } else { 1 };
                let is_it = |operator: &&&str| operator.starts_with(c) && operator.len() == len;
                tokens.extend(OPERATORS.iter().find(is_it).copied().map(Token::Operator));
            }
            c if c.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            c => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens
}

/// What another command prints is part of a word; it is kept as it is written.
fn substitution(start: char, chars: &mut Peekable<Chars<'_>>, word: &mut String) {
    word.push(start);
    let mut n_open = 0_u32;
    for c in chars {
        word.push(c);
        match (start, c) {
            ('$', '(') => n_open += 1,
            ('$', ')') if n_open > 1 => n_open -= 1,
            ('`', '`') | ('$', ')') => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_on_files_are_decided_on_the_real_ones() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        fs::write(root.join("run/there"), "x").unwrap();
        let program = root.join("run/program");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("run/link")).unwrap();
        for (line, want) in [
            ("a", "a"),
            ("a b && c; d | e", "a b, c, d, e"),
            ("a || b", "a"),
            ("false || a && b", "a, b"),
            ("test -x /run/program && a", "a"),
            ("test -x /run/there && a", ""),
            ("test -x /run/none || a", "a"),
            ("test -x /run/program || ( cd / && run-parts /etc/cron.daily )", ""),
            (
                "test -x /run/none || { cd / && run-parts /etc/cron.daily; }",
                "cd /, run-parts /etc/cron.daily",
            ),
            (r"test -x /run/program -a \! -d /run/systemd/system && a && b", ""),
            (r"test -x /run/program -a \! -d /run/none && a && b", "a, b"),
            ("[ -d /run/none -o -f /run/there ] && a", "a"),
            ("[ -d /run/none ] && a || b", "b"),
            ("[ -d /run/systemd/system ] || a | b; c", "c"),
            ("[ ! -e /run/none ] && a", "a"),
            ("[ -s /run/there ] && a", "a"),
            // What cannot be decided.
            ("[ $(date +\\%u) -eq 1 ] && a", ""),
            ("test -x $HOME/x || a", ""),
            ("test -n x && a; b", "b"),
            ("[ -x /run/link ] && a", ""),
            ("[ -x /run/link ] || a", ""),
            ("[ -x /run/program && a", ""),
            ("if [ -x /run/program ]; then a; fi", ""),
            ("[ -x /run/program ] && if [ -d /x ]; then a; fi", ""),
            ("a x-$(date +\\%F; (b)).sql | c", "a x-$(date +\\%F; (b)).sql, c"),
            ("a `b; c` && d `e", "a `b; c`, d `e"),
            // Quotes, redirections, and what cron takes for its own.
            ("'a b' \"c;d\" > /dev/null 2>&1 && e", "a b c;d > /dev/null 2>&1, e"),
            ("a %b && c", "a"),
            ("a \\%b # && c", "a %b"),
            ("", ""),
            ("&& ) ( } || ;;", ""),
            ("((((((((((((a", ""),
        ] {
            let started: Vec<_> = started(line, root).iter().map(|w| w.join(" ")).collect();
            assert_eq!(started.join(", "), want, "{line}");
        }
    }
}
