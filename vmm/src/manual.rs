//! `bindervm completions` and `man`: what the command line's definition is good for besides parsing.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{self, Cli};
use crate::exit::{Code, Failure};
use crate::output;

/// What bash does where the name of a running guest belongs.
const BASH_GUESTS: &str = r#"
_bindervm_guests() {
    local cur=${COMP_WORDS[COMP_CWORD]}
    case "${COMP_WORDS[1]}" in
        exec|shell|console|events|snapshot|stop|wait|push|pull)
            if [[ $cur != -* ]]; then
                COMPREPLY+=($(compgen -W "$(bindervm ps --names 2>/dev/null)" -- "$cur"))
            fi ;;
    esac
}
_bindervm_all() { _bindervm "$@"; _bindervm_guests; }
complete -F _bindervm_all -o nosort -o bashdefault -o default bindervm
"#;

/// The same for fish.
const FISH_GUESTS: &str = r#"
complete -c bindervm -n "__fish_seen_subcommand_from exec shell console events snapshot stop wait push pull" -f -a "(bindervm ps --names 2>/dev/null)"
"#;

/// Prints the completion script of `shell`.
pub fn completions(shell: args::Shell) -> Result<(), Failure> {
    let (shell, guests) = match shell {
        args::Shell::Bash => (Shell::Bash, BASH_GUESTS),
        args::Shell::Zsh => (Shell::Zsh, ""),
        args::Shell::Fish => (Shell::Fish, FISH_GUESTS),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bindervm", &mut script);
    output::print(|out| out.write_all(&script).and_then(|()| out.write_all(guests.as_bytes())))
}

/// Writes a page for the program and one for each of its commands.
pub fn pages(folder: &Path) -> Result<(), Failure> {
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|error| {
        let message = format!("cannot write man pages to {}", folder.display());
        Failure::because(Code::Internal, message, error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        pages(folder.path()).unwrap();
        for (page, word) in
            [("bindervm", "exec"), ("bindervm-run", "serve"), ("bindervm-image-build", "RECIPE")]
        {
            let text = fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
            assert!(text.contains(".TH") && text.contains(word), "{page}: {text}");
        }
    }

    #[test]
    fn every_shell_has_a_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bindervm", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("console"), "{shell}");
        }
    }
}
