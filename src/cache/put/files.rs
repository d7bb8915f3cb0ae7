//! The files of a cache on a web server: looked for, read, put, and taken back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH, RANGE};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info};

use super::PutOptions;
use crate::cache::http::{Action, Answer, Body, Http, HttpError, origin, refuse_own};
use crate::cache::unfinished::Place;
use crate::cache::{CacheError, layout};
use crate::report::one_line;

/// A tag that no file has, by which a server that knows conditions is asked for something without its doing it.
const NOBODYS_TAG: &str = "\"storewatch-asks\"";

/// So many folders are remembered at most, some 200 bytes each: realisations have one for each derivation. To ask again costs
/// a request or two.
const FOLDERS: usize = 256;

/// The files of a cache. Cheap to clone.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) http: Http,
    /// Their folder, with a slash at its end.
    root: Url,
    pub(super) shared: Arc<Shared>,
}

/// What has been found out about the server.
#[derive(Default)]
pub(super) struct Shared {
    /// Whether it doesn't know HEAD.
    knows_no_head: AtomicBool,
    /// Whether it wants sizes beforehand.
    pub(super) wants_sizes: AtomicBool,
    /// The folders that were asked for.
    folders: std::sync::Mutex<HashMap<String, Arc<Folder>>>,
}

/// When a folder was made, if it was; held while it is being made, so that one does it for all who need it. Who needs another
/// one isn't held up.
type Folder = Mutex<Option<Instant>>;

/// What is where a file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A file of no bytes.
    Empty,
    /// A file of so many bytes, as far as the server says that.
    Some(Option<u64>),
}

impl Files {
    /// Makes ready to speak, unless the server is this host itself, or has just refused the same credentials.
    pub(super) async fn new(options: &PutOptions) -> Result<Self, CacheError> {
        let PutOptions { endpoint, http, allow_self } = options;
        http.credentials.check().await?;
        let root = parse(endpoint)?;
        if !allow_self {
            refuse_own(&root).await?;
        }
        Ok(Self { http: Http::new(http).await?, root, shared: Arc::default() })
    }

