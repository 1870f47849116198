//! Which engine this computer gets.

use std::fs::{self, File};
use std::io;

use crate::EngineError;

/// The engine that a user asks for, or that was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// KVM where it is backed by hardware, else the software CPU.
    #[default]
    Auto,
    /// The host kernel's KVM.
    Kvm,
    /// The software CPU.
    Soft,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Auto => "auto",
            Kind::Kvm => "kvm",
            Kind::Soft => "soft",
        })
    }
}

impl std::str::FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Kind, UnknownKind> {
        match name {
            "auto" => Ok(Kind::Auto),
            "kvm" => Ok(Kind::Kvm),
            "soft" => Ok(Kind::Soft),
            other => Err(UnknownKind(other.to_owned())),
        }
    }
}

/// A name that is no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no engine is called {0:?}; there are auto, kvm and soft")]
pub struct UnknownKind(String);

/// An engine and why it is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// [`Kind::Kvm`] or [`Kind::Soft`], never [`Kind::Auto`].
    pub kind: Kind,
    /// One plain line for the user.
    pub reason: String,
    /// What speaks against it, though it was asked for.
    pub doubt: Option<&'static str>,
}

/// Resolves what was asked for on this computer.
///
/// [`Kind::Auto`] takes KVM only where `/dev/kvm` opens *and* the CPU shows `vmx` or `svm`: a
/// `/dev/kvm` without either interprets every guest instruction, and a stock kernel dies on one
/// that the interpreter lacks. Asking for [`Kind::Kvm`] takes any `/dev/kvm` that opens.
pub fn choose(kind: Kind) -> Result<Choice, EngineError> {
    match kind {
        Kind::Soft => Ok(Choice { kind: Kind::Soft, reason: "soft: asked for".into(), doubt: None }),
        Kind::Kvm => {
            open_kvm().map_err(EngineError::OpenKvm)?;
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            Ok(asked_for_kvm(&cpuinfo))
        }
        Kind::Auto => {
            let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            Ok(decide(open_kvm(), &cpuinfo))
        }
    }
}

fn open_kvm() -> io::Result<()> {
    File::options().read(true).write(true).open("/dev/kvm").map(drop)
}

/// KVM, whose device opens, on a computer whose CPU may not be made for it.
fn asked_for_kvm(cpuinfo: &str) -> Choice {
    let doubt = match hardware_virtualization(cpuinfo) {
        Some(_) => None,
        None => Some(
            "the CPU shows neither vmx nor svm: KVM interprets every instruction, and a stock kernel does not come up",
        ),
    };
    Choice { kind: Kind::Kvm, reason: "kvm: asked for".into(), doubt }
}

/// The rule of `auto`, apart from the computer it is applied to.
fn decide(dev_kvm: io::Result<()>, cpuinfo: &str) -> Choice {
    match (dev_kvm, hardware_virtualization(cpuinfo)) {
        (Ok(()), Some(flag)) => {
            let reason = format!("kvm: /dev/kvm opens and the CPU has {flag}");
            Choice { kind: Kind::Kvm, reason, doubt: None }
        }
        (Ok(()), None) => Choice {
            kind: Kind::Soft,
            reason: "soft: /dev/kvm opens, but the CPU shows neither vmx nor svm, so KVM would \
                     interpret every instruction"
                .into(),
            doubt: None,
        },
        (Err(error), _) => {
            let reason = format!("soft: /dev/kvm does not open ({error})");
            Choice { kind: Kind::Soft, reason, doubt: None }
        }
    }
}

/// The CPU flag that stands for hardware virtualization, if `/proc/cpuinfo` shows one.
fn hardware_virtualization(cpuinfo: &str) -> Option<&'static str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "flags")
        .flat_map(|(_, flags)| flags.split_whitespace())
        .find_map(|flag| match flag {
            "vmx" => Some("vmx"),
            "svm" => Some("svm"),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn auto_wants_the_device_and_the_flag() {
        let intel = "processor\t: 0\nflags\t\t: fpu vme vmx sse\n";
        let amd = "flags : fpu svm\n";
        let neither = "model name : vmx lookalike\nflags : fpu sse vmxnet\n";
        assert_eq!(decide(Ok(()), intel).kind, Kind::Kvm);
        assert_eq!(decide(Ok(()), amd).reason, "kvm: /dev/kvm opens and the CPU has svm");
        assert_eq!(decide(Ok(()), neither).kind, Kind::Soft);
        assert_eq!(decide(denied(), intel).kind, Kind::Soft);
        assert_eq!(decide(denied(), "").kind, Kind::Soft);
    }

    #[test]
    fn kvm_that_was_asked_for_is_taken_with_a_word_on_the_cpu() {
        assert_eq!(asked_for_kvm("flags : vmx").doubt, None);
        let slow = asked_for_kvm("flags : fpu");
        assert!(
            slow.kind == Kind::Kvm && slow.doubt.is_some_and(|doubt| doubt.contains("neither vmx nor svm"))
        );
    }

    #[test]
    fn the_reason_is_one_line_that_names_the_engine() {
        for choice in
            [decide(Ok(()), "flags: vmx"), decide(Ok(()), ""), decide(denied(), ""), asked_for_kvm("")]
        {
            assert!(choice.reason.starts_with(&choice.kind.to_string()), "{}", choice.reason);
            assert!(!choice.reason.contains('\n'));
        }
    }

    #[test]
    fn names_of_engines_round_trip() {
        for kind in [Kind::Auto, Kind::Kvm, Kind::Soft] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("KVM".parse::<Kind>().is_err());
    }
}
