//! Overlapping routes: settings that give away what another route sells are refused.

use std::os::unix::fs::symlink;

use tollhouse::config::{Complaint, Config};

use crate::support::settings::{CHAIN, Settings};

/// A route to a server; sold unless `rest` sets the access.
fn route(path: &str, upstream: &str, rest: &str) -> String {
    let access = if rest.contains("access") {
        String::new()
    } else {
        let service = path.replace(|char: char| !char.is_ascii_alphanumeric(), "");
        let price = if rest.contains("price") {
            ""
        } else {
            "price = \"10 sat\"\n"
        };
        format!("service = \"s{}\"\n{price}", service.to_lowercase())
    };
    let resource = if upstream.starts_with('{') {
        format!("upstream = {upstream}\n")
    } else if upstream.contains("://") {
        format!("upstream = \"{upstream}\"\n")
    } else {
        format!("files = \"{upstream}\"\n")
    };
    format!("[[route]]\npath = \"{path}\"\n{access}{resource}{rest}\n")
}

const FREE: &str = "access = \"free\"";
const ONE: &str = "http://127.0.0.1:3000";
const V1: &str = "strip_prefix = true\nadd_prefix = \"/v1\"";

fn free(rest: &str) -> String {
    format!("{FREE}\n{rest}")
}

fn load_in(settings: &Settings, routes: &[String]) -> Result<Config, Vec<Complaint>> {
    settings.load(&format!("{CHAIN}{}", routes.concat()), &[])
}

fn load(routes: &[String]) -> Result<Config, Vec<Complaint>> {
    load_in(&Settings::new(), routes)
}

/// Checks that the settings are refused, because the first route is sold and the second gives it away. The
/// complaint names both routes and the key to set.
fn assert_refused_in(settings: &Settings, routes: &[String; 2]) {
    // In both orders of the routes.
    let orders = [routes.clone(), [routes[1].clone(), routes[0].clone()]];
    for ((sold, giving), order) in [(1, 2), (2, 1)].into_iter().zip(orders) {
        let complaints = match load_in(settings, &order) {
            Err(complaints) => complaints,
            Ok(_) => panic!("accepted: {order:?}"),
        };
        let [complaint] = &complaints[..] else {
            panic!("{order:?}: {complaints:?}");
        };
        assert_eq!(complaint.key, format!("route[{giving}].path"), "{order:?}");
        let what = complaint.to_string();
        for words in [
            &format!("route {sold} (`"),
            &format!("route {giving} (`"),
            "both reach",
            "overlap = \"allowed\"",
        ] {
            assert!(what.contains(words), "{words}: {what}");
        }
        // If either route allows it, the settings load with a warning.
        for index in 0..2 {
            let mut order = order.clone();
            order[index].push_str("overlap = \"allowed\"\n");
            let config = load_in(settings, &order).unwrap();
            let [warning] = &config.warnings[..] else {
                panic!("{:?}", config.warnings);
            };
            assert!(warning.contains("serves for free"), "{warning}");
        }
    }
}

fn assert_refused(sold: &str, giving: &str) {
    assert_refused_in(&Settings::new(), &[sold.to_owned(), giving.to_owned()]);
}

fn assert_good(routes: &[String]) {
    match load(routes) {
        Ok(config) => assert_eq!(config.warnings, Vec::<String>::new(), "{routes:?}"),
        Err(complaints) => panic!("{routes:?}: {complaints:?}"),
    }
}

#[test]
fn a_sold_path_is_not_free_under_another_path() {
    let sold = route("/llm/*", ONE, V1);
    for giving in [
        route("/*", ONE, FREE),
        route("/v1/*", ONE, FREE),
        route("/v1/models", ONE, FREE),
        route("/V1/*", ONE, FREE),
        route("/other/*", ONE, &free(V1)),
        route("/v1/a/b/*", ONE, FREE),
        route("/x/*", ONE, &free("strip_prefix = true")),
        route(
            "/x/*",
            "http://127.0.0.1:3000/v1",
            &free("strip_prefix = true"),
        ),
        route(
            "/x/*",
            "http://127.0.0.1:3000/v1/deep",
            &free("strip_prefix = true"),
        ),
        route(
            "/x/*",
            "http://127.0.0.1:3000/a/../%76%31",
            &free("strip_prefix = true"),
        ),
        route("/x", "http://127.0.0.1:3000/v1", FREE),
        route("/*", ONE, "dry_run = true"),
        route("/*", ONE, &free("methods = [\"DELETE\"]")),
    ] {
        assert_refused(&sold, &giving);
    }
    // No prefix is stripped, and a public route leads to the path of a sold one.
    let api = route("/api/*", ONE, "");
    assert_refused(&api, &route("/public/*", ONE, &free("strip_prefix = true")));
    assert_refused(
        &api,
        &route(
            "/public/*",
            ONE,
            &free("strip_prefix = true\nadd_prefix = \"/api\""),
        ),
    );
    assert_refused(
        &route("/api/*", "http://127.0.0.1:3000/base/", ""),
        &route("/base/*", ONE, FREE),
    );
    assert_refused(
        &route("/a/b", ONE, "add_prefix = \"/v1\""),
        &route("/v1/*", ONE, FREE),
    );
}

