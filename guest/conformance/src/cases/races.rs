//! Where the shim's and the core's two views of one page could come apart: cases for both drivers, side by side.
//!
//! They are not among `run`'s, because they need what not every kernel or command line gives: huge pages, secret
//! memory (`secretmem.enable=1`), `/dev/mem`. What needs many threads at once is in [`crate::race`].

use super::{Case, give, publish};
use crate::actor::Actor;
use crate::commands;
use crate::object::Object;
use crate::stream::{Arena, Command, acquire, call, encode, enter_looper, free, pattern, reply};
use crate::uapi::bc;
use crate::world::{MAP_SIZE, Result, World, unexpected};
use crate::write_read::Io;

pub const CASES: &[Case] = &[
    Case { name: "race-executable-mapping", covers: "B008, B344, B346", play: executable_mapping },
    Case { name: "race-forwarded", covers: "B344, B346", play: forwarded },
    Case { name: "race-same-page", covers: "B001, B344", play: same_page },
    Case { name: "race-full-message", covers: "B062, B063", play: full_message },
    Case { name: "race-huge-pages", covers: "B169", play: huge_pages },
    Case { name: "race-secret-memory", covers: "B169", play: secret_memory },
    Case { name: "race-device-memory", covers: "B169", play: device_memory },
];

const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const PAGE: u64 = 4096;

/// Machine code of a function that adds `step` a thousand times.
fn function(step: u32) -> Vec<u8> {
    let mut code = vec![0xb9, 0xe8, 0x03, 0, 0, 0x31, 0xc0]; // mov ecx, 1000; xor eax, eax
    code.push(0x05); // add eax, step
    code.extend(step.to_le_bytes());
    code.extend([0xff, 0xc9, 0x75, 0xf7, 0xc3]); // dec ecx; jnz to the addition; ret
    code
}

/// A receiver may run what it received. The driver writes the next delivery over it, and the CPU must see that, also
/// when it has run the old one often.
fn executable_mapping(world: &World) -> Result {
    let m = world.spawn("M")?;
    m.open("binder")?;
    m.mmap(MAP_SIZE, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, 0)?;
    m.become_manager()?;
    m.w(commands![enter_looper()])?;
    let c = world.process("C")?;
    for step in 1..=4 {
        c.wr(commands![call(0, step).oneway().bytes(&function(step))])?;
        let event = m.r()?.received()?;
        m.run(event.buffer(), 3000)?;
        m.w(commands![free(event.buffer())])?;
    }
    world.note("beside code that is in use");
    let first = receive_function(&m, &c, 10)?;
    m.run(first, 3000)?;
    let second = receive_function(&m, &c, 20)?;
    m.run(first, 3000)?;
    m.run(second, 3000)?;
    Ok(())
}

/// One call that brings a function; its buffer, which stays.
fn receive_function(m: &Actor<'_>, c: &Actor<'_>, step: u32) -> Result<u64> {
    c.start(commands![call(0, step).bytes(&function(step))])?;
    let request = m.r()?.received()?;
    m.wr(commands![reply()])?;
    c.finish()?;
    Ok(request.buffer())
}

/// Data whose source is a buffer of the sender's own mapping, before and just after it is freed.
fn forwarded(world: &World) -> Result {
    let m = world.manager("M")?;
    let s = world.server("S")?;
    let c = world.process("C")?;
    let given = give(&s, &m, Object::binder(0x10, 1))?;
    let handle = given.handle(0)?;
    m.w(commands![acquire(handle), free(given.buffer())])?;
    s.try_r()?;
    for size in [40, 3000, 9000, 20_000] {
        c.wr(commands![call(0, 1).oneway().pattern(size, size as u8)])?;
        let event = m.r()?.received()?;
        m.w(commands![call(handle, 2).oneway().data_at(event.buffer() + 4, size as u64 - 4)])?;
        let copy = s.r()?.received()?;
        s.w(commands![free(copy.buffer())])?;
        m.w(commands![free(event.buffer()), call(handle, 3).oneway().data_at(event.buffer(), size as u64)])?;
        let copy = s.r()?.received()?;
        s.w(commands![free(copy.buffer())])?;
        m.try_r()?;
    }
    Ok(())
}

