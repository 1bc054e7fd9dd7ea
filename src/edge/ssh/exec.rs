//! Exec: remote commands, with input and output moving at the same time.

use std::io::{self, Read, Write};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ssh2::Channel;

use super::CommandOutput;
use super::connection::{CallError, Connection, Deadline};

/// What a command may write to each stream before it is given up: far more than any of ours does.
const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// One read of a stream. libssh2 takes packets of up to 32 KiB.
const READ_BYTES: usize = 64 << 10;

/// What is read from the source at once, and waits to be sent.
const WRITE_BYTES: usize = 1 << 20;

/// Packets that are sent before looking for what was received.
const PACKETS_IN_A_ROW: usize = 16;

/// How long a command may take.
#[derive(Clone, Copy)]
pub enum Patience {
    /// From its start to its end.
    Whole(Duration),
    /// Without anything moving in either direction.
    Stall(Duration),
}

/// What is fed to a command.
pub struct Source<'a> {
    pub from: &'a mut dyn Read,
    /// Hears of bytes that were handed to the connection.
    pub progress: &'a mut dyn FnMut(u64),
}

/// Runs `command` and feeds `source` to it; returns what it left, once it has ended.
///
/// A command that ends without having read all its input is no error.
///
/// # Errors
/// If the connection broke or the patience was over, whereupon it is given up; if the source cannot be read.
pub fn run(
    connection: &mut Connection,
    command: &str,
    source: Source<'_>,
    patience: Patience,
) -> anyhow::Result<CommandOutput> {
    let (Patience::Whole(limit) | Patience::Stall(limit)) = patience;
    let mut exchange = Exchange {
        deadline: Deadline::within(limit),
        renews: matches!(patience, Patience::Stall(_)),
        connection,
        source,
        pending: Vec::new(),
        sent: 0,
        input: Input::Open,
        end_sent: false,
        scratch: vec![0; READ_BYTES],
        output: CommandOutput { status: 0, signal: None, stdout: Vec::new(), stderr: Vec::new() },
    };
    let result = exchange.run(command);
    if result.is_err() {
        // The channel may be in any state, and dropping it must not wait.
        exchange.connection.give_up();
    }
    result?;
    match exchange.input {
        Input::Failed(error) => Err(error).context("could not read what was to be sent"),
        _ => Ok(exchange.output),
    }
}

/// Returns `text` as one word of a POSIX shell.
pub fn quote(text: &str) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | ',' | '=')
    };
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

struct Exchange<'c, 's> {
    connection: &'c mut Connection,
    deadline: Deadline,
    renews: bool,
    source: Source<'s>,
    /// Read from the source; sent up to `sent`.
    pending: Vec<u8>,
    sent: usize,
    input: Input,
    /// Whether the command was told that its input ends.
    end_sent: bool,
    scratch: Vec<u8>,
    output: CommandOutput,
}

/// The state of the source.
enum Input {
    Open,
    Ended,
    /// It could not be read on. The command is told that its input ends.
    Failed(io::Error),
}

/// The two streams that a command writes, by their number in SSH.
#[derive(Clone, Copy)]
enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Exchange<'_, '_> {
    fn run(&mut self, command: &str) -> anyhow::Result<()> {
        let mut channel = self
            .connection
            .call(&self.deadline, |session| session.channel_session())
            .context("could not open a channel")?;
        self.connection
            .call(&self.deadline, |_| channel.exec(command))
            .context("could not start a remote command")?;
        loop {
            let received =
                self.receive(&mut channel, Stream::Stdout)? | self.receive(&mut channel, Stream::Stderr)?;
            // Sending comes last: receiving may have brought room to send into.
            let moved = self.send(&mut channel)? | received;
            if moved && self.renews {
                self.deadline.renew();
            }
            if channel.eof() && self.connection.settle(&self.deadline, |_| channel.wait_close())?.is_some() {
                break;
            }
            // Sending, too, takes in packets, so what it brought would not wake us.
            if moved || channel.read_window().available > 0 {
                self.deadline.left()?;
            } else {
                self.connection.wait_readable(&self.deadline)?;
            }
        }
        self.connection.call(&self.deadline, |_| channel.close())?;
        let signal = channel.exit_signal().map_err(CallError::from)?.exit_signal;
        self.output.status = match &signal {
            Some(name) => 128 + signal_number(name),
            None => channel.exit_status().map_err(CallError::from)?,
        };
        self.output.signal = signal;
        Ok(())
    }

    /// Takes what has come on one stream; tells whether there was any.
    fn receive(&mut self, channel: &mut Channel, stream: Stream) -> anyhow::Result<bool> {
        let mut from = channel.stream(stream as i32);
        let scratch = &mut self.scratch;
        let read = self.connection.settle(&self.deadline, |_| from.read(scratch))?.unwrap_or(0);
        let output = match stream {
            Stream::Stdout => &mut self.output.stdout,
            Stream::Stderr => &mut self.output.stderr,
        };
        output.extend_from_slice(&self.scratch[..read]);
        self.connection.took(read);
        ensure!(
            output.len() <= MAX_OUTPUT_BYTES,
            "the command wrote more than {} MiB",
            MAX_OUTPUT_BYTES >> 20
        );
        Ok(read > 0)
    }

    /// Sends some packets of the input, or its end; tells whether anything went.
    fn send(&mut self, channel: &mut Channel) -> anyhow::Result<bool> {
        let mut moved = false;
        for _ in 0..PACKETS_IN_A_ROW {
            if matches!(self.input, Input::Open) && self.sent == self.pending.len() {
                self.refill();
            }
            match self.send_one(channel) {
                Ok(true) => moved = true,
                Ok(false) => break,
                // The command has ended, and does not care.
                Err(error) if channel.eof() && !error.is_disconnect() => break,
                Err(error) => bail!(error),
            }
        }
        Ok(moved)
    }

    fn send_one(&mut self, channel: &mut Channel) -> Result<bool, CallError> {
        let rest = &self.pending[self.sent..];
        if !rest.is_empty() {
            let written = self.connection.settle(&self.deadline, |_| channel.write(rest))?.unwrap_or(0);
            self.sent += written;
            (self.source.progress)(written as u64);
            return Ok(written > 0);
        }
        if self.end_sent {
            return Ok(false);
        }
        self.end_sent = self.connection.settle(&self.deadline, |_| channel.send_eof())?.is_some();
        Ok(self.end_sent)
    }

    /// Reads the next piece of the source.
    fn refill(&mut self) {
        self.sent = 0;
        self.pending.clear();
        let mut piece = Read::take(&mut *self.source.from, WRITE_BYTES as u64);
        match piece.read_to_end(&mut self.pending) {
            Ok(0) => self.input = Input::Ended,
            Ok(_) => {}
            Err(error) => {
                self.pending.clear();
                self.input = Input::Failed(error);
            }
        }
    }
}

/// Signals as SSH names them (RFC 4254, 6.10), by their number on Linux.
fn signal_number(name: &str) -> i32 {
    const NUMBERS: [(&str, i32); 13] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("ABRT", 6),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
    ];
    NUMBERS.iter().find(|(known, _)| *known == name).map_or(127, |(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_one_word_and_unchanged() {
        for text in
            ["", "plain", "a b", "it's", "''", "$HOME", "`id`", "a\nb", "-rf", "~", "*", "é", "!x", "\\", "#"]
        {
            let script = format!("printf %s {}", quote(text));
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
        assert_eq!(quote("/tmp/ada/mapreduce-1.0"), "/tmp/ada/mapreduce-1.0");
        assert_eq!(quote("~ada"), "'~ada'");
    }
}
