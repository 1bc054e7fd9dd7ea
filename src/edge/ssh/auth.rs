//! Auth: logging in, in OpenSSH's order: the agent's identities, the configured keys, the default keys, a password.
//!
//! A server counts failures and hangs up after six (`MaxAuthTries`), so five keys are tried at most, each once, and
//! one try remains for a password.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ssh2::{ErrorCode, KeyboardInteractivePrompt, Prompt};

use super::MAX_SAID_CHARS;
use super::connection::{CallError, Connection, Deadline};
use super::keys::{KeyFile, public_of};
use super::known_hosts::PublicKey;
use super::login::{Agent, Login};
use super::prompt::{self, Asked, Purpose};
use crate::edge::sanitize::{clipped, sanitize};

/// Public keys that are tried. OpenSSH's servers allow six failures by default, and one is left for a password.
const MAX_KEYS: usize = 5;

/// An agent that does not list its identities within this time is passed over.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an agent's list of identities; OpenSSH's limit.
const MAX_AGENT_ANSWER: u64 = 256 * 1024;

/// How long a dialogue may take in which the host itself asks questions: sshd's `LoginGraceTime`.
const DIALOGUE: Duration = Duration::from_secs(120);

/// How often a host may ask in a dialogue, and how much at once: for a password and a one-time code, with mistakes.
/// What is asked beyond that is answered with nothing.
const MAX_ROUNDS: usize = 8;
const MAX_PROMPTS: usize = 8;

/// libssh2's code for "the server said no".
const REFUSED: i32 = -18;

/// Logs in on `connection`, whose host key was checked.
///
/// # Errors
/// With all that was tried.
pub fn authenticate(connection: &mut Connection, login: &Login, timeout: Duration) -> anyhow::Result<()> {
    let mut attempt = Attempt { connection, login, timeout, offered: Vec::new(), tried: Vec::new() };
    let methods = attempt.methods().context("the host did not say how it lets users in")?;
    if attempt.is_in() {
        return Ok(());
    }
    let accepts = |method: &str| methods.split(',').any(|accepted| accepted == method);
    let result = attempt.by_all_means(&accepts);
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(attempt.refusal(&methods)),
        Err(error) => Err(attempt.refusal(&methods).context(error)),
    }
}

struct Attempt<'a> {
    connection: &'a mut Connection,
    login: &'a Login,
    timeout: Duration,
    /// The keys the server has seen.
    offered: Vec<PublicKey>,
    /// What was tried and what came of it, for the user.
    tried: Vec<String>,
}

/// What came of trying one key.
#[derive(PartialEq)]
enum Outcome {
    In,
    Refused,
    /// The key could not be used, for this reason.
    Unusable(String),
}

