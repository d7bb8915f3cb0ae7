//! Buckets of object stores: `s3://`, `gs://` and `az://`.
//!
//! For S3 the parameters are Nix's own. Nix has neither of the other two.

use reqwest::Url;

use super::parameters::Parameters;
use super::{CacheUrl, UrlError, web};

/// A bucket, or a folder of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    /// Whose interface is spoken, and what differs by that.
    pub service: Service,
    /// The bucket's name; Azure's word is container.
    pub bucket: String,
    /// The folder in it, without slashes around it; empty for the bucket itself.
    pub prefix: String,
}

/// An object store's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, and all that speak like it.
    S3 {
        /// `https://HOST[:PORT]`, without a slash at its end; `None` for Amazon's own.
        endpoint: Option<String>,
        /// The region; `None`: as the environment or the profile says.
        region: Option<String>,
        /// The profile in `~/.aws` whose keys are used.
        profile: Option<String>,
        /// How a request names the bucket.
        addressing: Addressing,
        /// Whether Amazon's own servers are spoken to without encryption, which `scheme=http` asks for.
        plain: bool,
    },
    /// Google Cloud Storage.
    Gcs {
        /// As for S3.
        endpoint: Option<String>,
    },
    /// Azure Blob Storage.
    Azure {
        /// The storage account; `None`: as the environment says.
        account: Option<String>,
        /// As for S3.
        endpoint: Option<String>,
    },
}

/// How a request to S3 names its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// In the host's name with Amazon, in the path with others.
    #[default]
    Auto,
    /// In the path: what servers of one's own mostly have.
    Path,
    /// In the host's name.
    Virtual,
}

/// What stands behind `s3://`.
pub(super) fn parse_s3(rest: &str) -> Result<CacheUrl, UrlError> {
    let (place, mut parameters) = Parameters::split(rest)?;
    let (bucket, prefix) = place_of(place, "s3://BUCKET")?;
    let scheme = parameters.read("scheme", "https or http", |scheme| match scheme {
        "https" | "http" => Some(scheme.to_owned()),
        _ => None,
    });
    let plain = scheme.as_deref() == Some("http");
    let endpoint = endpoint(&mut parameters, scheme.as_deref().unwrap_or("https"));
    let region = parameters.read("region", "a region, such as us-east-1", name);
    let profile = parameters.read("profile", "the name of a profile in ~/.aws", some);
    let addressing = parameters.read("addressing-style", "auto, path or virtual", |style| match style {
        "auto" => Some(Addressing::Auto),
        "path" => Some(Addressing::Path),
        "virtual" => Some(Addressing::Virtual),
        _ => None,
    });
    let addressing = addressing.unwrap_or_default();
    finish(parameters, Service::S3 { endpoint, region, profile, addressing, plain }, bucket, prefix)
}

/// What stands behind `gs://`.
pub(super) fn parse_gs(rest: &str) -> Result<CacheUrl, UrlError> {
    let (place, mut parameters) = Parameters::split(rest)?;
    let (bucket, prefix) = place_of(place, "gs://BUCKET")?;
    let endpoint = endpoint(&mut parameters, "https");
    finish(parameters, Service::Gcs { endpoint }, bucket, prefix)
}

/// What stands behind `az://`.
pub(super) fn parse_az(rest: &str) -> Result<CacheUrl, UrlError> {
    let (place, mut parameters) = Parameters::split(rest)?;
    let (bucket, prefix) = place_of(place, "az://CONTAINER?account=ACCOUNT")?;
    let account = parameters.read("account", "the name of a storage account", name);
    let endpoint = endpoint(&mut parameters, "https");
    finish(parameters, Service::Azure { account, endpoint }, bucket, prefix)
}

fn finish(
    mut parameters: Parameters<'_>,
    service: Service,
    bucket: String,
    prefix: String,
) -> Result<CacheUrl, UrlError> {
    let layout = parameters.layout();
    parameters.finish()?;
    Ok(CacheUrl::Bucket { bucket: BucketUrl { service, bucket, prefix }, layout })
}

