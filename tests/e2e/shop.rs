//! What the tests sell, and to whom.

use std::fs;
use std::time::{Duration, Instant};

use regtest::client::{Answer, Credential};
use regtest::folder;
use regtest::network::{Network, NetworkOptions};
use regtest::wait::eventually;
use serde_json::Value;
use tempfile::TempDir;

/// The height of the chain, from the Esplora server behind the merchant; two requests a payment.
pub(crate) const HEIGHT: &str = "/chain/blocks/tip/height";
/// An article; any number of requests a payment.
pub(crate) const ARTICLE: &str = "/articles/one.html";
/// What the article says.
pub(crate) const ARTICLE_TEXT: &str =
    "<!doctype html><title>One</title><p>One request, one payment.";

/// A node that wrote nothing for this long has no payment under way.
const WRITES_NOTHING: Duration = Duration::from_secs(1);

/// How long what is written behind may take to show: it is written once a second.
const WRITTEN_DEADLINE: Duration = Duration::from_secs(15);

/// A network whose merchant sells by `more` besides the usual two services.
pub(crate) struct Shop {
    /// The network.
    pub(crate) network: Network,
    /// What is sold from a folder; removed last.
    _dir: TempDir,
}

impl Shop {
    /// Opens with the usual services.
    pub(crate) async fn open() -> Self {
        Self::open_with("", "").await
    }

    /// Opens with further `[[route]]` tables and settings.
    pub(crate) async fn open_with(routes: &str, settings: &str) -> Self {
        Self::open_in(routes, settings, Vec::new()).await
    }

    /// Opens with further environment variables of the merchant, too.
    pub(crate) async fn open_in(routes: &str, settings: &str, env: Vec<(String, String)>) -> Self {
        let dir = folder::temporary().unwrap();
        let articles = dir.path().join("articles");
        fs::create_dir(&articles).unwrap();
        fs::write(articles.join("one.html"), ARTICLE_TEXT).unwrap();
        fs::write(articles.join(".draft"), "not for sale").unwrap();
        let options = NetworkOptions {
            routes_dir: Some(dir.path().to_owned()),
            settings: settings.to_owned(),
            env,
            ..NetworkOptions::new(
                env!("CARGO_BIN_EXE_tollhouse"),
                format!("{ROUTES}\n{routes}"),
            )
        };
        Self {
            network: Network::start(options).await.unwrap(),
            _dir: dir,
        }
    }

    /// Asks with a credential or without.
    pub(crate) async fn get(&self, path: &str, credential: Option<&Credential>) -> Answer {
        let url = format!("{}{path}", self.network.gate_url());
        self.network.client().get(&url, credential).await.unwrap()
    }

    /// Pays for a path and says what that gave; the first request has been served.
    pub(crate) async fn buy(&self, path: &str) -> Credential {
        let purchase = self.network.buy(path).await.unwrap();
        assert_eq!(purchase.answer.status, 200, "{}", purchase.answer.text());
        purchase.credential
    }

    /// Asks with a credential that must be refused, with a challenge that is not the one it came from.
    pub(crate) async fn refused(&self, path: &str, credential: &Credential) -> Answer {
        let answer = self.get(path, Some(credential)).await;
        assert_eq!(answer.status, 402, "{}", answer.text());
        let challenge = answer.challenge().unwrap();
        assert_ne!(challenge.macaroon, credential.macaroon_base64);
        assert_ne!(
            challenge.token().unwrap().payment_hash_hex(),
            regtest::token::Token::from_base64(&credential.macaroon_base64)
                .ok()
                .and_then(|token| token.payment_hash_hex())
        );
        answer
    }

    /// Kills the merchant once the last payment is over. LDK writes its channel manager a moment after a payment, and a kill
    /// before that costs the channel.
    pub(crate) async fn kill(&mut self) {
        let log = self
            .network
            .merchant
            .data_dir()
            .join("node/ldk_node_data.sqlite-wal");
        let written = || {
            let meta = fs::metadata(&log).unwrap();
            (meta.len(), meta.modified().unwrap())
        };
        let (mut last, mut since) = (written(), Instant::now());
        eventually("the node to have written all", WRITTEN_DEADLINE, || {
            let now = written();
            if std::mem::replace(&mut last, now) != now {
                since = Instant::now();
            }
            let idle = since.elapsed();
            async move {
                match idle {
                    idle if idle >= WRITES_NOTHING => Ok(Some(())),
                    idle => Err(format!("it wrote {idle:?} ago")),
                }
            }
        })
        .await
        .unwrap();
        self.network.merchant.kill().unwrap();
    }

    /// Starts it again and waits until it can be paid. These tests let no payment be under way, so no channel is lost.
    pub(crate) async fn come_back(&mut self) {
        self.network.merchant.restart().await.unwrap();
        self.network.merchant.wait_up().await.unwrap();
        assert_eq!(self.network.ensure_channel().await.unwrap(), 0);
    }

    /// The books, once they hold this many sales, every one of them of a redeemed token.
    pub(crate) async fn redeemed_sales(&self, count: usize) -> Vec<Value> {
        eventually("the sales to be written", WRITTEN_DEADLINE, || async {
            let sales = self.network.merchant.admin().sales(500).await;
            let sales = sales.map_err(|error| format!("{error:#}"))?;
            let redeemed = sales
                .iter()
                .filter(|sale| sale["redeemed_ms"].is_u64())
                .count();
            if (sales.len(), redeemed) == (count, count) {
                Ok(Some(sales))
            } else {
                Err(format!("{} sales, {redeemed} redeemed", sales.len()))
            }
        })
        .await
        .unwrap()
    }
}

const ROUTES: &str = r#"
[[route]]
path = "/chain/*"
service = "chain"
price = "10 sat"
grant = { requests = 2, valid = "1h" }
upstream = "{esplora}"
strip_prefix = true

[[route]]
path = "/articles/*"
service = "articles"
price = "21 sat"
files = "articles"

[[route]]
path = "/free/*"
access = "free"
files = "articles"
overlap = "allowed"
"#;
