//! How the gate keeps a bundle ready and sells it.

use super::bundles::{Bundle, LaidReady};
use super::state::Gate;

impl Gate {
    /// Makes this bundle available instead of the previous one. Its invoice goes to the next client
    /// that asks for its plan while the node cannot be paid.
    pub fn lay_ready(&self, bundle: Bundle) {
        let laid = LaidReady {
            bundle,
            handed_ms: None,
            was_missed: false,
        };
        let now_ms = self.clock.unix_ms();
        self.bundles.with(|state| {
            state.laid = Some(laid);
            state.laid_ms = now_ms;
        });
    }

    /// The bundle that was last made ready.
    pub fn laid_ready(&self) -> Option<LaidReady> {
        self.bundles.with(|state| state.laid.clone())
    }
}
