//! What the fake S3 answers.

use super::super::http::{Body, answer as with_body, query as query_of, whole};
use super::BUCKET;
use super::entry::let_in;
use super::fake::Shared;
use super::state::{Dialect, On, Op, State, Trouble, e_tag};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, DATE, IF_MATCH, IF_NONE_MATCH};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Answers one request. An error ends the connection without an answer.
pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Failed> {
    let (parts, body) = request.into_parts();
    // Google's interface has the slashes of a name encoded.
    let path = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8()?;
    let path = path.trim_start_matches('/').to_owned();
    if let Some(name) = path.strip_prefix("web/") {
        return Ok(website(&shared.state(), name));
    }
    let query = query_of(&parts);
    let (bucket, name) = path.split_once('/').unwrap_or((&path, ""));
    let head = parts.method == Method::HEAD;
    let dialect = shared.state().dialect;
    let Some(op) = op(dialect, &parts.method, &query) else {
        shared.state().violation(format!("{} {path}?{query:?} is nothing that is needed", parts.method));
        return Ok(refuse(405, "MethodNotAllowed", head));
    };
    *shared.state().asked.entry(op).or_default() += 1;
    if name.is_empty() && !matches!(op, Op::List | Op::Uploads | Op::Batch) {
        // Whoever greets the server shows nothing.
        return Ok(refuse(403, "AccessDenied", head));
    }
    if let Err((status, code)) = let_in(&mut shared.state(), &parts, op) {
        return Ok(refuse(status, code, head));
    }
    if bucket != BUCKET {
        return Ok(refuse(404, "NoSuchBucket", head));
    }
    let trouble = shared.trouble.borrow().clone().filter(|at| at.hits(op, name)).map(|at| at.trouble);
    let _flying = Flying::start(&shared, op);
    let content = match trouble {
        Some(Trouble::CutAfterDone) => {
            let content = body.collect().await?.to_bytes();
            let _ = act(&mut shared.state(), op, name, &query, &parts.headers, content);
            shared.state().troubled += 1;
            return Err("cut when it was done".into());
        }
        Some(Trouble::Twice) => {
            let content = body.collect().await?.to_bytes();
            let _ = act(&mut shared.state(), op, name, &query, &parts.headers, content.clone());
            shared.state().troubled += 1;
            content
        }
        None => body.collect().await?.to_bytes(),
        Some(Trouble::Code(status, code)) => {
            let _ = body.collect().await;
            shared.state().troubled += 1;
            return Ok(refuse(status, code, head));
        }
        Some(Trouble::Cut) => {
            let mut body = body;
            let _ = body.frame().await;
            shared.state().troubled += 1;
            return Err("cut".into());
        }
        Some(Trouble::Stall) => {
            let mut trouble = shared.trouble.subscribe();
            shared.state().troubled += 1;
            let _ = trouble.changed().await;
            body.collect().await?.to_bytes()
        }
    };
    check_length(&mut shared.state(), &parts.headers, op, &content);
    let mut state = shared.state();
    let mut done = act(&mut state, op, name, &query, &parts.headers, content);
    done.headers_mut().insert(DATE, httpdate::fmt_http_date(state.now()).parse()?);
    Ok(done)
}

/// An upload under way: how many there are at once is noted.
struct Flying(Option<Arc<Shared>>);

impl Flying {
    fn start(shared: &Arc<Shared>, op: Op) -> Self {
        if op != Op::Part {
            return Self(None);
        }
        let mut state = shared.state();
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
        Self(Some(Arc::clone(shared)))
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.state().in_flight -= 1;
        }
    }
}

fn op(dialect: Dialect, method: &Method, query: &BTreeMap<String, String>) -> Option<Op> {
    let names: Vec<&str> = query.keys().map(String::as_str).collect();
    if dialect == Dialect::Azure && method == Method::PUT && !names.is_empty() {
        return match query.get("comp").map(String::as_str) {
            Some("block") => Some(Op::Part),
            Some("blocklist") => Some(Op::Complete),
            _ => None,
        };
    }
    Some(match (method.as_str(), names.as_slice()) {
        ("POST", _) if dialect == Dialect::Azure && query.get("comp").is_some_and(|comp| comp == "batch") => Op::Batch,
        ("HEAD", []) => Op::Head,
        ("GET", []) => Op::Get,
        ("GET", _) if query.contains_key("uploads") && dialect != Dialect::Azure => Op::Uploads,
        ("GET", _) if dialect == Dialect::Azure && query.get("comp").is_some_and(|comp| comp == "list") => Op::List,
        ("GET", _) if query.get("list-type").is_some_and(|kind| kind == "2") => Op::List,
        ("PUT", []) => Op::Put,
        ("DELETE", []) => Op::Delete,
        ("POST", ["uploads"]) => Op::Begin,
        ("PUT", ["partNumber", "uploadId"]) => Op::Part,
        ("POST", ["uploadId"]) => Op::Complete,
        ("DELETE", ["uploadId"]) => Op::Abort,
        _ => return None,
    })
}

