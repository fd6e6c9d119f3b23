//! Guards: whom they know and whom they do not, what they refuse, and which of them there cannot be.

use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{AUTHORIZATION, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tollhouse::FreeQuota;
use tollhouse::GuardError;
use tollhouse::Offer;
use tollhouse::sell::route::{Class, Plan, PriceTable, Pricing, Selector};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::support::Sold;
use crate::support::answers::assert_challenged;
use crate::support::answers::assert_told;
use crate::support::program::{JOKE, Program, offer};
use crate::support::raw;

fn with_quota(requests: u64) -> Offer {
    Offer {
        free: Some(FreeQuota {
            requests,
            per: Duration::from_secs(86_400),
        }),
        ..offer("jokes", "10 sat", None)
    }
}

/// By the query parameter `size`.
fn by_size(small: Class, large: Class) -> Offer {
    let mut offer = offer("jokes", "10 sat", None);
    offer.pricing = Pricing::Table(PriceTable {
        by: Selector::Query("size".to_owned()),
        values: vec![("small".to_owned(), small), ("large".to_owned(), large)],
        missing: None,
    });
    offer
}

fn class(price: &str, tier: u32) -> Class {
    Class {
        price: price.parse().unwrap(),
        tier,
    }
}

/// The answer to a request that never saw a socket: nothing is known of who asks.
async fn from_nowhere(app: Router, request: Request<Body>) -> Response<Vec<u8>> {
    let (head, body) = app.oneshot(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes().to_vec())
}

fn asking(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn paying(path: &str, sold: &Sold) -> Request<Body> {
    let request = Request::get(path).header(AUTHORIZATION, sold.header());
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_free_quota_is_for_clients_whose_address_is_known() {
    let mut program = Program::new().await;
    let guard = program.guards.guard(with_quota(2)).unwrap();
    let app = program.app().route_layer(guard);
    let refused = from_nowhere(app.clone(), asking("/jokes/one")).await;
    assert_eq!(refused.status(), StatusCode::PAYMENT_REQUIRED);
    let sold = program.shop.sell("jokes", None);
    let served = from_nowhere(app.clone(), paying("/jokes/one", &sold)).await;
    assert_eq!(served.status(), StatusCode::OK);
    // Nor does a caveat about an address hold for one that nobody knows.
    let narrowed = sold.with_caveat("jokes_ip=127.0.0.0/8");
    let refused = from_nowhere(app.clone(), paying("/jokes/one", &narrowed)).await;
    assert_eq!(refused.status(), StatusCode::PAYMENT_REQUIRED);
    let at = program.serve(app).await;
    assert_told(&program.get(at, "/jokes/one", Some(&narrowed)).await);
    // What failed was not had.
    program.get(at, "/jokes/fails", None).await;
    let free = program.get(at, "/jokes/seen", None).await;
    assert_eq!(free.header("l402-remaining-requests"), Some("1"));
    let seen: serde_json::Value = serde_json::from_slice(&free.body).unwrap();
    assert!(seen["service"].is_null());
    assert_told(&program.get(at, "/jokes/one", None).await);
    assert_challenged(&program.get(at, "/jokes/one", None).await);
}

#[tokio::test]
async fn clients_whose_address_is_not_known_share_one_limit() {
    let limit = "limits.challenges = { requests = 2, per = \"1h\" }\n";
    let mut program = Program::with(limit).await;
    let app = program.app().route_layer(program.guard("jokes", None));
    for status in [402, 402, 429] {
        let answer = from_nowhere(app.clone(), asking("/jokes/one")).await;
        assert_eq!(answer.status(), status);
    }
    let at = program.serve(app).await;
    assert_challenged(&program.get(at, "/jokes/one", None).await);
}

#[tokio::test]
async fn lists_of_who_is_let_in_hold_and_let_nobody_in_who_is_not_known() {
    let blocked = "http.block = [\"127.0.0.1\"]\nhttp.trusted_proxies = [\"127.0.0.1\"]\n";
    let mut program = Program::with(blocked).await;
    let app = program.app().route_layer(program.guard("jokes", None));
    let sold = program.shop.sell("jokes", None);
    let refused = from_nowhere(app.clone(), paying("/jokes/one", &sold)).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let at = program.serve(app).await;
    let refused = program.get(at, "/jokes/one", Some(&sold)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(program.calls(), 0);
    let proxied = program
        .client
        .request(Method::GET, &format!("http://{at}/jokes/one"))
        .header(AUTHORIZATION, sold.header())
        .header("x-forwarded-for", "192.0.2.1");
    assert_told(&program.client.send(proxied).await.unwrap());
}

#[tokio::test]
async fn a_token_for_a_cheap_request_does_not_open_a_dear_one() {
    let mut program = Program::new().await;
    let offer = by_size(class("10 sat", 0), class("90 sat", 1));
    let guard = program.guards.guard(offer).unwrap();
    let app = program.app().route_layer(guard);
    let at = program.serve(app).await;
    let (small, large) = ("/jokes/one?size=small", "/jokes/one?size=large");
    let mut bought = Vec::new();
    for (path, price_msat) in [(small, 10_000), (large, 90_000)] {
        let challenge = assert_challenged(&program.get(at, path, None).await);
        assert_eq!(challenge.problem["price_msat"], price_msat);
        bought.push(program.shop.pay(&challenge));
    }
    assert_told(&program.get(at, small, Some(&bought[0])).await);
    assert_challenged(&program.get(at, large, Some(&bought[0])).await);
    assert_told(&program.get(at, large, Some(&bought[1])).await);
    for query in ["", "?size=huge", "?size=small&size=large"] {
        let path = format!("/jokes/one{query}");
        let answer = program.get(at, &path, Some(&bought[1])).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
    assert_eq!(program.calls(), 2);
}

#[tokio::test]
async fn a_caveat_about_the_path_means_the_one_that_was_asked_for_also_in_a_nested_router() {
    let mut program = Program::new().await;
    let nested = program.app().route_layer(program.guard("jokes", None));
    let at = program.serve(Router::new().nest("/api", nested)).await;
    let sold = program.shop.sell("jokes", None);
    let whole = sold.with_caveat("jokes_path=/api/jokes/*");
    assert_told(&program.get(at, "/api/jokes/one", Some(&whole)).await);
    let end = sold.with_caveat("jokes_path=/jokes/*");
    assert_challenged(&program.get(at, "/api/jokes/one", Some(&end)).await);
}

#[tokio::test]
async fn a_path_that_can_be_read_in_two_ways_is_refused_and_a_browser_may_ask_first() {
    let mut program = Program::new().await;
    let app = Router::new()
        .route("/{*rest}", get(JOKE))
        .route_layer(program.guard("jokes", None));
    let at = program.serve(app).await;
    let sold = program.shop.sell("jokes", Some(1));
    for path in ["/a%2fb", "/a//b", "/a/%2e%2e/b", "/a%00"] {
        let credential = sold.header();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nAuthorization: {credential}\r\n\r\n"
        );
        let reply = raw::exchange(at, request.as_bytes()).await.unwrap();
        assert_eq!(reply.status, 400, "{path}");
    }
    let preflight = program
        .client
        .request(Method::OPTIONS, &format!("http://{at}/a"))
        .header(ORIGIN, "https://shop.example")
        .header("access-control-request-method", "GET");
    let answer = program.client.send(preflight).await.unwrap();
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("Authorization"), "{allowed}");
    assert_told(&program.get(at, "/a", Some(&sold)).await);
}

#[tokio::test]
async fn a_call_of_grpc_is_refused_in_its_own_words() {
    let program = Program::new().await;
    let app = program.app().route_layer(program.guard("jokes", None));
    let mut call = asking("/jokes/one");
    let kind = "application/grpc".parse().unwrap();
    call.headers_mut().insert("content-type", kind);
    let refused = from_nowhere(app, call).await;
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "13");
    assert_eq!(refused.headers()["grpc-message"], "payment required");
    assert!(refused.body().is_empty());
}

/// A service that has no place left, or fails.
#[derive(Clone, Copy, Debug)]
struct Full {
    is_ready: bool,
}

impl Service<Request<Body>> for Full {
    type Response = Response<Body>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Body>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        if self.is_ready {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Err("it failed"))
    }
}

#[tokio::test]
async fn who_has_to_pay_first_waits_for_no_place_and_what_fails_is_given_back() {
    let program = Program::new().await;
    let guard = program.guard("jokes", None);
    let full = guard.layer(Full { is_ready: false });
    let answer = full.oneshot(asking("/jokes/one")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    let sold = program.shop.sell("jokes", Some(1));
    for _ in 0..2 {
        let failing = guard.layer(Full { is_ready: true });
        let failed = failing.oneshot(paying("/jokes/one", &sold)).await;
        assert_eq!(failed.unwrap_err(), "it failed");
    }
    program.shop.is_counted(&sold, 0).await;
}

#[tokio::test]
async fn nothing_is_let_through_any_more_while_it_stops() {
    let mut program = Program::new().await;
    let at = program.jokes(None).await;
    let sold = program.shop.sell("jokes", None);
    assert_told(&program.get(at, "/jokes/one", Some(&sold)).await);
    program.guards.stop.cancel();
    let answer = program.get(at, "/jokes/one", Some(&sold)).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(program.calls(), 1);
}

#[tokio::test]
async fn guards_that_would_open_each_other_or_cannot_sell_are_refused() {
    let settings = "[[rate]]\ncurrency = \"USD\"\nfixed = \"100000\"\n";
    let program = Program::with(settings).await;
    let guard = |offer: Offer| program.guards.guard(offer).map(|_| ());
    let jokes = || offer("jokes", "10 sat", None);
    guard(jokes()).unwrap();
    guard(jokes()).unwrap();
    guard(offer("riddles", "0.01 USD", None)).unwrap();
    let mut dear = offer("jokes", "90 sat", None);
    let undercut = guard(dear.clone()).unwrap_err();
    assert!(
        undercut.to_string().contains("needs a higher tier"),
        "{undercut}"
    );
    assert!(matches!(
        undercut,
        GuardError::Undercut { dear_tier: 0, .. }
    ));
    dear.pricing = Pricing::Flat(class("90 sat", 1));
    guard(dear).unwrap();
    let by_hook = Offer {
        pricing: Pricing::Hook("pricer".into()),
        ..jokes()
    };
    let two_of_a_name = Offer {
        plans: vec![jokes().plans[0].clone(); 2],
        ..jokes()
    };
    let none = Offer {
        plans: Vec::new(),
        ..jokes()
    };
    let named = |name: &str| Offer {
        service: name.into(),
        ..jokes()
    };
    for (offer, expected) in [
        (
            offer("jokes", "10 sat", Some(3)),
            GuardError::Different("jokes".into()),
        ),
        (
            offer("jokes", "0.01 USD", None),
            GuardError::Different("jokes".into()),
        ),
        (named("a:b"), GuardError::Name("a:b".into())),
        (named(""), GuardError::Name("".into())),
        (
            offer("none", "1 sat", Some(0)),
            GuardError::GrantOfNothing("none".into()),
        ),
        (two_of_a_name, GuardError::Plans("jokes".into())),
        (none, GuardError::Plans("jokes".into())),
        (
            offer("euros", "1 EUR", None),
            GuardError::Currency("EUR".parse().unwrap()),
        ),
        (by_hook, GuardError::Hook("pricer".into())),
    ] {
        assert_eq!(guard(offer), Err(expected));
    }
    let upside_down = by_size(class("10 sat", 1), class("90 sat", 0));
    let undercut = guard(Offer {
        service: "sizes".into(),
        ..upside_down
    });
    assert!(matches!(undercut, Err(GuardError::Undercut { .. })));
}

#[tokio::test]
async fn a_guard_obeys_the_rules_of_the_settings() {
    let hook =
        "[[hook]]\nname = \"pricer\"\nurl = \"http://127.0.0.1:1/\"\nprice_max = \"100 sat\"\n";
    let program = Program::with(hook).await;
    let guard = |offer: Offer| program.guards.guard(offer).map(|_| ());
    let hooked = |service: &str| Offer {
        pricing: Pricing::Hook("pricer".into()),
        ..base(service)
    };
    // A month for less than one large request.
    let sizes = || by_size(class("10 sat", 0), class("90 sat", 1));
    let cheap = guard(with_plans(sizes(), &[plan("month", Some("89 sat"))]));
    assert!(
        matches!(cheap, Err(GuardError::CheapGrant { .. })),
        "{cheap:?}"
    );
    guard(with_plans(sizes(), &[plan("month", Some("90 sat"))])).unwrap();
    // A fixed price next to a hook's price.
    for wrong in [
        with_plans(hooked("h"), &[plan("month", Some("1 sat"))]),
        with_plans(hooked("h"), &[plan("month", None)]),
        Offer {
            plans: vec![plan("default", Some("1 sat"))],
            ..hooked("h")
        },
    ] {
        assert_eq!(guard(wrong), Err(GuardError::GrantsBesideHook("h".into())));
    }
    guard(hooked("h")).unwrap();
    // A bundle that opens a service priced by a hook, in both orders.
    let bundle = |service: &str, also: &str| {
        let mut offer = base(service);
        offer.plans[0].also = vec![(also.into(), 0)];
        guard(offer)
    };
    let bundled = |name: &str| Err(GuardError::BundledHook(name.into()));
    assert_eq!(bundle("b", "h"), bundled("h"));
    bundle("b", "later").unwrap();
    assert_eq!(guard(hooked("later")), bundled("later"));
    assert_eq!(
        bundle("own", "own"),
        Err(GuardError::OwnService("own".into()))
    );
}

#[tokio::test]
async fn a_guard_sells_nothing_that_cannot_be_counted() {
    let program = Program::new().await;
    let guard = |offer: Offer| program.guards.guard(offer).map(|_| ());
    let metered = Offer {
        cuts_overrun: true,
        metered_by: Some(http::HeaderName::from_static("x-work")),
        ..base("m")
    };
    assert_eq!(guard(metered), Err(GuardError::CutByMeter("m".into())));
    for (requests, secs) in [(0, 60), (1, 0)] {
        let per = Duration::from_secs(secs);
        let nothing = Offer {
            free: Some(FreeQuota { requests, per }),
            ..base("q")
        };
        assert_eq!(guard(nothing), Err(GuardError::QuotaOfNothing("q".into())));
    }
    let mut ages = base("ages");
    ages.plans[0].grant.valid = Duration::MAX;
    assert_eq!(guard(ages), Err(GuardError::GrantOfAges("ages".into())));
    let many: Vec<Plan> = (0..16)
        .map(|n| plan(&format!("p{n}"), Some("90 sat")))
        .collect();
    let many = guard(with_plans(base("many"), &many));
    assert!(
        matches!(many, Err(GuardError::TooMany { most: 16, .. })),
        "{many:?}"
    );
    for values in [vec![], vec![("a".to_owned(), class("1 sat", 0)); 2]] {
        let table = PriceTable {
            by: Selector::Method,
            values,
            missing: None,
        };
        let offer = Offer {
            pricing: Pricing::Table(table),
            ..base("t")
        };
        assert_eq!(guard(offer), Err(GuardError::Values("t".into())));
    }
}

fn base(service: &str) -> Offer {
    offer(service, "10 sat", None)
}

fn plan(name: &str, price: Option<&str>) -> Plan {
    Plan {
        name: name.into(),
        price: price.map(|price| price.parse().unwrap()),
        ..base("x").plans[0].clone()
    }
}

fn with_plans(offer: Offer, more: &[Plan]) -> Offer {
    Offer {
        plans: offer.plans.iter().chain(more).cloned().collect(),
        ..offer
    }
}
