//! The shim builds without warnings against both kernels that it promises.

use std::path::Path;

use images::{Cache, Event, Options};

fn builds_without_warnings(suites: &[&str]) {
    let options = Options::new(Cache::of_user().expect("HOME is set"));
    let headers = images::kernel_headers(suites, "linux-image-amd64", &options, &mut ()).unwrap();
    let shim = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest/shim"));
    let mut warnings = Vec::new();
    let mut listen = |event: Event<'_>| {
        if let Event::Line(line) = event
            && line.contains("warning:")
        {
            warnings.push(line.to_owned());
        }
    };
    // One that lies ready in the user's cache would say nothing.
    let empty = tempfile::tempdir().unwrap();
    let options = Options::new(Cache::at(empty.path()));
    let module = images::kernel_module("virtio_binder", shim, &headers, &options, &mut listen).unwrap();
    assert!(module.is_file());
    assert!(warnings.is_empty(), "linux {}: {warnings:#?}", headers.release);
}

#[test]
fn against_debian_12s_6_1() {
    builds_without_warnings(&["bookworm", "bookworm-security"]);
}

#[test]
fn against_the_6_12_of_bookworm_backports() {
    builds_without_warnings(&["bookworm-backports"]);
}
