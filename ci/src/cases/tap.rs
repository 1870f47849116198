//! The Test Anything Protocol (12 to 14) and the kernel's dialect of it.
//!
//! A document is a plan (`1..N`) and N results (`ok`, `not ok`), with diagnostics between. A document
//! inside another, indented, belongs to the result line that follows it. Sources: the TAP 14
//! specification; `Documentation/dev-tools/ktap.rst` of Linux.

use super::{Case, CaseStatus, Cases, add_line};

/// How deep documents may stand inside each other.
const MAX_DEPTH: usize = 32;

/// Reads TAP.
pub fn tap(output: &str) -> Cases {
    parse(output.lines().map(|line| line.trim_end_matches('\r')))
}

/// Reads KTAP, also where it comes from the kernel's log.
pub fn ktap(output: &str) -> Cases {
    parse(output.lines().map(|line| without_stamp(line.trim_end_matches('\r'))))
}

/// One document.
#[derive(Default)]
struct Document {
    indent: usize,
    /// What `1..N` says.
    plan: Option<usize>,
    /// Why nothing runs, as `1..0 # SKIP reason` says.
    skipped: Option<String>,
    /// Result lines so far.
    results: usize,
    /// Cases in `Parser::cases` that stand in this document, directly or deeper.
    first_case: usize,
    /// Diagnostics that belong to the next result (KTAP) or the last one (TAP).
    diagnostics: String,
}

struct Parser {
    cases: Cases,
    /// From the outermost in.
    open: Vec<Document>,
    /// Inside a YAML block, until its end mark at this indentation.
    yaml: Option<usize>,
    /// Whether diagnostics come after their result.
    any: bool,
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Cases {
    let mut parser =
        Parser { cases: Cases::default(), open: vec![Document::default()], yaml: None, any: false };
    for line in lines {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if parser.line(indent, &line[indent..]).is_break() {
            return parser.cases;
        }
    }
    parser.finish()
}

impl Parser {
    fn line(&mut self, indent: usize, text: &str) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        if let Some(block) = self.yaml {
            if indent <= block && text == "..." {
                self.yaml = None;
            } else if let Some(case) = self.cases.cases.last_mut() {
                add_line(&mut case.message, text);
            }
            return Continue(());
        }
        if text == "---" && self.any && indent > 0 {
            self.yaml = Some(indent);
            return Continue(());
        }
        if let Some(reason) = text.strip_prefix("Bail out!") {
            self.cases.fault(format!("bailed out:{}", super::bounded(reason, 1000)));
            return Break(());
        }
        if text.starts_with("TAP version ") || text.starts_with("KTAP version ") {
            self.enter(indent);
            return Continue(());
        }
        if let Some((count, skipped)) = plan(text) {
            self.enter(indent);
            if let Some(document) = self.open.last_mut() {
                if document.plan.is_some_and(|before| before != count) {
                    self.cases.fault("a document has two plans");
                }
                document.plan = Some(count);
                document.skipped = skipped;
            }
            self.any = true;
            return Continue(());
        }
        if let Some(result) = Result::parse(text) {
            self.any = true;
            self.result(indent, result);
            return Continue(());
        }
        if let Some(said) = text.strip_prefix('#') {
            let said = said.trim();
            if !said.is_empty() && !said.starts_with("Subtest") {
                // What a failed case says of itself follows it in TAP, and precedes it in KTAP.
                match self.cases.cases.last_mut() {
                    Some(case) if case.status == CaseStatus::Failed => add_line(&mut case.message, said),
                    _ => {}
                }
                if let Some(document) = self.open.last_mut() {
                    add_line(&mut document.diagnostics, said);
                }
            }
        }
        Continue(())
    }

    /// Goes to the document of this indentation: opens one that is deeper, closes those that are.
    fn enter(&mut self, indent: usize) {
        while let Some(document) = self.open.last()
            && document.indent > indent
            && self.open.len() > 1
        {
            self.close();
        }
        let deepest = self.open.last().map_or(0, |document| document.indent);
        if indent > deepest {
            if self.open.len() == MAX_DEPTH {
                self.cases.fault(format!("documents stand more than {MAX_DEPTH} deep in each other"));
                return;
            }
            self.open.push(Document { indent, first_case: self.cases.cases.len(), ..Document::default() });
        }
    }

