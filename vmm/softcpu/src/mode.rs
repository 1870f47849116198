//! Modes of operation: what size code has, and what addresses mean outside 64-bit mode.
//!
//! In 64-bit mode segments hardly exist. In the others (compatibility mode, for 32-bit programs, and on
//! the way up of an application processor real mode and 32-bit protected mode without paging) an
//! address is an offset into a segment. Decoded code then works out linear addresses with
//! [`Cpu::segment_address`] first and goes on with the handlers of 64-bit mode. RIP is a linear
//! address in every mode; [`Cpu::instruction_pointer`] is what programs know.

use crate::cpu::{Abort, CR0_PE, Cpu, EFER_LMA};
use crate::exception::Exception;
use crate::segment::{Loaded, Segment};
use crate::tlb::Mode;
use crate::uop::{CS_BASE, DS_BASE, ES_BASE, FS_BASE, GS_BASE, SS_BASE};

/// How code is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum CodeSize {
    /// 64-bit mode.
    #[default]
    Long,
    /// 32-bit code: compatibility mode or protected mode.
    Bits32,
    /// 16-bit code: compatibility mode, protected mode or real mode.
    Bits16,
}

impl CodeSize {
    /// The decoder's bitness.
    pub fn bits(self) -> u32 {
        match self {
            CodeSize::Long => 64,
            CodeSize::Bits32 => 32,
            CodeSize::Bits16 => 16,
        }
    }
}

/// The pseudo-register that holds a segment's base.
pub fn base_register(segment: Segment) -> u8 {
    match segment {
        Segment::Es => ES_BASE,
        Segment::Cs => CS_BASE,
        Segment::Ss => SS_BASE,
        Segment::Fs => FS_BASE,
        Segment::Gs => GS_BASE,
        Segment::Ds | Segment::Ldtr | Segment::Tr => DS_BASE,
    }
}

impl Cpu {
    /// The code segment or the control registers changed: privilege, code size and segment bases
    /// follow.
    pub fn mode_changed(&mut self) {
        self.mode = if self.cpl() == 3 { Mode::User } else { Mode::Supervisor };
        let code = self.segments[Segment::Cs];
        self.code_size = if code.is_long() && self.msr.efer & EFER_LMA != 0 {
            CodeSize::Long
        } else if code.is_big() {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        if self.code_size != CodeSize::Long {
            for segment in [Segment::Es, Segment::Cs, Segment::Ss, Segment::Ds] {
                self.gpr[base_register(segment) as usize] = self.segments[segment].base;
            }
        }
        self.code.set_mode(self.mode, self.code_size);
    }

    /// Real mode: protection is off.
    pub fn is_real_mode(&self) -> bool {
        self.cr0 & CR0_PE == 0
    }

    /// What is to be added to an instruction pointer for its linear address.
    fn code_base(&self) -> u64 {
        if self.code_size == CodeSize::Long { 0 } else { self.segments[Segment::Cs].base }
    }

    /// The instruction pointer as programs know it: an offset into the code segment.
    pub fn instruction_pointer(&self) -> u64 {
        self.rip.wrapping_sub(self.code_base())
    }

    /// Sets the instruction pointer. What does not fit the segment is found when it is executed.
    pub fn set_instruction_pointer(&mut self, offset: u64) {
        self.rip = self.code_base().wrapping_add(offset);
    }

    /// Wraps RIP at the end of the code segment's address range, and checks its limit.
    pub fn wrap_rip(&mut self) -> Result<(), Abort> {
        let code = self.segments[Segment::Cs];
        let mask = if self.code_size == CodeSize::Bits16 { 0xffff } else { 0xffff_ffff };
        let offset = self.rip.wrapping_sub(code.base) & mask;
        self.rip = code.base.wrapping_add(offset) & 0xffff_ffff;
        if offset > code.limit as u64 {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        Ok(())
    }

    /// The bits of RSP that the stack uses.
    pub fn stack_mask(&self) -> u64 {
        match self.code_size {
            CodeSize::Long => u64::MAX,
            _ if self.segments[Segment::Ss].is_big() => 0xffff_ffff,
            _ => 0xffff,
        }
    }

    /// The linear address of `size` bytes at `offset` in a segment, outside 64-bit mode: #GP (#SS for
    /// the stack) where the segment does not allow the access. (SDM volume 3, 5.3 and 5.5.)
    #[inline]
    pub fn segment_address(
        &mut self,
        segment: Segment,
        offset: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Abort> {
        let loaded = &self.segments[segment];
        if !loaded.is_flat_data() && !loaded.allows(offset, size.max(1), write) {
            return Err(self.raise(match segment {
                Segment::Ss => Exception::StackFault(0),
                _ => Exception::GeneralProtection(0),
            }));
        }
        Ok(self.gpr[base_register(segment) as usize].wrapping_add(offset) & 0xffff_ffff)
    }

    /// Loads a segment register in real mode: the selector is the base, all else stays.
    pub fn load_real_segment(&mut self, segment: Segment, selector: u16) {
        let loaded = Loaded { selector, base: (selector as u64) << 4, ..self.segments[segment] };
        self.set_segment(segment, loaded);
    }
}
