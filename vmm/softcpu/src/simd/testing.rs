//! A [`Context`] of plain arrays, for the unit tests of this unit and of the x87.

use iced_x86::{Decoder, DecoderOptions};

use super::context::{ArithFlags, Context};
use super::state::VectorState;
use crate::exception::Exception;
use crate::x87::state::X87State;

/// Registers, and memory whose first byte is the memory operand.
pub(crate) struct Bench {
    pub(crate) vector: VectorState,
    pub(crate) x87: X87State,
    pub(crate) gpr: [u64; 16],
    pub(crate) flags: ArithFlags,
    pub(crate) memory: [u8; 512],
    /// What `operand_address` says.
    pub(crate) address: u64,
    pub(crate) numeric_error: bool,
    /// Memory accesses fault.
    pub(crate) absent: bool,
}

const FAULT: Exception = Exception::PageFault { address: 0x1000, code: 0 };

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            vector: VectorState::default(),
            x87: X87State::default(),
            gpr: [0; 16],
            flags: ArithFlags::default(),
            memory: [0; 512],
            address: 0x1000,
            numeric_error: true,
            absent: false,
        }
    }

    /// Decodes and executes the instructions in `code` up to the first exception.
    pub(crate) fn run(&mut self, code: &[u8]) -> Result<(), Exception> {
        for instruction in Decoder::new(64, code, DecoderOptions::NONE) {
            if let Some(op) = super::lower(&instruction) {
                super::execute(op, self)?;
            } else if let Some(op) = crate::x87::lower(&instruction) {
                crate::x87::execute(op, self)?;
            } else {
                panic!("{instruction} belongs to neither unit");
            }
        }
        Ok(())
    }
}

impl Context for Bench {
    fn vector(&mut self) -> &mut VectorState {
        &mut self.vector
    }

    fn x87(&mut self) -> &mut X87State {
        &mut self.x87
    }

    fn gpr(&self, index: u8) -> u64 {
        self.gpr[usize::from(index)]
    }

    fn set_gpr(&mut self, index: u8, value: u64) {
        self.gpr[usize::from(index)] = value;
    }

    fn flags(&self) -> ArithFlags {
        self.flags
    }

    fn set_flags(&mut self, flags: ArithFlags) {
        self.flags = flags;
    }

    fn numeric_error(&self) -> bool {
        self.numeric_error
    }

    fn load<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], Exception> {
        let bytes = self.memory[offset as usize..][..N].try_into();
        if self.absent { Err(FAULT) } else { bytes.map_err(|_| FAULT) }
    }

    fn store<const N: usize>(&mut self, offset: u64, bytes: [u8; N]) -> Result<(), Exception> {
        if self.absent {
            return Err(FAULT);
        }
        self.memory[offset as usize..][..N].copy_from_slice(&bytes);
        Ok(())
    }

    fn operand_address(&self) -> u64 {
        self.address
    }

    fn instruction_pointer(&self) -> u64 {
        0xffff_8000_1234_5678
    }

    fn use_rdi_operand(&mut self) {
        self.address = self.gpr[7];
    }
}
