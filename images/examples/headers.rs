//! Builds a kernel module against a suite's headers: `cargo run -p images --example headers -- SUITE NAME FOLDER`.

use std::path::Path;
use std::process::ExitCode;

use images::{Cache, Event, Options, kernel_headers, kernel_module};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([suite, name, folder], Some(cache)) = (arguments.as_slice(), Cache::of_user()) else {
        eprintln!("usage: headers SUITE NAME FOLDER");
        return ExitCode::from(2);
    };
    let options = Options::new(cache);
    let mut progress = |event: Event<'_>| match event {
        Event::Line(line) => println!("  {line}"),
        Event::Notice(text) => println!("note: {text}"),
        _ => {}
    };
    let result = kernel_headers(&[suite], "linux-image-amd64", &options, &mut progress).and_then(|headers| {
        println!("{} ({}) in {}", headers.release, headers.version, headers.folder.display());
        kernel_module(name, Path::new(folder), &headers, &options, &mut progress)
    });
    match result {
        Ok(module) => {
            println!("{}", module.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