/// Bucket and folder. No message repeats them: people put keys in front of an `@`.
fn place_of(place: &str, form: &'static str) -> Result<(String, String), UrlError> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.contains(['@', ':']) {
        return Err(UrlError::BucketCredentials);
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if bucket.is_empty() || !bucket.bytes().all(legal) || !bucket.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
        return Err(UrlError::BadBucket(form));
    }
    let prefix = prefix.trim_end_matches('/');
    let legal = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| legal(byte) || b"+=,".contains(&byte))
    };
    if !prefix.is_empty() && !prefix.split('/').all(legal) {
        return Err(UrlError::BadPrefix);
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

/// `HOST[:PORT]`, or with `https://` in front, as Nix takes both.
fn endpoint(parameters: &mut Parameters<'_>, scheme: &str) -> Option<String> {
    let given = parameters.take("endpoint")?;
    let full = if given.contains("://") { given.into_owned() } else { format!("{scheme}://{given}") };
    let address = web::parse(&full).map_err(|error| match error {
        UrlError::Credentials => UrlError::BucketCredentials,
        other => other,
    });
    let server = address.and_then(|address| {
        let is_server = matches!(address.scheme(), "http" | "https") && address.has_host();
        if is_server { Ok(Some(address.as_str().trim_end_matches('/').to_owned())) } else { Err(UrlError::BadEndpoint) }
    });
    parameters.keep(server)
}

fn name(text: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!text.is_empty() && text.bytes().all(legal)).then(|| text.to_owned())
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

impl BucketUrl {
    /// The kind, as people call it, and its scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.service {
            Service::S3 { .. } => "s3",
            Service::Gcs { .. } => "gs",
            Service::Azure { .. } => "az",
        }
    }

    /// Where its servers are, without a slash at the end; for S3 in this region.
    #[must_use]
    pub fn endpoint(&self, region: &str) -> String {
        match &self.service {
            Service::S3 { endpoint: Some(endpoint), .. }
            | Service::Gcs { endpoint: Some(endpoint) }
            | Service::Azure { endpoint: Some(endpoint), .. } => endpoint.clone(),
            Service::S3 { plain, .. } => {
                format!("{}://s3.{region}.amazonaws.com", if *plain { "http" } else { "https" })
            }
            Service::Gcs { .. } => "https://storage.googleapis.com".to_owned(),
            Service::Azure { account: Some(account), .. } => format!("https://{account}.blob.core.windows.net"),
            // The name of any account would be somebody's.
            Service::Azure { account: None, .. } => "https://blob.core.windows.net".to_owned(),
        }
    }

    /// As [`BucketUrl::endpoint`], where nothing but the URL is known.
    #[must_use]
    pub fn likely_endpoint(&self) -> String {
        let region = match &self.service {
            Service::S3 { region, .. } => region.as_deref(),
            Service::Gcs { .. } | Service::Azure { .. } => None,
        };
        self.endpoint(region.unwrap_or("us-east-1"))
    }

    /// Whether nothing but the environment says whose bucket it is.
    #[must_use]
    pub fn lacks_account(&self) -> bool {
        matches!(self.service, Service::Azure { account: None, endpoint: None })
    }

    /// Whether secrets that a request carries could be read on the way. S3's and Azure's keys only sign and are never
    /// sent, but their temporary tokens are, and Google's always.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        web::is_readable_on_the_way(&self.likely_endpoint())
    }

    /// Whether its server is this host itself.
    #[must_use]
    pub fn is_within_this_host(&self) -> bool {
        Url::parse(&self.likely_endpoint()).is_ok_and(|address| web::is_loopback(&address))
    }

    /// `s3://BUCKET/PREFIX`, as messages and people call it.
    #[must_use]
    pub fn name(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{}://{}{slash}{}", self.scheme(), self.bucket, self.prefix)
    }

    /// The name of an object: a file of the cache's layout.
    #[must_use]
    pub fn key(&self, file: &str) -> String {
        if self.prefix.is_empty() { file.to_owned() } else { format!("{}/{file}", self.prefix) }
    }

    /// What Nix takes as a substituter. It reads S3 itself; from the others over https, where they are public.
    #[must_use]
    pub fn substituter(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        match &self.service {
            Service::S3 { endpoint, region, profile, addressing, plain } => {
                let mut parameters = Vec::new();
                let mut say = |name: &str, value: &str| parameters.push(format!("{name}={value}"));
                if let Some(endpoint) = endpoint {
                    say("endpoint", endpoint);
                }
                if let Some(region) = region {
                    say("region", region);
                }
                if let Some(profile) = profile {
                    say("profile", profile);
                }
                match addressing {
                    Addressing::Auto => {}
                    Addressing::Path => say("addressing-style", "path"),
                    Addressing::Virtual => say("addressing-style", "virtual"),
                }
                if *plain && endpoint.is_none() {
                    say("scheme", "http");
                }
                let mark = if parameters.is_empty() { "" } else { "?" };
                format!("{}{mark}{}", self.name(), parameters.join("&"))
            }
            Service::Gcs { .. } | Service::Azure { .. } => {
                format!("{}/{}{slash}{}", self.likely_endpoint(), self.bucket, self.prefix)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Compression;

    fn bucket(url: &str) -> BucketUrl {
        match CacheUrl::parse(url) {
            Ok(CacheUrl::Bucket { bucket, .. }) => bucket,
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn what_people_know_from_nix_is_understood() {
        let url = "s3://nix-archive/team/a?endpoint=garage.example.com:3900&region=garage&profile=me&scheme=http\
                   &addressing-style=virtual&compression=xz&priority=30";
        let Ok(CacheUrl::Bucket { bucket: understood, layout }) = CacheUrl::parse(url) else { panic!("a good URL") };
        let service = Service::S3 {
            endpoint: Some("http://garage.example.com:3900".to_owned()),
            region: Some("garage".to_owned()),
            profile: Some("me".to_owned()),
            addressing: Addressing::Virtual,
            plain: true,
        };
        let expected = BucketUrl { service, bucket: "nix-archive".to_owned(), prefix: "team/a".to_owned() };
        assert_eq!(understood, expected);
        assert_eq!((layout.compression, layout.priority), (Some(Compression::Xz { level: 6 }), 30));
        assert_eq!(understood.key("nar/x"), "team/a/nar/x");
        assert!(understood.is_readable_on_the_way());
        let amazon = bucket("s3://b?region=eu-west-1");
        assert_eq!(amazon.likely_endpoint(), "https://s3.eu-west-1.amazonaws.com");
        assert_eq!((amazon.key("nar/x").as_str(), amazon.name().as_str()), ("nar/x", "s3://b"));
        let full = bucket("s3://b?endpoint=https%3A%2F%2Fh%2Fs3%2F");
        assert_eq!(full.likely_endpoint(), "https://h/s3");
        assert!(bucket("s3://b?endpoint=http://127.0.0.1:3900").is_within_this_host());
    }

    #[test]
    fn the_others_have_what_they_need() {
        assert_eq!(bucket("gs://b/p").substituter(), "https://storage.googleapis.com/b/p");
        assert_eq!(bucket("az://c?account=me").substituter(), "https://me.blob.core.windows.net/c");
        let nobodys = bucket("az://c");
        assert_eq!(
            (nobodys.likely_endpoint().as_str(), nobodys.lacks_account()),
            ("https://blob.core.windows.net", true)
        );
        assert!(!bucket("az://c?account=me").lacks_account() && !bucket("az://c?endpoint=https://h").lacks_account());
        let s3 = "s3://b/p?endpoint=https://h&region=garage&profile=me&addressing-style=path";
        assert_eq!(bucket(s3).substituter(), s3);
        assert_eq!(bucket("s3://b?scheme=http").substituter(), "s3://b?scheme=http");
    }

    #[test]
    fn bad_urls_say_what_to_write_and_repeat_no_secret() {
        let message = |url| CacheUrl::parse(url).expect_err(url).to_string();
        for url in ["s3://AKIA:s3cret@bucket", "s3://s3cret@bucket/a", "s3://b?endpoint=https://me:s3cret@h"] {
            assert_eq!(CacheUrl::parse(url), Err(UrlError::BucketCredentials), "{url}");
            assert!(!message(url).contains("s3cret"));
        }
        assert_eq!(
            message("s3://"),
            "the URL names no bucket: write `s3://BUCKET`, with a folder behind the name if you like"
        );
        assert_eq!(CacheUrl::parse("gs://b/../c"), Err(UrlError::BadPrefix));
        assert_eq!(CacheUrl::parse("s3://b/a//c"), Err(UrlError::BadPrefix));
        assert_eq!(CacheUrl::parse("s3://b?endpoint=ftp://h"), Err(UrlError::BadEndpoint));
        assert_eq!(message("s3://b?scheme=ftp"), "`scheme=ftp`: expected https or http");
        assert_eq!(
            message("s3://b?scheme=ftp&priority=-3&compression=auto&compression-level=5&compression=xz&regoin=x&x=1"),
            "parameter `compression` is given twice; `scheme=ftp`: expected https or http; `compression-level=5`: expected \
             no level with compression=auto, which finds it by itself; `priority=-3`: expected a number, 0 or more; unknown \
             parameters `regoin` and `x`; known are scheme, endpoint, region, profile, addressing-style, compression, \
             compression-level, priority, want-mass-query, write-build-logs, write-nar-listing, write-realisations, \
             write-build-trace and secret-key"
        );
        assert_eq!(
            message("gs://b?region=x"),
            "unknown parameter `region`; known are endpoint, compression, compression-level, priority, \
             want-mass-query, write-build-logs, write-nar-listing, write-realisations, write-build-trace and secret-key"
        );
    }
}
