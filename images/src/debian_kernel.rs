//! Debian's kernel and its headers: which version a suite has, fetched, unpacked, made usable in place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{Apt, Package};
use crate::digest::DigestBuilder;
use crate::error::{Failure, Purpose};
use crate::kernel::extract_vmlinux;
use crate::modules::ModuleGraph;
use crate::recipe::CompiledKernel;
use crate::step::{Outcome, Step};

/// An unpacked kernel package, or a kernel that a compile step made.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// What `uname -r` says, e.g. `6.1.0-56-amd64`.
    pub release: String,
    /// The package it came from; none: it was compiled, and has no modules.
    pub package: Option<Package>,
    /// The unpacked package, or the step's folder.
    folder: PathBuf,
    /// The ELF kernel in it.
    file: String,
}

impl Kernel {
    /// The kernel that a recipe's compile step made in `folder`.
    pub fn compiled(recipe: &CompiledKernel, folder: &Path) -> Kernel {
        let (release, file) = (recipe.release.clone(), recipe.file.clone());
        Kernel { release, package: None, folder: folder.to_owned(), file }
    }

    /// The ELF kernel.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join(&self.file)
    }

    /// Where module paths in [`Kernel::modules`] count from.
    pub fn modules_folder(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// The modules the package has.
    pub fn modules(&self) -> Result<ModuleGraph, Failure> {
        if self.package.is_none() {
            return Ok(ModuleGraph::from_modules_dep(""));
        }
        let read = |name: &str| {
            let file = self.modules_folder().join(name);
            fs::read_to_string(&file).map_err(|source| Failure::file("read", &file, source))
        };
        let mut graph = ModuleGraph::from_modules_dep(&read("modules.dep")?);
        graph.add_built_in(&read("modules.builtin")?);
        Ok(graph)
    }
}

/// Kernel headers against which modules can be built with `make -C folder M=...`.
#[derive(Debug, Clone)]
pub struct Headers {
    /// What `uname -r` of that kernel says.
    pub release: String,
    /// Version of the Debian packages; the kernel image of this version has the same interfaces.
    pub version: String,
    /// The folder for `make -C`.
    pub folder: PathBuf,
    /// The packages they came from.
    pub packages: Vec<Package>,
}

/// Finds the kernel that `metapackage` stands for, fetches and unpacks it.
pub(crate) fn fetch(
    step: &mut Step<'_>,
    apt: &mut Apt,
    metapackage: &str,
) -> Result<Outcome<Kernel>, Failure> {
    let (package, deb) = apt.retry_fresh(step, |apt, step| {
        let package = resolve(step, apt, metapackage)?;
        let files = apt.download(step, std::slice::from_ref(&package))?;
        Ok((package, files))
    })?;
    let release = package.name.trim_start_matches("linux-image-").to_owned();
    let cache = step.cache;
    let (folder, cached) = cache.folder("kernels", &package.sha256.short(), |folder| {
        unpack_deb(step, &deb[0], folder)?;
        let bzimage = folder.join("boot").join(format!("vmlinuz-{release}"));
        let bytes = fs::read(&bzimage).map_err(|source| Failure::file("read", &bzimage, source))?;
        let vmlinux = folder.join("vmlinux");
        fs::write(&vmlinux, extract_vmlinux(&bytes)?)
            .map_err(|source| Failure::file("write", &vmlinux, source))?;
        // Debian runs depmod when the package is installed; we only unpack it.
        let mut depmod = Command::new("depmod");
        depmod.env("PATH", path_with_sbin()).arg("-b").arg(folder).arg(&release);
        step.run(&mut depmod, Purpose::Unpack)
    })?;
    let file = "vmlinux".to_owned();
    Ok(Outcome { value: Kernel { release, package: Some(package), folder, file }, cached })
}

/// The package of the concrete kernel: `linux-image-amd64` depends on `linux-image-6.1.0-56-amd64 (= version)`.
fn resolve(step: &mut Step<'_>, apt: &Apt, metapackage: &str) -> Result<Package, Failure> {
    let meta = apt.show(step, metapackage, None)?;
    let Some(name) = meta.needs("linux-image-").next() else {
        return Err(Failure::NotInIndex(format!("package {metapackage} stands for no kernel")));
    };
    apt.show(step, name, Some(&meta.version))
}

