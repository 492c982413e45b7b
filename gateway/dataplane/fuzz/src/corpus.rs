//! Seeds: real messages and recorded connections, one a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the seeds that come with the sources.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// All files of a folder, by name.
///
/// # Errors
/// The folder or a file cannot be read, or there is none.
pub fn read(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    if paths.is_empty() {
        let text = format!("no seeds in {}", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    paths.iter().map(fs::read).collect()
}
