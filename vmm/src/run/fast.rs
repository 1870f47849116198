//! `--fast`: guests go on from a snapshot of the booted image, which the first one makes.
//!
//! The snapshot is named by a hash of everything that went into it, so it is never stale: another image,
//! another build of bindervm or another option of the guest is another name. Who finds none boots the
//! image in a process of its own; who comes meanwhile waits for that. A lock beside each snapshot is held,
//! exclusively while it is made and shared while a run goes on from it, so that none that is in use is
//! thrown away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use clap::ValueEnum;
use images::{Cache, Digest};
use machine::{FORMAT, Kind};
use rustix::fs::{FlockOperation, flock};

use super::source::Source;
use super::standing::Voice;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// Snapshots that are kept of an image of one name, beside those in use; each takes about 100 MB.
const KEPT: usize = 4;

/// Ending of the file that is locked for the snapshot beside it. It stays: to remove it would be to give
/// two processes two locks.
const LOCK: &str = "lock";

/// A run that goes on from the snapshot of the booted image.
pub struct Fast {
    /// Its arguments.
    pub args: RunArgs,
    /// Held for as long as the run uses the snapshot.
    _in_use: File,
}

/// What is run instead of booting. `None`: there is no such thing, and the image is to be booted.
pub fn prepare(args: &RunArgs, voice: &Voice) -> Result<Option<Fast>, Failure> {
    if super::prepare::choose_engine(args.engine, voice)? == Kind::Kvm {
        voice.say("--fast: a guest on KVM cannot be saved; booting");
        return Ok(None);
    }
    let source = Source::find(args)?;
    let name = source.image_name.clone().unwrap_or_default();
    let key =
        key(args, &source).map_err(|e| Failure::because(Code::Internal, "cannot read this program", e))?;
    let no_cache = || Failure::new(Code::Internal, "neither XDG_CACHE_HOME nor HOME names a folder");
    let folder = Cache::of_user().ok_or_else(no_cache)?.root().join("snapshots");
    let path = folder.join(format!("{name}-{key}.snapshot"));
    let unwritable =
        |e: io::Error| Failure::because(Code::Internal, format!("cannot write {}", folder.display()), e);
    let lock = match fs::create_dir_all(&folder).and_then(|()| File::create(path.with_extension(LOCK))) {
        Ok(lock) => lock,
        // In a container the cache often is another user's, or the file system cannot be written.
        Err(error) => {
            voice.say(format_args!("--fast: cannot write {}: {error}; booting", folder.display()));
            return Ok(None);
        }
    };
    let wait = |how| flock(&lock, how).map_err(|e| unwritable(e.into()));
    wait(FlockOperation::LockShared)?;
    if !path.exists() {
        wait(FlockOperation::LockExclusive)?;
        // Somebody else may have made it meanwhile.
        if !path.exists() {
            if let Made::NotSaved(why) = boot(args, &path, voice)? {
                voice.say(format_args!("--fast: {why}; booting"));
                return Ok(None);
            }
            forget_old(&folder, &name, &path);
        }
        wait(FlockOperation::LockShared)?;
    }
    // The age of a snapshot is the time since it was of use. One that stays older is only forgotten sooner.
    let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
    // What the saved guest has is not to be asked for again.
    let args = RunArgs { image: None, fast: false, from: Some(path), ..args.clone() };
    Ok(Some(Fast { args, _in_use: lock }))
}

/// Everything that decides what the snapshot will be. The seed and the clock are the restored run's.
fn key(args: &RunArgs, source: &Source) -> io::Result<String> {
    let program = fs::metadata("/proc/self/exe")?;
    let what = format!(
        "{FORMAT} {:?} {} {} {} {:?} {} {} {} {} {}",
        source.image_digest,
        program.len(),
        program.mtime(),
        program.mtime_nsec(),
        args.append,
        args.memory,
        args.cpus,
        value(args.binder),
        value(args.binder_profile),
        value(args.binder_device),
    );
    Ok(Digest::of(what.as_bytes()).short())
}

/// An option's value as it is written.
fn value(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Whether there is a snapshot now.
enum Made {
    Saved,
    /// The image came up, but could not be saved; in words.
    NotSaved(String),
}

/// Boots the image and saves it when it is up.
fn boot(args: &RunArgs, path: &Path, voice: &Voice) -> Result<Made, Failure> {
    let Some(image) = &args.image else { return Err(Failure::new(Code::Usage, "--fast needs an image")) };
    voice.say(format_args!("booting {image} once, for all that go on from there"));
    let own = std::env::current_exe();
    let own = own.map_err(|e| Failure::because(Code::Internal, "cannot find this program", e))?;
    let mut command = Command::new(own);
    command.args(["run", image, "--engine", "soft", "--clock", "virtual", "--snapshot-to"]).arg(path);
    command.args(["--memory", &args.memory.to_string(), "--cpus", &args.cpus.to_string()]);
    command.args(["--binder", &value(args.binder), "--binder-profile", &value(args.binder_profile)]);
    command.args(["--binder-device", &value(args.binder_device), "--cpu-jit", &value(args.cpu_jit)]);
    command.args(["--boot-timeout", &format!("{}ms", args.boot_timeout.as_millis())]);
    if let Some(words) = &args.append {
        command.arg(format!("--append={words}"));
    }
    // A boot that fails is looked for where the run's own would be; one that does not is written over.
    if let Some(console) = &args.console_log {
        command.arg("--console-log").arg(console);
    }
    command.args(["--die-with", &std::process::id().to_string()]);
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let ended = ended.map_err(|e| Failure::because(Code::Internal, "cannot start this program", e))?;
    if ended.status.success() && path.exists() {
        return Ok(Made::Saved);
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.lines().last().unwrap_or("it says nothing");
    let said = said.strip_prefix("bindervm: ").unwrap_or(said);
    match ended.status.code().and_then(|code| Code::of_exit(u8::try_from(code).ok()?)) {
        // An agent that is too old, a full disk: what a cache is no help for.
        Some(Code::Internal | Code::Usage) => Ok(Made::NotSaved(said.to_owned())),
        code => {
            let code = code.unwrap_or(Code::BootFailed);
            Err(Failure::new(code, format!("cannot boot {image} to save it: {said}")))
        }
    }
}

/// Removes all but the latest snapshots of an image. Who uses one keeps what is open.
fn forget_old(folder: &Path, name: &str, newest: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let of_image = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        let key = file.strip_suffix(".snapshot").and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
        key.is_some_and(|key| !key.contains('-')) && path != newest
    };
    let mut old: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(of_image)
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    old.sort();
    let spare = old.len().saturating_sub(KEPT - 1);
    for (_, path) in old.into_iter().take(spare) {
        let Ok(lock) = File::create(path.with_extension(LOCK)) else { continue };
        // A guest that goes on from it holds the lock. It is a cache: what stays, stays.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}
