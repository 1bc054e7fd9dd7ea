//! Program: runs the real binary with a deadline and keeps what it printed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
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
    input: Feed,
    keep_stdout: bool,
    deadline: Duration,
}

/// What a program reads on standard input.
enum Feed {
    Nothing,
    Bytes(Vec<u8>),
    File(File),
    /// What the test writes, for as long as it likes.
    Pipe,
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

/// What a stream gave so far, and the thread that reads it to its end.
struct Drain {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

/// A run that goes on; it is ended with this.
pub struct Running {
    child: Child,
    /// For the test to write to, after [`Invocation::open_stdin`].
    pub stdin: Option<ChildStdin>,
    /// For the test to read from, after [`Invocation::keep_stdout`].
    pub stdout: Option<ChildStdout>,
    streams: [Option<Drain>; 2],
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
        let deadline = Duration::from_secs(60);
        Invocation { command, input: Feed::Nothing, keep_stdout: false, deadline }
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
        self.input = Feed::Bytes(bytes.into());
        self
    }

    /// Has it read `file`, from where the file stands, as after `<` in a shell.
    pub fn stdin_file(mut self, file: File) -> Invocation {
        self.input = Feed::File(file);
        self
    }

    /// Leaves standard input to the test: [`Running::stdin`].
    pub fn open_stdin(mut self) -> Invocation {
        self.input = Feed::Pipe;
        self
    }

    /// Leaves standard output to the test: [`Running::stdout`]. Until the test reads it, nobody does.
    pub fn keep_stdout(mut self) -> Invocation {
        self.keep_stdout = true;
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
        let (stdin, bytes) = match self.input {
            Feed::Nothing => (Stdio::null(), None),
            Feed::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
            Feed::File(file) => (Stdio::from(file), None),
            Feed::Pipe => (Stdio::piped(), None),
        };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("could not start {command}: {e}"));
        let mut stdin = child.stdin.take();
        if let Some((bytes, mut pipe)) = bytes.and_then(|bytes| Some((bytes, stdin.take()?))) {
            // The program may well end without having read it all.
            std::thread::spawn(move || _ = pipe.write_all(&bytes));
        }
        let mut stdout = child.stdout.take();
        let drained = if self.keep_stdout { None } else { stdout.take().map(drain) };
        let streams = [drained, child.stderr.take().map(drain)];
        Running { child, stdin, stdout, streams, started: Instant::now(), deadline: self.deadline, command }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed on standard error so far.
    pub fn said(&self) -> String {
        let bytes = self.streams[1].as_ref().map(Drain::so_far).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Tells whether it has not ended yet.
    pub fn goes_on(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// Waits for the end, standard input closed; see [`Invocation::run`].
    pub fn wait(mut self) -> Finished {
        drop(self.stdin.take());
        self.wait_as_it_is()
    }

    /// Waits for the end, and leaves a standard input that is the test's open until then.
    pub fn wait_as_it_is(mut self) -> Finished {
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
            self.streams.each_mut().map(|stream| stream.take().map(Drain::whole).unwrap_or_default());
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

impl Drain {
    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn whole(self) -> Vec<u8> {
        let Drain { bytes, thread } = self;
        let _ = thread.join();
        std::mem::take(&mut bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> Drain {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let kept = bytes.clone();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        }
    });
    Drain { bytes, thread }
}
