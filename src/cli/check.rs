//! `tollhouse check`: shows the effective settings, and checks that a run can read all its files.

mod files;

use std::path::Path;
use std::process::ExitCode;

use crate::base::clock::Clock;
use crate::config::{self, Config, Understood};
use crate::sell::route::{Access, Forward, Offer, Plan, Pricing, Resource, Route};

use super::exit_code::{BAD_SETTINGS, complain};
use super::output::{self, Effect};
use super::show::{lines, pairs, table};

/// Exits with 0 and shows the settings, or with 2 and lists every mistake in the settings and in
/// the files that they name.
pub(super) fn check(file: &Path) -> ExitCode {
    let read = config::load(file).and_then(|config| Ok((config, config::understood(file)?)));
    let (config, understood) = match read {
        Ok(read) => read,
        Err(complaints) => {
            complain(&complaints);
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    let files = files::look(&config);
    if !files.wrong.is_empty() {
        complain(&files.wrong.join("\n"));
        return ExitCode::from(BAD_SETTINGS);
    }
    let now_secs = Clock::system().unix_secs();
    let certificates = config
        .certificates()
        .into_iter()
        .filter_map(|(key, source)| {
            let complaint = source.certificate()?.complaint(now_secs)?;
            Some(format!("{key}: {complaint}"))
        });
    let warnings = config.warnings.iter().chain(&files.warnings);
    let warnings: Vec<_> = warnings
        .cloned()
        .chain(certificates)
        .chain(config.circles())
        .collect();
    output::show(
        &lines(&told(file, &config, &understood, &warnings)),
        Effect::None,
    )
}

/// The output for people.
fn told(file: &Path, config: &Config, understood: &[Understood], warnings: &[String]) -> String {
    let mut told = vec![format!("{} is good.\n", file.display())];
    let mut main = vec![
        ("public listener", config.http.url()),
        ("operator's listener", config.admin_url()),
        ("network", config.node.preset.to_string()),
        ("chain source", config.node.chain.source.to_string()),
    ];
    if let Some(provider) = &config.node.liquidity.provider {
        main.push(("liquidity provider", provider.to_string()));
    }
    main.push(("data folder", config.data_dir.display().to_string()));
    told.push(format!("{}\n", pairs(&main)));
    let titles = ["path", "methods", "service", "price", "grant", "resource"];
    let rows: Vec<_> = config
        .routes
        .iter()
        .map(|route| row(route).to_vec())
        .collect();
    told.push(table(
        &titles,
        &rows,
        "The settings have no routes, so Tollhouse sells nothing.",
    ));
    let setting = |it: &Understood| vec![it.key.clone(), it.value.clone(), it.origin.clone()];
    let rows: Vec<_> = understood.iter().map(setting).collect();
    let settings = table(&["setting", "value", "from"], &rows, "");
    told.push(format!("\n{settings}"));
    told.extend(
        warnings
            .iter()
            .map(|warning| format!("\nWarning: {warning}")),
    );
    told.join("\n")
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

/// The prices of an offer, or the name of its hook.
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

/// Describes the servers of a route, and how the path is changed before a request is forwarded.
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
