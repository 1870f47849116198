use std::io::Write as _;
use std::sync::{Arc, Mutex};

use tempfile::NamedTempFile;

use super::*;

/// A port whose bytes can be looked at.
#[derive(Clone, Default)]
struct Port {
    waits: Arc<Mutex<Vec<u8>>>,
    through: Arc<Mutex<Vec<u8>>>,
}

impl InputPort for Port {
    fn take(&mut self) -> Vec<u8> {
        let bytes = std::mem::take(&mut *self.waits.lock().unwrap());
        self.through.lock().unwrap().extend(&bytes);
        bytes
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes == b"nonsense" {
            return Err("it makes no sense".to_owned());
        }
        self.through.lock().unwrap().extend(bytes);
        Ok(())
    }
}

fn at(instructions: u64, idle: bool) -> Moment {
    Moment { instructions, guest_ns: 2 * instructions, idle }
}

const WAKE: Option<Wake> = Some(Wake { work: false });

/// A log of three inputs, one of them of nothing, that ended as told.
fn recorded(end: Option<(u64, End)>) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    let settings = Settings::from([("seed".to_owned(), "3".to_owned())]);
    let writer = Writer::new(file.reopen().unwrap(), &settings).unwrap();
    let mut gate = Gate::new(Inputs::Record(writer));
    let port = Port::default();
    gate.add(Box::new(Port::default()));
    gate.add(Box::new(port.clone()));
    assert_eq!(gate.open(at(5, false), None), None);
    port.waits.lock().unwrap().extend(b"abc");
    assert_eq!(gate.open(at(10, true), WAKE), WAKE);
    assert_eq!(gate.open(at(10, true), WAKE), WAKE);
    port.waits.lock().unwrap().extend(b"de");
    assert_eq!(gate.open(at(20, false), Some(Wake { work: true })), Some(Wake { work: true }));
    if let Some((when, end)) = end {
        assert_eq!(gate.finish(at(when, true), &end), None);
    }
    assert_eq!(*port.through.lock().unwrap(), b"abcde");
    file
}

/// A gate that replays a file, and its second port.
fn replayed(file: &NamedTempFile) -> (Gate, Port) {
    let mut gate = Gate::new(Inputs::Replay(Reader::open(file.path()).unwrap()));
    let port = Port::default();
    gate.add(Box::new(Port::default()));
    gate.add(Box::new(port.clone()));
    (gate, port)
}

/// Up to the last input.
fn to_the_last_input(gate: &mut Gate) {
    for (moment, wake) in [
        (at(5, false), None),
        // What is said now is not listened to.
        (at(10, false), None),
        (at(10, true), WAKE),
        (at(10, true), WAKE),
        (at(10, true), None),
        (at(20, false), Some(Wake { work: true })),
    ] {
        assert_eq!(gate.open(moment, WAKE), wake, "{moment}");
    }
    assert_eq!(gate.end(), None);
}

fn damage(bytes: &[u8]) -> String {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Reader::open(file.path()).err().expect("it is refused").to_string()
}

#[test]
fn a_replay_lets_the_same_in_at_the_same_moments() {
    let file = recorded(Some((30, End::PoweredOff)));
    let (mut gate, port) = replayed(&file);
    to_the_last_input(&mut gate);
    assert_eq!(*port.through.lock().unwrap(), b"abcde");
    assert_eq!(gate.open(at(25, true), WAKE), None);
    assert_eq!(gate.finish(at(30, false), &End::PoweredOff), None);
    assert_eq!(Reader::open(file.path()).unwrap().settings()["seed"], "3");
}

#[test]
fn a_replay_that_strays_says_where() {
    let file = recorded(Some((30, End::PoweredOff)));
    let strayed = |gate: &Gate| match gate.end() {
        Some(End::InputLog(reason)) => reason,
        end => panic!("{end:?}"),
    };
    // It passes a moment.
    let (mut gate, _) = replayed(&file);
    assert_eq!(gate.open(at(11, true), None), None);
    assert!(strayed(&gate).contains("had not been at instruction 10"), "{}", strayed(&gate));
    // It waits for what never came.
    let (mut gate, _) = replayed(&file);
    gate.starve(at(7, true));
    assert!(strayed(&gate).contains("at instruction 7 (14 ns of guest time) the guest waits"));
    // It goes on.
    let (mut gate, _) = replayed(&file);
    to_the_last_input(&mut gate);
    gate.open(at(31, false), None);
    assert!(strayed(&gate).contains("the recorded one ended at instruction 30"));
    // It ends elsewhere.
    let (mut gate, _) = replayed(&file);
    assert!(gate.finish(at(10, false), &End::Reset).is_some());
    to_the_last_input(&mut gate);
    assert!(gate.finish(at(29, false), &End::PoweredOff).is_some());
    assert!(gate.finish(at(30, false), &End::Panic("x".into())).is_none());
    // Who stops a replay has seen enough.
    assert!(gate.finish(at(29, false), &End::Stopped).is_none());
}

