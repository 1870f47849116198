//! The texts of the log files, and the devices of binderfs.

use binder::logs::{self, MAX_TEXT_PAGES, ReadText, Scope, Text};
use binder::protocol::{Command, br, ioctl};
use binder::*;
use vm_memory::{Bytes, GuestAddress};

use crate::trio::*;
use crate::world::*;

/// Where the tests let texts be written.
const TEXT_PAGES: std::ops::Range<u64> = 4000..4096;

impl World {
    /// Reads a piece of a text as a shim does.
    fn text_piece(&mut self, text: Text, skip: u64, pages: usize) -> String {
        let pages: Vec<Pfn> = TEXT_PAGES.rev().take(pages).map(Pfn).collect();
        let body = Body::Log(ReadText { text, skip, pages: pages.clone() });
        let header = Header { time: self.time, ..Header::default() };
        let answer = self.message(header, body);
        assert_eq!(answer.errno, Errno::OK);
        let mut bytes = Vec::new();
        for pfn in pages {
            let mut page = vec![0; PAGE as usize];
            self.ram.read_slice(&mut page, GuestAddress(pfn.0 * PAGE)).unwrap();
            bytes.extend(page);
        }
        bytes.truncate(answer.text as usize);
        String::from_utf8(bytes).unwrap()
    }

    fn text(&mut self, text: Text) -> String {
        self.text_piece(text, 0, 64)
    }
}

/// Lines of the process with that pid.
fn of_proc(text: &str, pid: u32) -> Vec<&str> {
    let lines = text.lines().skip_while(|line| *line != format!("proc {pid}"));
    let (first, rest) = lines.clone().zip(lines.skip(1)).next().map_or(("", ""), |pair| pair);
    assert!(first.starts_with("proc") && rest.starts_with("context"), "{text}");
    let body = text.lines().skip_while(|line| *line != format!("proc {pid}")).skip(1);
    body.take_while(|line| !line.starts_with("proc ")).collect()
}

/// Pointers that are made up are replaced.
fn without_pointers(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let hex = |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex(word) { "PTR" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// covers: B326, B419, B420, B421, B422, B423, B425, B433
#[test]
fn a_call_under_way_is_seen_from_both_ends() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.time = 1000;
    w.nice.insert(client, -5);
    assert!(w.call(client, handle, b"question", &[]).parked);
    w.time = 1250;
    let got = w.read(owner).data();
    let text = w.text(Text::State);
    assert!(text.starts_with("binder state:\nproc 30\n"), "{text}");
    let client_lines: Vec<String> = of_proc(&text, 30).into_iter().map(without_pointers).collect();
    let owner_lines: Vec<String> = of_proc(&text, 20).into_iter().map(without_pointers).collect();
    let id = client_lines[2].split([' ', ':']).find_map(|word| word.parse::<u32>().ok()).unwrap();
    let call = format!("{id}: PTR from 30:30 to 20:20 code 7 flags 10 pri -5 a0 r0 elapsed 250ms");
    assert_eq!(client_lines[0], "context binder");
    assert_eq!(client_lines[1], "  thread 30: l 10 need_return 0 tr 0");
    assert_eq!(client_lines[2], format!("    outgoing transaction {call}"));
    assert!(
        client_lines.iter().any(|line| line.starts_with("  ref ") && line.contains("desc 1 node")),
        "{text}"
    );
    assert_eq!(owner_lines[1], "  thread 20: l 02 need_return 0 tr 0");
    let node = owner_lines.iter().find(|line| line.starts_with("  node ")).unwrap();
    let node_id = node.split([' ', ':']).find_map(|word| word.parse::<u32>().ok()).unwrap();
    assert_eq!(
        *node,
        format!(
            "  node {node_id}: u0000000000001000 c0000000000001001 hs 1 hw 1 ls 1 lw 0 is 2 iw 2 tr 1 proc 30 10"
        )
    );
    assert_eq!(owner_lines[2], format!("    incoming transaction {call} node {node_id} size 8:0 offset 0"));
    assert!(owner_lines.contains(&format!("  buffer {id}: 0 size 8:0:0 active")), "{text}");
    w.free(owner, got.data);
    let text = w.text(Text::Transactions);
    assert!(text.contains(" buffer free\n"), "{text}");
    w.finish();
}

/// covers: B424
#[test]
fn the_6_1_driver_prints_other_transactions() {
    let world = World::with(Limits::default(), Profile::Linux6_1);
    let Trio { mut w, client, handle, .. } = trio_with(world, 0x100);
    w.oneway(client, handle, b"1");
    w.oneway(client, handle, b"2");
    let text = w.text(Text::Transactions);
    let lines: Vec<String> = text.lines().map(without_pointers).collect();
    let pending: Vec<&String> = lines.iter().filter(|line| line.contains("pending")).collect();
    assert_eq!(pending.len(), 2, "{text}");
    assert!(pending[0].starts_with("    pending async transaction "), "{text}");
    assert!(pending[1].starts_with("  pending transaction "), "{text}");
    for line in pending {
        assert!(line.contains(": PTR from 0:0 to 20:0 code 7 flags 1 pri 0 r0 node "), "{line}");
        assert!(line.ends_with(" size 1:0 data PTR"), "{line}");
    }
    w.finish();
}

/// covers: B427
#[test]
fn what_is_quiet_is_not_in_flight() {
    let Trio { mut w, client, handle, .. } = trio();
    assert_eq!(w.text(Text::Transactions), "binder transactions:\n");
    w.oneway(client, handle, b"1");
    let text = w.text(Text::Transactions);
    assert!(text.contains("proc 20\n") && !text.contains("proc 30\n") && !text.contains("thread"), "{text}");
    w.finish();
}

/// covers: B418, B421
#[test]
fn dead_nodes_come_first_the_last_one_foremost() {
    let Trio { mut w, manager, owner, client, .. } = trio();
    let second = w.process(40);
    w.write(second, &[Command::EnterLooper]);
    w.publish(manager, second, client, 0x5000, 0);
    w.release(owner.proc);
    w.release(second.proc);
    let text = w.text(Text::State);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "dead nodes:");
    assert!(lines[2].contains("u0000000000005000"), "{text}");
    assert!(lines[3].contains("u0000000000001000"), "{text}");
    let proc = w.text(Text::Proc(Pid(30)));
    assert!(proc.starts_with("binder proc state:\nproc 30\ncontext binder\n"), "{proc}");
    assert!(proc.contains(" dead node "), "{proc}");
    assert_eq!(w.text(Text::Proc(Pid(99))), "");
    let hashed = w.text(Text::StateHashed);
    assert!(!hashed.contains("u0000000000005000"), "{hashed}");
    assert_eq!(hashed.lines().count(), text.lines().count());
    w.finish();
}

