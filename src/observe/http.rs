//! Serves metrics over HTTP/1 to a Prometheus scraper on this machine.
//!
//! One request per connection. Only `GET /metrics` exists; only the request line is used.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::metrics::Metrics;

/// Most concurrent connections; further ones wait.
const MAX_SCRAPERS: usize = 8;

/// Longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// Limit for a request and its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay between attempts to listen, and after a failed accept.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Listens as soon as the port is free, and serves forever. The previous worker may hold the port for a moment.
pub(crate) async fn serve_metrics_at(address: SocketAddr, source: Arc<dyn Metrics>) {
    let mut is_logged = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if is_logged => debug!(%address, %error, "cannot listen for metrics"),
            Err(error) => {
                warn!(%address, %error, "cannot listen for metrics yet; will retry");
                is_logged = true;
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    };
    serve_metrics(listener, source).await;
}

/// Serves forever.
pub(crate) async fn serve_metrics(listener: TcpListener, source: Arc<dyn Metrics>) {
    let address = listener.local_addr().ok().map(tracing::field::display);
    info!(event = "metrics", address, "serving metrics");
    let mut scrapers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if scrapers.len() < MAX_SCRAPERS => match accepted {
                Ok((stream, _)) => {
                    scrapers.spawn(serve_connection(stream, Arc::clone(&source)));
                }
                Err(error) => {
                    debug!(%error, "cannot accept a metrics connection");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            },
            Some(_) = scrapers.join_next() => {}
        }
    }
}

async fn serve_connection(mut stream: TcpStream, source: Arc<dyn Metrics>) {
    let attended = tokio::time::timeout(REQUEST_TIMEOUT, async {
        let answer = match read_head(&mut stream).await? {
            HttpRequest::Metrics => answer("200 OK", &source.page().await),
            HttpRequest::Other => answer("404 Not Found", "only /metrics exists here\n"),
            HttpRequest::Malformed => answer("400 Bad Request", "malformed request\n"),
            HttpRequest::OtherMethod => answer("405 Method Not Allowed\r\nAllow: GET", "only GET is supported\n"),
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    });
    match attended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "metrics connection failed"),
        Err(_) => debug!("metrics connection timed out"),
    }
}

/// A parsed request.
#[derive(Debug, PartialEq)]
enum HttpRequest {
    Metrics,
    Other,

    OtherMethod,
    Malformed,
}

async fn read_head(stream: &mut TcpStream) -> io::Result<HttpRequest> {
    let mut head = Vec::new();
    loop {
        if let Some(asked) = parse(&head) {
            return Ok(asked);
        }
        if head.len() >= MAX_HEAD {
            return Ok(HttpRequest::Malformed);
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `None` if the head is incomplete.
fn parse(head: &[u8]) -> Option<HttpRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Err(_) => return Some(HttpRequest::Malformed),
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
    }
    let path = request.path.unwrap_or_default().split('?').next();
    Some(match (request.method, path) {
        (Some("GET"), Some("/metrics")) => HttpRequest::Metrics,
        (Some("GET"), _) => HttpRequest::Other,
        _ => HttpRequest::OtherMethod,
    })
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::super::Boxed;
    use super::*;
    use crate::tasks::Tasks;

    struct Fixed;

    impl Metrics for Fixed {
        fn page(&self) -> Boxed<'_, String> {
            Box::pin(std::future::ready("up 1\n".to_owned()))
        }
    }

    #[test]
    fn a_request_is_known_by_its_first_line() {
        let asked = |text: &str| parse(text.as_bytes());
        assert_eq!(
            asked("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
            Some(HttpRequest::Metrics)
        );
        assert_eq!(asked("GET /metrics?a=b HTTP/1.0\r\n\r\n"), Some(HttpRequest::Metrics));
        assert_eq!(asked("GET / HTTP/1.1\r\n\r\n"), Some(HttpRequest::Other));
        assert_eq!(asked("POST /metrics HTTP/1.1\r\n\r\n"), Some(HttpRequest::OtherMethod));
        assert_eq!(asked("SSH-2.0-x\r\n\r\n"), Some(HttpRequest::Malformed));
        assert_eq!(asked("GET /metr"), None);
    }

    #[tokio::test]
    async fn the_page_is_served_to_one_after_the_other_whoever_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        tasks.spawn("metrics", serve_metrics(listener, Arc::new(Fixed)));
        let _silent = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let mut scraper = TcpStream::connect(address).await.unwrap();
            scraper.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            scraper.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nup 1\n"),
                "{answer}"
            );
        }
        let mut endless = TcpStream::connect(address).await.unwrap();
        endless.write_all(&[b'x'; MAX_HEAD]).await.unwrap();
        let mut answer = String::new();
        endless.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}
