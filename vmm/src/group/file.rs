//! The file of a group: which guests, with the options of `bindervm run` as keys.
//!
//! ```toml
//! [guest.server]
//! image = "aosp14"
//! domain = "shop"                 # guests of one domain share a binder world
//! serve = true
//!
//! [guest.client]
//! image = "aosp14"
//! domain = "shop"
//! memory = "256M"
//! command = ["service", "list"]
//!
//! [domain.shop]                   # only where there is something to say of it
//! trace = "shop.bvtrace"
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use binder::GuestId;
use ci::plan::error::Text;
use clap::error::{ContextKind, ContextValue};
use clap::{FromArgMatches, Parser};
use images::did_you_mean;
use serde::Deserialize;
use toml::{Spanned, Value};

use crate::args::{BinderArg, ClockArg, RunArgs, TraceTarget, parse_name, parse_trace_target};
use crate::exit::{Code, Failure};
use crate::run::world::DomainSpec;

/// A file of 64 guests with all their options is a tenth of this.
const LIMIT: u64 = 1 << 20;

/// Guests of a group at most: each has memory and threads of its own.
const MAX_GUESTS: usize = 64;

/// Options of `run` that have no meaning for one guest of a process.
const NOT_HERE: [&str; 7] =
    ["name", "detach", "detached", "die-with", "sandbox", "record-input", "replay-input"];

/// Keys that are no options of `run`.
const OF_GROUP: [&str; 3] = ["image", "command", "domain"];

/// What a file says, judged.
pub struct Group {
    /// By name.
    pub members: Vec<Member>,
    /// The domains that guests share.
    pub domains: BTreeMap<String, DomainSpec>,
}

/// One guest.
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its options.
    pub args: RunArgs,
    /// The domain that it shares.
    pub domain: Option<String>,
}

impl Group {
    /// The guests of a domain, with their ids in it.
    pub fn of_domain(&self, name: &str) -> impl Iterator<Item = (GuestId, &Member)> {
        let ids = (0..).map(GuestId);
        ids.zip(&self.members).filter(move |(_, member)| member.domain.as_deref() == Some(name))
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guest: BTreeMap<String, BTreeMap<Spanned<String>, Value>>,
    #[serde(default)]
    domain: BTreeMap<String, DomainEntry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainEntry {
    /// Records all guests of the domain, as `--trace` does one.
    trace: Option<String>,
    /// Injects faults into it, as `--faults` does into a guest's own world.
    faults: Option<PathBuf>,
}

/// The options of one guest, as clap reads them.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Options {
    #[command(flatten)]
    run: RunArgs,
}

/// Reads and judges a file.
pub fn read(path: &Path) -> Result<Group, Failure> {
    let unreadable = |error| Failure::because(Code::Usage, format!("cannot read {}", path.display()), error);
    let mut text = String::new();
    fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text)).map_err(unreadable)?;
    parse(path, &text).map_err(|problem| Failure::new(Code::Usage, problem))
}

/// Judges a text. What is wrong is told with its place.
fn parse(path: &Path, text: &str) -> Result<Group, String> {
    let text = Text { path, text };
    let file = toml::from_str(text.text).map_err(|error| text.malformed(&error).to_string())?;
    group(file).map_err(|Problem { at, what, hint }| text.wrong(at, &what, hint).to_string())
}

/// What is wrong, and where if it has a place.
struct Problem {
    at: Option<Range<usize>>,
    what: String,
    hint: Option<String>,
}

impl From<String> for Problem {
    fn from(what: String) -> Problem {
        Problem { at: None, what, hint: None }
    }
}

fn group(File { guest, domain }: File) -> Result<Group, Problem> {
    if guest.is_empty() || guest.len() > MAX_GUESTS {
        return Err(
            format!("a group has 1 to {MAX_GUESTS} guests: write a [guest.NAME] table for each").into()
        );
    }
    let of =
        |name: &str, problem: Problem| Problem { what: format!("guest {name}: {}", problem.what), ..problem };
    let members: Result<Vec<Member>, Problem> = guest
        .into_iter()
        .map(|(name, keys)| member(&name, keys).map_err(|problem| of(&name, problem)))
        .collect();
    let members = members?;
    let mut domains: BTreeMap<String, DomainSpec> = BTreeMap::new();
    for (name, entry) in domain {
        let trace = entry.trace.as_deref().map(parse_trace_target).transpose();
        let trace = trace.map_err(|problem| format!("domain {name}: trace: {problem}"))?;
        domains.insert(name, DomainSpec { trace, faults: entry.faults });
    }
    for name in members.iter().filter_map(|member| member.domain.as_ref()) {
        domains.entry(name.clone()).or_default();
    }
    let group = Group { members, domains };
    match group.domains.keys().find(|name| group.of_domain(name).count() < 2) {
        Some(name) => {
            Err(format!("domain {name} is shared by nobody: give two guests `domain = \"{name}\"`").into())
        }
        None => Ok(group),
    }
}

