//! Probe: the facts of a host, gathered in one SSH session by `remote/probe.sh`.
//!
//! What a host has no tool for is left out, and the fact is then unknown.

use std::time::Duration;

use super::failure::{HostFailure, Step};
use super::hosts::{Facts, Host};
use super::remote::{self, Answer, Shell};
use super::ssh::{Session, SshOptions};

/// Where `deploy` makes its directory on a host that says nothing else; free space is told for it.
const DEFAULT_DIR: &str = "/tmp";

/// Longest text of a fact, in characters.
const MAX_FACT_CHARS: usize = 64;

/// File systems of other machines, as `stat -f -c %T` calls them. GNU's tool has one name, `fuseblk`, for all that
/// user programs provide, and at home that is sshfs or the like.
const NETWORK_FILE_SYSTEMS: [&str; 24] = [
    "nfs",
    "nfs4",
    "nfsd",
    "afs",
    "k-afs",
    "cifs",
    "smb",
    "smb2",
    "smbfs",
    "fuse",
    "fuseblk",
    "fuse.sshfs",
    "autofs",
    "lustre",
    "ceph",
    "gpfs",
    "panfs",
    "fhgfs",
    "gfs/gfs2",
    "ocfs2",
    "coda",
    "ncp",
    "novell",
    "v9fs",
];

/// Connects to `host` and gathers its facts within `deadline` of the login.
///
/// # Errors
/// With the step that failed and its cause.
pub fn probe(host: &Host, options: &SshOptions, deadline: Duration) -> Result<Facts, HostFailure> {
    let mut session = Session::connect(&host.target(), options)?;
    let facts = gather(&mut session, host.remote_dir.as_deref().unwrap_or(DEFAULT_DIR), deadline);
    facts.map_err(|cause| HostFailure::new(&host.name, Step::Probe, cause))
}

fn gather(shell: &mut impl Shell, dir: &str, deadline: Duration) -> anyhow::Result<Facts> {
    remote::probe(shell, dir, deadline).map(|answer| facts(&answer))
}

/// Reads the facts from what the script answered.
fn facts(answer: &Answer) -> Facts {
    let values = |key| answer.values(key).map(str::trim).filter(|value| !value.is_empty());
    let first = |key| values(key).next();
    let load: f64 = first("load").and_then(|load| load.parse().ok()).unwrap_or(0.0);
    Facts {
        cores: first("cores").and_then(|cores| cores.parse().ok()).unwrap_or(0),
        memory_mib: first("memory_kib").and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
        arch: first("arch").map_or_else(unknown, plain),
        libc: libc(first("libc"), &values("ldd").collect::<Vec<_>>()),
        // A float that is no number, negative or huge saturates.
        load_percent: (load * 100.0).round() as u32,
        free_mib: values("free").find_map(free_kib).unwrap_or(0) / 1024,
        network_home: match first("home") {
            Some(kind) => NETWORK_FILE_SYSTEMS.contains(&kind),
            None => values("home_df").any(is_remote),
        },
    }
}

/// Names the libc from `getconf GNU_LIBC_VERSION`, else from what `ldd --version` printed.
fn libc(getconf: Option<&str>, ldd: &[&str]) -> String {
    if let Some(glibc) = getconf {
        return plain(glibc);
    }
    let first = ldd.first().copied().unwrap_or_default();
    let last_word = |line: &str| line.split_whitespace().last().unwrap_or_default().to_owned();
    if first.starts_with("musl") {
        let version = ldd.iter().find_map(|line| line.strip_prefix("Version ")).unwrap_or_default();
        return plain(format!("musl {version}").trim_end());
    }
    match first.to_ascii_lowercase().contains("libc")
        && last_word(first).starts_with(|c: char| c.is_ascii_digit())
    {
        true => plain(&format!("glibc {}", last_word(first))),
        false => unknown(),
    }
}

/// The column `Available` of a line of `df -P -k`: the one before the percentage. Names of devices may hold blanks.
fn free_kib(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let percentage = words.iter().position(|word| word.ends_with('%') && word.len() > 1)?;
    words.get(percentage.checked_sub(1)?)?.parse().ok()
}

/// Tells whether a line of `df -P` shows a device such as `server:/export` or `//server/share`.
fn is_remote(line: &str) -> bool {
    let device = line.split_whitespace().next().unwrap_or_default();
    free_kib(line).is_some() && (device.contains(":/") || device.starts_with("//"))
}

