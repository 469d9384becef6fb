//! `twinsand volume`: the volumes of a running node, grown and deleted while hosts use them. Either node of a pair may be
//! asked. What the configuration says of a volume's size is of use only when the volume is made.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use twinsan::block::SECTOR_BYTES;
use twinsan::ids::VolumeId;
use twinsan::runtime::Engine;

use crate::Failure;
use crate::pool::{Request, tell};
use crate::sizes;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a volume larger, on both nodes. Hosts are told with their next command.
    Grow {
        #[command(flatten)]
        named: Named,
        /// The new size, such as 100GiB.
        size: String,
    },
    /// Delete a volume, on both nodes, with all data. Hosts are refused at once; the space comes back in the background.
    Delete {
        #[command(flatten)]
        named: Named,
        /// The name once more, for there is no way back.
        #[arg(long, value_name = "VOLUME")]
        yes_delete: String,
    },
}

#[derive(Args)]
struct Named {
    /// The node's configuration.
    #[arg(long)]
    config: PathBuf,
    /// The volume: its name or its id.
    volume: String,
}

/// Runs a command of `twinsand volume`.
pub(crate) fn volume(options: &Options) -> Result<(), Failure> {
    match &options.command {
        Command::Grow { named, size } => {
            let bytes = sizes::parse(size)
                .ok_or_else(|| format!("\"{size}\" is no size; write it like 100GiB or 500GB"))?;
            tell(&named.config, &Request::Grow { volume: named.volume.clone(), bytes })
        }
        Command::Delete { named, yes_delete } if *yes_delete == named.volume => {
            tell(&named.config, &Request::Delete { volume: named.volume.clone() })
        }
        Command::Delete { named, .. } => Err(format!(
            "nothing is deleted: write `--yes-delete {0}` if it is {0} that you mean",
            named.volume
        )
        .into()),
    }
}

/// A volume by its name or its id.
fn find(engine: &Engine, name: &str) -> Result<VolumeId, Failure> {
    let all: Vec<_> = engine.volumes().iter().map(|volume| volume.info()).collect();
    let named = all.iter().find(|info| info.name == name);
    let found = named.or_else(|| all.iter().find(|info| name.parse() == Ok(info.id.0)));
    let found = found.ok_or_else(|| format!("there is no volume {name}; `status` lists the volumes"))?;
    Ok(found.id)
}

/// Has the engine grow a volume; what to tell.
pub(crate) fn grow(engine: &Engine, name: &str, bytes: u64) -> Result<String, Failure> {
    let id = find(engine, name)?;
    if !bytes.is_multiple_of(SECTOR_BYTES as u64) {
        return Err(format!("{name}: a size is a multiple of {SECTOR_BYTES} bytes").into());
    }
    engine.grow_volume(id, bytes / SECTOR_BYTES as u64).map_err(|why| format!("{name}: {why}"))?;
    Ok(format!("{name} has {} now; write that size into the configuration of both nodes", sizes::show(bytes)))
}

/// Has the engine delete a volume; what to tell.
pub(crate) fn delete(engine: &Engine, name: &str) -> Result<String, Failure> {
    let id = find(engine, name)?;
    engine.delete_volume(id).map_err(|why| format!("{name}: {why}"))?;
    Ok(format!("{name} is deleted; `status` tells how much of its space is still to come back"))
}
