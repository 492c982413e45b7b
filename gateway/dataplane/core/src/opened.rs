//! Calls that `protocol.allow` opened: what they change is the backends' own, so all of them are asked.

use bytes::Bytes;
use stagegate_wire::repository;
use stagegate_wire::text::cut;

use crate::ask::ask_all;
use crate::client::{Client, Failure};
use crate::download::{self, Rename};
use crate::exchange::{exchange, Ask, Tries};
use crate::forward::receive_whole;
use crate::message::malformed;
use crate::status::Status;
use crate::unary::receive;
use crate::worker::Worker;

/// Most bytes of a client's text in one of ours.
const QUOTED: usize = 64;

/// Answer an open call: one backend's answer as it comes, or that of several where none refuses.
pub(crate) async fn pass_through(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    let backends: Vec<u32> =
        worker.with_table(|table| table.backends().iter().map(|backend| backend.id).collect());
    let method = client.path.path().rsplit('/').next().unwrap_or_default();
    let is_repository = matches!(method, "RepositoryModelLoad" | "RepositoryModelUnload");
    match &*backends {
        [] => Err(Status::unavailable(format!("there is no backend for {method}")).into()),
        _ if is_repository => load_or_unload(worker, client, &backends).await,
        [_] => as_it_is(worker, client, &backends).await,
        _ => {
            let message = receive_whole(worker, client).await?;
            let answer = ask_every(worker, client, &backends, &message).await?;
            client.reply(answer).await
        }
    }
}

/// The call and its answer, untouched.
async fn as_it_is(worker: &Worker, client: &mut Client, backend: &[u32]) -> Result<(), Failure> {
    receive(worker, client).await?;
    let path = client.path.clone();
    let ask = Ask {
        tail: &Bytes::new(),
        backends: backend,
        version: None,
        pinned: true,
        what: &|| path.to_string(),
    };
    let (response, via) = exchange(worker, client, &ask, &mut Tries::default()).await?;
    let rename = Rename {
        tail: &Bytes::new(),
        names: None,
    };
    match download::begin(worker, client, response, via.name(), &rename, None)? {
        Some(_) => Ok(()),
        None => download::finish(client, via.name(), None).await.map(|_| ()),
    }
}

/// Load or unload on every backend, asked for in Triton's form or in `KServe`'s.
async fn load_or_unload(
    worker: &Worker,
    client: &mut Client,
    backends: &[u32],
) -> Result<(), Failure> {
    let message = receive_whole(worker, client).await?;
    if let Some(path) = repository::impossible_file(&message).map_err(malformed)? {
        let path = String::from_utf8_lossy(path);
        let path = cut(&path, QUOTED);
        let text = format!("Invalid file path: a part of '{path}...' is longer than 255 bytes");
        return Err(Status::internal(text).into());
    }
    let request = repository::read(&message).map_err(malformed)?;
    let answer = ask_every(worker, client, backends, &request.message).await?;
    client.reply(request.answer.unwrap_or(answer)).await
}

/// Ask all backends; the first one's answer, or the first refusal, which says whose it is where there are
/// several.
async fn ask_every(
    worker: &Worker,
    client: &mut Client,
    backends: &[u32],
    message: &Bytes,
) -> Result<Bytes, Failure> {
    let questions = backends.iter().map(|id| (*id, message.clone()));
    let answers = ask_all(worker, client, questions).await?;
    let mut first = None;
    for (backend, answer) in backends.iter().zip(answers) {
        match answer {
            Ok(answer) => {
                first.get_or_insert(answer);
            }
            Err(mut status) => {
                let name = worker.with_table(|table| Some(table.backend(*backend)?.name.clone()));
                if let (Some(name), true) = (name, backends.len() > 1) {
                    status.message = format!("{} (backend '{name}')", status.message).into();
                }
                return Err(status.into());
            }
        }
    }
    Ok(first.unwrap_or_default())
}
