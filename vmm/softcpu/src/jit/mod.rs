//! Compiling hot blocks to host code.
//!
//! A block that the interpreter has executed a number of times is compiled: each guest instruction
//! becomes the same host instruction with its operands renamed (`recognise` decodes, `compile` holds the
//! templates, `emit` writes the bytes, `frame` says where everything lives meanwhile). Compiled
//! blocks jump to each other until the instructions run out that are left before the next event,
//! or something comes up that only the interpreter can do: an instruction without a template, a
//! TLB miss, a page fault, a device, code that changes. Then the code is left (`stubs`) in the
//! middle of the block, as if the interpreter had executed it that far, and the interpreter goes
//! on with the very instruction. So there is one implementation of everything difficult, and
//! compiled code calls nothing.
//!
//! # How blocks are joined
//!
//! * To the same page: by a direct jump, which is good as long as both blocks are there. A dropped
//!   block's incoming jumps are turned back.
//! * To another page: through a [`Slot`] that holds the [`CodeCache::tag`](crate::code::CodeCache::tag)
//!   at which the target was right.
//! * Indirect jumps and returns: through a table in the CPU ([`frame::Target`]), tagged the same way.
//!
//! Space is given back all at once, when it is used up ([`Jit::is_full`]).

mod compile;
mod emit;
pub mod frame;
mod insn;
mod memory;
mod recognise;
mod registers;
mod stubs;

use crate::code::BlockId;
use crate::cpu::Cpu;
use crate::memory::PAGE;
use crate::tlb::Mode;
use crate::uop::Uop;

use compile::{Place, Source};
use memory::{CodeMemory, CodeOffset};
pub use stubs::Leave;
use stubs::Stubs;

/// Bytes of generated code before everything is compiled anew. A Debian kernel's boot makes 8 MiB.
const CODE_BYTES: usize = 64 << 20;

/// No block's code is longer.
const MAX_BLOCK_BYTES: usize = 64 << 10;

/// Jumps to other pages before everything is compiled anew.
const SLOTS: usize = 128 << 10;

/// No exit: the instructions ran out.
const NO_SITE: u32 = u32::MAX;

/// A jump to another page.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    /// The tag at which `code` was right, or 0.
    tag: u64,
    /// Host address.
    code: u64,
}

/// A way out of a block's code.
#[derive(Clone, Copy)]
enum Site {
    /// The displacement of a jump, and what it leads to while it is not linked.
    Jump {
        displacement: u32,
        miss: u32,
    },
    Slot(u32),
}

/// The code of a block.
pub struct Code {
    at: CodeOffset,
    /// The privilege that its memory accesses have.
    mode: Mode,
    /// Sites whose jumps lead here.
    incoming: Vec<u32>,
}

/// What a block is made of, for [`Jit::compile`].
pub struct Input<'a> {
    pub id: BlockId,
    pub uops: &'a [Uop],
    /// Offset of the block from the start of its page.
    pub offset: u16,
    pub bytes: &'a [u8],
    pub mode: Mode,
}

/// The compiler and all code it made.
pub struct Jit {
    memory: CodeMemory,
    stubs: Stubs,
    /// Where the next block goes.
    next: u32,
    sites: Vec<Site>,
    /// Never more than [`SLOTS`], for which there is room from the start: compiled code has their addresses.
    slots: Vec<Slot>,
    /// After how many executions a block is compiled.
    pub threshold: u32,
    pub compiled: u64,
    pub flushes: u64,
}

impl Jit {
    /// `None` where the host forbids executable memory.
    pub fn new(threshold: u32) -> Option<Jit> {
        let mut memory = CodeMemory::new(CODE_BYTES).ok()?;
        let stubs = stubs::write(&mut memory);
        let next = stubs.end.0;
        Some(Jit {
            memory,
            stubs,
            next,
            sites: Vec::new(),
            slots: Vec::with_capacity(SLOTS),
            threshold,
            compiled: 0,
            flushes: 0,
        })
    }

    /// True if there may be no room for another block.
    pub fn is_full(&self) -> bool {
        self.next as usize + MAX_BLOCK_BYTES > self.memory.len() || self.slots.len() + 2 > SLOTS
    }

    /// Forgets all code. No block's [`Code`] is to be used again.
    pub fn clear(&mut self) {
        self.flushes += 1;
        self.next = self.stubs.end.0;
        self.sites.clear();
        self.slots.clear();
    }

