//! What is wrong with a plan, and where.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use images::did_you_mean;

/// A plan cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("cannot read the plan {}: {source}", path.display())]
    Read {
        /// The plan.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than [`MAX_PLAN`](super::MAX_PLAN).
    #[error("the plan {} is larger than {} bytes", path.display(), super::MAX_PLAN)]
    TooLarge {
        /// The plan.
        path: PathBuf,
    },
    /// Something in it is wrong.
    #[error("{0}")]
    Wrong(Box<Wrong>),
    /// An option that goes with the plan is wrong.
    #[error("{0}")]
    Option(String),
}

/// Something in a plan is wrong, at a place.
#[derive(Debug)]
pub struct Wrong {
    path: PathBuf,
    message: String,
    /// Line, column (from 1), and the line's text.
    place: Option<(usize, usize, String)>,
    hint: Option<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column, _)) = &self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        if let Some((line, column, text)) = &self.place {
            let number = line.to_string();
            let space = " ".repeat(number.len());
            write!(f, "\n {space} |\n {number} | {text}\n {space} | {}^", " ".repeat(column - 1))?;
        }
        Ok(())
    }
}

/// A plan's text, to say where in it something is wrong.
pub struct Text<'a> {
    /// Where it was read.
    pub path: &'a Path,
    /// What it says.
    pub text: &'a str,
}

impl Text<'_> {
    /// What serde found.
    pub fn malformed(&self, error: &toml::de::Error) -> PlanError {
        let message = error.message();
        let list = list_wanted(message);
        let hint = unknown_key(message);
        // The list of all keys helps only where no near one is known.
        let message = match &hint {
            None if list.is_some() => {
                return self.wrong(error.span(), "text, where a list of texts is expected", list);
            }
            Some(_) => message.split(", expected").next().unwrap_or(message),
            None => message,
        };
        self.wrong(error.span(), message.trim_end(), hint)
    }

    /// Something that only the whole plan shows.
    pub fn wrong(&self, span: Option<Range<usize>>, message: &str, hint: Option<String>) -> PlanError {
        let place = span.map(|span| place(self.text, span.start));
        PlanError::Wrong(Box::new(Wrong {
            path: self.path.to_owned(),
            message: message.to_owned(),
            place,
            hint,
        }))
    }
}

/// Line and column of a byte of `text`, and the line.
fn place(text: &str, at: usize) -> (usize, usize, String) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[..begin].matches('\n').count() + 1;
    let column = text[begin..at].chars().count() + 1;
    let end = text[begin..].find('\n').map_or(text.len(), |newline| begin + newline);
    let shown: String =
        text[begin..end].chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (line, column.min(shown.chars().count() + 1), shown)
}

/// How a text is written where serde wants a list: a command's words.
fn list_wanted(message: &str) -> Option<String> {
    let text = message
        .trim_end()
        .strip_prefix("invalid type: string \"")?
        .strip_suffix("\", expected a sequence")?;
    let words: Vec<_> = match text.contains(['\'', '\\']) {
        // Its quotes are a shell's to judge.
        true => vec![format!("\"{text}\"")],
        false => text.split_whitespace().map(|word| format!("\"{word}\"")).collect(),
    };
    Some(format!("write a list: [{}]", words.join(", ")))
}

/// The key that was meant by an unknown one, as far as serde's message tells.
fn unknown_key(message: &str) -> Option<String> {
    let rest =
        message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let (unknown, rest) = rest.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    did_you_mean(unknown, known.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_line_and_a_column_of_characters() {
        let text = "a = 1\nżółw = 2\r\n\tx";
        assert_eq!(place(text, 0), (1, 1, "a = 1".into()));
        assert_eq!(place(text, text.find('ó').unwrap()), (2, 2, "żółw = 2 ".into()));
        assert_eq!(place(text, 9999), (3, 3, " x".into()));
    }
}
