//! Built images: opening one by name or path, listing them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::build;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::manifest::{FORMAT, FileRecord, Manifest};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const VMLINUX: &str = "vmlinux";
pub(crate) const INITRAMFS: &str = "initramfs.cpio";

/// A manifest lists some hundred files.
const MAX_MANIFEST: u64 = 16 << 20;

/// An image that was opened and is whole.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its folder.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

/// Why something is not an image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Nothing of that name was built.
    #[error("there is no image '{name}' (built: {built}); {way_on}")]
    NotBuilt {
        /// What was asked for.
        name: String,
        /// Names that exist.
        built: String,
        /// How to build it, or what may have been meant.
        way_on: String,
    },
    /// No cache to look for names in.
    #[error("cannot look up image names: neither XDG_CACHE_HOME nor HOME is an absolute path")]
    NoCache,
    /// A file of the image cannot be read.
    #[error("{path} is not an image: cannot read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{path} is not the manifest of an image")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The manifest is of another version of this program.
    #[error("{path} has format {got}, this program knows {FORMAT}; build the image again")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        got: u32,
    },
    /// A file is not what the manifest says.
    #[error("{path} is damaged: {reason}; build the image again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Image {
    /// Opens the image in `dir`: reads the manifest, checks sizes and first bytes of the files beside it.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let path = dir.join(MANIFEST);
        let read = |source| ImageError::Read { path: path.clone(), source };
        let mut text = Vec::new();
        let file = fs::File::open(&path).map_err(read)?;
        file.take(MAX_MANIFEST + 1).read_to_end(&mut text).map_err(read)?;
        if text.len() as u64 > MAX_MANIFEST {
            return Err(ImageError::Damaged { path, reason: "it is larger than any manifest".into() });
        }
        let manifest = |source| ImageError::Manifest { path: path.clone(), source };
        // The format first: a manifest of another version may lack fields of this one.
        #[derive(serde::Deserialize)]
        struct Versioned {
            format: u32,
        }
        let Versioned { format } = serde_json::from_slice(&text).map_err(manifest)?;
        if format != FORMAT {
            return Err(ImageError::Format { path, got: format });
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(manifest)?;
        let image = Self { dir: dir.to_owned(), manifest };
        check(&image.vmlinux(), &image.manifest.vmlinux, b"\x7fELF")?;
        check(&image.initramfs(), &image.manifest.initramfs, b"070701")?;
        Ok(image)
    }

    /// The kernel, an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join(VMLINUX)
    }

    /// The initramfs, an uncompressed newc cpio archive.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join(INITRAMFS)
    }

    /// Compares kernel and initramfs with their checksums: reads some 70 MB.
    pub fn verify(&self) -> Result<(), ImageError> {
        for (path, record) in
            [(self.vmlinux(), &self.manifest.vmlinux), (self.initramfs(), &self.manifest.initramfs)]
        {
            match Digest::of_file(&path) {
                Ok(digest) if digest == record.sha256 => {}
                Ok(digest) => {
                    let reason = format!("sha256 is {digest}, the manifest says {}", record.sha256);
                    return Err(ImageError::Damaged { path, reason });
                }
                Err(source) => return Err(ImageError::Read { path, source }),
            }
        }
        Ok(())
    }
}

fn check(path: &Path, record: &FileRecord, magic: &[u8]) -> Result<(), ImageError> {
    let read = |source| ImageError::Read { path: path.to_owned(), source };
    let damaged = |reason| Err(ImageError::Damaged { path: path.to_owned(), reason });
    let mut file = fs::File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    if size != record.size {
        return damaged(format!("it has {size} bytes, the manifest says {}", record.size));
    }
    let mut start = vec![0; magic.len()];
    if file.read_exact(&mut start).is_err() || start != magic {
        return damaged("its first bytes are wrong".into());
    }
    Ok(())
}

/// Opens an image: what contains a slash is a folder, everything else a name in the user's cache.
pub fn open(name_or_path: &str) -> Result<Image, ImageError> {
    if name_or_path.contains('/') {
        return Image::open(Path::new(name_or_path));
    }
    open_in(&Cache::of_user().ok_or(ImageError::NoCache)?, name_or_path)
}

/// Opens the current image of that name in `cache`.
pub fn open_in(cache: &Cache, name: &str) -> Result<Image, ImageError> {
    match find_built_in(cache, name) {
        Some(dir) => Image::open(&dir),
        None => {
            let mut built: Vec<_> =
                list_in(cache).into_iter().map(|listed| listed.image.manifest.name).collect();
            built.dedup();
            let way_on = way_on(cache, name, &built);
            let built = if built.is_empty() { "none".into() } else { built.join(", ") };
            Err(ImageError::NotBuilt { name: name.to_owned(), built, way_on })
        }
    }
}

/// What to do about an image that was not built: build it, if there is such a recipe; else maybe another was meant.
fn way_on(cache: &Cache, name: &str, built: &[String]) -> String {
    let recipes = build::recipes(&build::Options::new(cache.clone()).recipes);
    let recipes: Vec<_> = recipes.into_iter().map(|recipe| recipe.name).collect();
    if recipes.iter().any(|recipe| recipe == name) {
        return format!("build it with `bindervm image build {name}`");
    }
    let known = built.iter().chain(&recipes).map(String::as_str);
    did_you_mean(name, known)
        .unwrap_or_else(|| "nor is there a recipe of that name; `bindervm image list` has all".to_owned())
}

