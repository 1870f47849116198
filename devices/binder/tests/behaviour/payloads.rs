//! Payloads: user memory, objects, and the commands that carry them.

use binder::protocol::{Command, Return, TransactionData, bc, tf};
use binder::*;
use vm_memory::{Bytes, GuestAddress};

use crate::world::*;

impl World {
    /// Puts bytes into the user memory of a process.
    pub fn put(&mut self, proc: ProcId, bytes: &[u8]) -> u64 {
        let process = self.procs.get_mut(&proc).unwrap();
        let address = process.next_address;
        process.next_address += (bytes.len() as u64).next_multiple_of(PAGE) + 2 * PAGE;
        process.memory.insert(address, bytes.to_vec());
        address
    }

    /// A payload in user memory, as the fields of a command.
    pub fn payload(&mut self, th: Th, data: &[u8], offsets: &[u64]) -> TransactionData {
        let array: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        TransactionData {
            data_size: data.len() as u64,
            offsets_size: array.len() as u64,
            data: if data.is_empty() { 0 } else { self.put(th.proc, data) },
            offsets: if array.is_empty() { 0 } else { self.put(th.proc, &array) },
            ..TransactionData::default()
        }
    }

    pub fn call_command(&mut self, th: Th, handle: u32, flags: u32, data: &[u8], offsets: &[u64]) -> Command {
        let payload = self.payload(th, data, offsets);
        Command::Transaction(TransactionData { target: u64::from(handle), code: 7, flags, ..payload })
    }

    /// A synchronous call with a read half.
    pub fn call(&mut self, th: Th, handle: u32, data: &[u8], offsets: &[u64]) -> Out {
        let command = self.call_command(th, handle, tf::ACCEPT_FDS, data, offsets);
        self.write_read(th, &[command], READ_SIZE)
    }

    pub fn oneway(&mut self, th: Th, handle: u32, data: &[u8]) -> Out {
        let command = self.call_command(th, handle, tf::ONE_WAY, data, &[]);
        self.write_read(th, &[command], READ_SIZE)
    }

    pub fn reply(&mut self, th: Th, data: &[u8], offsets: &[u64]) -> Out {
        let payload = self.payload(th, data, offsets);
        self.write_read(th, &[Command::Reply(payload)], READ_SIZE)
    }

    pub fn free(&mut self, th: Th, address: u64) {
        assert_eq!(self.write(th, &[Command::FreeBuffer { data: address }]).errno, 0);
    }

    /// Rewrites user memory that was put there before.
    pub fn overwrite(&mut self, proc: ProcId, address: u64, bytes: &[u8]) {
        let there = self.procs.get_mut(&proc).unwrap().memory.get_mut(&address).expect("put there before");
        there[..bytes.len()].copy_from_slice(bytes);
    }

    /// Writes into a mapping, as only a hostile kernel can.
    pub fn scribble(&mut self, proc: ProcId, address: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let offset = address - MAPPING + index as u64;
            let pfn = self.procs[&proc].slots[&((offset / PAGE) as u32)];
            self.ram_of(proc).write_slice(&[*byte], GuestAddress(pfn.0 * PAGE + offset % PAGE)).unwrap();
        }
    }

    /// What a process sees in its mapping. Panics (SIGBUS) where no page was placed.
    pub fn look(&self, proc: ProcId, address: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let offset = address - MAPPING + index as u64;
            let pfn = self.procs[&proc].slots[&((offset / PAGE) as u32)];
            self.ram_of(proc)
                .read_slice(std::slice::from_mut(byte), GuestAddress(pfn.0 * PAGE + offset % PAGE))
                .unwrap();
        }
        bytes
    }
}

pub fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

pub fn long(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

pub fn flat_object(kind: u32, flags: u32, low: u64, cookie: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(low.to_le_bytes());
    bytes.extend(cookie.to_le_bytes());
    bytes
}

pub fn parse(mut bytes: &[u8]) -> Vec<Return> {
    let mut returns = Vec::new();
    while !bytes.is_empty() {
        let (item, length) = Return::decode(bytes).unwrap_or_else(|| panic!("not a return: {bytes:x?}"));
        returns.push(item);
        bytes = &bytes[length..];
    }
    returns
}

/// The bytes of a command with an unknown word.
pub fn unknown_command() -> Vec<u8> {
    (bc::EXIT_LOOPER + 0x100).to_le_bytes().to_vec()
}
