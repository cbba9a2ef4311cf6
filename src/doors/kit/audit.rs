//! One line for each write, each token, each order and each refusal: who, what, from where, and what came of it. A write to
//! the registry has none where everybody may everything.

use std::net::IpAddr;

use http::{Method, StatusCode};

use crate::auth::AuthError;
use crate::doors::Doors;
use crate::doors::kit::origin::{RequestOrigin, logged_path};
use crate::events::{AnsweredWrite, Event, Events, Refused, Subscriber};

/// Writes the lines.
pub struct AuditLog;

impl Subscriber for AuditLog {
    fn on(&self, event: &Event<'_>) {
        match *event {
            Event::Written(AnsweredWrite { who, method, path, status, address }) => tracing::info!(
                target: "larder::audit",
                who = %who,
                method,
                path,
                status,
                address = address.map(tracing::field::display),
                "write"
            ),
            Event::Refused(Refused::Caller { reason, route, path, address }) => tracing::info!(
                target: "larder::audit",
                reason = %reason,
                route,
                path,
                address = address.map(tracing::field::display),
                "refused"
            ),
            Event::Refused(Refused::Upload { .. }) => {}
            Event::Pushed { .. } | Event::Served { .. } | Event::Missed { .. } => {}
            Event::Imported { .. } | Event::Evicted { .. } => {}
        }
    }
}

/// What is known of a write before it is done.
pub struct Note {
    events: Events,
    who: String,
    method: Method,
    path: String,
    address: Option<IpAddr>,
}

impl Note {
    pub fn new<B>(doors: &Doors, who: impl ToString, request: &http::Request<B>) -> Note {
        Note {
            events: doors.events.clone(),
            who: who.to_string(),
            method: request.method().clone(),
            path: logged_path(request.uri()),
            address: RequestOrigin::new(doors, request).address(),
        }
    }

    /// Tells that the request was answered so.
    pub fn write(self, status: StatusCode) {
        self.events.emit(Event::Written(AnsweredWrite {
            who: &self.who,
            method: self.method.as_str(),
            path: &self.path,
            status: status.as_u16(),
            address: self.address,
        }));
    }
}

/// Tells of a refusal. The reason names who it was, as far as that is known; what was shown is in no event.
pub fn refused(doors: &Doors, origin: &RequestOrigin<'_>, route: &'static str, error: &AuthError) {
    // The first request of any client that has credentials is one without.
    if *error == AuthError::Unidentified {
        return;
    }
    doors.events.emit(Event::Refused(Refused::Caller {
        reason: &error.to_string(),
        route,
        path: &logged_path(origin.uri),
        address: origin.address(),
    }));
}
