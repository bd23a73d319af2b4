//! Why a peer's bytes were turned away: one variant per deviation.

/// The bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DecodeError {
    /// A field or list reaches past the end.
    #[error("truncated")]
    Truncated,
    /// Bytes follow the last field.
    #[error("trailing bytes")]
    Trailing,
    /// No message has this kind number.
    #[error("unknown kind")]
    UnknownKind,
    /// A field holds a value that no correct sender writes.
    #[error("bad value")]
    BadValue,
    /// More than the configured bound.
    #[error("too large")]
    TooLarge,
}

/// The message is well formed but not to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum AuthError {
    /// A signature does not verify.
    #[error("bad signature")]
    Signature,
    /// A certificate has too few distinct valid signers.
    #[error("certificate below quorum")]
    Certificate,
    /// The sender named inside is not the one on the channel.
    #[error("wrong sender")]
    Sender,
    /// A digest does not match its bytes.
    #[error("digest mismatch")]
    Digest,
    /// Positions or views contradict each other.
    #[error("inconsistent")]
    Inconsistent,
    /// The client is not in the configuration.
    #[error("unknown client")]
    UnknownClient,
    /// The client authenticated in a way this cluster does not take.
    #[error("kind of authentication not accepted")]
    Kind,
}

/// Either of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Rejected {
    /// Not a message.
    #[error("malformed: {0}")]
    Decode(#[from] DecodeError),
    /// Not authentic.
    #[error("not authentic: {0}")]
    Auth(#[from] AuthError),
}
