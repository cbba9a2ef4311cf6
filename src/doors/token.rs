//! The token door: the authorization service of registry clients.
//!
//! `GET /token` and `POST /token` issue a token for the requested scopes (distribution spec, "Token Authentication" and
//! its OAuth 2 form); `POST /token/exchange` exchanges a JWT for a session, a token that lives as long as a build
//! (after RFC 8693); `POST /token/revoke` revokes a session (after RFC 7009).

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::json;

use crate::auth::{AuthError, Identity, Issued, Scope};
use crate::doors::Doors;
use crate::doors::kit::answer::{header, respond};
use crate::doors::kit::audit::Note;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::{Refusal, RefusalKind};
use crate::doors::kit::task;
use crate::error::Error;
use crate::stream::BodyError;

/// Largest form, in bytes: the longest token, encoded, fits in.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Time limit of a form, which is short: a slower client only blocks others.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of scopes of one token.
const SCOPES_MAX: usize = 64;
/// Route of this door in the audit log.
const ROUTE: &str = "token";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// `GET` and `POST /token`.
pub async fn token(State(doors): State<Doors>, request: Request) -> Response {
    let (request, body) = parted(request);
    let issued = match *request.method() {
        Method::GET | Method::HEAD => by_query(&doors, &request).await,
        _ => by_form(&doors, &request, body).await,
    };
    answer(&doors, &request, issued)
}

/// `POST /token/exchange`.
pub async fn exchange(State(doors): State<Doors>, request: Request) -> Response {
    let (request, body) = parted(request);
    let issued = exchanged(&doors, &request, body).await;
    answer(&doors, &request, issued)
}

/// `POST /token/revoke`.
pub async fn revoke(State(doors): State<Doors>, request: Request) -> Response {
    let (request, body) = parted(request);
    let note = Note::of(&doors, &request);
    match revoked(&doors, &request, body).await {
        Ok(who) => {
            let response = respond(StatusCode::OK).set_const(CACHE_CONTROL, "no-store").json(&json!({}));
            note.written(Some(&who.to_string()), response.status());
            response
        }
        Err(failure) => refuse(&note, failure),
    }
}

/// Revokes a session. Returns its identity.
async fn revoked(doors: &Doors, request: &http::Request<()>, body: Body) -> Result<Identity, Failure> {
    let form = TokenForm::read(doors, request, body).await?;
    let token = form.get("token").or(bearer(request));
    let token = token.ok_or(Failure::Form("token is missing: send one that /token/exchange has issued"))?;
    let (who, session) = doors.gate.revocable(token)?;
    let (store, gate) = (doors.store.clone(), doors.gate.clone());
    // Written to the store first: the answer holds for every server, and after a restart.
    let work = async move { store.revoke_session(&session).await.map(|()| gate.revoke([session])) };
    match task::carried_through(work).await {
        Some(Ok(())) => Ok(who),
        Some(Err(error)) => Err(Failure::Store(error)),
        None => Err(Failure::Store(Error::Internal("request failed".into()))),
    }
}

fn parted(request: Request) -> (http::Request<()>, Body) {
    let (parts, body) = request.into_parts();
    (http::Request::from_parts(parts, ()), body)
}

/// The answer to a request for a token. The audit log records its result.
fn answer(doors: &Doors, request: &http::Request<()>, issued: Result<Issued, Failure>) -> Response {
    let note = Note::of(doors, request);
    match issued {
        Ok(issued) => {
            let response = shown(&issued);
            note.written(Some(&issued.who.to_string()), response.status());
            response
        }
        Err(failure) => refuse(&note, failure),
    }
}

fn refuse(note: &Note, failure: Failure) -> Response {
    let status = failure.refusal().status;
    match &failure {
        Failure::Refused(error) => note.turned_away(None, ROUTE, status, error),
        Failure::Form(what) => note.refused(None, ROUTE, status, what),
        Failure::Store(error) => note.refused(None, ROUTE, status, &error.to_string()),
    }
    failure.into_response()
}

