//! The host's driver against the kernel's: the same raw ioctls, line by line.
//!
//! The oracles are `binder_linux` of Debian's 6.1 and the driver of Linux 7.2, which the default profile
//! follows; `guest/conformance/transcripts` is what they did. A case that differs is a bug, unless it stands
//! in `DECISIONS`; a case there that does not differ any more is a bug of the list.

use tests::transcript::{DECISIONS, LINUX_6_1, LINUX_7_2, compare, play};

#[test]
fn the_host_driver_does_what_linux_6_1_does() {
    let ours = play("minimal", ["--binder", "host", "--binder-profile", "linux-6.1"], false);
    compare(&ours, LINUX_6_1, DECISIONS);
}

#[test]
fn the_host_driver_does_what_linux_7_2_does() {
    let ours = play("minimal", ["--binder", "host"], true);
    let report =
        ("binderfs-features", "B435: there is no transaction report, and B414: so its file is not there");
    compare(&ours, LINUX_7_2, &[DECISIONS, &[report]].concat());
}

#[test]
fn the_kernels_driver_on_the_software_cpu_does_what_it_did_in_qemu() {
    let ours = play("minimal", ["--binder", "kernel", "--binder-profile", "linux-6.1"], false);
    compare(&ours, LINUX_6_1, &[]);
}
