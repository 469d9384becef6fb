//! CHAP secrets: a file of their own, which only its owner can read, and what hosts come to with it.
//!
//! Invariant: no text that is shown or logged has a secret in it, not even one about a line that is not understood.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use twinsan_iscsi::chap::{Algorithm, Chap, Credentials, Secret};

use super::check::{Problem, problem};
use super::{Config, ConfigError};

/// Larger than any that makes sense.
const FILE_BYTES_MAX: u64 = 1 << 20;
const ALGORITHMS: [(&str, Algorithm); 3] =
    [("SHA3-256", Algorithm::Sha3_256), ("SHA-256", Algorithm::Sha256), ("MD5", Algorithm::Md5)];

/// The secrets of hosts, by host.
#[derive(Clone, Default)]
pub(crate) struct Secrets(BTreeMap<String, Chap>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secrets of {} hosts", self.0.len())
    }
}

/// A section of the file. Has no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    user: String,
    secret: String,
    target_user: Option<String>,
    target_secret: Option<String>,
}

impl Secrets {
    /// What host `name` has to show.
    pub(crate) fn of(&self, name: &str) -> Option<Chap> {
        self.0.get(name).cloned()
    }

    fn read(path: &Path) -> Result<Secrets, Problem> {
        let form =
            "a host's section has `user` and `secret`, and for mutual CHAP `target_user` and `target_secret`";
        let sections: BTreeMap<String, Section> = read_sections("target.chap_file", path, form)?;
        let chap = |(name, section): (String, Section)| Ok((name.clone(), section.into_chap(path, &name)?));
        Ok(Secrets(sections.into_iter().map(chap).collect::<Result<_, Problem>>()?))
    }
}

impl Section {
    fn into_chap(self, path: &Path, host: &str) -> Result<Chap, Problem> {
        let credentials = |key: &str, name: String, secret: &str| match Secret::new(secret) {
            Ok(secret) => Ok(Credentials { name, secret }),
            Err(error) => {
                problem(format!("{}: {host}.{key}", path.display()), format!("is refused: {error}"))
            }
        };
        let host_credentials = credentials("secret", self.user, &self.secret)?;
        let target = match (self.target_user, self.target_secret) {
            (Some(user), Some(secret)) => Some(credentials("target_secret", user, &secret)?),
            (None, None) => None,
            _ => {
                return problem(
                    format!("{}: {host}", path.display()),
                    "has one of `target_user` and `target_secret`; write both, or none",
                );
            }
        };
        Ok(Chap { host: host_credentials, target })
    }
}

/// The sections of a private file. A line that is not understood is named, not shown.
pub(super) fn read_sections<T: DeserializeOwned>(
    key: &str,
    path: &Path,
    form: &str,
) -> Result<BTreeMap<String, T>, Problem> {
    let text = read_private(key, path)?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        (path.display().to_string(), format!("at line {line} is not understood; {form}"))
    })
}

/// The text of a file that only its owner, which is this process or root, can read.
fn read_private(key: &str, path: &Path) -> Result<String, Problem> {
    let refuse = |what: String| problem(key, format!("{} {what}", path.display()));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return refuse(format!("cannot be read: {error}")),
    };
    let meta = match file.metadata() {
        Ok(meta) if meta.is_file() && meta.len() <= FILE_BYTES_MAX => meta,
        Ok(_) => return refuse("is no file of secrets".into()),
        Err(error) => return refuse(format!("cannot be read: {error}")),
    };
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return refuse(format!("can be used by others (mode {mode:04o}); run: chmod 600 {}", path.display()));
    }
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return refuse(format!("belongs to user {}; run: chown {own} {}", meta.uid(), path.display()));
    }
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => refuse(format!("cannot be read: {error}")),
    }
}

impl Config {
    /// Reads the secrets, if there are any; every host has one or says that it needs none.
    pub(crate) fn load_secrets(&mut self, path: &Path) -> Result<(), ConfigError> {
        let Some(file) = self.target.chap_file.clone() else { return Ok(()) };
        let outcome = Secrets::read(&file).and_then(|secrets| self.take_secrets(secrets, &file));
        outcome.map_err(|(key, problem)| ConfigError::Value { path: path.to_path_buf(), key, problem })
    }

    fn take_secrets(&mut self, secrets: Secrets, file: &Path) -> Result<(), Problem> {
        let names: BTreeSet<&String> = self.host.iter().map(|host| &host.name).collect();
        if let Some(lost) = secrets.0.keys().find(|name| !names.contains(name)) {
            return problem(
                file.display().to_string(),
                format!("has a section for \"{lost}\", which is no [[host]]; correct the name, or remove it"),
            );
        }
        for host in &self.host {
            let text = match (secrets.0.contains_key(&host.name), host.chap) {
                (false, true) => {
                    format!("has no section in {}; add it, or write `chap = false`", file.display())
                }
                (true, false) => format!("has a section in {} too; remove one of them", file.display()),
                _ => continue,
            };
            return problem("host.chap", format!("of \"{}\" says {}, but it {text}", host.name, host.chap));
        }
        self.secrets = secrets;
        let names: Vec<String> = self.target.names().cloned().collect();
        let access = self.access(|_| None);
        access.check(&names).or_else(|error| problem("target.chap_file", format!("cannot be: {error}")))
    }

