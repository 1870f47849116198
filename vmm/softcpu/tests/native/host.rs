//! The host's own CPU.

use std::sync::{Mutex, MutexGuard};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::program;
use super::state::{Case, STATE, State, window};

/// There is one window at one address, and tests run on several threads.
static WINDOW: Mutex<()> = Mutex::new(());

/// The window mapped into this process.
pub struct Host {
    _exclusive: MutexGuard<'static, ()>,
    prologue: Vec<u8>,
    epilogue: Vec<u8>,
}

impl Host {
    pub fn new() -> Self {
        // A test that failed while holding it left nothing behind that matters.
        let exclusive = WINDOW.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: NOREPLACE refuses to touch any existing mapping.
        let at = unsafe {
            mmap_anonymous(
                window::BASE as *mut _,
                window::LENGTH,
                ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC,
                MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE,
            )
        }
        .expect("the window can be mapped");
        assert_eq!(at as u64, window::BASE);
        let host =
            Self { _exclusive: exclusive, prologue: program::prologue(), epilogue: program::epilogue() };
        host.put(window::EXIT_CODE, &program::host_exit());
        host.put(window::EXIT, &window::EXIT_CODE.to_le_bytes());
        host
    }

    /// Runs the case to its end. It must not fault.
    pub fn run(&mut self, case: &Case) -> State {
        let code = [&self.prologue[..], &case.code, &self.epilogue].concat();
        self.start(&code, &case.before);
        let mut image = [0; STATE];
        self.get(window::OUTPUT, &mut image);
        let mut scratch = vec![0; window::SCRATCH_LENGTH];
        self.get(window::SCRATCH, &mut scratch);
        State::from_image(&image, scratch)
    }

    /// Runs code that ends at the exit.
    pub fn start(&mut self, code: &[u8], before: &State) {
        self.put(window::BASE, code);
        self.put(window::INPUT, &before.image());
        self.put(window::SCRATCH, &before.scratch);
        // SAFETY: the prologue saves and the exit restores what the calling convention wants
        // kept; the instructions between work on the window only.
        unsafe {
            let entry: extern "sysv64" fn() = std::mem::transmute(window::BASE as *const ());
            entry();
        }
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        assert!(
            address >= window::BASE && address + bytes.len() as u64 <= window::BASE + window::LENGTH as u64
        );
        // SAFETY: inside the window, which this value owns.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) }
    }

    pub fn get(&self, address: u64, bytes: &mut [u8]) {
        assert!(
            address >= window::BASE && address + bytes.len() as u64 <= window::BASE + window::LENGTH as u64
        );
        // SAFETY: inside the window, which this value owns.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing points into it any more.
        let _ = unsafe { munmap(window::BASE as *mut _, window::LENGTH) };
    }
}
