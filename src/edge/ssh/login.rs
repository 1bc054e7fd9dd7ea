//! Login: all that is needed to log in to one machine, and the way there through jump hosts.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::config::{HostConfig, expand_tokens};
use super::known_hosts::DEFAULT_PORT;
use super::{SshOptions, Target};
use crate::edge::failure::HostName;
use crate::edge::home::{expand_home, home_dir};

/// Jump hosts in a row; more is a loop in the configuration.
const MAX_JUMPS: usize = 8;

/// The keys that are tried where none is configured, below `~/.ssh`.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// How to log in to one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As the user calls it.
    pub name: String,
    /// Name or address to connect to.
    pub host_name: String,
    pub port: u16,
    pub user: String,
    /// The keys that were asked for, in this order.
    pub configured_keys: Vec<PathBuf>,
    /// Further keys, which need not exist.
    pub default_keys: Vec<PathBuf>,
    pub agent: Agent,
    /// Whether the agent's other identities are to be left alone.
    pub identities_only: bool,
    /// The name to look up in `known_hosts`, in place of host name and port.
    pub host_key_alias: Option<String>,
}

/// Which agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    None,
    At(PathBuf),
}

impl Login {
    /// Returns host and port as `known_hosts` has them.
    pub fn known_as(&self) -> (&str, u16) {
        match &self.host_key_alias {
            Some(alias) => (alias, DEFAULT_PORT),
            None => (&self.host_name, self.port),
        }
    }
}

/// Returns the machines to log in to, one through the other: the jump hosts, then `target`.
///
/// What the target says comes before `~/.ssh/config`, and that before the defaults.
///
/// # Errors
/// If the configuration cannot be read, or the user's name is not known.
pub fn route(target: &Target, options: &SshOptions) -> anyhow::Result<Vec<Login>> {
    let mut logins = Vec::new();
    add_route(target, options, 0, &mut logins)?;
    Ok(logins)
}

/// Adds the jump hosts of `wanted`, and `wanted` itself.
fn add_route(
    wanted: &Target,
    options: &SshOptions,
    depth: usize,
    logins: &mut Vec<Login>,
) -> anyhow::Result<()> {
    ensure!(depth <= MAX_JUMPS, "{}: more than {MAX_JUMPS} jump hosts in a row", wanted.host);
    let config = HostConfig::read(options.config.as_deref(), &wanted.host.0, wanted.user.as_deref())?;
    let login = resolve(wanted, &config)?;
    let hops = config.proxy_jump.clone().unwrap_or_default();
    if hops.is_empty() && config.proxy_command.is_some() {
        bail!("ProxyCommand is not supported for {}; ProxyJump is", wanted.host.0);
    }
    for (index, hop) in hops.iter().enumerate() {
        let hop = parse_hop(&expand_tokens(hop, |token| token_value(token, &login, &wanted.host.0))?)?;
        // A line for `Host *` names the jump host for itself, too.
        if hop.host.0 == wanted.host.0 || hop.host.0 == login.host_name {
            continue;
        }
        if index == 0 {
            // The nearest one may itself lie behind another.
            add_route(&hop, options, depth + 1, logins)?;
        } else {
            let config = HostConfig::read(options.config.as_deref(), &hop.host.0, hop.user.as_deref())?;
            logins.push(resolve(&hop, &config)?);
        }
    }
    logins.push(login);
    Ok(())
}

