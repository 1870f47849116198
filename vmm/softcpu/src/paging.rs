//! The page-table walk of 4-level paging. (SDM volume 3, chapter 4.)

use crate::memory::{PAGE, Ram};
use crate::table_cache::{PageTable, TableCache};

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
pub fn walk(
    ram: &Ram,
    tables: &mut TableCache,
    rules: Rules,
    address: u64,
    access: Access,
    user: bool,
) -> Result<Translation, u16> {
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
    let walk = Walk { ram, rules, address, access, user, code };
    if let Some(table) = tables.get(address) {
        let at = Walk::offset(address, 0);
        // A page fault drops what is cached for its address (4.10.4.1): the tables themselves have the last word.
        if let Ok(found) =
            walk.last(table.physical + at, table.host.read(at), 0, table.rights, table.no_execute)
        {
            return Ok(found);
        }
    }
    walk.all_levels(tables)
}

/// A walk under way.
#[derive(Clone, Copy)]
struct Walk<'a> {
    ram: &'a Ram,
    rules: Rules,
    address: u64,
    access: Access,
    user: bool,
    /// The error code of a page fault, but for what the entries say.
    code: u16,
}

impl Walk<'_> {
    /// Where the entry for an address is in its table. Level 3 is the PML4, level 0 the page table.
    fn offset(address: u64, level: u32) -> u64 {
        (address >> (12 + 9 * level) & 0x1ff) * 8
    }

    fn all_levels(self, tables: &mut TableCache) -> Result<Translation, u16> {
        let mut table = self.rules.root & ADDRESS;
        let mut rights = WRITABLE | USER;
        let mut no_execute = false;
        for level in (1..4u32).rev() {
            let at = table + Self::offset(self.address, level);
            let entry = self.ram.read_u64(at);
            if level < 3 && entry & LARGE != 0 {
                return self.last(at, entry, level, rights, no_execute);
            }
            self.judge(entry, level, false)?;
            rights &= entry;
            no_execute |= entry & NO_EXECUTE != 0;
            if entry & ACCESSED == 0 {
                self.ram.write_u64(at, entry | ACCESSED);
                self.ram.mark_dirty(at);
            }
            table = entry & ADDRESS;
        }
        if let Some(host) = self.ram.page(table) {
            tables.insert(self.address, PageTable { physical: table, host, rights, no_execute });
        }
        let at = table + Self::offset(self.address, 0);
        self.last(at, self.ram.read_u64(at), 0, rights, no_execute)
    }

    /// Whether an entry is present and has no bit set that must not be.
    #[inline(always)]
    fn judge(&self, entry: u64, level: u32, large: bool) -> Result<(), u16> {
        if entry & PRESENT == 0 {
            return Err(self.code);
        }
        let reserved = RESERVED
            | if self.rules.no_execute { 0 } else { NO_EXECUTE }
            | if level == 3 { LARGE } else { 0 }
            // Bit 12 of a large page's entry is PAT.
            | if large { ((1 << (12 + 9 * level)) - 1) & ADDRESS & !(1 << 12) } else { 0 };
        if entry & reserved != 0 {
            return Err(self.code | CODE_PRESENT | CODE_RESERVED);
        }
        Ok(())
    }

    /// Ends the walk with the `entry` at `at` that maps the page; `rights` and `no_execute` are those of the way to it.
    #[inline(always)]
    fn last(
        self,
        at: u64,
        entry: u64,
        level: u32,
        rights: u64,
        no_execute: bool,
    ) -> Result<Translation, u16> {
        let large = level > 0;
        self.judge(entry, level, large)?;
        let rights = rights & entry;
        let may_write = rights & WRITABLE != 0 || !self.user && !self.rules.write_protect;
        let allowed = (!self.user || rights & USER != 0)
            && match self.access {
                Access::Read => true,
                Access::Write => may_write,
                Access::Fetch => !no_execute && entry & NO_EXECUTE == 0,
            };
        if !allowed {
            return Err(self.code | CODE_PRESENT);
        }
        let mut marks = ACCESSED;
        if self.access == Access::Write {
            marks |= DIRTY;
        }
        if entry & marks != marks {
            self.ram.write_u64(at, entry | marks);
            self.ram.mark_dirty(at);
        }
        let offset_mask = (PAGE << (9 * level)) - 1;
        Ok(Translation {
            physical: entry & ADDRESS & !offset_mask | self.address & offset_mask,
            writable: may_write && (entry | marks) & DIRTY != 0,
            large,
            global: self.rules.global && entry & GLOBAL != 0,
        })
    }
}
