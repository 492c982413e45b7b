//! Calls about a model that a backend answers and the gateway re-encodes.

use std::future::Future as _;

use bytes::Bytes;
use h2::RecvStream;
use http::Response;
use stagegate_table::State;
use stagegate_wire::rewrite::{rename_config, rename_metadata};
use stagegate_wire::Malformed;

use crate::ask::{whole, Whole};
use crate::client::{Client, Failure};
use crate::cold;
use crate::download;
use crate::exchange::ask_version;
use crate::headers;
use crate::joined::Joined;
use crate::message::{self, malformed};
use crate::routed::Routed;
use crate::status::{bare_head, Status};
use crate::unary::receive;
use crate::worker::Worker;

/// A call whose answer is re-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Metadata,
    Config,
}

/// Read a unary request to its end.
pub(crate) async fn receive_whole(worker: &Worker, client: &mut Client) -> Result<Bytes, Failure> {
    receive(worker, client).await?;
    message::whole(client).await
}

/// Answer `ModelMetadata` or `ModelConfig`.
pub(crate) async fn about_model(
    worker: &Worker,
    client: &mut Client,
    about: About,
) -> Result<(), Failure> {
    receive(worker, client).await?;
    let names = client.message.names()?;
    let mut routed = worker.resolve(names, &client.headers)?;
    if about == About::Metadata && routed.version.state != State::Ready {
        if let Some(known) = known_metadata(&routed)? {
            return client.reply(known).await;
        }
    }
    cold::ready_for(worker, client, &mut routed).await?;
    let (response, via) = ask_version(worker, client, &mut routed, None).await?;
    let answer = collect(worker, client, response, via.name(), &routed).await?;
    let Some((mut head, message)) = answer else {
        return Ok(());
    };
    let message = encode(worker, &routed, &message, about).map_err(|error| {
        let backend = via.name();
        Status::internal(format!(
            "backend '{backend}' gave an answer that cannot be read: {error}"
        ))
    })?;
    // What was inflated is plain now.
    head.headers_mut().remove(headers::GRPC_ENCODING);
    reply(worker, client, head, message, &routed).await
}

/// The metadata that the contract of a version gives, where it does.
fn known_metadata(routed: &Routed) -> Result<Option<Bytes>, Status> {
    let version = &routed.version;
    if version.metadata.is_empty() {
        return Ok(None);
    }
    rename_metadata(&version.metadata, &routed.model.name, &[&version.id])
        .map(Some)
        .map_err(malformed)
}

fn encode(
    worker: &Worker,
    routed: &Routed,
    message: &[u8],
    about: About,
) -> Result<Bytes, Malformed> {
    let (model, version) = (&*routed.model.name, &*routed.version.id);
    match about {
        About::Metadata => rename_metadata(message, model, &[version]),
        About::Config => rename_config(message, model, &|triton| {
            logical_name(worker, routed, triton)
        }),
    }
}

/// The logical name of a Triton model, such as a step of an ensemble; a part of the version itself has
/// the name that it had in its artifact.
pub(crate) fn logical_name(worker: &Worker, routed: &Routed, triton: &str) -> Option<String> {
    if *routed.version.backend_model == *triton {
        return Some(routed.model.name.to_string());
    }
    if let Some(part) = part_of(&routed.version.backend_model, triton) {
        return Some(part.to_owned());
    }
    // There is no index for it: only a config with ensemble steps gets here, off the hot path.
    worker.with_table(|table| {
        let mut models = table.models();
        let model =
            models.find(|model| model.versions.iter().any(|v| *v.backend_model == *triton))?;
        Some(model.name.to_string())
    })
}

/// The part of an ensemble that a Triton model is: `router.model.part_name` makes these names.
fn part_of<'t>(whole: &str, triton: &'t str) -> Option<&'t str> {
    let part = triton.strip_prefix(whole)?.strip_prefix(".part-")?;
    (!part.contains('.')).then_some(part)
}

async fn reply(
    worker: &Worker,
    client: &mut Client,
    mut head: Response<()>,
    message: Bytes,
    routed: &Routed,
) -> Result<(), Failure> {
    download::mark(head.headers_mut(), worker, Some(routed));
    client.head(head, false)?;
    client.send(Joined::message(message, Bytes::new())).await?;
    client.trailers(Status::ok().trailers())
}

/// The one message of an answer with its head. `None` where the backend refused: the client has that.
async fn collect(
    worker: &Worker,
    client: &mut Client,
    response: Response<RecvStream>,
    backend: &str,
    routed: &Routed,
) -> Result<Option<(Response<()>, Bytes)>, Failure> {
    let outcome = {
        let mut reading = Box::pin(whole(worker, response, backend));
        client.wait(|_, cx| reading.as_mut().poll(cx)).await?
    };
    let mut last = match outcome? {
        Whole::Answer(head, message) => return Ok(Some((head, message))),
        Whole::Refusal(_, last) => last,
    };
    headers::for_client(&mut last);
    download::rewrite_text(
        &mut last,
        Some((&routed.version.backend_model, &routed.model.name)),
    );
    let mut refusal = bare_head();
    refusal.headers_mut().extend(last);
    client.head(refusal, true)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::part_of;

    #[test]
    fn a_part_is_called_as_in_its_artifact() {
        assert_eq!(part_of("m.1.0a", "m.1.0a.part-scale"), Some("scale"));
        assert_eq!(part_of("m.1.0a", "m.1.0a.part-x.1.0b"), None);
        assert_eq!(part_of("m.1.0a", "m.1.0a"), None);
        assert_eq!(part_of("m.1.0a", "n.1.0a.part-scale"), None);
    }
}
