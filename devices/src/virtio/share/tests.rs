//! The 9P device as a driver sees it, and as a hostile one does.

use std::fs;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::guard::MAX_FIDS;
use super::*;
use crate::testing::{Driver, WRITE};

const REQUEST: u64 = 0x8000;
const ANSWER: u64 = 0x9000;

const RLERROR: u8 = 7;

/// A driver with a folder that holds `hello` ("hello\n"), beside it `secret`.
struct Guest {
    driver: Driver,
    folder: tempfile::TempDir,
}

impl Guest {
    fn new(access: Access) -> Guest {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("hello"), "hello\n").unwrap();
        fs::write(folder.path().join("secret"), "secret\n").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        let driver = Driver::start(Box::new(Share::new(&root, "data", access).unwrap()), F_MOUNT_TAG);
        let mut guest = Guest { driver, folder };
        assert_eq!(guest.ask(100, &[&4096u32.to_le_bytes()[..], &string("9P2000.L")].concat()).0, 101);
        let attach = [&word(0)[..], &word(u32::MAX), &string("user"), &string(""), &word(0)].concat();
        assert_eq!(guest.ask(104, &attach).0, 105);
        guest
    }

    /// Sends a request; the answer's type and fields.
    fn ask(&mut self, kind: u8, fields: &[u8]) -> (u8, Vec<u8>) {
        let mut request = word(7 + fields.len() as u32).to_vec();
        request.extend([kind, 1, 0]);
        request.extend(fields);
        self.driver.reuse_descriptors(0);
        self.driver.ram.write_slice(&request, GuestAddress(REQUEST)).unwrap();
        self.driver.add(0, &[(REQUEST, request.len() as u32, 0), (ANSWER, 0x1000, WRITE)]);
        self.driver.kick(0);
        let used = self.driver.used(0);
        assert_eq!(used.len(), 1, "{:?}", self.driver.transport.failure());
        let answer = self.driver.bytes(ANSWER, used[0].1 as usize);
        (answer[4], answer[7..].to_vec())
    }

    /// Walks from the root to `fid`; true if that worked all the way.
    fn walk(&mut self, fid: u32, names: &[&str]) -> bool {
        let mut fields = [word(0), word(fid)].concat();
        fields.extend((names.len() as u16).to_le_bytes());
        names.iter().for_each(|name| fields.extend(string(name)));
        let (kind, answer) = self.ask(110, &fields);
        kind == 111 && answer[..2] == (names.len() as u16).to_le_bytes()
    }
}

fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

fn errno(number: u32) -> (u8, Vec<u8>) {
    (RLERROR, word(number).to_vec())
}

#[test]
fn a_file_is_read_and_one_is_made() {
    let mut guest = Guest::new(Access::ReadWrite);
    assert!(guest.walk(1, &["hello"]));
    assert_eq!(guest.ask(12, &[word(1), word(0)].concat()).0, 13);
    let (kind, data) = guest.ask(116, &[&word(1)[..], &[0; 8], &word(100)].concat());
    assert_eq!((kind, &data[4..]), (117, &b"hello\n"[..]));

    assert!(guest.walk(2, &[]));
    let create = [&word(2)[..], &string("made"), &word(1), &word(0o644), &word(0)].concat();
    assert_eq!(guest.ask(14, &create).0, 15);
    let write = [&word(2)[..], &[0; 8], &word(3), b"abc"].concat();
    assert_eq!(guest.ask(118, &write), (119, word(3).to_vec()));
    assert_eq!(fs::read(guest.folder.path().join("root/made")).unwrap(), b"abc");
}

#[test]
fn a_folder_shared_for_reading_stays_as_it_is() {
    let mut guest = Guest::new(Access::ReadOnly);
    assert!(guest.walk(1, &["hello"]));
    for flags in [1, 2, 0o100, 0o1000] {
        assert_eq!(guest.ask(12, &[word(1), word(flags)].concat()), errno(30), "{flags:o}");
    }
    let create = [&word(0)[..], &string("made"), &word(1), &word(0o644), &word(0)].concat();
    assert_eq!(guest.ask(14, &create), errno(30));
    assert_eq!(guest.ask(76, &[&word(0)[..], &string("hello"), &word(0)].concat()), errno(30));
    assert_eq!(guest.ask(72, &[&word(0)[..], &string("d"), &word(0o755), &word(0)].concat()), errno(30));
    assert_eq!(guest.ask(12, &[word(1), word(0)].concat()).0, 13, "reading is allowed");
}

