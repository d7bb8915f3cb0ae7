//! Attic's own interface: what a cache is like, what it lacks, and the upload of a path.

use super::super::http::{self, Body};
use super::fake::Shared;
use super::state::{Permission, Refusal, State, Tolerated};
use super::wire::{self, Kind, UploadInfo};
use super::{binary_cache, wire::NAR_INFO};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

/// Answers one request.
pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let kind = Kind::of(request.method(), request.uri().path());
    let token = {
        let mut state = shared.state();
        state.count(kind);
        token(request.headers(), kind, &mut state)
    };
    let token = token.as_deref();
    let path = request.uri().path().to_owned();
    let answered = match kind {
        Kind::CacheConfig => cache_config(&shared, token, last(&path), request.headers()),
        Kind::Administration => administer(&shared, token, last(&path), request).await,
        Kind::MissingPaths => missing_paths(&shared, token, request).await,
        Kind::Upload => upload(&shared, token, request).await,
        Kind::CacheInfo | Kind::Narinfo | Kind::Nar => binary_cache::answer(&shared, token, kind, &path),
        Kind::Other => {
            shared.state().violation(format!("{} {path} is nothing that Attic has", request.method()));
            Err((StatusCode::NOT_FOUND, "NotFound", "The URL you requested was not found.".to_owned()))
        }
    };
    Ok(answered.unwrap_or_else(|(status, error, message)| {
        http::json(status, &json!({ "code": status.as_u16(), "error": error, "message": message }))
    }))
}

/// The token of a request. Attic's interface is for bearers; Nix knows passwords only, and sends it as one.
fn token(headers: &HeaderMap, kind: Kind, state: &mut State) -> Option<String> {
    let authorization = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if matches!(kind, Kind::CacheInfo | Kind::Narinfo | Kind::Nar) {
        let decoded = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        return decoded.split_once(':').map(|(_, password)| password.to_owned());
    }
    state.violation(format!("{kind:?} with an Authorization of the scheme {scheme:?}"));
    None
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn cache_config(
    shared: &Shared,
    token: Option<&str>,
    cache: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, Refusal> {
    let mut state = shared.state();
    let configured = state.api_endpoint.clone();
    let cache = state.allowed(token, cache, Permission::Pull)?;
    // Where no other is configured, Attic takes its own address from what the client says of it.
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let scheme = if text("x-forwarded-proto") == "https" { "https" } else { "http" };
    let endpoint = format!("{scheme}://{}/", text(HOST.as_str()));
    Ok(http::json(
        StatusCode::OK,
        &json!({
            "substituter_endpoint": format!("{endpoint}{}", cache.name),
            "api_endpoint": configured.unwrap_or_else(|| endpoint.clone()),
            "public_key": cache.public_key(),
            "is_public": cache.public,
            "store_dir": cache.store_dir,
            "priority": 41,
            "upstream_cache_key_names": ["cache.nixos.org-1"],
            "retention_period": "Global",
        }),
    ))
}

async fn administer(
    shared: &Shared,
    token: Option<&str>,
    cache: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let method = request.method().clone();
    let body = collected(request).await?;
    let settings: Value = serde_json::from_slice(&body).map_err(|error| bad_request(&error.to_string()))?;
    let mut state = shared.state();
    let may = token.and_then(|token| state.tokens.get(token)).is_some_and(|grant| grant.administers);
    let public = settings["is_public"].as_bool();
    if method == Method::POST && may {
        let store_dir = settings["store_dir"].as_str().unwrap_or_default().to_owned();
        state.create(cache, public.unwrap_or(false), &store_dir)?;
    } else {
        let cache = state.allowed(token, cache, Permission::Administer)?;
        cache.public = public.unwrap_or(cache.public);
    }
    Ok(http::answer(StatusCode::OK, "text/plain", ""))
}

async fn missing_paths(
    shared: &Shared,
    token: Option<&str>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
    let body = collected(request).await?;
    let mut state = shared.state();
    if !is_json {
        state.violation("get-missing-paths without the content type application/json".to_owned());
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "RequestError", "Expected JSON".to_owned()));
    }
    let question = wire::missing_question(&body).map_err(|wrong| {
        state.violation(wrong.clone());
        bad_request(&wrong)
    })?;
    let cache = state.allowed(token, &question.cache, Permission::Push)?;
    let missing: Vec<_> = question.store_path_hashes.iter().filter(|hash| !cache.objects.contains_key(*hash)).collect();
    Ok(http::json(StatusCode::OK, &json!({ "missing_paths": missing })))
}

