//! `duramen tuple`: operations on the replicated tuple space.

use std::time::Duration;

use duramen::client::tuples::{Wanted, wait_for_tuple};
use duramen::client::{Client, Outcome};
use duramen::hex;
use duramen::service::{Field, FieldType, Pattern, TupleOperation, TupleReply};

use super::as_client::{AsClient, reply_of};
use super::{CliError, emit};

/// As whom, and what.
#[derive(clap::Args, Debug, PartialEq)]
#[command(
    after_help = "Fields: 42 is an integer, other words are texts; int:42, str:42 and bytes:0aff say which (bytes in hexadecimal).\n\
    Templates: fields as they must be; '*' for any field; '?int', '?str' or '?bytes' for any field of that type."
)]
pub struct Args {
    #[command(flatten)]
    pub as_client: AsClient,
    #[command(subcommand)]
    pub operation: Operation,
}

/// One operation.
#[derive(clap::Subcommand, Debug, PartialEq)]
pub enum Operation {
    /// Make a space
    Create {
        /// Its name
        space: String,
    },
    /// Remove a space with all its tuples
    Delete {
        /// Its name
        space: String,
    },
    /// Print the spaces: name, number of tuples, number of operations that wait
    List,
    /// Put a tuple in
    Out {
        /// The space
        space: String,
        /// Its fields
        #[arg(required = true, allow_negative_numbers = true, value_parser = field)]
        tuple: Vec<Field>,
    },
    /// Print the oldest tuple that matches, if there is one
    Rdp {
        #[command(flatten)]
        what: Template,
    },
    /// Take the oldest tuple that matches out and print it, if there is one
    Inp {
        #[command(flatten)]
        what: Template,
    },
    /// Print the oldest tuple that matches; if there is none, wait for the first
    Rd {
        #[command(flatten)]
        what: Template,
        /// Milliseconds to wait at most [default: as long as it takes]
        #[arg(long, value_name = "MS")]
        wait_ms: Option<u64>,
    },
    /// Take the oldest tuple that matches out and print it; if there is none, wait for the first
    In {
        #[command(flatten)]
        what: Template,
        /// Milliseconds to wait at most [default: as long as it takes]
        #[arg(long, value_name = "MS")]
        wait_ms: Option<u64>,
    },
    /// Print all tuples that match, oldest first
    Rdall {
        #[command(flatten)]
        what: Template,
        /// Tuples to print at most
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// Put a tuple in if none matches a template
    Cas {
        /// The space
        space: String,
        /// The template that no tuple may match
        #[arg(long, required = true, num_args = 1.., value_name = "TEMPLATE", allow_negative_numbers = true, value_parser = pattern)]
        unless: Vec<Pattern>,
        /// The tuple
        #[arg(long, required = true, num_args = 1.., value_name = "TUPLE", allow_negative_numbers = true, value_parser = field)]
        out: Vec<Field>,
    },
}

/// Where to look, and for what.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Template {
    /// The space
    pub space: String,
    /// What each field must be
    #[arg(required = true, allow_negative_numbers = true, value_parser = pattern)]
    pub template: Vec<Pattern>,
}

/// Does it and prints the result. No match, none in time, and a cas that found one, exit with 1.
pub fn run(args: Args) -> Result<(), CliError> {
    let client = args.as_client.connect()?;
    let write = |operation: TupleOperation| reply(client.session().invoke(operation.encode(), None));
    let read = |operation: TupleOperation| reply(client.read(operation.encode(), None));
    let waited = |takes, what, wait_ms| waited((&client, args.as_client.patience()), takes, what, wait_ms);
    match &args.operation {
        Operation::Create { space } => done(space, write(TupleOperation::Create { space })?),
        Operation::Delete { space } => done(space, write(TupleOperation::Delete { space })?),
        Operation::Out { space, tuple } => done(space, write(TupleOperation::Out { space, tuple })?),
        Operation::Cas { space, unless, out } => {
            done(space, write(TupleOperation::Cas { space, template: unless, tuple: out })?)
        }
        Operation::Rdp { what: Template { space, template } } => {
            done(space, read(TupleOperation::Rdp { space, template })?)
        }
        Operation::Inp { what: Template { space, template } } => {
            done(space, write(TupleOperation::Inp { space, template })?)
        }
        Operation::Rd { what, wait_ms } => done(&what.space, waited(false, what, *wait_ms)?),
        Operation::In { what, wait_ms } => done(&what.space, waited(true, what, *wait_ms)?),
        Operation::Rdall { what, limit } => rdall(&read, what, *limit),
        Operation::List => list(&read),
    }
}

fn waited(
    (client, patience): (&Client, Duration),
    takes: bool,
    what: &Template,
    wait_ms: Option<u64>,
) -> Result<TupleReply, CliError> {
    let limit = wait_ms.map(Duration::from_millis);
    let wanted = Wanted { space: &what.space, template: &what.template, takes };
    match wait_for_tuple(client, wanted, limit, patience) {
        Ok(reply) => Ok(reply),
        Err(outcome) => reply(outcome),
    }
}

