use super::*;
use crate::WINDOW;

/// Writes down what it hears, and takes at most `appetite` bytes of each output.
#[derive(Clone)]
struct Diary {
    lines: Arc<Mutex<Vec<String>>>,
    appetite: usize,
}

impl AgentEvents for Diary {
    fn event(&mut self, link: &AgentLink, event: AgentEvent<'_>) {
        // Listeners may use the link.
        link.state();
        self.lines.lock().unwrap().push(format!("{event:?}"));
    }

    fn output(&mut self, id: ExecId, stream: Stream, bytes: &[u8]) -> usize {
        self.lines.lock().unwrap().push(format!("{} {stream:?} {}", id.0, bytes.len()));
        bytes.len().min(self.appetite)
    }
}

fn link(appetite: usize) -> (AgentLink, Diary) {
    let diary = Diary { lines: Arc::default(), appetite };
    (AgentLink::new(Box::new(diary.clone())), diary)
}

impl Diary {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

fn say(link: &AgentLink, message: GuestMessage<'_>) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    link.receive(&bytes);
}

fn hello(version: u32) -> GuestMessage<'static> {
    GuestMessage::Hello(Hello { version, kernel: "6.1".into(), binder: "host".into(), uptime_ms: 1 })
}

fn ready(link: &AgentLink) {
    say(link, hello(VERSION));
    say(link, GuestMessage::Ready);
}

/// What the agent would receive when the device is serviced.
fn heard(link: &AgentLink) -> Vec<String> {
    link.service();
    taken(link)
}

/// What the agent would receive now.
fn taken(link: &AgentLink) -> Vec<String> {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; MAX_OUTBOX];
    let length = link.send_into(&mut buffer);
    decoder.push(&buffer[..length]);
    let mut messages = Vec::new();
    while let Some(message) = HostMessage::decode(&mut decoder).unwrap() {
        messages.push(match message {
            HostMessage::Exec { id, request } => format!("Exec {} {:?}", id.0, request.argv),
            HostMessage::Stdin { id, bytes } => format!("Stdin {} {}", id.0, bytes.len()),
            other => format!("{other:?}"),
        });
    }
    messages
}

fn command(program: &str) -> ExecRequest {
    ExecRequest { argv: vec![program.into()], stdin: true, ..ExecRequest::default() }
}

#[test]
fn a_command_waits_for_the_agent() {
    let (link, diary) = link(usize::MAX);
    let id = link.exec(command("ls")).unwrap();
    assert_eq!(link.stdin(id, b"abc"), Ok(3));
    link.close_stdin(id).unwrap();
    assert!(heard(&link).is_empty());
    say(&link, hello(VERSION));
    assert!(heard(&link).is_empty());
    assert_eq!(link.state(), LinkState::Booting);
    say(&link, GuestMessage::Ready);
    assert_eq!(heard(&link), ["Exec 1 [\"ls\"]", "Stdin 1 3", "StdinClosed { id: ExecId(1) }"]);

    diary.take();
    say(&link, GuestMessage::Started { id, pid: 77 });
    say(&link, GuestMessage::Output { id, stream: Stream::Stderr, bytes: b"oops" });
    say(&link, GuestMessage::Exited { id, status: ExitStatus::Code(2) });
    // Its stdin was closed before it started, so there is no room to tell of.
    assert_eq!(diary.take(), ["Started(ExecId(1), 77)", "1 Stderr 4", "Exited(ExecId(1), Code(2))"]);
    assert_eq!(link.signal(id, 15), Err(LinkError::NotRunning));
    assert_eq!(link.stdin(id, b"x"), Err(LinkError::NotRunning));
    assert_eq!(link.grant(id, Stream::Stdout, 9), Ok(()));
}

#[test]
fn stdin_stops_at_its_window() {
    let (link, diary) = link(usize::MAX);
    ready(&link);
    let id = link.exec(command("cat")).unwrap();
    let much = vec![0; WINDOW as usize + 500];
    assert_eq!(link.stdin(id, &much), Ok(WINDOW as usize));
    assert_eq!(link.stdin(id, &much), Ok(0));
    assert_eq!(heard(&link)[1..], ["Stdin 1 16384"; 4]);

    say(&link, GuestMessage::Started { id, pid: 3 });
    assert_eq!(diary.take().last().unwrap(), "StdinRoom(ExecId(1), 0)");
    say(&link, GuestMessage::StdinCredit { id, bytes: 500 });
    assert_eq!(diary.take().last().unwrap(), "StdinRoom(ExecId(1), 500)");
    assert_eq!(link.stdin(id, &much), Ok(500));
}

