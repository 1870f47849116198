//! `bindervm trace` on the recording of a real guest.

use std::process::Stdio;

use tests::serving::Serving;
use tests::{Ended, Guest, bindervm_with};

/// A service and its client, recorded with all of their payloads.
fn demo() -> Ended {
    demo_with("")
}

/// The same, with more options of the recording.
fn demo_with(options: &str) -> Ended {
    let options = format!(",payload=4K{options}");
    let ended = Guest::of("aosp14").with(["--name", "phone"]).traced_with(&options).shell(
        "demo_service bindervm.shown & service=$!
         demo_client bindervm.shown; echo \"client ended with $?\"
         kill $service; wait",
    );
    ended.expect(0).prints(&["client ended with 0"])
}

#[test]
fn a_recording_replays_to_the_same_and_shows_the_state_at_any_event() {
    let ended = demo();
    let same = ended.trace(["--check"]);
    assert!(same.contains("the same: ") && !same.contains(" 0 messages"), "{same}");

    // The event at which the client's last call is delivered: its buffer and its stack are there.
    let events = ended.trace([]);
    let lines: Vec<&str> = events.lines().collect();
    let of_call =
        |line: &&str| line.contains("demo_service") && line.contains(" delivered bindervm.demo.IDemo.");
    let delivered = lines.iter().rposition(of_call).unwrap();
    let state = ended.trace(["--at", &(delivered + 1).to_string()]);
    for part in [
        "binder state:",
        "context binder",
        "incoming transaction ",
        "outgoing transaction ",
        "  ref ",
        "  node ",
        "  buffer ",
    ] {
        assert!(state.contains(part), "no {part:?} in {state}");
    }
    let last = (events.lines().count() + 1).to_string();
    let path = ended.trace_file();
    let (code, output) = bindervm_with(&["trace", "--at", &last, path.to_str().unwrap()]);
    assert_eq!(code, 240, "{}", String::from_utf8_lossy(&output.stderr));

    // One byte of an answer changed: the checksum tells. What stands before it is still printed.
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (code, output) = bindervm_with(&["trace", path.to_str().unwrap()]);
    assert_eq!(code, 241);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stderr.contains("damaged at byte"), "{stderr}");
    assert!(stdout.lines().count() > 100 && events.starts_with(&*stdout), "{stdout}");
}

#[test]
fn the_events_that_a_reader_makes_are_those_that_happened() {
    let (read, both) = (demo(), demo_with(",replay"));
    assert_eq!(read.trace([]), both.trace([]));
    assert_eq!(read.trace(["--jsonl", "--calls"]), both.trace(["--jsonl", "--calls"]));
    let checked = [&read, &both].map(|ended| ended.trace(["--check"]));
    assert!(checked[0].contains(", which make ") && !checked[1].contains("which make"), "{checked:?}");
    let sizes = [&read, &both].map(|ended| std::fs::metadata(ended.trace_file()).unwrap().len());
    assert!(sizes[0] < sizes[1], "{sizes:?}");
}

#[test]
fn one_filter_serves_every_form() {
    let ended = demo();
    let filter = "guest==phone && iface==bindervm.demo.IDemo && service==bindervm.shown";
    let calls = ended.trace(["--calls", "--filter", filter]);
    assert!(
        calls.lines().count() >= 4 && calls.lines().all(|line| line.contains(" bindervm.demo.IDemo.#")),
        "{calls}"
    );
    let json = ended.trace(["--calls", "--jsonl", "--filter", filter]);
    let json: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json.len(), calls.lines().count() + 1, "a header, then the same calls");
    assert_eq!(json[0]["guests"], serde_json::json!(["phone"]));
    assert!(
        json[1..]
            .iter()
            .all(|call| call["client"]["proc"] == "demo_client" && call["server"]["proc"] == "demo_service")
    );
    let summary = ended.trace(["--summary", "--filter", filter]);
    let counted: usize = summary
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(counted, json.len() - 1);
    // At a terminal or not, top shows the same table.
    assert_eq!(ended.trace(["--top", "--filter", filter]), summary);

    let path = ended.trace_file();
    let (code, output) = bindervm_with(&["trace", "--filter", "dur>2", path.to_str().unwrap()]);
    assert_eq!(code, 240);
    assert!(String::from_utf8_lossy(&output.stderr).contains("(column 5)"));
}

#[test]
fn method_names_and_arguments_come_from_aidl() {
    let ended = demo();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest/demo");
    let calls = ended.trace(["--calls", "--filter", "iface=~IDemo", "--aidl", folder]);
    for part in [
        "bindervm.demo.IDemo.echo(text=\"hello, binder\") = \"hello, binder\" ",
        "bindervm.demo.IDemo.add(a=40, b=2) = 42 ",
        "bindervm.demo.IDemo.add(a=2147483647, b=1) = EX_ILLEGAL_ARGUMENT \"",
        "bindervm.demo.IDemo.sum(bytes=bytes[1000] ",
    ] {
        assert!(calls.contains(part), "no {part:?} in {calls}");
    }
}

