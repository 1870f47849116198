//! What PID 1 does before anything else: file systems, loopback, modules, device nodes.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::config::{Module, SharedFolder};

/// `finit_module`'s flag for a compressed file (Linux `include/uapi/linux/module.h`).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

struct Mount {
    target: &'static str,
    kind: &'static str,
    data: &'static CStr,
    /// The guest is not usable without it; the others depend on the kernel's configuration.
    needed: bool,
}

const MOUNTS: &[Mount] = &[
    Mount { target: "/proc", kind: "proc", data: c"", needed: true },
    Mount { target: "/sys", kind: "sysfs", data: c"", needed: true },
    Mount { target: "/dev", kind: "devtmpfs", data: c"mode=0755", needed: true },
    Mount { target: "/dev/pts", kind: "devpts", data: c"mode=0620,ptmxmode=0666", needed: false },
    Mount { target: "/dev/shm", kind: "tmpfs", data: c"mode=1777", needed: false },
    Mount { target: "/tmp", kind: "tmpfs", data: c"mode=1777", needed: true },
    Mount { target: "/run", kind: "tmpfs", data: c"mode=0755", needed: true },
    Mount { target: "/sys/fs/cgroup", kind: "cgroup2", data: c"", needed: false },
    Mount { target: "/sys/fs/selinux", kind: "selinuxfs", data: c"", needed: false },
    Mount { target: "/sys/kernel/debug", kind: "debugfs", data: c"", needed: false },
];

/// Mounts everything; returns what is missing and should not be.
pub fn mount_all() -> Vec<String> {
    let mut problems = Vec::new();
    for mount in MOUNTS {
        // Exists already in most images. Under /sys it cannot be made, and the mount says so.
        let _ = fs::create_dir(mount.target);
        match rustix::mount::mount(mount.kind, mount.target, mount.kind, MountFlags::empty(), mount.data) {
            // BUSY: the kernel or the initramfs mounted it before us.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) if mount.needed => problems.push(format!("cannot mount {}: {error}", mount.target)),
            Err(_) => {}
        }
    }
    problems
}

/// Makes /dev/console our stdin, stdout and stderr. Fails where the kernel has no console yet.
pub fn attach_console() -> io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

/// Loads one module. A module that is loaded already is no error.
pub fn load_module(module: &Module) -> Result<(), String> {
    let name = &module.path;
    let file = File::open(name).map_err(|error| format!("module {name}: {error}"))?;
    let compressed = name.ends_with(".xz") || name.ends_with(".gz") || name.ends_with(".zst");
    let flags = if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
    match rustix::system::finit_module(&file, &module.params, flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // The file was opened, so it is a symbol that is not there.
        Err(Errno::NOENT) => Err(format!("module {name}: needs a module that is not loaded before it")),
        Err(error) => Err(format!("module {name} ({}): {error}", module.params.to_string_lossy())),
    }
}

/// Mounts a folder of the host, and makes the folder it is mounted on.
pub fn mount_share(share: &SharedFolder<'_>) -> Result<(), String> {
    let SharedFolder { tag, path, read_only } = share;
    let failed = |error: io::Error| format!("share {path}: {error}");
    fs::create_dir_all(path).map_err(failed)?;
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    // One attach for all users; the size is the most that the host's server takes.
    let options = c"trans=virtio,version=9p2000.L,access=any,msize=65560";
    rustix::mount::mount(*tag, *path, "9p", flags, options).map_err(|error| failed(error.into()))
}

/// Makes the kernel call the agent where it would call modprobe.
pub fn answer_module_requests() {
    // A kernel that cannot load modules has no such file, and asks for none.
    let _ = fs::write("/proc/sys/kernel/modprobe", "/init");
}

/// Mounts binderfs at `/dev/binderfs` and makes the names in /dev links into it, as Android's init does. A
/// kernel without binderfs has the devices in /dev itself.
pub fn mount_binderfs(devices: &[String]) -> Result<(), String> {
    const TARGET: &str = "/dev/binderfs";
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.split_ascii_whitespace().next_back() == Some("binder")) {
        return Ok(());
    }
    let failed = |what: &str, error: io::Error| format!("binderfs, {what}: {error}");
    match fs::create_dir(TARGET) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(TARGET, error)),
        _ => {}
    }
    rustix::mount::mount("binder", TARGET, "binder", MountFlags::empty(), c"stats=global")
        .map_err(|error| failed("mount", error.into()))?;
    for name in devices {
        let link = format!("/dev/{name}");
        // The device that the driver may have put there itself.
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&link, error)),
            _ => {}
        }
        std::os::unix::fs::symlink(format!("{TARGET}/{name}"), &link)
            .map_err(|error| failed(&link, error))?;
    }
    Ok(())
}

/// Lets every user open `/dev/NAME`, as Android's ueventd does for binder.
pub fn open_device(name: &str) -> Result<(), String> {
    let path = format!("/dev/{name}");
    fs::set_permissions(&path, Permissions::from_mode(0o666))
        .map_err(|error| format!("device {path}: {error}"))
}

/// Makes `/sys/fs/cgroup/NAME`, as Android's init does for the processes of a user.
pub fn make_cgroup(name: &str) -> Result<(), String> {
    let path = Path::new("/sys/fs/cgroup").join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("cgroup {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Brings the loopback interface up.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain data for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, and `request` lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
