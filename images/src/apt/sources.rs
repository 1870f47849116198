//! The machine's own apt sources, and the list of ours derived from them.
//!
//! A recipe names suites ("bookworm", "trixie"); *where* those are fetched from is the machine's
//! business (a mirror, a cache, a snapshot). So the URI comes from an entry the machine already has for
//! some Debian suite: all suites of Debian stand on the same archive. Formats: sources.list(5).

use std::fmt::Write as _;

/// One line of a `.list` file or one stanza of a `.sources` file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Base addresses, as written.
    pub uris: Vec<String>,
    /// Suites ("bookworm", "bookworm-security").
    pub suites: Vec<String>,
    /// Components ("main").
    pub components: Vec<String>,
    /// The keyring that signs it: a path, a fingerprint or an embedded key, as written.
    pub signed_by: Option<String>,
}

/// Reads a `.list` file. Lines that are not understood say nothing about Debian and are skipped.
pub fn parse_one_line(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb-src").or_else(|| line.strip_prefix("deb"))?;
    let mut rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        rest = after;
        signed_by = options
            .split_whitespace()
            .filter_map(|option| option.split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case("signed-by"))
            .map(|(_, value)| value.to_owned());
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    Some(Entry { uris: vec![uri], suites: vec![suite], components: words.collect(), signed_by })
}

/// Reads a deb822 `.sources` file: stanzas of `Field: value`, continued on indented lines.
pub fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(entry_of_stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn entry_of_stanza(fields: &[(String, String)]) -> Option<Entry> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name: &str| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let disabled = field("enabled")
        .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0"));
    let (uris, suites) = (words("uris"), words("suites"));
    if disabled || uris.is_empty() || suites.is_empty() {
        return None;
    }
    Some(Entry {
        uris,
        suites,
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
    })
}

/// Debian's suites and code names, without the parts behind them (`-security`, `-backports`).
const DEBIAN_SUITES: &[&str] = &[
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "sid",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

/// Debian keeps security updates on an archive of their own, all other suites on the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// Which of Debian's archives holds `suite`; `None` if it is no suite of Debian's.
fn archive_of(suite: &str) -> Option<Archive> {
    let suite = suite.trim_end_matches('/');
    let (base, part) = suite.split_once(['-', '/']).unwrap_or((suite, ""));
    if !DEBIAN_SUITES.contains(&base) {
        return None;
    }
    match part {
        // Up to Debian 10 the security suite was called "buster/updates".
        "updates" if suite.contains('/') => Some(Archive::Security),
        "security" => Some(Archive::Security),
        "" | "updates" | "proposed-updates" | "backports" | "backports-sloppy" => Some(Archive::Main),
        _ => None,
    }
}

/// Whether apt fetches packages or sources from a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Binary packages.
    Deb,
    /// Source packages.
    DebSrc,
}

/// The entry of `machine` whose archive also has `suite`.
///
/// Other vendors name their suites "stable" or "bookworm" too, so among several the one that looks most
/// like Debian's own wins; apt's signature check is the judge in the end.
pub fn entry_for<'a>(machine: &'a [Entry], suite: &str) -> Option<&'a Entry> {
    let archive = archive_of(suite)?;
    let usable = |entry: &&Entry| {
        entry.components.iter().any(|component| component == "main")
            && entry.suites.iter().any(|other| archive_of(other) == Some(archive))
            && entry.uris.iter().any(|uri| !uri.starts_with("cdrom:"))
    };
    let likeness = |entry: &Entry| {
        let debian_uri = entry.uris.iter().any(|uri| uri.to_ascii_lowercase().contains("debian"));
        let debian_key = entry.signed_by.as_ref().is_some_and(|key| key.contains("debian-archive"));
        let vendor_key = entry.signed_by.is_some() && !debian_key;
        let same_suite = entry.suites.iter().any(|other| other == suite);
        4 * i32::from(debian_key) + 2 * i32::from(debian_uri) + i32::from(same_suite)
            - 4 * i32::from(vendor_key)
    };
    // `max_by_key` takes the last of equals; apt prefers the first.
    machine.iter().rev().filter(usable).max_by_key(|entry| likeness(entry))
}

