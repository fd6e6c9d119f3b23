//! Requests to the operator's listener of the running program.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::account::store::DataLock;
use crate::base::error_chain::chain;
use crate::base::secret_file;
use crate::config;
use crate::sell::quote::Address;
use crate::sell::resource;

use super::exit_code::{BAD_SETTINGS, FAULT, PENDING, REFUSED, UNREACHABLE, complain};
use super::output::{self, Effect};
use super::show::{json, lines};

/// How long to wait for an answer. A payment takes at most a minute, and then the program answers
/// that it is pending.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);

/// How long a connection may take. A reachable machine accepts it within a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum length of an answer. The largest page of sales, with 500 of them, takes about 350
/// KB.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The program to ask, and how to show its answer.
#[derive(Debug, Args)]
pub(super) struct Operator {
    /// The settings file of the running program
    #[arg(long, value_name = "FILE", default_value = "tollhouse.toml")]
    config: PathBuf,
    /// The URL of the operator's listener, if it differs from the settings
    #[arg(long, value_name = "URL", requires = "token_file")]
    url: Option<String>,
    /// A file with the operator's token or an access token
    ///
    /// The default is DATA_DIR/admin.token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A PEM file with the private authority of the listener's certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON, even to a terminal
    #[arg(long)]
    json: bool,
}

/// A failure to get an answer, with the exit code for it.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) code: u8,
    pub(super) why: String,
}

/// A function that formats an answer for people.
pub(super) type View = fn(&Value) -> String;

impl Operator {
    /// The program that runs with this settings file.
    pub(super) fn of(settings: &Path) -> Self {
        Self {
            config: settings.to_owned(),
            url: None,
            token_file: None,
            ca: None,
            json: false,
        }
    }

    /// The path of the settings file.
    pub(super) fn settings_file(&self) -> &Path {
        &self.config
    }

    /// Sends a request and shows the answer.
    pub(super) fn show(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        view: View,
    ) -> ExitCode {
        let effect = if method == Method::GET {
            Effect::None
        } else {
            Effect::Done
        };
        match self.ask(method, path, body) {
            Ok(answer) => self.print(&answer, view, effect),
            Err(no_answer) => no_answer.tell(),
        }
    }

    /// Prints an answer: as JSON into a pipe, or formatted to a terminal.
    pub(super) fn print(&self, answer: &Value, view: View, effect: Effect) -> ExitCode {
        let text = if self.json || !std::io::stdout().is_terminal() {
            json(answer)
        } else {
            lines(view(answer).trim_end())
        };
        output::show(&text, effect)
    }

