//! From text to expression, by binding power.

use regex::Regex;

use super::{Expression, Field, FilterError, Kind, Operand, Operator};

/// Parentheses and `!` nest no deeper.
const MAX_DEPTH: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A name, number or unquoted text.
    Word(String),
    Quoted(String),
    Operator(Operator),
    And,
    Or,
    Not,
    Open,
    Close,
    End,
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [(&str, Token); 13] = [
    ("==", Token::Operator(Operator::Equal)),
    ("!=", Token::Operator(Operator::NotEqual)),
    ("=~", Token::Operator(Operator::Matches)),
    ("!~", Token::Operator(Operator::MatchesNot)),
    ("<=", Token::Operator(Operator::LessOrEqual)),
    (">=", Token::Operator(Operator::GreaterOrEqual)),
    ("&&", Token::And),
    ("||", Token::Or),
    ("<", Token::Operator(Operator::Less)),
    (">", Token::Operator(Operator::Greater)),
    ("!", Token::Not),
    ("(", Token::Open),
    (")", Token::Close),
];

/// Reads an expression to its end.
pub(super) fn parse(text: &str) -> Result<Expression, FilterError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens, at: 0, depth: 0 };
    let expression = parser.any()?;
    match parser.token() {
        Token::End => Ok(expression),
        Token::Close => Err(parser.error("this ')' has no '('")),
        _ => Err(parser.error("here belongs && or ||")),
    }
}

fn error(text: &str, byte: usize, problem: impl Into<String>) -> FilterError {
    let column = text[..byte].chars().count();
    FilterError { text: text.to_owned(), column, problem: problem.into() }
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, FilterError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if first == '"' {
            let (quoted, length) =
                quoted(rest).ok_or_else(|| error(text, at, "this text has no closing \""))?;
            tokens.push((Token::Quoted(quoted), at));
            at += length;
        } else if let Some((symbol, token)) = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol)) {
            tokens.push((token.clone(), at));
            at += symbol.len();
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push((Token::Word(rest[..end].to_owned()), at));
            at += end;
        } else {
            let problem = match first {
                '=' => "write == to compare".to_owned(),
                '&' => "write && for 'and'".to_owned(),
                '|' => "write || for 'or'".to_owned(),
                '\'' => "text is put in double quotes".to_owned(),
                other => {
                    format!("'{}' has no meaning here; put text in double quotes", other.escape_default())
                }
            };
            return Err(error(text, at, problem));
        }
    }
    tokens.push((Token::End, text.len()));
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '$' | '@' | '#' | '?' | '*' | '+' | ',')
}

/// A text in quotes and its length. A backslash keeps a quote or itself; others stay, for expressions.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, at + 1)),
            '\\' => match chars.next()?.1 {
                '"' => value.push('"'),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn token(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn error(&self, problem: impl Into<String>) -> FilterError {
        self.error_at(self.at, problem)
    }

    fn error_at(&self, token: usize, problem: impl Into<String>) -> FilterError {
        error(self.text, self.tokens[token].1, problem)
    }

    /// `a || b || c`
    fn any(&mut self) -> Result<Expression, FilterError> {
        let mut parts = vec![self.all()?];
        while *self.token() == Token::Or {
            self.advance();
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    /// `a && b && c`
    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut parts = vec![self.term()?];
        while *self.token() == Token::And {
            self.advance();
            parts.push(self.term()?);
        }
        Ok(one_or(parts, Expression::All))
    }

    /// `!a`, `(a)`, `field`, `field op value`
    fn term(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("this is nested too deep"));
        }
        let start = self.at;
        let term = match self.advance() {
            Token::Not => Expression::Not(Box::new(self.term()?)),
            Token::Open => {
                let inner = self.any()?;
                if self.advance() != Token::Close {
                    return Err(self.error_at(start, "this '(' has no ')'"));
                }
                inner
            }
            Token::Word(name) => self.comparison(&name, start)?,
            Token::End => return Err(self.error("something is missing here: a comparison like dur>2ms")),
            _ => return Err(self.error_at(start, "here belongs a field, '!' or '('")),
        };
        self.depth -= 1;
        Ok(term)
    }

    fn comparison(&mut self, name: &str, start: usize) -> Result<Expression, FilterError> {
        let Some(field) = Field::named(name) else {
            let names: Vec<&str> = Field::ALL.iter().map(|field| field.name()).collect();
            let near = names.iter().find(|known| known.starts_with(name) || name.starts_with(**known));
            let advice = match near {
                Some(near) => format!("do you mean {near}?"),
                None => format!("there are: {}", names.join(" ")),
            };
            return Err(self.error_at(start, format!("there is no field '{name}'; {advice}")));
        };
        let Token::Operator(operator) = *self.token() else {
            if field.kind() == Kind::Bool {
                let value = Operand::Bool(true);
                return Ok(Expression::Compare { field, operator: Operator::Equal, value });
            }
            return Err(self.error(format!("here belongs a comparison of {name}: == != =~ !~ < <= > >=")));
        };
        let at_operator = self.at;
        self.advance();
        let at_value = self.at;
        let text = match self.advance() {
            Token::Word(text) | Token::Quoted(text) => text,
            _ => return Err(self.error_at(at_value, format!("here belongs what {name} is compared with"))),
        };
        let value = match operator {
            Operator::Matches | Operator::MatchesNot if field.kind() != Kind::Text => {
                return Err(
                    self.error_at(at_operator, format!("{name} is not text: compare it with == or <"))
                );
            }
            Operator::Matches | Operator::MatchesNot => {
                let regex = Regex::new(&text);
                Operand::Regex(regex.map_err(|error| {
                    self.error_at(at_value, format!("this is not a regular expression: {error}"))
                })?)
            }
            _ => operand(field, &text).map_err(|problem| self.error_at(at_value, problem))?,
        };
        Ok(Expression::Compare { field, operator, value })
    }
}

fn one_or(mut parts: Vec<Expression>, join: impl FnOnce(Vec<Expression>) -> Expression) -> Expression {
    match parts.len() {
        1 => parts.remove(0),
        _ => join(parts),
    }
}

fn operand(field: Field, text: &str) -> Result<Operand, String> {
    let name = field.name();
    Ok(match field.kind() {
        Kind::Text => Operand::Text(text.to_owned()),
        Kind::Bool => match text {
            "true" | "yes" => Operand::Bool(true),
            "false" | "no" => Operand::Bool(false),
            _ => return Err(format!("{name} is true or false")),
        },
        Kind::Number => {
            let hex = text.strip_prefix("0x").and_then(|digits| i128::from_str_radix(digits, 16).ok());
            let number = hex.or_else(|| text.parse().ok());
            Operand::Number(number.ok_or_else(|| format!("{name} is a number, for example 12 or 0x1f"))?)
        }
        Kind::Size => Operand::Number(
            scaled(
                text,
                &[
                    ("", 1),
                    ("B", 1),
                    ("K", 1 << 10),
                    ("KiB", 1 << 10),
                    ("M", 1 << 20),
                    ("MiB", 1 << 20),
                    ("G", 1 << 30),
                ],
            )
            .ok_or_else(|| format!("{name} is a number of bytes, for example 512 or 4K"))?,
        ),
        Kind::Time => Operand::Number(
            scaled(
                text,
                &[("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000)],
            )
            .ok_or_else(|| format!("{name} is a time with a unit, for example 2ms, 150us or 1.5s"))?,
        ),
    })
}

/// A number with a fraction and one of these units.
fn scaled(text: &str, units: &[(&str, i128)]) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let number: f64 = number.parse().ok()?;
    Some((number * factor as f64).round() as i128)
}
