//! The builder: walks a recipe from packages and sources to an image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lzma_rust2::XzReader;
use serde::Serialize;

use crate::apt::sources::Kind;
use crate::apt::{Apt, Package, Refresh};
use crate::cache::Cache;
use crate::compile::{self, InputFolder};
use crate::cpio::{Archive, Node};
use crate::debian_kernel::{self, Headers, Kernel};
use crate::digest::DigestBuilder;
use crate::error::{BuildError, Failure};
use crate::host;
use crate::image::Image;
use crate::manifest::{LoadedFor, ModuleRecord, PackageRecord, SourceRecord};
use crate::modules::depends_of;
use crate::pack::{self, Contents};
use crate::progress::Progress;
use crate::recipe::{CargoPackage, Input, Origin, Recipe, RecipeError, Service};
use crate::source_set;
use crate::step::{Outcome, Step, Steps};

/// How to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept.
    pub cache: Cache,
    /// Folder with the recipes that have names: `NAME/recipe.toml`.
    pub recipes: PathBuf,
    /// The machine's apt configuration.
    pub apt_etc: PathBuf,
    /// When package indexes are fetched anew.
    pub refresh: Refresh,
    /// Build date written into the image, seconds since 1970; now, if none is given.
    pub build_date: Option<u64>,
    /// Compilers run at once.
    pub jobs: usize,
}

impl Options {
    /// The project's recipes, `cache`, the machine's apt sources, all CPUs, and the date of
    /// `SOURCE_DATE_EPOCH` if that is set.
    pub fn new(cache: Cache) -> Self {
        Self {
            cache,
            recipes: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
            apt_etc: PathBuf::from("/etc/apt"),
            refresh: Refresh::default(),
            build_date: std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()),
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// A recipe with a name, in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRecipe {
    /// Its name.
    pub name: String,
    /// Its summary.
    pub summary: String,
}

/// The valid recipes in `folder`, by name.
pub fn recipes(folder: &Path) -> Vec<ListedRecipe> {
    let mut recipes: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("recipe.toml").is_file())
        .filter_map(|entry| Recipe::read(&entry.path()).ok())
        .map(|recipe| ListedRecipe { name: recipe.name, summary: recipe.summary })
        .collect();
    recipes.sort_by(|a, b| a.name.cmp(&b.name));
    recipes
}

/// Reads the recipe of that name, or at that path (which contains a slash or ends in `.toml`).
pub fn find_recipe(options: &Options, name_or_path: &str) -> Result<Recipe, RecipeError> {
    let is_path = name_or_path.contains('/') || name_or_path.ends_with(".toml");
    let path = if is_path { PathBuf::from(name_or_path) } else { options.recipes.join(name_or_path) };
    if is_path || path.join("recipe.toml").is_file() {
        return Recipe::read(&path);
    }
    let known: Vec<_> = recipes(&options.recipes).into_iter().map(|recipe| recipe.name).collect();
    let known = match known.is_empty() {
        true => ", which has none: bindervm was built from sources that have moved".to_owned(),
        false => format!(" (known: {})", known.join(", ")),
    };
    Err(RecipeError::Unknown { name: name_or_path.to_owned(), folder: options.recipes.clone(), known })
}

/// Builds the image of a recipe (a name or a path), or finds that it is built.
///
/// Needs no root. What other runs left in the cache is used; a failure leaves no half image.
pub fn build(recipe: &str, options: &Options, progress: &mut dyn Progress) -> Result<Image, BuildError> {
    let recipe = find_recipe(options, recipe)?;
    let mut steps = Steps::new(&options.cache, progress);
    steps.run("check", "programs this machine needs", |_| {
        host::check(&recipe)?;
        Ok(Outcome { value: (), cached: false })
    })?;
    let _lock = lock(options, &mut steps)?;
    Builder { recipe: &recipe, options, steps, packages: Vec::new() }.build()
}

/// Programs and files that building `recipe` needs and this machine lacks, as a failure that names
/// the packages to install; `None` if nothing is missing.
pub fn missing_tools(recipe: &Recipe) -> Option<Failure> {
    host::check(recipe).err()
}

