//! Reads the import table from ARCHITECTURE.md, so that the page itself is what is checked.

use std::path::Path;

use super::source::RoomImport;

/// What the page says.
pub(super) struct Plan {
    /// The table's rows, in order.
    pub(super) rows: Vec<RoomRow>,
}

/// One room of the import table.
pub(super) struct RoomRow {
    /// The room.
    pub(super) room: String,
    /// Where the page says so.
    pub(super) line: usize,
    /// The remark says that the room is not built yet.
    pub(super) planned: bool,
    may: Vec<AllowedRoom>,
}

/// A room that may be imported, and which of its items; none named: all.
struct AllowedRoom {
    room: String,
    items: Vec<String>,
}

impl Plan {
    /// Reads the page.
    pub(super) fn read() -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
        let text = std::fs::read_to_string(page).expect("ARCHITECTURE.md is there");
        let plan = Self { rows: rows(&text) };
        assert!(plan.rows.len() > 10, "ARCHITECTURE.md: table not found");
        plan
    }

    /// Every room that the page knows.
    pub(super) fn rooms(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.room.as_str()).collect()
    }

    /// Is there a row for this room?
    pub(super) fn has_row(&self, room: &str) -> bool {
        self.rows.iter().any(|row| row.room == room)
    }

    /// Why this import is against the page, if it is.
    pub(super) fn refuses(&self, import: &RoomImport) -> Option<String> {
        let Some(row) = self.rows.iter().find(|row| row.room == import.from) else {
            return Some("ARCHITECTURE.md has no row for the importing room".to_owned());
        };
        let Some(allowed) = row.may.iter().find(|allowed| allowed.room == import.to) else {
            let names: Vec<&str> = row.may.iter().map(|allowed| allowed.room.as_str()).collect();
            return Some(format!("ARCHITECTURE.md:{} allows only {names:?}", row.line));
        };
        let fits = allowed.items.is_empty() || import.item.as_ref().is_some_and(|item| allowed.items.contains(item));
        (!fits).then(|| format!("ARCHITECTURE.md:{} allows only {:?} of it", row.line, allowed.items))
    }

    /// Rows that import a room which does not stand above them.
    pub(super) fn disorder(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (place, row) in self.rows.iter().enumerate() {
            for allowed in &row.may {
                let above = self.rows.iter().take(place).any(|upper| upper.room == allowed.room);
                if !above {
                    let (line, room, to) = (row.line, &row.room, &allowed.room);
                    wrong.push(format!(
                        "ARCHITECTURE.md:{line}: `{room}` may import `{to}`, which does not stand above it"
                    ));
                }
            }
        }
        wrong
    }
}

/// The lines of one section, with their numbers.
fn section<'a>(text: &'a str, heading: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.skip_while(move |(_, line)| *line != heading).skip(1).take_while(|(_, line)| !line.starts_with("## "))
}

fn rows(text: &str) -> Vec<RoomRow> {
    let mut rows: Vec<RoomRow> = Vec::new();
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (line, text) in section(text, "## 4. Which room may import which") {
        if let Some((group, members)) = text.split_once("` = ") {
            groups.push((group.trim_start_matches('`').to_owned(), ticked(members)));
        } else if text.starts_with("| `") {
            let cells: Vec<&str> = text.split('|').map(str::trim).collect();
            let [_, room, may, remark, _] = cells[..] else { panic!("ARCHITECTURE.md:{line}: three cells") };
            let may = allowed(may).into_iter().flat_map(|one| spread(one, &groups)).collect();
            rows.push(RoomRow { room: ticked(room).concat(), line, planned: remark.starts_with("planned"), may });
        }
    }
    rows
}

/// A group's members in its place.
fn spread(one: AllowedRoom, groups: &[(String, Vec<String>)]) -> Vec<AllowedRoom> {
    match groups.iter().find(|(group, _)| *group == one.room) {
        Some((_, members)) => {
            members.iter().map(|room| AllowedRoom { room: room.clone(), items: Vec::new() }).collect()
        }
        None => vec![one],
    }
}

/// The names between back-ticks.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `` `a` `b` (`X`, `Y`) ``: all of a, X and Y of b.
fn allowed(cell: &str) -> Vec<AllowedRoom> {
    let mut found: Vec<AllowedRoom> = Vec::new();
    for part in cell.split_inclusive(')') {
        let (rooms, items) = part.split_once('(').unwrap_or((part, ""));
        found.extend(ticked(rooms).into_iter().map(|room| AllowedRoom { room, items: Vec::new() }));
        if let Some(last) = found.last_mut() {
            last.items = ticked(items);
        }
    }
    found
}
