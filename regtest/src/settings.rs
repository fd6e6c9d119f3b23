//! The settings file of a merchant, put together from the harness's own values and a test's. Pure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// What stands in a route's text for the base URL of the network's Esplora server.
pub const ESPLORA_PLACE: &str = "{esplora}";

/// What a merchant's settings are made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the merchant keeps its data.
    pub data_dir: PathBuf,
    /// The public listener.
    pub gate: SocketAddr,
    /// The operator's listener.
    pub admin: SocketAddr,
    /// Where the node listens for peers.
    pub p2p: SocketAddr,
    /// The base URL of the node's chain source.
    pub esplora: String,
    /// TOML text of `[[route]]` tables; [`ESPLORA_PLACE`] in it stands for the base URL above.
    pub routes: String,
    /// The folder that a relative `files` of a route starts from; without one, the settings file's own folder.
    pub routes_dir: Option<PathBuf>,
    /// TOML text of further settings; where both have a key, this one wins.
    pub extra: String,
}

impl Settings {
    /// The text of the settings file.
    ///
    /// # Errors
    /// When one of the given texts is no TOML, or the routes' text holds something else than routes.
    pub fn render(&self) -> Result<String> {
        let mut settings = self.base()?;
        merge(
            &mut settings,
            self.extra
                .parse::<Table>()
                .context("the extra settings are no TOML")?,
        );
        let mut routes = routes(&self.routes.replace(ESPLORA_PLACE, &self.esplora))?;
        if let Some(dir) = &self.routes_dir {
            make_absolute(&mut routes, dir)?;
        }
        settings.insert("route".to_owned(), Value::Array(routes));
        toml::to_string(&settings).context("failed to write the settings")
    }

    fn base(&self) -> Result<Table> {
        let data_dir = self
            .data_dir
            .to_str()
            .context("the merchant's folder is no UTF-8")?;
        let text = format!(
            "data_dir = {data_dir}\n\
             http.listen = \"{}\"\n\
             admin.listen = \"{}\"\n\
             node.network = \"regtest\"\n\
             node.alias = \"merchant\"\n\
             node.listen = [\"{}\"]\n\
             node.chain.esplora = \"{}\"\n\
             node.chain.sync_interval = \"10s\"\n\
             node.chain.requests_per_hour = 1000000\n\
             log.level = \"info\"\n",
            self.gate,
            self.admin,
            self.p2p,
            self.esplora,
            data_dir = Value::from(data_dir),
        );
        text.parse().context("failed to put the settings together")
    }
}

/// The `[[route]]` tables of a text.
fn routes(text: &str) -> Result<Vec<Value>> {
    let mut table: Table = text.parse().context("the routes are no TOML")?;
    let routes = match table.remove("route") {
        Some(Value::Array(routes)) => routes,
        Some(_) => bail!("`route` is no list: write each route as a table under `[[route]]`"),
        None => bail!("no `[[route]]` table in the routes"),
    };
    if let Some(key) = table.keys().next() {
        bail!("`{key}` stands beside the `[[route]]` tables: only routes belong there");
    }
    Ok(routes)
}

fn make_absolute(routes: &mut [Value], dir: &Path) -> Result<()> {
    for route in routes {
        if let Some(Value::String(files)) = route.get_mut("files") {
            let absolute = std::path::absolute(dir.join(&*files))
                .context("failed to make a folder absolute")?;
            *files = absolute
                .to_str()
                .context("a folder is no UTF-8")?
                .to_owned();
        }
    }
    Ok(())
}

/// Lays `over` on top of `under`, table by table.
fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            data_dir: PathBuf::from("/somewhere/da\"ta"),
            gate: "127.0.0.1:1".parse().unwrap(),
            admin: "127.0.0.1:2".parse().unwrap(),
            p2p: "127.0.0.1:3".parse().unwrap(),
            esplora: "http://127.0.0.1:4".to_owned(),
            routes: "[[route]]\npath = \"/a/*\"\nfiles = \"pages\"\n\
                     [[route]]\npath = \"/b/*\"\nupstream = \"{esplora}\"\n"
                .to_owned(),
            routes_dir: None,
            extra: String::new(),
        }
    }

    fn rendered(settings: &Settings) -> Table {
        settings.render().unwrap().parse().unwrap()
    }

    #[test]
    fn every_value_reaches_its_key() {
        let table = rendered(&settings());
        assert_eq!(table["data_dir"].as_str(), Some("/somewhere/da\"ta"));
        assert_eq!(table["http"]["listen"].as_str(), Some("127.0.0.1:1"));
        assert_eq!(table["admin"]["listen"].as_str(), Some("127.0.0.1:2"));
        assert_eq!(table["node"]["listen"][0].as_str(), Some("127.0.0.1:3"));
        assert_eq!(table["node"]["network"].as_str(), Some("regtest"));
        assert_eq!(
            table["node"]["chain"]["esplora"].as_str(),
            Some("http://127.0.0.1:4")
        );
        assert_eq!(table["route"][0]["files"].as_str(), Some("pages"));
        assert_eq!(
            table["route"][1]["upstream"].as_str(),
            Some("http://127.0.0.1:4")
        );
    }

    #[test]
    fn extra_settings_win_and_leave_their_neighbours() {
        let extra = "[log]\nlevel = \"debug\"\n[http]\nbody_max = 5\n".to_owned();
        let table = rendered(&Settings {
            extra,
            ..settings()
        });
        assert_eq!(table["log"]["level"].as_str(), Some("debug"));
        assert_eq!(table["http"]["body_max"].as_integer(), Some(5));
        assert_eq!(table["http"]["listen"].as_str(), Some("127.0.0.1:1"));
    }

    #[test]
    fn relative_folders_start_at_the_file_with_the_routes() {
        let routes_dir = Some(PathBuf::from("/shop"));
        let table = rendered(&Settings {
            routes_dir,
            ..settings()
        });
        assert_eq!(table["route"][0]["files"].as_str(), Some("/shop/pages"));
    }

    #[test]
    fn a_text_that_holds_more_than_routes_is_refused() {
        let routes = format!("data_dir = \"/elsewhere\"\n{}", settings().routes);
        let refusal = Settings {
            routes,
            ..settings()
        }
        .render()
        .unwrap_err();
        assert!(refusal.to_string().contains("`data_dir`"), "{refusal}");
        assert!(
            Settings {
                routes: String::new(),
                ..settings()
            }
            .render()
            .is_err()
        );
        assert!(
            Settings {
                routes: "route = 1".to_owned(),
                ..settings()
            }
            .render()
            .is_err()
        );
    }
}