fn check_length(state: &mut State, headers: &HeaderMap, op: Op, content: &Bytes) {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if matches!(op, Op::Put | Op::Part) && length != Some(content.len()) {
        state.violation(format!("{op:?} says that it has {length:?} bytes and has {}", content.len()));
    }
}

fn act(
    state: &mut State,
    op: Op,
    name: &str,
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
    content: Bytes,
) -> Response<Body> {
    let id = query.get("uploadId").map(String::as_str).unwrap_or_default();
    let done = match op {
        Op::Head | Op::Get => return object(state, name, op == Op::Head),
        Op::List => return listing(state, query),
        Op::Uploads => return uploads(state, query),
        Op::Put => state.put(name, content, &condition(state.dialect, headers)),
        Op::Delete => {
            state.delete(name);
            return empty(204);
        }
        Op::Batch => return batch(state, &String::from_utf8_lossy(&content)),
        Op::Begin => {
            let id = state.begin(name);
            let text = format!(
                "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{name}</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>"
            );
            return with_body(StatusCode::OK, "application/xml", text);
        }
        Op::Part if state.dialect == Dialect::Azure => {
            let parts = &mut state.multiparts.entry(name.to_owned()).or_insert((name.to_owned(), BTreeMap::new())).1;
            parts.insert(block(&query["blockid"]), content);
            Ok(())
        }
        Op::Complete if state.dialect == Dialect::Azure => {
            let text = String::from_utf8_lossy(&content).into_owned();
            let blocks = text.split("<Uncommitted>").skip(1).filter_map(|rest| rest.split('<').next());
            let blocks: Vec<u32> = blocks.map(block).collect();
            state.complete(name, &blocks)
        }
        Op::Part => match (state.multiparts.get_mut(id), query["partNumber"].parse()) {
            (Some((of, parts)), Ok(number)) if of == name => {
                parts.insert(number, content);
                Ok(())
            }
            _ => Err((404, "NoSuchUpload")),
        },
        Op::Complete => {
            let text = String::from_utf8_lossy(&content).into_owned();
            let numbers = text.split("<PartNumber>").skip(1).filter_map(|rest| rest.split('<').next()?.parse().ok());
            let numbers: Vec<u32> = numbers.collect();
            if let Ok(()) = state.complete(id, &numbers) {
                let text = format!(
                    "<CompleteMultipartUploadResult><Location>x</Location><Bucket>{BUCKET}</Bucket><Key>{name}</Key>\
                     <ETag>\"whole\"</ETag></CompleteMultipartUploadResult>"
                );
                return with_body(StatusCode::OK, "application/xml", text);
            }
            Err((400, "InvalidPart"))
        }
        Op::Abort => match state.multiparts.remove(id) {
            Some(_) => return empty(204),
            None => Err((404, "NoSuchUpload")),
        },
    };
    match done {
        Ok(()) => Response::builder().header("etag", "\"part\"").body(whole("")).unwrap(),
        Err((status, code)) => refuse(status, code, false),
    }
}

/// Deletes what is named there, and answers each as if it had been asked by itself.
fn batch(state: &mut State, asked: &str) -> Response<Body> {
    let mut text = String::new();
    for (id, line) in asked.lines().filter_map(|line| line.strip_prefix("DELETE /")).enumerate() {
        let path = line.split([' ', '?']).next().unwrap_or_default();
        let path = percent_encoding::percent_decode_str(path).decode_utf8().unwrap();
        let (_, name) = path.split_once('/').unwrap();
        let (status, why) = match state.objects.contains_key(name) {
            true => ("202 Accepted", ""),
            false => ("404 The specified blob does not exist.", "<Error><Code>BlobNotFound</Code></Error>"),
        };
        state.delete(name);
        text += &format!(
            "--answers\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status}\r\n\
             x-ms-version: 2023-11-03\r\n\r\n{why}\r\n"
        );
    }
    text += "--answers--\r\n";
    with_body(StatusCode::ACCEPTED, "multipart/mixed; boundary=answers", text)
}

/// A number for a block, whose name is a random one in hexadecimal.
fn block(id: &str) -> u32 {
    let name = String::from_utf8(BASE64.decode(id).unwrap()).unwrap();
    u32::from_str_radix(&name[name.len() - 8..], 16).unwrap()
}

/// On what condition an object is to be put.
fn condition(dialect: Dialect, headers: &HeaderMap) -> On {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let (Dialect::Google, Some(seen)) = (dialect, text("x-goog-if-generation-match").filter(|seen| *seen != "0")) {
        return On::Unchanged(format!("\"{seen}\""));
    }
    let absent = match dialect {
        Dialect::S3 | Dialect::Azure => text(IF_NONE_MATCH.as_str()) == Some("*"),
        Dialect::Google => text("x-goog-if-generation-match") == Some("0"),
    };
    match text(IF_MATCH.as_str()) {
        _ if absent => On::Absent,
        Some(seen) => On::Unchanged(seen.to_owned()),
        None => On::Whatever,
    }
}

