//! The sftp subsystem, version 3 with OpenSSH's extensions, on the real file system as the calling user.
//!
//! russh-sftp encodes and decodes. The loop is ours, because the crate's own detaches its task and goes on after
//! errors. Names that are not UTF-8 cannot be reached: the crate reads names as text.

mod attributes;
mod extensions;
mod files;

use std::path::PathBuf;

use bytes::{Buf, Bytes, BytesMut};
use russh::server::Handle;
use russh_sftp::protocol::{Packet, StatusCode};
use tracing::debug;

use super::channel::{ChannelIo, Outcome};
use files::Files;

/// Longest packet taken, as OpenSSH's SFTP_MAX_MSG_LENGTH.
const MAX_PACKET: usize = 256 * 1024;

/// Most packets answered before the answers are sent: bounds their memory at 16 times the longest.
const BATCH: usize = 16;

/// A packet longer than [`MAX_PACKET`], or shorter than its own header.
#[derive(Debug, PartialEq, Eq)]
struct BadLength(usize);

/// Serves one sftp client until its EOF.
pub(super) async fn serve(mut io: ChannelIo, handle: Handle, home: PathBuf) {
    let closed = io.closed.clone();
    let served = tokio::select! {
        served = converse(&mut io, Files::new(home)) => served,
        () = closed.cancelled() => Ok(()),
    };
    if let Err(BadLength(length)) = &served {
        debug!(length, "invalid sftp packet length");
    }
    let code = if served.is_ok() { 0 } else { 255 };
    io.close_with(Outcome::Exited(code), &handle).await;
}

async fn converse(io: &mut ChannelIo, mut files: Files) -> Result<(), BadLength> {
    let mut input = BytesMut::new();
    loop {
        let batch = take_batch(&mut input)?;
        if batch.is_empty() {
            match io.queue.next().await {
                Some(data) => input.extend_from_slice(&data),
                None => return Ok(()),
            }
            continue;
        }
        // Files block. One batch at a time keeps the order of requests, which sftp promises for one file.
        let work = tokio::task::spawn_blocking(move || {
            let answers: Vec<Bytes> = batch.into_iter().map(|packet| answer(&mut files, packet)).collect();
            (files, answers)
        });
        let Ok((back, answers)) = work.await else { return Ok(()) };
        files = back;
        for packet in answers {
            if io.writer.data_bytes(packet).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Whole packets, without their lengths.
fn take_batch(input: &mut BytesMut) -> Result<Vec<Bytes>, BadLength> {
    let mut batch = Vec::new();
    while batch.len() < BATCH && input.len() >= 4 {
        let length = u32::from_be_bytes([input[0], input[1], input[2], input[3]]) as usize;
        if !(5..=MAX_PACKET).contains(&length) {
            return Err(BadLength(length));
        }
        if input.len() < 4 + length {
            input.reserve(4 + length - input.len());
            break;
        }
        input.advance(4);
        batch.push(input.split_to(length).freeze());
    }
    Ok(batch)
}

fn answer(files: &mut Files, mut packet: Bytes) -> Bytes {
    let id = u32::from_be_bytes([packet[1], packet[2], packet[3], packet[4]]);
    let reply = match Packet::try_from(&mut packet) {
        Ok(request) => files.answer(request),
        Err(_) => Packet::error(id, StatusCode::BadMessage),
    };
    // Encoding fails for lengths beyond u32, which no reply of ours has; the client still needs an answer.
    Bytes::try_from(reply)
        .or_else(|_| Bytes::try_from(Packet::error(id, StatusCode::Failure)))
        .unwrap_or_else(|_| Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_cut_from_the_stream_only_when_whole() {
        let mut input = BytesMut::from(&[0, 0, 0, 5, 1, 0, 0, 0, 3, 0, 0, 0, 6, 5, 0][..]);
        assert_eq!(take_batch(&mut input).unwrap(), [&[1, 0, 0, 0, 3][..]]);
        assert_eq!(take_batch(&mut input).unwrap(), [&[][..]; 0]);
        input.extend_from_slice(&[0, 0, 1, 9]);
        assert_eq!(take_batch(&mut input).unwrap(), [&[5, 0, 0, 0, 1, 9][..]]);
    }

    #[test]
    fn impossible_lengths_end_the_conversation() {
        assert_eq!(take_batch(&mut BytesMut::from(&[0, 0, 0, 0][..])), Err(BadLength(0)));
        assert_eq!(
            take_batch(&mut BytesMut::from(&[0, 4, 0, 1][..])),
            Err(BadLength(MAX_PACKET + 1))
        );
    }
}
