//! Conventions of the systems that run tests: Bazel's and GitHub's environment variables.
//!
//! Bazel (test encyclopedia): TEST_TMPDIR, XML_OUTPUT_FILE, TEST_UNDECLARED_OUTPUTS_DIR,
//! TEST_TOTAL_SHARDS, TEST_SHARD_INDEX, TEST_SHARD_STATUS_FILE, TESTBRIDGE_TEST_ONLY,
//! TESTBRIDGE_TEST_RUNNER_FAIL_FAST. GitHub: GITHUB_ACTIONS, GITHUB_STEP_SUMMARY. What the command line
//! says goes before all of them, and they go before the plan.

use std::path::PathBuf;

use crate::select::{Deal, Partition};

/// What the environment asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// Where temporary files go.
    pub temporary: Option<PathBuf>,
    /// Where JUnit is written, too.
    pub junit: Option<PathBuf>,
    /// Where results go.
    pub results: Option<PathBuf>,
    /// The share of the tests.
    pub partition: Option<Partition>,
    /// A file that is to exist, to show that shares are known here.
    pub shard_status: Option<PathBuf>,
    /// Only these tests.
    pub filter: Option<String>,
    /// Start nothing more after a failure.
    pub fail_fast: bool,
    /// GitHub shows what is said in its way.
    pub github: bool,
    /// A file for a summary in Markdown.
    pub github_summary: Option<PathBuf>,
}

impl Environment {
    /// Reads the environment. The error says which variable is wrong.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Environment, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u32>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(format!("the environment variable {name} is '{text}', which is no number")),
            },
        };
        let partition = match (number("TEST_TOTAL_SHARDS")?, number("TEST_SHARD_INDEX")?) {
            (Some(0 | 1) | None, _) => None,
            (Some(total), Some(index)) if index < total => {
                Some(Partition { by: Deal::Count, index: index + 1, total })
            }
            (Some(total), _) => {
                return Err(format!(
                    "TEST_TOTAL_SHARDS is {total}; TEST_SHARD_INDEX must be 0 to {}",
                    total - 1
                ));
            }
        };
        let path = |name: &str| get(name).map(PathBuf::from);
        let github = get("GITHUB_ACTIONS").is_some_and(|value| value == "true");
        Ok(Environment {
            temporary: path("TEST_TMPDIR"),
            junit: path("XML_OUTPUT_FILE"),
            results: path("TEST_UNDECLARED_OUTPUTS_DIR"),
            partition,
            shard_status: path("TEST_SHARD_STATUS_FILE"),
            filter: get("TESTBRIDGE_TEST_ONLY"),
            fail_fast: get("TESTBRIDGE_TEST_RUNNER_FAIL_FAST").is_some_and(|value| value == "1"),
            github,
            github_summary: path("GITHUB_STEP_SUMMARY").filter(|_| github),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, String> {
        Environment::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn bazels_shares_count_from_zero() {
        let environment = read(&[("TEST_TOTAL_SHARDS", "4"), ("TEST_SHARD_INDEX", "3")]).unwrap();
        assert_eq!(environment.partition, "count:4/4".parse().ok());
        assert_eq!(read(&[]), Ok(Environment::default()));
        assert_eq!(
            read(&[("TEST_TOTAL_SHARDS", ""), ("GITHUB_STEP_SUMMARY", "/s")]),
            Ok(Environment::default())
        );
        assert!(read(&[("TEST_TOTAL_SHARDS", "4"), ("TEST_SHARD_INDEX", "4")]).is_err());
        assert!(read(&[("TEST_TOTAL_SHARDS", "many")]).is_err());
    }
}
