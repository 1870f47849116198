//! The devices of a guest: the virtio-mmio transport and what sits behind it, and the few legacy
//! devices that Linux needs to come up.
//!
//! # Model
//!
//! A device is plain state that its bus calls into. It starts no thread, reads no clock and opens
//! no file: what it needs of the host (a sink for bytes, wall time, entropy) is given to it as a
//! small trait when it is made. Calls arrive on the vCPU's own thread, so what a guest asks for is
//! done when its register write returns; that is what makes a run on the software CPU repeatable.
//! What other threads of the host have for a guest waits in bounded queues until the machine services
//! the device ([`virtio::VirtioDevice::service`]) at a moment of its choice.
//!
//! Two kinds of front:
//!
//! - [`port::PortDevice`]: registers in the I/O port space ([`serial`], [`cmos`], [`power`]);
//! - [`virtio::mmio::MmioTransport`]: one 4 KiB page of registers before a [`virtio::VirtioDevice`].
//!
//! A device that meets a broken ring fails alone: the transport marks it DEVICE_NEEDS_RESET, tells
//! the guest, and ignores its queues until the guest's driver resets it. Nothing here panics on
//! what a guest wrote.

pub mod agent;
pub mod cmos;
pub mod cpu_time;
pub mod input;
pub mod irq;
pub mod port;
pub mod power;
pub mod pvpanic;
pub mod serial;
pub mod virtio;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