/// covers: B428, B429
#[test]
fn stats_count_commands_returns_and_objects() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let before = w.text(Text::Stats);
    let count = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.map_or(0, |number| number.parse::<u32>().unwrap())
    };
    w.oneway(client, handle, b"1");
    let got = w.read(owner).data();
    w.free(owner, got.data);
    // Unknown commands count too, by their number alone.
    let out = w.raw_write_read(client, &0x1234_6303_u32.to_le_bytes(), 4, 0, 0);
    assert_eq!(out.errno, -22);
    let after = w.text(Text::Stats);
    let more = |name: &str| count(&after, name) - count(&before, name);
    assert_eq!(more("BC_TRANSACTION"), 1);
    assert_eq!(more("BC_FREE_BUFFER"), 2);
    assert_eq!(more("BR_TRANSACTION"), 1);
    assert_eq!(more("BR_TRANSACTION_COMPLETE"), 1);
    assert_eq!(count(&after, "BR_NOOP"), 0);
    assert!(after.contains("\nproc: active 3 total 3\nthread: active 3 total 3\n"), "{after}");
    let lines = of_proc(&after, 20);
    let expected = [
        "  threads: 1",
        "  requested threads: 0+0/0",
        "  ready threads 0",
        "  free async space 32768",
        "  nodes: 1",
    ];
    assert_eq!(lines[1..6], expected, "{after}");
    assert!(lines.contains(&"  BC_FREE_BUFFER: 2"), "{after}");
    assert!(lines.contains(&"  pages: 0:1:15") && lines.contains(&"  pages high watermark: 1"), "{after}");
    w.finish();
}

/// covers: B430, B431, B432
#[test]
fn failed_sends_are_in_both_logs() {
    let Trio { mut w, client, handle, .. } = trio();
    for _ in 0..40 {
        w.call(client, 99, b"lost", &[]);
    }
    w.oneway(client, handle, b"1");
    let log = w.text(Text::TransactionLog);
    let failed = w.text(Text::FailedTransactionLog);
    assert_eq!((log.lines().count(), failed.lines().count()), (32, 32));
    let last = log.lines().last().unwrap();
    let node = last.split("node ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(
        last.ends_with(&format!(
            ": async from 30:30 to 20:0 context binder node {node} handle {handle} size 1:0 ret 0/0 l=0"
        )),
        "{last}"
    );
    let tail = "call  from 30:30 to 0:0 context binder node 0 handle 99 size 4:0 ret 29201/-22 l=0";
    assert!(failed.lines().all(|line| line.ends_with(tail)), "{failed}");
    let first = |text: &str| text.split(':').next().unwrap().parse::<u32>().unwrap();
    assert_eq!(first(&log), first(&failed) + 1);
    w.finish();
}

