//! What the host must have before a build begins, and which Debian packages have it.

use std::path::Path;

use crate::debian_kernel::path_with_sbin;
use crate::error::Failure;
use crate::recipe::Recipe;

/// Programs every build runs.
const ALWAYS: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("depmod", "kmod"),
    ("tar", "tar"),
    ("cc", "gcc"),
    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
];
/// To build kernel modules; Debian's headers ask for the compiler that built the kernel, and their
/// objtool for libelf.
const FOR_MODULES: &[(&str, &str)] = &[
    ("make", "make"),
    ("gcc-12", "gcc-12"),
    ("strip", "binutils"),
    ("/usr/lib/x86_64-linux-gnu/libelf.so.1", "libelf1"),
];
/// To unpack source archives and run compile steps.
const FOR_SOURCES: &[(&str, &str)] = &[("make", "make"), ("xz", "xz-utils")];

/// Fails with the packages to install if something the recipe needs is missing.
pub(crate) fn check(recipe: &Recipe) -> Result<(), Failure> {
    let mut needs: Vec<(&str, &str)> = ALWAYS.to_vec();
    if !recipe.modules.is_empty() {
        needs.extend(FOR_MODULES);
    }
    if !recipe.sources.is_empty() || !recipe.compiles.is_empty() {
        needs.extend(FOR_SOURCES);
    }
    let requires = recipe.compiles.iter().flat_map(|compile| &compile.requires);
    needs.extend(requires.map(|(program, package)| (program.as_str(), package.as_str())));

    let path = path_with_sbin();
    let exists = |program: &str| {
        program.starts_with('/') && Path::new(program).exists()
            || path.split(':').any(|folder| !folder.is_empty() && Path::new(folder).join(program).is_file())
    };
    let mut missing: Vec<(&str, &str)> = needs.into_iter().filter(|(program, _)| !exists(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_by_key(|&(_, package)| package);
    missing.dedup();
    let mut packages: Vec<String> = missing.iter().map(|(_, package)| (*package).to_owned()).collect();
    packages.dedup();
    Err(Failure::Missing {
        missing: missing.iter().map(|(program, _)| (*program).to_owned()).collect(),
        packages,
    })
}
