use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use devices::cmos::{Cmos, WallClock};
use devices::input::InputQueue;
use devices::irq::IrqLine;
use devices::serial::SerialPort;
use engine::{Config, Engine, Kind};
use guest_ram::GuestRam;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::layout::{MIN_MEMORY, MemorySize};

struct Nowhere;

impl IrqLine for Nowhere {
    fn pulse(&self) {}
}

impl WallClock for Nowhere {
    fn since_epoch(&self) -> Duration {
        Duration::ZERO
    }
}

struct Made {
    folder: TempDir,
    ram: Arc<GuestRam>,
    header: Header,
}

impl Made {
    /// A snapshot of a machine that never ran, with a few pages that are not zeros.
    fn new() -> Made {
        let folder = tempfile::tempdir().unwrap();
        let memory = MemorySize::new(MIN_MEMORY).unwrap();
        let ram = Arc::new(guest_ram::allocate(&memory.ranges()).unwrap());
        for (page, byte) in [(0, 1), (300, 2), (301, 3), (MIN_MEMORY / 4096 - 1, 4)] {
            ram.write_obj::<u8>(byte, GuestAddress(page * 4096 + byte as u64)).unwrap();
        }
        let engine = Engine::new(Kind::Soft, ram.clone(), Config::default()).unwrap();
        let serial = SerialPort::new(Arc::new(Nowhere), Box::new(std::io::sink()), InputQueue::new());
        let state = MachineState {
            engine: engine.save().unwrap(),
            serial: serial.save(),
            cmos: Cmos::new(Box::new(Nowhere)).save(),
            rtc_base: Duration::from_secs(9),
            virtio: Vec::new(),
        };
        let facts = Facts {
            engine: "soft".to_owned(),
            cpus: 1,
            memory,
            guest_time: Duration::from_millis(1234),
            labels: Labels::from([("image".to_owned(), "none".to_owned())]),
        };
        let header = write(&folder.path().join("whole"), facts, &state, &ram).unwrap();
        Made { folder, ram, header }
    }

    fn whole(&self) -> PathBuf {
        self.folder.path().join("whole")
    }

    /// The file with one byte changed, or cut to a length.
    fn changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = fs::read(self.whole()).unwrap();
        change(&mut bytes);
        let path = self.folder.path().join("changed");
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn opened(path: &Path) -> Result<(), SnapshotError> {
    let snapshot = Snapshot::open(path)?;
    snapshot.state()?;
    snapshot.ram()?;
    Ok(())
}

#[test]
fn what_was_written_is_read() {
    let made = Made::new();
    let snapshot = Snapshot::open(&made.whole()).unwrap();
    assert_eq!(*snapshot.header(), made.header);
    assert_eq!((made.header.pages, made.header.guest_time_ms), (4, 1234));
    assert_eq!(snapshot.state().unwrap().rtc_base, Duration::from_secs(9));
    snapshot.verify().unwrap();
    let (ram, again) = (snapshot.ram().unwrap(), snapshot.ram().unwrap());
    let bytes = |ram: &GuestRam| {
        let mut bytes = vec![0; MIN_MEMORY as usize];
        ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    };
    assert!(bytes(&ram) == bytes(&made.ram), "RAM differs");
    // Guests from one file do not see each other's writes, and the file stays as it is.
    ram.write_obj(77u64, GuestAddress(300 * 4096)).unwrap();
    assert!(bytes(&again) == bytes(&made.ram), "RAM differs");
    snapshot.verify().unwrap();
}

#[test]
fn pages_of_zeros_take_no_room() {
    use std::os::unix::fs::MetadataExt;
    let made = Made::new();
    let metadata = fs::metadata(made.whole()).unwrap();
    assert_eq!(metadata.len(), made.header.memory.offset + MIN_MEMORY);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} bytes are used", metadata.blocks() * 512);
    let left: Vec<_> =
        fs::read_dir(made.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["whole"], "no part of it is left");
}

