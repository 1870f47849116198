//! A debugger of bare-metal guests on both engines, by the packets of gdb's remote protocol.

mod guest;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use gdb::{Address, Server};
use guest::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::{End, Kind, Machine, Outcome, choose};

/// A client of the remote protocol. Every answer is waited for at most [`PATIENCE`].
struct Debugger {
    stream: UnixStream,
}

/// KVM without hardware virtualization takes its time.
const PATIENCE: Duration = Duration::from_secs(100);

impl Debugger {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
        write!(self.stream, "${packet}#{sum:02x}").unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("the server answers in time");
        byte[0]
    }

    /// The next packet, with its runs written out.
    fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut packet = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let count = self.byte() - 29;
                    let last = *packet.last().unwrap();
                    packet.extend((0..count).map(|_| last));
                }
                byte => packet.push(byte),
            }
        }
        let _sum = (self.byte(), self.byte());
        // Behind its last packet the server hangs up.
        let _ = self.stream.write_all(b"+");
        String::from_utf8(packet).unwrap()
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// Waits for the server to hang up.
    fn hang_up(&mut self) {
        self.stream.read_to_end(&mut Vec::new()).expect("the server hangs up in time");
    }

    #[track_caller]
    fn ok(&mut self, packet: &str) {
        assert_eq!(self.ask(packet), "OK", "{packet}");
    }

    /// Register `number` of the block that `g` gives: 8 bytes each up to RIP.
    fn register(&mut self, number: usize) -> u64 {
        let all = self.ask("g");
        u64::from_str_radix(&all[16 * number..][..16], 16).unwrap().swap_bytes()
    }

    fn rip(&mut self) -> u64 {
        self.register(16)
    }
}

/// Runs a guest and a debugger beside each other.
fn debug(
    kind: Kind,
    cpus: u8,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    session: impl FnOnce(&mut Debugger) + Send,
) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gdb");
    let kernel = kernel(program);
    let (mut config, _) = config(kind, &kernel);
    config.cpus = cpus;
    config.debugger = Some(Server::bind(&Address::Unix(socket.clone()), true).unwrap());
    let machine = Machine::new(config).unwrap();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| machine.run().unwrap());
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        session(&mut Debugger { stream });
        run.join().unwrap()
    })
}

const RAX: usize = 0;
const RBX: usize = 1;
/// A place in the guest's RAM, which is identity-mapped at its start.
const WORD: u64 = 0x6000;

/// Counts in RAX, writes the count to [`WORD`], and switches off at 5.
fn counting(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.xor(eax, eax)?;
    a.mov(ebx, 7)?;
    a.mov(edi, WORD as u32)?;
    a.set_label(&mut again)?;
    a.inc(eax)?;
    a.mov(dword_ptr(rdi), eax)?;
    a.nop()?;
    a.cmp(eax, 5)?;
    a.jne(again)?;
    power_off(a)
}

/// The engines that know INT3: KVM's own emulator, which is all it has on hosts without hardware
/// virtualization, does not.
fn with_breakpoints() -> Vec<Kind> {
    let hardware = choose(Kind::Auto).is_ok_and(|choice| choice.kind == Kind::Kvm);
    if !hardware {
        eprintln!("skipping kvm: no hardware virtualization, so no INT3");
    }
    engines().into_iter().filter(|kind| *kind == Kind::Soft || hardware).collect()
}

#[test]
fn a_guest_waits_is_stepped_and_changed() {
    for kind in engines() {
        let outcome = debug(kind, 1, counting, |gdb| {
            assert!(gdb.ask("?").starts_with('T'), "{kind}");
            let start = gdb.rip();
            // XOR, then MOV with an immediate.
            assert!(gdb.ask("vCont;s:1").starts_with("T05"), "{kind}");
            assert_eq!((gdb.rip() - start, gdb.register(RAX)), (2, 0), "{kind}");
            assert!(gdb.ask("vCont;s:1").starts_with("T05"), "{kind}");
            assert_eq!((gdb.rip() - start, gdb.register(RBX)), (7, 7), "{kind}");
            // The code itself.
            assert_eq!(gdb.ask(&format!("m{start:x},2")), "31c0", "{kind}");
            // RAX = 3 in the block of all registers: two more rounds.
            let all = gdb.ask("g");
            gdb.ok(&format!("G0300000000000000{}", &all[16..]));
            assert_eq!(gdb.register(RAX), 3, "{kind}");
            gdb.ok(&format!("M{:x},4:78563412", WORD + 8));
            assert_eq!(gdb.ask(&format!("m{:x},4", WORD + 8)), "78563412", "{kind}");
            gdb.ok("D");
        });
        assert_eq!(outcome.end, End::PoweredOff, "{kind}");
    }
}

