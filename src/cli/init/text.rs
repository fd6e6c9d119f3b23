//! What `tollhouse init` writes into the settings file, and what it tells.

use std::path::Path;

use crate::config::Config;

/// The answers.
pub(super) struct Answers {
    /// The settings file, as it was named.
    pub(super) file: String,
    /// The data folder, as the settings have it.
    pub(super) data_dir: String,
    /// Whether the network's money is worth something.
    pub(super) is_real_money: bool,
    /// The network's name.
    pub(super) network: String,
    /// The chain source, if it is not the network's own.
    pub(super) esplora: Option<String>,
    /// What is sold.
    pub(super) sold: Sold,
    /// On which path.
    pub(super) path: String,
    /// As which service.
    pub(super) service: String,
    /// At which price.
    pub(super) price: String,
    /// Who provides liquidity.
    pub(super) provider: Option<Provider>,
}

/// What is sold.
pub(super) enum Sold {
    /// What a server answers.
    Upstream(String),
    /// Files in a folder.
    Files(String),
}

/// Who provides liquidity.
pub(super) enum Provider {
    /// One that the network's preset knows.
    Known(String),
    /// Another one.
    At {
        /// Its node id.
        node_id: String,
        /// Its address.
        address: String,
    },
}

impl Sold {
    /// Its key, behind a comment.
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
    /// Its value.
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

/// Text as TOML has it. What JSON escapes, TOML reads in the same way.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The settings file.
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

/// Words in a line of the seed as it is shown.
const WORDS_IN_LINE: usize = 4;

/// The seed, as far as it is told of.
pub(super) enum Seed<'a> {
    /// A new one, with its words.
    Shown(&'a str),
    /// A new one whose words nobody wants to see here.
    Quiet,
    /// One that was there before.
    Restored,
}

/// What was made, what to keep, and what comes next.
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

/// The words with their numbers, a few in a line.
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

/// How to get a channel, by the program of this settings file.
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
