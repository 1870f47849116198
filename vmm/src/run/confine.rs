//! What the process of a guest may still do once the guest runs: see `vmm/THREATS.md`.
//!
//! Everything is set up before: images and disks are open, devices made, the engine chosen. From then
//! on a guest that found a hole in a device would have these system calls, and no new privileges, no
//! other program, no network, and no more memory than the guest may have.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::args::SandboxArg;
use crate::exit::{Code, Failure};

/// Address space beside the guest's RAM: code, heap, stacks, compiled code, overlays of disks.
const SPARE_MEMORY: u64 = 8 << 30;

/// Files that may be open at once: shares, clients of the control socket, and what a run has anyway.
const MAX_FILES: u64 = 4096;

/// Why a process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A limit cannot be set.
    #[error("cannot limit the process")]
    Limit(#[source] rustix::io::Errno),
    /// The kernel does not take the filter.
    #[error("the kernel does not take a system call filter")]
    Filter(#[source] seccompiler::Error),
}

/// Does what `--sandbox` asks for.
pub fn apply(sandbox: SandboxArg, memory: u64) -> Result<(), Failure> {
    match (sandbox, || confine(memory)) {
        (SandboxArg::Off, _) => Ok(()),
        (SandboxArg::On, confine) => confine().map_err(|error| {
            Failure::because(Code::Internal, "cannot confine the process (see --sandbox)", error)
        }),
        (SandboxArg::Auto, confine) => {
            if let Err(error) = confine() {
                eprintln!("bindervm: not confined: {error}");
            }
            Ok(())
        }
    }
}

/// Confines this process, all its threads, for a guest with `memory` bytes of RAM.
fn confine(memory: u64) -> Result<(), ConfineError> {
    // No core dumps: they would hold all of the guest's memory.
    lower(Resource::Core, 0)?;
    lower(Resource::Nofile, MAX_FILES)?;
    lower(Resource::As, memory.saturating_add(SPARE_MEMORY))?;
    // What either filter refuses is refused; the second one has to be the last.
    for filter in [without_clone3(), allow_list()] {
        filter.and_then(|filter| apply_filter_all_threads(&filter)).map_err(ConfineError::Filter)?;
    }
    Ok(())
}

/// Lowers a limit, for good; one that is lower already stays.
fn lower(what: Resource, to: u64) -> Result<(), ConfineError> {
    let now = getrlimit(what);
    let least = |limit: Option<u64>| Some(limit.map_or(to, |limit| limit.min(to)));
    let limits = Rlimit { current: least(now.current), maximum: least(now.maximum) };
    setrlimit(what, limits).map_err(ConfineError::Limit)
}

/// System calls that are allowed with any argument. Threads, files and sockets of the run need them;
/// what is not here fails with EPERM.
const ALLOWED: &[libc::c_long] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    // Files: recordings, reports, snapshots, and folders that are shared with the guest.
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Terminals, and KVM.
    libc::SYS_ioctl,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // The control socket; what kind of socket is judged where it is made.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_memfd_create,
    libc::SYS_membarrier,
    // Threads and signals. (The other filter says that there is no clone3.)
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_arch_prctl,
    libc::SYS_prctl,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_tgkill,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrusage,
    libc::SYS_prlimit64,
    // The time, the weather.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

fn allow_list() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // A thread, never a process.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // The control socket, never the network.
    rules.insert(libc::SYS_socket, vec![argument(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?]);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    compile(SeccompFilter::new(rules, refused, SeccompAction::Allow, TargetArch::x86_64))
}

/// What `clone3` is to do stands in memory, where a filter cannot see it. Told that there is none, the C
/// library takes `clone`.
fn without_clone3() -> Result<BpfProgram, seccompiler::Error> {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    compile(SeccompFilter::new(rules, SeccompAction::Allow, missing, TargetArch::x86_64))
}

fn compile(
    filter: Result<SeccompFilter, seccompiler::BackendError>,
) -> Result<BpfProgram, seccompiler::Error> {
    Ok(filter.and_then(TryInto::try_into)?)
}

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::Error> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value);
    Ok(condition.and_then(|condition| SeccompRule::new(vec![condition]))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Run again as a process of its own: what is confined stays so.
    #[test]
    fn a_confined_process_has_threads_and_files_but_no_programs_and_no_network() {
        if std::env::var_os("BINDERVM_CONFINED").is_none() {
            let name = "run::confine::tests::a_confined_process_has_threads_and_files_but_no_programs_and_no_network";
            let status = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--test-threads=1"])
                .env("BINDERVM_CONFINED", "1")
                .status();
            assert!(status.unwrap().success());
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        confine(1 << 30).unwrap();
        std::thread::spawn(move || std::fs::write(folder.path().join("file"), "x").unwrap()).join().unwrap();
        assert!(Command::new("/bin/true").status().is_err());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        assert!(std::os::unix::net::UnixDatagram::unbound().is_ok());
        // More memory than there may be.
        assert!(Vec::<u8>::new().try_reserve_exact(64 << 30).is_err());
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
    }
}
