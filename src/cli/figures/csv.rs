//! Tables as CSV: what a figure rests on, written once and read back for everything that is said of it.

use std::fmt::Display;
use std::path::Path;
use std::{fs, io};

/// A header and rows of as many cells. Cells hold no commas, quotes or ends of lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One row, by column names.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    cells: &'a [String],
    /// In the file.
    line: usize,
}

impl Table {
    /// Without rows.
    pub fn new(header: &[&str]) -> Table {
        Table { header: header.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, cells: &[&dyn Display]) {
        let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        assert_eq!(cells.len(), self.header.len(), "a row has a cell for each column");
        assert!(cells.iter().all(|cell| !cell.contains([',', '"', '\n', '\r'])), "{cells:?}: not for CSV");
        self.rows.push(cells);
    }

    /// The rows in their order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().enumerate().map(|(i, cells)| Row { table: self, cells, line: i + 2 })
    }

    /// Writes the file.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let lines = std::iter::once(&self.header).chain(&self.rows).map(|cells| cells.join(",") + "\n");
        fs::write(file, lines.collect::<String>())
    }

    /// Reads a file that [`Table::write`] has written, or somebody by hand.
    pub fn read(file: &Path) -> Result<Table, String> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// Reads the text.
    pub fn parse(text: &str) -> Result<Table, String> {
        let mut lines = text.lines().map(|line| line.split(',').map(|cell| cell.trim().to_owned()).collect());
        let header: Vec<String> = lines.next().ok_or("it is empty")?;
        let rows: Vec<Vec<String>> = lines.collect();
        match rows.iter().position(|row| row.len() != header.len()) {
            Some(i) => Err(format!("line {}: {} cells are wanted, one per column", i + 2, header.len())),
            None => Ok(Table { header, rows }),
        }
    }
}

impl<'a> Row<'a> {
    /// A cell. Errors: there is no such column.
    pub fn text(&self, column: &str) -> Result<&'a str, String> {
        let at = self.table.header.iter().position(|name| name == column);
        at.map(|at| self.cells[at].as_str()).ok_or_else(|| format!("there is no column {column}"))
    }

    /// A cell that holds a number.
    pub fn number(&self, column: &str) -> Result<f64, String> {
        let text = self.text(column)?;
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| format!("line {}: {column} is `{text}`, no number", self.line))
    }
}
