//! The cache of decoded blocks.
//!
//! A block is a run of instructions within one physical page, decoded once. Blocks are found by
//! physical address, so two linear mappings of a page share them (micro-operations are relative
//! to the page) and a write through one mapping drops what was decoded through another.
//!
//! Links between blocks and the jump cache are guesses made fast: each is tagged with the
//! [`CodeCache::tag`] at which it was last known to be right. The tag changes with every TLB
//! flush, every dropped block and every change of privilege; a guess with an old tag is checked
//! against the page tables again and renewed, not thrown away. A kernel in global pages keeps its
//! tag when it goes from one process to another.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::decode::{Decoded, MAX_LEN};
use crate::interp::control;
use crate::jit::{Code, Jit};
use crate::memory::{PAGE, Ram};
use crate::mode::CodeSize;
use crate::tlb::Mode;
use crate::uop::Uop;

/// Index of a block.
pub type BlockId = u32;

/// No block.
pub const NONE: BlockId = u32::MAX;

/// When so much is held, in micro-operations of 32 bytes, the cache starts again from nothing.
const MAX_UOPS: usize = 3 << 20;

/// What a block takes beside its micro-operations, in as many of them: itself, its entries in tables, what it is
/// allocated in. A guest can make one of every byte.
const BLOCK_UOPS: usize = 7;

/// When this many dropped blocks wait, they are freed before another is decoded.
const MAX_DROPPED: usize = 64 << 10;

const JUMPS: usize = 4096;

/// A guess where a block's exit leads.
#[derive(Clone, Copy)]
pub struct Link {
    pub tag: u64,
    pub block: BlockId,
}

const NO_LINK: Link = Link { tag: 0, block: NONE };

/// Decoded instructions.
pub struct Block {
    pub uops: Arc<[Uop]>,
    /// Guest-physical address of the first byte; `u64::MAX` when the slot is free.
    pub physical: u64,
    pub len: u16,
    pub instructions: u16,
    /// What it was decoded as. A block that is not 64-bit code has no links.
    pub size: CodeSize,
    pub links: [Link; 2],
    /// Executions by the interpreter.
    pub heat: u32,
    /// What it was compiled to.
    pub code: Option<Code>,
}

impl Block {
    /// The heat to begin with: only 64-bit code is ever worth compiling.
    fn cold(size: CodeSize) -> u32 {
        if size == CodeSize::Long { 0 } else { u32::MAX }
    }
}

#[derive(Clone, Copy)]
struct JumpEntry {
    rip: u64,
    link: Link,
}

/// The blocks of one physical page.
#[derive(Default)]
struct PageCode {
    /// First byte, byte after the last, block.
    blocks: Vec<(u16, u16, BlockId)>,
    /// One bit for each 64 bytes of the page that a block touches.
    touched: u64,
}

/// An instruction that cannot be in a block of its page, because it lies in two pages or because
/// it is to be executed alone. It is known by its bytes, which are compared every time.
#[derive(Clone)]
pub struct Single {
    pub rip: u64,
    pub size: CodeSize,
    pub bytes: [u8; MAX_LEN],
    pub len: usize,
    pub uops: Arc<[Uop]>,
}

impl Single {
    /// True if it was found at `rip` in code of that size.
    pub fn is_at(&self, rip: u64, size: CodeSize) -> bool {
        self.rip == rip && self.size == size
    }

    /// True if what was found at `rip` reaches into the next page.
    pub fn straddles(&self, rip: u64, size: CodeSize) -> bool {
        self.is_at(rip, size) && rip % PAGE + self.len as u64 > PAGE
    }
}

const SINGLES: usize = 512;

/// All decoded blocks and the ways to find them.
pub struct CodeCache {
    pub blocks: Vec<Block>,
    free: Vec<BlockId>,
    by_address: HashMap<u64, BlockId, BuildHasherDefault<AddressHasher>>,
    /// By page number: 0 for a page without code, else the index into `page_code` plus one.
    pages: Vec<u32>,
    page_code: Vec<PageCode>,
    free_page_code: Vec<u32>,
    jumps: Box<[JumpEntry]>,
    singles: Vec<Option<Single>>,
    /// How often the translations of a supervisor's code changed, and those of programs' code.
    generations: [u64; 2],
    tag: u64,
    uops: usize,
    /// Dropped blocks that may still be executing.
    dropped: Vec<Arc<[Uop]>>,
    /// What takes the place of a dropped block's micro-operations.
    nothing: Arc<[Uop]>,
    /// Lowered vector and floating-point instructions, named by number in micro-operations.
    pub vector_ops: Vec<crate::simd::Op>,
    pub x87_ops: Vec<crate::x87::Op>,
    /// The compiler, unless everything is interpreted.
    pub jit: Option<Jit>,
    /// How often a block is interpreted before it is compiled; 0 if never.
    pub threshold: u32,
    pub decoded: u64,
    pub invalidated: u64,
    /// How often a page without code became one with.
    marked_pages: u64,
}

