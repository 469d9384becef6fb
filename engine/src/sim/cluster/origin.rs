//! Where a plan comes from, said as the one command that runs it again.

use core::fmt;

use crate::sim::generate::Scale;

/// Where a plan comes from. Shown, it is the command that replays it, from anywhere in the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The ordinary generator made it of a seed.
    Seed(u64, Scale),
    /// A file holds it. Tests run in `engine/`: the path is from there, or whole.
    File(String),
    /// A program made it: it has to be printed, and kept in a file.
    Made,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Seed(seed, scale) => {
                write!(f, "TWINSAN_SEED={seed}")?;
                if scale.ops != Scale::default().ops {
                    write!(f, " TWINSAN_OPS={}", scale.ops)?;
                }
                if !scale.snapshots {
                    write!(f, " TWINSAN_SNAPSHOTS=0")?;
                }
            }
            Origin::File(path) => write!(f, "TWINSAN_PLAN='{}'", path.replace('\'', r"'\''"))?,
            Origin::Made => write!(f, "TWINSAN_PLAN=plan.jsonl")?,
        }
        // Checks of arithmetic stop a node only where they are compiled in: the same profile, the same end.
        let profile = if cfg!(debug_assertions) { "" } else { " --release" };
        write!(f, " cargo test{profile} -p twinsan --test cluster replay -- --nocapture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_all_that_differs_from_the_defaults() {
        let starts = |origin: Origin, start: &str| {
            let command = origin.to_string();
            assert!(command.starts_with(&format!("{start} cargo test")), "{command}");
            assert!(command.ends_with(" -p twinsan --test cluster replay -- --nocapture"), "{command}");
            assert_eq!(command.contains(" --release "), !cfg!(debug_assertions));
        };
        starts(Origin::Seed(7, Scale::default()), "TWINSAN_SEED=7");
        starts(
            Origin::Seed(7, Scale { ops: 300, snapshots: false }),
            "TWINSAN_SEED=7 TWINSAN_OPS=300 TWINSAN_SNAPSHOTS=0",
        );
        starts(Origin::File("/a b/it's.jsonl".into()), r"TWINSAN_PLAN='/a b/it'\''s.jsonl'");
    }
}
