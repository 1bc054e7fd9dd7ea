//! Process: one command that is executed: it is fed lines and writes lines, and nobody ever waits for the other.
//!
//! One thread serves all its pipes, whichever is ready. A command has ended when its shell has; what it leaves behind
//! is killed with its group.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::errors::Errors;
use super::lines::Lines;
use super::place::{Place, SHELL};

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Map,
    Combine,
    Reduce,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Combine => "combine",
            Self::Reduce => "reduce",
        }
    }
}

/// Takes what a command writes.
pub(super) trait Take {
    /// Takes a line, without its end.
    fn line(&mut self, line: &[u8]);

    /// Says whether to go on with `bytes` held that are no line yet.
    ///
    /// # Errors
    /// If nobody wants it any more, or that is too much.
    fn may_hold(&mut self, bytes: usize) -> Result<(), String>;
}

/// A command that is executed. Dropped, it is killed.
pub(super) struct Process {
    place: Arc<Place>,
    child: Child,
    group: Pid,
    role: Role,
    command: Arc<str>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    lines: Lines,
    errors: Errors,
    /// When it was last looked whether to go on.
    looked: Instant,
    /// When its shell was first seen to have ended.
    exited: Option<Instant>,
    is_reaped: bool,
}

/// How often it is looked whether to go on with a command that says nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long what a command has left behind may hold its pipes.
const GRACE: Duration = Duration::from_secs(1);

/// The longest pause between looks whether a command that has closed its pipes has ended.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that a pipe is to hold, where the system lets it: fewer turns for both sides.
const PIPE_BYTES: usize = 1 << 20;

/// The keeper knows of the group before anything of the command is executed: until then the shell waits for a line.
const BEGIN: &str = r#"read -r _ || exit; exec "$0" -c "$1""#;