impl CodeCache {
    /// Where [`CodeCache::tag`] is, for compiled code.
    pub const TAG_OFFSET: usize = std::mem::offset_of!(CodeCache, tag);

    pub fn new(ram: &Ram, jit: Option<Jit>) -> CodeCache {
        CodeCache {
            blocks: Vec::new(),
            free: Vec::new(),
            by_address: HashMap::default(),
            pages: vec![0; ram.pages()],
            page_code: Vec::new(),
            free_page_code: Vec::new(),
            jumps: vec![JumpEntry { rip: 0, link: NO_LINK }; JUMPS].into_boxed_slice(),
            singles: vec![None; SINGLES],
            generations: [1; 2],
            tag: 1 << 3,
            uops: 0,
            dropped: Vec::new(),
            nothing: Arc::new([Uop::new(control::dropped)]),
            vector_ops: Vec::new(),
            x87_ops: Vec::new(),
            threshold: jit.as_ref().map_or(0, |jit| jit.threshold),
            jit,
            decoded: 0,
            invalidated: 0,
            marked_pages: 0,
        }
    }

    /// What a [`Link`] must be tagged with to be believed.
    #[inline(always)]
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Privilege or code size changed: other links are good.
    pub fn set_mode(&mut self, mode: Mode, size: CodeSize) {
        let user = mode == Mode::User;
        self.tag = self.generations[user as usize] << 3 | (size as u64) << 1 | user as u64;
    }

    /// All links are to be checked again.
    pub fn translations_changed(&mut self) {
        self.generations[false as usize] += 1;
        self.program_changed();
    }

    /// Links within programs are to be checked again.
    pub fn program_changed(&mut self) {
        self.generations[true as usize] += 1;
        self.tag = self.generations[(self.tag & 1) as usize] << 3 | self.tag & 7;
    }

    /// The block at a guest-physical address, decoded as code of that size.
    pub fn find(&self, physical: u64, size: CodeSize) -> Option<BlockId> {
        self.by_address.get(&key(physical, size)).copied()
    }

    /// The guess for a jump to `rip`, right only if its tag is.
    #[inline(always)]
    pub fn guess(&self, rip: u64) -> Link {
        let entry = &self.jumps[Self::jump_slot(rip)];
        if entry.rip == rip { entry.link } else { NO_LINK }
    }

    /// Remembers that `rip` leads to `block`.
    #[inline]
    pub fn remember(&mut self, rip: u64, block: BlockId) {
        let link = Link { tag: self.tag, block };
        self.jumps[Self::jump_slot(rip)] = JumpEntry { rip, link };
    }

    /// The slot for a single instruction at `rip`.
    pub fn single(&mut self, rip: u64) -> &mut Option<Single> {
        &mut self.singles[(rip ^ rip >> 12) as usize & (SINGLES - 1)]
    }

    #[inline(always)]
    fn jump_slot(rip: u64) -> usize {
        (rip ^ rip >> 12) as usize & (JUMPS - 1)
    }

