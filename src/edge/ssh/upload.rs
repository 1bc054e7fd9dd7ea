//! Upload: a file on the host that is whole or absent.
//!
//! The bytes go to the standard input of `cat`, or of what unpacks them. That needs neither an scp nor an sftp server,
//! the exit status tells of a full disk, and it is as fast as scp, which quotes paths and sets modes in its own way.
//! Where there is no `cat`, `scp` is asked.

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

/// Bytes of the pieces that scp is fed.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of randomness in the name of an unfinished file: nobody on the host can have taken it beforehand.
const NAME_BYTES: usize = 12;

/// What the remote half says once the digest is as it should be.
const PROVEN: &[u8] = b"mapreduce:digest=right";

/// A file to be uploaded.
pub struct Upload<'a> {
    pub bytes: &'a [u8],
    /// Their SHA-256, in hexadecimal.
    pub digest: &'a str,
    /// The same, packed. If the host cannot unpack it, whatever the reason, the file is sent as it is.
    pub packed: Option<Packed<'a>>,
    /// Taken as it is: no `~`, no variable.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Bound on each wait for progress.
    pub stall: Duration,
    /// Hears of each piece that was sent, by its bytes.
    pub progress: &'a mut dyn FnMut(u64),
}

/// A file that is packed for the way.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    pub bytes: &'a [u8],
    /// The remote command that unpacks its standard input.
    pub unpack: &'a str,
}

/// Uploads a file; tells whether the host has proven its digest, for which some have no tool.
///
/// # Errors
/// With the path and what the host said; then nothing of ours is left there, unless the connection broke before the
/// host could tidy up.
pub fn upload(connection: &mut Connection, mut file: Upload<'_>) -> anyhow::Result<bool> {
    let path = file.path;
    upload_somehow(connection, &mut file).with_context(|| format!("could not write {path}"))
}

fn upload_somehow(connection: &mut Connection, file: &mut Upload<'_>) -> anyhow::Result<bool> {
    if let Some(packed) = file.packed {
        let output = receive(connection, file, packed.unpack, packed.bytes)?;
        if output.status == 0 {
            return Ok(is_proven(&output));
        }
    }
    let output = receive(connection, file, "cat", file.bytes)?;
    if output.status == NOT_FOUND {
        return by_scp(connection, file).map(|()| false);
    }
    ensure!(output.status == 0, failure_of(&output));
    Ok(is_proven(&output))
}

/// Has the host pass `bytes` through the command `take`, to a file.
///
/// # Errors
/// If the connection broke; what the host thought of it is in the output.
fn receive(
    connection: &mut Connection,
    file: &mut Upload<'_>,
    take: &str,
    bytes: &[u8],
) -> anyhow::Result<CommandOutput> {
    let script = receive_script(&temporary(file)?, file, take);
    let mut from = bytes;
    let source = Source { from: &mut from, progress: &mut *file.progress };
    exec::run(connection, &format!("exec sh -c {}", quote(&script)), source, Patience::Stall(file.stall))
}

fn temporary(file: &Upload<'_>) -> anyhow::Result<String> {
    Ok(format!("{}.{}.part", file.path, hex::random(NAME_BYTES)?))
}

fn is_proven(output: &CommandOutput) -> bool {
    output.stdout.split(|&byte| byte == b'\n').any(|line| line == PROVEN)
}

/// The remote half. The connection may be cut, which looks like the end of the input, and disks fail, so length and
/// digest are checked before the file gets its name. No `!` in here: csh, as login shell, would take it for history.
/// `remote/clean.sh` knows it by how it begins.
pub(crate) fn receive_script(temporary: &str, file: &Upload<'_>, take: &str) -> String {
    let (temporary, path) = (quote(temporary), quote(file.path));
    let Upload { bytes, digest, mode, .. } = file;
    format!(
        "umask 077; t={temporary}; p={path}; \
         fail() {{ s=$?; rm -f \"$t\"; [ $# -eq 0 ] || echo \"$1\" >&2; [ $s -eq 0 ] && s=1; exit $s; }}; \
         trap \"rm -f \\\"\\$t\\\"; exit 1\" HUP INT TERM PIPE; \
         if [ -d \"$p\" ]; then fail 'is a directory'; fi; \
         set -C; {take} > \"$t\" || fail; \
         n=$(wc -c < \"$t\") || fail; [ $n -eq {len} ] || fail \"only $n of {len} bytes arrived\"; \
         for c in 'openssl dgst -sha256 -r' sha256sum 'shasum -a 256'; do \
         command -v ${{c%% *}} >/dev/null 2>&1 || continue; \
         d=$($c < \"$t\" 2>/dev/null); d=${{d%% *}}; [ ${{#d}} -eq 64 ] || continue; \
         [ $d = {digest} ] || fail \"the digest is $d instead of {digest}\"; echo {proven}; break; done; \
         chmod {mode:o} \"$t\" || fail; mv -f \"$t\" \"$p\" || fail",
        len = bytes.len(),
        proven = PROVEN.escape_ascii(),
    )
}

fn by_scp(connection: &mut Connection, file: &mut Upload<'_>) -> anyhow::Result<()> {
    let temporary = temporary(file)?;
    let sent = send_by_scp(connection, file, &temporary);
    let finish = match &sent {
        Ok(()) => format!(
            "chmod {:o} {t} && mv -f {t} {p} || {{ s=$?; rm -f {t}; exit $s; }}",
            file.mode,
            t = quote(&temporary),
            p = quote(file.path)
        ),
        Err(_) => format!("rm -f {}", quote(&temporary)),
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
        .call(&deadline, |session| session.scp_send(path, 0o600, file.bytes.len() as u64, None))
        .context("neither cat nor scp takes the file")?;
    for piece in file.bytes.chunks(PIECE_BYTES) {
        send_all(connection, &mut channel, piece, &mut deadline, file.progress)?;
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

/// Runs a command that reads nothing.
fn run_quietly(connection: &mut Connection, command: &str, stall: Duration) -> anyhow::Result<CommandOutput> {
    let source = Source { from: &mut io::empty(), progress: &mut |_| () };
    exec::run(connection, command, source, Patience::Stall(stall))
}
