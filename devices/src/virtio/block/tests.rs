//! The block device as a driver sees it, on each kind of disk.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing::{Driver, WRITE};

/// A folder with a disk of 300 sectors, each filled with its number's low byte.
struct Folder(TempDir);

const SECTORS: u64 = 300;

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        let bytes: Vec<u8> = (0..SECTORS).flat_map(|sector| [sector as u8; SECTOR]).collect();
        fs::write(folder.path("base"), bytes).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn base(&self, read_only: bool) -> FileDisk {
        FileDisk::open(&self.path("base"), read_only).unwrap()
    }
}

const HEADER_AT: u64 = 0x8000;
const DATA: u64 = 0x9000;
const STATUS: u64 = 0xe000;

/// A driver with one request at a time.
struct Guest(Driver);

impl Guest {
    fn of(disk: impl Disk + 'static) -> Guest {
        let device = Block::new(Box::new(disk), "disk-0");
        let features = device.features();
        Guest(Driver::start(Box::new(device), features))
    }

    /// Sends a request with `data` segments; the status, and the bytes the device says it wrote.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        self.0.restart(0);
        self.0.ram.write_obj(kind, GuestAddress(HEADER_AT)).unwrap();
        self.0.ram.write_obj(sector, GuestAddress(HEADER_AT + 8)).unwrap();
        self.0.ram.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        let mut chain = vec![(HEADER_AT, 16, 0)];
        chain.extend(data);
        chain.push((STATUS, 1, WRITE));
        self.0.add(0, &chain);
        self.0.kick(0);
        let used = self.0.used(0);
        assert_eq!(used.len(), 1);
        (self.0.bytes(STATUS, 1)[0], used[0].1)
    }

    fn read(&mut self, sector: u64, sectors: usize) -> Vec<u8> {
        let len = sectors * SECTOR;
        let answer = self.request(VIRTIO_BLK_T_IN, sector, &[(DATA, len as u32, WRITE)]);
        assert_eq!(answer, (Status::Ok as u8, len as u32 + 1));
        self.0.bytes(DATA, len)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        self.0.ram.write_slice(bytes, GuestAddress(DATA)).unwrap();
        self.request(VIRTIO_BLK_T_OUT, sector, &[(DATA, bytes.len() as u32, 0)]).0
    }
}

#[test]
fn a_raw_file_is_read_and_written() {
    let folder = Folder::new();
    let mut guest = Guest::of(folder.base(false));
    let expected: Vec<u8> = [[7; SECTOR], [8; SECTOR]].concat();
    assert_eq!(guest.read(7, 2), expected);
    assert_eq!(guest.write(299, &[0xab; SECTOR]), Status::Ok as u8);
    assert_eq!(guest.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (Status::Ok as u8, 1));
    assert_eq!(fs::read(folder.path("base")).unwrap()[299 * SECTOR..], [0xab; SECTOR]);
}

#[test]
fn data_may_come_in_pieces_of_any_size() {
    let folder = Folder::new();
    let mut guest = Guest::of(folder.base(false));
    let pieces = [(DATA, 100, WRITE), (DATA + 0x1000, 400, WRITE), (DATA + 0x2000, 524, WRITE)];
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 1, &pieces), (0, 1025));
    let got =
        [guest.0.bytes(DATA, 100), guest.0.bytes(DATA + 0x1000, 400), guest.0.bytes(DATA + 0x2000, 524)];
    assert_eq!(got.concat(), [[1; SECTOR], [2; SECTOR]].concat());
}

#[test]
fn what_is_not_on_the_disk_is_an_error() {
    let folder = Folder::new();
    let mut guest = Guest::of(folder.base(false));
    for (sector, len) in [(300, 512), (299, 1024), (u64::MAX, 512), (u64::MAX / 512, 1024), (0, 511)] {
        let answer = guest.request(VIRTIO_BLK_T_IN, sector, &[(DATA, len, WRITE)]);
        assert_eq!(answer, (Status::IoError as u8, 1), "{len} bytes at {sector}");
        let answer = guest.request(VIRTIO_BLK_T_OUT, sector, &[(DATA, len, 0)]);
        assert_eq!(answer, (Status::IoError as u8, 1), "{len} bytes at {sector}");
    }
    assert_eq!(guest.request(99, 0, &[]), (Status::Unsupported as u8, 1));
    assert_eq!(fs::read(folder.path("base")).unwrap().len() as u64, SECTORS * SECTOR as u64);
}

#[test]
fn a_read_only_disk_says_so_and_stays_as_it_is() {
    let folder = Folder::new();
    let device = Block::new(Box::new(folder.base(true)), "");
    assert_ne!(device.features() & 1 << VIRTIO_BLK_F_RO, 0);
    let mut guest = Guest::of(folder.base(true));
    assert_eq!(guest.write(0, &[1; SECTOR]), Status::IoError as u8);
    assert_eq!(guest.read(0, 1), [0; SECTOR]);
}

