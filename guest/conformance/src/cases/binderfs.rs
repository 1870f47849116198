//! binderfs: mounts, binder-control, names. Played when they are asked for: most kernels have no binderfs.
//!
//! The files are looked at by this process itself; actors open the devices.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::Case;
use crate::actor::Actor;
use crate::commands;
use crate::stream::call;
use crate::transcript;
use crate::world::{MAP_SIZE, Result, World, unexpected};

pub const CASES: &[Case] = &[
    Case { name: "binderfs-mount", covers: "B386, B388, B389, B395, B406", play: mounted },
    Case { name: "binderfs-options", covers: "B390, B391, B393, B394, B395", play: options },
    Case { name: "binderfs-add", covers: "B400, B401, B402, B403, B404, B406", play: add },
    Case { name: "binderfs-max", covers: "B390, B392, B394", play: max },
    Case { name: "binderfs-control", covers: "B401, B405", play: control },
    Case { name: "binderfs-names", covers: "B409, B410, B411, B412", play: names },
    Case { name: "binderfs-minors", covers: "B406, B407", play: minors },
    Case { name: "binderfs-features", covers: "B413, B414", play: features },
    Case { name: "binderfs-worlds", covers: "B387, B410", play: worlds },
    Case { name: "binderfs-umount", covers: "B397", play: umount },
    Case { name: "binderfs-userns", covers: "B386, B393, B396, B408", play: userns },
    Case { name: "binderfs-logs", covers: "B393, B415, B416, B417, B418", play: logs },
];

/// BINDER_CTL_ADD (B400).
const CTL_ADD: u64 = 0xc108_6201;

/// The result of a call of libc, with errno in the sign.
fn outcome(value: i32) -> i64 {
    if value < 0 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { value.into() }
}

fn of_io<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "0".into(),
        Err(error) => transcript::result(-i64::from(error.raw_os_error().unwrap_or(0))),
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("names in cases have no NUL")
}

/// A mount of binderfs, taken away with its folder when it is dropped.
struct Mount<'w> {
    world: &'w World,
    /// In /dev, so that actors can open `NAME/binder`.
    name: &'static str,
}

impl<'w> Mount<'w> {
    /// Mounts binderfs and prints how that went.
    fn new(world: &'w World, name: &'static str, options: &str) -> Result<Self> {
        let mount = Self { world, name };
        if let Err(error) = fs::create_dir_all(mount.path("")) {
            return unexpected(format!("/dev/{name}: {error}"));
        }
        mount.again(options, 0);
        Ok(mount)
    }

    fn again(&self, options: &str, flags: u64) -> i64 {
        let (path, data) = (c_string(&self.path("")), c_string(options));
        let binder = c"binder".as_ptr();
        // SAFETY: NUL-terminated strings that live through the call.
        let result =
            outcome(unsafe { libc::mount(binder, path.as_ptr(), binder, flags, data.as_ptr().cast()) });
        let what = if flags & libc::MS_REMOUNT != 0 { "remount" } else { "mount" };
        self.world.line(self.name, &format!("{what} -o {options:?} -> {}", transcript::result(result)));
        result
    }

    fn umount(&self, flags: i32) -> i64 {
        let path = c_string(&self.path(""));
        // SAFETY: a NUL-terminated string.
        let result = outcome(unsafe { libc::umount2(path.as_ptr(), flags) });
        self.world.line(self.name, &format!("umount flags={flags} -> {}", transcript::result(result)));
        result
    }

    fn path(&self, file: &str) -> String {
        if file.is_empty() { format!("/dev/{}", self.name) } else { format!("/dev/{}/{file}", self.name) }
    }

    fn say(&self, what: &str) {
        self.world.line(self.name, what);
    }

    /// Prints name, type, mode and owner of everything in a folder. `numbers`: inodes and minors, too.
    fn list(&self, folder: &str, numbers: bool) {
        list(self.world, self.name, Path::new(&self.path(folder)), numbers);
    }

    /// The options of /proc/mounts.
    fn shown(&self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let path = self.path("");
        for line in mounts.lines().filter(|line| line.split(' ').nth(1) == Some(&path)) {
            self.say(&format!("/proc/mounts: {}", line.split(' ').skip(2).collect::<Vec<_>>().join(" ")));
        }
    }