fn plain(text: &str) -> String {
    let harmless =
        |c: &char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '+' | '(' | ')');
    match text.chars().filter(harmless).take(MAX_FACT_CHARS).collect::<String>().trim() {
        "" => unknown(),
        text => text.to_owned(),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::edge::ssh::CommandOutput;

    /// The facts in lines `key=value`.
    fn read(lines: &str) -> Facts {
        let said: Vec<String> = lines.split('\n').map(|line| format!("mapreduce:{line}\n")).collect();
        facts(&Answer::parse(said.concat().into_bytes()))
    }

    /// A host whose shell is the command `shell`.
    struct Local<'a> {
        shell: &'a [&'a str],
        environment: &'a [(&'a str, &'a str)],
        stderr: Vec<u8>,
    }

    impl Shell for Local<'_> {
        fn run(&mut self, _: &str, stdin: &[u8], _: Duration) -> anyhow::Result<CommandOutput> {
            let mut command = Command::new(self.shell[0]);
            command.args(&self.shell[1..]).envs(self.environment.iter().copied());
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().unwrap().write_all(stdin)?;
            let output = child.wait_with_output()?;
            self.stderr = output.stderr;
            Ok(CommandOutput {
                status: output.status.code().unwrap(),
                stdout: output.stdout,
                stderr: Vec::new(),
                signal: None,
            })
        }
    }

    fn run(shell: &[&str], dir: &str, environment: &[(&str, &str)]) -> Facts {
        let mut host = Local { shell, environment, stderr: Vec::new() };
        let facts = gather(&mut host, dir, Duration::from_secs(20)).unwrap();
        assert_eq!(String::from_utf8_lossy(&host.stderr), "");
        facts
    }

    #[test]
    fn the_script_tells_the_facts_of_this_machine() {
        for shell in
            [&["sh", "-s"][..], &["bash", "--posix", "-s"], &["dash", "-s"], &["busybox", "sh", "-s"]]
        {
            if Command::new(shell[0]).arg("-c").arg("true").output().is_err() {
                continue;
            }
            let facts = run(shell, "/tmp/it's \"not\" $(there)/yet", &[]);
            assert_eq!(facts.arch, std::env::consts::ARCH);
            assert!(facts.cores as usize >= std::thread::available_parallelism().unwrap().get(), "{facts:?}");
            assert!(facts.memory_mib > 100 && facts.free_mib > 0, "{facts:?}");
            assert!(facts.libc.starts_with("glibc ") || facts.libc.starts_with("musl"), "{facts:?}");
        }
    }

    #[test]
    fn the_script_ends_for_any_directory() {
        for dir in [
            "",
            "/",
            ".",
            "a/b/c",
            "/nonexistent",
            "/nonexistent/a/b",
            "~",
            "~/a",
            "~other",
            "$HOME",
            "$HOME/a",
            "//x//y/",
            "a",
        ] {
            let facts = run(&["sh", "-s"], dir, &[]);
            assert!(facts.free_mib > 0 || dir.is_empty(), "{dir}: {facts:?}");
        }
    }

    #[test]
    fn the_script_does_without_home_and_tools() {
        let facts = run(&["/bin/sh", "-s"], "/tmp", &[("HOME", "/nonexistent"), ("PATH", "")]);
        assert!(facts.cores > 0 && !facts.network_home);
    }

    #[test]
    fn noise_around_the_facts_is_passed_over() {
        let said = "Welcome!\ncores=99\r\nmapreduce:arch=x86_64\r\nmapreduce:cores=12\nmapreduce:load=0.53 \ncores=7";
        let facts = facts(&Answer::parse(said.into()));
        assert_eq!((facts.arch.as_str(), facts.cores, facts.load_percent), ("x86_64", 12, 53));
    }

    #[test]
    fn what_is_missing_is_unknown() {
        let none = read("cores=undefined\nload=x\nlibc=\nfree=\narch=");
        assert_eq!((none.cores, none.memory_mib, none.load_percent, none.free_mib), (0, 0, 0, 0));
        assert_eq!(
            (none.arch.as_str(), none.libc.as_str(), none.network_home),
            ("unknown", "unknown", false)
        );
        assert_eq!(read("load=-3").load_percent, 0);
        assert_eq!(read("load=NaN").load_percent, 0);
    }

    #[test]
    fn libc_is_named_from_either_tool() {
        assert_eq!(read("libc=glibc 2.36").libc, "glibc 2.36");
        assert_eq!(read("ldd=ldd (Debian GLIBC 2.36-9+deb12u4) 2.36\nldd=Copyright").libc, "glibc 2.36");
        assert_eq!(read("ldd=musl libc (x86_64)\nldd=Version 1.2.3\nldd=Dynamic").libc, "musl 1.2.3");
        assert_eq!(read("ldd=sh: ldd: not found").libc, "unknown");
    }

    #[test]
    fn free_space_is_the_column_before_the_percentage() {
        let df = "free=Filesystem 1024-blocks Used Available Capacity Mounted on\n";
        assert_eq!(read(&format!("{df}free=/dev/sda1 100 50 2048000 50% /tmp")).free_mib, 2000);
        assert_eq!(read(&format!("{df}free=my disk 100 50 1024 - 1% /mnt")).free_mib, 0);
        assert_eq!(read(&format!("{df}free=my disk 100 50 1024 1% /my 100% mount")).free_mib, 1);
    }

    #[test]
    fn network_homes_are_told_by_kind_or_device() {
        for (line, network) in [
            ("home=nfs", true),
            ("home=fuseblk", true),
            ("home=ext2/ext3", false),
            ("home=tmpfs\nhome_df=server:/export 9 9 9 9% /home", false),
            ("home_df=server:/export 9 9 9 9% /home", true),
            ("home_df=//server/share 9 9 9 9% /home", true),
            ("home_df=/dev/sda1 9 9 9 9% /home", false),
        ] {
            assert_eq!(read(line).network_home, network, "{line}");
        }
    }

    /// Keys and values of the script's answer, right and wrong.
    const WORDS: [&str; 20] = [
        "cores=",
        "load=",
        "free=",
        "home=",
        "home_df=",
        "ldd=",
        "libc=",
        "arch=",
        "memory_kib=",
        "1",
        "99999999999",
        "-",
        "inf",
        "%",
        " ",
        "é\u{1b}",
        "musl",
        "a:/b",
        "Version ",
        "\n",
    ];

    proptest! {
        #[test]
        fn eats_any_bytes(stdout in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = facts(&Answer::parse(stdout));
        }

        #[test]
        fn eats_almost_facts(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60)) {
            let facts = read(&words.concat());
            prop_assert!(facts.arch.len() <= MAX_FACT_CHARS && facts.libc.len() <= MAX_FACT_CHARS);
        }
    }
}
