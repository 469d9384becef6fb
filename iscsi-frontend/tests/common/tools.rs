//! Tools of others, if they are installed.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Is the tool there? A machine without it skips, and says so loudly; with `CI=true` that is a failure.
pub(crate) fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok() {
        return true;
    }
    let what = format!("{tool} is not installed: REAL CLIENTS ARE NOT TESTED");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what}");
    // Past the capture of the test harness: nobody shall think that this ran.
    drop(writeln!(std::io::stderr(), "\n*** SKIPPED: {what}; install libiscsi-bin ***\n"));
    false
}

/// What it prints if it succeeds, and if it fails.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        Command::new(tool).args(arguments).output().expect("the tool runs");
    let told = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if status.success() { Ok(told) } else { Err(told) }
}
