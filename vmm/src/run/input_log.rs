//! `--record-input` and `--replay-input`: a run with live input that can be run again.
//!
//! A guest with the virtual clock is the same every time but for what reaches it from outside. That is
//! written down, by the instruction, where all of it is known: the command's stdin, the signals that are
//! passed on, the sizes of its terminal, or the serial port. What cannot be known is refused.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use agent_protocol::{AgentLink, WindowSize};
use clap::ValueEnum;
use images::Digest;
use machine::{InputLogError, InputPort, InputReader, InputWriter, Inputs, Kind, Settings};
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::args::{BinderDeviceArg, ClockArg, RunArgs};
use crate::exit::{Code, Failure};
use crate::terminal;

/// Characters of a setting that are kept as they are; a longer one is kept as its hash.
const LONGEST: usize = 1000;

/// The setting that a replay takes over.
const TERMINAL: &str = "terminal";

/// What a run does about its input.
pub enum Logging {
    /// Nothing.
    Off,
    /// It is written down.
    Record,
    /// It comes from here.
    Replay(Box<InputReader>),
}

/// The terminal that the command runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Characters, if that is known.
    pub size: Option<WindowSize>,
    /// The host's TERM.
    pub kind: Option<String>,
}

impl Terminal {
    /// The one that this process has.
    pub fn own() -> Terminal {
        let size = terminal::size().map(|size| WindowSize { rows: size.ws_row, cols: size.ws_col });
        Terminal { size, kind: std::env::var("TERM").ok() }
    }
}

impl Logging {
    /// What the arguments ask for. What does not go together is refused.
    pub fn of(args: &RunArgs) -> Result<Logging, Failure> {
        let (option, path) = match (&args.record_input, &args.replay_input) {
            (Some(path), _) => ("--record-input", path),
            (None, Some(path)) => ("--replay-input", path),
            (None, None) => return Ok(Logging::Off),
        };
        if let Some(problem) = unknown_input(args) {
            return Err(Failure::new(Code::Usage, format!("{option} does not go with {problem}")));
        }
        if args.replay_input.is_none() {
            return Ok(Logging::Record);
        }
        InputReader::open(path)
            .map(|log| Logging::Replay(Box::new(log)))
            .map_err(|error| unusable(path, error))
    }

    /// Whether input is written down or comes from a log.
    pub fn is_on(&self) -> bool {
        !matches!(self, Logging::Off)
    }

    /// Whether nobody outside is listened to.
    pub fn is_replay(&self) -> bool {
        matches!(self, Logging::Replay(_))
    }

    /// The terminal of the command: `own`, or the one that it had when it was recorded.
    pub fn terminal(&self, own: Option<Terminal>) -> Option<Terminal> {
        match self {
            Logging::Replay(log) => {
                log.settings().get(TERMINAL).and_then(|terminal| serde_json::from_str(terminal).ok())
            }
            Logging::Off | Logging::Record => own,
        }
    }

    /// What the machine does about its input. A log is begun, or compared with what is to run.
    pub fn inputs(
        self,
        args: &RunArgs,
        source: &Source,
        engine: Kind,
        terminal: Option<&Terminal>,
    ) -> Result<Inputs, Failure> {
        if self.is_on() && engine != Kind::Soft {
            let message =
                "a guest on KVM never runs twice alike, so its input is not logged; use --engine soft";
            return Err(Failure::new(Code::Usage, message));
        }
        match self {
            Logging::Off => Ok(Inputs::Live),
            Logging::Record => {
                let settings = settings(args, source, terminal)?;
                let path = args.record_input.as_deref().unwrap_or(Path::new(""));
                let failed = |error| {
                    let message = format!("cannot record input to {}", path.display());
                    Failure::because(Code::Usage, message, error)
                };
                let file = File::create(path).map_err(|error| failed(InputLogError::Write(error)))?;
                InputWriter::new(file, &settings).map(Inputs::Record).map_err(failed)
            }
            Logging::Replay(log) => {
                let settings = settings(args, source, terminal)?;
                match difference(log.settings(), &settings) {
                    None => Ok(Inputs::Replay(*log)),
                    Some(difference) => {
                        let path = args.replay_input.as_deref().unwrap_or(Path::new(""));
                        let message = format!("{} is the input of another run: {difference}", path.display());
                        Err(Failure::new(Code::Usage, message))
                    }
                }
            }
        }
    }
}

/// The agent's channel as a way in.
pub struct AgentInput(AgentLink);

impl AgentInput {
    /// From now on `link` lets through what the machine's log knows of. The command was asked for already: it
    /// is no input.
    pub fn of(link: &AgentLink) -> AgentInput {
        link.take_asked();
        link.hold();
        AgentInput(link.clone())
    }
}

impl InputPort for AgentInput {
    fn take(&mut self) -> Vec<u8> {
        self.0.take_asked()
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.ask_again(bytes).map_err(|error| error.to_string())
    }
}

