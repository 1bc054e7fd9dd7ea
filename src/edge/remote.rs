//! Remote: what is done on a host by shell scripts: facts, the remote directory, digests, starting, cleaning.
//!
//! A script goes to `sh` on standard input, so that the user's login shell and its quoting do not matter, and is
//! wrapped in a function, so that one that arrives in part is not run in part. The scripts are in `remote/`.

use std::time::Duration;

use anyhow::{Context, anyhow};
use zeroize::Zeroizing;

use super::daemon::{self, Started};
use super::failure::Step;
use super::program::HostSystem;
use super::sanitize::clipped;
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
    /// Those of the tools asked for that the host has, if the program is not there.
    pub tools: Vec<String>,
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

/// Gathers the facts of the host; free space is told for `dir`, or for what there is of it.
///
/// # Errors
/// If the host does not answer as a Unix machine does.
pub fn probe(shell: &mut impl Shell, dir: &str, deadline: Duration) -> anyhow::Result<Answer> {
    ask(shell, &[PROBE], &[("wanted", dir)], deadline).map_err(|(_, cause)| cause)
}

/// What is looked for on a host before anything is brought there.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The program's, if it is dynamically linked.
    pub loader: Option<&'a str>,
    /// What the machines on which there is more to do than to gather facts call themselves; patterns of a shell.
    pub machines: &'a [&'a str],
    /// The remote directory as configured; the default one if `None`.
    pub configured: Option<&'a str>,
    /// File name of the program in it.
    pub program: &'a str,
    pub digest: &'a str,
    /// Which an upload makes use of.
    pub tools: &'a [&'a str],
    /// Names files of this host and deployment.
    pub tag: &'a str,
}

/// A worker to be started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// By its true path.
    pub dir: &'a str,
    /// File name of the program in it.
    pub program: &'a str,
    /// Of the cluster whose workers stay.
    pub id: &'a str,
    /// File name of the worker's own directory, which is made.
    pub worker: &'a str,
    /// Words for `serve`, none of which a shell would take for more.
    pub arguments: &'a str,
    /// For its standard input, in one line.
    pub orders: &'a str,
}

/// What failed on the way, and why.
pub type Failed = (Step, anyhow::Error);

/// Gathers facts about the host; then, if it is one of the machines wanted, makes the remote directory, or proves that
/// it is the user's own and that programs can be run in it, and looks for the program there.
///
/// # Errors
/// If the host does not answer as a Linux machine does; if the directory cannot be made, or is not to be trusted.
pub fn prepare(
    shell: &mut impl Shell,
    wanted: &Wanted,
    deadline: Duration,
) -> Result<(HostSystem, Option<RemoteDir>), Failed> {
    let (machines, tools) = (wanted.machines.join(" "), wanted.tools.join(" "));
    let variables = [
        ("loader", wanted.loader.unwrap_or("")),
        ("machines", &machines),
        ("configured", wanted.configured.unwrap_or("")),
        ("program", wanted.program),
        ("wanted", wanted.digest),
        ("tools", &tools),
        ("tag", wanted.tag),
    ];
    let answer = ask(shell, &[PREPARE], &variables, deadline)
        .map_err(|(step, cause)| (step.unwrap_or(Step::Probe), cause))?;
    let arch = answer.value("arch").context("the host does not say its architecture");
    let system = HostSystem {
        arch: arch.map_err(|cause| (Step::Probe, cause))?.to_owned(),
        libc: answer.value("libc").unwrap_or_default().to_owned(),
        has_loader: wanted.loader.is_none() || answer.value("loader") == Some("yes"),
    };
    let free_kib = answer.value("free_kib").and_then(|text| text.parse::<u64>().ok());
    let dir = answer.value("dir").map(|path| RemoteDir {
        path: path.to_owned(),
        free_bytes: free_kib.map(|kib| kib.saturating_mul(1024)),
        digest: answer.value("digest").map(str::to_owned),
        tools: answer.values("tool").map(str::to_owned).collect(),
    });
    Ok((system, dir))
}

/// Stops the workers of former deployments in a remote directory, removes programs that none uses any more, and starts
/// a worker; returns how many were stopped, and the worker's report. Takes `timeout`, and some seconds for stopping.
///
/// # Errors
/// If a process does not end, a file cannot be removed, or the worker does not start.
pub fn start(shell: &mut impl Shell, launch: &Launch, timeout: Duration) -> Result<(usize, Started), Failed> {
    let mut variables = Scope::Older { id: launch.id, program: launch.program }.variables(Some(launch.dir));
    variables.extend([("new", launch.worker), ("arguments", launch.arguments), ("orders", launch.orders)]);
    let answer = ask(shell, &[CLEAN, START], &variables, timeout.saturating_add(STOPPING))
        .map_err(|(step, cause)| (step.unwrap_or(Step::Start), cause))?;
    let started = daemon::find_report(&answer.stdout).context("the worker did not report");
    Ok((answer.stopped(), started.map_err(|cause| (Step::Start, cause))?))
}

