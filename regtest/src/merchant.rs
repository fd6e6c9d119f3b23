//! The merchant: the shipped `tollhouse` program as a child process with a settings file of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bitcoin::secp256k1::PublicKey;
use tempfile::TempDir;

use crate::admin::{Admin, Readiness};
use crate::environment::TOLLHOUSE_EXE;
use crate::parent::{self, Parent};
use crate::payer::Peer;
use crate::port;
use crate::settings::Settings;
use crate::wait::eventually;

/// From the start of the process to its first answer; less than a second, unless the machine is busy.
const UP_DEADLINE: Duration = Duration::from_secs(20);
/// From the first answer to a node that runs and, with a channel, can be paid.
const READY_DEADLINE: Duration = Duration::from_secs(45);
/// A graceful end finishes what is in flight.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Lines of the log that a failure shows.
const TAIL_LINES: usize = 30;

/// What a merchant is started from.
#[derive(Clone, Debug)]
pub struct MerchantOptions {
    /// The `tollhouse` program.
    pub exe: PathBuf,
    /// The folder for its settings, data and log; it must outlive the merchant. Without one, a temporary folder.
    pub dir: Option<PathBuf>,
    /// The base URL of its chain source; nothing need listen there.
    pub esplora: String,
    /// TOML text of `[[route]]` tables; `{esplora}` in it stands for the URL above.
    pub routes: String,
    /// The folder that a relative `files` of a route starts from.
    pub routes_dir: Option<PathBuf>,
    /// TOML text of further settings, laid over the harness's own.
    pub settings: String,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
}

impl MerchantOptions {
    /// A merchant in a temporary folder, with nothing but routes.
    #[must_use]
    pub fn new(
        exe: impl Into<PathBuf>,
        esplora: impl Into<String>,
        routes: impl Into<String>,
    ) -> Self {
        Self {
            exe: exe.into(),
            dir: None,
            esplora: esplora.into(),
            routes: routes.into(),
            routes_dir: None,
            settings: String::new(),
            env: Vec::new(),
        }
    }
}

/// A merchant, running or not. Its ports and its data stay the same over restarts; dropping it kills the process.
#[derive(Debug)]
pub struct Merchant {
    child: Option<Running>,
    exe: PathBuf,
    env: Vec<(String, String)>,
    settings: Settings,
    settings_file: PathBuf,
    log: PathBuf,
    /// Where its standard error goes instead.
    stderr: Option<File>,
    admin: Admin,
    /// Removed last, after the process has ended.
    folder: Option<TempDir>,
}

/// The process and the thread whose end would take it along.
#[derive(Debug)]
struct Running {
    child: Child,
    _parent: Parent,
}

impl Merchant {
    /// Writes the settings and starts the process; it need not answer yet.
    ///
    /// # Errors
    /// When the settings are no TOML or the program cannot be started.
    pub async fn start(options: MerchantOptions) -> Result<Self> {
        let folder = match options.dir {
            Some(_) => None,
            None => Some(crate::folder::temporary()?),
        };
        let dir = options
            .dir
            .as_deref()
            .or(folder.as_ref().map(TempDir::path))
            .context("no folder")?
            .to_owned();
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let settings = Settings {
            data_dir: dir.join("data"),
            gate: port::free()?,
            admin: port::free()?,
            p2p: port::free()?,
            esplora: options.esplora,
            routes: options.routes,
            routes_dir: options.routes_dir,
            extra: options.settings,
        };
        let mut merchant = Self {
            child: None,
            exe: options.exe,
            env: options.env,
            settings_file: dir.join("tollhouse.toml"),
            log: dir.join("tollhouse.log"),
            stderr: None,
            admin: Admin::open(settings.admin, &settings.data_dir.join("admin.token"))?,
            settings,
            folder,
        };
        merchant.spawn().await?;
        Ok(merchant)
    }

