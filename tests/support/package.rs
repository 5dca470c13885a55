//! Files in the packages of dependencies: data of others, used without a copy of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where cargo keeps the sources of a dependency.
pub fn package(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let package = packages.iter().find(|package| package["name"] == name);
    let manifest = package.expect("a dependency for tests")["manifest_path"].as_str();
    Path::new(manifest.expect("a path")).parent().expect("a directory").to_owned()
}
