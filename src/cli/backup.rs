//! `tollhouse backup`: making, verifying and restoring backups.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use bitcoin::Network;
use clap::{Args, Subcommand};
use http::Method;

use crate::account::store::{DataLock, LockError};
use crate::app;
use crate::base::clock::Clock;
use crate::base::{disk_space, secret_file};
use crate::config::{self, Config};
use crate::keys::NodeKeys;
use crate::operate::backup::{self, How, Manifest, Restored, Verified};

use super::exit_code::{BAD_SETTINGS, complain};
use super::operator::Operator;
use super::output::{self, Effect};
use super::scratch;
use super::show::lines;
use super::units::{ago, span};

/// The argument that stands for standard input instead of a file of words.
const STANDARD_INPUT: &str = "-";

/// The maximum length of the words. 24 words have about 200 characters.
const WORDS_BYTES_MAX: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a backup now, whether the program runs or not
    Create {
        #[command(flatten)]
        settings: Here,
        /// Also copy the backup to this folder, which must exist
        #[arg(long, value_name = "FOLDER", value_parser = folder_there)]
        to: Option<PathBuf>,
    },
    /// Decrypt a backup, check every part of it, and show what it would restore
    Verify {
        /// The backup file
        file: PathBuf,
        #[command(flatten)]
        words: Words,
    },
    /// Continue a recovery without old channels whose peers do not close them
    ///
    /// The money in such a channel is not given up. The node checks every hour whether the peer has
    /// closed the channel, and then sweeps the money.
    Leave {
        #[command(flatten)]
        operator: Operator,
    },
    /// Restore a backup to a new data folder
    ///
    /// The channel state in a backup may be obsolete and must then never be used. The node
    /// therefore waits until its peers have closed the old channels and sweeps the money into its
    /// wallet. Only then does it sell again.
    Restore {
        /// The backup file
        file: PathBuf,
        #[command(flatten)]
        words: Words,
        /// The folder to restore to, empty or missing; default: that of the settings
        #[arg(long, value_name = "FOLDER", required_unless_present = "config")]
        data_dir: Option<PathBuf>,
        /// Continue with the old channels, whose money is lost if you are wrong
        ///
        /// Use this only for a backup that was made after a clean shutdown, and only if the program
        /// was not started since, here or elsewhere.
        #[arg(long)]
        i_am_sure_it_is_the_newest: bool,
    },
}

/// The settings of the program to back up. The default is the same as for commands that ask the
/// running program.
#[derive(Debug, Args)]
pub(super) struct Here {
    /// The settings file (TOML)
    #[arg(long, value_name = "FILE", default_value = "tollhouse.toml")]
    config: PathBuf,
}

/// The source of the node's seed words.
#[derive(Debug, Args)]
pub(super) struct Words {
    /// A file with the node's 24 words (mode 0600), or `-` for standard input
    ///
    /// The default is DATA_DIR/seed.words of the settings.
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    words_file: Option<PathBuf>,
    /// The settings file (TOML) to compare the backup with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Exits with 0 on success, 2 if the settings are wrong, and 1 for other failures. If the running
/// program was asked, the exit code follows its answer.
pub(super) fn run(command: Command) -> ExitCode {
    let effect = match command {
        Command::Verify { .. } => Effect::None,
        Command::Create { .. } | Command::Leave { .. } | Command::Restore { .. } => Effect::Done,
    };
    let done = match command {
        Command::Create { settings, to } => load(&settings.config)
            .and_then(|config| create(&config, &settings.config, to.as_deref())),
        Command::Leave { operator } => {
            return operator.show(Method::POST, "/recovery/leave", None, |_| {
                "The recovery goes on without the channels that are not closed.".to_owned()
            });
        }
        Command::Verify { file, words } => words.read().map(|given| verify(&file, given)),
        Command::Restore {
            file,
            words,
            data_dir,
            i_am_sure_it_is_the_newest,
        } => words.read().map(|given| {
            let how = if i_am_sure_it_is_the_newest {
                How::Newest
            } else {
                How::Fenced
            };
            restore(&file, given, data_dir, how)
        }),
    };
    match done {
        Ok(Ok(told)) => output::show(&lines(&told), effect),
        Ok(Err(error)) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
        Err(code) => code,
    }
}

fn load(file: &Path) -> Result<Config, ExitCode> {
    config::load(file).map_err(|complaints| {
        complain(&complaints);
        ExitCode::from(BAD_SETTINGS)
    })
}

/// The settings, if given, and the file of the seed words.
struct Given {
    config: Option<Config>,
    words_file: PathBuf,
}

impl Words {
    fn read(self) -> Result<Given, ExitCode> {
        let config = self.config.as_deref().map(load).transpose()?;
        let default = config
            .as_ref()
            .map(|config| config.data_dir.join("seed.words"));
        Ok(Given {
            words_file: self.words_file.or(default).unwrap_or_default(),
            config,
        })
    }
}

impl Given {
    fn network(&self) -> Option<Network> {
        self.config.as_ref().map(|config| config.node.network)
    }

