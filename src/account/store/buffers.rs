//! sled's memory between large pieces of work.

/// Frees the buffers that this thread's writes have left behind. sled retires a buffer after each
/// half megabyte written, but each thread keeps up to 64 of them until this call. That is 32 MB,
/// although 2 MB should be enough.
pub(super) fn let_go_of_buffers() {
    sled::pin().flush();
}