#[test]
fn a_path_of_a_more_specific_route_is_not_reached() {
    for routes in [
        vec![route("/llm/*", ONE, ""), route("/*", ONE, FREE)],
        vec![route("/*", ONE, ""), route("/health", ONE, FREE)],
        vec![route("/api/*", ONE, ""), route("/api/public/*", ONE, FREE)],
        // Another route serves `/v1`.
        vec![
            route("/llm/*", ONE, V1),
            route("/*", ONE, FREE),
            route("/v1/*", "http://127.0.0.1:3001", FREE),
        ],
        vec![
            route("/llm/*", ONE, V1),
            route("/*", ONE, FREE),
            route("/v1/*", ONE, ""),
        ],
        // The same behind a stripped prefix.
        vec![
            route("/llm/*", ONE, V1),
            route("/x/*", ONE, &free("strip_prefix = true")),
            route("/x/v1/*", "http://127.0.0.1:3001", FREE),
        ],
        vec![
            route("/a/*", ONE, "strip_prefix = true\nadd_prefix = \"/v1\""),
            route(
                "/b/*",
                ONE,
                &free("strip_prefix = true\nadd_prefix = \"/v10\""),
            ),
        ],
        vec![route("/v1/*", ONE, ""), route("/v10/*", ONE, FREE)],
    ] {
        assert_good(&routes);
    }
    // An exact path hides only itself.
    let routes = [
        route("/llm/*", ONE, V1),
        route("/*", ONE, FREE),
        route("/v1", "http://127.0.0.1:3001", FREE),
    ];
    assert!(load(&routes).is_err());
}

#[test]
fn one_server_has_many_names() {
    let sold = route("/llm/*", "http://localhost:80", V1);
    for name in [
        "http://127.0.0.1",
        "http://[::1]/",
        "http://LOCALHOST:80/",
        "https://localhost",
        "http://0.0.0.0",
        "http://127.1",
        "{ url = \"http://localhost\" }",
        "{ urls = [\"http://192.0.2.1\", \"http://127.0.0.1:80\"] }",
        "{ url = \"http://localhost\", protocol = \"http2\" }",
    ] {
        let rest = if name.contains("http2") {
            free("upgrades = []")
        } else {
            FREE.to_owned()
        };
        assert_refused(&sold, &route("/*", name, &rest));
    }
    for other in [
        "http://localhost:81",
        "http://192.0.2.1",
        "http://a.example",
    ] {
        assert_good(&[sold.clone(), route("/*", other, FREE)]);
    }
    // Several sites on one server, which the settings distinguish by `Host`.
    let host = |name: &str| format!("request_headers = {{ set = {{ host = \"{name}\" }} }}");
    let sold = route("/llm/*", ONE, &format!("{V1}\n{}", host("llm.example")));
    assert_good(&[sold.clone(), route("/*", ONE, &free(&host("www.example")))]);
    assert_refused(&sold, &route("/*", ONE, &free(&host("llm.example"))));
    assert_refused(&sold, &route("/*", ONE, FREE));
}

#[test]
fn routes_overlap_only_by_a_method_that_both_accept() {
    let by = |methods: &str| format!("methods = [{methods}]");
    let sold = |methods: &str| route("/llm/*", ONE, &format!("{V1}\n{}", by(methods)));
    let giving = |methods: &str| route("/*", ONE, &free(&by(methods)));
    assert_good(&[sold("\"POST\""), giving("\"GET\"")]);
    assert_refused(&sold("\"POST\""), &giving("\"GET\", \"POST\""));
    assert_refused(&sold("\"GET\""), &giving("\"HEAD\""));
    assert_refused(&sold("\"HEAD\""), &giving("\"GET\""));
    assert_good(&[
        route("/a/*", ONE, &by("\"POST\"")),
        route("/a/*", ONE, &free(&by("\"GET\""))),
    ]);
}