#[test]
fn output_that_is_kept_is_not_credited() {
    let (link, _) = link(0);
    ready(&link);
    let id = link.exec(command("yes")).unwrap();
    heard(&link);
    say(&link, GuestMessage::Started { id, pid: 2 });
    for _ in 0..4 {
        say(&link, GuestMessage::Output { id, stream: Stream::Stdout, bytes: &[0; STREAM_CHUNK] });
    }
    assert!(heard(&link).is_empty());
    link.grant(id, Stream::Stdout, 40_000).unwrap();
    assert_eq!(heard(&link), ["OutputCredit { id: ExecId(1), stream: Stdout, bytes: 40000 }"]);

    // An agent that sends on without credit is not trusted any more.
    for _ in 0..3 {
        say(&link, GuestMessage::Output { id, stream: Stream::Stdout, bytes: &[0; STREAM_CHUNK] });
    }
    assert_eq!(link.state(), LinkState::Lost);
}

#[test]
fn requests_are_checked() {
    let (link, _) = link(0);
    for bad in [
        ExecRequest::default(),
        command(""),
        command("a\0b"),
        ExecRequest { env: vec![("A=B".into(), String::new())], ..command("x") },
    ] {
        assert_eq!(link.exec(bad), Err(LinkError::BadCommand));
    }
    assert_eq!(link.exec(command(&"x".repeat(MAX_PAYLOAD))), Err(LinkError::TooLong));
    let large = || command(&"x".repeat(MAX_PAYLOAD - 100));
    assert!((0..4).all(|_| link.exec(large()).is_ok()));
    assert_eq!(link.exec(large()), Err(LinkError::Busy));
}

#[test]
fn an_agent_that_breaks_the_rules_is_lost() {
    let id = ExecId(1);
    let cases: [(&[GuestMessage<'_>], LostReason); 7] = [
        (&[hello(9)], LostReason::Version(9)),
        (&[GuestMessage::Ready], LostReason::OutOfOrder("Ready")),
        (&[hello(1), hello(1)], LostReason::OutOfOrder("Hello")),
        (&[GuestMessage::Started { id: ExecId(5), pid: 1 }], LostReason::UnknownCommand(ExecId(5))),
        (
            &[GuestMessage::Output { id, stream: Stream::Stdout, bytes: b"" }],
            LostReason::OutOfOrder("output before Started"),
        ),
        (
            &[GuestMessage::Exited { id, status: ExitStatus::Code(0) }],
            LostReason::OutOfOrder("Exited before Started"),
        ),
        (&[GuestMessage::StdinCredit { id, bytes: 1 }], LostReason::Window(WindowError::OverGrant)),
    ];
    for (messages, reason) in cases {
        let (link, diary) = link(0);
        link.exec(command("x")).unwrap();
        messages.iter().for_each(|message| say(&link, message.clone()));
        assert_eq!(diary.take().last().unwrap(), &format!("Lost({reason:?})"));
        assert_eq!(link.exec(command("x")), Err(LinkError::Lost));
        // Said once.
        link.receive(&[0xff; 64]);
        link.opened(false);
        assert!(diary.take().is_empty());
    }
}

#[test]
fn a_closed_port_is_the_end() {
    let (link, diary) = link(0);
    link.opened(false);
    assert_eq!(link.state(), LinkState::Waiting);
    ready(&link);
    link.opened(false);
    assert_eq!(diary.take().last().unwrap(), "Lost(Closed)");
    assert_eq!(heard(&link), Vec::<String>::new());
}

/// Asks for a sync at every event, and again from a thread of its own.
struct Eager;

impl AgentEvents for Eager {
    fn event(&mut self, link: &AgentLink, event: AgentEvent<'_>) {
        if let AgentEvent::Log(_) = event {
            link.sync(1).unwrap();
            let link = link.clone();
            thread::spawn(move || link.sync(2)).join().unwrap().unwrap();
        }
    }

    fn output(&mut self, _id: ExecId, _stream: Stream, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

#[test]
fn only_the_listener_is_sent_at_once() {
    let link = AgentLink::new(Box::new(Eager));
    ready(&link);
    say(&link, GuestMessage::Log("x".into()));
    assert_eq!(taken(&link), ["Sync { token: 1 }"]);
    link.sync(3).unwrap();
    assert!(taken(&link).is_empty());
    link.service();
    assert_eq!(taken(&link), ["Sync { token: 2 }", "Sync { token: 3 }"]);
}
