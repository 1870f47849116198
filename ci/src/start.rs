//! Starting guests for tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::group::GroupLaunch;
use crate::guest::{Guest, Launch};
use crate::plan::{GuestSpec, Keep, RoleSpec, Settings, TestSpec};
use crate::stop::Stop;

/// What guests are started with.
pub struct Starter<'a> {
    /// The `bindervm` program.
    pub bindervm: &'a Path,
    /// Settings of the run.
    pub settings: &'a Settings,
    /// Kinds of guest.
    pub guests: &'a BTreeMap<String, GuestSpec>,
    /// Kinds that cannot be started, and why.
    pub unusable: BTreeMap<String, String>,
    /// When the run is to end.
    pub stop: &'a Stop,
    /// Where control sockets stand.
    pub sockets: &'a Path,
    /// Where files of shared guests go.
    pub shared: PathBuf,
    /// Numbers guests.
    pub count: AtomicU64,
}

impl Starter<'_> {
    /// Starts a guest for a role of a test, in a process of its own. It lives no longer than the calling thread.
    /// A shared one has a folder of its own.
    pub fn start(
        &self,
        test: &TestSpec,
        role: &RoleSpec,
        folder: &Path,
        shared: bool,
    ) -> Result<Guest, String> {
        let mut launch = self.launch(test, role, folder)?;
        if shared {
            launch.name =
                format!("{}-{}", role.guest, launch.socket.file_stem().unwrap_or_default().display());
            launch.folder = self.shared.join(&launch.name);
        }
        launch.start().map_err(|error| self.not_started(&error))
    }

    /// Starts the guests of all roles of a test in one process. They live no longer than the calling thread.
    pub fn start_together(&self, test: &TestSpec, folder: &Path) -> Result<Vec<Guest>, String> {
        let launches = test.roles.iter().map(|role| self.launch(test, role, &folder.join(&role.name)));
        let guests = launches.collect::<Result<Vec<_>, _>>()?;
        let mut domains = BTreeMap::new();
        for guest in &guests {
            let Some(name) = guest.domain else { continue };
            let trace = domains.entry(name).or_insert(None);
            if guest.spec.trace != Keep::Never {
                *trace = Some(folder.join(domain_trace(name)));
            }
        }
        let group = GroupLaunch { guests, domains, faults: test.faults.as_ref(), folder: folder.to_owned() };
        group.start().map_err(|error| self.not_started(&error))
    }

    fn launch<'a>(
        &'a self,
        test: &'a TestSpec,
        role: &'a RoleSpec,
        folder: &Path,
    ) -> Result<Launch<'a>, String> {
        let Some(spec) = self.guests.get(&role.guest) else { return Err(format!("no guest {}", role.guest)) };
        if let Some(why) = self.unusable.get(&role.guest) {
            return Err(why.clone());
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Ok(Launch {
            bindervm: self.bindervm,
            name: guest_name(test, role),
            spec,
            faults: test.faults.as_ref(),
            seed: self.seed(test, spec),
            engine: self.settings.engine,
            folder: folder.to_owned(),
            socket: self.sockets.join(format!("{number}.sock")),
            boot_timeout: self.settings.scaled(self.settings.boot_timeout),
            domain: role.domain.as_deref(),
        })
    }

    fn not_started(&self, error: &io::Error) -> String {
        format!("cannot start {}: {error}", self.bindervm.display())
    }
}

/// The recording of a domain, in the folder of its test.
pub fn domain_trace(name: &str) -> String {
    format!("domain-{name}.bvt")
}

impl Starter<'_> {
    /// The seed of a guest of a test: another one in each repetition of the run.
    fn seed(&self, test: &TestSpec, spec: &GuestSpec) -> u64 {
        let own = test.seed.unwrap_or(spec.seed);
        own.wrapping_add(self.settings.seed).wrapping_add(test.round.into())
    }
}

/// A name as `bindervm run --name` takes it: the role's, or the test's.
fn guest_name(test: &TestSpec, role: &RoleSpec) -> String {
    plain(if role.name.is_empty() { &test.name } else { &role.name })
}

/// What is left of the name of a role in that of its guest.
pub fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(64)
        .collect()
}
