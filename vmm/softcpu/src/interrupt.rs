//! Interrupts and exceptions through the IDT, and the ways back. (SDM volume 3, chapter 6.)

use crate::board::Activity;
use crate::cpu::{Abort, Cause, Cpu, EFER_LMA};
use crate::exception::Exception;
use crate::flags;
use crate::interp::stack::RSP;
use crate::mode::CodeSize;
use crate::paging::is_canonical;
use crate::segment::{Descriptor, FLAT_CODE, FLAT_CODE_32, FLAT_DATA, Loaded, Segment};
use crate::tlb::Mode;
use crate::uop::GS_BASE;

/// Where an interrupt comes from; it decides which checks and which saved RFLAGS apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A device or the APIC timer.
    External,
    /// An exception of the processor.
    Exception,
    /// INT n, INT3, INTO.
    Software,
}

const INTERRUPT_GATE: u64 = 14;
const TRAP_GATE: u64 = 15;
const NMI: u8 = 2;
const DOUBLE_FAULT: u8 = 8;

impl Exception {
    /// Vector and error code.
    pub fn vector(self) -> (u8, Option<u16>) {
        match self {
            Exception::DivideError => (0, None),
            Exception::Debug => (1, None),
            Exception::Breakpoint => (3, None),
            Exception::BoundRange => (5, None),
            Exception::InvalidOpcode => (6, None),
            Exception::DeviceNotAvailable => (7, None),
            Exception::InvalidTss(code) => (10, Some(code)),
            Exception::SegmentNotPresent(code) => (11, Some(code)),
            Exception::StackFault(code) => (12, Some(code)),
            Exception::GeneralProtection(code) => (13, Some(code)),
            Exception::PageFault { code, .. } => (14, Some(code)),
            Exception::X87FloatingPoint => (16, None),
            Exception::AlignmentCheck => (17, Some(0)),
            Exception::SimdFloatingPoint => (19, None),
        }
    }

    fn is_contributory(self) -> bool {
        matches!(
            self,
            Exception::DivideError
                | Exception::InvalidTss(_)
                | Exception::SegmentNotPresent(_)
                | Exception::StackFault(_)
                | Exception::GeneralProtection(_)
        )
    }

    fn is_page_fault(self) -> bool {
        matches!(self, Exception::PageFault { .. })
    }
}

/// The guest is beyond help; a description of the last two exceptions.
#[derive(Debug)]
pub struct TripleFault(pub String);

impl Cpu {
    /// Takes the cause of the last abort as an exception.
    fn aborted_by(&mut self) -> Exception {
        match self.abort {
            Cause::Exception(exception) => exception,
            // The stack is what interrupt delivery reaches with a program's address.
            Cause::NonCanonical => Exception::StackFault(0),
            // No block is being executed that could overwrite itself.
            Cause::Alone | Cause::Debugger => Exception::GeneralProtection(0),
        }
    }

    /// Takes what the board has for this CPU: INIT, a start-up message, an NMI or an interrupt.
    pub fn take_signals(&mut self) -> Result<(), TripleFault> {
        let interrupts_on = self.flags.interrupts();
        let first = self.board.current() == 0;
        let own = self.board.own();
        if std::mem::take(&mut own.init) {
            if first {
                // The first CPU would execute firmware, and there is none.
                return Err(TripleFault("INIT was sent to the first CPU".into()));
            }
            own.activity = Activity::WaitForStartup;
            self.reset();
            return self.take_signals();
        }
        if let Some(page) = own.startup.take() {
            if own.activity == Activity::WaitForStartup {
                own.activity = Activity::Running;
                self.start_up(page);
            }
        } else if own.nmi && !own.nmi_blocked {
            (own.nmi, own.nmi_blocked, own.activity) = (false, true, Activity::Running);
            self.signal(NMI)?;
        } else if interrupts_on && own.apic.pending().is_some() {
            own.activity = Activity::Running;
            let vector = own.apic.acknowledge();
            self.signal(vector)?;
        } else {
            return Ok(());
        }
        self.interrupts_changed();
        Ok(())
    }

    fn signal(&mut self, vector: u8) -> Result<(), TripleFault> {
        match self.interrupt(vector, None, Source::External) {
            Ok(()) => Ok(()),
            Err(Abort) => self.abort_delivered(),
        }
    }

    /// Deals with the cause for which the instruction at RIP was given up.
    pub fn abort_delivered(&mut self) -> Result<(), TripleFault> {
        let exception = self.aborted_by();
        self.deliver_exception(exception)
    }