    fn keys(&self) -> anyhow::Result<NodeKeys> {
        // The keys do not depend on the network.
        let network = self.network().unwrap_or(Network::Bitcoin);
        if self.words_file != Path::new(STANDARD_INPUT) {
            let words = secret_file::handed_over(&self.words_file)?;
            return Ok(NodeKeys::parse(&words, &self.words_file, network)?);
        }
        let mut words = String::new();
        std::io::stdin()
            .take(WORDS_BYTES_MAX)
            .read_to_string(&mut words)
            .context("failed to read the words from standard input")?;
        Ok(NodeKeys::parse(
            &words,
            Path::new("standard input"),
            network,
        )?)
    }
}

/// Asks the running program for a backup, or makes one here if no program runs. If the running
/// program's answer is an error, its exit code is kept, because a backup may exist although no
/// answer arrived.
fn create(
    config: &Config,
    file: &Path,
    to: Option<&Path>,
) -> Result<anyhow::Result<String>, ExitCode> {
    let made = match DataLock::acquire(&config.data_dir) {
        Ok(_lock) => of_stopped(config, file),
        Err(LockError::Held(_)) => {
            let answer = Operator::of(file).ask(Method::POST, "/backup", None);
            let answer = answer.map_err(|no_answer| no_answer.tell())?;
            let path = answer["file"].as_str().map(PathBuf::from);
            path.context("the running program did not say where the backup is")
        }
        Err(error) => Err(error.into()),
    };
    Ok(made.and_then(|path| made_at(&path, to)))
}

/// Makes a backup while the program is stopped.
fn of_stopped(config: &Config, file: &Path) -> anyhow::Result<PathBuf> {
    let keys = NodeKeys::read(&config.data_dir.join("seed.words"), config.node.network)?;
    let now_secs = Clock::system().unix_secs();
    let source = app::source(config, file, keys);
    Ok(source.create(None, now_secs, &config.backup.folder)?.file)
}

/// Copies a backup to `to`, if given, and says where the backup and its copy are.
fn made_at(path: &Path, to: Option<&Path>) -> anyhow::Result<String> {
    let made = format!("Backed up to {}.", path.display());
    let Some(to) = to else { return Ok(made) };
    let copy = copy_to(path, to).with_context(|| made.clone())?;
    Ok(format!("{made}\nCopied to {}.", copy.display()))
}

/// Reads the name of an existing folder. A missing folder is not created: it may be the mount point
/// of an unmounted disk, and the copy would land on the disk that it is meant to outlive.
fn folder_there(text: &str) -> Result<PathBuf, String> {
    let folder = PathBuf::from(text);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err("there is no such folder: make it, or mount its disk; the copy has a name of its own in it. Nothing was done".to_owned())
}

/// Copies a backup to another folder. The copy gets its name when it is complete.
fn copy_to(path: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().context("the backup has no name")?;
    let copy = to.join(name);
    let new = copy.with_extension("new");
    let copied = std::fs::copy(path, &new)
        .and_then(|_| std::fs::File::open(&new)?.sync_all())
        .and_then(|()| std::fs::rename(&new, &copy))
        .and_then(|()| std::fs::File::open(to)?.sync_all());
    copied.with_context(|| format!("failed to copy it to {}", copy.display()))?;
    Ok(copy)
}

fn verify(file: &Path, given: Given) -> anyhow::Result<String> {
    let keys = given.keys()?;
    let bytes = file.metadata().map_or(0, |there| there.len());
    let place = place_to_verify(given.config.as_ref(), backup::room_wanted(bytes))?;
    let (looked, network) = (file.to_owned(), given.network());
    let verified = scratch::with(&place, move |folder| {
        // A subfolder, because `verify` first clears the folder that it gets.
        let within = folder.join("verify");
        let clock = Clock::system();
        Ok(backup::verify(&looked, &keys, network, &within, &clock)?)
    })?;
    let mut told = vec![format!(
        "{} is good: every part was decrypted, read and checked.\n",
        file.display()
    )];
    let rows = described(&verified).into_iter();
    told.extend(rows.map(|(name, value)| format!("{name:18}{value}")));
    told.push("\nIt would restore the following files:".to_owned());
    let parts = verified.manifest.parts.iter();
    told.extend(parts.map(|part| format!("  {} ({} bytes)", part.name, part.bytes)));
    let follows = what_follows(&verified.manifest, How::Fenced);
    told.push(format!("\n{follows}"));
    Ok(told.join("\n"))
}

/// Finds a place with enough room for the unpacked channel state and ledger: the data folder, or
/// else the system's folder for temporary files.
fn place_to_verify(config: Option<&Config>, room_wanted: u64) -> anyhow::Result<PathBuf> {
    let own = config.map(|config| config.data_dir.clone());
    let places = own.into_iter().chain([std::env::temp_dir()]);
    let mut places = places.filter(|place| {
        let may_write = rustix::fs::access(place, rustix::fs::Access::WRITE_OK);
        may_write.is_ok() && disk_space::is_there(place, room_wanted)
    });
    places.next().with_context(|| {
        let wanted = room_wanted / 1_000_000;
        format!("that takes up to {wanted} MB of room for a while: make room, or set TMPDIR to a folder where there is some")
    })
}

fn described(verified: &Verified) -> Vec<(&'static str, String)> {
    let manifest = &verified.manifest;
    let (live, aside) = (&verified.state.channels, &verified.state.set_aside);
    let channels: Vec<_> = live.iter().chain(aside).collect();
    let balance_sat: u64 = channels.iter().map(|channel| channel.balance_sat).sum();
    let state = if manifest.is_clean_stop {
        "made after the program had ended in good order"
    } else {
        "made while the program ran"
    };
    let made = format!("{}, {} ago", verified.created, span(verified.age_secs));
    let mut rows = vec![
        ("made", made),
        ("by", format!("tollhouse {}", manifest.created_by)),
        ("node", manifest.node_id.clone()),
        ("network", manifest.network.clone()),
    ];
    match &manifest.channels_on {
        None => {
            let height = verified.state.height;
            let height = height.map_or_else(|| "none yet".to_owned(), |height| height.to_string());
            rows.push(("block", height));
            let channels = format!("{}, with {balance_sat} sat of ours", channels.len());
            rows.push(("channels", channels));
            rows.push(("channel state", state.to_owned()));
            rows.push(("recovery", recovery(verified)));
        }
        Some(place) => {
            let elsewhere = format!(
                "not in this file: kept as {place}, with the wallet's state, as of its last payment"
            );
            rows.push(("channels", elsewhere));
            rows.push(("books", state.to_owned()));
        }
    }
    let totals = &verified.totals;
    let (count, amount_msat) = (totals.count, totals.amount_msat);
    let sales = match totals.surplus_msat {
        0 => format!("{count}, {amount_msat} msat"),
        surplus_msat => format!("{count}, {amount_msat} msat, and {surplus_msat} msat of surplus"),
    };
    rows.push(("sales", sales));
    rows
}

/// Describes the recovery that was under way when the backup was made, and channels set aside.
fn recovery(verified: &Verified) -> String {
    let count = verified.state.set_aside.len();
    match (verified.state.is_recovering, count) {
        (true, _) => format!(
            "UNDER WAY when it was made: {count} old channels are set aside until their peers have closed them. Keep the backup that the \
             node was restored from, too"
        ),
        (false, 0) => "none".to_owned(),
        (false, _) => format!(
            "over; {count} old channels are still set aside, for their peers have not closed them"
        ),
    }
}

fn restore(
    file: &Path,
    given: Given,
    data_dir: Option<PathBuf>,
    how: How,
) -> anyhow::Result<String> {
    let keys = given.keys()?;
    let default = given.config.as_ref().map(|config| config.data_dir.clone());
    let data_dir = data_dir
        .or(default)
        .context("say where to restore to: --data-dir")?;
    let data_dir = std::path::absolute(&data_dir).context("failed to find the folder")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let backups = given.config.as_ref().map(|config| &config.backup);
    let restored = backup::restore(file, &keys, given.network(), backups, &data_dir, how);
    let Restored { manifest, doubt } = runtime.block_on(restored)?;
    let mut told = vec![format!("Restored to {}.", data_dir.display())];
    if let Some(doubt) = doubt {
        told.push(format!(
            "But {doubt}. To take another one, move {} away before the program is started",
            data_dir.display()
        ));
    }
    if given.config.is_none() {
        let settings = data_dir.join("settings");
        told.push(format!(
            "The settings are in {}: put them where you want them, and have `data_dir` in them name this folder. Without them nobody \
             knew where else a newer backup could be.",
            settings.display()
        ));
    }
    told.push(what_follows(&manifest, how));
    told.push(what_is_undone(manifest.created_secs));
    Ok(told.join("\n"))
}

/// Describes what the restore has undone.
fn what_is_undone(created_secs: u64) -> String {
    format!(
        "The books are as they were when the backup was made ({}): tokens revoked since then open again \
         until you revoke them again (`tollhouse revoke`), and use of tokens since then is not counted.",
        ago(created_secs)
    )
}

/// Describes what the operator can expect of the next start.
fn what_follows(manifest: &Manifest, how: How) -> String {
    if let Some(place) = &manifest.channels_on {
        return format!(
            "The node's channels are kept as {place}: it goes on with them at the next start. Never have two programs use them, here or \
             elsewhere: the money in the channels would be lost. Access tokens have to be made anew, unless you said that this is the \
             newest backup."
        );
    }
    let count = manifest.channels.len();
    match how {
        How::Fenced => format!(
            "After a restore the node starts in recovery: it signs nothing for its {count} old channels, waits until their peers have \
             closed them, sweeps what is ours into its wallet, and sells again when that is done and there is a new channel. Tokens \
             that were sold are served from the first second; access tokens have to be made anew. `tollhouse status` and the log say how far it is."
        ),
        How::Newest if manifest.is_recovering => format!(
            "The node goes on with the recovery of its {count} old channels at the next start. Never start it from any older state or in \
             a second place."
        ),
        How::Newest => format!(
            "The node goes on with its {count} channels at the next start. Never start it from any older state or in a second place: \
             the money in the channels would be lost."
        ),
    }
}
