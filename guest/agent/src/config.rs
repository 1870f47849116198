//! What the image and the kernel's command line say: see the crate's README for the files.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;

use serde::{Deserialize, Deserializer};

/// Modules that every boot loads, one a line, in load order.
pub const MODULES_FILE: &str = "/etc/bindervm/modules";
/// The rest of the configuration.
pub const BOOT_FILE: &str = "/etc/bindervm/boot.json";

/// Where binder is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinderMode {
    /// By bindervm's driver on the host, through the shim module.
    #[default]
    Host,
    /// By the guest kernel's own driver.
    Kernel,
}

impl BinderMode {
    /// `host` or `kernel`, as on the kernel's command line.
    pub fn name(self) -> &'static str {
        match self {
            BinderMode::Host => "host",
            BinderMode::Kernel => "kernel",
        }
    }

    /// Finds `bindervm.binder=host|kernel` on the kernel's command line. The last one counts.
    pub fn from_command_line(line: &str) -> Result<Self, ConfigError> {
        let value = line
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("bindervm.binder="))
            .next_back();
        match value {
            None => Ok(BinderMode::default()),
            Some("host") => Ok(BinderMode::Host),
            Some("kernel") => Ok(BinderMode::Kernel),
            Some(other) => Err(ConfigError::BinderMode(other.to_owned())),
        }
    }
}

/// The devices that `bindervm.load=NAME,NAME` names on the kernel's command line: those whose modules
/// are loaded in this boot.
pub fn devices_from_command_line(line: &str) -> impl Iterator<Item = &str> {
    let lists = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("bindervm.load="));
    lists.flat_map(|list| list.split(',')).filter(|name| !name.is_empty())
}

/// Whether the kernel's command line leaves binder's devices where the driver puts them: in /dev, by name
/// alone. Each binderfs is a guest's own; guests that share a binder world share these.
pub fn is_without_binderfs(line: &str) -> bool {
    line.split_ascii_whitespace().any(|word| word == "bindervm.binderfs=off")
}

/// A folder of the host, as `bindervm.share=TAG:PATH[:ro]` names it on the kernel's command line.
#[derive(Debug, PartialEq, Eq)]
pub struct SharedFolder<'a> {
    /// Its 9P mount tag.
    pub tag: &'a str,
    /// Where it is mounted.
    pub path: &'a str,
    pub read_only: bool,
}

/// The shared folders that the kernel's command line names.
pub fn shares_from_command_line(line: &str) -> impl Iterator<Item = SharedFolder<'_>> {
    let words = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("bindervm.share="));
    words.filter_map(|word| {
        let (tag, path) = word.split_once(':')?;
        let (path, read_only) = path.strip_suffix(":ro").map_or((path, false), |path| (path, true));
        Some(SharedFolder { tag, path, read_only })
    })
}

/// `/etc/bindervm/boot.json`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// The guest's name for itself.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Module lines of each binder mode.
    #[serde(default)]
    pub binder: BinderModules,
    /// Names in /dev that binder's module must bring; made usable for everybody.
    #[serde(default)]
    pub devices: Vec<String>,
    /// They are links into a binderfs at /dev/binderfs, where the kernel has that.
    #[serde(default)]
    pub binderfs: bool,
    /// Module lines for what only some runs need: devices of the host, and what the kernel asks
    /// modprobe for.
    #[serde(default)]
    pub on_demand: BTreeMap<String, Vec<String>>,
    /// Started in this order, each when the one before is ready.
    #[serde(default)]
    pub services: Vec<ServiceConfig>,
    /// Folders made below /sys/fs/cgroup.
    #[serde(default)]
    pub cgroups: Vec<String>,
}

/// Module lines as in [`MODULES_FILE`], for each [`BinderMode`].
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinderModules {
    #[serde(default)]
    pub host: Vec<String>,
    #[serde(default)]
    pub kernel: Vec<String>,
}

/// A program that runs as long as the guest does.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    pub name: String,
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How to find out that it is up. Without it, it is up when it was started.
    #[serde(default)]
    pub ready: Option<ReadyCheck>,
}

/// A command that succeeds once the service is up.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyCheck {
    pub command: Vec<String>,
    /// How long it may take: a day at most.
    #[serde(default = "default_timeout", deserialize_with = "capped_timeout")]
    pub timeout_ms: u64,
}

/// No boot takes longer than this to be right, and no clock overflows by it.
const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// Takes [`MAX_TIMEOUT_MS`] for every longer time.
fn capped_timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(u64::deserialize(deserializer)?.min(MAX_TIMEOUT_MS))
}

fn default_timeout() -> u64 {
    10_000
}

/// A kernel module to load.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    pub path: String,
    /// As the kernel wants them: `name=value` separated by blanks.
    pub params: CString,
}

impl Module {
    /// Reads `PATH [PARAMS...]`. `None` for an empty line or a comment.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (path, params) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        // A file read as lines may hold a NUL; the kernel's string ends there.
        let params = params.trim().split('\0').next().unwrap_or_default();
        Some(Module { path: path.to_owned(), params: CString::new(params).unwrap_or_default() })
    }

    /// The modules of a list of lines.
    pub fn parse_all<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        lines.into_iter().filter_map(Module::parse).collect()
    }
}