#[test]
fn a_replay_of_a_run_that_was_ended_from_outside_ends_there() {
    for (how, end) in
        [(Some(End::Timeout), End::Timeout), (Some(End::Stopped), End::Stopped), (None, End::Stopped)]
    {
        let file = recorded(how.map(|how| (30, how)));
        let (mut gate, _) = replayed(&file);
        to_the_last_input(&mut gate);
        gate.open(at(31, false), None);
        assert_eq!(gate.end(), Some(end.clone()));
        assert_eq!(gate.finish(at(31, false), &end), None);
    }
}

#[test]
fn what_is_damaged_is_refused_before_anything_runs() {
    let file = recorded(Some((30, End::PoweredOff)));
    let whole = std::fs::read(file.path()).unwrap();
    for index in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 0x10;
        damage(&bytes);
    }
    // Between two entries it may end: its process was killed.
    let whole_ones = (0..whole.len()).filter(|length| {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&whole[..*length]).unwrap();
        Reader::open(file.path()).is_ok()
    });
    assert_eq!(whole_ones.count(), 4);
    assert!(damage(b"").contains("not a log"));
    assert!(damage(&[&whole[..], &whole[whole.len() - 20..]].concat()).contains("damaged"));
    assert!(damage(&[&whole[..16], &[9, 0, 0, 0], &whole[20..]].concat()).contains("format 9"));
    assert!(damage(&[&whole[..20], &[0xff; 4], &whole[24..]].concat()).contains("longer than any"));
    assert!(Reader::open(std::path::Path::new("/dev/zero")).is_err());
}

#[test]
fn entries_that_no_run_leaves_are_refused() {
    let write = |entries: &[Entry]| {
        let file = NamedTempFile::new().unwrap();
        let mut writer = Writer::new(file.reopen().unwrap(), &Settings::new()).unwrap();
        entries.iter().for_each(|entry| writer.write(entry).unwrap());
        file
    };
    let input = |when, bytes: &[u8], port| Entry::Input {
        at: at(when, true),
        work: false,
        inputs: vec![(port, bytes.to_vec())],
    };
    let end = Entry::End { at: at(9, true), how: HowEnded::ByItself };
    let refused = |file: &NamedTempFile| Reader::open(file.path()).err().map(|error| error.to_string());
    assert!(refused(&write(&[input(9, b"", 0), input(8, b"", 0)])).unwrap().contains("not in order"));
    assert!(refused(&write(&[end.clone(), end])).unwrap().contains("behind the end"));
    // What only the machine can judge ends its run.
    for (entry, why) in [(input(1, b"nonsense", 1), "makes no sense"), (input(1, b"x", 2), "not there")] {
        let (mut gate, _) = replayed(&write(&[entry]));
        assert_eq!(gate.open(at(1, true), None), None);
        let Some(End::InputLog(reason)) = gate.end() else { panic!("{:?}", gate.end()) };
        assert!(reason.contains(why), "{reason}");
    }
    let file = NamedTempFile::new().unwrap();
    let mut writer = Writer::new(file.reopen().unwrap(), &Settings::new()).unwrap();
    let long = input(1, &vec![0; 5 << 20], 0);
    assert!(matches!(writer.write(&long), Err(InputLogError::TooLong)));
}

#[test]
fn a_log_that_cannot_be_written_ends_the_run() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert!(matches!(Writer::new(full, &Settings::new()), Err(InputLogError::Write(_))));
    let (reader, pipe) = std::io::pipe().unwrap();
    let writer =
        Writer::new(std::fs::File::from(std::os::fd::OwnedFd::from(pipe)), &Settings::new()).unwrap();
    drop(reader);
    let mut gate = Gate::new(Inputs::Record(writer));
    gate.open(at(1, true), WAKE);
    assert!(matches!(gate.end(), Some(End::InputLog(_))));
    assert!(matches!(gate.finish(at(2, true), &End::PoweredOff), Some(End::InputLog(_))));
}
