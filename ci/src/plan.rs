//! Test plans: what a file says ([`file`]), and what it means ([`Plan`]).
//!
//! A plan goes through three shapes. [`file::PlanFile`] is the TOML, key by key. [`Plan`] is what it
//! means with all defaults filled in, every name looked up and every shard and guest of a list its own
//! test; what cannot be run is refused on the way, with line and column. The command line's options
//! are laid over the settings in between.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
use serde::{Serialize, Serializer};

pub mod error;
pub mod file;
mod resolve;
pub mod value;

pub use error::PlanError;
pub use file::{
    BinderDriver, BinderProfile, Clock, Engine, Isolation, Keep, Parser, RequiresEntry, Sharing, Start,
};

use crate::faults::FaultsEntry;
use crate::policy::Rule;

use self::error::Text;
use self::file::{PlanFile, RunEntry};
use self::value::{Memory, Time};

/// The most bytes of a plan; a plan is written by hand.
pub const MAX_PLAN: usize = 4 << 20;

/// The most tests of a plan once shards and lists of guests are tests of their own.
pub const MAX_TESTS: usize = 100_000;

/// A plan that can be run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// The file.
    pub path: PathBuf,
    /// Its settings, with those of the profile and of the command line over them.
    pub settings: Settings,
    /// The kinds of guest by name.
    pub guests: BTreeMap<String, GuestSpec>,
    /// The tests in order. Names are unique.
    pub tests: Vec<TestSpec>,
}

/// Settings of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// How many tests run at once.
    pub jobs: usize,
    /// The folder of the results.
    pub results: PathBuf,
    /// Where else the JUnit file goes.
    pub junit: Option<PathBuf>,
    /// Limit of a guest's start.
    pub boot_timeout: Time,
    /// Limit of the run.
    pub run_timeout: Option<Time>,
    /// What all timeouts are multiplied with.
    pub timeout_scale: f64,
    /// Start nothing more after a failure.
    pub fail_fast: bool,
    /// Flaky tests fail the run.
    pub fail_flaky: bool,
    /// What executes the guests.
    pub engine: Engine,
    /// Added to seeds.
    pub seed: u64,
    /// What selects tests.
    pub filter: Option<String>,
}

impl Engine {
    /// As the command line has it.
    pub fn word(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::Kvm => "kvm",
            Engine::Soft => "soft",
        }
    }
}

impl Settings {
    /// A timeout of the plan as this machine is to take it.
    pub fn scaled(&self, time: Time) -> Duration {
        time.0.mul_f64(self.timeout_scale)
    }
}

/// A kind of guest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestSpec {
    /// Image name or folder.
    pub image: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory: Memory,
    /// Seed of its entropy.
    pub seed: u64,
    /// What its time is.
    pub clock: Clock,
    /// Which driver.
    pub binder: BinderDriver,
    /// Which version of it.
    pub binder_profile: Option<BinderProfile>,
    /// Words for the kernel command line.
    pub append: Option<String>,
    /// When its trace is kept.
    pub trace: Keep,
    /// When its console is kept.
    pub console: Keep,
    /// How it starts.
    pub start: Start,
    /// How many at once.
    pub instances: Option<u32>,
}

/// A test.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TestSpec {
    /// Unique: `name`, `name@guest`, `name#1of4`, `name@guest#1of4`.
    pub name: String,
    /// The name it has in the plan.
    pub plan_name: String,
    /// Which share of it this is.
    pub shard: Option<Share>,
    /// What runs; one role without a name, or several with.
    pub roles: Vec<RoleSpec>,
    /// Its limit.
    pub timeout: Time,
    /// How often it is tried again.
    pub retries: u32,
    /// Instead of its guests' own.
    pub seed: Option<u64>,
    /// Which repetition of the run it is in, from 0.
    #[serde(skip)]
    pub round: u32,
    /// Words to select it by.
    pub tags: Vec<String>,
    /// What is injected into binder.
    pub faults: Option<FaultsEntry>,
    /// What the machine must offer.
    pub requires: RequiresEntry,
    /// Whether it gets a guest of its own.
    pub isolation: Isolation,
    /// Whether its guests share a process.
    pub process: Sharing,
}

/// Number `index` of `total`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// From 1 to `total`.
    pub index: u32,
    /// How many there are.
    pub total: u32,
}

