//! A raw-ioctl binder client that shows, line by line, what a binder driver does.
//!
//! `conformance run` plays *cases*: short scripts in which processes and threads make binder calls in a fixed order,
//! each hand-off explicit ([`world`]). Every call becomes one normalised line ([`transcript`]). The same binary runs
//! on the in-kernel driver, which is the oracle, and on the host's driver; equal transcripts mean equal behaviour.
//! The other modes serve the tests of the trace (`count`), of robustness (`stress`, `soak`) and of speed (`bench`).

mod actor;
mod bench;
mod canary;
mod carry;
mod cases;
mod cast;
mod channel;
mod child;
mod count;
mod device;
mod object;
mod race;
mod random;
mod soak;
mod stream;
mod stress;
mod talk;
mod transcript;
mod uapi;
mod world;
mod write_read;

use std::process::ExitCode;

const USAGE: &str = "\
usage: conformance list                           the cases and what each covers of BINDER.md
       conformance run [CASE...]                  play cases (all by default), transcript on stdout
       conformance run binderfs                   play those that need binderfs, which the default leaves out
       conformance run race                       play those that need io_uring, cgroups, huge pages, /dev/mem
       conformance run attempt                    play those about attempt-acquire, which the module must be loaded with
       conformance selinux                        load the policy of the image `selinux`, play the cases about it
       conformance count                          a fixed workload; the commands each process wrote and read
       conformance canary TOKEN                   calls that carry TOKEN, a batch for each line on stdin
       conformance carry serve|send CALLS MARK CODE:SIZE:TOKEN...
                                                  calls whose bytes are in the pages that are named, and nowhere else
       conformance stress SECONDS|ITERATIONSx [reclaim]
                                                  many threads at once, self-checking: `10` or `500x`; with
                                                  `reclaim` while the kernel takes idle pages back
       conformance race wakes|waiter|lend|pressure|age|unbind|failure|talk
                                                  many sleepers, few events; a preempted sender; real time that is lent; idle pages go back;
                                                  the device goes, and comes back
       conformance soak TRANSACTIONS [SEED]       with kills, signals, freezes, files and want of space (seed 1)
       conformance bench ITERATIONS [SIZE]        round trips with SIZE bytes each way (4 by default)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["list"] => {
            cases::list();
            Ok(())
        }
        ["run", ref names @ ..] => cases::run(names),
        ["canary", token] => canary::run(token),
        ["carry", "serve", calls, mark, ref replies @ ..] => {
            carry::run(carry::Part::Serve, calls, mark, replies)
        }
        ["carry", "send", rounds, mark, ref messages @ ..] => {
            carry::run(carry::Part::Send, rounds, mark, messages)
        }
        ["selinux"] => cases::run_selinux(),
        ["count"] => count::run(),
        ["stress", limit] => stress::run(limit, false),
        ["stress", limit, "reclaim"] => stress::run(limit, true),
        ["race", "wakes"] => race::wakes(60, 20),
        ["race", "waiter"] => race::waiter(1000),
        ["race", "unbind"] => race::lost(race::Loss::Unbind),
        ["race", "failure"] => race::lost(race::Loss::Failure),
        ["race", "pressure"] => race::memory(true),
        ["race", "age"] => race::memory(false),
        ["race", "lend"] => race::lend(300),
        ["race", "talk"] => race::talk(),
        ["soak", transactions] => soak::run(transactions, "1"),
        ["soak", transactions, seed] => soak::run(transactions, seed),
        ["bench", iterations] => bench::run(iterations, "4"),
        ["bench", iterations, size] => bench::run(iterations, size),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: {error}");
            ExitCode::FAILURE
        }
    }
}
