//! The text of a story: blocks of command lines, each read word by word. Nothing is guessed.

use crate::types::ReplicaId;
use std::collections::VecDeque;

/// What ends the commands of a block.
const RULE: &str = "----";

/// Commands and what is seen while they run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// With their line numbers, from 1.
    pub commands: Vec<(usize, String)>,
    /// The line of `----`.
    pub rule: usize,
    /// The lines below it.
    pub expected: Vec<String>,
}

/// Where a story fails.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// Why.
    pub what: What,
}

/// Why a story fails.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum What {
    #[error("a story begins with a comment: title and source")]
    NoTitle,
    #[error("commands without `----` and what is seen below it")]
    NoRule,
    #[error("`----` without commands above it")]
    NoCommands,
    #[error("there is no command `{0}`")]
    NoSuchCommand(String),
    #[error("{0} is missing")]
    Missing(String),
    #[error("`{0}` is not understood here")]
    Extra(String),
    #[error("`{0}=` stands twice")]
    Twice(String),
    #[error("`{value}` is no {wanted}")]
    NoSuch { value: String, wanted: &'static str },
    #[error("the first command is `cluster`")]
    NoCluster,
    #[error("there is a cluster already")]
    SecondCluster,
    #[error("no group has n={n} f={f}")]
    NoGroup { n: u32, f: u32 },
    #[error("replica {0} is down")]
    Down(ReplicaId),
    #[error("replica {0} is up")]
    Up(ReplicaId),
    #[error("replica {0} does not lie: `corrupt {0}` comes first")]
    Honest(ReplicaId),
    #[error("replica {at}: {fact} is {is}")]
    Untrue { at: String, fact: String, is: String },
    #[error("expected {expected}, seen {seen}")]
    Differs { expected: String, seen: String },
    #[error("{0}")]
    Panic(String),
}

/// Takes a story apart.
pub fn parse(text: &str) -> Result<Vec<Block>, Error> {
    let mut blocks = Vec::new();
    let mut commands = Vec::new();
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim_end())).peekable();
    if !lines.peek().is_some_and(|(_, line)| line.starts_with('#')) {
        return Err(Error { line: 1, what: What::NoTitle });
    }
    while let Some((line, text)) = lines.next() {
        if text == RULE {
            if commands.is_empty() {
                return Err(Error { line, what: What::NoCommands });
            }
            let (commands, rule) = (std::mem::take(&mut commands), line);
            let mut expected = Vec::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
                expected.push(line.to_string());
            }
            blocks.push(Block { commands, rule, expected });
        } else if !text.is_empty() && !text.starts_with('#') {
            commands.push((line, text.to_string()));
        }
    }
    match commands.first() {
        Some((line, _)) => Err(Error { line: *line, what: What::NoRule }),
        None => Ok(blocks),
    }
}

/// The words of one command, taken one by one; [`Words::end`] refuses what nobody took.
pub struct Words<'a> {
    /// The command.
    pub name: &'a str,
    plain: VecDeque<&'a str>,
    keyed: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    /// Splits a line at its spaces.
    pub fn new(text: &'a str) -> Result<Self, What> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let (mut plain, mut keyed) = (VecDeque::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some((key, _)) if keyed.iter().any(|(k, _)| *k == key) => {
                    return Err(What::Twice(key.to_string()));
                }
                Some(pair) => keyed.push(pair),
                None => plain.push_back(word),
            }
        }
        Ok(Self { name, plain, keyed })
    }

    /// The next word without a key, if there is one.
    pub fn maybe_word(&mut self) -> Option<&'a str> {
        self.plain.pop_front()
    }

    /// The next word without a key.
    pub fn word(&mut self, what: &str) -> Result<&'a str, What> {
        self.maybe_word().ok_or_else(|| What::Missing(what.to_string()))
    }

    /// What stands behind `key=`, if it stands there.
    pub fn maybe(&mut self, key: &str) -> Option<&'a str> {
        let at = self.keyed.iter().position(|(k, _)| *k == key)?;
        Some(self.keyed.remove(at).1)
    }

    /// What stands behind `key=`.
    pub fn value(&mut self, key: &str) -> Result<&'a str, What> {
        self.maybe(key).ok_or_else(|| What::Missing(format!("`{key}=`")))
    }

    /// A number behind `key=`, if it stands there; `max` is the greatest.
    pub fn maybe_number(&mut self, key: &str) -> Result<Option<u64>, What> {
        self.maybe(key).map(number).transpose()
    }

    /// A number behind `key=`.
    pub fn number(&mut self, key: &str) -> Result<u64, What> {
        number(self.value(key)?)
    }

    /// `yes` or `no` behind `key=`, if it stands there.
    pub fn maybe_flag(&mut self, key: &str) -> Result<Option<bool>, What> {
        match self.maybe(key) {
            None => Ok(None),
            Some("yes") => Ok(Some(true)),
            Some("no") => Ok(Some(false)),
            Some(value) => Err(What::NoSuch { value: value.to_string(), wanted: "`yes` or `no`" }),
        }
    }

    /// Nothing is left.
    pub fn end(self) -> Result<(), What> {
        let keyed = self.keyed.iter().map(|(k, v)| format!("{k}={v}"));
        match self.plain.iter().map(|w| w.to_string()).chain(keyed).next() {
            Some(word) => Err(What::Extra(word)),
            None => Ok(()),
        }
    }
}

/// A number; `max` is the greatest.
pub fn number(value: &str) -> Result<u64, What> {
    match value {
        "max" => Ok(u64::MAX),
        _ => value.parse().map_err(|_| What::NoSuch { value: value.to_string(), wanted: "number" }),
    }
}
