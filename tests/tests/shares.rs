//! Folders of the host on a real guest.

use std::fs;

use tests::{Guest, bindervm_with};

#[test]
fn a_shared_folder_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in"), "from the host\n").unwrap();
    let option = format!("{}=/mnt/host", folder.path().display());
    let script = "cat /mnt/host/in && mkdir /mnt/host/new && seq 1 100000 > /mnt/host/new/out &&
        mv /mnt/host/in /mnt/host/moved && sha256sum /mnt/host/new/out";
    let ended = Guest::of("minimal").with(["--share", &option]).shell(script).expect(0);
    let ended = ended.prints(&["from the host"]);
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(folder.path().join("new/out")).unwrap() == expected, "{ended}");
    assert!(folder.path().join("moved").exists() && !folder.path().join("in").exists());
}

#[test]
fn a_folder_shared_for_reading_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in"), "kept\n").unwrap();
    let option = format!("{}=/mnt/host,ro", folder.path().display());
    let script = "mount -o remount,rw /mnt/host; cat /mnt/host/in; rm /mnt/host/in; echo x > /mnt/host/in; touch /mnt/host/new; true";
    Guest::of("minimal").with(["--share", &option]).shell(script).expect(0).prints(&["kept"]);
    assert_eq!(fs::read_to_string(folder.path().join("in")).unwrap(), "kept\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_share_that_cannot_be_used_is_a_wrong_command_line() {
    for share in ["/no/such/folder=/mnt", "/dev/null=/mnt", "/tmp=mnt", "/tmp"] {
        let (code, output) =
            bindervm_with(&["run", "minimal", "--engine", "soft", "--share", share, "--", "true"]);
        assert_eq!(code, 240, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