fn object(state: &State, name: &str, head: bool) -> Response<Body> {
    let Some(content) = state.objects.get(name) else {
        let (status, code) = if state.hides_what_is_missing { (403, "AccessDenied") } else { (404, "NoSuchKey") };
        return refuse(status, code, head);
    };
    Response::builder()
        .header("etag", e_tag(content))
        .header("x-goog-generation", e_tag(content).trim_matches('"'))
        .header("last-modified", httpdate::fmt_http_date(state.modified(name)))
        .header(CONTENT_LENGTH, content.len())
        .body(whole(if head { Bytes::new() } else { content.clone() }))
        .unwrap()
}

/// A time as S3 writes it in lists.
fn in_a_list(time: SystemTime) -> String {
    // `Tue, 24 Nov 2026 10:00:00 GMT`
    let text = httpdate::fmt_http_date(time);
    let words: Vec<&str> = text.split(' ').collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + months.iter().position(|month| *month == words[2]).unwrap();
    format!("{}-{month:02}-{}T{}.000Z", words[3], words[1], words[4])
}

/// The uploads in parts that were neither put together nor aborted.
fn uploads(state: &State, query: &BTreeMap<String, String>) -> Response<Body> {
    let prefix = query.get("prefix").map(String::as_str).unwrap_or_default();
    let began = in_a_list(state.modified(""));
    let uploads = state.multiparts.iter().filter(|(_, (name, _))| name.starts_with(prefix));
    let uploads: String = uploads
        .map(|(id, (name, _))| {
            format!("<Upload><Key>{name}</Key><UploadId>{id}</UploadId><Initiated>{began}</Initiated></Upload>")
        })
        .collect();
    let next = match query.get("key-marker").map(String::as_str) {
        _ if !state.lists_in_a_circle => "",
        Some("one") => "<NextKeyMarker>two</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>",
        _ => "<NextKeyMarker>one</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker>",
    };
    let text = format!(
        "<ListMultipartUploadsResult><Bucket>{BUCKET}</Bucket><IsTruncated>{}</IsTruncated>{next}{uploads}\
         </ListMultipartUploadsResult>",
        state.lists_in_a_circle
    );
    with_body(StatusCode::OK, "application/xml", text)
}

/// A page of names, in which a folder is one.
fn listing(state: &State, query: &BTreeMap<String, String>) -> Response<Body> {
    let field = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let is_azure = state.dialect == Dialect::Azure;
    let (prefix, after) = (field("prefix"), field(if is_azure { "marker" } else { "continuation-token" }));
    let entry = |name: &str| match name[prefix.len()..].find('/').filter(|_| field("delimiter") == "/") {
        Some(slash) => name[..=prefix.len() + slash].to_owned(),
        None => name.to_owned(),
    };
    let names = state.objects.keys().filter(|name| name.starts_with(prefix));
    let entries: BTreeSet<String> = names.map(|name| entry(name)).filter(|entry| entry.as_str() > after).collect();
    let page: Vec<&String> = entries.iter().take(state.page.unwrap_or(1000)).collect();
    let mut text = String::new();
    for name in &page {
        text.push_str(&match name.strip_suffix('/') {
            Some(_) if is_azure => format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>"),
            None if is_azure => {
                let (content, modified) = (&state.objects[name.as_str()], state.modified(name));
                format!(
                    "<Blob><Name>{name}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag>\
                     <Content-Length>{}</Content-Length><Content-Type>x</Content-Type></Properties></Blob>",
                    httpdate::fmt_http_date(modified),
                    e_tag(content).trim_matches('"'),
                    content.len()
                )
            }
            Some(_) => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
            None => {
                let modified = in_a_list(state.modified(name));
                // A folder was told before; what is left has a size.
                let content = &state.objects[name.as_str()];
                format!(
                    "<Contents><Key>{name}</Key><LastModified>{modified}</LastModified><ETag>{}</ETag><Size>{}</Size>\
                     </Contents>",
                    e_tag(content).replace('"', "&quot;"),
                    content.len()
                )
            }
        });
    }
    let last = page.last().filter(|_| page.len() < entries.len());
    if is_azure {
        let next = last.map(|last| last.as_str()).unwrap_or_default();
        let text = format!("<Blobs>{text}</Blobs><NextMarker>{next}</NextMarker>");
        return with_body(
            StatusCode::OK,
            "application/xml",
            format!("<EnumerationResults>{text}</EnumerationResults>"),
        );
    }
    if let Some(last) = last {
        text.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
    }
    with_body(StatusCode::OK, "application/xml", format!("<ListBucketResult>{text}</ListBucketResult>"))
}

fn website(state: &State, name: &str) -> Response<Body> {
    match state.objects.get(name) {
        Some(content) => with_body(StatusCode::OK, "application/octet-stream", content.clone()),
        None => with_body(StatusCode::NOT_FOUND, "text/plain", "no"),
    }
}

fn empty(status: u16) -> Response<Body> {
    Response::builder().status(status).body(whole("")).unwrap()
}

fn refuse(status: u16, code: &str, head: bool) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>the fake says so</Message></Error>");
    let text = if head { String::new() } else { text };
    with_body(StatusCode::from_u16(status).unwrap(), "application/xml", text)
}
