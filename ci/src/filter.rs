//! What selects tests: name globs and filter expressions.
//!
//! ```text
//! filter  = any ( "||" any )*        any = one ( "&&" one )*
//! one     = "!" one | "(" filter ")" | FIELD OP VALUE
//! FIELD   = name | tag | guest | image | kind      OP = "==" | "!=" | "=~" | "!~"
//! VALUE   = a word, or text in "double quotes"
//! ```
//!
//! Text without any of the operators is a glob over the name, in which `*` also takes dots:
//! `binder*`. `NAME::CASES` also narrows a googletest program down to the cases that match.

use globset::{GlobBuilder, GlobMatcher};
use regex::{Regex, RegexBuilder};

use crate::plan::{Plan, Program, TestSpec};

/// How deep parentheses and `!` may stand in each other.
const MAX_DEPTH: usize = 64;

/// A filter is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter `{filter}` is wrong at column {column}: {message}")]
pub struct FilterError {
    filter: String,
    column: usize,
    message: String,
}

/// Selects tests.
#[derive(Clone, Debug)]
pub enum Filter {
    /// By name, and maybe by the cases of a googletest program.
    Glob {
        /// Matches the test's name, in full or as it stands in the plan.
        name: GlobMatcher,
        /// A `--gtest_filter`.
        cases: Option<String>,
    },
    /// By an expression.
    Expression(Expression),
}

/// An expression.
#[derive(Clone, Debug)]
pub enum Expression {
    /// Either.
    Or(Vec<Expression>),
    /// Both.
    And(Vec<Expression>),
    /// Not.
    Not(Box<Expression>),
    /// A field has this value.
    Is(Field, String),
    /// A field's value matches.
    Matches(Field, Regex),
}

/// What an expression asks of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Its name, in full or as in the plan.
    Name,
    /// One of its tags.
    Tag,
    /// One of its guests.
    Guest,
    /// One of its guests' images.
    Image,
    /// What it runs: `command`, `script` or `gtest`.
    Kind,
}

impl Filter {
    /// Reads a glob or an expression.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let is_expression = ["==", "!=", "=~", "!~", "&&", "||", "("].iter().any(|op| text.contains(op));
        let wrong = |column: usize, message: String| FilterError { filter: text.to_owned(), column, message };
        if is_expression {
            let mut parser = ExpressionParser { text, at: 0, depth: 0 };
            let expression = parser.filter().map_err(|message| wrong(parser.at + 1, message))?;
            if !parser.rest().is_empty() {
                return Err(wrong(parser.at + 1, "expected && or || or the end".to_owned()));
            }
            return Ok(Filter::Expression(expression));
        }
        let (name, cases) = match text.split_once("::") {
            Some((name, cases)) => (name, Some(cases.to_owned())),
            None => (text, None),
        };
        let name = GlobBuilder::new(name).build().map_err(|error| wrong(1, error.kind().to_string()))?;
        Ok(Filter::Glob { name: name.compile_matcher(), cases })
    }

    /// Whether it takes the test.
    pub fn takes(&self, plan: &Plan, test: &TestSpec) -> bool {
        match self {
            Filter::Glob { name, .. } => name.is_match(&test.name) || name.is_match(&test.plan_name),
            Filter::Expression(expression) => expression.holds(plan, test),
        }
    }
}

impl Expression {
    fn holds(&self, plan: &Plan, test: &TestSpec) -> bool {
        match self {
            Expression::Or(any) => any.iter().any(|one| one.holds(plan, test)),
            Expression::And(all) => all.iter().all(|one| one.holds(plan, test)),
            Expression::Not(one) => !one.holds(plan, test),
            Expression::Is(field, value) => field.values(plan, test).any(|one| one == value),
            Expression::Matches(field, regex) => field.values(plan, test).any(|one| regex.is_match(one)),
        }
    }
}

impl Field {
    fn values<'a>(self, plan: &'a Plan, test: &'a TestSpec) -> Box<dyn Iterator<Item = &'a str> + 'a> {
        let roles = test.roles.iter();
        match self {
            Field::Name => Box::new([test.name.as_str(), test.plan_name.as_str()].into_iter()),
            Field::Tag => Box::new(test.tags.iter().map(String::as_str)),
            Field::Guest => Box::new(roles.map(|role| role.guest.as_str())),
            Field::Image => Box::new(
                roles.filter_map(|role| plan.guests.get(&role.guest)).map(|guest| guest.image.as_str()),
            ),
            Field::Kind => Box::new(roles.map(|role| match role.program {
                Program::Command(_) => "command",
                Program::Script => "script",
                Program::Gtest { .. } => "gtest",
            })),
        }
    }
}

