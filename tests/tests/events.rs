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
    assert!(matches!(lines.last().unwrap().event, Event::End { exit_code: 243, .. }));
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
