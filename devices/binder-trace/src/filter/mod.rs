//! One expression that picks calls and events, recorded or live.
//!
//! ```text
//! guest==g1 && iface=~"IPackage.*" && dur>2ms || result!=ok
//! ```
//!
//! Comparisons of a [`Field`] with a value (`==`, `!=`, `<`, `<=`, `>`, `>=`; text also `=~` and `!~`
//! with a regular expression that may match anywhere), joined by `&&`, `||`, `!` and parentheses; `&&`
//! binds tighter than `||`. A field that is yes or no stands alone. Times have a unit (ns, us, ms, s,
//! m), sizes may have one (K, M, G). Text with other characters than letters, digits and `._-/:$@#`
//! is put in quotes.
//!
//! A comparison with a field that an item does not have is false, `!=` included; so `result!=ok` picks
//! calls that failed or are open, and no events that have no result.

mod field;
mod parse;

use std::borrow::Cow;
use std::fmt;

use regex::Regex;

pub use field::{Field, Kind};

/// What a field of an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A number, a size in bytes, or a time in nanoseconds.
    Number(i128),
    /// Yes or no.
    Bool(bool),
}

impl<'a> Value<'a> {
    /// Text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Value<'a> {
        Value::Text(text.into())
    }

    /// A time.
    pub fn time(time: std::time::Duration) -> Value<'a> {
        Value::Number(time.as_nanos() as i128)
    }
}

/// Something that a filter can judge.
pub trait Item {
    /// The value of a field, if the item has it.
    fn field(&self, field: Field) -> Option<Value<'_>>;
}

/// A filter.
#[derive(Clone, Debug)]
pub struct Filter {
    expression: Expression,
}

#[derive(Clone, Debug)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Compare { field: Field, operator: Operator, value: Operand },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Matches,
    MatchesNot,
}

#[derive(Clone, Debug)]
enum Operand {
    Text(String),
    Regex(Regex),
    Number(i128),
    Bool(bool),
}

/// An expression that is none, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The expression.
    pub text: String,
    /// Where in it, in characters from 0.
    pub column: usize,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, column, problem } = self;
        write!(f, "{problem} (column {})\n    {text}\n    {:>width$}", column + 1, '^', width = column + 1)
    }
}

impl std::error::Error for FilterError {}

impl Filter {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        Ok(Filter { expression: parse::parse(text)? })
    }

    /// Whether it picks an item.
    pub fn picks(&self, item: &impl Item) -> bool {
        self.expression.holds(item)
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text)
    }
}

impl Expression {
    fn holds(&self, item: &impl Item) -> bool {
        match self {
            Expression::Any(parts) => parts.iter().any(|part| part.holds(item)),
            Expression::All(parts) => parts.iter().all(|part| part.holds(item)),
            Expression::Not(part) => !part.holds(item),
            Expression::Compare { field, operator, value } => {
                item.field(*field).is_some_and(|has| compare(&has, *operator, value))
            }
        }
    }
}

fn compare(has: &Value<'_>, operator: Operator, wanted: &Operand) -> bool {
    match (has, wanted) {
        (Value::Text(text), Operand::Regex(regex)) => regex.is_match(text) == (operator == Operator::Matches),
        (Value::Text(text), Operand::Text(wanted)) => order(operator, text.as_ref(), wanted.as_str()),
        (Value::Number(number), Operand::Number(wanted)) => order(operator, number, wanted),
        (Value::Bool(has), Operand::Bool(wanted)) => order(operator, has, wanted),
        _ => false,
    }
}

fn order<T: PartialOrd + ?Sized>(operator: Operator, a: &T, b: &T) -> bool {
    match operator {
        Operator::Equal => a == b,
        Operator::NotEqual => a != b,
        Operator::Less => a < b,
        Operator::LessOrEqual => a <= b,
        Operator::Greater => a > b,
        Operator::GreaterOrEqual => a >= b,
        Operator::Matches | Operator::MatchesNot => false,
    }
}

#[cfg(test)]
mod tests;
