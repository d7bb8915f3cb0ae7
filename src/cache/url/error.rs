//! Why a URL names no cache.

/// Why a URL names no cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No kind of cache that is known. The URL isn't repeated, since one may hold a password.
    #[error(
        "this is no cache URL; write `file:///DIR`, `https://HOST/FOLDER`, `s3://BUCKET`, `gs://BUCKET`, \
         `az://CONTAINER`, `attic+https://HOST/CACHE` or `command:///PROGRAM`"
    )]
    Unknown,
    /// What should be the address of a server is none.
    #[error("this is no address of a server ({0}); write `https://HOST`")]
    NoAddress(url::ParseError),
    /// A user name or a password: the policy is no place for them, and a URL is shown in many places.
    #[error(
        "the URL has a user name or a password in it: take it out, and write where the token is to be had beside it: \
         `token = {{ file = \"/run/secrets/token\" }}`"
    )]
    Credentials,
    /// The same, where a password can stand beside it.
    #[error(
        "the URL has a user name or a password in it: take it out, and write beside it `user = \"NAME\"` and where the \
         password is to be had, `password = {{ file = \"/run/secrets/password\" }}`"
    )]
    UserInfo,
    /// `#…`: nothing is meant by it.
    #[error("leave out what begins with `#`: a cache's URL has nothing of the kind")]
    Fragment,
    /// `?…` or `#…`: nothing is meant by them, and a token may be among them.
    #[error(
        "this URL takes no parameters: leave out what begins with `?` or `#`, and write where the token is to be had \
         beside it: `token = {{ file = \"/run/secrets/token\" }}`"
    )]
    Parameters,
    /// Keys, or what may be some: the policy is no place for them, and a URL is shown in many places.
    #[error(
        "the URL has a user name, a password or a key in it: take it out, and write where the keys are to be had beside \
         it, such as `secret_access_key = {{ file = \"/run/secrets/s3-key\" }}`"
    )]
    BucketCredentials,
    /// No bucket's name.
    #[error("the URL names no bucket: write `{0}`, with a folder behind the name if you like")]
    BadBucket(&'static str),
    /// No folder's name that every store and every reader takes.
    #[error(
        "the folder behind the bucket's name has letters, digits and `-._+=,` in its parts, with single slashes between"
    )]
    BadPrefix,
    /// Something else than a web server.
    #[error("`endpoint` is no address of a server: write `HOST`, `HOST:PORT` or `https://HOST`")]
    BadEndpoint,
    /// An Attic server has many caches.
    #[error("the URL names no cache of the server: write `attic+https://HOST/CACHE`")]
    NoCacheName,
    /// Attic would refuse it.
    #[error(
        "the last part of the URL is no name of an Attic cache: these have up to 50 letters, digits, `-`, `_` and `+`, \
         and a letter or digit in front"
    )]
    BadCacheName,
    /// Narinfos are only read from servers.
    #[error("this is no upstream cache: write `https://HOST`")]
    NoUpstream,
    /// An upstream is asked as everybody may ask it.
    #[error(
        "an upstream's address has host, port and path only: leave out user name, password, and what begins with `?` or `#`"
    )]
    NotPlain,
    /// The directory isn't absolute, or not text.
    #[error("a file:// URL must name an absolute directory: `file:///DIR`")]
    Relative,
    /// The program isn't absolute, or not text.
    #[error("a command:// URL names a program from the `/` on: `command:///PROGRAM`")]
    RelativeProgram,
    /// Arguments have a key of their own.
    #[error(
        "this URL takes no parameters: leave out what begins with `?` or `#`, and write the program's arguments beside it: \
         `args = [\"--to\", \"team\"]`"
    )]
    CommandParameters,
    /// Several parameters, each wrong in its way.
    #[error("{}", all(.0))]
    Several(Vec<UrlError>),
    /// Parameters that aren't known.
    #[error("unknown {names}; known are {known}")]
    UnknownParameter {
        /// ``parameter `a` ``, or ``parameters `a` and `b` ``.
        names: String,
        /// Those that such a URL may have.
        known: String,
    },
    /// A key is taken from a file, and from nowhere else.
    #[error("`secret-key` names the file that has the key, by its absolute path: `secret-key=/run/secrets/cache.key`")]
    SecretKey,
    /// A parameter twice.
    #[error("parameter `{0}` is given twice")]
    Twice(String),
    /// A parameter's value can't be used.
    #[error("`{parameter}={value}`: expected {expected}")]
    BadValue {
        /// Its name.
        parameter: String,
        /// What was given.
        value: String,
        /// What would have been good.
        expected: &'static str,
    },
}

fn all(errors: &[UrlError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