fn resolve(wanted: &Target, config: &HostConfig) -> anyhow::Result<Login> {
    let user = match wanted.user.clone().or_else(|| config.user.clone()) {
        Some(user) => user,
        None => local_user()?,
    };
    let mut login = Login {
        name: wanted.host.0.clone(),
        host_name: wanted.host.0.clone(),
        port: wanted.port.or(config.port).unwrap_or(DEFAULT_PORT),
        user,
        configured_keys: Vec::new(),
        default_keys: Vec::new(),
        agent: Agent::None,
        identities_only: config.identities_only,
        host_key_alias: config.host_key_alias.clone(),
    };
    if let Some(host_name) = &config.host_name {
        login.host_name = expand_tokens(host_name, |token| token_value(token, &login, &wanted.host.0))?;
    }
    check_name(&login.host_name)?;
    check_name(login.known_as().0)?;
    login.configured_keys.extend(wanted.key.as_deref().map(expand_home).transpose()?);
    for file in &config.identity_files {
        let file = file.to_string_lossy();
        if file != "none" {
            let file = expand_tokens(&file, |token| token_value(token, &login, &wanted.host.0))?;
            login.configured_keys.push(expand_home(Path::new(&file))?);
        }
    }
    // Like OpenSSH: a configured IdentityFile replaces the default keys.
    if config.identity_files.is_empty()
        && let Ok(home) = home_dir()
    {
        login.default_keys.extend(DEFAULT_KEYS.map(|key| home.join(".ssh").join(key)));
    }
    login.agent = agent(config, &login, &wanted.host.0)?;
    Ok(login)
}

fn agent(config: &HostConfig, login: &Login, name: &str) -> anyhow::Result<Agent> {
    let from_environment = || match env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()) {
        Some(socket) => Agent::At(PathBuf::from(socket)),
        None => Agent::None,
    };
    Ok(match config.identity_agent.as_deref() {
        None | Some("SSH_AUTH_SOCK") => from_environment(),
        Some("none") => Agent::None,
        // `$NAME` names a variable that holds the path.
        Some(text) => match text.strip_prefix('$').filter(|variable| !variable.starts_with('{')) {
            Some(variable) => {
                env::var_os(variable).map_or(Agent::None, |socket| Agent::At(PathBuf::from(socket)))
            }
            None => {
                let path = expand_tokens(text, |token| token_value(token, login, name))?;
                Agent::At(expand_home(Path::new(&path))?)
            }
        },
    })
}

/// Splits `[user@]host[:port]`, also as `ssh://...` and with an IPv6 address in brackets.
fn parse_hop(text: &str) -> anyhow::Result<Target> {
    let bare = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/').trim();
    let (user, place) = match bare.rsplit_once('@') {
        Some((user, place)) => (Some(user.to_string()), place),
        None => (None, bare),
    };
    let (name, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((name, port)) if !port.contains(':') => (name, Some(port)),
            _ => (place, None),
        },
    };
    let port = port
        .map(str::parse)
        .transpose()
        .ok()
        .with_context(|| format!("ProxyJump `{text}`: no port number"))?;
    ensure!(!name.is_empty(), "ProxyJump `{text}` names no host");
    Ok(Target { host: HostName(name.to_string()), user, port, key: None })
}

