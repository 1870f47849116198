//! MMX and SSE up to SSE4.2, with POPCNT and CRC32 (the x86-64-v2 level).
//!
//! [`lower`] turns a decoded instruction into an [`Op`] once; [`execute`] runs it as often as
//! its block does. All they see of the CPU is a [`Context`](context::Context).
//!
//! | file | what |
//! |---|---|
//! | `lower`, `op` | operands and the kind of operation, 16 bytes at most |
//! | `execute` | one arm a kind |
//! | `moves` | operand access, alignment, masked stores |
//! | `integer`, `shuffle` | packed integers, MMX and SSE alike, in plain Rust |
//! | `float` | floating point, on the host's SSE unit under the guest's MXCSR |
//! | `text` | PCMPxSTRx |
//! | `scalar` | POPCNT, CRC32 |

/// Defines an enum whose variants are named as `iced_x86` names the mnemonics, and the way from
/// one to the other.
macro_rules! mnemonics {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($variant,)* }

        impl $name {
            $vis fn from_mnemonic(mnemonic: iced_x86::Mnemonic) -> Option<Self> {
                match mnemonic {
                    $(iced_x86::Mnemonic::$variant => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use mnemonics;

pub mod context;
mod execute;
mod float;
mod integer;
mod lower;
mod moves;
mod op;
mod scalar;
mod shuffle;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use execute::execute;
pub(crate) use lower::lower;
pub(crate) use op::Op;
