//! The SSE registers.

use serde::{Deserialize, Serialize};

/// XMM0..XMM15 and MXCSR.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorState {
    /// XMM0..XMM15, byte 0 of the register in the low byte.
    pub xmm: [u128; 16],
    /// Control and status of SSE floating point. Bits 16..31 are always zero.
    pub mxcsr: u32,
}

impl VectorState {
    /// MXCSR after reset: every exception masked, round to nearest. (SDM volume 1, 10.2.3.)
    pub const RESET_MXCSR: u32 = 0x1f80;
    /// The MXCSR bits that may be set; FXSAVE reports it as MXCSR_MASK.
    pub const MXCSR_MASK: u32 = 0xffff;
}

impl Default for VectorState {
    fn default() -> Self {
        Self { xmm: [0; 16], mxcsr: Self::RESET_MXCSR }
    }
}
