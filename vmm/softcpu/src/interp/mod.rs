//! The functions that execute micro-operations, one file a family of instructions.
//!
//! A handler ends in one of three ways: it goes on with the next micro-operation, it ends the
//! block with a [`Flow`], or it gives the instruction up, having changed nothing.

pub mod alu;
pub mod bits;
pub mod branch;
pub mod control;
pub mod exchange;
pub mod legacy;
pub mod mov;
pub mod muldiv;
pub mod port;
pub mod shift;
pub mod stack;
pub mod string;
pub mod system;
pub mod transfer;
pub mod vector;

/// Picks the instance of a generic handler for an operand size in bytes, and for whether the
/// memory operand needs the full address computation.
macro_rules! pick {
    ($size:expr; $f:ident [$($g:tt)*]) => {
        match $size {
            1 => $f::<$($g)* u8> as $crate::uop::Handler,
            2 => $f::<$($g)* u16>,
            4 => $f::<$($g)* u32>,
            _ => $f::<$($g)* u64>,
        }
    };
    ($size:expr, $full:expr; $f:ident [$($g:tt)*]) => {
        match ($size, $full) {
            (1, false) => $f::<$($g)* u8, false> as $crate::uop::Handler,
            (2, false) => $f::<$($g)* u16, false>,
            (4, false) => $f::<$($g)* u32, false>,
            (_, false) => $f::<$($g)* u64, false>,
            (1, true) => $f::<$($g)* u8, true>,
            (2, true) => $f::<$($g)* u16, true>,
            (4, true) => $f::<$($g)* u32, true>,
            (_, true) => $f::<$($g)* u64, true>,
        }
    };
}
pub(crate) use pick;

/// Picks the instance of a generic handler for a condition code.
macro_rules! pick_condition {
    ($condition:expr; $f:ident [$($g:tt)*]) => {
        match $condition & 15 {
            0 => $f::<$($g)* 0> as $crate::uop::Handler,
            1 => $f::<$($g)* 1>,
            2 => $f::<$($g)* 2>,
            3 => $f::<$($g)* 3>,
            4 => $f::<$($g)* 4>,
            5 => $f::<$($g)* 5>,
            6 => $f::<$($g)* 6>,
            7 => $f::<$($g)* 7>,
            8 => $f::<$($g)* 8>,
            9 => $f::<$($g)* 9>,
            10 => $f::<$($g)* 10>,
            11 => $f::<$($g)* 11>,
            12 => $f::<$($g)* 12>,
            13 => $f::<$($g)* 13>,
            14 => $f::<$($g)* 14>,
            _ => $f::<$($g)* 15>,
        }
    };
}
pub(crate) use pick_condition;

/// Evaluates to the value, or gives the instruction up.
macro_rules! attempt {
    ($cpu:expr, $at:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err($crate::cpu::Abort) => return $cpu.give_up($at),
        }
    };
}
pub(crate) use attempt;

/// Defines handlers of instructions that need no speed: the body is a function of the CPU and
/// the micro-operation that may give up with `?`. `next` goes on in the block; `ends` leaves it
/// with RIP behind the instruction, unless the body sets another.
macro_rules! instructions {
    ($($(#[$meta:meta])* $kind:ident fn $name:ident($cpu:ident, $uop:ident) $body:block)*) => {
        $(
            $(#[$meta])*
            pub fn $name(cpu: &mut $crate::cpu::Cpu, at: $crate::uop::Cursor) -> $crate::uop::Flow {
                #[inline(never)]
                fn body(
                    $cpu: &mut $crate::cpu::Cpu,
                    $uop: &$crate::uop::Uop,
                ) -> Result<(), $crate::cpu::Abort> {
                    $body
                    #[allow(unreachable_code)]
                    Ok(())
                }
                $crate::interp::instructions!(@$kind cpu, at, body)
            }
        )*
    };
    (@next $cpu:ident, $at:ident, $body:ident) => {
        match $body($cpu, $at.uop()) {
            Ok(()) => $at.next($cpu),
            Err($crate::cpu::Abort) => $cpu.give_up($at),
        }
    };
    (@ends $cpu:ident, $at:ident, $body:ident) => {{
        $cpu.rip = $cpu.next_rip($at);
        match $body($cpu, $at.uop()) {
            Ok(()) => $crate::uop::Flow::Sync,
            Err($crate::cpu::Abort) => $cpu.give_up($at),
        }
    }};
}
pub(crate) use instructions;
