//! Garbage gets one clear error and the documented exit code, and nothing is lost.

use tests::{bindervm_with, file};

/// The one message of a failed command, checked for its exit code.
#[track_caller]
fn refused(args: &[&str], code: i32) -> String {
    let (got, output) = bindervm_with(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(got, code, "{args:?}\n{stderr}");
    assert!(!stderr.contains("panicked at"), "a panic of ours\n{stderr}");
    assert!(!stderr.trim().is_empty(), "no word of why");
    stderr
}

#[test]
fn a_wrong_command_line_is_240() {
    refused(&[], 240);
    refused(&["fly"], 240);
    refused(&["run"], 240);
    refused(&["run", "minimal", "--engine", "hamster"], 240);
    refused(&["run", "minimal", "--memory", "lots"], 240);
    refused(&["run", "minimal", "--timeout", "soon"], 240);
    refused(&["run", "minimal", "--name", "../../etc/passwd"], 240);
    for args in [&["run", "minimal", "service", "list"][..], &["exec", "g1", "true"]] {
        let told = refused(args, 240);
        assert!(told.contains("the guest's command comes after `--`"), "{told}");
    }
    assert!(!refused(&["run", "minimal", "--sed", "1"], 240).contains("after `--`"));
    refused(&["run", "minimal", "--engine", "soft", "--snapshot-to", "/dev/full"], 240);
    assert!(refused(&["run", "minimal", "--memory", "1M", "--", "true"], 240).contains("too little"));
    assert!(refused(&["run", "minimal", "--memory", "3", "--", "true"], 240).contains("3M"));
}

#[test]
fn help_and_version_are_answers() {
    assert_eq!(bindervm_with(&["--help"]).0, 0);
    assert_eq!(bindervm_with(&["--version"]).0, 0);
    assert_eq!(bindervm_with(&["run", "--help"]).0, 0);
}

#[test]
fn an_image_that_is_not_there_or_not_one_is_241() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        refused(&["run", "no-such-image", "--", "true"], 241).contains("nor is there a recipe of that name")
    );
    assert!(refused(&["run", "minimall", "--", "true"], 241).contains("did you mean `minimal`?"));
    assert!(refused(&["image", "build", "no-such"], 241).contains("there is no recipe 'no-such' in /"));
    file(folder.path(), "manifest.json", b"{ not json");
    refused(&["run", folder.path().to_str().unwrap(), "--", "true"], 241);
}

#[test]
fn a_kernel_or_initrd_that_is_not_one_is_241() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = file(folder.path(), "garbage", &[0x5a; 4096]);
    let empty = file(folder.path(), "empty", b"");
    let elf = file(folder.path(), "elf", b"\x7fELF and nothing that follows");
    // The start of a bzImage whose payload is missing.
    let mut setup = vec![0; 2048];
    setup[0x1f1] = 3;
    setup[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    setup[0x202..0x206].copy_from_slice(b"HdrS");
    let cut = file(folder.path(), "bzImage", &setup);
    for kernel in [&garbage, &empty, &elf, &cut] {
        refused(&["run", "--engine", "soft", "--kernel", kernel], 241);
    }
    refused(&["run", "--engine", "soft", "--kernel", "/nonexistent/kernel"], 241);
    let image = images::open("minimal").expect("ci/test builds the image");
    let kernel = image.vmlinux();
    let kernel = kernel.to_str().unwrap();
    refused(&["run", "--engine", "soft", "--kernel", kernel, "--initrd", "/nonexistent/initrd"], 241);
}

#[test]
fn a_garbage_initrd_ends_in_a_panic_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = file(folder.path(), "initrd", &[0x5a; 8192]);
    let image = images::open("minimal").expect("ci/test builds the image");
    let kernel = image.vmlinux();
    let append = "console=ttyS0 panic=-1";
    let args = ["run", "--engine", "soft", "--timeout", "5m", "--kernel", kernel.to_str().unwrap()];
    let said = refused(&[&args[..], &["--initrd", &initrd, "--append", append]].concat(), 243);
    assert!(said.contains("Unable to mount root fs") || said.contains("No working init"), "{said}");
}

#[test]
fn a_trace_file_that_is_not_one_is_241() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = file(folder.path(), "garbage", &[7; 100]);
    assert!(refused(&["trace", &garbage], 241).contains("not a trace"));
    refused(&["trace", "/nonexistent/trace"], 241);
}

#[test]
fn a_recipe_that_is_not_one_is_241_and_builds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = file(folder.path(), "recipe.toml", b"name = \"x\"\nsurprise = true\n");
    refused(&["image", "build", &recipe], 241);
    refused(&["image", "build", "no-such-recipe"], 241);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the recipe");
}