/// Two opens of one process: what one received is sent back into the same mapping, so that source and target lie in
/// one page.
fn same_page(world: &World) -> Result {
    let g = world.manager("G")?;
    let m = world.server("M")?;
    let n = m.thread("M.2")?;
    n.use_device("binder", MAP_SIZE)?;
    let handle = publish(&m, &g, &n, Object::binder(0x10, 1))?;
    for size in [64, 1000, 9000] {
        n.start(commands![call(handle, 1).pattern(size, 3)])?;
        let request = m.r()?.received()?;
        m.wr(commands![reply()])?;
        n.finish()?;
        n.start(commands![call(handle, 2).data_at(request.buffer() + 3, size as u64 - 3)])?;
        let copy = m.r()?.received()?;
        if copy.contents.data[..] != pattern(size, 3)[3..] {
            return unexpected("the copy differs");
        }
        m.wr(commands![free(copy.buffer()), free(request.buffer()), reply()])?;
        n.finish()?;
    }
    Ok(())
}

/// Write streams that fill what the shim sends at once to the last bytes, and end in the middle of a command: where it
/// goes on, and which error it is, may not depend on how much room was left.
fn full_message(world: &World) -> Result {
    let m = world.manager("M")?;
    let c = world.process("C")?;
    let source = c.alloc(5 * PAGE)?;
    c.poke(source, &pattern((5 * PAGE) as usize, 7))?;
    let end = c.alloc(2 * PAGE)? + PAGE;
    c.sys("munmap behind the stream", libc::SYS_munmap, &[end, PAGE])?;
    let unknown = 0x40fc_6370u32;
    let cut = [&bc::TRANSACTION.to_le_bytes()[..], &[0; 36]].concat();
    let no_command = [&unknown.to_le_bytes()[..], &[0; 85]].concat();
    for (sizes, tail, frees) in [(&[8][..], cut, 314..333), (&[8, 4 * PAGE], no_command, 303..310)] {
        for count in frees {
            world.note(&format!("{count} commands, then {} bytes", tail.len()));
            let mut commands: Vec<Command> = sizes
                .iter()
                .map(|size| call(0, count).oneway().data_at(source + PAGE - 8, *size).into())
                .collect();
            commands.extend((0..count).map(|_| free(8)));
            commands.push(Command::Raw(tail.clone()));
            let stream = encode(&commands, &mut Arena::new(0));
            let start = end - stream.len() as u64;
            c.poke(start, &stream)?;
            let size = stream.len() as u64;
            c.io(Io { write_buffer: Some(start), write_size: Some(size), ..Io::new(vec![]) }.nonblock())?;
            c.try_r()?;
            for size in sizes {
                let event = m.r()?.received()?;
                if event.contents.data != c.peek(source + PAGE - 8, *size)? {
                    return unexpected("what arrived is not what was sent");
                }
                m.w(commands![free(event.buffer())])?;
            }
        }
    }
    Ok(())
}

/// Calls whose data lies wholly, partly, or not aligned in the special pages at `special`, which are the `pages` in
/// the middle of ordinary memory from `around` on.
fn send_from(world: &World, c: &Actor<'_>, around: u64, special: u64, pages: u64) -> Result {
    let m = world.manager("M")?;
    let end = special + pages * PAGE;
    let whole =
        [(special, 16), (special + 8, 3000), (special, 2 * PAGE), (special + 100, pages * PAGE - 100)];
    let partly = [
        (special - 1000, 2000),
        (special - 5000, 5000 + PAGE + 8),
        (end - 5000, 9000),
        (around, end + PAGE - around),
    ];
    for (address, size) in whole.into_iter().chain(partly) {
        let sent = c.peek(address, size)?;
        if sent.len() as u64 != size {
            return unexpected("the source cannot be read");
        }
        c.start(commands![call(0, 1).data_at(address, size)])?;
        let request = m.r()?.received()?;
        if request.contents.data != sent {
            return unexpected("what arrived is not what was sent");
        }
        m.wr(commands![free(request.buffer()), reply()])?;
        let answer = c.finish()?.received()?;
        c.w(commands![free(answer.buffer())])?;
    }
    Ok(())
}

