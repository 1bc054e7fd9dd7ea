//! `identity`: makes the file with which workers that are started by hand, and who uses them, know each other.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::cli::CommandError;
use crate::edge::console::Console;
use crate::edge::identity::SharedIdentity;

/// The command, parsed.
#[derive(Clone, Debug)]
pub struct IdentityOptions {
    pub file: PathBuf,
}

/// Makes a fresh identity.
///
/// # Errors
/// If the file is there already, or cannot be written.
pub fn identity(options: &IdentityOptions, console: &Console) -> Result<(), CommandError> {
    let file = options.file.display();
    SharedIdentity::create(&options.file).with_context(|| format!("creating the identity {file}")).map_err(
        |cause| {
            let is_there = Path::new(&options.file).exists();
            let error = CommandError::from(cause);
            if is_there { error.advise("use the one that is there, or name another file") } else { error }
        },
    )?;
    console.say(&format!(
        "wrote {file}: copy it to the other machines with scp -p, to be read by nobody else; \
         `serve --bind ADDR --identity {file}` and `run --workers HOST:PORT --identity {file}` use it"
    ));
    Ok(())
}
