//! Credentials that a cloud gives its machines, each by the way that the cloud has for it. Everything that is asked there is
//! asked of a fake on the loopback, where the environment says that it is to be found.

use crate::support::cloud::{Cloud, HANDED_OUT, OF_THE_MACHINE, ROLE};
use crate::support::s3::{BUCKET, Dialect};
use crate::support::{FakeS3, Nix, Said, ScratchStore, Storewatch, expr, write_secret};
use std::os::unix::fs::PermissionsExt;

/// What is added to the environment.
type Variables = Vec<(&'static str, String)>;

/// Pushes a path to a store of that kind, by what `role` adds to the environment, and looks that nothing secret shows.
#[track_caller]
fn push(dialect: Dialect, role: &dyn Fn(&Cloud, &Storewatch<'_>) -> Variables) {
    let Some(nix) = Nix::recent() else { return };
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let cloud = Cloud::start(fake.key().clone());
    {
        let mut state = fake.state();
        (state.dialect, state.token) = (dialect, Some(HANDED_OUT.to_owned()));
    }
    let storewatch = Storewatch::new(&store);
    let scheme = match dialect {
        Dialect::S3 => format!("s3://{BUCKET}?"),
        Dialect::Google => format!("gs://{BUCKET}?"),
        Dialect::Azure => format!("az://{BUCKET}?account=nixaccount&"),
    };
    storewatch.policy(&format!(
        "version = 1\n[caches.team]\nurl = \"{scheme}endpoint=http://127.0.0.1:{}\"\n\
         # For what stands in front of the store, and none of what hands out its keys.\nheaders.x-gate = \"open\"\n",
        fake.port()
    ));
    let paths = store.build(&expr::many(1)).unwrap();
    let mut command = storewatch.command();
    command.arg("push").args(&paths).env("STOREWATCH_LOG", "trace").envs(role(&cloud, &storewatch));
    let said = Said::by(&mut command);
    assert_eq!(said.code, Some(0), "{said:?}; asked: {:?}", cloud.asked());
    assert!(fake.state().store_paths().contains(&paths[0]));
    let asked = cloud.asked();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.ends_with(": given")), "{asked:?}");
    let all = said.stdout + &said.stderr;
    for secret in [HANDED_OUT, OF_THE_MACHINE, &fake.key().secret] {
        let line = all.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret shows");
    }
}

fn token_file(storewatch: &Storewatch<'_>) -> String {
    let file = storewatch.state_dir().with_file_name("token");
    write_secret(&file, OF_THE_MACHINE);
    file.display().to_string()
}

#[test]
fn the_role_of_a_machine_at_amazon() {
    push(Dialect::S3, &|cloud, _| vec![("AWS_METADATA_ENDPOINT", format!("http://{}", cloud.host()))]);
}

#[test]
fn the_role_of_a_container_at_amazon() {
    push(Dialect::S3, &|cloud, storewatch| {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/container", cloud.host())),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file(storewatch)),
        ]
    });
}

#[test]
fn a_web_identity_at_amazon() {
    push(Dialect::S3, &|cloud, storewatch| {
        vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file(storewatch)),
            ("AWS_ROLE_ARN", ROLE.to_owned()),
            ("AWS_ENDPOINT_URL_STS", format!("http://{}", cloud.host())),
        ]
    });
}

#[test]
fn the_account_of_a_machine_at_google() {
    push(Dialect::Google, &|cloud, _| vec![("GCE_METADATA_HOST", cloud.host())]);
}

#[test]
fn the_identity_of_a_machine_at_azure() {
    push(Dialect::Azure, &|cloud, _| {
        vec![("AZURE_MSI_ENDPOINT", format!("http://{}/metadata/identity/oauth2/token", cloud.host()))]
    });
}

#[test]
fn the_identity_of_a_workload_at_azure() {
    push(Dialect::Azure, &|cloud, storewatch| {
        vec![
            ("AZURE_FEDERATED_TOKEN_FILE", token_file(storewatch)),
            ("AZURE_CLIENT_ID", "client".to_owned()),
            ("AZURE_TENANT_ID", "tenant".to_owned()),
            ("AZURE_AUTHORITY_HOST", format!("http://{}", cloud.host())),
        ]
    });
}

/// Asks whether a bucket would take something, by what `role` adds to the environment. Gives what was said.
fn ping(url: &str, role: &dyn Fn(&Storewatch<'_>) -> Variables) -> Option<String> {
    let nix = Nix::recent()?;
    let (store, fake) = (ScratchStore::new(&nix), FakeS3::start());
    let storewatch = Storewatch::new(&store);
    let endpoint = format!("http://127.0.0.1:{}", fake.port());
    storewatch.policy(&format!("version = 1\n[caches.team]\nurl = \"{url}endpoint={endpoint}\"\n"));
    let mut command = storewatch.command();
    let said = Said::by(command.args(["cache", "ping"]).envs(role(&storewatch)));
    assert_eq!(said.code, Some(1), "{said:?}");
    Some(said.stdout + &said.stderr)
}

#[test]
fn a_key_of_googles_that_others_may_read_is_not_taken() {
    let said = ping("gs://b?", &|storewatch| {
        let file = storewatch.state_dir().with_file_name("google.json");
        std::fs::write(&file, "{\"private_key\": \"s3cret\"}").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        vec![("GOOGLE_APPLICATION_CREDENTIALS", file.display().to_string())]
    });
    let Some(said) = said else { return };
    assert!(said.contains("google.json can be read by others (mode 0644)") && !said.contains("s3cret"), "{said}");
}

/// Whoever opens one that nobody writes to waits for ever.
#[test]
fn a_pipe_in_a_keys_place_holds_nobody_up() {
    let said = ping("gs://b?", &|storewatch| {
        let pipe = storewatch.state_dir().with_file_name("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        vec![("GOOGLE_SERVICE_ACCOUNT", pipe.display().to_string())]
    });
    let Some(said) = said else { return };
    assert!(said.contains("pipe is no regular file"), "{said}");
}

/// The library that speaks to the clouds panics where a request can't carry something.
#[test]
fn what_can_not_be_sent_is_told() {
    let said = ping("gs://b?", &|_| vec![("GCE_METADATA_HOST", "127.0.0.1:9\n".to_owned())]);
    let Some(said) = said else { return };
    assert!(said.contains("there are no credentials for gs://b: a variable"), "{said}");
    let said = ping("s3://b?", &|_| {
        vec![("AWS_ACCESS_KEY_ID", "\u{feff}AKIA".to_owned()), ("AWS_SECRET_ACCESS_KEY", "s3cret".to_owned())]
    });
    let said = said.unwrap();
    assert!(said.contains("the key's id has a character") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
}

#[test]
fn nobody_on_the_network_is_asked_for_keys_in_the_open() {
    let said = ping("s3://b?", &|storewatch| {
        vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file(storewatch)),
            ("AWS_ROLE_ARN", ROLE.to_owned()),
            // An address of documentation's (RFC 5737): nobody has it.
            ("AWS_ENDPOINT_URL_STS", "http://192.0.2.1".to_owned()),
        ]
    });
    let Some(said) = said else { return };
    assert!(said.contains("would be asked of") && said.contains("192.0.2.1"), "{said}");
    assert!(said.contains("cross the network unencrypted") && !said.contains(OF_THE_MACHINE), "{said}");
}