/// A program in a guest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RoleSpec {
    /// Of a test with several; else empty.
    pub name: String,
    /// Key of [`Plan::guests`].
    pub guest: String,
    /// The binder world that its guest shares.
    pub domain: Option<String>,
    /// What runs.
    pub program: Program,
    /// How its output is read.
    pub parser: Parser,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// What it reads; for a script, the script.
    #[serde(skip)]
    pub stdin: Vec<u8>,
    /// What must happen.
    pub expect: Expect,
    /// Globs of files to keep.
    pub artifacts: Vec<String>,
    /// Files to put there.
    pub push: Vec<Push>,
    /// It serves the others.
    pub background: bool,
}

/// What a role runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// A program and its arguments.
    Command(Vec<String>),
    /// The guest's shell, with the script as its stdin.
    Script,
    /// A googletest program.
    Gtest {
        /// Its path in the guest.
        path: String,
        /// Which of its cases.
        filter: Option<String>,
        /// Further arguments.
        args: Vec<String>,
    },
}

/// How the program is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpectedEnd {
    /// With one of these codes.
    Exit(Vec<u8>),
    /// Of this signal.
    Signal(u8),
    /// By a panic of the guest.
    Panic,
    /// By the guest's going away.
    Lost,
}

/// What must happen for a role to pass.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expect {
    /// How the program ends.
    pub end: ExpectedEnd,
    /// What occurs in stdout.
    #[serde(serialize_with = "patterns")]
    pub stdout: Vec<Regex>,
    /// What occurs in stderr.
    #[serde(serialize_with = "patterns")]
    pub stderr: Vec<Regex>,
    /// What occurs on the console.
    #[serde(serialize_with = "patterns")]
    pub console: Vec<Regex>,
    /// What occurs nowhere.
    #[serde(serialize_with = "patterns")]
    pub never: Vec<Regex>,
    /// Calls that are not made.
    pub policy: Vec<Rule>,
}

/// A file to put into a guest.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Push {
    /// On the host.
    pub from: PathBuf,
    /// In the guest.
    pub to: String,
    /// Permission bits; none: those of the file.
    pub mode: Option<u32>,
}

fn patterns<S: Serializer>(patterns: &[Regex], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(patterns.iter().map(Regex::as_str))
}

impl Plan {
    /// Reads a plan. `over` is laid over the settings of `[run]` and of `profile`.
    pub fn load(path: &Path, profile: Option<&str>, over: &RunEntry) -> Result<Plan, PlanError> {
        let read = |source| PlanError::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if !metadata.is_file() {
            return Err(read(std::io::Error::other("it is not a regular file")));
        }
        if metadata.len() > MAX_PLAN as u64 {
            return Err(PlanError::TooLarge { path: path.to_owned() });
        }
        let text = fs::read_to_string(path).map_err(read)?;
        Plan::parse(path, &text, profile, over)
    }

    /// Reads a plan from text that was found at `path`.
    pub fn parse(path: &Path, text: &str, profile: Option<&str>, over: &RunEntry) -> Result<Plan, PlanError> {
        let text = Text { path, text };
        let file: PlanFile = toml::from_str(text.text).map_err(|error| text.malformed(&error))?;
        resolve::resolve(&text, file, profile, over)
    }
}

