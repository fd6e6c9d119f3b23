#![allow(clippy::all, missing_docs)]
use regtest::network::*;
use std::time::{Instant, Duration};
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let exe = regtest::environment::tollhouse_exe().unwrap();
    let routes = std::env::args().nth(1).map(|p| std::fs::read_to_string(p).unwrap()).unwrap_or("[[route]]\npath=\"/chain/*\"\nservice=\"chain\"\nprice=\"10 sat\"\ngrant={requests=2,valid=\"1h\"}\nupstream=\"{esplora}\"\nstrip_prefix=true\n".into());
    let t = Instant::now();
    let (mut n, m) = tokio::join!(async { Network::start(NetworkOptions::new(&exe, &*routes)).await.unwrap() }, async { Network::start(NetworkOptions::new(&exe, &*routes)).await.unwrap() });
    eprintln!("two networks {:?} {:?}", t.elapsed(), n.steps());
    for i in 0..10 { let p = n.buy("/chain/blocks/tip/height").await.unwrap(); assert_eq!(p.answer.status, 200); eprintln!("buy {i}: 402 {:?} pay {:?} 200 {:?}", p.refusal.took, p.paid.took, p.answer.took); }
    let p = m.buy("/chain/blocks/tip/height").await.unwrap(); assert_eq!(p.answer.status, 200);
    let t = Instant::now(); drop(m); eprintln!("dropped {:?}", t.elapsed());
    let t = Instant::now(); n.merchant.restart().await.unwrap(); n.merchant.wait_up().await.unwrap(); eprintln!("restarted {:?}", t.elapsed());
    let r = n.ensure_channel().await.unwrap(); eprintln!("ensured {r} {:?}", t.elapsed());
    let p = n.buy("/chain/blocks/tip/height").await.unwrap(); assert_eq!(p.answer.status, 200); eprintln!("pay {:?}", p.paid.took);
    for i in 0..6u64 {
        let c = n.client().challenge(&format!("{}/chain/blocks/tip/height", n.gate_url())).await.unwrap();
        let payer = n.payer.clone(); let inv = c.bolt11.clone();
        let h = tokio::spawn(async move { payer.pay(&inv).await.map(|p| p.took).map_err(|e| e.to_string()) });
        tokio::time::sleep(Duration::from_millis(i * 25)).await;
        n.merchant.kill().unwrap();
        let t = Instant::now();
        n.merchant.restart().await.unwrap();
        n.merchant.wait_up().await.unwrap();
        let e = n.ensure_channel().await.unwrap();
        eprintln!("kill {i}: ensured {e} after {:?}; pay {:?}", t.elapsed(), h.await.unwrap());
    }
    eprintln!("closed {:?}", n.channels_closed());
    let t = Instant::now(); eprintln!("close {} {:?}", n.close_channels().await.unwrap(), t.elapsed());
    let t = Instant::now(); eprintln!("ensured {} {:?}", n.ensure_channel().await.unwrap(), t.elapsed());
    let p = n.buy("/chain/blocks/tip/height").await.unwrap(); assert_eq!(p.answer.status, 200); eprintln!("pay {:?}", p.paid.took);
    n.esplora.stop();
    let r = n.merchant.admin().ready().await; eprintln!("{r:?}");
    n.esplora.start_again().unwrap();
    let url = n.payer_url();
    let c = n.client();
    for (path, body) in [("pay", "nonsense"), ("mine", "2"), ("mine", "x")] { let a = c.send(c.request(http::Method::POST, &format!("{url}/{path}")).body(body)).await.unwrap(); eprintln!("{path} {} {}", a.status, a.text()); }
    eprintln!("stop {:?}", n.stop().await.unwrap());
}