    /// Sends a request and returns the answer, which is `null` if it is empty.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, NoAnswer> {
        let (base, token) = self.whom()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| NoAnswer::new(FAULT, error.to_string()))?;
        let asking = self.ask_at(&base, &token, method.clone(), path, body);
        runtime
            .block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, asking).await })
            .unwrap_or_else(|_| {
                let why = format!("{base} did not answer within {ANSWER_TIMEOUT:?}");
                Err(NoAnswer::unheard(&method, &why))
            })
    }

    /// The URL and the token for the request.
    fn whom(&self) -> Result<(String, String), NoAnswer> {
        let bad = |why: String| NoAnswer::new(BAD_SETTINGS, why);
        let read = |file: &PathBuf| {
            let token = secret_file::handed_over_line(file);
            token.map_err(|error| bad(chain(&error)))
        };
        if let (Some(url), Some(file)) = (&self.url, &self.token_file) {
            let is_private = url
                .parse::<Address>()
                .map_err(|error| bad(format!("{url}: {error}")))?
                .is_private();
            if !is_private {
                return Err(bad(format!(
                    "the token would go to {url} in the clear, for all on the way to read: ask over https, or on the machine itself"
                )));
            }
            return Ok((url.trim_end_matches('/').to_owned(), read(file)?));
        }
        let config =
            config::load(&self.config).map_err(|complaints| bad(complaints.to_string()))?;
        let default = config.data_dir.join("admin.token");
        let file = self.token_file.as_ref().unwrap_or(&default);
        if let Err(error) = file.metadata() {
            return Err(NoAnswer::no_token(file, &error, self.token_file.is_some()));
        }
        // If the program is not running, another process may listen at that address and would
        // receive the operator's token.
        if self.token_file.is_none() && !DataLock::is_held(&config.data_dir) {
            let why = format!(
                "nothing uses the data folder {}, so {} was not asked: is the program running?",
                config.data_dir.display(),
                config.admin_url()
            );
            return Err(NoAnswer::new(UNREACHABLE, why));
        }
        Ok((config.admin_url(), read(file)?))
    }

    async fn ask_at(
        &self,
        base: &str,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, NoAnswer> {
        let uri: Uri = format!("{base}{path}").parse().map_err(|_| {
            NoAnswer::new(
                BAD_SETTINGS,
                format!("{base} is no URL of an operator's listener"),
            )
        })?;
        let request = Request::builder()
            .method(method.clone())
            .uri(uri)
            .header(AUTHORIZATION, format!("Bearer {token}"));
        let request = match &body {
            Some(_) => request.header(CONTENT_TYPE, "application/json"),
            None => request,
        };
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(text))).map_err(|_| {
            NoAnswer::new(BAD_SETTINGS, "the token's file holds no token".to_owned())
        })?;
        let client = legacy::Client::builder(TokioExecutor::new()).build(
            HttpsConnectorBuilder::new()
                .with_tls_config(self.tls()?)
                .https_or_http()
                .enable_http1()
                .wrap_connector({
                    let mut http = HttpConnector::new();
                    http.enforce_http(false);
                    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
                    http
                }),
        );
        let broke_off = |why: String| {
            let why = format!("{base} broke off ({why})");
            NoAnswer::unheard(&method, &why)
        };
        let response = client.request(request).await.map_err(|error| {
            let why = chain(&error);
            // After any other error the program may have received and executed the request.
            if !error.is_connect() {
                return broke_off(why);
            }
            let why = format!("{base} does not answer ({why}): is the program running?");
            NoAnswer::new(UNREACHABLE, why)
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await;
        let body = body.map_err(|error| broke_off(chain(&*error)))?.to_bytes();
        let answer: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body)
                .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into())
        };
        // `/ready` answers 503 with a normal body, which is not an error.
        let is_said = answer.get("error").is_none()
            && status == StatusCode::SERVICE_UNAVAILABLE
            && answer.is_object();
        if status.is_success() || is_said {
            return Ok(answer);
        }
        let why = answer["error"]
            .as_str()
            .map_or_else(|| answer.to_string(), str::to_owned);
        let code = match status {
            StatusCode::GATEWAY_TIMEOUT => PENDING,
            status if status.is_client_error() => REFUSED,
            _ => FAULT,
        };
        Err(NoAnswer::new(code, why))
    }

    fn tls(&self) -> Result<ClientConfig, NoAnswer> {
        let builder = ClientConfig::builder();
        let Some(file) = &self.ca else {
            return Ok(builder.with_webpki_roots().with_no_client_auth());
        };
        let bad = |why: String| NoAnswer::new(BAD_SETTINGS, format!("{}: {why}", file.display()));
        let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let authorities = resource::certificates(&pem).map_err(bad)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.into_iter().map(CertificateDer::from));
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl NoAnswer {
    /// The error for a missing or unreadable token: the program was never started, its data folder
    /// is elsewhere, or the file belongs to another user.
    fn no_token(file: &Path, error: &io::Error, is_named: bool) -> Self {
        let file = file.display();
        if error.kind() != io::ErrorKind::NotFound {
            let why = format!(
                "{file} cannot be looked at ({error}): ask as the user that the program runs as"
            );
            return Self::new(BAD_SETTINGS, why);
        }
        if is_named {
            let why = format!("{file} is not there: is --token-file misspelt?");
            return Self::new(BAD_SETTINGS, why);
        }
        let why = format!("{file} is not there: was the program ever started with these settings?");
        Self::new(UNREACHABLE, why)
    }

    fn new(code: u8, why: String) -> Self {
        Self { code, why }
    }

    /// The error for a request without an answer. A request that changes something may have been
    /// executed.
    fn unheard(method: &Method, why: &str) -> Self {
        if *method == Method::GET {
            return Self::new(FAULT, format!("{why}: ask again"));
        }
        let look = "look whether it was done before you ask again (`tollhouse status`, `payments`, `channels list`)";
        Self::new(PENDING, format!("{why}: {look}"))
    }

    /// Prints the reason and returns the exit code.
    pub(super) fn tell(&self) -> ExitCode {
        complain(&format_args!("error: {}", self.why));
        ExitCode::from(self.code)
    }
}
