//! Several guests at once: what happens in one is not felt, and not found, in another.
//!
//! The guests are alike to the pid, so whatever crossed would hit something.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use control::wire::{Metrics, Stream};
use control::{Client, ClientError, Event, ExecRequest, ExitStatus, Running};
use tests::LIMIT;
use tests::group::Group;
use tests::harness::{Bench, assert_junit};
use tests::serving::Serving;

/// Binder traffic that consists of a token which no other guest was told.
struct Canary {
    token: String,
    calls: Running,
}

impl Canary {
    fn in_guest(client: &Client) -> Canary {
        let mut random = [0; 24];
        File::open("/dev/urandom").unwrap().read_exact_at(&mut random, 0).unwrap();
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let argv = ["/bin/conformance", "canary", &token].map(str::to_owned).to_vec();
        let calls = client.exec(ExecRequest { argv, stdin: true, ..ExecRequest::default() }).unwrap();
        Canary { token, calls }
    }

    /// Plays a batch of calls; every byte, sender and notice of it is as if the guest were alone.
    fn sings(&mut self) {
        self.calls.input().write_all(b"\n").unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\n") {
            match self.calls.next(Some(LIMIT)).unwrap() {
                Event::Output(Stream::Stdout | Stream::Stderr, bytes) => said.extend(bytes),
                Event::Started(_) => {}
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&said)),
            }
        }
        assert_eq!(String::from_utf8_lossy(&said), "ok\n");
    }
}

/// A guest in a process of its own, with a canary.
struct Caged {
    guest: Serving,
    canary: Canary,
}

impl Caged {
    fn boot(name: &str) -> Caged {
        let guest = Serving::of("minimal", name, []);
        let canary = Canary::in_guest(&guest.client());
        Caged { guest, canary }
    }
}

/// How often `token` stands in the memory of a process: all RAM of its guests, and all that it keeps of them.
fn memory_has(pid: u32, token: &str) -> usize {
    let process = format!("/proc/{pid}");
    let memory = File::open(format!("{process}/mem")).unwrap();
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    // A page that was never touched reads as zeros; one that went away meanwhile is no error.
    writable(&maps).into_iter().map(|[start, end]| file_has(&memory, start, end, token)).sum()
}

/// The writable parts of a process's address space, as `/proc/PID/maps` has them.
fn writable(maps: &str) -> Vec<[u64; 2]> {
    let writable = maps.lines().filter(|line| line.split_whitespace().nth(1).unwrap().starts_with("rw"));
    let range = |map: &str| {
        let (start, rest) = map.split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        [start, end].map(|text| u64::from_str_radix(text, 16).unwrap())
    };
    writable.map(range).collect()
}

/// How often `token` stands in a part of a file.
fn file_has(file: &File, start: u64, end: u64, token: &str) -> usize {
    places(file, start, end, token.as_bytes()).len()
}

/// Where the needle stands in a part of a file.
fn places(file: &File, start: u64, end: u64, needle: &[u8]) -> Vec<u64> {
    let finder = memchr::memmem::Finder::new(needle);
    let mut chunk = vec![0; 4 << 20];
    let (mut found, mut at) = (Vec::new(), start);
    while at < end {
        let length = chunk.len().min((end - at) as usize);
        let length = file.read_at(&mut chunk[..length], at).unwrap_or(0);
        if length == 0 {
            break;
        }
        found.extend(finder.find_iter(&chunk[..length]).map(|place| at + place as u64));
        // What the next chunk begins in the middle of is found there whole.
        let overlap = if at + (length as u64) < end { needle.len() - 1 } else { 0 };
        at += (length - overlap) as u64;
    }
    found
}

#[test]
fn no_byte_of_a_guest_is_in_the_memory_of_another() {
    let (mut one, mut other) = (Caged::boot("one"), Caged::boot("other"));
    for _ in 0..3 {
        one.canary.sings();
        other.canary.sings();
    }
    for (own, foreign) in [(&one, &other), (&other, &one)] {
        let pid = own.guest.pid();
        assert!(memory_has(pid, &own.canary.token) > 100, "the search finds what is there");
        assert_eq!(memory_has(pid, &foreign.canary.token), 0);
    }
}

