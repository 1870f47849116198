//! A plan as it is written: one struct a table of the TOML file. What is written here as a doc
//! comment is what `plan.schema.json` says of the key.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::value::{Memory, OneOrMany, Time};
use crate::faults::FaultsEntry;

/// A test plan of `bindervm test`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(title = "bindervm test plan")]
pub struct PlanFile {
    /// Settings of the run.
    #[serde(default)]
    pub run: RunEntry,
    /// Settings that `--profile NAME` puts over those of `[run]`.
    #[serde(default)]
    pub profile: BTreeMap<String, RunEntry>,
    /// The kinds of guest that tests name. Without any, tests need a `[guest.default]`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, GuestEntry>")]
    pub guest: BTreeMap<String, Spanned<GuestEntry>>,
    /// The tests, in the order in which they start.
    #[serde(default)]
    #[schemars(with = "Vec<TestEntry>")]
    pub test: Vec<Spanned<TestEntry>>,
}

/// Settings of a run. Each is also an option of the command line, which wins.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunEntry {
    /// How many tests run at once. Default: as many as the machine has CPUs.
    #[schemars(range(min = 1, max = 1024))]
    pub jobs: Option<u32>,
    /// The folder of the results, relative to where the command is run. Default: `bindervm-results`.
    pub results: Option<String>,
    /// Where the JUnit file goes besides `junit.xml` in the results.
    pub junit: Option<String>,
    /// How long a guest may take until its agent is ready. Default: 180s.
    pub boot_timeout: Option<Time>,
    /// How long a test may take once its guests are ready. Default: 5m.
    pub test_timeout: Option<Time>,
    /// How long the whole run may take. Default: no limit.
    pub run_timeout: Option<Time>,
    /// Every timeout is multiplied with this, for slow machines. Default: 1.
    pub timeout_scale: Option<f64>,
    /// How often a test that failed is tried again. Default: 0.
    #[schemars(range(min = 0, max = 100))]
    pub retries: Option<u32>,
    /// Start no further test once one has failed. Default: false.
    pub fail_fast: Option<bool>,
    /// A run whose only failures passed when tried again ends with 9. Default: false.
    pub fail_flaky: Option<bool>,
    /// What executes the guests. Default: auto.
    pub engine: Option<Engine>,
    /// Added to the seed of every guest; the K-th repetition of a run adds K-1 more. Default: 0.
    pub seed: Option<u64>,
    /// Only tests that this selects: a name glob or a filter expression.
    pub filter: Option<String>,
}

/// What executes a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// KVM where the hardware has it, else the built-in CPU.
    #[default]
    Auto,
    /// Hardware virtualization through /dev/kvm.
    Kvm,
    /// The CPU in software.
    Soft,
}

/// One kind of guest.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GuestEntry {
    /// Name of a built image (`bindervm image list`), or its folder relative to the plan (`./images/x`).
    pub image: String,
    /// Virtual CPUs. Default: 1.
    #[schemars(range(min = 1, max = 64))]
    pub cpus: Option<u32>,
    /// Guest memory. Default: 512M.
    pub memory: Option<Memory>,
    /// Seed of the guest's entropy (soft engine, virtual clock). Default: 0.
    pub seed: Option<u64>,
    /// `virtual` repeats exactly (soft engine), `host` follows the wall clock. Default: virtual.
    pub clock: Option<Clock>,
    /// Which binder driver the guest gets: ours on the host, or its own kernel's. Default: host.
    pub binder: Option<BinderDriver>,
    /// The kernel whose binder driver is followed where versions differ. Default: linux-7.2.
    pub binder_profile: Option<BinderProfile>,
    /// Words to add to the kernel command line.
    pub append: Option<String>,
    /// When the recording of every binder command is kept. Default: on-failure.
    pub trace: Option<Keep>,
    /// When the guest's console is kept. Default: always.
    pub console: Option<Keep>,
    /// Whether it boots, or goes on from a snapshot of the booted image. Default: snapshot.
    pub start: Option<Start>,
    /// How many guests of this kind may run at once. Default: no limit but `jobs`.
    #[schemars(range(min = 1, max = 1024))]
    pub instances: Option<u32>,
}

