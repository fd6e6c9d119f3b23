//! What pricing asks the world: servers that lie, linger, break or are not there, and what is made of them.

mod away;
mod belief;
mod hooks;
mod rates;
mod settings;