#[test]
fn nothing_outside_of_the_folder_is_reached() {
    let mut guest = Guest::new(Access::ReadWrite);
    for names in [&[".."][..], &["..", "secret"], &["../secret"], &["/etc/passwd"], &["."], &[""]] {
        assert!(!guest.walk(1, names), "{names:?}");
    }
    for name in ["../out", "a/b", "..", "/tmp/out"] {
        let create = [&word(0)[..], &string(name), &word(1), &word(0o644), &word(0)].concat();
        assert_eq!(guest.ask(14, &create), errno(2), "{name}");
        assert_eq!(guest.ask(76, &[&word(0)[..], &string(name), &word(0)].concat()), errno(2), "{name}");
        let rename = [&word(0)[..], &string("hello"), &word(0), &string(name)].concat();
        assert_eq!(guest.ask(74, &rename), errno(2), "{name}");
    }
    // A link is something to read, and not to open.
    assert!(guest.walk(1, &["link"]));
    assert_eq!(guest.ask(22, &word(1)), (23, string("../secret")));
    assert_eq!(guest.ask(12, &[word(1), word(0)].concat()).0, RLERROR);
    assert!(!guest.walk(2, &["link", "x"]));
    assert!(guest.folder.path().join("secret").exists());
}

#[test]
fn an_open_does_not_wait() {
    let mut guest = Guest::new(Access::ReadOnly);
    let fifo = guest.folder.path().join("root/fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(guest.walk(1, &["fifo"]));
    assert_eq!(guest.ask(12, &[word(1), word(0)].concat()).0, 13);
}

#[test]
fn open_files_are_bounded_and_come_back() {
    let mut guest = Guest::new(Access::ReadOnly);
    let opened = (1..=2 * MAX_FIDS as u32).take_while(|fid| guest.walk(*fid, &["hello"])).count();
    assert_eq!(opened, MAX_FIDS - 1, "the root is one");
    assert_eq!(guest.ask(120, &word(1)).0, 121);
    assert!(guest.walk(1, &["hello"]));
    assert!(!guest.walk(9999, &["hello"]));
}

#[test]
fn what_is_no_folder_is_refused() {
    assert!(Share::new(Path::new("/dev/null"), "x", Access::ReadOnly).is_err());
    assert!(Share::new(Path::new("/no/such/folder"), "x", Access::ReadOnly).is_err());
    assert!(Share::new(Path::new("/"), "", Access::ReadOnly).is_err());
    assert!(Share::new(Path::new("/"), &"x".repeat(65), Access::ReadOnly).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_breaks_the_device_or_leaves_the_folder(
        kind in prop_oneof![Just(12u8), Just(14), Just(24), Just(26), Just(40), Just(70), Just(72), Just(74), Just(76),
            Just(100), Just(104), Just(110), Just(116), Just(118), Just(120), any::<u8>()],
        fields in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => 1..8u8, 1 => any::<u8>()], 0..40),
        size in prop_oneof![4 => Just(None), 1 => any::<u32>().prop_map(Some)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut session = Session::new(&root, Access::ReadWrite).unwrap();
        for (kind, fields) in [(104, [&word(0)[..], &word(0), &string(""), &string(""), &word(0)].concat()), (kind, fields)] {
            let mut request = word(size.filter(|_| kind != 104).unwrap_or(7 + fields.len() as u32)).to_vec();
            request.extend([kind, 1, 0]);
            request.extend(fields);
            if session.guard.judge(&mut request) == Verdict::Serve {
                let mut answer = Vec::new();
                let _ = session.server.handle_message(&mut Cursor::new(&request), &mut answer);
                session.guard.note(&request, &answer);
            }
        }
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
