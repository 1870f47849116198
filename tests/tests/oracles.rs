//! Programs that we did not make up for this purpose, or that the host's CPU can judge, run natively and in
//! the guest: their outputs are equal.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::{Guest, compile};

/// What a command of the host prints.
fn native(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().expect("the program starts");
    assert!(output.status.success(), "{:?}", output.status);
    String::from_utf8(output.stdout).expect("it prints text")
}

/// Runs a script in the guest beside the files of `folder`.
fn in_guest(folder: &Path, script: &str) -> String {
    let tar = Command::new("tar").arg("-C").arg(folder).args(["-c", "."]).output().expect("tar starts");
    let script = format!("mkdir /tmp/oracle && cd /tmp/oracle && tar -x && {{ {script}; }}");
    Guest::of("minimal").input(&tar.stdout).run(["/bin/sh", "-c", &script]).expect(0).stdout
}

/// Fails with the first line that differs.
#[track_caller]
fn assert_equal(native: &str, guest: &str) {
    for (number, (native, guest)) in native.lines().zip(guest.lines()).enumerate() {
        assert_eq!(native, guest, "line {}", number + 1);
    }
    assert_eq!(native.len(), guest.len());
}

#[test]
fn a_32_bit_program_does_what_it_does_natively() {
    let folder = tempfile::tempdir().unwrap();
    let options = [
        "-m32",
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-pie",
        "-no-pie",
        "-fcf-protection=none",
    ];
    let program = compile(folder.path(), "compat.c", &options);
    let native = match Command::new(&program).output() {
        Ok(output) => String::from_utf8(output.stdout).unwrap(),
        // A host kernel without 32-bit system calls: what it printed on one that has them.
        Err(_) => include_str!("../programs/compat.expected").to_owned(),
    };
    assert_equal(&native, include_str!("../programs/compat.expected"));
    assert_equal(&native, &in_guest(folder.path(), "./compat"));
}

#[test]
fn glibc_computes_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "libm.c", &["-fno-builtin", "-ffp-contract=off", "-lm"]);
    // The guest's CPU has no fused multiply-add, with which glibc rounds differently.
    let tunables = "glibc.cpu.hwcaps=-AVX2,-AVX,-FMA,-FMA4,-AVX512F,-AVX2_Usable,-FMA_Usable";
    let native = native(Command::new(program).env("GLIBC_TUNABLES", tunables));
    assert!(native.lines().count() > 5000);
    assert_equal(&native, &in_guest(folder.path(), "./libm"));
}

/// What busybox does with `data` and `data.xz`; `$B` is busybox.
const BUSYBOX: &str = r#"
for hash in md5sum sha1sum sha256sum sha512sum sha3sum; do $B $hash <data; done
for pack in gzip bzip2; do
    $B $pack -c <data | $B sha256sum
    $B $pack -c <data | $B $pack -dc | $B cmp - data && echo "$pack: round trip"
done
$B xzcat data.xz | $B sha256sum
$B base64 <data | $B sha256sum
$B od -A x -t x4 data | $B sort | $B uniq -c | $B sort -n | $B sha256sum
$B awk 'BEGIN { x = 0.5; for (i = 1; i <= 30000; i++) { x = x * 1.37 + i / 7; x = x - int(x / 9.81) * 9.81; s += x * x
    if (i % 1000 == 0) printf "%.17g %.17g %d %e\n", x, s, int(x * 1000), s / x } }'
$B seq 1 20000 | $B awk '{ print ($1 * 7919) % 20011, $1 / 3 }' | $B sort -n | $B sha256sum
$B sed -n 's/\([a-f]\)\([0-9]\)/\2\1/gp' lines | $B grep -c '[0-9][a-f]'
"#;

#[test]
fn busybox_does_the_same_work() {
    let folder = tempfile::tempdir().unwrap();
    let busybox = Path::new("/bin/busybox");
    let is_static = !Command::new("ldd").arg(busybox).output().expect("ldd starts").status.success();
    assert!(busybox.exists() && is_static, "{} is not static; install busybox-static", busybox.display());
    fs::copy(busybox, folder.path().join("busybox")).unwrap();
    // A few hundred KiB that packers find something in.
    let mut word = 1u64;
    let mut lines = String::new();
    for number in 0..20_000 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        lines +=
            &format!("{number} {:x} {}\n", word >> 40, ["alpha", "beta", "gamma"][(word >> 62) as usize % 3]);
    }
    fs::write(folder.path().join("lines"), &lines).unwrap();
    fs::write(folder.path().join("data"), lines.repeat(2)).unwrap();
    let packed = Command::new("xz").args(["-k", "-6"]).arg(folder.path().join("data")).status();
    assert!(packed.expect("xz is installed").success());
    fs::write(folder.path().join("work"), BUSYBOX).unwrap();

    let run = "B=./busybox ./busybox sh ./work";
    let native = native(Command::new("sh").args(["-c", run]).current_dir(folder.path()));
    assert!(native.contains("gzip: round trip") && native.contains("bzip2: round trip"), "{native}");
    assert_equal(&native, &in_guest(folder.path(), run));
}
