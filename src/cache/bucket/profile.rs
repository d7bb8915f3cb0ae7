//! The files in `~/.aws`, as far as they hold keys. What a profile refers to (roles, SSO, other programs) is not followed.

/// What a profile says.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) key_id: Option<String>,
    pub(super) secret_key: Option<String>,
    pub(super) token: Option<String>,
    pub(super) region: Option<String>,
}

impl Profile {
    pub(super) fn has_keys(&self) -> bool {
        self.key_id.is_some() && self.secret_key.is_some()
    }
}

/// What a file says of a profile. In `config` all but the default one have `profile` in front of their names.
pub(super) fn find(text: &str, name: &str, is_config: bool) -> Profile {
    let (mut profile, mut inside) = (Profile::default(), false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let section = section.trim();
            inside = match section.strip_prefix("profile") {
                Some(named) if is_config && named.starts_with(char::is_whitespace) => {
                    named.trim().trim_matches('"') == name
                }
                _ => section == name && (!is_config || name == "default"),
            };
            continue;
        }
        // What is indented belongs to a group of settings, such as `s3 =`.
        if !inside || line.starts_with(char::is_whitespace) {
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else { continue };
        let place = match key.trim() {
            "aws_access_key_id" => &mut profile.key_id,
            "aws_secret_access_key" => &mut profile.secret_key,
            "aws_session_token" => &mut profile.token,
            "region" => &mut profile.region,
            _ => continue,
        };
        *place = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_told_apart() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B/=\n\n[me]\r\n\
                    aws_access_key_id=C\naws_secret_access_key = D\naws_session_token = E\ns3 =\n  region = no\n";
        let default = find(text, "default", false);
        assert_eq!((default.key_id.as_deref(), default.secret_key.as_deref()), (Some("A"), Some("B/=")));
        let me = find(text, "me", false);
        assert_eq!((me.key_id.as_deref(), me.token.as_deref(), me.region), (Some("C"), Some("E"), None));
        assert!(!find(text, "you", false).has_keys());
        let config = "[default]\nregion = eu-west-1\n[profile me]\nregion=garage\n[me]\nregion = no\n";
        assert_eq!(find(config, "default", true).region.as_deref(), Some("eu-west-1"));
        assert_eq!(find(config, "me", true).region.as_deref(), Some("garage"));
    }
}