impl Attempt<'_> {
    fn by_all_means(&mut self, accepts: &dyn Fn(&str) -> bool) -> Result<bool, CallError> {
        if accepts("publickey") && (self.by_agent()? || self.by_files()?) {
            return Ok(true);
        }
        Ok((accepts("password") && self.by_password()?)
            || (accepts("keyboard-interactive") && self.by_dialogue()?))
    }

    /// Asks which methods the server accepts; that alone may log in.
    fn methods(&mut self) -> Result<String, CallError> {
        let user = self.login.user.clone();
        self.connection.call(&Deadline::within(self.timeout), |session| {
            // The crate panics if the list is not UTF-8; a host must not be able to do that to us.
            let listed = catch_unwind(AssertUnwindSafe(|| session.auth_methods(&user).map(String::from)));
            match listed {
                _ if session.authenticated() => Ok(String::new()),
                Ok(listed) => listed.map_err(CallError::from),
                Err(_) => {
                    Err(CallError::Io(io::Error::new(io::ErrorKind::InvalidData, "the list is garbled")))
                }
            }
        })
    }

    fn is_in(&self) -> bool {
        self.connection.session().authenticated()
    }

    fn by_agent(&mut self) -> Result<bool, CallError> {
        let Agent::At(socket) = &self.login.agent else { return Ok(false) };
        if let Err(error) = agent_answers(socket) {
            self.tried.push(format!("agent at {}: {error}", socket.display()));
            return Ok(false);
        }
        let mut agent = self.connection.session().agent()?;
        let opened = agent.set_identity_path(socket).and_then(|()| agent.connect()).and_then(|()| {
            agent.list_identities()?;
            agent.identities()
        });
        let identities = match opened {
            Ok(identities) => identities,
            Err(error) => {
                self.tried.push(format!("agent: {}", error.message()));
                return Ok(false);
            }
        };
        let configured: Vec<PublicKey> =
            self.login.configured_keys.iter().filter_map(|path| public_of(path)).collect();
        let rank = |blob: &[u8]| configured.iter().position(|key| key.0 == blob).unwrap_or(usize::MAX);
        let mut identities: Vec<_> =
            identities.into_iter().map(|identity| (rank(identity.blob()), identity)).collect();
        identities.sort_by_key(|(rank, _)| *rank);
        for (rank, identity) in identities {
            let key = PublicKey(identity.blob().to_vec());
            if (self.login.identities_only && rank == usize::MAX) || !self.may_offer(Some(&key)) {
                continue;
            }
            let user = &self.login.user;
            let said =
                self.connection.call(&Deadline::within(self.timeout), |_| agent.userauth(user, &identity));
            let outcome = self.judge(said)?;
            let name = format!("{} {} of the agent", key.kind(), sanitize(identity.comment()));
            if self.note(&name, outcome) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn by_files(&mut self) -> Result<bool, CallError> {
        let login = self.login;
        let configured = login.configured_keys.iter().map(|path| (path, true));
        for (path, is_configured) in configured.chain(login.default_keys.iter().map(|path| (path, false))) {
            let key = match KeyFile::read(path) {
                Ok(key) => key,
                // Nobody asked for a default key; but one that lies open should not go unnoticed.
                Err(error) if !is_configured && error.kind() != io::ErrorKind::PermissionDenied => continue,
                // A public key was configured, to choose among the agent's; or the agent has tried it.
                Err(_) if public_of(path).is_some_and(|key| self.offered.contains(&key)) => continue,
                Err(error) => {
                    self.tried.push(format!("key {}: {error}", path.display()));
                    continue;
                }
            };
            if !self.may_offer(key.public.as_ref()) {
                continue;
            }
            let outcome = if key.encrypted { self.by_encrypted(&key)? } else { self.by_key(&key, None)? };
            if self.note(&format!("key {}", path.display()), outcome) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tries an encrypted key; asks for the passphrase only if the server would accept the key.
    fn by_encrypted(&mut self, key: &KeyFile) -> Result<Outcome, CallError> {
        if key.public.is_some() && self.by_key(key, None)? == Outcome::Refused {
            return Ok(Outcome::Refused);
        }
        let mut refused = false;
        let purpose = Purpose::Passphrase { key: key.path.clone() };
        let asked = prompt::with_secret(&purpose, |passphrase| {
            let outcome = self.by_key(key, Some(passphrase))?;
            refused = outcome == Outcome::Refused;
            // A key that is refused could be opened, so its passphrase is right.
            Ok::<bool, CallError>(refused || outcome == Outcome::In)
        })?;
        Ok(match asked {
            Asked::Right if refused => Outcome::Refused,
            Asked::Right => Outcome::In,
            Asked::Wrong => Outcome::Unusable("wrong passphrase".into()),
            Asked::NoTerminal => {
                Outcome::Unusable("is encrypted and there is no terminal: add it to ssh-agent".into())
            }
        })
    }

    fn by_key(&mut self, key: &KeyFile, passphrase: Option<&str>) -> Result<Outcome, CallError> {
        let user = &self.login.user;
        let public = key.public_line();
        let said = self.connection.call(&Deadline::within(self.timeout), |session| {
            session.userauth_pubkey_memory(user, public.as_deref(), &key.private, passphrase)
        });
        self.judge(said)
    }

    fn by_password(&mut self) -> Result<bool, CallError> {
        let user = self.login.user.clone();
        let asked = prompt::with_secret(&Purpose::Password { user: user.clone() }, |password| {
            let said = self
                .connection
                .call(&Deadline::within(self.timeout), |session| session.userauth_password(&user, password));
            Ok::<bool, CallError>(self.judge(said)? == Outcome::In)
        })?;
        self.tried.extend(spoken("password", asked));
        Ok(self.is_in())
    }

    /// Lets the host ask; its one hidden question is taken for that of the password.
    fn by_dialogue(&mut self) -> Result<bool, CallError> {
        let user = self.login.user.clone();
        let asked = prompt::with_secret(&Purpose::Password { user: user.clone() }, |password| {
            let mut answers = Dialogue { host: &self.login.name, password, rounds: 0 };
            let said = self.connection.call(&Deadline::within(DIALOGUE), |session| {
                session.userauth_keyboard_interactive(&user, &mut answers)
            });
            Ok::<bool, CallError>(self.judge(said)? == Outcome::In)
        })?;
        self.tried.extend(spoken("keyboard-interactive", asked));
        Ok(self.is_in())
    }

    /// Tells whether a key is new to the server and within the number of tries, and counts it.
    fn may_offer(&mut self, key: Option<&PublicKey>) -> bool {
        if key.is_some_and(|key| self.offered.contains(key)) {
            return false;
        }
        if self.offered.len() >= MAX_KEYS {
            let note = format!("no further key, since {MAX_KEYS} were refused");
            if self.tried.last() != Some(&note) {
                self.tried.push(note);
            }
            return false;
        }
        // One that is not known counts, too.
        self.offered.push(key.cloned().unwrap_or(PublicKey(Vec::new())));
        true
    }

    /// Separates a refusal, after which the next key is tried, from the end of the connection.
    fn judge(&self, said: Result<(), CallError>) -> Result<Outcome, CallError> {
        match said {
            _ if self.is_in() => Ok(Outcome::In),
            Ok(()) => Ok(Outcome::Refused),
            Err(CallError::Ssh(error)) if error.code() == ErrorCode::Session(REFUSED) => Ok(Outcome::Refused),
            Err(error) if error.is_disconnect() => Err(error),
            Err(error) => Ok(Outcome::Unusable(error.to_string())),
        }
    }

    fn note(&mut self, what: &str, outcome: Outcome) -> bool {
        match outcome {
            Outcome::In => return true,
            Outcome::Refused => self.tried.push(format!("{what}: refused")),
            Outcome::Unusable(why) => self.tried.push(format!("{what}: {why}")),
        }
        false
    }

    fn refusal(&self, methods: &str) -> anyhow::Error {
        let tried =
            if self.tried.is_empty() { "nothing: there is no key".into() } else { self.tried.join("\n") };
        let methods = clipped(&methods.replace(',', ", "), MAX_SAID_CHARS);
        anyhow!("tried {tried}")
            .context(format!("the host does not let user {} in; it accepts {methods}", self.login.user))
    }
}

struct Dialogue<'a> {
    host: &'a str,
    password: &'a str,
    /// How often the host has asked.
    rounds: usize,
}

impl KeyboardInteractivePrompt for Dialogue<'_> {
    fn prompt<'a>(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'a>]) -> Vec<String> {
        self.rounds += 1;
        let may_ask = self.rounds <= MAX_ROUNDS && prompts.len() <= MAX_PROMPTS;
        let answer = |prompt: &Prompt<'a>| match prompts {
            _ if !may_ask => String::new(),
            [only] if !only.echo => self.password.to_string(),
            // Nobody there: an empty answer, which the host refuses.
            _ => prompt::ask(self.host, &prompt.text, prompt.echo)
                .map(|answer| answer.to_string())
                .unwrap_or_default(),
        };
        prompts.iter().map(answer).collect()
    }
}

