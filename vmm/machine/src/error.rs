//! Why a machine could not be built.

use std::io;
use std::path::PathBuf;

use crate::layout;

/// A machine could not be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Less RAM than a kernel needs.
    #[error("{} MiB of memory are too little; a guest needs at least {} MiB", mib(*.bytes), mib(layout::MIN_MEMORY))]
    MemoryTooSmall {
        /// What was asked for.
        bytes: u64,
    },
    /// More RAM than the machine can place.
    #[error("{} MiB of memory are too much; a guest has at most {} MiB", mib(*.bytes), mib(layout::MAX_MEMORY))]
    MemoryTooLarge {
        /// What was asked for.
        bytes: u64,
    },
    /// RAM comes in pages.
    #[error("{bytes} bytes of memory are not a whole number of pages")]
    MemoryNotPages {
        /// What was asked for.
        bytes: u64,
    },
    /// Input was to be written to a log, or read from one, in a run that does not repeat.
    #[error("only a run with the soft engine and the virtual clock repeats, so only its input can be logged")]
    DoesNotRepeat,
    /// The host has no room for the guest's RAM.
    #[error(transparent)]
    Allocate(#[from] guest_ram::AllocateError),
    /// A file could not be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The kernel is no x86-64 ELF executable.
    #[error("{} is not an ELF vmlinux for x86-64: {problem}", path.display())]
    NotElf {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel is an ELF file that cannot be loaded.
    #[error("cannot load the kernel {}", path.display())]
    LoadKernel {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: linux_loader::loader::Error,
    },
    /// The kernel wants memory that the guest does not have.
    #[error("the kernel needs memory up to {} MiB, but the guest's low memory ends at {} MiB", mib(*.end), mib(*.limit))]
    KernelDoesNotFit {
        /// First address after the kernel.
        end: u64,
        /// First address after the memory it may use.
        limit: u64,
    },
    /// The initramfs does not fit between the kernel and the end of memory.
    #[error("an initramfs of {} MiB does not fit into {} MiB of memory beside the kernel", mib(*.bytes), mib(*.memory))]
    InitrdDoesNotFit {
        /// Its size.
        bytes: u64,
        /// The guest's memory.
        memory: u64,
    },
    /// The kernel would cut the command line off.
    #[error("the kernel command line has {length} bytes; {} are the most", layout::COMMAND_LINE_SIZE - 1)]
    CommandLineTooLong {
        /// Its length.
        length: usize,
    },
    /// A zero byte ends a command line.
    #[error("the kernel command line contains a zero byte")]
    CommandLineZero,
    /// There are more virtio devices than places for them.
    #[error("{count} virtio devices are more than the {} the machine has places for", layout::VIRTIO_SLOTS)]
    TooManyDevices {
        /// Devices asked for.
        count: usize,
    },
    /// The snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// The CPU engine could not be made.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// The event thread could not be started.
    #[error("cannot start the event loop")]
    EventLoop {
        /// What went wrong.
        source: io::Error,
    },
    /// The guest's thread could not be started.
    #[error("cannot start the guest's thread")]
    Thread {
        /// What went wrong.
        source: io::Error,
    },
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
