//! Which instructions have templates: bytes of guest code made into [`Insn`]s.
//!
//! Only what has a template is recognised; for all else [`Insn::decode`] has no answer and the
//! interpreter's micro-operations do the work. The interpreter's decoder has looked at the bytes
//! before, so what is wrong with an instruction need not be found again, as long as nothing wrong
//! is recognised.

use super::insn::{Base, Count, Form, Insn, Kind, Memory, Operand};
use crate::uop::{FS_BASE, GS_BASE};

impl Insn {
    /// Decodes an instruction of which `bytes` are all.
    pub fn decode(bytes: &[u8]) -> Option<Insn> {
        Reader { bytes, at: 0, size: 4, byte: false, rex: 0, segment: None }.instruction()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    size: u8,
    /// The operands are bytes.
    byte: bool,
    rex: u8,
    segment: Option<u8>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A signed number of `len` bytes.
    fn number(&mut self, len: usize) -> Option<i64> {
        let bytes = self.bytes.get(self.at..self.at + len)?;
        self.at += len;
        Some(match *bytes {
            [a] => a as i8 as i64,
            [a, b] => i16::from_le_bytes([a, b]) as i64,
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]) as i64,
            _ => i64::from_le_bytes(bytes.try_into().ok()?),
        })
    }

    fn instruction(mut self) -> Option<Insn> {
        let (mut lock, mut repeat, mut short) = (false, 0, false);
        let opcode = loop {
            let byte = self.next()?;
            match byte {
                0x66 => short = true,
                0x2e | 0x36 | 0x3e | 0x26 if self.segment.is_none() => {}
                0x64 | 0x65 if self.segment.is_none() => {
                    self.segment = Some(if byte == 0x64 { FS_BASE } else { GS_BASE });
                }
                0xf0 => lock = true,
                0xf2 | 0xf3 if repeat == 0 => repeat = byte,
                0x40..=0x4f => {
                    self.rex = byte;
                    break self.next()?;
                }
                _ => break byte,
            }
        };
        let prefix_again = matches!(
            opcode,
            0x66 | 0x67 | 0x40..=0x4f | 0xf0 | 0xf2 | 0xf3 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65
        );
        if prefix_again {
            return None;
        }
        self.size = if self.rex & 8 != 0 {
            8
        } else if short {
            2
        } else {
            4
        };
        let insn = if opcode == 0x0f {
            let opcode = self.next()?;
            self.two_bytes(opcode, repeat, short)?
        } else {
            self.one_byte(opcode, repeat, short)?
        };
        if self.at != self.bytes.len() || lock && !insn.may_be_locked() {
            return None;
        }
        if insn.has_high_byte(self.rex) { insn.on_high_byte() } else { Some(insn) }
    }

    fn one_byte(&mut self, opcode: u8, repeat: u8, short: bool) -> Option<Insn> {
        // A meaning of its own, or none worth a template.
        if repeat != 0 {
            return match opcode {
                0x90 if self.rex & 1 == 0 && repeat == 0xf3 => Some(self.bare(Kind::Pause)),
                0xc3 if repeat == 0xf3 => Some(self.bare(Kind::Return(0))),
                0xa4 | 0xa5 | 0xaa | 0xab if repeat == 0xf3 && self.segment.is_none() => {
                    self.bytes_if(opcode & 1 == 0);
                    Some(self.bare(if opcode < 0xa8 { Kind::RepeatedMove } else { Kind::RepeatedStore }))
                }
                _ => None,
            };
        }
        let quad = !short;
        Some(match opcode {
            0x00..=0x3f => {
                let op = opcode >> 3;
                match opcode & 7 {
                    form @ 0..=3 => {
                        self.bytes_if(form & 1 == 0);
                        self.with_modrm(Kind::Binary(op, if form < 2 { Form::RmReg } else { Form::RegRm }))?
                    }
                    form @ (4 | 5) => {
                        self.bytes_if(form == 4);
                        let imm = self.immediate()?;
                        Insn { imm, ..self.on_rax(Kind::Binary(op, Form::RmImm)) }
                    }
                    _ => return None,
                }
            }
            0x50..=0x57 if quad => self.in_opcode(Kind::Push, opcode),
            0x58..=0x5f if quad => self.in_opcode(Kind::Pop, opcode),
            0x63 if self.size != 2 => self.with_modrm(Kind::Extend { from: 4, sign: true })?,
            0x68 if quad => Insn { imm: self.number(4)?, ..self.bare(Kind::PushImmediate) },
            0x6a if quad => Insn { imm: self.number(1)?, ..self.bare(Kind::PushImmediate) },
            0x69 | 0x6b if self.size != 2 => {
                let insn = self.with_modrm(Kind::ImulImmediate)?;
                Insn { imm: self.number(if opcode == 0x69 { 4 } else { 1 })?, ..insn }
            }
            0x70..=0x7f if quad => Insn { imm: self.number(1)?, ..self.bare(Kind::JumpIf(opcode & 15)) },
            0x80 | 0x81 | 0x83 => {
                self.bytes_if(opcode == 0x80);
                let insn = self.with_modrm(Kind::Nop)?;
                let imm = if opcode == 0x81 { self.immediate()? } else { self.number(1)? };
                Insn { kind: Kind::Binary(insn.reg & 7, Form::RmImm), imm, ..insn }
            }
            0x84 | 0x85 => {
                self.bytes_if(opcode == 0x84);
                self.with_modrm(Kind::Test(Form::RmReg))?
            }
            0x86 | 0x87 => {
                self.bytes_if(opcode == 0x86);
                self.with_modrm(Kind::Xchg)?
            }
            0x88..=0x8b => {
                self.bytes_if(opcode & 1 == 0);
                self.with_modrm(Kind::Mov(if opcode < 0x8a { Form::RmReg } else { Form::RegRm }))?
            }
            0x8d if self.size != 2 => {
                let insn = self.with_modrm(Kind::Lea)?;
                if !insn.rm.is_memory() {
                    return None;
                }
                insn
            }
            0x90 if self.rex & 1 == 0 => self.bare(Kind::Nop),
            0x9c if quad => self.bare(Kind::PushFlags),
            0xfa | 0xfb => self.bare(Kind::Interrupts { on: opcode == 0xfb }),
            0x98 => self.bare(Kind::ExtendRax),
            0x99 => self.bare(Kind::ExtendToRdx),
            0xa8 | 0xa9 => {
                self.bytes_if(opcode == 0xa8);
                let imm = self.immediate()?;
                Insn { imm, ..self.on_rax(Kind::Test(Form::RmImm)) }
            }
            0xb0..=0xb7 => {
                self.bytes_if(true);
                let imm = self.number(1)?;
                Insn { imm, ..self.in_opcode(Kind::Mov(Form::RmImm), opcode) }
            }
            0xb8..=0xbf => {
                let imm = self.number(self.size as usize)?;
                Insn { imm, ..self.in_opcode(Kind::Mov(Form::RmImm), opcode) }
            }
            0xc0 | 0xc1 | 0xd0..=0xd3 => {
                self.bytes_if(opcode & 1 == 0);
                let insn = self.with_modrm(Kind::Nop)?;
                let mask = if insn.size == 8 { 63 } else { 31 };
                let count = match opcode {
                    0xc0 | 0xc1 => Count::Immediate(self.number(1)? as u8 & mask),
                    0xd0 | 0xd1 => Count::Immediate(1),
                    _ => Count::Cl,
                };
                let op = insn.reg & 7;
                if !matches!(op, 0 | 1 | 4 | 5 | 7) {
                    return None;
                }
                Insn { kind: Kind::Shift(op, count), ..insn }
            }
            0xc3 if quad => self.bare(Kind::Return(0)),
            0xc2 if quad => {
                let more = self.number(2)? as u16;
                self.bare(Kind::Return(more))
            }
            0xc6 | 0xc7 => {
                self.bytes_if(opcode == 0xc6);
                let insn = self.with_modrm(Kind::Mov(Form::RmImm))?;
                if insn.reg & 7 != 0 {
                    return None;
                }
                Insn { imm: self.immediate()?, ..insn }
            }
            0xc9 if quad => self.bare(Kind::Leave),
            0xe8 if quad => Insn { imm: self.number(4)?, ..self.bare(Kind::Call) },
            0xe9 if quad => Insn { imm: self.number(4)?, ..self.bare(Kind::Jump) },
            0xeb if quad => Insn { imm: self.number(1)?, ..self.bare(Kind::Jump) },
            0xf5 | 0xf8 | 0xf9 => self.bare(Kind::Carry(opcode)),
            0xf6 | 0xf7 => {
                self.bytes_if(opcode == 0xf6);
                let insn = self.with_modrm(Kind::Nop)?;
                match insn.reg & 7 {
                    0 => Insn { kind: Kind::Test(Form::RmImm), imm: self.immediate()?, ..insn },
                    2 => Insn { kind: Kind::Not, ..insn },
                    3 => Insn { kind: Kind::Neg, ..insn },
                    op @ (4 | 5) if insn.size >= 4 => {
                        Insn { kind: Kind::Multiply { signed: op == 5 }, ..insn }
                    }
                    _ => return None,
                }
            }
            0xfe | 0xff => {
                self.bytes_if(opcode == 0xfe);
                let insn = self.with_modrm(Kind::Nop)?;
                match insn.reg & 7 {
                    0 => Insn { kind: Kind::Inc, ..insn },
                    1 => Insn { kind: Kind::Dec, ..insn },
                    2 if opcode == 0xff && quad => Insn { kind: Kind::CallTo, size: 8, ..insn },
                    4 if opcode == 0xff && quad => Insn { kind: Kind::JumpTo, size: 8, ..insn },
                    6 if opcode == 0xff && quad => Insn { kind: Kind::Push, size: 8, ..insn },
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    fn two_bytes(&mut self, opcode: u8, repeat: u8, short: bool) -> Option<Insn> {
        if repeat != 0 {
            return match opcode {
                // Without BMI1 and ABM the prefix of TZCNT and LZCNT is ignored.
                0xbc | 0xbd if repeat == 0xf3 && self.size != 2 => {
                    self.with_modrm(Kind::Scan { reverse: opcode == 0xbd })
                }
                // MOVDQU.
                0x6f | 0x7f if repeat == 0xf3 && !short => {
                    self.with_modrm(Kind::VectorMove { store: opcode == 0x7f, aligned: false })
                }
                // ENDBR64.
                0x1e if repeat == 0xf3 && self.next()? == 0xfa => Some(self.bare(Kind::Nop)),
                _ => None,
            };
        }
        Some(match opcode {
            0x10 | 0x11 => self.with_modrm(Kind::VectorMove { store: opcode == 0x11, aligned: false })?,
            0x28 | 0x29 => self.with_modrm(Kind::VectorMove { store: opcode == 0x29, aligned: true })?,
            0x6f | 0x7f if short => {
                self.with_modrm(Kind::VectorMove { store: opcode == 0x7f, aligned: true })?
            }
            0x57 | 0xef if short || opcode == 0x57 => {
                let insn = self.with_modrm(Kind::VectorXor)?;
                if insn.rm.is_memory() {
                    return None;
                }
                insn
            }
            0x18 | 0x1f => {
                let insn = self.with_modrm(Kind::Nop)?;
                // Prefetches and no-operations touch no memory.
                Insn { rm: Operand::Register(0), ..insn }
            }
            0x40..=0x4f => self.with_modrm(Kind::Cmov(opcode & 15))?,
            0x80..=0x8f if self.size != 2 => {
                Insn { imm: self.number(4)?, ..self.bare(Kind::JumpIf(opcode & 15)) }
            }
            0x90..=0x9f => {
                self.bytes_if(true);
                self.with_modrm(Kind::Set(opcode & 15))?
            }
            0xa3 | 0xab | 0xb3 | 0xbb if self.size != 2 => {
                let op = 4 | opcode >> 3 & 3;
                let insn = self.with_modrm(Kind::BitTest { op, immediate: false })?;
                // The bit number reaches beyond a memory operand.
                if insn.rm.is_memory() {
                    return None;
                }
                insn
            }
            // LFENCE, MFENCE, SFENCE.
            0xae if !short && matches!(self.next()?, 0xe8 | 0xf0 | 0xf8) => self.bare(Kind::Nop),
            0xaf if self.size != 2 => self.with_modrm(Kind::Imul)?,
            0xb0 | 0xb1 => {
                self.bytes_if(opcode == 0xb0);
                self.with_modrm(Kind::Cmpxchg)?
            }
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                let from = if opcode & 1 == 0 { 1 } else { 2 };
                self.with_modrm(Kind::Extend { from, sign: opcode >= 0xbe })?
            }
            0xba if self.size != 2 => {
                let insn = self.with_modrm(Kind::Nop)?;
                let op = insn.reg & 7;
                if op < 4 {
                    return None;
                }
                Insn { kind: Kind::BitTest { op, immediate: true }, imm: self.number(1)?, ..insn }
            }
            0xbc | 0xbd if self.size != 2 => self.with_modrm(Kind::Scan { reverse: opcode == 0xbd })?,
            0xc0 | 0xc1 => {
                self.bytes_if(opcode == 0xc0);
                self.with_modrm(Kind::Xadd)?
            }
            0xc8..=0xcf if self.size != 2 => self.in_opcode(Kind::Bswap, opcode),
            _ => return None,
        })
    }

    fn bytes_if(&mut self, byte: bool) {
        self.byte = byte;
        if byte {
            self.size = 1;
        }
    }

    /// An immediate of the operand's size, but at most four bytes.
    fn immediate(&mut self) -> Option<i64> {
        self.number(self.size.min(4) as usize)
    }

    fn bare(&self, kind: Kind) -> Insn {
        Insn { kind, size: self.size, reg: 0, rm: Operand::Register(0), imm: 0 }
    }

    fn on_rax(&self, kind: Kind) -> Insn {
        self.bare(kind)
    }

    /// The register is in the low bits of the opcode.
    fn in_opcode(&self, kind: Kind, opcode: u8) -> Insn {
        Insn { rm: Operand::Register(opcode & 7 | (self.rex & 1) << 3), ..self.bare(kind) }
    }

    fn with_modrm(&mut self, kind: Kind) -> Option<Insn> {
        let modrm = self.next()?;
        let reg = modrm >> 3 & 7 | (self.rex & 4) << 1;
        let (mode, low) = (modrm >> 6, modrm & 7);
        let extended = low | (self.rex & 1) << 3;
        if mode == 3 {
            return Some(Insn { reg, rm: Operand::Register(extended), ..self.bare(kind) });
        }
        let mut memory =
            Memory { base: Base::Register(extended), index: None, disp: 0, segment: self.segment };
        let mut disp = [0, 1, 4][mode as usize];
        if low == 4 {
            let sib = self.next()?;
            let index = sib >> 3 & 7 | (self.rex & 2) << 2;
            if index != 4 {
                memory.index = Some((index, sib >> 6));
            }
            memory.base = Base::Register(sib & 7 | (self.rex & 1) << 3);
            if sib & 7 == 5 && mode == 0 {
                (memory.base, disp) = (Base::None, 4);
            }
        } else if low == 5 && mode == 0 {
            (memory.base, disp) = (Base::Next, 4);
        }
        if disp > 0 {
            memory.disp = self.number(disp)? as i32;
        }
        Some(Insn { reg, rm: Operand::Memory(memory), ..self.bare(kind) })
    }
}

impl Insn {
    fn may_be_locked(&self) -> bool {
        self.rm.is_memory()
            && match self.kind {
                Kind::Binary(op, form) => op != 7 && form != Form::RegRm,
                Kind::BitTest { op, .. } => op != 4,
                Kind::Not | Kind::Neg | Kind::Inc | Kind::Dec | Kind::Xchg | Kind::Xadd | Kind::Cmpxchg => {
                    true
                }
                _ => false,
            }
    }

    /// What has one of the operands AH, CH, DH or BH, if there is a template for it.
    fn on_high_byte(self) -> Option<Insn> {
        let Operand::Register(register) = self.rm else { return None };
        let op = match self.kind {
            Kind::Binary(op @ (1 | 4 | 6 | 7), Form::RmImm) => op,
            Kind::Test(Form::RmImm) => 8,
            _ => return None,
        };
        Some(Insn { kind: Kind::HighByte(op), rm: Operand::Register(register - 4), ..self })
    }

    /// True if one of the operands is AH, CH, DH or BH.
    fn has_high_byte(&self, rex: u8) -> bool {
        if rex != 0 {
            return false;
        }
        let high = |register: u8| (4..8).contains(&register);
        let rm = matches!(self.rm, Operand::Register(register) if high(register));
        match self.kind {
            Kind::Extend { from: 1, .. } => rm,
            _ if self.size != 1 => false,
            Kind::Binary(_, Form::RmImm) | Kind::Test(Form::RmImm) | Kind::Mov(Form::RmImm) => rm,
            Kind::Binary(..) | Kind::Test(_) | Kind::Mov(_) | Kind::Xchg | Kind::Xadd | Kind::Cmpxchg => {
                rm || high(self.reg)
            }
            // The opcode's extension is not a register.
            _ => rm,
        }
    }
}