struct ExpressionParser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> ExpressionParser<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn filter(&mut self) -> Result<Expression, String> {
        let mut any = vec![self.all()?];
        while self.take("||") {
            any.push(self.all()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expression::Or(any) })
    }

    fn all(&mut self) -> Result<Expression, String> {
        let mut all = vec![self.one()?];
        while self.take("&&") {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
    }

    fn one(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deep".to_owned());
        }
        let one = if self.take("!") {
            Expression::Not(Box::new(self.one()?))
        } else if self.take("(") {
            let inner = self.filter()?;
            if !self.take(")") {
                return Err("expected )".to_owned());
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(one)
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let field = match &rest[..end] {
            "name" => Field::Name,
            "tag" => Field::Tag,
            "guest" => Field::Guest,
            "image" => Field::Image,
            "kind" => Field::Kind,
            _ => return Err("expected name, tag, guest, image or kind".to_owned()),
        };
        self.at += end;
        let operator = ["==", "!=", "=~", "!~"].into_iter().find(|operator| self.take(operator));
        let Some(operator) = operator else { return Err("expected ==, !=, =~ or !~".to_owned()) };
        let begin = self.at;
        let value = self.value()?;
        let regex = || {
            RegexBuilder::new(&value)
                .size_limit(1 << 20)
                .build()
                .map_err(|_| format!("`{value}` (column {}) is not a regular expression", begin + 1))
        };
        Ok(match operator {
            "==" => Expression::Is(field, value),
            "!=" => Expression::Not(Box::new(Expression::Is(field, value))),
            "=~" => Expression::Matches(field, regex()?),
            _ => Expression::Not(Box::new(Expression::Matches(field, regex()?))),
        })
    }

    fn value(&mut self) -> Result<String, String> {
        if self.take("\"") {
            let rest = &self.text[self.at..];
            let mut value = String::new();
            let mut chars = rest.char_indices();
            while let Some((at, char)) = chars.next() {
                match char {
                    '"' => {
                        self.at += at + 1;
                        return Ok(value);
                    }
                    // Only the quote needs it; a regular expression keeps its own backslashes.
                    '\\' if rest[at + 1..].starts_with('"') => {
                        chars.next();
                        value.push('"');
                    }
                    other => value.push(other),
                }
            }
            return Err("the text in quotes does not end".to_owned());
        }
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || "()&|\"".contains(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err("expected a value".to_owned());
        }
        self.at += end;
        Ok(rest[..end].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::file::RunEntry;

    fn plan() -> Plan {
        let text = r#"
            guest.a.image = "aosp14"
            guest.b.image = "minimal"
            [[test]]
            name = "binder.ping"
            guest = "a"
            tags = ["smoke", "fast"]
            command = ["true"]
            [[test]]
            name = "binder.libs"
            guest = "a"
            gtest = "/x"
            [[test]]
            name = "shell"
            guest = "b"
            tags = ["smoke"]
            script = "true"
        "#;
        Plan::parse("p.toml".as_ref(), text, None, &RunEntry::default()).unwrap()
    }

    fn taken(filter: &str) -> Vec<String> {
        let plan = plan();
        let filter = Filter::parse(filter).unwrap();
        plan.tests.iter().filter(|test| filter.takes(&plan, test)).map(|test| test.name.clone()).collect()
    }

    #[test]
    fn globs_and_expressions_select() {
        assert_eq!(taken("binder*"), ["binder.ping", "binder.libs"]);
        assert_eq!(taken("shell"), ["shell"]);
        assert_eq!(taken("*"), ["binder.ping", "binder.libs", "shell"]);
        assert_eq!(taken("tag==smoke"), ["binder.ping", "shell"]);
        assert_eq!(taken("tag == smoke && guest == a"), ["binder.ping"]);
        assert_eq!(taken(r#"name=~"^binder\." && !(tag==fast)"#), ["binder.libs"]);
        assert_eq!(taken("kind==gtest || image==minimal"), ["binder.libs", "shell"]);
        assert_eq!(taken("tag!=smoke"), ["binder.libs"]);
        assert_eq!(taken("name!~^b"), ["shell"]);
        assert_eq!(taken(r#"name=="a\"b""#), Vec::<String>::new());
    }

    #[test]
    fn a_glob_may_name_cases() {
        let Filter::Glob { cases, .. } = Filter::parse("libs::BinderLibTest.Nop*").unwrap() else { panic!() };
        assert_eq!(cases.as_deref(), Some("BinderLibTest.Nop*"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column() {
        for (text, column) in [
            ("tag==", 6),
            ("tag==a &&", 10),
            ("color==red", 1),
            ("(tag==a", 8),
            ("tag==a)", 7),
            ("name==\"x", 8),
            ("a{b", 1),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert_eq!(error.column, column, "{error}");
        }
        assert!(Filter::parse(&"(".repeat(100_000)).is_err());
        assert!(Filter::parse(&"!".repeat(100_000)).is_ok_and(|f| matches!(f, Filter::Glob { .. })));
        assert!(Filter::parse(&format!("{}tag==a", "!".repeat(100_000))).is_err());
        assert!(Filter::parse("name=~(").is_err());
    }
}
