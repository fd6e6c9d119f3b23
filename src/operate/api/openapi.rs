//! The OpenAPI 3.1 description of the operator's listener, generated from its handlers.

use utoipa::Modify;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};

/// The scheme's name in the document.
const BEARER: &str = "bearer";

/// The document without its paths, which the router adds.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tollhouse, the operator's listener",
        description = "Amounts are in msat (thousandths of a satoshi) or sat, as their names say; times in Unix seconds (`_secs`) or \
                       milliseconds (`_ms`), but for those of an order, which are in RFC 3339 as the provider writes them. An error is `{\"error\": \"…\"}` with a status of 4xx or 5xx.",
    ),
    modifiers(&WithBearer)
)]
struct Document;

struct WithBearer;

impl Modify for WithBearer {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme(BEARER, scheme);
        document.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    }
}

/// Builds the document with title, version and authentication.
pub(super) fn document() -> OpenApi {
    Document::openapi()
}
