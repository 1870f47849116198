//! The races that the protocol between shim and core must win, one test each.
//!
//! Those that can be played step by step run on the host's driver and on the kernel's own, in the same image, and
//! their transcripts are equal. The others need many tasks at once: programs of `conformance` that check themselves.
//! Guest time is counted in instructions, so what is said of it here is so on every machine.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Ended, Guest, kernels_profile};

const MINUTES: Duration = Duration::from_secs(180);

/// Plays cases of `conformance` on one driver.
fn play(driver: [&str; 4], cases: &str) -> String {
    // Of binderfs nothing can be mapped for execution, here and in the kernel: cases use the plain device.
    let script = format!(
        "dmesg -n 1
         IFS=: read major minor < /sys/class/misc/binder/dev
         rm /dev/binder && busybox mknod /dev/binder c $major $minor && conformance run {cases}"
    );
    let guest = Guest::of("minimal").within(MINUTES).with(["--append", "secretmem.enable=1"]).with(driver);
    guest.shell(&script).expect(0).stdout
}

/// The host's driver does in these cases what the kernel's does, and they come to their end.
#[track_caller]
fn same_on_both(cases: &str) {
    let profile = kernels_profile();
    let ours = play(["--binder", "host", "--binder-profile", &profile], cases);
    let kernels = play(["--binder", "kernel", "--binder-profile", &profile], cases);
    for case in cases.split(' ') {
        assert!(kernels.lines().any(|line| line == format!("== {case} end")), "{kernels}");
    }
    let (ours, kernels): (Vec<_>, Vec<_>) = (ours.lines().collect(), kernels.lines().collect());
    for (ours, kernels) in ours.iter().zip(&kernels) {
        assert_eq!(ours, kernels);
    }
    assert_eq!(ours.len(), kernels.len());
}

#[test]
fn code_that_was_received_can_run_and_be_written_over() {
    same_on_both("race-executable-mapping");
}

#[test]
fn a_parcel_is_forwarded_from_its_own_buffer() {
    same_on_both("race-forwarded");
}

#[test]
fn source_and_target_may_lie_in_one_page() {
    same_on_both("race-same-page");
}

#[test]
fn a_stream_may_fill_a_message_to_its_last_bytes() {
    same_on_both("race-full-message");
}

#[test]
fn data_may_come_from_huge_pages() {
    same_on_both("race-huge-pages");
}

#[test]
fn data_may_come_from_secret_memory() {
    same_on_both("race-secret-memory");
}

#[test]
fn data_may_come_from_memory_without_struct_pages() {
    same_on_both("race-device-memory");
}

#[test]
fn the_euid_is_that_of_the_send_and_not_of_the_open() {
    same_on_both("sender sender-thread-euid");
}

#[test]
fn descriptors_are_installed_all_or_none() {
    same_on_both("fd-limit-call fd-limit-oneway fd-limit-reply");
}

#[test]
fn a_read_buffer_that_cannot_be_written_loses_nothing_before_it_is_read() {
    same_on_both("bad-read-buffer read-buffer-taken-away");
}

#[test]
fn io_uring_gets_from_a_binder_file_what_others_get() {
    same_on_both("race-uring-refused race-uring-buffers race-uring-poll");
}

#[test]
fn io_uring_opens_keeps_and_closes_binder_files() {
    same_on_both("race-uring-open race-uring-kept-file");
}

#[test]
fn a_memory_cgroup_is_charged_as_with_the_kernels_driver() {
    same_on_both("race-cgroup-charge");
}

#[test]
fn who_is_killed_for_its_memory_leaves_no_call_open() {
    same_on_both("race-cgroup-oom-receiver race-cgroup-oom-sender");
}

/// Runs a command. A late device hears of the end of the last process when that is gone already; the guest stays up
/// for so long.
fn settled(guest: Guest, command: &str) -> Ended {
    guest.shell(&format!("{command} || exit 1; sleep 1"))
}

/// Calls, oneways, faults and deaths while the kernel takes idle pages back all the time: no byte is lost, and no
/// old page is seen.
fn stress_under_reclaim(options: [&str; 2]) -> Ended {
    let guest = Guest::of("minimal").within(MINUTES).with(options);
    let ended = settled(guest, "conformance stress 60x reclaim").expect(0).leaves_nothing();
    let trimmed = ended.status["binder"]["trimmed_pages"].as_u64();
    assert!(trimmed > Some(500), "{ended}");
    ended
}

