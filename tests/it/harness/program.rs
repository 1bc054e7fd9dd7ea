//! Program: runs the real binary with a deadline and keeps what it printed.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Variables that would let the machine's own settings leak into a test.
const FOREIGN: [&str; 6] = [
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "MAPREDUCE_SSH_CONFIG",
    "MAPREDUCE_KNOWN_HOSTS",
    "CLICOLOR_FORCE",
    "COLUMNS",
];

/// A run of a program that is being prepared.
pub struct Invocation {
    command: Command,
    stdin: Vec<u8>,
    deadline: Duration,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// Standard output as it was, for results that are not UTF-8.
    pub stdout_bytes: Vec<u8>,
    pub elapsed: Duration,
    command: String,
}

/// A run that goes on.
pub struct Running {
    child: Child,
    streams: [Option<JoinHandle<Vec<u8>>>; 2],
    started: Instant,
    deadline: Duration,
    command: String,
}

impl Invocation {
    /// The `mapreduce` binary with `args`, without input, for a minute at most.
    pub fn new(args: &[&str]) -> Invocation {
        Invocation::of(Path::new(env!("CARGO_BIN_EXE_mapreduce")), args)
    }

    /// Another program.
    pub fn of(program: &Path, args: &[&str]) -> Invocation {
        let mut command = Command::new(program);
        command.args(args).env("NO_COLOR", "1");
        for variable in FOREIGN {
            command.env_remove(variable);
        }
        Invocation { command, stdin: Vec::new(), deadline: Duration::from_secs(60) }
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Invocation {
        self.command.env(key, value);
        self
    }

    pub fn current_dir(mut self, dir: &Path) -> Invocation {
        self.command.current_dir(dir);
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Invocation {
        self.stdin = bytes.into();
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Invocation {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// With all it printed if it has not ended by the deadline.
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }

    /// Starts it and returns.
    pub fn spawn(mut self) -> Running {
        let command = format!("{:?}", self.command);
        let stdin = if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("could not start {command}: {e}"));
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin;
            // The program may well end without having read it all.
            std::thread::spawn(move || _ = pipe.write_all(&bytes));
        }
        let streams = [child.stdout.take().map(drain), child.stderr.take().map(drain)];
        Running { child, streams, started: Instant::now(), deadline: self.deadline, command }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end; see [`Invocation::run`].
    pub fn wait(mut self) -> Finished {
        let code = loop {
            match self.child.try_wait().expect("the child is ours") {
                Some(status) => break Some(status.code()),
                None if self.started.elapsed() > self.deadline => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let elapsed = self.started.elapsed();
        if code.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let [stdout_bytes, stderr] =
            self.streams.each_mut().map(|s| s.take().and_then(|s| s.join().ok()).unwrap_or_default());
        let finished = Finished {
            code: code.flatten(),
            stdout: String::from_utf8_lossy(&stdout_bytes).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            stdout_bytes,
            elapsed,
            command: std::mem::take(&mut self.command),
        };
        assert!(code.is_some(), "did not end within {:?}: {finished:#?}", self.deadline);
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Passes the run on if it exited with `code`.
    ///
    /// # Panics
    /// With all it printed if it did not.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Finished {
        assert_eq!(
            self.code,
            Some(code),
            "{}\n--- standard output\n{}\n--- standard error\n{}",
            self.command,
            self.stdout,
            self.stderr
        );
        self
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}
