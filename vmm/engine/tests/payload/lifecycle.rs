//! Payloads about the engine's own business: how a run ends, kicks, guest time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::{Exit, Kind};
use iced_x86::code_asm::{al, ecx};

use crate::payload::*;

#[test]
fn a_fault_without_an_idt_is_a_triple_fault() {
    let payload = Payload::new(|a| a.ud2());
    on_every_engine(&payload, |kind, exit, seen| {
        assert!(matches!(exit, Exit::TripleFault(reason) if !reason.is_empty()), "{kind}: {exit:?}");
        assert!(seen.is_empty(), "{kind}");
    });
}

#[test]
fn a_kick_from_another_thread_stops_a_busy_cpu() {
    let payload = Payload::new(|a| {
        let mut forever = a.create_label();
        a.set_label(&mut forever)?;
        a.jmp(forever)
    });
    for kind in engines() {
        let mut engine = prepare(kind, &payload);
        let kicker = engine.kicker();
        let thread = std::thread::spawn(move || kicker.kick());
        let mut bus = NoBus;
        let exit = std::iter::repeat_with(|| engine.run(&mut bus)).find(|exit| *exit != Exit::Slice);
        assert_eq!(exit, Some(Exit::Stopped), "{kind}");
        thread.join().unwrap();
        // A kick before `run` counts, too, once.
        engine.kicker().kick();
        engine.kicker().kick();
        assert_eq!(engine.run(&mut bus), Exit::Stopped, "{kind}");
    }
}

#[test]
fn hlt_without_interrupts_is_the_end() {
    let payload = Payload::new(|a| {
        a.cli()?;
        a.hlt()
    });
    for kind in engines() {
        let mut engine = prepare(kind, &payload);
        let kicker = engine.kicker();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // KVM looks when it is kicked, and a kick may come before the `hlt`; each waits longer than
            // the one before, since kicks without a pause would keep a slow CPU from running at all.
            scope.spawn(|| {
                let mut pause = Duration::from_millis(1);
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(pause);
                    kicker.kick();
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            });
            let runs = std::iter::repeat_with(|| engine.run(&mut NoBus)).take(40);
            let exit = runs.into_iter().find(|exit| *exit != Exit::Stopped);
            over.store(true, Ordering::Relaxed);
            assert_eq!(exit, Some(Exit::DeadHalt), "{kind}");
        });
    }
}

#[test]
fn devices_see_guest_time_pass_between_two_accesses() {
    let payload = Payload::new(|a| {
        a.out(0x80, al)?;
        a.mov(ecx, 1000)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.out(0x80, al)?;
        let mut forever = a.create_label();
        a.set_label(&mut forever)?;
        a.jmp(forever)
    });
    for kind in engines() {
        let mut engine = prepare(kind, &payload);
        let mut bus = Stamps { clock: engine.clock(), kicker: engine.kicker(), times: Vec::new() };
        while bus.times.len() < 2 {
            engine.run(&mut bus);
        }
        // Two thousand instructions of a nanosecond each on the soft engine.
        let passed = bus.times[1] - bus.times[0];
        assert!(passed >= Duration::from_micros(if kind == Kind::Soft { 2 } else { 0 }), "{kind} {passed:?}");
        assert!(engine.now() >= bus.times[1], "{kind}");
    }
}

/// Notes the guest time of each port write.
struct Stamps {
    clock: engine::GuestClock,
    kicker: engine::Kicker,
    times: Vec<Duration>,
}

impl engine::Bus for Stamps {
    fn mmio_read(&mut self, _: vm_memory::GuestAddress, _: &mut [u8]) {}
    fn mmio_write(&mut self, _: vm_memory::GuestAddress, _: &[u8]) {}
    fn port_in(&mut self, _: u16, _: &mut [u8]) {}
    fn port_out(&mut self, _: u16, _: &[u8]) {
        self.times.push(self.clock.now());
        self.kicker.kick();
    }
}

/// There is nothing outside.
pub struct NoBus;

impl engine::Bus for NoBus {
    fn mmio_read(&mut self, _: vm_memory::GuestAddress, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&mut self, _: vm_memory::GuestAddress, _: &[u8]) {}
    fn port_in(&mut self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_out(&mut self, _: u16, _: &[u8]) {}
}
