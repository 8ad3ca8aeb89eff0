//! The screen as a function of what is shown.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::view::{Reader, Row, View};

/// What does not move.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    pub(super) addresses: String,
    pub(super) uptime_s: u64,
}

/// Lines of the log below the table, if there is room.
const LOG_LINES: u16 = 4;
/// A screen lower than this shows no log.
const HIGH_ENOUGH: u16 = 18;

const HEADINGS: [&str; 10] = [
    "part", "first", "last", "size", "in/s", "out/s", "group", "receiver", "lvl", "lag",
];
const WIDTHS: [Constraint; 10] = [
    Constraint::Length(5),
    Constraint::Length(8),
    Constraint::Length(8),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(9),
    Constraint::Min(8),
    Constraint::Length(3),
    Constraint::Length(6),
];

/// Draws one frame; `scroll` is the first row of the table, and what it can be at most is returned.
pub(super) fn render(
    frame: &mut Frame<'_>,
    frozen: &Frozen,
    view: &View,
    log: &[String],
    scroll: usize,
) -> usize {
    let area = frame.area();
    let log_height = match area.height {
        HIGH_ENOUGH.. => LOG_LINES,
        _ => 0,
    };
    let [head, totals, table, tail, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(log_height),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(heading(frozen, head), head);
    frame.render_widget(Line::from(summary(view)), totals);
    // The headings take a line of the table.
    let room = usize::from(table.height.saturating_sub(1));
    let most = view.rows.len().saturating_sub(room);
    let scroll = scroll.min(most);
    frame.render_widget(rows(view, scroll, room), table);
    let log = log.iter().skip(log.len().saturating_sub(log_height.into()));
    let log: Vec<Line<'_>> = log.map(|line| Line::from(line.as_str()).dim()).collect();
    frame.render_widget(Paragraph::new(log), tail);
    frame.render_widget(footer(view, scroll, room), foot);
    most
}

fn heading(frozen: &Frozen, area: Rect) -> Paragraph<'static> {
    let up = frozen.uptime_s;
    let up = format!("up {:02}:{:02}:{:02}", up / 3600, up / 60 % 60, up % 60);
    let name = "eventhubs-emulator";
    let used = name.len() + 2 + frozen.addresses.len();
    let gap = usize::from(area.width)
        .saturating_sub(used + up.len())
        .max(1);
    Paragraph::new(Line::from(vec![
        Span::from(name).bold(),
        Span::from(format!("  {}{}", frozen.addresses, " ".repeat(gap))),
        Span::from(up),
    ]))
}

fn summary(view: &View) -> Vec<Span<'static>> {
    let figures = [
        (view.connections.to_string(), "connections"),
        (view.receivers.to_string(), "receivers"),
        (rate(view.incoming), "events/s in"),
        (rate(view.outgoing), "out"),
        (bytes(view.bytes), "kept"),
        (rate(view.blob_requests), "blob req/s"),
    ];
    let spans = figures.into_iter().enumerate().flat_map(|(index, figure)| {
        let (number, what) = figure;
        let gap = if index == 0 { "" } else { "  " };
        [
            Span::from(gap),
            Span::from(number).bold(),
            Span::from(format!(" {what}")),
        ]
    });
    spans.collect()
}

fn rows(view: &View, scroll: usize, room: usize) -> Table<'static> {
    let right = |index: usize| matches!(index, 1..=5 | 8 | 9);
    let cells = |texts: [String; 10]| {
        let cells = texts.into_iter().enumerate().map(move |(index, text)| {
            let line = Line::from(text);
            Cell::from(if right(index) {
                line.right_aligned()
            } else {
                line
            })
        });
        TableRow::new(cells)
    };
    let headings = cells(HEADINGS.map(str::to_owned)).style(Style::new().reversed());
    let shown = view.rows.iter().skip(scroll).take(room);
    let shown = shown.map(|row| match row {
        Row::Hub {
            name,
            partitions,
            receivers,
        } => {
            let text = format!("{name}  {partitions} partitions, {receivers} receivers");
            TableRow::new([Cell::from(Line::from(text).bold().cyan()).column_span(10)])
        }
        Row::Partition {
            id,
            first,
            last,
            bytes: size,
            incoming,
            outgoing,
            reader,
        } => {
            let [group, name, level, lag] = of_reader(reader.as_ref());
            let is_idle = *incoming == 0.0 && *outgoing == 0.0 && reader.is_none();
            let row = cells([
                format!("  {id}"),
                count(*first),
                if *last < 0 {
                    "-".to_owned()
                } else {
                    count(*last)
                },
                bytes(*size),
                rate(*incoming),
                rate(*outgoing),
                group,
                name,
                level,
                lag,
            ]);
            if is_idle {
                row.style(Style::new().dim())
            } else {
                row
            }
        }
        Row::Reader(reader) => {
            let [group, name, level, lag] = of_reader(Some(reader));
            let none = String::new;
            cells([
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
                group,
                name,
                level,
                lag,
            ])
        }
    });
    Table::new(shown, WIDTHS).header(headings).column_spacing(1)
}

