//! The treatment of an answer that exceeds its grant.

/// The treatment of an answer that begins within the grant and exceeds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overrun {
    /// Serve the answer and use the token up. Only one answer at a time may exceed the grant. Once
    /// the grant is held or used, no other answer begins, and other answers of unknown length end
    /// with the grant. An answer of unknown length exceeds the grant by at most the grant's size,
    /// or by a mebibyte or a minute if that is more.
    #[default]
    Serve,
    /// Cut the answer off and close its connection.
    Cut,
}
