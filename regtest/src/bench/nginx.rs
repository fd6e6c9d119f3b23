//! An nginx beside the merchant with the same files and the same upstream, but without payment: the baseline for the server
//! around the gate.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regtest::wait::eventually;
use regtest::{environment, port};
use tempfile::TempDir;

use super::goods::Goods;

/// nginx listens within milliseconds; the deadline is for a busy machine.
const UP_DEADLINE: Duration = Duration::from_secs(15);

/// A running nginx; dropping it stops the process.
#[derive(Debug)]
pub(super) struct Nginx {
    /// The master process; its workers end with it.
    child: Child,
    exe: PathBuf,
    address: SocketAddr,
    /// Configuration, log and PID file.
    dir: TempDir,
}

/// The named binary, or the system's, which may not be on `PATH`.
pub(super) fn exe(named: Option<&Path>) -> Result<PathBuf> {
    let found = match named {
        Some(exe) => Some(exe.to_owned()),
        None => environment::on_path("nginx").or_else(|| Some("/usr/sbin/nginx".into())),
    };
    found
        .filter(|exe| exe.is_file())
        .context("nginx is missing: run this as scripts/bench, which fetches it")
}

impl Nginx {
    /// Serves these resources on a free loopback port, with one worker per processor. Call it from a thread that lives as long
    /// as the benchmark: the system stops nginx when that thread ends.
    pub(super) async fn start(exe: &Path, goods: &Goods) -> Result<Self> {
        let address = port::free()?;
        let dir = regtest::folder::temporary()?;
        let settings = settings(address, goods);
        fs::write(dir.path().join("nginx.conf"), settings).context("failed to write nginx.conf")?;
        let mut command = match environment::on_path("setpriv") {
            // On SIGTERM the master stops its workers; on SIGKILL it could not.
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM", "--"]).arg(exe);
                command
            }
            None => Command::new(exe),
        };
        let child = arguments(&mut command, dir.path())
            .spawn()
            .with_context(|| format!("failed to start {}", exe.display()))?;
        let mut nginx = Self {
            child,
            exe: exe.to_owned(),
            address,
            dir,
        };
        nginx.wait_up().await?;
        Ok(nginx)
    }

    async fn wait_up(&mut self) -> Result<()> {
        let address = self.address;
        let up = eventually("nginx to listen", UP_DEADLINE, || async move {
            let connected = tokio::net::TcpStream::connect(address).await;
            connected.map(Some).map_err(|error| error.to_string())
        });
        let waited = up.await.map(drop);
        if let Some(status) = self
            .child
            .try_wait()
            .context("failed to check whether nginx runs")?
        {
            let log = fs::read_to_string(self.dir.path().join("error.log"));
            bail!("nginx ended with {status}: {}", log.unwrap_or_default());
        }
        waited
    }

    /// The base URL, without a trailing slash.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let mut stop = Command::new(&self.exe);
        let stopped = arguments(&mut stop, self.dir.path())
            .args(["-s", "stop"])
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            // The workers would stay, and end with their last connection.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Adds the arguments. nginx writes errors to its log.
fn arguments<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .arg("-p")
        .arg(dir)
        .args(["-c", "nginx.conf", "-e", "error.log"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// Debian's configuration, except for unlimited kept-alive upstream connections and the access log.
fn settings(address: SocketAddr, goods: &Goods) -> String {
    let upstream = goods.upstream_address();
    let root = goods.dir().display();
    format!(
        r#"user root; # lets workers read a temporary folder; ignored with a warning unless nginx is started by root
daemon off;
worker_processes auto;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    upstream behind {{
        server {upstream};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        location /files/ {{
            root "{root}";
        }}
        location /upstream/ {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"#
    )
}