#[test]
fn each_part_may_be_damaged() {
    let made = Made::new();
    let state = made.header.state.offset as usize;
    let memory = made.header.memory.offset as usize;
    let other_format = format!("it has format 0, this program knows {FORMAT}; take the snapshot again");
    let cases: [(usize, &str); 7] = [
        (0, "it is not a snapshot of bindervm"),
        (16, &other_format),
        (21, "it is damaged: it ends in its header"),
        (30, "it is damaged: the header is not what its hash is of"),
        (100, "it is damaged: the header is not what its hash is of"),
        (state + 5, "it is damaged: the state is not what its hash is of"),
        (
            state + made.header.state.length as usize - 1,
            "it is damaged: the state is not what its hash is of",
        ),
    ];
    for (at, message) in cases {
        // The format becomes 0, a length becomes far too long, anything else just another byte.
        let path = made.changed(|bytes| bytes[at] ^= if at == 16 { FORMAT as u8 } else { 0xff });
        assert_eq!(opened(&path).unwrap_err().to_string(), message, "byte {at}");
    }
    // RAM is the guest's own; only `verify` reads all of it.
    for at in [memory, memory + 300 * 4096, memory + 50 * 4096] {
        let path = made.changed(|bytes| bytes[at] ^= 1);
        opened(&path).unwrap();
        let error = Snapshot::open(&path).unwrap().verify().unwrap_err();
        assert_eq!(error.to_string(), "it is damaged: the memory is not what its hash is of");
    }
}

#[test]
fn a_file_of_another_length_is_damaged() {
    let made = Made::new();
    let whole = fs::metadata(made.whole()).unwrap().len() as usize;
    for length in [0, 15, 40, 200, 20_000, whole - 1] {
        let path = made.changed(|bytes| bytes.truncate(length));
        let error = opened(&path).unwrap_err();
        assert!(
            matches!(error, SnapshotError::NotASnapshot | SnapshotError::Damaged(_)),
            "{length}: {error}"
        );
    }
    let path = made.changed(|bytes| bytes.push(0));
    assert_eq!(opened(&path).unwrap_err().to_string(), "it is damaged: it is longer than it says");
    assert!(matches!(opened(made.folder.path()), Err(SnapshotError::Read(_))));
    assert!(matches!(opened(&made.folder.path().join("nothing")), Err(SnapshotError::Read(_))));
}

/// A header that fits its hash, and says what it likes.
fn with_header(made: &Made, change: impl FnOnce(&mut Header)) -> PathBuf {
    use sha2::{Digest, Sha256};
    let mut header = made.header.clone();
    change(&mut header);
    let json = serde_json::to_vec(&header).unwrap();
    made.changed(|bytes| {
        bytes[20..24].copy_from_slice(&(json.len() as u32).to_le_bytes());
        bytes[24..56].copy_from_slice(&Sha256::digest(&json));
        bytes[56..56 + json.len()].copy_from_slice(&json);
    })
}

#[test]
fn a_header_that_asks_for_too_much_is_refused() {
    let made = Made::new();
    let changes: [fn(&mut Header); 8] = [
        |header| header.state.length = u64::MAX,
        |header| header.state.length = 300 << 20,
        |header| header.state.offset = 0,
        |header| header.memory.offset += 1,
        |header| header.memory.length = 0,
        |header| header.memory_bytes = u64::MAX,
        |header| header.memory_bytes = 4096,
        |header| {
            header.memory_bytes = 1 << 30;
            header.memory.length = 1 << 30;
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let path = with_header(&made, change);
        let error = opened(&path).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged(_)), "{number}: {error}");
    }
    opened(&with_header(&made, |_| ())).unwrap();
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let made = Made::new();
    let pipe = made.folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let told = check_destination(&pipe).unwrap_err().to_string();
    assert_eq!(told, "it is there and no regular file: name another");
    assert!(is_special(&pipe) && is_special(made.folder.path()) && is_special(Path::new("/dev/full")));
    let nowhere = check_destination(Path::new("/no/such/folder/x")).unwrap_err().to_string();
    assert_eq!(nowhere, "there is no folder /no/such/folder");
    check_destination(&made.folder.path().join("new")).unwrap();
    check_destination(Path::new("new")).unwrap();
}
