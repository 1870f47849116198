//! Sockets between a real guest and the host.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use control::{ExecRequest, ExitStatus};
use tests::serving::Serving;
use tests::{Guest, LIMIT, bindervm_with};

fn option(folder: &Path, name: &str) -> String {
    format!("cid=3,path={}", folder.join(name).display())
}

fn sh(script: &str) -> ExecRequest {
    ExecRequest { argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), ..ExecRequest::default() }
}

/// Everything that one client says, and then `answer` to it.
fn answering(path: &Path, answer: &'static str) -> thread::JoinHandle<Vec<u8>> {
    let listener = UnixListener::bind(path).expect("a socket in a folder of its own");
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut said = Vec::new();
        client.read_to_end(&mut said).expect("all that it says");
        client.write_all(answer.as_bytes()).expect("it listens");
        said
    })
}

#[test]
fn a_guest_calls_a_socket_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let host = answering(&folder.path().join("g_80"), "well received\n");
    let script = "seq 1 300000 | /init vsock connect 2 80 && ! /init vsock connect 2 81 </dev/null";
    let ended = Guest::of("minimal").with(["--vsock", &option(folder.path(), "g")]).shell(script).expect(0);
    assert_eq!(ended.stdout, "well received\n", "{ended}");
    assert!(ended.stderr.contains("Connection reset"), "{ended}");
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(host.join().unwrap() == expected.as_bytes(), "the bytes differ");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only g_80 is left");
}

/// Connects to `port` of the guest, as soon as it listens there.
fn call(path: &Path, port: u32) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        let mut socket = UnixStream::connect(path).expect("the device listens");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        writeln!(socket, "CONNECT {port}").expect("it takes the line");
        let mut answer = Vec::new();
        let mut byte = [0];
        while answer.last() != Some(&b'\n') && socket.read(&mut byte).is_ok_and(|count| count == 1) {
            answer.push(byte[0]);
        }
        if answer.starts_with(b"OK ") {
            return socket;
        }
        assert!(answer.is_empty() && Instant::now() < until, "{answer:?}");
        thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_host_calls_a_guest() {
    let folder = tempfile::tempdir().unwrap();
    let guest = Serving::of("minimal", "g1", ["--vsock", &option(folder.path(), "g")]);
    let running = guest.client().exec(sh("seq 1 200000 | /init vsock listen 52 | sha256sum")).unwrap();
    let mut socket = call(&folder.path().join("g"), 52);
    let mut writing = socket.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writing.write_all(&vec![b'x'; 1 << 20]).unwrap();
        writing.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    sender.join().unwrap();
    assert!(said == (1..=200_000).map(|n| format!("{n}\n")).collect::<String>(), "{} bytes", said.len());
    let output = running.output(LIMIT, 1 << 20).unwrap();
    assert_eq!(output.status, ExitStatus::Code(0));
    assert!(output.stdout.starts_with(sha256(&vec![b'x'; 1 << 20]).as_bytes()));
    assert_eq!(guest.stop(), 0);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn restored_guests_lose_their_streams_and_make_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot").to_str().expect("plain").to_owned();
    let listener = UnixListener::bind(folder.path().join("g_80")).unwrap();
    let guest = Serving::of("minimal", "g1", ["--vsock", &option(folder.path(), "g")]);
    let client = guest.client();
    let stream = ExecRequest { stdin: true, ..sh("exec /init vsock connect 2 80") };
    let running = client.exec(stream).unwrap();
    let (mut before, _) = listener.accept().unwrap();
    before.set_read_timeout(Some(LIMIT)).unwrap();
    client.snapshot(Path::new(&path), LIMIT).unwrap();
    // The guest itself keeps its stream.
    write!(running.input(), "still here").unwrap();
    let mut bytes = [0; 10];
    before.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still here");
    assert_eq!(guest.stop(), 0);

    for name in ["a", "b"] {
        let host = answering(&folder.path().join(format!("{name}_80")), "hello\n");
        let script = "while pgrep -f '[v]sock connect' >/dev/null; do sleep 0.1; done; echo lost
            echo hi | /init vsock connect 2 80";
        let restored = Guest::from(&path).with(["--vsock", &option(folder.path(), name)]);
        let ended = restored.shell(script).expect(0);
        assert_eq!(ended.stdout, "lost\nhello\n", "{ended}");
        assert_eq!(host.join().unwrap(), b"hi\n");
    }
}

#[test]
fn a_vsock_that_cannot_be_is_a_wrong_command_line() {
    for vsock in ["cid=3,path=/no/such/folder/s", "cid=2,path=s", "path=s"] {
        let (code, output) =
            bindervm_with(&["run", "minimal", "--engine", "soft", "--vsock", vsock, "--", "true"]);
        assert_eq!(code, 240, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
