//! `tollhouse check` and `tollhouse run` as a person meets them.

use std::fs;
use std::process::{Command, Output};

use regtest::folder;

fn tollhouse(command: &str, settings: &str, variables: &[(&str, &str)]) -> Output {
    let dir = folder::temporary().unwrap();
    let file = dir.path().join("tollhouse.toml");
    fs::create_dir(dir.path().join("pages")).unwrap();
    fs::write(&file, settings).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tollhouse"))
        .args([command, "--config"])
        .arg(&file)
        .env_remove(regtest::environment::TOLLHOUSE_EXE)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

const GOOD: &str = r#"
node.network = "regtest"
node.chain.esplora = "http://127.0.0.1:1"

[[route]]
path = "/pages/*"
service = "pages"
price = "21 sat"
grant = { requests = 5, valid = "2h" }
files = "pages"

[[route]]
path = "/open"
access = "free"
upstream = "http://127.0.0.1:2"
"#;

#[test]
fn check_shows_the_routes_as_the_program_understands_them() {
    let output = tollhouse("check", GOOD, &[("TOLLHOUSE__HTTP__LISTEN", "127.0.0.1:9")]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("http://127.0.0.1:9"), "{shown}");
    let line = shown.lines().find(|line| line.starts_with("/pages/*"));
    let line = line.unwrap();
    for part in ["pages", "21 sat", "5 requests within 2h", "/pages"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("/open") && line.contains("free"))
    );
}

#[test]
fn settings_that_do_not_hold_end_with_2_and_name_file_and_key() {
    let bad = GOOD.replace("21 sat", "0 sat");
    for command in ["check", "run"] {
        let output = tollhouse(command, &bad, &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in ["tollhouse.toml", "route[1].price", "free"] {
            assert!(said.contains(part), "`{part}` in: {said}");
        }
    }
    let output = tollhouse("check", GOOD, &[("TOLLHOUSE_LISTEN", "127.0.0.1:9")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("TOLLHOUSE_LISTEN"), "{said}");
}

#[test]
fn check_warns_of_a_route_that_leads_back_to_the_program() {
    let check = |listen: &str| {
        let output = tollhouse("check", GOOD, &[("TOLLHOUSE__HTTP__LISTEN", listen)]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = check("0.0.0.0:2");
    assert!(shown.contains("Warning: route /open"), "{shown}");
    let shown = check("127.0.0.1:9");
    assert!(!shown.contains("Warning"), "{shown}");
}
