//! After a restore: the guest is one of many that had the same random numbers, and its clock stood still.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_settime};

/// `RNDADDENTROPY`: `_IOW('R', 0x03, int[2])` (Linux `include/uapi/linux/random.h`).
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `RNDRESEEDCRNG`: `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// `struct rand_pool_info` with its bytes.
#[repr(C)]
struct PoolInfo {
    /// Bits of entropy in `bytes`.
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    bytes: [u8; 32],
}

/// Makes the kernel's random numbers this guest's own, and sets its clock to `time` since 1970, if that is
/// not zero.
pub fn resume(seed: &[u8; 32], time: Duration) -> io::Result<()> {
    reseed(seed)?;
    if time != Duration::ZERO {
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        clock_settime(ClockId::Realtime, time)?;
    }
    Ok(())
}

fn reseed(seed: &[u8; 32]) -> io::Result<()> {
    let random = File::options().write(true).open("/dev/random")?;
    let pool = PoolInfo { entropy_count: 256, buf_size: 32, bytes: *seed };
    // SAFETY: the request reads a `rand_pool_info` and the `buf_size` bytes that follow it, all in `pool`.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) })?;
    // What was handed out ahead, on every CPU, is dropped.
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
