//! A private apt: its own sources, lists and cache, below the builder's folder.
//!
//! It needs no root and changes nothing of the machine's. Everything it fetches is checked by apt against
//! the suite's signed index, and once more by us against the sha256 in that index.
//!
//! Of the machine's apt settings it takes those about fetching (proxies, certificates, timeouts) and no others.
//! In particular no hooks: those of container images empty the machine's package cache after every update,
//! under the feet of an install that may be running.

pub mod sources;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::cache::create_dir_all;
use crate::digest::Digest;
use crate::error::{Failure, Purpose};
use crate::step::Step;
use sources::{Entry, Kind};

/// Suites change a few times a year; security updates are wanted within a day.
const INDEX_AGE: Duration = Duration::from_secs(24 * 3600);

/// When the index is fetched anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// When it is older than a day; an old one is kept if that fails.
    #[default]
    Auto,
    /// Never, unless there is none: for working without a network.
    Never,
    /// Always.
    Always,
}

/// A package as the index describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// sha256 of its file.
    pub sha256: Digest,
    /// `Depends`, as written.
    pub depends: String,
}

impl Package {
    /// Names in `Depends` with this prefix, alternatives left out.
    pub fn needs<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.depends
            .split(',')
            .filter_map(|group| group.split(['|', '(']).next())
            .map(str::trim)
            .filter(move |name| name.starts_with(prefix))
    }
}

/// A private apt for one set of suites.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    suites: String,
    refreshed: bool,
    settings_written: Cell<bool>,
}

impl Apt {
    /// Sets it up for `suites`, whose archives are taken from the machine's configuration in `etc`, and
    /// fetches the index if it is due.
    pub fn open(
        step: &mut Step<'_>,
        etc: &Path,
        kind: Kind,
        suites: &[String],
        refresh: Refresh,
    ) -> Result<Self, Failure> {
        let machine = machine_entries(etc);
        let (text, missing) = sources::derive(&machine, kind, suites);
        for suite in &missing {
            // Some mirrors carry no security archive; the release itself must be there.
            if suite.ends_with("-security") && !text.is_empty() {
                step.notice(&format!(
                    "this machine's apt sources do not lead to {suite}; going on without it"
                ));
            } else {
                return Err(Failure::NoArchive { etc: etc.to_owned(), suite: suite.clone() });
            }
        }
        let folder = step.cache.root().join("apt").join(Digest::of(text.as_bytes()).short());
        for part in ["lists/partial", "cache/archives/partial"] {
            create_dir_all(&folder.join(part))?;
        }
        write(&folder.join("our.sources"), text.as_bytes())?;
        // What is installed on this machine must not decide which version is wanted.
        write(&folder.join("status"), b"")?;
        let mut apt =
            Self { folder, suites: suites.join(", "), refreshed: false, settings_written: Cell::new(false) };
        apt.refresh_if_due(step, refresh)?;
        Ok(apt)
    }

    fn refresh_if_due(&mut self, step: &mut Step<'_>, refresh: Refresh) -> Result<(), Failure> {
        let age = fs::metadata(self.stamp())
            .and_then(|metadata| metadata.modified())
            .ok()
            .map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        let due = match (refresh, age) {
            (_, None) | (Refresh::Always, _) => true,
            (Refresh::Never, _) => false,
            (Refresh::Auto, Some(age)) => age > INDEX_AGE,
        };
        if !due {
            return Ok(());
        }
        match self.refresh(step) {
            Err(failure) if refresh == Refresh::Auto && age.is_some() => {
                step.notice(&format!("could not refresh the package index, using the old one: {failure}"));
                Ok(())
            }
            result => result,
        }
    }

