//! What can go wrong in one instruction, as the architecture names it.

/// A fault or trap of the architecture, on its way through the guest's IDT.
/// (Intel SDM volume 3, chapter 6.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// #DE, vector 0.
    DivideError,
    /// #DB, vector 1.
    Debug,
    /// #BP, vector 3 (a trap: the saved RIP is after the instruction).
    Breakpoint,
    /// #BR, vector 5.
    BoundRange,
    /// #UD, vector 6.
    InvalidOpcode,
    /// #NM, vector 7.
    DeviceNotAvailable,
    /// #TS, vector 10, with the selector as error code.
    InvalidTss(u16),
    /// #NP, vector 11, with the selector as error code.
    SegmentNotPresent(u16),
    /// #SS, vector 12, with an error code.
    StackFault(u16),
    /// #GP, vector 13, with an error code.
    GeneralProtection(u16),
    /// #PF, vector 14.
    PageFault {
        /// The linear address that goes to CR2.
        address: u64,
        /// Bits P, W/R, U/S, RSVD, I/D.
        code: u16,
    },
    /// #MF, vector 16.
    X87FloatingPoint,
    /// #AC, vector 17 (error code always 0).
    AlignmentCheck,
    /// #XM, vector 19.
    SimdFloatingPoint,
}
