//! Load, by wrk: two threads and 64 connections on the same cores as the program that is measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use http::StatusCode;
use regtest::client::Answer;
use regtest::network::Network;
use serde::Deserialize;
use tokio::process::Command;

use super::goods::{Goods, PAGE, UPSTREAM};
use super::{Effort, Notes, median};

/// The program; Debian's package has the same name.
pub(super) const WRK: &str = "wrk";
/// Its threads.
const THREADS: u32 = 2;
/// Its connections.
const CONNECTIONS: u32 = 64;
/// How much a run's bytes may differ from what they must be, besides answers that were cut at its end.
const BYTES_TOLERANCE: f64 = 0.001;
/// What a run's own line begins with.
const MARK: &str = "wrk-summary ";
/// `HTTP/1.1 402 Payment Required` and the empty line after the headers, each with its end of line.
const STATUS_LINE_BYTES: usize = "HTTP/1.1 402 Payment Required\r\n\r\n".len();

/// Has wrk write its results as JSON. `status` counts answers of 400 and above; wrk knows no more of them unless a script
/// looks at every answer, which would halve its speed.
pub(super) const SUMMARY_LUA: &str = r#"
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'wrk-summary {"requests":%.0f,"duration_us":%.0f,"bytes":%.0f,"refused":%.0f,"broken":%.0f,' ..
        '"p50_us":%.0f,"p99_us":%.0f}\n',
        summary.requests, summary.duration, summary.bytes, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
"#;

/// Asks from ten thousand addresses in turn. Requests are put together before the run.
const MANY_LUA: &str = r#"
function init(arguments)
    requests = {}
    for number = 0, 9999 do
        local address = string.format("10.%d.%d.1", math.floor(number / 250), number % 250)
        requests[number] = wrk.format("GET", nil, { ["X-Forwarded-For"] = address })
    end
    turn = 0
end

function request()
    turn = (turn + 1) % 10000
    return requests[turn]
end
"#;

/// A run of wrk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    /// The URL that is asked for.
    pub(super) url: &'a str,
    /// For how long.
    pub(super) secs: u32,
    /// The script; it ends with [`SUMMARY_LUA`].
    pub(super) script: &'a Path,
}

/// What wrk counted.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Outcome {
    /// Answers that were read to their end.
    pub(super) requests: u64,
    /// How long it took, µs.
    duration_us: f64,
    /// Bytes of all answers, the cut ones included.
    bytes: f64,
    /// Answers of status 400 and above.
    pub(super) refused: u64,
    /// Connections that could not be made or broke, and answers that took more than two seconds.
    broken: u64,
    /// Median latency, µs.
    p50_us: f64,
    /// 99 of 100 are faster, µs.
    p99_us: f64,
}

impl Load<'_> {
    /// Runs it. Dropping the future kills wrk.
    pub(super) async fn run(&self) -> Result<Outcome> {
        let ran = Command::new(WRK)
            .arg(format!("-t{THREADS}"))
            .arg(format!("-c{CONNECTIONS}"))
            .arg(format!("-d{}s", self.secs))
            .arg("--latency")
            .arg("-s")
            .arg(self.script)
            .arg(self.url)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("failed to run wrk")?;
        let said = String::from_utf8_lossy(&ran.stdout);
        let summary = said.lines().find_map(|line| line.strip_prefix(MARK));
        let Some(summary) = summary.filter(|_| ran.status.success()) else {
            let complaint = String::from_utf8_lossy(&ran.stderr);
            bail!(
                "wrk against {} ended with {}: {said}{complaint}",
                self.url,
                ran.status
            );
        };
        let outcome: Outcome =
            serde_json::from_str(summary).with_context(|| format!("wrk said {summary}"))?;
        if outcome.broken > 0 || outcome.requests == 0 {
            bail!(
                "{} of wrk's requests to {} were not answered, {} were",
                outcome.broken,
                self.url,
                outcome.requests
            );
        }
        Ok(outcome)
    }
}

impl Outcome {
    /// Requests a second.
    pub(super) fn per_sec(&self) -> f64 {
        self.count() * 1e6 / self.duration_us
    }

    /// How long an answer took.
    fn latency(&self) -> String {
        format!(
            "median {:.1} ms, 99th percentile {:.1} ms",
            self.p50_us / 1e3,
            self.p99_us / 1e3
        )
    }

