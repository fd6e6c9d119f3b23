//! The texts of `tollhouse init`: the settings file and the output.

use std::path::Path;

use crate::config::Config;

/// The answers of the merchant.
pub(super) struct Answers {
    /// The path of the settings file, as the merchant gave it.
    pub(super) file: String,
    /// The data folder, as in the settings.
    pub(super) data_dir: String,
    /// Whether the network uses real money.
    pub(super) is_real_money: bool,
    /// The network's name.
    pub(super) network: String,
    /// The URL of the chain source, if it is not the network's usual one.
    pub(super) esplora: Option<String>,
    /// The resource that is sold.
    pub(super) sold: Sold,
    /// The path that is sold.
    pub(super) path: String,
    /// The name of the service.
    pub(super) service: String,
    /// The price.
    pub(super) price: String,
    /// The liquidity provider.
    pub(super) provider: Option<Provider>,
}

/// The resource that is sold.
pub(super) enum Sold {
    /// The answers of the server with this URL.
    Upstream(String),
    /// The files in this folder.
    Files(String),
}

/// The liquidity provider.
pub(super) enum Provider {
    /// A provider that the network's preset names.
    Known(String),
    /// A provider that the merchant names.
    At {
        /// The provider's node id.
        node_id: String,
        /// The provider's address.
        address: String,
    },
}

impl Sold {
    /// The setting for this resource, below a comment.
    fn toml(&self) -> String {
        match self {
            Self::Upstream(url) => {
                let why = "# Your server, which needs to know nothing of payments.";
                format!("{why}\nupstream = {}", quoted(url))
            }
            Self::Files(folder) => {
                let why = "# The folder; nothing in it that begins with a dot is served.";
                format!("{why}\nfiles = {}", quoted(folder))
            }
        }
    }
}

impl Provider {
    /// The provider's value in the settings.
    fn toml(&self) -> String {
        match self {
            Self::Known(name) => quoted(name),
            Self::At { node_id, address } => {
                let (node_id, address) = (quoted(node_id), quoted(address));
                format!("{{ node_id = {node_id}, address = {address} }}")
            }
        }
    }
}

/// A TOML string. TOML reads the escapes of JSON in the same way.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The content of the settings file.
pub(super) fn settings(answers: &Answers) -> String {
    let Answers {
        file,
        data_dir,
        is_real_money,
        network,
        esplora,
        sold,
        path,
        service,
        price,
        provider,
    } = answers;
    let money = if *is_real_money {
        "This is real money."
    } else {
        "Money of this network is worth nothing; real money is \"bitcoin\", with a seed and a data folder of its own."
    };
    let esplora = match esplora {
        Some(url) => format!("esplora = {}", quoted(url)),
        None => "# esplora = \"https://…\"      # the network's usual one".to_owned(),
    };
    let provider = provider.as_ref().map_or_else(|| quoted(""), Provider::toml);
    let sold = sold.toml();
    let (data_dir, network) = (quoted(data_dir), quoted(network));
    let (path, service, price) = (quoted(path), quoted(service), quoted(price));
    format!(
        r#"# Settings of a Tollhouse, begun by `tollhouse init`. Change them with an editor, and see what the program makes of them with
# `tollhouse check --config {file}`. Every other setting, its default and one line of why: config/default.toml.

# Seed, keys, books and channels. The seed's words bring back money on chain and NOT channels; a backup brings back both
# (`tollhouse backup create`). Never run two programs on it, or on copies of it.
data_dir = {data_dir}

[http]
# Where customers come to. For the world: 0.0.0.0:443 with [http.tls] or [http.acme], or a server in front that speaks TLS.
listen = "127.0.0.1:8402"

[node]
# {money}
network = {network}
# Other nodes may connect to you here; only announced channels need it.
# listen = ["0.0.0.0:9735"]

[node.chain]
# The node's eye on the chain. Whoever runs it learns your addresses.
{esplora}

[node.liquidity]
# Who opens a channel to you out of a first payment. It is trusted until the channel's funding is confirmed.
provider = {provider}
# What it may keep of that payment: this, or the share below, if that is more. Beyond it there is no invoice.
fee_max = "5000 sat"
fee_max_percent = 10

[[route]]
path = {path}
# The name in tokens and books. One token opens all routes of its service.
service = {service}
price = {price}
# What one payment buys. `requests`, `bytes` and `seconds` are the other limits there are.
grant = {{ valid = "1d" }}
{sold}
"#
    )
}

/// The number of seed words in a line.
const WORDS_IN_LINE: usize = 4;

/// The part of the seed that the output shows.
pub(super) enum Seed<'a> {
    /// A new seed, with its words.
    Shown(&'a str),
    /// A new seed whose words are not shown.
    Quiet,
    /// An existing seed.
    Restored,
}

/// The output after success: what was created, what to keep, and what to do next.
pub(super) fn told(file: &Path, config: &Config, seed: &Seed<'_>) -> String {
    let (shown, folder) = (file.display(), config.data_dir.display());
    let seed = match seed {
        Seed::Quiet => String::new(),
        Seed::Shown(words) => format!(
            "These words are the seed. They are shown this once; write them down, on paper.\n\n{}\n",
            table(words)
        ),
        Seed::Restored => "If a node with these words had channels, stop here: restore its backup instead. Without it the peers close the \
                           channels, and what they do not owe to an address of the words is lost.\n\n"
            .to_owned(),
    };
    format!(
        "\nMade {shown}, and {folder} with the seed in it.\n\n{seed}\
         The words bring back your money on chain. They do NOT bring back channels, nor what is in them: that is known only to the\n\
         data folder, which changes with every payment. What brings back both is a backup:\n\n    \
         tollhouse backup create --config {shown}\n\n\
         Next:\n\n    \
         tollhouse check --config {shown}     # what the settings mean\n    \
         tollhouse run --config {shown}       # serves; the node starts by itself\n\n{}",
        reachable(config, file)
    )
}

/// The words with their numbers, a few in each line.
fn table(words: &str) -> String {
    let words: Vec<_> = (1..).zip(words.split_whitespace()).collect();
    let row = |row: &[(u32, &str)]| {
        let cells = row
            .iter()
            .map(|(number, word)| format!("  {number:>2} {word:<10}"));
        let row: String = cells.collect();
        format!("{}\n", row.trim_end())
    };
    words.chunks(WORDS_IN_LINE).map(row).collect()
}

/// Explains how to get a channel with these settings.
fn reachable(config: &Config, file: &Path) -> String {
    let Some(provider) = &config.node.liquidity.provider else {
        return "To be paid you need a channel with room on the other side. There is no liquidity provider in the settings, so \
                somebody\nhas to open one to you: set node.listen, and give them your node id, which the program logs when it runs.\n"
            .to_owned();
    };
    let known = if provider.name.is_empty() {
        ""
    } else {
        " It comes from a list\nthat nobody has verified: look it up before real money depends on it."
    };
    let (least, shown) = (config.node.liquidity.least(), file.display());
    format!(
        "To be paid you need a channel. While it runs, ask for an invoice that opens one, of {least} or more, see what it costs,\n\
         and have a customer (or a wallet of yours) pay it:\n\n    \
         tollhouse liquidity activate \"50000 sat\" --config {shown}\n\n\
         The provider is {provider}.{known}\n"
    )
}
