//! Events of real runs, as JSON lines.

use std::path::Path;
use std::process::Stdio;

use control::events::{Event, Line};
use control::wire::Exited;
use tests::serving::Serving;
use tests::{Guest, bindervm_with};

fn lines(text: &[u8]) -> Vec<Line> {
    let text = String::from_utf8(text.to_vec()).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn file(path: &Path) -> Vec<Line> {
    lines(&std::fs::read(path).expect("events"))
}

/// What happened, by name.
fn names(lines: &[Line]) -> Vec<String> {
    let name = |line: &Line| serde_json::to_value(line).unwrap()["event"].as_str().unwrap().to_owned();
    lines.iter().map(name).collect()
}

#[test]
fn a_run_is_told_from_its_start_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let path = folder.path().join(name);
        let option = format!("{},metrics=200ms", path.display());
        Guest::of("minimal").with(["--events", &option]).run(["/bin/sh", "-c", "sleep 1; exit 3"]).expect(3);
        file(&path)
    };
    let (first, second) = (run("first"), run("second"));
    let (metrics, rest): (Vec<Line>, Vec<Line>) =
        first.iter().cloned().partition(|line| matches!(line.event, Event::Metrics(_)));
    let expected = ["machine-start", "agent-ready", "command-start", "command-exit"];
    assert_eq!(names(&rest)[..4], expected);
    assert_eq!(names(&rest).last().unwrap(), "end");
    assert!(
        rest.iter()
            .any(|line| { matches!(line.event, Event::CommandExit { command: 1, status: Exited::Code(3) }) })
    );
    let Event::End { exit_code: 3, status } = &rest.last().unwrap().event else { panic!("{rest:?}") };
    assert_eq!(status["code"], 3);
    // A second of sleep and the boot.
    assert!(metrics.len() >= 5, "{metrics:?}");
    assert!(first.windows(2).all(|pair| pair[0].guest_ns <= pair[1].guest_ns));
    // Guest time and counters repeat; processes and the host's time do not.
    let same = |lines: &[Line]| {
        let inner = lines[1..lines.len() - 1].iter();
        inner.map(|line| Line { wall_ms: 0, ..line.clone() }).collect::<Vec<_>>()
    };
    assert_eq!(same(&first), same(&second));
}

#[test]
fn a_panic_is_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let option = path.to_str().expect("plain");
    Guest::of("minimal").with(["--events", option]).shell("echo c >/proc/sysrq-trigger").expect(243);
    let lines = file(&path);
    let told = lines.iter().find_map(|line| match &line.event {
        Event::GuestPanic { message } => Some(message.clone()),
        _ => None,
    });
    assert!(told.expect("a panic").contains("sysrq"), "{lines:?}");
    assert_eq!(names(&lines).iter().filter(|name| *name == "guest-panic").count(), 1);
    assert!(matches!(lines.last().unwrap().event, Event::End { exit_code: 243, .. }));
}

#[test]
fn a_device_that_fails_is_told_when_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let option = path.to_str().expect("plain");
    let script = "for n in 1 2 3 4 5 6 7 8 9; do service list; done >/dev/null 2>&1; sleep 1; echo rest";
    let ended = Guest::of("aosp14").with(["--binder-device", "failing", "--events", option]).run([
        "/bin/sh",
        "-c",
        &format!("demo_service bindervm.e & timeout 20 demo_client bindervm.e 3000; {script}"),
    ]);
    let lines = file(&path);
    let place = |wanted: &str| names(&lines).iter().position(|name| name == wanted);
    let (failed, exited) = (place("device-failed"), place("command-exit").or(place("end")));
    assert!(failed.is_some() && failed < exited, "{:?}\n{ended}", names(&lines));
    assert!(names(&lines).iter().filter(|name| *name == "device-failed").count() == 1, "{lines:?}");
    let (failed, end) = (&lines[failed.unwrap()], lines.last().unwrap());
    assert!(end.guest_ns > failed.guest_ns + 100_000_000, "{failed:?} {end:?}");
}

/// A program for Linux that executes `vpaddd ymm0, ymm0, ymm0`, which the software CPU has not.
fn avx2_program() -> Vec<u8> {
    let mut elf = vec![0; 0x78];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &0x40_0078u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    // One segment, readable and executable: the whole file.
    put(64, &[1, 0, 0, 0, 5]);
    put(80, &0x40_0000u64.to_le_bytes());
    put(88, &0x40_0000u64.to_le_bytes());
    put(96, &0x7cu64.to_le_bytes());
    put(104, &0x7cu64.to_le_bytes());
    put(112, &0x1000u64.to_le_bytes());
    elf.extend([0xc5, 0xfd, 0xfe, 0xc0]);
    elf
}

#[test]
fn a_missing_instruction_is_told_when_it_is_executed_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let option = path.to_str().expect("plain");
    let script = "cat >/tmp/p; chmod +x /tmp/p; for n in 1 2 3; do /tmp/p; echo $?; sleep 1; done";
    Guest::of("minimal")
        .with(["--events", option])
        .input(&avx2_program())
        .run(["/bin/sh", "-c", script])
        .expect(0)
        .prints(&["132", "132", "132"]);
    let lines = file(&path);
    let told: Vec<_> = lines
        .iter()
        .filter_map(|line| match &line.event {
            Event::MissingInstruction { instruction, count } => {
                Some((instruction.as_str(), *count, line.guest_ns))
            }
            _ => None,
        })
        .collect();
    // At once, and with its count at the end.
    let [("Vpaddd", 1, first), ("Vpaddd", 3, last)] = told[..] else { panic!("{lines:?}") };
    assert!(last > first + 2_000_000_000, "{lines:?}");
    assert!(
        names(&lines).iter().position(|name| name == "missing-instruction")
            < names(&lines).iter().position(|name| name == "command-exit")
    );
}

#[test]
fn clients_hear_what_was_and_what_comes() {
    let guest = Serving::of("minimal", "g1", []);
    let following =
        guest.command(["events", "g1", "--follow"]).stdout(Stdio::piped()).spawn().expect("bindervm starts");
    guest.shell("true");
    let path = guest.folder().join("snapshot");
    assert!(guest.command(["snapshot", "g1"]).arg(&path).status().unwrap().success());
    let so_far = lines(&guest.command(["events", "g1"]).output().unwrap().stdout);
    let expected = ["machine-start", "agent-ready", "command-start", "command-exit", "snapshot"];
    assert_eq!(names(&so_far), expected);
    let told = Event::Snapshot { path: path.to_str().unwrap().to_owned(), error: None };
    assert_eq!(so_far[4].event, told);
    assert_eq!(guest.stop(), 0);
    let output = following.wait_with_output().unwrap();
    assert!(output.status.success());
    let all = lines(&output.stdout);
    assert_eq!(all[..5], so_far[..]);
    assert_eq!(names(&all).last().unwrap(), "end");
}

#[test]
fn events_that_cannot_be_written_are_a_wrong_command_line() {
    for events in ["/no/such/folder/x", "fd:77", "fd:x", "x,metrics=0s"] {
        let (code, output) =
            bindervm_with(&["run", "minimal", "--engine", "soft", "--events", events, "--", "true"]);
        assert_eq!(code, 240, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
