//! Program: what `deploy` uploads, and whether a host can run it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::elf::{self, Elf, Linking};
use super::hex::hex;

/// A program to upload, held in memory: every host reads it at its own pace.
pub struct Program {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    /// SHA-256, in hexadecimal.
    pub digest: String,
    pub elf: Elf,
}

/// What a host says about itself that decides whether it can run a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSystem {
    /// As `uname -m` says.
    pub arch: String,
    /// Such as `glibc 2.36`; empty where it could not be told.
    pub libc: String,
    /// Whether the loader that a dynamically linked program names is there.
    pub has_loader: bool,
}

/// Bound on a program's size. This one has some 10 MiB; with all debug information it stays below 300 MiB.
const PROGRAM_LIMIT: u64 = 1 << 30;

impl Program {
    /// Reads the program at `path`, or this one.
    ///
    /// # Errors
    /// If it cannot be read or is no Linux program.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Program> {
        let path = match path {
            Some(path) => path.to_owned(),
            // The link stays good when the file was replaced or removed by a new build.
            None if cfg!(target_os = "linux") => PathBuf::from("/proc/self/exe"),
            None => std::env::current_exe().context("finding this program's own file")?,
        };
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut bytes = Vec::new();
        file.take(PROGRAM_LIMIT + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("reading {}", path.display()))?;
        if bytes.len() as u64 > PROGRAM_LIMIT {
            bail!("{} is larger than {PROGRAM_LIMIT} bytes", path.display());
        }
        let elf = elf::parse(&bytes).with_context(|| format!("{} is no Linux program", path.display()))?;
        Ok(Program { digest: digest_of(&bytes), path, bytes, elf })
    }

    /// Returns the name of the program's file on a host. It bears the digest, so that two builds never meet.
    #[must_use]
    pub fn remote_name(&self) -> String {
        // 64 bits tell builds apart; the whole digest is compared before the program is used.
        format!("{PROGRAM_PREFIX}{}", &self.digest[..16])
    }

    /// Returns the loader that the program needs on a host, if it is dynamically linked.
    #[must_use]
    pub fn loader(&self) -> Option<&str> {
        match &self.elf.linking {
            Linking::Static => None,
            Linking::Dynamic { loader, .. } => Some(loader),
        }
    }

    /// Returns what the machines that run the program for certain call themselves; none if more must be known of a
    /// machine, for then it takes [`Program::check_system`] to judge.
    #[must_use]
    pub fn machines(&self) -> &'static [&'static str] {
        match self.elf.linking {
            Linking::Static => self.elf.machine.names(),
            Linking::Dynamic { .. } => &[],
        }
    }

    /// Tells whether a host with `system` can run the program.
    ///
    /// # Errors
    /// With the reason why it cannot.
    pub fn check_system(&self, system: &HostSystem) -> anyhow::Result<()> {
        let machine = self.elf.machine;
        if !machine.runs_on(&system.arch) {
            bail!("the host is {}, the program is built for {machine}", system.arch);
        }
        let Linking::Dynamic { loader, glibc } = &self.elf.linking else { return Ok(()) };
        if !system.has_loader {
            bail!("the program is dynamically linked and the host has no {loader}");
        }
        let Some(needed) = glibc else { return Ok(()) };
        let Some(found) = system.libc.strip_prefix("glibc ").and_then(elf::parse_version) else {
            bail!(
                "the program is dynamically linked and needs glibc {}.{}, the host has {}",
                needed.0,
                needed.1,
                if system.libc.is_empty() { "none that could be told" } else { &system.libc }
            );
        };
        if found < *needed {
            bail!(
                "the program is dynamically linked and needs glibc {}.{}, the host has {}.{}",
                needed.0,
                needed.1,
                found.0,
                found.1
            );
        }
        Ok(())
    }
}

/// What the names of uploaded programs begin with.
pub const PROGRAM_PREFIX: &str = "mapreduce-";

/// Returns the SHA-256 of `bytes` in hexadecimal.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::elf::Machine;

    fn program(machine: Machine, linking: Linking) -> Program {
        Program {
            path: PathBuf::from("p"),
            bytes: Vec::new(),
            digest: digest_of(b"p"),
            elf: Elf { machine, linking },
        }
    }

    fn system(arch: &str, libc: &str) -> HostSystem {
        HostSystem { arch: arch.into(), libc: libc.into(), has_loader: true }
    }

    fn dynamic(glibc: (u32, u32)) -> Linking {
        Linking::Dynamic { loader: "/lib64/ld-linux-x86-64.so.2".into(), glibc: Some(glibc) }
    }

    #[test]
    fn digest_is_sha256() {
        assert_eq!(digest_of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn this_program_is_for_this_machine() {
        let program = Program::load(None).unwrap();
        assert!(program.elf.machine.runs_on(std::env::consts::ARCH));
        assert_eq!(program.remote_name().len(), PROGRAM_PREFIX.len() + 16);
    }

    #[test]
    fn wrong_architecture_is_refused() {
        let static_program = program(Machine::X86_64, Linking::Static);
        assert!(static_program.check_system(&system("x86_64", "")).is_ok());
        let error = static_program.check_system(&system("aarch64", "glibc 2.36")).unwrap_err();
        assert_eq!(error.to_string(), "the host is aarch64, the program is built for x86_64");
    }

    #[test]
    fn older_glibc_is_refused_for_a_dynamic_program() {
        let program = program(Machine::X86_64, dynamic((2, 38)));
        assert!(program.check_system(&system("x86_64", "glibc 2.38")).is_ok());
        assert!(program.check_system(&system("x86_64", "glibc 2.100")).is_ok());
        let error = program.check_system(&system("x86_64", "glibc 2.36")).unwrap_err();
        assert!(error.to_string().contains("needs glibc 2.38, the host has 2.36"), "{error}");
        assert!(program.check_system(&system("x86_64", "musl")).is_err());
    }

    #[test]
    fn missing_loader_is_refused() {
        let program = program(Machine::X86_64, dynamic((2, 2)));
        let host = HostSystem { has_loader: false, ..system("x86_64", "glibc 2.36") };
        assert!(program.check_system(&host).unwrap_err().to_string().contains("ld-linux"));
    }

    #[test]
    fn text_is_no_program() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#!/bin/sh\n").unwrap();
        let error = Program::load(Some(file.path())).err().unwrap();
        assert!(error.to_string().contains("no Linux program"), "{error}");
    }
}
