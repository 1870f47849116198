//! Compiles the program that `bindervm bench` runs in guests: one file, no standard library, a static
//! ELF. It is x86-64 code, like the guests; where this compiler cannot make it, `bench` says so.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=bench/guest.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let program = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bench-guest");
    let target = env::var("TARGET").unwrap_or_default();
    let made = target.starts_with("x86_64-")
        && target.contains("-linux-")
        && Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"))
            .args(["--edition", "2024", "--crate-type", "bin", "--target", &target])
            .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols"])
            .args(["-C", "no-vectorize-loops", "-C", "no-vectorize-slp", "-C", "relocation-model=static"])
            .args(["nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"].map(link_argument))
            .arg("-o")
            .args([program.as_os_str(), "bench/guest.rs".as_ref()])
            .status()
            .is_ok_and(|status| status.success());
    if !made {
        fs::write(&program, []).expect("OUT_DIR is writable");
        println!("cargo::warning=bindervm bench will not work: its guest program could not be compiled");
    }
}

fn link_argument(argument: &str) -> String {
    format!("-Clink-arg={}{argument}", if argument.starts_with('-') { "" } else { "-" })
}
