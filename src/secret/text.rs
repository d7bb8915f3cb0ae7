//! The text of a secret, and what can be one.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::{NoText, SecretError};

/// No secret that storewatch reads is longer (bytes); what is longer is the wrong file.
pub(super) const LONGEST: usize = 64 * 1024;

/// A secret. Cheap to clone; the memory is wiped when the last clone is gone. It has no `Display`.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

/// What a secret looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One line without control characters: tokens, passwords, and Nix's signing keys.
    OneLine,
    /// Several lines: keys in PEM.
    Lines,
    /// One line, `USER:PASSWORD`.
    Login,
}

impl Secret {
    /// Takes what was read, without white space around it: editors and `echo` leave a newline, and no secret has any.
    /// `from` is what errors call the place it came from.
    ///
    /// # Errors
    /// [`SecretError::Empty`], [`SecretError::NoText`].
    pub(super) fn new(bytes: &[u8], form: Form, from: &dyn fmt::Display) -> Result<Self, SecretError> {
        let refused = |problem| SecretError::NoText { from: from.to_string(), problem };
        if bytes.len() > LONGEST {
            return Err(refused(NoText::TooLong));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| refused(NoText::NotUtf8))?.trim();
        if text.is_empty() {
            return Err(SecretError::Empty { from: from.to_string() });
        }
        let fits = |c: char| !c.is_control() || (form == Form::Lines && matches!(c, '\n' | '\r' | '\t'));
        if !text.chars().all(fits) {
            return Err(refused(NoText::Control));
        }
        Ok(Self(Arc::new(Zeroizing::new(text.to_owned()))))
    }

    /// The text itself, for the one place that sends or parses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bytes: &[u8], form: Form) -> Result<String, SecretError> {
        Secret::new(bytes, form, &"the file").map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn white_space_around_it_is_no_part_of_a_secret() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\n", "  s3cret \n\n"] {
            assert_eq!(taken(text.as_bytes(), Form::OneLine).expect("a secret"), "s3cret");
        }
        assert_eq!(taken(b"BEGIN\nabc\r\nEND\n", Form::Lines).expect("a key"), "BEGIN\nabc\r\nEND");
        assert_eq!(taken(&[b'a'; LONGEST], Form::OneLine).expect("a long secret").len(), LONGEST);
    }

    #[test]
    fn what_is_no_secret_says_so() {
        let message = |bytes: &[u8], form| taken(bytes, form).expect_err("no secret").to_string();
        assert_eq!(message(b" \n", Form::OneLine), "the file gives no secret: it is empty");
        assert_eq!(message(b"s3cret\xff", Form::OneLine), "the file gives no secret: it is no UTF-8");
        for text in ["s3cret\nother", "s3\0cret", "s3\x1bcret"] {
            let expected = "the file gives no secret: it has more than one line, or control characters in it";
            assert_eq!(message(text.as_bytes(), Form::OneLine), expected);
        }
        assert!(matches!(
            taken(b"BEGIN\n\0\nEND", Form::Lines),
            Err(SecretError::NoText { problem: NoText::Control, .. })
        ));
        assert_eq!(message(&[b'a'; LONGEST + 1], Form::Lines), "the file gives no secret: it has more than 64 KiB");
    }

    proptest! {
        // Whatever is read: `Debug` and errors have nothing of it.
        #[test]
        fn no_message_has_a_part_of_it(middle in "\\PC{8,40}", around in prop::collection::vec(any::<u8>(), 0..4)) {
            let bytes = [&around, middle.as_bytes(), &around].concat();
            let shown = match Secret::new(&bytes, Form::OneLine, &"F") {
                Ok(secret) => format!("{secret:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains(&middle));
        }
    }
}
