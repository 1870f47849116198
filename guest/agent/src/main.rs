//! The guest's first process: mounts, loads modules, starts the image's services, and runs what
//! the host asks for over a virtio-console port. See the README for the files it reads, and
//! `agent-protocol` for what goes over the port.
//!
//! Order of a boot: [`boot`] mounts and loads the modules that bring the [`port`]; Hello; binder's
//! module and devices; [`services`]; Ready; then [`server`] until the host says PowerOff, and
//! [`power`]. Whatever fails on the way is named in a Log or Fatal message, and the boot goes on:
//! a guest without servicemanager can still be looked at. Only without a port there is nobody to
//! tell; then the agent writes one line to the console and switches the guest off.
//!
//! `agent --serve` serves the port on its standard input and does nothing else; tests use it.
//! `agent vsock` is a tool for the guest's shell.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent_protocol::{GuestMessage, Hello, VERSION};
use rustix::time::{ClockId, clock_gettime};

use config::{BinderMode, BootConfig, MODULES_FILE, Module};
use port::Port;
use reaper::Reaper;
use server::{Outcome, Server};
use services::Services;

mod boot;
mod command;
mod config;
mod port;
mod power;
mod reaper;
mod resume;
mod server;
mod services;
mod vsock;

/// How long a message of the boot may take to reach the host before the boot goes on without.
const BOOT_MESSAGE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (std::process::id(), &arguments[..]) {
        (1, _) => init(),
        (_, ["--serve"]) => serve(),
        (_, ["vsock", arguments @ ..]) => vsock::run(arguments),
        // As the kernel calls modprobe (kernel/kmod.c), after `boot::answer_module_requests`.
        (_, ["-q", "--", wanted]) => load_on_demand(wanted),
        (_, _) => {
            eprintln!("bindervm-agent: not the first process of a guest; try --serve or vsock");
            ExitCode::FAILURE
        }
    }
}

/// Serves the port on standard input.
fn serve() -> ExitCode {
    let prepared = std::io::stdin().as_fd().try_clone_to_owned().and_then(|fd: OwnedFd| {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok((Port::new(fd), Reaper::new()?))
    });
    let (mut port, reaper) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("bindervm-agent: {error}");
            return ExitCode::FAILURE;
        }
    };
    port.send(&GuestMessage::Hello(hello(BinderMode::default())));
    match Server::new(port, &reaper, BTreeMap::new()).run() {
        Outcome::PowerOff => ExitCode::SUCCESS,
        Outcome::Broken(error) => {
            eprintln!("bindervm-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Loads what the kernel found missing: the file system of a mount, say.
fn load_on_demand(wanted: &str) -> ExitCode {
    let loaded = BootConfig::load()
        .and_then(|config| config.modules_for(wanted))
        .map_err(|error| error.to_string())
        .and_then(|modules| modules.iter().try_for_each(boot::load_module));
    // The kernel says to whoever asked that it is not there; nobody reads more than that.
    if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The life of PID 1. Returns only if the kernel refuses to switch off, and then panics it.
fn init() -> ExitCode {
    let mut problems = boot::mount_all();
    let on_console = boot::attach_console().is_ok();
    let reaper = Reaper::new();
    if let Err(error) = &reaper {
        problems.push(format!("cannot watch children: {error}"));
    }
    load_common_modules(&mut problems);
    boot::answer_module_requests();
    if !on_console {
        // A console that a module brings. Without any there is nobody to read.
        let _ = boot::attach_console();
    }
    for problem in &problems {
        eprintln!("bindervm-agent: {problem}");
    }

    match (Port::open(), reaper) {
        (Ok(port), Ok(reaper)) => {
            let outcome = live(port, &reaper, problems);
            eprintln!("bindervm-agent: {outcome}");
            power::stop_all(&reaper);
        }
        (Err(error), _) => eprintln!("bindervm-agent: no agent port: {error}; switching off"),
        (_, Err(_)) => eprintln!("bindervm-agent: cannot run; switching off"),
    }
    let error = power::switch_off();
    eprintln!("bindervm-agent: cannot switch off: {error}");
    ExitCode::FAILURE
}

/// From Hello to the last message. Returns why it is over.
fn live(mut port: Port, reaper: &Reaper, problems: Vec<String>) -> String {
    let command_line = config::read("/proc/cmdline");
    let (mode, mode_problem) = match command_line
        .as_deref()
        .map_err(ToString::to_string)
        .and_then(|line| BinderMode::from_command_line(line).map_err(|error| error.to_string()))
    {
        Ok(mode) => (mode, None),
        Err(problem) => (BinderMode::default(), Some(problem)),
    };
    port.send(&GuestMessage::Hello(hello(mode)));
    report(&mut port, problems.into_iter().chain(mode_problem));

    let config = BootConfig::load().unwrap_or_else(|error| {
        report(&mut port, [error.to_string()]);
        BootConfig::default()
    });
    if let Some(name) = &config.hostname
        && let Err(error) = rustix::system::sethostname(name.as_bytes())
    {
        port.send(&GuestMessage::Log(format!("hostname {name}: {error}").into()));
    }
    if let Err(error) = boot::loopback_up() {
        port.send(&GuestMessage::Log(format!("loopback: {error}").into()));
    }
    for device in config::devices_from_command_line(command_line.as_deref().unwrap_or_default()) {
        match config.modules_for(device) {
            Ok(modules) => {
                report(&mut port, modules.iter().filter_map(|module| boot::load_module(module).err()))
            }
            Err(error) => report(&mut port, [error.to_string()]),
        }
    }
    let shares = config::shares_from_command_line(command_line.as_deref().unwrap_or_default());
    report(&mut port, shares.filter_map(|share| boot::mount_share(&share).err()));
    report(
        &mut port,
        config.binder_modules(mode).iter().filter_map(|module| boot::load_module(module).err()),
    );
    if config.binderfs && !config::is_without_binderfs(command_line.as_deref().unwrap_or_default()) {
        report(&mut port, boot::mount_binderfs(&config.devices).err());
    }
    report(&mut port, config.devices.iter().filter_map(|name| boot::open_device(name).err()));
    report(&mut port, config.cgroups.iter().filter_map(|name| boot::make_cgroup(name).err()));

    let mut services = Services::default();
    for service in &config.services {
        services.start(service, reaper);
        report(&mut port, services.problems.drain(..));
    }
    match Server::new(port, reaper, services.running).run() {
        Outcome::PowerOff => "the host switches the guest off".to_owned(),
        Outcome::Broken(error) => format!("{error}; switching off"),
    }
}

fn load_common_modules(problems: &mut Vec<String>) {
    match config::read(MODULES_FILE) {
        Ok(text) => {
            let modules = Module::parse_all(text.lines());
            problems.extend(modules.iter().filter_map(|module| boot::load_module(module).err()));
        }
        Err(error) => problems.push(error.to_string()),
    }
}

/// Tells the host at once, so that it knows even if the next step hangs.
fn report(port: &mut Port, problems: impl IntoIterator<Item = String>) {
    for problem in problems {
        port.send(&GuestMessage::Fatal(problem.into()));
    }
    // The server meets the same error again, and says so.
    let _ = port.flush_until(Instant::now() + BOOT_MESSAGE);
}

fn hello(mode: BinderMode) -> Hello {
    let uptime = clock_gettime(ClockId::Boottime);
    Hello {
        version: VERSION,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        binder: mode.name().to_owned(),
        uptime_ms: uptime.tv_sec as u64 * 1000 + uptime.tv_nsec as u64 / 1_000_000,
        can_resume: true,
    }
}
