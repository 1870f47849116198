//! `bindervm doctor`: what this machine offers, and what to do about what is missing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use images::{Cache, Options};
use machine::Kind;

use crate::exit::{Code, Failure};
use crate::output;

/// Prints the findings. Missing things are told, not failed on: the exit status says whether a
/// guest can run at all.
pub fn run() -> Result<(), Failure> {
    let choice = machine::choose(Kind::Auto)
        .map_err(|error| Failure::because(Code::BootFailed, "no engine works", error))?;
    output::print(|out| print(&choice.reason, out))
}

fn print(engine: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "engine     auto takes {engine}")?;
    writeln!(out, "kvm        {}", kvm())?;
    writeln!(out, "memory     {}", memory())?;
    let Some(cache) = Cache::of_user() else {
        writeln!(out, "cache      none: set HOME or XDG_CACHE_HOME, images are kept there")?;
        return Ok(());
    };
    writeln!(out, "cache      {}", cache.root().display())?;
    let options = Options::new(cache);
    for recipe in images::recipes(&options.recipes) {
        if let Ok(recipe) = images::find_recipe(&options, &recipe.name)
            && let Some(missing) = images::missing_tools(&recipe)
        {
            writeln!(out, "tools      {}: {missing}", recipe.name)?;
            writeln!(out, "           {}", missing.way_on())?;
        }
        let state = match images::open_in(&options.cache, &recipe.name) {
            Ok(image) => format!("built, linux {}", image.manifest.kernel),
            Err(_) => format!("not built: bindervm image build {}", recipe.name),
        };
        writeln!(out, "image      {}: {state}", recipe.name)?;
    }
    Ok(())
}

fn kvm() -> String {
    let path = Path::new("/dev/kvm");
    match File::options().read(true).write(true).open(path) {
        Ok(_) => "/dev/kvm opens".to_owned(),
        Err(_) if !path.exists() => {
            "there is no /dev/kvm: load kvm_intel or kvm_amd, or switch nested virtualization on in the host; \
             the soft engine needs none of it"
                .to_owned()
        }
        Err(error) => format!("/dev/kvm does not open ({error}): add your user to the group that owns it"),
    }
}

/// Memory that a guest could get, in MiB.
fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    match available {
        Some(kib) if kib < 768 << 10 => format!("{} MiB available: a guest of 512M hardly fits", kib >> 10),
        Some(kib) => format!("{} MiB available", kib >> 10),
        None => "unknown (/proc/meminfo is not readable)".to_owned(),
    }
}
