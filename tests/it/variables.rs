//! Settings in the environment: variables of Kubernetes, values spoilt by env files, and settings that only a file can hold.

use tollhouse::config::understood_with;

use crate::support::settings::{CHAIN, Settings};

#[test]
fn variables_of_a_kubernetes_service_called_tollhouse_are_ignored() {
    let settings = Settings::new();
    let variables = [
        ("TOLLHOUSE_SERVICE_HOST", "10.0.0.7"),
        ("TOLLHOUSE_SERVICE_PORT", "8402"),
        ("TOLLHOUSE_SERVICE_PORT_HTTP", "8402"),
        ("TOLLHOUSE_PORT", "tcp://10.0.0.7:8402"),
        ("TOLLHOUSE_PORT_8402_TCP", "tcp://10.0.0.7:8402"),
        ("TOLLHOUSE_PORT_8402_TCP_PROTO", "tcp"),
        ("TOLLHOUSE_PORT_8402_TCP_PORT", "8402"),
        ("TOLLHOUSE_PORT_8402_TCP_ADDR", "10.0.0.7"),
        ("TOLLHOUSE_LIGHTNING_SERVICE_HOST", "10.0.0.8"),
        ("TOLLHOUSE_LIGHTNING_PORT", "tcp://10.0.0.8:9735"),
        ("TOLLHOUSE_LIGHTNING_PORT_9735_TCP_ADDR", "10.0.0.8"),
        ("TOLLHOUSE__HTTP__LISTEN", "127.0.0.1:2"),
    ];
    let config = settings.load(CHAIN, &variables).unwrap();
    assert_eq!(config.http.listen.port(), 2);
    for (name, value) in [
        ("TOLLHOUSE_PORT", "8402"),
        ("TOLLHOUSE_HTTP_PORT", "8402"),
        ("TOLLHOUSE_PORT_HTTP", "8402"),
        ("TOLLHOUSE_PORT_8402_TCP_LISTEN", "8402"),
        ("TOLLHOUSE_DATA_DIR", "/data"),
    ] {
        let complaints = settings.load(CHAIN, &[(name, value)]).unwrap_err();
        assert_eq!(complaints[0].key, name);
    }
}

#[test]
fn a_value_with_quotes_blanks_or_control_characters_is_refused() {
    let settings = Settings::new();
    for (value, why) in [
        ("\"/data\"", "quotes"),
        ("'/data'", "quotes"),
        ("\u{201c}/data\u{201d}", "quotes"),
        ("/data ", "blank"),
        (" /data", "blank"),
        ("\u{a0}/data", "blank"),
        ("\u{feff}/data", "blank"),
        ("/data\r", "control"),
        ("/data\n", "control"),
        ("/da\tta", "control"),
        ("/da\u{1b}[0mta", "control"),
    ] {
        for name in ["TOLLHOUSE__DATA_DIR", "TOLLHOUSE__NODE__ALIAS"] {
            let complaints = settings.load(CHAIN, &[(name, value)]).unwrap_err();
            let shown = complaints[0].to_string();
            assert!(shown.contains(name) && shown.contains(why), "{shown}");
            assert!(!shown.contains(char::is_control), "{shown:?}");
        }
    }
    for value in ["it's", "\"", "a \"b\""] {
        let variables = [("TOLLHOUSE__DATA_DIR", value)];
        assert!(settings.load(CHAIN, &variables).is_ok(), "{value}");
    }
}

#[test]
fn a_variable_for_a_table_is_refused_by_name() {
    let settings = Settings::new();
    for (name, value) in [
        ("TOLLHOUSE__ROUTE", "[{ path = \"/a\" }]"),
        ("TOLLHOUSE__ROUTE__0__PATH", "/a"),
        ("TOLLHOUSE__RATE__0__CURRENCY", "USD"),
        ("TOLLHOUSE__HTTP", "127.0.0.1:1"),
        ("TOLLHOUSE__HTTP__TLS", "cert.pem"),
        ("TOLLHOUSE__LIMITS__CHALLENGES", "{ requests = 1 }"),
        ("TOLLHOUSE__NODE__LISTEN__0", "127.0.0.1:1"),
    ] {
        let complaints = settings.load(CHAIN, &[(name, value)]).unwrap_err();
        let shown = complaints[0].to_string();
        for part in [name, "environment", "written into the settings file"] {
            assert!(shown.contains(part), "{name}: {shown}");
        }
    }
    let complaints = settings.load(CHAIN, &[("TOLLHOUSE__HTTP__LISTEN", "nowhere")]);
    let shown = complaints.unwrap_err()[0].to_string();
    assert!(shown.contains("TOLLHOUSE__HTTP__LISTEN"), "{shown}");
}

#[test]
fn every_setting_is_shown_with_its_origin_and_without_secrets() {
    let settings = Settings::new();
    let text = format!(
        "data_dir = \"here\"\n{CHAIN}[[route]]\npath = \"/a/*\"\naccess = \"free\"\nupstream = \"http://127.0.0.1:1\"\n\
         request_headers = {{ set = {{ authorization = \"Bearer hunter2\" }} }}\n"
    );
    let variables = [("TOLLHOUSE__HTTP__LISTEN", "127.0.0.1:2")];
    settings.load(&text, &variables).unwrap();
    let environment = variables.map(|(name, value)| (name.into(), value.into()));
    let shown = understood_with(&settings.file(), environment).unwrap();
    let find = |key: &str| {
        let found = shown.iter().find(|it| it.key == key);
        let found = found.unwrap_or_else(|| panic!("{key} is not shown"));
        (found.value.as_str(), found.origin.as_str())
    };
    let file = settings.file().display().to_string();
    assert_eq!(find("data_dir"), ("\"here\"", file.as_str()));
    let variable = ("\"127.0.0.1:2\"", "TOLLHOUSE__HTTP__LISTEN");
    assert_eq!(find("http.listen"), variable);
    assert_eq!(find("http.proxy_protocol"), ("false", "default"));
    assert_eq!(find("node.listen"), ("[]", "default"));
    assert_eq!(find("route[1].path").0, "\"/a/*\"");
    let hidden = find("route[1].request_headers.set.authorization").0;
    assert!(!hidden.contains("hunter2"));
    assert!(shown.is_sorted_by_key(|it| &it.key));
}