    /// BINDER_CTL_ADD.
    fn add(&self, name: &[u8]) -> i64 {
        let shown = String::from_utf8_lossy(&name[..name.len().min(20)]).into_owned();
        let mut request = [0u8; 264];
        request[..name.len()].copy_from_slice(name);
        let control = fs::OpenOptions::new().read(true).open(self.path("binder-control"));
        let control = match control {
            Ok(control) => control,
            Err(error) => {
                self.say(&format!("binder-control -> {}", of_io::<()>(Err(error))));
                return -1;
            }
        };
        // SAFETY: the argument has the 264 bytes of struct binderfs_device.
        let result = outcome(unsafe { libc::ioctl(control.as_raw_fd(), CTL_ADD as _, request.as_mut_ptr()) });
        let number = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let told = if number(256) == 0 { "no numbers" } else { "numbers" };
        self.say(&format!(
            "CTL_ADD {shown:?} of {} bytes -> {}, {told}",
            name.len(),
            transcript::result(result)
        ));
        if result < 0 { result } else { number(260).into() }
    }

    fn try_path(&self, what: &str, result: io::Result<()>) {
        self.say(&format!("{what} -> {}", of_io(result)));
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let path = c_string(&self.path(""));
        // SAFETY: a NUL-terminated string.
        while unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {}
        let _ = fs::remove_dir(self.path(""));
    }
}

fn list(world: &World, who: &str, folder: &Path, numbers: bool) {
    let Ok(entries) = fs::read_dir(folder) else { return world.line(who, "no such folder") };
    let mut entries: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    entries.sort();
    for name in entries {
        let Ok(data) = fs::symlink_metadata(folder.join(&name)) else { continue };
        let kind = match data.file_type() {
            kind if kind.is_dir() => "dir",
            kind if kind.is_char_device() => "char",
            _ => "file",
        };
        let devices = numbers && kind == "char" && name != "binder-control";
        let device = if devices {
            format!(" inode-minor={}", data.ino() as i64 - i64::from(libc::minor(data.rdev())))
        } else {
            String::new()
        };
        let (mode, uid, gid) = (data.permissions().mode() & 0o7777, data.uid(), data.gid());
        world.line(who, &format!("{kind} {mode:o} {uid}:{gid} {}{device}", name.to_string_lossy()));
    }
}

fn mounted(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    let path = c_string(&mount.path(""));
    // SAFETY: zeros are a valid statfs, which the call fills.
    let (result, statfs) = unsafe {
        let mut statfs: libc::statfs = std::mem::zeroed();
        (outcome(libc::statfs(path.as_ptr(), &raw mut statfs)), statfs)
    };
    mount.say(&format!("statfs -> {} type {:#x}", transcript::result(result), statfs.f_type));
    let root = fs::metadata(mount.path("")).map(|data| (data.ino(), data.permissions().mode()));
    mount.say(&format!("root: {:?}", root.ok()));
    let control = fs::metadata(mount.path("binder-control")).map(|data| data.ino());
    mount.say(&format!("binder-control: {:?}", control.ok()));
    mount.list("", true);
    mount.shown();
    Ok(())
}

fn options(world: &World) -> Result {
    for options in ["max=2", "max=-1", "max=1048577", "max=x", "max=", "stats=none", "foo", "foo=1", "stats"]
    {
        Mount::new(world, "bfs", options)?;
    }
    for options in ["max=3", "max=1048576", "stats=global,max=9", "max=4,max=5"] {
        let mount = Mount::new(world, "bfs", options)?;
        mount.shown();
    }
    let mount = Mount::new(world, "bfs", "max=7")?;
    mount.again("max=1", libc::MS_REMOUNT);
    mount.shown();
    mount.again("max=9,stats=global", libc::MS_REMOUNT);
    mount.again("", libc::MS_REMOUNT);
    mount.shown();
    drop(mount);
    let mount = Mount::new(world, "bfs", "stats=global")?;
    mount.again("max=4", libc::MS_REMOUNT);
    mount.again("max=4,stats=global", libc::MS_REMOUNT);
    mount.shown();
    Ok(())
}

fn add(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    for name in [&b"one"[..], b"one", b"binder", b"binder-control", b"features"] {
        mount.add(name);
    }
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"with space", b"with\nline", b"...", b".hidden"] {
        mount.add(name);
    }
    mount.add(&[b'x'; 255]);
    mount.add(&[b'y'; 256]);
    mount.list("", true);
    let actor = world.spawn("A")?;
    let opened = actor.ask(libc::SYS_getpid, &[])?;
    if opened <= 0 {
        return unexpected("no pid");
    }
    actor.use_device("bfs/one", MAP_SIZE)?;
    actor.ioctl("VERSION", crate::uapi::ioctl::VERSION, &[0; 4])?;
    Ok(())
}

fn max(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "max=4")?;
    mount.add(b"one");
    mount.add(b"two");
    mount.try_path("unlink one", fs::remove_file(mount.path("one")));
    mount.add(b"two");
    mount.add(b"three");
    mount.try_path("unlink hwbinder", fs::remove_file(mount.path("hwbinder")));
    mount.add(b"three");
    mount.again("max=1", libc::MS_REMOUNT);
    mount.add(b"four");
    mount.again("max=5", libc::MS_REMOUNT);
    mount.add(b"four");
    mount.add(b"five");
    Ok(())
}

