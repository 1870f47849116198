//! Compiling: make runs, kernel modules, programs of ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::create_dir_all;
use crate::debian_kernel::{Headers, path_with_sbin};
use crate::digest::{Digest, DigestBuilder, is_source};
use crate::error::{Failure, Purpose};
use crate::step::{Outcome, Step};

/// Part of every digest here; to be counted up when a step is run in another way.
const WAY: [u8; 1] = [3];

/// The Rust target of the guest.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// A folder given to make as a variable, with the digest of what is in it.
pub(crate) struct InputFolder {
    pub folder: PathBuf,
    pub digest: Digest,
}

/// Runs `make TARGETS` with `makefile` in an empty folder, which it gives back. The folder is named by the
/// digest of all that went in: the makefile's folder, the inputs, the targets.
pub(crate) fn make(
    step: &mut Step<'_>,
    makefile: &Path,
    inputs: &BTreeMap<String, InputFolder>,
    targets: &[String],
    jobs: usize,
) -> Result<Outcome<PathBuf>, Failure> {
    let kit = makefile.parent().unwrap_or(Path::new("/"));
    let mut key = DigestBuilder::default();
    key.add(WAY).add(folder_digest(kit)?);
    for (name, input) in inputs {
        key.add(name).add(input.digest);
    }
    targets.iter().for_each(|target| {
        key.add(target);
    });
    let cache = step.cache;
    let (value, cached) = cache.folder("objects", &key.finish().short(), |folder| {
        let command = || {
            let mut command = Command::new("make");
            command.env("LC_ALL", "C").arg("-C").arg(folder).arg("-f").arg(makefile);
            command.args(inputs.iter().map(|(name, input)| format!("{name}={}", input.folder.display())));
            command.args(targets);
            command
        };
        // The trace has one line per target, so a dry run tells how many there will be.
        let plan = step.output(command().args(["-n", "--trace"]), Purpose::Compile)?;
        let total = plan.lines().filter(|line| is_trace(line)).count().max(1);
        let mut done = 0;
        step.run_with_share(command().arg("--trace").arg(format!("-j{jobs}")), Purpose::Compile, |line| {
            is_trace(line).then(|| {
                done += 1;
                done as f32 / total as f32
            })
        })
    })?;
    Ok(Outcome { value, cached })
}

/// A line of `make --trace` such as `Makefile:40: update target 'o/x.o' due to: x.c`.
fn is_trace(line: &str) -> bool {
    line.contains(": target '") || line.contains(": update target '")
}

/// Builds the kernel module `name` from `folder` against `headers`; gives the stripped `.ko`.
pub(crate) fn kernel_module(
    step: &mut Step<'_>,
    name: &str,
    folder: &Path,
    headers: &Headers,
    jobs: usize,
) -> Result<Outcome<PathBuf>, Failure> {
    let mut key = DigestBuilder::default();
    key.add(WAY).add(name).add(folder_digest(folder)?).add(headers.folder.as_os_str().as_encoded_bytes());
    let cache = step.cache;
    let file = format!("{name}.ko");
    let (built, cached) = cache.folder("objects", &key.finish().short(), |build| {
        let module = build.join(&file);
        // Kbuild writes beside the sources: build a copy.
        copy_sources(folder, build)?;
        let mut make = Command::new("make");
        make.env("LC_ALL", "C").env("PATH", path_with_sbin()).arg("-C").arg(&headers.folder);
        make.arg(format!("M={}", build.display())).arg(format!("-j{jobs}")).arg("modules");
        // No path of this machine gets into the module: equal sources make equal images.
        // The headers' other half stands beside their folder.
        let (headers, build) =
            (headers.folder.parent().unwrap_or(&headers.folder).display(), build.display());
        make.arg(format!("KCFLAGS=-ffile-prefix-map={build}/= -ffile-prefix-map={headers}=headers"));
        step.run(&mut make, Purpose::Compile)?;
        if !module.exists() {
            return Err(Failure::NotProduced {
                what: format!("building {}", folder.display()),
                file: module,
            });
        }
        // Debug information would only take up the guest's memory.
        step.run(Command::new("strip").arg("--strip-debug").arg(&module), Purpose::Compile)
    })?;
    Ok(Outcome { value: built.join(file), cached })
}

