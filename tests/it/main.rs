//! The fast tests: the real router, gate, ledger and minter in one process, without a node, a chain or another program.
//! What wants real money is in `e2e`.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests stand outside `#[test]` functions, which is all that clippy.toml lets unwrap"
)]

mod acme;
mod activations;
mod bad_input;
mod browsers;
mod bundles;
mod circles;
mod clients;
mod costs;
mod count;
mod crash;
mod crowd;
mod damage;
mod defaults;
mod delivery;
mod docs;
mod embedded;
mod endings;
mod files;
mod forward;
mod fuzz;
mod gate;
mod grpc;
mod guards;
mod headers;
mod http2;
mod kept;
mod late;
mod layer;
mod ledger;
mod lost;
mod manners;
mod metered;
mod migration;
mod overlap;
mod overrun;
mod presets;
mod pricing;
mod proven;
mod quote;
mod quoted;
mod redirects;
mod refusals;
mod refused_calls;
mod relay;
mod revoked;
mod secrets;
mod server;
mod settings;
mod several;
mod slashes;
mod smuggling;
mod snapshots;
mod sold_as;
mod spared;
mod spellings;
mod stale;
mod support;
mod tidy;
mod tls;
mod tokens;
mod torn;
mod trust;
mod upstream_settings;
mod variables;
mod vectors;
mod waiting;
mod websocket;
