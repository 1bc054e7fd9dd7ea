//! Sshd: one host of the lab, a real `sshd` process.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{LabOptions, MARKER, processes, tool};

/// sshd is ready in about 20 ms; this is for machines under load.
const READY: Duration = Duration::from_secs(20);

/// Where distributions put sshd.
const SSHD_PATHS: [&str; 4] = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd"];

/// A host of the lab.
pub struct LabHost {
    /// The name under which the client's configuration knows it, such as `tp-test-01`.
    pub alias: String,
    pub address: IpAddr,
    pub port: u16,
    /// The home directory that logins see.
    pub home: PathBuf,
    /// The `TMPDIR` that logins see.
    pub tmp: PathBuf,
    /// The host's own directory: keys, configuration, log.
    pub dir: PathBuf,
    root: PathBuf,
    sshd: Option<Child>,
}

impl LabHost {
    pub(super) fn prepare(root: &Path, index: usize, address: IpAddr, options: &LabOptions) -> LabHost {
        let alias = format!("tp-test-{:02}", index + 1);
        let dir = root.join(&alias);
        let home = if options.shared_home { root.join("home") } else { dir.join("home") };
        let host = LabHost {
            port: free_port(address),
            tmp: dir.join("tmp"),
            root: root.to_path_buf(),
            sshd: None,
            alias,
            address,
            home,
            dir,
        };
        for dir in [&host.dir, &host.home, &host.tmp] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).expect("a directory of the host");
        }
        make_key(&host.host_key(), "ed25519", "");
        let authorized = if options.wrong_key.contains(&index) { "id_stranger.pub" } else { "id_lab.pub" };
        let public =
            fs::read_to_string(root.join("client").join(authorized)).expect("the client's public key");
        host.authorize(&public);
        host.write_config(options);
        host
    }

    /// The file of the host's private key; its public half lies beside it.
    pub fn host_key(&self) -> PathBuf {
        self.dir.join("host_key")
    }

    /// The host's public key as `known_hosts` has it: type and base64.
    pub fn public_key(&self) -> String {
        let text = fs::read_to_string(self.host_key().with_extension("pub")).expect("the public host key");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// The name of the host in `known_hosts`.
    pub fn known_as(&self) -> String {
        format!("[{}]:{}", self.address, self.port)
    }

    /// Lets the holder of `public_keys` log in, and nobody else.
    pub fn authorize(&self, public_keys: &str) {
        let path = self.dir.join("authorized_keys");
        fs::write(&path, public_keys).expect("authorized_keys");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("authorized_keys");
    }

    /// Starts the host's sshd; [`LabHost::await_ready`] waits for it.
    pub fn start(&mut self) {
        assert!(self.sshd.is_none(), "{} runs already", self.alias);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("sshd.log"))
            .expect("sshd.log");
        let child = Command::new(sshd_path())
            .args(["-D", "-e", "-f"])
            .arg(self.dir.join("sshd_config"))
            .env(MARKER, &self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd is started");
        self.sshd = Some(child);
    }

    /// Waits until sshd greets, if it was started.
    pub fn await_ready(&mut self) {
        let Some(sshd) = &mut self.sshd else { return };
        let address = SocketAddr::new(self.address, self.port);
        let started = Instant::now();
        loop {
            if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                let mut greeting = [0; 4];
                stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a read time-out");
                if stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-" {
                    return;
                }
            }
            if let Ok(Some(status)) = sshd.try_wait() {
                panic!("sshd of {} ended: {status}\n{}", self.alias, self.log());
            }
            assert!(started.elapsed() < READY, "sshd of {} is not ready:\n{}", self.alias, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops sshd and its sessions, as if the host were switched off; daemons that were started there go on.
    pub fn stop(&mut self) {
        let Some(mut sshd) = self.sshd.take() else { return };
        for pid in processes::freeze_tree(sshd.id(), processes::Process::is_sshd) {
            processes::signal(pid, rustix::process::Signal::KILL);
        }
        let _ = sshd.kill();
        let _ = sshd.wait();
    }

    /// Freezes sshd and its sessions: connections stay open, nothing answers.
    pub fn freeze(&self) {
        if let Some(sshd) = &self.sshd {
            processes::freeze_tree(sshd.id(), processes::Process::is_sshd);
        }
    }

    /// Ends what [`LabHost::freeze`] did.
    pub fn thaw(&self) {
        let Some(sshd) = &self.sshd else { return };
        processes::signal(sshd.id(), rustix::process::Signal::CONT);
        for process in processes::descendants(sshd.id()).into_iter().filter(processes::Process::is_sshd) {
            processes::signal(process.pid, rustix::process::Signal::CONT);
        }
    }

    /// Gives the host a new key, as after a reinstallation.
    pub fn rekey(&mut self) {
        let ran = self.sshd.is_some();
        self.stop();
        make_key(&self.host_key(), "ed25519", "");
        if ran {
            self.start();
            self.await_ready();
        }
    }

    /// What sshd wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("sshd.log")).unwrap_or_default()
    }

    fn write_config(&self, options: &LabOptions) {
        let more = &options.sshd_config;
        let before = options.before_command.as_deref().unwrap_or(":");
        let passwords = if options.passwords { "yes" } else { "no" };
        let mut lines = vec![
            format!("ListenAddress {}", self.address),
            format!("Port {}", self.port),
            format!("HostKey {}", self.host_key().display()),
            format!("AuthorizedKeysFile {}", self.dir.join("authorized_keys").display()),
            format!(
                "SetEnv HOME={} TMPDIR={} {MARKER}={}",
                self.home.display(),
                self.tmp.display(),
                self.root.display()
            ),
            // A login begins in its home. sshd itself would change to the real one.
            format!("ForceCommand cd \"$HOME\" && {{ {before}; eval \"$SSH_ORIGINAL_COMMAND\"; }}"),
            "PidFile none".into(),
            "StrictModes no".into(),
            "UsePAM no".into(),
            "PermitRootLogin yes".into(),
            format!("PasswordAuthentication {passwords}"),
            "KbdInteractiveAuthentication no".into(),
            "LogLevel VERBOSE".into(),
        ];
        // The harness's values are the first, so options of the same name would be ignored; these are left open.
        if !more.iter().any(|line| line.to_ascii_lowercase().starts_with("maxstartups")) {
            lines.push("MaxStartups 300".into());
        }
        if has_penalties() {
            lines.push("PerSourcePenalties no".into());
        }
        lines.extend_from_slice(more);
        fs::write(self.dir.join("sshd_config"), lines.join("\n") + "\n").expect("sshd_config");
    }
}

