//! Secrets in the macOS keychain.

use zeroize::Zeroizing;

use super::command;
use super::error::SecretError;
use super::source::DEFAULT_TIMEOUT;

/// The password of an item, as `security`, which every macOS has, prints it.
pub(super) async fn password(service: &str, account: Option<&str>) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    if !cfg!(target_os = "macos") {
        return Err(SecretError::NoKeychain);
    }
    command::output(&argv(service, account), DEFAULT_TIMEOUT).await
}

fn argv(service: &str, account: Option<&str>) -> Vec<String> {
    let mut argv = vec!["/usr/bin/security", "find-generic-password", "-w", "-s", service];
    argv.extend(account.into_iter().flat_map(|account| ["-a", account]));
    argv.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_asked_for_by_service_and_account() {
        let argv = |account| argv("attic", account).join(" ");
        assert_eq!(argv(None), "/usr/bin/security find-generic-password -w -s attic");
        assert_eq!(argv(Some("me")), "/usr/bin/security find-generic-password -w -s attic -a me");
    }
}
