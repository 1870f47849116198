//! Execution of lowered x87 instructions.

use super::host::{self, Frame, Width};
use super::op::{Condition, Kind, Op, Operand};
use super::state::{F80, X87State, status};
use super::{compare, image};
use crate::exception::Exception;
use crate::simd::context::Context;

/// The exceptions found before anything is computed: invalid, denormal, divide by zero.
/// Unmasked, they leave every operand as it was. (SDM volume 1, 4.9.2.)
pub(super) const PRECOMPUTATION: u16 = 0x07;

/// Executes `op`. An unmasked exception is flagged now and reported as #MF by the next waiting
/// instruction, as on hardware.
pub(crate) fn execute<C: Context>(op: Op, cx: &mut C) -> Result<(), Exception> {
    if waits(op.0) && cx.x87().pending() && cx.numeric_error() {
        return Err(Exception::X87FloatingPoint);
    }
    let was_pending = cx.x87().pending();
    perform(op.0, cx)?;
    if !was_pending && cx.x87().pending() && computes(op.0) {
        let instruction = cx.instruction_pointer();
        let operand = if reads_memory(op.0) { cx.operand_address() } else { 0 };
        cx.x87().last_instruction = instruction;
        cx.x87().last_operand = operand;
    }
    Ok(())
}

/// Whether the instruction reports a pending exception first. (SDM volume 1, 8.6.)
fn waits(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::StoreControl
            | Kind::StatusToAx
            | Kind::StoreStatus
            | Kind::StoreEnvironment { .. }
            | Kind::Save { .. }
            | Kind::Initialize
            | Kind::ClearExceptions
            | Kind::Ignored
    )
}

/// Whether it is not a control instruction, those that leave the last-instruction pointer alone.
fn computes(kind: Kind) -> bool {
    waits(kind)
        && !matches!(
            kind,
            Kind::LoadControl
                | Kind::LoadEnvironment { .. }
                | Kind::Restore { .. }
                | Kind::Free { .. }
                | Kind::IncrementTop
                | Kind::DecrementTop
                | Kind::Wait
        )
}

fn reads_memory(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Load(Operand::Memory(_))
            | Kind::Store { to: Operand::Memory(_), .. }
            | Kind::Arithmetic { source: Operand::Memory(_), .. }
            | Kind::Compare { source: Operand::Memory(_), .. }
    )
}

