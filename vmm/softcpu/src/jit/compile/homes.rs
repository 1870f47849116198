//! Which guest registers are in host registers while a block is executed.
//!
//! Between blocks that is [`frame::home`] for all. A block that often uses a register without a home,
//! and another one's never, lets the one take the other's place, and puts both back before it is
//! left. A block that jumps to itself puts nothing back meanwhile, so it gains most; there even the
//! count of remaining instructions gives way.

use std::cmp::Reverse;

use super::super::emit::Reg;
use super::super::frame::{self, CPU, REMAINING};
use super::super::insn::Insn;
use super::Compiler;

/// How often a block must name a register for its move to be worth it: two loads and two stores.
const WORTH_IT: u32 = 5;
/// The same for a block that jumps to itself.
const WORTH_IT_IN_LOOP: u32 = 2;

/// A register that gave way to another.
#[derive(Clone, Copy)]
struct Move {
    host: Reg,
    /// Where in memory the value is meanwhile that belongs there.
    owner: i32,
    guest: u8,
}

pub(super) struct Homes {
    homes: [Option<Reg>; 16],
    moves: Vec<Move>,
    /// Whether the count of remaining instructions is in its register.
    pub(super) counts_in_register: bool,
}

impl Homes {
    /// The homes that suit a block.
    pub(super) fn new(insns: &[Insn], jumps_to_itself: bool) -> Homes {
        let mut uses = [0; 16];
        for insn in insns {
            insn.touches(|register| uses[register as usize] += 1);
        }
        let worth_it = if jumps_to_itself { WORTH_IT_IN_LOOP } else { WORTH_IT };
        let mut homes = std::array::from_fn(|guest| frame::home(guest as u8));
        let mut homeless: Vec<u8> = (0..16)
            .filter(|&guest| homes[guest as usize].is_none() && uses[guest as usize] >= worth_it)
            .collect();
        homeless.sort_by_key(|&guest| Reverse(uses[guest as usize]));
        let mut homeless = homeless.into_iter();
        let mut moves = Vec::new();
        let unused = (0..16).filter(|&owner| uses[owner as usize] == 0);
        for owner in unused {
            let Some(host) = homes[owner as usize] else { continue };
            let Some(guest) = homeless.next() else { break };
            (homes[owner as usize], homes[guest as usize]) = (None, Some(host));
            moves.push(Move { host, owner: frame::slot(owner), guest });
        }
        let mut counts_in_register = true;
        if jumps_to_itself && let Some(guest) = homeless.next() {
            homes[guest as usize] = Some(REMAINING);
            moves.push(Move { host: REMAINING, owner: frame::remaining(), guest });
            counts_in_register = false;
        }
        Homes { homes, moves, counts_in_register }
    }
}

impl Compiler<'_, '_> {
    /// The host register that holds a guest register.
    pub(super) fn home(&self, guest: u8) -> Option<Reg> {
        self.homes.homes[guest as usize]
    }

    /// Moves the guest registers to the homes of this block.
    pub(super) fn move_in(&mut self) {
        for &Move { host, owner, guest } in &self.homes.moves {
            self.e.store(CPU, owner, host);
            self.e.load(host, CPU, frame::slot(guest));
        }
    }

    /// Moves them back. Clobbers nothing.
    pub(super) fn move_out(&mut self) {
        for &Move { host, owner, guest } in &self.homes.moves {
            self.e.store(CPU, frame::slot(guest), host);
            self.e.load(host, CPU, owner);
        }
    }
}
