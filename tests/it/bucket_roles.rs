//! Credentials that a cloud gives its machines, each by the way that the cloud has for it. Everything that is asked there is
//! asked of a fake on the loopback, where the environment says that it is to be found.

use crate::support::cloud::{Cloud, HANDED_OUT, OF_THE_MACHINE, ROLE};
use crate::support::s3::{BUCKET, Dialect};
use crate::support::{FakeS3, Nix, Said, ScratchStore, Storewatch, expr, write_secret};

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
