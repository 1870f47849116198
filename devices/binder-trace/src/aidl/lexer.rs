//! The words of an `.aidl` file.

use super::AidlError;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or keyword; may have dots.
    Word(String),
    /// A number as written.
    Number(String),
    /// A string or character constant, without its quotes.
    Quoted,
    /// One punctuation character.
    Punct(char),
    /// The end of the file.
    End,
}

/// Reads words.
pub(super) struct Lexer<'a> {
    file: &'a str,
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Lexer<'a> {
        Lexer { file, text, at: 0 }
    }

    /// The next word, and where it starts.
    pub(super) fn next(&mut self) -> Result<(Token, usize), AidlError> {
        self.skip_space()?;
        let start = self.at;
        let rest = &self.text[start..];
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        let token = if first.is_ascii_alphabetic() || first == '_' {
            let word = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
            Token::Word(word.to_owned())
        } else if first.is_ascii_digit() {
            Token::Number(self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_')).to_owned())
        } else if matches!(first, '"' | '\'') {
            self.quoted(first)?;
            Token::Quoted
        } else {
            self.at += first.len_utf8();
            Token::Punct(first)
        };
        Ok((token, start))
    }

    /// The word after the one that was given last.
    pub(super) fn peek(&mut self) -> Result<(Token, usize), AidlError> {
        let at = self.at;
        let token = self.next();
        self.at = at;
        token
    }

    /// The text of the quoted word that starts at `start` and was given last.
    pub(super) fn quoted_text(&self, start: usize) -> String {
        self.text[start..self.at].trim_matches(['"', '\'']).to_owned()
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_space(&mut self) -> Result<(), AidlError> {
        loop {
            self.take_while(char::is_whitespace);
            let rest = &self.text[self.at..];
            if rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if rest.starts_with("/*") {
                let end = rest.find("*/").ok_or_else(|| self.error(self.at, "this comment does not end"))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<(), AidlError> {
        let start = self.at;
        let mut chars = self.text[start..].char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => {
                    chars.next();
                }
                c if c == quote => {
                    self.at = start + at + c.len_utf8();
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(self.error(start, "this text does not end"))
    }

    /// An error at a place of the file.
    pub(super) fn error(&self, at: usize, problem: impl Into<String>) -> AidlError {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        AidlError::Syntax { file: self.file.to_owned(), line, column, problem: problem.into() }
    }
}
