//! An assembler for the few forms of host instructions that templates consist of.

/// A host register by its number in encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

pub const RAX: Reg = Reg(0);
pub const RCX: Reg = Reg(1);
pub const RDX: Reg = Reg(2);
pub const RBX: Reg = Reg(3);
pub const RBP: Reg = Reg(5);
pub const RSI: Reg = Reg(6);
pub const RDI: Reg = Reg(7);
pub const R8: Reg = Reg(8);
pub const R9: Reg = Reg(9);
pub const R10: Reg = Reg(10);
pub const R11: Reg = Reg(11);
pub const R12: Reg = Reg(12);
pub const R13: Reg = Reg(13);
pub const R14: Reg = Reg(14);
pub const R15: Reg = Reg(15);

/// The second operand: a register or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    Reg(Reg),
    /// `[base + disp]`.
    Mem(Reg, i32),
    /// `[base + index << scale + disp]`; the index is not RSP.
    Indexed(Reg, Reg, u8, i32),
    /// `[index << scale + disp]`.
    Scaled(Reg, u8, i32),
}

/// An opcode: bytes 0F are named by `map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode {
    /// A prefix that is part of the opcode, or 0.
    pub prefix: u8,
    /// 0: one byte; 1: behind 0F; 2: behind 0F 38; 3: behind 0F 3A.
    pub map: u8,
    pub byte: u8,
    /// The first operand is a byte register (whatever the operand size).
    pub byte_reg: bool,
    /// The second operand is a byte register.
    pub byte_rm: bool,
}

impl Opcode {
    pub const fn one(byte: u8) -> Opcode {
        Opcode { prefix: 0, map: 0, byte, byte_reg: false, byte_rm: false }
    }

    pub const fn two(byte: u8) -> Opcode {
        Opcode { map: 1, ..Opcode::one(byte) }
    }
}

pub const MOV_LOAD: Opcode = Opcode::one(0x8b);
pub const MOV_STORE: Opcode = Opcode::one(0x89);
pub const LEA: Opcode = Opcode::one(0x8d);
pub const ADD_LOAD: Opcode = Opcode::one(0x03);
pub const SUB_STORE: Opcode = Opcode::one(0x29);
pub const XOR_LOAD: Opcode = Opcode::one(0x33);
pub const OR_LOAD: Opcode = Opcode::one(0x0b);
pub const CMP_STORE: Opcode = Opcode::one(0x39);

/// A jump in the code being made whose target is not known yet: where its displacement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixup(usize);

/// Code being made.
#[derive(Default)]
pub struct Emitter {
    pub bytes: Vec<u8>,
}

impl Emitter {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// An instruction with a ModRM byte, on operands of `size` bytes. An immediate follows, if there
    /// is one.
    pub fn op(&mut self, size: u8, opcode: Opcode, reg: Reg, rm: Rm) {
        if size == 2 {
            self.byte(0x66);
        }
        if opcode.prefix != 0 {
            self.byte(opcode.prefix);
        }
        let (index, base) = match rm {
            Rm::Reg(reg) => (0, reg.0),
            Rm::Mem(base, _) => (0, base.0),
            Rm::Indexed(base, index, _, _) => (index.0, base.0),
            Rm::Scaled(index, _, _) => (index.0, 0),
        };
        let wide = (size == 8) as u8;
        let mut rex = wide << 3 | (reg.0 >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        // SPL, BPL, SIL and DIL exist only with a REX prefix.
        let byte_reg = opcode.byte_reg && reg.0 >= 4;
        let byte_rm = opcode.byte_rm && matches!(rm, Rm::Reg(reg) if reg.0 >= 4);
        if rex != 0 || byte_reg || byte_rm {
            rex |= 0x40;
            self.byte(rex);
        }
        match opcode.map {
            0 => {}
            1 => self.byte(0x0f),
            2 => self.bytes.extend([0x0f, 0x38]),
            _ => self.bytes.extend([0x0f, 0x3a]),
        }
        self.byte(opcode.byte);
        self.modrm(reg.0 & 7, rm);
    }

    /// Like [`Emitter::op`] with an extension of the opcode in place of a register.
    pub fn group(&mut self, size: u8, opcode: Opcode, extension: u8, rm: Rm) {
        self.op(size, Opcode { byte_reg: false, ..opcode }, Reg(extension), rm);
    }

    fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = reg << 3;
        let mode = |disp: i32, base: u8| match disp {
            0 if base & 7 != 5 => 0,
            -128..=127 => 0x40,
            _ => 0x80,
        };
        match rm {
            Rm::Reg(rm) => self.byte(0xc0 | reg | rm.0 & 7),
            Rm::Mem(base, disp) => {
                let mode = mode(disp, base.0);
                self.byte(mode | reg | base.0 & 7);
                if base.0 & 7 == 4 {
                    self.byte(0x24);
                }
                self.displacement(mode, disp);
            }
            Rm::Indexed(base, index, scale, disp) => {
                let mode = mode(disp, base.0);
                self.byte(mode | reg | 4);
                self.byte(scale << 6 | (index.0 & 7) << 3 | base.0 & 7);
                self.displacement(mode, disp);
            }
            Rm::Scaled(index, scale, disp) => {
                self.byte(reg | 4);
                self.byte(scale << 6 | (index.0 & 7) << 3 | 5);
                self.i32(disp);
            }
        }
    }

