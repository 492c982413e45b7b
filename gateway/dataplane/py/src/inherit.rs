//! Listening sockets that another process handed over: from numbers, as Python has them, to owners.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Most sockets that are handed over.
const MOST: usize = 8;

/// Sockets of their own for descriptors that stay Python's.
///
/// Nothing but the kernel may make an owner of a bare number, so they are sent to ourselves.
pub(crate) fn listeners(py: Python<'_>, descriptors: Vec<i32>) -> PyResult<Vec<TcpListener>> {
    let count = descriptors.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > MOST {
        return Err(PyValueError::new_err(format!(
            "at most {MOST} sockets can be handed over"
        )));
    }
    let (near, far) = UnixStream::pair()?;
    let module = py.import("socket")?;
    let keywords = PyDict::new(py);
    keywords.set_item("fileno", far.into_raw_fd())?;
    let far = module.call_method("socket", (), Some(&keywords))?;
    let one_byte = PyBytes::new(py, b"x");
    module.call_method1("send_fds", (&far, [one_byte], descriptors))?;
    far.call_method0("close")?;
    let owned = receive(&near)?;
    if owned.len() != count {
        return Err(PyValueError::new_err(
            "a descriptor that was handed over is none",
        ));
    }
    Ok(owned.into_iter().map(TcpListener::from).collect())
}

fn receive(from: &UnixStream) -> std::io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut owned = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            owned.extend(descriptors);
        }
    }
    Ok(owned)
}
