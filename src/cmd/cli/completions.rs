//! Completions: the script that teaches a shell the command line.

pub use clap_complete::Shell;

/// Returns the script for `shell`; it completes the program that `command` names.
pub fn script(shell: Shell, command: &mut clap::Command, program: &str) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, program, &mut script);
    script
}