#[test]
fn a_text_is_read_in_pieces() {
    let Trio { mut w, client, handle, .. } = trio();
    for _ in 0..100 {
        w.oneway(client, handle, &[0; 8]);
    }
    let whole = w.text(Text::State);
    assert!(whole.len() > 3 * PAGE as usize, "{}", whole.len());
    let mut pieces = String::new();
    loop {
        let piece = w.text_piece(Text::State, pieces.len() as u64, 1);
        pieces.push_str(&piece);
        if piece.len() < PAGE as usize {
            break;
        }
    }
    assert_eq!(pieces, whole);
    let mut pure = String::new();
    let scope = Scope { guest: Some(GUEST), now: Some(w.time) };
    logs::state(&w.domain, scope, false, &mut pure).unwrap();
    assert_eq!(pure, whole);
    assert_eq!(w.text_piece(Text::State, u64::MAX, 1), "");
    assert_eq!(w.text_piece(Text::State, 0, 0), "");
    w.finish();
}

#[test]
fn pages_that_are_not_ram_are_refused() {
    let Trio { mut w, .. } = trio();
    for pages in [vec![Pfn(u64::MAX)], vec![Pfn(1 << 40)], vec![Pfn(1); MAX_TEXT_PAGES + 1]] {
        let body = Body::Log(ReadText { text: Text::State, skip: 0, pages });
        assert_eq!(w.message(Header::default(), body).errno, Errno::EPROTO);
    }
    w.finish();
}

impl World {
    fn open_binderfs(&mut self, device: u32, pid: u32) -> Result<Th, Errno> {
        let open = Open { tgid: Pid(pid), context: b"binder".to_vec(), device, ..Open::default() };
        let proc = self.open_as(open)?;
        self.note(proc, Body::Mmap { address: MAPPING, length: 16 * PAGE });
        Ok(self.thread(proc, pid))
    }

    fn end_device(&mut self, device: u32) -> Errno {
        self.message(Header::default(), Body::CtxDel { device }).errno
    }
}

/// covers: B387, B407, B410
#[test]
fn each_binderfs_device_is_a_world_of_its_own() {
    let mut w = World::new();
    let misc = w.process(10);
    w.become_manager(misc);
    let first = w.open_binderfs(1, 11).unwrap();
    let second = w.open_binderfs(2, 12).unwrap();
    let client = w.open_binderfs(1, 13).unwrap();
    w.become_manager(first);
    w.become_manager(second);
    assert_eq!(w.ioctl(client, ioctl::SET_CONTEXT_MGR, &[0; 4]).0, -16);
    assert!(w.call(client, 0, b"hello", &[]).parked);
    assert!(w.text(Text::Proc(Pid(11))).contains("size 5:0:0 active"));
    assert!(!w.text(Text::Proc(Pid(12))).contains("active"));
    assert_eq!(w.end_device(1), Errno::EBUSY);
    for th in [client, first] {
        w.release(th.proc);
    }
    assert_eq!((w.end_device(1), w.end_device(1), w.end_device(0), w.end_device(7)), Default::default());
    // The number names another device now: it has no manager yet, and pins no uid.
    let again = w.open_binderfs(1, 14).unwrap();
    assert_eq!(w.extended_error_of_call(again), (br::DEAD_REPLY, -22));
    w.become_manager(again);
    w.finish();
}

impl World {
    fn extended_error_of_call(&mut self, th: Th) -> (u32, i32) {
        self.call(th, 0, b"", &[]);
        self.extended_error(th)
    }
}

#[test]
fn a_guest_has_only_so_many_devices() {
    let mut w = World::with(Limits { max_contexts: 2, ..Limits::default() }, Profile::default());
    let first = w.open_binderfs(1, 1).unwrap();
    w.open_binderfs(2, 1).unwrap();
    w.open_binderfs(2, 1).unwrap();
    assert_eq!(w.open_binderfs(3, 1).unwrap_err(), Errno::ENOMEM);
    assert!(w.open_as(Open { context: b"binder".to_vec(), ..Open::default() }).is_ok());
    w.release(first.proc);
    assert_eq!(w.end_device(1), Errno::OK);
    assert!(w.open_binderfs(3, 1).is_ok());
    w.domain.reset(GUEST, &mut NoTrace);
    assert!((1..=2).all(|device| w.open_binderfs(device, 1).is_ok()));
    assert_eq!(w.open_binderfs(9, 1).unwrap_err(), Errno::ENOMEM);
}
