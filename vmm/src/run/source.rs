//! What a run boots: a built image, or a kernel of the user's own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use images::{Cache, Digest, Image};

use crate::args::{BinderArg, RunArgs};
use crate::exit::{Code, Failure};

/// The clock of a guest whose build date is not known: 2024-01-01, so that its certificates and
/// file dates make sense.
const SOME_DATE: Duration = Duration::from_secs(1_704_067_200);

/// Kernel, initramfs and command line.
pub struct Source {
    /// An ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: Option<PathBuf>,
    /// When it was built, since 1970.
    pub build_date: Duration,
    /// Name of the image, if it is one.
    pub image_name: Option<String>,
    command_line: String,
}

impl Source {
    /// Finds what the arguments name.
    pub fn find(args: &RunArgs) -> Result<Source, Failure> {
        match (&args.image, &args.kernel) {
            (Some(image), _) => {
                let image = images::open(image)
                    .map_err(|error| Failure::because(Code::Image, "cannot open the image", error))?;
                Ok(Source::image(image))
            }
            (None, Some(kernel)) => Ok(Source {
                kernel: vmlinux(kernel)?,
                initrd: args.initrd.clone(),
                build_date: SOME_DATE,
                image_name: None,
                command_line: String::new(),
            }),
            (None, None) => Err(Failure::new(Code::Usage, "name an image or a --kernel")),
        }
    }

    fn image(image: Image) -> Source {
        Source {
            kernel: image.vmlinux(),
            initrd: Some(image.initramfs()),
            build_date: Duration::from_secs(image.manifest.build_date),
            image_name: Some(image.manifest.name),
            command_line: image.manifest.command_line,
        }
    }

    /// Images have our agent inside; anything else is on its own.
    pub fn has_agent(&self) -> bool {
        self.image_name.is_some()
    }

    /// The kernel command line of this run.
    pub fn command_line(&self, args: &RunArgs) -> String {
        let binder = match args.binder {
            _ if !self.has_agent() => None,
            BinderArg::Host => Some("bindervm.binder=host"),
            BinderArg::Kernel => Some("bindervm.binder=kernel"),
        };
        // The modules that this run's devices need, and what is to be mounted; see the agent's README.
        let mut load = vec!["bindervm.load=panic"];
        load.extend((!args.disk.is_empty()).then_some("disk"));
        load.extend((!args.share.is_empty()).then_some("share"));
        let load = self.has_agent().then(|| load.join(","));
        let share = super::share::command_line(args).filter(|_| self.has_agent());
        let parts = [
            Some(self.command_line.as_str()),
            binder,
            load.as_deref(),
            share.as_deref(),
            args.append.as_deref(),
        ];
        parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// The ELF kernel for `path`: itself, or what is inside it if it is a bzImage. Unpacking takes a
/// second, so the result is kept in the cache by content.
fn vmlinux(path: &Path) -> Result<PathBuf, Failure> {
    let unreadable =
        |error| Failure::because(Code::Image, format!("cannot read the kernel {}", path.display()), error);
    // Pipes and devices may never end.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is not a regular file")));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    if bytes.starts_with(b"\x7fELF") {
        return Ok(path.to_owned());
    }
    let no_cache = || Failure::new(Code::Internal, "neither XDG_CACHE_HOME nor HOME names a folder");
    let folder = Cache::of_user().ok_or_else(no_cache)?.root().join("kernels");
    let unpacked = folder.join(format!("{}.vmlinux", Digest::of(&bytes)));
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    let elf = images::kernel::extract_vmlinux(&bytes).map_err(|error| {
        let message =
            format!("{} is neither an ELF vmlinux nor a bzImage that can be unpacked", path.display());
        Failure::because(Code::Image, message, error)
    })?;
    let part = folder.join(format!("{}.{}.part", Digest::of(&bytes).short(), std::process::id()));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&part, &elf))
        .and_then(|()| fs::rename(&part, &unpacked))
        .map_err(|error| {
            Failure::because(Code::Internal, format!("cannot write {}", folder.display()), error)
        })?;
    Ok(unpacked)
}
