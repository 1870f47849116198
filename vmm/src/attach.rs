//! `bindervm exec`, `shell` and `console`: this terminal joined to a running guest.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agent_protocol::{ExecRequest, WindowSize};
use control::wire::Stream;
use control::{ClientError, Event, Input, Running};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::args::{ConsoleArgs, ExecArgs, ShellArgs};
use crate::exit::{Code, Failure};
use crate::guests::{self, connect, failed};
use crate::output;
use crate::terminal::{self, RawMode};

/// Ctrl-], as telnet has it.
const DETACH: u8 = 0x1d;

/// Runs a command in a guest; gives the exit status of this process.
pub fn exec(args: &ExecArgs) -> Result<u8, Failure> {
    let request = ExecRequest {
        argv: args.command.clone(),
        env: args.env.clone(),
        cwd: args.cwd.clone(),
        tty: args.tty.then(size),
        stdin: !args.no_stdin,
    };
    run(&args.guest.guest, request, args.timeout)
}

/// An interactive shell.
pub fn shell(args: &ShellArgs) -> Result<u8, Failure> {
    let request = ExecRequest {
        argv: vec!["/bin/sh".to_owned()],
        tty: terminal::is_interactive().then(size),
        stdin: true,
        ..ExecRequest::default()
    };
    run(&args.guest.guest, request, None)
}

fn run(guest: &str, mut request: ExecRequest, limit: Option<Duration>) -> Result<u8, Failure> {
    let began = SystemTime::now();
    let client = connect(guest)?;
    let program = request.argv.first().cloned().unwrap_or_default();
    if let (Some(_), Ok(term)) = (&request.tty, std::env::var("TERM"))
        && !request.env.iter().any(|(name, _)| name == "TERM")
    {
        request.env.push(("TERM".to_owned(), term));
    }
    let (tty, stdin) = (request.tty.is_some(), request.stdin);
    let running = client.exec(request).map_err(|error| failed("cannot run the command", error))?;
    forward_signals(running.input(), tty).map_err(thread_failure)?;
    let _raw = match tty && terminal::is_interactive() {
        true => Some(raw_mode()?),
        false => None,
    };
    if stdin {
        let input = running.input();
        pump(input, None).map_err(thread_failure)?;
    }
    let ended = show(running, &program, limit);
    if ended.as_ref().is_err_and(|failure| failure.code == Code::GuestLost)
        && let Some(log) = guests::log_since(guest, began)
    {
        eprintln!("bindervm: what its process said last is in {}", log.display());
    }
    ended
}

/// Writes what the command prints, until it ends.
fn show(mut running: Running, program: &str, limit: Option<Duration>) -> Result<u8, Failure> {
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match running.next(left) {
            Ok(Event::Output(Stream::Stderr, bytes)) => written(io::stderr().write_all(&bytes))?,
            Ok(Event::Output(_, bytes)) => {
                let mut out = io::stdout();
                written(out.write_all(&bytes).and_then(|()| out.flush()))?;
            }
            Ok(Event::Exited(status)) => return Ok(status.shell_code()),
            Ok(Event::NotStarted(failure)) => {
                // As a shell has it: 127 where there is no such program, 126 where it cannot run.
                terminal::restore();
                eprintln!("bindervm: the guest cannot run {program}: {}", failure.text);
                return Ok(if failure.errno == 2 { 127 } else { 126 });
            }
            Ok(Event::Done) => return Ok(0),
            Ok(Event::Started(_) | Event::Dropped(_)) => {}
            Err(ClientError::TimedOut(_)) => {
                return Err(Failure::new(Code::Timeout, "the time of --timeout passed"));
            }
            Err(error) => return Err(failed("the command's end is not known", error)),
        }
    }
}

/// A reader that went away, such as `head`, ends the command quietly: it is hung up.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::because(Code::Internal, "cannot write the command's output", error)),
        Ok(()) => Ok(()),
    }
}

/// Attaches to the serial console, until the guest goes or the key is pressed.
pub fn console(args: &ConsoleArgs) -> Result<(), Failure> {
    let client = connect(&args.guest.guest)?;
    let running = client.console().map_err(|error| failed("cannot attach to the console", error))?;
    let interactive = terminal::is_interactive();
    if interactive {
        eprintln!("bindervm: the console of {}; Ctrl-] detaches", client.greeting().guest);
    }
    let raw = if interactive { Some(raw_mode()?) } else { None };
    output::end_with_reader()?;
    pump(running.input(), Some(DETACH)).map_err(thread_failure)?;
    let ended = show(running, "", None);
    drop(raw);
    match ended {
        // The last that a console shows is that its guest goes.
        Err(failure) if failure.code == Code::GuestLost => {
            eprintln!("bindervm: {} has gone", args.guest.guest);
            Ok(())
        }
        Err(failure) => Err(failure),
        Ok(_) => Ok(()),
    }
}

/// Sends stdin, from a thread of its own that nobody joins: it may sit in a read that never ends. A
/// console, which has a key to `detach`, does not end with its stdin.
fn pump(mut input: Input, detach: Option<u8>) -> io::Result<()> {
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = match io::stdin().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(length) if length > 0 => length,
                _ => break,
            };
            let typed = &buffer[..length];
            let key = detach.and_then(|key| typed.iter().position(|byte| *byte == key));
            if input.write_all(&typed[..key.unwrap_or(length)]).is_err() {
                return;
            }
            if key.is_some() {
                let _ = input.cancel();
                return;
            }
        }
        if detach.is_none() {
            let _ = input.close();
        }
    })?;
    Ok(())
}

/// Passes signals on to the command, and the size of the terminal.
fn forward_signals(input: Input, tty: bool) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = 0;
        for signal in signals.forever() {
            match signal {
                SIGWINCH if tty => drop(input.resize(size())),
                SIGWINCH => {}
                // Whoever repeats himself has a command that does not listen.
                _ if asked == 2 => {
                    terminal::restore();
                    std::process::exit(128 + signal);
                }
                signal => {
                    asked += 1;
                    let _ = input.signal(signal as u32);
                }
            }
        }
    })?;
    Ok(())
}

fn size() -> WindowSize {
    terminal::size()
        .map_or(WindowSize { rows: 24, cols: 80 }, |size| WindowSize { rows: size.ws_row, cols: size.ws_col })
}

fn raw_mode() -> Result<RawMode, Failure> {
    RawMode::enter().map_err(|error| Failure::because(Code::Internal, "cannot set up the terminal", error))
}

fn thread_failure(error: io::Error) -> Failure {
    Failure::because(Code::Internal, "cannot start a thread", error)
}
