//! Redirects of our own.

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use crate::route::RequestPath;

use super::answer::problem;

/// 308: the address of a folder, which ends with a slash, with the query that was asked with.
pub(super) fn to_folder(path: &RequestPath, query: Option<&str>) -> Response {
    let mut location = format!("{}/", path.wire());
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = problem(
        StatusCode::PERMANENT_REDIRECT,
        "Moved",
        "The address of a folder ends with a slash.",
    );
    // A path and a query are printable; where they are not, there is still the answer's text.
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
