//! What a thread of the guest calls, cut into messages and put together from answers as the shim does.

use binder::protocol::{Command, ioctl};
use binder::*;
use vm_memory::{Bytes, GuestAddress};

use super::{Out, PAGE, RAM_PAGES, READ_SIZE, Th, World};
use crate::payloads::parse;

impl World {
    pub fn ioctl(&mut self, th: Th, cmd: u32, arg: &[u8]) -> (i32, Vec<u8>) {
        self.ioctl_as(th, Ioctl { cmd, arg: arg.to_vec(), ..Ioctl::default() })
    }

    /// Posts an ioctl; a thread that sleeps in one has no other.
    pub(super) fn begin(&mut self, th: Th, body: Ioctl) -> Answer {
        let seq = self.seqs.entry(th).or_default();
        *seq += 1;
        let answer = self.send(th, Body::Ioctl(body));
        if answer.errno == Errno::EPROTO && self.pending.contains_key(&th) {
            *self.seqs.entry(th).or_default() -= 1;
        }
        answer
    }

    pub fn ioctl_as(&mut self, th: Th, body: Ioctl) -> (i32, Vec<u8>) {
        let answer = self.begin(th, body);
        self.events();
        (answer.errno.0, answer.result)
    }

    pub fn write(&mut self, th: Th, commands: &[Command]) -> Out {
        self.write_read(th, commands, 0)
    }

    pub fn read(&mut self, th: Th) -> Out {
        self.write_read(th, &[], READ_SIZE)
    }

    pub fn read_nonblock(&mut self, th: Th) -> Out {
        self.nonblock = true;
        let out = self.read(th);
        self.nonblock = false;
        out
    }

    pub fn write_read(&mut self, th: Th, commands: &[Command], read_size: u64) -> Out {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes));
        self.raw_write_read(th, &bytes, bytes.len() as u64, read_size, 0)
    }

    pub fn raw_write_read(&mut self, th: Th, bytes: &[u8], write_size: u64, read_size: u64, rc: u64) -> Out {
        let fields = [write_size, 0, 0x1000, read_size, rc, 0x2000];
        let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        let chunk = self.chunk(th, bytes, 0);
        let body = Ioctl { cmd: ioctl::WRITE_READ, arg, chunk, ..Ioctl::default() };
        let answer = self.begin(th, body);
        let out = Out { bytes: vec![0; rc as usize], start: rc, ..Out::default() };
        let out = self.follow(th, bytes, answer, out);
        self.events();
        out
    }

    /// Whole commands from `position`, as many as fit, with the memory that they name.
    pub(super) fn chunk(&self, th: Th, bytes: &[u8], position: usize) -> Chunk {
        let mut chunk = Chunk { position: position as u64, ..Chunk::default() };
        let mut at = position;
        while at < bytes.len() {
            let (length, command) = match Command::decode(&bytes[at..]) {
                Ok((command, length)) => (length, Some(command)),
                Err(_) => (bytes.len() - at, None),
            };
            if at > position && at + length - position > self.chunk_limit {
                chunk.end = ChunkEnd::Cut;
                break;
            }
            let data = match command {
                Some(Command::Transaction(data) | Command::Reply(data)) => Some(data),
                Some(Command::TransactionSg(data, _) | Command::ReplySg(data, _)) => Some(data),
                _ => None,
            };
            if let Some(data) = data.filter(|_| !self.lazy) {
                chunk.ranges.push(self.range(th.proc, data.data, data.data_size));
                chunk.ranges.push(self.range(th.proc, data.offsets, data.offsets_size));
            }
            at += length;
        }
        chunk.bytes = bytes[position..at].to_vec();
        chunk
    }

    /// A piece of user memory as the shim carries it.
    pub fn range(&self, proc: ProcId, address: u64, length: u64) -> Range {
        let none = Range { address, length, readable: 0, fault: length > 0, data: RangeData::None };
        let process = &self.procs[&proc];
        let Some((start, bytes)) = process.memory.range(..=address).next_back() else { return none };
        let skip = (address - start) as usize;
        let Some(rest) = bytes.get(skip..).filter(|rest| !rest.is_empty()) else { return none };
        let window = length.min(256 * PAGE - address % PAGE);
        let readable = window.min(rest.len() as u64);
        let fault = readable < window;
        let data = if readable <= self.inline_limit {
            RangeData::Inline(rest[..readable as usize].to_vec())
        } else {
            RangeData::Pages(self.user_pages(proc, address, &rest[..readable as usize]))
        };
        Range { address, length, readable, fault, data }
    }

    /// User memory in guest pages: below the top of RAM, reused for every range.
    pub(super) fn user_pages(&self, proc: ProcId, address: u64, bytes: &[u8]) -> Vec<Pfn> {
        let offset = address % PAGE;
        let count = (offset + bytes.len() as u64).div_ceil(PAGE);
        // From the top, growing down, by address: stable for one address.
        let first = RAM_PAGES - 1024 + (address / PAGE) % (1024 - count);
        self.ram_of(proc).write_slice(bytes, GuestAddress(first * PAGE + offset)).unwrap();
        (first..first + count).map(Pfn).collect()
    }

    /// Does what answers ask for until the ioctl ends or parks.
    pub fn follow(&mut self, th: Th, bytes: &[u8], mut answer: Answer, mut out: Out) -> Out {
        loop {
            out.wc = answer.write_consumed.max(out.wc);
            self.collect(&mut out, &answer);
            match &answer.status {
                Status::Done => {
                    out.errno = answer.errno.0;
                    out.rc = answer.read_consumed;
                    if out.errno == 0 {
                        out.returns = parse(&out.bytes[out.start as usize..out.rc as usize]);
                    }
                    return out;
                }
                Status::Parked { .. } => {
                    self.pending.insert(th, out.clone());
                    out.parked = true;
                    return out;
                }
                Status::TooLate => panic!("TOO_LATE of an ioctl"),
                _ if self.hold => {
                    self.pending.insert(th, out.clone());
                    return out;
                }
                Status::More => {
                    let chunk = self.chunk(th, bytes, (out.wc as usize).min(bytes.len()));
                    answer = self.send(th, Body::Continue(Continue::More(chunk)));
                }
                Status::Needs(needs) => {
                    let results = needs.clone().iter().map(|need| self.supply(th, need)).collect();
                    answer = self.send(th, Body::Continue(Continue::Needs(results)));
                }
                Status::Install(tokens) => {
                    let result = self.install(th, &tokens.clone());
                    answer = self.send(th, Body::Continue(Continue::Install(result)));
                }
            }
        }
    }

    pub(super) fn collect(&self, out: &mut Out, answer: &Answer) {
        let end = answer.result_position as usize + answer.result.len();
        out.bytes.resize(end.max(out.bytes.len()), 0);
        out.bytes[answer.result_position as usize..end].copy_from_slice(&answer.result);
        if let Some(word) = answer.first_word {
            out.bytes[..4].copy_from_slice(&word.to_le_bytes());
        }
        if let Some(creds) = answer.creds {
            out.creds = creds.proc;
            let at = answer.result_position as usize + creds.offset as usize;
            let pid = creds.proc.and_then(|proc| self.domain.pid(proc)).unwrap_or_default();

            assert_eq!(out.bytes[at..at + 4], pid.0.to_le_bytes(), "creds name the place of sender_pid");
        }
    }
}
