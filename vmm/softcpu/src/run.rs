//! Executing blocks one after the other.

use std::sync::Arc;

use crate::code::{Block, BlockId, Link, NONE, Single};
use crate::cpu::{Abort, Cause, Cpu};
use crate::decode::{self, MAX_LEN, Tables};
use crate::exception::Exception;
use crate::flags;
use crate::jit::Leave;
use crate::memory::PAGE;
use crate::mode::CodeSize;
use crate::uop::{Cursor, Flow, PAGE_BASE, Uop};

/// Most bytes that are looked at for one block.
const WINDOW: usize = 512;

/// DR6.BS: a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// How a block was left, to remember where that led.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through a link.
    Side(usize),
    /// By an indirect jump.
    Jump,
    /// Out of compiled code, at a place that could lead on directly.
    Site(u32),
}

/// What is at an address.
enum Found {
    Block(BlockId),
    /// An instruction that reaches into the next page.
    Straddling,
}

impl Cpu {
    /// Executes blocks until one ends with something else than a jump, or the next event is due.
    /// RIP is right afterwards.
    ///
    /// A block is entered by a call from here, not by a jump from the end of the one before: that
    /// was measured to be slower by half (the host predicts the one call better than many jumps).
    pub fn run_blocks(&mut self) -> Flow {
        let mut found = self.find_block();
        loop {
            let mut id = match found {
                Ok(Found::Block(id)) => id,
                Ok(Found::Straddling) => match self.run_outside_blocks() {
                    Flow::Link0 | Flow::Link1 | Flow::Jump => {
                        found = self.find_block();
                        continue;
                    }
                    flow => return flow,
                },
                Err(Abort) => return Flow::Abort,
            };
            let way = loop {
                let block = &self.code.blocks[id as usize];
                if self.remaining < block.instructions as i64 || self.board.remote.attention() {
                    // The last instructions before an event are executed one by one, so that
                    // events fall between the same two however the code is cut into blocks.
                    return self.run_outside_blocks();
                }
                let compiled =
                    if block.code.is_some() || self.is_worth_it(id) { self.run_compiled(id) } else { None };
                let flow = match compiled {
                    Some(Leave::Link) => break Way::Site(self.jit.site),
                    Some(Leave::Interpret) => {
                        id = self.jit.block;
                        self.interpret(id, self.jit.site as usize)
                    }
                    None => {
                        self.remaining -= self.code.blocks[id as usize].instructions as i64;
                        self.gpr[PAGE_BASE as usize] = self.rip & !(PAGE - 1);
                        self.interpret(id, 0)
                    }
                };

                // The block that was left is still there: what drops a block being executed (a
                // device) is reached only from outside blocks, or ends them with `Sync`.
                let (link, way) = match flow {
                    Flow::Link0 => (self.code.blocks[id as usize].links[0], Way::Side(0)),
                    Flow::Link1 => (self.code.blocks[id as usize].links[1], Way::Side(1)),
                    Flow::Jump => (self.code.guess(self.rip), Way::Jump),
                    Flow::Sync | Flow::Abort | Flow::Halt => return flow,
                };
                if link.tag != self.code.tag() {
                    break way;
                }
                id = link.block;
                if compiled.is_some() && way == Way::Jump {
                    self.remember_compiled(id);
                }
            };
            if self.code.is_full() {
                // The caller collects: a guest made of new code alone must not fill the host.
                return Flow::Sync;
            }
            found = self.find_block();
            // Outside 64-bit mode RIP is to be wrapped first, which the search does.
            if let Ok(Found::Block(block)) = found
                && self.code_size == CodeSize::Long
            {
                match way {
                    Way::Side(side) => {
                        let link = Link { tag: self.code.tag(), block };
                        self.code.blocks[id as usize].links[side] = link;
                    }
                    Way::Jump => self.remember_compiled(block),
                    Way::Site(site) => self.link_compiled(site, block),
                }
            }
        }
    }

    /// Executes the micro-operations of a block from number `first`. `PAGE_BASE` is set, and the
    /// whole block is counted.
    #[inline(always)]
    fn interpret(&mut self, id: BlockId, first: usize) -> Flow {
        let block = &self.code.blocks[id as usize];
        self.block = id;
        self.block_instructions = block.instructions as u32;
        let uops = &block.uops[first..];
        // SAFETY: the decoder ends every block with a micro-operation that leaves it, and the code
        // cache keeps dropped blocks until `collect`, which no handler calls.
        let start = unsafe { Cursor::start(uops.as_ptr()) };
        (start.uop().handler)(self, start)
    }

    /// Counts the executions of a block that is not compiled, and compiles it when it is worth it.
    #[inline(always)]
    fn is_worth_it(&mut self, id: BlockId) -> bool {
        let threshold = self.code.threshold;
        let block = &mut self.code.blocks[id as usize];
        if block.heat >= threshold {
            return false;
        }
        block.heat += 1;
        block.heat == threshold && self.compile(id)
    }

    /// Executes one instruction that is in no block, unless an event is due before it.
    fn run_outside_blocks(&mut self) -> Flow {
        if self.remaining <= 0 || self.board.remote.attention() {
            return Flow::Sync;
        }
        self.run_single()
    }

