//! Which of a plan's tests a run takes: filters, tags, a partition, repetitions.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::filter::Filter;
use crate::plan::{Plan, Program, TestSpec};

/// What selects the tests of a run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A test is taken that any of these takes; without any, all are.
    pub filters: Vec<Filter>,
    /// And that has one of these tags; without any, whatever it has.
    pub tags: Vec<String>,
    /// And that falls into this share.
    pub partition: Option<Partition>,
}

/// One of several shares of the tests. Together they cover each test exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// How tests are dealt.
    pub by: Deal,
    /// From 1 to `total`.
    pub index: u32,
    /// How many shares there are.
    pub total: u32,
}

/// How tests are dealt to shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deal {
    /// In turn: shares differ by at most one test.
    Count,
    /// By the hash of the name: a test stays in its share when others come and go.
    Hash,
}

impl FromStr for Partition {
    type Err = String;

    fn from_str(text: &str) -> Result<Partition, String> {
        let wrong = || format!("'{text}' is not a partition; write count:1/4 or hash:1/4");
        let (by, share) = text.split_once(':').ok_or_else(wrong)?;
        let by = match by {
            "count" => Deal::Count,
            "hash" => Deal::Hash,
            _ => return Err(wrong()),
        };
        let (index, total) = share.split_once('/').ok_or_else(wrong)?;
        let (index, total): (u32, u32) =
            (index.parse().map_err(|_| wrong())?, total.parse().map_err(|_| wrong())?);
        if index == 0 || index > total {
            return Err(format!("'{text}': the first number is 1 to {total}"));
        }
        Ok(Partition { by, index, total })
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            Deal::Count => "count",
            Deal::Hash => "hash",
        };
        write!(f, "{by}:{}/{}", self.index, self.total)
    }
}

impl Partition {
    /// Whether the share has the test that stands at `place` among those selected.
    fn has(&self, place: usize, name: &str) -> bool {
        let number = match self.by {
            Deal::Count => place as u64,
            Deal::Hash => {
                let digest = Sha256::digest(name.as_bytes());
                digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
        };
        number % u64::from(self.total) == u64::from(self.index - 1)
    }
}

impl Selection {
    /// The tests that it takes, in the plan's order.
    pub fn of(&self, plan: &Plan) -> Vec<TestSpec> {
        let by_filter = |test: &TestSpec| {
            self.filters.is_empty() || self.filters.iter().any(|filter| filter.takes(plan, test))
        };
        let by_tag =
            |test: &TestSpec| self.tags.is_empty() || self.tags.iter().any(|tag| test.tags.contains(tag));
        let selected = plan.tests.iter().filter(|test| by_filter(test) && by_tag(test));
        let in_share = selected
            .enumerate()
            .filter(|(place, test)| self.partition.is_none_or(|partition| partition.has(*place, &test.name)));
        in_share.map(|(_, test)| self.narrowed(plan, test.clone())).collect()
    }

    /// The test with the cases that filters name. Where any filter takes all of it, it stays whole.
    fn narrowed(&self, plan: &Plan, mut test: TestSpec) -> TestSpec {
        let mut named = Vec::new();
        for filter in self.filters.iter().filter(|filter| filter.takes(plan, &test)) {
            match filter {
                Filter::Glob { cases: Some(cases), .. } => named.push(cases.clone()),
                _ => return test,
            }
        }
        if !named.is_empty() {
            for role in &mut test.roles {
                if let Program::Gtest { filter, .. } = &mut role.program {
                    *filter = Some(named.join(":"));
                }
            }
        }
        test
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::file::RunEntry;

    fn plan(tests: usize) -> Plan {
        let mut text = "guest.default.image = \"minimal\"\n".to_owned();
        for number in 0..tests {
            text += &format!("[[test]]\nname = \"t{number}\"\ngtest = \"/t\"\ntags = [\"{}\"]\n", number % 3);
        }
        Plan::parse("p.toml".as_ref(), &text, None, &RunEntry::default()).unwrap()
    }

    fn names(tests: &[TestSpec]) -> Vec<&str> {
        tests.iter().map(|test| test.name.as_str()).collect()
    }

    #[test]
    fn shares_cover_each_test_exactly_once() {
        for tests in [0, 1, 7, 40] {
            let plan = plan(tests);
            for by in [Deal::Count, Deal::Hash] {
                for total in [1, 2, 3, 8, 50] {
                    let mut seen = Vec::new();
                    for index in 1..=total {
                        let partition = Some(Partition { by, index, total });
                        let share = Selection { partition, ..Selection::default() }.of(&plan);
                        if by == Deal::Count {
                            assert!(share.len() <= tests.div_ceil(total as usize));
                        }
                        seen.extend(share.into_iter().map(|test| test.name));
                    }
                    seen.sort();
                    let mut all: Vec<String> = plan.tests.iter().map(|test| test.name.clone()).collect();
                    all.sort();
                    assert_eq!(seen, all, "{by:?} of {total}");
                }
            }
        }
    }

    #[test]
    fn a_hashed_share_does_not_depend_on_the_other_tests() {
        let share = |plan: &Plan| {
            let partition = Some(Partition { by: Deal::Hash, index: 1, total: 3 });
            Selection { partition, ..Selection::default() }.of(plan)
        };
        let (few, many) = (plan(10), plan(40));
        let (few, many) = (share(&few), share(&many));
        assert!(!few.is_empty());
        assert!(names(&few).iter().all(|name| names(&many).contains(name)));
    }

    #[test]
    fn partitions_are_read() {
        assert_eq!("hash:2/8".parse(), Ok(Partition { by: Deal::Hash, index: 2, total: 8 }));
        for wrong in ["", "2/8", "count:0/8", "count:9/8", "count:1", "slice:1/2", "count:1/0", "count:-1/2"]
        {
            assert!(wrong.parse::<Partition>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_and_filters_both_must_hold() {
        let plan = plan(9);
        let filters = vec![Filter::parse("t[0-4]").unwrap(), Filter::parse("t8").unwrap()];
        let selection = Selection { filters, tags: vec!["1".into(), "2".into()], partition: None };
        assert_eq!(names(&selection.of(&plan)), ["t1", "t2", "t4", "t8"]);
    }

    #[test]
    fn cases_narrow_a_program_unless_all_of_it_is_asked_for() {
        let plan = plan(2);
        let cases = |filters: &[&str]| {
            let filters = filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect();
            let tests = Selection { filters, ..Selection::default() }.of(&plan);
            let Program::Gtest { filter, .. } = tests[0].roles[0].program.clone() else { panic!() };
            filter
        };
        assert_eq!(cases(&["t0::A.*", "t0::B.x"]).as_deref(), Some("A.*:B.x"));
        assert_eq!(cases(&["t0::A.*", "t*"]), None);
    }
}