/// In one process: what a snapshot has is a guest's RAM, its devices and its binder world, to the last byte.
#[test]
fn no_byte_of_a_guest_is_in_another_of_its_process() {
    let group = Group::start(
        r#"
        [guest]
        one = { image = "minimal", engine = "soft", memory = "256M", status = "$DIR/one.json", serve = true, timeout = "280s" }
        other = { image = "minimal", engine = "soft", memory = "256M", status = "$DIR/other.json", serve = true, timeout = "280s" }
        "#,
    );
    let mut birds = ["one", "other"].map(|name| {
        let client = group.client(name);
        let canary = Canary::in_guest(&client);
        (name, client, canary)
    });
    for _ in 0..3 {
        birds.iter_mut().for_each(|(_, _, canary)| canary.sings());
    }
    let tokens: Vec<String> = birds.iter().map(|(_, _, canary)| canary.token.clone()).collect();
    for (index, (name, client, _)) in birds.iter().enumerate() {
        let path = group.folder().join(format!("{name}.snapshot"));
        client.snapshot(&path, LIMIT).unwrap();
        let file = File::open(&path).unwrap();
        let has = |token: &str| file_has(&file, 0, file.metadata().unwrap().len(), token);
        assert!(has(&tokens[index]) > 100, "the search finds what is there");
        assert_eq!(has(&tokens[1 - index]), 0, "{name}");
    }

    // One is killed in the middle of its calls. What it had goes back to the host; the other goes on.
    let resident = || {
        let statm = fs::read_to_string(format!("/proc/{}/statm", group.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let [(_, doomed, cut), (_, well, mut canary)] = birds;
    let filled = group.shell("one", "dd if=/dev/urandom of=/tmp/fill bs=1M count=100");
    assert_eq!(filled.status, ExitStatus::Code(0));
    let before = resident();
    assert!(before > 100 << 20, "{before}");
    cut.calls.input().write_all(b"\n").unwrap();
    doomed.kill().unwrap();
    let until = Instant::now() + LIMIT / 3;
    while resident() > before - (100 << 20) {
        assert!(Instant::now() < until, "{} bytes before, {} since", before, resident());
        std::thread::sleep(Duration::from_millis(100));
    }
    canary.sings();
    let _ = canary.calls.input().close();
    well.stop(LIMIT).unwrap();
    let end = group.wait();
    assert_eq!(end.code, 0, "{}", end.stderr);
    let left =
        end.status("other")["binder"]["left"].as_object().expect("the run counts what is left").clone();
    assert!(left.values().all(|count| count == 0), "{left:?}");
}

/// Waits for a line of a command that begins with `start`; all lines until then.
fn lines_until(command: &mut Running, start: &str) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&said).into_owned();
        if text.lines().any(|line| line.starts_with(start)) && text.ends_with('\n') {
            return text.lines().map(str::to_owned).collect();
        }
        match command.next(Some(LIMIT)).unwrap() {
            Event::Output(Stream::Stdout | Stream::Stderr, bytes) => said.extend(bytes),
            Event::Started(_) => {}
            other => panic!("{other:?} after {text:?}"),
        }
    }
}

/// A token as raw bytes: a guest is told it as hex text, which is something else.
struct Token([u8; 32]);