/// The nearest of `known` to a name that nothing has, as a question, if one is near; of several the first.
pub fn did_you_mean<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| format!("did you mean `{name}`?"))
}

/// The folder of the image last built under that name, in the user's cache.
pub fn find_built(name: &str) -> Option<PathBuf> {
    find_built_in(&Cache::of_user()?, name)
}

/// The folder of the image last built under that name.
pub fn find_built_in(cache: &Cache, name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return None;
    }
    fs::canonicalize(cache.images().join(name)).ok().filter(|dir| dir.join(MANIFEST).is_file())
}

/// An image in the list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The image.
    pub image: Image,
    /// True if its name opens it; older builds are kept beside it.
    pub current: bool,
}

/// All built images of the user's cache, by name, the newest first.
pub fn list() -> Result<Vec<Listed>, ImageError> {
    Ok(list_in(&Cache::of_user().ok_or(ImageError::NoCache)?))
}

/// All built images of `cache`, by name, the newest first. What is no image is left out.
pub fn list_in(cache: &Cache) -> Vec<Listed> {
    let mut listed: Vec<_> = fs::read_dir(cache.images())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Image::open(&fs::canonicalize(entry.path()).ok()?).ok())
        .map(|image| Listed {
            current: find_built_in(cache, &image.manifest.name).as_ref() == Some(&image.dir),
            image,
        })
        .collect();
    listed.sort_by(|a, b| {
        let (a, b) = (&a.image.manifest, &b.image.manifest);
        a.name.cmp(&b.name).then(b.build_date.cmp(&a.build_date))
    });
    listed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::testing::write_sample;

    #[test]
    fn a_written_image_opens_by_name_and_path() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let image = write_sample(&cache, "tiny", "first");
        assert_eq!(open_in(&cache, "tiny").unwrap().dir, image.dir);
        assert_eq!(open(&image.dir.to_string_lossy()).unwrap().manifest, image.manifest);
        image.verify().unwrap();
    }

    #[test]
    fn the_last_built_is_current_and_both_are_listed() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let first = write_sample(&cache, "tiny", "first");
        let second = write_sample(&cache, "tiny", "second");
        assert_eq!(find_built_in(&cache, "tiny"), Some(second.dir));
        let current: Vec<_> = list_in(&cache).iter().map(|listed| listed.current).collect();
        assert_eq!(current.iter().filter(|&&current| current).count(), 1);
        assert_eq!(current.len(), 2);
        // The same content again is the same image, and current again.
        assert_eq!(write_sample(&cache, "tiny", "first").dir, first.dir);
        assert_eq!(find_built_in(&cache, "tiny"), Some(first.dir));
        assert_eq!(list_in(&cache).len(), 2);
    }

    #[test]
    fn a_name_that_was_not_built() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        write_sample(&cache, "tiny", "first");
        let said = open_in(&cache, "nope").unwrap_err().to_string();
        assert!(said.ends_with("no image 'nope' (built: tiny); nor is there a recipe of that name; `bindervm image list` has all"), "{said}");
        // Of names that are equally near, one that is built.
        write_sample(&cache, "aosp14", "first");
        let said = |name: &str| open_in(&cache, name).unwrap_err().to_string();
        assert!(said("aosp15").ends_with("did you mean `aosp14`?"), "{}", said("aosp15"));
        assert!(said("tyni").ends_with("did you mean `tiny`?"), "{}", said("tyni"));
        assert!(
            said("minimal").ends_with("build it with `bindervm image build minimal`"),
            "{}",
            said("minimal")
        );
        assert_eq!(find_built_in(&cache, "../images/tiny"), None);
    }

    #[test]
    fn garbage_is_refused_with_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let dir = write_sample(&cache, "tiny", "first").dir;
        let complaint = || Image::open(&dir).unwrap_err().to_string();

        let manifest = fs::read(dir.join(MANIFEST)).unwrap();
        for garbage in [&b""[..], b"{}", b"\xff\xfe garbage", &manifest[..manifest.len() / 2]] {
            fs::write(dir.join(MANIFEST), garbage).unwrap();
            assert!(complaint().contains("is not the manifest of an image"), "{}", complaint());
        }
        let newer = String::from_utf8_lossy(&manifest).replace("\"format\": 1", "\"format\": 99");
        fs::write(dir.join(MANIFEST), newer).unwrap();
        assert!(complaint().contains("has format 99"), "{}", complaint());

        fs::write(dir.join(MANIFEST), &manifest).unwrap();
        let kernel = fs::read(dir.join(VMLINUX)).unwrap();
        fs::write(dir.join(VMLINUX), &kernel[1..]).unwrap();
        assert!(complaint().contains("vmlinux is damaged: it has"), "{}", complaint());
        fs::write(dir.join(VMLINUX), vec![0; kernel.len()]).unwrap();
        assert!(complaint().contains("first bytes are wrong"), "{}", complaint());
        let mut flipped = kernel.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(dir.join(VMLINUX), flipped).unwrap();
        assert!(Image::open(&dir).unwrap().verify().is_err());
        fs::remove_file(dir.join(VMLINUX)).unwrap();
        assert!(complaint().contains("cannot read it"), "{}", complaint());
        assert!(Image::open(Path::new("/dev/null")).is_err());
    }
}
