//! The node in somebody else's program, without a chain: what was paid for is served all the same, and the books are closed
//! in good order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Method, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use regtest::client::Client;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tollhouse::AppError;
use tollhouse::Grant;
use tollhouse::Offer;
use tollhouse::Tollhouse;
use tollhouse::protocol::l402::{MasterKey, RootKeys};
use tower::ServiceExt as _;

use crate::support::answers::assert_told;
use crate::support::program::JOKE;
use crate::support::{DEADLINE, Sold};

/// A folder with settings that start without anybody to talk to.
pub(crate) fn folder(more: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let admin = regtest::port::free().unwrap();
    let text = format!(
        "admin.listen = \"{admin}\"\nnode.network = \"regtest\"\nnode.chain.esplora = \"http://127.0.0.1:1\"\n{more}"
    );
    std::fs::write(dir.path().join("tollhouse.toml"), text).unwrap();
    dir
}

pub(crate) fn settings(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("tollhouse.toml")
}

/// What a payment for these requests would buy from this program.
fn bought(data_dir: &Path, requests: u64) -> Sold {
    let text = std::fs::read_to_string(data_dir.join("master.key")).unwrap();
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret).unwrap();
    let key = MasterKey {
        epoch: 0,
        secret,
        until_secs: None,
    };
    let caveats = [
        "services=jokes:0".to_owned(),
        "jokes_valid_until=9999999999".to_owned(),
        format!("jokes_requests={requests}"),
    ];
    Sold::mint(&RootKeys::new(&key, &[]), &caveats)
}

/// The program, from its start to its end: what a request with this token, and one without, is answered.
async fn run(dir: &TempDir, sold: Option<&Sold>) -> Vec<regtest::client::Answer> {
    let tollhouse = Tollhouse::start(settings(dir)).await.unwrap();
    let app = Router::new()
        .route("/joke", get(JOKE))
        .route_layer(tollhouse.guard("jokes", "10 sat").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/joke", listener.local_addr().unwrap());
    let stopping = tollhouse.stopping();
    let serving = async move {
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let serving = axum::serve(listener, app).with_graceful_shutdown(stopping);
        serving.await.unwrap();
    };
    let asking = async {
        let client = Client::new().unwrap();
        let mut answers = vec![client.get(&url, None).await.unwrap()];
        if let Some(sold) = sold {
            let request = client.request(Method::GET, &url);
            let request = request.header(AUTHORIZATION, sold.header());
            answers.push(client.send(request).await.unwrap());
        }
        let second = Tollhouse::start(settings(dir)).await;
        assert!(matches!(second, Err(AppError::Lock(_))));
        tollhouse.stop().await.unwrap();
        answers
    };
    tokio::join!(asking, serving).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_paid_for_is_served_without_a_node_and_counted_over_a_restart() {
    let dir = folder("");
    let unpaid = run(&dir, None).await.remove(0);
    assert_eq!(unpaid.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(unpaid.header("retry-after").is_some());
    let sold = bought(&dir.path().join("tollhouse-data"), 2);
    for left in ["1", "0"] {
        let answer = run(&dir, Some(&sold)).await.remove(1);
        assert_told(&answer);
        assert_eq!(answer.header("l402-remaining-requests"), Some(left));
    }
    let again = run(&dir, Some(&sold)).await.remove(1);
    assert_eq!(again.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// A handler that has begun, and a stop that began after it.
async fn stopped_in_the_middle(
    settings_too: &str,
    goes_on: bool,
) -> (Option<String>, Sold, TempDir) {
    let dir = folder(settings_too);
    let tollhouse = Tollhouse::start(settings(&dir)).await.unwrap();
    let sold = bought(&dir.path().join("tollhouse-data"), 1);
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
        move || async move {
            begun.notify_one();
            go.notified().await;
            JOKE
        }
    };
    let app = Router::new().route("/joke", get(handler));
    let app = app.route_layer(tollhouse.guard("jokes", "10 sat").unwrap());
    let request = Request::get("/joke").header(AUTHORIZATION, sold.header());
    let mut requests = JoinSet::new();
    requests.spawn(app.oneshot(request.body(Body::empty()).unwrap()));
    begun.notified().await;
    let mut stop = std::pin::pin!(tollhouse.stop());
    if !goes_on {
        let stopped = tokio::time::timeout(DEADLINE, stop).await;
        stopped.expect("the grace is over some day").unwrap();
        return (None, sold, dir);
    }
    let early = tokio::time::timeout(Duration::from_millis(300), &mut stop);
    assert!(early.await.is_err(), "an answer is still being made");
    go.notify_one();
    let answer = requests.join_next().await.unwrap().unwrap().unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), &mut stop);
    assert!(early.await.is_err(), "nobody has read it yet");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    stop.await.unwrap();
    (Some(String::from_utf8(body.to_vec()).unwrap()), sold, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_when_it_stops_is_finished_and_in_the_books() {
    let (answer, sold, dir) = stopped_in_the_middle("", true).await;
    assert_eq!(answer.as_deref(), Some(JOKE));
    let again = run(&dir, Some(&sold)).await.remove(1);
    assert_eq!(again.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_ends_does_not_keep_it_from_stopping_and_costs_the_buyer_nothing() {
    let grace = "http.shutdown_grace = \"1s\"\n";
    let (_, sold, dir) = stopped_in_the_middle(grace, false).await;
    assert_told(&run(&dir, Some(&sold)).await[1]);
}

#[tokio::test]
async fn settings_that_this_program_cannot_serve_are_refused() {
    for (more, expected) in [
        ("nonsense = 1\n", "nonsense"),
        (
            "[[route]]\npath = \"/*\"\naccess = \"free\"\nupstream = \"http://127.0.0.1:2\"\n",
            "route: only `tollhouse run`",
        ),
        (
            "http.proxy_protocol = true\nhttp.trusted_proxies = [\"127.0.0.1\"]\n",
            "http.proxy_protocol: only",
        ),
    ] {
        let dir = folder(more);
        let refused = Tollhouse::start(settings(&dir)).await.map(|_| ());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(!dir.path().join("tollhouse-data").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_would_leave_a_guard_without_a_price_changes_nothing() {
    let rate = "[[rate]]\ncurrency = \"USD\"\nfixed = \"100000\"\n";
    let dir = folder(rate);
    let tollhouse = Tollhouse::start(settings(&dir)).await.unwrap();
    let offer = Offer::new("jokes", "0.01 USD".parse().unwrap(), Grant::default());
    let _guard = tollhouse.guard_with(offer).unwrap();
    let with_rate = std::fs::read_to_string(settings(&dir)).unwrap();
    std::fs::write(settings(&dir), with_rate.replace(rate, "")).unwrap();
    let refused = tollhouse.reload().await.unwrap().unwrap_err();
    assert!(refused.contains("no rate is known for USD"), "{refused}");
    std::fs::write(settings(&dir), with_rate.replace("100000", "50000")).unwrap();
    assert_eq!(tollhouse.reload().await, Some(Ok(Vec::new())));
    tollhouse.stop().await.unwrap();
}
