//! `tollhouse init`: creates the first settings file, the data folder and the seed, and explains
//! them to the merchant.

mod ask;
mod text;

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::app;
use crate::base::price::Price;
use crate::base::secret_file;
use crate::config::{self, Preset, Presets};
use crate::keys::NodeKeys;
use crate::node::PeerAddress;
use crate::sell::route::Pattern;

use super::exit_code::{BAD_SETTINGS, complain};
use super::output::{self, Effect};
use ask::{Ask, Question};
use text::{Answers, Provider, Seed, Sold};

/// The answers that can be given as flags.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The settings file to write, which must not exist yet
    #[arg(long, value_name = "FILE", default_value = "tollhouse.toml")]
    config: PathBuf,
    /// The folder for seed, keys, ledger and channels
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The network: bitcoin (or mainnet), mutinynet, signet, testnet, regtest
    ///
    /// The network bitcoin uses real money. For a first try, mutinynet is the best choice.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The base URL of an Esplora API, instead of the network's usual one
    #[arg(long, value_name = "URL")]
    esplora: Option<String>,
    /// Sell the answers of this server, as in http://127.0.0.1:3000
    #[arg(long, value_name = "URL", conflicts_with = "files")]
    upstream: Option<String>,
    /// Sell the files in this folder
    #[arg(long, value_name = "FOLDER")]
    files: Option<PathBuf>,
    /// The path to sell, as in "/api/*" for everything below it
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The service's name in tokens and in the ledger: a-z, 0-9, - and _
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The price, as in "10 sat"
    #[arg(long, value_name = "AMOUNT")]
    price: Option<String>,
    /// The provider of the first channel
    ///
    /// Give a name that is known for the network, NODE_ID@HOST:PORT, or none. The provider opens a
    /// channel to you out of a first payment.
    #[arg(long, value_name = "WHO")]
    provider: Option<String>,
    /// Take the default for every missing answer, and ask nothing
    #[arg(long)]
    yes: bool,
    /// Do not show the words of the new seed; they are in the data folder
    #[arg(long)]
    no_show_seed: bool,
    /// A file with the words of an existing seed, instead of a new seed
    #[arg(long, value_name = "FILE")]
    restore_words_file: Option<PathBuf>,
}

