//! Child processes that print JSON lines.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A line of a program's standard output, and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    /// Shared: tests copy all lines so far again and again, while the reader waits for the lock.
    pub(crate) value: Arc<Value>,
}

/// Between two looks at what a program has printed.
const LOOK: Duration = Duration::from_millis(20);

/// A program to be started.
#[derive(Debug)]
pub(crate) struct Command {
    name: String,
    command: tokio::process::Command,
}

impl Command {
    pub(crate) fn new(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            command: tokio::process::Command::new(program),
        }
    }

    /// What failures call it.
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn spawn(mut self) -> Program {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        let output = Arc::<Output>::default();
        let (changed, changes) = watch::channel(());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = [
            tokio::spawn(read_stdout(stdout, Arc::clone(&output), changed)),
            tokio::spawn(read_stderr(stderr, Arc::clone(&output))),
        ];
        Program {
            name: self.name,
            child,
            status: None,
            output,
            changes,
            readers: readers.map(AbortOnDropHandle::new),
        }
    }
}

/// A running program. It is killed when this is dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<Output>,
    changes: watch::Receiver<()>,
    readers: [AbortOnDropHandle<()>; 2],
}

impl Program {
    /// What it has printed so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.output.lines().clone()
    }

    /// What it has said on standard error.
    pub(crate) fn stderr(&self) -> String {
        self.output.stderr().clone()
    }

    /// Waits until the lines printed so far hold an answer.
    ///
    /// # Panics
    ///
    /// If there is none in time, or the program ends before.
    pub(crate) async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        find: impl Fn(&[Line]) -> Option<T> + Send + Sync,
    ) -> T {
        let mut changes = self.changes.clone();
        let finding = async {
            loop {
                if let Some(found) = find(&self.output.lines()) {
                    return Some(found);
                }
                if changes.changed().await.is_err() {
                    // No reader is left: that was all.
                    return find(&self.output.lines());
                }
                // Each look goes through all lines, and thousands come in a second.
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(limit, finding).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("it ended without {what}: {self:?}"),
            Err(_) => panic!("not within {limit:?}: {what}: {self:?}"),
        }
    }

    /// Sends a signal by its name.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self
            .child
            .id()
            .unwrap_or_else(|| panic!("it has ended: {self:?}"));
        let status = tokio::process::Command::new("kill")
            .args([format!("-{signal}"), id.to_string()])
            .status()
            .await
            .unwrap();
        assert!(status.success(), "cannot signal {self:?}");
    }

    /// Ends it at once, without a chance to do anything about it.
    pub(crate) async fn kill(&mut self) {
        self.child.start_kill().unwrap();
        self.exited(Duration::from_secs(60)).await;
    }

    /// Ends it politely. Returns how long that took.
    ///
    /// # Panics
    ///
    /// If it does not end in time, or not with 0.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> Duration {
        let before = Instant::now();
        self.signal("TERM").await;
        self.exited(limit).await;
        self.succeeded();
        before.elapsed()
    }

    /// Waits until it has ended and all its output is read.
    pub(crate) async fn exited(&mut self, limit: Duration) -> ExitStatus {
        let exiting = async {
            let status = self.child.wait().await.unwrap();
            for reader in &mut self.readers {
                if !reader.is_finished() {
                    reader.await.unwrap();
                }
            }
            status
        };
        match tokio::time::timeout(limit, exiting).await {
            Ok(status) => *self.status.insert(status),
            Err(_) => panic!("it did not end within {limit:?}: {self:?}"),
        }
    }

    pub(crate) fn succeeded(&self) {
        assert!(
            self.status.is_some_and(|status| status.success()),
            "it failed: {self:?}"
        );
    }
}

/// The end of all it said: what one wants to see of a failure.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 15;
        write!(f, "{}", self.name)?;
        match self.status {
            Some(status) => writeln!(f, ", {status}")?,
            None => writeln!(f, ", running")?,
        }
        let lines = self.lines();
        writeln!(f, "  stdout, {} lines:", lines.len())?;
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)) {
            writeln!(f, "    {}", line.value)?;
        }
        let stderr = self.stderr();
        writeln!(f, "  stderr:")?;
        for line in stderr
            .lines()
            .skip(stderr.lines().count().saturating_sub(SHOWN))
        {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

/// What a program has said.
#[derive(Default)]
struct Output {
    lines: Mutex<Vec<Line>>,
    stderr: Mutex<String>,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stderr(&self) -> MutexGuard<'_, String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropping `changed` at the end tells those who wait that nothing more comes.
async fn read_stdout(stdout: ChildStdout, output: Arc<Output>, changed: watch::Sender<()>) {
    let mut stdout = BufReader::new(stdout);
    let mut text = String::new();
    while stdout.read_line(&mut text).await.unwrap() > 0 {
        if !text.ends_with('\n') {
            // A program that is killed may leave half a line.
            break;
        }
        let value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("not a line of JSON ({error}): {text}"));
        let line = Line {
            at: Instant::now(),
            value: Arc::new(value),
        };
        output.lines().push(line);
        changed.send_replace(());
        text.clear();
    }
}

async fn read_stderr(stderr: ChildStderr, output: Arc<Output>) {
    let mut stderr = BufReader::new(stderr);
    let mut text = Vec::new();
    while stderr.read_until(b'\n', &mut text).await.unwrap() > 0 {
        output.stderr().push_str(&String::from_utf8_lossy(&text));
        text.clear();
    }
}
