//! ELF: what a Linux program's header says about where it can run.
//!
//! Source: Tool Interface Standard, "Executable and Linking Format", 1.2; for symbol versions, the Linux Standard
//! Base, "Symbol Versioning". Offsets come from the file, so every access is checked.

use std::fmt;

/// Facts about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    pub machine: Machine,
    pub linking: Linking,
}

/// How a program is linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linking {
    Static,
    Dynamic {
        /// The program that loads it, such as `/lib64/ld-linux-x86-64.so.2`.
        loader: String,
        /// The newest glibc it asks for, as major and minor; `None` for another C library.
        glibc: Option<(u32, u32)>,
    },
}

/// What a program is built for: `e_machine`, and the number of bits where two differ in that only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    X86,
    X86_64,
    Arm,
    Aarch64,
    Riscv64,
    Ppc64,
    S390x,
    Other(u16),
}

impl Machine {
    /// Returns what machines that run the program call themselves, as `uname -m` says: patterns of a shell, in which a
    /// `*` stands at the end only.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Machine::X86 => &["i386", "i486", "i586", "i686", "x86_64"],
            Machine::X86_64 => &["x86_64", "amd64"],
            Machine::Arm => &["armv*"],
            Machine::Aarch64 => &["aarch64", "arm64"],
            Machine::Riscv64 => &["riscv64"],
            Machine::Ppc64 => &["ppc64le", "ppc64"],
            Machine::S390x => &["s390x"],
            Machine::Other(_) => &[],
        }
    }

    /// Tells whether a machine that calls itself `arch` runs the program.
    #[must_use]
    pub fn runs_on(self, arch: &str) -> bool {
        self.names().iter().any(|name| match name.strip_suffix('*') {
            Some(start) => arch.starts_with(start),
            None => arch == *name,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::X86 => f.write_str("i686"),
            Machine::X86_64 => f.write_str("x86_64"),
            Machine::Arm => f.write_str("arm"),
            Machine::Aarch64 => f.write_str("aarch64"),
            Machine::Riscv64 => f.write_str("riscv64"),
            Machine::Ppc64 => f.write_str("ppc64"),
            Machine::S390x => f.write_str("s390x"),
            Machine::Other(number) => write!(f, "ELF machine {number}"),
        }
    }
}

/// Why bytes are no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("it does not begin as an ELF file")]
    NotElf,
    #[error("it is an ELF file, but no executable")]
    NotExecutable,
    #[error("its ELF headers are damaged or cut off")]
    Damaged,
}

/// Reads the headers of a program.
///
/// # Errors
/// If `bytes` are no ELF executable, or a damaged one.
pub fn parse(bytes: &[u8]) -> Result<Elf, ElfError> {
    if bytes.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    let (class, data) = (bytes.get(4), bytes.get(5));
    let image = Image { bytes, wide: class == Some(&2), big: data == Some(&2) };
    // Executables are of type 2, or, position-independent, of type 3.
    if !matches!(image.u16(16).ok_or(ElfError::Damaged)?, 2 | 3) {
        return Err(ElfError::NotExecutable);
    }
    image.elf().ok_or(ElfError::Damaged)
}

/// Reads `2.36`, and the first two numbers of `2.36.1`.
#[must_use]
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_STRTAB: u64 = 5;
const DT_VERNEED: u64 = 0x6fff_fffe;

/// Bound on entries followed in one table: a damaged file could have a chain that goes round.
const ENTRIES_LIMIT: usize = 65_536;

struct Image<'a> {
    bytes: &'a [u8],
    /// 64 bits.
    wide: bool,
    /// High byte first.
    big: bool,
}

struct Segment {
    kind: u32,
    offset: usize,
    address: u64,
    file_size: usize,
}

