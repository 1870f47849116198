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
    GuestMessage::Hello(Hello {
        version,
        kernel: "6.1".into(),
        binder: "host".into(),
        uptime_ms: 1,
        can_resume: true,
    })
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
    // What was asked for before goes first.
    say(&link, GuestMessage::Log("x".into()));
    assert!(taken(&link).is_empty());
    link.service();
    assert_eq!(
        taken(&link),
        ["Sync { token: 2 }", "Sync { token: 3 }", "Sync { token: 1 }", "Sync { token: 2 }"]
    );
}

#[test]
fn a_held_link_tells_what_it_lets_through_and_another_asks_for_it_again() {
    let started = || {
        let (link, _) = link(usize::MAX);
        let id = link.exec(command("cat")).unwrap();
        assert_eq!(id, ExecId(1));
        link.hold();
        link
    };
    let id = ExecId(1);
    let (recorded, replayed) = (started(), started());
    // Not even what is asked for before Ready is sent by itself.
    recorded.signal(id, 10).unwrap();
    for link in [&recorded, &replayed] {
        ready(link);
        say(link, GuestMessage::Started { id, pid: 5 });
        assert_eq!(taken(link).len(), 1, "Exec alone");
    }
    assert_eq!(recorded.stdin(id, b"abc"), Ok(3));
    recorded.resize(id, WindowSize { rows: 1, cols: 2 }).unwrap();
    recorded.close_stdin(id).unwrap();
    recorded.service();
    assert!(taken(&recorded).is_empty());
    let frames = recorded.take_asked();
    assert!(recorded.take_asked().is_empty());
    replayed.ask_again(&frames).unwrap();
    let told = taken(&recorded);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(taken(&replayed), told);
    // Both know that it is closed, and how much of it was sent.
    for link in [&recorded, &replayed] {
        assert_eq!(link.stdin(id, b"x"), Err(LinkError::NotRunning));
        say(link, GuestMessage::StdinCredit { id, bytes: 3 });
    }
}

#[test]
fn on_a_held_link_the_listener_waits_for_nobody() {
    let link = AgentLink::new(Box::new(Eager));
    link.hold();
    ready(&link);
    taken(&link);
    link.sync(3).unwrap();
    say(&link, GuestMessage::Log("x".into()));
    assert_eq!(taken(&link), ["Sync { token: 1 }"]);
    assert!(!link.take_asked().is_empty());
    assert_eq!(taken(&link), ["Sync { token: 3 }", "Sync { token: 2 }"]);
}

#[test]
fn what_no_link_lets_through_is_not_asked_for_again() {
    let (link, _) = link(usize::MAX);
    let id = link.exec(command("cat")).unwrap();
    ready(&link);
    taken(&link);
    let frame = |message: HostMessage<'_>| {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        frame
    };
    let closed = frame(HostMessage::StdinClosed { id });
    let full = frame(HostMessage::Stdin { id, bytes: &[0; WINDOW as usize] });
    for bad in [
        frame(HostMessage::PowerOff),
        frame(HostMessage::Sync { token: 1 }),
        closed[..closed.len() - 1].to_vec(),
        vec![0xff; 9],
        [&full[..], &full].concat(),
        vec![0; 3 * MAX_OUTBOX],
    ] {
        assert!(link.ask_again(&bad).is_err());
    }
    assert!(taken(&link).is_empty());
    // A command that is not there any more.
    link.ask_again(&frame(HostMessage::Stdin { id: ExecId(7), bytes: b"x" })).unwrap();
    assert_eq!(taken(&link).len(), 1);
}