    /// Delivers an exception of the instruction at RIP, and what delivering it causes.
    pub fn deliver_exception(&mut self, exception: Exception) -> Result<(), TripleFault> {
        let mut current = exception;
        loop {
            if let Exception::PageFault { address, .. } = current {
                self.cr2 = address;
            }
            let (vector, code) = current.vector();
            if self.interrupt(vector, code, Source::Exception).is_ok() {
                return Ok(());
            }
            let second = self.aborted_by();
            let double = current.is_contributory() && second.is_contributory()
                || current.is_page_fault() && (second.is_contributory() || second.is_page_fault());
            if !double {
                current = second;
                continue;
            }
            if let Exception::PageFault { address, .. } = second {
                self.cr2 = address;
            }
            if self.interrupt(DOUBLE_FAULT, Some(0), Source::Exception).is_ok() {
                return Ok(());
            }
            let third = self.aborted_by();
            return Err(TripleFault(format!(
                "{current:?}, then {second:?}, then {third:?} at rip {:#x}, rsp {:#x}, cr2 {:#x}",
                self.rip, self.gpr[RSP], self.cr2
            )));
        }
    }

    /// Enters the handler of `vector`; RIP is the address to return to. On `Err` nothing has
    /// changed.
    pub fn interrupt(&mut self, vector: u8, code: Option<u16>, source: Source) -> Result<(), Abort> {
        let external = (source != Source::Software) as u16;
        if self.msr.efer & EFER_LMA == 0 {
            // Before long mode, on an application processor's way up, there are no handlers.
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let gate_error = Exception::GeneralProtection((vector as u16) << 3 | 2 | external);
        if vector as u32 * 16 + 15 > self.segments.idt.limit as u32 {
            return Err(self.raise(gate_error));
        }
        let at = self.segments.idt.base.wrapping_add(vector as u64 * 16);
        let (low, high) = (self.load_system::<u64>(at)?, self.load_system::<u64>(at.wrapping_add(8))?);
        let kind = low >> 40 & 0x1f;
        let privileged = source == Source::Software && ((low >> 45 & 3) as u8) < self.cpl();
        if kind != INTERRUPT_GATE && kind != TRAP_GATE || privileged {
            return Err(self.raise(gate_error));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.raise(Exception::SegmentNotPresent((vector as u16) << 3 | 2 | external)));
        }
        let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        let (code_segment, cpl) = self.gate_code_segment((low >> 16) as u16, external)?;

        let ist = low >> 32 & 7;
        let rsp = if ist != 0 {
            self.tss_word(0x24 + 8 * (ist - 1))?
        } else if cpl < self.cpl() {
            self.tss_word(4 + 8 * cpl as u64)?
        } else {
            self.gpr[RSP]
        };
        if !is_canonical(rsp) || !is_canonical(target) {
            return Err(self.raise(if is_canonical(rsp) {
                Exception::GeneralProtection(external)
            } else {
                Exception::StackFault(external)
            }));
        }
        let mut saved_flags = self.flags.bits() & !flags::RF;
        if source == Source::Exception && !matches!(vector, 1 | 3 | 4 | DOUBLE_FAULT) {
            saved_flags |= flags::RF;
        }
        let frame = [
            self.segments[Segment::Ss].selector as u64,
            self.gpr[RSP],
            saved_flags,
            self.segments[Segment::Cs].selector as u64,
            self.instruction_pointer(),
        ];
        let mut top = rsp & !0xf;
        let mode = if cpl == 3 { Mode::User } else { Mode::Supervisor };
        for value in frame.into_iter().chain(code.map(u64::from)) {
            top = top.wrapping_sub(8);
            self.store_as(mode, top, value)?;
        }

        if cpl != self.cpl() {
            self.segments[Segment::Ss] = Loaded { selector: cpl as u16, ..Loaded::default() };
        }
        self.segments[Segment::Cs] = code_segment;
        self.gpr[RSP] = top;
        self.rip = target;
        self.flags.system &= !(flags::TF | flags::NT | flags::RF | flags::VM);
        if kind == INTERRUPT_GATE {
            self.flags.system &= !flags::IF;
        }
        self.mode_changed();
        Ok(())
    }

