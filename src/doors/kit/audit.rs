//! One line for each write and each refusal, where callers are told apart: who, what, from where, and what came of it.

use std::net::IpAddr;

use axum::extract::Request;
use http::{Method, StatusCode};

use crate::auth::{AuthError, Caller};
use crate::doors::Doors;
use crate::doors::kit::origin::{RequestOrigin, logged_path};

/// What is known of a write before it is done.
pub struct Note {
    facts: Option<Facts>,
}

struct Facts {
    caller: Caller,
    method: Method,
    path: String,
    address: Option<IpAddr>,
}

impl Note {
    /// Nothing where everybody may everything: there, the line of the request tells as much.
    pub fn new(doors: &Doors, caller: &Caller, request: &Request) -> Note {
        if doors.gate.is_open() {
            return Note { facts: None };
        }
        let facts = Facts {
            caller: caller.clone(),
            method: request.method().clone(),
            path: logged_path(request.uri()),
            address: RequestOrigin::new(doors, request).address(),
        };
        Note { facts: Some(facts) }
    }

    /// Writes the line of a request that was answered so.
    pub fn write(self, status: StatusCode) {
        let Some(Facts { caller, method, path, address }) = self.facts else { return };
        tracing::info!(
            target: "larder::audit",
            who = %caller.identity(),
            method = method.as_str(),
            path,
            status = status.as_u16(),
            address = address.map(tracing::field::display),
            "write"
        );
    }
}

/// A refusal names who it was, as far as that is known. What was shown is in no line.
pub fn refused(origin: &RequestOrigin<'_>, route: &'static str, error: &AuthError) {
    // The first request of any client that has credentials is one without.
    if *error == AuthError::Unidentified {
        return;
    }
    tracing::info!(
        target: "larder::audit",
        reason = %error,
        route,
        path = logged_path(origin.uri),
        address = origin.address().map(tracing::field::display),
        "refused"
    );
}
