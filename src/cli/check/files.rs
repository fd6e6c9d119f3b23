//! Reads the files that a run reads but that are not needed to parse the settings.

use std::path::Path;

use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::base::secret_file;
use crate::chain::{ChainSource, Login};
use crate::config::Config;
use crate::keys::NodeKeys;
use crate::operate::api::{AdminToken, Spending};
use crate::sell::gate::Keyring;
use crate::sell::http::TlsSource;

/// Reads one file as a run does. The error says what is wrong with the file.
type Reading<'a> = &'a dyn Fn(&Path) -> Result<(), String>;

/// The problems that were found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Files that would prevent the program from running.
    pub(super) wrong: Vec<String>,
    /// Files that may be readable later, or by the user that the program runs as.
    pub(super) warnings: Vec<String>,
}

/// Reads each file.
pub(super) fn look(config: &Config) -> Looked {
    let mut looked = Looked::default();
    match &config.node.chain.source {
        ChainSource::Bitcoind(bitcoind) => login(&bitcoind.login, &mut looked),
        ChainSource::Esplora { .. } | ChainSource::Electrum(_) => {}
    }
    if let Some(TlsSource::Acme(acme)) = &config.http.tls
        && let Err(error) = acme.check()
    {
        let what = format!("http.acme.directory_ca: {}", chain(&error));
        looked.wrong.push(what);
    }
    let network = config.node.network;
    let seed = |path: &Path| read(NodeKeys::read(path, network));
    let made: [(&str, Reading<'_>); 4] = [
        ("seed.words", &seed),
        ("master.key", &|path| read(Keyring::open(path))),
        ("admin.token", &|path| {
            read(AdminToken::open(path, Clock::system()))
        }),
        ("access.spent", &|path| read(Spending::open(path))),
    ];
    for (name, open) in made {
        let path = config.data_dir.join(name);
        match path.try_exists() {
            Ok(true) => looked.wrong.extend(open(&path).err()),
            Ok(false) => {}
            Err(error) => looked.warnings.push(format!(
                "failed to access {} ({error}): run this command as the user that runs Tollhouse",
                path.display()
            )),
        }
    }
    looked
}

fn login(login: &Login, looked: &mut Looked) {
    match login {
        Login::Password { file, .. } => {
            if let Err(error) = secret_file::handed_over_line(file) {
                let what = format!("node.chain.bitcoind.password_file: {}", chain(&error));
                looked.wrong.push(what);
            }
        }
        // bitcoind creates the cookie when it starts, which may be later.
        Login::Cookie(file) => {
            if let Err(error) = secret_file::line_of_another(file) {
                let what = format!("node.chain.bitcoind.cookie_file: {}", chain(&error));
                looked.warnings.push(what);
            }
        }
    }
}

fn read<T, E: std::error::Error>(opened: Result<T, E>) -> Result<(), String> {
    opened.map(drop).map_err(|error| chain(&error))
}
