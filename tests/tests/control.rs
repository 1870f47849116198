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
fn a_command_whose_guest_panics_hears_why() {
    let guest = Serving::of("minimal", "g1", []);
    let followed =
        guest.command(["events", "g1", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut followed = followed.unwrap();
    // Its reader goes while nothing happens.
    let mut begin = [0; 1];
    followed.stdout.take().unwrap().read_exact(&mut begin).unwrap();
    let until = std::time::Instant::now() + LIMIT;
    let ended = loop {
        match followed.try_wait().unwrap() {
            Some(ended) => break ended,
            None => assert!(std::time::Instant::now() < until, "it waits for the next event"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), Some(0));

    let output =
        guest.command(["exec", "g1", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"]).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(245), "{told}");
    assert!(told.contains("the guest's kernel panicked: "), "{told}");
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
fn a_recording_is_followed_and_counters_are_read_while_the_guest_runs() {
    let guest = Serving::of("minimal", "g1", []);
    let client = guest.client();
    let before = client.metrics().unwrap();
    let mut recording = client.trace().unwrap();
    let dropped = recording.dropped();
    let follower = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        recording.read_to_end(&mut bytes).map(|_| bytes)
    });
    let output = guest.shell("/bin/conformance count");
    assert_eq!(output.status, ExitStatus::Code(0), "{}", text(&output.stderr));
    let after = client.metrics().unwrap();
    assert!(after.instructions > before.instructions, "{before:?} {after:?}");
    let messages = |metrics: &control::wire::Metrics| metrics.binder["messages"].as_u64().unwrap();
    assert!(messages(&after) > messages(&before));
    assert_eq!(after.objects["procs"], 0, "the client has ended: {after:?}");
    assert_eq!(guest.stop(), 0);
    let bytes = follower.join().unwrap().unwrap();
    let reader = binder_trace::recording::Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.header().image.as_deref(), Some("minimal"));
    let records: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
    assert!(records.len() > 50, "{} records", records.len());
    assert_eq!(dropped.count(), 0);
}

#[test]
fn the_console_shows_its_past_and_goes_on() {
    let guest = Serving::of("minimal", "g1", []);
    let client = guest.client();
    let mut console = client.console().unwrap();
    let mut seen = Vec::new();
    let mut wait_for = |wanted: &str| {
        while !text(&seen).contains(wanted) {
            match console.next(Some(LIMIT)).unwrap() {
                Event::Output(Stream::Console, bytes) => seen.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
    };
    wait_for("] ");
    guest.shell("echo live and well > /dev/ttyS0");
    wait_for("live and well");
    console.input().cancel().unwrap();
    while console.next(Some(LIMIT)).unwrap() != Event::Done {}

    // What is typed arrives.
    let reader = client.exec(sh("read line < /dev/ttyS0; echo got $line")).unwrap();
    let typist = client.console().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    typist.input().write_all(b"typed\n").unwrap();
    assert_eq!(text(&reader.output(LIMIT, 100).unwrap().stdout), "got typed\n");

    // As a user has it, into a pipe.
    let mut child =
        guest.command(["console", "g1"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = [0; 4096];
    let length = child.stdout.as_mut().unwrap().read(&mut shown).unwrap();
    assert!(length > 0);
    assert_eq!(guest.stop(), 0);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn a_shell_lives_on_a_terminal() {
    use rustix::termios::{Winsize, tcsetwinsize};

    let guest = Serving::of("minimal", "g1", []);
    let (mut master, slave) = tests::terminal::open(33, 99);
    let mut child = guest
        .command(["shell", "g1"])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let mut wait_for = |master: &mut std::fs::File, wanted: &str| {
        let mut buffer = [0; 4096];
        while !seen.contains(wanted) {
            let length = master.read(&mut buffer).unwrap();
            seen.push_str(&text(&buffer[..length]));
        }
        // What follows may have come already.
        let end = seen.find(wanted).unwrap() + wanted.len();
        seen.drain(..end);
    };
    // What is typed before the terminal is set up is thrown away.
    wait_for(&mut master, "# ");
    master.write_all(b"stty size; echo $((6*7))\n").unwrap();
    wait_for(&mut master, "33 99");
    wait_for(&mut master, "42");
    // Ctrl-C is for what runs in the guest.
    master.write_all(b"sleep 100000000\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    master.write_all(b"\x03").unwrap();
    master.write_all(b"echo still $((40+1))\n").unwrap();
    wait_for(&mut master, "still 41");
    // A new size arrives, by a signal as a terminal would send it.
    tcsetwinsize(&master, Winsize { ws_row: 11, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    master.write_all(b"stty size; exit 9\n").unwrap();
    wait_for(&mut master, "11 99");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_guest_in_the_background_and_the_pages_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let bindervm = |args: &[&str]| {
        let output = tests::bindervm().args(args).env("XDG_RUNTIME_DIR", folder.path()).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let started = bindervm(&["run", "minimal", "--engine", "soft", "--name", "bg", "--detach"]);
    assert_eq!(started.0, Some(0), "{started:?}");
    assert_eq!(bindervm(&["exec", "bg", "-n", "--", "echo", "hi"]).1, "hi\n");
    assert_eq!(bindervm(&["ps", "--names"]).1, "bg\n");
    let again = bindervm(&["run", "minimal", "--engine", "soft", "--name", "bg", "--detach"]);
    assert_eq!(again.0, Some(240), "{again:?}");
    assert_eq!(bindervm(&["stop", "--all"]).0, Some(0));
    assert_eq!(bindervm(&["ps", "--names"]).1, "");

    // The scripts are taken by their shell, where it is there; the pages by man.
    let script = bindervm(&["completions", "bash"]).1;
    let path = folder.path().join("bash");
    std::fs::write(&path, &script).unwrap();
    let complete = format!(
        "source {}; COMP_WORDS=(bindervm ex); COMP_CWORD=1; _bindervm bindervm ex bindervm; echo ${{COMPREPLY[*]}}",
        path.display()
    );
    let output = std::process::Command::new("bash").args(["-c", &complete]).output().unwrap();
    assert_eq!(text(&output.stdout), "exec\n", "{}", text(&output.stderr));
    for shell in ["zsh", "fish"] {
        assert!(bindervm(&["completions", shell]).1.contains("console"));
    }
    let pages = folder.path().join("man");
    assert_eq!(bindervm(&["man", pages.to_str().unwrap()]).0, Some(0));
    let page = std::fs::read_to_string(pages.join("bindervm-run.1")).unwrap();
    assert!(page.contains(".TH bindervm-run 1") && page.contains("serve"), "{page}");
}

#[test]
fn files_and_folders_come_and_go_with_their_modes() {
    use std::os::unix::fs::PermissionsExt;

    let guest = Serving::of("minimal", "g1", []);
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    let big: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(tree.join("a/big"), &big).unwrap();
    std::fs::write(tree.join("script"), "#!/bin/sh\necho from a script\n").unwrap();
    std::fs::set_permissions(tree.join("script"), PermissionsExt::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("a/big", tree.join("link")).unwrap();
    let long = "n".repeat(150);
    std::fs::write(tree.join(&long), "long").unwrap();

    let copy = |args: [&str; 3]| {
        let output = guest.command(args).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // A new name, folders on the way made; then into a folder that is there.
    assert_eq!(copy(["push", &path("tree"), "g1:/data/new/place"]), (Some(0), String::new()));
    assert_eq!(
        text(&guest.shell("/data/new/place/script; stat -c %a /data/new/place/script").stdout),
        "from a script\n750\n"
    );
    assert_eq!(copy(["push", &path("tree/script"), "g1:/data/new"]).0, Some(0));
    assert_eq!(text(&guest.shell("/data/new/script; ls /data/new").stdout), "from a script\nplace\nscript\n");

    // A guest that sends what must not be taken: out of the folder by a link, or a device.
    guest.shell("cd /data/new/place; ln -s /etc/passwd evil; mknod dev c 1 1; ln a/big a/again");
    let (code, told) = copy(["pull", "g1:/data/new/place", &path("back")]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("back/evil") && told.contains("back/dev"), "{told}");
    let back = folder.path().join("back");
    for name in ["a/big", "a/again", "link"] {
        assert!(std::fs::read(back.join(name)).unwrap() == big, "{name}");
    }
    assert_eq!(std::fs::read(back.join(&long)).unwrap(), b"long");
    assert!(back.join("a/b").is_dir() && !back.join("evil").exists() && !back.join("dev").exists());
    assert_eq!(std::fs::metadata(back.join("script")).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(copy(["pull", "g1:/data/new/script", &path("back")]).0, Some(0));

    // Limits and mistakes are told, in the guest's words where they are its.
    let limited = guest.command(["pull", "g1:/data/new", &path("less"), "--limit", "1M"]).output().unwrap();
    assert_eq!(limited.status.code(), Some(240));
    assert!(text(&limited.stderr).contains("more than 1048576 bytes"), "{}", text(&limited.stderr));
    let (code, told) = copy(["pull", "g1:/no/such", &path("x")]);
    assert!(code == Some(240) && told.contains("No such file"), "{told}");
    assert_eq!(copy(["push", &path("no-such"), "g1:/"]).0, Some(240));
    assert_eq!(copy(["push", &path("tree"), "g1"]).0, Some(240));

    let client = guest.client();
    client.write_file(b"hello", "/made/by/bytes", 0o600, LIMIT).unwrap();
    assert_eq!(client.read_file("/made/by/bytes", 100, LIMIT).unwrap(), b"hello");
    assert!(text(&client.read_file("/proc/version", 1000, LIMIT).unwrap()).starts_with("Linux"));
    assert!(client.read_file("/proc/version", 3, LIMIT).is_err());
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
