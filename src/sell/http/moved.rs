//! Redirects that Tollhouse itself sends.

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};

use crate::sell::route::RequestPath;

use super::answer::problem;

/// Answers 308 with the folder's URL, which ends with a slash and keeps the query.
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
    // A path and a query are printable. If they are not, the answer has no `Location`.
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}
