//! What the file system says of a file. As long as that is the same, so is the file.

use std::path::Path;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io;

/// Which file it is, and which version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The file system, and the file's number there.
    file: (u32, u32, u64),
    /// Length in bytes.
    pub(super) size: u64,
    /// When its content was changed, or says that it was: seconds since 1970, which can be fewer than none, and nanoseconds.
    pub(super) modified: (i64, u32),
    /// When anything about it was changed: content, permissions, names. No program can set this.
    changed: (i64, u32),
    /// Its type and permissions.
    mode: u16,
}

impl Stamp {
    /// That of an open file.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        Self::read(file, AtFlags::empty())
    }

    fn read(file: impl AsFd, sync: AtFlags) -> io::Result<Self> {
        let how = AtFlags::EMPTY_PATH | sync;
        statx(file, c"", how, StatxFlags::BASIC_STATS).map(Self::from)
    }

    /// The number that tells it from the other files of its file system.
    pub(super) fn inode(&self) -> u64 {
        self.file.2
    }

    /// Whether this path still leads to the file, unchanged, without any link on the way.
    ///
    /// Only what the system holds in memory is asked for, so that a worker may call this: it takes about two microseconds and never
    /// waits for a disk, not even for that of a network that is down. Where memory is not enough, or a system older than Linux 5.12 or a
    /// sandbox does not know the question, it is `false`, and the file is looked at in full.
    pub(super) fn is_unchanged_at(&self, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
        let now = openat2(CWD, path, flags, Mode::empty(), how)
            .and_then(|file| Self::read(file, AtFlags::STATX_DONT_SYNC));
        now.is_ok_and(|now| now == *self)
    }
}

impl From<Statx> for Stamp {
    fn from(stat: Statx) -> Self {
        Self {
            file: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            mode: stat.stx_mode,
        }
    }
}
