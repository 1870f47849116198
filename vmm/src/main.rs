//! The `bindervm` command: reads its arguments, does what they say, and tells how it ended.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};
use crate::exit::Code;

mod args;
mod doctor;
mod exit;
mod image;
mod output;
mod progress;
mod run;
mod terminal;
mod test;
mod trace;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; everything else is a wrong command line.
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
        Command::Test(args) => return ExitCode::from(test::run(args)),
        Command::Image(command) => image::run(command),
        Command::Doctor => doctor::run(),
        Command::Trace(args) => trace::run(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bindervm: {}", failure.chain());
            ExitCode::from(failure.code as u8)
        }
    }
}