impl Process {
    /// Starts a command, for lines of `file` if that has a name.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(
        place: &Arc<Place>,
        role: Role,
        command: &Arc<str>,
        file: Option<&[u8]>,
    ) -> Result<Self, String> {
        let mut shell = Command::new(SHELL);
        shell.args(["-c", BEGIN, SHELL, command]).current_dir(place.dir()).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell.env("mapreduce_task_ismap", if role == Role::Reduce { "false" } else { "true" });
        // A name may be any bytes but these.
        match file.filter(|file| !file.contains(&0)) {
            Some(file) => shell.env("mapreduce_map_input_file", OsStr::from_bytes(file)),
            None => shell.env_remove("mapreduce_map_input_file"),
        };
        let failed = |error: io::Error| format!("cannot start the {} command: {error}", role.name());
        let mut child = shell.spawn().map_err(failed)?;
        let mut process = Self {
            place: place.clone(),
            group: Pid::from_child(&child),
            role,
            command: command.clone(),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            child,
            lines: Lines::default(),
            errors: Errors::default(),
            looked: Instant::now(),
            exited: None,
            is_reaped: false,
        };
        place.keep(process.group)?;
        process.open_pipes().map_err(failed)?;
        Ok(process)
    }

    fn open_pipes(&mut self) -> io::Result<()> {
        let pipes = [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.iter().flatten() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        for pipe in pipes[..2].iter().flatten() {
            // A smaller one does as well.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
        }
        match self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(b"\n")) {
            // It will say why it has ended.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes `input` to the command, which need not read it, and takes what it writes meanwhile.
    ///
    /// # Errors
    /// As [`Take::may_hold`], or if a pipe breaks.
    pub(super) fn write(&mut self, mut input: &[u8], take: &mut dyn Take) -> Result<(), String> {
        while self.stdin.is_some() && !input.is_empty() {
            self.serve(&mut input, take)?;
        }
        Ok(())
    }

    /// Ends the command's input, and takes what it writes until it has ended.
    ///
    /// # Errors
    /// As [`Process::write`]; or if the command fails, with the end of what it wrote to standard error.
    pub(super) fn finish(mut self, take: &mut dyn Take) -> Result<(), String> {
        self.stdin = None;
        while self.stdout.is_some() || self.stderr.is_some() {
            self.serve(&mut &[][..], take)?;
        }
        let mut pause = Duration::from_micros(100);
        while !self.has_exited() {
            self.may_hold(take)?;
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.lines.end(take);
        let status = self.reap().map_err(|error| self.broken(&error.to_string()))?;
        match status.success() {
            true => Ok(()),
            false => Err(self.broken(&format!("{}{}", how(status), self.errors))),
        }
    }

    /// Waits until a pipe is ready, for some time at most, and serves those that are.
    fn serve(&mut self, input: &mut &[u8], take: &mut dyn Take) -> Result<(), String> {
        let [writable, readable, complains] =
            self.ready(!input.is_empty()).map_err(|error| self.broken(&error.to_string()))?;
        if writable {
            self.feed(input)?;
        }
        if readable && let Some(stdout) = &mut self.stdout {
            match self.lines.read(stdout, take) {
                Ok(true) => {}
                Ok(false) => self.stdout = None,
                Err(error) => return Err(self.broken(&error.to_string())),
            }
            self.may_hold(take)?;
        }
        if complains && let Some(stderr) = &mut self.stderr {
            match self.errors.read(stderr) {
                Ok(true) => {}
                Ok(false) => self.stderr = None,
                Err(error) => return Err(self.broken(&error.to_string())),
            }
        }
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.looked = Instant::now();
            self.may_hold(take)?;
            let is_silent = !readable && !complains;
            if is_silent && self.has_exited() && self.exited.is_some_and(|exited| exited.elapsed() >= GRACE) {
                // All that it wrote has been read, and somebody else holds them.
                (self.stdin, self.stdout, self.stderr) = (None, None, None);
            }
        }
        Ok(())
    }

    /// Tells which pipes are ready to be written, if that is wanted, or read.
    fn ready(&self, has_input: bool) -> io::Result<[bool; 3]> {
        let pipes = [
            (self.stdin.as_ref().filter(|_| has_input).map(AsFd::as_fd), PollFlags::OUT),
            (self.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (self.stderr.as_ref().map(AsFd::as_fd), PollFlags::IN),
        ];
        let open = pipes.iter().filter_map(|(pipe, flags)| Some(PollFd::from_borrowed_fd((*pipe)?, *flags)));
        let mut polled: Vec<PollFd<'_>> = open.collect();
        let limit = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.subsec_nanos().into() };
        match poll(&mut polled, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut polled = polled.iter();
        Ok(pipes.map(|(pipe, _)| {
            pipe.is_some() && polled.next().is_some_and(|polled| !polled.revents().is_empty())
        }))
    }

    fn feed(&mut self, input: &mut &[u8]) -> Result<(), String> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        match stdin.write(input) {
            Ok(written) => *input = &input[written..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // It wants no more, which it may.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
            Err(error) => return Err(self.broken(&error.to_string())),
        }
        Ok(())
    }

    fn may_hold(&self, take: &mut dyn Take) -> Result<(), String> {
        let may = self.lines.check().and_then(|()| take.may_hold(self.lines.bytes()));
        may.map_err(|cause| self.broken(&format!("was stopped: {cause}")))
    }

    /// Tells whether the shell has ended; its number stays its own until it is reaped.
    fn has_exited(&mut self) -> bool {
        if self.exited.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if !matches!(waitid(WaitId::Pid(self.group), options), Ok(None) | Err(rustix::io::Errno::INTR)) {
                self.exited = Some(Instant::now());
            }
        }
        self.exited.is_some()
    }

    /// Kills what is left of the command, and waits for the end of its shell.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        if !std::mem::replace(&mut self.is_reaped, true) {
            let _ = kill_process_group(self.group, Signal::KILL);
            self.place.forget(self.group);
        }
        self.child.wait()
    }

    fn broken(&self, how: &str) -> String {
        let command: String = self.command.chars().take(MAX_COMMAND_CHARS).collect();
        format!("the {} command {command:?} {how}", self.role.name())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What is killed ends at once.
        let _ = self.reap();
    }
}

/// Characters of a command that are told.
const MAX_COMMAND_CHARS: usize = 200;

/// Says how a command ended that failed.
fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        // What a shell returns for what it cannot find, or not execute.
        (Some(code @ (126 | 127)), _) => format!(
            "exited with status {code} (it is executed in a directory of its own, to which --ship brings files)"
        ),
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended with {status}"),
    }
}
