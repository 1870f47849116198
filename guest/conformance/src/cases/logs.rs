//! The log files, read below debugfs: every driver has them there.
//!
//! Pids and tids become names, debug ids numbers in the order in which a case meets them; pointers that the
//! kernel hides, times and source lines are dropped. What is left is the format.

use std::cell::RefCell;
use std::fs;

use super::{Case, give, publish};
use crate::commands;
use crate::object::Object;
use crate::stream::{call, free, release, reply, unwatch, watch};
use crate::world::{MAP_SIZE, Result, World, unexpected};

pub const CASES: &[Case] = &[
    Case { name: "logs-files", covers: "B415, B416", play: files },
    Case { name: "logs-proc", covers: "B417, B418, B419", play: proc },
    Case {
        name: "logs-call",
        covers: "B419, B420, B421, B422, B423, B424, B425, B427, B433",
        play: one_call,
    },
    Case { name: "logs-oneway", covers: "B421, B424, B425, B427", play: oneway },
    Case { name: "logs-death", covers: "B419, B421, B422, B426", play: death },
    Case { name: "logs-queues", covers: "B420, B426", play: queues },
    Case { name: "logs-stats", covers: "B428, B429", play: stats },
    Case { name: "logs-rings", covers: "B430, B431, B432", play: rings },
];

const FOLDER: &str = "/sys/kernel/debug/binder";

/// The texts of a case, with one numbering of debug ids.
struct Logs<'w> {
    world: &'w World,
    ids: RefCell<Vec<String>>,
}

impl<'w> Logs<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, ids: RefCell::default() }
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("{FOLDER}/{file}");
        fs::read_to_string(&path).or_else(|error| unexpected(format!("{path}: {error}")))
    }

    /// Prints a whole file.
    fn show(&self, file: &str) -> Result {
        self.show_as(file, file)
    }

    /// The same under another name, for files that have a pid in theirs.
    fn show_as(&self, who: &str, file: &str) -> Result {
        for line in self.read(file)?.lines() {
            self.world.line(who, &self.normal(line));
        }
        Ok(())
    }

    /// Prints the lines of a log of sends that this case's processes made.
    fn show_own(&self, file: &str) -> Result {
        for line in self.read(file)?.lines() {
            let from = line.split(" from ").nth(1).and_then(|rest| rest.split(':').next());
            let known = from.and_then(|pid| pid.parse().ok()).and_then(|pid| self.name(pid));
            if known.is_some() {
                self.world.line(file, &self.normal(line));
            }
        }
        Ok(())
    }

    fn name(&self, pid: i32) -> Option<String> {
        let processes = self.world.processes.borrow();
        processes.iter().find(|process| process.pid == pid).map(|process| process.name.clone())
    }

    /// A pid or tid as a name; 0 stays.
    fn who(&self, number: &str) -> String {
        match number.parse() {
            Ok(0) => "0".into(),
            Ok(pid) => self.name(pid).unwrap_or_else(|| "?".into()),
            Err(_) => number.into(),
        }
    }

    fn id(&self, number: &str) -> String {
        let mut ids = self.ids.borrow_mut();
        let index = ids.iter().position(|id| id == number).unwrap_or_else(|| {
            ids.push(number.into());
            ids.len() - 1
        });
        if number == "0" { "0".into() } else { format!("#{index}") }
    }

    fn normal(&self, line: &str) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut pids_follow = false;
        for word in line.split(' ') {
            let before = words.last().map_or("", String::as_str);
            let (core, colon) = word.strip_suffix(':').map_or((word, ""), |core| (core, ":"));
            let number = !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit());
            let hidden = core.len() == 16 && core.bytes().all(|byte| byte.is_ascii_hexdigit());
            pids_follow |= before == "proc";
            let normal = match before {
                _ if pids_follow => self.who(core),
                "thread" => self.who(core),
                "from" | "to" => {
                    let (pid, tid) = core.split_once(':').unwrap_or((core, ""));
                    format!("{}:{}", self.who(pid), self.who(tid))
                }
                "node" | "work" | "ref" | "buffer" | "transaction" if number => self.id(core),
                _ if words.is_empty() && number && !colon.is_empty() => self.id(core),
                "elapsed" => "time".into(),
                _ if core.starts_with("l=") => "l=".into(),
                _ if hidden && core.bytes().all(|byte| byte == b'0') => "NULL".into(),
                _ if hidden => "pointer".into(),
                _ => core.into(),
            };
            words.push(normal);
            if !colon.is_empty()
                && let Some(last) = words.last_mut()
            {
                last.push_str(colon);
            }
        }
        // The words that decide about their successors have no colon.
        words.join(" ")
    }
}

