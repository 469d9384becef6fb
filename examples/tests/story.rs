//! The main job on the real thing, with nothing but this repository: two node processes, a two-path load, one node
//! killed, resynchronised and compared.

use std::process::Command;

#[test]
fn a_failover_loses_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_twinsand"))
        .args(["demo", "--failover"])
        .output()
        .expect("the daemon runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(told.contains("both halves are the same"), "{told}");
    println!("{told}");
}
