//! What is shown of a look, and what keys do to it: no terminal in here.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};

use super::snapshot::{Edge, Lock, Snapshot};
use crate::cli::table::{text, time};

/// By what the locks are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Waiters,
    Held,
    Expires,
    Key,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Order::Waiters => Order::Held,
            Order::Held => Order::Expires,
            Order::Expires => Order::Key,
            Order::Key => Order::Waiters,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Order::Waiters => "waiters",
            Order::Held => "held",
            Order::Expires => "expires",
            Order::Key => "key",
        }
    }
}

/// A key that was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Press {
    Letter(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct View {
    pub snapshot: Snapshot,
    /// Grants a second since the look before.
    pub rate: Option<f64>,
    pub order: Order,
    pub filter: String,
    is_typing: bool,
    /// Who waits for whom is shown in place of the locks.
    pub shows_graph: bool,
    selected: usize,
    /// Why the last look failed.
    pub trouble: Option<String>,
    place: String,
}

impl View {
    pub(super) fn new(place: String) -> Self {
        View {
            snapshot: Snapshot::default(),
            rate: None,
            order: Order::Waiters,
            filter: String::new(),
            is_typing: false,
            shows_graph: false,
            selected: 0,
            trouble: None,
            place,
        }
    }

    /// `true` to end.
    pub(super) fn pressed(&mut self, press: Press) -> bool {
        match (self.is_typing, press) {
            (true, Press::Letter(letter)) => self.filter.push(letter),
            (true, Press::Backspace) => drop(self.filter.pop()),
            (true, Press::Enter) => self.is_typing = false,
            (_, Press::Escape) => {
                self.filter.clear();
                self.is_typing = false;
            }
            (false, Press::Letter('q')) => return true,
            (false, Press::Letter('/')) => self.is_typing = true,
            (false, Press::Letter('s')) => self.order = self.order.next(),
            (false, Press::Letter('b')) => self.shows_graph = !self.shows_graph,
            (false, Press::Down | Press::Letter('j')) => self.selected += 1,
            (_, Press::Up) | (false, Press::Letter('k')) => self.selected = self.selected.saturating_sub(1),
            (true, Press::Down) => self.selected += 1,
            (false, _) => {}
        }
        self.selected = self.selected.min(self.locks().len().saturating_sub(1));
        false
    }

    /// The locks to show, in order.
    pub(super) fn locks(&self) -> Vec<&Lock> {
        let wanted = self.filter.to_lowercase();
        let has = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_lowercase().contains(&wanted);
        let mut locks: Vec<&Lock> =
            self.snapshot.locks.iter().filter(|lock| has(&lock.key) || has(&lock.owner) || has(&lock.meta)).collect();
        locks.sort_by(|one, other| {
            let by_order = match self.order {
                Order::Waiters => other.waiters.cmp(&one.waiters),
                Order::Held => other.held_ms.cmp(&one.held_ms),
                Order::Expires => one.ttl_ms.unwrap_or(u64::MAX).cmp(&other.ttl_ms.unwrap_or(u64::MAX)),
                Order::Key => std::cmp::Ordering::Equal,
            };
            by_order.then_with(|| one.key.cmp(&other.key))
        });
        locks
    }

    /// The key whose queue is shown.
    pub(super) fn selected(&self) -> Option<Vec<u8>> {
        self.locks().get(self.selected).map(|lock| lock.key.clone())
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, queue, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(5),
            Constraint::Length(if self.shows_graph { 0 } else { 9 }),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        if self.shows_graph {
            self.draw_graph(frame, body);
        } else {
            self.draw_locks(frame, body);
            self.draw_queue(frame, queue);
        }
        let keys = match (self.is_typing, self.filter.is_empty()) {
            (true, _) => format!("filter: {}_   Enter keeps it, Esc clears it", self.filter),
            (false, true) => "q quit   / filter   s sort   b who blocks whom   ↑↓ choose".to_owned(),
            (false, false) => format!("filter: {}   Esc clears it   s sort   b who blocks whom   q quit", self.filter),
        };
        frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let Snapshot { version, uptime_s, granted, timeouts, deadlocks, waiting, hand_over_p50, hand_over_p99, .. } =
            &self.snapshot;
        let first = match &self.trouble {
            Some(why) => format!("{}: {why}", self.place),
            None => format!("Lockgate {version} at {}, up {}", self.place, time(uptime_s * 1000)),
        };
        let rate = self.rate.map_or(String::new(), |rate| format!(" ({rate:.0}/s)"));
        let second = format!(
            "locks {}{}   waiting {waiting}   granted {granted}{rate}   timed out {timeouts}   deadlocks {deadlocks}   hand-over {hand_over_p50} ms, p99 {hand_over_p99} ms",
            self.snapshot.locks.len(),
            if self.snapshot.is_cut { "+" } else { "" },
        );
        vec![Line::from(first).style(Style::new().add_modifier(Modifier::BOLD)), Line::from(second)]
    }

    fn draw_locks(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.locks().into_iter().map(|lock| {
            let row = Row::new(lock_cells(lock).map(Cell::from));
            if lock.ttl_ms.is_none() { row.style(Style::new().add_modifier(Modifier::ITALIC)) } else { row }
        });
        let widths = [
            Constraint::Fill(3),
            Constraint::Fill(2),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(17),
        ];
        let table = Table::new(rows, widths)
            .header(Row::new(LOCK_HEAD).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(format!("locks, by {}", self.order.name())));
        frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(Some(self.selected)));
    }

    fn draw_queue(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.snapshot.queue.iter().enumerate().map(|(place, waiter)| {
            Row::new([
                (place + 1).to_string(),
                text(&waiter.owner, 60),
                waiter.priority.clone(),
                time(waiter.waited_ms),
                time(waiter.left_ms),
                text(&waiter.node, 40),
            ])
        });
        let widths = [
            Constraint::Length(4),
            Constraint::Fill(2),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Fill(1),
        ];
        let of = self.selected().map_or(String::new(), |key| format!(" for {}", text(&key, 60)));
        let head = Row::new(["", "WAITER", "PRIORITY", "WAITED", "GIVES UP", "NODE"]);
        let table = Table::new(rows, widths)
            .header(head.style(Style::new().add_modifier(Modifier::BOLD)))
            .block(Block::bordered().title(format!("queue{of}")));
        frame.render_widget(table, area);
    }

    fn draw_graph(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines: Vec<Line<'static>> = match self.snapshot.edges.is_empty() {
            true => vec![Line::from("nobody waits")],
            false => chains(&self.snapshot.edges).into_iter().map(Line::from).collect(),
        };
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("who blocks whom")), area);
    }
}