/// Returns the SHA-256 of the file `path`.
///
/// # Errors
/// If it cannot be read.
pub fn digest(shell: &mut impl Shell, path: &str, deadline: Duration) -> anyhow::Result<String> {
    let answer = ask(shell, &[DIGEST], &[("file", path)], deadline).map_err(|(_, cause)| cause)?;
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
    let variables = scope.variables(configured);
    let answer = ask(shell, &[CLEAN, STOP], &variables, timeout.saturating_add(STOPPING))
        .map_err(|(_, cause)| cause)?;
    Ok(Cleaned {
        stopped: answer.stopped(),
        elsewhere: answer.values("elsewhere").map(str::to_owned).collect(),
    })
}

impl<'a> Scope<'a> {
    /// Returns the variables of `clean.sh`.
    fn variables(self, configured: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
        let (keep, program, only) = match self {
            Scope::All => ("", "", ""),
            Scope::Older { id, program } => (id, program, ""),
            Scope::Worker(name) => ("", "", name),
        };
        vec![("configured", configured.unwrap_or("")), ("keep", keep), ("program", program), ("only", only)]
    }
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

const COMMON: &str = include_str!("remote/common.sh");
const PROBE: &str = include_str!("remote/probe.sh");
const PREPARE: &str = include_str!("remote/prepare.sh");
const DIGEST: &str = include_str!("remote/digest.sh");
const CLEAN: &str = include_str!("remote/clean.sh");
const START: &str = include_str!("remote/start.sh");
const STOP: &str = include_str!("remote/stop.sh");

/// What is repeated of the words of a shell that did not run a script, in characters.
const SAID_CHARS: usize = 200;

/// Status with which a script says that it failed for a reason it named.
const FAILED: i32 = 3;

/// The lines that a script answered with.
pub struct Answer {
    pairs: Vec<(String, String)>,
    /// All that was said, for what is no line of a script's.
    stdout: Vec<u8>,
}

impl Answer {
    /// Finds them in what was written to standard output, for a login shell may write there, too.
    #[must_use]
    pub fn parse(stdout: Vec<u8>) -> Answer {
        let text = String::from_utf8_lossy(&stdout);
        let pairs = text.lines().filter_map(|line| line.strip_prefix("mapreduce:")?.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Answer { pairs, stdout }
    }

    /// Returns the values of `name`, in their order.
    pub fn values(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |pair| pair.0 == name).map(|pair| pair.1.as_str())
    }

    /// Returns the value of `name`, if the answer has one that is not empty.
    fn value(&self, name: &'static str) -> Option<&str> {
        self.values(name).find(|value| !value.is_empty())
    }

    /// Returns the step that was come to last.
    fn step(&self) -> Option<Step> {
        match self.values("step").last()? {
            "directory" => Some(Step::Directory),
            "stop" => Some(Step::Stop),
            "start" => Some(Step::Start),
            _ => None,
        }
    }

    /// Returns how many workers were stopped.
    fn stopped(&self) -> usize {
        self.value("stopped").and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// Runs the text of `scripts` with `variables` set.
///
/// # Errors
/// With the step that the script had come to, if it said so.
fn ask(
    shell: &mut impl Shell,
    scripts: &[&str],
    variables: &[(&str, &str)],
    deadline: Duration,
) -> Result<Answer, (Option<Step>, anyhow::Error)> {
    let script = whole_script(scripts, variables);
    let mut output = shell.run("exec sh", script.as_bytes(), deadline).map_err(|cause| (None, cause))?;
    let answer = Answer::parse(std::mem::take(&mut output.stdout));
    if output.status == FAILED
        && let Some(reason) = answer.value("failed")
    {
        return Err((answer.step(), Refused(reason.to_owned()).into()));
    }
    if answer.pairs.is_empty() {
        return Err((None, not_run(&output, &answer)));
    }
    if output.status != 0 || answer.value("end").is_none() {
        return Err((answer.step(), failure_of(&output)));
    }
    Ok(answer)
}

/// Puts together what a shell is to read: `variables`, of which some are secrets, and the text of `scripts`.
fn whole_script(scripts: &[&str], variables: &[(&str, &str)]) -> Zeroizing<String> {
    let values: usize = variables.iter().map(|(name, value)| 2 * name.len() + 4 * value.len() + 16).sum();
    let texts: usize = scripts.iter().map(|script| script.len()).sum();
    // With room for all: what grows leaves copies behind.
    let mut whole = Zeroizing::new(String::with_capacity(16 + values + COMMON.len() + texts));
    // A variable of the login's environment would stay part of it with its new value, for all whom the script starts.
    whole.push_str("set +a\n");
    for (name, value) in variables {
        whole.extend(["unset ", name, "\n", name, "='"]);
        for (index, part) in value.split('\'').enumerate() {
            whole.extend([if index > 0 { r"'\''" } else { "" }, part]);
        }
        whole.push_str("'\n");
    }
    whole.push_str(COMMON);
    whole.extend(scripts.iter().copied());
    whole
}

/// Why there is no answer at all: what the remote shell said instead.
fn not_run(output: &CommandOutput, answer: &Answer) -> anyhow::Error {
    let said =
        [&output.stderr, &answer.stdout].map(|text| clipped(&String::from_utf8_lossy(text), SAID_CHARS));
    let said = said.iter().find(|text| !text.is_empty());
    let said = said.map_or_else(|| "nothing".to_owned(), |text| format!("`{text}`"));
    anyhow!(
        "the remote shell did not run the script: it exited with status {} and said {said}",
        output.status
    )
}

#[cfg(test)]
mod tests;
