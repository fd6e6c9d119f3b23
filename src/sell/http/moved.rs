//! Redirects that we make.

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use crate::sell::route::RequestPath;

use super::answer::problem;

/// 308 to the folder's address, with a slash at the end and the query kept.
pub(super) fn to_folder(path: &RequestPath, query: Option<&str>) -> Response {
    let mut location = format!("{}/", path.wire());
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = problem(
        StatusCode::PERMANENT_REDIRECT,
        "Moved",
        "The URL of a folder ends with a slash.",
    );
    // A path and a query are printable; if not, the answer has no `Location`.
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
