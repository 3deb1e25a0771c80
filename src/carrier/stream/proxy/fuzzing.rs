//! What a fuzzer feeds to the answers of proxies.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::url::Credentials;
use super::{ProxyFault, http, socks};
use crate::fuzzing::check_error;

/// The answer of an HTTP proxy to CONNECT. The first byte says whether credentials were sent.
pub fn http_connect(input: &[u8]) {
    let Some((flags, answer)) = input.split_first() else {
        return;
    };
    let Some(end) = http::end_of_header(answer) else { return };
    // Nothing is the end before the end has come.
    assert_eq!(http::end_of_header(&answer[..end - 1]), None);
    assert_eq!(http::end_of_header(&answer[..end]), Some(end));
    check(http::check_response(&answer[..end], flags % 2 == 1, "host.example", 22));
}

/// The answers of a SOCKS5 proxy. The first byte says whether credentials were sent, and for which target.
pub fn socks5(input: &[u8]) {
    let Some((flags, answers)) = input.split_first() else {
        return;
    };
    let credentials = Credentials {
        user: Zeroizing::new(b"user".to_vec()),
        password: Zeroizing::new(b"password".to_vec()),
    };
    let host = ["host.example", "192.0.2.1", "2001:db8::1"][usize::from(flags >> 1) % 3];
    let Ok(target) = socks::Target::of(host, 22) else {
        return;
    };
    let mut stream = Answers { rest: answers };
    let exchange = pin!(socks::connect(
        &mut stream,
        (flags % 2 == 1).then_some(&credentials),
        &target
    ));
    let Poll::Ready(result) = exchange.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits for more than was sent");
    };
    check(result);
}

fn check(result: Result<(), ProxyFault>) {
    if let Err(fault) = result {
        check_error(&fault);
    }
}

/// A proxy that has sent all its answers and takes everything.
struct Answers<'a> {
    rest: &'a [u8],
}

impl AsyncRead for Answers<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.rest.split_at(into.remaining().min(self.rest.len()));
        into.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Answers<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
