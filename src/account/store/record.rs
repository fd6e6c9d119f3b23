//! Records: one type per tree, each value after its own version byte.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::handle::Store;

/// A type that the store can hold.
pub trait Record: Serialize + DeserializeOwned {
    /// The first byte of every value. It is incremented when the type changes its format.
    const VERSION: u8;
}

/// A key and its record.
pub type Entry<R> = (Vec<u8>, R);

/// A tree of records of one type.
pub struct Tree<R> {
    /// sled's tree.
    tree: sled::Tree,
    /// The type of the values.
    record: PhantomData<fn() -> R>,
}

impl<R> std::fmt::Debug for Tree<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").finish_non_exhaustive()
    }
}

impl<R> Clone for Tree<R> {
    fn clone(&self) -> Self {
        Self {
            tree: self.tree.clone(),
            record: PhantomData,
        }
    }
}

/// Writes to several trees, applied as one transaction.
#[derive(Debug, Default)]
pub struct Together {
    /// The writes, one batch per tree.
    writes: Vec<(sled::Tree, sled::Batch)>,
}

impl Together {
    /// Adds a write.
    pub fn put<R: Record>(
        mut self,
        tree: &Tree<R>,
        key: &[u8],
        record: &R,
    ) -> Result<Self, StoreError> {
        let mut batch = sled::Batch::default();
        batch.insert(key, encode(record)?);
        self.writes.push((tree.tree.clone(), batch));
        Ok(self)
    }
}

impl Store {
    /// Applies all of these writes or none; they are not flushed yet. Each tree may occur only
    /// once.
    pub fn write(&self, together: Together) -> Result<(), StoreError> {
        use sled::transaction::{
            ConflictableTransactionError, TransactionError, Transactional as _,
        };
        let (trees, batches): (Vec<_>, Vec<_>) = together.writes.into_iter().unzip();
        // The closure may run several times, so it only applies the prepared writes.
        let done = trees.as_slice().transaction(|trees| {
            for (tree, batch) in trees.iter().zip(&batches) {
                tree.apply_batch(batch)?;
            }
            Ok::<(), ConflictableTransactionError<std::convert::Infallible>>(())
        });
        done.map_err(|error| match error {
            TransactionError::Storage(error) => error.into(),
            TransactionError::Abort(never) => match never {},
        })
    }
}

impl<R: Record> Tree<R> {
    pub(super) fn new(tree: sled::Tree) -> Self {
        Self {
            tree,
            record: PhantomData,
        }
    }

    /// Returns the record under this key.
    pub fn get(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.tree.get(key)?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Writes one record; it is not flushed yet.
    pub fn put(&self, key: &[u8], record: &R) -> Result<(), StoreError> {
        self.tree.insert(key, encode(record)?)?;
        Ok(())
    }

    /// Writes many records at once; they are not flushed yet. An empty list writes nothing, because
    /// sled would write and sync an empty batch.
    pub fn put_all(&self, entries: &[Entry<R>]) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (key, record) in entries {
            batch.insert(key.as_slice(), encode(record)?);
        }
        self.apply(batch)
    }

    /// Removes these keys; the change is not flushed yet.
    pub fn remove_all(&self, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for key in keys {
            batch.remove(key.as_slice());
        }
        self.apply(batch)
    }

    /// Removes every key below this one; the change is not flushed yet.
    pub fn remove_below(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut below = self.tree.range(..key).peekable();
        if below.peek().is_none() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for below in below {
            batch.remove(below?.0);
        }
        self.apply(batch)
    }

    fn apply(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.tree.apply_batch(batch)?;
        super::buffers::let_go_of_buffers();
        Ok(())
    }

    /// All keys and records, in the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Result<Entry<R>, StoreError>> + use<R> {
        self.tree.iter().map(|entry| {
            let (key, value) = entry?;
            Ok((key.to_vec(), decode(&value)?))
        })
    }

    /// All records whose keys begin with this prefix.
    pub fn with_prefix(
        &self,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<Entry<R>, StoreError>> + use<R> {
        self.tree.scan_prefix(prefix).map(|entry| {
            let (key, value) = entry?;
            Ok((key.to_vec(), decode(&value)?))
        })
    }

    /// The keys below `before` (or all keys), the highest first.
    pub fn keys_before(
        &self,
        before: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> + use<R> {
        let range = match before {
            Some(before) => self.tree.range(..before),
            None => self.tree.iter(),
        };
        range.rev().map(|entry| Ok(entry?.0.to_vec()))
    }
}

fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(record, vec![R::VERSION])
        .map_err(|error| StoreError::Refused(format!("a record cannot be encoded: {error}")))
}

fn decode<R: Record>(bytes: &[u8]) -> Result<R, StoreError> {
    let (version, rest) = bytes
        .split_first()
        .ok_or_else(|| StoreError::Corrupt("an empty value".to_owned()))?;
    if *version > R::VERSION {
        return Err(StoreError::Newer {
            found: u32::from(*version),
            known: u32::from(R::VERSION),
        });
    }
    // The migrations leave no records of an older version.
    if *version < R::VERSION {
        return Err(StoreError::Corrupt(format!(
            "a record of version {version} where {} belongs",
            R::VERSION
        )));
    }
    postcard::from_bytes(rest)
        .map_err(|error| StoreError::Corrupt(format!("a record cannot be decoded: {error}")))
}