/// The token of `Authorization: Bearer`, for clients that send no form.
fn bearer(request: &http::Request<()>) -> Option<&str> {
    let (way, token) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    way.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

async fn by_query(doors: &Doors, request: &http::Request<()>) -> Result<Issued, Failure> {
    let caller = doors.gate.identify(&RequestOrigin::new(doors, request).credentials()).await?;
    let query = TokenForm::parse(request.uri().query().unwrap_or_default().as_bytes());
    Ok(doors.gate.issue(&caller, query.scopes())?)
}

async fn by_form(doors: &Doors, request: &http::Request<()>, body: Body) -> Result<Issued, Failure> {
    let form = TokenForm::read(doors, request, body).await?;
    let credentials = RequestOrigin::new(doors, request).credentials();
    let caller = match form.get("grant_type") {
        Some("password") => {
            let (name, password) = (form.get("username").unwrap_or_default(), form.get("password"));
            let password = password.ok_or(Failure::Form("password is missing"))?;
            doors.gate.login(name, password, &credentials).await?
        }
        Some("refresh_token") => {
            let token = form.get("refresh_token").ok_or(Failure::Form("refresh_token is missing"))?;
            doors.gate.refresh(token).await?
        }
        Some(TOKEN_EXCHANGE) => {
            let jwt = form.get("subject_token").ok_or(Failure::Form("subject_token is missing"))?;
            return Ok(doors.gate.exchange(jwt).await?);
        }
        _ => return Err(Failure::Form("grant_type must be password, refresh_token or token-exchange")),
    };
    Ok(doors.gate.issue(&caller, form.scopes())?)
}

async fn exchanged(doors: &Doors, request: &http::Request<()>, body: Body) -> Result<Issued, Failure> {
    let form = TokenForm::read(doors, request, body).await?;
    let jwt = form.get("subject_token").or(bearer(request));
    let jwt = jwt.ok_or(Failure::Form("subject_token is missing: the JWT to exchange"))?;
    Ok(doors.gate.exchange(jwt).await?)
}

/// The token as JSON: clients look for `token` or for `access_token`.
fn shown(issued: &Issued) -> Response {
    let body = json!({
        "token": issued.token,
        "access_token": issued.token,
        "token_type": "Bearer",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "expires_in": issued.life,
        "issued_at": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    respond(StatusCode::OK).set_const(CACHE_CONTROL, "no-store").json(&body)
}

/// The reason why no token is issued, or none is revoked.
enum Failure {
    Refused(AuthError),
    Form(&'static str),
    Store(Error),
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Failure {
        Failure::Refused(error)
    }
}

impl Failure {
    fn refusal(&self) -> Refusal {
        match self {
            Failure::Form(_) => Refusal::from(RefusalKind::Unsupported).with_status(StatusCode::BAD_REQUEST),
            Failure::Refused(error) => Refusal::from(error),
            Failure::Store(error) => Refusal::from(error),
        }
    }

    /// Clients of registries show `errors`, those of OAuth 2 show `error`.
    fn into_response(self) -> Response {
        let refusal = self.refusal();
        let message = match &self {
            Failure::Form(what) => what.to_string(),
            Failure::Refused(error) => error.to_string(),
            Failure::Store(error) => {
                tracing::warn!(%error, "cannot revoke a session");
                "cannot write to the store: the session is not revoked".to_string()
            }
        };
        let (code, error) = match refusal.kind {
            _ if matches!(self, Failure::Store(_)) => ("UNAVAILABLE", "temporarily_unavailable"),
            RefusalKind::Unsupported => ("UNSUPPORTED", "invalid_request"),
            RefusalKind::TooManyRequests => ("TOOMANYREQUESTS", "slow_down"),
            RefusalKind::Unavailable => ("UNAVAILABLE", "temporarily_unavailable"),
            _ => ("UNAUTHORIZED", "invalid_grant"),
        };
        let answer = refusal.respond().set_const(CACHE_CONTROL, "no-store");
        let answer = match refusal.status {
            StatusCode::UNAUTHORIZED => answer.set_const(WWW_AUTHENTICATE, "Basic realm=\"larder\""),
            _ => answer,
        };
        answer.json(&json!({
            "errors": [{ "code": code, "message": message }],
            "error": error,
            "error_description": message,
        }))
    }
}

/// A form or a query: both have the same encoding.
struct TokenForm {
    pairs: Vec<(String, String)>,
}

impl TokenForm {
    fn parse(text: &[u8]) -> TokenForm {
        TokenForm { pairs: form_urlencoded::parse(text).into_owned().collect() }
    }

    async fn read(doors: &Doors, request: &http::Request<()>, body: Body) -> Result<TokenForm, Failure> {
        let from = RequestOrigin::new(doors, request).address();
        let size = header(request.headers(), CONTENT_LENGTH).and_then(|text| text.parse().ok());
        match doors.collecting.form(from, size, body, FORM_BYTES_MAX, FORM_TIMEOUT).await {
            Ok(bytes) => Ok(TokenForm::parse(&bytes)),
            Err(BodyError::Idle) => Err(Failure::Form("form arrives too slowly, or too many at once")),
            Err(_) => Err(Failure::Form("form was cut, or is too long")),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The requested scopes: each `scope` may contain several, separated by spaces.
    fn scopes(&self) -> Vec<Scope> {
        let fields = self.pairs.iter().filter(|(key, _)| key == "scope");
        let texts = fields.flat_map(|(_, value)| value.split_ascii_whitespace());
        texts.filter_map(Scope::parse).take(SCOPES_MAX).collect()
    }
}
