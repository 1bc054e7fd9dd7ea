//! Upload: a file on the host that is whole or absent.
//!
//! The bytes go to the standard input of `cat`. That needs neither an scp nor an sftp server, the exit status tells of
//! a full disk, and it is as fast as scp, which quotes paths and sets modes in its own way. Where there is no `cat`,
//! `scp` is asked.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ssh2::Channel;

use super::connection::{CallError, Connection, Deadline};
use super::exec::{self, Patience, Source, quote};
use super::{CommandOutput, failure_of};
use crate::edge::hex;

/// How a shell says that it does not find a command.
const NOT_FOUND: i32 = 127;

/// Bytes of the first read of `from`; also of the pieces that scp is fed.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of randomness in the name of an unfinished file: nobody on the host can have taken it beforehand.
const NAME_BYTES: usize = 12;

/// A file to be uploaded.
pub struct Upload<'a> {
    pub from: &'a mut dyn Read,
    pub len: u64,
    pub path: &'a str,
    pub mode: u32,
    /// Bound on each wait for progress.
    pub stall: Duration,
    /// Hears of each piece that was sent, by its bytes.
    pub progress: &'a mut dyn FnMut(u64),
}

/// Uploads a file.
///
/// # Errors
/// With the path and what the host said; then nothing of ours is left there, unless the connection broke before the
/// host could tidy up.
pub fn upload(connection: &mut Connection, mut file: Upload<'_>) -> anyhow::Result<()> {
    let temporary = format!("{}.{}.part", file.path, hex::random(NAME_BYTES)?);
    let path = file.path;
    let uploaded = by_cat(connection, &mut file, &temporary);
    uploaded.with_context(|| format!("could not write {path}"))
}

fn by_cat(connection: &mut Connection, file: &mut Upload<'_>, temporary: &str) -> anyhow::Result<()> {
    // Asked first, for what is sent to a command that does not run would be lost.
    let found = run_quietly(connection, "exec sh -c 'command -v cat >/dev/null || exit 127'", file.stall)?;
    if found.status == NOT_FOUND {
        return by_scp(connection, file, temporary);
    }
    let mut local = Local { from: &mut *file.from, left: file.len, short: false };
    let source = Source { from: &mut local, progress: &mut *file.progress };
    let script = receive_script(temporary, file.path, file.len, file.mode);
    let output = exec::run(
        connection,
        &format!("exec sh -c {}", quote(&script)),
        source,
        Patience::Stall(file.stall),
    )?;
    // The host's complaint would be but an echo of this.
    ensure!(!local.short, "the local file ended {} bytes too early", local.left);
    ensure!(output.status == 0, failure_of(&output));
    Ok(())
}

/// The remote half. The connection may be cut, which looks like the end of the input, so the length is checked before
/// the file gets its name. No `!` in here: csh, as login shell, would take it for history. `remote/clean.sh` knows it
/// by how it begins.
pub(crate) fn receive_script(temporary: &str, path: &str, len: u64, mode: u32) -> String {
    let (temporary, path) = (quote(temporary), quote(path));
    format!(
        "umask 077; t={temporary}; p={path}; \
         fail() {{ s=$?; rm -f \"$t\"; [ $# -eq 0 ] || echo \"$1\" >&2; [ $s -eq 0 ] && s=1; exit $s; }}; \
         trap \"rm -f \\\"\\$t\\\"; exit 1\" HUP INT TERM PIPE; \
         if [ -d \"$p\" ]; then fail 'is a directory'; fi; \
         set -C; cat > \"$t\" || fail; \
         n=$(wc -c < \"$t\") || fail; [ $n -eq {len} ] || fail \"only $n of {len} bytes arrived\"; \
         chmod {mode:o} \"$t\" || fail; mv -f \"$t\" \"$p\" || fail"
    )
}

fn by_scp(connection: &mut Connection, file: &mut Upload<'_>, temporary: &str) -> anyhow::Result<()> {
    let sent = send_by_scp(connection, file, temporary);
    let finish = match &sent {
        Ok(()) => format!(
            "chmod {:o} {t} && mv -f {t} {p} || {{ s=$?; rm -f {t}; exit $s; }}",
            file.mode,
            t = quote(temporary),
            p = quote(file.path)
        ),
        Err(_) => format!("rm -f {}", quote(temporary)),
    };
    let output = run_quietly(connection, &finish, file.stall);
    sent?;
    let output = output?;
    ensure!(output.status == 0, failure_of(&output));
    Ok(())
}

fn send_by_scp(connection: &mut Connection, file: &mut Upload<'_>, temporary: &str) -> anyhow::Result<()> {
    let mut deadline = Deadline::within(file.stall);
    let path = Path::new(temporary);
    let mut channel = connection
        .call(&deadline, |session| session.scp_send(path, 0o600, file.len, None))
        .context("neither cat nor scp takes the file")?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = file.len;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = file.from.read(&mut piece[..most]).context("could not read the local file")?;
        ensure!(read > 0, "the local file ended {left} bytes too early");
        left -= read as u64;
        send_all(connection, &mut channel, &piece[..read], &mut deadline, file.progress)?;
    }
    // The protocol's word for "that was all of it, in good order"; libssh2 leaves it out.
    send_all(connection, &mut channel, b"\0", &mut deadline, &mut |_| ())?;
    let mut answer = [0; 512];
    let length = connection.call(&deadline, |_| channel.read(&mut answer))?;
    // Zero for success, or a message behind a one or a two.
    match &answer[..length] {
        [0] => {}
        [_, message @ ..] => bail!("scp: {}", String::from_utf8_lossy(message).trim()),
        [] => bail!("scp ended without an answer"),
    }
    connection.call(&deadline, |_| channel.send_eof())?;
    connection.call(&deadline, |_| channel.close())?;
    Ok(())
}

fn send_all(
    connection: &mut Connection,
    channel: &mut Channel,
    bytes: &[u8],
    deadline: &mut Deadline,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = connection.call(deadline, |_| match channel.write(rest) {
            Ok(0) => Err(CallError::Io(io::ErrorKind::WouldBlock.into())),
            written => written.map_err(CallError::from),
        })?;
        rest = &rest[written..];
        progress(written as u64);
        deadline.renew();
    }
    Ok(())
}

/// The local file, up to the length that was announced.
struct Local<'a> {
    from: &'a mut dyn Read,
    left: u64,
    /// Whether it ended before that.
    short: bool,
}

impl Read for Local<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.from.read(&mut buffer[..most])?;
        self.left -= read as u64;
        self.short = read == 0 && self.left > 0;
        Ok(read)
    }
}

/// Runs a command that reads nothing.
fn run_quietly(connection: &mut Connection, command: &str, stall: Duration) -> anyhow::Result<CommandOutput> {
    let source = Source { from: &mut io::empty(), progress: &mut |_| () };
    exec::run(connection, command, source, Patience::Stall(stall))
}