    /// Compiles a block. `None` if it is not worth it.
    pub fn compile(&mut self, input: &Input) -> Option<Code> {
        let mut instructions: Vec<(u8, u32)> = Vec::with_capacity(input.uops.len());
        let mut falls_through = false;
        let mut last = None;
        for (i, uop) in input.uops.iter().enumerate() {
            falls_through = uop.len == 0;
            if uop.len > 0 && last != Some(uop.offset) {
                last = Some(uop.offset);
                instructions.push((uop.len, i as u32));
            }
        }
        let source = Source {
            block: input.id,
            offset: input.offset,
            instructions: &instructions,
            bytes: input.bytes,
            mode: input.mode,
            falls_through,
            rorx: std::arch::is_x86_feature_detected!("bmi2"),
        };
        let first_exit = self.sites.len() as u32;
        let first_slot = self.slots.len();
        let slots = &mut self.slots;
        let mut take_slot = || {
            if slots.len() == SLOTS {
                return None;
            }
            slots.push(Slot { tag: 0, code: 0 });
            slots.last().map(|slot| slot as *const Slot as u64)
        };
        let mut place = Place {
            at: self.next,
            leave_by_link: self.stubs.leave_by_link.0,
            leave_to_interpreter: self.stubs.leave_to_interpreter.0,
            first_exit,
            slots: &mut take_slot,
        };
        let compiled = compile::compile(&source, &mut place);
        let Some(compiled) = compiled.filter(|code| code.bytes.len() <= MAX_BLOCK_BYTES) else {
            self.slots.truncate(first_slot);
            return None;
        };
        let at = CodeOffset(self.next);
        let mut slot = first_slot as u32;
        for exit in &compiled.exits {
            self.sites.push(match exit.jump {
                Some(jump) => Site::Jump { displacement: at.0 + jump as u32, miss: at.0 + exit.miss as u32 },
                None => {
                    slot += 1;
                    Site::Slot(slot - 1)
                }
            });
        }
        self.memory.write(at, &compiled.bytes);
        self.next = (at.0 + compiled.bytes.len() as u32).next_multiple_of(16);
        self.compiled += 1;
        Some(Code { at, mode: input.mode, incoming: Vec::new() })
    }

    /// Lets `site` lead to `target`, which is right at `tag`.
    pub fn link(&mut self, site: u32, target: &mut Code, tag: u64) {
        if site == NO_SITE {
            return;
        }
        match self.sites[site as usize] {
            Site::Jump { displacement, .. } => {
                self.point(displacement, target.at.0);
                target.incoming.push(site);
            }
            Site::Slot(slot) => {
                self.slots[slot as usize] = Slot { tag, code: self.memory.address(target.at) };
            }
        }
    }

    /// Turns the jumps to a block back that is being dropped.
    pub fn unlink(&mut self, code: &Code) {
        for &site in &code.incoming {
            if let Site::Jump { displacement, miss } = self.sites[site as usize] {
                self.point(displacement, miss);
            }
        }
    }

    fn point(&mut self, displacement: u32, target: u32) {
        let distance = target.wrapping_sub(displacement + 4);
        self.memory.write(CodeOffset(displacement), &distance.to_le_bytes());
    }
}

impl Code {
    /// True if it is for accesses of this privilege.
    pub fn is_for(&self, mode: Mode) -> bool {
        self.mode == mode
    }
}

impl Cpu {
    /// Executes compiled code, beginning with that of a block at RIP, until it is left.
    pub fn run_compiled(&mut self, id: BlockId) -> Option<Leave> {
        let mode = self.mode;
        let code = self.code.blocks[id as usize].code.as_ref().filter(|code| code.is_for(mode))?;
        let jit = self.code.jit.as_ref()?;
        let (enter, target) = (jit.memory.address(jit.stubs.enter), jit.memory.address(code.at));
        self.gpr[crate::uop::PAGE_BASE as usize] = self.rip & !(PAGE - 1);
        self.jit.parked = frame::park(self.flags.arithmetic());
        // SAFETY: `enter` is the address of a function of this type, written by `stubs::write`.
        let enter: extern "sysv64" fn(*mut Cpu, u64) -> u32 = unsafe { std::mem::transmute(enter) };
        let left = enter(self, target);
        self.flags.set_arithmetic(frame::unpark(self.jit.parked));
        Some(if left == Leave::Link as u32 { Leave::Link } else { Leave::Interpret })
    }

    /// Compiles a block at the present privilege. False if it has to be interpreted.
    #[cold]
    #[inline(never)]
    pub fn compile(&mut self, id: BlockId) -> bool {
        let mode = self.mode;
        if self.code.jit.as_ref().is_some_and(Jit::is_full) {
            self.code.drop_compiled();
        }
        let Some(jit) = &mut self.code.jit else { return false };
        let block = &mut self.code.blocks[id as usize];
        let Some(page) = self.ram.page(block.physical) else { return false };
        let offset = block.physical % PAGE;
        let mut bytes = vec![0; block.len as usize];
        page.copy_to(offset, &mut bytes);
        let input = Input { id, uops: &block.uops, offset: offset as u16, bytes: &bytes, mode };
        block.code = jit.compile(&input);
        block.code.is_some()
    }

    /// Lets the place where compiled code was left lead to `id` from now on, if that is compiled.
    pub fn link_compiled(&mut self, site: u32, id: BlockId) {
        let (mode, tag) = (self.mode, self.code.tag());
        let Some(jit) = &mut self.code.jit else { return };
        if let Some(code) = &mut self.code.blocks[id as usize].code
            && code.is_for(mode)
        {
            jit.link(site, code, tag);
        }
    }

    /// Lets indirect jumps to RIP find `id`, if that is compiled.
    pub fn remember_compiled(&mut self, id: BlockId) {
        let (mode, tag, rip) = (self.mode, self.code.tag(), self.rip);
        let Some(jit) = &self.code.jit else { return };
        if let Some(code) = &self.code.blocks[id as usize].code
            && code.is_for(mode)
        {
            let code = jit.memory.address(code.at);
            *self.jit.target(rip) = frame::Target { rip, tag, page: rip & !(PAGE - 1), code };
        }
    }
}
