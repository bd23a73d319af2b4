//! Choices that the file and the command line name by words.

use std::fmt;

use serde::Deserialize;

macro_rules! word {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl $name {
            /// The words of the file and the command line, the default one first.
            pub const WORDS: &[&str] = &[$($word),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => {
                        let known = [$(concat!("`", $word, "`")),+].join(", ");
                        Err(format!("`{}` is unknown, expected {known}", word.escape_debug()))
                    }
                }
            }
        }
    };
}

word!(
    /// What protects the links.
    Transport {
        /// TLS 1.3, mutual, keys pinned by this file.
        #[default]
        Tls = "tls",
        /// Neither encryption nor channel authentication: for a network the operator trusts.
        Plain = "plain",
    }
);
word!(
    /// What proves that a request is its client's (RULES 12).
    ClientAuth {
        /// One signature for all that a client process sends together.
        #[default]
        Signature = "signature",
        /// One MAC per replica: for many separate small clients.
        Mac = "mac",
        /// The connection it came over; crash mode only, because it proves nothing to a third replica.
        Channel = "channel",
    }
);
word!(
    /// What is on disk before a reply leaves.
    Durability {
        /// Every vote that a decision rests on: any number of simultaneous crashes loses nothing acknowledged.
        #[default]
        Vote = "vote",
        /// Decided batches are logged and executed at the same time; replies after both (Dura-SMaRt).
        Parallel = "parallel",
        /// All that is decided is logged in one write, then executed.
        Batched = "batched",
        /// One synchronous write per operation, then execution.
        Naive = "naive",
        /// Logged some time after the reply: a crash may lose acknowledged operations.
        Async = "async",
        /// Never logged: a crash loses everything the replica held.
        None = "none",
    }
);

impl Durability {
    /// What an acknowledged operation survives, for every output.
    pub fn promise(self) -> &'static str {
        match self {
            Self::Vote => "nothing acknowledged is lost, however many replicas crash",
            Self::Parallel | Self::Batched | Self::Naive => {
                "nothing acknowledged is lost while at most f replicas crash at a time; after more, only with --new-era"
            }
            Self::Async => "ACKNOWLEDGED OPERATIONS MAY BE LOST when more than f replicas crash",
            Self::None => {
                "NOTHING IS KEPT ON DISK: acknowledged operations are lost when more than f replicas crash"
            }
        }
    }
}
word!(
    /// How log writes reach the disk.
    LogIo {
        /// io_uring where the kernel grants it, else `threads`.
        #[default]
        Auto = "auto",
        /// io_uring or no start.
        Uring = "uring",
        /// `pwritev2(RWF_DSYNC)`.
        Threads = "threads",
    }
);

word!(
    /// The device that log writes seem to go to.
    LogDevice {
        /// The one there is.
        #[default]
        Real = "real",
        /// As slow as the durability paper's 15,000 rpm disk.
        PaperDisk = "paper-disk",
        /// As slow as its SSD.
        PaperSsd = "paper-ssd",
    }
);

word!(
    /// Which replicas write checkpoints at the same time.
    CheckpointSchedule {
        /// One after the other, a part of the period apart.
        #[default]
        Sequential = "sequential",
        /// All at once: the durability paper's baseline.
        Synchronized = "synchronized",
    }
);

word!(
    /// What execution does while a checkpoint is written.
    SnapshotKind {
        /// It goes on: what it writes is copied first.
        #[default]
        CopyOnWrite = "copy-on-write",
        /// It waits: the papers' baseline.
        StopTheWorld = "stop-the-world",
    }
);