#[test]
fn a_sold_folder_is_not_free_as_part_of_another() {
    let settings = Settings::new();
    let folder = settings.dir.path();
    std::fs::create_dir_all(folder.join("site/paid/deep")).unwrap();
    std::fs::create_dir_all(folder.join("site/.hidden")).unwrap();
    symlink(folder.join("site/paid"), folder.join("alias")).unwrap();
    let pairs = |rows: &[(&str, &str, &str)]| -> Vec<[String; 2]> {
        let pair = |(sold, path, giving): &(&str, &str, &str)| {
            [route("/sold/*", sold, ""), route(path, giving, FREE)]
        };
        rows.iter().map(pair).collect()
    };
    for routes in pairs(&[
        ("site/paid", "/site/*", "site"),
        ("site/paid", "/*", "site"),
        ("site/paid", "/x/*", "site/paid"),
        ("site/paid", "/x/*", "site/paid/deep"),
        ("site/paid", "/x/*", "alias"),
        ("alias", "/x/*", "site/../site"),
        ("site/.hidden", "/x/*", "site/.hidden"),
    ]) {
        assert_refused_in(&settings, &routes);
    }
    for routes in pairs(&[
        ("site/paid", "/x/*", "articles"),
        ("site/.hidden", "/x/*", "site"),
    ]) {
        assert!(load_in(&settings, &routes).unwrap().warnings.is_empty());
    }
    // The sold folder is served at its own path, which hides it from the free route.
    let routes = [route("/paid/*", "site/paid", ""), route("/*", "site", FREE)];
    assert!(load_in(&settings, &routes).is_ok());
    // A link inside the free folder leads there by another path.
    for (link, is_open) in [("site/way", true), ("site/.way", false)] {
        let link = folder.join(link);
        symlink(folder.join("site/paid/deep"), &link).unwrap();
        if is_open {
            assert_refused_in(&settings, &routes);
        } else {
            assert!(load_in(&settings, &routes).is_ok());
        }
        std::fs::remove_file(link).unwrap();
    }
    // A link out of the folder is not followed.
    symlink(folder.join("other"), folder.join("site/out")).unwrap();
    let routes = [route("/o/*", "other", ""), route("/*", "site", FREE)];
    assert!(load_in(&settings, &routes).is_ok());
}

#[test]
fn the_same_path_at_another_price_is_a_warning() {
    let told = |one: &str, other: &str| {
        let routes = [
            route("/a/*", ONE, &format!("strip_prefix = true\n{one}")),
            route("/b/*", ONE, &format!("strip_prefix = true\n{other}")),
        ];
        load(&routes).unwrap().warnings
    };
    let cheap = told("price = \"5 sat\"", "price = \"10 sat\"");
    let [warning] = &cheap[..] else {
        panic!("{cheap:?}");
    };
    for words in [
        "route 1 (`/a/*`) asks less",
        "route 2 (`/b/*`)",
        "localhost:3000/*",
    ] {
        assert!(warning.contains(words), "{warning}");
    }
    let same = "price = \"5 sat\"\ngrant = { requests = 2 }";
    assert_eq!(told(same, same), Vec::<String>::new());
    let more = "price = \"5 sat\"\ngrant = { requests = 200 }";
    assert_eq!(told(same, more).len(), 2, "neither is known to be less");
    let quota = format!("{same}\nfree_quota = {{ requests = 1, per = \"1d\" }}");
    assert_eq!(told(same, &quota).len(), 1);
    let dry = |rest: &str| route("/c/*", ONE, &format!("{V1}\n{rest}"));
    assert_good(&[dry("dry_run = true"), route("/*", ONE, FREE)]);
}

#[test]
fn overlap_is_one_of_two_words() {
    let routes = [route("/a/*", ONE, "overlap = \"yes\"")];
    let complaints = load(&routes).unwrap_err();
    assert_eq!(complaints[0].key, "route[1].overlap");
    assert!(complaints[0].what.contains("\"allowed\""));
}