    /// The block at RIP, decoded if need be.
    fn find_block(&mut self) -> Result<Found, Abort> {
        let size = self.code_size;
        if size != CodeSize::Long {
            self.wrap_rip()?;
        }
        let rip = self.rip;
        let guess = self.code.guess(rip);
        if guess.tag == self.code.tag() {
            return Ok(Found::Block(guess.block));
        }
        // Whether it still does is seen when it is executed.
        if self.code.single(rip).as_ref().is_some_and(|single| single.straddles(rip, size)) {
            return Ok(Found::Straddling);
        }
        let (physical, host) = self.translate_fetch(rip)?;
        let at = |block: &Block| block.physical == physical && block.size == size;
        if guess.block != NONE && at(&self.code.blocks[guess.block as usize]) {
            self.code.remember(rip, guess.block);
            return Ok(Found::Block(guess.block));
        }
        if let Some(id) = self.code.find(physical, size) {
            self.code.remember(rip, id);
            return Ok(Found::Block(id));
        }
        let mut bytes = [0; WINDOW];
        let offset = physical % PAGE;
        let window = WINDOW.min((PAGE - offset) as usize);
        host.copy_to(offset, &mut bytes[..window]);
        let code = &mut self.code;
        let tables = Tables { vector: &mut code.vector_ops, x87: &mut code.x87_ops };
        let Some(decoded) =
            decode::decode(&bytes[..window], offset as u16, decode::MAX_INSTRUCTIONS, size, tables)
        else {
            return Ok(Found::Straddling);
        };
        let (id, first) = code.insert(&self.ram, physical, size, decoded);
        if first {
            self.tlb.protect(physical & !(PAGE - 1));
        }
        self.code.remember(rip, id);
        Ok(Found::Block(id))
    }

    /// Executes the one instruction at RIP outside the cache of blocks.
    fn run_single(&mut self) -> Flow {
        if self.code_size != CodeSize::Long
            && let Err(Abort) = self.wrap_rip()
        {
            return Flow::Abort;
        }
        let rip = self.rip;
        let uops = match self.decode_single(rip) {
            Ok(uops) => uops,
            Err(Abort) => return Flow::Abort,
        };
        self.block_instructions = 1;
        self.block = NONE;
        self.remaining -= 1;
        self.gpr[PAGE_BASE as usize] = rip & !(PAGE - 1);
        // SAFETY: the decoder ends the slice with a micro-operation that leaves it, and `uops`
        // keeps it.
        let start = unsafe { Cursor::start(uops.as_ptr()) };
        (start.uop().handler)(self, start)
    }

    fn decode_single(&mut self, rip: u64) -> Result<Arc<[Uop]>, Abort> {
        let mut bytes = [0; MAX_LEN];
        let (physical, host) = self.translate_fetch(rip)?;
        let in_page = ((PAGE - physical % PAGE) as usize).min(MAX_LEN);
        host.copy_to(physical % PAGE, &mut bytes[..in_page]);
        let mut known = in_page;
        // The second page is missed only by an instruction that reaches into it.
        let mut second = Ok(());
        if in_page < MAX_LEN {
            match self.translate_fetch(rip.wrapping_add(in_page as u64)) {
                Ok((_, host)) => {
                    host.copy_to(0, &mut bytes[in_page..]);
                    known = MAX_LEN;
                }
                Err(abort) => second = Err(abort),
            }
        }
        let size = self.code_size;
        let code = &mut self.code;
        if let Some(single) = code.single(rip)
            && single.is_at(rip, size)
            && single.len <= known
            && single.bytes[..single.len] == bytes[..single.len]
        {
            return Ok(single.uops.clone());
        }
        let tables = Tables { vector: &mut code.vector_ops, x87: &mut code.x87_ops };
        let Some(decoded) = decode::decode(&bytes[..known], (rip % PAGE) as u16, 1, size, tables) else {
            // With 15 bytes at hand something is always decoded.
            second?;
            return Err(self.raise(Exception::GeneralProtection(0)));
        };
        let uops: Arc<[Uop]> = decoded.uops.into();
        *code.single(rip) = Some(Single { rip, size, bytes, len: decoded.len as usize, uops: uops.clone() });
        Ok(uops)
    }

    /// Executes one instruction alone: behind STI, with the trap flag or breakpoints, or because it
    /// overwrites its own block.
    pub fn single_step(&mut self) -> Flow {
        if self.watching {
            if self.stop_at_point() {
                self.abort = Cause::Debugger;
                return Flow::Abort;
            }
            let bits = self.instruction_breakpoints();
            if bits != 0 {
                return self.debug_exception(bits);
            }
        }
        self.shadow = false;
        self.alone = false;
        self.data_hits = 0;
        let trap = self.flags.system & flags::TF != 0;
        let flow = self.run_single();
        let bits = self.data_hits | if trap { DR6_SINGLE_STEP } else { 0 };
        if bits != 0 && flow != Flow::Abort {
            return self.debug_exception(bits);
        }
        flow
    }

    fn debug_exception(&mut self, bits: u64) -> Flow {
        self.dr[6] |= bits;
        self.abort = Cause::Exception(Exception::Debug);
        Flow::Abort
    }
}