    /// The base URL of the public listener.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.settings.gate)
    }

    /// The address of the public listener.
    #[must_use]
    pub fn gate(&self) -> SocketAddr {
        self.settings.gate
    }

    /// The operator's listener.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Where its node listens for peers.
    #[must_use]
    pub fn p2p(&self) -> SocketAddr {
        self.settings.p2p
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    /// Its settings file.
    #[must_use]
    pub fn settings_file(&self) -> &Path {
        &self.settings_file
    }

    /// What its settings are made of; changes take effect at the next start.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// The file with everything that it said, over all its starts.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends its standard error there instead of to its log, from its next start on.
    pub fn log_to(&mut self, stderr: File) {
        self.stderr = Some(stderr);
    }

    /// The last lines of its log and where to find the rest.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let path = self.log.display();
        match lines.get(lines.len().saturating_sub(TAIL_LINES)..) {
            Some(tail) if !tail.is_empty() => {
                format!(
                    "the merchant's log, {path}, ends with:\n{}",
                    tail.join("\n")
                )
            }
            _ => format!("the merchant's log, {path}, is empty"),
        }
    }

    /// The number of its process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|running| running.child.id())
    }

    /// Its node as a peer. The node must run.
    ///
    /// # Errors
    /// When the operator's listener does not say who it is.
    pub async fn peer(&self) -> Result<Peer> {
        let status = self.admin.status().await?;
        let node_id = status["node"]["node_id"]
            .as_str()
            .with_context(|| format!("no node id in {status}"))?;
        let node_id: PublicKey = node_id
            .parse()
            .with_context(|| format!("{node_id} is no node id"))?;
        Ok(Peer {
            node_id,
            address: self.settings.p2p,
        })
    }

    /// Waits until the process answers on both listeners.
    ///
    /// # Errors
    /// When it ends or stays silent; the error shows the end of its log.
    pub async fn wait_up(&mut self) -> Result<()> {
        let gate = self.settings.gate;
        self.wait_for(
            "the merchant's two listeners",
            UP_DEADLINE,
            move |admin| async move {
                admin.health().await?;
                tokio::net::TcpStream::connect(gate)
                    .await
                    .with_context(|| format!("nobody listens at {gate}"))?;
                Ok(())
            },
        )
        .await
    }

    /// Waits until its node runs and has an address for a deposit, which it returns.
    ///
    /// # Errors
    /// When it ends or its node does not come up; the error shows the end of its log.
    pub async fn wait_running(&mut self) -> Result<bitcoin::Address> {
        self.wait_for("the merchant's node", READY_DEADLINE, |admin| async move {
            let status = admin.status().await?;
            let address = status["node"]["deposit_address"].as_str();
            match address.filter(|_| status["node"]["running"] == true) {
                Some(address) => crate::bitcoind::parse_address(address),
                None => bail!("{}", status["node"]),
            }
        })
        .await
    }

    /// Waits until a challenge could be paid.
    ///
    /// # Errors
    /// When it ends or does not become ready; the error says what it lacks and shows the end of its log.
    pub async fn wait_ready(&mut self) -> Result<()> {
        self.wait_for(
            "the merchant to be ready",
            READY_DEADLINE,
            |admin| async move {
                match admin.ready().await? {
                    Readiness { ready: true, .. } => Ok(()),
                    Readiness { reason, .. } => bail!("not ready: {}", reason.unwrap_or_default()),
                }
            },
        )
        .await
    }

    /// Asks it to stop (SIGTERM) and waits until it ended.
    ///
    /// # Errors
    /// When it was not running or does not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.wait_ended().await
    }

    /// Sends it a signal by name, such as `TERM` or `INT`, and does not wait.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        let pid = self.pid().context("the merchant is not running")?;
        // The shell's own `kill`, for unsafe code is forbidden here and not every system has the program.
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s "$0" "$1""#, name, &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .context("failed to run a shell")?;
        if !sent.success() {
            bail!(
                "failed to send {name} to the merchant: it has ended; {}",
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Waits until the process has ended, whoever made it.
    ///
    /// # Errors
    /// When it is not running or does not end in time.
    pub async fn wait_ended(&mut self) -> Result<ExitStatus> {
        let child = &mut self
            .child
            .as_mut()
            .context("the merchant is not running")?
            .child;
        let ended = eventually("the merchant to end", STOP_DEADLINE, || {
            let state = child.try_wait();
            async move {
                match state {
                    Ok(Some(status)) => Ok(Some(status)),
                    Ok(None) => Err("still running".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await;
        let status = ended.map_err(|error| anyhow!("{error}; {}", self.log_tail()))?;
        self.child = None;
        Ok(status)
    }

    /// How it ended, if it was running and has ended by itself. Told once.
    ///
    /// # Errors
    /// When the process cannot be looked at.
    pub fn take_ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(running) = &mut self.child else {
            return Ok(None);
        };
        let ended = running.child.try_wait();
        let ended = ended.context("failed to look at the merchant's process")?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }

    /// Kills it (SIGKILL): no code of its own runs any more. Does nothing if it has ended.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.child.take() {
            running
                .child
                .kill()
                .context("failed to kill the merchant")?;
            running
                .child
                .wait()
                .context("failed to wait for the killed merchant")?;
        }
        Ok(())
    }

    /// Starts it again on the same data and ports; a running one is asked to stop first.
    ///
    /// # Errors
    /// When it does not stop or cannot be started.
    pub async fn restart(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.terminate().await?;
        }
        self.spawn().await
    }

    /// Keeps a temporary folder of this merchant's own after its end, for someone to look into.
    pub(crate) fn keep_folder(&mut self) {
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
    }

    async fn spawn(&mut self) -> Result<()> {
        fs::write(&self.settings_file, self.settings.render()?)
            .with_context(|| format!("failed to write {}", self.settings_file.display()))?;
        let open_log = || File::options().create(true).append(true).open(&self.log);
        let log = open_log().with_context(|| format!("failed to open {}", self.log.display()))?;
        let stderr = self.stderr.as_ref().unwrap_or(&log).try_clone();
        let mut command = parent::bound_command(&self.exe);
        command
            .args(["run", "--config"])
            .arg(&self.settings_file)
            .env_remove(TOLLHOUSE_EXE)
            // Everything it talks to is on this machine; a proxy of the developer's would be in the way.
            .env("NO_PROXY", "127.0.0.1")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(stderr.context("failed to share the log file")?)
            .stdout(log);
        let exe = self.exe.clone();
        let (child, parent) = parent::start("merchant", move || {
            command
                .spawn()
                .with_context(|| format!("failed to start {}", exe.display()))
        })
        .await?;
        self.child = Some(Running {
            child,
            _parent: parent,
        });
        Ok(())
    }

    /// Waits for something that the operator's listener says, as long as the process lives.
    async fn wait_for<T, F, Fut>(&mut self, what: &str, deadline: Duration, look: F) -> Result<T>
    where
        F: Fn(Admin) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let waited = {
            let admin = &self.admin;
            let child = &mut self
                .child
                .as_mut()
                .context("the merchant is not running")?
                .child;
            eventually(what, deadline, || {
                let ended = child.try_wait().ok().flatten();
                let seen = look(admin.clone());
                async move {
                    match (ended, seen.await) {
                        (_, Ok(value)) => Ok(Some(Ok(value))),
                        (Some(status), Err(_)) => {
                            Ok(Some(Err(anyhow!("the merchant ended with {status}"))))
                        }
                        (None, Err(seen)) => Err(format!("{seen:#}")),
                    }
                }
            })
            .await
        };
        waited
            .flatten()
            .map_err(|error| anyhow!("{error:#}; {}", self.log_tail()))
    }
}

impl Drop for Merchant {
    fn drop(&mut self) {
        // Nobody could be told of a failure here; the process dies with its parent's thread at the latest.
        let _ = self.kill();
        if std::thread::panicking() {
            self.keep_folder();
            eprintln!("{}", self.log_tail());
        }
    }
}
