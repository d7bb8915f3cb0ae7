//! Signatures of requests, as those make them who know the secret: Amazon's of version 4, and Azure's by a shared key.

use super::super::http::query;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// All that Amazon has encoded in the canonical form of a query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The headers beside `x-ms-…` that Azure has signed, by the places of their values.
const SIGNED_BY_AZURE: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Whether a request to S3 was signed by that secret, as far as its `Authorization` can be understood.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>
pub fn is_amazons(request: &Parts, secret: &str) -> bool {
    expected_by_amazon(request, secret).is_some_and(|expected| header(request, "authorization").ends_with(&expected))
}

fn expected_by_amazon(request: &Parts, secret: &str) -> Option<String> {
    let signed = header(request, "authorization");
    let (_, scope) = signed.split_once("Credential=")?.1.split(',').next()?.split_once('/')?;
    let names = signed.split_once("SignedHeaders=")?.1.split(',').next()?;
    let encoded = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let pairs = query(request).into_iter().map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value)));
    let headers: String = names.split(';').map(|name| format!("{name}:{}\n", header(request, name).trim())).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{names}\n{}",
        request.method,
        request.uri.path(),
        pairs.collect::<Vec<_>>().join("&"),
        header(request, "x-amz-content-sha256"),
    );
    let text =
        format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", header(request, "x-amz-date"), hex(&Sha256::digest(canonical)));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part).to_vec());
    Some(format!("Signature={}", hex(&hmac(&key, &text))))
}

/// Whether a request to an account of Azure's was signed by that secret.
/// <https://learn.microsoft.com/en-us/rest/api/storageservices/authorize-with-shared-key>
pub fn is_azures(request: &Parts, account: &str, secret: &str) -> bool {
    let values = SIGNED_BY_AZURE.map(|name| match (name, header(request, name)) {
        ("content-length", "0") => "",
        (_, value) => value,
    });
    let own: BTreeMap<&str, &str> = request
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .filter(|name| name.starts_with("x-ms-"))
        .map(|name| (name, header(request, name)))
        .collect();
    let own: String = own.into_iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let pairs: String =
        query(request).into_iter().map(|(name, value)| format!("\n{}:{value}", name.to_lowercase())).collect();
    let text = format!("{}\n{}\n{own}/{account}{}{pairs}", request.method, values.join("\n"), request.uri.path());
    header(request, "authorization") == format!("SharedKey {account}:{}", BASE64.encode(hmac(secret.as_bytes(), &text)))
}

fn header<'r>(request: &'r Parts, name: &str) -> &'r str {
    request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// RFC 2104, by SHA-256.
fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