/// The heads of the locks' columns.
pub(super) const LOCK_HEAD: [&str; 7] = ["KEY", "OWNER", "WAITERS", "HELD", "EXPIRES", "PRIORITY", "FENCE"];

/// What stands in them.
pub(super) fn lock_cells(lock: &Lock) -> [String; 7] {
    let fence = if lock.fence == 0 { String::new() } else { lock.fence.to_string() };
    [
        text(&lock.key, 80),
        text(&lock.owner, 60),
        lock.waiters.to_string(),
        lock.held_ms.map_or(String::new(), time),
        lock.ttl_ms.map_or("never".to_owned(), time),
        lock.priority.clone(),
        fence,
    ]
}

/// A tree for each who blocks others and waits for nobody: those who wait for him stand below. Cycles begin with their first name.
pub(super) fn chains(edges: &[Edge]) -> Vec<String> {
    let waits = |name: &[u8]| edges.iter().any(|edge| edge.waiter == name);
    let mut roots: Vec<&[u8]> = edges.iter().map(|edge| &edge.holder[..]).filter(|name| !waits(name)).collect();
    roots.sort_unstable();
    roots.dedup();
    let mut lines = Vec::new();
    let mut shown: Vec<&[u8]> = Vec::new();
    for root in roots {
        lines.push(format!("{} holds", text(root, 60)));
        below(edges, root, 1, &mut shown, &mut lines);
    }
    // What is left over waits in circles.
    for edge in edges {
        if !shown.contains(&&edge.waiter[..]) {
            lines.push(format!("{} (in a circle)", text(&edge.holder, 60)));
            below(edges, &edge.holder, 1, &mut shown, &mut lines);
        }
    }
    lines
}

