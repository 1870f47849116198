//! Segment registers and descriptor tables. (SDM volume 3, chapters 3 and 5.)

use std::mem::offset_of;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::cpu::{Abort, Cpu, EFER_LMA};
use crate::exception::Exception;
use crate::mode::base_register;
use crate::uop::{FS_BASE, GS_BASE};

/// A segment register, numbered as instructions encode them; LDTR and TR follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Segment {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

impl Segment {
    pub const ALL: [Segment; 8] = [
        Segment::Es,
        Segment::Cs,
        Segment::Ss,
        Segment::Ds,
        Segment::Fs,
        Segment::Gs,
        Segment::Ldtr,
        Segment::Tr,
    ];
}

/// A loaded segment register. The bases of FS and GS are pseudo-registers in `Cpu::gpr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    pub selector: u16,
    pub base: u64,
    pub limit: u32,
    /// Access rights: the descriptor's bits 40..=55.
    pub rights: u16,
}

impl Loaded {
    fn is(&self, bits: u16) -> bool {
        self.rights & bits == bits
    }

    /// 64-bit code, in long mode.
    pub fn is_long(&self) -> bool {
        self.is(LONG)
    }

    /// 32-bit code or stack, outside 64-bit mode.
    pub fn is_big(&self) -> bool {
        self.is(DEFAULT_BIG)
    }

    /// A writable data segment of 4 GiB, wherever its base is.
    #[inline(always)]
    pub fn is_flat_data(&self) -> bool {
        let kind = self.rights & (PRESENT | NOT_SYSTEM | CODE | EXPAND_DOWN | WRITABLE_OR_READABLE);
        self.limit == u32::MAX && kind == PRESENT | NOT_SYSTEM | WRITABLE_OR_READABLE
    }

    /// Whether a data access outside 64-bit mode is within the segment and of a kind it allows.
    pub fn allows(&self, offset: u64, size: u64, write: bool) -> bool {
        // A null selector leaves rights without PRESENT.
        let kind = if self.is(CODE) {
            !write && self.is(WRITABLE_OR_READABLE)
        } else {
            !write || self.is(WRITABLE_OR_READABLE)
        };
        let last = offset + size - 1;
        let inside = if self.is(EXPAND_DOWN) && !self.is(CODE) {
            offset > self.limit as u64 && last <= if self.is_big() { u32::MAX as u64 } else { 0xffff }
        } else {
            last <= self.limit as u64
        };
        self.is(PRESENT) && kind && inside
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub base: u64,
    pub limit: u16,
}

/// All segment registers and table registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    registers: [Loaded; 8],
    pub gdt: Table,
    pub idt: Table,
}

impl Segments {
    /// Where CS's selector is, for compiled code.
    pub const CODE_SELECTOR_OFFSET: usize = offset_of!(Segments, registers)
        + Segment::Cs as usize * size_of::<Loaded>()
        + offset_of!(Loaded, selector);

    /// After INIT: real-mode segments of 64 KiB. (SDM volume 3, table 9-1.)
    pub fn reset() -> Segments {
        let real = PRESENT | NOT_SYSTEM | WRITABLE_OR_READABLE | ACCESSED;
        let data = Loaded { selector: 0, base: 0, limit: 0xffff, rights: real };
        let mut registers = [data; 8];
        registers[Segment::Cs as usize] =
            Loaded { selector: 0xf000, base: 0xffff_0000, rights: real | CODE, ..data };
        registers[Segment::Ldtr as usize].rights = PRESENT | LDT;
        registers[Segment::Tr as usize].rights = PRESENT | TSS_BUSY;
        let table = Table { base: 0, limit: 0xffff };
        Segments { registers, gdt: table, idt: table }
    }
}

impl Index<Segment> for Segments {
    type Output = Loaded;
    fn index(&self, segment: Segment) -> &Loaded {
        &self.registers[segment as usize]
    }
}

impl IndexMut<Segment> for Segments {
    fn index_mut(&mut self, segment: Segment) -> &mut Loaded {
        &mut self.registers[segment as usize]
    }
}

/// Rights bits.
const TYPE: u16 = 0xf;
const ACCESSED: u16 = 1;
const WRITABLE_OR_READABLE: u16 = 1 << 1;
const CONFORMING: u16 = 1 << 2;
/// The same bit, of a data segment.
const EXPAND_DOWN: u16 = 1 << 2;
const CODE: u16 = 1 << 3;
const NOT_SYSTEM: u16 = 1 << 4;
const PRESENT: u16 = 1 << 7;
const LONG: u16 = 1 << 13;
const DEFAULT_BIG: u16 = 1 << 14;
const GRANULAR: u16 = 1 << 15;

const LDT: u16 = 2;
const TSS_AVAILABLE: u16 = 9;
const TSS_BUSY: u16 = 11;