    fn close(&mut self) -> Option<Document> {
        let document = self.open.pop()?;
        let place = match self.open.is_empty() {
            true => String::new(),
            false => format!(" (a subtest at indentation {})", document.indent),
        };
        match document.plan {
            Some(plan) if plan != document.results => {
                self.cases
                    .fault(format!("the plan says {plan} tests, {} have a result{place}", document.results));
            }
            None if document.results > 0 => self.cases.fault(format!("there is no plan (1..N){place}")),
            _ => {}
        }
        Some(document)
    }

    fn result(&mut self, indent: usize, result: Result<'_>) {
        // A document that stood deeper belongs to this result.
        let mut inner: Option<Document> = None;
        while let Some(document) = self.open.last()
            && document.indent > indent
            && self.open.len() > 1
        {
            let closed = self.close();
            // The outermost of them has all their cases.
            inner = closed.filter(|document| document.results > 0).or(inner);
        }
        self.enter(indent);
        let depth_name = result.name.to_owned();
        if let Some(document) = self.open.last_mut() {
            document.results += 1;
            if let Some(number) = result.number
                && number != document.results
            {
                self.cases.fault(format!("test number {number} stands at place {}", document.results));
            }
            let diagnostics = std::mem::take(&mut document.diagnostics);
            if let Some(inner) = inner {
                let cases = &mut self.cases.cases[inner.first_case..];
                let explained = cases.iter().any(|case| case.status == CaseStatus::Failed);
                for case in cases {
                    case.group = super::bounded(
                        &match case.group.is_empty() {
                            true => depth_name.clone(),
                            false => format!("{depth_name}.{}", case.group),
                        },
                        super::MAX_NAME,
                    );
                }
                // Its subtests say it all, unless they say nothing of its failure.
                if result.status() != CaseStatus::Failed || explained {
                    return;
                }
            }
            let mut case = Case::new("", &depth_name, result.status());
            match case.status {
                CaseStatus::Skipped => case.message = super::bounded(result.reason, super::MAX_MESSAGE),
                CaseStatus::Failed => case.message = diagnostics,
                _ => {}
            }
            self.cases.push(case);
        }
    }

    fn finish(mut self) -> Cases {
        if !self.any {
            self.cases.fault("the output has no TAP in it");
            return self.cases;
        }
        while self.open.len() > 1 {
            // A result line of its own never came.
            if self.open.last().is_some_and(|document| document.results > 0) {
                self.cases.fault("the output ends inside a subtest");
            }
            self.close();
        }
        if let Some(document) = self.close()
            && document.plan == Some(0)
        {
            self.cases.skipped = Some(document.skipped.unwrap_or_else(|| "the plan is empty".to_owned()));
        }
        self.cases
    }
}

/// `1..N`, with the reason of `1..0 # SKIP reason`.
fn plan(text: &str) -> Option<(usize, Option<String>)> {
    let rest = text.strip_prefix("1..")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let count = rest[..end].parse().ok()?;
    let comment = rest[end..].trim();
    let reason = match comment.strip_prefix('#') {
        Some(comment) => directive(comment.trim()).map(|(_, reason)| reason.to_owned()),
        None if comment.is_empty() => None,
        None => return None,
    };
    Some((count, reason))
}

/// A result line.
struct Result<'a> {
    ok: bool,
    number: Option<usize>,
    name: &'a str,
    /// SKIP, TODO, and KTAP's others in capitals; else empty.
    directive: String,
    reason: &'a str,
}