fn control(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    let a = world.spawn("A")?;
    let fd = a.open("bfs/binder-control")? as u64;
    a.ioctl("VERSION", crate::uapi::ioctl::VERSION, &[0; 4])?;
    a.ioctl_at("CTL_ADD at 0", CTL_ADD as u32, 0)?;
    a.ioctl("CTL_ADD of 8 bytes", 0xc008_6201, &[0; 8])?;
    a.sys("read", libc::SYS_read, &[fd, a.mem, 4])?;
    a.sys("write", libc::SYS_write, &[fd, a.mem, 4])?;
    a.mmap(MAP_SIZE, libc::PROT_READ, libc::MAP_PRIVATE, 0)?;
    a.sys("lseek", libc::SYS_lseek, &[fd, 0, libc::SEEK_SET as u64])?;
    let poll =
        a.place(&[(fd as u32).to_le_bytes(), u32::from(libc::POLLIN as u16).to_le_bytes()].concat())?;
    a.sys("poll", libc::SYS_poll, &[poll, 1, 0])?;
    mount.try_path(
        "chmod 666",
        fs::set_permissions(mount.path("binder-control"), fs::Permissions::from_mode(0o666)),
    );
    mount.list("", false);
    Ok(())
}

fn names(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    let path = |name: &str| mount.path(name);
    mount.try_path("unlink binder-control", fs::remove_file(path("binder-control")));
    mount.try_path("rename binder-control", fs::rename(path("binder-control"), path("x")));
    mount.try_path("rename onto binder-control", fs::rename(path("binder"), path("binder-control")));
    mount.try_path("rename binder to x", fs::rename(path("binder"), path("x")));
    mount.try_path("rename hwbinder onto x", fs::rename(path("hwbinder"), path("x")));
    mount.try_path("rename out", fs::rename(path("x"), "/tmp/x"));
    mount.try_path("mkdir", fs::create_dir(path("d")));
    mount.try_path("symlink", std::os::unix::fs::symlink("x", path("l")));
    mount.try_path("link", fs::hard_link(path("x"), path("y")));
    mount.try_path("rmdir features", fs::remove_dir(path("features")));
    let create = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path("f"));
    mount.try_path("open with O_CREAT", create.map(|_| ()));
    let fifo = c_string(&path("p"));
    // SAFETY: a NUL-terminated string.
    let made = outcome(unsafe { libc::mknod(fifo.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)) });
    mount.say(&format!("mknod -> {}", transcript::result(made)));
    mount.try_path("chmod x", fs::set_permissions(path("x"), fs::Permissions::from_mode(0o622)));
    mount.try_path("chown x", std::os::unix::fs::chown(path("x"), Some(7), Some(8)));
    mount.try_path("unlink a feature", fs::remove_file(path("features/extended_error")));
    mount.try_path("rename features", fs::rename(path("features"), path("other")));
    mount.list("", false);
    mount.add(b"binder");
    Ok(())
}

/// A minor is free when the last file of its device is closed.
fn minors(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    let a = world.spawn("A")?;
    let first = mount.add(b"one");
    a.open("bfs/one")?;
    mount.try_path("unlink one", fs::remove_file(mount.path("one")));
    let second = mount.add(b"two");
    mount.say(&format!("the minor of the open device was given again: {}", first == second));
    a.sys("close", libc::SYS_close, &[a.device() as u64])?;
    world.settle();
    let third = mount.add(b"three");
    mount.say(&format!("after the close: {}", first == third));
    let other = Mount::new(world, "bfs2", "")?;
    let fourth = other.add(b"one");
    mount.say(&format!("minors differ over mounts: {}", ![first, second, third].contains(&fourth)));
    Ok(())
}

fn features(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    mount.list("features", false);
    for name in ["oneway_spam_detection", "extended_error", "freeze_notification"] {
        let text = fs::read_to_string(mount.path(&format!("features/{name}")));
        mount.say(&format!("{name}: {:?}", text.ok()));
    }
    Ok(())
}