#[test]
fn trim_runs_against_supply_and_fault() {
    stress_under_reclaim(["--binder-device", "inline"]);
}

#[test]
fn trim_runs_against_supply_and_fault_on_four_cpus() {
    stress_under_reclaim(["--cpus", "4"]);
}

#[test]
fn a_late_device_with_tiny_queues_stands_trim_and_stress() {
    let ended = stress_under_reclaim(["--binder-device", "tight-late"]);
    assert!(ended.status["binder"]["interrupts"].as_u64() > Some(100), "{ended}");
}

#[test]
fn sixty_sleepers_wake_through_four_event_buffers() {
    for device in ["inline", "tight", "tight-late"] {
        let guest = Guest::of("minimal").within(MINUTES).with(["--binder-device", device]);
        let ended = settled(guest, "conformance race wakes").expect(0).leaves_nothing();
        let ended = ended.prints(&["wakes threads=60 rounds=20 ok"]);
        assert!(ended.status["binder"]["events"].as_u64() >= Some(1200), "{ended}");
    }
}

/// Whoever sends has to be preempted only when the waiter knows: else it would wait as long as the third process
/// works, which is 3 ms each time.
#[test]
fn a_real_time_waiter_does_not_wait_for_an_idle_sender() {
    const BOUND: u64 = 500_000;
    let options = ["--append", "preempt=full", "--clock", "virtual"];
    let guest = Guest::of("minimal").within(MINUTES).with(options).traced();
    let ended = guest.run(["/bin/conformance", "race", "waiter"]).expect(0).leaves_nothing();
    let word = |name: &str| {
        let mut words = ended.stdout.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.strip_prefix("pid=")?.parse::<u64>().ok()
    };
    let waiter = word("waiter").expect("it says who waits");
    let mut delivered = None;
    let mut delays: BTreeMap<u64, u64> = BTreeMap::new();
    for line in ended.trace(["--jsonl"]).lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        let Some(at) = event["at_ns"].as_u64().filter(|_| event["tid"] == waiter) else { continue };
        match event["event"].as_str() {
            Some("delivered") => delivered = Some(at),
            Some("message") => {
                if let Some(delivered) = delivered.take() {
                    *delays.entry(at - delivered).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(delays.values().sum::<u64>(), 1000, "{ended}");
    let worst = delays.keys().next_back().copied().unwrap_or_default();
    assert!(
        worst < BOUND,
        "the waiter waited {worst} ns of guest time; all delays and how often: {delays:?}"
    );
}

/// Profile aosp: a thread that is called has the caller's priority before it runs, and a restore that a newer call has
/// overtaken is void, also where caller and callee run at once. With Linux' scheduling the same program sees the
/// inversion, and says so.
///
/// covers: B327
#[test]
fn a_real_time_caller_lends_its_priority_when_it_calls() {
    let lend = |options: [&str; 4]| {
        settled(Guest::of("minimal").within(MINUTES).with(options), "conformance race lend")
    };
    let third = |worked: bool| format!("lend: a third thread worked before the call was served: {worked}");
    let aosp = lend(["--binder-profile", "aosp", "--cpus", "1"]).expect(0).leaves_nothing();
    aosp.prints(&[&third(false), "lend calls=300 ok"]);
    let linux = lend(["--binder-profile", "linux-7.2", "--cpus", "1"]).expect(1);
    linux.prints(&[&third(true)]);
    for more in [["--cpus", "4"], ["--binder-device", "late"]] {
        let aosp = lend(["--binder-profile", "aosp", more[0], more[1]]);
        aosp.expect(0).leaves_nothing().prints(&["lend calls=300 ok"]);
    }
}

/// covers: B038
#[test]
fn an_ioctl_that_fails_is_logged_as_by_the_kernels_driver() {
    let log = |driver: [&str; 4]| {
        let script = "dmesg -n 1; conformance run unknown-ioctls >/dev/null
             dmesg | sed -n 's/^.*binder[a-z_]*: [1-9][0-9]*:[1-9][0-9]* \\(ioctl [0-9a-f]*\\) [0-9a-f]* \\(returned.*\\)$/\\1 \\2/p'";
        Guest::of("minimal").within(MINUTES).with(driver).shell(script).expect(0).stdout
    };
    let profile = kernels_profile();
    let ours = log(["--binder", "host", "--binder-profile", &profile]);
    assert!(ours.lines().count() > 3, "{ours:?}");
    assert_eq!(ours, log(["--binder", "kernel", "--binder-profile", &profile]));
}

/// The statistics' text and the data are judged in the guest, where both drivers can be asked; of the host's driver the
/// device knows as well how many pages went back.
#[test]
fn memory_pressure_gives_idle_pages_back_and_keeps_live_buffers() {
    for driver in ["host", "kernel"] {
        let guest = Guest::of("minimal").within(MINUTES).with(["--binder", driver]);
        let ended = guest.run(["/bin/conformance", "race", "pressure"]).expect(0).leaves_nothing();
        let ended = ended.prints(&["memory used=13 idle=97 ok"]);
        let trimmed = ended.status["binder"]["trimmed_pages"].as_u64();
        assert_eq!(trimmed, Some(if driver == "host" { 97 } else { 0 }), "{ended}");
    }
}

#[test]
fn pages_that_nobody_needs_go_back_by_age() {
    for (age, code) in [("1", 0), ("0", 1)] {
        let guest = Guest::of("minimal").within(MINUTES).with(["--clock", "virtual"]);
        let script = format!("echo {age} > /sys/module/virtio_binder/parameters/age; conformance race age");
        let ended = guest.shell(&script).expect(code).leaves_nothing();
        let trimmed = ended.status["binder"]["trimmed_pages"].as_u64();
        assert!((trimmed >= Some(97)) == (code == 0), "{ended}");
    }
}

/// What a call costs in exits: three ioctls are three doorbells, and nobody is interrupted. Counted between a short
/// and a long run, so that beginnings do not count. An event wakes one of the two threads; the other one has not fallen
/// asleep yet. A timer's tick may come between: then there is an event more, or one read brings what two would have.
/// The calls take 5 ms of guest time, and a tick comes every 4.
#[test]
fn a_call_is_three_doorbells_and_no_interrupt() {
    for size in ["0", "4", "2048"] {
        let [short, long] = ["100", "400"].map(|calls| {
            let guest = Guest::of("minimal").within(MINUTES).with(["--lsm", "cache"]);
            let ended = guest.run(["/bin/conformance", "bench", calls, size]).expect(0).leaves_nothing();
            let count = |name: &str| ended.status["binder"][name].as_u64().expect("the status file counts");
            [count("doorbells"), count("messages"), count("interrupts"), count("events")]
        });
        let [doorbells, messages, interrupts, events] = [0, 1, 2, 3].map(|index| long[index] - short[index]);
        assert_eq!([doorbells, interrupts], [messages, 0], "doorbells, interrupts; {size} bytes");
        assert!((3 * 300 - 4..=3 * 300).contains(&messages), "{messages} messages; {size} bytes");
        assert!((300..330).contains(&events), "{events} events; {size} bytes");
    }
}

/// `conformance race KIND` loses the device under sleepers in ioctl, poll and epoll and in the middle of a call, all
/// of which are told; afterwards a new device serves new mounts.
fn loses_the_device(kind: &str, device: &str) {
    let guest = Guest::of("minimal").within(MINUTES).with(["--binder-device", device]);
    let script = format!(
        "cd / && dmesg -n 1
         conformance race {kind} && conformance race talk 2>/dev/null; echo \"an old mount: $?\"
         umount /dev/binderfs && mount -t binder binder /dev/binderfs
         conformance race talk && conformance stress 5x && rmmod virtio_binder; echo \"in use: $?\"
         umount /dev/binderfs && rmmod virtio_binder && insmod $(find /lib -name virtio_binder.ko) &&
         mount -t binder binder /dev/binderfs && conformance race talk; sleep 1
         dmesg | grep -c -E 'BUG|WARNING|Call Trace|protocol error'"
    );
    let ended = guest.shell(&script).expect(1).leaves_nothing();
    let lost = if kind == "unbind" { "lost Unbind ok" } else { "lost Failure ok" };
    ended.prints(&[lost, "an old mount: 1", "talk ok", "in use: 1", "talk ok", "0"]);
}

#[test]
fn sleepers_are_told_when_the_device_is_unbound() {
    loses_the_device("unbind", "inline");
    loses_the_device("unbind", "late");
}

#[test]
fn sleepers_are_told_when_the_device_fails() {
    loses_the_device("failure", "failing");
}
