//! Builds an image and prints the news: `cargo run -p images --example build -- aosp14`.

use std::error::Error;
use std::process::ExitCode;

use images::{Cache, Event, Options, build};

fn main() -> ExitCode {
    let Some(recipe) = std::env::args().nth(1) else {
        eprintln!("usage: build RECIPE");
        return ExitCode::from(2);
    };
    let Some(cache) = Cache::of_user() else {
        eprintln!("neither XDG_CACHE_HOME nor HOME is set");
        return ExitCode::FAILURE;
    };
    let mut progress = |event: Event<'_>| match event {
        Event::Started { step, detail } => println!("{step}: {detail}"),
        Event::Finished { step, cached, took } => {
            println!("{step}: {}, {:.1} s", if cached { "cached" } else { "done" }, took.as_secs_f32());
        }
        Event::Notice(text) => println!("note: {text}"),
        Event::Share(_) | Event::Line(_) => {}
    };
    match build(&recipe, &Options::new(cache), &mut progress) {
        Ok(image) => {
            println!("{}", image.dir.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
