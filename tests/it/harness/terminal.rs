//! Terminal: runs a command on a terminal, and types when it asks.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::{Lab, MARKER, processes};

/// How long a user thinks. The program switches the echo off after it has asked, and drops what was typed before.
const PAUSE: Duration = Duration::from_millis(300);

/// What stood on the terminal, and the exit code.
pub struct Screen {
    pub text: String,
    pub code: Option<i32>,
}

/// Runs a shell's `line` on a terminal, set up by `prepare`; types `lines`, each when `prompt` has shown up once more
/// and `pause` has passed.
///
/// `script` is the terminal. After `limit` the command is ended.
pub fn typed(
    line: &str,
    prepare: impl FnOnce(&mut Command),
    prompt: &str,
    lines: &[&str],
    pause: Duration,
    limit: Duration,
) -> Screen {
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]).env("TERM", "xterm");
    prepare(&mut command);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script, of util-linux");
    let (mut keyboard, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let watchdog = child.id();
    let (done, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(limit).is_err_and(|error| error == RecvTimeoutError::Timeout) {
            processes::signal(watchdog, rustix::process::Signal::KILL);
        }
    });
    let (mut text, mut chunk, mut answered) = (String::new(), [0; 4096], 0);
    while let Ok(n @ 1..) = output.read(&mut chunk) {
        text += &String::from_utf8_lossy(&chunk[..n]);
        while answered < lines.len() && text.matches(prompt).count() > answered {
            std::thread::sleep(pause);
            keyboard.write_all(lines[answered].as_bytes()).unwrap();
            answered += 1;
        }
    }
    drop(done);
    let code = child.wait().unwrap().code();
    Screen { text, code }
}

/// Runs the test `name` of this binary as a child on a terminal.
pub fn child(name: &str, prompt: &str, lines: &[&str], limit: Duration) -> Screen {
    slow_child(name, prompt, lines, PAUSE, limit)
}

/// The same with a user who takes `pause` for each answer.
pub fn slow_child(name: &str, prompt: &str, lines: &[&str], pause: Duration, limit: Duration) -> Screen {
    let line = format!("'{}' --exact {name} --nocapture", std::env::current_exe().unwrap().display());
    typed(&line, |command| _ = command.env("MAPREDUCE_TEST_CHILD", "1"), prompt, lines, pause, limit)
}

impl Lab {
    /// Runs the program on a terminal; see [`Lab::invocation`].
    pub fn at_terminal(&self, args: &str, prompt: &str, lines: &[&str], limit: Duration) -> Screen {
        let line = format!("'{}' {args}", env!("CARGO_BIN_EXE_mapreduce"));
        let prepare = |command: &mut Command| {
            command
                .current_dir(self.client_dir())
                .env_remove("SSH_AUTH_SOCK")
                .env(MARKER, self.root())
                .env("HOME", self.client_dir().join("home"))
                .env("MAPREDUCE_SSH_CONFIG", self.ssh_config())
                .env("MAPREDUCE_KNOWN_HOSTS", self.known_hosts());
        };
        typed(&line, prepare, prompt, lines, PAUSE, limit)
    }
}