    fn refresh(&mut self, step: &mut Step<'_>) -> Result<(), Failure> {
        let mut command = self.command(step, "apt-get")?;
        // A suite that cannot be fetched is an error, not a warning that leaves an old index in use.
        command.args(["-o", "APT::Update::Error-Mode=any", "-o", "APT::Status-Fd=1", "update"]);
        step.run_with_share(&mut command, Purpose::Fetch, download_share)?;
        let _ = fs::remove_dir_all(self.shown());
        write(&self.stamp(), b"")?;
        self.refreshed = true;
        Ok(())
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("refreshed")
    }

    /// What `apt-cache show` said since the last refresh: asking again costs a fifth of a second each time.
    fn shown(&self) -> PathBuf {
        self.folder.join("shown")
    }

    /// Does `fetch`; if that fails on an index that may be outdated (the archive drops superseded versions),
    /// refreshes it and does it once more.
    pub fn retry_fresh<T>(
        &mut self,
        step: &mut Step<'_>,
        mut fetch: impl FnMut(&Self, &mut Step<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match fetch(self, step) {
            Err(Failure::Command { purpose: Purpose::Fetch, .. } | Failure::NotInIndex(_))
                if !self.refreshed =>
            {
                self.refresh(step)?;
                fetch(self, step)
            }
            result => result,
        }
    }

    /// The newest version of a package, or the one asked for.
    pub fn show(&self, step: &mut Step<'_>, name: &str, version: Option<&str>) -> Result<Package, Failure> {
        let wanted = version.map_or_else(|| name.to_owned(), |version| format!("{name}={version}"));
        let absent = || Failure::NotInIndex(format!("the index of {} has no package {wanted}", self.suites));
        let shown = self.shown().join(Digest::of(wanted.as_bytes()).short());
        let known = fs::read_to_string(&shown).ok();
        if let Some(package) = known.as_deref().and_then(parse_package) {
            return Ok(package);
        }
        let mut command = self.command(step, "apt-cache")?;
        command.args(["show", "--no-all-versions", &wanted]);
        let text = match step.output(&mut command, Purpose::Fetch) {
            Err(Failure::Command { .. }) => return Err(absent()),
            result => result?,
        };
        create_dir_all(&self.shown())?;
        write(&shown, text.as_bytes())?;
        parse_package(&text).ok_or_else(absent)
    }

    /// Downloads packages that are not yet in the cache. The files are in the order of `packages`.
    pub fn download(&self, step: &mut Step<'_>, packages: &[Package]) -> Result<Vec<PathBuf>, Failure> {
        let place =
            |package: &Package| step.cache.download(&package.sha256, &format!("{}.deb", package.name));
        let files: Vec<_> = packages.iter().map(place).collect();
        let missing: Vec<_> = packages.iter().zip(&files).filter(|(_, file)| !file.exists()).collect();
        if !missing.is_empty() {
            let mut command = self.command(step, "apt-get")?;
            command.args(["-o", "APT::Status-Fd=1", "download"]);
            command.args(missing.iter().map(|(package, _)| format!("{}={}", package.name, package.version)));
            let fetched = self.fetch(step, &mut command)?;
            for (package, file) in missing {
                let prefix = format!("{}_", package.name);
                accept(fetched.path(), |name| name.starts_with(&prefix), &package.sha256, file)?;
            }
        }
        Ok(files)
    }

    /// Downloads the upstream archive of a source package, unless it is in the cache.
    pub fn download_source(
        &self,
        step: &mut Step<'_>,
        package: &str,
        archive: &str,
        sha256: &Digest,
    ) -> Result<PathBuf, Failure> {
        let file = step.cache.download(sha256, archive);
        let mut command = self.command(step, "apt-get")?;
        command.args(["-o", "APT::Status-Fd=1", "source", "--download-only", "--tar-only", package]);
        let fetched = self.fetch(step, &mut command)?;
        accept(fetched.path(), |name| name == archive, sha256, &file)?;
        Ok(file)
    }

    /// Runs a fetching command in an empty folder.
    fn fetch(&self, step: &mut Step<'_>, command: &mut Command) -> Result<tempfile::TempDir, Failure> {
        let downloads = step.cache.root().join("downloads");
        create_dir_all(&downloads)?;
        let folder = tempfile::Builder::new()
            .prefix(".fetching-")
            .tempdir_in(&downloads)
            .map_err(|source| Failure::file("create a folder in", &downloads, source))?;
        command.current_dir(folder.path());
        step.run_with_share(command, Purpose::Fetch, download_share)?;
        Ok(folder)
    }

    /// A program of apt's that reads only our settings.
    fn command(&self, step: &mut Step<'_>, program: &str) -> Result<Command, Failure> {
        let settings = self.folder.join("apt.conf");
        if !self.settings_written.get() {
            let machine = step.output(Command::new("apt-config").arg("dump"), Purpose::Fetch)?;
            write(&settings, self.settings(&machine).as_bytes())?;
            self.settings_written.set(true);
        }
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("APT_CONFIG", settings).arg("-q");
        Ok(command)
    }

    /// The text of our `apt.conf`, given `apt-config dump` of the machine.
    fn settings(&self, machine: &str) -> String {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let ours = [
            // Read before the machine's files, this keeps apt from reading them.
            ("Dir::Etc::Parts", "/dev/null".to_owned()),
            ("Dir::Etc::Main", "/dev/null".to_owned()),
            ("Dir::Etc::SourceList", path("our.sources")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::Etc::Preferences", "/dev/null".to_owned()),
            ("Dir::Etc::PreferencesParts", "/dev/null".to_owned()),
            ("Dir::State", path("")),
            ("Dir::State::Lists", path("lists")),
            ("Dir::State::Status", path("status")),
            ("Dir::Cache", path("cache")),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "3".to_owned()),
            // The sandbox user could not write below a home folder; apt would fall back to this with a warning.
            ("APT::Sandbox::User", "root".to_owned()),
        ];
        let fetching = |line: &&str| {
            let about_indexes = ["Acquire::IndexTargets", "Acquire::Languages", "Acquire::CompressionTypes"];
            line.starts_with("Acquire::") && !about_indexes.iter().any(|prefix| line.starts_with(prefix))
        };
        let machine = machine.lines().filter(fetching).map(str::to_owned);
        let ours = ours.iter().map(|(key, value)| format!("{key} \"{value}\";"));
        machine.chain(ours).flat_map(|line| [line, "\n".to_owned()]).collect()
    }
}

/// Every entry of the machine's sources, in the order apt reads them.
fn machine_entries(etc: &Path) -> Vec<Entry> {
    let mut files = vec![etc.join("sources.list")];
    let mut parts: Vec<_> = fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    parts.sort();
    files.extend(parts);
    let mut entries = Vec::new();
    for file in files {
        let text =
            || fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(sources::parse_one_line(&text())),
            Some("sources") => entries.extend(sources::parse_deb822(&text())),
            _ => {}
        }
    }
    entries
}

