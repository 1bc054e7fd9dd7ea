//! Remote: what is done on a host by shell scripts: facts, the remote directory, digests, cleaning.
//!
//! A script goes to `sh` on standard input, so that the user's login shell and its quoting do not matter, and is
//! wrapped in a function, so that one that arrives in part is not run in part. The scripts are in `remote/`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context;

use super::program::HostSystem;
use super::ssh::{CommandOutput, Session, failure_of, quote};

/// Where commands are run: a session, or, in tests, this machine.
pub trait Shell {
    /// Runs `command` with `stdin` as its standard input.
    ///
    /// # Errors
    /// If it has not ended by `deadline` or could not be run at all.
    fn run(&mut self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<CommandOutput>;
}

impl Shell for Session {
    fn run(&mut self, command: &str, stdin: &[u8], deadline: Duration) -> anyhow::Result<CommandOutput> {
        Session::run(self, command, stdin, deadline)
    }
}

/// A remote directory that was proven to be the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteDir {
    /// Absolute, without symbolic links.
    pub path: String,
    /// `None` where the host could not tell.
    pub free_bytes: Option<u64>,
    /// Digest of the file of the program's name that is there already.
    pub digest: Option<String>,
}

/// What cleaning a remote directory came upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Workers that were running.
    pub stopped: usize,
    /// Names of other machines whose workers have directories there.
    pub elsewhere: Vec<String>,
}

/// What of a remote directory is cleaned.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    All,
    /// All but the workers of the cluster of this id and the program of this file name.
    Older {
        id: &'a str,
        program: &'a str,
    },
    /// The worker with the directory of this name, and no program.
    Worker(&'a str),
}

/// Gathers what decides whether the host can run a program that is loaded by `loader`.
///
/// # Errors
/// If the host does not answer as a Linux machine does.
pub fn system(
    shell: &mut impl Shell,
    loader: Option<&str>,
    deadline: Duration,
) -> anyhow::Result<HostSystem> {
    let answer = ask(shell, FACTS, &[("loader", loader.unwrap_or(""))], deadline)?;
    Ok(HostSystem {
        arch: answer.value("arch").context("the host does not say its architecture")?.to_owned(),
        libc: answer.value("libc").unwrap_or_default().to_owned(),
        has_loader: answer.value("loader") == Some("yes"),
    })
}

/// Makes the remote directory, or proves that it is the user's own, and looks for the program's file in it. `tag`
/// names files of this host and deployment.
///
/// # Errors
/// If the directory cannot be made, or is not to be trusted, or programs cannot be run in it.
pub fn prepare_directory(
    shell: &mut impl Shell,
    configured: Option<&str>,
    program: &str,
    tag: &str,
    deadline: Duration,
) -> anyhow::Result<RemoteDir> {
    let variables = [("configured", configured.unwrap_or("")), ("program", program), ("tag", tag)];
    let answer = ask(shell, DIRECTORY, &variables, deadline)?;
    let free_kib = answer.value("free_kib").and_then(|text| text.parse::<u64>().ok());
    Ok(RemoteDir {
        path: answer.value("dir").context("the host does not say where the directory is")?.to_owned(),
        free_bytes: free_kib.map(|kib| kib.saturating_mul(1024)),
        digest: answer.value("digest").map(str::to_owned),
    })
}

/// Returns the SHA-256 of the file `path`.
///
/// # Errors
/// If it cannot be read.
pub fn digest(shell: &mut impl Shell, path: &str, deadline: Duration) -> anyhow::Result<String> {
    let answer = ask(shell, DIGEST, &[("file", path)], deadline)?;
    if let Some(digest) = answer.value("digest") {
        return Ok(digest.to_owned());
    }
    // Hosts without any tool for it are rare; there, the file is read back.
    let output = shell.run(&format!("cat {}", quote(path)), b"", deadline)?;
    if output.status != 0 {
        return Err(failure_of(&output).context(format!("reading {path} back")));
    }
    Ok(super::program::digest_of(&output.stdout))
}

/// Stops workers of a remote directory and removes what they left, as far as `scope` says. Stopping may take some
/// seconds on top of `timeout`.
///
/// # Errors
/// If a process does not end or a file cannot be removed.
pub fn clean(
    shell: &mut impl Shell,
    configured: Option<&str>,
    scope: Scope,
    timeout: Duration,
) -> anyhow::Result<Cleaned> {
    let (keep, program, only) = match scope {
        Scope::All => ("", "", ""),
        Scope::Older { id, program } => (id, program, ""),
        Scope::Worker(name) => ("", "", name),
    };
    let configured = configured.unwrap_or("");
    let variables = [("configured", configured), ("keep", keep), ("program", program), ("only", only)];
    let answer = ask(shell, CLEAN, &variables, timeout.saturating_add(STOPPING))?;
    Ok(Cleaned {
        stopped: answer.value("stopped").and_then(|text| text.parse().ok()).unwrap_or(0),
        elsewhere: answer.values("elsewhere").map(str::to_owned).collect(),
    })
}

/// Time that stopping takes at most: workers are asked first, and killed two seconds later.
const STOPPING: Duration = Duration::from_secs(10);

/// A script of ours found that it had better not, and said why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// Tells whether `error` is the considered answer of a host, not a broken connection or a broken host.
#[must_use]
pub fn is_refusal(error: &anyhow::Error) -> bool {
    error.is::<Refused>()
}

const FACTS: &str = include_str!("remote/facts.sh");
const DIRECTORY: &str = include_str!("remote/directory.sh");
const DIGEST: &str = include_str!("remote/digest.sh");
const CLEAN: &str = include_str!("remote/clean.sh");
const COMMON: &str = include_str!("remote/common.sh");

/// Status with which a script says that it failed for a reason it named.
const FAILED: i32 = 3;

/// The lines that a script answered with.
struct Answer {
    pairs: Vec<(String, String)>,
}

impl Answer {
    fn parse(stdout: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(stdout);
        let pairs = text.lines().filter_map(|line| line.strip_prefix("mapreduce:")?.split_once('='));
        Answer { pairs: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |pair| pair.0 == name).map(|pair| pair.1.as_str())
    }

    /// Returns the value of `name`, if the answer has one that is not empty.
    fn value(&self, name: &'static str) -> Option<&str> {
        self.values(name).find(|value| !value.is_empty())
    }
}

/// Runs a script of ours with `variables` set.
fn ask(
    shell: &mut impl Shell,
    script: &str,
    variables: &[(&str, &str)],
    deadline: Duration,
) -> anyhow::Result<Answer> {
    let mut text = String::new();
    for (name, value) in variables {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}={}", quote(value));
    }
    text.push_str(COMMON);
    text.push_str(script);
    let output = shell.run("exec sh", text.as_bytes(), deadline)?;
    let answer = Answer::parse(&output.stdout);
    if output.status == FAILED
        && let Some(reason) = answer.value("failed")
    {
        return Err(Refused(reason.to_owned()).into());
    }
    if output.status != 0 || answer.value("end").is_none() {
        return Err(failure_of(&output));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
