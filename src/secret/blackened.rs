//! Texts of others that may repeat a secret.

use std::cmp::Reverse;

/// What stands in a secret's place.
const BLACK: &str = "[secret]";

/// The text without these secrets. The longest first: one may begin like another, whose end would stay.
pub fn blackened<S: AsRef<str>>(text: &str, secrets: impl IntoIterator<Item = S>) -> String {
    let mut secrets: Vec<S> = secrets.into_iter().filter(|secret| !secret.as_ref().is_empty()).collect();
    secrets.sort_by_key(|secret| Reverse(secret.as_ref().len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_ref(), BLACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_end_stays_of_one_that_begins_like_another() {
        assert_eq!(blackened("hunter-and-more, hunter", ["hunter", "", "hunter-and-more"]), "[secret], [secret]");
    }
}
