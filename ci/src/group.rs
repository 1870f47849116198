//! The guests of a test in one process: `bindervm group FILE`, a file of the options that each would have had
//! in a process of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde::Serialize;
use toml::{Table, Value};

use crate::capture::Capture;
use crate::faults::FaultsEntry;
use crate::guest::{FAULTS, Guest, LOG, Launch, VMM_LOG, write_faults};
use crate::process::Process;

/// The file that says which guests, in the folder of their test.
pub const GROUP: &str = "group.toml";

/// The most bytes of a line that are looked at for whose it is.
const MAX_LINE: u64 = 64 << 10;

/// What guests are started from that share a process.
#[derive(Clone, Debug)]
pub struct GroupLaunch<'a> {
    /// The guests. Their names differ.
    pub guests: Vec<Launch<'a>>,
    /// The domains that some of them share: where each is recorded, if it is.
    pub domains: BTreeMap<&'a str, Option<PathBuf>>,
    /// What is injected into these.
    pub faults: Option<&'a FaultsEntry>,
    /// Where the process's files go.
    pub folder: PathBuf,
}

/// The file, as `bindervm group` reads it.
#[derive(Serialize)]
struct File {
    guest: BTreeMap<String, Table>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    domain: BTreeMap<String, Table>,
}

impl GroupLaunch<'_> {
    /// Starts the process. It ends when the calling thread does, at the latest, or with the last of the guests.
    pub fn start(&self) -> io::Result<Vec<Guest>> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(GROUP);
        let text = toml::to_string(&self.file()?).map_err(io::Error::other)?;
        fs::write(&path, text)?;
        if !self.domains.is_empty() {
            write_faults(self.faults, &self.folder)?;
        }
        for guest in &self.guests {
            guest.prepare()?;
        }
        let Some(first) = self.guests.first() else { return Ok(Vec::new()) };
        let mut command = Command::new(first.bindervm);
        command.arg("group").arg(path);
        let mut log = Log::create(&self.guests, &self.folder)?;
        let process = Arc::new(Process::start(command, move |stderr| log.take_all(stderr))?);
        // Guests are made one after the other, and each may have to wait for the snapshot that it goes on from.
        let snapshots = self.guests.iter().filter(|guest| guest.goes_on()).count() as u32;
        let guest = |guest: &Launch<'_>| {
            guest.in_process(process.clone(), false, guest.boot_timeout * (1 + snapshots))
        };
        Ok(self.guests.iter().map(guest).collect())
    }

    fn file(&self) -> io::Result<File> {
        let mut file = File { guest: BTreeMap::new(), domain: BTreeMap::new() };
        for guest in &self.guests {
            file.guest.insert(guest.name.clone(), member(guest)?);
        }
        for (name, trace) in &self.domains {
            let mut table = Table::new();
            if let Some(trace) = trace {
                table.insert("trace".to_owned(), text(trace.clone().into_os_string())?);
            }
            if self.faults.is_some() {
                table.insert("faults".to_owned(), text(self.folder.join(FAULTS).into_os_string())?);
            }
            file.domain.insert((*name).to_owned(), table);
        }
        Ok(file)
    }
}

/// A guest's table.
fn member(guest: &Launch<'_>) -> io::Result<Table> {
    let mut table = Table::new();
    table.insert("image".to_owned(), Value::String(guest.spec.image.clone()));
    if let Some(domain) = guest.domain {
        table.insert("domain".to_owned(), Value::String(domain.to_owned()));
    }
    for (key, value) in guest.options() {
        let value = value.map_or(Ok(Value::Boolean(true)), text)?;
        table.insert(key.to_owned(), value);
    }
    Ok(table)
}

fn text(value: OsString) -> io::Result<Value> {
    let wrong = |value| io::Error::other(format!("{value:?} is not UTF-8, as guests of one process need it"));
    value.into_string().map(Value::String).map_err(wrong)
}

/// What the process says, sorted by guest. What is of none is the process's.
struct Log {
    /// By what their lines begin with.
    guests: Vec<([String; 3], Capture)>,
    process: Capture,
}

