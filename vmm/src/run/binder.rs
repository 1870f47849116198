//! The guest's binder world: domain, device, recording.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use binder::faults::{Counts, Faults};
use binder::replay::CORE;
use binder::{Census, Domain, GuestId, Limits, LsmMode, Profile};
use binder_trace::recording::{self, DEFAULT_PAYLOAD, GuestName, Writer, encode_header, encode_record};
use devices::virtio::binder::{BinderDevice, Counters, Handling, Recorder, SharedDomain, Timing, Trouble};
use machine::Machine;

use super::record::{Recording, host_clock};
use super::sink::Sink;
use super::source::Source;
use super::verdict::{machine_failure, trace_failure};
use super::world::{Membership, Recorders};
use crate::args::{BinderArg, BinderDeviceArg, LsmArg, ProfileArg, RunArgs, TraceTarget};
use crate::exit::{Code, Failure};
use crate::serve::peer::Peer;

/// A guest that shares its world with nobody.
const GUEST: GuestId = GuestId(0);

/// Bytes that a follower gets of what was before, at most; its window has room for them.
const MAX_BEGIN: usize = 1 << 20;

/// The guest's binder world, as seen from outside. Clones show the same.
#[derive(Clone)]
pub struct Binder {
    /// How a recording of it begins.
    pub header: recording::Header,
    /// What is recorded of it.
    pub recording: Recording,
    counters: Arc<Mutex<Counters>>,
    handling: Arc<Mutex<Handling>>,
    domain: Option<SharedDomain>,
    /// Which guest of the domain it is.
    guest: GuestId,
    /// It shares the domain with other guests.
    is_shared: bool,
    /// Where all of a domain that it shares is recorded.
    of_world: Option<Recording>,
}

impl Binder {
    /// The device's counters. What the guest left is what the device found when it was last reset,
    /// or, where a guest went without a word, what is there now.
    pub fn counters(&self) -> Counters {
        let mut counters = *self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = self.objects()
            && now != Census::default()
        {
            counters.left = now;
        }
        counters
    }

