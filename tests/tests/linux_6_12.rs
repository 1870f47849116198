//! Linux 6.12: the main job, and the transcript of its own driver (`guest/conformance/transcripts/linux-6.12.txt`,
//! recorded on our CPU).
//!
//! `ci/test --all linux-6.12` runs this; it needs the images `minimal-6.12` and `aosp14-6.12`.

use tests::Guest;
use tests::transcript::{DECISIONS, LINUX_6_12, compare, play};

const PROFILE: [&str; 2] = ["--binder-profile", "linux-6.12"];

#[test]
fn the_host_driver_does_what_linux_6_12_does() {
    compare(&play("minimal-6.12", PROFILE, false), LINUX_6_12, DECISIONS);
}

#[test]
fn the_kernels_driver_does_what_it_did() {
    compare(&play("minimal-6.12", ["--binder", "kernel"], false), LINUX_6_12, &[]);
}

#[test]
fn services_register_are_called_and_die() {
    let ended = Guest::of("aosp14-6.12").with(PROFILE).shell(
        "uname -r
         demo_service bindervm.mortal & service=$!
         demo_client bindervm.mortal 100; echo \"client ended with $?\"
         service check bindervm.mortal
         demo_client bindervm.mortal --watch > /tmp/watch & watch=$!
         until grep -q watching /tmp/watch; do usleep 10000; done
         kill -9 $service
         wait $watch; echo \"watcher ended with $?\"; cat /tmp/watch",
    );
    let ended = ended.expect(0).leaves_nothing();
    assert!(ended.stdout.starts_with("6.12."), "{ended}");
    let ended =
        ended.prints(&["client ended with 0", "Service bindervm.mortal: found", "watcher ended with 0"]);
    assert!(ended.stdout.contains("'bindervm.mortal' died"), "{ended}");
}

#[test]
fn a_stress_leaves_nothing() {
    let guest = Guest::of("minimal-6.12").with(PROFILE);
    guest.run(["/bin/conformance", "stress", "200x"]).expect(0).leaves_nothing();
}
