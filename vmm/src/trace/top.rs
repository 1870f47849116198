//! `trace --top`: the busiest methods, as it happens.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use binder_trace::filter::Filter;
use binder_trace::model::Call;
use binder_trace::recording::{Lost, Record};
use binder_trace::summary::Summary;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate};
use crossterm::{cursor, execute, queue};

use super::input::Sources;
use super::{Problems, picks};

/// Time between two pictures.
const REFRESH: Duration = Duration::from_millis(500);

/// Calls between the reader and the picture; the reader waits when they are not taken.
const BACKLOG: usize = 4096;

/// What the reader tells.
enum News {
    Call(Box<Call>),
    /// Guest time so far, and what was lost on the way.
    Time(Duration, Lost),
    End(Problems),
}

/// Shows the table until `q`, or once where stdout is no terminal.
pub fn show(sources: Sources, filter: Option<Filter>) -> io::Result<Problems> {
    let (tell, news) = mpsc::sync_channel(BACKLOG);
    // It ends when nobody listens any more, at its next word.
    thread::Builder::new().name("trace-reader".into()).spawn(move || read(sources, filter, &tell))?;
    let mut top = Top::default();
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        while let Ok(item) = news.recv() {
            top.take(item);
        }
        if top.lost != Lost::default() {
            writeln!(io::stdout(), "... {} lost ...", top.lost)?;
        }
        let lines = top.summary.table();
        lines.iter().try_for_each(|line| writeln!(io::stdout(), "{line}"))?;
        return Ok(top.problems);
    }
    let _screen = Screen::enter()?;
    top.watch(&news)?;
    Ok(top.problems)
}

fn read(mut sources: Sources, filter: Option<Filter>, tell: &mpsc::SyncSender<News>) {
    let mut told = Duration::ZERO;
    while let Some((index, record, ended)) = sources.next() {
        if let Some(call) = ended.filter(|call| picks(filter.as_ref(), call))
            && tell.send(News::Call(Box::new(call))).is_err()
        {
            return;
        }
        let is_news = match &record {
            Record::Event(event) if event.at > told => {
                told = event.at;
                true
            }
            Record::Lost(_) => true,
            _ => false,
        };
        if is_news && tell.send(News::Time(told, sources.model(index).lost())).is_err() {
            return;
        }
    }
    let (open, problems) = sources.finish();
    for call in open.into_iter().filter(|call| picks(filter.as_ref(), call)) {
        let _ = tell.send(News::Call(Box::new(call)));
    }
    let _ = tell.send(News::End(problems));
}

/// What is shown.
#[derive(Default)]
struct Top {
    summary: Summary,
    time: Duration,
    lost: Lost,
    paused: bool,
    ended: bool,
    problems: Problems,
    order: Order,
}

/// By what the lines are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Calls,
    Errors,
    Bytes,
    Slowest,
}

impl Top {
    fn take(&mut self, news: News) {
        match news {
            News::Call(call) => self.summary.call(&call),
            News::Time(time, lost) => (self.time, self.lost) = (time, lost),
            News::End(problems) => (self.ended, self.problems) = (true, problems),
        }
    }

    fn watch(&mut self, news: &Receiver<News>) -> io::Result<()> {
        let mut drawn: Option<Instant> = None;
        loop {
            if drawn.is_none_or(|at| at.elapsed() >= REFRESH) {
                self.draw()?;
                drawn = Some(Instant::now());
            }
            while event::poll(Duration::ZERO)? {
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
                        match key.code {
                            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                            KeyCode::Char('c') if interrupt => return Ok(()),
                            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
                            KeyCode::Char('r') => self.summary = Summary::default(),
                            KeyCode::Char('c') => self.order = Order::Calls,
                            KeyCode::Char('e') => self.order = Order::Errors,
                            KeyCode::Char('b') => self.order = Order::Bytes,
                            KeyCode::Char('s') => self.order = Order::Slowest,
                            _ => {}
                        }
                        drawn = None;
                    }
                    Event::Resize(..) => drawn = None,
                    _ => {}
                }
            }
            if self.paused || self.ended {
                // The keyboard is all that can change something.
                event::poll(REFRESH)?;
                continue;
            }
            match news.recv_timeout(Duration::from_millis(20)) {
                Ok(item) => {
                    self.take(item);
                    // What has come meanwhile costs no picture each.
                    let until = Instant::now() + Duration::from_millis(100);
                    while Instant::now() < until
                        && let Ok(item) = news.try_recv()
                    {
                        self.take(item);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.ended = true,
            }
        }
    }

    fn draw(&self) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        let (width, height) = (usize::from(width), usize::from(height));
        let state = if self.ended {
            "ended"
        } else if self.paused {
            "paused"
        } else {
            "live"
        };
        let calls: u64 = self.summary.lines().iter().map(|(_, line)| line.calls).sum();
        let lost = if self.lost == Lost::default() { String::new() } else { format!(", {} lost", self.lost) };
        let head = format!(
            "bindervm trace --top: {state}, guest time {:.3} s, {calls} calls{lost}",
            self.time.as_secs_f64()
        );
        let keys = "q quit  p pause  r reset  sort by: c calls  e errors  b bytes  s slowest";
        let table = self.table(width);
        let mut out = io::stdout().lock();
        // One write between two marks: a terminal that knows them shows no half picture, and one that
        // does not sees lines replaced in place, never an empty screen.
        queue!(out, BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for (row, line) in
            [head.as_str(), keys, ""].into_iter().chain(table.iter().map(String::as_str)).enumerate()
        {
            if row >= height {
                break;
            }
            let line: String = line.chars().take(width).collect();
            let bold = row == 0 || row == 3;
            let attribute = if bold { Attribute::Bold } else { Attribute::Reset };
            queue!(out, cursor::MoveTo(0, row as u16), SetAttribute(attribute), Print(line))?;
            queue!(out, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
        }
        let used = (table.len() + 3).min(height);
        if used < height {
            queue!(out, cursor::MoveTo(0, used as u16), Clear(ClearType::FromCursorDown))?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }

    fn table(&self, width: usize) -> Vec<String> {
        match self.order {
            Order::Calls => self.summary.table_by(|line| line.calls, width),
            Order::Errors => self.summary.table_by(|line| line.errors, width),
            Order::Bytes => self.summary.table_by(|line| line.bytes, width),
            Order::Slowest => self.summary.table_by(|line| line.total.value_at_quantile(0.99), width),
        }
    }
}

/// The terminal's other screen, without a cursor; gone when dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(Screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}
