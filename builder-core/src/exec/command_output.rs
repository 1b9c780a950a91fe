//! What a command writes, line by line: both of its streams by one reader, so that the lines come in the order they
//! were written in as far as two pipes can tell.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::progress::Stream;

/// The longest line that is passed on in one piece, bytes.
const LINE_LIMIT: usize = 64 << 10;

/// Our ends of a command's two streams.
pub(crate) struct CommandOutput {
    sources: [Source; 2],
    buffer: Vec<u8>,
}

/// One stream: the pipe until every process of the step has closed it, and the beginning of a line.
struct Source {
    pipe: Option<OwnedFd>,
    stream: Stream,
    begun: Vec<u8>,
}

impl CommandOutput {
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let source = |pipe, stream| Source { pipe: Some(pipe), stream, begun: Vec::new() };
        Self { sources: [source(stdout, Stream::Stdout), source(stderr, Stream::Stderr)], buffer: vec![0; LINE_LIMIT] }
    }

    /// The pipes that are still open, to wait for what comes.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        self.sources.iter().filter_map(|source| Some((source.stream, source.pipe.as_ref()?.as_fd())))
    }

    /// Reads what has come on one stream (or its end), and gives each line that is complete.
    pub(crate) fn read(&mut self, stream: Stream, mut take: impl FnMut(Stream, Vec<u8>)) {
        for source in self.sources.iter_mut().filter(|source| source.stream == stream) {
            source.read(&mut self.buffer, &mut take);
        }
    }
}

impl Source {
    /// Reads what is there.
    fn read(&mut self, buffer: &mut [u8], take: &mut impl FnMut(Stream, Vec<u8>)) {
        let Some(pipe) = &self.pipe else { return };
        let count = match rustix::io::read(pipe, &mut *buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return,
            Ok(0) | Err(_) => {
                self.pipe = None;
                if !self.begun.is_empty() {
                    take(self.stream, std::mem::take(&mut self.begun));
                }
                return;
            }
            Ok(count) => count,
        };
        for part in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let mut text = text;
            while self.begun.len() + text.len() > LINE_LIMIT {
                let (head, tail) = text.split_at(LINE_LIMIT - self.begun.len());
                self.begun.extend_from_slice(head);
                take(self.stream, std::mem::take(&mut self.begun));
                text = tail;
            }
            self.begun.extend_from_slice(text);
            if ended {
                take(self.stream, std::mem::take(&mut self.begun));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::pipe;

    use super::*;

    /// What is read of texts written to the two streams, all of them before the reader begins.
    fn read(stdout: &[u8], stderr: &[u8]) -> Vec<(Stream, Vec<u8>)> {
        let ((out, out_end), (err, err_end)) = (pipe().unwrap(), pipe().unwrap());
        let mut lines = Vec::new();
        std::thread::scope(|scope| {
            for (end, text) in [(out_end, stdout), (err_end, stderr)] {
                scope.spawn(move || std::io::Write::write_all(&mut std::fs::File::from(end), text).unwrap());
            }
            let mut output = CommandOutput::new(out, err);
            for stream in [Stream::Stdout, Stream::Stderr] {
                while output.pipes().any(|(open, _)| open == stream) {
                    output.read(stream, |stream, line| lines.push((stream, line)));
                }
            }
        });
        lines.sort_by_key(|(stream, _)| *stream == Stream::Stderr);
        lines
    }

    #[test]
    fn lines_are_told_apart() {
        let out = |text: &[u8]| (Stream::Stdout, text.to_vec());
        assert_eq!(read(b"", b""), []);
        assert_eq!(read(b"a\n\nb", b"c\r\n"), [out(b"a"), out(b""), out(b"b"), (Stream::Stderr, b"c\r".to_vec())]);
        let long = vec![b'x'; LINE_LIMIT + 10];
        let lengths: Vec<usize> = read(&long, b"").iter().map(|(_, line)| line.len()).collect();
        assert_eq!(lengths, [LINE_LIMIT, 10]);
    }
}