impl Token {
    fn new() -> Token {
        let mut bytes = [0; 32];
        File::open("/dev/urandom").unwrap().read_exact_at(&mut bytes, 0).unwrap();
        Token(bytes)
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A call of one code between a client and the server: what each sends.
struct Carried {
    code: u32,
    client: &'static str,
    size: usize,
    request: Token,
    reply: Token,
}

impl Carried {
    fn argument(&self, token: &Token) -> String {
        format!("{}:{}:{}", self.code, self.size, token.hex())
    }

    /// The line about what arrived, if it was `token`.
    fn arrival(&self, token: &Token) -> String {
        let bytes = token.0.iter().cycle().take(self.size);
        let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        format!("got {} {} {:016x}", self.code, self.size, bytes.fold(0xcbf2_9ce4_8422_2325, step))
    }
}

/// One of the guests of a domain, with what its program said.
struct Holder {
    name: &'static str,
    command: Running,
    mark: Token,
    said: Vec<String>,
}

impl Holder {
    fn start(group: &Group, name: &'static str, part: &str, calls: usize, messages: &[String]) -> Holder {
        let mark = Token::new();
        let (calls, hex) = (calls.to_string(), mark.hex());
        let mut argv = ["/bin/conformance", "carry", part, &calls, &hex].map(str::to_owned).to_vec();
        argv.extend_from_slice(messages);
        let request = ExecRequest { argv, stdin: true, ..ExecRequest::default() };
        Holder { name, command: group.client(name).exec(request).unwrap(), mark, said: Vec::new() }
    }

    /// Page frames that its program named.
    fn frames(&self, what: &str) -> BTreeSet<u64> {
        let line = self.said.iter().find_map(|line| line.strip_prefix(what)).expect("it names pages");
        line.split_whitespace().map(|frame| frame.parse().unwrap()).collect()
    }

    /// Where in the process its RAM begins: the mark stands once, at the start of a page that it named.
    fn ram(&self, memory: &File, maps: &[[u64; 2]]) -> u64 {
        let all = maps.iter().flat_map(|[start, end]| places(memory, *start, *end, &self.mark.0));
        let found: Vec<u64> = all.collect();
        assert_eq!(found.len(), 1, "the mark of {} stands once: {found:x?}", self.name);
        found[0] - self.frames("mark ").first().expect("a mark is in a page") * 4096
    }
}

/// Three guests of one domain: what two say to the third is in their RAM and in its, in the pages that sent it and in
/// those that the driver delivered it to; in nobody else's.
#[test]
fn bytes_of_a_shared_domain_are_only_where_they_were_sent() {
    const MEMORY: u64 = 256 << 20;
    const ROUNDS: usize = 4;
    /// A message that is short enough goes through a page of the sender's kernel. A longer one does not.
    const SHORT: usize = 96;
    let guest = |name: &str| {
        format!(
            "[guest.{name}]\nimage = \"minimal\"\nengine = \"soft\"\ndomain = \"shop\"\nmemory = \"256M\"\nserve = true\n\
             timeout = \"280s\"\nstatus = \"$DIR/{name}.json\"\n"
        )
    };
    let group = Group::start(&["server", "one", "two"].map(guest).concat());
    let carried: Vec<Carried> = [("one", SHORT), ("one", 20_000), ("two", SHORT), ("two", 50_000)]
        .into_iter()
        .zip(1..)
        .map(|((client, size), code)| {
            let (request, reply) = (Token::new(), Token::new());
            Carried { code, client, size, request, reply }
        })
        .collect();

    let replies: Vec<String> = carried.iter().map(|it| it.argument(&it.reply)).collect();
    let mut server = Holder::start(&group, "server", "serve", carried.len() * ROUNDS, &replies);
    lines_until(&mut server.command, "serving");
    let mut clients = ["one", "two"].map(|name| {
        let own = carried.iter().filter(|it| it.client == name);
        let requests: Vec<String> = own.map(|it| it.argument(&it.request)).collect();
        Holder::start(&group, name, "send", ROUNDS, &requests)
    });
    for holder in clients.iter_mut().chain([&mut server]) {
        holder.said = lines_until(&mut holder.command, "ready");
    }
    let [one, two] = clients;
    let holders = [server, one, two];

    // All of it arrived as it was sent.
    let times = |holder: &Holder, line: &str| holder.said.iter().filter(|said| *said == line).count();
    for it in &carried {
        let client = holders.iter().find(|holder| holder.name == it.client).unwrap();
        assert_eq!(times(&holders[0], &it.arrival(&it.request)), ROUNDS, "{:?}", holders[0].said);
        assert_eq!(times(client, &it.arrival(&it.reply)), ROUNDS, "{:?}", client.said);
    }

    // And it is where it belongs: nowhere else in any guest's RAM.
    let process = format!("/proc/{}", group.pid());
    let memory = File::open(format!("{process}/mem")).unwrap();
    let maps: Vec<[u64; 2]> = writable(&fs::read_to_string(format!("{process}/maps")).unwrap());
    for holder in &holders {
        let ram = holder.ram(&memory, &maps);
        let frames_of = |token: &Token| -> BTreeSet<u64> {
            let found = places(&memory, ram, ram + MEMORY, &token.0);
            found.into_iter().flat_map(|place| [place, place + 31]).map(|byte| (byte - ram) / 4096).collect()
        };
        let mapping = holder.frames("mapping ");
        for it in &carried {
            for (token, from, to) in [(&it.request, it.client, "server"), (&it.reply, "server", it.client)] {
                let found = frames_of(token);
                let what = format!("code {} from {from} in the RAM of {}", it.code, holder.name);
                if holder.name == from {
                    let sent = holder.frames(&format!("sent {} ", it.code));
                    assert!(found.is_superset(&sent), "{what}: the search finds what is there");
                    let elsewhere = found.difference(&sent).count();
                    assert!(
                        elsewhere <= usize::from(it.size <= SHORT),
                        "{what}: {found:?}, sent from {sent:?}"
                    );
                } else if holder.name == to {
                    assert!(!found.is_empty(), "{what}: the search finds what is there");
                    assert!(found.is_subset(&mapping), "{what}: {found:?}, delivered to {mapping:?}");
                } else {
                    assert!(found.is_empty(), "{what}: {found:?}");
                }
            }
        }
    }

    for holder in holders {
        let _ = holder.command.input().close();
        group.client(holder.name).stop(LIMIT).unwrap();
    }
    assert_eq!(group.wait().code, 0);
}

/// Takes all that a command has said until now; how it ended, if it has.
fn ended(command: &mut Running) -> Option<ExitStatus> {
    loop {
        match command.next(Some(Duration::ZERO)) {
            Ok(Event::Exited(status)) => return Some(status),
            Ok(_) => {}
            Err(ClientError::TimedOut(_)) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_a_guest_does_to_its_own_is_not_felt_in_another() {
    let mut quiet = Caged::boot("quiet");
    quiet.canary.sings();
    let loud = Serving::of("minimal", "loud", []);
    let before = quiet.guest.client().metrics().unwrap();

    // Every case of the conformance program: managers that come and go, deaths, freezes, exhausted buffers.
    let argv = ["/bin/conformance", "run"].map(str::to_owned).to_vec();
    let mut cases = loud.client().exec(ExecRequest { argv, ..ExecRequest::default() }).unwrap();
    let mut batches = 0;
    let ended = loop {
        quiet.canary.sings();
        batches += 1;
        if let Some(status) = ended(&mut cases) {
            break status;
        }
    };
    assert_eq!(ended, ExitStatus::Code(0));
    assert!(batches > 10, "{batches} batches of calls while the cases ran");

    // Its own traffic is all that the quiet guest's driver saw: batches of a known size.
    quiet.canary.sings();
    let after = quiet.guest.client().metrics().unwrap();
    let messages = |metrics: &Metrics| metrics.binder["messages"].as_f64().expect("a binder device");
    let each = (messages(&after) - messages(&before)) / f64::from(batches + 1);
    // 20 round trips of 5 ioctls.
    assert_eq!(each, 100.0, "messages a batch");
}

#[test]
fn a_guest_that_is_killed_or_panics_takes_nobody_along() {
    let mut quiet = Caged::boot("quiet");
    quiet.canary.sings();
    let mut doomed = Caged::boot("doomed");
    doomed.canary.sings();
    doomed.canary.calls.input().write_all(b"\n").unwrap();
    doomed.guest.client().kill().unwrap();
    doomed.guest.wait();
    quiet.canary.sings();

    let mut panicking = Caged::boot("panicking");
    panicking.canary.sings();
    let argv = ["/bin/sh", "-c", "echo c > /proc/sysrq-trigger"].map(str::to_owned).to_vec();
    // Held until the end: a command whose client goes away is hung up.
    let crash = panicking.guest.client().exec(ExecRequest { argv, ..ExecRequest::default() });
    assert_eq!(panicking.guest.wait(), 243);
    drop(crash);
    quiet.canary.sings();

    // And the one that stayed leaves nothing in its own driver.
    let client = quiet.guest.client();
    let _ = quiet.canary.calls.input().close();
    client.stop(LIMIT).unwrap();
    let (status, code) = client.wait(Some(LIMIT)).unwrap();
    assert_eq!(code, 0, "{status}");
    let left = status["binder"]["left"].as_object().expect("the run counts what is left");
    assert!(left.values().all(|count| count == 0), "{left:?}");
}

/// The suite that ships: guests in processes of their own, and the same in one process.
#[test]
fn the_isolation_plan_passes() {
    let plan = include_str!("../../ci/examples/isolation.toml");
    let bench = Bench::new(plan);
    let ran = bench.run([]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let tests = ran.run["tests"].as_array().unwrap();
    assert_eq!(tests.len(), 6);
    for test in tests {
        let roles = test["attempts"][0]["roles"].as_array().unwrap();
        let processes: Vec<_> = roles.iter().map(|role| role["process"].as_u64().unwrap()).collect();
        let together = test["name"].as_str().unwrap().ends_with("-in-one-process");
        assert_eq!(processes[0] == processes[1], together, "{test}");
    }
    assert_junit(&ran.results.join("junit.xml"));
}
