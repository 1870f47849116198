//! What a guest begins with: a built image, a kernel of the user's own, or a snapshot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::events::Start;
use images::{Cache, Digest, Image};
use machine::{ClockMode, Kind, Labels, Snapshot};

use crate::args::{BinderArg, RunArgs};
use crate::exit::{Code, Failure};
use crate::snapshot::{self, labels};

/// The clock of a guest whose build date is not known: 2024-01-01, so that its certificates and
/// file dates make sense.
const SOME_DATE: Duration = Duration::from_secs(1_704_067_200);

/// What a guest begins with.
pub struct Source {
    origin: Origin,
    /// When it was built, since 1970.
    pub build_date: Duration,
    /// Name of the image, if it is one.
    pub image_name: Option<String>,
    /// The hash of all that went into the image.
    pub image_digest: Option<String>,
    /// When the image wants its security module to be asked.
    pub lsm: images::LsmMode,
}

enum Origin {
    Boot {
        /// An ELF `vmlinux`.
        kernel: PathBuf,
        initrd: Option<PathBuf>,
        command_line: String,
    },
    Restore(Snapshot),
}

impl Source {
    /// Finds what the arguments name.
    pub fn find(args: &RunArgs) -> Result<Source, Failure> {
        if let Some(path) = &args.from {
            return Source::snapshot(path);
        }
        match (&args.image, &args.kernel) {
            (Some(image), _) => {
                let image = images::open(image)
                    .map_err(|error| Failure::because(Code::Image, "cannot open the image", error))?;
                Ok(Source::image(image))
            }
            (None, Some(kernel)) => {
                let kernel = vmlinux(kernel)?;
                let command_line = String::new();
                let origin = Origin::Boot { kernel, initrd: args.initrd.clone(), command_line };
                let lsm = images::LsmMode::default();
                Ok(Source { origin, build_date: SOME_DATE, image_name: None, image_digest: None, lsm })
            }
            (None, None) => Err(Failure::new(Code::Usage, "name an image or a --kernel")),
        }
    }

    fn image(image: Image) -> Source {
        let (kernel, initrd) = (image.vmlinux(), Some(image.initramfs()));
        let manifest = image.manifest;
        Source {
            origin: Origin::Boot { kernel, initrd, command_line: manifest.command_line },
            build_date: Duration::from_secs(manifest.build_date),
            image_digest: Some(manifest.image.to_string()),
            image_name: Some(manifest.name),
            lsm: manifest.lsm,
        }
    }

    fn snapshot(path: &Path) -> Result<Source, Failure> {
        let snapshot = snapshot::open(path)?;
        let labels = &snapshot.header().labels;
        Ok(Source {
            build_date: SOME_DATE,
            image_name: labels.get(labels::IMAGE).cloned(),
            image_digest: labels.get(labels::DIGEST).cloned(),
            lsm: images::LsmMode::default(),
            origin: Origin::Restore(snapshot),
        })
    }

    /// What the guest begins with, by its content.
    pub fn identity(&self) -> io::Result<String> {
        let hash = |path: &Path| fs::read(path).map(|bytes| Digest::of(&bytes).to_string());
        match &self.origin {
            Origin::Restore(snapshot) => {
                let header = snapshot.header();
                Ok(format!("snapshot {} {}", header.state.sha256, header.memory.sha256))
            }
            Origin::Boot { kernel, initrd, .. } => match (&self.image_digest, initrd) {
                (Some(digest), _) => Ok(format!("image {digest}")),
                (None, Some(initrd)) => Ok(format!("kernel {}, initrd {}", hash(kernel)?, hash(initrd)?)),
                (None, None) => Ok(format!("kernel {}", hash(kernel)?)),
            },
        }
    }

    /// The snapshot that the guest goes on from.
    pub fn restores(&self) -> Option<&Snapshot> {
        match &self.origin {
            Origin::Boot { .. } => None,
            Origin::Restore(snapshot) => Some(snapshot),
        }
    }

    /// How the machine begins.
    pub fn start(&self, args: &RunArgs) -> machine::Start {
        match &self.origin {
            Origin::Boot { kernel, initrd, command_line } => machine::Start::Boot {
                kernel: kernel.clone(),
                initrd: initrd.clone(),
                cmdline: self.command_line(args, command_line),
            },
            Origin::Restore(snapshot) => machine::Start::Restore(snapshot.clone()),
        }
    }

    /// Memory in bytes, and CPUs.
    pub fn size(&self, args: &RunArgs) -> (u64, u8) {
        let saved = self.restores().map(|snapshot| (snapshot.header().memory_bytes, snapshot.header().cpus));
        saved.unwrap_or((args.memory.0, args.cpus))
    }

    /// Which binder driver the guest has.
    pub fn binder(&self, args: &RunArgs) -> BinderArg {
        match self.restores().map(|snapshot| snapshot.header().labels.get(labels::BINDER)) {
            None => args.binder,
            Some(Some(driver)) if driver == labels::KERNEL => BinderArg::Kernel,
            Some(_) => BinderArg::Host,
        }
    }

    /// What a snapshot of this run's guest says about it.
    pub fn labels(&self, args: &RunArgs) -> Labels {
        let binder = match self.binder(args) {
            BinderArg::Host => labels::HOST,
            BinderArg::Kernel => labels::KERNEL,
        };
        let mut labels = Labels::from([(labels::BINDER.to_owned(), binder.to_owned())]);
        let mut put = |name: &str, text: Option<String>| {
            labels.extend(text.map(|text| (name.to_owned(), text)));
        };
        put(labels::IMAGE, self.image_name.clone());
        put(labels::DIGEST, self.image_digest.clone());
        // Commands may be as long as Linux allows; a header is not.
        let command = args.command.join(" ").chars().take(200).collect::<String>();
        put(labels::COMMAND, Some(command).filter(|command| !command.is_empty()));
        labels
    }

    /// What is told of the guest when it begins.
    pub fn start_event(&self, args: &RunArgs, engine: Kind, clock: ClockMode) -> Start {
        let clock = match clock {
            ClockMode::Virtual => "virtual",
            ClockMode::Host => "host",
        };
        let (memory, cpus) = self.size(args);
        Start {
            guest: args.guest_name(),
            pid: std::process::id(),
            image: self.image_name.clone(),
            engine: engine.to_string(),
            clock: clock.to_owned(),
            memory,
            cpus,
            restored: self.restores().is_some(),
        }
    }

    /// Images have our agent inside; anything else is on its own.
    pub fn has_agent(&self) -> bool {
        self.image_name.is_some()
    }

    /// The kernel command line of this run: the image's, and what this run adds.
    fn command_line(&self, args: &RunArgs, own: &str) -> String {
        let binder = match args.binder {
            _ if !self.has_agent() => None,
            BinderArg::Host => Some("bindervm.binder=host"),
            BinderArg::Kernel => Some("bindervm.binder=kernel"),
        };
        // The modules that this run's devices need, and what is to be mounted; see the agent's README.
        let mut load = vec!["bindervm.load=panic"];
        load.extend((!args.disk.is_empty()).then_some("disk"));
        load.extend((!args.share.is_empty()).then_some("share"));
        load.extend(args.vsock.is_some().then_some("vsock"));
        let load = self.has_agent().then(|| load.join(","));
        let share = super::share::command_line(args).filter(|_| self.has_agent());
        let parts = [Some(own), binder, load.as_deref(), share.as_deref(), args.append.as_deref()];
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
