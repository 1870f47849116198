//! Files into a guest and out of it, through programs that every image has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::guest::{Cut, Guest, GuestEnd};
use crate::plan::Push;
use crate::stop::Stop;

/// The most bytes of one artifact.
const MAX_FILE: usize = 64 << 20;
/// The most bytes of all artifacts of a role.
const MAX_ALL: usize = 256 << 20;
/// The most artifacts of a role.
const MAX_FILES: usize = 1000;
/// The most bytes of googletest's report.
pub const MAX_REPORT: usize = 16 << 20;
/// How long one file may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How long listing may take.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// Expands globs, which are its arguments, into NUL-terminated paths of regular files.
const LIST: &str =
    r#"IFS=; for glob; do for file in $glob; do [ -f "$file" ] && printf '%s\0' "$file"; done; done; true"#;

/// Puts a file into the guest.
pub fn push(guest: &mut Guest, push: &Push, stop: &Stop) -> Result<(), Cut> {
    let wrong = |text: String| Cut::Ended(GuestEnd::Infrastructure(text));
    let unreadable = |error| wrong(format!("cannot read {}: {error}", push.from.display()));
    let bytes = fs::read(&push.from).map_err(unreadable)?;
    let mode = match push.mode {
        Some(mode) => mode,
        None => fs::metadata(&push.from).map_err(unreadable)?.permissions().mode() & 0o7777,
    };
    if stop.why().is_some() {
        return Err(Cut::Stopped);
    }
    let script = r#"mkdir -p "${1%/*}/" && cat > "$1" && chmod "$2" "$1""#;
    let argv = ["/bin/sh", "-c", script, "sh", &push.to, &format!("{mode:o}")];
    match guest.ask(&argv, bytes, LIMIT, 4096)?.ok() {
        Ok(_) => Ok(()),
        Err(why) => Err(wrong(format!("cannot put {} into the guest: {why}", push.to))),
    }
}

/// Reads a text file of the guest.
pub fn read(guest: &mut Guest, path: &str, most: usize) -> Result<String, String> {
    let answer = guest.ask(&["/bin/cat", path], Vec::new(), LIMIT, most).map_err(|_| "the guest is gone")?;
    String::from_utf8(answer.ok()?).map_err(|_| "it is not UTF-8".to_owned())
}

/// Copies the files that match into `folder`, under their paths. Gives these paths, and what went
/// wrong.
pub fn pull(guest: &mut Guest, globs: &[String], folder: &Path) -> (Vec<String>, Vec<String>) {
    let (mut pulled, mut notes) = (Vec::new(), Vec::new());
    let mut argv = vec!["/bin/sh", "-c", LIST, "sh"];
    argv.extend(globs.iter().map(String::as_str));
    let listed =
        match guest.ask(&argv, Vec::new(), LIST_LIMIT, 1 << 20).map_err(|_| "the guest is gone".to_owned()) {
            Ok(answer) => answer.ok(),
            Err(why) => Err(why),
        };
    let listed = match listed {
        Ok(listed) => listed,
        Err(why) => return (pulled, vec![format!("artifacts could not be listed: {why}")]),
    };
    let asked = asked_for(globs);
    let (mut room, until) = (MAX_ALL, Instant::now() + LIMIT);
    for path in listed.split(|&byte| byte == 0).filter(|path| !path.is_empty()) {
        // The guest says what matches; it is believed where that is so.
        let Some(path) = std::str::from_utf8(path).ok().filter(|path| is_plain(path) && asked.is_match(path))
        else {
            notes.push(format!("{} is no artifact", String::from_utf8_lossy(path).escape_debug()));
            continue;
        };
        if pulled.len() == MAX_FILES || Instant::now() > until {
            notes.push("there are more artifacts than are kept".to_owned());
            break;
        }
        let most = MAX_FILE.min(room);
        let bytes = match guest.ask(&["/bin/cat", path], Vec::new(), LIMIT, most) {
            Ok(answer) => answer.ok(),
            Err(_) => Err("the guest is gone".to_owned()),
        };
        let kept = bytes.and_then(|bytes| {
            room -= bytes.len();
            let to = folder.join(path.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap_or(folder))
                .and_then(|()| fs::write(&to, bytes))
                .map_err(|error| error.to_string())
        });
        match kept {
            Ok(()) => pulled.push(path.to_owned()),
            Err(why) => notes.push(format!("{path} could not be kept: {why}")),
        }
    }
    (pulled, notes)
}

/// What the plan's globs match.
fn asked_for(globs: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        // The plan's were checked when it was read; one that the shell alone understands matches nothing.
        if let Ok(glob) = GlobBuilder::new(glob).literal_separator(true).build() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_default()
}

/// An absolute path with nothing special in it.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_name_files_that_were_not_asked_for() {
        let asked = asked_for(&["/tmp/*.log".to_owned(), "/data/x".to_owned()]);
        let taken = |path: &str| is_plain(path) && asked.is_match(path);
        assert!(taken("/tmp/a.log") && taken("/data/x"));
        for path in ["/tmp/../etc/x.log", "/tmp/a/b.log", "tmp/a.log", "/etc/passwd", "/tmp/a\n.log", "/"] {
            assert!(!taken(path), "{path}");
        }
    }
}
