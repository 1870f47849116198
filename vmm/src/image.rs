//! `bindervm image`: builds and lists.

use std::io::{self, Write};

use images::{Cache, Options};

use crate::args::ImageCommand;
use crate::exit::{Code, Failure};
use crate::output;
use crate::progress::Printer;

/// Does what the arguments say.
pub fn run(command: &ImageCommand) -> Result<(), Failure> {
    let cache = Cache::of_user()
        .ok_or_else(|| Failure::new(Code::Usage, "set HOME or XDG_CACHE_HOME: images are kept there"))?;
    let options = Options::new(cache);
    match command {
        ImageCommand::Build { recipe } => {
            let mut printer = Printer::new();
            let built = images::build(recipe, &options, &mut printer);
            printer.finish();
            let image = built.map_err(|error| {
                Failure::because(Code::Image, format!("cannot build the image {recipe}"), error)
            })?;
            output::print(|out| writeln!(out, "{}", image.dir.display()))
        }
        ImageCommand::List => output::print(|out| list(&options, out)),
    }
}

fn list(options: &Options, out: &mut dyn Write) -> io::Result<()> {
    let built = images::list_in(&options.cache);
    for listed in built.iter().filter(|listed| listed.current) {
        let manifest = &listed.image.manifest;
        writeln!(out, "{:12} {}", manifest.name, manifest.summary)?;
        writeln!(out, "{:12} linux {}, {}", "", manifest.kernel, listed.image.dir.display())?;
    }
    for recipe in images::recipes(&options.recipes) {
        if !built.iter().any(|listed| listed.image.manifest.name == recipe.name) {
            writeln!(out, "{:12} {}", recipe.name, recipe.summary)?;
            writeln!(out, "{:12} not built: bindervm image build {}", "", recipe.name)?;
        }
    }
    Ok(())
}