impl Image<'_> {
    fn elf(&self) -> Option<Elf> {
        let machine = match self.u16(18)? {
            3 => Machine::X86,
            40 => Machine::Arm,
            62 => Machine::X86_64,
            183 => Machine::Aarch64,
            243 if self.wide => Machine::Riscv64,
            21 => Machine::Ppc64,
            22 if self.wide => Machine::S390x,
            other => Machine::Other(other),
        };
        let segments = self.segments()?;
        let Some(interpreter) = segments.iter().find(|s| s.kind == PT_INTERP) else {
            return Some(Elf { machine, linking: Linking::Static });
        };
        let loader = self.text(interpreter.offset)?;
        let glibc = self.needed_glibc(&segments)?;
        Some(Elf { machine, linking: Linking::Dynamic { loader, glibc } })
    }

    fn segments(&self) -> Option<Vec<Segment>> {
        let (table, entry_size, count) = if self.wide {
            (self.word(32)?, self.u16(54)?, self.u16(56)?)
        } else {
            (self.word(28)?, self.u16(42)?, self.u16(44)?)
        };
        let table = usize::try_from(table).ok()?;
        (0..usize::from(count))
            .map(|index| {
                let at = table.checked_add(index.checked_mul(usize::from(entry_size))?)?;
                let (offset, address, file_size) = if self.wide { (8, 16, 32) } else { (4, 8, 16) };
                Some(Segment {
                    kind: self.u32(at)?,
                    offset: usize::try_from(self.word(at.checked_add(offset)?)?).ok()?,
                    address: self.word(at.checked_add(address)?)?,
                    file_size: usize::try_from(self.word(at.checked_add(file_size)?)?).ok()?,
                })
            })
            .collect()
    }

    /// Returns the newest `GLIBC_x.y` among the versions that the program needs.
    fn needed_glibc(&self, segments: &[Segment]) -> Option<Option<(u32, u32)>> {
        let Some(dynamic) = segments.iter().find(|s| s.kind == PT_DYNAMIC) else { return Some(None) };
        let entry = if self.wide { 16 } else { 8 };
        let (mut strings, mut needs) = (None, None);
        for index in 0..(dynamic.file_size / entry).min(ENTRIES_LIMIT) {
            let at = dynamic.offset.checked_add(index * entry)?;
            let value = self.word(at.checked_add(entry / 2)?)?;
            match self.word(at)? {
                0 => break,
                DT_STRTAB => strings = file_offset(segments, value),
                DT_VERNEED => needs = file_offset(segments, value),
                _ => {}
            }
        }
        let (Some(strings), Some(mut need)) = (strings, needs) else { return Some(None) };
        let mut newest = None;
        let mut budget = ENTRIES_LIMIT;
        loop {
            // Verneed: version, count (16 bits each), file, first Vernaux, next Verneed (32 bits each).
            let mut version = need.checked_add(self.u32(need.checked_add(8)?)? as usize)?;
            for _ in 0..self.u16(need.checked_add(2)?)? {
                budget = budget.checked_sub(1)?;
                // Vernaux: hash (32 bits), flags, other (16 bits each), name, next (32 bits each).
                let name = self.text(strings.checked_add(self.u32(version.checked_add(8)?)? as usize)?)?;
                newest = newest.max(name.strip_prefix("GLIBC_").and_then(parse_version));
                version = version.checked_add(self.u32(version.checked_add(12)?)? as usize)?;
            }
            budget = budget.checked_sub(1)?;
            match self.u32(need.checked_add(12)?)? as usize {
                0 => return Some(newest),
                next => need = need.checked_add(next)?,
            }
        }
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let array = self.array(at)?;
        Some(if self.big { u16::from_be_bytes(array) } else { u16::from_le_bytes(array) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let array = self.array(at)?;
        Some(if self.big { u32::from_be_bytes(array) } else { u32::from_le_bytes(array) })
    }

    /// Reads an address or offset: 32 or 64 bits.
    fn word(&self, at: usize) -> Option<u64> {
        if !self.wide {
            return self.u32(at).map(u64::from);
        }
        let array = self.array(at)?;
        Some(if self.big { u64::from_be_bytes(array) } else { u64::from_le_bytes(array) })
    }

    /// Reads a text that ends with a NUL byte.
    fn text(&self, at: usize) -> Option<String> {
        let rest = self.bytes.get(at..)?;
        let end = rest.iter().take(4096).position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok().map(str::to_owned)
    }
}

/// Returns where in the file the memory at `address` comes from.
fn file_offset(segments: &[Segment], address: u64) -> Option<usize> {
    segments.iter().filter(|segment| segment.kind == PT_LOAD).find_map(|segment| {
        let within = usize::try_from(address.checked_sub(segment.address)?).ok()?;
        (within < segment.file_size).then(|| segment.offset.checked_add(within))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_shell_is_dynamic_and_needs_glibc() {
        // Debian's shell; elsewhere it may be linked in another way, but never without facts.
        let Ok(bytes) = std::fs::read("/bin/sh") else { return };
        let elf = parse(&bytes).unwrap();
        assert!(elf.machine.runs_on(std::env::consts::ARCH));
        if let Linking::Dynamic { loader, glibc } = elf.linking {
            assert!(loader.starts_with('/'), "{loader}");
            if loader.contains("ld-linux") {
                assert!(glibc.unwrap() >= (2, 2));
            }
        }
    }

    #[test]
    fn no_bytes_panic() {
        let whole = std::fs::read("/bin/sh").unwrap_or_default();
        for cut in (0..whole.len().min(8192)).step_by(7) {
            let _ = parse(&whole[..cut]);
        }
        // Each byte of the headers, damaged.
        for at in 4..whole.len().min(1024) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = parse(&damaged);
        }
        assert_eq!(parse(b""), Err(ElfError::NotElf));
        assert_eq!(parse(b"\x7fELF"), Err(ElfError::Damaged));
    }

    /// Builds the headers of a program without segments.
    fn header(machine: u16, big: bool, wide: bool) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[4] = if wide { 2 } else { 1 };
        bytes[5] = if big { 2 } else { 1 };
        let put = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        bytes[16..18].copy_from_slice(&put(2));
        bytes[18..20].copy_from_slice(&put(machine));
        bytes
    }

    #[test]
    fn machines_are_told_apart() {
        let machine = |number, big, wide| parse(&header(number, big, wide)).unwrap().machine;
        assert_eq!(machine(62, false, true), Machine::X86_64);
        assert_eq!(machine(183, false, true), Machine::Aarch64);
        assert_eq!(machine(22, true, true), Machine::S390x);
        assert_eq!(machine(40, false, false), Machine::Arm);
        assert_eq!(machine(999, false, true), Machine::Other(999));
        assert!(Machine::X86.runs_on("i686") && Machine::X86.runs_on("x86_64"));
        assert!(Machine::Arm.runs_on("armv7l") && !Machine::Arm.runs_on("arm64"));
        assert!(!Machine::Aarch64.runs_on("x86_64") && !Machine::Other(7).runs_on("x86_64"));
    }

    #[test]
    fn object_files_are_no_programs() {
        let mut bytes = header(62, false, true);
        bytes[16] = 1;
        assert_eq!(parse(&bytes), Err(ElfError::NotExecutable));
    }

    #[test]
    fn versions_are_numbers() {
        assert_eq!(parse_version("2.36"), Some((2, 36)));
        assert_eq!(parse_version("2.2.5"), Some((2, 2)));
        assert!(parse_version("2.9") < parse_version("2.36"));
        assert_eq!(parse_version("PRIVATE"), None);
    }
}
