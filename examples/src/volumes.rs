//! `twinsand volume`: the volumes of a running node, grown, deleted, renamed, snapshotted and cloned while hosts use them.
//! Either node of a pair may be asked. What the configuration says of a volume's size is of use only when the volume is made;
//! a snapshot or a clone needs no place in it but a mapping, to be seen by a host.

use std::path::PathBuf;
use std::time::SystemTime;

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
    /// Take snapshots of volumes, all at one moment, on both nodes. A snapshot is a volume that is only read; it takes space as
    /// the other is written. Hosts see it when a mapping names it, after SIGHUP.
    Snapshot {
        #[command(flatten)]
        node: Node,
        /// The volumes: names or ids.
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        /// The snapshot's name: once for each volume, in their order, or once for all, which makes VOLUME@NAME of each. If not
        /// given: VOLUME@ and the time, in UTC.
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make a volume that begins as a snapshot is and can be written, on both nodes. The snapshot stays as it is.
    Clone {
        #[command(flatten)]
        node: Node,
        /// The snapshot: its name or its id.
        snapshot: String,
        /// The name of the volume to be.
        name: String,
    },
    /// Give a volume another name, on both nodes. It stands before the one in the configuration.
    Rename {
        #[command(flatten)]
        named: Named,
        /// The new name.
        new: String,
    },
}

#[derive(Args)]
struct Node {
    /// The node's configuration.
    #[arg(long)]
    config: PathBuf,
}

#[derive(Args)]
struct Named {
    #[command(flatten)]
    node: Node,
    /// The volume: its name or its id.
    volume: String,
}

/// Runs a command of `twinsand volume`.
pub(crate) fn volume(options: &Options) -> Result<(), Failure> {
    match &options.command {
        Command::Grow { named, size } => {
            let bytes = sizes::parse(size)
                .ok_or_else(|| format!("\"{size}\" is no size; write it like 100GiB or 500GB"))?;
            tell(&named.node.config, &Request::Grow { volume: named.volume.clone(), bytes })
        }
        Command::Delete { named, yes_delete } if *yes_delete == named.volume => {
            tell(&named.node.config, &Request::Delete { volume: named.volume.clone() })
        }
        Command::Delete { named, .. } => Err(format!(
            "nothing is deleted: write `--yes-delete {0}` if it is {0} that you mean",
            named.volume
        )
        .into()),
        Command::Snapshot { node, volumes, names } => {
            tell(&node.config, &Request::Snapshot { volumes: volumes.clone(), names: names.clone() })
        }
        Command::Clone { node, snapshot, name } => {
            tell(&node.config, &Request::Clone { snapshot: snapshot.clone(), name: name.clone() })
        }
        Command::Rename { named: Named { node, volume }, new } => {
            tell(&node.config, &Request::Rename { volume: volume.clone(), name: new.clone() })
        }
    }
}

/// The names of all volumes that the node has.
pub(crate) fn names(engine: &Engine) -> Vec<(VolumeId, String)> {
    let infos = engine.volumes().into_iter().map(|volume| volume.info());
    infos.map(|info| (info.id, info.name)).collect()
}

/// A volume by its name or its id.
fn find(engine: &Engine, name: &str) -> Result<VolumeId, Failure> {
    let all = names(engine);
    let named = all.iter().find(|(_, known)| known == name);
    let found = named.or_else(|| all.iter().find(|(id, _)| name.parse() == Ok(id.0)));
    let found = found.ok_or_else(|| format!("there is no volume {name}; `status` lists the volumes"))?;
    Ok(found.0)
}

/// What a volume is called.
fn called(engine: &Engine, id: VolumeId) -> String {
    engine.volume(id).map_or_else(|| id.to_string(), |volume| volume.info().name)
}

/// Has the engine grow a volume; what to tell.
pub(crate) fn grow(engine: &Engine, name: &str, bytes: u64) -> Result<String, Failure> {
    let id = find(engine, name)?;
    if !bytes.is_multiple_of(SECTOR_BYTES as u64) {
        return Err(format!("{name}: a size is a multiple of {SECTOR_BYTES} bytes").into());
    }
    engine.grow_volume(id, bytes / SECTOR_BYTES as u64).map_err(|why| format!("{name}: {why}"))?;
    let size = sizes::show(bytes);
    Ok(format!("{name} has {size} now; if a configuration names it, write that size there, on both nodes"))
}

/// Has the engine delete a volume; what to tell.
pub(crate) fn delete(engine: &Engine, name: &str) -> Result<String, Failure> {
    let id = find(engine, name)?;
    engine.delete_volume(id).map_err(|why| format!("{name}: {why}"))?;
    Ok(format!("{name} is deleted; `status` tells how much of its space is still to come back"))
}

/// Has the engine take snapshots, all at one moment; what to tell.
pub(crate) fn snapshot(engine: &Engine, volumes: &[String], names: &[String]) -> Result<String, Failure> {
    let ids = volumes.iter().map(|name| find(engine, name)).collect::<Result<Vec<_>, _>>()?;
    let behind = |mark: &str| ids.iter().map(|id| format!("{}@{mark}", called(engine, *id))).collect();
    let names: Vec<String> = match names {
        names if names.len() == ids.len() => names.to_vec(),
        [] => behind(&utc(SystemTime::now())),
        [mark] => behind(mark),
        names => {
            let (names, volumes) = (names.len(), volumes.len());
            return Err(
                format!("{names} names for {volumes} volumes: give one for each, or one for all").into()
            );
        }
    };
    let asked: Vec<_> = ids.iter().copied().zip(names.iter().map(String::as_str)).collect();
    let made = engine.snapshot(&asked)?;
    let told = made.iter().zip(&names).zip(&ids);
    let told =
        told.map(|((id, name), of)| format!("{name} is volume {id}, a snapshot of {}", called(engine, *of)));
    Ok(told.collect::<Vec<_>>().join("\n"))
}

/// Has the engine clone a snapshot; what to tell.
pub(crate) fn clone(engine: &Engine, snapshot: &str, name: &str) -> Result<String, Failure> {
    let id = engine.clone_volume(find(engine, snapshot)?, name)?;
    Ok(format!("{name} is volume {id}, a clone of {snapshot}; a mapping that names it shows it to a host"))
}

/// Has the engine rename a volume; what to tell.
pub(crate) fn rename(engine: &Engine, volume: &str, name: &str) -> Result<String, Failure> {
    let id = find(engine, volume)?;
    engine.rename_volume(id, name).map_err(|why| format!("{volume}: {why}"))?;
    Ok(format!("volume {id} is {name} now; mappings find it under the name in the configuration too"))
}

/// A time in UTC, as ISO 8601 has it. Before 1970 it is 1970.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day, so many days after 1970 began.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