/// One guest from its table.
fn member(name: &str, mut keys: BTreeMap<Spanned<String>, Value>) -> Result<Member, Problem> {
    parse_name(name)?;
    let places: BTreeMap<String, Range<usize>> =
        keys.keys().map(|key| (key.as_ref().clone(), key.span())).collect();
    let at = |key: &str, what: String| Problem { at: places.get(key).cloned(), what, hint: None };
    let options = <Options as clap::CommandFactory>::command();
    let known = || options.get_arguments().filter_map(clap::Arg::get_long).chain(OF_GROUP);
    if let Some(key) = places.keys().find(|key| !known().any(|known| known == *key)) {
        let known = known().filter(|known| !NOT_HERE.contains(known));
        return Err(Problem { hint: did_you_mean(key, known), ..at(key, format!("unknown key `{key}`")) });
    }
    let domain = match keys.remove("domain") {
        None => None,
        Some(Value::String(domain)) => Some(domain),
        Some(_) => return Err(at("domain", "`domain` is a name".to_owned())),
    };
    if let Some(key) = places.keys().find(|key| NOT_HERE.contains(&key.as_str())) {
        return Err(at(key, format!("`{key}` cannot be set for a guest of a group")));
    }
    let words = |key: &str, value| words(key, value).map_err(|what| at(key, what));
    let word = |key: &str, value| word(key, value).map_err(|what| at(key, what));
    let command = keys.remove("command").map(|value| words("command", value)).transpose()?;
    let image = keys.remove("image").map(|value| word("image", value)).transpose()?;
    let mut line: Vec<String> = image.into_iter().collect();
    line.push(format!("--name={name}"));
    for (key, value) in keys {
        let key = key.into_inner();
        match value {
            Value::Boolean(true) => line.push(format!("--{key}")),
            Value::Boolean(false) => {}
            Value::Array(_) => line.extend(words(&key, value)?.iter().map(|word| format!("--{key}={word}"))),
            value => line.push(format!("--{key}={}", word(&key, value)?)),
        }
    }
    if let Some(command) = command {
        line.push("--".to_owned());
        line.extend(command);
    }
    let matches = options
        .clone()
        .try_get_matches_from(line)
        .and_then(|mut matches| Options::from_arg_matches_mut(&mut matches));
    let mut args = matches.map_err(|error| at(&key_of(&error), first_line(&error)))?.run;
    if domain.is_some() {
        fits_a_domain(&args)?;
        // A binderfs is its guest's own; what guests share are the devices in /dev, by name.
        let append = args.append.get_or_insert_default();
        append.push_str(" bindervm.binderfs=off");
    }
    Ok(Member { name: name.to_owned(), args, domain })
}

/// What a guest cannot have that shares its binder world.
fn fits_a_domain(args: &RunArgs) -> Result<(), String> {
    let wrong = match args {
        RunArgs { from: Some(_), .. } => {
            "`from`: one guest of a domain cannot be restored without the others"
        }
        RunArgs { snapshot_to: Some(_), .. } => "`snapshot-to`: one guest of a domain cannot be saved",
        RunArgs { fast: true, .. } => "`fast`: one guest of a domain cannot be restored without the others",
        RunArgs { binder: BinderArg::Kernel, .. } => {
            "`binder`: a guest with its own kernel's driver shares none"
        }
        RunArgs { clock: Some(ClockArg::Virtual), .. } => {
            "`clock`: guests of a domain follow the host's clock"
        }
        RunArgs { trace: Some(TraceTarget { replay: true, .. }), .. } => {
            "`trace`: only all of a domain can be replayed; write it to `trace` of [domain.NAME]"
        }
        _ => return Ok(()),
    };
    Err(wrong.to_owned())
}

/// A value as one word of a command line.
fn word(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(word) => Ok(word),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err(format!("`{key}` is text or a number")),
    }
}

/// A value as words.
fn words(key: &str, value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) => values.into_iter().map(|value| word(key, value)).collect(),
        _ => Err(format!("`{key}` is a list")),
    }
}