fn of_reader(reader: Option<&Reader>) -> [String; 4] {
    let Some(reader) = reader else {
        return Default::default();
    };
    [
        reader.group.clone(),
        reader.name.clone(),
        reader
            .level
            .map_or_else(|| "-".to_owned(), |level| level.to_string()),
        count(reader.lag),
    ]
}

fn footer(view: &View, scroll: usize, room: usize) -> Line<'static> {
    let end = (scroll + room).min(view.rows.len());
    let place = match view.rows.len() > room {
        true => format!("  rows {} to {end} of {}", scroll + 1, view.rows.len()),
        false => String::new(),
    };
    Line::from(format!("q quits, arrows and pages scroll{place}")).dim()
}

/// At most six characters.
fn rate(value: f64) -> String {
    match value {
        v if v <= 0.0 => "0".to_owned(),
        v if v < 10.0 => format!("{v:.1}"),
        v => count(v.round() as i64),
    }
}

/// At most six characters for what is shorter than a million million.
fn count(value: i64) -> String {
    let v = value as f64;
    match value {
        ..100_000 => value.to_string(),
        100_000..1_000_000 => format!("{:.0}k", v / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", v / 1e6),
        _ => format!("{:.1}G", v / 1e9),
    }
}

fn bytes(value: usize) -> String {
    const UNITS: [&str; 4] = ["B", "K", "M", "G"];
    let mut size = value as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match unit {
        0 => format!("{value}{name}"),
        _ => format!("{size:.1}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::tests::statuses;
    use super::*;

    fn screen(view: &View, width: u16, height: u16, scroll: usize) -> (Vec<String>, usize) {
        let frozen = Frozen {
            addresses: "amqp 127.0.0.1:5672  blobs 127.0.0.1:10000".to_owned(),
            uptime_s: 3723,
        };
        let log: Vec<String> = (0..9).map(|n| format!("log line {n}")).collect();
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut most = 0;
        terminal
            .draw(|frame| most = render(frame, &frozen, view, &log, scroll))
            .unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(width.into());
        let text = |line: &[ratatui::buffer::Cell]| {
            let text: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
            text.trim_end().to_owned()
        };
        (lines.map(text).collect(), most)
    }

    async fn view() -> View {
        let (before, after) = statuses().await;
        View::new(Some((&before, Duration::from_secs(1))), &after)
    }

    #[tokio::test]
    async fn eighty_by_twenty_four_hold_everything() {
        let (lines, most) = screen(&view().await, 80, 24, 0);
        assert_eq!(most, 0);
        let expected = [
            "eventhubs-emulator  amqp 127.0.0.1:5672  blobs 127.0.0.1:10000       up 01:02:03",
            "2 connections  2 receivers  2500 events/s in  1500 out  ",
            "part     first     last   size   in/s  out/s group     receiver       lvl    lag",
            "orders  1 partitions, 0 receivers",
            "  0          0        -     0B      0      0",
            "telemetry  3 partitions, 2 receivers",
            "  0          0        -     0B      0      0",
            "  1          0     2499",
        ];
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\n{expected}");
        }
        assert!(
            lines[7].ends_with("$default  worker-1         0   1000"),
            "{}",
            lines[7]
        );
        assert!(
            lines[8].ends_with("audit     #8               -      0"),
            "{}",
            lines[8]
        );
        assert_eq!(
            lines[19..],
            [
                "log line 5",
                "log line 6",
                "log line 7",
                "log line 8",
                "q quits, arrows and pages scroll"
            ]
        );
    }

    #[tokio::test]
    async fn a_low_screen_scrolls_and_leaves_the_log_out() {
        let view = view().await;
        let (lines, most) = screen(&view, 80, 8, 99);
        assert_eq!(most, 3);
        assert!(lines[3].starts_with("  0"), "{lines:?}");
        assert!(lines[7].ends_with("rows 4 to 7 of 7"), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("log line")));
        // Nothing is too small.
        for (width, height) in [(1, 1), (5, 2), (40, 3), (300, 100)] {
            screen(&view, width, height, 0);
        }
    }

    #[test]
    fn numbers_stay_short() {
        for (value, text) in [
            (0, "0"),
            (99_999, "99999"),
            (123_456, "123k"),
            (1_234_567, "1.23M"),
            (999_999_999, "1000.00M"),
            (5_000_000_000, "5.0G"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!(
            (rate(0.0), rate(0.25), rate(1234.4)),
            ("0".into(), "0.2".into(), "1234".into())
        );
        assert_eq!(
            (bytes(999), bytes(1024), bytes(3 << 30)),
            ("999B".into(), "1.0K".into(), "3.0G".into())
        );
    }
}
