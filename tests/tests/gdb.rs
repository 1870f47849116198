//! A real gdb on the stock kernel.

use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use tests::Guest;

/// Nothing here takes long, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(250);

/// Lets gdb work through commands.
fn gdb(commands: &[String]) -> Output {
    let mut gdb = Command::new("timeout");
    gdb.arg(LIMIT.as_secs().to_string()).args(["gdb", "-nx", "--batch", "-ex", "set remotetimeout 100"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    gdb.output().expect("gdb is installed (ci/setup gdb)")
}

/// The addresses of kernel functions, which are the same in every boot.
fn addresses<const N: usize>(names: [&str; N]) -> [u64; N] {
    let listed = Guest::of("minimal").shell("cat /proc/kallsyms").expect(0);
    names.map(|name| {
        let line = listed.stdout.lines().find(|line| line.split(' ').nth(2) == Some(name));
        let line = line.unwrap_or_else(|| panic!("the kernel has no {name}"));
        u64::from_str_radix(line.split(' ').next().unwrap_or_default(), 16).expect("an address")
    })
}

#[test]
fn gdb_stops_the_kernel_steps_it_and_lets_it_go() {
    let [start_kernel, uname] = addresses(["start_kernel", "__x64_sys_newuname"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("gdb");
    let place = socket.to_str().expect("a path of ASCII").to_owned();
    let guest = thread::spawn({
        let place = place.clone();
        move || Guest::of("minimal").with(["--gdb", &place, "--gdb-wait"]).shell("uname -s; exit 7")
    });
    let began = Instant::now();
    while !socket.exists() {
        assert!(began.elapsed() < LIMIT && !guest.is_finished(), "the guest listens");
        thread::sleep(Duration::from_millis(20));
    }
    let output = gdb(&[
        format!("target remote {place}"),
        "info registers rip".into(),
        // The kernel's page tables are not there yet: a breakpoint that needs no memory.
        format!("hbreak *{start_kernel:#x}"),
        "continue".into(),
        "delete".into(),
        format!("break *{uname:#x}"),
        "continue".into(),
        "printf \"at %#lx in ring %d\\n\", $rip, $cs & 3".into(),
        "x/1i $rip".into(),
        "stepi".into(),
        "printf \"then %#lx\\n\", $rip".into(),
        "info threads".into(),
        "monitor cpu".into(),
        "delete".into(),
        "detach".into(),
    ]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    let told = format!("{said}\n{complained}");
    println!("{told}");
    assert!(said.contains("0x1000000"), "it begins at the kernel's first instruction: {told}");
    assert!(said.contains(&format!("at {uname:#x} in ring 0")), "{told}");
    let then = said.lines().find_map(|line| line.strip_prefix("then 0x")).unwrap_or_else(|| panic!("{told}"));
    let then = u64::from_str_radix(then, 16).expect("an address");
    assert!(then != uname && then.abs_diff(uname) < 1 << 32, "{told}");
    // What a monitor command prints comes on stderr.
    assert!(complained.contains("cr3 0x"), "{told}");
    let ended = guest.join().expect("the guest's thread ends").expect(7);
    assert_eq!(ended.stdout, "Linux\n", "{told}");
}
