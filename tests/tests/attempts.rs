//! Attempt-acquire, which OpenBinder had and no Linux driver has: only where the guest's module is loaded with it.

use tests::Guest;

/// Loads the module anew with `parameters`, mounts its devices and plays the cases about attempt-acquire.
fn reloaded(parameters: &str) -> String {
    format!(
        "umount /dev/binderfs; rmmod virtio_binder && insmod $(find /lib -name virtio_binder.ko) {parameters} &&
         mount -t binder binder /dev/binderfs && conformance run attempt 2>/dev/null"
    )
}

/// covers: B116, B458
#[test]
fn weak_handles_become_strong_where_the_module_was_loaded_for_it() {
    let (without, with) = (reloaded(""), reloaded("attempt_acquire=1"));
    let script = format!("dmesg -n 1; cd /\n{without} | grep -m1 ATTEMPT_ACQUIRE\necho ==opted in\n{with}");
    let ended = Guest::of("minimal").traced_with(",replay").shell(&script).expect(0).leaves_nothing();
    let (refused, played) = ended.stdout.split_once("==opted in\n").expect("both runs");
    assert!(refused.contains("-> EINVAL wc=0/12"), "{ended}");
    for case in ["given", "refused", "unanswered", "in-calls", "misuse"] {
        assert!(played.lines().any(|line| line == format!("== attempt-{case} end")), "{case}\n{ended}");
    }
    let results = |value| played.matches(&format!("ACQUIRE_RESULT({value:#x})]")).count();
    // Given twice and after a signal, in a call, the manager's; refused, both ends of its owner, unknown, misuse.
    assert_eq!((results(1), results(0)), (5, 5), "{ended}");
    assert!(ended.trace(["--check"]).contains("the same"));
    assert!(ended.trace([]).contains("BR_ATTEMPT_ACQUIRE"));
}