fn files(world: &World) -> Result {
    use std::os::unix::fs::PermissionsExt;
    let Ok(entries) = fs::read_dir(FOLDER) else { return unexpected("no debugfs") };
    let mut lines: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let mode = entry.metadata().ok()?.permissions().mode();
            Some(format!("{mode:o} {}", entry.file_name().to_string_lossy()))
        })
        .collect();
    lines.sort_by(|a, b| a.split(' ').nth(1).cmp(&b.split(' ').nth(1)));
    lines.iter().for_each(|line| world.line("debugfs", line));
    Ok(())
}

/// Whether the process has a log of its own.
fn has_log(world: &World, actor: &crate::actor::Actor<'_>) {
    let there = fs::metadata(format!("{FOLDER}/proc/{}", actor.pid())).is_ok();
    world.note(if there { "proc/A is there" } else { "proc/A is not there" });
}

fn proc(world: &World) -> Result {
    let a = world.spawn("A")?;
    has_log(world, &a);
    let first = a.use_device("binder", MAP_SIZE)?;
    has_log(world, &a);
    let second = a.use_device("hwbinder", MAP_SIZE)?;
    let logs = Logs::new(world);
    logs.show_as("proc/A", &format!("proc/{}", a.pid()))?;
    world.note("the first open ends, the second goes on");
    let maps = world.processes.borrow()[a.process].areas.clone();
    for (_, start, length) in maps.iter().filter(|(name, ..)| name == "map") {
        a.ask(libc::SYS_munmap, &[*start, *length])?;
    }
    a.sys("close", libc::SYS_close, &[first as u64])?;
    world.settle();
    has_log(world, &a);
    a.sys("close", libc::SYS_close, &[second as u64])?;
    world.settle();
    a.use_device("binder", MAP_SIZE)?;
    has_log(world, &a);
    Ok(())
}

fn one_call(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let logs = Logs::new(world);
    world.note("nothing under way");
    logs.show("state")?;
    logs.show("transactions")?;
    world.note("a looper and another thread wait");
    m.start(commands![])?;
    let other = c.thread("C.2")?;
    other.start(commands![])?;
    logs.show("state")?;
    world.note("a call wakes the looper");
    c.try_wr(commands![call(0, 9).oneway()])?;
    m.finish()?;
    world.note("a call waits");
    c.try_wr(commands![call(0, 1).bytes(b"question")])?;
    logs.show("state")?;
    world.note("the call was read");
    let request = m.r()?.received()?;
    logs.show("state")?;
    logs.show("transactions")?;
    world.note("its buffer was freed");
    m.w(commands![free(request.buffer())])?;
    logs.show("transactions")?;
    world.note("the reply waits");
    m.w(commands![reply().bytes(b"answer")])?;
    logs.show("transactions")?;
    c.r()?;
    world.note("the reply was read");
    logs.show("state")?;
    Ok(())
}

fn oneway(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let logs = Logs::new(world);
    for code in 1..4 {
        c.w(commands![call(0, code).oneway().bytes(&[0; 16])])?;
    }
    logs.show("transactions")?;
    let first = m.r()?.received()?;
    logs.show("transactions")?;
    m.w(commands![free(first.buffer())])?;
    logs.show("state")?;
    Ok(())
}

fn death(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.server("C")?;
    let handle = publish(&s, &m, &c, Object::binder(0x10, 0x1))?;
    let second = publish(&s, &m, &c, Object::binder(0x20, 0x2))?;
    c.w(commands![watch(handle, 0xd1)])?;
    let logs = Logs::new(world);
    logs.show("state")?;
    world.note("the owner dies");
    s.kill()?;
    logs.show("state")?;
    c.r()?;
    world.note("death was told");
    logs.show("state")?;
    c.w(commands![unwatch(handle, 0xd1)])?;
    c.w(commands![release(second)])?;
    logs.show("state")?;
    Ok(())
}

