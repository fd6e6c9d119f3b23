//! The file attributes that tell whether a file has changed.

use std::path::Path;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io;

/// The identity of a file and of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The file system and the inode.
    file: (u32, u32, u64),
    /// Length in bytes.
    pub(super) size: u64,
    /// The modification time, which programs can set: seconds since 1970, possibly negative, and
    /// nanoseconds.
    pub(super) modified: (i64, u32),
    /// The time of the last change to content, permissions or names. Programs cannot set this time.
    changed: (i64, u32),
    /// The file's type and permissions.
    mode: u16,
}

impl Stamp {
    /// The stamp of an open file.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        Self::read(file, AtFlags::empty())
    }

    fn read(file: impl AsFd, sync: AtFlags) -> io::Result<Self> {
        let how = AtFlags::EMPTY_PATH | sync;
        statx(file, c"", how, StatxFlags::BASIC_STATS).map(Self::from)
    }

    /// The inode number.
    pub(super) fn inode(&self) -> u64 {
        self.file.2
    }

    /// Whether this path still leads to the unchanged file, without any link on the way.
    ///
    /// Uses only data that the kernel holds in memory, so an async worker may call it. It takes
    /// about two microseconds and never waits for a disk or a network file system. Returns `false`
    /// if that data is not enough, or if a kernel before Linux 5.12 or a sandbox does not support
    /// the call. The file is then checked in full.
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