fn worlds(world: &World) -> Result {
    let first = Mount::new(world, "bfs", "")?;
    let _second = Mount::new(world, "bfs2", "")?;
    world.manager_on("M", "bfs/binder", MAP_SIZE)?;
    let c = world.process_on("C", "bfs2/binder", MAP_SIZE)?;
    let d = world.process_on("D", "bfs/binder", MAP_SIZE)?;
    let h = world.process_on("H", "bfs/hwbinder", MAP_SIZE)?;
    for actor in [&c, &d, &h] {
        actor.wr(commands![call(0, 1).oneway()])?;
    }
    first.try_path("rename binder to x", fs::rename(first.path("binder"), first.path("x")));
    let e = world.process_on("E", "bfs/x", MAP_SIZE)?;
    e.wr(commands![call(0, 1).oneway()])?;
    first.try_path("unlink x", fs::remove_file(first.path("x")));
    d.wr(commands![call(0, 1).oneway()])?;
    first.add(b"binder");
    let f = world.process_on("F", "bfs/binder", MAP_SIZE)?;
    f.wr(commands![call(0, 1).oneway()])?;
    f.become_manager()?;
    Ok(())
}

fn umount(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "")?;
    let m = world.manager_on("M", "bfs/binder", MAP_SIZE)?;
    let c = world.process_on("C", "bfs/binder", MAP_SIZE)?;
    mount.umount(0);
    mount.umount(libc::MNT_DETACH);
    mount.list("", false);
    c.wr(commands![call(0, 1).oneway()])?;
    m.r()?;
    m.kill()?;
    c.wr(commands![call(0, 1).oneway()])?;
    Ok(())
}

/// Mounts in the actor's own mount namespace.
fn mount_as(actor: &Actor<'_>, options: &str) -> Result {
    let binder = actor.place(b"binder\0")?;
    let target = actor.place(b"/dev/bfs\0")?;
    let data = actor.place(&[options.as_bytes(), b"\0"].concat())?;
    actor.sys(&format!("mount -o {options:?}"), libc::SYS_mount, &[binder, target, binder, 0, data])?;
    Ok(())
}

fn userns(world: &World) -> Result {
    // The folder stays there for the namespace.
    let outside = Mount::new(world, "bfs", "max=3")?;
    outside.umount(0);
    let a = world.spawn("A")?;
    let spaces = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
    a.sys("unshare user and mount", libc::SYS_unshare, &[spaces])?;
    let map = |file: &str| fs::write(format!("/proc/{}/{file}", a.pid()), "0 1000 1\n");
    if map("uid_map").and_then(|()| map("gid_map")).is_err() {
        return unexpected("no uid map");
    }
    mount_as(&a, "stats=global")?;
    mount_as(&a, "max=8")?;
    list(world, "seen from outside", Path::new(&format!("/proc/{}/root/dev/bfs", a.pid())), false);
    let other = a.open("bfs/binder-control");
    world.note(&format!("without an identity there: {}", other.is_ok()));
    a.sys("setresgid 0", libc::SYS_setresgid, &[0, 0, 0])?;
    a.sys("setresuid 0", libc::SYS_setresuid, &[0, 0, 0])?;
    a.open("bfs/binder-control")?;
    let mut request = [0u8; 264];
    request[..3].copy_from_slice(b"one");
    let address = a.place(&request)?;
    a.sys("CTL_ADD one", libc::SYS_ioctl, &[a.device() as u64, CTL_ADD, address])?;
    list(world, "seen from outside", Path::new(&format!("/proc/{}/root/dev/bfs", a.pid())), false);
    a.use_device("bfs/one", MAP_SIZE)?;
    a.become_manager()?;
    Ok(())
}

fn logs(world: &World) -> Result {
    let mount = Mount::new(world, "bfs", "stats=global")?;
    let other = Mount::new(world, "bfs2", "stats=global")?;
    mount.list("binder_logs", false);
    let a = world.spawn("A")?;
    let entries = |mount: &Mount<'_>| {
        let own = fs::metadata(mount.path(&format!("binder_logs/proc/{}", a.pid()))).is_ok();
        mount.say(if own { "proc/A is there" } else { "proc/A is not there" });
    };
    entries(&mount);
    let first = a.open("bfs/binder")?;
    entries(&mount);
    entries(&other);
    a.open("bfs2/binder")?;
    entries(&other);
    let text = fs::read_to_string(mount.path(&format!("binder_logs/proc/{}", a.pid()))).unwrap_or_default();
    let blocks = text.lines().filter(|line| *line == "binder proc state:").count();
    mount.say(&format!("{blocks} blocks"));
    a.sys("close", libc::SYS_close, &[first as u64])?;
    world.settle();
    entries(&mount);
    let state = fs::read_to_string(other.path("binder_logs/state")).unwrap_or_default();
    other.say(&format!("state covers it: {}", state.contains(&format!("proc {}\n", a.pid()))));
    let debug = fs::read_to_string("/sys/kernel/debug/binder/state").unwrap_or_default();
    other.say(&format!("as debugfs has it: {}", debug == state));
    other.try_path("unlink a log", fs::remove_file(other.path("binder_logs/state")));
    Ok(())
}