    /// What handling messages takes the host.
    pub fn handling(&self) -> Handling {
        *self.handling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of the rules of `--faults`; of a domain that is shared, of those of all its guests.
    pub fn faults(&self) -> Vec<Counts> {
        let counts = |domain: &mut Domain| domain.faults().map(|faults| faults.counts().to_vec());
        self.domain.as_ref().and_then(|domain| domain.with(counts)).unwrap_or_default()
    }

    /// The guest's objects in the core now; `None` where its own kernel has the driver.
    pub fn objects(&self) -> Option<Census> {
        let domain = self.domain.as_ref()?;
        Some(domain.census(self.guest))
    }
}

impl Binder {
    /// The machine is gone, and so is its RAM: where other guests share the world, they are told of every
    /// process's death.
    pub fn leave(&self) {
        let Some(domain) = &self.domain else { return };
        if !self.is_shared {
            return domain.let_go(self.guest);
        }
        let mut recorders = Recorders::new(&self.recording, self.of_world.as_ref());
        let left = domain.leave(self.guest, &mut recorders);
        if left != Census::default() {
            self.counters.lock().unwrap_or_else(PoisonError::into_inner).left = left;
        }
    }
}

impl Binder {
    /// Adds a follower, which first gets what a recording that begins now has to know. False: the
    /// guest's own kernel has the driver.
    pub fn follow(&self, peer: &Arc<Peer>, request: u32) -> bool {
        let Some(domain) = &self.domain else { return false };
        // Held, so that nothing happens between what is known and what is followed.
        domain.with(|domain| {
            // What a replay is to make again does not change on the way.
            if self.of_world.is_none() && domain.limits().trace_payload < self.header.payload {
                domain.trace_payloads(self.header.payload);
            }
            let mut begin = encode_header(&self.header);
            for record in self.recording.known(self.guest, domain) {
                begin.extend(encode_record(&record));
                if begin.len() > MAX_BEGIN {
                    break;
                }
            }
            self.recording.followers().attach(peer.clone(), request, &begin);
        });
        true
    }
}

/// What a recording says of the run.
fn header(
    args: &RunArgs,
    target: &TraceTarget,
    source: &Source,
    engine: String,
    world: Option<&Membership>,
) -> recording::Header {
    let alone = || vec![GuestName { id: GUEST, name: args.guest_name() }];
    recording::Header {
        version: recording::VERSION,
        guests: world.map_or_else(alone, |member| member.world.guests().to_vec()),
        image: source.image_name.clone(),
        engine,
        command: args.command.clone(),
        android: source.image_name.as_deref().and_then(android_version),
        payload: target.payload,
        host_clock: target.host_times.then(host_clock),
        replay: target.replay,
        core: CORE.to_owned(),
        has_end: !target.path.as_os_str().is_empty(),
    }
}

/// Our recipes of AOSP userspaces begin with its version: `aosp14`, `aosp14-tests`.
fn android_version(image: &str) -> Option<u32> {
    let rest = image.rsplit('/').next()?.strip_prefix("aosp")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The faults of `--faults`.
pub fn load_faults(path: &Path, seed: u64) -> Result<Faults, Failure> {
    let failed = |error| Failure::because(Code::Usage, "cannot use --faults", error);
    ci::faults::load(path).and_then(|entry| entry.resolve(seed)).map_err(failed)
}

/// Puts the binder device on the machine, unless the guest's kernel has the driver.
/// Where it shares a world it is `world`'s.
pub fn add_binder(
    args: &RunArgs,
    source: &Source,
    machine: &mut Machine,
    world: Option<&Membership>,
) -> Result<Binder, Failure> {
    // Followers get what a file gets, if there is one, without its extras.
    let payload = args.trace.as_ref().map_or(DEFAULT_PAYLOAD, |target| target.payload);
    let plain = TraceTarget { path: PathBuf::new(), payload, host_times: false, replay: false };
    let follower = header(args, &plain, source, machine.engine().to_string(), world);
    let sink = match &args.trace {
        None => None,
        Some(target) => {
            let header = header(args, target, source, machine.engine().to_string(), world);
            let sink = Writer::create(&target.path, &header);
            Some(sink.and_then(|writer| Sink::new(writer, machine.engine())).map_err(trace_failure)?)
        }
    };
    let guest = world.map_or(GUEST, |member| member.guest);
    let is_shared = world.is_some();
    let recording = Recording::new(machine.clock(), sink, args.trace.as_ref(), args.summary, is_shared);
    if source.binder(args) == BinderArg::Kernel {
        return Ok(Binder {
            header: follower,
            recording,
            counters: Arc::default(),
            handling: Arc::default(),
            domain: None,
            guest,
            is_shared,
            of_world: None,
        });
    }
    let profile = match args.binder_profile {
        ProfileArg::Linux6_1 => Profile::Linux6_1,
        ProfileArg::Linux6_12 => Profile::Linux6_12,
        ProfileArg::Linux7_2 => Profile::Linux7_2,
        ProfileArg::Aosp => Profile::Aosp,
    };
    // The counts of a summary need no payloads.
    let trace_payload = args.trace.as_ref().map_or(0, |target| target.payload);
    let lsm = match (args.lsm, source.lsm) {
        (Some(LsmArg::Ask), _) | (None, images::LsmMode::Ask) => LsmMode::Ask,
        (Some(LsmArg::Cache), _) | (None, images::LsmMode::Cache) => LsmMode::Cache,
        (Some(LsmArg::Off), _) | (None, images::LsmMode::Off) => LsmMode::Off,
    };
    let limits = Limits { lsm, trace_payload, ..Limits::default() };
    let faults = args.faults.as_deref().map(|path| load_faults(path, args.seed)).transpose()?;
    if faults.is_some() && is_shared {
        let message =
            "a guest that shares its binder world has no faults of its own: give them to its [domain.NAME]";
        return Err(Failure::new(Code::Usage, message));
    }
    let (domain, of_world) = match world {
        None => {
            let mut domain = Domain::new(limits.clone(), profile);
            domain.set_faults(faults);
            (SharedDomain::new(domain), None)
        }
        Some(member) => {
            member.world.domain(&limits, profile, follower.clone(), machine.engine(), args.seed)?
        }
    };
    if is_shared {
        let handle = machine.handle();
        domain.join(guest, Box::new(move || handle.wake()));
    }
    let recorder: Box<dyn Recorder> = match is_shared {
        false => Box::new(recording.tap()),
        true => Box::new(Recorders::new(&recording, of_world.as_ref())),
    };
    let timing = match args.binder_device {
        BinderDeviceArg::Inline | BinderDeviceArg::Tight | BinderDeviceArg::Failing => Timing::Inline,
        BinderDeviceArg::Late | BinderDeviceArg::TightLate => {
            let handle = machine.handle();
            Timing::Late { seed: args.seed, waker: Box::new(move || handle.wake()) }
        }
    };
    let trouble = Trouble {
        tight: matches!(args.binder_device, BinderDeviceArg::Tight | BinderDeviceArg::TightLate),
        fails_after: (args.binder_device == BinderDeviceArg::Failing).then_some(2000),
    };
    let turns = machine.handle();
    let device = BinderDevice::new(domain.clone(), guest, &limits, timing, recorder)
        .with(trouble)
        .with_turns(Box::new(move || turns.wake()));
    let (counters, handling) = (device.counters(), device.handling());
    machine.add_virtio(Box::new(device)).map_err(machine_failure)?;
    Ok(Binder {
        header: follower,
        recording,
        counters,
        handling,
        domain: Some(domain),
        guest,
        is_shared,
        of_world,
    })
}
