//! `bindervm ps`, `stop` and `wait`: the guests that run, from outside.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use control::wire::{ErrorCode, Status};
use control::{Client, ClientError, place};

use crate::args::{EventsArgs, PsArgs, StopArgs, WaitArgs};
use crate::exit::{Code, Failure};
use crate::output;

/// Connects to a guest, by its name or the path of its socket.
pub fn connect(guest: &str) -> Result<Client, Failure> {
    let connected = match guest.contains('/') {
        true => Client::connect_path(Path::new(guest)),
        false => Client::connect(guest),
    };
    connected.map_err(|error| match error {
        ClientError::NoGuest(_) if !guest.contains('/') => {
            Failure::new(Code::Usage, format!("no guest {guest} runs; `bindervm ps` lists those that do"))
        }
        error => failed("cannot reach the guest", error),
    })
}

/// What an error of the connection means for the exit status.
pub fn failed(what: &str, error: ClientError) -> Failure {
    let code = match &error {
        ClientError::NoGuest(_) | ClientError::Place(_) => Code::Usage,
        ClientError::Refused { code: ErrorCode::BadRequest, .. } => Code::Usage,
        ClientError::TimedOut(_) => Code::Timeout,
        error if error.is_gone() => Code::GuestLost,
        _ => Code::Internal,
    };
    Failure::because(code, what.to_owned(), error)
}

/// The log of a guest that runs in the background, if its process wrote to it since `began`.
pub fn log_since(guest: &str, began: SystemTime) -> Option<PathBuf> {
    let socket = if guest.contains('/') { PathBuf::from(guest) } else { place::socket(guest).ok()? };
    let log = socket.with_extension("log");
    let written = log.metadata().ok()?.modified().ok()?;
    (written >= began).then_some(log)
}

/// Lists the guests that run. Sockets of guests that died are removed on the way.
pub fn ps(args: &PsArgs) -> Result<(), Failure> {
    let mut running = Vec::new();
    for name in names()? {
        match Client::connect(&name).and_then(|client| client.status()) {
            Ok(status) => running.push(status),
            Err(ClientError::NoGuest(path)) => place::remove_dead(&path),
            Err(error) => eprintln!("bindervm: {name}: {error}"),
        }
    }
    output::print(|out| match (args.json, args.names) {
        (true, _) => {
            serde_json::to_writer_pretty(&mut *out, &running)?;
            writeln!(out)
        }
        (false, true) => running.iter().try_for_each(|status| writeln!(out, "{}", status.guest)),
        (false, false) => table(&running, out),
    })
}

fn table(running: &[Status], out: &mut dyn Write) -> io::Result<()> {
    let width = running.iter().map(|status| status.guest.len()).max().unwrap_or(0).max("NAME".len());
    writeln!(
        out,
        "{:width$}  {:>7}  {:12}  {:6}  {:>8}  {:>4}  STATE",
        "NAME", "PID", "IMAGE", "ENGINE", "UPTIME", "CMDS"
    )?;
    for status in running {
        writeln!(
            out,
            "{:width$}  {:>7}  {:12}  {:6}  {:>8}  {:>4}  {}",
            status.guest,
            status.pid,
            status.image.as_deref().unwrap_or("-"),
            status.engine,
            short(Duration::from_millis(status.uptime_ms)),
            status.commands,
            status.state
        )?;
    }
    Ok(())
}

/// A time in its two largest units.
fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Switches guests off and waits until they are. All are asked before any is waited for.
pub fn stop(args: &StopArgs) -> Result<(), Failure> {
    let guests = if args.all { names()? } else { args.guests.clone() };
    let mut asked = Vec::new();
    let mut first_failure = None;
    for guest in guests {
        let client = match connect(&guest) {
            Ok(client) => client,
            // A dead socket in the folder.
            Err(_) if args.all => continue,
            Err(failure) => {
                eprintln!("bindervm: {}", failure.chain());
                first_failure.get_or_insert(failure);
                continue;
            }
        };
        let done = if args.kill { client.kill() } else { client.stop(args.grace) };
        match done {
            Ok(()) => asked.push((guest, client)),
            // It was about to end.
            Err(error) if error.is_gone() => {}
            Err(error) => {
                first_failure.get_or_insert(failed(&format!("cannot stop {guest}"), error));
            }
        }
    }
    // The guest's process ends it after the grace; a while more is for that process to end.
    let until = Instant::now() + args.grace + Duration::from_secs(20);
    for (guest, client) in asked {
        match client.wait(Some(until.saturating_duration_since(Instant::now()))) {
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => {
                first_failure.get_or_insert(failed(&format!("{guest} does not end"), error));
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Waits for the end of a run and exits as it did; or until its guest takes commands.
pub fn wait(args: &WaitArgs) -> Result<u8, Failure> {
    let client = connect(&args.guest.guest)?;
    if args.ready {
        let limit = args.timeout.unwrap_or(Duration::MAX);
        let ready = client.wait_ready(limit);
        return ready.map(|()| 0).map_err(|error| failed("the guest is not ready", error));
    }
    match client.wait(args.timeout) {
        Ok((_, exit_code)) => Ok(exit_code),
        Err(error) => Err(failed("the end of the run is not known", error)),
    }
}

/// Prints the events of a guest's run.
pub fn events(args: &EventsArgs) -> Result<(), Failure> {
    let client = connect(&args.guest.guest)?;
    output::end_with_reader()?;
    let following = client.events(args.follow).map_err(|error| failed("cannot read the events", error))?;
    let dropped = following.dropped();
    // A line at a time: who reads them waits for each.
    let mut lines = BufReader::new(following);
    let mut line = Vec::new();
    let mut out = io::stdout().lock();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line);
        let read = read.map_err(|e| Failure::because(Code::GuestLost, "cannot read the events", e))?;
        if read == 0 {
            break;
        }
        if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
            return output::judge(Err(error));
        }
    }
    match dropped.count() {
        0 => Ok(()),
        lost => Err(Failure::new(Code::Internal, format!("{lost} events were lost: read them faster"))),
    }
}

fn names() -> Result<Vec<String>, Failure> {
    place::names().map_err(|error| Failure::because(Code::Usage, "cannot look for guests", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let short = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([short(7), short(61), short(3700), short(90_000)], ["7s", "1m01s", "1h01m", "1d01h"]);
    }
}