impl<'a> Result<'a> {
    fn parse(text: &'a str) -> Option<Result<'a>> {
        let (ok, rest) = match text.strip_prefix("not ok") {
            Some(rest) => (false, rest),
            None => (true, text.strip_prefix("ok")?),
        };
        if !rest.is_empty() && !rest.starts_with(' ') {
            return None;
        }
        let rest = rest.trim();
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let ends_there = rest[digits..].is_empty() || rest[digits..].starts_with(' ');
        let (number, rest) = match rest[..digits].parse() {
            Ok(number) if ends_there => (Some(number), rest[digits..].trim_start()),
            _ => (None, rest),
        };
        let rest = rest.strip_prefix("- ").unwrap_or(rest);
        // An escaped '#' is part of the name.
        let hash = rest.match_indices('#').map(|(at, _)| at).find(|at| !rest[..*at].ends_with('\\'));
        let (name, comment) = match hash {
            Some(at) => (rest[..at].trim_end(), rest[at + 1..].trim()),
            None => (rest, ""),
        };
        let (directive, reason) = directive(comment).unwrap_or_default();
        let name = if name.is_empty() { "(unnamed)" } else { name };
        Some(Result { ok, number, name, directive, reason })
    }

    fn status(&self) -> CaseStatus {
        match (self.directive.as_str(), self.ok) {
            // TODO: known to fail; XFAIL is KTAP's word for it.
            ("SKIP" | "TODO" | "XFAIL", _) => CaseStatus::Skipped,
            (_, true) => CaseStatus::Passed,
            (_, false) => CaseStatus::Failed,
        }
    }
}

/// The word of a directive in capitals, and what follows it. Words may go on, as in "SKIPPED".
fn directive(comment: &str) -> Option<(String, &str)> {
    let end = comment.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(comment.len());
    let word = comment[..end].to_ascii_uppercase();
    let known =
        ["SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"].into_iter().find(|known| word.starts_with(known))?;
    Some((known.to_owned(), comment[end..].trim_start_matches([' ', ':'])))
}

/// A line without `<6>` and `[   12.345678] ` of the kernel's log before it.
fn without_stamp(line: &str) -> &str {
    let line = match line.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((level, rest)) if level.len() <= 3 && level.chars().all(|c| c.is_ascii_digit()) => rest,
        _ => line,
    };
    match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // One space ends the stamp; what follows is the line's own indentation.
        Some((stamp, rest))
            if !stamp.is_empty() && stamp.chars().all(|c| c.is_ascii_digit() || " .TC".contains(c)) =>
        {
            rest.strip_prefix(' ').unwrap_or(rest)
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cases: &Cases) -> Vec<(String, CaseStatus)> {
        cases.cases.iter().map(|case| (case.full_name(), case.status)).collect()
    }

    fn list<const N: usize>(cases: [(&str, CaseStatus); N]) -> Vec<(String, CaseStatus)> {
        cases.map(|(name, status)| (name.to_owned(), status)).to_vec()
    }

