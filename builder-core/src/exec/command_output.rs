//! What a command writes, line by line: both of its streams by one reader, so that the lines come in the order they
//! were written in as far as two pipes can tell.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::build::Build;
use crate::progress::{Event, StepId, Stream};

/// How many of a command's last lines an error shows.
const LAST_LINES: usize = 20;

/// The longest line that is passed on in one piece, bytes.
const LINE_LIMIT: usize = 64 << 10;

/// One stream: the pipe until every process of the step has closed it, and the beginning of a line.
struct Source {
    pipe: Option<OwnedFd>,
    stream: Stream,
    begun: Vec<u8>,
}

/// Passes both streams on until they are closed; gives the last lines.
pub(crate) fn pass_on(build: &Build<'_>, id: StepId, stdout: OwnedFd, stderr: OwnedFd) -> VecDeque<String> {
    let mut last = VecDeque::new();
    read_lines(stdout, stderr, |stream, line| {
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line).into_owned());
        build.events.event(Event::Output { step: id, stream, line });
    });
    last
}

fn read_lines(stdout: OwnedFd, stderr: OwnedFd, mut take: impl FnMut(Stream, Vec<u8>)) {
    let source = |pipe, stream| Source { pipe: Some(pipe), stream, begun: Vec::new() };
    let mut sources = [source(stdout, Stream::Stdout), source(stderr, Stream::Stderr)];
    let mut buffer = vec![0; LINE_LIMIT];
    loop {
        let ready = {
            let open: Vec<&Source> = sources.iter().filter(|source| source.pipe.is_some()).collect();
            let mut fds: Vec<PollFd<'_>> =
                open.iter().filter_map(|s| s.pipe.as_ref()).map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
            if fds.is_empty() {
                return;
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let ready = open.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
            ready.map(|(source, _)| source.stream).collect::<Vec<_>>()
        };
        for source in sources.iter_mut().filter(|source| ready.contains(&source.stream)) {
            source.read(&mut buffer, &mut take);
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
            read_lines(out, err, |stream, line| lines.push((stream, line)));
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
