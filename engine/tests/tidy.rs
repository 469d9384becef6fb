//! The code base held to its own rules. A rule that no test asks for is forgotten.

#![expect(clippy::disallowed_methods, reason = "reads the sources from the disk")]

use std::path::{Path, PathBuf};

/// Most lines of a source file: one mind, one sitting.
const LINES_MAX: usize = 600;

/// Files that may be longer: the file, how long, why.
const LONG: &[(&str, usize, &str)] = &[];

/// Sources that may contain unsafe code.
const UNSAFE: &[&str] = &["engine/src/block.rs", "engine/src/backend/"];

/// The edges: the only modules of the engine that may know of clocks, threads, files and sockets.
const EDGES: &[&str] = &["engine/src/runtime/", "engine/src/backend/"];

/// Ways to the system that the rest of the engine has no use for.
const SYSTEM: &[&str] =
    &["libc::", "getrandom::", "crossbeam_", "std::fs", "std::net", "std::env", "std::process"];

/// The parts of the engine, and what is below them.
const PARTS: &[&str] = &["store", "cache", "pool", "mirror", "arbiter", "format"];

/// What parts may not know.
const ABOVE: &[&str] = &["crate::node", "crate::runtime", "crate::sim", "crate::backend"];

/// What a volume's machine may not know: the control part of its node, and other volumes. Of `node` only these are for it.
const MACHINES: &str = "engine/src/node/volume/";
const FOR_MACHINES: &[&str] = &["crate::node::config", "crate::node::event"];
const CONTROL: &[&str] =
    &["super::super", "crate::node::", "Node", "Phase", "Question", "Register", "Hello", "BTreeMap<VolumeId"];

struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }

    /// Lines by number, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().map(|(at, line)| (at, line.split("//").next().unwrap_or_default()))
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the workspace").to_path_buf()
}

/// Every text file that is part of the project.
fn sources() -> Vec<Source> {
    let root = workspace();
    let mut open = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = ["target", ".git", ".venv", "__pycache__", ".pytest_cache", "artifacts", "corpus"];
            if skipped.iter().any(|skipped| name == *skipped) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if is_text(&path) {
                let relative = path.strip_prefix(&root).expect("found below the root");
                let text = std::fs::read_to_string(&path).expect("a readable text file");
                found.push(Source { path: relative.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    assert!(found.len() > 100, "the workspace is not where it was");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn is_text(path: &Path) -> bool {
    let endings = ["rs", "md", "toml", "py", "pyi", "sh", "yml", "yaml", "json", "jsonl", "txt"];
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| endings.contains(&ending)) || path.ends_with(".ci/run")
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Complaints about lines that contain one of these words.
fn lines_with(sources: &[Source], words: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (at, line) in source.lines() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                complaints.push(format!("{}:{at}: {word:?}", source.path));
            }
        }
    }
    complaints
}

#[test]
fn files_fit_one_mind() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        let exception = LONG.iter().find(|(path, ..)| *path == source.path);
        match exception {
            None if lines > LINES_MAX => {
                complaints.push(format!("{}: {lines} lines, at most {LINES_MAX}", source.path));
            }
            Some((path, most, _)) if lines > *most || lines <= LINES_MAX => {
                complaints.push(format!("{path}: {lines} lines, its exception says {most}"));
            }
            _ => {}
        }
    }
    none(complaints);
}

#[test]
fn modules_open_with_what_they_are_for() {
    let silent = |source: &Source| source.is_rust() && !source.text.starts_with("//!");
    none(sources().iter().filter(|source| silent(source)).map(|source| source.path.clone()).collect());
}

#[test]
fn there_are_no_notes_to_self() {
    // Put together here, so that this file has none either.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK:")];
    none(lines_with(&sources(), &words));
}

#[test]
fn no_machine_is_named() {
    let words = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    none(lines_with(&sources(), &words));
}

#[test]
fn lines_end_cleanly() {
    let mut complaints = Vec::new();
    for source in sources() {
        let unclean = |line: &str| line.ends_with(' ') || line.contains('\r');
        complaints.extend(
            source.lines().filter(|(_, line)| unclean(line)).map(|(at, _)| format!("{}:{at}", source.path)),
        );
        if !source.text.is_empty() && !source.text.ends_with('\n') {
            complaints.push(format!("{}: no newline at the end", source.path));
        }
    }
    none(complaints);
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let word = concat!("uns", "afe");
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust() && !source.is_under(UNSAFE)) {
        let uses =
            |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word);
        complaints.extend(
            source.code().filter(|(_, line)| uses(line)).map(|(at, _)| format!("{}:{at}", source.path)),
        );
    }
    none(complaints);
}

#[test]
fn only_the_edges_are_impure() {
    let waived = concat!("clippy::", "disallowed_");
    let core = |source: &&Source| source.path.starts_with("engine/src/") && !source.is_under(EDGES);
    let mut complaints = Vec::new();
    for source in sources().iter().filter(core) {
        let uses = |line: &str| line.contains(waived);
        complaints.extend(
            source.code().filter(|(_, line)| uses(line)).map(|(at, _)| format!("{}:{at}", source.path)),
        );
    }
    none(complaints);
}

/// The lints see the functions that `engine/clippy.toml` lists; this sees whole crates.
#[test]
fn only_the_edges_know_the_system() {
    let core = |source: &&Source| source.path.starts_with("engine/src/") && !source.is_under(EDGES);
    let mut complaints = Vec::new();
    for source in sources().iter().filter(core) {
        for (at, line) in source.code() {
            let named = SYSTEM.iter().filter(|name| line.contains(**name));
            complaints.extend(named.map(|name| format!("{}:{at}: {name}", source.path)));
        }
    }
    none(complaints);
}

#[test]
fn nothing_points_up() {
    let sources = sources();
    let mut complaints = Vec::new();
    for part in PARTS {
        let places = [format!("engine/src/{part}/"), format!("engine/src/{part}.rs")];
        let within = |source: &&Source| places.iter().any(|place| source.path.starts_with(place));
        for source in sources.iter().filter(within).filter(|source| !source.path.contains("tests")) {
            for (at, line) in source.code() {
                if let Some(above) = ABOVE.iter().find(|above| line.contains(**above)) {
                    complaints.push(format!("{}:{at}: {above}", source.path));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn a_volumes_machine_knows_nothing_but_its_volume() {
    let mut complaints = Vec::new();
    let sources = sources();
    for source in sources.iter().filter(|source| source.is_under(&[MACHINES])) {
        for (at, line) in source.code() {
            let known = FOR_MACHINES.iter().fold(line.to_string(), |line, known| line.replace(known, ""));
            let known = known.replace("NodeName", "").replace("NodeConfig", "");
            let named = CONTROL.iter().find(|name| known.contains(**name));
            complaints.extend(named.map(|name| format!("{}:{at}: {name}", source.path)));
        }
    }
    assert!(sources.iter().any(|source| source.is_under(&[MACHINES])), "they are not where they were");
    none(complaints);
}

#[test]
fn an_invariant_keeps_its_number() {
    let text = std::fs::read_to_string(workspace().join("engine/docs/invariants.md")).expect("it exists");
    let numbers: Vec<usize> =
        text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    assert!(numbers.len() >= 18, "a promise is gone");
}
