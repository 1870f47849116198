//! A recipe's text as it stands: a whole recipe, or a layer that stands on another recipe.
//!
//! Lists of a layer are appended to the base's; a file at a path that the base has takes its place.
//! What there is one of (the kernel's suites and package, the agent, the binder modules) overrides.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    Binder, CargoPackage, Compile, Device, GuestFile, Input, Kernel, Links, Origin, OwnModule, Recipe,
    Service, Source,
};
use crate::digest::{Digest, DigestBuilder};

/// The keys of a `recipe.toml`; [`Recipe`] says what each means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layer {
    name: String,
    summary: String,
    /// The recipe below: a name beside this one's folder, or a path.
    pub base: Option<PathBuf>,
    #[serde(default)]
    suites: Vec<String>,
    #[serde(default)]
    kernel: Kernel,
    binder: Option<Binder>,
    agent: Option<CargoPackage>,
    #[serde(default, rename = "module")]
    modules: Vec<OwnModule>,
    #[serde(default, rename = "source")]
    sources: Vec<Source>,
    #[serde(default, rename = "compile")]
    compiles: Vec<Compile>,
    #[serde(default)]
    directories: Vec<String>,
    #[serde(default)]
    cgroups: Vec<String>,
    #[serde(default, rename = "file")]
    files: Vec<GuestFile>,
    #[serde(default)]
    links: Vec<Links>,
    #[serde(default, rename = "device")]
    devices: Vec<Device>,
    #[serde(default, rename = "service")]
    services: Vec<Service>,
}

impl Layer {
    /// Makes all paths absolute, seen from `folder`.
    pub fn resolve(&mut self, folder: &Path) {
        // Joining an absolute path gives that path.
        let resolve = |path: &mut PathBuf| *path = folder.join(&path);
        if let Some(base) = &mut self.base {
            *base = folder.join("..").join(&base);
        }
        if let Some(agent) = &mut self.agent {
            resolve(&mut agent.folder);
        }
        self.modules.iter_mut().for_each(|module| resolve(&mut module.folder));
        for compile in &mut self.compiles {
            resolve(&mut compile.makefile);
            for input in compile.inputs.values_mut() {
                if let Input::Folder(path) = input {
                    resolve(path);
                }
            }
        }
        for file in &mut self.files {
            match &mut file.from {
                Origin::File(path) => resolve(path),
                Origin::Cargo(package) => resolve(&mut package.folder),
                Origin::Compile { .. } | Origin::Package { .. } | Origin::Text(_) => {}
            }
        }
    }

    /// Puts the layer on its base; `digest` is that of the layer's text.
    pub fn onto(self, base: Option<Recipe>, digest: Digest) -> Result<Recipe, String> {
        let Some(base) = base else {
            return Ok(Recipe {
                name: self.name,
                summary: self.summary,
                suites: self.suites,
                kernel: self.kernel,
                binder: self.binder.unwrap_or_default(),
                agent: self.agent.ok_or("missing field `agent`")?,
                modules: self.modules,
                sources: self.sources,
                compiles: self.compiles,
                directories: self.directories,
                cgroups: self.cgroups,
                files: self.files,
                links: self.links,
                devices: self.devices,
                services: self.services,
                digest,
            });
        };
        let mut digests = DigestBuilder::default();
        digests.add(base.digest).add(digest);
        let replaced = |file: &GuestFile| self.files.iter().any(|own| own.path == file.path);
        let files = base.files.iter().filter(|file| !replaced(file)).cloned().collect();
        Ok(Recipe {
            name: self.name,
            summary: self.summary,
            suites: overridden(base.suites, self.suites),
            kernel: kernel(base.kernel, self.kernel),
            binder: self.binder.unwrap_or(base.binder),
            agent: self.agent.unwrap_or(base.agent),
            modules: appended(base.modules, self.modules),
            sources: appended(base.sources, self.sources),
            compiles: appended(base.compiles, self.compiles),
            directories: appended(base.directories, self.directories),
            cgroups: appended(base.cgroups, self.cgroups),
            files: appended(files, self.files),
            links: appended(base.links, self.links),
            devices: appended(base.devices, self.devices),
            services: appended(base.services, self.services),
            digest: digests.finish(),
        })
    }
}