fn spoken(method: &str, asked: Asked) -> Option<String> {
    match asked {
        Asked::Right => None,
        Asked::Wrong => Some(format!("{method}: refused")),
        Asked::NoTerminal => Some(format!("{method}: there is no terminal to ask on")),
    }
}

/// Asks the agent for its identities under a time limit; libssh2 would wait for a stuck agent for ever.
fn agent_answers(socket: &Path) -> io::Result<()> {
    /// SSH_AGENTC_REQUEST_IDENTITIES, of length one.
    const REQUEST: [u8; 5] = [0, 0, 0, 1, 11];
    let mut agent = UnixStream::connect(socket)?;
    agent.set_read_timeout(Some(AGENT_TIMEOUT))?;
    agent.set_write_timeout(Some(AGENT_TIMEOUT))?;
    agent.write_all(&REQUEST)?;
    let mut length = [0; 4];
    let answer = agent.read_exact(&mut length).and_then(|()| {
        // To its end, lest the agent complain of a broken connection.
        let length = u64::from(u32::from_be_bytes(length));
        io::copy(&mut agent.take(length.min(MAX_AGENT_ANSWER)), &mut io::sink())
    });
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_asks_without_end_is_answered_with_nothing() {
        let mut dialogue = Dialogue { host: "h", password: "secret", rounds: 0 };
        let hidden = || Prompt { text: "Password: ".into(), echo: false };
        for round in 1..100 {
            let answer = if round <= MAX_ROUNDS { "secret" } else { "" };
            assert_eq!(dialogue.prompt("u", "", &[hidden()]), [answer], "{round}");
        }
        let mut dialogue = Dialogue { host: "h", password: "secret", rounds: 0 };
        let many: Vec<_> = (0..100).map(|_| hidden()).collect();
        assert_eq!(dialogue.prompt("u", "", &many), vec![""; 100]);
        assert!(dialogue.prompt("u", "", &[]).is_empty());
    }
}
