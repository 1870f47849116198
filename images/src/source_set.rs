//! Source archives: fetched, checked against the recipe's sha256, unpacked, edited.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::apt::sources::Kind;
use crate::apt::{self, Apt, Refresh};
use crate::debian_kernel::unpack_deb;
use crate::digest::DigestBuilder;
use crate::error::{Failure, Purpose};
use crate::recipe::{Replacement, Source};
use crate::step::{Outcome, Step};

/// Gives the folder with the unpacked and edited source.
pub(crate) fn prepare(
    step: &mut Step<'_>,
    etc: &Path,
    refresh: Refresh,
    source: &Source,
) -> Result<Outcome<PathBuf>, Failure> {
    let mut key = DigestBuilder::default();
    key.add(source.sha256);
    for edit in &source.replacements {
        key.add(&edit.file).add(&edit.find).add(&edit.with);
    }
    let cache = step.cache;
    let (value, cached) = cache.folder("sources", &key.finish().short(), |folder| {
        let archive = fetch(step, etc, refresh, source)?;
        if is_binary(source) {
            unpack_deb(step, &archive, folder)?;
        } else {
            let mut tar = Command::new("tar");
            tar.arg("-xf").arg(&archive).arg("-C").arg(folder).arg("--no-same-owner");
            step.run(&mut tar, Purpose::Unpack)?;
        }
        source.replacements.iter().try_for_each(|edit| replace(folder, edit))
    })?;
    Ok(Outcome { value, cached })
}

fn fetch(step: &mut Step<'_>, etc: &Path, refresh: Refresh, source: &Source) -> Result<PathBuf, Failure> {
    if is_binary(source) {
        return fetch_binary(step, etc, refresh, source);
    }
    let file = step.cache.download(&source.sha256, &source.file);
    if file.exists() {
        apt::check_sha256(&file, &source.sha256)?;
        return Ok(file);
    }
    let mut apt = Apt::open(step, etc, Kind::DebSrc, std::slice::from_ref(&source.suite), refresh)?;
    apt.retry_fresh(step, |apt, step| {
        apt.download_source(step, &source.package, &source.file, &source.sha256)
    })
}

/// Sources that Debian has as a package to install, as `linux-source-7.2`.
fn is_binary(source: &Source) -> bool {
    source.file.ends_with(".deb")
}

fn fetch_binary(
    step: &mut Step<'_>,
    etc: &Path,
    refresh: Refresh,
    source: &Source,
) -> Result<PathBuf, Failure> {
    let known = step.cache.download(&source.sha256, &format!("{}.deb", source.package));
    if known.exists() {
        apt::check_sha256(&known, &source.sha256)?;
        return Ok(known);
    }
    let mut apt = Apt::open(step, etc, Kind::Deb, std::slice::from_ref(&source.suite), refresh)?;
    let files = apt.retry_fresh(step, |apt, step| {
        let package = apt.show(step, &source.package, None)?;
        if package.sha256 != source.sha256 {
            let (suite, name, version) = (&source.suite, &package.name, &package.version);
            return Err(Failure::NotInIndex(format!(
                "{suite} has {name} {version} now, and the recipe wants {}: give the recipe the new sha256",
                source.file
            )));
        }
        apt.download(step, &[package])
    })?;
    files
        .into_iter()
        .next()
        .ok_or_else(|| Failure::NotInIndex(format!("no file came for {}", source.package)))
}

/// Makes one edit in the unpacked source.
fn replace(folder: &Path, edit: &Replacement) -> Result<(), Failure> {
    let inside = Path::new(&edit.file).components().all(|part| matches!(part, Component::Normal(_)));
    let file = folder.join(&edit.file);
    let failed = |source| Failure::file("edit", &file, source);
    if !inside {
        return Err(failed(std::io::Error::other("the path leaves the source archive")));
    }
    let text = fs::read_to_string(&file).map_err(failed)?;
    let got = text.matches(&edit.find).count();
    if got != edit.count {
        let (file, find) = (edit.file.clone(), edit.find.clone());
        return Err(Failure::Replacement { file, find, got, want: edit.count });
    }
    fs::write(&file, text.replace(&edit.find, &edit.with)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(find: &str, count: usize) -> Replacement {
        Replacement { file: "a.h".into(), find: find.into(), with: "C".into(), count }
    }

    #[test]
    fn replacements_must_fit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.h");
        fs::write(&file, "A B A").unwrap();
        let error = replace(folder.path(), &edit("A", 1)).unwrap_err();
        assert!(matches!(error, Failure::Replacement { got: 2, want: 1, .. }), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "A B A");
        replace(folder.path(), &edit("A", 2)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "C B C");
        assert!(replace(folder.path(), &edit("A", 2)).is_err());
    }

    #[test]
    fn replacements_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let outside = Replacement { file: "../x".into(), ..edit("A", 1) };
        assert!(replace(folder.path(), &outside).unwrap_err().to_string().starts_with("cannot edit"));
    }
}