    /// The code segment of a gate and the privilege its handler runs with.
    fn gate_code_segment(&mut self, selector: u16, external: u16) -> Result<(Loaded, u8), Abort> {
        let error = Exception::GeneralProtection(selector & !3 | external);
        if selector & !3 == 0 {
            return Err(self.raise(Exception::GeneralProtection(external)));
        }
        let Descriptor(bits) = self.descriptor(selector)?;
        let descriptor = Descriptor(bits);
        let (is_code, is_long, conforming, present) =
            (bits >> 43 & 3 == 3, bits >> 53 & 3 == 1, bits >> 42 & 1 != 0, bits >> 47 & 1 != 0);
        if !is_code || !is_long || descriptor.dpl() > self.cpl() {
            return Err(self.raise(error));
        }
        if !present {
            return Err(self.raise(Exception::SegmentNotPresent(selector & !3 | external)));
        }
        let cpl = if conforming { self.cpl() } else { descriptor.dpl() };
        let loaded = Loaded {
            selector: selector & !3 | cpl as u16,
            base: 0,
            limit: descriptor.limit(),
            rights: descriptor.rights(),
        };
        Ok((loaded, cpl))
    }

    /// A stack pointer of the task-state segment.
    fn tss_word(&mut self, offset: u64) -> Result<u64, Abort> {
        let tss = self.segments[Segment::Tr];
        if offset + 7 > tss.limit as u64 {
            return Err(self.raise(Exception::InvalidTss(tss.selector & !3)));
        }
        self.load_system(tss.base.wrapping_add(offset))
    }