/// `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// From a snapshot of the booted image, made on first use and kept in the cache. A guest on KVM boots.
    Snapshot,
    /// From power-on: where the boot itself is what is tested.
    Boot,
}

/// `clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Time is counted in executed instructions; a run repeats exactly.
    Virtual,
    /// Time is the host's.
    Host,
}

/// `binder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BinderDriver {
    /// The driver on the host, through the shim.
    Host,
    /// The guest kernel's own module.
    Kernel,
}

/// `binder-profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum BinderProfile {
    /// The C driver of Linux 6.1.
    #[serde(rename = "linux-6.1")]
    Linux6_1,
    /// The C driver of Linux 6.12.
    #[serde(rename = "linux-6.12")]
    Linux6_12,
    /// The C driver of Linux 7.2.
    #[serde(rename = "linux-7.2")]
    Linux7_2,
    /// The C driver of the Android common kernels.
    #[serde(rename = "aosp")]
    Aosp,
}

/// When something that was recorded is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// It is not even recorded.
    Never,
    /// Where the test did not pass.
    OnFailure,
    /// Always.
    Always,
}

/// One test: one program in one guest, or with `roles` several at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TestEntry {
    /// Unique: letters, digits, `-`, `_`, `.` and `+`.
    pub name: String,
    /// The guest (a key of `[guest]`), or a list: the test then runs once on each, as `name@guest`.
    /// Default: `default`, or the only guest there is.
    #[serde(default)]
    pub guest: Option<OneOrMany<String>>,
    /// The program and its arguments.
    pub command: Option<Vec<String>>,
    /// Text for the guest's `/bin/sh`, which reads it as its stdin.
    pub script: Option<String>,
    /// A file with such text, relative to the plan.
    pub script_file: Option<String>,
    /// Path of a googletest program in the guest; implies `parser = "gtest"`.
    pub gtest: Option<String>,
    /// `--gtest_filter` of that program.
    pub gtest_filter: Option<String>,
    /// Further arguments of that program.
    #[serde(default)]
    pub gtest_args: Vec<String>,
    /// How the output is read into cases. Default: `exit`: the test is one case.
    pub parser: Option<Parser>,
    /// Environment variables of the program.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of the program. Default: `/`.
    pub cwd: Option<String>,
    /// What the program reads from its stdin.
    pub stdin: Option<String>,
    /// A file with what it reads, relative to the plan.
    pub stdin_file: Option<String>,
    /// How long the test may take once its guests are ready. Default: that of the run.
    pub timeout: Option<Time>,
    /// How often it is tried again when it failed. Default: that of the run.
    #[schemars(range(min = 0, max = 100))]
    pub retries: Option<u32>,
    /// Seed of its guests, instead of their own.
    pub seed: Option<u64>,
    /// Run it as this many tests, `name#1of4` and so on; the program is told its share as googletest
    /// and Bazel have it (GTEST_TOTAL_SHARDS, TEST_TOTAL_SHARDS and their indexes). Default: 1.
    #[schemars(range(min = 1, max = 1024))]
    pub shards: Option<u32>,
    /// Words to select tests by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What must happen for the test to pass. Default: exit code 0.
    #[serde(default)]
    pub expect: ExpectEntry,
    /// Files of the guest to keep, as globs of absolute paths.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Files to put into the guest before the test.
    #[serde(default)]
    pub push: Vec<PushEntry>,
    /// Faults that are injected into binder in its guests: `[[test.faults.rules]]`.
    pub faults: Option<FaultsEntry>,
    /// What the machine must offer; where it does not, the test is skipped.
    #[serde(default)]
    pub requires: RequiresEntry,
    /// Whether the test gets a guest of its own. Default: fresh.
    pub isolation: Option<Isolation>,
    /// Whether the guests of its roles have a process each, or share one. Default: own, and shared where
    /// a role has a `domain`.
    pub process: Option<Sharing>,
    /// Several programs in several guests, by role. They start together, when all guests are ready.
    /// The keys `command`, `script`, `gtest`, ... are then those of the roles.
    #[serde(default)]
    pub roles: BTreeMap<String, RoleEntry>,
}

