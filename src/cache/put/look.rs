//! Looking at a cache on a web server without opening it, and trying it out, step by step, so that each trouble is found
//! where it lies.

use tokio::time::Instant;

use super::files::{Files, parse};
use super::{PutOptions, layout};
use crate::cache::binary::agree_on_store;
use crate::cache::http::{Action, HttpError, refuse_own};
use crate::cache::trial::trial_file;
use crate::cache::unfinished::Place;
use crate::cache::{CacheError, CacheInfo, Class, Trial};
use crate::nix::StoreDir;

/// Said where it isn't known whether it may be made.
const NOT_THERE_YET: &str = "there is no cache yet; the first upload makes it, if the server takes uploads";

/// Said where it may.
const CAN_BE_MADE: &str = "there is no cache yet; the first upload makes it";

/// Said where it may not.
const NONE_THERE: &str = "there is no cache yet";

/// Said where it may, and the server has kept what was to be taken back.
const TRIAL_STAYS: &str = "there is no cache yet; the first upload makes it. A small file stays in its folder `nar`, since the \
                           server deletes nothing";

/// What says of a file that it can go, should it stay.
const TRIAL: &str = "storewatch has asked whether it may upload here; this file can be deleted\n";

/// What there is to say of the cache on a web server.
///
/// # Errors
/// [`CacheError::Http`], [`CacheError::OwnServer`].
pub async fn look(options: &PutOptions) -> Result<CacheInfo, CacheError> {
    let files = Files::new(options).await?;
    let found = files.read(layout::CACHE_INFO).await?;
    let remark = found.is_none().then_some(NOT_THERE_YET);
    let text = String::from_utf8_lossy(&found.unwrap_or_default()).into_owned();
    Ok(CacheInfo {
        substituter: Some(options.endpoint.trim_end_matches('/').to_owned()),
        remark,
        ..CacheInfo::of_text(&text)
    })
}

/// Greets the server, reads what the cache says of itself, and finds out whether that could be written. Where there is no
/// cache, a file is put on trial.
pub async fn try_out(options: &PutOptions, store_dir: &StoreDir) -> Trial {
    let mut trial = Trial::default();
    if let Err(trouble) = greet(options, &mut trial).await {
        // Who doesn't answer needn't be asked more, nor this host itself.
        trial.troubles.push(trouble);
        return trial;
    }
    let files = match Files::new(options).await {
        Ok(files) => files,
        Err(error) => {
            trial.troubles.push(error);
            return trial;
        }
    };
    match files.read(layout::CACHE_INFO).await {
        Ok(Some(content)) => {
            trial.reads = Some(true);
            let (text, root) = (String::from_utf8_lossy(&content).into_owned(), files.url(""));
            let file = files.url(layout::CACHE_INFO);
            match agree_on_store(&text, store_dir, root.as_str(), file.as_str()) {
                Ok(()) => {
                    let may = files.may_put(layout::CACHE_INFO, content, layout::CACHE_INFO_TYPE).await;
                    trial.writes = allows(may.as_ref().map(drop));
                    trial.troubles.extend(may.err().map(CacheError::from));
                }
                Err(other) => trial.troubles.push(other),
            }
        }
        Ok(None) => {
            trial.reads = Some(true);
            let tried = put_in_vain(&files).await;
            trial.writes = allows(tried.as_ref().map(drop));
            trial.remark = Some(match &tried {
                Ok(Left::Nothing) => CAN_BE_MADE,
                Ok(Left::Something) => TRIAL_STAYS,
                Err(_) => NONE_THERE,
            });
            trial.troubles.extend(tried.err().map(CacheError::from));
        }
        Err(error) => {
            trial.reads = allows(Err(&error));
            trial.troubles.push(error.into());
        }
    }
    trial
}

/// What stays of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