/// Builds the program of a cargo package, static.
pub(crate) fn program(
    step: &mut Step<'_>,
    folder: &Path,
    package: &str,
) -> Result<Outcome<PathBuf>, Failure> {
    let target = step.cache.root().join("cargo-target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", package, "--target", GUEST_TARGET]);
    command.arg("--manifest-path").arg(folder.join("Cargo.toml"));
    // With a target given, build scripts and macros are compiled without these flags.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_TERM_COLOR", "never");
    let binary = target.join(GUEST_TARGET).join("release").join(package);
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let before = time(&binary);
    step.run(&mut command, Purpose::Compile)?;
    if !binary.exists() {
        return Err(Failure::NotProduced { what: format!("building {package}"), file: binary });
    }
    let cached = before.is_some() && before == time(&binary);
    Ok(Outcome { value: binary, cached })
}

/// Digest of a source folder.
pub(crate) fn folder_digest(folder: &Path) -> Result<Digest, Failure> {
    Digest::of_folder(folder).map_err(|source| Failure::file("read", folder, source))
}

/// Copies the sources of `from`, folders and all, into the existing folder `to`.
fn copy_sources(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::file("copy", from, source);
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !is_source(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let place = to.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            create_dir_all(&place)?;
            copy_sources(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), &place).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::error::BuildError;
    use crate::progress::{Event, Progress};
    use crate::step::Steps;

    fn run_make(cache: &Cache, makefile: &Path, progress: &mut dyn Progress) -> Result<PathBuf, BuildError> {
        Steps::new(cache, progress)
            .run("compile test", "", |step| make(step, makefile, &BTreeMap::new(), &["all".into()], 1))
    }

    #[test]
    fn make_runs_once_and_again_when_its_input_changes() {
        if Command::new("make").arg("--version").output().is_err() {
            eprintln!("skipped: make is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let kit = folder.path().join("kit");
        fs::create_dir(&kit).unwrap();
        let makefile = kit.join("Makefile");
        fs::write(&makefile, "all: a b\na: ; @echo 1 > a\nb: ; @echo 2 > b\n").unwrap();

        let mut shares = Vec::new();
        let mut cached = Vec::new();
        let mut progress = |event: Event<'_>| match event {
            Event::Share(share) => shares.push(share),
            Event::Finished { cached: was, .. } => cached.push(was),
            _ => {}
        };
        let first = run_make(&cache, &makefile, &mut progress).unwrap();
        assert_eq!(fs::read_to_string(first.join("b")).unwrap(), "2\n");
        assert_eq!(run_make(&cache, &makefile, &mut progress).unwrap(), first);
        fs::write(&makefile, "all: a\na: ; @echo 3 > a\n").unwrap();
        assert_ne!(run_make(&cache, &makefile, &mut progress).unwrap(), first);
        assert_eq!(cached, [false, true, false]);
        assert_eq!(shares.len(), 3, "{shares:?}");
        assert_eq!(shares[1], 1.0);
    }

    #[test]
    fn a_failed_make_leaves_only_its_log() {
        if Command::new("make").arg("--version").output().is_err() {
            eprintln!("skipped: make is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache"));
        let kit = folder.path().join("kit");
        fs::create_dir(&kit).unwrap();
        let makefile = kit.join("Makefile");
        fs::write(&makefile, "all: ; @echo no such luck; exit 7\n").unwrap();
        let error = run_make(&cache, &makefile, &mut ()).unwrap_err();
        let BuildError::Step { step, log: Some(log), failure } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(step, "compile test");
        assert!(fs::read_to_string(log).unwrap().contains("no such luck"));
        assert!(failure.to_string().contains("no such luck"), "{failure}");
        assert_eq!(fs::read_dir(cache.root().join("objects")).unwrap().count(), 0);
    }

    #[test]
    fn copies_are_clean() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        for name in ["a.c", "a.o", ".a.o.cmd", "sub/b.h"] {
            fs::write(from.join(name), name).unwrap();
        }
        copy_sources(&from, &to).unwrap();
        assert!(to.join("a.c").exists() && to.join("sub/b.h").exists());
        assert!(!to.join("a.o").exists() && !to.join(".a.o.cmd").exists());
    }
}