/// Exits with 0 on success, 2 if an answer is missing or wrong, and 1 if it failed to create
/// something, in which case nothing is created. Exits with 6 if it created everything but failed to
/// write the output.
pub(super) fn init(init: &Init) -> ExitCode {
    let stdin = io::stdin();
    let is_asked = !init.yes && stdin.is_terminal() && io::stdout().is_terminal();
    let mut input = stdin.lock();
    let input: Option<&mut dyn BufRead> = if is_asked { Some(&mut input) } else { None };
    let mut out = io::stdout().lock();
    let planned = plan(init, input, &mut out);
    let planned = match planned {
        Ok(planned) => planned,
        Err(error) => {
            complain(&format!("{error:#}"));
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    match make(init, &planned) {
        Ok(told) => {
            let told = out.write_all(told.as_bytes());
            output::ended(told.and_then(|()| out.flush()), Effect::Done)
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The things to create, none of which exists yet.
struct Planned {
    config: config::Config,
    /// The content of the settings file.
    text: String,
    seed: PathBuf,
}

/// Collects the answers, and checks the resulting settings by the program's own rules.
fn plan<'a>(
    init: &Init,
    input: Option<&'a mut dyn BufRead>,
    out: &'a mut dyn Write,
) -> Result<Planned> {
    if init.config.exists() {
        bail!(
            "{} is there already and is not replaced: give another name with --config, or change it with an editor",
            init.config.display()
        );
    }
    let mut ask = Ask {
        input,
        out,
        takes_defaults: init.yes,
    };
    let answers = answers(init, &mut ask)?;
    let text = text::settings(&answers);
    let config = read_back(&init.config, &text)?;
    let seed = config.data_dir.join("seed.words");
    for there in [&seed, &config.node.folder] {
        if there.exists() {
            bail!(
                "{} is there already and is not replaced: its seed and its channels hold money. Give another folder with --data-dir, or \
                 write a settings file by hand that names this one",
                there.display()
            );
        }
    }
    Ok(Planned { config, text, seed })
}

fn answers(init: &Init, ask: &mut Ask<'_>) -> Result<Answers> {
    let presets = Presets::built_in();
    let network = network(init, ask, &presets)?;
    let preset = presets.find(&network);
    let esplora = match (&init.esplora, preset.map(Preset::esplora)) {
        (Some(url), _) => Some(url.clone()),
        (None, Some([_, ..])) => None,
        (None, Some([]) | None) => Some(ask.answer(Question {
            flag: "--esplora",
            given: None,
            text: "No chain source is known for this network. The base URL of an Esplora API?",
            default: None,
            check: &|_| Ok(()),
        })?),
    };
    let sold = sold(init, ask)?;
    let path = ask.answer(Question {
        flag: "--path",
        given: init.path.as_deref(),
        text: "Which path is sold? `/*` is everything, `/api/*` all below /api/.",
        default: Some("/*"),
        check: &|path| can_be_sold(path),
    })?;
    let service = init.service.clone().unwrap_or_else(|| service_of(&path));
    let price = ask.answer(Question {
        flag: "--price",
        given: init.price.as_deref(),
        text: "The price of a day of any number of requests? (Other grants, and prices in currencies, are in config/default.toml.)",
        default: Some("10 sat"),
        check: &|price| match price.parse::<Price>() {
            Ok(Price::Fixed(_)) => Ok(()),
            Ok(Price::Fiat(_)) => Err(
                "a price in a currency wants a [[rate]], which is written into the settings by hand: begin with a price in sat".to_owned(),
            ),
            Err(error) => Err(error.to_string()),
        },
    })?;
    let provider = provider(init, ask, preset)?;
    let data_dir = ask.answer(Question {
        flag: "--data-dir",
        given: init.data_dir.as_deref().map(shown).as_deref(),
        text: "The folder for seed, keys, books and channels? It holds your money: on a disk of its own machine, not in the cloud.",
        default: Some("tollhouse-data"),
        check: &|_| Ok(()),
    })?;
    Ok(Answers {
        file: shown(&init.config),
        data_dir: from_settings(init, Path::new(&data_dir))?,
        is_real_money: preset.is_some_and(|it| it.network == bitcoin::Network::Bitcoin),
        network,
        esplora,
        sold,
        path,
        service,
        price,
        provider,
    })
}

fn network(init: &Init, ask: &mut Ask<'_>, presets: &Presets) -> Result<String> {
    let names: Vec<_> = presets.names().collect();
    let names = names.join(", ");
    let network = ask.answer(Question {
        flag: "--network",
        given: init.network.as_deref(),
        text: "Which network? `bitcoin` is real money. `mutinynet` is a test network with a faucet and a block every 30 seconds, and \
               the best place to try this.",
        // No default, so that neither real money nor test money is chosen by accident.
        default: None,
        check: &|name| match name {
            "mainnet" => Ok(()),
            "testnet4" => Err(
                "testnet4 cannot be served: the Lightning library in here makes invoices for it that say regtest".to_owned(),
            ),
            "" => Err(format!("say which one; there are {names}")),
            name if presets.find(name).is_some() => Ok(()),
            name => Err(format!("`{name}` is no network; there are {names}")),
        },
    })?;
    Ok(match network.as_str() {
        "mainnet" => "bitcoin".to_owned(),
        _ => network,
    })
}

fn sold(init: &Init, ask: &mut Ask<'_>) -> Result<Sold> {
    let files = |folder: &Path| -> Result<Sold> {
        if !folder.is_dir() {
            bail!("--files: {} is no folder", folder.display());
        }
        Ok(Sold::Files(from_settings(init, folder)?))
    };
    if let Some(folder) = &init.files {
        return files(folder);
    }
    let what = ask.answer(Question {
        flag: "--upstream (or --files)",
        given: init.upstream.as_deref(),
        text: "What do you sell? The URL of a server of yours, as in http://127.0.0.1:3000, or a folder of files.",
        default: None,
        check: &|what| {
            if what.starts_with("http://") || what.starts_with("https://") || Path::new(what).is_dir() {
                Ok(())
            } else {
                Err(format!("`{what}` is neither an http URL nor a folder"))
            }
        },
    })?;
    if what.starts_with("http") {
        Ok(Sold::Upstream(what))
    } else {
        files(Path::new(&what))
    }
}

fn provider(init: &Init, ask: &mut Ask<'_>, preset: Option<&Preset>) -> Result<Option<Provider>> {
    let known: Vec<_> = preset.map_or_else(Vec::new, |preset| {
        preset.lsps2.iter().map(|it| it.name.clone()).collect()
    });
    let text = format!(
        "How do you become reachable? To be paid you need a channel with room on the other side. A liquidity provider opens one \
         out of a first payment, keeps a fee of it that you are told before, and is trusted with the channel until its funding is \
         confirmed. Known here: {}. Or NODE_ID@HOST:PORT; or `none`, if somebody opens a channel to you.",
        if known.is_empty() {
            "nobody".to_owned()
        } else {
            known.join(", ")
        }
    );
    let who = ask.answer(Question {
        flag: "--provider",
        given: init.provider.as_deref(),
        text: &text,
        default: Some(known.first().map_or("none", String::as_str)),
        check: &|who| {
            if who == "none" || known.iter().any(|known| known == who) {
                return Ok(());
            }
            if !who.contains('@') {
                return Err(format!("`{who}` is not known for this network"));
            }
            let read = who.parse::<PeerAddress>();
            read.map(drop).map_err(|error| error.to_string())
        },
    })?;
    Ok(match who.split_once('@') {
        _ if who == "none" => None,
        None => Some(Provider::Known(who)),
        Some((node_id, address)) => Some(Provider::At {
            node_id: node_id.to_owned(),
            address: address.to_owned(),
        }),
    })
}

/// Derives a service's name from the first segment of its path.
fn service_of(path: &str) -> String {
    let word = path.split('/').nth(1).unwrap_or_default();
    let lower = word.to_ascii_lowercase();
    if crate::sell::route::is_name(&lower) {
        lower
    } else {
        "shop".to_owned()
    }
}

fn can_be_sold(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` does not begin with a slash"));
    }
    let pattern = Pattern::parse(path);
    pattern.map(drop).map_err(|error| error.to_string())
}

/// Converts a path for the settings file, in which relative paths start at the file's folder.
fn from_settings(init: &Init, path: &Path) -> Result<String> {
    let is_here = init
        .config
        .parent()
        .is_none_or(|it| it.as_os_str().is_empty());
    let path = if is_here {
        path.to_owned()
    } else {
        std::path::absolute(path).context("failed to make a path absolute")?
    };
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Reads the text as the program will read it, from a draft beside the final file.
fn read_back(file: &Path, text: &str) -> Result<config::Config> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    std::fs::write(&draft, text).with_context(|| format!("failed to write {}", draft.display()))?;
    let read = config::load_with(&draft, []);
    std::fs::remove_file(&draft)
        .with_context(|| format!("failed to remove {}", draft.display()))?;
    // Omit the name of the draft file, which the user has not seen.
    read.map_err(|complaints| {
        let lines = complaints
            .0
            .iter()
            .map(|it| format!("{}: {}", it.key, it.what));
        let lines: Vec<_> = lines.collect();
        anyhow::anyhow!("these answers make no good settings:\n{}", lines.join("\n"))
    })
}

/// Creates the folder and the seed first and the settings last, so that an interrupted run leaves
/// no settings. Returns the text for the merchant.
fn make(init: &Init, planned: &Planned) -> Result<String> {
    let Planned { config, text, seed } = planned;
    let words = match &init.restore_words_file {
        Some(file) => Some(
            // The file is read only once, so its mode does not matter.
            secret_file::of_another(file)
                .with_context(|| format!("failed to read the words in {}", file.display()))?,
        ),
        None => None,
    };
    let network = config.node.network;
    if let (Some(words), Some(file)) = (&words, &init.restore_words_file) {
        NodeKeys::check(words, file)?;
    }
    app::make_data_folder(&config.data_dir)?;
    match &words {
        Some(words) => NodeKeys::restore(seed, words, network)?,
        None => NodeKeys::open(seed, network)?,
    };
    let written = std::fs::File::create_new(&init.config).and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    });
    written.with_context(|| format!("failed to write {}", init.config.display()))?;
    let drawn = secret_file::read(seed)?;
    let seed = match words {
        Some(_) => Seed::Restored,
        None if init.no_show_seed => Seed::Quiet,
        None => Seed::Shown(&drawn),
    };
    Ok(text::told(&init.config, config, &seed))
}
