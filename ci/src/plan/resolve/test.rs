//! From a test of the plan to what it runs on which guests.

use std::collections::BTreeMap;

use images::did_you_mean;

use super::super::error::PlanError;
use super::super::file::{BinderDriver, Isolation, Keep, RoleEntry, Sharing, TestEntry};
use super::super::value::{OneOrMany, Time};
use super::super::{GuestSpec, RoleSpec, Share, TestSpec};
use super::At;
use crate::start::plain;

/// What a test takes from the run.
pub(super) struct TestDefaults {
    pub timeout: Time,
    pub retries: u32,
}

impl At<'_> {
    /// The tests that an entry stands for.
    pub(super) fn tests(
        &self,
        entry: TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
        defaults: &TestDefaults,
    ) -> Result<Vec<TestSpec>, PlanError> {
        self.check_name("test", &entry.name)?;
        let of = |what: &str| format!("test `{}`: {what}", entry.name);
        if let Some(faults) = &entry.faults {
            faults.resolve(0).map_err(|error| self.wrong(of(&format!("faults: {error}"))))?;
        }
        let shards = entry.shards.unwrap_or(1);
        if !(1..=1024).contains(&shards) {
            return Err(self.wrong(of("shards must be 1 to 1024")));
        }
        let retries = entry.retries.unwrap_or(defaults.retries);
        if retries > 100 {
            return Err(self.wrong(of("retries must be at most 100")));
        }
        let variants = self.variants(&entry, guests)?;
        let isolation = entry.isolation.unwrap_or(Isolation::Fresh);
        self.check_ownership(&entry, isolation, &variants, guests)?;
        let process = self.process(&entry, &variants, guests)?;
        let mut tests = Vec::new();
        for (name, roles) in variants {
            for index in 1..=shards {
                let shard = (shards > 1).then_some(Share { index, total: shards });
                tests.push(TestSpec {
                    name: match shard {
                        Some(_) => format!("{name}#{index}of{shards}"),
                        None => name.clone(),
                    },
                    plan_name: entry.name.clone(),
                    shard,
                    roles: roles.clone(),
                    timeout: entry.timeout.unwrap_or(defaults.timeout),
                    retries,
                    seed: entry.seed,
                    faults: entry.faults.clone(),
                    round: 0,
                    tags: entry.tags.clone(),
                    requires: entry.requires.clone(),
                    isolation,
                    process,
                });
            }
        }
        Ok(tests)
    }

    /// The names that it runs under, each with its roles: one, or one for each guest of a list.
    fn variants(
        &self,
        entry: &TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Vec<(String, Vec<RoleSpec>)>, PlanError> {
        let mut variants = Vec::new();
        if entry.roles.is_empty() {
            for guest in self.guests_of(entry, guests)? {
                let name = match &entry.guest {
                    Some(OneOrMany::Many(_)) => format!("{}@{guest}", entry.name),
                    _ => entry.name.clone(),
                };
                let role = self.role(&entry.name, String::new(), only_role(entry, guest))?;
                variants.push((name, vec![role]));
            }
        } else {
            variants.push((entry.name.clone(), self.roles(entry, guests)?));
        }
        Ok(variants)
    }

    /// What needs a guest of the test's own, and a driver of the host's, gets them.
    fn check_ownership(
        &self,
        entry: &TestEntry,
        isolation: Isolation,
        variants: &[(String, Vec<RoleSpec>)],
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<(), PlanError> {
        let of = |what: &str| format!("test `{}`: {what}", entry.name);
        if isolation == Isolation::Shared && variants.iter().any(|(_, roles)| roles.len() > 1) {
            return Err(
                self.wrong(of("a test with roles gets guests of its own; isolation cannot be shared"))
            );
        }
        if isolation == Isolation::Shared && entry.faults.is_some() {
            return Err(self.wrong(of("faults are for guests of a test's own; isolation cannot be shared")));
        }
        let own_driver =
            |role: &RoleSpec| guests.get(&role.guest).is_some_and(|spec| spec.binder == BinderDriver::Kernel);
        if entry.faults.is_some() && variants.iter().any(|(_, roles)| roles.iter().any(own_driver)) {
            return Err(
                self.wrong(of("there is nothing to inject faults into where the kernel has the driver"))
            );
        }
        let judged = |role: &RoleSpec| !role.expect.policy.is_empty();
        let recorded = |role: &RoleSpec| {
            let spec = guests.get(&role.guest).filter(|_| role.domain.is_none());
            spec.is_some_and(|spec| spec.binder == BinderDriver::Host && spec.trace != Keep::Never)
        };
        let mut all_roles = variants.iter().flat_map(|(_, roles)| roles);
        if all_roles.any(|role| judged(role) && (isolation == Isolation::Shared || !recorded(role))) {
            return Err(self.wrong(of(
                "a policy is judged by the recording: it needs a guest of the test's own, in no domain, the driver of the host, and a \
                 trace that is not `never`",
            )));
        }
        if isolation == Isolation::Shared && entry.seed.is_some() {
            return Err(self.wrong(of("a shared guest has a seed of its own; the test cannot have one")));
        }
        Ok(())
    }

    /// Whether the guests of a test share a process, and whether those of its domains can.
    fn process(
        &self,
        entry: &TestEntry,
        variants: &[(String, Vec<RoleSpec>)],
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Sharing, PlanError> {
        let of = |what: &str| self.wrong(format!("test `{}`: {what}", entry.name));
        let roles: &[RoleSpec] = if entry.roles.is_empty() { &[] } else { &variants[0].1 };
        let mut domains: BTreeMap<&str, Vec<&RoleSpec>> = BTreeMap::new();
        for role in roles {
            if let Some(domain) = &role.domain {
                self.check_name("domain", domain)?;
                domains.entry(domain).or_default().push(role);
            }
        }
        for (domain, members) in &domains {
            let specs = || members.iter().filter_map(|role| guests.get(&role.guest));
            if members.len() < 2 {
                return Err(of(&format!("domain `{domain}` is shared by nobody: name it in two roles")));
            }
            if specs().any(|spec| spec.binder == BinderDriver::Kernel) {
                return Err(of(&format!(
                    "domain `{domain}`: a guest with `binder = \"kernel\"` has its own kernel's driver, and can share none"
                )));
            }
            if specs()
                .any(|spec| Some(spec.binder_profile) != specs().next().map(|first| first.binder_profile))
            {
                return Err(of(&format!(
                    "domain `{domain}` is one driver: its guests need the same binder-profile"
                )));
            }
        }
        let process = match (entry.process, domains.is_empty()) {
            (Some(Sharing::Own), false) => {
                return Err(of("guests of a domain are in one process; process cannot be own"));
            }
            (Some(process), _) => process,
            (None, true) => Sharing::Own,
            (None, false) => Sharing::Shared,
        };
        if process == Sharing::Own {
            return Ok(process);
        }
        if roles.len() < 2 {
            return Err(of(
                "one guest shares a process with nobody; process = \"shared\" is for tests with roles",
            ));
        }
        let mut names = BTreeMap::new();
        for role in roles {
            if let Some(other) = names.insert(plain(&role.name), &role.name) {
                return Err(of(&format!("roles `{other}` and `{}` have the same guest name", role.name)));
            }
        }
        Ok(process)
    }

    /// The guests that a test without roles runs on.
    fn guests_of(
        &self,
        entry: &TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Vec<String>, PlanError> {
        let named = match &entry.guest {
            Some(named) => named.to_vec(),
            None => vec![self.default_guest(&entry.name, guests)?],
        };
        if named.is_empty() {
            return Err(self.wrong(format!("test `{}`: the list of guests is empty", entry.name)));
        }
        for name in &named {
            self.check_guest(&entry.name, name, guests)?;
        }
        Ok(named)
    }

    fn default_guest(&self, test: &str, guests: &BTreeMap<String, GuestSpec>) -> Result<String, PlanError> {
        if guests.contains_key("default") {
            return Ok("default".to_owned());
        }
        match guests.keys().next() {
            Some(only) if guests.len() == 1 => Ok(only.clone()),
            None => Err(self.wrong(format!(
                "test `{test}` names no guest, and the plan has none; write [guest.default] with image = \"...\""
            ))),
            Some(_) => Err(self.wrong(format!(
                "test `{test}` names no guest, and none of the plan's is called default"
            ))),
        }
    }

    fn check_guest(
        &self,
        test: &str,
        name: &str,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<(), PlanError> {
        if guests.contains_key(name) {
            return Ok(());
        }
        let hint = did_you_mean(name, guests.keys().map(String::as_str));
        let message = format!("test `{test}`: there is no [guest.{}]", name.escape_debug());
        Err(self.text.wrong(Some(self.span.clone()), &message, hint))
    }

    fn roles(
        &self,
        entry: &TestEntry,
        guests: &BTreeMap<String, GuestSpec>,
    ) -> Result<Vec<RoleSpec>, PlanError> {
        let of = |what: &str| format!("test `{}`: {what}", entry.name);
        if entry.command.is_some()
            || entry.script.is_some()
            || entry.script_file.is_some()
            || entry.gtest.is_some()
            || entry.guest.is_some()
            || entry.stdin.is_some()
            || entry.stdin_file.is_some()
            || entry.parser.is_some()
            || entry.cwd.is_some()
            || !(entry.env.is_empty() && entry.artifacts.is_empty() && entry.push.is_empty())
        {
            return Err(self.wrong(of("with roles, what runs and where stands in each role")));
        }
        if entry.roles.len() > 16 {
            return Err(self.wrong(of("at most 16 roles")));
        }
        let mut roles = Vec::new();
        for (name, role) in &entry.roles {
            self.check_name("role", name)?;
            let guest = match &role.guest {
                Some(guest) => guest.clone(),
                None => self.default_guest(&entry.name, guests)?,
            };
            self.check_guest(&entry.name, &guest, guests)?;
            let role = RoleEntry { guest: Some(guest), ..role.clone() };
            roles.push(self.role(&entry.name, name.clone(), role)?);
        }
        for (guest, spec) in guests {
            let needed = roles.iter().filter(|role| role.guest == *guest).count();
            if spec.instances.is_some_and(|instances| needed > instances as usize) {
                let message = format!("it needs {needed} guests `{guest}`, more than the instances of that");
                return Err(self.wrong(of(&message)));
            }
        }
        if roles.iter().all(|role| role.background) {
            return Err(self.wrong(of("every role is in the background; nothing would end the test")));
        }
        Ok(roles)
    }
}

/// The one role of a test without roles.
fn only_role(entry: &TestEntry, guest: String) -> RoleEntry {
    let entry = entry.clone();
    RoleEntry {
        guest: Some(guest),
        domain: None,
        command: entry.command,
        script: entry.script,
        script_file: entry.script_file,
        gtest: entry.gtest,
        gtest_filter: entry.gtest_filter,
        gtest_args: entry.gtest_args,
        parser: entry.parser,
        env: entry.env,
        cwd: entry.cwd,
        stdin: entry.stdin,
        stdin_file: entry.stdin_file,
        expect: entry.expect,
        artifacts: entry.artifacts,
        push: entry.push,
        background: false,
    }
}
