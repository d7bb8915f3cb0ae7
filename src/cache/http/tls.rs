//! What goes wrong with encryption, found in the errors that it is hidden in.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, OtherError};

/// What went wrong with the encryption, if that was it.
pub(super) fn tls_error(error: &reqwest::Error) -> Option<rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // Where it is hidden in an I/O error, that doesn't show it as its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        if found.is_some() {
            return found.cloned();
        }
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// Whether a server's alert says that it misses a client's certificate, or takes another.
pub(super) fn wants_certificate(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        CertificateRequired
            | BadCertificate
            | CertificateExpired
            | CertificateRevoked
            | CertificateUnknown
            | UnsupportedCertificate
            | UnknownCA
            | AccessDenied
    )
}

/// Whether a server shows the certificate of an authority as its own. rustls has no kind of error for that: what verifies
/// certificates for it is known by its text alone.
pub(super) fn is_an_authoritys(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(OtherError(source)) if source.to_string() == "CaUsedAsEndEntity")
}
