//! Where a client's commands end.

use std::ops::Range;

/// What Redis allows before and after `AUTH`.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Most arguments of one command.
    pub args_max: u64,
    /// Longest argument, in bytes.
    pub bulk_max: u64,
    /// `true` until the client has authenticated where the upstream demands it: changes the error texts.
    pub unauthenticated: bool,
}

/// A whole command at the front of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFrame {
    /// Bytes from the front of the input to the command's end.
    pub len: usize,
    /// Where the command's name stands, in bytes from the front of the input.
    pub name: Range<usize>,
    /// Arguments, the name included.
    pub args: u32,
    /// `false` for an inline command.
    pub is_multibulk: bool,
}
