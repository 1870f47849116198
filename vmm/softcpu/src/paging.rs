//! The page-table walk of 4-level paging. (SDM volume 3, chapter 4.)

use crate::memory::Ram;

/// Physical address bits.
pub const PHYSICAL_BITS: u32 = 40;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = ((1 << PHYSICAL_BITS) - 1) & !0xfff;
const RESERVED: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);

/// Page-fault error code bits.
const CODE_PRESENT: u16 = 1;
const CODE_WRITE: u16 = 1 << 1;
const CODE_USER: u16 = 1 << 2;
const CODE_RESERVED: u16 = 1 << 3;
const CODE_FETCH: u16 = 1 << 4;

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Fetch,
}

/// The control-register bits that a walk obeys.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// CR0.PG; without it addresses are physical.
    pub enabled: bool,
    /// CR3's page-table root.
    pub root: u64,
    /// CR0.WP.
    pub write_protect: bool,
    /// EFER.NXE.
    pub no_execute: bool,
    /// CR4.PGE.
    pub global: bool,
}

/// A successful walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address.
    pub physical: u64,
    /// The same access for writing would succeed and the page is already marked dirty.
    pub writable: bool,
    /// The page is larger than 4 KiB.
    pub large: bool,
    /// The translation is that of all address spaces: it outlives a new CR3.
    pub global: bool,
}

/// True if bits 63..47 of a linear address are all equal.
#[inline(always)]
pub fn is_canonical(address: u64) -> bool {
    ((address as i64) << 16 >> 16) as u64 == address
}

/// Translates a canonical linear address, setting accessed and dirty bits. `Err` is the page
/// fault's error code.
pub fn walk(ram: &Ram, rules: Rules, address: u64, access: Access, user: bool) -> Result<Translation, u16> {
    if !rules.enabled {
        return Ok(Translation { physical: address, writable: true, large: false, global: false });
    }
    let mut code = 0;
    if access == Access::Write {
        code |= CODE_WRITE;
    }
    if user {
        code |= CODE_USER;
    }
    if access == Access::Fetch && rules.no_execute {
        code |= CODE_FETCH;
    }
    let mut table = rules.root & ADDRESS;
    let mut rights = WRITABLE | USER;
    let mut no_execute = false;
    // Level 3 is the PML4, level 0 the page table.
    for level in (0..4u32).rev() {
        let at = table + (address >> (12 + 9 * level) & 0x1ff) * 8;
        let entry = ram.read_u64(at);
        if entry & PRESENT == 0 {
            return Err(code);
        }
        let large = level > 0 && entry & LARGE != 0;
        let reserved = RESERVED
            | if rules.no_execute { 0 } else { NO_EXECUTE }
            | if level == 3 { LARGE } else { 0 }
            // Bit 12 of a large page's entry is PAT.
            | if large { ((1 << (12 + 9 * level)) - 1) & ADDRESS & !(1 << 12) } else { 0 };
        if entry & reserved != 0 {
            return Err(code | CODE_PRESENT | CODE_RESERVED);
        }
        rights &= entry;
        no_execute |= entry & NO_EXECUTE != 0;
        if level > 0 && !large {
            if entry & ACCESSED == 0 {
                ram.write_u64(at, entry | ACCESSED);
                ram.mark_dirty(at);
            }
            table = entry & ADDRESS;
            continue;
        }

        let may_write = rights & WRITABLE != 0 || !user && !rules.write_protect;
        let allowed = (!user || rights & USER != 0)
            && match access {
                Access::Read => true,
                Access::Write => may_write,
                Access::Fetch => !no_execute,
            };
        if !allowed {
            return Err(code | CODE_PRESENT);
        }
        let mut marks = ACCESSED;
        if access == Access::Write {
            marks |= DIRTY;
        }
        if entry & marks != marks {
            ram.write_u64(at, entry | marks);
            ram.mark_dirty(at);
        }
        let offset_mask = (1u64 << (12 + 9 * level)) - 1;
        return Ok(Translation {
            physical: entry & ADDRESS & !offset_mask | address & offset_mask,
            writable: may_write && (entry | marks) & DIRTY != 0,
            large,
            global: rules.global && entry & GLOBAL != 0,
        });
    }
    unreachable!("level 0 always returns")
}
