//! The `bindervm` command: reads its arguments, does what they say, and tells how it ended.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};
use crate::exit::{Code, Failure};

mod args;
mod attach;
mod bench;
mod copy;
mod doctor;
mod exit;
mod group;
mod guests;
mod image;
mod last;
mod manual;
mod output;
mod progress;
mod run;
mod serve;
mod snapshot;
mod terminal;
mod test;
mod trace;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; everything else is a wrong command line.
            let error = args::with_advice(error);
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                // The harness has exit codes of its own.
                _ if std::env::args_os().nth(1).is_some_and(|command| command == "test") => {
                    ExitCode::from(ci::verdict::exit::USAGE)
                }
                _ => ExitCode::from(Code::Usage as u8),
            };
        }
    };
    let ended = match &cli.command {
        Command::Run(args) => return ExitCode::from(run::run(args)),
        Command::Group(args) => return exit(group::run(args)),
        Command::Test(args) => return ExitCode::from(test::run(args)),
        Command::Ps(args) => guests::ps(args),
        Command::Exec(args) => return exit(attach::exec(args)),
        Command::Shell(args) => return exit(attach::shell(args)),
        Command::Push(args) => copy::push(args),
        Command::Pull(args) => copy::pull(args),
        Command::Events(args) => guests::events(args),
        Command::Console(args) => attach::console(args),
        Command::Stop(args) => guests::stop(args),
        Command::Wait(args) => return exit(guests::wait(args)),
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { folder } => manual::pages(folder),
        Command::Image(command) => image::run(command),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) if args.last_run => last::show(),
        Command::Doctor(_) => doctor::run(),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Trace(args) => trace::run(args),
    };
    exit(ended.map(|()| 0))
}

/// The exit status of the process, and the message that goes with a failure.
fn exit(ended: Result<u8, Failure>) -> ExitCode {
    ExitCode::from(ended.unwrap_or_else(|failure| {
        terminal::restore();
        eprintln!("bindervm: {}", failure.chain());
        failure.code as u8
    }))
}