/// Rights of a flat 64-bit code segment of privilege 0, as after reset into 64-bit mode.
pub const FLAT_CODE: u16 = PRESENT | NOT_SYSTEM | CODE | WRITABLE_OR_READABLE | ACCESSED | LONG | GRANULAR;
/// Rights of a flat 32-bit code segment of privilege 0.
pub const FLAT_CODE_32: u16 = FLAT_CODE & !LONG | DEFAULT_BIG;
/// Rights of a flat data segment of privilege 0.
pub const FLAT_DATA: u16 = PRESENT | NOT_SYSTEM | WRITABLE_OR_READABLE | ACCESSED | DEFAULT_BIG | GRANULAR;

/// The eight bytes of a code or data descriptor, or the first eight of a system one.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor(pub u64);

impl Descriptor {
    pub fn base(self) -> u64 {
        (self.0 >> 16) & 0xff_ffff | (self.0 >> 56) << 24
    }

    /// The limit in bytes.
    pub fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | (self.0 >> 32) & 0xf_0000) as u32;
        if self.rights() & GRANULAR != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// Bits 40..=55 without the limit's.
    pub fn rights(self) -> u16 {
        (self.0 >> 40) as u16 & 0xf0ff
    }

    pub fn dpl(self) -> u8 {
        (self.rights() >> 5) as u8 & 3
    }

    fn is(self, bits: u16) -> bool {
        self.rights() & bits == bits
    }

    fn is_code(self) -> bool {
        self.is(NOT_SYSTEM | CODE)
    }

    fn load(self, selector: u16) -> Loaded {
        Loaded { selector, base: self.base(), limit: self.limit(), rights: self.rights() }
    }
}

/// The selector as it appears in error codes.
fn code(selector: u16) -> u16 {
    selector & !3
}

impl Cpu {
    fn protection(&mut self, selector: u16) -> Abort {
        self.raise(Exception::GeneralProtection(code(selector)))
    }

