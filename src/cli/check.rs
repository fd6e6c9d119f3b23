//! `tollhouse check`: what the settings mean.

use std::path::Path;
use std::process::ExitCode;

use crate::config;
use crate::route::{Access, Forward, Offer, Plan, Pricing, Resource, Route};

use super::{BAD_SETTINGS, complain};

/// Exit 0 with the route table, or 2 with everything that is wrong.
#[expect(clippy::print_stdout, reason = "this command's answer")]
pub(super) fn check(file: &Path) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(complaints) => {
            complain(&complaints);
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    println!("{} is good.\n", file.display());
    println!("public listener      {}", config.http.url());
    println!("operator's listener  {}", config.admin_url());
    println!("network              {}", config.node.preset);
    println!("chain source         {}", config.node.chain.source);
    if let Some(provider) = &config.node.liquidity.provider {
        println!("liquidity provider   {provider}");
    }
    println!("data folder          {}\n", config.data_dir.display());
    let header = ["path", "methods", "service", "price", "grant", "resource"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header)
        .chain(config.routes.iter().map(|route| row(route)))
        .collect();
    if rows.len() == 1 {
        println!("There are no routes: nothing is sold.");
    }
    for row in &rows[..if rows.len() == 1 { 0 } else { rows.len() }] {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0);
            format!("{cell:width$}")
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for warning in config.warnings.iter().chain(&config.circles()) {
        println!("\nWarning: {warning}");
    }
    ExitCode::SUCCESS
}

fn row(route: &Route) -> [String; 6] {
    let methods = if route.methods.is_empty() {
        "all".to_owned()
    } else {
        route
            .methods
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let (service, price, grant) = match &route.access {
        Access::Free => ("-".to_owned(), "free".to_owned(), "-".to_owned()),
        Access::Paid(offer) => (offer.service.to_string(), price(offer), grants(offer)),
    };
    let resource = match &route.resource {
        Resource::Upstream(forward) => forwarded(route, forward),
        Resource::Files { folder } => folder.display().to_string(),
    };
    [
        route.pattern.to_string(),
        methods,
        service,
        price,
        grant,
        resource,
    ]
}

/// One price, or from the least to the most.
fn price(offer: &Offer) -> String {
    if let Pricing::Hook(name) = &offer.pricing {
        return format!("by {name}");
    }
    let prices: Vec<_> = offer
        .pricing
        .classes()
        .map(|class| class.price.to_string())
        .collect();
    prices.join(" / ")
}

fn grants(offer: &Offer) -> String {
    let grant = |plan: &Plan| match &plan.price {
        None => plan.grant.to_string(),
        Some(price) => format!("{} ({price}): {}", plan.name, plan.grant),
    };
    let grants: Vec<_> = offer.plans.iter().map(grant).collect();
    grants.join("; ")
}

/// The servers, and what happens to the path on its way there.
fn forwarded(route: &Route, forward: &Forward) -> String {
    let servers: Vec<String> = forward
        .upstream
        .servers
        .iter()
        .map(|server| {
            format!(
                "{}{}",
                server.to_string().trim_end_matches('/'),
                forward.add_prefix
            )
        })
        .collect();
    let servers = servers.join(" or ");
    if forward.strip_prefix {
        format!("{servers} (without {})", route.pattern)
    } else {
        servers
    }
}