    /// IRET with operands of `size` bytes.
    pub fn interrupt_return(&mut self, size: u64) -> Result<(), Abort> {
        if self.flags.system & flags::NT != 0 || self.is_real_mode() {
            // A return from a nested task does not exist in long mode.
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let (rip, cs, bits) =
            (self.stack_word(0, size)?, self.stack_word(1, size)? as u16, self.stack_word(2, size)?);
        let code_segment = self.load_code_segment(cs, true)?;
        self.check_target(&code_segment, rip)?;
        let cpl = code_segment.selector as u8 & 3;
        let outward = cpl > self.cpl();
        // 64-bit code finds a stack pointer behind the flags whether or not privilege changes.
        let stack = if outward || self.code_size == CodeSize::Long {
            let rsp = self.stack_word(3, size)?;
            let ss = self.stack_word(4, size)? as u16;
            Some((rsp, self.return_stack_segment(ss, cpl, &code_segment)?))
        } else {
            None
        };

        let mut writable = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
        writable |= self.writable_system_flags();
        if size > 2 {
            writable |= flags::RF | flags::AC | flags::ID;
        }
        let was = self.flags.bits();
        match stack {
            Some((_, segment)) => self.segments[Segment::Ss] = segment,
            None => self.move_stack(3 * size),
        }
        self.segments[Segment::Cs] = code_segment;
        self.flags.set_bits(was & !writable | bits & writable);
        if outward {
            self.drop_inner_segments();
        }
        self.mode_changed();
        if let Some((rsp, _)) = stack {
            self.return_to_stack(rsp);
        }
        self.set_instruction_pointer(rip);
        let own = self.board.own();
        if std::mem::take(&mut own.nmi_blocked) && own.nmi {
            self.interrupts_changed();
        }
        Ok(())
    }

    /// The stack pointer after a return with a stack of its own: of a 16-bit stack nothing above 16 bits changes.
    fn return_to_stack(&mut self, rsp: u64) {
        let kept = if self.stack_mask() == 0xffff { self.gpr[RSP] & !0xffff } else { 0 };
        self.gpr[RSP] = kept | rsp & self.stack_mask();
    }

    /// #GP unless `rip` can be executed in a code segment.
    fn check_target(&mut self, code: &Loaded, rip: u64) -> Result<(), Abort> {
        let long = code.is_long() && self.msr.efer & EFER_LMA != 0;
        if if long { is_canonical(rip) } else { rip <= code.limit as u64 } {
            return Ok(());
        }
        Err(self.raise(Exception::GeneralProtection(0)))
    }

    /// The stack segment of a return to privilege `cpl`.
    fn return_stack_segment(&mut self, selector: u16, cpl: u8, code: &Loaded) -> Result<Loaded, Abort> {
        if selector & !3 == 0 {
            // A null stack segment is good for privileged 64-bit code.
            if !code.is_long() || cpl == 3 || selector as u8 & 3 != cpl {
                return Err(self.raise(Exception::GeneralProtection(selector & !3)));
            }
            return Ok(Loaded { selector, ..Loaded::default() });
        }
        let descriptor = self.descriptor(selector)?;
        let rights = descriptor.rights();
        let writable_data = rights & 0x1a == 0x12;
        if !writable_data || selector as u8 & 3 != cpl || descriptor.dpl() != cpl {
            return Err(self.raise(Exception::GeneralProtection(selector & !3)));
        }
        if rights & 0x80 == 0 {
            return Err(self.raise(Exception::StackFault(selector & !3)));
        }
        Ok(Loaded { selector, base: descriptor.base(), limit: descriptor.limit(), rights })
    }

    /// After a return to less privilege, data segments it must not use become null, and null selectors 0.
    fn drop_inner_segments(&mut self) {
        let cpl = self.cpl();
        for segment in [Segment::Es, Segment::Ds, Segment::Fs, Segment::Gs] {
            let loaded = self.segments[segment];
            let dpl = (loaded.rights >> 5) as u8 & 3;
            let conforming_code = loaded.rights & 0x1c == 0x1c;
            if !conforming_code && dpl < cpl {
                // The base stays, for FS and GS bases do not come from the descriptor here.
                self.segments[segment] = Loaded { selector: 0, ..Loaded::default() };
            }
        }
    }

    /// RETF with operands of `size` bytes, dropping `extra` bytes more.
    pub fn far_return(&mut self, size: u64, extra: u64) -> Result<(), Abort> {
        let (rip, cs) = (self.stack_word(0, size)?, self.stack_word(1, size)? as u16);
        if self.is_real_mode() {
            self.move_stack(2 * size + extra);
            self.load_real_segment(Segment::Cs, cs);
            self.set_instruction_pointer(rip);
            return Ok(());
        }
        let code_segment = self.load_code_segment(cs, true)?;
        self.check_target(&code_segment, rip)?;
        let cpl = code_segment.selector as u8 & 3;
        if cpl > self.cpl() {
            // The outer stack pointer lies behind what is dropped.
            let mask = self.stack_mask();
            let inner = self.gpr[RSP];
            self.gpr[RSP] = inner & !mask | inner.wrapping_add(2 * size + extra) & mask;
            let outer = self.stack_word(0, size).and_then(|rsp| Ok((rsp, self.stack_word(1, size)? as u16)));
            self.gpr[RSP] = inner;
            let (rsp, ss) = outer?;
            self.segments[Segment::Ss] = self.return_stack_segment(ss, cpl, &code_segment)?;
            self.segments[Segment::Cs] = code_segment;
            self.drop_inner_segments();
            self.mode_changed();
            self.return_to_stack(rsp.wrapping_add(extra));
        } else {
            self.move_stack(2 * size + extra);
            self.segments[Segment::Cs] = code_segment;
            self.mode_changed();
        }
        self.set_instruction_pointer(rip);
        Ok(())
    }

    /// JMP or CALL through a far pointer in memory with an offset of `size` bytes.
    pub fn far_jump(&mut self, address: u64, size: u64, call: bool) -> Result<(), Abort> {
        let target = self.load_sized(address, size)?;
        let selector: u16 = self.load(address.wrapping_add(size))?;
        self.far_transfer(selector, target, call.then_some(size))
    }

    /// Far JMP, or CALL that pushes words of that size.
    pub fn far_transfer(&mut self, selector: u16, target: u64, call: Option<u64>) -> Result<(), Abort> {
        // Call gates are not offered: only code segments are accepted.
        let code_segment = if self.is_real_mode() {
            None
        } else {
            let code_segment = self.load_code_segment(selector, false)?;
            self.check_target(&code_segment, target)?;
            Some(code_segment)
        };
        if let Some(size) = call {
            let (cs, rip) = (self.segments[Segment::Cs].selector as u64, self.instruction_pointer());
            let rsp = self.gpr[RSP];
            self.push_sized(size, cs)?;
            if let Err(abort) = self.push_sized(size, rip) {
                self.gpr[RSP] = rsp;
                return Err(abort);
            }
        }
        match code_segment {
            Some(code_segment) => self.segments[Segment::Cs] = code_segment,
            None => self.load_real_segment(Segment::Cs, selector),
        }
        self.mode_changed();
        self.set_instruction_pointer(target);
        Ok(())
    }

    /// Reads a word of 2, 4 or 8 bytes.
    pub fn load_sized(&mut self, address: u64, size: u64) -> Result<u64, Abort> {
        Ok(match size {
            2 => self.load::<u16>(address)? as u64,
            4 => self.load::<u32>(address)? as u64,
            _ => self.load::<u64>(address)?,
        })
    }

    /// Writes a word of 2, 4 or 8 bytes.
    pub fn store_sized(&mut self, address: u64, size: u64, value: u64) -> Result<(), Abort> {
        match size {
            2 => self.store(address, value as u16),
            4 => self.store(address, value as u32),
            _ => self.store(address, value),
        }
    }

    /// SYSCALL; RIP is behind the instruction.
    pub fn enter_system_call(&mut self) {
        self.gpr[1] = self.rip;
        self.gpr[11] = self.flags.bits() & !flags::RF;
        let selector = (self.msr.star >> 32) as u16 & !3;
        self.set_flat_segments(selector, 0);
        let bits = self.gpr[11] & !self.msr.sfmask;
        self.flags.set_bits(bits);
        self.rip = self.msr.lstar;
        self.mode_changed();
    }

    /// SYSRET to 64-bit code.
    pub fn leave_system_call(&mut self) -> Result<(), Abort> {
        let rip = self.gpr[1];
        if !is_canonical(rip) {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let base = (self.msr.star >> 48) as u16;
        self.set_flat_segments(base.wrapping_add(16) | 3, 3);
        self.segments[Segment::Ss].selector = base.wrapping_add(8) | 3;
        // Without RF, VM and the reserved bits.
        self.flags.set_bits(self.gpr[11] & 0x3c_7fd7);
        self.rip = rip;
        self.mode_changed();
        Ok(())
    }

    /// SYSRET to 32-bit code.
    pub fn leave_system_call_to_compat(&mut self) {
        let base = (self.msr.star >> 48) as u16;
        self.set_flat_segments(base | 3, 3);
        self.segments[Segment::Cs].rights = FLAT_CODE_32 | 3 << 5;
        self.flags.set_bits(self.gpr[11] & 0x3c_7fd7);
        self.rip = self.gpr[1] & 0xffff_ffff;
        self.mode_changed();
    }

    /// SYSENTER. (SDM volume 2.)
    pub fn fast_enter(&mut self) -> Result<(), Abort> {
        let [cs, rsp, rip] = self.msr.sysenter;
        if self.is_real_mode() || cs & 0xfffc == 0 {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let long = self.msr.efer & EFER_LMA != 0;
        self.set_flat_segments(cs as u16 & !3, 0);
        if !long {
            self.segments[Segment::Cs].rights = FLAT_CODE_32;
        }
        self.flags.system &= !(flags::IF | flags::VM | flags::RF);
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        (self.gpr[RSP], self.rip) = (rsp & mask, rip & mask);
        self.mode_changed();
        Ok(())
    }

    /// SYSEXIT to 64-bit or to 32-bit code.
    pub fn fast_exit(&mut self, long: bool) -> Result<(), Abort> {
        let cs = self.msr.sysenter[0] as u16;
        let (rip, rsp) = (self.gpr[2], self.gpr[1]);
        if self.is_real_mode() || cs & !3 == 0 || long && !(is_canonical(rip) && is_canonical(rsp)) {
            return Err(self.raise(Exception::GeneralProtection(0)));
        }
        let (offset, mask) = if long { (32, u64::MAX) } else { (16, 0xffff_ffff) };
        self.set_flat_segments(cs.wrapping_add(offset) | 3, 3);
        if !long {
            self.segments[Segment::Cs].rights = FLAT_CODE_32 | 3 << 5;
        }
        (self.gpr[RSP], self.rip) = (rsp & mask, rip & mask);
        self.mode_changed();
        Ok(())
    }

    /// Flat 64-bit CS and SS of privilege `cpl`, whatever the descriptor tables hold.
    fn set_flat_segments(&mut self, code_selector: u16, cpl: u16) {
        let dpl = cpl << 5;
        let flat = Loaded { selector: 0, base: 0, limit: u32::MAX, rights: 0 };
        self.segments[Segment::Cs] = Loaded { selector: code_selector, rights: FLAT_CODE | dpl, ..flat };
        self.segments[Segment::Ss] =
            Loaded { selector: code_selector.wrapping_add(8), rights: FLAT_DATA | dpl, ..flat };
    }

    /// SWAPGS.
    pub fn swap_gs(&mut self) {
        std::mem::swap(&mut self.gpr[GS_BASE as usize], &mut self.msr.kernel_gs_base);
    }
}