    /// The address of a file.
    pub(super) fn url(&self, file: &str) -> Url {
        let mut url = self.root.clone();
        // Segment by segment, since the name of a derivation may have a `?` in it.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(file.split('/'));
        }
        url
    }

    /// An answer that no such server gives.
    pub(super) fn not_understood(&self, action: Action, problem: &str) -> HttpError {
        HttpError::NotUnderstood { action, host: origin(&self.root), problem: problem.to_owned() }
    }

    /// Whether the server answers a small request.
    pub(super) async fn touch(&self) -> bool {
        self.http.touch(&self.root).await
    }

    /// What a file holds, if it is there.
    pub(super) async fn read(&self, file: &str) -> Result<Option<Vec<u8>>, HttpError> {
        match self.http.ask(Action::Read, self.http.client().get(self.url(file))).await {
            Ok(content) => Ok(Some(content)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a file is there, empty or not.
    pub(super) async fn is_there(&self, file: &str) -> Result<bool, HttpError> {
        Ok(!matches!(self.look(file).await?, Found::Nothing))
    }

    /// Asks for a file: by its first byte, where the server knows no HEAD.
    pub(super) async fn look(&self, file: &str) -> Result<Found, HttpError> {
        if !self.shared.knows_no_head.load(Ordering::Relaxed) {
            let answer = self.http.look(Action::Look, self.http.client().head(self.url(file))).await;
            match answer.map(|answer| answer.size) {
                Err(HttpError::Status { status: 405 | 501, .. }) => {
                    self.shared.knows_no_head.store(true, Ordering::Relaxed);
                }
                // Some say so of everything, since the answer itself has no more.
                Ok(Some(0)) => {}
                size => return found(size),
            }
        }
        let first_byte = self.http.client().get(self.url(file)).header(RANGE, "bytes=0-0");
        let answer = self.http.look(Action::Look, first_byte).await;
        found(answer.map(|answer| if answer.content.is_empty() { Some(0) } else { answer.size }))
    }

    /// Puts a small file, over one that is there.
    pub(super) async fn put(&self, file: &str, content: impl Into<Bytes>, kind: &str) -> Result<(), HttpError> {
        let (content, began) = (content.into(), Instant::now());
        let size = content.len() as u64;
        let answer = match self.put_once(self.request(file, kind), content.clone()).await {
            Err(error) if self.has_made_the_folder(&error, file, began).await => {
                self.put_once(self.request(file, kind), content).await
            }
            put => put,
        }?;
        // Not after each: what stands in front of a server may remember that the file wasn't there a moment ago.
        if answer.status == StatusCode::OK && is_page(&answer.content) { self.find(file, size).await } else { Ok(()) }
    }

    /// Finds out whether a file could be put, on a condition that never holds. Returns whether it was put nevertheless, as by
    /// a server that knows no conditions: so give it the very content that the file has, or take it back.
    pub(super) async fn may_put(&self, file: &str, content: impl Into<Bytes>, kind: &str) -> Result<bool, HttpError> {
        let request = self.request(file, kind).header(IF_MATCH, NOBODYS_TAG);
        match self.put_once(request, content.into()).await {
            Err(HttpError::Status { status: 412, .. }) => Ok(false),
            put => put.map(|_| true),
        }
    }

    async fn put_once(&self, request: RequestBuilder, content: Bytes) -> Result<Answer, HttpError> {
        let request = request.header(CONTENT_LENGTH, content.len());
        self.http.upload(Action::Put, request, Body::whole(content)).await
    }

    /// Puts an archive, and returns what the server says to that. `length`: its size in bytes, where that is known beforehand.
    pub(super) async fn put_archive(
        &self,
        file: &str,
        body: Body,
        length: Option<u64>,
    ) -> Result<StatusCode, HttpError> {
        let mut request = self.request(file, layout::NAR_TYPE);
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        Ok(self.http.upload(Action::Put, request, body).await?.status)
    }

    /// Makes sure that a file of so many bytes is there that the server says to have taken. Not every yes is the server's: a page
    /// to log in, or one that says that the server is being mended, comes with 200, too.
    pub(super) async fn find(&self, file: &str, size: u64) -> Result<(), HttpError> {
        match self.look(file).await? {
            Found::Some(found) if found.is_none_or(|found| found == size) => Ok(()),
            _ => Err(self.not_understood(
                Action::Put,
                "it says that it has taken a file, and doesn't have it; does something in front of it answer in its place?",
            )),
        }
    }

    fn request(&self, file: &str, kind: &str) -> RequestBuilder {
        self.http.client().put(self.url(file)).header(CONTENT_TYPE, kind)
    }

    /// Whether this is how the server says that a file's folder isn't there (nginx says 500, others 409 or 404), and the
    /// folder has been made since it was asked: now, or meanwhile for another file.
    pub(super) async fn has_made_the_folder(&self, error: &HttpError, file: &str, asked: Instant) -> bool {
        matches!(error, HttpError::Status { status: 404 | 409 | 500, .. }) && self.make_folder(file, asked).await
    }

    /// Makes the folder that a file is to lie in, and those above it, unless it was made since that time. Returns whether it
    /// was made. That the server doesn't know how is no error: then somebody else has to.
    pub(super) async fn make_folder(&self, file: &str, since: Instant) -> bool {
        let url = self.url(file);
        let path = url.path();
        let folders: Vec<&str> = path.match_indices('/').skip(1).map(|(slash, _)| &path[..=slash]).collect();
        let Some(own) = folders.last() else { return false };
        let folder = self.folder(own);
        let mut made = folder.lock().await;
        if made.is_some_and(|when| when > since) {
            return true;
        }
        for folder in &folders {
            let mut url = self.root.clone();
            url.set_path(folder);
            let Ok(method) = Method::from_bytes(b"MKCOL") else { return false };
            match self.http.ask(Action::MakeFolder, self.http.client().request(method, url)).await {
                Ok(_) => {
                    info!("made {folder} at {}", origin(&self.root));
                    if folder == own {
                        *made = Some(Instant::now());
                    }
                }
                // Those above are there for the most part.
                Err(error) => debug!("{}", one_line(&error)),
            }
        }
        made.is_some_and(|when| when > since)
    }

    fn folder(&self, path: &str) -> Arc<Folder> {
        let mut folders = self.shared.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= FOLDERS {
            // Those that somebody waits for stay.
            folders.retain(|_, folder| Arc::strong_count(folder) > 1);
        }
        Arc::clone(folders.entry(path.to_owned()).or_default())
    }
}

impl Place for Files {
    fn name(&self) -> &str {
        self.root.as_str()
    }

    fn address(&self) -> String {
        self.root.to_string()
    }

    fn noted(&self, file: &str) -> String {
        file.to_owned()
    }

    async fn shown(&self, narinfo: &str) -> Result<Option<String>, CacheError> {
        let narinfo = self.read(narinfo).await?;
        Ok(narinfo.map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    /// Archives are sent whole.
    async fn abort(&self, _: &str, _: &str) -> Result<(), CacheError> {
        Ok(())
    }

    /// Where a server doesn't know how, it stays.
    async fn delete(&self, object: &str) -> Result<(), CacheError> {
        match self.http.ask(Action::Delete, self.http.client().delete(self.url(object))).await {
            Err(error) if !needs_no_delete(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Whether an answer is a page for people.
fn is_page(content: &[u8]) -> bool {
    let start = content.trim_ascii_start().get(..5).unwrap_or_default().to_ascii_lowercase();
    start == b"<html" || start == b"<!doc"
}

/// Whether an answer says that there is no such file.
fn is_absent(error: &HttpError) -> bool {
    matches!(error, HttpError::Status { status: 404 | 410, .. })
}

/// What an answer says of a file that was asked for.
fn found(size: Result<Option<u64>, HttpError>) -> Result<Found, HttpError> {
    match size {
        Ok(Some(0)) => Ok(Found::Empty),
        Ok(size) => Ok(Found::Some(size)),
        Err(error) if is_absent(&error) => Ok(Found::Nothing),
        Err(error) if is_empty(&error) => Ok(Found::Empty),
        Err(error) => Err(error),
    }
}

/// Whether an answer to the question for a file's first byte says that it has none.
fn is_empty(error: &HttpError) -> bool {
    matches!(error, HttpError::Status { status: 416, .. })
}

/// Whether an answer says that there is nothing to be deleted, or that the server doesn't know how. Who may not delete, or
/// not now, has to try again.
fn needs_no_delete(error: &HttpError) -> bool {
    matches!(error, HttpError::Status { status: 404 | 405 | 410 | 501, .. })
}

/// The folder's address.
pub(super) fn parse(endpoint: &str) -> Result<Url, HttpError> {
    Url::parse(endpoint).map_err(|_| HttpError::NotUnderstood {
        action: Action::Read,
        host: "the cache's server".to_owned(),
        problem: "its address can't be used".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::cache::http::ServerSays;

    fn status(status: u16) -> HttpError {
        HttpError::Status {
            action: Action::Look,
            host: "https://h".to_owned(),
            status,
            says: ServerSays::default(),
            retry_after: None,
            refused: String::new(),
        }
    }

    #[test]
    fn a_note_stays_until_its_archive_is_gone() {
        assert!([404, 405, 410, 501].into_iter().all(|code| needs_no_delete(&status(code))));
        for code in [400, 401, 403, 408, 423, 429, 500, 503] {
            assert!(!needs_no_delete(&status(code)), "{code}");
        }
    }

    #[test]
    fn only_what_the_server_says_is_absent_is_missing() {
        assert!([404, 410].into_iter().all(|code| is_absent(&status(code))));
        // Who isn't let in learns nothing of what is there.
        for code in [400, 401, 403, 405, 407, 429, 500, 502, 503] {
            assert!(!is_absent(&status(code)), "{code}");
        }
    }

    #[tokio::test]
    async fn a_file_has_its_place_below_the_folder_whatever_its_name() {
        let options =
            PutOptions { endpoint: "http://127.0.0.1:1/a%20b/".to_owned(), http: Default::default(), allow_self: true };
        let files = Files::new(&options).await.expect("nothing is sent yet");
        for (file, url) in [
            ("", "http://127.0.0.1:1/a%20b/"),
            ("nar/", "http://127.0.0.1:1/a%20b/nar/"),
            ("nar/x.nar.zst", "http://127.0.0.1:1/a%20b/nar/x.nar.zst"),
            ("log/h-a?b+c=d.drv", "http://127.0.0.1:1/a%20b/log/h-a%3Fb+c=d.drv"),
        ] {
            assert_eq!(files.url(file).as_str(), url);
        }
    }

    #[tokio::test]
    async fn who_needs_another_folder_does_not_wait_for_one_that_is_being_made() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/", server.local_addr().expect("an address"));
        let options = PutOptions { endpoint, http: Default::default(), allow_self: true };
        let files = Files::new(&options).await.expect("nothing is sent yet");
        let (slow, same) = (files.clone(), files.clone());
        let slow = tokio::spawn(async move { slow.make_folder("nar/a", Instant::now()).await });
        // Asked, it doesn't answer yet.
        let (mut asked, _) = server.accept().await.expect("asked");
        let before = Instant::now();
        let same = tokio::spawn(async move { same.make_folder("nar/b", before).await });
        let serving = tokio::spawn(async move {
            let (mut other, _) = server.accept().await.expect("asked for the other one");
            let head = answer_201(&mut other).await;
            (server, head)
        });
        assert!(files.make_folder("log/a", Instant::now()).await, "the other one is made meanwhile");
        let (_server, head) = serving.await.expect("no panic");
        assert!(head.starts_with("MKCOL /log/ "), "{head}");
        assert!(!slow.is_finished() && !same.is_finished());
        answer_201(&mut asked).await;
        assert!(slow.await.expect("no panic") && same.await.expect("no panic"), "made once for both");
    }

    #[tokio::test]
    async fn no_more_folders_are_remembered_than_are_of_use() {
        let options =
            PutOptions { endpoint: "http://127.0.0.1:1/".to_owned(), http: Default::default(), allow_self: true };
        let files = Files::new(&options).await.expect("nothing is sent yet");
        let remembered = || files.shared.folders.lock().expect("no panic").len();
        let being_made = files.folder("/nar/");
        for number in 0..10 * FOLDERS {
            files.folder(&format!("/build-trace-v2/{number}.drv/"));
            assert!(remembered() <= FOLDERS);
        }
        assert!(Arc::ptr_eq(&being_made, &files.folder("/nar/")), "it is made once for all who need it");
    }

    /// Reads the head of a request, and says that it was done.
    async fn answer_201(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        stream
            .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        String::from_utf8_lossy(&head).into_owned()
    }
}