/// Moves what was fetched under a name that `wanted` accepts to its place, if its checksum is right.
fn accept(
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
    sha256: &Digest,
    place: &Path,
) -> Result<(), Failure> {
    let found = fs::read_dir(folder)
        .map_err(|source| Failure::file("read", folder, source))?
        .flatten()
        .find(|entry| wanted(&entry.file_name().to_string_lossy()));
    let Some(found) = found else {
        return Err(Failure::NotProduced { what: "apt-get".into(), file: place.to_owned() });
    };
    check_sha256(&found.path(), sha256)?;
    fs::rename(found.path(), place).map_err(|source| Failure::file("create", place, source))
}

/// Fails unless `file` has this sha256.
pub(crate) fn check_sha256(file: &Path, want: &Digest) -> Result<(), Failure> {
    let got = Digest::of_file(file).map_err(|source| Failure::file("read", file, source))?;
    if got == *want { Ok(()) } else { Err(Failure::Checksum { file: file.to_owned(), got, want: *want }) }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(file, bytes).map_err(|source| Failure::file("write", file, source))
}

/// apt's machine-readable progress, `dlstatus:1:42.5:...`.
fn download_share(line: &str) -> Option<f32> {
    let percent = line.strip_prefix("dlstatus:")?.split(':').nth(1)?;
    percent.parse::<f32>().ok().map(|percent| percent / 100.0)
}

