//! `bindervm test`: the harness's command line.

use std::path::PathBuf;

use ci::plan::file::{Engine, RunEntry};
use ci::plan::value::Time;
use ci::run::Repeat;
use ci::select::Partition;
use ci::stop::Stop;
use ci::verdict::exit;
use ci::{HarnessError, Options};
use clap::Args;

use crate::args::EngineArg;
use crate::output;

mod listing;

/// Arguments of `bindervm test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The test plan (TOML).
    #[arg(required_unless_present = "schema")]
    plan: Option<PathBuf>,
    /// Take the settings of [profile.NAME] of the plan.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// List the tests that would run, and run none.
    #[arg(long, group = "only")]
    list: bool,
    /// Print the plan with everything filled in, as JSON, and run nothing.
    #[arg(long, group = "only")]
    dry_run: bool,
    /// Print the JSON schema of plans.
    #[arg(long, group = "only")]
    schema: bool,
    /// Only tests that this takes: a name glob (`binder*`, `lib::BinderLibTest.Nop*`) or an expression
    /// (`tag==smoke && guest!=old`). Several: tests that any of them takes.
    #[arg(long, short = 'f', value_name = "FILTER")]
    filter: Vec<String>,
    /// Only tests with this tag. Several: with any of them.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only a share of the tests: count:2/8 deals them in turn, hash:2/8 by the hash of the name.
    #[arg(long, value_name = "count|hash:I/N")]
    partition: Option<Partition>,
    /// Run each test so often, or until one does not pass.
    #[arg(long, value_name = "N|until-failure", default_value = "1")]
    repeat: Repeat,
    /// How many tests run at once.
    #[arg(long, short = 'j', value_name = "N")]
    jobs: Option<u32>,
    /// How often a test that did not pass is tried again.
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Start no further test once one has failed.
    #[arg(long)]
    fail_fast: bool,
    /// End with 9 when tests passed only after they were tried again.
    #[arg(long)]
    fail_flaky: bool,
    /// The folder of the results.
    #[arg(long, value_name = "FOLDER")]
    results: Option<String>,
    /// Write JUnit to this file, too.
    #[arg(long, value_name = "FILE")]
    junit: Option<String>,
    /// What executes the guests.
    #[arg(long, value_enum)]
    engine: Option<EngineArg>,
    /// Added to the seed of every guest; the K-th repetition adds K-1 more.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long a guest may take to come up.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    boot_timeout: Option<Time>,
    /// How long a test may take that says nothing else.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    test_timeout: Option<Time>,
    /// How long the whole run may take.
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    run_timeout: Option<Time>,
    /// Multiply every timeout with this.
    #[arg(long, value_name = "FACTOR")]
    timeout_scale: Option<f64>,
    /// End with the exit code of the one test's program.
    #[arg(long)]
    exit_code_from_guest: bool,
}

/// Does what the arguments say, and gives the exit code.
pub fn run(args: &TestArgs) -> u8 {
    match execute(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bindervm: {error}");
            error.exit_code()
        }
    }
}

fn execute(args: &TestArgs) -> Result<u8, HarnessError> {
    if args.schema {
        return printed(|out| out.write_all(ci::plan::schema().as_bytes()));
    }
    let options = options(args)?;
    if args.list {
        let prepared = ci::prepare(&options)?;
        return printed(|out| listing::list(&prepared, out));
    }
    if args.dry_run {
        let prepared = ci::prepare(&options)?;
        return printed(|out| listing::resolved(prepared, out));
    }
    let stop = Stop::on_signals()
        .map_err(|source| HarnessError::Machine { what: "cannot handle signals".to_owned(), source })?;
    ci::execute(&options, &stop)
}

fn options(args: &TestArgs) -> Result<Options, HarnessError> {
    let bindervm = std::env::current_exe()
        .map_err(|source| HarnessError::Machine { what: "cannot find this program".to_owned(), source })?;
    Ok(Options {
        plan: args.plan.clone().unwrap_or_default(),
        profile: args.profile.clone(),
        over: RunEntry {
            jobs: args.jobs,
            results: args.results.clone(),
            junit: args.junit.clone(),
            boot_timeout: args.boot_timeout,
            test_timeout: args.test_timeout,
            run_timeout: args.run_timeout,
            timeout_scale: args.timeout_scale,
            retries: args.retries,
            fail_fast: args.fail_fast.then_some(true),
            fail_flaky: args.fail_flaky.then_some(true),
            engine: args.engine.map(|engine| match engine {
                EngineArg::Auto => Engine::Auto,
                EngineArg::Kvm => Engine::Kvm,
                EngineArg::Soft => Engine::Soft,
            }),
            seed: args.seed,
            filter: None,
        },
        filters: args.filter.clone(),
        tags: args.tag.clone(),
        partition: args.partition,
        repeat: args.repeat,
        exit_code_from_guest: args.exit_code_from_guest,
        bindervm,
    })
}

fn printed(print: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> Result<u8, HarnessError> {
    Ok(match output::print(print) {
        Ok(()) => exit::OK,
        Err(failure) => {
            eprintln!("bindervm: {}", failure.chain());
            exit::INFRASTRUCTURE
        }
    })
}