#[test]
fn stdin_of_many_commands_waits_for_the_outbox_and_is_asked_for_again() {
    let (link, diary) = link(usize::MAX);
    ready(&link);
    let ids: Vec<_> = (0..8).map(|_| link.exec(command("cat")).unwrap()).collect();
    let much = vec![0; WINDOW as usize];
    let sent: Vec<_> = ids.iter().map(|&id| link.stdin(id, &much).unwrap()).collect();
    assert_eq!(sent[0], WINDOW as usize);
    assert!(sent[4] < WINDOW as usize, "{sent:?}");
    assert_eq!(sent[7], 0);
    // Others get through.
    link.signal(ids[7], 15).unwrap();
    diary.take();
    heard(&link);
    let hungry: Vec<_> = ids.iter().zip(&sent).filter(|(_, sent)| **sent < WINDOW as usize).collect();
    let expected: Vec<_> =
        hungry.iter().map(|(id, sent)| format!("StdinRoom({id:?}, {})", WINDOW as usize - **sent)).collect();
    assert_eq!(diary.take(), expected);
    assert_eq!(link.stdin(ids[7], &much), Ok(WINDOW as usize));
}

#[test]
fn a_restored_link_goes_on_and_its_old_commands_are_nobodys() {
    let (link, diary) = link(usize::MAX);
    assert_eq!(link.save(), Err(NotSaved::NotReady));
    ready(&link);
    let old = link.exec(command("old")).unwrap();
    heard(&link);
    say(&link, GuestMessage::Started { id: old, pid: 5 });
    say(&link, GuestMessage::Output { id: old, stream: Stream::Stdout, bytes: &[1; 1000] });
    link.sync(9).unwrap();
    // Half a frame is on its way, and a Sync that was asked for is not sent yet.
    let mut late = Vec::new();
    GuestMessage::Output { id: old, stream: Stream::Stdout, bytes: b"late" }.encode(&mut late);
    link.receive(&late[..10]);
    let saved = link.save().unwrap();
    diary.take();

    let (again, diary) = self::link(usize::MAX);
    again.restore(&saved).unwrap();
    assert_eq!(again.save().as_ref(), Ok(&saved));
    again.resume([3; SEED], Duration::ZERO).unwrap();
    let new = again.exec(command("new")).unwrap();
    assert_ne!(new, old);
    assert_eq!(heard(&again).len(), 3, "the old Sync, Resume, the new command");
    again.receive(&late[10..]);
    say(&again, GuestMessage::Exited { id: old, status: ExitStatus::Code(0) });
    assert_eq!(diary.take(), [""; 0]);
    say(&again, GuestMessage::Started { id: new, pid: 6 });
    assert_eq!(diary.take().len(), 2, "Started, and room for stdin");
    assert_eq!(again.signal(old, 9), Err(LinkError::NotRunning));
}

#[test]
fn an_agent_that_cannot_resume_is_not_saved() {
    let (link, _) = link(usize::MAX);
    let old = Hello {
        version: VERSION,
        kernel: "6.1".into(),
        binder: "host".into(),
        uptime_ms: 1,
        can_resume: false,
    };
    say(&link, GuestMessage::Hello(old));
    say(&link, GuestMessage::Ready);
    assert_eq!(link.save(), Err(NotSaved::CannotResume));
}

#[test]
fn a_saved_link_that_contradicts_itself_is_refused() {
    let good =
        SavedLink { next_id: 3, commands: vec![saved_command(1), saved_command(2)], ..SavedLink::default() };
    let (link, _) = link(usize::MAX);
    assert_eq!(link.restore(&good), Ok(()));
    let broken = |output| SavedCommand { output: [output; 2], ..saved_command(1) };
    for bad in [
        SavedLink { next_id: 2, ..good.clone() },
        SavedLink { next_id: u32::MAX, ..good.clone() },
        SavedLink { commands: vec![saved_command(2), saved_command(1)], ..good.clone() },
        SavedLink { commands: vec![broken((WINDOW, 1))], ..good.clone() },
        SavedLink { commands: vec![broken((u32::MAX, u32::MAX))], ..good.clone() },
        SavedLink { outbox: vec![0; MAX_OUTBOX + 1], ..good.clone() },
    ] {
        assert_eq!(link.restore(&bad), Err(BadLink));
    }
}

fn saved_command(id: u32) -> SavedCommand {
    SavedCommand { id, started: true, output: [(0, 0); 2] }
}