/// Fetches and unpacks the headers of the kernel `metapackage` stands for, in exactly its version.
pub(crate) fn fetch_headers(
    step: &mut Step<'_>,
    apt: &mut Apt,
    metapackage: &str,
) -> Result<Outcome<Headers>, Failure> {
    let (image, packages, debs) = apt.retry_fresh(step, |apt, step| {
        let image = resolve(step, apt, metapackage)?;
        let name = image.name.replacen("linux-image-", "linux-headers-", 1);
        // Named with the image's version: other headers of the same name would build modules that do not load.
        let headers = apt.show(step, &name, Some(&image.version))?;
        let mut packages = vec![headers.clone()];
        for name in headers.needs("linux-headers-") {
            packages.push(apt.show(step, name, Some(&image.version))?);
        }
        for name in headers.needs("linux-kbuild-") {
            packages.push(apt.show(step, name, None)?);
        }
        let debs = apt.download(step, &packages)?;
        Ok((image, packages, debs))
    })?;
    let release = image.name.trim_start_matches("linux-image-").to_owned();
    let mut key = DigestBuilder::default();
    packages.iter().for_each(|package| {
        key.add(package.sha256);
    });
    let cache = step.cache;
    let (folder, cached) = cache.folder("headers", &key.finish().short(), |folder| {
        debs.iter().try_for_each(|deb| unpack_deb(step, deb, folder))?;
        make_usable(&folder.join("usr/src").join(format!("linux-headers-{release}")))
    })?;
    let folder = folder.join("usr/src").join(format!("linux-headers-{release}"));
    Ok(Outcome { value: Headers { release, version: image.version, folder, packages }, cached })
}

/// Two edits let headers work from where they were unpacked.
fn make_usable(headers: &Path) -> Result<(), Failure> {
    // The Makefile includes the common one by its path in /usr/src.
    edit(&headers.join("Makefile"), |text| text.replace("/usr/src/", "../"))?;
    // BTF for modules needs pahole and a vmlinux; a module without it loads as well. (The C side,
    // autoconf.h, must stay: the option changes the layout of struct module.)
    edit(&headers.join("include/config/auto.conf"), |text| {
        text.lines()
            .filter(|line| !line.starts_with("CONFIG_DEBUG_INFO_BTF_MODULES="))
            .flat_map(|line| [line, "\n"])
            .collect()
    })
}

fn edit(file: &Path, change: impl FnOnce(&str) -> String) -> Result<(), Failure> {
    let text = fs::read_to_string(file).map_err(|source| Failure::file("read", file, source))?;
    fs::write(file, change(&text)).map_err(|source| Failure::file("write", file, source))
}

/// Unpacks a binary package into `folder`.
pub(crate) fn unpack_deb(step: &mut Step<'_>, deb: &Path, folder: &Path) -> Result<(), Failure> {
    step.run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder), Purpose::Unpack)
}

/// `depmod` stands in /usr/sbin, which users often lack in their path.
pub(crate) fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_work_from_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let headers = folder.path();
        fs::create_dir_all(headers.join("include/config")).unwrap();
        fs::write(headers.join("Makefile"), "include /usr/src/linux-headers-6.1.0-56-common/Makefile\n")
            .unwrap();
        fs::write(
            headers.join("include/config/auto.conf"),
            "CONFIG_A=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\nCONFIG_DEBUG_INFO_BTF=y\n",
        )
        .unwrap();
        make_usable(headers).unwrap();
        let read = |name: &str| fs::read_to_string(headers.join(name)).unwrap();
        assert_eq!(read("Makefile"), "include ../linux-headers-6.1.0-56-common/Makefile\n");
        assert_eq!(read("include/config/auto.conf"), "CONFIG_A=y\nCONFIG_DEBUG_INFO_BTF=y\n");
    }
}
