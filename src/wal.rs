//! stub
#![allow(missing_docs)]
use std::fs::File;
use std::os::unix::fs::FileExt;
use kvorum_protocol::Lsn;
use crate::core::Record;
#[derive(Debug)]
pub struct WalError(pub std::io::Error);
impl std::fmt::Display for WalError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { self.0.fmt(f) } }
#[derive(Debug)]
pub struct Writer { file: File, at: u64, buf: Vec<u8>, last: Lsn }
impl Writer {
    pub fn open(path: &std::path::Path) -> Writer {
        std::fs::create_dir_all(path).unwrap();
        let file = File::options().create(true).read(true).write(true).truncate(true).open(path.join("log")).unwrap();
        let z = vec![0u8; 1<<20];
        for i in 0..64 { file.write_all_at(&z, i<<20).unwrap(); }
        file.sync_data().unwrap();
        Writer { file, at: 0, buf: Vec::new(), last: Lsn(0) }
    }
    pub fn stage(&mut self, lsn: Lsn, record: &Record) -> Result<(), WalError> {
        self.last = lsn;
        self.buf.extend_from_slice(&[0;48]);
        if let Record::Batch(b) = record { self.buf.extend_from_slice(b.bytes()); }
        Ok(())
    }
    pub fn write(&mut self) -> Result<Lsn, WalError> {
        self.buf.resize(self.buf.len().next_multiple_of(4096), 0);
        if self.at + self.buf.len() as u64 > 64<<20 { self.at = 0; }
        self.file.write_all_at(&self.buf, self.at).map_err(WalError)?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(self.last)
    }
    pub fn sync(&mut self) -> Result<(), WalError> { self.file.sync_data().map_err(WalError) }
    pub fn room(&self) -> u64 { 1<<30 }
}