/// Where INC and NOP of [`counting`] are, from its start.
const INC: u64 = 12;
const NOP: u64 = INC + 2 + 2;

#[test]
fn a_software_breakpoint_stops_the_guest() {
    for kind in with_breakpoints() {
        let outcome = debug(kind, 1, counting, |gdb| {
            let nop = gdb.rip() + NOP;
            assert_eq!(gdb.ask(&format!("m{nop:x},1")), "90", "{kind}");
            gdb.ok(&format!("Z0,{nop:x},1"));
            let stop = gdb.ask("vCont;c");
            assert!(stop.starts_with("T05") && stop.contains("swbreak"), "{kind}: {stop}");
            assert_eq!((gdb.rip(), gdb.register(RAX)), (nop, 1), "{kind}");
            gdb.ok(&format!("z0,{nop:x},1"));
            assert_eq!(gdb.ask(&format!("m{nop:x},1")), "90", "{kind}: the byte is back");
            let end = gdb.ask("vCont;c");
            assert!(end.starts_with('W'), "{kind}: {end}");
        });
        assert_eq!(outcome.end, End::PoweredOff, "{kind}");
    }
}

#[test]
fn hardware_breakpoints_and_watchpoints_stop_the_guest() {
    for kind in with_breakpoints() {
        let outcome = debug(kind, 1, counting, |gdb| {
            let start = gdb.rip();
            // A store stops behind it.
            gdb.ok(&format!("Z2,{WORD:x},4"));
            let stop = gdb.ask("vCont;c");
            assert!(stop.contains(&format!("watch:{WORD:x}")), "{kind}: {stop}");
            assert_eq!((gdb.rip(), gdb.register(RAX)), (start + NOP, 1), "{kind}");
            gdb.ok(&format!("z2,{WORD:x},4"));
            let inc = start + INC;
            gdb.ok(&format!("Z1,{inc:x},1"));
            let stop = gdb.ask("vCont;c");
            assert!(stop.contains("hwbreak"), "{kind}: {stop}");
            assert_eq!((gdb.rip(), gdb.register(RAX)), (inc, 1), "{kind}");
            gdb.ok(&format!("z1,{inc:x},1"));
            let end = gdb.ask("vCont;c");
            assert!(end.starts_with('W'), "{kind}: {end}");
        });
        assert_eq!(outcome.end, End::PoweredOff, "{kind}");
    }
}

#[test]
fn a_running_guest_is_interrupted_and_killed() {
    for kind in engines() {
        let outcome = debug(kind, 2, forever, |gdb| {
            assert_eq!(gdb.ask("qfThreadInfo"), "m01,02", "{kind}");
            let start = gdb.rip();
            gdb.send("vCont;c");
            gdb.stream.write_all(&[3]).unwrap();
            let stop = gdb.receive();
            assert!(stop.starts_with("T02"), "{kind}: {stop}");
            assert_eq!(gdb.rip(), start, "{kind}");
            gdb.send("k");
            gdb.hang_up();
        });
        assert_eq!(outcome.end, End::Stopped, "{kind}");
    }
}

#[test]
fn the_guests_own_breakpoints_stay_its_own() {
    // INT3 without an IDT crashes the CPU: it reached the guest.
    for kind in with_breakpoints() {
        let program = |a: &mut CodeAssembler| {
            a.nop()?;
            a.int3()?;
            forever(a)
        };
        let outcome = debug(kind, 1, program, |gdb| {
            let start = gdb.rip();
            gdb.ok(&format!("Z0,{start:x},1"));
            gdb.ok(&format!("z0,{start:x},1"));
            gdb.ok(&format!("Z0,{:x},1", start + 2));
            let end = gdb.ask("vCont;c");
            assert!(end.starts_with('W'), "{kind}: {end}");
        });
        assert!(matches!(outcome.end, End::TripleFault(_)), "{kind}: {:?}", outcome.end);
    }
}
