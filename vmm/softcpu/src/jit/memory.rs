//! Memory for generated code, which is never writable and executable through the same mapping.
//!
//! One anonymous file is mapped twice: code is written through one mapping and executed through
//! the other. On x86 a CPU notices writes to code by physical address, so nothing has to be
//! flushed.

use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A place in the generated code: an offset from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeOffset(pub u32);

/// The two mappings.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    len: usize,
}

// SAFETY: the mappings belong to this value alone; nothing in them depends on the thread.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Reserves `len` bytes (at most 1 GiB, so that every distance fits a jump). Fails where the host
    /// forbids executable mappings.
    pub fn new(len: usize) -> Result<CodeMemory, Errno> {
        let file = memfd_create(c"softcpu code", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len as u64)?;
        let map = |protection| {
            // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
            let at = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, &file, 0) }?;
            NonNull::new(at.cast::<u8>()).ok_or(Errno::NOMEM)
        };
        let writable = map(ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = match map(ProtFlags::READ | ProtFlags::EXEC) {
            Ok(executable) => executable,
            Err(error) => {
                // SAFETY: made above, and nothing points into it yet.
                let _ = unsafe { munmap(writable.as_ptr().cast(), len) };
                return Err(error);
            }
        };
        Ok(CodeMemory { writable, executable, len })
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes code. It must not be executing, unless `bytes` is the displacement of a jump, which
    /// is replaced as a whole.
    pub fn write(&mut self, at: CodeOffset, bytes: &[u8]) {
        let at = at.0 as usize;
        assert!(at + bytes.len() <= self.len);
        // SAFETY: inside the mapping by the assertion; no reference into it exists.
        unsafe { self.writable.as_ptr().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// The address at which the code at `at` is executed.
    pub fn address(&self, at: CodeOffset) -> u64 {
        assert!((at.0 as usize) < self.len);
        self.executable.as_ptr() as u64 + at.0 as u64
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: both were mapped by `new`, and whoever executes code borrows the value.
        unsafe {
            let _ = munmap(self.writable.as_ptr().cast(), self.len);
            let _ = munmap(self.executable.as_ptr().cast(), self.len);
        }
    }
}
