//! The import table of ARCHITECTURE.md, enforced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules each module may import. Arrows point down only; `checkpoint` and `transport` never see each other,
/// and nobody but the client imports `processor`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("balance", &["model"]),
    ("bench", &["balance", "checkpoint", "transport"]),
    (
        "checkpoint",
        &[
            "credential",
            "error",
            "model",
            "network",
            "retry",
            "telemetry",
        ],
    ),
    (
        "client",
        &[
            "balance",
            "checkpoint",
            "credential",
            "error",
            "model",
            "processor",
            "retry",
            "transport",
        ],
    ),
    ("credential", &["error", "model"]),
    (
        "dead_letter",
        &[
            "checkpoint",
            "credential",
            "error",
            "model",
            "telemetry",
            "transport",
        ],
    ),
    ("error", &["model"]),
    (
        "fuzz",
        &["checkpoint", "credential", "model", "network", "transport"],
    ),
    ("model", &[]),
    ("network", &["credential", "error"]),
    (
        "processor",
        &[
            "balance",
            "checkpoint",
            "dead_letter",
            "error",
            "model",
            "retry",
            "telemetry",
            "transport",
        ],
    ),
    ("retry", &[]),
    ("telemetry", &[]),
    (
        "transport",
        &[
            "credential",
            "error",
            "model",
            "network",
            "retry",
            "telemetry",
        ],
    ),
];

/// Crates that may be named only below some folders: their types must not get further. The adapter of azure_identity is
/// a module of its own (ADR-0022), which `credential/mod.rs` names.
const CONFINED: &[(&str, &[&str])] = &[
    ("fe2o3_amqp", &["transport/amqp"]),
    ("serde_amqp", &["transport/amqp"]),
    ("tokio_rustls", &["network"]),
    ("tungstenite", &["transport/amqp"]),
    ("httparse", &["network"]),
    ("hyper_util", &["network"]),
    ("rustls_platform_verifier", &["network"]),
    (
        "azure_core",
        &["checkpoint/blob/supported", "credential/azure_identity.rs"],
    ),
    ("azure_identity", &["credential"]),
    ("azure_storage_blob", &["checkpoint/blob/supported"]),
    ("azure_core_legacy", &["checkpoint/blob/legacy"]),
    ("azure_storage", &["checkpoint/blob/legacy"]),
    ("azure_storage_blobs", &["checkpoint/blob/legacy"]),
    ("reqwest", &["checkpoint/blob/supported"]),
    ("reqwest_legacy", &["checkpoint/blob/legacy"]),
    ("metrics", &["processor"]),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The code of a file: no comments, no docs.
fn code(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The top-level modules that a file names by `crate::`.
fn imports(code: &str) -> BTreeSet<String> {
    code.split("crate::")
        .skip(1)
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = BTreeSet::new();
    let mut violations = Vec::new();
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let Some(first) = relative.components().next() else {
            continue;
        };
        let module = first
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if module == "lib" {
            continue;
        }
        let Some(allowed) = allowed.get(module.as_str()) else {
            violations.push(format!("{} is not in the table", relative.display()));
            continue;
        };
        for import in imports(&code(&path)) {
            if import != module && !allowed.contains(&import.as_str()) {
                violations.push(format!("{} imports `{import}`", relative.display()));
            }
        }
        seen.insert(module);
    }
    let listed: BTreeSet<_> = allowed.keys().map(|module| (*module).to_owned()).collect();
    assert_eq!(seen, listed, "the table lists modules that do not exist");
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn foreign_types_stay_where_they_belong() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let code = code(&path);
        // Whole names: one crate's is the beginning of another's.
        let words: BTreeSet<&str> = code
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .collect();
        for (krate, homes) in CONFINED {
            let is_home = homes.iter().any(|home| relative.starts_with(home));
            if words.contains(krate) && !is_home {
                violations.push(format!("{} names `{krate}`", relative.display()));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

/// One misreading of the protocol must not pass on both sides: the emulator shares no code with the library.
#[test]
fn the_emulator_does_not_depend_on_the_library() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/emulator/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    assert!(
        !manifest.contains("eventhubs-processor"),
        "crates/emulator depends on the library"
    );
}
