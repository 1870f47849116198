//! The control socket of a running guest.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::Duration;

use control::wire::Stream;
use control::{ClientError, Event, ExecRequest, ExitStatus, State};
use sha2::{Digest, Sha256};
use tests::LIMIT;
use tests::serving::Serving;

fn argv<const N: usize>(argv: [&str; N]) -> ExecRequest {
    ExecRequest { argv: argv.map(str::to_owned).to_vec(), ..ExecRequest::default() }
}

fn sh(script: &str) -> ExecRequest {
    argv(["/bin/sh", "-c", script])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn commands_have_their_streams_and_exit_codes() {
    let guest = Serving::of("minimal", "g1", []);
    let run = |script: &str| {
        let output = guest.command(["exec", "g1", "--", "/bin/sh", "-c", script]).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let told = run("echo out; echo err >&2; exit 7");
    assert_eq!(told, (Some(7), "out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(run("kill -9 $$").0, Some(137));
    let output = guest.command(["exec", "g1", "--", "/bin/nothing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).contains("/bin/nothing"));
    let output = guest
        .command(["exec", "g1", "-n", "-e", "A=b c", "-C", "/proc", "--", "sh", "-c", "echo $A; pwd"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "b c\n/proc\n");

    // Eight at once, each with stdin and an exit code of its own, over one connection.
    let client = guest.client();
    let running: Vec<_> = (1..=8)
        .map(|n| {
            let script = format!("read line; echo {n} $line; exit {n}");
            let running = client.exec(ExecRequest { stdin: true, ..sh(&script) }).unwrap();
            (n, running)
        })
        .collect();
    assert_eq!(client.status().unwrap().commands, 8);
    for (n, running) in running.iter().rev() {
        writeln!(running.input(), "line{n}").unwrap();
    }
    for (n, running) in running {
        let output = running.output(LIMIT, 1 << 20).unwrap();
        assert_eq!(output.status, ExitStatus::Code(n));
        assert_eq!(text(&output.stdout), format!("{n} line{n}\n"));
    }
    assert_eq!(client.status().unwrap().commands, 0);
    assert_eq!(guest.stop(), 0);
}

#[test]
fn a_mebibyte_goes_in_and_out_unharmed() {
    let guest = Serving::of("minimal", "g1", []);
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let running = guest.client().exec(ExecRequest { stdin: true, ..argv(["cat"]) }).unwrap();
    let mut input = running.input();
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || {
        input.write_all(&sent).unwrap();
        input.close().unwrap();
    });
    let output = running.output(LIMIT, 1 << 24).unwrap();
    sender.join().unwrap();
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());

    // By the command line as well, and what the guest says of it.
    let mut child = guest
        .command(["exec", "g1", "--", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(text(&output.stdout).starts_with(&expected), "{}", text(&output.stdout));
}

#[test]
fn a_client_that_never_reads_holds_back_its_stream_and_nothing_else() {
    let guest = Serving::of("minimal", "g1", []);
    let mut deaf = UnixStream::connect(guest.socket()).unwrap();
    deaf.write_all(b"{\"id\":1,\"request\":\"hello\",\"protocol\":1}\n").unwrap();
    deaf.write_all(b"{\"id\":2,\"request\":\"exec\",\"argv\":[\"yes\"]}\n").unwrap();
    deaf.write_all(b"{\"id\":3,\"request\":\"console\"}\n").unwrap();
    // The same on a connection where others go on.
    let client = guest.client();
    let unread = client.exec(argv(["yes"])).unwrap();
    for n in 0..3 {
        let output = client.exec(sh(&format!("echo {n}; seq 1 20000"))).unwrap().output(LIMIT, 1 << 20);
        assert!(text(&output.unwrap().stdout).starts_with(&format!("{n}\n1\n2\n")));
    }
    assert_eq!(client.status().unwrap().commands, 2);
    // Whoever goes takes his command along.
    drop(deaf);
    drop(unread);
    let until = std::time::Instant::now() + LIMIT;
    while client.status().unwrap().commands > 0 {
        assert!(std::time::Instant::now() < until, "the commands were not hung up");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(text(&guest.shell("pidof yes || echo none").stdout), "none\n");
}

#[test]
fn garbage_ends_the_connection_and_not_the_guest() {
    let guest = Serving::of("minimal", "g1", []);
    let say = |bytes: &[u8]| {
        let mut socket = UnixStream::connect(guest.socket()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        // It may hang up before it has read everything.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    let hello = "{\"id\":1,\"request\":\"hello\",\"protocol\":1}\n";
    assert!(say(b"GET / HTTP/1.1\r\n\r\n").contains("\"code\":\"malformed\""));
    assert!(say(&vec![b'{'; 3 << 20]).contains("\"code\":\"malformed\""));
    assert!(say(&[0xff; 70_000]).starts_with("{\"id\":0,\"reply\":\"hello\""));
    assert!(say(b"{\"id\":1,\"request\":\"status\"}\n").contains("\"code\":\"version\""));
    assert!(say(b"{\"id\":1,\"request\":\"hello\",\"protocol\":99}\n").contains("\"code\":\"version\""));
    let data = "{\"id\":2,\"request\":\"data\",\"stream\":\"stdin\",\"bytes\":4000000000}\n";
    assert!(say(format!("{hello}{data}").as_bytes()).contains("4000000000 bytes"));
    let exec = "{\"id\":2,\"request\":\"exec\",\"argv\":[\"cat\"],\"stdin\":true}\n";
    let credit = "{\"id\":2,\"request\":\"credit\",\"stream\":\"stdout\",\"bytes\":4000000000}\n";
    assert!(say(format!("{hello}{exec}{credit}").as_bytes()).contains("\"code\":\"bad-request\""));
    let nul = "{\"id\":2,\"request\":\"exec\",\"argv\":[\"a\\u0000b\"]}\n";
    assert!(say(format!("{hello}{nul}{{}}\n").as_bytes()).contains("NUL"));
    assert_eq!(text(&guest.shell("echo fine").stdout), "fine\n");
}

#[test]
fn names_are_taken_freed_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = folder.path().join("bindervm");
    std::fs::create_dir(&sockets).unwrap();
    // Left by a process that was killed.
    drop(UnixListener::bind(sockets.join("g1.sock")).unwrap());
    drop(UnixListener::bind(sockets.join("dead.sock")).unwrap());
    let mut guest = Serving::in_folder(folder, "minimal", "g1", &[]);
    guest.client().wait_ready(LIMIT).unwrap();

    let clash = guest.command(["run", "minimal", "--name", "g1", "--", "true"]).output().unwrap();
    assert_eq!(clash.status.code(), Some(240));
    assert!(text(&clash.stderr).contains("a guest listens at"), "{}", text(&clash.stderr));
    let nobody = guest.command(["exec", "g2", "--", "true"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(240));
    assert!(text(&nobody.stderr).contains("no guest g2 runs"), "{}", text(&nobody.stderr));

    let ps = guest.command(["ps", "--json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&ps.stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!((&list[0]["guest"], &list[0]["state"]), (&"g1".into(), &"ready".into()));
    assert_eq!(list[0]["pid"], guest.pid());
    assert!(!sockets.join("dead.sock").exists());
    let table = guest.command(["ps"]).output().unwrap();
    assert!(text(&table.stdout).contains("minimal"), "{}", text(&table.stdout));

    // What waits hears of the end; the end is the run's.
    let waiting = guest.command(["wait", "g1"]).spawn().unwrap();
    let client = guest.client();
    let status = client.status().unwrap();
    assert_eq!((status.state, status.clock.as_str()), (State::Ready, "virtual"));
    let lost = client.exec(argv(["sleep", "1000000"]));
    assert!(guest.command(["stop", "g1"]).status().unwrap().success());
    assert_eq!(guest.wait(), 0);
    assert_eq!({ waiting }.wait().unwrap().code(), Some(0));
    assert!(lost.unwrap().output(LIMIT, 100).is_err_and(|error| error.is_gone()));
    assert!(!guest.socket().exists());
    assert!(guest.command(["stop", "g1"]).output().unwrap().status.code() == Some(240));
}

#[test]
fn a_guest_that_ignores_stop_is_killed_and_a_run_with_a_command_says_so() {
    let mut guest = Serving::of("minimal", "g1", []);
    let stop = guest.command(["stop", "g1", "--kill"]).output().unwrap();
    assert!(stop.status.success(), "{}", text(&stop.stderr));
    assert_eq!(guest.wait(), 0);

    let folder = tempfile::tempdir().unwrap();
    let run = tests::bindervm()
        .args(["run", "minimal", "--engine", "soft", "--name", "g1", "--", "sleep", "1000000000"])
        .env("XDG_RUNTIME_DIR", folder.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let socket = folder.path().join("bindervm/g1.sock");
    let client = control::Client::connect_within(&socket, LIMIT).unwrap();
    client.wait_ready(LIMIT).unwrap();
    client.kill().unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(245));
    assert!(text(&output.stderr).contains("stopped from outside"), "{}", text(&output.stderr));
}

#[test]
fn time_stands_still_while_nothing_runs_and_does_not_race_while_a_command_listens() {
    let guest = Serving::of("minimal", "g1", []);
    let client = guest.client();
    let guest_ms = || client.status().unwrap().guest_ms;
    guest.shell("true");
    let before = guest_ms();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(guest_ms(), before, "nothing runs");

    // A command without stdin does not wait for the host.
    let mut slept = client.exec(argv(["sleep", "100"])).unwrap();
    while !matches!(slept.next(Some(LIMIT)).unwrap(), Event::Exited(ExitStatus::Code(0))) {}
    assert!(guest_ms() >= before + 100_000);

    // One that listens may be told something at any moment.
    let before = guest_ms();
    let mut cat = client.exec(ExecRequest { stdin: true, ..argv(["cat"]) }).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(guest_ms() < before + 10_000, "{} ms passed", guest_ms() - before);
    cat.input().write_all(b"hello").unwrap();
    cat.input().close().unwrap();
    loop {
        match cat.next(Some(LIMIT)).unwrap() {
            Event::Output(Stream::Stdout, bytes) => assert_eq!(bytes, b"hello"),
            Event::Exited(status) => break assert_eq!(status, ExitStatus::Code(0)),
            _ => {}
        }
    }
}

#[test]
fn a_signal_and_a_timeout_reach_the_command() {
    let guest = Serving::of("minimal", "g1", []);
    let mut running =
        guest.client().exec(sh("trap 'echo got it; exit 5' TERM; while :; do :; done")).unwrap();
    assert!(matches!(running.next(Some(LIMIT)).unwrap(), Event::Started(_)));
    // The shell has to come to its trap.
    let mut output = Vec::new();
    let status = loop {
        running.input().signal(15).unwrap();
        match running.next(Some(Duration::from_millis(200))) {
            Ok(Event::Output(_, bytes)) => output.extend(bytes),
            Ok(Event::Exited(status)) => break status,
            Ok(_) | Err(ClientError::TimedOut(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    if status == ExitStatus::Code(5) {
        assert_eq!(text(&output), "got it\n");
    } else {
        assert_eq!(status, ExitStatus::Signal(15), "it came before the trap");
    }
    let late = guest.command(["exec", "g1", "--timeout", "300ms", "--", "sh", "-c", "while :; do :; done"]);
    assert_eq!({ late }.output().unwrap().status.code(), Some(244));
}