/// Makes a key pair of `kind` (`ed25519`, `ecdsa`, `rsa`) at `path`, in place of one that is there.
pub fn make_key(path: &Path, kind: &str, passphrase: &str) {
    let _ = fs::remove_file(path);
    tool(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-C", "lab", "-f"]).arg(path));
}

/// The name of the user who runs the tests.
pub fn user_name() -> String {
    tool(Command::new("id").arg("-un")).trim().to_string()
}

/// Panics with advice if OpenSSH is not installed: these tests are never skipped.
pub fn require_tools() {
    static CHECKED: OnceLock<()> = OnceLock::new();
    CHECKED.get_or_init(|| {
        let _ = sshd_path();
        let keygen = Command::new("ssh-keygen").arg("-?").output();
        assert!(keygen.is_ok(), "ssh-keygen is not installed; the tests need it: apt install openssh-client");
        let privileges = Path::new("/run/sshd");
        if rustix::process::geteuid().is_root() && !privileges.exists() {
            // As root, sshd insists on its directory for privilege separation.
            fs::create_dir_all(privileges).expect("/run/sshd is made");
        }
    });
}

fn sshd_path() -> &'static str {
    SSHD_PATHS.into_iter().find(|path| Path::new(path).exists()).unwrap_or_else(|| {
        panic!("sshd is not installed; the tests log in to real ones on loopback: apt install openssh-server")
    })
}

/// Tells whether this sshd punishes failed logins (OpenSSH 9.8 and later), which would fail the tests after them.
fn has_penalties() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (key, config) = (dir.path().join("key"), dir.path().join("config"));
        make_key(&key, "ed25519", "");
        fs::write(&config, format!("HostKey {}\nPerSourcePenalties no\n", key.display())).expect("a file");
        let check =
            Command::new(sshd_path()).arg("-t").arg("-f").arg(&config).output().expect("sshd -t runs");
        check.status.success()
    })
}

fn free_port(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap_or_else(|e| {
        panic!("cannot listen on {address}: {e}; on macOS: sudo ifconfig lo0 alias {address}")
    });
    listener.local_addr().expect("the listener's address").port()
}