#[test]
fn a_recording_is_followed_while_it_grows() {
    let ended = demo();
    let whole = std::fs::read(ended.trace_file()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("growing");
    std::fs::write(&path, &whole[..whole.len() / 3]).unwrap();
    let mut follower = tests::bindervm()
        .args(["trace", "--calls", "--follow"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("bindervm starts");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &whole[whole.len() / 3..]).unwrap();
    let expected = ended.trace(["--calls"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap()));
    // Calls that are still open when the recording ends are not over for one who follows.
    for line in expected.lines().filter(|line| !line.contains(" = open ")) {
        if line.contains(" => ") {
            continue;
        }
        let followed = lines.find(|followed| followed.as_ref().is_ok_and(|followed| followed == line));
        assert!(followed.is_some(), "{line}");
    }
    // The recording says that it is over.
    assert_eq!(follower.wait().unwrap().code(), Some(0));

    // Without its last record it was cut off; who follows it waits, and ends well when interrupted.
    let end = binder_trace::recording::encode_record(&binder_trace::recording::Record::End).len();
    std::fs::write(&path, &whole[..whole.len() - end]).unwrap();
    let (code, output) = bindervm_with(&["trace", "--calls", path.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(code == 241 && stderr.contains("the trace has no end"), "{code} {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "all of it is shown");
    let mut command = tests::bindervm();
    command.args(["trace", "--calls", "--follow"]).arg(&path).stdout(Stdio::piped());
    let mut follower = command.spawn().expect("bindervm starts");
    let first = std::io::BufRead::lines(std::io::BufReader::new(follower.stdout.take().unwrap())).next();
    assert!(first.is_some_and(|line| line.is_ok()));
    let interrupted = std::process::Command::new("kill").args(["-INT", &follower.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[test]
fn the_busiest_methods_of_a_running_guest_are_shown_on_a_terminal() {
    let guest = Serving::of("aosp14", "g1", []);
    let (mut viewer, slave) = tests::terminal::Viewer::open(24, 80);
    let mut child = guest
        .command(["trace", "--top", "--follow", "g1", "--filter", "iface=~IServiceManager"])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    viewer.wait_for("bindervm trace --top: live");
    let until = std::time::Instant::now() + tests::LIMIT;
    while guest.client().metrics().unwrap().followers < 1 {
        assert!(std::time::Instant::now() < until, "the follower never came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(guest.shell("service list; service check nobody").status, control::ExitStatus::Code(0));
    viewer.wait_for("IServiceManager.listServices");
    // Paused, and going on; the guest ends, and the view stays until it is left.
    viewer.keys("p");
    viewer.wait_for("--top: paused");
    viewer.keys("p");
    viewer.wait_for("--top: live");
    assert_eq!(guest.stop(), 0);
    viewer.wait_for("--top: ended");
    viewer.keys("q");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_running_guest_is_followed_by_its_name() {
    let guest = Serving::of("aosp14", "g1", []);
    let follow = |form: &[&str]| {
        let mut command = guest.command(["trace", "--follow", "g1"]);
        command.args(form).stdout(Stdio::piped()).spawn().expect("bindervm starts")
    };
    let forms: [&[&str]; 4] = [
        &["--calls"],
        &["--calls", "--jsonl", "--filter", "iface=~IServiceManager"],
        &["--summary"],
        &["--counts"],
    ];
    let refused = guest.command(["trace", "--follow", "g1"]).args(forms[3]).output().unwrap();
    assert!(!refused.status.success(), "--counts has no live form");
    let followers: Vec<_> = forms[..3].iter().map(|form| follow(form)).collect();
    let until = std::time::Instant::now() + tests::LIMIT;
    while guest.client().metrics().unwrap().followers < 3 {
        assert!(std::time::Instant::now() < until, "the followers never came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let output = guest.shell("service list; service check nobody");
    assert_eq!(output.status, control::ExitStatus::Code(0));
    assert_eq!(guest.stop(), 0);
    let shown: Vec<String> = followers
        .into_iter()
        .map(|follower| {
            let output = follower.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0));
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    // The service manager was there before: its name and its being the manager are known all the same.
    let list = "android.os.IServiceManager.listServices";
    let line = shown[0].lines().find(|line| line.contains(list)).unwrap_or_else(|| panic!("{}", shown[0]));
    assert!(line.contains("-> servicemanager ") && line.contains("service=context-manager"), "{line}");
    assert!(shown[0].contains("checkService(name=\"nobody\")"), "{}", shown[0]);
    let first: serde_json::Value =
        shown[1].lines().nth(1).map(|line| serde_json::from_str(line).unwrap()).unwrap();
    assert_eq!(first["iface"], "android.os.IServiceManager", "{}", shown[1]);
    assert!(shown[2].contains("IServiceManager.listServices"), "{}", shown[2]);
}

#[test]
fn a_recording_of_a_guest_that_goes_on_knows_what_was_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ready.snapshot");
    let saved = Guest::of("aosp14").with(["--snapshot-to", path.to_str().unwrap()]).run([]);
    assert_eq!(saved.code, 0, "{saved}");
    let ended = Guest::from(path.to_str().unwrap()).traced().run(["service", "list"]).expect(0);
    let calls = ended.trace(["--calls"]);
    let line = calls.lines().find(|line| line.contains("IServiceManager.listServices")).expect(&calls);
    assert!(line.contains("-> servicemanager ") && line.contains("service=context-manager"), "{line}");
    assert!(ended.trace(["--check"]).contains("the same"));
}

/// A client that looked its service up before the snapshot: in the recording nobody says its name.
#[test]
fn a_service_that_was_registered_before_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("busy.snapshot");
    let script = "demo_service bindervm.before >/dev/null 2>&1 &
                  (demo_client bindervm.before 100000000 >/dev/null 2>&1 &)
                  usleep 300000";
    let saved = Guest::of("aosp14").with(["--snapshot-to", path.to_str().unwrap()]).shell(script);
    assert_eq!(saved.code, 0, "{saved}");
    let ended = Guest::from(path.to_str().unwrap()).traced().run(["usleep", "5000"]).expect(0);
    let calls = ended.trace(["--calls"]);
    assert!(!calls.contains("checkService"), "{calls}");
    let line = calls.lines().find(|line| line.contains("bindervm.demo.IDemo.")).expect(&calls);
    assert!(line.contains(" service=bindervm.before "), "{line}");
    assert!(ended.trace(["--check"]).contains("the same"));
}
