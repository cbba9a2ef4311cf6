//! Authorization at the doors of operators.

use axum::response::Response;
use http::header::WWW_AUTHENTICATE;

use crate::auth::{AuthError, Caller};
use crate::config::Challenge;
use crate::doors::Doors;
use crate::doors::kit::audit::Note;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::Refusal;

/// Identity of an operator by access to the store's files, in the audit log.
const OPERATOR: &str = "operator";
/// Route of the doors of operators in the audit log, as in metrics.
const ROUTE: &str = "admin";

/// Admits callers with admin rights, and operators by the store's token. Returns the identity for the audit log.
pub async fn admit_operator(doors: &Doors, request: &http::Request<()>) -> Result<String, Response> {
    admit(doors, request, |caller| doors.gate.admit_admin(caller)).await
}

/// Admits callers for whom `may` succeeds, and operators by the store's token. Returns the identity for the audit log.
pub async fn admit(
    doors: &Doors,
    request: &http::Request<()>,
    may: impl FnOnce(&Caller) -> Result<(), AuthError>,
) -> Result<String, Response> {
    let credentials = RequestOrigin::new(doors, request).credentials();
    if doors.gate.is_operator(credentials.bearer()) {
        return Ok(OPERATOR.to_string());
    }
    let caller = doors.gate.identify(&credentials).await.map_err(|error| refused(doors, request, None, &error))?;
    match may(&caller) {
        Ok(()) => Ok(caller.identity().to_string()),
        Err(error) => Err(refused(doors, request, Some(&caller), &error)),
    }
}

/// A refusal for a missing right, with a challenge for browsers and a line in the audit log.
pub fn refused(doors: &Doors, request: &http::Request<()>, caller: Option<&Caller>, error: &AuthError) -> Response {
    let (refusal, origin) = (Refusal::from(error), RequestOrigin::new(doors, request));
    let who = caller.map(|caller| caller.identity().to_string());
    Note::of(doors, request).turned_away(who.as_deref(), ROUTE, refusal.status, error);
    let mut response = refusal.told(error);
    if let Some(challenge) = origin.challenge(Challenge::Basic, error, None) {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}