    /// Adds a block. Returns its id, and whether it is the first of its page.
    pub fn insert(&mut self, ram: &Ram, physical: u64, size: CodeSize, decoded: Decoded) -> (BlockId, bool) {
        let Decoded { uops, len, instructions } = decoded;
        self.decoded += 1;
        self.uops += uops.len() + BLOCK_UOPS;
        let mut first = false;
        let block = Block {
            uops: uops.into(),
            physical,
            len,
            instructions,
            size,
            links: [NO_LINK; 2],
            heat: Block::cold(size),
            code: None,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.blocks[id as usize] = block;
                id
            }
            None => {
                self.blocks.push(block);
                (self.blocks.len() - 1) as BlockId
            }
        };
        self.by_address.insert(key(physical, size), id);
        if let Some(number) = ram.page_number(physical) {
            if self.pages[number] == 0 {
                self.pages[number] = match self.free_page_code.pop() {
                    Some(index) => index,
                    None => {
                        self.page_code.push(PageCode::default());
                        self.page_code.len() as u32
                    }
                };
                ram.set_code(physical & !(PAGE - 1));
                self.marked_pages += 1;
                first = true;
            }
            let code = &mut self.page_code[self.pages[number] as usize - 1];
            let start = (physical % PAGE) as u16;
            code.blocks.push((start, start + len, id));
            code.touched |= touched(start as u64, len as u64);
        }
        (id, first)
    }

    /// A number that changes whenever a page without code becomes one with.
    pub fn marked_pages(&self) -> u64 {
        self.marked_pages
    }

    /// True if blocks of the page at this guest-physical address are held.
    #[inline]
    pub fn holds_code(&self, ram: &Ram, physical: u64) -> bool {
        ram.page_number(physical).is_some_and(|number| self.pages[number] != 0)
    }

    /// True if the block overlaps the given bytes.
    pub fn overlaps(&self, id: BlockId, physical: u64, len: u64) -> bool {
        let block = &self.blocks[id as usize];
        physical < block.physical.saturating_add(block.len as u64) && block.physical < physical + len
    }

    /// Drops the blocks that overlap the given bytes (which lie in one page).
    pub fn invalidate(&mut self, ram: &Ram, physical: u64, len: u64) {
        let Some(number) = ram.page_number(physical) else { return };
        let Some(index) = self.pages[number].checked_sub(1) else { return };
        let code = &mut self.page_code[index as usize];
        let (start, end) = (physical % PAGE, physical % PAGE + len);
        if code.touched & touched(start, len) == 0 {
            return;
        }
        let mut dropped = Vec::new();
        code.touched = 0;
        code.blocks.retain(|&(from, to, id)| {
            let keep = to as u64 <= start || end <= from as u64;
            if keep {
                code.touched |= touched(from as u64, (to - from) as u64);
            } else {
                dropped.push(id);
            }
            keep
        });
        if code.blocks.is_empty() {
            self.pages[number] = 0;
            self.free_page_code.push(index + 1);
            ram.clear_code(physical & !(PAGE - 1));
        }
        if dropped.is_empty() {
            return;
        }
        for id in dropped {
            self.drop_block(id);
        }
        self.translations_changed();
    }

    fn drop_block(&mut self, id: BlockId) {
        self.invalidated += 1;
        let block = &mut self.blocks[id as usize];
        self.by_address.remove(&key(block.physical, block.size));
        self.uops -= block.uops.len() + BLOCK_UOPS;
        block.physical = u64::MAX;
        if let (Some(code), Some(jit)) = (block.code.take(), &mut self.jit) {
            jit.unlink(&code);
        }
        self.dropped.push(std::mem::replace(&mut block.uops, self.nothing.clone()));
        self.free.push(id);
    }

    /// Drops what was compiled and keeps what was decoded. To be called while no code is executing.
    pub fn drop_compiled(&mut self) {
        for block in &mut self.blocks {
            (block.code, block.heat) = (None, Block::cold(block.size));
        }
        if let Some(jit) = &mut self.jit {
            jit.clear();
        }
        self.translations_changed();
    }

    /// True if more is held than [`collect`](Self::collect) leaves: no block is to be added before it.
    pub fn is_full(&self) -> bool {
        self.is_over() || self.dropped.len() > MAX_DROPPED
    }

    fn is_over(&self) -> bool {
        self.uops > MAX_UOPS || self.vector_ops.len() + self.x87_ops.len() > MAX_UOPS
    }

    /// Frees dropped blocks, and everything if there is too much. To be called while no block is
    /// executing.
    pub fn collect(&mut self, ram: &Ram) {
        self.dropped.clear();
        if self.is_over() {
            let blocks: Vec<u64> = self.by_address.keys().map(|key| key & (KEY_SIZE - 1)).collect();
            for physical in blocks {
                self.invalidate(ram, physical & !(PAGE - 1), PAGE);
            }
            self.dropped.clear();
            self.vector_ops.clear();
            self.x87_ops.clear();
            self.singles.fill(None);
        }
    }
}

/// Bits above all physical addresses tell the code size in a key.
const KEY_SIZE: u64 = 1 << 60;

fn key(physical: u64, size: CodeSize) -> u64 {
    physical | (size as u64 * KEY_SIZE)
}

/// The 64-byte pieces of a page that `len` bytes at `start` touch.
fn touched(start: u64, len: u64) -> u64 {
    let (first, last) = (start / 64, (start + len.max(1) - 1) / 64);
    (u64::MAX >> (63 - last.min(63))) & (u64::MAX << first)
}

/// Spreads addresses; the keys are not chosen by an adversary that could gain more than slowness
/// of its own guest.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(*byte as u64);
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}
