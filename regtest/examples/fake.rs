#![allow(clippy::all, missing_docs)]
use axum::{Router, Json, extract::{State, Request}, routing::{get, post}, response::{Response, IntoResponse}, http::{StatusCode, HeaderMap}};
use regtest::{payer::*, token::Token, client::read_invoice};
use std::{sync::{Arc, Mutex}, collections::HashMap};
use serde_json::json;
use bitcoin::hashes::{sha256, Hash};
struct S { node: Payer, cfg: toml::Table, uses: Mutex<HashMap<String,(u32,u64,String)>>, p2p: String }
async fn gate(State(s): State<Arc<S>>, headers: HeaderMap, req: Request) -> Response {
    let path = req.uri().path().to_owned();
    let route = s.cfg["route"].as_array().unwrap().iter().find(|r| path.starts_with(r["path"].as_str().unwrap().trim_end_matches('*'))).unwrap().clone();
    let rest = path.strip_prefix(route["path"].as_str().unwrap().trim_end_matches("/*")).unwrap().to_owned();
    let ok = || async { if let Some(u) = route.get("upstream") { reqwest::get(format!("{}{rest}", u.as_str().unwrap())).await.unwrap().text().await.unwrap().into_response() } else { std::fs::read(format!("{}{rest}", route["files"].as_str().unwrap())).unwrap().into_response() } };
    if route.get("access").is_some() { return ok().await; }
    let (svc, price) = (route["service"].as_str().unwrap().to_owned(), route["price"].as_str().unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()*1000);
    if let Some(a) = headers.get("authorization") {
        let a = a.to_str().unwrap().strip_prefix("L402 ").unwrap(); let (m, p) = a.split_once(':').unwrap();
        let t = Token::from_base64(m).unwrap();
        let h = sha256::Hash::hash(&hex::decode(p).unwrap()).to_string();
        if t.payment_hash_hex().unwrap() == h {
            let good = { let mut u = s.uses.lock().unwrap(); let e = u.entry(h).or_insert((0, price, svc.clone())); e.0 += 1; e.0 <= route["grant"]["requests"].as_integer().unwrap() as u32 };
            if good { return ok().await; }
        }
    }
    let inv = s.node.invoice(price, "a fake thing").await.unwrap();
    let i = read_invoice(&inv).unwrap();
    let mut id = vec![0,0]; id.extend(i.payment_hash().as_ref() as &[u8]); id.extend([7u8;32]);
    let t = Token { location: Some("lsat".into()), identifier: id, caveats: vec![format!("services={svc}:0"), format!("{svc}_valid_until=1795400000")], signature: vec![1;32] }.to_base64();
    (StatusCode::PAYMENT_REQUIRED, [("www-authenticate", format!("L402 macaroon=\"{t}\", invoice=\"{inv}\", version=\"0\""))], Json(json!({"detail":"pay","invoice":inv,"macaroon":t}))).into_response()
}
#[tokio::main]
async fn main() {
    let f = std::env::args().nth(3).unwrap();
    let cfg: toml::Table = std::fs::read_to_string(f).unwrap().parse().unwrap();
    let dir = std::path::PathBuf::from(cfg["data_dir"].as_str().unwrap());
    std::fs::create_dir_all(&dir).unwrap(); std::fs::write(dir.join("admin.token"), "abcd\n").unwrap();
    let p2p = cfg["node"]["listen"][0].as_str().unwrap().to_owned();
    let node = loop { match Payer::start(PayerOptions { dir: dir.join("node"), esplora: cfg["node"]["chain"]["esplora"].as_str().unwrap().into(), listen: Some(p2p.parse().unwrap()) }).await { Ok(n) => break n, Err(e) => eprintln!("{e:#}") } };
    let s = Arc::new(S { node, cfg: cfg.clone(), uses: Default::default(), p2p });
    let admin = Router::new()
        .route("/health", get(|| async { Json(json!({"status":"ok"})) }))
        .route("/ready", get(|State(s): State<Arc<S>>| async move { let r = s.node.channels().iter().any(|c| c.is_usable); (if r {StatusCode::OK} else {StatusCode::SERVICE_UNAVAILABLE}, Json(json!({"ready": r, "reason": "no channel"}))) }))
        .route("/status", get(|State(s): State<Arc<S>>| async move { Json(json!({"node":{"running":true,"node_id":s.node.node_id().to_string(),"p2p":[s.p2p],"deposit_address":s.node.new_address().await.unwrap().to_string()}})) }))
        .route("/sales", get(|State(s): State<Arc<S>>| async move { let v: Vec<_> = s.uses.lock().unwrap().iter().map(|(h,u)| json!({"payment_hash":h,"amount_msat":u.1,"service":u.2})).collect(); Json(json!({"sales":v})) }))
        .route("/sync", post(|State(s): State<Arc<S>>| async move { s.node.sync().await.unwrap(); StatusCode::NO_CONTENT })).with_state(s.clone());
    let g = Router::new().fallback(gate).with_state(s.clone());
    let la = tokio::net::TcpListener::bind(cfg["admin"]["listen"].as_str().unwrap()).await.unwrap();
    let lg = tokio::net::TcpListener::bind(cfg["http"]["listen"].as_str().unwrap()).await.unwrap();
    let mut t = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    tokio::select! { r = axum::serve(la, admin) => r.unwrap(), r = axum::serve(lg, g) => r.unwrap(), _ = t.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
    s.node.stop();
}