/// Prints a tuple that came back; all but success is an error.
fn done(space: &str, reply: TupleReply) -> Result<(), CliError> {
    let failed = |why: String| Err(CliError::Failed(why));
    let space = space.escape_debug();
    match reply {
        TupleReply::Ok => Ok(()),
        TupleReply::Tuple(tuple) => emit(show(&tuple)),
        TupleReply::NoMatch => failed("no tuple matches".into()),
        TupleReply::Present(tuple) => failed(format!("not put: there is {}", show(&tuple))),
        TupleReply::NoSpace => failed(format!("there is no space {space}: `duramen tuple create` makes one")),
        TupleReply::SpaceExists => failed(format!("there is a space {space} already")),
        TupleReply::Malformed(why) => failed(format!("the tuple space takes no such operation: {why}")),
        TupleReply::TimedOut => failed("no tuple matched in that time".into()),
        TupleReply::TooManyWait => failed(format!(
            "as many operations wait as may, {} of one client: end some, or try again later",
            duramen::service::WAITING_PER_CLIENT_MAX
        )),
        TupleReply::TooLarge => {
            let bytes = duramen::service::TUPLE_BYTES_MAX;
            let waiting = duramen::service::WAITING_TEMPLATE_BYTES_MAX;
            failed(format!(
                "a tuple or template has more than {bytes} bytes, or one to wait for more than {waiting}"
            ))
        }
        other => failed(format!("the tuple space answered {other:?}")),
    }
}

/// In as many reads as the bound on a reply makes necessary. Each is consistent; all of them together are not.
fn rdall(
    read: &dyn Fn(TupleOperation) -> Result<TupleReply, CliError>,
    what: &Template,
    limit: u32,
) -> Result<(), CliError> {
    let Template { space, template } = what;
    let (mut after, mut left) = (0, limit);
    while left > 0 {
        let operation = TupleOperation::RdAll { space, template, limit: left, after };
        let (tuples, more_after) = match read(operation)? {
            TupleReply::Tuples { tuples, more_after } => (tuples, more_after),
            other => return done(space, other),
        };
        tuples.iter().try_for_each(|tuple| emit(show(tuple)))?;
        left = left.saturating_sub(tuples.len() as u32);
        match more_after {
            Some(more) => after = more,
            None => return Ok(()),
        }
    }
    eprintln!("{limit} tuples shown, as many as --limit says; there may be more");
    Ok(())
}

fn list(read: &dyn Fn(TupleOperation) -> Result<TupleReply, CliError>) -> Result<(), CliError> {
    let mut after = String::new();
    loop {
        let (spaces, more) = match read(TupleOperation::List { after: &after, limit: 1000 })? {
            TupleReply::Spaces { spaces, more } => (spaces, more),
            other => return done("", other),
        };
        for space in &spaces {
            let name = space.name.escape_debug();
            emit(format_args!("{name}\t{} tuples\t{} waiting", space.tuples, space.waiting))?;
        }
        match spaces.into_iter().next_back() {
            Some(last) if more => after = last.name,
            _ => return Ok(()),
        }
    }
}

fn reply(outcome: Outcome) -> Result<TupleReply, CliError> {
    Ok(TupleReply::decode(&reply_of(outcome)?)?)
}

/// A field as it is written on the command line.
pub fn field(word: &str) -> Result<Field, String> {
    let int = |digits: &str| digits.parse::<i64>().map_err(|e| format!("{digits:?} is no integer: {e}"));
    if let Some(digits) = word.strip_prefix("int:") {
        return int(digits).map(Field::Int);
    }
    if let Some(text) = word.strip_prefix("str:") {
        return Ok(Field::Text(text.into()));
    }
    if let Some(digits) = word.strip_prefix("bytes:") {
        let bytes =
            from_hex(digits).ok_or_else(|| format!("{digits:?} is no even number of hexadecimal digits"))?;
        return Ok(Field::Bytes(bytes));
    }
    if word == "*" || word.starts_with('?') {
        return Err(format!("that is for templates: the text is str:{word}"));
    }
    match int(word) {
        // A text with leading zeros stays one.
        Ok(value) if value.to_string() == word => Ok(Field::Int(value)),
        _ => Ok(Field::Text(word.into())),
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs =
        digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().and_then(hex::decode::<1>));
    pairs.map(|byte| byte.map(|[byte]| byte)).collect()
}

/// A field of a template as it is written on the command line.
pub fn pattern(word: &str) -> Result<Pattern, String> {
    match word {
        "*" => Ok(Pattern::Any),
        "?int" => Ok(Pattern::Typed(FieldType::Int)),
        "?str" => Ok(Pattern::Typed(FieldType::Text)),
        "?bytes" => Ok(Pattern::Typed(FieldType::Bytes)),
        _ if word.starts_with('?') => Err(format!("types are ?int, ?str and ?bytes; the text is str:{word}")),
        _ => field(word).map(Pattern::Is),
    }
}

/// A tuple in one line, fields with tabs between; each as [`field`] reads it, but for control characters.
pub fn show(tuple: &[Field]) -> String {
    let shown = |of: &Field| match of {
        Field::Int(value) => value.to_string(),
        Field::Bytes(bytes) => format!("bytes:{}", hex::encode(bytes)),
        Field::Text(text) => {
            let plain: String = text
                .chars()
                .map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() })
                .collect();
            let is_text = !text.is_empty() && field(&plain) == Ok(Field::Text(plain.clone()));
            if is_text { plain } else { format!("str:{plain}") }
        }
    };
    tuple.iter().map(shown).collect::<Vec<_>>().join("\t")
}