    pub(super) fn check_chap(&self) -> Result<(), Problem> {
        if self.target.chap_file.is_none() && !self.target.chap_algorithms.is_empty() {
            return problem("target.chap_algorithms", "says something, but there is no `target.chap_file`");
        }
        let unknown = |name: &&String| !ALGORITHMS.iter().any(|(known, _)| known == name);
        match self.target.chap_algorithms.iter().find(unknown) {
            Some(name) => problem(
                "target.chap_algorithms",
                format!("names \"{name}\"; there are \"SHA3-256\", \"SHA-256\" and \"MD5\""),
            ),
            None => Ok(()),
        }
    }

    /// The hash functions that are allowed; all, if nothing is said.
    pub(crate) fn chap_algorithms(&self) -> Vec<Algorithm> {
        let named = &self.target.chap_algorithms;
        let allowed =
            ALGORITHMS.iter().filter(|(name, _)| named.is_empty() || named.iter().any(|n| n == name));
        allowed.map(|(_, algorithm)| *algorithm).collect()
    }

    /// Where the secrets are, for a configuration file in `here`.
    pub(super) fn settle_chap_file(&mut self, here: &Path) {
        let settled = |file: &PathBuf| here.join(file);
        self.target.chap_file = self.target.chap_file.as_ref().map(settled);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{GOOD, parse};
    use super::*;

    /// What comes of a file of secrets with this mode.
    fn load(name: &str, mode: u32, text: &str, change: impl Fn(&mut Config)) -> Result<Config, String> {
        let file = std::env::temp_dir().join(format!("twinsan-secrets-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut config = parse(GOOD).unwrap();
        config.target.chap_file = Some(file.clone());
        change(&mut config);
        let outcome = config.load_secrets(Path::new("node.toml")).map_err(|error| error.to_string());
        std::fs::remove_file(file).unwrap();
        outcome.map(|()| config)
    }

    const TEXT: &str = "[esx1]\nuser = \"esx1\"\nsecret = \"correct horse\"\n";
    const MUTUAL: &str = "target_user = \"san\"\ntarget_secret = \"battery staple\"\n";

    #[test]
    fn a_private_file_gives_hosts_their_secrets() {
        let config =
            load("good", 0o600, &format!("{TEXT}{MUTUAL}"), |config| config.host[1].chap = false).unwrap();
        let access = config.access(|_| None);
        let chap = access.hosts[0].chap.as_ref().unwrap();
        assert_eq!((chap.host.name.as_str(), chap.target.as_ref().unwrap().name.as_str()), ("esx1", "san"));
        assert!(access.hosts[1].chap.is_none());
        assert_eq!(format!("{:?}", config.secrets), "secrets of 1 hosts");
        assert!(!format!("{config:?}").contains("horse"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o666, 0o620] {
            let error = load("open", mode, TEXT, |_| ()).unwrap_err();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
        }
        let mut config = parse(GOOD).unwrap();
        config.target.chap_file = Some("no/such/file".into());
        let error = config.load_secrets(Path::new("node.toml")).unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_without_telling_a_secret() {
        let none = |config: &mut Config| config.host[1].chap = false;
        let all = |_: &mut Config| ();
        type Change = fn(&mut Config);
        let both = "[esx1]\nuser = \"x\"\nsecret = \"correct horse\"\ntarget_user = \"san\"\ntarget_secret = \"correct horse\"\n";
        let cases: [(&str, Change, &str); 8] = [
            (both, none, "give the target another"),
            (TEXT, all, "\"any\" says true, but it has no section"),
            ("", none, "\"esx1\" says true"),
            ("[esx2]\nuser = \"x\"\nsecret = \"correct horse\"\n", none, "is no [[host]]"),
            (
                "[esx1]\nuser = \"x\"\nsecret = \"horse\"\n",
                none,
                "esx1.secret` is refused: a CHAP secret of 5 bytes",
            ),
            ("[esx1]\nuser = \"x\"\nsecret = \"correct horse\"\ntarget_user = \"san\"\n", none, "write both"),
            ("esx1 = \"correct horse\"\n", none, "at line 1 is not understood"),
            ("[esx1]\nuser = \"x\"\nsecrt = \"correct horse\"\n", none, "is not understood"),
        ];
        for (number, (text, change, expected)) in cases.into_iter().enumerate() {
            let error = load(&format!("bad{number}"), 0o600, text, change).unwrap_err();
            assert!(error.contains(expected) && !error.contains("horse"), "{error}");
        }
    }

    #[test]
    fn algorithms_are_a_policy() {
        let mut config = parse(GOOD).unwrap();
        assert_eq!(config.chap_algorithms(), Algorithm::ALL);
        config.target.chap_file = Some("chap.toml".into());
        config.target.chap_algorithms = vec!["MD5".into(), "SHA-256".into()];
        assert!(config.check_chap().is_ok());
        assert_eq!(config.chap_algorithms(), [Algorithm::Sha256, Algorithm::Md5]);
        config.target.chap_algorithms = vec!["SHA-1".into()];
        assert!(config.check_chap().unwrap_err().1.contains("SHA-1"));
    }
}