/// Ordinary memory with room for `pages` special ones, aligned to `align`: (its start, where they go).
fn surroundings(c: &Actor<'_>, pages: u64, align: u64) -> Result<(u64, u64)> {
    let start = c.alloc((pages + 4) * PAGE + align)?;
    let special = (start + 2 * PAGE).next_multiple_of(align);
    let around = special - 2 * PAGE;
    // Where alignment puts it is no matter of the driver's.
    c.call_area("source", around, (pages + 4) * PAGE);
    c.poke(around, &pattern((2 * PAGE) as usize, 1))?;
    c.poke(special + pages * PAGE, &pattern((2 * PAGE) as usize, 2))?;
    Ok((around, special))
}

fn huge_pages(world: &World) -> Result {
    if std::fs::write("/proc/sys/vm/nr_hugepages", "4").is_err() {
        return unexpected("this kernel has no huge pages");
    }
    let c = world.process_on("C", "binder", 1 << 20)?;
    let huge = 2 << 20;
    let (_, special) = surroundings(&c, huge / PAGE, huge)?;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_FIXED) as u64;
    let got =
        c.sys_at("mmap of a huge page", libc::SYS_mmap, &[special, huge, READ_WRITE, flags, u64::MAX, 0])?;
    if got < 0 {
        return unexpected("no huge page");
    }
    let pages = 12;
    // The last small pages of it, so that a call can begin inside and end outside.
    let inside = special + huge - pages * PAGE;
    c.poke(inside - 2 * PAGE, &pattern(((pages + 2) * PAGE) as usize, 5))?;
    send_from(world, &c, inside - 2 * PAGE, inside, pages)
}

fn secret_memory(world: &World) -> Result {
    let c = world.process("C")?;
    let pages = 5;
    let (around, special) = surroundings(&c, pages, PAGE)?;
    let fd = c.ask(libc::SYS_memfd_secret, &[0])?;
    if fd < 0 {
        return unexpected("no secret memory (secretmem.enable=1?)");
    }
    c.sys("ftruncate", libc::SYS_ftruncate, &[fd as u64, pages * PAGE])?;
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    c.sys_at("mmap of it", libc::SYS_mmap, &[special, pages * PAGE, READ_WRITE, flags, fd as u64, 0])?;
    c.poke(special, &pattern((pages * PAGE) as usize, 6))?;
    send_from(world, &c, around, special, pages)
}

/// Pages without a `struct page` that could be taken: the first megabyte through /dev/mem (VM_PFNMAP).
fn device_memory(world: &World) -> Result {
    /// Reserved by the kernel on every PC, and used by nobody.
    const UNUSED: u64 = 0x2_0000;
    let c = world.process("C")?;
    let pages = 5;
    let (around, special) = surroundings(&c, pages, PAGE)?;
    let path = c.place(b"/dev/mem\0")?;
    let fd =
        c.ask(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, (libc::O_RDWR | libc::O_SYNC) as u64, 0])?;
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    let got = c.sys_at(
        "mmap of /dev/mem",
        libc::SYS_mmap,
        &[special, pages * PAGE, READ_WRITE, flags, fd as u64, UNUSED],
    )?;
    if got < 0 {
        return unexpected("/dev/mem cannot be mapped");
    }
    c.poke(special, &pattern((pages * PAGE) as usize, 7))?;
    send_from(world, &c, around, special, pages)
}
