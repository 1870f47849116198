//! SELinux, enforcing: what it refuses on the kernel's driver it refuses on the host's, in both ways of asking.
//!
//! `ci/test --all selinux` runs this; it needs the image `selinux`.

use tests::Guest;

fn transcript<const N: usize>(options: [&str; N]) -> String {
    let ended = Guest::of("selinux").with(options).shell("dmesg -n 1; conformance selinux");
    let transcript = ended.expect(0).stdout;
    assert!(transcript.lines().filter(|line| line.starts_with("== ") && line.ends_with(" end")).count() >= 7);
    transcript
}

#[test]
fn the_host_driver_obeys_the_policy_as_the_kernels_does() {
    let kernel = transcript(["--binder", "kernel"]);
    for denied in
        ["security-call S: W[TRANSACTION(h=0 code=0x1", "security-manager S: SET_CONTEXT_MGR -> EACCES"]
    {
        assert!(kernel.contains(denied), "no {denied:?} in\n{kernel}");
    }
    for lsm in ["ask", "cache"] {
        let host = transcript(["--binder-profile", "linux-6.1", "--lsm", lsm]);
        let differ: Vec<_> =
            kernel.lines().zip(host.lines()).filter(|(theirs, ours)| theirs != ours).collect();
        assert!(kernel == host, "--lsm {lsm}: {differ:#?}");
    }
}

#[test]
fn nobody_is_asked_if_the_image_or_the_user_says_so() {
    // Some cases do not come to their end: they count on what is refused.
    let ended = Guest::of("selinux").with(["--lsm", "off"]).shell("dmesg -n 1; conformance selinux");
    let off = ended.stdout;
    let of_call = |line: &&str| line.starts_with("security-call S: W[TRANSACTION(h=0");
    let calls: Vec<_> = off.lines().filter(of_call).collect();
    assert!(!calls.is_empty() && calls.iter().all(|line| !line.contains("FAILED_REPLY")), "{calls:#?}");
}
