//! The binary. What it does is in `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    moonwire::cli::main()
}