    /// The number of answers, to calculate with.
    fn count(&self) -> f64 {
        self.requests as f64
    }

    /// Fails unless no answer had a status of 400 or above.
    pub(super) fn check_served(&self, url: &str) -> Result<()> {
        if self.refused > 0 {
            bail!(
                "{} of {} requests to {url} were refused",
                self.refused,
                self.requests
            );
        }
        Ok(())
    }

    /// Fails unless every answer was a 402: each had a status of 400 or above, and all of them together have as many bytes
    /// as that many challenges. (They are all of one length. A 503 has a fifth of it.)
    fn check_challenges(&self, answer_bytes: f64) -> Result<()> {
        if self.refused != self.requests {
            bail!(
                "only {} of {} answers were refusals",
                self.refused,
                self.requests
            );
        }
        let expected = self.count() * answer_bytes;
        let allowed = f64::from(CONNECTIONS) * answer_bytes + BYTES_TOLERANCE * expected;
        if (self.bytes - expected).abs() > allowed {
            bail!(
                "{} answers have {:.1} bytes each, a challenge has {answer_bytes}: some were something else than a 402",
                self.requests,
                self.bytes / self.count()
            );
        }
        Ok(())
    }
}

/// A source of challenges: a guarded path, asked without a credential.
#[derive(Debug)]
pub(super) struct Challenges {
    /// The guarded path.
    url: String,
    /// The script for wrk.
    script: PathBuf,
    /// Bytes of one challenge, headers included.
    answer_bytes: f64,
}

impl Challenges {
    /// Looks at one challenge and gets ready to ask for many.
    pub(super) async fn at(network: &Network, goods: &Goods, path: &str) -> Result<Self> {
        let url = format!("{}{path}", network.gate_url());
        let answer = network.client().get(&url, None).await?;
        answer.challenge()?;
        Ok(Self {
            answer_bytes: f64::from(bytes_on_the_wire(&answer)?),
            script: goods.write("summary.lua", SUMMARY_LUA)?,
            url,
        })
    }

    /// The same, each from another one of ten thousand addresses: as a trusted proxy tells it.
    pub(super) async fn from_many(network: &Network, goods: &Goods, path: &str) -> Result<Self> {
        let challenges = Self::at(network, goods, path).await?;
        Ok(Self {
            script: goods.write("addresses.lua", &format!("{MANY_LUA}{SUMMARY_LUA}"))?,
            ..challenges
        })
    }

    /// Asks for this long; fails if anything but challenges came.
    pub(super) async fn ask(&self, secs: u32) -> Result<Outcome> {
        let load = Load {
            url: &self.url,
            secs,
            script: &self.script,
        };
        let outcome = load.run().await?;
        outcome.check_challenges(self.answer_bytes)?;
        Ok(outcome)
    }
}

/// Challenges a second. The number is that of an upstream's route; a file's route looks for its file first.
pub(super) async fn challenges_per_sec(
    network: &Network,
    goods: &Goods,
    effort: &Effort,
    notes: &mut Notes,
) -> Result<f64> {
    let challenges = Challenges::at(network, goods, UPSTREAM.sold).await?;
    let mut rounds = Vec::new();
    for _ in 0..effort.rounds {
        notes.progress(&format!("challenges for {} s", effort.challenge_secs));
        let outcome = challenges.ask(effort.challenge_secs).await?;
        notes.remark(format!(
            "challenges: {:.0}/s, {}",
            outcome.per_sec(),
            outcome.latency()
        ));
        rounds.push(outcome.per_sec());
    }
    let of_a_file = Challenges::at(network, goods, PAGE.sold).await?;
    let outcome = of_a_file.ask(effort.guarded_secs).await?;
    notes.remark(format!(
        "challenges for a file, which is looked for first: {:.0}/s (not the number in the table)",
        outcome.per_sec()
    ));
    Ok(median(rounds))
}

/// What an answer has on the wire: status line, `name: value` lines, body.
fn bytes_on_the_wire(answer: &Answer) -> Result<u32> {
    if answer.status != StatusCode::PAYMENT_REQUIRED {
        bail!("{} is no 402", answer.status);
    }
    let lines = answer.headers.iter();
    let headers: usize = lines
        .map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len())
        .sum();
    u32::try_from(STATUS_LINE_BYTES + headers + answer.body.len()).context("a 402 of gigabytes")
}
