//! Home: the user's own directory, from the environment: a static program has no account database.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Returns the user's home directory.
///
/// # Errors
/// If the environment does not have it.
pub fn home_dir() -> anyhow::Result<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).context("HOME is not set")
}

/// Puts the home directory in the place of a leading `~`; other paths stay as they are.
///
/// # Errors
/// If it is needed and not known.
pub fn expand_home(path: &Path) -> anyhow::Result<PathBuf> {
    match path.strip_prefix("~") {
        Ok(rest) => Ok(home_dir()?.join(rest)),
        Err(_) => Ok(path.to_path_buf()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leading_tilde_is_the_home() {
        let home = home_dir().unwrap();
        assert_eq!(expand_home(Path::new("~/.ssh/k")).unwrap(), home.join(".ssh/k"));
        assert_eq!(expand_home(Path::new("~")).unwrap(), home);
        for other in ["~ada/k", "/a/~", "k"] {
            assert_eq!(expand_home(Path::new(other)).unwrap(), Path::new(other));
        }
    }
}