fn perform<C: Context>(kind: Kind, cx: &mut C) -> Result<(), Exception> {
    match kind {
        Kind::Load(Operand::Register(index)) => load_register(index, cx.x87()),
        Kind::Load(Operand::Memory(width)) => {
            let memory = load_operand(width, cx)?;
            push_computed(cx.x87(), |frame| {
                frame.memory = memory;
                host::load(width, frame);
            });
        }
        Kind::Constant(constant) => push_computed(cx.x87(), |frame| constant.run(frame)),
        Kind::Store { to: Operand::Register(index), pop, .. } => store_register(index, pop, cx.x87()),
        Kind::Store { to: Operand::Memory(width), pop, truncate } => {
            return store_memory(width, pop, truncate, cx);
        }
        Kind::Arithmetic { op, to, source, pop } => {
            let (width, other, memory) = match source {
                Operand::Register(index) => (None, index, [0; 16]),
                Operand::Memory(width) => (Some(width), to, load_operand(width, cx)?),
            };
            let x87 = cx.x87();
            if x87.is_empty(to) || x87.is_empty(other) {
                x87.underflow(to, pop);
                return Ok(());
            }
            let mut frame = x87.frame();
            frame.st0 = x87.register(to);
            frame.st1 = x87.register(other);
            frame.memory = memory;
            op.run(width, &mut frame);
            if x87.merge(&frame, status::C1) {
                x87.set(to, frame.st0);
                if pop {
                    x87.pop();
                }
            }
        }
        Kind::Compare { op, source, pops, eflags } => {
            let memory = match source {
                Operand::Register(_) => [0; 16],
                Operand::Memory(width) => load_operand(width, cx)?,
            };
            compare::compare(op, source, memory, pops, eflags, cx);
        }
        Kind::Test => {
            let zero = Operand::Memory(Width::Int16);
            compare::compare(host::Comparison::Ordered, zero, [0; 16], 0, false, cx);
        }
        Kind::Examine => compare::examine(cx.x87()),
        Kind::Absolute => cx.x87().adjust_sign(|sign_exponent| sign_exponent & 0x7fff),
        Kind::Negate => cx.x87().adjust_sign(|sign_exponent| sign_exponent ^ 0x8000),
        Kind::Exchange(index) => exchange(index, cx.x87()),
        Kind::Move { when, negated, from } => {
            let flags = cx.flags();
            let holds = match when {
                Condition::Below => flags.cf,
                Condition::Equal => flags.zf,
                Condition::BelowOrEqual => flags.cf || flags.zf,
                Condition::Unordered => flags.pf,
            };
            let x87 = cx.x87();
            if x87.is_empty(0) || x87.is_empty(from) {
                x87.underflow(0, false);
            } else if holds != negated {
                x87.set(0, x87.register(from));
            }
        }
        Kind::Function(function) => {
            let x87 = cx.x87();
            let binary = function.is_binary();
            if x87.is_empty(0) || binary && x87.is_empty(1) {
                x87.status &= !(function.condition_codes() & status::C2);
                x87.underflow(0, false);
                return Ok(());
            }
            let mut frame = x87.frame();
            if binary {
                frame.st1 = x87.register(1);
            }
            function.run(&mut frame);
            // Without a quotient there are no bits of it for the condition codes.
            let stopped = frame.status & !x87.control & PRECOMPUTATION != 0;
            let kept = if stopped || frame.st0.is_nan() { status::C0 | status::C3 } else { 0 };
            if x87.merge(&frame, function.condition_codes() & !kept) {
                x87.set(0, frame.st0);
            }
        }
        Kind::Reduction(reduction) => {
            let x87 = cx.x87();
            if x87.is_empty(0) || x87.is_empty(1) {
                x87.underflow(1, true);
                return Ok(());
            }
            let mut frame = x87.frame();
            frame.st1 = x87.register(1);
            reduction.run(&mut frame);
            x87.merge(&frame, status::C1);
            if frame.popped() {
                x87.pop();
                x87.set(0, frame.st0);
            }
        }
        Kind::Expansion(expansion) => {
            let x87 = cx.x87();
            if x87.is_empty(0) {
                if x87.stack_fault(false) {
                    x87.set(0, F80::INDEFINITE);
                    x87.push(F80::INDEFINITE);
                }
                return Ok(());
            }
            if !x87.is_empty(7) {
                if x87.stack_fault(true) {
                    x87.set(0, F80::INDEFINITE);
                    x87.push(F80::INDEFINITE);
                }
                return Ok(());
            }
            let mut frame = x87.frame();
            expansion.run(&mut frame);
            x87.merge(&frame, expansion.condition_codes());
            if frame.pushed() {
                x87.set(0, frame.st1);
                x87.push(frame.st0);
            }
        }
        Kind::LoadControl => {
            let control = u16::from_le_bytes(cx.load(0)?);
            cx.x87().set_control(control);
        }
        Kind::StoreControl => {
            let control = cx.x87().control;
            return cx.store(0, control.to_le_bytes());
        }
        Kind::StatusToAx => {
            let rax = cx.gpr(0) & !0xffff | u64::from(cx.x87().status);
            cx.set_gpr(0, rax);
        }
        Kind::StoreStatus => {
            let status = cx.x87().status;
            return cx.store(0, status.to_le_bytes());
        }
        Kind::LoadEnvironment { short } => return image::load_environment(short, cx),
        Kind::StoreEnvironment { short } => return image::store_environment(short, cx),
        Kind::Restore { short } => return image::restore(short, cx),
        Kind::Save { short } => return image::save(short, cx),
        Kind::Initialize => cx.x87().initialize(),
        Kind::ClearExceptions => {
            let x87 = cx.x87();
            x87.status &= !(status::EXCEPTIONS | status::STACK_FAULT | status::SUMMARY);
        }
        Kind::Free { index, pop } => {
            let x87 = cx.x87();
            x87.free(index);
            if pop {
                x87.pop();
            }
        }
        Kind::IncrementTop => {
            let x87 = cx.x87();
            x87.clear_c1();
            x87.set_top(x87.top() + 1);
        }
        Kind::DecrementTop => {
            let x87 = cx.x87();
            x87.clear_c1();
            x87.set_top(x87.top().wrapping_sub(1));
        }
        Kind::Wait | Kind::Ignored => {}
    }
    Ok(())
}

