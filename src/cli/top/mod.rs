//! `lockgate top`: the locks of a running Lockgate, live, on a terminal; once, as a table, where there is none.

mod snapshot;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::FAILURE;
use super::client::{Client, Place};
use super::table::table;
use crate::domain::WallClock;
use snapshot::{Snapshot, look};
use view::{LOCK_HEAD, Press, View, lock_cells};

/// Connecting may take so long.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Shows, and looks again `every` so often, until `q`.
pub(super) fn top(place: &Place, every: Duration) -> ExitCode {
    let done = match io::stdout().is_terminal() && io::stdin().is_terminal() {
        true => live(place, every),
        false => once(place),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockgate: {place}: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

fn now_ms() -> u64 {
    WallClock::default().unix_us() / 1000
}

fn once(place: &Place) -> io::Result<()> {
    let mut view = View::new(place.to_string());
    view.snapshot = look(&mut place.connect(CONNECT_MAX)?, None, now_ms())?;
    let rows: Vec<Vec<String>> = view.locks().into_iter().map(|lock| lock_cells(lock).to_vec()).collect();
    print!("{}", table(&LOCK_HEAD, &[2, 6], &rows));
    Ok(())
}

fn live(place: &Place, every: Duration) -> io::Result<()> {
    // The first look shows an error as a line, not on a screen that is gone at once.
    let mut client = Some(place.connect(CONNECT_MAX)?);
    let mut view = View::new(place.to_string());
    let mut terminal = ratatui::init();
    let mut shown = || -> io::Result<()> {
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                refresh(place, &mut client, &mut view, every);
                next = Instant::now() + every;
            }
            terminal.draw(|frame| view.draw(frame))?;
            if !event::poll(next.saturating_duration_since(Instant::now()))? {
                continue;
            }
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let press = match key.code {
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Char(letter) => Press::Letter(letter),
                KeyCode::Enter => Press::Enter,
                KeyCode::Esc => Press::Escape,
                KeyCode::Backspace => Press::Backspace,
                KeyCode::Up => Press::Up,
                KeyCode::Down => Press::Down,
                _ => continue,
            };
            let before = view.selected();
            if view.pressed(press) {
                return Ok(());
            }
            if view.selected() != before {
                next = Instant::now();
            }
        }
    };
    let done = shown();
    ratatui::restore();
    done
}

/// Looks again; a Lockgate that has gone is tried anew at the next look.
fn refresh(place: &Place, client: &mut Option<Client>, view: &mut View, every: Duration) {
    let looked = client.take().map_or_else(|| place.connect(CONNECT_MAX.min(every)), Ok).and_then(|mut open| {
        let snapshot = look(&mut open, view.selected().as_deref(), now_ms())?;
        *client = Some(open);
        Ok(snapshot)
    });
    match looked {
        Ok(snapshot) => {
            let Snapshot { granted, uptime_s, .. } = view.snapshot;
            let seconds = snapshot.uptime_s.saturating_sub(uptime_s);
            let is_same = uptime_s > 0 && snapshot.granted >= granted;
            if is_same && seconds > 0 {
                view.rate = Some((snapshot.granted - granted) as f64 / seconds as f64);
            }
            view.snapshot = snapshot;
            view.trouble = None;
        }
        Err(error) => view.trouble = Some(error.to_string()),
    }
}
