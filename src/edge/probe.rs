//! Probe: the facts of a host, gathered in one SSH session by one POSIX shell script.
//!
//! The script prints `key=value` lines between two marks, since login shells print things of their own around them. It
//! reads on standard input of `sh`, so that the user's login shell, whichever it is, has nothing to interpret. What a
//! host has no tool for is left out, and the fact is then unknown.

use std::time::Duration;

use anyhow::anyhow;

use super::failure::{HostFailure, Step};
use super::hosts::{Facts, Host};
use super::sanitize::clipped;
use super::ssh::{CommandOutput, Session, SshOptions, quote};

const BEGIN: &str = "mapreduce-facts-begin";
const END: &str = "mapreduce-facts-end";

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

/// The script; `DIR` is filled in. The braces make the shell read all of it before it runs anything that might read
/// its standard input.
const SCRIPT: &str = r#"{
LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"; export PATH
dir=DIR
case $dir in
'~' | '$HOME') dir=$HOME ;;
'~/'*) dir=$HOME/${dir#??} ;;
'$HOME/'*) dir=$HOME/${dir#??????} ;;
esac
while [ -n "$dir" ] && [ ! -d "$dir" ]; do
    case $dir in
    /*/*|[!/]*/*) dir=${dir%/*} ;;
    /*) dir=/ ;;
    *) dir=. ;;
    esac
done
echo mapreduce-facts-begin
echo "arch=$(uname -m)"
echo "cores=$(getconf _NPROCESSORS_ONLN || nproc --all || grep -c '^processor' /proc/cpuinfo || sysctl -n hw.ncpu)"
if [ -r /proc/meminfo ]; then
    while read -r key value unit; do
        case $key in MemTotal:) echo "memory_kib=$value" ;; esac
    done </proc/meminfo
fi
if [ -r /proc/loadavg ]; then
    read -r load others </proc/loadavg
    echo "load=$load"
fi
echo "libc=$(getconf GNU_LIBC_VERSION)"
ldd --version 2>&1 | while read -r line; do echo "ldd=$line"; done
df -P -k "$dir" | while read -r line; do echo "free=$line"; done
echo "home=$(stat -f -c %T "$HOME")"
df -P -k "$HOME" | while read -r line; do echo "home_df=$line"; done
echo mapreduce-facts-end
} </dev/null 2>/dev/null
"#;

/// Connects to `host` and gathers its facts within `deadline` of the login.
///
/// # Errors
/// With the step that failed and its cause.
pub fn probe(host: &Host, options: &SshOptions, deadline: Duration) -> Result<Facts, HostFailure> {
    let mut session = Session::connect(&host.target(), options)?;
    let script = script(host.remote_dir.as_deref().unwrap_or(DEFAULT_DIR));
    let facts = session.run("sh -s", script.as_bytes(), deadline).and_then(|output| parse(&output));
    facts.map_err(|cause| HostFailure::new(&host.name, Step::Probe, cause))
}

/// The script for a remote directory, quoted for a POSIX shell.
fn script(dir: &str) -> String {
    SCRIPT.replacen("DIR", &quote(dir), 1)
}

/// Reads what the script printed.
///
/// # Errors
/// If it did not run to its end.
fn parse(output: &CommandOutput) -> anyhow::Result<Facts> {
    let text = String::from_utf8_lossy(&output.stdout);
    let whole = text.rsplit_once(BEGIN).and_then(|(_, after)| after.split_once(END));
    let Some((lines, _)) = whole else { return Err(not_run(output)) };
    let values = |key: &str| {
        let key = format!("{key}=");
        lines
            .lines()
            .filter_map(move |line| line.strip_prefix(&key).map(str::trim))
            .filter(|value| !value.is_empty())
    };
    let first = |key| values(key).next();
    let load: f64 = first("load").and_then(|load| load.parse().ok()).unwrap_or(0.0);
    Ok(Facts {
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
    })
}

/// Why there are no facts: what the remote shell said instead.
fn not_run(output: &CommandOutput) -> anyhow::Error {
    let said = [&output.stderr, &output.stdout].into_iter().map(|text| String::from_utf8_lossy(text));
    let said = said.map(|text| clipped(&text, 200)).find(|text| !text.is_empty());
    let said = said.map_or_else(|| "nothing".to_owned(), |text| format!("`{text}`"));
    anyhow!("the remote shell did not run the probe: it exited with status {} and said {said}", output.status)
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

    fn said(stdout: &str, stderr: &str, status: i32) -> CommandOutput {
        CommandOutput {
            status,
            stdout: stdout.as_bytes().to_vec(),
            stderr: stderr.as_bytes().to_vec(),
            signal: None,
        }
    }

    fn facts(lines: &str) -> Facts {
        parse(&said(&format!("{BEGIN}\n{lines}\n{END}\n"), "", 0)).unwrap()
    }

    /// Runs the script as a host's shell would.
    fn run(shell: &[&str], dir: &str, environment: &[(&str, &str)]) -> CommandOutput {
        let mut shell_command = Command::new(shell[0]);
        shell_command.args(&shell[1..]).envs(environment.iter().copied());
        let mut child = shell_command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script(dir).as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        CommandOutput {
            status: output.status.code().unwrap(),
            stdout: output.stdout,
            stderr: output.stderr,
            signal: None,
        }
    }

    #[test]
    fn the_script_tells_the_facts_of_this_machine() {
        for shell in
            [&["sh", "-s"][..], &["bash", "--posix", "-s"], &["dash", "-s"], &["busybox", "sh", "-s"]]
        {
            if Command::new(shell[0]).arg("-c").arg("true").output().is_err() {
                continue;
            }
            let output = run(shell, "/tmp/it's \"not\" $(there)/yet", &[]);
            let facts = parse(&output).unwrap();
            assert_eq!(facts.arch, std::env::consts::ARCH);
            assert!(facts.cores as usize >= std::thread::available_parallelism().unwrap().get(), "{facts:?}");
            assert!(facts.memory_mib > 100 && facts.free_mib > 0, "{facts:?}");
            assert!(facts.libc.starts_with("glibc ") || facts.libc.starts_with("musl"), "{facts:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
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
            let facts = parse(&run(&["sh", "-s"], dir, &[])).unwrap();
            assert!(facts.free_mib > 0 || dir.is_empty(), "{dir}: {facts:?}");
        }
    }

    #[test]
    fn the_script_does_without_home_and_tools() {
        let facts =
            parse(&run(&["/bin/sh", "-s"], "/tmp", &[("HOME", "/nonexistent"), ("PATH", "")])).unwrap();
        assert!(facts.cores > 0 && !facts.network_home);
    }

    #[test]
    fn noise_around_the_facts_is_passed_over() {
        let output = said(
            &format!(
                "Welcome!\ncores=99\n{BEGIN}\nold\n{BEGIN}\r\narch=x86_64\r\ncores=12\r\nload=0.53 \n{END}\ncores=7"
            ),
            "warning",
            0,
        );
        let facts = parse(&output).unwrap();
        assert_eq!((facts.arch.as_str(), facts.cores, facts.load_percent), ("x86_64", 12, 53));
    }

    #[test]
    fn what_is_missing_is_unknown() {
        let none = facts("cores=undefined\nload=x\nlibc=\nfree=\narch=");
        assert_eq!((none.cores, none.memory_mib, none.load_percent, none.free_mib), (0, 0, 0, 0));
        assert_eq!(
            (none.arch.as_str(), none.libc.as_str(), none.network_home),
            ("unknown", "unknown", false)
        );
        assert_eq!(facts("load=-3").load_percent, 0);
        assert_eq!(facts("load=NaN").load_percent, 0);
    }

    #[test]
    fn libc_is_named_from_either_tool() {
        assert_eq!(facts("libc=glibc 2.36").libc, "glibc 2.36");
        assert_eq!(facts("ldd=ldd (Debian GLIBC 2.36-9+deb12u4) 2.36\nldd=Copyright").libc, "glibc 2.36");
        assert_eq!(facts("ldd=musl libc (x86_64)\nldd=Version 1.2.3\nldd=Dynamic").libc, "musl 1.2.3");
        assert_eq!(facts("ldd=sh: ldd: not found").libc, "unknown");
    }

    #[test]
    fn free_space_is_the_column_before_the_percentage() {
        let df = "free=Filesystem 1024-blocks Used Available Capacity Mounted on\n";
        assert_eq!(facts(&format!("{df}free=/dev/sda1 100 50 2048000 50% /tmp")).free_mib, 2000);
        assert_eq!(facts(&format!("{df}free=my disk 100 50 1024 - 1% /mnt")).free_mib, 0);
        assert_eq!(facts(&format!("{df}free=my disk 100 50 1024 1% /my 100% mount")).free_mib, 1);
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
            assert_eq!(facts(line).network_home, network, "{line}");
        }
    }

    #[test]
    fn a_shell_that_runs_nothing_is_quoted() {
        let error = parse(&said("", "This account is\u{1b}[2J currently not available.\n", 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("status 1") && error.contains("currently not available"), "{error}");
        assert!(!error.contains('\u{1b}'));
        assert!(parse(&said(BEGIN, "", 0)).is_err(), "torn");
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
            let _ = parse(&CommandOutput { status: 0, stdout, stderr: Vec::new(), signal: None });
        }

        #[test]
        fn eats_almost_facts(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60)) {
            let facts = facts(&words.concat());
            prop_assert!(facts.arch.len() <= MAX_FACT_CHARS && facts.libc.len() <= MAX_FACT_CHARS);
        }
    }
}