async fn upload(shared: &Shared, token: Option<&str>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (parts, mut body) = request.into_parts();
    let mut ahead = BytesMut::new();
    let info = said(&parts.headers, &mut body, &mut ahead).await.inspect_err(|(_, _, wrong)| {
        shared.state().violation(wrong.clone());
    })?;
    shared.state().allowed(token, &info.cache, Permission::Push)?;

    let mut file = shared.archive_to_write(&info);
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut chunk = ahead.freeze();
    loop {
        size += chunk.len() as u64;
        shared.received(chunk.len());
        hasher.update(&chunk);
        if let Some(file) = &mut file {
            file.write_all(&chunk).unwrap();
        }
        match body.frame().await {
            None => break,
            Some(Ok(frame)) => chunk = frame.into_data().unwrap_or_default(),
            // The connection is gone, and with it who could be answered.
            Some(Err(error)) => return Err(bad_request(&error.to_string())),
        }
    }
    let found = format!("sha256:{}", hex(&hasher.finalize()));
    let mut state = shared.state();
    if found != info.nar_hash || size != info.nar_size {
        if !state.tolerated.contains(&Tolerated::CutBodies) {
            state.violation(format!("{size} bytes of {found} were sent for {info:?}"));
        }
        return Err(bad_request("Bad NAR Hash or Size"));
    }
    // It may have been made private, or the token revoked, meanwhile.
    state.allowed(token, &info.cache, Permission::Push)?;
    let deduplicated = state.publish(info);
    drop(state);
    Ok(http::json(
        StatusCode::OK,
        &if deduplicated {
            json!({ "kind": "Deduplicated", "frac_deduplicated": null })
        } else {
            json!({ "kind": "Uploaded", "file_size": size, "frac_deduplicated": 0.0 })
        },
    ))
}

/// What is said of the path, in a header or ahead of the archive. What was read of that goes into `ahead`.
async fn said(headers: &HeaderMap, body: &mut Incoming, ahead: &mut BytesMut) -> Result<UploadInfo, Refusal> {
    let refused = |wrong: &str| Err(bad_request(wrong));
    if headers.contains_key(CONTENT_ENCODING) {
        return refused("an upload with a Content-Encoding");
    }
    let json = match (headers.get(NAR_INFO), headers.get(wire::PREAMBLE_SIZE)) {
        (Some(header), None) if header.len() < wire::HEADER_LIMIT => Bytes::copy_from_slice(header.as_bytes()),
        (Some(header), None) => {
            return refused(&format!("{NAR_INFO} of {} bytes; they belong ahead of the body", header.len()));
        }
        (None, Some(size)) => {
            let Some(size) = size.to_str().ok().and_then(|size| size.parse::<usize>().ok()) else {
                return refused("the preamble's size is no number");
            };
            if size > wire::PREAMBLE_LIMIT {
                return refused("Upload info is too large");
            }
            while ahead.len() < size {
                match body.frame().await {
                    Some(Ok(frame)) => ahead.extend(frame.into_data().unwrap_or_default()),
                    _ => return refused("Upload info doesn't match specified size"),
                }
            }
            let json = ahead.copy_to_bytes(size);
            if json.len() < wire::HEADER_LIMIT {
                return refused("a preamble for what fits into a header");
            }
            json
        }
        (None, None) => return refused("X-Attic-Nar-Info must be set"),
        (Some(_), Some(_)) => return refused("an upload with header and preamble"),
    };
    wire::upload_info(&json).map_err(|wrong| bad_request(&wrong))
}

async fn collected(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = request.into_body().collect().await.map_err(|error| bad_request(&error.to_string()))?;
    Ok(body.to_bytes())
}

fn bad_request(message: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, "RequestError", message.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