/// Fetches the headers of the kernel that `metapackage` stands for in `suites`, ready for
/// `make -C headers.folder M=...`. The default image's are `linux-image-amd64` of `bookworm` and `bookworm-security`.
pub fn kernel_headers(
    suites: &[&str],
    metapackage: &str,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Headers, BuildError> {
    let suites: Vec<_> = suites.iter().map(|&suite| suite.to_owned()).collect();
    let mut steps = Steps::new(&options.cache, progress);
    let _lock = lock(options, &mut steps)?;
    steps.run("headers", metapackage, |step| {
        let mut apt = Apt::open(step, &options.apt_etc, Kind::Deb, &suites, options.refresh)?;
        debian_kernel::fetch_headers(step, &mut apt, metapackage)
    })
}

/// Builds the kernel module `name` from `folder`; gives the path of `name.ko`. The compiler's output, warnings
/// too, comes as [`crate::Event::Line`] unless the module was in the cache.
pub fn kernel_module(
    name: &str,
    folder: &Path,
    headers: &Headers,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<PathBuf, BuildError> {
    let mut steps = Steps::new(&options.cache, progress);
    let _lock = lock(options, &mut steps)?;
    steps.run(&format!("module {name}"), &headers.release, |step| {
        compile::kernel_module(step, name, folder, headers, options.jobs)
    })
}

fn lock(options: &Options, steps: &mut Steps<'_>) -> Result<crate::cache::CacheLock, BuildError> {
    let lock = options.cache.lock(|| steps.notice("waiting for another builder to finish"));
    let lock = lock.map_err(|failure| BuildError::Step {
        step: "lock".into(),
        log: None,
        failure: Box::new(failure),
    })?;
    options.cache.sweep();
    Ok(lock)
}

struct Builder<'a> {
    recipe: &'a Recipe,
    options: &'a Options,
    steps: Steps<'a>,
    /// Debian packages used so far, for the manifest.
    packages: Vec<Package>,
}

/// Files the recipe's steps made.
struct Products {
    init: PathBuf,
    programs: BTreeMap<CargoPackage, PathBuf>,
    modules: BTreeMap<String, PathBuf>,
    compiles: BTreeMap<String, PathBuf>,
    packages: BTreeMap<String, PathBuf>,
}

impl Builder<'_> {
    fn build(mut self) -> Result<Image, BuildError> {
        let recipe = self.recipe;
        let mut kernel = None;
        if recipe.kernel.compiled.is_none() {
            kernel = Some(self.kernel()?);
        }
        let modules = self.modules()?;
        let compiles = self.compiles()?;
        let kernel = match (kernel, &recipe.kernel.compiled) {
            (Some(kernel), _) => kernel,
            // The recipe was checked: the step exists.
            (None, Some(compiled)) => Kernel::compiled(compiled, &compiles[&compiled.step]),
            (None, None) => self.kernel()?,
        };
        let packages = self.package_files()?;
        let init = self.program(&recipe.agent)?;
        let mut programs = BTreeMap::new();
        for file in &recipe.files {
            if let Origin::Cargo(package) = &file.from {
                programs.insert(package.clone(), self.program(package)?);
            }
        }
        let products = Products { init, programs, modules, compiles, packages };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let build_date = self.options.build_date.unwrap_or(now);
        let mut packages: Vec<_> = self.packages.iter().map(package_record).collect();
        packages.dedup();
        self.steps.run("pack", &recipe.name, |step| {
            let (initramfs, modules) = initramfs(recipe, &kernel, &products)?;
            let contents = Contents {
                name: &recipe.name,
                summary: &recipe.summary,
                recipe: recipe.digest,
                kernel: &kernel.release,
                vmlinux: &kernel.vmlinux(),
                command_line: recipe.kernel.command_line.join(" "),
                modules,
                lsm: recipe.binder.lsm,
                services: recipe.services.clone(),
                packages,
                sources: recipe
                    .sources
                    .iter()
                    .map(|source| SourceRecord {
                        name: source.name.clone(),
                        file: source.file.clone(),
                        sha256: source.sha256,
                        edits: source.replacements.len(),
                    })
                    .collect(),
                initramfs,
            };
            let (value, cached) = pack::write(step.cache, contents, build_date)?;
            Ok(Outcome { value, cached })
        })
    }

    /// A program of ours for the guest.
    fn program(&mut self, package: &CargoPackage) -> Result<PathBuf, BuildError> {
        let name = format!("program {}", package.package);
        self.steps.run(&name, "cargo build", |step| compile::program(step, &package.folder, &package.package))
    }

    fn kernel(&mut self) -> Result<Kernel, BuildError> {
        let (recipe, options) = (self.recipe, self.options);
        let kernel = self.steps.run("kernel", &recipe.kernel.package, |step| {
            let mut apt = open_apt(step, recipe, options)?;
            debian_kernel::fetch(step, &mut apt, &recipe.kernel.package)
        })?;
        self.packages.extend(kernel.package.clone());
        Ok(kernel)
    }

    /// The recipe's own modules, built against headers of the kernel's version.
    fn modules(&mut self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let (recipe, options) = (self.recipe, self.options);
        if recipe.modules.is_empty() {
            return Ok(BTreeMap::new());
        }
        let headers = self.steps.run("headers", &recipe.kernel.package, |step| {
            let mut apt = open_apt(step, recipe, options)?;
            debian_kernel::fetch_headers(step, &mut apt, &recipe.kernel.package)
        })?;
        self.packages.extend(headers.packages.iter().cloned());
        let build = |module: &crate::recipe::OwnModule| {
            let file = self.steps.run(&format!("module {}", module.name), &headers.release, |step| {
                compile::kernel_module(step, &module.name, &module.folder, &headers, options.jobs)
            })?;
            Ok((module.name.clone(), file))
        };
        recipe.modules.iter().map(build).collect()
    }

    /// Folders of the recipe's compile steps.
    fn compiles(&mut self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let (recipe, options) = (self.recipe, self.options);
        let mut sources = BTreeMap::new();
        for source in &recipe.sources {
            let folder = self.steps.run(&format!("source {}", source.name), &source.file, |step| {
                source_set::prepare(step, &options.apt_etc, options.refresh, source)
            })?;
            sources.insert(source.name.clone(), folder);
        }
        let mut compiles = BTreeMap::new();
        for compile in &recipe.compiles {
            let folder = self.steps.run(
                &format!("compile {}", compile.name),
                &compile.targets.join(", "),
                |step| {
                    let inputs = compile.inputs.iter().map(|(variable, input)| {
                        Ok((variable.clone(), input_folder(&sources, &compiles, input)?))
                    });
                    let inputs = inputs.collect::<Result<_, Failure>>()?;
                    compile::make(step, &compile.makefile, &inputs, &compile.targets, options.jobs)
                },
            )?;
            compiles.insert(compile.name.clone(), folder);
        }
        Ok(compiles)
    }

    /// Folders with the unpacked Debian packages whose files go into the guest.
    fn package_files(&mut self) -> Result<BTreeMap<String, PathBuf>, BuildError> {
        let (recipe, options) = (self.recipe, self.options);
        let wanted: BTreeSet<&str> = recipe
            .files
            .iter()
            .filter_map(|file| match &file.from {
                Origin::Package { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let detail = wanted.iter().copied().collect::<Vec<_>>().join(", ");
        let (packages, folders) = self.steps.run("packages", &detail, |step| {
            let suites = if recipe.suites.is_empty() { &recipe.kernel.suites } else { &recipe.suites };
            let mut apt = Apt::open(step, &options.apt_etc, Kind::Deb, suites, options.refresh)?;
            let (packages, debs) = apt.retry_fresh(step, |apt, step| {
                let packages =
                    wanted.iter().map(|name| apt.show(step, name, None)).collect::<Result<Vec<_>, _>>()?;
                let debs = apt.download(step, &packages)?;
                Ok((packages, debs))
            })?;
            let mut folders = BTreeMap::new();
            let mut all_cached = true;
            for (package, deb) in packages.iter().zip(&debs) {
                let cache = step.cache;
                let (folder, cached) = cache.folder("packages", &package.sha256.short(), |folder| {
                    debian_kernel::unpack_deb(step, deb, folder)
                })?;
                folders.insert(package.name.clone(), folder);
                all_cached &= cached;
            }
            Ok(Outcome { value: (packages, folders), cached: all_cached })
        })?;
        self.packages.extend(packages);
        Ok(folders)
    }
}

/// For the kernel and its headers.
fn open_apt(step: &mut Step<'_>, recipe: &Recipe, options: &Options) -> Result<Apt, Failure> {
    Apt::open(step, &options.apt_etc, Kind::Deb, &recipe.kernel.suites, options.refresh)
}

fn package_record(package: &Package) -> PackageRecord {
    PackageRecord { name: package.name.clone(), version: package.version.clone(), sha256: package.sha256 }
}

/// The folder an input stands for. What the builder made is named by its digest already.
fn input_folder(
    sources: &BTreeMap<String, PathBuf>,
    compiles: &BTreeMap<String, PathBuf>,
    input: &Input,
) -> Result<InputFolder, Failure> {
    let made = |folder: &PathBuf| {
        let mut digest = DigestBuilder::default();
        digest.add(folder.file_name().unwrap_or_default().as_encoded_bytes());
        InputFolder { folder: folder.clone(), digest: digest.finish() }
    };
    match input {
        // The recipe was checked: these names exist.
        Input::Source(name) => Ok(made(&sources[name])),
        Input::Compile(name) => Ok(made(&compiles[name])),
        Input::Folder(path) => {
            Ok(InputFolder { digest: compile::folder_digest(path)?, folder: path.clone() })
        }
    }
}

/// `/etc/bindervm/boot.json`, which the agent reads; `guest/agent` documents it.
#[derive(Serialize)]
struct Boot<'a> {
    hostname: &'a str,
    binder: BootModules,
    devices: &'a [String],
    binderfs: bool,
    on_demand: DeviceModules,
    services: &'a [Service],
    cgroups: &'a [String],
}

/// For each device that a run may have or not, the lines of its modules in load order.
type DeviceModules = BTreeMap<String, Vec<String>>;

/// Lines `PATH OPTIONS`, in load order, for each driver.
#[derive(Serialize)]
struct BootModules {
    host: Vec<String>,
    kernel: Vec<String>,
}

/// Puts the guest's files together.
fn initramfs(
    recipe: &Recipe,
    kernel: &Kernel,
    products: &Products,
) -> Result<(Archive, Vec<ModuleRecord>), Failure> {
    let mut archive = Archive::default();
    for folder in &recipe.directories {
        archive.add(folder, Node::Directory)?;
    }
    for device in &recipe.devices {
        let (mode, major, minor) = (device.mode, device.major, device.minor);
        archive.add(&device.path, Node::CharDevice { mode, major, minor })?;
    }
    for links in &recipe.links {
        for name in &links.names {
            archive.add(&format!("{}/{name}", links.folder), Node::Symlink(links.target.clone()))?;
        }
    }
    for file in &recipe.files {
        let data = match &file.from {
            Origin::Text(text) => text.clone().into_bytes(),
            Origin::File(path) => read(path)?,
            Origin::Cargo(package) => read(&products.programs[package])?,
            Origin::Compile { step, file } => read_product(&products.compiles[step], file, step)?,
            Origin::Package { name, file } => read_product(&products.packages[name], file, name)?,
        };
        archive.add(&file.path, Node::File { mode: file.mode, data })?;
    }
    archive.add("init", Node::File { mode: 0o755, data: read(&products.init)? })?;

    let (modules, on_demand) = add_modules(&mut archive, recipe, kernel, &products.modules)?;
    let lines = |when: LoadedFor| -> Vec<String> {
        modules.iter().filter(|module| module.loaded_for == when).map(module_line).collect()
    };
    let base = lines(LoadedFor::EveryBoot).join("\n") + "\n";
    archive.add("etc/bindervm/modules", Node::File { mode: 0o644, data: base.into_bytes() })?;
    let boot = Boot {
        hostname: &recipe.name,
        binder: BootModules { host: lines(LoadedFor::HostBinder), kernel: lines(LoadedFor::KernelBinder) },
        devices: &recipe.binder.devices,
        binderfs: recipe.binder.binderfs,
        on_demand,
        services: &recipe.services,
        cgroups: &recipe.cgroups,
    };
    let data = serde_json::to_vec_pretty(&boot)
        .map_err(|error| Failure::file("write", Path::new("/etc/bindervm/boot.json"), error.into()))?;
    archive.add("etc/bindervm/boot.json", Node::File { mode: 0o644, data })?;
    Ok((archive, modules))
}

/// What the agent reads: `PATH OPTIONS`.
fn module_line(module: &ModuleRecord) -> String {
    format!("{} {}", module.path, module.options).trim_end().to_owned()
}

/// Adds the wanted modules and what they need; gives them in load order, and for each device of
/// `on_demand` the lines that load what it needs beside the modules of every boot.
fn add_modules(
    archive: &mut Archive,
    recipe: &Recipe,
    kernel: &Kernel,
    own: &BTreeMap<String, PathBuf>,
) -> Result<(Vec<ModuleRecord>, DeviceModules), Failure> {
    let mut graph = kernel.modules()?;
    for file in own.values() {
        graph.add(&file.to_string_lossy(), depends_of(&read(file)?));
    }
    let mut records: Vec<ModuleRecord> = Vec::new();
    let mut on_demand: DeviceModules = BTreeMap::new();
    let lists = [
        (LoadedFor::EveryBoot, None, &recipe.kernel.load),
        (LoadedFor::HostBinder, None, &recipe.binder.host),
        (LoadedFor::KernelBinder, None, &recipe.binder.kernel),
    ];
    let devices = &recipe.kernel.on_demand;
    let devices = devices.iter().map(|(device, wanted)| (LoadedFor::OnDemand, Some(device), wanted));
    for (loaded_for, device, wanted) in lists.into_iter().chain(devices) {
        for name in graph.load_order(wanted.iter().map(String::as_str))? {
            let there = records.iter().find(|there| there.name == name);
            if there.is_some_and(|there| there.loaded_for == LoadedFor::EveryBoot) {
                continue; // loaded already whichever driver is chosen
            }
            if let (Some(device), Some(there)) = (device, there) {
                on_demand.entry(device.clone()).or_default().push(module_line(there));
                continue; // two devices need it
            }
            // Names come from the graph. Joining an absolute path (our own module) gives that path.
            let file = kernel.modules_folder().join(graph.path(&name).unwrap_or_default());
            let path = format!("lib/modules/{name}.ko");
            archive.add(&path, Node::File { mode: 0o644, data: read_module(&file)? })?;
            let options = recipe.kernel.options.get(&name).cloned().unwrap_or_default();
            let record = ModuleRecord { name, path: format!("/{path}"), options, loaded_for };
            if let Some(device) = device {
                on_demand.entry(device.clone()).or_default().push(module_line(&record));
            }
            records.push(record);
        }
    }
    Ok((records, on_demand))
}

/// A module's bytes; Debian's kernels from 6.6 on have them compressed.
fn read_module(file: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read(file)?;
    if file.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut module = Vec::new();
    XzReader::new(bytes.as_slice(), false)
        .read_to_end(&mut module)
        .map_err(|source| Failure::file("unpack", file, source))?;
    Ok(module)
}

fn read_product(folder: &Path, file: &str, what: &str) -> Result<Vec<u8>, Failure> {
    let path = folder.join(file);
    if !path.is_file() {
        return Err(Failure::NotProduced { what: what.to_owned(), file: path });
    }
    read(&path)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|source| Failure::file("read", file, source))
}
