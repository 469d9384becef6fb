//! The register in a configuration, and the secrets that a witness shares with pairs: in a private file with a section for
//! each pair. The witness's has all of them, a node's its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use twinsan::ids::Uuid;
use twinsan_witness::Secret;

use super::check::{Problem, problem};
use super::secrets::read_sections;
use super::{Config, ConfigError, identity};

/// A section of the file. Has no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    secret: String,
    uuid: Option<String>,
}

/// A pair as its witness knows it.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) secret: Secret,
}

/// The pairs that a file of secrets names.
pub(crate) fn read_pairs(key: &str, path: &Path) -> Result<BTreeMap<Uuid, Pair>, Problem> {
    let form = "a pair's section has `secret`, and `uuid` if the nodes' configurations have one";
    let sections: BTreeMap<String, Section> = read_sections(key, path, form)?;
    let mut pairs = BTreeMap::new();
    for (name, Section { secret, uuid }) in sections {
        let at = |what: &str| format!("{}: {name}.{what}", path.display());
        let Some(partnership) = identity(&name, uuid.as_deref()) else {
            return problem(at("uuid"), "is no UUID; write 32 hexadecimal digits, or leave it out");
        };
        let secret = match Secret::new(&secret) {
            Ok(secret) => secret,
            Err(error) => return problem(at("secret"), format!("is refused: {error}")),
        };
        if let Some(other) = pairs.insert(partnership, Pair { name: name.clone(), secret }) {
            return problem(at("uuid"), format!("is that of {} too; each pair has its own", other.name));
        }
    }
    if pairs.is_empty() {
        return problem(path.display().to_string(), format!("names no pair; {form}"));
    }
    Ok(pairs)
}

impl Config {
    pub(super) fn check_arbiter(&self) -> Result<(), Problem> {
        let arbiter = &self.arbiter;
        match (&arbiter.file, &arbiter.witness, arbiter.policy) {
            (None, None, None) => problem(
                "arbiter",
                "says nothing; name a `witness` on a third machine, a `file` that both nodes see, or a `policy`: \
                 \"preferred\" or \"stop-both\"",
            ),
            (Some(_), Some(_), _) => problem(
                "arbiter.witness",
                "is named beside `arbiter.file`; a pair has one register: remove one of them",
            ),
            (Some(_), _, Some(_)) => {
                problem("arbiter.policy", "is for pairs without a register; remove it, or `arbiter.file`")
            }
            (_, Some(_), Some(_)) => {
                problem("arbiter.policy", "is for pairs without a register; remove it, or `arbiter.witness`")
            }
            _ => Ok(()),
        }?;
        match (&arbiter.witness, &arbiter.secret_file) {
            (Some(address), _) if !is_address(address) => problem(
                "arbiter.witness",
                format!("is \"{address}\"; write an address or a name, and a port: \"192.0.2.3:7270\""),
            ),
            (Some(_), None) => problem(
                "arbiter.secret_file",
                "is missing; name the file with the pair's secret, as in examples/witness.toml",
            ),
            (None, Some(_)) => {
                problem("arbiter.secret_file", "is for a `witness`, and there is none; remove it")
            }
            _ => Ok(()),
        }
    }

    /// Reads the secret for the witness, if there is one.
    pub(crate) fn load_witness_secret(&mut self, path: &Path) -> Result<(), ConfigError> {
        let Some(file) = &self.arbiter.secret_file else { return Ok(()) };
        let problem = |(key, problem)| ConfigError::Value { path: path.to_path_buf(), key, problem };
        let mut pairs = read_pairs("arbiter.secret_file", file).map_err(problem)?;
        let pair = pairs.remove(&self.partnership()).ok_or_else(|| {
            let name = &self.partnership.name;
            let what = format!(
                "{} has no section for this pair; call it [{name}], with the same `uuid` if `partnership` has one",
                file.display()
            );
            problem(("arbiter.secret_file".into(), what))
        })?;
        self.witness_secret = Some(pair.secret);
        Ok(())
    }
}

/// `host:port`, with an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    let named = |(host, port): (&str, &str)| {
        let host = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        host && port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0)
        || text.rsplit_once(':').is_some_and(named)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{GOOD, parse};
    use super::*;

    const SECRET: &str = "correct-horse-battery-staple-0123";

    /// What comes of a file of secrets for the example's node.
    fn load(name: &str, mode: u32, text: &str) -> Result<Config, String> {
        let file = std::env::temp_dir().join(format!("twinsan-witness-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut config = parse(GOOD).unwrap();
        config.arbiter.secret_file = Some(file.clone());
        let outcome = config.load_witness_secret(Path::new("node.toml")).map_err(|error| error.to_string());
        std::fs::remove_file(file).unwrap();
        outcome.map(|()| config)
    }

    #[test]
    fn a_node_finds_its_pair_by_name_or_uuid() {
        let text = format!("[other]\nsecret = \"{}\"\n[office]\nsecret = \"{SECRET}\"\n", "x".repeat(32));
        let config = load("named", 0o600, &text).unwrap();
        assert!(config.witness_secret.is_some());
        assert!(!format!("{config:?}").contains("horse"));
        let uuid = format!("[any-name]\nuuid = \"{:032x}\"\nsecret = \"{SECRET}\"\n", config.partnership().0);
        assert!(load("uuid", 0o600, &uuid).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_without_telling_a_secret() {
        let good = format!("[office]\nsecret = \"{SECRET}\"\n");
        let cases = [
            (0o640, good.clone(), "chmod 600"),
            (0o600, String::new(), "names no pair"),
            (0o600, good.replace("office", "home"), "has no section for this pair"),
            (0o600, good.replace(SECRET, "horse"), "office.secret` is refused: a secret of 5 bytes"),
            (0o600, good.replace("secret =", "secrt ="), "at line 2 is not understood"),
            (0o600, good.replace("secret =", "uuid = \"7\"\nsecret ="), "is no UUID"),
            (
                0o600,
                ["a", "b"]
                    .map(|name| format!("[{name}]\nuuid = \"{:032x}\"\nsecret = \"{SECRET}\"\n", 7))
                    .concat(),
                "each pair has its own",
            ),
        ];
        for (number, (mode, text, expected)) in cases.into_iter().enumerate() {
            let error = load(&format!("bad{number}"), mode, &text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("horse"), "{error}");
        }
    }

    #[test]
    fn addresses_are_hosts_with_ports() {
        for good in ["192.0.2.3:7270", "[::1]:1", "witness:7270", "w-1.example.office:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "witness",
            ":7270",
            "witness:",
            "witness:0",
            "192.0.2.3:0",
            "::1:7270",
            "a b:1",
            "http://w:1",
            "w:65536",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