    fn displacement(&mut self, mode: u8, disp: i32) {
        match mode {
            0 => {}
            0x40 => self.byte(disp as u8),
            _ => self.i32(disp),
        }
    }

    /// `mov to, from` of 8 bytes.
    pub fn mov(&mut self, to: Reg, from: Reg) {
        self.op(8, MOV_LOAD, to, Rm::Reg(from));
    }

    /// `mov to, [base + disp]` of 8 bytes.
    pub fn load(&mut self, to: Reg, base: Reg, disp: i32) {
        self.op(8, MOV_LOAD, to, Rm::Mem(base, disp));
    }

    /// `mov [base + disp], from` of 8 bytes.
    pub fn store(&mut self, base: Reg, disp: i32, from: Reg) {
        self.op(8, MOV_STORE, from, Rm::Mem(base, disp));
    }

    /// `lea to, [base + disp]`; no flags change.
    pub fn lea(&mut self, to: Reg, base: Reg, disp: i32) {
        if disp == 0 {
            if to != base {
                self.mov(to, base);
            }
        } else {
            self.op(8, LEA, to, Rm::Mem(base, disp));
        }
    }

    /// `rorx to, from, by` of 4 bytes (BMI2); no flags change.
    pub fn rotated(&mut self, to: Reg, from: Reg, by: u8) {
        let extensions = (!to.0 >> 3 & 1) << 7 | 0x40 | (!from.0 >> 3 & 1) << 5;
        self.bytes.extend([0xc4, extensions | 3, 0x7b, 0xf0, 0xc0 | (to.0 & 7) << 3 | from.0 & 7, by]);
    }

    /// `mov to, value`, in the shortest form; no flags change.
    pub fn constant(&mut self, to: Reg, value: u64) {
        if value >> 32 == 0 {
            if to.0 >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | to.0 & 7);
            self.i32(value as i32);
        } else if value as i32 as i64 as u64 == value {
            self.group(8, Opcode::one(0xc7), 0, Rm::Reg(to));
            self.i32(value as i32);
        } else {
            self.byte(0x48 | to.0 >> 3);
            self.byte(0xb8 | to.0 & 7);
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// An operation of the group at 81 and 83 with an immediate: 0 ADD, 1 OR, 2 ADC, 3 SBB, 4 AND,
    /// 5 SUB, 6 XOR, 7 CMP. `size` is not 1.
    pub fn arithmetic(&mut self, size: u8, extension: u8, rm: Rm, value: i32) {
        if let Ok(short) = i8::try_from(value) {
            self.group(size, Opcode::one(0x83), extension, rm);
            self.byte(short as u8);
        } else {
            self.group(size, Opcode::one(0x81), extension, rm);
            if size == 2 {
                self.bytes.extend_from_slice(&(value as i16).to_le_bytes());
            } else {
                self.i32(value);
            }
        }
    }

    /// `jcc` to a place not known yet.
    pub fn jump_if(&mut self, condition: u8) -> Fixup {
        self.bytes.extend([0x0f, 0x80 | condition]);
        self.i32(0);
        Fixup(self.len() - 4)
    }

    /// `jmp` to a place not known yet.
    pub fn jump(&mut self) -> Fixup {
        self.byte(0xe9);
        self.i32(0);
        Fixup(self.len() - 4)
    }

    /// Lets the jump lead here.
    pub fn land(&mut self, fixup: Fixup) {
        let here = self.len();
        self.patch(fixup, here as i64);
    }

    /// Lets the jump lead to `target`, an offset from the start of this code (it may lie outside).
    pub fn patch(&mut self, Fixup(at): Fixup, target: i64) {
        let displacement = (target - (at as i64 + 4)) as i32;
        self.bytes[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
    }

    /// Where the displacement of the jump is.
    pub fn place(&self, Fixup(at): Fixup) -> usize {
        at
    }
}