/// The configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read { path: &'static str, source: io::Error },
    /// The boot file is not what it should be.
    #[error("{BOOT_FILE}: {0}")]
    Boot(serde_json::Error),
    /// A value of `bindervm.binder=`.
    #[error("kernel command line: bindervm.binder={0} is neither host nor kernel")]
    BinderMode(String),
    /// A name of `bindervm.load=`, or one that the kernel asked for.
    #[error("the image has no modules for '{0}' (kernel.on_demand of its recipe)")]
    OnDemand(String),
}

/// Reads a text file.
pub fn read(path: &'static str) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read { path, source })
}

impl BootConfig {
    /// Reads [`BOOT_FILE`].
    pub fn load() -> Result<Self, ConfigError> {
        serde_json::from_str(&read(BOOT_FILE)?).map_err(ConfigError::Boot)
    }

    /// The modules that serve binder in `mode`.
    pub fn binder_modules(&self, mode: BinderMode) -> Vec<Module> {
        let lines = match mode {
            BinderMode::Host => &self.binder.host,
            BinderMode::Kernel => &self.binder.kernel,
        };
        Module::parse_all(lines.iter().map(String::as_str))
    }

    /// The modules that bring a device of the host, or what the kernel asks for.
    pub fn modules_for(&self, name: &str) -> Result<Vec<Module>, ConfigError> {
        let lines = self.on_demand.get(name).ok_or_else(|| ConfigError::OnDemand(name.to_owned()))?;
        Ok(Module::parse_all(lines.iter().map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_lines() {
        let text = "# virtio\n/lib/a.ko\n\n  /lib/b.ko   x=1  y=a,b \n/lib/c.ko\tz\n";
        let modules = Module::parse_all(text.lines());
        let expected = [("/lib/a.ko", c""), ("/lib/b.ko", c"x=1  y=a,b"), ("/lib/c.ko", c"z")];
        assert_eq!(modules.len(), expected.len());
        for (module, (path, params)) in modules.iter().zip(expected) {
            assert_eq!((module.path.as_str(), module.params.as_c_str()), (path, params));
        }
    }

    #[test]
    fn the_command_line_chooses_binder() {
        let mode = |line| BinderMode::from_command_line(line).ok();
        assert_eq!(mode("console=ttyS0 quiet"), Some(BinderMode::Host));
        assert_eq!(mode("a bindervm.binder=kernel b"), Some(BinderMode::Kernel));
        assert_eq!(mode("bindervm.binder=kernel bindervm.binder=host\n"), Some(BinderMode::Host));
        assert_eq!(mode("bindervm.binder=qemu"), None);
    }

    #[test]
    fn the_command_line_names_devices() {
        let devices = |line| devices_from_command_line(line).collect::<Vec<_>>();
        assert_eq!(
            devices("quiet bindervm.load=disk,panic x bindervm.load=share"),
            ["disk", "panic", "share"]
        );
        assert!(devices("bindervm.load= bindervm.loads=a").is_empty());
        let config: BootConfig = serde_json::from_str(r#"{"on_demand": {"disk": ["/lib/a.ko"]}}"#).unwrap();
        assert_eq!(config.modules_for("disk").unwrap()[0].path, "/lib/a.ko");
        assert!(config.modules_for("tape").unwrap_err().to_string().contains("'tape'"));
    }

    #[test]
    fn the_command_line_leaves_devices_in_dev() {
        assert!(is_without_binderfs("quiet bindervm.binderfs=off\n"));
        assert!(!is_without_binderfs("quiet bindervm.binderfs=offset bindervm.binder=host"));
    }

    #[test]
    fn the_command_line_names_shares() {
        let line = "quiet bindervm.share=a:/mnt/a bindervm.share=b:/b:ro bindervm.share=c";
        let shares: Vec<_> = shares_from_command_line(line).collect();
        assert_eq!(shares[0], SharedFolder { tag: "a", path: "/mnt/a", read_only: false });
        assert_eq!(shares[1], SharedFolder { tag: "b", path: "/b", read_only: true });
        assert_eq!(shares.len(), 2);
    }

    #[test]
    fn a_readiness_check_waits_a_day_at_most() {
        let text = format!(r#"{{"command": ["true"], "timeout_ms": {}}}"#, u64::MAX);
        let check: ReadyCheck = serde_json::from_str(&text).unwrap();
        assert_eq!(check.timeout_ms, MAX_TIMEOUT_MS);
    }

    #[test]
    fn the_boot_file() {
        let text = r#"{
            "hostname": "aosp14",
            "binder": {"host": ["/lib/shim.ko"], "kernel": ["/lib/binder_linux.ko devices=binder"]},
            "devices": ["binder"],
            "services": [
                {"name": "servicemanager", "argv": ["/system/bin/servicemanager"],
                 "ready": {"command": ["/system/bin/service", "check", "manager"]}},
                {"name": "other", "argv": ["/bin/other", "-x"], "env": {"A": "b"}}
            ]}"#;
        let config: BootConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.binder_modules(BinderMode::Host)[0].path, "/lib/shim.ko");
        assert_eq!(config.binder_modules(BinderMode::Kernel)[0].params.as_c_str(), c"devices=binder");
        assert_eq!(config.services[0].ready.as_ref().unwrap().timeout_ms, 10_000);
        assert_eq!(config.services[1].env["A"], "b");

        assert_eq!(serde_json::from_str::<BootConfig>("{}").unwrap(), BootConfig::default());
        assert!(serde_json::from_str::<BootConfig>(r#"{"hostnme": "x"}"#).is_err());
    }
}
