//! Who takes part, and how each is set up.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::measure::Load;

/// What has to be installed or built for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Python,
    Js,
    /// A program of a workspace of its own, by the name of its directory.
    Rust(&'static str),
}

impl Need {
    /// As `run` knows it.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Python => Some("python"),
            Self::Js => Some("js"),
            Self::Rust(directory) => Some(directory),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    /// For `--clients`.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// For whoever doubts the comparison.
    pub(crate) how: &'static str,
    pub(crate) need: Need,
    /// Where the handler takes its time, and where it does not.
    part: Part,
    program: Program,
    arguments: &'static [&'static str],
}

#[derive(Debug)]
enum Part {
    OnlyQuick,
    OnlySlow,
    Both,
}

#[derive(Debug)]
enum Program {
    /// Of this package.
    Ours(&'static str),
    /// Of another workspace.
    Rust(&'static str),
    Python,
    Node,
}

/// In the order in which they run in each round. Ratios are to the first of ours.
pub(crate) const CLIENTS: &[Client] = &[
    Client {
        name: "ours-event",
        title: "eventhubs-processor, one event a call",
        how: "default options; `on_event`, `update_checkpoint` by the handler; the crate's store for memory",
        need: Need::Nothing,
        part: Part::Both,
        program: Program::Ours("peers-ours"),
        arguments: &["event"],
    },
    Client {
        name: "ours-batch",
        title: "eventhubs-processor, batches of 300",
        how: "the same with `max_batch_size` 300 and `on_event_batch`",
        need: Need::Nothing,
        part: Part::OnlyQuick,
        program: Program::Ours("peers-ours"),
        arguments: &["batch"],
    },
    Client {
        name: "ours-tls",
        title: "eventhubs-processor, one event a call, TLS",
        how: "as the first, over TLS",
        need: Need::Nothing,
        part: Part::OnlyQuick,
        program: Program::Ours("peers-ours"),
        arguments: &["event", "tls"],
    },
    Client {
        name: "ours-keyed",
        title: "eventhubs-processor, 64 at a time",
        how: "as the first with `concurrency` 64; checks that the events of a key come in order",
        need: Need::Nothing,
        part: Part::OnlySlow,
        program: Program::Ours("peers-ours"),
        arguments: &["keyed"],
    },
    Client {
        name: "azure-0.16",
        title: "azure_messaging_eventhubs 0.16",
        how: "its `EventProcessor` with defaults but `Greedy`; `stream_events` of each partition, `update_checkpoint`; \
              its store for memory",
        need: Need::Rust("azure-0.16"),
        part: Part::Both,
        program: Program::Rust("peer-azure-0-16"),
        arguments: &[],
    },
    Client {
        name: "azeventhubs-0.20",
        title: "azeventhubs 0.20, TLS",
        how: "an `EventHubConsumerClient` with defaults for each partition, over TLS, which it insists on; it has no \
              processor and no checkpoints",
        need: Need::Rust("azeventhubs-0.20"),
        part: Part::OnlyQuick,
        program: Program::Rust("peer-azeventhubs-0-20"),
        arguments: &[],
    },
    Client {
        name: "js-batch",
        title: "JavaScript 6.0.4, batches of 300",
        how: "`subscribe` with `maxBatchSize: 300`, otherwise defaults; no store of the user's, hence all partitions at \
              once and its own store for memory",
        need: Need::Js,
        part: Part::Both,
        program: Program::Node,
        arguments: &["batch"],
    },
    Client {
        name: "js-default",
        title: "JavaScript 6.0.4, defaults",
        how: "the same with `maxBatchSize` at its default, 1",
        need: Need::Js,
        part: Part::OnlyQuick,
        program: Program::Node,
        arguments: &["default"],
    },
    Client {
        name: "python-event",
        title: "Python aio 5.15.1, one event a call",
        how: "`receive` with defaults; its own store for memory, hence as a processor",
        need: Need::Python,
        part: Part::Both,
        program: Program::Python,
        arguments: &["event"],
    },
    Client {
        name: "python-batch",
        title: "Python aio 5.15.1, batches of 300",
        how: "`receive_batch` with defaults, which is 300",
        need: Need::Python,
        part: Part::OnlyQuick,
        program: Program::Python,
        arguments: &["batch"],
    },
    Client {
        name: "limit",
        title: "no client: frames counted, not read",
        how: "a socket and a thread for each partition; what the emulator gives at most on this machine",
        need: Need::Nothing,
        part: Part::OnlyQuick,
        program: Program::Ours("peers-limit"),
        arguments: &[],
    },
];

impl Client {
    pub(crate) fn takes_part(&self, load: &Load) -> bool {
        match self.part {
            Part::OnlyQuick => !load.is_slow(),
            Part::OnlySlow => load.is_slow(),
            Part::Both => true,
        }
    }

    /// The program and its arguments.
    pub(crate) fn command(&self, places: &Places) -> Vec<OsString> {
        let mut command: Vec<OsString> = match self.program {
            Program::Ours(name) => vec![places.beside(name).into()],
            Program::Rust(name) => vec![places.rust.join(name).into()],
            Program::Python => vec![
                places.python.clone().into(),
                places.sources.join("python/client.py").into(),
            ],
            Program::Node => vec!["node".into(), places.sources.join("js/client.mjs").into()],
        };
        command.extend(self.arguments.iter().map(Into::into));
        command
    }
}

/// Where things are.
#[derive(Debug)]
pub(crate) struct Places {
    /// Of the bench.
    pub(crate) sources: PathBuf,
    /// For logs and certificates.
    pub(crate) scratch: PathBuf,
    /// Of the programs of this package.
    pub(crate) programs: PathBuf,
    /// Of the programs of other workspaces.
    pub(crate) rust: PathBuf,
    pub(crate) python: PathBuf,
    /// The directory with `node_modules`.
    pub(crate) js: PathBuf,
}

impl Places {
    pub(crate) fn beside(&self, program: &str) -> PathBuf {
        self.programs.join(program)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        Path::new(&self.scratch).join(format!("{name}.log"))
    }
}