/// The part of a test that runs in one of its guests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RoleEntry {
    /// The guest, a key of `[guest]`. Each role gets one of its own.
    pub guest: Option<String>,
    /// The binder world that its guest shares with those of other roles that name the same one, in one process.
    /// They boot, and follow the host's clock. Default: one of its own.
    pub domain: Option<String>,
    /// The program and its arguments.
    pub command: Option<Vec<String>>,
    /// Text for the guest's `/bin/sh`, which reads it as its stdin.
    pub script: Option<String>,
    /// A file with such text, relative to the plan.
    pub script_file: Option<String>,
    /// Path of a googletest program in the guest.
    pub gtest: Option<String>,
    /// `--gtest_filter` of that program.
    pub gtest_filter: Option<String>,
    /// Further arguments of that program.
    #[serde(default)]
    pub gtest_args: Vec<String>,
    /// How the output is read into cases.
    pub parser: Option<Parser>,
    /// Environment variables of the program.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory of the program.
    pub cwd: Option<String>,
    /// What the program reads from its stdin.
    pub stdin: Option<String>,
    /// A file with what it reads, relative to the plan.
    pub stdin_file: Option<String>,
    /// What must happen for the role to pass.
    #[serde(default)]
    pub expect: ExpectEntry,
    /// Files of the guest to keep, as globs of absolute paths.
    #[serde(default)]
    pub artifacts: Vec<String>,
    /// Files to put into the guest before the test.
    #[serde(default)]
    pub push: Vec<PushEntry>,
    /// The role serves the others: it is ended when they have ended, and how it ends is not judged.
    #[serde(default)]
    pub background: bool,
}

/// How output is read into cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Parser {
    /// The exit status alone says how the test ended.
    Exit,
    /// googletest: its JSON report, or its text where there is none.
    Gtest,
    /// The Test Anything Protocol, versions 12 to 14.
    Tap,
    /// The kernel's dialect of it (KTAP), also behind `dmesg` time stamps.
    Ktap,
}

/// What must happen for a test to pass. All of it must.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExpectEntry {
    /// The program exits with this code, or one of these. Default: 0, unless another end is expected.
    pub exit: Option<OneOrMany<u8>>,
    /// The program dies of this signal.
    #[schemars(range(min = 1, max = 64))]
    pub signal: Option<u8>,
    /// The guest's kernel panics.
    #[serde(default)]
    pub panic: bool,
    /// The guest powers itself off or resets.
    #[serde(default)]
    pub lost: bool,
    /// Regular expressions that occur in stdout.
    #[serde(default)]
    pub stdout: OneOrMany<String>,
    /// Regular expressions that occur in stderr.
    #[serde(default)]
    pub stderr: OneOrMany<String>,
    /// Regular expressions that occur on the guest's console.
    #[serde(default)]
    pub console: OneOrMany<String>,
    /// Regular expressions that occur nowhere: not in stdout, stderr or on the console.
    #[serde(default)]
    pub never: OneOrMany<String>,
    /// Binder calls that must not be made, as filters of `bindervm trace`: exit code 8 where one is.
    #[serde(default)]
    pub policy: OneOrMany<String>,
}

/// A file to put into the guest.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PushEntry {
    /// The file on the host, relative to the plan.
    pub from: String,
    /// Its absolute path in the guest.
    pub to: String,
    /// Permission bits in octal, as in `"755"`. Default: those of the file.
    pub mode: Option<String>,
}

/// What the machine must offer.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RequiresEntry {
    /// Hardware virtualization.
    #[serde(default)]
    pub kvm: bool,
    /// Free host memory.
    pub memory: Option<Memory>,
    /// Environment variables that are set and not empty.
    #[serde(default)]
    pub env: Vec<String>,
}

/// `isolation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A guest of its own, started for it and ended after it.
    Fresh,
    /// A guest that tests of the same kind use one after the other; one that dies is replaced.
    Shared,
}

/// `process`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Every guest is a process of its own.
    Own,
    /// The guests of the test's roles are threads of one process, each with its own files and its own end.
    Shared,
}