fn kernel(base: Kernel, own: Kernel) -> Kernel {
    Kernel {
        suites: overridden(base.suites, own.suites),
        package: if own.package.is_empty() { base.package } else { own.package },
        compiled: own.compiled.or(base.compiled),
        load: appended(base.load, own.load),
        on_demand: base.on_demand.into_iter().chain(own.on_demand).collect(),
        options: base.options.into_iter().chain(own.options).collect(),
        command_line: appended(base.command_line, own.command_line),
    }
}

fn overridden<T>(base: Vec<T>, own: Vec<T>) -> Vec<T> {
    if own.is_empty() { base } else { own }
}

fn appended<T>(mut base: Vec<T>, own: Vec<T>) -> Vec<T> {
    base.extend(own);
    base
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::recipe::RecipeError;

    const BASE: &str = r#"
name = "below"
summary = "a test"
agent = { folder = ".", package = "agent" }
directories = ["dev"]
[kernel]
suites = ["bookworm"]
package = "linux-image-amd64"
load = ["virtio_mmio"]
command_line = ["quiet"]
options = { virtio_mmio = "a=1" }
[[file]]
path = "a"
from = { text = "below" }
[[file]]
path = "b"
from = { file = "recipe.toml" }
"#;

    /// Writes recipes `NAME/recipe.toml` and reads the last one.
    fn read(recipes: &[(&str, &str)]) -> Result<Recipe, RecipeError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in recipes {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("recipe.toml"), text).unwrap();
        }
        Recipe::read(&folder.path().join(recipes.last().unwrap().0))
    }

    #[test]
    fn a_layer_adds_and_overrides() {
        let own = r#"
            name = "above"
            summary = "more"
            base = "below"
            directories = ["data"]
            cgroups = ["uid_0"]
            [kernel]
            suites = ["bookworm-backports"]
            load = ["virtio_rng"]
            command_line = ["panic=-1"]
            options = { virtio_rng = "b=2" }
            [[file]]
            path = "a"
            from = { text = "above" }
        "#;
        let recipe = read(&[("below", BASE), ("above", own)]).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.summary.as_str()), ("above", "more"));
        assert_eq!(recipe.kernel.suites, ["bookworm-backports"]);
        assert_eq!(recipe.kernel.package, "linux-image-amd64");
        assert_eq!(recipe.kernel.load, ["virtio_mmio", "virtio_rng"]);
        assert_eq!(recipe.kernel.command_line, ["quiet", "panic=-1"]);
        assert_eq!(recipe.kernel.options.len(), 2);
        assert_eq!(recipe.directories, ["dev", "data"]);
        assert_eq!(recipe.cgroups, ["uid_0"]);
        let files: Vec<_> = recipe.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, ["b", "a"]);
        assert!(matches!(&recipe.files[1].from, Origin::Text(text) if text == "above"));
        // A path of the base counts from the base's folder.
        assert!(
            matches!(&recipe.files[0].from, Origin::File(path) if path.to_string_lossy().contains("below/"))
        );
    }

    #[test]
    fn every_text_below_counts() {
        let own = "name = 'above'\nsummary = 'a'\nbase = 'below'\n";
        let digest = |base: &str| read(&[("below", base), ("above", own)]).unwrap().digest;
        assert_eq!(digest(BASE), digest(BASE));
        assert_ne!(digest(BASE), digest(&format!("{BASE}# more")));
    }

    #[test]
    fn a_circle_or_a_missing_base_is_told() {
        let circle = "name = 'round'\nsummary = 'a'\nbase = 'round'\n";
        let said = read(&[("round", circle)]).unwrap_err().to_string();
        assert!(said.contains("more than 8 recipes"), "{said}");
        let lost = "name = 'lost'\nsummary = 'a'\nbase = 'nowhere'\n";
        let said = read(&[("lost", lost)]).unwrap_err().to_string();
        assert!(said.contains("nowhere"), "{said}");
    }

    #[test]
    fn a_recipe_without_base_needs_its_parts() {
        let said = read(&[("bare", "name = 'bare'\nsummary = 'a'\n")]).unwrap_err().to_string();
        assert!(said.contains("missing field `agent`"), "{said}");
        let agent = "name = 'bare'\nsummary = 'a'\nagent = { folder = '.', package = 'agent' }\n";
        let said = read(&[("bare", agent)]).unwrap_err().to_string();
        assert!(said.contains("kernel.suites and kernel.package"), "{said}");
    }
}
