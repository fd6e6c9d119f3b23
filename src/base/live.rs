//! A value that is replaced while it is in use: who has it keeps it, who asks next gets the new one.

use std::sync::{Arc, PoisonError, RwLock};

/// The value in force.
#[derive(Debug, Default)]
pub struct Live<T>(RwLock<Arc<T>>);

impl<T> Live<T> {
    /// With this value.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value that is in force now. A `std` lock: held for a count, never across an await.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another value in force.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Puts a value in force that is made from the one before, unless that fails; nobody else can do so meanwhile.
    pub fn update<E>(&self, change: impl FnOnce(&T) -> Result<T, E>) -> Result<(), E> {
        let mut value = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *value = Arc::new(change(&value)?);
        Ok(())
    }
}
