//! The offers of the routes in a settings file: prices, grants and free quotas.

use std::sync::Arc;

use http::{HeaderName, Method};

use crate::base::price::Price;
use crate::base::span;
use crate::sell::route::{
    Access, Class, Count, DEFAULT_PLAN, FreeQuota, Grant, Offer, PLANS_MAX, Plan, PriceTable,
    Pricing, SERVICES_MAX, Selector, VALUES_MAX, is_name,
};

use super::meaning::Meaning;
use super::raw::{RawClass, RawGrant, RawPlan, RawPrice, RawPriceTable, RawRoute};

/// The tier of a class until it is ranked.
pub(super) const UNRANKED: u32 = u32::MAX;

impl Meaning<'_> {
    pub(super) fn access(&mut self, key: &str, raw: &RawRoute) -> Option<Access> {
        match raw.access.as_deref() {
            Some("free") => return self.free(key, raw),
            Some(other) => {
                self.complain(
                    &format!("{key}.access"),
                    format!(
                        "`{other}` is no access: write \"free\", or leave it out and give a price"
                    ),
                );
                return None;
            }
            None => {}
        }
        let service = self.service(key, raw);
        let pricing = self.pricing(key, raw);
        let plans = self.plans(key, raw);
        let free = self.free_quota(key, raw);
        let cuts_overrun = match raw.overrun.as_deref() {
            None | Some("serve") => Some(false),
            Some("cut") => Some(true),
            Some(other) => {
                self.complain(
                    &format!("{key}.overrun"),
                    format!("`{other}` is neither \"serve\" nor \"cut\""),
                );
                None
            }
        };
        let count = self.count(&format!("{key}.count"), raw.count.as_deref());
        let metered_by = self.header(&format!("{key}.metered_by"), raw.metered_by.as_deref());
        Some(Access::Paid(Box::new(Offer {
            service: service?,
            pricing: pricing?,
            plans: plans?,
            free: free?,
            cuts_overrun: cuts_overrun?,
            count: count?,
            metered_by: metered_by?,
            is_dry_run: raw.dry_run.unwrap_or(false),
        })))
    }

    fn free(&mut self, key: &str, raw: &RawRoute) -> Option<Access> {
        let given = [
            ("service", raw.service.is_some()),
            ("price", raw.price.is_some()),
            ("tier", raw.tier.is_some()),
            ("grant", raw.grant.is_some()),
            ("grants", raw.grants.is_some()),
            ("free_quota", raw.free_quota.is_some()),
            ("overrun", raw.overrun.is_some()),
            ("count", raw.count.is_some()),
            ("metered_by", raw.metered_by.is_some()),
            ("dry_run", raw.dry_run.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, is_given)| *is_given) {
            self.complain(
                &format!("{key}.{name}"),
                "a free route has none: take this key out, or `access = \"free\"`",
            );
            return None;
        }
        Some(Access::Free)
    }

    fn count(&mut self, key: &str, text: Option<&str>) -> Option<Count> {
        Some(match text {
            None | Some("delivered") => Count::Delivered,
            Some("all") => Count::All,
            Some("file") => Count::File,
            Some(other) => {
                self.complain(
                    key,
                    format!("`{other}` is not one of \"delivered\", \"all\" and \"file\""),
                );
                return None;
            }
        })
    }

    /// Reads the name of a service. A `:`, `,` or `=` in it would make tokens that never verify.
    fn service(&mut self, key: &str, raw: &RawRoute) -> Option<Arc<str>> {
        let key = format!("{key}.service");
        let Some(service) = &raw.service else {
            self.complain(
                &key,
                "give the service a name, which stands in the token, as in \"articles\"",
            );
            return None;
        };
        self.name(&key, service, "a service")
    }

    fn name(&mut self, key: &str, name: &str, what: &str) -> Option<Arc<str>> {
        if !is_name(name) {
            self.complain(
                key,
                format!("`{name}` is no name for {what}: 1 to 64 of a-z, 0-9, - and _"),
            );
            return None;
        }
        Some(name.into())
    }

    fn header(&mut self, key: &str, name: Option<&str>) -> Option<Option<HeaderName>> {
        let Some(name) = name else {
            return Some(None);
        };
        let header = name.parse().map(Some);
        header
            .map_err(|_| self.complain(key, format!("`{name}` is no name for a header")))
            .ok()
    }

    fn pricing(&mut self, key: &str, raw: &RawRoute) -> Option<Pricing> {
        let key = &format!("{key}.price");
        match &raw.price {
            None => {
                self.complain(
                    key,
                    "give a price, as in \"10 sat\", or write access = \"free\"",
                );
                None
            }
            Some(RawPrice::Text(text)) => {
                let price = self.price(key, text)?;
                let tier = raw.tier.unwrap_or(UNRANKED);
                Some(Pricing::Flat(Class { price, tier }))
            }
            Some(RawPrice::Table(_)) if raw.tier.is_some() => {
                self.complain(
                    key,
                    "with a table of prices, `tier` stands beside each of them: { price = \"10 sat\", tier = 1 }",
                );
                None
            }
            Some(RawPrice::Table(table)) => match table.by.strip_prefix("hook:") {
                Some(name) => self.price_hook(key, name, table),
                None => self.price_table(key, table).map(Pricing::Table),
            },
        }
    }

    fn price(&mut self, key: &str, text: &str) -> Option<Price> {
        let price: Price = text
            .parse()
            .map_err(|error: crate::base::price::PriceError| self.complain(key, error.to_string()))
            .ok()?;
        if let Price::Fiat(fiat) = price
            && !self.currencies.contains(&fiat.currency)
        {
            let currency = fiat.currency;
            self.complain(
                key,
                format!(
                    "no rate is known for {currency}: say where it comes from in a `[[rate]]` table"
                ),
            );
            return None;
        }
        Some(price)
    }

    fn price_hook(&mut self, key: &str, name: &str, table: &RawPriceTable) -> Option<Pricing> {
        if !self.hook_names.iter().any(|known| known == name) {
            self.complain(
                &format!("{key}.by"),
                format!("there is no hook `{name}`: describe it in a `[[hook]]` table"),
            );
            return None;
        }
        if !table.values.is_empty() || table.missing.is_some() {
            self.complain(
                key,
                "the hook says what it costs: leave `values` and `missing` out",
            );
            return None;
        }
        Some(Pricing::Hook(name.into()))
    }

    fn price_table(&mut self, key: &str, raw: &RawPriceTable) -> Option<PriceTable> {
        let by = match raw.by.split_once(':') {
            None if raw.by == "method" => Some(Selector::Method),
            Some(("query", name)) if !name.is_empty() => Some(Selector::Query(name.to_owned())),
            Some(("header", name)) => name.parse().ok().map(Selector::Header),
            Some(_) | None => None,
        };
        let Some(by) = by else {
            self.complain(
                &format!("{key}.by"),
                format!(
                    "`{}` is nothing that a price can depend on: write \"method\", \"query:size\", \"header:x-model\" or \"hook:NAME\"",
                    raw.by
                ),
            );
            return None;
        };
        if raw.values.is_empty() || raw.values.len() > VALUES_MAX {
            self.complain(
                &format!("{key}.values"),
                format!("1 to {VALUES_MAX} values"),
            );
            return None;
        }
        let mut values = Vec::with_capacity(raw.values.len());
        for (value, class) in &raw.values {
            let key = format!("{key}.values.{value}");
            if by == Selector::Method && value.parse::<Method>().is_err() {
                self.complain(&key, "this is no method: write them in capitals, as in GET");
                return None;
            }
            values.push((value.clone(), self.class(&key, class)?));
        }
        let missing = match &raw.missing {
            None => None,
            Some(class) => Some(self.class(&format!("{key}.missing"), class)?),
        };
        Some(PriceTable {
            by,
            values,
            missing,
        })
    }

    fn class(&mut self, key: &str, raw: &RawClass) -> Option<Class> {
        let (text, tier) = match raw {
            RawClass::Text(text) => (text, UNRANKED),
            RawClass::Table(table) => (&table.price, table.tier),
        };
        let price = self.price(key, text)?;
        Some(Class { price, tier })
    }

    /// Reads the grants of a route, the default one first.
    fn plans(&mut self, key: &str, raw: &RawRoute) -> Option<Vec<Plan>> {
        let default = match &raw.grant {
            None => RawGrant::default(),
            Some(grant) => grant.clone(),
        };
        let grant_key = format!("{key}.grant");
        let name = default.name.clone();
        let mut plans = vec![Plan {
            name: self.name(
                &format!("{grant_key}.name"),
                name.as_deref().unwrap_or(DEFAULT_PLAN),
                "a grant",
            )?,
            price: None,
            grant: self.grant(&grant_key, &default)?,
            also: self.also(&grant_key, default.services.as_deref())?,
        }];
        let others = raw.grants.as_deref().unwrap_or_default();
        if others.len() >= PLANS_MAX {
            self.complain(
                &format!("{key}.grants"),
                format!(
                    "at most {}, with the default one {PLANS_MAX}",
                    PLANS_MAX - 1
                ),
            );
            return None;
        }
        for (number, raw) in (1..).zip(others) {
            let key = format!("{key}.grants[{number}]");
            let plan = self.plan(&key, raw)?;
            if plans.iter().any(|other| other.name == plan.name) {
                self.complain(
                    &format!("{key}.name"),
                    "this name is taken by another grant",
                );
                return None;
            }
            plans.push(plan);
        }
        Some(plans)
    }

    fn plan(&mut self, key: &str, raw: &RawPlan) -> Option<Plan> {
        let grant = RawGrant {
            name: None,
            requests: raw.requests,
            bytes: raw.bytes,
            seconds: raw.seconds,
            valid: raw.valid.clone(),
            services: None,
        };
        Some(Plan {
            name: self.name(&format!("{key}.name"), &raw.name, "a grant")?,
            price: Some(self.price(&format!("{key}.price"), &raw.price)?),
            grant: self.grant(key, &grant)?,
            also: self.also(key, raw.services.as_deref())?,
        })
    }

    fn grant(&mut self, key: &str, raw: &RawGrant) -> Option<Grant> {
        for (name, limit) in [
            ("requests", raw.requests),
            ("bytes", raw.bytes),
            ("seconds", raw.seconds),
        ] {
            if limit == Some(0) {
                self.complain(
                    &format!("{key}.{name}"),
                    format!("a grant of no {name} sells nothing: at least 1, or leave it out for any number"),
                );
                return None;
            }
        }
        let valid = match &raw.valid {
            None => Grant::default().valid,
            Some(text) => span::parse(text)
                .map_err(|what| self.complain(&format!("{key}.valid"), what))
                .ok()?,
        };
        Some(Grant {
            requests: raw.requests,
            bytes: raw.bytes,
            seconds: raw.seconds,
            valid,
        })
    }

    /// Reads the other services that a grant opens: `"articles"`, or `"video:1"` for a service with
    /// several price classes.
    fn also(&mut self, key: &str, raw: Option<&[String]>) -> Option<Vec<(Arc<str>, u32)>> {
        let key = format!("{key}.services");
        let raw = raw.unwrap_or_default();
        if raw.len() > SERVICES_MAX {
            self.complain(&key, format!("at most {SERVICES_MAX}"));
            return None;
        }
        let mut also = Vec::with_capacity(raw.len());
        for text in raw {
            let (name, tier) = match text.split_once(':') {
                None => (text.as_str(), Some(UNRANKED)),
                Some((name, tier)) => (name, tier.parse().ok()),
            };
            let Some(tier) = tier else {
                self.complain(
                    &key,
                    format!("`{text}` is no service with a tier: write \"video:1\""),
                );
                return None;
            };
            also.push((self.name(&key, name, "a service")?, tier));
        }
        Some(also)
    }

    fn free_quota(&mut self, key: &str, raw: &RawRoute) -> Option<Option<FreeQuota>> {
        let Some(raw) = &raw.free_quota else {
            return Some(None);
        };
        if raw.requests == 0 {
            self.complain(
                &format!("{key}.free_quota.requests"),
                "at least 1, or leave `free_quota` out",
            );
            return None;
        }
        let per = span::parse(&raw.per)
            .map_err(|what| self.complain(&format!("{key}.free_quota.per"), what))
            .ok()?;
        let requests = raw.requests;
        Some(Some(FreeQuota { requests, per }))
    }
}