/// The tokens of ssh_config(5) that can be known before connecting.
fn token_value(token: char, login: &Login, original: &str) -> Option<String> {
    match token {
        'h' => Some(login.host_name.clone()),
        'n' => Some(original.to_string()),
        'p' => Some(login.port.to_string()),
        'r' => Some(login.user.clone()),
        'u' => local_user().ok(),
        'd' => Some(home_dir().ok()?.to_string_lossy().into_owned()),
        'i' => Some(rustix::process::getuid().as_raw().to_string()),
        'l' => Some(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        'L' => rustix::system::uname().nodename().to_string_lossy().split('.').next().map(String::from),
        'k' => Some(login.host_key_alias.clone().unwrap_or_else(|| original.to_string())),
        _ => None,
    }
}

/// The user who runs this program. There is no account database in a static program, so `id` must do in the end.
fn local_user() -> anyhow::Result<String> {
    for variable in ["USER", "LOGNAME"] {
        if let Some(user) = env::var(variable).ok().filter(|user| !user.is_empty()) {
            return Ok(user);
        }
    }
    let output =
        Command::new("id").arg("-un").output().context("USER is not set, and `id -un` does not run")?;
    let user = String::from_utf8_lossy(&output.stdout).trim().to_string();
    ensure!(!user.is_empty(), "USER is not set, and `id -un` does not tell it");
    Ok(user)
}

/// Refuses what is no host name: it would be written to `known_hosts`.
fn check_name(name: &str) -> anyhow::Result<()> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    ensure!(!name.is_empty() && name.chars().all(fits), "`{name}` is no host name");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route_of(config: &str, host: &str) -> anyhow::Result<Vec<Login>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, config).unwrap();
        let options = SshOptions {
            timeout: std::time::Duration::from_secs(1),
            config: Some(file),
            known_hosts: None,
            new_host_keys: Default::default(),
        };
        let target = Target {
            host: HostName(host.into()),
            user: None,
            port: Some(2200),
            key: Some("/keys/own".into()),
        };
        route(&target, &options)
    }

    fn places(route: &[Login]) -> Vec<String> {
        route.iter().map(|login| format!("{}@{}:{}", login.user, login.host_name, login.port)).collect()
    }

    #[test]
    fn target_comes_before_configuration_and_that_before_defaults() {
        let config = "Host tp-01\n  HostName %h.enst.fr\n  Port 1\n  User ada\n  IdentityFile /keys/%r-%n\n";
        let route = route_of(config, "tp-01").unwrap();
        assert_eq!(places(&route), ["ada@tp-01.enst.fr:2200"]);
        assert_eq!(route[0].configured_keys, [PathBuf::from("/keys/own"), PathBuf::from("/keys/ada-tp-01")]);
        assert!(route[0].default_keys.is_empty());
        let route = route_of("User ada\n", "tp-01").unwrap();
        assert_eq!(route[0].default_keys.len(), 3);
    }

    #[test]
    fn jump_hosts_come_in_order_each_with_its_own_configuration() {
        let config = "Host inner\n  HostName 10.0.0.2\n  User eve\nHost gate\n  ProxyJump outer\nHost tp-*\n  \
                      ProxyJump gate,bob@inner:23\nHost *\n  User ada\n";
        let route = route_of(config, "tp-01").unwrap();
        assert_eq!(places(&route), ["ada@outer:22", "ada@gate:22", "bob@10.0.0.2:23", "ada@tp-01:2200"]);
        assert!(route[0].configured_keys.is_empty());
    }

    #[test]
    fn a_jump_host_does_not_jump_through_itself_and_loops_end() {
        let route = route_of("Host *\n  User ada\n  ProxyJump gate\n", "tp-01").unwrap();
        assert_eq!(places(&route), ["ada@gate:22", "ada@tp-01:2200"]);
        let looping = "User ada\nHost a\n  ProxyJump b\nHost b\n  ProxyJump a\n";
        assert!(route_of(looping, "a").is_err());
    }

    #[test]
    fn hops_are_parsed() {
        let hop = |text: &str| {
            let hop = parse_hop(text).unwrap();
            (hop.user.unwrap_or_default(), hop.host.0, hop.port.unwrap_or_default())
        };
        assert_eq!(hop("gate"), ("".into(), "gate".into(), 0));
        assert_eq!(hop("ssh://ada@gate:22/"), ("ada".into(), "gate".into(), 22));
        assert_eq!(hop("ada@[fe80::1]:23"), ("ada".into(), "fe80::1".into(), 23));
        assert_eq!(hop("fe80::1"), ("".into(), "fe80::1".into(), 0));
        assert!(parse_hop("gate:many").is_err() && parse_hop("ada@").is_err());
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for name in ["", "a b", "a\nb", "a,b", "*", "|1|x", "#"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(["tp-1a201-00.enst.fr", "::1", "fe80::1%eth0"].iter().all(|name| check_name(name).is_ok()));
    }

    #[test]
    fn proxy_commands_are_refused_rather_than_passed_over() {
        let error = route_of("ProxyCommand nc %h %p\n", "tp-01").unwrap_err().to_string();
        assert!(error.contains("ProxyCommand"), "{error}");
        assert!(route_of("ProxyJump gate\nProxyCommand nc %h %p\n", "tp-01").is_ok());
    }
}
