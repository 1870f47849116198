//! Starting guests for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::guest::{Guest, Launch};
use crate::plan::{GuestSpec, RoleSpec, Settings, TestSpec};
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
    /// Starts a guest for a role of a test. It lives no longer than the calling thread. A shared one
    /// has a folder of its own.
    pub fn start(
        &self,
        test: &TestSpec,
        role: &RoleSpec,
        folder: &Path,
        shared: bool,
    ) -> Result<Guest, String> {
        let Some(spec) = self.guests.get(&role.guest) else { return Err(format!("no guest {}", role.guest)) };
        if let Some(why) = self.unusable.get(&role.guest) {
            return Err(why.clone());
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (name, folder) = match shared {
            true => {
                let name = format!("{}-{number}", role.guest);
                (name.clone(), self.shared.join(name))
            }
            false => (guest_name(test, role), folder.to_owned()),
        };
        let launch = Launch {
            bindervm: self.bindervm,
            name,
            spec,
            faults: test.faults.as_ref(),
            seed: self.seed(test, spec),
            engine: self.settings.engine,
            folder,
            socket: self.sockets.join(format!("{number}.sock")),
            boot_timeout: self.settings.scaled(self.settings.boot_timeout),
        };
        launch.start().map_err(|error| format!("cannot start {}: {error}", self.bindervm.display()))
    }
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
    let name = if role.name.is_empty() { &test.name } else { &role.name };
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(64)
        .collect()
}
