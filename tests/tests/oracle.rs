//! The stored transcript of Linux 7.2 is what that kernel does. Needs the image `oracle-kernel`, whose kernel takes
//! minutes to compile: `ci/test --all` builds it.

use tests::transcript::{LINUX_7_2, compare, play};

#[test]
fn the_stored_transcript_is_what_linux_7_2_does() {
    let now = play("oracle-kernel", ["--binder", "kernel"], true);
    compare(&now, LINUX_7_2, &[]);
}
