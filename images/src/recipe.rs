//! Recipes: what goes into an image, as data. `images/README.md` explains each key.
//!
//! Relative paths in a recipe count from the recipe's own folder. A recipe with a `base` is a layer: it adds
//! to another one and overrides parts of it (`layer`).

mod layer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::digest::Digest;
use layer::Layer;

/// A recipe, read and checked, with all layers below it. Its paths are absolute.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Name of the image: lower case letters, digits, `-` and `_`.
    pub name: String,
    /// One line for `image list`.
    pub summary: String,
    /// Debian suites that packages for the guest come from; the kernel's, if none is named.
    pub suites: Vec<String>,
    /// The kernel, its modules and its command line.
    pub kernel: Kernel,
    /// The modules that bring binder.
    pub binder: Binder,
    /// PID 1.
    pub agent: CargoPackage,
    /// Kernel modules built out of tree.
    pub modules: Vec<OwnModule>,
    /// Source archives to fetch and patch.
    pub sources: Vec<Source>,
    /// What to make of them, in order.
    pub compiles: Vec<Compile>,
    /// Folders of the guest that would otherwise not exist.
    pub directories: Vec<String>,
    /// Folders below /sys/fs/cgroup that the agent makes, as Android's init does.
    pub cgroups: Vec<String>,
    /// Files of the guest.
    pub files: Vec<GuestFile>,
    /// Symbolic links of the guest.
    pub links: Vec<Links>,
    /// Device nodes of the guest.
    pub devices: Vec<Device>,
    /// Programs the agent starts, in order, before it serves the host.
    pub services: Vec<Service>,
    /// Digest of the text of the recipe and of those below it.
    pub digest: Digest,
}

/// Which Debian kernel, and what it is told.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kernel {
    /// Suites to look in; the newest version wins.
    pub suites: Vec<String>,
    /// The package that depends on the current kernel, e.g. `linux-image-amd64`.
    pub package: String,
    /// Instead of a package's, a kernel that a compile step made. It has no modules but what is built in.
    pub compiled: Option<CompiledKernel>,
    /// Modules every boot loads, in this order; their needs are found and loaded before them.
    pub load: Vec<String>,
    /// What only some runs need, to the modules that bring it: a device of the host (`disk`, `panic`),
    /// loaded where the run has that device, or a name that the kernel asks modprobe for (`fs-ext4`).
    pub on_demand: BTreeMap<String, Vec<String>>,
    /// Module name to its options.
    pub options: BTreeMap<String, String>,
    /// Kernel command line, a word each.
    pub command_line: Vec<String>,
}

/// A kernel of a compile step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompiledKernel {
    /// Which step.
    pub step: String,
    /// The ELF kernel in that step's folder.
    pub file: String,
    /// What `uname -r` says.
    pub release: String,
}

/// The modules that bring `/dev/binder`: the host's driver or the kernel's own, chosen at each boot.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binder {
    /// Modules for binder served by the host.
    pub host: Vec<String>,
    /// Modules for the kernel's own driver, with which ours is compared.
    #[serde(default)]
    pub kernel: Vec<String>,
    /// Names in /dev that either must bring.
    pub devices: Vec<String>,
    /// binderfs is mounted at `/dev/binderfs` where the kernel or a module has it, and these names are
    /// links into it, as Android's init has them.
    #[serde(default)]
    pub binderfs: bool,
    /// When the host's driver asks the guest's security module.
    #[serde(default)]
    pub lsm: LsmMode,
}

/// When the host's driver asks the guest's security module about calls and transferred binders. Transferred
/// files are always asked about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LsmMode {
    /// Every time.
    Ask,
    /// Once for each pair of processes, until the policy changes.
    #[default]
    Cache,
    /// Never.
    Off,
}

/// A cargo package whose program runs in the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CargoPackage {
    /// Its folder.
    pub folder: PathBuf,
    /// Its package and binary name.
    pub package: String,
}

/// A kernel module of ours, built against the headers of the recipe's kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnModule {
    /// Its name, without `.ko`.
    pub name: String,
    /// Folder with its Kbuild or Makefile.
    pub folder: PathBuf,
}

/// The upstream half of a Debian source package, or a package with sources, pinned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Name other parts of the recipe use.
    pub name: String,
    /// Suite that has it.
    pub suite: String,
    /// Source package; binary package where the file is a `.deb`.
    pub package: String,
    /// File name of the archive, or of the `.deb`.
    pub file: String,
    /// Its sha256, 64 hexadecimal digits.
    pub sha256: Digest,
    /// Edits, in order.
    #[serde(default, rename = "replace")]
    pub replacements: Vec<Replacement>,
}