    #[test]
    fn results_directives_and_diagnostics() {
        let cases = tap("TAP version 13
1..5
ok 1 - opens the device
not ok 2 - maps it
# (in test file map.bats, line 7)
#   `mmap' failed
ok 3 - freezes # SKIP no freezer
not ok 4 - is fast # TODO some day
ok 5 escaped \\# hash
");
        use CaseStatus::{Failed, Passed, Skipped};
        let expected = [
            ("opens the device", Passed),
            ("maps it", Failed),
            ("freezes", Skipped),
            ("is fast", Skipped),
            ("escaped \\# hash", Passed),
        ];
        assert_eq!(told(&cases), list(expected));
        assert_eq!(cases.faults, Vec::<String>::new());
        assert_eq!(cases.cases[1].message, "(in test file map.bats, line 7)\n`mmap' failed");
        assert_eq!(cases.cases[2].message, "no freezer");
    }

    #[test]
    fn a_plan_may_stand_at_the_end_and_must_stand_somewhere() {
        assert!(tap("ok\nok\n1..2\n").passed());
        assert_eq!(tap("ok 1\nok 2\n").faults, ["there is no plan (1..N)"]);
        assert_eq!(tap("1..3\nok 1\n").faults, ["the plan says 3 tests, 1 have a result"]);
        assert_eq!(tap("1..2\nok 1\nok 1\n").faults, ["test number 1 stands at place 2"]);
        assert_eq!(tap("").faults, ["the output has no TAP in it"]);
        assert_eq!(tap("okay\nnot okay\n").faults, ["the output has no TAP in it"]);
    }

    #[test]
    fn nothing_to_run_is_skipped_with_its_reason() {
        assert_eq!(tap("1..0 # SKIP no binder here\n").skipped.as_deref(), Some("no binder here"));
        assert_eq!(tap("1..0\n").skipped.as_deref(), Some("the plan is empty"));
    }

    #[test]
    fn a_bail_out_ends_it() {
        let cases = tap("1..3\nok 1\nBail out! the device is gone\nok 2\n");
        assert_eq!(cases.cases.len(), 1);
        assert_eq!(cases.faults, ["bailed out: the device is gone"]);
    }

    #[test]
    fn yaml_explains_the_result_before_it() {
        let cases = tap(
            "TAP version 14\n1..2\nnot ok 1 - a\n  ---\n  message: 'x'\n  severity: fail\n  ...\nok 2 - b\n",
        );
        assert_eq!(cases.cases[0].message, "message: 'x'\nseverity: fail");
        assert_eq!(cases.cases.len(), 2);
        assert!(cases.faults.is_empty());
    }

    #[test]
    fn subtests_are_the_cases_of_their_parent() {
        let cases = tap("TAP version 14
1..2
# Subtest: outer
    1..2
    ok 1 - one
    not ok 2 - two
not ok 1 - outer
ok 2 - plain
");
        use CaseStatus::{Failed, Passed};
        let expected = [("outer.one", Passed), ("outer.two", Failed), ("plain", Passed)];
        assert_eq!(told(&cases), list(expected));
        assert!(cases.faults.is_empty(), "{:?}", cases.faults);
    }

    const KUNIT: &str = "\
[    0.512345] KTAP version 1
[    0.512346] 1..1
[    0.512347]   KTAP version 1
[    0.512348]   # Subtest: binder_alloc
[    0.512349]   # module: binder_alloc_test
[    0.512350]   1..2
[    0.512351]     KTAP version 1
[    0.512352]     # Subtest: exhaustive
[    0.512353]     1..2
[    0.512354]     ok 1 4k
[    0.512355]     # exhaustive: EXPECTATION FAILED at x.c:9
[    0.512356]     not ok 2 16k
[    0.512357]   not ok 1 exhaustive
[    0.512358]   ok 2 simple # SKIP no memory
[    0.512359] not ok 1 binder_alloc
";

    #[test]
    fn ktap_nests_behind_time_stamps() {
        let cases = ktap(KUNIT);
        use CaseStatus::{Failed, Passed, Skipped};
        let expected = [
            ("binder_alloc.exhaustive.4k", Passed),
            ("binder_alloc.exhaustive.16k", Failed),
            ("binder_alloc.simple", Skipped),
        ];
        assert_eq!(told(&cases), list(expected));
        assert!(cases.faults.is_empty(), "{:?}", cases.faults);
        assert!(cases.cases[1].message.contains("EXPECTATION FAILED"));
        let cut = KUNIT.find("[    0.512356]").unwrap();
        assert!(!ktap(&KUNIT[..cut]).passed());
    }

    #[test]
    fn a_parent_that_fails_alone_is_a_case() {
        let cases = ktap("KTAP version 1\n1..1\n  KTAP version 1\n  1..1\n  ok 1 a\nnot ok 1 suite\n");
        assert_eq!(told(&cases), list([("suite.a", CaseStatus::Passed), ("suite", CaseStatus::Failed)]));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep: String = (0..10_000).map(|depth| format!("{}1..1\n", " ".repeat(depth))).collect();
        assert!(!tap(&deep).passed());
        let many = "ok\n".repeat(super::super::MAX_CASES + 100);
        let cases = tap(&many);
        assert_eq!(cases.cases.len(), super::super::MAX_CASES);
        assert!(!cases.passed());
        assert!(!tap("1..99999999999999999999999\n").passed());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(parts in proptest::collection::vec(
            proptest::sample::select(vec!["ok", "not ok", " 1", " - a", "1..2", "\n", "    ", "  ", "#", " SKIP x", "---", "...",
                "KTAP version 1", "Bail out!", "[  1.2] ", "<6>", "ż", "\\"]), 0..80)) {
            let text = parts.concat();
            let _ = (tap(&text), ktap(&text));
        }
    }
}