/// The JSON schema of plans, as it is shipped in `ci/plan.schema.json`.
pub fn schema() -> String {
    let schema = schemars::schema_for!(PlanFile);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain data");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Plan, PlanError> {
        Plan::parse(Path::new("plans/x.toml"), text, None, &RunEntry::default())
    }

    #[track_caller]
    fn wrong(text: &str) -> String {
        parse(text).expect_err("the plan is wrong").to_string()
    }

    const GUEST: &str = "guest.default.image = \"minimal\"\n";

    #[test]
    fn an_unknown_key_is_refused_where_it_stands() {
        let message = wrong("[run]\njobs = 2\n\n[guest.phone]\nimge = \"aosp14\"\n");
        assert_eq!(
            message,
            "plans/x.toml:5:1: unknown field `imge`; did you mean `image`?\n   |\n 5 | imge = \"aosp14\"\n   | ^"
        );
        assert!(
            wrong("[[test]]\nname = \"x\"\nexpect = { exitt = 1 }\n")
                .contains(":3:12: unknown field `exitt`; did you mean `exit`?")
        );
        assert!(
            wrong("[guest.x]\nimage = \"i\"\ntrace = \"on-fail\"\n").contains("did you mean `on-failure`?")
        );
    }

    #[test]
    fn a_wrong_value_is_refused_where_it_stands() {
        let cases = [
            ("[run]\nboot-timeout = \"5 parsecs\"\n", ":2:16: ' parsecs' is not a unit of time"),
            ("[run]\nretries = -1\n", ":2:11:"),
            ("[[test]]\nname = \"a b\"\n", ":1:1: `a b` is no name of a test"),
            ("[[test]]\nname = \"../x\"\n", "is no name of a test"),
            ("[[test]]\n[[test]]\n", ":1:1: missing field `name`"),
            ("[[test]]\nname = \"x\"\ncommand = [\"a\"]\n", "names no guest, and the plan has none"),
            ("x = ", ":1:5:"),
            ("run = 5\n", ":1:7:"),
        ];
        for (text, expected) in cases {
            let message = wrong(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_test_that_cannot_be_run_is_refused() {
        let cases = [
            ("", "nothing to run; write command, script or gtest"),
            ("command = []", "the command is empty"),
            ("command = [\"a\"]\nscript = \"b\"", "one of command, script and gtest"),
            (
                "command = [\"a\"]\nguest = \"defualt\"",
                "there is no [guest.defualt]; did you mean `default`?",
            ),
            ("command = [\"a\"]\nguest = []", "the list of guests is empty"),
            ("command = [\"a\"]\nexpect = { exit = 0, signal = 9 }", "expect one of"),
            ("command = [\"a\"]\nexpect = { signal = 65 }", "65 is not a signal"),
            ("command = [\"a\"]\nexpect = { exit = 256 }", "expect = { exit = 256 }"),
            ("command = [\"a\"]\nexpect = { stdout = \"(\" }", "in expect: regex parse error"),
            ("command = [\"a\"]\nexpect = { stdout = \"(a{9999}){9999}\" }", "in expect:"),
            ("command = [\"a\"]\nartifacts = [\"tmp/*\"]", "not a glob of absolute paths"),
            ("command = [\"a\"]\npush = [{ from = \"no-such-file\", to = \"/x\" }]", "there is no file"),
            ("command = [\"a\"]\nshards = 0", "shards must be 1 to 1024"),
            ("command = [\"a\"]\nenv = { \"A=B\" = \"c\" }", "is no environment variable"),
            ("command = [\"a\"]\ngtest-filter = \"*\"", "go with gtest"),
            ("script = \"a\"\nstdin = \"b\"", "a script is its shell's stdin"),
            ("script-file = \"no-such-file\"", "cannot read plans/no-such-file"),
            ("command = [\"a\"]\nroles.b.command = [\"b\"]", "stands in each role"),
            ("roles.b = { command = [\"b\"], background = true }", "every role is in the background"),
            ("isolation = \"shared\"\nseed = 1\ncommand = [\"a\"]", "a shared guest has a seed of its own"),
            ("faults.rules = [{ action = \"no-space\", nth = 0 }]\ncommand = [\"a\"]", "faults: rule 1: nth"),
            (
                "faults = {}\nisolation = \"shared\"\ncommand = [\"a\"]",
                "faults are for guests of a test's own",
            ),
            (
                "isolation = \"shared\"\n[test.roles]\na.command = [\"x\"]\nb.command = [\"x\"]",
                "cannot be shared",
            ),
            ("process = \"shared\"\ncommand = [\"a\"]", "one guest shares a process with nobody"),
            ("process = \"both\"\ncommand = [\"a\"]", "unknown variant `both`"),
            ("roles.a = { command = [\"x\"], domain = \"d\" }", "domain `d` is shared by nobody"),
            ("roles.a = { command = [\"x\"], domain = \"d/e\" }", "`d/e` is no name of a domain"),
            (
                "process = \"own\"\n[test.roles]\na = { command = [\"x\"], domain = \"d\" }\nb = { command = [\"x\"], domain = \"d\" }",
                "guests of a domain are in one process",
            ),
            (
                "process = \"shared\"\n[test.roles]\n\"a+b\".command = [\"x\"]\na-b.command = [\"x\"]",
                "roles `a+b` and `a-b` have the same guest name",
            ),
            (
                "[test.roles]\na = { guest = \"own\", command = [\"x\"], domain = \"d\" }\nb = { command = [\"x\"], domain = \"d\" }",
                "has its own kernel's driver, and can share none",
            ),
            (
                "[test.roles]\na = { guest = \"aosp\", command = [\"x\"], domain = \"d\" }\nb = { command = [\"x\"], domain = \"d\" }",
                "domain `d` is one driver: its guests need the same binder-profile",
            ),
        ];
        let others = "guest.own = { image = \"minimal\", binder = \"kernel\" }\n\
                      guest.aosp = { image = \"minimal\", binder-profile = \"aosp\" }\n";
        for (rest, expected) in cases {
            let message = wrong(&format!("{GUEST}{others}[[test]]\nname = \"x\"\n{rest}\n"));
            assert!(message.contains(expected), "{rest:?}: {message}");
        }
        let twice =
            format!("{GUEST}[[test]]\nname = \"x\"\nscript = \"\"\n[[test]]\nname = \"x\"\nscript = \"\"\n");
        assert!(wrong(&twice).contains(":5:1: there is another test `x`"));
    }

    #[test]
    fn a_command_that_is_one_text_is_told_how_to_be_a_list() {
        let message = wrong(&format!("{GUEST}[[test]]\nname = \"x\"\ncommand = \"service list\"\n"));
        assert!(
            message.contains(
                ":4:11: text, where a list of texts is expected; write a list: [\"service\", \"list\"]"
            ),
            "{message}"
        );
    }

    #[test]
    fn shards_and_guests_become_tests_of_their_own() {
        let plan = parse(
            "guest.a.image = \"x\"\nguest.b.image = \"y\"\n[[test]]\nname = \"t\"\nguest = [\"a\", \"b\"]\n\
             gtest = \"/t\"\nshards = 2\n[[test]]\nname = \"u\"\nguest = \"a\"\nscript = \"exit 3\"\nexpect.exit = [0, 3]\n",
        );
        let plan = plan.unwrap();
        let names: Vec<&str> = plan.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["t@a#1of2", "t@a#2of2", "t@b#1of2", "t@b#2of2", "u"]);
        assert_eq!(plan.tests[3].roles[0].guest, "b");
        assert_eq!(plan.tests[3].roles[0].parser, Parser::Gtest);
        assert_eq!(plan.tests[4].roles[0].stdin, b"exit 3");
        assert_eq!(plan.tests[4].roles[0].expect.end, ExpectedEnd::Exit(vec![0, 3]));
    }

    #[test]
    fn profiles_and_options_lie_over_the_settings() {
        let text = "[run]\njobs = 1\nretries = 1\ntest-timeout = \"7s\"\n[profile.ci]\nretries = 2\njunit = \"j.xml\"\n\
                    [guest.default]\nimage = \"x\"\n[[test]]\nname = \"t\"\nscript = \"\"\n";
        let over = RunEntry { jobs: Some(5), ..RunEntry::default() };
        let plan = Plan::parse(Path::new("p"), text, Some("ci"), &over).unwrap();
        assert_eq!((plan.settings.jobs, plan.tests[0].retries), (5, 2));
        assert_eq!(plan.tests[0].timeout.to_string(), "7s");
        assert_eq!(plan.settings.junit.as_deref(), Some(Path::new("j.xml")));
        let message = Plan::parse(Path::new("p"), text, Some("cj"), &over).unwrap_err().to_string();
        assert_eq!(message, "p: there is no profile `cj`; did you mean `ci`?");
    }

    #[test]
    fn the_shipped_schema_is_true() {
        let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/plan.schema.json"));
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(shipped, schema()).unwrap();
        }
        let text = fs::read_to_string(shipped).unwrap_or_default();
        assert!(text == schema(), "run UPDATE_SCHEMA=1 cargo test -p ci schema");
    }

    #[test]
    fn the_examples_are_plans() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"));
        let mut plans = 0;
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "toml") {
                let plan = Plan::load(&entry.path(), None, &RunEntry::default());
                assert!(!plan.unwrap_or_else(|error| panic!("{error}")).tests.is_empty());
                plans += 1;
            }
        }
        assert!(plans >= 2);
    }

    #[test]
    fn every_key_is_in_the_readme() {
        let readme = include_str!("../README.md");
        let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
        let mut keys: Vec<String> = Vec::new();
        let tables = schema["$defs"].as_object().unwrap().values();
        for table in tables.filter_map(|table| table["properties"].as_object()) {
            keys.extend(table.keys().cloned());
        }
        assert!(keys.len() > 50);
        let missing: Vec<String> =
            keys.into_iter().filter(|key| !readme.contains(&format!("`{key}`"))).collect();
        assert!(missing.is_empty(), "ci/README.md says nothing of {missing:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_answer(text in "[\\[\\]a-z=\" \n{}.0-9-]{0,120}") {
            let _ = parse(&text);
        }
    }
}
