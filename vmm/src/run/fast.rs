//! `--fast`: guests go on from a snapshot of the booted image, which the first one makes.
//!
//! The snapshot is named by a hash of everything that went into it, so it is never stale: another image,
//! another build of bindervm or another option of the guest is another name. Who finds none boots the
//! image in a process of its own; who comes meanwhile waits for that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use images::{Cache, Digest};
use machine::{FORMAT, Kind};
use rustix::fs::{FlockOperation, flock};

use super::source::Source;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// Snapshots that are kept of an image of one name; each takes about 100 MB.
const KEPT: usize = 4;

/// The arguments of a run that goes on from the snapshot of the booted image. `None`: there is no such
/// thing, and the image is to be booted.
pub fn prepare(args: &RunArgs) -> Result<Option<RunArgs>, Failure> {
    if super::choose_engine(args.engine)? == Kind::Kvm {
        eprintln!("bindervm: --fast: a guest on KVM cannot be saved; booting");
        return Ok(None);
    }
    let source = Source::find(args)?;
    let name = source.image_name.clone().unwrap_or_default();
    let key =
        key(args, &source).map_err(|e| Failure::because(Code::Internal, "cannot read this program", e))?;
    let no_cache = || Failure::new(Code::Internal, "neither XDG_CACHE_HOME nor HOME names a folder");
    let folder = Cache::of_user().ok_or_else(no_cache)?.root().join("snapshots");
    let path = folder.join(format!("{name}-{key}.snapshot"));
    if !path.exists() {
        let unwritable =
            |e| Failure::because(Code::Internal, format!("cannot write {}", folder.display()), e);
        fs::create_dir_all(&folder).map_err(unwritable)?;
        let lock = File::create(folder.join(format!("{name}-{key}.lock"))).map_err(unwritable)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| unwritable(e.into()))?;
        // Somebody else may have made it meanwhile.
        if !path.exists() {
            boot(args, &path)?;
            forget_old(&folder, &name, &path);
        }
    }
    // What the saved guest has is not to be asked for again.
    Ok(Some(RunArgs { image: None, fast: false, from: Some(path), ..args.clone() }))
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

/// Boots the image and saves it when it is up.
fn boot(args: &RunArgs, path: &Path) -> Result<(), Failure> {
    let Some(image) = &args.image else { return Err(Failure::new(Code::Usage, "--fast needs an image")) };
    eprintln!("bindervm: booting {image} once, for all that go on from there");
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
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let ended = ended.map_err(|e| Failure::because(Code::Internal, "cannot start this program", e))?;
    if ended.success() && path.exists() {
        return Ok(());
    }
    Err(Failure::new(Code::BootFailed, "the image could not be booted and saved; its reason stands above"))
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
        // It is a cache: what stays, stays.
        let _ = fs::remove_file(path.with_extension("lock"));
        let _ = fs::remove_file(path);
    }
}
