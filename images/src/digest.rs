//! SHA-256 digests: of bytes, of files, of folders, and of several things together.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Of a file's content.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                length => hasher.update(&buffer[..length]),
            }
        }
        Ok(Self(hasher.finalize().into()))
    }

    /// Of the names, contents and execute bits of all sources in a folder; see [`is_source`].
    pub fn of_folder(folder: &Path) -> io::Result<Self> {
        let mut builder = DigestBuilder::default();
        add_folder(&mut builder, folder, "")?;
        Ok(builder.finish())
    }

    /// The first 16 digits: enough to name a folder.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }
}

/// False for hidden files and for what kernel and C builds leave behind in a source folder.
pub fn is_source(name: &str) -> bool {
    let built = [".o", ".a", ".ko", ".mod", ".mod.c"].iter().any(|suffix| name.ends_with(suffix));
    !(name.starts_with('.')
        || built
        || name == "Module.symvers"
        || name == "modules.order"
        || name == "target")
}

fn add_folder(builder: &mut DigestBuilder, folder: &Path, prefix: &str) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_source(&name) {
            continue;
        }
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            add_folder(builder, &entry.path(), &format!("{path}/"))?;
        } else if kind.is_file() {
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mut content = Vec::new();
            File::open(entry.path())?.read_to_end(&mut content)?;
            builder.add(&path).add([u8::from(executable)]).add(&content);
        }
    }
    Ok(())
}

/// Puts a digest together from parts. Each part's length is hashed too, so parts cannot run together.
#[derive(Default)]
pub struct DigestBuilder(Sha256);

impl DigestBuilder {
    /// Adds a part.
    pub fn add(&mut self, part: impl AsRef<[u8]>) -> &mut Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The digest of all parts.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a sha256: 64 hexadecimal digits are needed");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut digest = [0; 32];
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_value_and_text_form() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").short(), &EMPTY[..16]);
    }

    #[test]
    fn parts_do_not_run_together() {
        let digest = |parts: &[&str]| {
            let mut builder = DigestBuilder::default();
            for part in parts {
                builder.add(part);
            }
            builder.finish()
        };
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
    }

    #[test]
    fn a_folder_is_its_sources() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.c", "int a;");
        let before = Digest::of_folder(folder.path()).unwrap();
        write("a.o", "built");
        write(".a.o.cmd", "built");
        assert_eq!(Digest::of_folder(folder.path()).unwrap(), before);
        write("a.c", "int b;");
        assert_ne!(Digest::of_folder(folder.path()).unwrap(), before);
    }
}
