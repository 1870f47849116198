//! What can go wrong while building: which step, why, where its log is, and the way on.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use thiserror::Error;

use crate::cpio::CpioError;
use crate::digest::Digest;
use crate::image::ImageError;
use crate::kernel::KernelError;
use crate::modules::ModuleError;
use crate::recipe::RecipeError;

/// A build that did not succeed. Nothing half built is left behind.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The recipe cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A step failed.
    #[error("step '{step}' failed{}\n{}", log_line(.log.as_deref()), .failure.way_on())]
    Step {
        /// The step, as in the progress events.
        step: String,
        /// Output of the programs it ran, if it ran any.
        log: Option<PathBuf>,
        /// Why.
        #[source]
        failure: Box<Failure>,
    },
}

fn log_line(log: Option<&Path>) -> String {
    log.map(|path| format!(" (log: {})", path.display())).unwrap_or_default()
}

/// Why a step failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// Programs or files of the host are missing.
    #[error("missing on this machine: {}", .missing.join(", "))]
    Missing {
        /// Programs and files.
        missing: Vec<String>,
        /// Debian packages that have them.
        packages: Vec<String>,
    },
    /// A program could not be started.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` ended with {status}; it last said:\n{tail}")]
    Command {
        /// The command line, shortened.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        tail: String,
        /// What it was for.
        purpose: Purpose,
    },
    /// The machine's apt configuration leads to no archive with a suite.
    #[error("none of the sources in {etc} is a Debian archive that has {suite}")]
    NoArchive {
        /// apt's configuration folder.
        etc: PathBuf,
        /// The suite.
        suite: String,
    },
    /// apt's index does not have what is needed.
    #[error("{0}")]
    NotInIndex(String),
    /// A file is not what its checksum says.
    #[error("{} has sha256 {got}, expected {want}", .file.display())]
    Checksum {
        /// The file.
        file: PathBuf,
        /// What it has.
        got: Digest,
        /// What was pinned.
        want: Digest,
    },
    /// A replacement of the recipe no longer fits its source.
    #[error("{file}: the text to replace occurs {got} times, the recipe expects {want}:\n{find}")]
    Replacement {
        /// File in the source archive.
        file: String,
        /// Text looked for.
        find: String,
        /// Occurrences found.
        got: usize,
        /// Occurrences expected.
        want: usize,
    },
    /// A step did not make what the recipe wants from it.
    #[error("{what} did not produce {}", .file.display())]
    NotProduced {
        /// The step or package.
        what: String,
        /// The missing file.
        file: PathBuf,
    },
    /// A file of the builder's own could not be read or written.
    #[error("cannot {doing} {}", .path.display())]
    File {
        /// A verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel cannot be unpacked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The image just written does not open.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The modules have no load order.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The initramfs cannot be put together.
    #[error(transparent)]
    Cpio(#[from] CpioError),
}

/// What a program was run for; decides what to advise when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Fetching an index or a file.
    Fetch,
    /// Unpacking what was fetched.
    Unpack,
    /// Compiling.
    Compile,
}

impl Failure {
    pub(crate) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { doing, path: path.to_owned(), source }
    }

    /// What the user can do about it: whole sentences.
    pub fn way_on(&self) -> String {
        const AGAIN: &str = "Then run the same command again; finished steps are not repeated.";
        match self {
            Self::Missing { packages, .. } => {
                let sudo = if is_root() { "" } else { "sudo " };
                let packages = packages.join(" ");
                format!("Run `{sudo}apt-get install --no-install-recommends {packages}` (or ci/setup). {AGAIN}")
            }
            Self::Command { purpose: Purpose::Fetch, .. } => format!(
                "Check the network, a proxy in apt's configuration, and that `apt-get update` works here. {AGAIN}"
            ),
            Self::NotInIndex(_) => format!("If the index is old, build with a refreshed one. {AGAIN}"),
            Self::NoArchive { .. } => {
                format!("Add a Debian archive with component `main` to the machine's apt sources. {AGAIN}")
            }
            Self::Checksum { .. } => {
                "Nothing of it was kept. Run the same command again; if it happens again, the archive has replaced \
                 the file: check why, and correct the recipe."
                    .into()
            }
            Self::Command { purpose: Purpose::Unpack, .. } => {
                format!("If the disk is not full, the download is damaged: empty the cache's downloads folder. {AGAIN}")
            }
            Self::Command { purpose: Purpose::Compile, .. } | Self::NotProduced { .. } | Self::Replacement { .. } => {
                format!("The log has the whole output: correct the recipe or the sources it names. {AGAIN}")
            }
            Self::Spawn { program, .. } => format!("Install {program}, or put it on the PATH. {AGAIN}"),
            Self::File { .. } | Self::Image(_) => {
                format!("Check permissions and free space there. {AGAIN}")
            }
            Self::Kernel(_) | Self::Module(_) | Self::Cpio(_) => {
                format!("Correct the recipe (kernel package, modules, files). {AGAIN}")
            }
        }
    }
}

fn is_root() -> bool {
    // The owner of /proc/self is the effective user of this process.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_give_the_command() {
        let failure =
            Failure::Missing { missing: vec!["clang".into()], packages: vec!["clang".into(), "aidl".into()] };
        assert!(
            failure.way_on().contains("apt-get install --no-install-recommends clang aidl"),
            "{}",
            failure.way_on()
        );
    }

    #[test]
    fn a_failed_step_names_itself_its_log_and_the_way_on() {
        let error = BuildError::Step {
            step: "compile aosp".into(),
            log: Some("/c/logs/compile-aosp.log".into()),
            failure: Box::new(Failure::NotProduced { what: "compile aosp".into(), file: "service".into() }),
        };
        let said = error.to_string();
        assert!(said.starts_with("step 'compile aosp' failed (log: /c/logs/compile-aosp.log)\n"), "{said}");
        assert!(said.contains("run the same command again"), "{said}");
    }
}