/// An edit of one file of a source archive.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// File, from the top of the archive.
    pub file: String,
    /// Exact text to find.
    pub find: String,
    /// Text to put there.
    pub with: String,
    /// How often it must occur; another number means the edit no longer fits the source.
    #[serde(default = "one")]
    pub count: usize,
}

fn one() -> usize {
    1
}

/// One run of `make` in an empty folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compile {
    /// Name other parts of the recipe use.
    pub name: String,
    /// The makefile. Its whole folder counts as an input.
    pub makefile: PathBuf,
    /// Variables given to make, each a folder.
    #[serde(default)]
    pub inputs: BTreeMap<String, Input>,
    /// What to make.
    pub targets: Vec<String>,
    /// Programs (or absolute paths) needed, each with the Debian package that has it.
    #[serde(default)]
    pub requires: BTreeMap<String, String>,
}

/// A folder that a compile step reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Input {
    /// A `[[source]]`, unpacked and patched.
    Source(String),
    /// What an earlier `[[compile]]` made.
    Compile(String),
    /// A folder beside the recipe.
    Folder(PathBuf),
}

/// A file of the guest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestFile {
    /// Where it stands in the guest, without the leading slash.
    pub path: String,
    /// Where it comes from.
    pub from: Origin,
    /// Permission bits.
    #[serde(default = "executable")]
    pub mode: u32,
}

fn executable() -> u32 {
    0o755
}

/// Where a file of the guest comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Origin {
    /// A product of a `[[compile]]`.
    Compile {
        /// Which step.
        step: String,
        /// File in that step's folder.
        file: String,
    },
    /// A file of a Debian package, from the kernel's suites.
    Package {
        /// Which package.
        name: String,
        /// File in the package, without the leading slash.
        file: String,
    },
    /// The program of a cargo package, built static like the agent.
    Cargo(CargoPackage),
    /// A file beside the recipe.
    File(PathBuf),
    /// This text.
    Text(String),
}

/// Several links of one folder to one target.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Folder of the links.
    pub folder: String,
    /// What they point to.
    pub target: String,
    /// Their names.
    pub names: Vec<String>,
}

/// A character device node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where it stands in the guest, without the leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A program that runs for as long as the guest does. The agent reads the same shape from the boot file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Name in messages.
    pub name: String,
    /// Program (absolute path) and arguments.
    pub argv: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How to find out that it is up; without this it is up once started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
}

/// A command that succeeds once a service is up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Program (absolute path) and arguments.
    pub command: Vec<String>,
    /// How long it may take, in milliseconds of guest time.
    #[serde(default = "ready_timeout")]
    pub timeout_ms: u64,
}

fn ready_timeout() -> u64 {
    10_000
}