/// The key whose value clap does not like, if it says which: of `--memory <SIZE>` what is between.
fn key_of(error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => {
            arg.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    }
}

/// What clap has to say, without its advice on command lines.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    lines.fold(first, |text, line| format!("{text} {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("g.toml"), text).err().unwrap_or_else(|| panic!("{text} is taken"))
    }

    #[test]
    fn a_guest_is_what_run_makes_of_the_same_options() {
        let text = r#"
            [guest.b]
            image = "minimal"
            memory = "256M"
            seed = 7
            console = true
            summary = false
            disk = ["a.img,ro", "b.img"]
            command = ["sh", "-c", "exit 3"]
            [guest.a]
            kernel = "bzImage"
            control = "/run/a.sock"
        "#;
        let Group { members, domains } =
            parse(Path::new("g.toml"), text).unwrap_or_else(|problem| panic!("{problem}"));
        let [a, b] = members.as_slice() else { panic!("two guests") };
        assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
        assert!(a.args.image.is_none() && a.args.control.is_some());
        assert_eq!(a.args.name.as_deref(), Some("a"));
        assert_eq!((b.args.memory.0, b.args.seed, b.args.disk.len()), (256 << 20, 7, 2));
        assert_eq!((b.args.console, b.args.summary), (true, false));
        assert_eq!(b.args.command, ["sh", "-c", "exit 3"]);
        assert_eq!(b.args.name.as_deref(), Some("b"));
        assert!(domains.is_empty());
    }

    #[test]
    fn guests_of_a_domain_have_ids_by_their_names() {
        let text = r#"
            [guest]
            c = { image = "i", domain = "x" }
            b = { image = "i" }
            a = { image = "i", domain = "x" }
            [domain.x]
            trace = "x.bvtrace,payload=4K"
        "#;
        let group = parse(Path::new("g.toml"), text).unwrap_or_else(|problem| panic!("{problem}"));
        let ids: Vec<_> = group.of_domain("x").map(|(id, member)| (id.0, member.name.as_str())).collect();
        assert_eq!(ids, [(0, "a"), (2, "c")]);
        assert_eq!(group.domains["x"].trace.as_ref().map(|target| target.payload), Some(4096));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, problem) in [
            ("", "a [guest.NAME] table for each"),
            ("guests = 3", "g.toml:1:1: unknown field `guests`; did you mean `guest`?"),
            (
                "[guest.a]\nimage = \"i\"\nbinder-profle = \"aosp\"",
                ":3:1: guest a: unknown key `binder-profle`; did you",
            ),
            (
                "[guest.a]\nimage = \"i\"\nmemroy = \"1G\"",
                "g.toml:3:1: guest a: unknown key `memroy`; did you mean `memory`?",
            ),
            (
                "[guest.a]\nimage = \"i\"\nmemory = \"1X\"",
                "g.toml:3:1: guest a: invalid value '1X' for '--memory <MEMORY>': 'X' is not a unit",
            ),
            ("[guest.a]\nmemory = \"1G\"", "guest a: the following required arguments were not provided"),
            ("[guest.a]\nimage = \"i\"\nname = \"b\"", "`name` cannot be set"),
            ("[guest.\"../a\"]\nimage = \"i\"", "a name has 1 to 64"),
            ("[guest.a]\nimage = \"i\"\ncommand = \"ls\"", "g.toml:3:1: guest a: `command` is a list"),
            ("[guest.a]\nimage = \"i\"\nseed = 1.5", "`seed` is text or a number"),
            ("[guest.a]\nimage = \"i\"\ndomain = \"d\"", "domain d is shared by nobody"),
            ("[domain.d]\n[guest.a]\nimage = \"i\"", "domain d is shared by nobody"),
            ("[guest.a]\nimage = \"i\"\ndomain = \"d\"\nfast = true", "`fast`: one guest of a domain"),
            ("[guest.a]\nimage = \"i\"\ndomain = \"d\"\ntrace = \"t,replay\"", "only all of a domain"),
            ("[domain.d]\ntrace = \",replay\"\n[guest.a]\nimage = \"i\"", "domain d: trace: a file name"),
        ] {
            let told = refused(text);
            assert!(told.contains(problem), "{text}: {told}");
        }
        let many: String = (0..65).map(|index| format!("[guest.g{index}]\nimage = \"i\"\n")).collect();
        assert!(refused(&many).contains("1 to 64 guests"));
    }
}
