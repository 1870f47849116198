//! Finding the declaration of a method or a type.

use std::collections::BTreeMap;
use std::path::Path;

use super::{AidlError, Definition, Interface, Method, parse};

/// Declarations that belong together.
#[derive(Clone, Debug, Default)]
struct Source {
    /// The AOSP version they are of; `None`: the user's own, which are believed.
    android: Option<u32>,
    definitions: BTreeMap<String, Definition>,
}

/// All declarations that are known.
#[derive(Clone, Debug)]
pub struct Table {
    sources: Vec<Source>,
}

/// A method that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The method.
    pub method: &'a Method,
    /// Its interface.
    pub interface: &'a Interface,
    /// The declaration is of the guest's version: its name and signature may be believed.
    pub sure: bool,
    source: usize,
}

/// What ships: codes move between versions, so each table names its own.
const TABLES: [(u32, &str, &str); 2] = [
    (14, "aosp14.aidl", include_str!("../../tables/aosp14.aidl")),
    (10, "aosp10.aidl", include_str!("../../tables/aosp10.aidl")),
];

impl Default for Table {
    /// What ships.
    fn default() -> Table {
        let source = |(android, file, text): (u32, &str, &str)| {
            let declarations = parse(file, text).expect("our own tables are well-formed");
            let definitions = declarations.into_iter().map(|d| (d.name, d.definition)).collect();
            Source { android: Some(android), definitions }
        };
        Table { sources: TABLES.map(source).into() }
    }
}

impl Table {
    /// Reads all `.aidl` files in and below a folder, or one file; they come before all others.
    /// Returns how many declarations there are.
    pub fn add(&mut self, path: &Path) -> Result<usize, AidlError> {
        let mut files = Vec::new();
        collect(path, &mut files, 0)?;
        if files.is_empty() {
            return Err(AidlError::Empty(path.to_owned()));
        }
        files.sort();
        let mut definitions = BTreeMap::new();
        for file in files {
            let read = |source| AidlError::Read { path: file.clone(), source };
            let text = std::fs::read(&file).map_err(read)?;
            for declaration in parse(&file.display().to_string(), &String::from_utf8_lossy(&text))? {
                // `parcelable Foo;` says only that Foo exists: it must not hide its fields.
                if declaration.definition != Definition::Unstructured
                    || !definitions.contains_key(&declaration.name)
                {
                    definitions.insert(declaration.name, declaration.definition);
                }
            }
        }
        let count = definitions.len();
        self.sources.insert(0, Source { android: None, definitions });
        Ok(count)
    }

    /// The method that a code of an interface is. `android` is the guest's version, if it is known.
    pub fn method(&self, interface: &str, code: u32, android: Option<u32>) -> Option<Found<'_>> {
        let mut best: Option<(Found<'_>, u32)> = None;
        for (index, source) in self.sources.iter().enumerate() {
            let Some(Definition::Interface(interface)) = source.definitions.get(interface) else { continue };
            let sure = source.android.is_none() || source.android == android;
            let distance = match (source.android, android) {
                (Some(a), Some(b)) => a.abs_diff(b),
                _ => 0,
            };
            if let Some(method) = interface.methods.iter().find(|method| method.code == code) {
                let found = Found { method, interface, sure, source: index };
                if sure {
                    return Some(found);
                }
                if best.as_ref().is_none_or(|(_, nearest)| distance < *nearest) {
                    best = Some((found, distance));
                }
            } else if sure {
                // The right declaration has no such method: a number is the truth.
                return None;
            }
        }
        best.map(|(found, _)| found)
    }

    /// What a name in a declaration of `found` stands for.
    pub fn definition(&self, found: &Found<'_>, name: &str) -> Option<&Definition> {
        let own = self.sources.get(found.source).and_then(|source| source.definitions.get(name));
        own.or_else(|| {
            let user = self.sources.iter().filter(|source| source.android.is_none());
            user.filter_map(|source| source.definitions.get(name)).next()
        })
    }
}

/// The `.aidl` files at and below `path`. Links are not followed, so no cycle can be met.
fn collect(path: &Path, files: &mut Vec<std::path::PathBuf>, depth: usize) -> Result<(), AidlError> {
    let read = |source| AidlError::Read { path: path.to_owned(), source };
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(read)? {
        let entry = entry.map_err(read)?;
        let kind = entry.file_type().map_err(read)?;
        if kind.is_dir() && depth < 64 {
            collect(&entry.path(), files, depth + 1)?;
        } else if kind.is_file() && entry.path().extension().is_some_and(|extension| extension == "aidl") {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: &str = "android.os.IServiceManager";

    fn name(table: &Table, code: u32, android: Option<u32>) -> Option<(String, bool)> {
        table.method(MANAGER, code, android).map(|found| (found.method.name.clone(), found.sure))
    }

    #[test]
    fn codes_are_those_of_the_guests_version() {
        let table = Table::default();
        assert_eq!(name(&table, 3, Some(14)), Some(("addService".into(), true)));
        assert_eq!(name(&table, 4, Some(10)), Some(("listServices".into(), true)));
        assert_eq!(name(&table, 13, Some(13)), Some(("tryUnregisterService".into(), false)));
        assert_eq!(name(&table, 13, None), Some(("tryUnregisterService".into(), false)));
        assert_eq!(name(&table, 9, Some(10)), None, "10 has no such method, whatever 14 has");
        assert_eq!(name(&table, 99, Some(14)), None);
        assert!(table.method("android.os.IUnheardOf", 1, Some(14)).is_none());
    }

    #[test]
    fn a_folder_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("android/os");
        std::fs::create_dir_all(&inner).unwrap();
        let text = "package android.os; interface IServiceManager { void mine(); }";
        std::fs::write(inner.join("IServiceManager.aidl"), text).unwrap();
        std::fs::write(inner.join("notes.txt"), "not AIDL at all {").unwrap();
        let mut table = Table::default();
        assert_eq!(table.add(folder.path()).unwrap(), 1);
        assert_eq!(name(&table, 1, Some(14)), Some(("mine".into(), true)));
        assert_eq!(name(&table, 2, Some(14)), None);
        std::fs::write(inner.join("broken.aidl"), "package x;\ninterface I {\n  void f(\n}").unwrap();
        let error = Table::default().add(folder.path()).unwrap_err().to_string();
        assert!(error.contains("broken.aidl:4:1: here belongs a name, not '}'"), "{error}");
        assert!(matches!(Table::default().add(&inner.join("none")), Err(AidlError::Read { .. })));
    }
}