/// Why a recipe cannot be used.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// No recipe of that name, nor a file.
    #[error("there is no recipe '{name}' in {}{known}; give a name, or the path of a recipe (a folder or a .toml)", folder.display())]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where names are looked for: the folder of the sources that bindervm was built from.
        folder: PathBuf,
        /// Names that exist, as the message has them.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The recipe.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a wrong type or a bad checksum; the source shows the line.
    #[error("{path} is not a recipe")]
    Syntax {
        /// The recipe.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It reads, but does not hang together.
    #[error("{path}: {reason}")]
    Invalid {
        /// The recipe.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A recipe is a page of text.
const MAX_RECIPE: u64 = 1 << 20;
/// Layers under a recipe; more are a circle.
const MAX_LAYERS: usize = 8;

impl Recipe {
    /// Reads and checks the recipe at `path` (the file, or the folder with its `recipe.toml`) and those
    /// it is based on.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        Self::read_at(path, 0)
    }

    /// `above` layers stand on this one.
    fn read_at(path: &Path, above: usize) -> Result<Self, RecipeError> {
        let path = if path.is_dir() { path.join("recipe.toml") } else { path.to_owned() };
        let read = |source| RecipeError::Read { path: path.clone(), source };
        // Bounded by what is read, not by what the file says of itself: it may be a device.
        let mut bytes = Vec::new();
        File::open(&path).and_then(|file| file.take(MAX_RECIPE + 1).read_to_end(&mut bytes)).map_err(read)?;
        if bytes.len() as u64 > MAX_RECIPE {
            return Err(RecipeError::Invalid { path, reason: "larger than 1 MiB".into() });
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).map_err(read)?;
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(RecipeError::Invalid { path, reason: "not UTF-8 text".into() });
        };
        Self::parse(&text, &path, &folder, above)
    }

    fn parse(text: &str, path: &Path, folder: &Path, above: usize) -> Result<Self, RecipeError> {
        let mut layer: Layer = toml::from_str(text)
            .map_err(|source| RecipeError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let invalid = |reason| RecipeError::Invalid { path: path.to_owned(), reason };
        layer.resolve(folder);
        let base = match &layer.base {
            Some(_) if above == MAX_LAYERS => {
                return Err(invalid(format!("more than {MAX_LAYERS} recipes stand on each other")));
            }
            Some(base) => Some(Self::read_at(base, above + 1)?),
            None => None,
        };
        let recipe = layer.onto(base, Digest::of(text.as_bytes())).map_err(invalid)?;
        recipe.check().map_err(invalid)?;
        Ok(recipe)
    }

    /// Every module the recipe names for some boot.
    fn wanted_modules(&self) -> impl Iterator<Item = &String> {
        let on_demand = self.kernel.on_demand.values().flatten();
        self.kernel.load.iter().chain(&self.binder.host).chain(&self.binder.kernel).chain(on_demand)
    }

    fn check(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        let no_kernel = self.kernel.package.is_empty() && self.kernel.compiled.is_none();
        if self.kernel.suites.is_empty() || no_kernel {
            return Err("kernel.suites and kernel.package are needed, here or in a base".into());
        }
        if let Some(compiled) = &self.kernel.compiled {
            if !self.compiles.iter().any(|compile| compile.name == compiled.step) {
                return Err(format!("kernel.compiled: there is no compile step '{}'", compiled.step));
            }
            if !self.modules.is_empty() || self.wanted_modules().next().is_some() {
                return Err(
                    "kernel.compiled: such a kernel has no modules, and none can be built for it".into()
                );
            }
        }
        for module in self.kernel.options.keys() {
            if !self.wanted_modules().any(|other| other == module) {
                return Err(format!("kernel.options names '{module}', which no list of modules has"));
            }
        }
        if let Some(word) = self.kernel.command_line.iter().find(|word| word.contains(char::is_whitespace)) {
            return Err(format!("kernel.command_line: '{word}' is more than one word"));
        }
        check_exists("agent.folder", &self.agent.folder)?;
        for folder in &self.cgroups {
            check_name("cgroups", folder)?;
        }
        for module in &self.modules {
            check_name("module.name", &module.name)?;
            check_exists("module.folder", &module.folder)?;
        }
        let mut sources = BTreeSet::new();
        for source in &self.sources {
            check_name("source.name", &source.name)?;
            if source.file.contains('/') {
                return Err(format!("source.file: '{}' is not a file name", source.file));
            }
            if !sources.insert(source.name.as_str()) {
                return Err(format!("two sources are named '{}'", source.name));
            }
        }
        let mut compiles = BTreeSet::new();
        for compile in &self.compiles {
            check_name("compile.name", &compile.name)?;
            check_exists("compile.makefile", &compile.makefile)?;
            for (variable, input) in &compile.inputs {
                let at = format!("compile '{}', input {variable}", compile.name);
                match input {
                    Input::Source(name) if !sources.contains(name.as_str()) => {
                        return Err(format!("{at}: there is no source '{name}'"));
                    }
                    Input::Compile(name) if !compiles.contains(name.as_str()) => {
                        return Err(format!("{at}: there is no earlier compile '{name}'"));
                    }
                    Input::Folder(folder) => check_exists(&at, folder)?,
                    _ => {}
                }
            }
            if !compiles.insert(compile.name.as_str()) {
                return Err(format!("two compile steps are named '{}'", compile.name));
            }
        }
        for file in &self.files {
            match &file.from {
                Origin::Compile { step, .. } if !compiles.contains(step.as_str()) => {
                    return Err(format!("file '{}': there is no compile step '{step}'", file.path));
                }
                Origin::File(path) => check_exists(&format!("file '{}'", file.path), path)?,
                _ => {}
            }
        }
        match self
            .services
            .iter()
            .find(|service| !service.argv.first().is_some_and(|program| program.starts_with('/')))
        {
            Some(service) => Err(format!("service '{}': argv needs an absolute path first", service.name)),
            None => Ok(()),
        }
    }
}

fn check_exists(what: &str, path: &Path) -> Result<(), String> {
    if path.exists() { Ok(()) } else { Err(format!("{what}: {} does not exist", path.display())) }
}

/// Names become parts of file names and command lines.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 64 && !name.starts_with(['-', '.']) && name.chars().all(fine) {
        return Ok(());
    }
    Err(format!("{what}: '{name}' may only have lower case letters, digits, '-', '_' and '.'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
name = "tiny"
summary = "a test"
agent = { folder = ".", package = "agent" }
[kernel]
suites = ["bookworm"]
package = "linux-image-amd64"
load = ["virtio_mmio"]
command_line = ["quiet"]
"#;

    fn parse(text: &str) -> Result<Recipe, RecipeError> {
        Recipe::parse(text, Path::new("recipe.toml"), &std::env::temp_dir(), 0)
    }

    /// The error with its cause, as a person sees it.
    fn complaint(text: &str) -> String {
        let error = parse(text).expect_err("this recipe is wrong");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error} {cause}")
    }

    #[test]
    fn a_small_recipe_is_enough() {
        let recipe = parse(MINIMAL).unwrap();
        assert_eq!(recipe.kernel.load, ["virtio_mmio"]);
    }

    #[test]
    fn the_projects_own_recipes_are_valid() {
        let folders = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().flatten();
        let recipes = folders.map(|entry| entry.path()).filter(|path| path.join("recipe.toml").is_file());
        let mut names = BTreeSet::new();
        for path in recipes {
            let recipe = Recipe::read(&path).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
            assert_eq!(Some(recipe.name.as_str()), path.file_name().and_then(|name| name.to_str()));
            names.insert(recipe.name);
        }
        assert!(names.contains("minimal") && names.contains("aosp14"), "{names:?}");
    }

    #[test]
    fn unknown_keys_are_named() {
        let said = complaint(&MINIMAL.replace("summary", "sumary"));
        assert!(said.contains("unknown field `sumary`"), "{said}");
        let said = complaint(&format!("{MINIMAL}cmdline = 1\n"));
        assert!(said.contains("unknown field `cmdline`"), "{said}");
    }

    #[test]
    fn missing_files_are_named() {
        let said = complaint(&format!("{MINIMAL}\n[[module]]\nname = \"m\"\nfolder = \"no/such/folder\"\n"));
        assert!(said.contains("module.folder") && said.contains("no/such/folder does not exist"), "{said}");
    }

    #[test]
    fn bad_checksums_are_named() {
        let source = |sha: &str| {
            format!(
                "{MINIMAL}\n[[source]]\nname='s'\nsuite='trixie'\npackage='p'\nfile='f'\nsha256='{sha}'\n"
            )
        };
        assert!(parse(&source(&"0f".repeat(32))).is_ok());
        for bad in ["", "12", &"0g".repeat(32), &"00".repeat(33)] {
            let said = complaint(&source(bad));
            assert!(said.contains("64 hexadecimal digits"), "{said}");
        }
    }

    #[test]
    fn dangling_names_are_refused() {
        let said = complaint(&format!(
            "{MINIMAL}\n[[compile]]\nname='c'\nmakefile='.'\ntargets=[]\ninputs={{SRC={{source='nowhere'}}}}\n"
        ));
        assert!(said.contains("there is no source 'nowhere'"), "{said}");
        let said = complaint(&format!(
            "{MINIMAL}\n[[file]]\npath='bin/x'\nfrom={{compile={{step='c',file='x'}}}}\n"
        ));
        assert!(said.contains("there is no compile step 'c'"), "{said}");
        let said = complaint(&format!("{MINIMAL}\n[kernel.options]\nfoo='bar=1'\n"));
        assert!(said.contains("which no list of modules has"), "{said}");
    }

    #[test]
    fn names_cannot_leave_the_cache() {
        for name in ["", "../x", "A", "a b", "-rf"] {
            let said = complaint(&MINIMAL.replace("\"tiny\"", &format!("\"{name}\"")));
            assert!(said.contains("may only have"), "{said}");
        }
    }

    #[test]
    fn a_device_is_not_read_to_its_end() {
        let error = Recipe::read(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
    }

    #[test]
    fn not_toml_at_all() {
        let said = complaint("\u{1}\u{2}garbage");
        assert!(said.contains("is not a recipe"), "{said}");
    }
}
