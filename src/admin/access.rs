//! Who may ask: whoever can read the token's file.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use subtle::ConstantTimeEq as _;

use crate::secret_file::{self, SecretFileError};

/// The operator's token: random, in a file of mode 0600.
#[derive(Clone)]
pub struct AdminToken(String);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl AdminToken {
    /// Reads the token from this file; on a first start draws one and writes it.
    pub fn open(path: &Path) -> Result<Self, SecretFileError> {
        let draw = || {
            let mut token = [0; 32];
            getrandom::fill(&mut token)?;
            Ok(hex::encode(token))
        };
        let token = secret_file::read_or_make(path, draw)?;
        Ok(Self(token.trim().to_owned()))
    }

    fn is(&self, presented: &[u8]) -> bool {
        // An empty file must not open the door to an empty token.
        !self.0.is_empty() && bool::from(self.0.as_bytes().ct_eq(presented))
    }
}

/// Lets a request through if it carries the token.
pub(super) async fn require(
    State(token): State<Arc<AdminToken>>,
    request: Request,
    next: Next,
) -> Response {
    let presented = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if presented.is_some_and(|presented| token.is(presented)) {
        return next.run(request).await;
    }
    let error = "send the content of DATA_DIR/admin.token as `Authorization: Bearer <token>`";
    let body = Json(serde_json::json!({ "error": error }));
    (
        StatusCode::UNAUTHORIZED,
        [(WWW_AUTHENTICATE, "Bearer")],
        body,
    )
        .into_response()
}
