//! One line for each write and each refusal, where callers are told apart: who, what, from where, and what came of it.

use std::net::IpAddr;

use axum::extract::Request;
use axum::response::Response;
use http::Method;

use super::error::OciError;
use crate::auth::{Caller, Refusal};
use crate::doors::Doors;
use crate::doors::observe::logged_path;
use crate::doors::who::Sender;

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
            address: Sender::new(doors, request).address(),
        };
        Note { facts: Some(facts) }
    }

    pub fn write(self, answer: &Result<Response, OciError>) {
        let Some(Facts { caller, method, path, address }) = self.facts else { return };
        let status = answer.as_ref().map_or_else(|error| error.status_code(), |answer| answer.status().as_u16());
        tracing::info!(
            target: "larder::audit",
            who = %caller.identity(),
            method = method.as_str(),
            path,
            status,
            address = address.map(tracing::field::display),
            "write"
        );
    }
}

/// A refusal names who it was, as far as that is known. What was shown is in no line.
pub fn refused(sender: &Sender<'_>, route: &'static str, refusal: &Refusal) {
    // The first request of any client that has credentials is one without.
    if *refusal == Refusal::Unidentified {
        return;
    }
    tracing::info!(
        target: "larder::audit",
        reason = %refusal,
        route,
        path = logged_path(sender.uri),
        address = sender.address().map(tracing::field::display),
        "refused"
    );
}
