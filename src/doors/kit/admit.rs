//! Who may operate a server, for the doors of operators.

use axum::response::Response;
use http::header::WWW_AUTHENTICATE;

use crate::auth::{AuthError, Caller};
use crate::config::Challenge;
use crate::doors::Doors;
use crate::doors::kit::audit;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::Refusal;

/// What the audit log calls whoever can read the files of the store.
const OPERATOR: &str = "operator";

/// Lets in who may administer, and who can read the files of the store. Returns who it is, for the audit log.
pub async fn admit_operator(doors: &Doors, request: &http::Request<()>) -> Result<String, Response> {
    admit(doors, request, |caller| doors.gate.admit_admin(caller)).await
}

/// Lets in who may do what `may` says, and who can read the files of the store. Returns who it is, for the audit log.
pub async fn admit(
    doors: &Doors,
    request: &http::Request<()>,
    may: impl FnOnce(&Caller) -> Result<(), AuthError>,
) -> Result<String, Response> {
    let credentials = RequestOrigin::new(doors, request).credentials();
    if doors.gate.is_operator(credentials.bearer()) {
        return Ok(OPERATOR.to_string());
    }
    let admitted =
        doors.gate.identify(&credentials).await.and_then(|caller| may(&caller).map(|()| caller.identity().to_string()));
    admitted.map_err(|error| refused(doors, request, &error))
}

/// A refusal for want of a right, with a challenge for a browser. The audit log has it.
pub fn refused(doors: &Doors, request: &http::Request<()>, error: &AuthError) -> Response {
    let (mut response, origin) = (Refusal::from(error).told(error), RequestOrigin::new(doors, request));
    audit::refused(doors, &origin, "admin", error);
    if let Some(challenge) = origin.challenge(Challenge::Basic, error, None) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