/// What the arguments have that brings input nobody writes down, and why.
fn unknown_input(args: &RunArgs) -> Option<&'static str> {
    Some(match args {
        RunArgs { clock: Some(ClockArg::Host), .. } => {
            "--clock host: a guest that sees the host's clock never runs twice alike"
        }
        RunArgs { name: Some(_), .. } | RunArgs { control: Some(_), .. } => {
            "a control socket (--name, --control): what its clients ask for is not written down"
        }
        RunArgs { vsock: Some(_), .. } => "--vsock: what comes through its sockets is not written down",
        RunArgs { gdb: Some(_), .. } => "--gdb: what a debugger does is not written down",
        RunArgs { faults: Some(_), .. } => {
            "--faults: when the guest's own kernel ends a process is the host's to choose"
        }
        RunArgs { binder_device: BinderDeviceArg::Late | BinderDeviceArg::TightLate, .. } => {
            "a binder device that answers late: when is the host's to choose"
        }
        RunArgs { share, .. } if !share.is_empty() => "--share: the host may change the folder at any time",
        RunArgs { disk, .. } if disk.iter().any(|disk| disk.leaves_traces()) => {
            "a --disk that keeps what the guest writes: it is another one the second time; add ,overlay=memory"
        }
        _ => return None,
    })
}

/// All that makes a guest the same one the second time, by name.
fn settings(args: &RunArgs, source: &Source, terminal: Option<&Terminal>) -> Result<Settings, Failure> {
    let unreadable = |error| Failure::because(Code::Image, "cannot read what the guest begins with", error);
    let (memory, cpus) = source.size(args);
    let mut settings = Settings::new();
    let mut put = |name: &str, text: String| {
        let text =
            if text.len() > LONGEST { format!("sha256 {}", Digest::of(text.as_bytes())) } else { text };
        settings.insert(name.to_owned(), text);
    };
    put("guest", source.identity().map_err(unreadable)?);
    put("memory", memory.to_string());
    put("cpus", cpus.to_string());
    put("seed", args.seed.to_string());
    put("append", args.append.clone().unwrap_or_default());
    put("binder", format!("{:?}", source.binder(args)).to_lowercase());
    put("binder-profile", value(&args.binder_profile));
    put("binder-device", value(&args.binder_device));
    put("lsm", args.lsm.as_ref().map(value).unwrap_or_default());
    put("command", args.command.join(" "));
    for (index, disk) in args.disk.iter().enumerate() {
        put(&format!("disk {index}"), disk_state(disk.path()).map_err(unreadable)?);
    }
    if let Some(terminal) = terminal {
        put(TERMINAL, serde_json::to_string(terminal).expect("plain data"));
    }
    Ok(settings)
}

/// A disk's file as it is now: hashing gigabytes would take longer than the run.
fn disk_state(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} bytes, changed {}.{:09}", metadata.len(), changed.as_secs(), changed.subsec_nanos()))
}

/// What is not as it was recorded, in words.
fn difference(recorded: &Settings, now: &Settings) -> Option<String> {
    let mut names: Vec<&String> = recorded.keys().chain(now.keys()).collect();
    names.sort();
    let name = names.into_iter().find(|name| recorded.get(*name) != now.get(*name))?;
    // One side is a file's: it shall not control the terminal.
    let told = |settings: &Settings| match settings.get(name) {
        Some(text) if !text.is_empty() => format!("'{}'", text.escape_default()),
        _ => "none".to_owned(),
    };
    Some(format!("its {} was {}, here it is {}", name.escape_default(), told(recorded), told(now)))
}

/// An option's value as it is written.
fn value(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn unusable(path: &Path, error: InputLogError) -> Failure {
    Failure::because(Code::Image, format!("cannot replay the input of {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn run(options: &[&str]) -> RunArgs {
        let line = ["bindervm", "run", "minimal", "--record-input", "x"].iter().chain(options);
        match Cli::try_parse_from(line).expect("options").command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn input_that_nobody_writes_down_is_refused() {
        for options in [
            &["--clock", "host"][..],
            &["--name", "g"],
            &["--control", "g.sock"],
            &["--vsock", "cid=3,path=x"],
            &["--gdb", "1234"],
            &["--faults", "f.toml"],
            &["--binder-device", "late"],
            &["--share", "a=/b"],
            &["--disk", "a.img"],
            &["--disk", "a.img,overlay=b.img"],
        ] {
            let failure = Logging::of(&run(options)).err().unwrap_or_else(|| panic!("{options:?} is taken"));
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.chain().starts_with("--record-input does not go with "), "{}", failure.chain());
        }
        for options in [&[][..], &["--disk", "a.img,ro", "--disk", "b.img,overlay=memory"], &["--seed", "3"]]
        {
            assert!(matches!(Logging::of(&run(options)), Ok(Logging::Record)), "{options:?}");
        }
    }

    #[test]
    fn what_is_not_as_it_was_is_named() {
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let recorded = settings(&[("guest", "a"), ("seed", "3\n")]);
        assert_eq!(difference(&recorded, &recorded), None);
        let told = difference(&recorded, &settings(&[("guest", "a"), ("seed", "4")]));
        assert_eq!(told.as_deref(), Some(r"its seed was '3\n', here it is '4'"));
        let told = difference(&recorded, &settings(&[("guest", "a"), ("seed", "3\n"), ("terminal", "{}")]));
        assert_eq!(told.as_deref(), Some("its terminal was none, here it is '{}'"));
    }
}
