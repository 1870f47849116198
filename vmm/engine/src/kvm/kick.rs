//! Making a thread leave `KVM_RUN`.
//!
//! A flag says that somebody wants the CPU back, and a signal makes `KVM_RUN` return to look at
//! it. The signal alone would be lost when it lands between the look at the flag and the entry
//! into the kernel, so its handler also sets `immediate_exit` in the CPU's shared page, which
//! `KVM_RUN` checks on its way in (KVM API, `struct kvm_run`).

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pthread_t, siginfo_t};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the CPU that this thread runs; null outside of [`KickState::enter`].
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_signal: c_int, _info: *mut siginfo_t, _context: *mut c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: non-null only while `Entered` lives on this thread, which is inside the life of
        // the `VcpuFd` that maps the page; a byte store is what KVM expects there.
        unsafe { flag.write_volatile(1) };
    }
}

/// The kick signal. The first real-time signal is free: nothing here links a library that uses it.
fn kick_signal() -> c_int {
    SIGRTMIN()
}

/// Installs the handler of the kick signal, once in a process.
pub(crate) fn install_handler() -> Result<(), errno::Error> {
    static INSTALLED: OnceLock<Result<(), errno::Error>> = OnceLock::new();
    *INSTALLED.get_or_init(|| register_signal_handler(kick_signal(), on_kick))
}

/// The meeting point of the CPUs' threads and those who kick them.
#[derive(Default)]
pub(crate) struct KickState {
    kicked: AtomicBool,
    /// One CPU has left `run` for good, so all shall.
    leaving: AtomicBool,
    /// The threads that run a CPU.
    runners: Mutex<Vec<pthread_t>>,
}

impl KickState {
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.signal();
    }

    /// True once for any number of kicks.
    pub(crate) fn take(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Tells all CPUs to leave (or that they may run again).
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::SeqCst);
        if leaving {
            self.signal();
        }
    }

    /// Whether another CPU has left.
    pub(crate) fn leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    fn signal(&self) {
        // The lock is held over the calls so that no thread can end between the two.
        for thread in self.runners().iter() {
            // SAFETY: the thread runs a CPU and goes on to do so while the lock is held.
            unsafe { libc::pthread_kill(*thread, kick_signal()) };
        }
    }

    /// Makes this thread one that is signalled, until the returned value is dropped. It must not
    /// outlive `vcpu`; both live in `KvmEngine::run`.
    pub(crate) fn enter<'a>(&'a self, vcpu: &mut VcpuFd) -> Entered<'a> {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        // SAFETY: always succeeds, and has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        self.runners().push(thread);
        Entered { state: self, thread }
    }

    fn runners(&self) -> MutexGuard<'_, Vec<pthread_t>> {
        // Thread handles are valid whatever panicked while they were held.
        self.runners.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A thread runs a CPU.
pub(crate) struct Entered<'a> {
    state: &'a KickState,
    thread: pthread_t,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.state.runners().retain(|thread| *thread != self.thread);
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
