//! A program that says how it is doing in lines of JSON.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    lines: Receiver<std::io::Result<String>>,
    /// A program that waits for its end ends with us, however we end.
    _stdin: Option<ChildStdin>,
    pub(crate) started: Instant,
}

impl Process {
    /// What it says on stderr goes to `log`.
    pub(crate) fn start(
        command: &[OsString],
        settings: &[(&str, String)],
        log: &Path,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", command[0].display());
        let stderr = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let started = Instant::now();
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(failed)?;
        let (sender, lines) = channel();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("no stdout")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // Nobody listens any more: the program is being killed.
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            _stdin: stdin,
            started,
        })
    }

    pub(crate) fn line(&self, timeout: Duration, what: &str) -> Result<Value, String> {
        match self.lines.recv_timeout(timeout) {
            Ok(Ok(line)) => serde_json::from_str(&line).map_err(|error| format!("{line}: {error}")),
            Ok(Err(error)) => Err(format!("its output: {error}")),
            Err(RecvTimeoutError::Timeout) => Err(format!("no {what} within {timeout:?}")),
            Err(RecvTimeoutError::Disconnected) => Err(format!("it ended without a {what}")),
        }
    }

    /// The most memory that it had so far, in KiB.
    pub(crate) fn peak_rss(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("no VmHWM in {path}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
