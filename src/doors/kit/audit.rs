//! The audit log: one line for each write, token, operator's order and refusal: who, what, from where, and the result.
//! An admitted write to the registry has none if all callers may do everything.
//!
//! Invariant: a request that may change something has its line, whatever the door: the front gives it a [`Note`] before
//! routing, the door fills it in, and the front closes a note that was left open.
//!
//! Invariant: a line is one line of bounded length: all texts chosen by a client or an issuer pass through [`logged`].

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, StatusCode, Uri};

use crate::auth::AuthError;
use crate::doors::Doors;
use crate::doors::kit::logged;
use crate::doors::kit::origin::RequestOrigin;
use crate::events::{AuditedRequest, Event, Events, Refused, Subscriber};

/// Longest name of who asks, in bytes: of what an issuer says in `sub` there is no bound.
pub const WHO_BYTES_MAX: usize = 256;
/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// Writes the audit lines.
pub struct AuditLog;

impl Subscriber for AuditLog {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Written(AuditedRequest { who, method, path, status, address, .. }) => tracing::info!(
                target: "larder::audit",
                who = who.map(|who| logged::text(who, WHO_BYTES_MAX)).as_deref(),
                method,
                path,
                status,
                address = address.map(tracing::field::display),
                "write"
            ),
            Event::Refused(Refused::Request(AuditedRequest { who, method, path, route, status, reason, address })) => {
                tracing::info!(
                    target: "larder::audit",
                    who = who.map(|who| logged::text(who, WHO_BYTES_MAX)).as_deref(),
                    reason = &*logged::text(reason, REASON_BYTES_MAX),
                    method,
                    route,
                    path,
                    status,
                    address = address.map(tracing::field::display),
                    "refused"
                );
            }
            Event::Refused(Refused::Upload { .. }) => {}
            Event::Pushed { .. } | Event::Served { .. } | Event::Missed { .. } => {}
            Event::ImportMissed { .. } | Event::Imported { .. } | Event::Evicted { .. } => {}
        }
    }
}

/// The audit data of a request, and whether its line has been written.
pub struct Note {
    events: Events,
    method: Method,
    uri: Uri,
    address: Option<IpAddr>,
    told: AtomicBool,
}

impl Note {
    /// Leaves a note on a request that may change something, for its door; nothing for any other request.
    pub fn leave_on<B>(doors: &Doors, request: &mut http::Request<B>) -> Option<Arc<Note>> {
        if request.method().is_safe() {
            return None;
        }
        let note = Note::of(doors, request);
        request.extensions_mut().insert(note.clone());
        Some(note)
    }

    /// The note on a request, or a new one.
    pub fn of<B>(doors: &Doors, request: &http::Request<B>) -> Arc<Note> {
        if let Some(left) = request.extensions().get::<Arc<Note>>() {
            return left.clone();
        }
        Arc::new(Note {
            events: doors.events.clone(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            address: RequestOrigin::new(doors, request).address(),
            told: AtomicBool::new(false),
        })
    }

    /// Records the success of a request. Without an identity there is no audit line, as the log line of the request
    /// tells as much.
    pub fn written(&self, who: Option<&str>, status: StatusCode) {
        self.told.store(true, Ordering::Relaxed);
        if who.is_some() {
            self.events.emit(Event::Written(self.audited(&logged::path(&self.uri), "", who, status, "")));
        }
    }

    /// Records that the request was refused or failed, and why.
    pub fn refused(&self, who: Option<&str>, route: &'static str, status: StatusCode, reason: &str) {
        self.told.store(true, Ordering::Relaxed);
        let path = logged::path(&self.uri);
        self.events.emit(Event::Refused(Refused::Request(self.audited(&path, route, who, status, reason))));
    }

    /// Records a failed authorization. Credentials are in no event.
    pub fn turned_away(&self, who: Option<&str>, route: &'static str, status: StatusCode, error: &AuthError) {
        // The first request of any client with credentials comes without them.
        if *error == AuthError::Unidentified {
            self.told.store(true, Ordering::Relaxed);
        } else {
            self.refused(who, route, status, &error.to_string());
        }
    }

    /// Records a request for which its door has recorded nothing.
    pub fn close(&self, route: &'static str, status: StatusCode) {
        if self.told.load(Ordering::Relaxed) {
            return;
        }
        if status.is_client_error() || status.is_server_error() {
            self.refused(None, route, status, status.canonical_reason().unwrap_or_default());
        } else {
            self.events.emit(Event::Written(self.audited(&logged::path(&self.uri), route, None, status, "")));
        }
    }

    fn audited<'a>(
        &'a self,
        path: &'a str,
        route: &'static str,
        who: Option<&'a str>,
        status: StatusCode,
        reason: &'a str,
    ) -> AuditedRequest<'a> {
        let (method, status, address) = (logged::method(&self.method), status.as_u16(), self.address);
        AuditedRequest { who, method, path, route, status, reason, address }
    }
}
