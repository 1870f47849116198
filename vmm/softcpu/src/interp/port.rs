//! IN and OUT. They end the block, so that an interrupt the device raises is seen at once.

use super::instructions;
use crate::cpu::{Abort, Cpu};
use crate::exception::Exception;
use crate::flags;
use crate::segment::Segment;
use crate::word::Word;

/// Offset of the I/O map's base in a task-state segment.
const IO_MAP_BASE: u64 = 0x66;

impl Cpu {
    /// #GP unless the privilege level or the I/O permission map allows the ports.
    pub fn require_port(&mut self, port: u16, size: u8) -> Result<(), Abort> {
        let iopl = (self.flags.system & flags::IOPL) >> 12;
        if self.cpl() as u64 <= iopl {
            return Ok(());
        }
        let tss = self.segments[Segment::Tr];
        let denied = Exception::GeneralProtection(0);
        if (tss.limit as u64) < IO_MAP_BASE + 1 {
            return Err(self.raise(denied));
        }
        let map: u16 = self.load_system(tss.base.wrapping_add(IO_MAP_BASE))?;
        let byte = map as u64 + port as u64 / 8;
        if byte + 1 > tss.limit as u64 {
            return Err(self.raise(denied));
        }
        let bits: u16 = self.load_system(tss.base.wrapping_add(byte))?;
        let mask = (1u16 << size) - 1;
        if bits >> (port % 8) & mask != 0 {
            return Err(self.raise(denied));
        }
        Ok(())
    }

    /// Reads a port.
    pub fn port_in(&mut self, port: u16, size: u8) -> Result<u32, Abort> {
        self.require_port(port, size)?;
        let mut data = [0; 4];
        self.with_bus(|bus| bus.port_in(port, &mut data[..size as usize & 7]));
        Ok(u32::from_le_bytes(data))
    }

    /// Writes a port.
    pub fn port_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Abort> {
        self.require_port(port, size)?;
        self.with_bus(|bus| bus.port_out(port, &value.to_le_bytes()[..size as usize & 7]));
        Ok(())
    }

    fn accumulator_in(&mut self, port: u16, size: u8) -> Result<(), Abort> {
        let value = self.port_in(port, size)?;
        match size {
            1 => (value as u8).write(&mut self.gpr, 0),
            2 => (value as u16).write(&mut self.gpr, 0),
            _ => value.write(&mut self.gpr, 0),
        }
        Ok(())
    }
}

// `r0` is the size in bytes, `imm` the port where it is in the instruction.
instructions! {
    ends fn in_imm(cpu, uop) {
        cpu.accumulator_in(uop.imm as u16, uop.r0)?;
    }

    ends fn in_dx(cpu, uop) {
        cpu.accumulator_in(cpu.gpr[2] as u16, uop.r0)?;
    }

    ends fn out_imm(cpu, uop) {
        cpu.port_out(uop.imm as u16, uop.r0, cpu.gpr[0] as u32)?;
    }

    ends fn out_dx(cpu, uop) {
        cpu.port_out(cpu.gpr[2] as u16, uop.r0, cpu.gpr[0] as u32)?;
    }
}