/// Items that wait for a thread that does not read.
fn queues(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.server("C")?;
    let logs = Logs::new(world);
    world.note("a failure");
    c.w(commands![call(77, 1)])?;
    logs.show("transactions")?;
    c.r()?;
    world.note("completions and node work");
    c.w(commands![call(0, 1).oneway().object(Object::binder(0x10, 0x1))])?;
    logs.show("state")?;
    c.r()?;
    let given = m.r()?.received()?;
    m.w(commands![free(given.buffer())])?;
    logs.show("state")?;
    Ok(())
}

fn stats(world: &World) -> Result {
    world.settle();
    let logs = Logs::new(world);
    let before = logs.read("stats")?;
    let m = world.manager("M")?;
    let c = world.process("C")?;
    c.start(commands![call(0, 1).bytes(b"question")])?;
    let request = m.r()?.received()?;
    m.wr(commands![free(request.buffer()), reply()])?;
    let answer = c.finish()?.received()?;
    c.w(commands![free(answer.buffer())])?;
    c.wr(commands![call(77, 1)])?;
    c.w(commands![call(0, 2).oneway()])?;
    let given = give(&c, &m, Object::binder(0x10, 0x1));
    let after = logs.read("stats")?;
    world.note("what was added to the counters of all");
    let global = |text: &str| -> Vec<(String, Vec<i64>)> {
        let lines = text.lines().skip(1).take_while(|line| !line.starts_with("proc "));
        lines
            .filter_map(|line| {
                let (name, rest) = line.split_once(": ")?;
                let numbers = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
                Some((name.to_owned(), numbers))
            })
            .collect()
    };
    let old = global(&before);
    for (name, numbers) in global(&after) {
        let old = old.iter().find(|(other, _)| *other == name).map(|(_, numbers)| numbers.clone());
        let old = old.unwrap_or_else(|| vec![0; numbers.len()]);
        let more: Vec<i64> = numbers.iter().zip(old).map(|(now, then)| now - then).collect();
        if more.iter().any(|count| *count != 0) {
            world.line("stats", &format!("{name} {more:?}"));
        }
    }
    world.note("by process");
    for line in after.lines().skip_while(|line| !line.starts_with("proc ")) {
        world.line("stats", &logs.normal(line));
    }
    given.map(|_| ())
}

fn rings(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let logs = Logs::new(world);
    c.start(commands![call(0, 1).bytes(b"question")])?;
    m.r()?;
    m.wr(commands![reply().bytes(b"answer!!")])?;
    c.finish()?;
    c.w(commands![call(0, 2).oneway()])?;
    c.wr(commands![call(77, 3).bytes(&[0; 24])])?;
    c.wr(commands![reply()])?;
    world.note("a reply whose caller is gone");
    let d = world.process("D")?;
    d.start(commands![call(0, 4)])?;
    m.r()?;
    m.r()?;
    d.kill()?;
    m.wr(commands![reply()])?;
    logs.show_own("transaction_log")?;
    logs.show_own("failed_transaction_log")?;
    for _ in 0..40 {
        c.wr(commands![call(77, 5)])?;
    }
    let count = |text: String| text.lines().count();
    let counts = (count(logs.read("transaction_log")?), count(logs.read("failed_transaction_log")?));
    world.note(&format!("entries: {counts:?}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_replaced() {
        let world = World::new("test", true).unwrap();
        let logs = Logs::new(&world);
        let line = "    outgoing transaction 9: 00000000abcdef01 from 30:30 to 0:0 code 7 elapsed 250ms node 3 size 8:0";
        let normal =
            "    outgoing transaction #0: pointer from ?:? to 0:0 code 7 elapsed time node #1 size 8:0";
        assert_eq!(logs.normal(line), normal);
        assert_eq!(
            logs.normal("  ref 5: desc 1 dead node 3 s 1 w 1 d 0000000000000000"),
            "  ref #2: desc 1 dead node #1 s 1 w 1 d NULL"
        );
        assert_eq!(
            logs.normal("9: call  from 1:1 to 2:0 ret 0/0 l=0"),
            "#0: call  from ?:? to ?:0 ret 0/0 l="
        );
        assert_eq!(logs.normal("proc 30"), "proc ?");
    }
}