    /// Linear address of a descriptor, or `None` beyond the table's limit.
    fn descriptor_address(&self, selector: u16) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 {
            (self.segments.gdt.base, self.segments.gdt.limit as u32)
        } else {
            let ldt = self.segments[Segment::Ldtr];
            if ldt.rights & PRESENT == 0 {
                return None;
            }
            (ldt.base, ldt.limit)
        };
        let offset = (selector & !7) as u32;
        (offset + 7 <= limit).then(|| base.wrapping_add(offset as u64))
    }

    /// Reads a descriptor; #GP with the selector beyond the limit.
    pub fn descriptor(&mut self, selector: u16) -> Result<Descriptor, Abort> {
        match self.descriptor_address(selector) {
            Some(address) => Ok(Descriptor(self.load_system(address)?)),
            None => Err(self.protection(selector)),
        }
    }

    fn mark_accessed(&mut self, selector: u16, descriptor: Descriptor) -> Result<(), Abort> {
        if !descriptor.is(ACCESSED)
            && let Some(address) = self.descriptor_address(selector)
        {
            self.store_system::<u8>(address + 5, (descriptor.rights() | ACCESSED) as u8)?;
        }
        Ok(())
    }

    /// `mov` or `pop` to DS, ES, FS, GS or SS.
    pub fn load_segment(&mut self, segment: Segment, selector: u16) -> Result<(), Abort> {
        if self.is_real_mode() {
            self.load_real_segment(segment, selector);
            return Ok(());
        }
        let cpl = self.cpl();
        let rpl = selector as u8 & 3;
        if selector & !3 == 0 {
            if segment == Segment::Ss && (cpl == 3 || rpl != cpl) {
                return Err(self.protection(0));
            }
            self.set_segment(segment, Loaded { selector, ..Loaded::default() });
            return Ok(());
        }
        let descriptor = self.descriptor(selector)?;
        let dpl = descriptor.dpl();
        let writable_data = descriptor.is(NOT_SYSTEM | WRITABLE_OR_READABLE) && !descriptor.is(CODE);
        let allowed = if segment == Segment::Ss {
            writable_data && rpl == cpl && dpl == cpl
        } else {
            let readable =
                descriptor.is(NOT_SYSTEM) && (!descriptor.is(CODE) || descriptor.is(WRITABLE_OR_READABLE));
            let conforming = descriptor.is(CODE | CONFORMING);
            readable && (conforming || dpl >= cpl.max(rpl))
        };
        if !allowed {
            return Err(self.protection(selector));
        }
        if !descriptor.is(PRESENT) {
            return Err(self.raise(match segment {
                Segment::Ss => Exception::StackFault(code(selector)),
                _ => Exception::SegmentNotPresent(code(selector)),
            }));
        }
        self.mark_accessed(selector, descriptor)?;
        self.set_segment(segment, descriptor.load(selector));
        Ok(())
    }

    /// Loads a segment register without checks.
    pub fn set_segment(&mut self, segment: Segment, loaded: Loaded) {
        self.segments[segment] = loaded;
        match segment {
            Segment::Fs => self.gpr[FS_BASE as usize] = loaded.base,
            Segment::Gs => self.gpr[GS_BASE as usize] = loaded.base,
            Segment::Es | Segment::Cs | Segment::Ss | Segment::Ds => {
                self.gpr[base_register(segment) as usize] = loaded.base;
            }
            Segment::Ldtr | Segment::Tr => {}
        }
    }

    /// Loads CS for a far transfer and leaves the privilege at `cpl`. `returning` for IRET and
    /// far returns, which may lower the privilege.
    pub fn load_code_segment(&mut self, selector: u16, returning: bool) -> Result<Loaded, Abort> {
        if selector & !3 == 0 {
            return Err(self.protection(0));
        }
        let descriptor = self.descriptor(selector)?;
        let (cpl, rpl, dpl) = (self.cpl(), selector as u8 & 3, descriptor.dpl());
        let conforming = descriptor.is(CONFORMING);
        let privilege = if returning {
            rpl >= cpl && if conforming { dpl <= rpl } else { dpl == rpl }
        } else if conforming {
            dpl <= cpl
        } else {
            rpl <= cpl && dpl == cpl
        };
        // In long mode code is 64-bit, or 32- or 16-bit code of compatibility mode.
        let both = self.msr.efer & EFER_LMA != 0 && descriptor.is(LONG | DEFAULT_BIG);
        if !descriptor.is_code() || !privilege || both {
            return Err(self.protection(selector));
        }
        if !descriptor.is(PRESENT) {
            return Err(self.raise(Exception::SegmentNotPresent(code(selector))));
        }
        self.mark_accessed(selector, descriptor)?;
        let selector = if returning { selector } else { selector & !3 | cpl as u16 };
        Ok(descriptor.load(selector))
    }

    /// LLDT and LTR.
    pub fn load_system_segment(&mut self, segment: Segment, selector: u16) -> Result<(), Abort> {
        if selector & !3 == 0 {
            if segment == Segment::Tr {
                return Err(self.protection(0));
            }
            self.segments[segment] = Loaded { selector, ..Loaded::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.protection(selector));
        }
        let descriptor = self.descriptor(selector)?;
        let expected = if segment == Segment::Tr { TSS_AVAILABLE } else { LDT };
        if descriptor.rights() & (TYPE | NOT_SYSTEM) != expected {
            return Err(self.protection(selector));
        }
        if !descriptor.is(PRESENT) {
            return Err(self.raise(Exception::SegmentNotPresent(code(selector))));
        }
        // System descriptors are 16 bytes.
        let halves = (self.descriptor_address(selector), self.descriptor_address(selector.wrapping_add(8)));
        let (Some(low), Some(high)) = halves else {
            return Err(self.protection(selector));
        };
        let mut loaded = descriptor.load(selector);
        loaded.base |= self.load_system::<u64>(high)? << 32;
        if segment == Segment::Tr {
            loaded.rights = loaded.rights & !TYPE | TSS_BUSY;
            self.store_system::<u8>(low.wrapping_add(5), loaded.rights as u8)?;
        }
        self.segments[segment] = loaded;
        Ok(())
    }

    /// The descriptor that LAR, LSL, VERR and VERW may see, if any.
    pub fn visible_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Abort> {
        if selector & !3 == 0 || self.descriptor_address(selector).is_none() {
            return Ok(None);
        }
        let descriptor = self.descriptor(selector)?;
        let conforming = descriptor.is(NOT_SYSTEM | CODE | CONFORMING);
        let visible = conforming || descriptor.dpl() >= self.cpl().max(selector as u8 & 3);
        Ok(visible.then_some(descriptor))
    }
}

impl Descriptor {
    /// LAR's result, for the types it accepts in 64-bit mode.
    pub fn access_rights(self) -> Option<u64> {
        let system = self.rights() & NOT_SYSTEM == 0;
        let accepted = !system || matches!(self.rights() & TYPE, LDT | TSS_AVAILABLE | TSS_BUSY | 12);
        accepted.then_some(self.0 >> 32 & 0x00f0_ff00)
    }

    /// LSL's result, for the types it accepts in 64-bit mode.
    pub fn segment_limit(self) -> Option<u64> {
        let system = self.rights() & NOT_SYSTEM == 0;
        let accepted = !system || matches!(self.rights() & TYPE, LDT | TSS_AVAILABLE | TSS_BUSY);
        accepted.then_some(self.limit() as u64)
    }

    /// VERR (or VERW) succeeds, privilege aside.
    pub fn verified(self, write: bool) -> bool {
        let code = self.is(CODE);
        self.is(NOT_SYSTEM)
            && if write {
                !code && self.is(WRITABLE_OR_READABLE)
            } else {
                !code || self.is(WRITABLE_OR_READABLE)
            }
    }
}
