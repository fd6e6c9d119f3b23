//! Turns the errors that axum itself answers into JSON: an unreadable body or query, an unknown
//! path, a wrong method.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{ALLOW, CONTENT_TYPE};
use serde_json::json;

/// The longest error text to read. axum's text names a field and a position.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Turns a plain-text or empty error response into the JSON that the handlers use.
pub(super) async fn in_json(response: Response) -> Response {
    let (head, body) = response.into_parts();
    let is_refusal = head.status.is_client_error();
    let kind = head.headers.get(CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !is_refusal || !is_text {
        return Response::from_parts(head, body);
    }
    let said = said(body).await;
    let error = match head.status {
        _ if !said.is_empty() => said,
        StatusCode::NOT_FOUND => {
            "unknown path: see GET /openapi.json for the available paths".to_owned()
        }
        StatusCode::METHOD_NOT_ALLOWED => "this path does not support that method".to_owned(),
        status => status.canonical_reason().unwrap_or("refused").to_owned(),
    };
    let mut response = (head.status, Json(json!({ "error": error }))).into_response();
    if let Some(allowed) = head.headers.get(ALLOW) {
        response.headers_mut().insert(ALLOW, allowed.clone());
    }
    response
}

/// The text of a body; empty if it is longer than `TEXT_BYTES_MAX`.
async fn said(body: Body) -> String {
    let bytes = to_bytes(body, TEXT_BYTES_MAX).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Query;
    use axum::middleware::map_response;
    use axum::routing::post;
    use http::Request;
    use serde::Deserialize;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        amount_sat: u64,
    }

    #[tokio::test]
    async fn refusals_before_any_handler_are_json() {
        let take = |Json(asked): Json<Asked>| async move { Json(asked.amount_sat) };
        let look = |Query(asked): Query<Asked>| async move { Json(asked.amount_sat) };
        let router = Router::new()
            .route("/", post(take).get(look))
            .layer(map_response(in_json));
        for (method, path, body, status, word) in [
            ("POST", "/", "{", 400, "JSON"),
            ("POST", "/", "", 400, "JSON"),
            ("POST", "/", "{\"amount\":1}", 422, "unknown field `amount`"),
            ("POST", "/", "{\"amount_sat\":-1}", 422, "amount_sat"),
            ("GET", "/?amount_sat=x", "", 400, "amount_sat"),
            ("GET", "/nowhere", "", 404, "openapi.json"),
            ("DELETE", "/", "", 405, "method"),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(CONTENT_TYPE, "application/json")
                .body(Body::from(body))
                .unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{method} {path} {body}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            let said = to_bytes(response.into_body(), TEXT_BYTES_MAX)
                .await
                .unwrap();
            let said: Value = serde_json::from_slice(&said).unwrap();
            let said = said["error"].as_str().unwrap();
            assert!(said.contains(word), "{method} {path} {body}: {said}");
        }
        let request = Request::builder().method("POST").uri("/");
        let request = request.body(Body::from("{}")).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let request = Request::builder().uri("/?amount_sat=7");
        let request = request.body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}
