//! `--disk FILE[,ro][,overlay=memory|overlay=FILE]`: the disks of a guest.

use std::path::{Path, PathBuf};

use devices::virtio::block::{Block, Disk, FileDisk, OpenDiskError, Overlay};
use machine::Machine;

use super::verdict::machine_failure;
use crate::args::RunArgs;
use crate::exit::{Code, Failure};

/// What the host keeps in memory for one guest's overlays, all of them together.
const OVERLAY_MEMORY: usize = 1 << 30;

/// One `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    path: PathBuf,
    writes: Writes,
}

/// Where what the guest writes to a disk goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Writes {
    /// Into the file.
    Through,
    /// Nowhere: they are errors.
    Refused,
    /// Into memory, until the end of the run.
    Memory,
    /// Into a file beside.
    Overlay(PathBuf),
}

impl DiskArg {
    /// The file that the guest reads.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what the guest writes is still there in the next run.
    pub fn leaves_traces(&self) -> bool {
        matches!(self.writes, Writes::Through | Writes::Overlay(_))
    }
}

/// Reads the option. A comma belongs to the path unless a known word follows it.
pub fn parse(text: &str) -> Result<DiskArg, String> {
    let (rest, writes) = if let Some(rest) = text.strip_suffix(",ro") {
        (rest, Writes::Refused)
    } else if let Some((rest, overlay)) = text.rsplit_once(",overlay=") {
        match overlay {
            "" => return Err("overlay= needs 'memory' or a file".to_owned()),
            "memory" => (rest, Writes::Memory),
            file => (rest, Writes::Overlay(file.into())),
        }
    } else {
        (text, Writes::Through)
    };
    if rest.is_empty() {
        return Err("write FILE, FILE,ro, FILE,overlay=memory or FILE,overlay=FILE".to_owned());
    }
    Ok(DiskArg { path: rest.into(), writes })
}

/// Puts the disks on the board, in order: `/dev/vda`, `/dev/vdb`, ...
pub fn add(args: &RunArgs, machine: &mut Machine) -> Result<(), Failure> {
    let in_memory = args.disk.iter().filter(|disk| disk.writes == Writes::Memory).count();
    let limit = OVERLAY_MEMORY / in_memory.max(1);
    for (index, disk) in args.disk.iter().enumerate() {
        let opened = open(disk, limit).map_err(|error| {
            Failure::because(Code::Usage, format!("cannot use the disk {}", disk.path.display()), error)
        })?;
        let device = Block::new(opened, &format!("bindervm-{index}"));
        machine.add_virtio(Box::new(device)).map_err(machine_failure)?;
    }
    Ok(())
}

fn open(disk: &DiskArg, limit: usize) -> Result<Box<dyn Disk>, OpenDiskError> {
    let base = FileDisk::open(&disk.path, disk.writes != Writes::Through)?;
    Ok(match &disk.writes {
        Writes::Through | Writes::Refused => Box::new(base),
        Writes::Memory => Box::new(Overlay::in_memory(base, limit)),
        Writes::Overlay(path) => Box::new(Overlay::in_file(base, path)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_says_where_writes_go() {
        let disk = |path: &str, writes| Ok(DiskArg { path: path.into(), writes });
        assert_eq!(parse("a.img"), disk("a.img", Writes::Through));
        assert_eq!(parse("a,b.img,ro"), disk("a,b.img", Writes::Refused));
        assert_eq!(parse("a.img,overlay=memory"), disk("a.img", Writes::Memory));
        assert_eq!(parse("a.img,overlay=/x/y"), disk("a.img", Writes::Overlay("/x/y".into())));
        assert!(parse("a.img,overlay=").is_err());
        assert!(parse(",ro").is_err());
    }
}
