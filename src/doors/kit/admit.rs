//! Who may operate a server, for the doors of operators.

use axum::response::Response;
use http::header::WWW_AUTHENTICATE;

use crate::auth::{AuthError, Caller};
use crate::config::Challenge;
use crate::doors::Doors;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::Refusal;

/// Lets in who may administer, and who can read the files of the store.
pub async fn admit_operator(doors: &Doors, request: &http::Request<()>) -> Result<(), Response> {
    admit(doors, request, |caller| doors.gate.admit_admin(caller)).await
}

/// Lets in who may do what `may` says, and who can read the files of the store.
pub async fn admit(
    doors: &Doors,
    request: &http::Request<()>,
    may: impl FnOnce(&Caller) -> Result<(), AuthError>,
) -> Result<(), Response> {
    let credentials = RequestOrigin::new(doors, request).credentials();
    if doors.gate.is_operator(credentials.bearer()) {
        return Ok(());
    }
    let admitted = doors.gate.identify(&credentials).await.and_then(|caller| may(&caller));
    admitted.map_err(|error| refused(doors, request, &error))
}

/// A refusal for want of a right, with a challenge for a browser.
pub fn refused(doors: &Doors, request: &http::Request<()>, error: &AuthError) -> Response {
    let mut response = Refusal::from(error).told(error);
    if let Some(challenge) = RequestOrigin::new(doors, request).challenge(Challenge::Basic, error, None) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
