//! Uploads in parts that have begun and never ended. The library can begin, end and abort them; to ask which there are is
//! left to this file (S3's `ListMultipartUploads`, which Google's XML interface has too). Azure has none: it forgets parts
//! that nobody puts together after a week.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Uri};
use http_body_util::BodyExt;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::gcp::GcpCredentialProvider;
use reqwest::Url;

use super::error::{BucketError, unwrapped};
use super::pages::Pages;
use super::wire::{Wire, unescaped};
use crate::cache::care::{Seconds, Unfinished};
use crate::cache::http::Action;

/// Who signs a request.
pub(super) enum Signer {
    S3 { keys: AwsCredentialProvider, region: String },
    Google(GcpCredentialProvider),
}

/// A bucket, as far as uploads in parts go.
pub(super) struct Uploads {
    pub(super) wire: Wire,
    /// The bucket's own address.
    pub(super) bucket: Url,
    pub(super) signer: Signer,
}

impl Uploads {
    /// Those whose objects' names begin like that behind `prefix`, which is left out of their names.
    pub(super) async fn list(&self, prefix: &str, begin: &str) -> Result<Vec<Unfinished>, Arc<BucketError>> {
        let (mut found, mut from, whole) = (Vec::new(), None, format!("{prefix}{begin}"));
        let mut pages = Pages::default();
        loop {
            let text = self.page(&whole, from.as_ref()).await?;
            let uploads = text.split("<Upload>").skip(1).filter_map(|upload| {
                let name = element(upload, "Key")?.strip_prefix(prefix)?.to_owned();
                let (id, began) = (element(upload, "UploadId")?, element(upload, "Initiated")?);
                Some(Unfinished { name, id, size: None, modified: seconds(&began)? })
            });
            let before = found.len();
            found.extend(uploads);
            // What is said of the whole page stands in front of the uploads or behind them.
            let is_more = element(&text, "IsTruncated").is_some_and(|said| said == "true");
            let next = element(&text, "NextKeyMarker").zip(element(&text, "NextUploadIdMarker"));
            let Some(next) = next.filter(|_| is_more) else { return Ok(found) };
            pages.next(Action::Missing, &self.wire.bucket, &next, found.len() == before)?;
            from = Some(next);
        }
    }

    async fn page(&self, prefix: &str, from: Option<&(String, String)>) -> Result<String, Arc<BucketError>> {
        let mut url = self.bucket.clone();
        url.query_pairs_mut().append_pair("prefix", prefix).append_pair("uploads", "");
        if let Some((key, id)) = from {
            url.query_pairs_mut().append_pair("key-marker", key).append_pair("upload-id-marker", id);
        }
        let not_understood = |problem: String| {
            let bucket = self.wire.bucket.clone();
            Arc::new(BucketError::NotUnderstood { action: Action::Configuration, bucket, problem })
        };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = url.as_str().parse::<Uri>().map_err(|error| not_understood(error.to_string()))?;
        let library = |error: object_store::Error| unwrapped(Action::Configuration, &self.wire.bucket, &error);
        match &self.signer {
            Signer::S3 { keys, region } => {
                let key = keys.get_credential().await.map_err(library)?;
                AwsAuthorizer::new(&key, "s3", region).try_authorize(&mut request, None).map_err(library)?;
            }
            Signer::Google(keys) => {
                let key = keys.get_credential().await.map_err(library)?;
                if !key.bearer.is_empty() {
                    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.bearer))
                        .map_err(|_| not_understood("its token can't stand in a header".to_owned()))?;
                    value.set_sensitive(true);
                    request.headers_mut().insert(AUTHORIZATION, value);
                }
            }
        }
        let answer = self.wire.exchange(request).await.map_err(Arc::new)?;
        let body = answer.into_body().collect().await;
        let body = body.map_err(|_| not_understood("its answer was cut".to_owned()))?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }
}

/// What stands in the first element of that name. Names of caches' files have nothing that would be written otherwise in
/// XML, but for the quotes that some stores put in.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once("</")?;
    Some(unescaped(value))
}

/// Seconds since 1970 of a time such as `2026-11-24T10:00:00.000Z`, which is how S3 tells it.
fn seconds(time: &str) -> Option<Seconds> {
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Years begin in March, so that a leap day is the last of one; 1970 began 719,468 days after the first of them.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Seconds::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_clock() {
        for (time, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:34:56.789Z", Some(951_827_696)),
            ("2026-11-24T10:00:00.000Z", Some(1_795_514_400)),
            ("yesterday", None),
        ] {
            assert_eq!(seconds(time), expected, "{time}");
        }
    }
}