/// The memory operand in the first bytes of a frame's.
fn load_operand<C: Context>(width: Width, cx: &mut C) -> Result<[u8; 16], Exception> {
    let mut memory = [0; 16];
    match width {
        Width::Int16 => memory[..2].copy_from_slice(&cx.load::<2>(0)?),
        Width::Single | Width::Int32 => memory[..4].copy_from_slice(&cx.load::<4>(0)?),
        Width::Double | Width::Int64 => memory[..8].copy_from_slice(&cx.load::<8>(0)?),
        Width::Extended | Width::Decimal => memory[..10].copy_from_slice(&cx.load::<10>(0)?),
    }
    Ok(memory)
}

/// Pushes what `run` pushes on the host.
fn push_computed(x87: &mut X87State, run: impl FnOnce(&mut Frame)) {
    if !x87.is_empty(7) {
        x87.overflow();
        return;
    }
    let mut frame = Frame::new(x87.control);
    run(&mut frame);
    x87.merge(&frame, status::C1);
    if frame.pushed() {
        x87.push(frame.st0);
    }
}

/// FLD ST(i).
fn load_register(index: u8, x87: &mut X87State) {
    if x87.is_empty(index) {
        if x87.stack_fault(false) {
            x87.push(F80::INDEFINITE);
        }
    } else if !x87.is_empty(7) {
        x87.overflow();
    } else {
        x87.clear_c1();
        x87.push(x87.register(index));
    }
}

/// FST ST(i) and FSTP ST(i).
fn store_register(index: u8, pop: bool, x87: &mut X87State) {
    if x87.is_empty(0) {
        x87.underflow(index, pop);
        return;
    }
    x87.clear_c1();
    x87.set(index, x87.register(0));
    if pop {
        x87.pop();
    }
}

/// Stores to memory. The store comes before the flags: if it faults nothing has happened.
fn store_memory<C: Context>(width: Width, pop: bool, truncate: bool, cx: &mut C) -> Result<(), Exception> {
    let x87 = cx.x87();
    let empty = x87.is_empty(0);
    let mut frame = x87.frame();
    if empty {
        // The masked response is the indefinite of the operand's type, which is what storing the
        // indefinite gives.
        frame.st0 = F80::INDEFINITE;
        frame.control |= status::EXCEPTIONS;
        if x87.control & status::INVALID == 0 {
            x87.stack_fault(false);
            return Ok(());
        }
    }
    host::store(width, truncate, &mut frame);
    if frame.popped() {
        store_operand(width, frame.memory, cx)?;
    }
    let x87 = cx.x87();
    if empty {
        x87.stack_fault(false);
    } else {
        x87.merge(&frame, status::C1);
    }
    if frame.popped() && pop {
        x87.pop();
    }
    Ok(())
}

