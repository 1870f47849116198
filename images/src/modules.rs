//! Kernel modules: what each depends on, and in which order a set of them is loaded.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

/// Why no load order exists.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ModuleError {
    /// Neither shipped by the kernel nor built by the recipe.
    #[error("there is no kernel module '{0}'")]
    Unknown(String),
    /// A module that the kernel does not have is named as a dependency.
    #[error("kernel module '{module}' needs '{needs}', which does not exist")]
    MissingDependency {
        /// The module that needs something.
        module: String,
        /// What it needs.
        needs: String,
    },
    /// Modules that need each other.
    #[error("kernel module '{0}' depends on itself")]
    Cycle(String),
}

/// A module's name as the kernel knows it: `virtio-rng.ko.xz` is `virtio_rng`.
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

/// Modules by name, each with its file and what it needs.
#[derive(Debug, Clone, Default)]
pub struct ModuleGraph {
    modules: BTreeMap<String, Module>,
    /// Part of the kernel itself: always there, never loaded.
    built_in: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Module {
    path: String,
    needs: Vec<String>,
}

impl ModuleGraph {
    /// Reads the `modules.dep` that `depmod` writes: `path: path-it-needs ...`, a line a module.
    pub fn from_modules_dep(text: &str) -> Self {
        let mut graph = Self::default();
        for line in text.lines() {
            if let Some((path, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(module_name).collect();
                graph.add(path.trim(), needs);
            }
        }
        graph
    }

    /// Adds what `modules.builtin` lists, a path a line.
    pub fn add_built_in(&mut self, text: &str) {
        self.built_in.extend(text.lines().map(|line| module_name(line.trim())));
    }

    /// Adds a module found at `path`, or replaces the one of its name.
    pub fn add(&mut self, path: &str, needs: Vec<String>) {
        self.modules.insert(module_name(path), Module { path: path.to_owned(), needs });
    }

    /// The path under which module `name` was added.
    pub fn path(&self, name: &str) -> Option<&str> {
        self.modules.get(&module_name(name)).map(|module| module.path.as_str())
    }

    /// `wanted` and all they need, each after what it needs; otherwise in the order of `wanted`. What is built
    /// into the kernel is left out.
    pub fn load_order<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<String>, ModuleError> {
        let mut order = Vec::new();
        let mut placed = BTreeSet::new();
        for name in wanted {
            let name = module_name(name);
            if self.built_in.contains(&name) {
                continue;
            }
            if !self.modules.contains_key(&name) {
                return Err(ModuleError::Unknown(name));
            }
            self.place(&name, &mut Vec::new(), &mut placed, &mut order)?;
        }
        Ok(order)
    }

    fn place(
        &self,
        name: &str,
        above: &mut Vec<String>,
        placed: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<(), ModuleError> {
        if placed.contains(name) {
            return Ok(());
        }
        if above.iter().any(|other| other == name) {
            return Err(ModuleError::Cycle(name.to_owned()));
        }
        let Some(module) = self.modules.get(name) else {
            let module = above.last().cloned().unwrap_or_default();
            return Err(ModuleError::MissingDependency { module, needs: name.to_owned() });
        };
        above.push(name.to_owned());
        // depmod lists the deepest need last.
        for need in module.needs.iter().rev() {
            self.place(need, above, placed, order)?;
        }
        above.pop();
        placed.insert(name.to_owned());
        order.push(name.to_owned());
        Ok(())
    }
}

/// The `depends=` list that modpost puts into a module's `.modinfo`; empty if there is none.
pub fn depends_of(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(module_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/broken.ko: kernel/nowhere.ko
";

    #[test]
    fn needs_come_first_and_once() {
        let graph = ModuleGraph::from_modules_dep(DEP);
        let order = graph.load_order(["virtio_mmio", "virtio-rng"]).unwrap();
        assert_eq!(order, ["virtio_ring", "virtio", "virtio_mmio", "virtio_rng"]);
        assert_eq!(graph.path("virtio_rng"), Some("kernel/drivers/char/hw_random/virtio-rng.ko.xz"));
    }

    #[test]
    fn our_own_module_joins_the_graph() {
        let mut graph = ModuleGraph::from_modules_dep(DEP);
        graph.add(
            "/build/virtio_binder.ko",
            depends_of(b"\x7fELF..\0license=GPL\0depends=virtio,virtio_ring\0name=x\0"),
        );
        let order = graph.load_order(["virtio_binder"]).unwrap();
        assert_eq!(order, ["virtio_ring", "virtio", "virtio_binder"]);
    }

    #[test]
    fn what_is_built_in_is_not_loaded() {
        let mut graph = ModuleGraph::from_modules_dep(DEP);
        graph.add_built_in("kernel/drivers/char/virtio_console.ko\n");
        assert_eq!(graph.load_order(["virtio_console", "virtio"]).unwrap(), ["virtio_ring", "virtio"]);
    }

    #[test]
    fn modules_without_needs() {
        assert!(depends_of(b"\0depends=\0retpoline=Y\0").is_empty());
        assert!(depends_of(b"no modinfo at all").is_empty());
    }

    #[test]
    fn unknown_missing_and_circular_are_named() {
        let mut graph = ModuleGraph::from_modules_dep(DEP);
        assert_eq!(graph.load_order(["nosuch"]), Err(ModuleError::Unknown("nosuch".into())));
        assert_eq!(
            graph.load_order(["broken"]),
            Err(ModuleError::MissingDependency { module: "broken".into(), needs: "nowhere".into() })
        );
        graph.add("a.ko", vec!["b".into()]);
        graph.add("b.ko", vec!["a".into()]);
        assert_eq!(graph.load_order(["a"]), Err(ModuleError::Cycle("a".into())));
    }
}
