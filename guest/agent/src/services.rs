//! Boot services: started in order, each when the one before is up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_protocol::ExitStatus;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::command::{spawn_service, spawn_silent};
use crate::config::{ReadyCheck, ServiceConfig};
use crate::reaper::Reaper;

/// Pause between two attempts of a readiness check.
const RETRY: Duration = Duration::from_millis(20);

/// What runs and what went wrong.
#[derive(Debug, Default)]
pub struct Services {
    /// Names by process id.
    pub running: BTreeMap<u32, String>,
    /// For people to read.
    pub problems: Vec<String>,
}

impl Services {
    /// Starts `config` and waits until it is up, has ended, or takes too long.
    pub fn start(&mut self, config: &ServiceConfig, reaper: &Reaper) {
        let name = &config.name;
        match spawn_service(&config.argv, &config.env) {
            Ok(pid) => {
                self.running.insert(pid, name.clone());
                if let Some(check) = &config.ready {
                    self.wait_ready(pid, name, check, reaper);
                }
            }
            Err(error) => {
                let program = config.argv.first().map_or("", String::as_str);
                self.problems.push(format!("service {name}: {program}: {error}"));
            }
        }
    }

    fn wait_ready(&mut self, pid: u32, name: &str, check: &ReadyCheck, reaper: &Reaper) {
        let deadline = Instant::now() + Duration::from_millis(check.timeout_ms);
        while self.running.contains_key(&pid) {
            match spawn_silent(&check.command) {
                Ok(probe) => match self.wait_probe(pid, probe, deadline, reaper) {
                    Some(ExitStatus::Code(0)) => return,
                    Some(_) => {}
                    None => kill_group(probe),
                },
                Err(error) => {
                    return self.problems.push(format!("service {name}: its readiness check: {error}"));
                }
            }
            if Instant::now() >= deadline {
                return self
                    .problems
                    .push(format!("service {name} was not ready after {} ms", check.timeout_ms));
            }
            self.reap(reaper, (Instant::now() + RETRY).min(deadline));
        }
    }

    /// The status of a check, unless the service ends or time runs out first.
    fn wait_probe(
        &mut self,
        service: u32,
        probe: u32,
        deadline: Instant,
        reaper: &Reaper,
    ) -> Option<ExitStatus> {
        while self.running.contains_key(&service) && Instant::now() < deadline {
            let ended = self.reap(reaper, deadline);
            if let Some((_, status)) = ended.into_iter().find(|(pid, _)| *pid == probe) {
                return Some(status);
            }
        }
        None
    }

    /// Reaps until `deadline`, or until something ended; notes services that did.
    fn reap(&mut self, reaper: &Reaper, deadline: Instant) -> Vec<(u32, ExitStatus)> {
        let ended = reaper.reap_until(deadline);
        for process in &ended {
            if let Some(name) = self.running.remove(&process.pid) {
                self.problems.push(format!("service {name} ended while starting: {:?}", process.status));
            }
        }
        ended.into_iter().map(|process| (process.pid, process.status)).collect()
    }
}

/// Ends a check that nobody waits for any more.
fn kill_group(leader: u32) {
    if let Some(group) = Pid::from_raw(leader as i32) {
        // It may have ended just now.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any check that is to succeed takes.
    const LONG: u64 = 60_000;

    fn service(script: &str, check: Option<(&str, u64)>) -> ServiceConfig {
        let shell = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let ready = check.map(|(script, timeout_ms)| ReadyCheck { command: shell(script), timeout_ms });
        ServiceConfig { name: "it".into(), argv: shell(script), env: BTreeMap::new(), ready }
    }

    /// One test, for there is one reaper in a process.
    #[test]
    fn services_are_waited_for() {
        let reaper = Reaper::new().unwrap();
        let mut services = Services::default();
        let mut start = |config: &ServiceConfig| {
            services.start(config, &reaper);
            let running = std::mem::take(&mut services.running);
            running.into_keys().for_each(kill_group);
            std::mem::take(&mut services.problems)
        };

        let sleeper = "exec sleep 1000";
        assert!(start(&service(sleeper, None)).is_empty());
        assert!(start(&service(sleeper, Some(("true", LONG)))).is_empty());
        assert_eq!(
            start(&service("exit 7", Some((sleeper, LONG)))),
            ["service it ended while starting: Code(7)"]
        );
        for check in ["false", sleeper] {
            let problems = start(&service(sleeper, Some((check, 100))));
            assert_eq!(problems, ["service it was not ready after 100 ms"]);
        }

        let mut absent = service("", None);
        absent.argv[0] = "/nowhere/servicemanager".into();
        assert!(start(&absent)[0].starts_with("service it: /nowhere/servicemanager: No such file"));
        absent.argv.clear();
        assert_eq!(start(&absent).len(), 1);
    }
}