fn store_operand<C: Context>(width: Width, memory: [u8; 16], cx: &mut C) -> Result<(), Exception> {
    match width {
        Width::Int16 => cx.store::<2>(0, image::field(&memory, 0)),
        Width::Single | Width::Int32 => cx.store::<4>(0, image::field(&memory, 0)),
        Width::Double | Width::Int64 => cx.store::<8>(0, image::field(&memory, 0)),
        Width::Extended | Width::Decimal => cx.store::<10>(0, image::field(&memory, 0)),
    }
}

/// FXCH: an empty register takes part as the indefinite.
fn exchange(index: u8, x87: &mut X87State) {
    if (x87.is_empty(0) || x87.is_empty(index)) && !x87.stack_fault(false) {
        return;
    }
    let or_indefinite = |x87: &X87State, i| if x87.is_empty(i) { F80::INDEFINITE } else { x87.register(i) };
    let (a, b) = (or_indefinite(x87, 0), or_indefinite(x87, index));
    if !x87.is_empty(0) && !x87.is_empty(index) {
        x87.clear_c1();
    }
    x87.set(0, b);
    x87.set(index, a);
}

impl host::Function {
    fn is_binary(self) -> bool {
        matches!(self, Self::Fscale | Self::Fprem | Self::Fprem1)
    }

    /// The condition codes it defines.
    fn condition_codes(self) -> u16 {
        match self {
            // Bits of the quotient, and whether the reduction is incomplete.
            Self::Fprem | Self::Fprem1 => status::C0 | status::C1 | status::C2 | status::C3,
            // C2: the operand is out of range.
            Self::Fsin | Self::Fcos => status::C1 | status::C2,
            _ => status::C1,
        }
    }
}

impl host::Expansion {
    fn condition_codes(self) -> u16 {
        match self {
            Self::Fptan | Self::Fsincos => status::C1 | status::C2,
            Self::Fxtract => status::C1,
        }
    }
}

impl X87State {
    /// A frame with the guest's control word and ST(0).
    pub(super) fn frame(&self) -> Frame {
        let mut frame = Frame::new(self.control);
        frame.st0 = self.register(0);
        frame
    }

    /// Takes over the exceptions and the condition codes in `codes`. True if the instruction
    /// completed, that is, none of the exceptions that stop it was unmasked.
    pub(super) fn merge(&mut self, frame: &Frame, codes: u16) -> bool {
        let raised = frame.status & status::EXCEPTIONS;
        self.status = self.status & !codes | frame.status & codes | raised;
        self.summarize();
        raised & PRECOMPUTATION & !self.control == 0
    }

    pub(super) fn clear_c1(&mut self) {
        self.status &= !status::C1;
    }

    /// Flags a stack overflow or underflow. True if it is masked, so that the instruction goes
    /// on with the indefinite. (SDM volume 1, 8.5.1.1.)
    pub(super) fn stack_fault(&mut self, overflow: bool) -> bool {
        self.clear_c1();
        self.status |= status::INVALID | status::STACK_FAULT;
        if overflow {
            self.status |= status::C1;
        }
        self.summarize();
        self.control & status::INVALID != 0
    }

    /// A push onto a register in use.
    fn overflow(&mut self) {
        if self.stack_fault(true) {
            self.push(F80::INDEFINITE);
        }
    }

    /// An empty operand: ST(`to`) becomes the indefinite.
    fn underflow(&mut self, to: u8, pop: bool) {
        if self.stack_fault(false) {
            self.set(to, F80::INDEFINITE);
            if pop {
                self.pop();
            }
        }
    }

    /// FABS and FCHS.
    fn adjust_sign(&mut self, f: impl FnOnce(u16) -> u16) {
        if self.is_empty(0) {
            self.underflow(0, false);
        } else {
            self.clear_c1();
            let register = self.register_mut(0);
            register.sign_exponent = f(register.sign_exponent);
        }
    }

    /// FNINIT. The registers keep their bits, tagged empty.
    pub(super) fn initialize(&mut self) {
        *self = Self { registers: self.registers, ..Self::default() };
    }
}
