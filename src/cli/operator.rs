//! One question to the running program, at the operator's listener of the settings. It is on loopback and speaks HTTP/1.1.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::secret_file;

/// A backup takes seconds; a listener that does not answer at all is given up after this.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Asks with an empty body, and returns the answer's JSON.
pub(super) fn post(config: &Config, path: &str) -> anyhow::Result<serde_json::Value> {
    let address = config.admin_listen;
    let token = secret_file::read(&config.data_dir.join("admin.token"))?;
    let asked = || {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n",
            token.trim()
        )?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = asked().with_context(|| {
        format!(
            "no answer from the operator's listener at {address} (admin.listen in the settings)"
        )
    })?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("its answer is no HTTP")?;
    let body: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
    if !head.starts_with("HTTP/1.1 2") {
        let status = head.lines().next().unwrap_or_default();
        bail!("{}", body["error"].as_str().unwrap_or(status));
    }
    Ok(body)
}