/// Puts a file on a condition that never holds, where archives will lie, as the first upload would: its folder is made where
/// it is missing. A server that knows no conditions has it then, and it is deleted.
async fn put_in_vain(files: &Files) -> Result<Left, HttpError> {
    let (file, began) = (trial_file(), Instant::now());
    let put = || files.may_put(&file, TRIAL, layout::NAR_TYPE);
    let was_put = match put().await {
        Err(error) if files.has_made_the_folder(&error, &file, began).await => put().await,
        put => put,
    };
    if !was_put? {
        return Ok(Left::Nothing);
    }
    if !files.is_there(&file).await? {
        let problem = "it has taken a file and does not give it back; does it keep what is put there?";
        return Err(files.not_understood(Action::Put, problem));
    }
    // Whether that was done is seen then.
    let _ = files.delete(&file).await;
    Ok(if files.is_there(&file).await? { Left::Something } else { Left::Nothing })
}

async fn greet(options: &PutOptions, trial: &mut Trial) -> Result<(), CacheError> {
    let root = parse(&options.endpoint)?;
    if !options.allow_self {
        refuse_own(&root).await?;
    }
    let url = root.join(layout::CACHE_INFO).unwrap_or(root);
    Ok(trial.greet(&options.http, url).await?)
}

/// Whether an answer shows that this is allowed, if it shows anything of the kind.
fn allows(answer: Result<(), &HttpError>) -> Option<bool> {
    match answer {
        Ok(()) => Some(true),
        // Not even asked, since there is nothing to show.
        Err(HttpError::Secret { .. }) => None,
        Err(HttpError::Status { status: 405 | 501, .. }) => Some(false),
        Err(error) => (error.class() == Class::Credentials).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Tries a server out that answers one request after the other so. Returns what it was asked, too.
    async fn tried(answers: &'static [&'static str]) -> (Result<Left, HttpError>, Vec<String>) {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/", server.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&asked);
        tokio::spawn(async move {
            for status in answers {
                let (mut stream, _) = server.accept().await.expect("asked");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                if head.starts_with("PUT ") {
                    assert!(head.to_lowercase().contains("if-match: "), "{head}");
                    stream.read_exact(&mut [0; TRIAL.len()]).await.expect("a body");
                }
                heads.lock().expect("no panic").push(head.split(' ').next().unwrap_or_default().to_owned());
                let length = if head.starts_with("HEAD ") { TRIAL.len() } else { 0 };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
        });
        let options = PutOptions { endpoint, http: Default::default(), allow_self: true };
        let tried = put_in_vain(&Files::new(&options).await.expect("nothing is sent yet")).await;
        let asked = asked.lock().expect("no panic").clone();
        (tried, asked)
    }

    #[tokio::test]
    async fn what_is_put_on_trial_is_taken_back_or_told_of() {
        let (left, asked) = tried(&["412 Precondition Failed"]).await;
        assert_eq!((left.expect("it may"), asked), (Left::Nothing, vec!["PUT".to_owned()]), "it knows conditions");
        let all = ["PUT", "HEAD", "DELETE", "HEAD"].map(str::to_owned).to_vec();
        let (left, asked) = tried(&["201 Created", "200 OK", "204 No Content", "404 Not Found"]).await;
        assert_eq!((left.expect("it may"), &asked), (Left::Nothing, &all));
        let (left, asked) = tried(&["201 Created", "200 OK", "405 Method Not Allowed", "200 OK"]).await;
        assert_eq!((left.expect("it may"), &asked), (Left::Something, &all));
        let (kept_nothing, _) = tried(&["200 OK", "404 Not Found"]).await;
        assert!(kept_nothing.expect_err("it lies").to_string().contains("does it keep what is put there?"));
        let (refused, asked) = tried(&["401 Unauthorized"]).await;
        assert!(refused.expect_err("refused").is_about_credentials() && asked == ["PUT"]);
        let (refused, asked) = tried(&["409 Conflict", "405 Method Not Allowed"]).await;
        assert!(refused.is_err() && asked == ["PUT", "MKCOL"], "{asked:?}");
        let (left, asked) = tried(&["409 Conflict", "201 Created", "412 Precondition Failed"]).await;
        assert_eq!(left.expect("it may"), Left::Nothing);
        assert_eq!(asked, ["PUT", "MKCOL", "PUT"]);
    }
}
