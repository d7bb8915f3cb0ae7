//! An object store's own names for what went wrong.

/// An object store's names for errors, as far as they differ in what they mean: S3's first, which Google's are too, then
/// Azure's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// `SlowDown` and its kin: a pause is asked for.
    SlowDown(String),
    /// `InternalError`, `RequestTimeout` and others that pass by themselves.
    Passing(String),
    /// `NoSuchBucket`.
    NoSuchBucket(String),
    /// `AccessDenied`: the key is known, and may not do this.
    AccessDenied(String),
    /// `SignatureDoesNotMatch`: the secret is another.
    SignatureDoesNotMatch(String),
    /// `InvalidAccessKeyId`: nobody has that key.
    InvalidAccessKeyId(String),
    /// `ExpiredToken` and its kin.
    Expired(String),
    /// `RequestTimeTooSkewed`: a clock is wrong.
    RequestTimeTooSkewed(String),
    /// `AuthorizationHeaderMalformed`: mostly the region is another.
    OtherRegion(String),
    /// The store has no room, or allows no more.
    NoRoom(String),
    /// `EntityTooLarge`: no single object may have that size.
    TooLarge(String),
    /// What was sent didn't arrive as it left: worth another try.
    Damaged(String),
    /// The store doesn't know what it was asked for.
    NotImplemented(String),
    /// Any other.
    Other(String),
    /// It gives none.
    None,
}

impl Code {
    /// Understands a store's name for an error.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let known = match name {
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "TooManyRequests"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "BandwidthLimitExceeded"
            | "rateLimitExceeded"
            | "ServerBusy" => Self::SlowDown,
            "InternalError"
            | "RequestTimeout"
            | "ServiceUnavailable"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "BucketNotReady"
            | "OperationTimedOut"
            | "ServerTimeout"
            | "Busy" => Self::Passing,
            "NoSuchBucket" | "ContainerNotFound" | "ResourceNotFound" | "AccountIsDisabled" | "InvalidBucketName" => {
                Self::NoSuchBucket
            }
            "AccessDenied"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "AuthorizationPermissionMismatch"
            | "InsufficientAccountPermissions"
            | "AuthorizationFailure"
            | "NotSignedUp" => Self::AccessDenied,
            "SignatureDoesNotMatch" | "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
                Self::SignatureDoesNotMatch
            }
            "InvalidAccessKeyId" | "NoAuthenticationInformation" => Self::InvalidAccessKeyId,
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidSecurity" | "RequestExpired" => {
                Self::Expired
            }
            "RequestTimeTooSkewed" => Self::RequestTimeTooSkewed,
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "IllegalLocationConstraintException" => Self::OtherRegion,
            "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" | "TooManyBuckets" => Self::NoRoom,
            "EntityTooLarge" | "RequestBodyTooLarge" | "MaxMessageLengthExceeded" => Self::TooLarge,
            "BadDigest"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "IncompleteBody"
            | "InvalidPart"
            | "InvalidPartOrder"
            | "EntityTooSmall"
            | "NoSuchUpload"
            | "Md5Mismatch"
            | "InvalidBlockList" => Self::Damaged,
            "NotImplemented" | "MethodNotAllowed" => Self::NotImplemented,
            "" => return Self::None,
            _ => Self::Other,
        };
        known(name.to_owned())
    }

    /// The same, by what the store says beside it where it has one name for several troubles, as Garage has for all that is
    /// about keys, for a quota, and for a clock.
    #[must_use]
    pub(super) fn told_apart(self, says: &str) -> Self {
        match self {
            Self::AccessDenied(name) if says.contains("Invalid signature") => Self::SignatureDoesNotMatch(name),
            Self::AccessDenied(name) if says.contains("No such key") => Self::InvalidAccessKeyId(name),
            Self::AccessDenied(name) if says.contains("quota is reached") => Self::NoRoom(name),
            Self::Other(name) if says.contains("Date is too old") => Self::RequestTimeTooSkewed(name),
            other => other,
        }
    }

    /// Whether it is the keys that are refused.
    pub(super) fn is_about_keys(&self) -> bool {
        matches!(
            self,
            Self::AccessDenied(_) | Self::SignatureDoesNotMatch(_) | Self::InvalidAccessKeyId(_) | Self::Expired(_)
        )
    }

    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::SlowDown(name)
            | Self::Passing(name)
            | Self::NoSuchBucket(name)
            | Self::AccessDenied(name)
            | Self::SignatureDoesNotMatch(name)
            | Self::InvalidAccessKeyId(name)
            | Self::Expired(name)
            | Self::RequestTimeTooSkewed(name)
            | Self::OtherRegion(name)
            | Self::NoRoom(name)
            | Self::TooLarge(name)
            | Self::Damaged(name)
            | Self::NotImplemented(name)
            | Self::Other(name) => Some(name),
            Self::None => None,
        }
    }

    /// What people can do about it, behind the message.
    pub(super) fn cure(&self) -> Option<&'static str> {
        match self {
            Self::NoSuchBucket(_) => Some("; make the bucket, or mend its name in the `url`"),
            Self::AccessDenied(_) => Some("; the key must be allowed to read, write and delete objects in that bucket"),
            Self::SignatureDoesNotMatch(_) => {
                Some("; the secret key does not belong to the key's id, or `region` is wrong")
            }
            Self::InvalidAccessKeyId(_) => Some("; nobody has that key there: take one of that store"),
            Self::Expired(_) => Some("; the credentials have expired: take new ones"),
            Self::RequestTimeTooSkewed(_) => Some("; this host's clock is wrong: set it, by NTP best"),
            Self::OtherRegion(_) => Some("; `region` in the `url` is not the bucket's"),
            Self::NoRoom(_) => Some("; make room there, or raise the quota"),
            Self::TooLarge(_) => Some("; the store takes no object of that size"),
            Self::SlowDown(_)
            | Self::Passing(_)
            | Self::Damaged(_)
            | Self::NotImplemented(_)
            | Self::Other(_)
            | Self::None => None,
        }
    }
}