/// The first stanza of `apt-cache show`.
fn parse_package(text: &str) -> Option<Package> {
    let stanza = text.split("\n\n").next()?;
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(|value| value.trim().to_owned())
    };
    Some(Package {
        name: field("Package")?,
        version: field("Version")?,
        sha256: field("SHA256")?.parse().ok()?,
        depends: field("Depends").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Package: linux-headers-6.1.0-56-amd64
Source: linux
Version: 6.1.192-2
Depends: linux-headers-6.1.0-56-common (= 6.1.192-2), linux-kbuild-6.1 (>= 6.1.192-2), linux-compiler-gcc-12-x86 | gcc
Description: headers
SHA256: 796a7b4584d7a57f97913e34e80a2fcce96b6c5016fa9d4fc2212a93e4868677

Package: other
Version: 1
";

    #[test]
    fn packages_are_read() {
        let package = parse_package(SHOWN).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("linux-headers-6.1.0-56-amd64", "6.1.192-2")
        );
        assert_eq!(package.needs("linux-headers-").collect::<Vec<_>>(), ["linux-headers-6.1.0-56-common"]);
        assert_eq!(package.needs("linux-kbuild-").collect::<Vec<_>>(), ["linux-kbuild-6.1"]);
        assert_eq!(parse_package("Package: virtual\n"), None);
    }

    #[test]
    fn only_settings_about_fetching_are_taken_over() {
        let apt = Apt {
            folder: "/c".into(),
            suites: String::new(),
            refreshed: false,
            settings_written: Cell::new(false),
        };
        let settings = apt.settings(
            "APT::Update::Post-Invoke:: \"rm -f /var/cache/apt/archives/*.deb\";\n\
             Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::IndexTargets::deb::DEP-11 \"\";\n\
             Dir::Cache::pkgcache \"\";\n",
        );
        assert!(settings.starts_with("Acquire::http::Proxy \"http://proxy.example:3128\";\n"), "{settings}");
        assert!(settings.contains("\nDir::Etc::SourceList \"/c/our.sources\";\n"), "{settings}");
        for gone in ["Post-Invoke", "DEP-11", "pkgcache"] {
            assert!(!settings.contains(gone), "{gone}");
        }
    }

    #[test]
    fn progress_lines() {
        assert_eq!(download_share("dlstatus:1:42.5:Retrieving file 1 of 2"), Some(0.425));
        assert_eq!(download_share("Get:1 somewhere bookworm"), None);
    }

    #[test]
    fn both_formats_of_a_machine_are_read() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(etc.path().join("sources.list"), "deb http://a.example/debian bookworm main\n").unwrap();
        fs::write(
            parts.join("b.sources"),
            "Types: deb\nURIs: http://b.example/\nSuites: sid\nComponents: main\n",
        )
        .unwrap();
        fs::write(parts.join("c.list.save"), "deb http://c.example/debian bookworm main\n").unwrap();
        let uris: Vec<_> = machine_entries(etc.path()).into_iter().flat_map(|entry| entry.uris).collect();
        assert_eq!(uris, ["http://a.example/debian", "http://b.example/"]);
    }

    #[test]
    fn a_wrong_download_is_not_accepted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("p_1_amd64.deb"), "evil").unwrap();
        let place = folder.path().join("place");
        let error =
            accept(folder.path(), |name| name.starts_with("p_"), &Digest::of(b"good"), &place).unwrap_err();
        assert!(matches!(error, Failure::Checksum { .. }), "{error}");
        assert!(!place.exists());
        accept(folder.path(), |name| name.starts_with("p_"), &Digest::of(b"evil"), &place).unwrap();
        assert!(place.exists());
    }
}
