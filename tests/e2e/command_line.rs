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

#[test]
fn check_reads_every_file_that_a_run_reads() {
    let dir = folder::temporary().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("pages")).unwrap();
    fs::write(at("lines"), "two\nlines\n").unwrap();
    let check = |chain: &str| {
        let text = GOOD.replace("esplora = \"http://127.0.0.1:1\"", chain);
        fs::write(at("tollhouse.toml"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tollhouse"))
            .args(["check", "--config", "tollhouse.toml"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let bitcoind = |login: &str| format!("bitcoind = {{ rpc = \"127.0.0.1:1\", {login} }}");
    let chain = "esplora = \"http://127.0.0.1:1\"";
    assert_eq!(check(chain).0, Some(0));
    for file in ["none", "lines"] {
        let login = format!("user = \"u\", password_file = \"{file}\"");
        let (code, said) = check(&bitcoind(&login));
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains("password_file") && said.contains(file),
            "{said}"
        );
    }
    // bitcoind creates the cookie, and may start later.
    let (code, said) = check(&bitcoind("cookie_file = \"none\""));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("Warning: node.chain.bitcoind.cookie_file"),
        "{said}"
    );
    fs::create_dir(at("tollhouse-data")).unwrap();
    for name in ["seed.words", "master.key", "access.spent"] {
        let path = at("tollhouse-data").join(name);
        tollhouse::base::secret_file::write_new(&path, "{ nonsense").unwrap();
        let (code, said) = check(chain);
        assert_eq!(code, Some(2), "{said}");
        assert!(!said.contains("nonsense"), "{said}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn check_shows_every_setting_and_where_it_comes_from() {
    let output = tollhouse("check", GOOD, &[("TOLLHOUSE__HTTP__LISTEN", "127.0.0.1:9")]);
    let shown = String::from_utf8(output.stdout).unwrap();
    for (key, parts) in [
        ("http.listen ", ["127.0.0.1:9", "TOLLHOUSE__HTTP__LISTEN"]),
        ("node.network ", ["regtest", "tollhouse.toml"]),
        ("backup.keep ", ["", "default"]),
        ("route[1].grant.requests ", ["5", "tollhouse.toml"]),
    ] {
        let line = shown.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn check_warns_of_an_expiring_or_expired_certificate() {
    let dir = folder::temporary().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("pages")).unwrap();
    let text = format!("{GOOD}\n[http.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n");
    fs::write(at("tollhouse.toml"), text).unwrap();
    let now_secs = tollhouse::base::clock::Clock::system().unix_secs();
    let check = |from_days: i64, until_days: i64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(["shop.example".to_owned()]).unwrap();
        // The only date that rcgen makes without another crate, and later days from it.
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at_day = |days: i64| {
            let secs = now_secs.saturating_add_signed(days * 86_400 + 3_600);
            epoch + std::time::Duration::from_secs(secs)
        };
        (wanted.not_before, wanted.not_after) = (at_day(from_days), at_day(until_days));
        let made = wanted.self_signed(&key).unwrap();
        fs::write(at("cert.pem"), made.pem()).unwrap();
        let _ = fs::remove_file(at("key.pem"));
        tollhouse::base::secret_file::write_new(&at("key.pem"), &key.serialize_pem()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tollhouse"))
            .args(["check", "--config", "tollhouse.toml"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!check(-30, 60).contains("Warning"));
    for (from_days, until_days, said) in [
        (-80, 10, "expires in 10 days"),
        (-1, 3, "expires in 3 days"),
        (-90, -2, "expired 1 days ago"),
        (1, 90, "not valid yet"),
    ] {
        let shown = check(from_days, until_days);
        let warning = shown.lines().find(|line| line.starts_with("Warning"));
        let warning = warning.unwrap_or_else(|| panic!("{shown}"));
        assert!(
            warning.contains(said) && warning.contains("http.tls"),
            "{warning}"
        );
    }
}
