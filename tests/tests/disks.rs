//! Disks, and the panic device, on a real guest.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tests::{Guest, bindervm_with};

const MIB: usize = 1 << 20;

/// A folder with a disk of 4 MiB whose first bytes are `from the host`.
fn disk() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let file = fs::File::create_new(&path).unwrap();
    file.set_len(4 * MIB as u64).unwrap();
    file.write_all_at(b"from the host\n", 0).unwrap();
    (folder, path)
}

/// Reads what the host wrote, writes at 1 MiB, and reads that back past the page cache.
const USE_DISK: &str = "head -n 1 /dev/vda
    echo from the guest | dd of=/dev/vda bs=512 seek=2048 conv=sync,fsync 2>/dev/null
    echo 3 > /proc/sys/vm/drop_caches
    dd if=/dev/vda bs=512 skip=2048 count=1 2>/dev/null | head -n 1";

#[test]
fn a_raw_disk_carries_bytes_both_ways() {
    let (_folder, path) = disk();
    Guest::of("minimal")
        .with(["--disk", path.to_str().unwrap()])
        .shell(USE_DISK)
        .expect(0)
        .prints(&["from the host", "from the guest"]);
    let mut bytes = [0; 15];
    fs::File::open(&path).unwrap().read_exact_at(&mut bytes, MIB as u64).unwrap();
    assert_eq!(&bytes, b"from the guest\n");
}

#[test]
fn what_goes_to_an_overlay_file_is_there_in_the_next_run() {
    let (folder, path) = disk();
    let before = fs::read(&path).unwrap();
    let option = format!("{},overlay={}", path.display(), folder.path().join("changes").display());
    Guest::of("minimal").with(["--disk", &option]).shell(USE_DISK).expect(0);
    Guest::of("minimal")
        .with(["--disk", &option])
        .shell("dd if=/dev/vda bs=512 skip=2048 count=1 2>/dev/null | head -n 1")
        .expect(0)
        .prints(&["from the guest"]);
    assert!(fs::read(&path).unwrap() == before, "the base changed");
}

#[test]
fn two_disks_keep_their_order_and_one_may_be_read_only() {
    let (_folder, first) = disk();
    let (_other, second) = disk();
    let first = format!("{},ro", first.display());
    let second = format!("{},overlay=memory", second.display());
    Guest::of("minimal")
        .with(["--disk", &first, "--disk", &second])
        .shell("cat /sys/block/vda/ro /sys/block/vdb/ro ; grep . /sys/block/vda/serial /sys/block/vdb/serial; echo x > /dev/vdb && echo written; echo x > /dev/vda || echo refused")
        .prints(&[
            "1",
            "0",
            "/sys/block/vda/serial:bindervm-0",
            "/sys/block/vdb/serial:bindervm-1",
            "written",
            "refused",
        ]);
}

#[test]
fn a_file_system_is_loaded_when_it_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::File::create_new(&path).unwrap().set_len(8 * MIB as u64).unwrap();
    let made = std::process::Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&path).status().unwrap();
    assert!(made.success());
    Guest::of("minimal")
        .with(["--disk", path.to_str().unwrap()])
        .shell("mount -t ext4 /dev/vda /mnt && echo kept > /mnt/file && umount /mnt || exit 9; mount -t nosuch /dev/vda /mnt")
        .expect(255);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.windows(5).any(|window| window == b"kept\n"), "the file is on the disk");
}

#[test]
fn a_disk_that_cannot_be_used_is_a_wrong_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let odd = tests::file(folder.path(), "odd", &[0; 1000]);
    for disk in ["/no/such/disk", &odd, "/dev/null"] {
        let (code, output) =
            bindervm_with(&["run", "minimal", "--engine", "soft", "--disk", disk, "--", "true"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(code, 240, "{said}");
        assert!(said.contains(disk), "{said}");
    }
}

#[test]
fn a_panic_without_any_console_is_still_known() {
    // Without a serial port nothing of the panic is printed; the panic device is told.
    let ended = Guest::of("minimal")
        .with(["--append", "8250.nr_uarts=0 panic=0"])
        .shell("echo c > /proc/sysrq-trigger; sleep 1000")
        .expect(243);
    assert_eq!(ended.status["reason"], "guest-panic");
}
