//! Whom the fake lets in, and for what.

use super::signature::{is_amazons, is_azures};
use super::state::{Dialect, Op, State};
use super::{ACCOUNT, Key};
use http::request::Parts;
use hyper::header::AUTHORIZATION;

/// Whether it may be done by who asks for it.
pub fn let_in(state: &mut State, request: &Parts, op: Op) -> Result<(), (u16, &'static str)> {
    let writes = !matches!(op, Op::Head | Op::Get | Op::List | Op::Uploads);
    let forbidden = match state.dialect {
        Dialect::S3 | Dialect::Google => (403, "AccessDenied"),
        Dialect::Azure => (403, "AuthorizationPermissionMismatch"),
    };
    if state.gate.as_ref().is_some_and(|(name, value)| header(request, name) != value) {
        return Err((403, "NobodyIsLetIn"));
    }
    if writes && state.is_read_only {
        return Err(forbidden);
    }
    let may_write = match state.dialect {
        Dialect::S3 => amazons(state, request, op)?,
        Dialect::Google | Dialect::Azure => others(state, request, op)?,
    };
    if writes && !may_write { Err(forbidden) } else { Ok(()) }
}

/// Whose key a request was signed by: whether that one may write.
fn amazons(state: &mut State, request: &Parts, op: Op) -> Result<bool, (u16, &'static str)> {
    let signed = header(request, AUTHORIZATION.as_str());
    if let Some(token) = state.token.clone().filter(|token| header(request, "x-amz-security-token") != token) {
        state.violation(format!("{op:?} does not show {token}"));
    }
    let credential = signed.strip_prefix("AWS4-HMAC-SHA256 Credential=");
    let Some((id, rest)) = credential.and_then(|rest| rest.split_once('/')) else {
        state.violation(format!("{op:?} was not signed: {signed:?}"));
        return Err((403, "AccessDenied"));
    };
    for needed in ["/s3/aws4_request", "SignedHeaders=", "host", "Signature="] {
        if !rest.contains(needed) {
            state.violation(format!("the signature of {op:?} lacks {needed}: {signed}"));
        }
    }
    if header(request, "x-amz-date").is_empty() || header(request, "x-amz-content-sha256").is_empty() {
        state.violation(format!("{op:?} has no date or no hash of its content"));
    }
    let Some((key, may_write)) = state.known().find(|(key, _)| key.id == id) else {
        return Err((403, "InvalidAccessKeyId"));
    };
    if is_amazons(request, &key.secret) { Ok(may_write) } else { Err((403, "SignatureDoesNotMatch")) }
}

/// The same at Google and at Azure, where a token, or the secret alone, says whose it is.
fn others(state: &mut State, request: &Parts, op: Op) -> Result<bool, (u16, &'static str)> {
    let signed = header(request, AUTHORIZATION.as_str());
    if let Some(token) = &state.token {
        let expected = format!("Bearer {token}");
        if signed != expected {
            state.violation(format!("{op:?} has no {expected}: {signed:?}"));
        }
        return Ok(true);
    }
    let is_azure = state.dialect == Dialect::Azure;
    if is_azure && !signed.starts_with("SharedKey ") {
        state.violation(format!("{op:?} was not signed: {signed:?}"));
    }
    let shown = signed.strip_prefix("Bearer ").unwrap_or_default();
    if !is_azure && shown.is_empty() {
        // A key that says `disable_oauth` shows nothing: there is nobody here who would give a token for it.
        return Ok(true);
    }
    let is_theirs = |key: &Key| match is_azure {
        true => is_azures(request, ACCOUNT, &key.secret),
        false => shown == key.secret,
    };
    let may_write = state.known().find(|(key, _)| is_theirs(key)).map(|(_, may_write)| may_write);
    may_write.ok_or(if is_azure { (403, "AuthenticationFailed") } else { (401, "AuthenticationRequired") })
}

fn header<'r>(request: &'r Parts, name: &str) -> &'r str {
    request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
