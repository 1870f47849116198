//! How much memory a process has while it runs, and for what.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Resident memory of `bindervm` by what it is for, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Pages of the guest's RAM that were touched: by far the largest mapping.
    pub ram: u64,
    /// How large that mapping is.
    pub ram_size: u64,
    /// What has a name: the program, its libraries, code that was compiled for the guest.
    pub named: u64,
    /// The rest: heap, stacks, the core's arenas, decoded code of the guest.
    pub heap: u64,
}

/// A thread that looks at a process twice a second.
pub struct Watch {
    over: Sender<()>,
    samples: JoinHandle<Vec<Resident>>,
}

impl Watch {
    /// Begins.
    pub fn of(pid: u32) -> Watch {
        let (over, until) = channel();
        let samples = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while until.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
                // A process that ends has no mappings any more.
                let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps"));
                samples.extend(maps.ok().map(|maps| resident(&maps)).filter(|all| all.ram_size > 0));
            }
            samples
        });
        Watch { over, samples }
    }

    /// What was seen.
    pub fn end(self) -> Vec<Resident> {
        drop(self.over);
        self.samples.join().expect("the watch does not panic")
    }
}

/// One mapping: KiB, of them resident, and whether it has a name other than `[heap]` or `[stack]`.
#[derive(Clone, Copy, Default)]
struct Mapping {
    size: u64,
    resident: u64,
    named: bool,
}

/// Reads `/proc/PID/smaps` (proc(5)): for each mapping a line of six words, the last of them its name or
/// missing, then lines `Key: value kB`.
fn resident(smaps: &str) -> Resident {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words[..].first(), mappings.last_mut()) {
            (Some(&"Size:"), Some(last)) => last.size = number(words[1]),
            (Some(&"Rss:"), Some(last)) => last.resident = number(words[1]),
            (Some(first), _) if first.contains('-') => {
                let named = words.get(5).is_some_and(|name| name.starts_with('/'));
                mappings.push(Mapping { named, ..Mapping::default() });
            }
            _ => {}
        }
    }
    let ram = mappings.iter().enumerate().max_by_key(|(_, mapping)| mapping.size).map(|(index, _)| index);
    let mut all = Resident::default();
    for (index, mapping) in mappings.iter().enumerate() {
        match mapping.named {
            _ if Some(index) == ram => (all.ram, all.ram_size) = (mapping.resident, mapping.size),
            true => all.named += mapping.resident,
            false => all.heap += mapping.resident,
        }
    }
    all
}

fn number(word: &str) -> u64 {
    word.parse().expect("smaps has numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let smaps = "\
55953fb03000-55953fdbb000 r--p 00000000 fe:00 10053926   /usr/bin/bindervm
Size:               2784 kB
KernelPageSize:        4 kB
Rss:                1356 kB
55955bdc2000-55955cff3000 rw-p 00000000 00:00 0          [heap]
Size:              18628 kB
Rss:               17816 kB
7fc634000000-7fc638000000 r-xs 00000000 00:01 11532      /memfd:softcpu code (deleted)
Size:              65536 kB
Rss:                6876 kB
VmFlags: rd ex sh
7fc63c000000-7fc65c021000 rw-p 00000000 00:00 0
Size:             524420 kB
Rss:              109212 kB
7fc6226cb000-7fc6233cc000 rw-p 00000000 00:00 0
Size:              13316 kB
Rss:                6680 kB
";
        let all = Resident { ram: 109212, ram_size: 524420, named: 1356 + 6876, heap: 17816 + 6680 };
        assert_eq!(resident(smaps), all);
    }
}