impl Log {
    fn create(guests: &[Launch<'_>], folder: &Path) -> io::Result<Log> {
        let of = |guest: &Launch<'_>| {
            let name = &guest.name;
            let begins = [format!("bindervm: {name}: "), format!("  {name}: "), format!("{name}| ")];
            Ok((begins, Capture::create(&guest.folder.join(LOG), VMM_LOG)?))
        };
        let guests = guests.iter().map(of).collect::<io::Result<_>>()?;
        Ok(Log { guests, process: Capture::create(&folder.join(LOG), VMM_LOG)? })
    }

    fn take_all(&mut self, from: impl Read) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // What cannot be read is only missing in the log, as is what cannot be written.
        while let Ok(1..) = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            self.take(&line);
            line.clear();
        }
    }

    fn take(&mut self, line: &[u8]) {
        let is_of = |begins: &[String; 3]| begins.iter().any(|begin| line.starts_with(begin.as_bytes()));
        let guest = self.guests.iter_mut().find(|(begins, _)| is_of(begins));
        guest.map_or(&mut self.process, |(_, capture)| capture).take(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::file::RunEntry;
    use crate::plan::{Engine, GuestSpec, Plan};
    use std::time::Duration;

    fn spec(keys: &str) -> GuestSpec {
        let text = format!("[guest.x]\nimage = \"minimal\"\n{keys}\n");
        let plan = Plan::parse("p".as_ref(), &text, None, &RunEntry::default()).unwrap();
        plan.guests["x"].clone()
    }

    fn launch<'a>(name: &str, spec: &'a GuestSpec, folder: &Path, domain: Option<&'a str>) -> Launch<'a> {
        Launch {
            bindervm: Path::new("/bin/false"),
            name: name.to_owned(),
            spec,
            faults: None,
            seed: 7,
            engine: Engine::Soft,
            folder: folder.join(name),
            socket: folder.join(format!("{name}.sock")),
            boot_timeout: Duration::from_secs(9),
            domain,
        }
    }

    #[test]
    fn guests_have_the_options_that_they_would_have_alone() {
        let folder = Path::new("/results");
        let (own, shared) = (spec("memory = \"64M\"\nappend = \"a b\""), spec("clock = \"virtual\""));
        let group = GroupLaunch {
            guests: vec![launch("a", &own, folder, None), launch("b", &shared, folder, Some("shop"))],
            domains: [("shop", Some(folder.join("domain-shop.bvt")))].into(),
            faults: None,
            folder: folder.to_owned(),
        };
        let file = toml::to_string(&group.file().unwrap()).unwrap();
        let table: Table = toml::from_str(&file).unwrap();
        let (a, b) = (&table["guest"]["a"], &table["guest"]["b"]);
        assert_eq!(a["memory"].as_str(), Some("64M"));
        assert_eq!((a["append"].as_str(), a["clock"].as_str()), (Some("a b"), Some("virtual")));
        assert_eq!((a["fast"].as_bool(), a["serve"].as_bool()), (Some(true), Some(true)));
        assert_eq!(a["status"].as_str(), Some("/results/a/status.json"));
        assert!(a.get("domain").is_none());
        // One guest of a domain is not restored, and they share the host's time.
        assert_eq!((b.get("fast"), b["clock"].as_str()), (None, Some("host")));
        assert_eq!(b["domain"].as_str(), Some("shop"));
        assert_eq!(table["domain"]["shop"]["trace"].as_str(), Some("/results/domain-shop.bvt"));
    }

    #[test]
    fn what_the_process_says_is_sorted_by_guest() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec("");
        let guests = ["a", "ab"].map(|name| launch(name, &spec, folder.path(), None));
        guests.iter().for_each(|guest| guest.prepare().unwrap());
        let mut log = Log::create(&guests, folder.path()).unwrap();
        let said = "bindervm: a: one\nbindervm: ab: two\n  a: three\nab| four\nbindervm: c: five\nbegun";
        log.take_all(said.as_bytes());
        drop(log);
        let read = |path: &str| fs::read_to_string(folder.path().join(path)).unwrap();
        assert_eq!(read("a/vmm.log"), "bindervm: a: one\n  a: three\n");
        assert_eq!(read("ab/vmm.log"), "bindervm: ab: two\nab| four\n");
        assert_eq!(read("vmm.log"), "bindervm: c: five\nbegun");
    }
}