/// Our own `.sources` text for `suites`, and the suites no entry of the machine leads to.
pub fn derive(machine: &[Entry], kind: Kind, suites: &[String]) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut missing = Vec::new();
    for suite in suites {
        let Some(entry) = entry_for(machine, suite) else {
            missing.push(suite.clone());
            continue;
        };
        let types = match kind {
            Kind::Deb => "deb",
            Kind::DebSrc => "deb-src",
        };
        let uris: Vec<_> =
            entry.uris.iter().filter(|uri| !uri.starts_with("cdrom:")).map(String::as_str).collect();
        let _ = writeln!(text, "Types: {types}\nURIs: {}\nSuites: {suite}\nComponents: main", uris.join(" "));
        if let Some(signed_by) = &entry.signed_by {
            let _ = writeln!(text, "Signed-By: {signed_by}");
        }
        text.push('\n');
    }
    (text, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
# a comment
deb http://mirror.example/debian bookworm main contrib # trailing
deb-src [ arch=amd64 signed-by=/usr/share/keyrings/d.gpg ] http://mirror.example/debian bookworm main
deb [trusted=yes] cdrom:[Debian 12]/ bookworm main

deb http://security.example/debian-security bookworm-security main
deb https://tools.example/apt stable main
debris http://x y z
deb incomplete
";

    const SOURCES: &str = "\
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: https://third.example/
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
";

    fn suites(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn one_line_format() {
        let entries = parse_one_line(LIST);
        assert_eq!(entries.len(), 5, "{entries:#?}");
        assert_eq!(entries[0].uris, ["http://mirror.example/debian"]);
        assert_eq!(entries[0].components, ["main", "contrib"]);
        assert_eq!(entries[1].signed_by.as_deref(), Some("/usr/share/keyrings/d.gpg"));
    }

    #[test]
    fn deb822_format() {
        let entries = parse_deb822(SOURCES);
        assert_eq!(entries.len(), 2, "{entries:#?}");
        assert_eq!(entries[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(
            entries[0].signed_by.as_deref(),
            Some("\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc")
        );
        assert_eq!(entries[1].suites, ["nodistro"]);
    }

    #[test]
    fn other_suites_come_from_the_machines_mirror() {
        let machine = parse_one_line(LIST);
        let (text, missing) = derive(&machine, Kind::DebSrc, &suites(&["trixie"]));
        assert_eq!(
            text,
            "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n\n"
        );
        assert!(missing.is_empty());
    }

    #[test]
    fn security_has_an_archive_of_its_own() {
        let machine = parse_one_line(LIST);
        let entry = entry_for(&machine, "bookworm-security").unwrap();
        assert_eq!(entry.uris, ["http://security.example/debian-security"]);
        assert_eq!(entry_for(&machine, "bookworm-backports").unwrap().uris, ["http://mirror.example/debian"]);
    }

    #[test]
    fn vendors_with_suites_of_the_same_name_do_not_win() {
        let machine = parse_one_line(
            "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://pkg.vendor.example/debian bookworm main\n\
             deb https://browser.example/deb stable main\n\
             deb https://mirror.example/debian bookworm main\n\
             deb https://database.example/debian bookworm-pgdg main\n",
        );
        for suite in ["bookworm", "trixie", "bookworm-backports"] {
            assert_eq!(entry_for(&machine, suite).unwrap().uris, ["https://mirror.example/debian"]);
        }
    }

    #[test]
    fn a_missing_archive_is_told() {
        let machine = parse_deb822(SOURCES);
        let (text, missing) =
            derive(&machine, Kind::Deb, &suites(&["bookworm", "bookworm-security", "nodistro"]));
        assert!(text.contains("Suites: bookworm\n"));
        assert!(text.contains("Signed-By: \n -----BEGIN"), "an embedded key is carried over: {text}");
        assert_eq!(missing, ["bookworm-security", "nodistro"]);
    }

    #[test]
    fn suites_know_their_archive() {
        assert_eq!(archive_of("bookworm"), Some(Archive::Main));
        assert_eq!(archive_of("bookworm-updates"), Some(Archive::Main));
        assert_eq!(archive_of("bookworm-security"), Some(Archive::Security));
        assert_eq!(archive_of("buster/updates"), Some(Archive::Security));
        assert_eq!(archive_of("jammy"), None);
        assert_eq!(archive_of("bookworm-pgdg"), None);
    }
}
