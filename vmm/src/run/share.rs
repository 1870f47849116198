//! `--share FOLDER=PATH[,ro]`: folders of the host in the guest.

use std::path::PathBuf;

use devices::virtio::share::{Access, Share};
use machine::Machine;

use super::verdict::machine_failure;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// One `--share`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareArg {
    folder: PathBuf,
    /// Where the guest mounts it: absolute, and fit for a kernel command line.
    path: String,
    access: Access,
}

/// Reads the option.
pub fn parse(text: &str) -> Result<ShareArg, String> {
    let (text, access) = match text.strip_suffix(",ro") {
        Some(text) => (text, Access::ReadOnly),
        None => (text, Access::ReadWrite),
    };
    let (folder, path) = text.rsplit_once('=').ok_or("write FOLDER=PATH or FOLDER=PATH,ro")?;
    if folder.is_empty() || !path.starts_with('/') {
        return Err("write FOLDER=PATH, where PATH is absolute in the guest".to_owned());
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '"');
    if let Some(c) = path.chars().find(|c| odd(*c)) {
        return Err(format!("the guest's path cannot have {c:?} in it"));
    }
    Ok(ShareArg { folder: folder.into(), path: path.to_owned(), access })
}

/// Puts the 9P devices on the board.
pub fn add(args: &RunArgs, machine: &mut Machine) -> Result<(), Failure> {
    for (index, share) in args.share.iter().enumerate() {
        let device = Share::new(&share.folder, &tag(index), share.access).map_err(|error| {
            Failure::because(Code::Usage, format!("cannot share {}", share.folder.display()), error)
        })?;
        machine.add_virtio(Box::new(device)).map_err(machine_failure)?;
    }
    Ok(())
}

/// What the agent reads on the kernel command line: `bindervm.share=TAG:PATH[:ro]` for each.
pub fn command_line(args: &RunArgs) -> Option<String> {
    let word = |(index, share): (usize, &ShareArg)| {
        let read_only = if share.access == Access::ReadOnly { ":ro" } else { "" };
        format!("bindervm.share={}:{}{read_only}", tag(index), share.path)
    };
    let words: Vec<String> = args.share.iter().enumerate().map(word).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn tag(index: usize) -> String {
    format!("share{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_folder_and_a_path() {
        let share = |access| Ok(ShareArg { folder: "a=b,c".into(), path: "/mnt/x".to_owned(), access });
        assert_eq!(parse("a=b,c=/mnt/x"), share(Access::ReadWrite));
        assert_eq!(parse("a=b,c=/mnt/x,ro"), share(Access::ReadOnly));
        for wrong in ["a", "=/mnt", "a=mnt", "a=/a b", "a=/a:b", "a=/a,b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
