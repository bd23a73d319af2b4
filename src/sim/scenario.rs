//! Text scenarios: protocol stories that are read without code (`scenarios/*.txt`), told by a simulated cluster.
//!
//! ```text
//! # Title and source: a story begins with a comment.
//! cluster n=4 f=1 model=byzantine
//! order at=0 x
//! run 20
//! ----
//! 0 1 2 3: executes 1=x
//!
//! crash 0 tail=lost
//! ----
//! 0: crashes
//! ```
//!
//! A block is commands, `----`, and what is seen while they run, up to a blank line: one line per replica, equal ones
//! together, so that the order in which replicas came to the same point does not matter. Then one line per client that
//! was answered. Nothing is seen of replicas that may lie (`corrupt`). Times are virtual milliseconds; one heartbeat
//! is 10, the first timeout 100. Places start at 1, view 1 is led by replica 0.
//!
//! | command | does |
//! |---|---|
//! | `cluster n= f= model=byzantine\|crash [votes=forgotten] [halts=yes]` | the first one; `halts=yes`: a replica may |
//! | … `[checkpoints=PERIOD]` | all take checkpoints at the same places, and recycle what two of them cover |
//! | `client`, `request C [count=]`, `answered C` | opens a session; has so many more requests; waits for all its answers |
//! | `replay C to= [times=]` | the client's last group reaches these again |
//! | `order at= NAME` | a no-op of that replica's own, so that its batch has a name |
//! | `order at= count=` | so many, one after the other executed everywhere they can be |
//! | `drop\|hold\|pass\|forbid KINDS [from=] [to=] [view=] [place=] [above=]` | what happens to messages; the first rule that fits decides |
//! | `clear`, `release [KINDS] [from=] [to=]` | forgets these rules; delivers what was held |
//! | `cut\|join R`, `cut\|join from= to=` | a replica's links, or one direction of some |
//! | `run MS`, `until FACTS [at=] [within=MS]` | lets time pass; until the facts hold at least |
//! | `expect FACTS [at=]`, `value PLACE NAME` | fails unless they hold exactly; unless that was executed there |
//! | `crash R tail=lost\|kept`, `restart R [new-era=yes]`, `power-loss tail=` | `power-loss` crashes all |
//! | `hold-disk R`, `free-disk R` | no write of these completes, or all do |
//! | `skew R ms=`, `read at=` | sets a wall clock forward; asks the leader of crash mode for a read |
//! | `wipe R`, `spoil-checkpoint R` | crashes and loses its log: a learner from then on; its newest checkpoint is damaged |
//! | `rot R place=` | crashes, and of its records of this place only the headers are as they were written |
//! | `busy N` | so many clients that never have enough |
//! | `corrupt R [as=STRATEGY]` | these may lie: their cores go on, and `forge` speaks for them, or they follow a strategy of the catalogue |
//! | `diverge R` | these execute otherwise than the rest from now on |
//! | `forge KIND from= to= …` | see `scenario/forge.rs` |
//!
//! KINDS are names such as `propose,stop-data`, or `any`; a message that is forbidden fails the story when it leaves.
//! FACTS: `view= wish= mark= decided= executed= done= prepared= log-begins= leads=yes|no votes=yes|no halted=yes|no`; `done`
//! counts requests executed, `prepared` is the last place with such a record in the log, `log-begins` the first record that is
//! not recycled, `votes` is false between views. Lists
//! are `0,1,2` or `all`. `DURAMEN_REWRITE=1` writes the expected parts anew.

mod forge;
mod rules;
mod script;
mod stage;
mod watch;

pub use script::{Error, What, parse};

/// Runs a story and compares what is seen with what it expects.
pub fn check(text: &str) -> Result<(), Error> {
    let mut stage = None;
    for block in parse(text)? {
        let seen = stage::tell(&mut stage, &block)?;
        for i in 0..seen.len().max(block.expected.len()) {
            let (expected, seen) = (block.expected.get(i), seen.get(i));
            if expected != seen {
                let text = |line: Option<&String>| line.map_or("nothing".to_string(), |l| format!("`{l}`"));
                let what = What::Differs { expected: text(expected), seen: text(seen) };
                return Err(Error { line: block.rule + 1 + i, what });
            }
        }
    }
    Ok(())
}

/// The story with what is seen in place of what it expects.
pub fn rewrite(text: &str) -> Result<String, Error> {
    let (mut stage, mut out) = (None, String::new());
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l));
    for block in parse(text)? {
        let seen = stage::tell(&mut stage, &block)?;
        for (number, line) in lines.by_ref() {
            out += line;
            out.push('\n');
            if number == block.rule {
                break;
            }
        }
        lines.by_ref().take(block.expected.len()).for_each(drop);
        seen.iter().for_each(|line| out += &format!("{line}\n"));
    }
    lines.for_each(|(_, line)| out += &format!("{line}\n"));
    Ok(out)
}
