//! Races that need many tasks at once, each a program that checks itself.
//!
//! What follows from one page being looked at from two sides, and plays step by step, is in `cases/races.rs`; trimming
//! against everything else is `stress LIMIT reclaim`.

use std::io;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::bench::{carrying, delivery, encode};
use crate::channel::sleeps_in;
use crate::child::{Child, Signal, shared};
use crate::device::Device;
use crate::object::Object;
use crate::random::Random;
use crate::stream::{self, call, enter_looper, free, reply};
use crate::talk::{CALL_BACK, Talk};
use crate::uapi::flat;

const MAP_SIZE: usize = 64 << 10;
/// Far above what any step takes; only a bug waits so long.
const LIMIT: Duration = Duration::from_secs(60);

fn wrong<T>(what: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(what.into()))
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> io::Result<()> {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > LIMIT {
            return wrong(format!("{what}: not after {} s", LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn asleep(child: &Child, number: i64) -> io::Result<()> {
    until("a child falls asleep", || sleeps_in(child.pid(), child.pid(), number))
}

/// A process whose many threads wait is flushed: each must return, however few events fit in the ring.
pub fn wakes(threads: usize, rounds: usize) -> io::Result<()> {
    let device = Device::open("binder", MAP_SIZE)?;
    let device = &device;
    let barrier = &Barrier::new(threads + 1);
    // SAFETY: plain calls about this process.
    let own_pid = unsafe { libc::getpid() };
    std::thread::scope(|scope| {
        let (tell, tids) = std::sync::mpsc::channel();
        let waiters: Vec<_> = (0..threads)
            .map(|_| {
                let tell = tell.clone();
                scope.spawn(move || -> io::Result<()> {
                    // SAFETY: a plain call about this thread.
                    let _ = tell.send(unsafe { libc::gettid() });
                    // The first ioctl of a thread returns early (B036).
                    device.write_read(&encode(&[enter_looper()]), &mut [])?;
                    for _ in 0..rounds {
                        barrier.wait();
                        let (_, filled) = device.write_read(&[], &mut [0; 64])?;
                        if filled != 4 {
                            return wrong(format!("a flushed thread read {filled} bytes"));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let tids: Vec<i32> = tids.iter().take(threads).collect();
        let mut slept = Ok(());
        for _ in 0..rounds {
            barrier.wait();
            let all = || tids.iter().all(|tid| sleeps_in(own_pid, *tid, libc::SYS_ioctl));
            slept = slept.and(until("all threads wait", all));
            device.flush()?;
        }
        let mut ended = Ok(());
        for waiter in waiters {
            ended = ended.and(waiter.join().unwrap_or_else(|_| wrong("a panic")));
        }
        slept.and(ended)
    })?;
    println!("wakes threads={threads} rounds={rounds} ok");
    Ok(())
}

/// Makes this process one of a scheduling policy.
fn schedule(policy: i32, priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameter lives through the call. 0: this thread.
    match unsafe { libc::sched_setscheduler(0, policy, &parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sleeps for odd times and works in between, so that it preempts whoever is idle at every place.
fn hog() -> io::Result<()> {
    let mut random = Random(1);
    // SAFETY: a plain call about this thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    loop {
        std::thread::sleep(Duration::from_nanos(20_000 + random.below(200_000)));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
    }
}

/// A real-time process waits for oneways of one that only runs when nobody else wants to, while a third preempts the
/// sender all the time. What the waiter's delay may be is judged on the host, by the trace.
pub fn waiter(calls: usize) -> io::Result<()> {
    let ready = Signal::new()?;
    let mut waiter = Child::fork(|| {
        let device = Device::open("binder", MAP_SIZE)?;
        device.become_manager()?;
        schedule(libc::SCHED_FIFO, 50)?;
        ready.give();
        let mut read = [0; 256];
        let mut write = encode(&[enter_looper()]);
        let mut received = 0;
        while received < calls {
            let (_, filled) = device.write_read(&write, &mut read)?;
            write = match delivery(&stream::decode(&read[..filled])) {
                Some(delivery) => {
                    received += 1;
                    encode(&[free(delivery.buffer)])
                }
                None => vec![],
            };
        }
        device.write_read(&write, &mut []).map(|_| ())
    })?;
    ready.wait()?;
    let mut sender = Child::fork(|| {
        let device = Device::open("binder", MAP_SIZE)?;
        schedule(libc::SCHED_IDLE, 0)?;
        let write = encode(&[carrying(call(0, 1).oneway(), &[7; 64]).into()]);
        for _ in 0..calls {
            device.write_read(&write, &mut [0; 64])?;
        }
        Ok(())
    })?;
    let hog = Child::fork(hog)?;
    println!("waiter pid={} sender pid={}", waiter.pid(), sender.pid());
    if !sender.wait() || !waiter.wait() {
        return wrong("a child failed");
    }
    drop(hog);
    println!("waiter calls={calls} ok");
    Ok(())
}

/// This thread's policy and real-time priority.
fn scheduling() -> (i32, i32) {
    let mut parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter lives through the call. 0: this thread.
    unsafe {
        libc::sched_getparam(0, &raw mut parameter);
        // A policy is told together with the flag that its children do not have it.
        (libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK, parameter.sched_priority)
    }
}

/// A call in real time to an ordinary thread, while a third of lower priority wants the CPU: with AOSP's scheduling the
/// thread serves at once, since the caller lends it its priority when it calls and not when it first runs.
///
/// Then calls back, one after the other, to a node with a priority of its own: the caller gets back what it had between
/// them, while its next call back is on its way. Both end with what they began with.
pub fn lend(calls: usize) -> io::Result<()> {
    const CALLER: (i32, i32) = (libc::SCHED_FIFO, 50);
    const BACK: (i32, i32) = (libc::SCHED_RR, 60);
    const ORDINARY: (i32, i32) = (libc::SCHED_OTHER, 0);
    const CALLS_BACK: usize = 3;
    let ready = Signal::new()?;
    // SAFETY: zeroes are valid atomics.
    let worked: &'static AtomicU64 = unsafe { shared() }?;
    let expect = |what: &str, wanted| match scheduling() {
        found if found == wanted => Ok(()),
        found => wrong(format!("{what} has policy and priority {found:?} instead of {wanted:?}")),
    };
    let server = Child::fork(|| {
        let device = Device::open("binder", MAP_SIZE)?;
        device.become_manager_with(flat::INHERIT_RT)?;
        ready.give();
        let mut talk = Talk::new(&device);
        loop {
            let Some(request) = delivery(&talk.exchange()?) else { continue };
            let work = worked.load(SeqCst);
            if scheduling() != CALLER {
                eprintln!("the callee has {:?}", scheduling());
            }
            if let Some(Object::Handle { handle, .. }) = Object::decode(&talk.data(&request)?) {
                for _ in 0..CALLS_BACK {
                    let answer = talk.call(call(handle, CALL_BACK).into())?;
                    let Some(answer) = answer else { return wrong("a call back failed") };
                    talk.say(free(answer.buffer));
                    expect("the callee, called back", CALLER)?;
                }
            }
            let bytes = work.to_le_bytes();
            talk.reply(request.buffer, &bytes)?;
        }
    })?;
    ready.wait()?;
    until("the server waits", || sleeps_in(server.pid(), server.pid(), libc::SYS_ioctl))?;
    let device = Device::open("binder", MAP_SIZE)?;
    let mut talk = Talk::new(&device);
    schedule(CALLER.0, CALLER.1)?;
    let eager = Child::fork(|| {
        schedule(libc::SCHED_FIFO, 10)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            worked.fetch_add(1, SeqCst);
        }
        Ok(())
    })?;
    let Some(answer) = talk.call(call(0, 1).into())? else { return wrong("the call failed") };
    let work = talk.data(&answer)?;
    talk.say(free(answer.buffer));
    println!("lend: a third thread worked before the call was served: {}", work != [0; 8]);
    drop(eager);

    let flags = (BACK.0 as u32) << flat::SCHED_POLICY_SHIFT | BACK.1 as u32;
    let object = Object::binder_with(0x10, 0x20, flags).encode();
    let offsets = 0u64.to_le_bytes();
    let mut served = 0;
    for _ in 0..calls {
        let with = carrying(call(0, 1), &object).offsets_at(offsets.as_ptr() as u64, 8);
        let answer = talk.call_serving(with.into(), |_| {
            served += 1;
            expect("the caller, called back", BACK)
        })?;
        let Some(answer) = answer else { return wrong("a call failed") };
        talk.say(free(answer.buffer));
        expect("the caller, answered", CALLER)?;
    }
    if served != calls * CALLS_BACK {
        return wrong(format!("{served} calls back"));
    }
    until("the server waits", || sleeps_in(server.pid(), server.pid(), libc::SYS_ioctl))?;
    // SAFETY: a plain call about our child.
    match unsafe { libc::sched_getscheduler(server.pid()) } & !libc::SCHED_RESET_ON_FORK {
        policy if policy == ORDINARY.0 => {}
        policy => return wrong(format!("the server is left with policy {policy}")),
    }
    println!("lend calls={calls} ok");
    Ok(())
}

/// How the device goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its driver lets go of it.
    Unbind,
    /// It fails by itself when it has seen enough messages.
    Failure,
}

/// Writes the virtio device of binder to a file of its transport's driver, `bind` or `unbind`.
fn driver(file: &str, device: &str) -> io::Result<()> {
    std::fs::write(format!("/sys/bus/platform/drivers/virtio-mmio/{file}"), device)
}

/// The platform device behind virtio-binder.
fn platform_device() -> io::Result<String> {
    let drivers = PathBuf::from("/sys/bus/virtio/drivers/virtio_binder");
    for entry in std::fs::read_dir(drivers)? {
        let path = std::fs::canonicalize(entry?.path())?;
        let parent = path.parent().and_then(|parent| parent.file_name());
        if let Some(name) =
            parent.filter(|_| path.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"virtio")))
        {
            return Ok(name.to_string_lossy().into_owned());
        }
    }
    wrong("no virtio-binder device")
}

fn is_lost(result: io::Result<(usize, usize)>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
        other => wrong(format!("a sleeper got {other:?} from a lost device")),
    }
}

/// A manager that takes one call and never answers it; it then waits for what cannot come.
fn silent_manager(ready: &Signal, taken: &Signal) -> io::Result<()> {
    let device = Device::open("binder", MAP_SIZE)?;
    device.become_manager()?;
    ready.give();
    let mut read = [0; 256];
    let mut write = encode(&[enter_looper()]);
    let request = loop {
        let (_, filled) = device.write_read(&write, &mut read)?;
        write.clear();
        if let Some(request) = delivery(&stream::decode(&read[..filled])) {
            break request;
        }
    };
    taken.give();
    is_lost(device.write_read(&[], &mut read))?;
    // What the driver had delivered stays readable until it is unmapped.
    match device.copy(request.buffer, request.data_size) {
        Some(bytes) if bytes == [0x5c; 5000] => Ok(()),
        _ => wrong("a delivered buffer was lost with the device"),
    }
}

fn poller(epoll: bool) -> io::Result<()> {
    let device = Device::open("binder", MAP_SIZE)?;
    // A thread's first call returns early (B036).
    device.version()?;
    let fd = device.number();
    // SAFETY: locals that live through the calls.
    let events = unsafe {
        if epoll {
            let set = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event);
            libc::epoll_wait(set, &mut event, 1, -1);
            event.events as i16
        } else {
            let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            libc::poll(&mut entry, 1, -1);
            entry.revents
        }
    };
    match events & (libc::POLLERR | libc::POLLHUP) {
        0 => wrong(format!("poll says {events:#x} of a lost device")),
        _ => Ok(()),
    }
}

/// Everybody who sleeps in the driver when the device goes is woken and told; afterwards it can be bound again.
pub fn lost(loss: Loss) -> io::Result<()> {
    let platform = platform_device()?;
    let (ready, taken) = (Signal::new()?, Signal::new()?);
    let mut manager = Child::fork(|| silent_manager(&ready, &taken))?;
    ready.wait()?;
    let mut caller = Child::fork(|| {
        let device = Device::open("binder", MAP_SIZE)?;
        device.version()?;
        let write = encode(&[carrying(call(0, 1), &[0x5c; 5000]).into()]);
        is_lost(device.write_read(&write, &mut [0; 256]))
    })?;
    let mut idle = Child::fork(|| {
        let device = Device::open("hwbinder", MAP_SIZE)?;
        device.version()?;
        is_lost(device.write_read(&[], &mut [0; 256]))
    })?;
    let mut poll = Child::fork(|| poller(false))?;
    let mut epoll = Child::fork(|| poller(true))?;
    taken.wait()?;
    for child in [&manager, &caller, &idle] {
        asleep(child, libc::SYS_ioctl)?;
    }
    asleep(&poll, libc::SYS_poll)?;
    asleep(&epoll, libc::SYS_epoll_wait)?;
    let device = Device::open("binder", MAP_SIZE)?;
    match loss {
        Loss::Unbind => driver("unbind", &platform)?,
        Loss::Failure => until("the device fails", || device.version().is_err())?,
    }
    is_lost(device.write_read(&[], &mut [0; 256]))?;
    drop(device);
    for (name, child) in [
        ("manager", &mut manager),
        ("caller", &mut caller),
        ("idle", &mut idle),
        ("poll", &mut poll),
        ("epoll", &mut epoll),
    ] {
        until(name, || child.ended())?;
        if !child.wait() {
            return wrong(format!("the {name} did not end well"));
        }
    }
    if loss == Loss::Failure {
        driver("unbind", &platform)?;
    }
    driver("bind", &platform)?;
    println!("lost {loss:?} ok");
    Ok(())
}

/// Whether two processes can talk: one call and its answer.
pub fn talk() -> io::Result<()> {
    let ready = Signal::new()?;
    let mut server = Child::fork(|| {
        let device = Device::open("binder", MAP_SIZE)?;
        device.become_manager()?;
        ready.give();
        let mut read = [0; 256];
        let mut write = encode(&[enter_looper()]);
        loop {
            let (_, filled) = device.write_read(&write, &mut read)?;
            if let Some(request) = delivery(&stream::decode(&read[..filled])) {
                let bytes = device.copy(request.buffer, request.data_size).unwrap_or_default();
                return device
                    .write_read(&encode(&[free(request.buffer), carrying(reply(), &bytes).into()]), &mut [])
                    .map(|_| ());
            }
            write.clear();
        }
    })?;
    ready.wait()?;
    let device = Device::open("binder", MAP_SIZE)?;
    let mut write = encode(&[carrying(call(0, 1), b"hello").into()]);
    let mut read = [0; 256];
    let answer = loop {
        let (_, filled) = device.write_read(&write, &mut read)?;
        write.clear();
        if let Some(answer) = delivery(&stream::decode(&read[..filled])) {
            break answer;
        }
    };
    match device.copy(answer.buffer, answer.data_size) {
        Some(bytes) if bytes == b"hello" && server.wait() => {
            println!("talk ok");
            Ok(())
        }
        _ => wrong("the answer is wrong"),
    }
}

/// Pages of this process's mapping, as the driver's statistics have them: in use, idle, without a page.
fn own_pages() -> io::Result<[u64; 3]> {
    let text = std::fs::read_to_string("/sys/kernel/debug/binder/stats")?;
    // SAFETY: a plain call about this process.
    let head = format!("proc {}", unsafe { libc::getpid() });
    let mut lines = text.lines().skip_while(|line| *line != head);
    let counts = lines.find_map(|line| line.trim_start().strip_prefix("pages: "));
    let numbers: Vec<u64> =
        counts.into_iter().flat_map(|it| it.split(':')).filter_map(|it| it.parse().ok()).collect();
    numbers.try_into().or_else(|_| wrong("the statistics do not tell of our pages"))
}

/// A process with a live buffer and a large one that was freed: the pages of the latter go back, under pressure or, in
/// time, by themselves; the former keeps its bytes, and the place serves again.
pub fn memory(pressed: bool) -> io::Result<()> {
    const LIVE: usize = 50_000;
    const LARGE: usize = 400_000;
    let (ready, trimmed) = (Signal::new()?, Signal::new()?);
    let mut sender = Child::fork(|| {
        ready.wait()?;
        let device = Device::open("binder", MAP_SIZE)?;
        for (byte, size) in [(0x11, LIVE), (0x22, LARGE), (0x33, LARGE)] {
            if byte == 0x33 {
                trimmed.wait()?;
            }
            let payload = vec![byte; size];
            let mut write = encode(&[carrying(call(0, byte.into()), &payload).into()]);
            let mut read = [0; 256];
            loop {
                let (_, filled) = device.write_read(&write, &mut read)?;
                write.clear();
                if delivery(&stream::decode(&read[..filled])).is_some() {
                    break;
                }
            }
        }
        Ok(())
    })?;
    let device = Device::open("binder", 1 << 20)?;
    device.become_manager()?;
    ready.give();
    let mut write = encode(&[enter_looper()]);
    let next = |write: &mut Vec<u8>| -> io::Result<stream::Delivery> {
        let mut read = [0; 256];
        loop {
            let (_, filled) = device.write_read(write, &mut read)?;
            write.clear();
            if let Some(request) = delivery(&stream::decode(&read[..filled])) {
                return Ok(request);
            }
        }
    };
    let holds = |request: &stream::Delivery, size: usize| match device.copy(request.buffer, request.data_size)
    {
        Some(bytes) if bytes.len() == size && bytes.iter().all(|byte| u32::from(*byte) == request.code) => {
            Ok(())
        }
        _ => wrong(format!("the bytes of call {:#x} are not what was sent", request.code)),
    };
    let live = next(&mut write)?;
    holds(&live, LIVE)?;
    write = encode(&[reply().into()]);
    let large = next(&mut write)?;
    holds(&large, LARGE)?;
    // Freed, and the caller still waits: nothing moves until the pages are gone.
    device.write_read(&encode(&[free(large.buffer)]), &mut [])?;
    let [used, idle, _] = own_pages()?;
    if idle < (LARGE / 4096) as u64 {
        return wrong(format!("only {idle} pages are idle after a large buffer was freed"));
    }
    let no_idle = || own_pages().is_ok_and(|[_, idle, _]| idle == 0);
    until("idle pages go", || {
        if pressed {
            std::fs::write("/proc/sys/vm/drop_caches", "2").is_ok_and(|()| no_idle())
        } else {
            std::thread::sleep(Duration::from_millis(500));
            no_idle()
        }
    })?;
    let [still_used, ..] = own_pages()?;
    if still_used != used {
        return wrong(format!("{used} pages were in use, and now {still_used}"));
    }
    holds(&live, LIVE)?;
    trimmed.give();
    write = encode(&[reply().into()]);
    let again = next(&mut write)?;
    holds(&again, LARGE)?;
    holds(&live, LIVE)?;
    device.write_read(&encode(&[free(again.buffer), free(live.buffer), reply().into()]), &mut [])?;
    if !sender.wait() {
        return wrong("the sender failed");
    }
    println!("memory used={used} idle={idle} ok");
    Ok(())
}