fn below<'a>(edges: &'a [Edge], name: &[u8], depth: usize, shown: &mut Vec<&'a [u8]>, lines: &mut Vec<String>) {
    for edge in edges.iter().filter(|edge| edge.holder == name) {
        let Edge { waiter, resource, waited_ms, .. } = edge;
        let step = "  ".repeat(depth);
        lines.push(format!("{step}└ {}: {} waits since {}", text(resource, 60), text(waiter, 60), time(*waited_ms)));
        // Nobody is shown twice with all that is below, however many paths lead there.
        if !shown.contains(&&waiter[..]) {
            shown.push(waiter);
            below(edges, waiter, depth + 1, shown, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::top::snapshot::Waiter;

    fn lock(key: &str, owner: &str, waiters: u64, held_ms: u64) -> Lock {
        let (key, owner, held_ms) = (key.into(), owner.into(), Some(held_ms));
        Lock {
            key,
            owner,
            waiters,
            held_ms,
            ttl_ms: Some(30_000),
            fence: 7,
            priority: "normal".into(),
            ..Lock::default()
        }
    }

    fn view() -> View {
        let mut view = View::new("here".into());
        view.snapshot = Snapshot {
            locks: vec![
                lock("orders:1", "ann", 0, 9000),
                lock("deploy", "bob", 2, 500),
                lock("orders:2", "cat", 1, 100),
            ],
            queue: vec![Waiter { owner: b"dan".to_vec(), waited_ms: 1500, ..Waiter::default() }],
            edges: vec![edge("dan", "deploy", "bob"), edge("eve", "orders:2", "dan")],
            ..Snapshot::default()
        };
        view
    }

    fn edge(waiter: &str, resource: &str, holder: &str) -> Edge {
        Edge { waiter: waiter.into(), resource: resource.into(), holder: holder.into(), waited_ms: 2000 }
    }

    fn keys(view: &View) -> Vec<String> {
        view.locks().iter().map(|lock| text(&lock.key, 60)).collect()
    }

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(100, 24)).expect("a screen");
        terminal.draw(|frame| view.draw(frame)).expect("draws");
        let buffer = terminal.backend().buffer().clone();
        let lines = buffer.content().chunks(100).map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_order_goes_round() {
        let mut view = view();
        assert_eq!(keys(&view), ["deploy", "orders:2", "orders:1"]);
        view.pressed(Press::Letter('s'));
        assert_eq!(keys(&view), ["orders:1", "deploy", "orders:2"], "held longest first");
        for _ in 0..2 {
            view.pressed(Press::Letter('s'));
        }
        assert_eq!(keys(&view), ["deploy", "orders:1", "orders:2"]);
    }

    #[test]
    fn a_filter_looks_at_keys_and_owners() {
        let mut view = view();
        for letter in "/ORD".chars() {
            view.pressed(Press::Letter(letter));
        }
        assert_eq!(keys(&view), ["orders:2", "orders:1"]);
        view.pressed(Press::Enter);
        assert!(!view.pressed(Press::Down) && view.selected() == Some(b"orders:1".to_vec()));
        view.pressed(Press::Down);
        assert_eq!(view.selected(), Some(b"orders:1".to_vec()), "there is nothing below");
        view.pressed(Press::Escape);
        assert_eq!(keys(&view).len(), 3);
        assert!(view.pressed(Press::Letter('q')));
    }

    #[test]
    fn the_screen_shows_locks_and_the_queue_of_the_one_that_is_chosen() {
        let told = screen(&view());
        for part in ["locks, by waiters", "KEY", "deploy", "bob", "queue for deploy", "dan", "1.5s", "q quit"] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
    }

    #[test]
    fn one_key_shows_who_blocks_whom() {
        let mut view = view();
        view.pressed(Press::Letter('b'));
        let told = screen(&view);
        for part in
            ["who blocks whom", "bob holds", "  └ deploy: dan waits since 2.0s", "    └ orders:2: eve waits since 2.0s"]
        {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        let circle = [edge("a", "x", "b"), edge("b", "y", "a")];
        assert_eq!(
            chains(&circle),
            [
                "b (in a circle)",
                "  └ x: a waits since 2.0s",
                "    └ y: b waits since 2.0s",
                "      └ x: a waits since 2.0s"
            ]
        );
    }
}
