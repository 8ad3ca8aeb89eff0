//! `--watch`: the emulator in a terminal, until `q`, Ctrl-C or a signal.

mod log;
mod render;
mod view;

use std::error::Error;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use eventhubs_emulator::Emulator;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub(crate) use self::log::LogTail;
use self::render::{Frozen, render};
use self::view::View;

/// Between two looks at the emulator: rates are per second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon the keyboard's thread notices that nobody listens any more.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
#[error("--watch needs a terminal for its output and its keys")]
struct NoTerminal;

/// Refuses to start where there is no terminal.
pub(crate) fn check_terminal() -> Result<(), Box<dyn Error + Send + Sync>> {
    if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(NoTerminal.into())
}

/// Shows what happens until somebody has seen enough. The terminal is as before afterwards, also
/// after a panic.
pub(crate) async fn run(
    emulator: &Emulator,
    log: &LogTail,
    stop_signal: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut terminal = ratatui::try_init()?;
    let shown = {
        let mut keyboard = Keyboard::start();
        watch(&mut terminal, emulator, log, &mut keyboard, stop_signal).await
    };
    ratatui::try_restore()?;
    Ok(shown?)
}

async fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    emulator: &Emulator,
    log: &LogTail,
    keyboard: &mut Keyboard,
    stop_signal: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let start = Instant::now();
    let addresses = format!(
        "amqp {}  blobs {}",
        emulator.amqp_addr(),
        emulator.blob_addr()
    );
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop_signal = std::pin::pin!(stop_signal);
    let mut before = None;
    let mut view = View::default();
    let mut scroll = 0_usize;
    loop {
        tokio::select! {
            () = &mut stop_signal => return Ok(()),
            _ = ticks.tick() => {
                let (now, at) = (emulator.status(), Instant::now());
                let since = before.as_ref().map(|(status, then)| (status, at - *then));
                view = View::new(since, &now);
                before = Some((now, at));
            }
            event = keyboard.events.recv() => match event {
                // Without a keyboard there is still the signal.
                None => std::future::pending::<()>().await,
                Some(Event::Key(key)) => match wish(key) {
                    Wish::Nothing => continue,
                    Wish::Quit => return Ok(()),
                    Wish::Scroll(by) => scroll = scroll.saturating_add_signed(by),
                },
                // A new size: all there is to do is to draw.
                Some(_) => {}
            },
        }
        let frozen = Frozen {
            addresses: addresses.clone(),
            uptime_s: start.elapsed().as_secs(),
        };
        let lines = log.lines();
        terminal.draw(|frame| {
            let most = render(frame, &frozen, &view, &lines, scroll);
            scroll = scroll.min(most);
        })?;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    Quit,
    Scroll(isize),
}

/// What a key means.
fn wish(key: KeyEvent) -> Wish {
    const PAGE: isize = 10;
    if key.kind == KeyEventKind::Release {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Wish::Scroll(PAGE),
        KeyCode::PageUp => Wish::Scroll(-PAGE),
        KeyCode::Home => Wish::Scroll(isize::MIN + 1),
        KeyCode::End => Wish::Scroll(isize::MAX),
        _ => Wish::Nothing,
    }
}

/// A thread that reads keys, because a terminal can only be waited for in one.
struct Keyboard {
    events: UnboundedReceiver<Event>,
    is_done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keyboard {
    fn start() -> Self {
        let (sender, events) = unbounded_channel();
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        Self {
            events,
            is_done,
            thread: Some(std::thread::spawn(move || read_keys(&sender, &done))),
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported; it does not matter any more.
            let _ = thread.join();
        }
    }
}

fn read_keys(events: &UnboundedSender<Event>, is_done: &AtomicBool) {
    while !is_done.load(Ordering::Acquire) {
        let event = match event::poll(KEY_WAIT) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        match event {
            Ok(event) => {
                if events.send(event).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the keyboard cannot be read");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_quit_and_scroll() {
        let key = |code, modifiers| wish(KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Wish::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Wish::Nothing);
        assert_eq!(key(KeyCode::Up, KeyModifiers::NONE), Wish::Scroll(-1));
        let top = key(KeyCode::Home, KeyModifiers::NONE);
        let Wish::Scroll(by) = top else {
            panic!("{top:?}");
        };
        assert_eq!(5_usize.saturating_add_signed(by), 0);
    }
}