#[test]
fn the_serial_number_and_the_capacity_are_told() {
    let folder = Folder::new();
    let mut guest = Guest::of(folder.base(true));
    assert_eq!(guest.request(VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, WRITE)]), (0, 21));
    assert_eq!(guest.0.bytes(DATA, 8), b"disk-0\0\0");
    assert_eq!((guest.0.read(0x100), guest.0.read(0x104)), (SECTORS as u32, 0));
    assert_eq!((guest.0.read(0x10c), guest.0.read(0x114)), (126, 512));
}

#[test]
fn a_chain_without_header_or_status_stops_the_device() {
    for chain in [&[(HEADER_AT, 16, 0)][..], &[(HEADER_AT, 8, 0), (STATUS, 1, WRITE)], &[(STATUS, 1, WRITE)]]
    {
        let folder = Folder::new();
        let mut guest = Guest::of(folder.base(true));
        guest.0.add(0, chain);
        guest.0.kick(0);
        assert!(guest.0.transport.failure().is_some_and(|reason| reason.contains("without")), "{chain:?}");
        assert_eq!(guest.read(3, 1), [3; SECTOR], "it works after a reset");
    }
}

/// Writes over a cluster's border, into the last cluster, and reads all of it back.
fn check_overlay(guest: &mut Guest) {
    let crossing: Vec<u8> = (0..4 * SECTOR).map(|at| (at % 251) as u8).collect();
    assert_eq!(guest.write(126, &crossing), 0);
    assert_eq!(guest.write(299, &[0xcd; SECTOR]), 0);
    check_overlaid(guest);
}

fn check_overlaid(guest: &mut Guest) {
    let crossing: Vec<u8> = (0..4 * SECTOR).map(|at| (at % 251) as u8).collect();
    assert_eq!(guest.read(126, 4), crossing);
    assert_eq!(guest.read(299, 1), [0xcd; SECTOR]);
    for sector in [0, 125, 130, 298] {
        assert_eq!(guest.read(sector, 1), [sector as u8; SECTOR], "as in the base");
    }
}

#[test]
fn an_overlay_in_memory_leaves_the_base_alone() {
    let folder = Folder::new();
    let before = fs::read(folder.path("base")).unwrap();
    check_overlay(&mut Guest::of(Overlay::in_memory(folder.base(true), 1 << 20)));
    assert_eq!(fs::read(folder.path("base")).unwrap(), before);
}

#[test]
fn an_overlay_in_memory_is_bounded() {
    let folder = Folder::new();
    let mut guest = Guest::of(Overlay::in_memory(folder.base(true), 64 << 10));
    assert_eq!(guest.write(0, &[1; SECTOR]), Status::Ok as u8);
    assert_eq!(guest.write(127, &[1; SECTOR]), Status::Ok as u8);
    assert_eq!(guest.write(128, &[1; SECTOR]), Status::IoError as u8);
    assert_eq!(guest.read(128, 1), [128; SECTOR]);
}

#[test]
fn an_overlay_file_keeps_what_was_written() {
    let folder = Folder::new();
    let overlay = || Overlay::in_file(folder.base(true), &folder.path("overlay")).unwrap();
    check_overlay(&mut Guest::of(overlay()));
    check_overlaid(&mut Guest::of(overlay()));
}

#[test]
fn what_is_no_overlay_for_this_disk_is_refused_and_kept() {
    let folder = Folder::new();
    let path = folder.path("overlay");
    drop(Overlay::in_file(folder.base(true), &path).unwrap());
    fs::write(folder.path("base"), [0; 2 * SECTOR]).unwrap();
    for contents in [fs::read(&path).unwrap(), b"precious".to_vec(), vec![7; 4096], b"bvovrly\x02".repeat(4)]
    {
        fs::write(&path, &contents).unwrap();
        let refused = Overlay::in_file(folder.base(true), &path);
        assert!(matches!(refused, Err(OpenDiskError::NotAnOverlay(_))));
        assert_eq!(fs::read(&path).unwrap(), contents);
    }
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let folder = Folder::new();
    let (_one, _two) = (folder.base(true), folder.base(true));
    assert!(matches!(FileDisk::open(&folder.path("base"), false), Err(OpenDiskError::Busy)));
    fs::write(folder.path("odd"), [0; 700]).unwrap();
    assert!(matches!(FileDisk::open(&folder.path("odd"), true), Err(OpenDiskError::Sectors(700))));
    assert!(matches!(FileDisk::open(&folder.path("none"), true), Err(OpenDiskError::Open(_))));
}
