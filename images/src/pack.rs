//! Packing: from kernel, initramfs content and records to an image folder.

use std::fs;
use std::io;
use std::path::Path;

use crate::cache::Cache;
#[cfg(test)]
use crate::cache::create_dir_all;
use crate::cpio::{Archive, Node};
use crate::digest::{Digest, DigestBuilder};
use crate::error::Failure;
use crate::image::{INITRAMFS, Image, MANIFEST, VMLINUX};
use crate::manifest::{FORMAT, FileRecord, Manifest, ModuleRecord, PackageRecord, SourceRecord};
use crate::recipe::{LsmMode, Service};

/// All that goes into an image.
pub(crate) struct Contents<'a> {
    pub name: &'a str,
    pub summary: &'a str,
    pub recipe: Digest,
    pub kernel: &'a str,
    pub vmlinux: &'a Path,
    pub command_line: String,
    pub modules: Vec<ModuleRecord>,
    pub lsm: LsmMode,
    pub services: Vec<Service>,
    pub packages: Vec<PackageRecord>,
    pub sources: Vec<SourceRecord>,
    pub initramfs: Archive,
}

/// Writes the image, unless one with the same content exists, and makes it the current one of its name.
/// The flag tells whether it existed.
pub(crate) fn write(
    cache: &Cache,
    contents: Contents<'_>,
    build_date: u64,
) -> Result<(Image, bool), Failure> {
    let vmlinux = Digest::of_file(contents.vmlinux)
        .map_err(|source| Failure::file("read", contents.vmlinux, source))?;
    let mut digest = DigestBuilder::default();
    digest.add(FORMAT.to_le_bytes()).add(vmlinux).add(&contents.command_line).add([contents.lsm as u8]);
    // The date is left out, so that building the same things again gives the image that exists.
    digest.add(contents.initramfs.write(0)?);
    let digest = digest.finish();

    let name = format!("{}-{}", contents.name, digest.short());
    let dir = cache.images().join(&name);
    if dir.exists() && Image::open(&dir).is_err() {
        // Damaged from outside: written again.
        fs::remove_dir_all(&dir).map_err(|source| Failure::file("remove the damaged", &dir, source))?;
    }
    let link = cache.images().join(contents.name);
    let (dir, existed) = cache.folder("images", &name, |folder| {
        let initramfs = contents.initramfs.write(u32::try_from(build_date).unwrap_or(u32::MAX))?;
        link_or_copy(contents.vmlinux, &folder.join(VMLINUX))?;
        write_file(&folder.join(INITRAMFS), &initramfs)?;
        let manifest = manifest(contents, build_date, digest, vmlinux, &initramfs)?;
        write_file(&folder.join(MANIFEST), &manifest)
    })?;
    make_current(&link, &name)?;
    Ok((Image::open(&dir)?, existed))
}

fn manifest(
    contents: Contents<'_>,
    build_date: u64,
    image: Digest,
    vmlinux: Digest,
    initramfs: &[u8],
) -> Result<Vec<u8>, Failure> {
    let vmlinux_size = fs::metadata(contents.vmlinux)
        .map_err(|source| Failure::file("read", contents.vmlinux, source))?
        .len();
    let files = contents.initramfs.entries().filter_map(|(path, node)| match node {
        Node::File { data, .. } => Some(record(path, data.len() as u64, Digest::of(data))),
        _ => None,
    });
    let manifest = Manifest {
        format: FORMAT,
        name: contents.name.to_owned(),
        summary: contents.summary.to_owned(),
        recipe: contents.recipe,
        image,
        build_date,
        kernel: contents.kernel.to_owned(),
        command_line: contents.command_line.clone(),
        vmlinux: record(VMLINUX, vmlinux_size, vmlinux),
        initramfs: record(INITRAMFS, initramfs.len() as u64, Digest::of(initramfs)),
        modules: contents.modules.clone(),
        lsm: contents.lsm,
        services: contents.services.clone(),
        packages: contents.packages.clone(),
        sources: contents.sources.clone(),
        files: files.collect(),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::other);
    text.map_err(|source| Failure::file("write", Path::new(MANIFEST), source))
}

fn record(path: &str, size: u64, sha256: Digest) -> FileRecord {
    FileRecord { path: path.to_owned(), size, sha256 }
}

/// The kernel is 66 MB and never written to again: a second name for it is enough.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .map_err(|source| Failure::file("write", to, source))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|source| Failure::file("write", path, source))
}

/// Lets `link` point to `target`, in one move for all who look.
fn make_current(link: &Path, target: &str) -> Result<(), Failure> {
    let failed = |source| Failure::file("write", link, source);
    let new = link.with_file_name(format!(".making-{target}"));
    match fs::remove_file(&new) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(source)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &new).map_err(failed)?;
    fs::rename(&new, link).map_err(failed)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Writes an image whose kernel is the ELF magic and `text`.
    pub fn write_sample(cache: &Cache, name: &str, text: &str) -> Image {
        create_dir_all(cache.root()).unwrap();
        let vmlinux = cache.root().join(format!("vmlinux-{text}"));
        fs::write(&vmlinux, format!("\x7fELF{text}")).unwrap();
        let mut initramfs = Archive::default();
        initramfs.add("init", Node::File { mode: 0o755, data: text.as_bytes().to_vec() }).unwrap();
        let contents = Contents {
            name,
            summary: "a test",
            recipe: Digest::of(b"recipe"),
            kernel: "6.1",
            vmlinux: &vmlinux,
            command_line: "quiet".into(),
            modules: Vec::new(),
            lsm: LsmMode::default(),
            services: Vec::new(),
            packages: Vec::new(),
            sources: Vec::new(),
            initramfs,
        };
        write(cache, contents, 1_700_000_000).unwrap().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio;

    #[test]
    fn the_manifest_describes_the_files() {
        let root = tempfile::tempdir().unwrap();
        let image = testing::write_sample(&Cache::at(root.path()), "tiny", "x");
        assert_eq!(image.manifest.build_date, 1_700_000_000);
        assert_eq!(image.manifest.files, [record("init", 1, Digest::of(b"x"))]);
        let archive = cpio::read(&fs::read(image.initramfs()).unwrap()).unwrap();
        assert_eq!(archive.entries().map(|(path, _)| path).collect::<Vec<_>>(), ["init"]);
    }

    #[test]
    fn a_damaged_image_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let image = testing::write_sample(&cache, "tiny", "x");
        fs::remove_file(image.initramfs()).unwrap();
        assert!(Image::open(&image.dir).is_err());
        assert_eq!(testing::write_sample(&cache, "tiny", "x").dir, image.dir);
        Image::open(&image.dir).unwrap().verify().unwrap();
    }
}
