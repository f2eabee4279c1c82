//! Reading a recording: everything in it is somebody else's.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::format::{
    CLOCK, Chunk, END, EVENT, Header, KERNEL, LAST_CALLS, MAGIC, MAX_LENGTH, RULES, RecordingError,
    THREAD, VERSION,
};
use crate::model::{ClockOffset, MonoNs, Tid};

/// A recording being read: an iterator over its chunks. After an error there are none.
pub struct Reader {
    input: Box<dyn Read>,
    path: PathBuf,
    over: bool,
}

impl Reader {
    /// Opens a recording and reads its header.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is no recording, or is of another format.
    pub fn open(path: &Path) -> Result<(Header, Self), RecordingError> {
        let file = File::open(path)
            .map_err(|source| RecordingError::Read { path: path.to_owned(), source })?;
        Self::from_input(Box::new(BufReader::with_capacity(1 << 16, file)), path.to_owned())
    }

    fn from_input(input: Box<dyn Read>, path: PathBuf) -> Result<(Header, Self), RecordingError> {
        let mut this = Self { input, path, over: false };
        let mut magic = [0; MAGIC.len()];
        this.read(&mut magic).map_err(|error| match error {
            RecordingError::CutShort { path } => RecordingError::NotARecording { path },
            other => other,
        })?;
        if magic != MAGIC {
            return Err(RecordingError::NotARecording { path: this.path });
        }
        let version = u32::from_le_bytes(this.array()?);
        if version != VERSION {
            return Err(RecordingError::Version { path: this.path, found: version });
        }
        let length = u32::from_le_bytes(this.array()?);
        let header = this.bytes(length)?;
        let header = serde_json::from_slice(&header)
            .map_err(|error| this.damaged(format!("its header: {error}")))?;
        Ok((header, this))
    }

    fn chunk(&mut self) -> Result<Option<Chunk>, RecordingError> {
        let [kind] = self.array()?;
        let length = u32::from_le_bytes(self.array()?);
        let bytes = self.bytes(length)?;
        let chunk = match kind {
            EVENT => Chunk::Event(bytes),
            CLOCK => {
                let (now, offset) = self.halves(&bytes)?;
                Chunk::Clock(
                    MonoNs(u64::from_le_bytes(now)),
                    ClockOffset(i64::from_le_bytes(offset)),
                )
            }
            THREAD => {
                let (tid, name) = bytes
                    .split_first_chunk()
                    .ok_or_else(|| self.damaged("a thread without a number".to_owned()))?;
                let name = String::from_utf8_lossy(name).into_owned();
                Chunk::Thread(Tid(u32::from_le_bytes(*tid)), name)
            }
            KERNEL => Chunk::Kernel(
                serde_json::from_slice(&bytes)
                    .map_err(|error| self.damaged(format!("its counters: {error}")))?,
            ),
            LAST_CALLS => Chunk::LastCalls,
            RULES => Chunk::Rules(
                serde_json::from_slice(&bytes)
                    .map_err(|error| self.damaged(format!("its rules: {error}")))?,
            ),
            END => return Ok(None),
            other => return Err(self.damaged(format!("there is no chunk of kind {other}"))),
        };
        Ok(Some(chunk))
    }

    fn halves(&self, bytes: &[u8]) -> Result<([u8; 8], [u8; 8]), RecordingError> {
        match (bytes.first_chunk(), bytes.last_chunk(), bytes.len()) {
            (Some(first), Some(last), 16) => Ok((*first, *last)),
            _ => Err(self.damaged("a clock of the wrong length".to_owned())),
        }
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, RecordingError> {
        if length > MAX_LENGTH {
            return Err(self.damaged(format!("a part of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordingError> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), RecordingError> {
        self.input.read_exact(bytes).map_err(|source| {
            let path = self.path.clone();
            if source.kind() == io::ErrorKind::UnexpectedEof {
                RecordingError::CutShort { path }
            } else {
                RecordingError::Read { path, source }
            }
        })
    }

    fn damaged(&self, what: String) -> RecordingError {
        RecordingError::Damaged { path: self.path.clone(), what }
    }
}

impl Iterator for Reader {
    type Item = Result<Chunk, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let chunk = self.chunk().transpose();
        self.over = !matches!(chunk, Some(Ok(_)));
        chunk
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::super::writer::Writer;
    use super::*;
    use crate::model::{Pid, Rules};

    fn header() -> Header {
        Header {
            qprof: "0.1.0".to_owned(),
            pid: Pid(7),
            name: "server".to_owned(),
            service: "s".to_owned(),
            clock: ClockOffset(-5),
            kernel: "6.18".to_owned(),
        }
    }

    fn chunks() -> Vec<Chunk> {
        vec![
            Chunk::Rules(Rules::default()),
            Chunk::Thread(Tid(8), "worker".to_owned()),
            Chunk::Event(vec![1, 2, 3]),
            Chunk::Clock(MonoNs(9), ClockOffset(-9)),
            Chunk::Event(Vec::new()),
            Chunk::LastCalls,
            Chunk::Kernel(vec![("emitted".to_owned(), 2)]),
        ]
    }

    fn recording() -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::create(file.path(), &header()).unwrap();
        for chunk in chunks() {
            match chunk {
                Chunk::Event(raw) => writer.event(&raw),
                Chunk::Clock(now, offset) => writer.clock(now, offset),
                Chunk::Thread(tid, name) => writer.thread(tid, &name),
                Chunk::Kernel(counts) => writer.kernel(&counts),
                Chunk::LastCalls => writer.last_calls(),
                Chunk::Rules(rules) => writer.rules(&rules),
            }
            .unwrap();
        }
        writer.finish().unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn read(bytes: Vec<u8>) -> Result<(Header, Reader), RecordingError> {
        Reader::from_input(Box::new(Cursor::new(bytes)), PathBuf::from("r"))
    }

    #[test]
    fn what_was_written_is_read() {
        let (head, reader) = read(recording()).unwrap();
        assert_eq!(head.pid, Pid(7));
        assert_eq!(head.clock, ClockOffset(-5));
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), chunks());
    }

    #[test]
    fn a_cut_file_gives_what_it_has_and_says_so() {
        let bytes = recording();
        let whole = bytes.len();
        for cut in 0..whole {
            match read(bytes[..cut].to_vec()) {
                Ok((_, reader)) => {
                    let mut got: Vec<_> = reader.collect();
                    assert!(matches!(got.pop(), Some(Err(RecordingError::CutShort { .. }))));
                    let got: Vec<_> = got.into_iter().map(Result::unwrap).collect();
                    assert_eq!(got, chunks()[..got.len()]);
                }
                Err(error) => assert!(
                    matches!(
                        error,
                        RecordingError::CutShort { .. } | RecordingError::NotARecording { .. }
                    ),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn another_file_or_version_is_refused() {
        let error = |bytes: &[u8]| read(bytes.to_vec()).err().unwrap().to_string();
        assert!(error(b"").contains("not a recording"));
        assert!(error(b"\x7fELF and so on").contains("not a recording"));
        assert!(error(b"QPROFREC\x09\0\0\0").contains("format 9"));
        assert!(error(b"QPROFREC\x02\0\0\0\xff\xff\xff\xff").contains("damaged"));
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in 0usize..400, byte: u8) {
            let mut bytes = recording();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok((_, reader)) = read(bytes) {
                drop(reader.collect::<Vec<_>>());
            }
        }
    }
}
