//! nginx's configuration language cut into tokens; any bytes become some.

/// A word, or what stands between words.
pub(super) enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// The tokens of a text, one after the other.
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    /// Of the last token, from 1.
    pub(super) line: u32,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, line: 1 }
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        loop {
            let byte = *self.text.get(self.at)?;
            self.at += 1;
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                b'#' => {
                    self.at += memchr::memchr(b'\n', &self.text[self.at..])
                        .unwrap_or(self.text.len() - self.at);
                }
                b';' => return Some(Token::End),
                b'{' => return Some(Token::Open),
                b'}' => return Some(Token::Close),
                b'"' | b'\'' => return Some(Token::Word(self.quoted(byte))),
                _ => {
                    self.at -= 1;
                    return Some(Token::Word(self.bare()));
                }
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> String {
        let mut word = Vec::new();
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            self.line += u32::from(byte == b'\n');
            if byte == quote {
                break;
            }
            if byte == b'\\'
                && let Some(&next) = self.text.get(self.at)
            {
                self.at += 1;
                match next {
                    b'"' | b'\'' | b'\\' => word.push(next),
                    b't' => word.push(b'\t'),
                    b'n' => word.push(b'\n'),
                    b'r' => word.push(b'\r'),
                    _ => word.extend([b'\\', next]),
                }
                continue;
            }
            word.push(byte);
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    fn bare(&mut self) -> String {
        let mut word = Vec::new();
        while let Some(&byte) = self.text.get(self.at) {
            let variable = byte == b'{' && word.last() == Some(&b'$');
            if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b';') || byte == b'{' && !variable {
                break;
            }
            self.at += 1;
            word.push(byte);
            if variable {
                while let Some(&inside) = self.text.get(self.at) {
                    self.at += 1;
                    word.push(inside);
                    if inside == b'}' {
                        break;
                    }
                }
            } else if byte == b'\\'
                && let Some(&next) = self.text.get(self.at)
            {
                self.at += 1;
                word.push(next);
            } else if byte == b'}' && word.len() == 1 {
                break;
            }
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    /// Skips to the brace that closes the block, without reading its words.
    pub(super) fn skip_block(&mut self) {
        let mut open = 1;
        while open > 0 {
            let Some(&byte) = self.text.get(self.at) else { return };
            self.at += 1;
            self.line += u32::from(byte == b'\n');
            open += match byte {
                b'{' => 1,
                b'}' => -1,
                _ => 0,
            };
        }
    }
}
