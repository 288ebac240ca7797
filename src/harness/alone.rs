//! Tests that measure the memory of their process, and so must have one for themselves.

use std::process::Command;

const NAME: &str = "ALONE_IN_ITS_PROCESS";

/// Runs the body of the test `name` (its full path, as the test runner prints it) in a process of its own: of several
/// threads each would measure its neighbours.
pub fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(NAME).is_some_and(|running| running == name) {
        return body();
    }
    let program = std::env::current_exe().expect("a test knows its own program");
    let child =
        Command::new(program).args([name, "--exact", "--nocapture", "--test-threads=1"]).env(NAME, name).output();
    let child = child.expect("a test's own program can be started");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{name} in a process of its own: {}\n{said}\n{}",
        child.status,
        String::from_utf8_lossy(&child.stderr)
    );
}

/// Bytes of this process in memory.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has it");
    let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("it is a number") * 1024
}
