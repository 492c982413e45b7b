//! Server reflection, `v1` and `v1alpha`, from the descriptors that the build made of `protos/`.

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use stagegate_wire::fields::Fields;
use stagegate_wire::local::{
    reflection_error, reflection_files, reflection_request, reflection_services, Reflection,
};

use crate::client::{Client, Failure};
use crate::framer::Caps;
use crate::joined::Joined;
use crate::message::malformed;
use crate::reader::{ReadError, Reader};
use crate::status::{answer_head, Code, Status};
use crate::worker::Worker;

/// A `FileDescriptorSet`, made by `scripts/generate`.
static DESCRIPTORS: &[u8] = include_bytes!("../descriptors.binpb");

const SERVICES: [&str; 4] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
];

/// Answer `ServerReflectionInfo`: one answer for each request on the stream.
pub(crate) async fn info(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    let mut reader = Reader::new(client.message.take_body()?, Caps::of(&worker.limits()));
    client.head(answer_head(), false)?;
    loop {
        let message = match client
            .wait(|client, cx| reader.poll_message(&client.headers, cx))
            .await?
        {
            Ok(Some(message)) => message,
            Ok(None) => return client.trailers(Status::ok().trailers()),
            Err(ReadError::Status(status)) => return Err(status.into()),
            Err(ReadError::Broken(_)) => return Err(Failure::Gone),
        };
        let answer = answer(&message)?;
        client.send(Joined::message(answer, Bytes::new())).await?;
    }
}

fn answer(request: &[u8]) -> Result<Bytes, Status> {
    let index = index();
    let found = match reflection_request(request).map_err(malformed)? {
        Reflection::Services => return Ok(reflection_services(request, &SERVICES)),
        Reflection::FileByName(name) => index.names.get(name).map(|at| (*at, name)).ok_or(name),
        Reflection::FileOfSymbol(name) => index.symbols.get(name).map(|at| (*at, name)).ok_or(name),
        Reflection::FileOfExtension(name) | Reflection::ExtensionsOf(name) => Err(name),
        Reflection::Unknown => {
            return Ok(reflection_error(
                request,
                Code::Unimplemented as u8,
                "unknown reflection request",
            ))
        }
    };
    Ok(match found {
        Ok((at, _)) => reflection_files(request, index.with_dependencies(at)),
        Err(name) => {
            let text = format!("'{}' is not found", String::from_utf8_lossy(name));
            reflection_error(request, Code::NotFound as u8, &text)
        }
    })
}

struct File {
    bytes: &'static [u8],
    dependencies: Vec<&'static [u8]>,
}

#[derive(Default)]
struct Index {
    files: Vec<File>,
    names: HashMap<&'static [u8], usize>,
    symbols: HashMap<Vec<u8>, usize>,
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = Index::default();
        payloads(DESCRIPTORS, 1).for_each(|file| index.add(file));
        index
    })
}

impl Index {
    fn add(&mut self, bytes: &'static [u8]) {
        let at = self.files.len();
        let name = payloads(bytes, 1).next().unwrap_or_default();
        let package = payloads(bytes, 2).next().unwrap_or_default();
        self.files.push(File {
            bytes,
            dependencies: payloads(bytes, 3).collect(),
        });
        self.names.insert(name, at);
        payloads(bytes, 4).for_each(|message| self.add_message(at, package, message));
        payloads(bytes, 5).for_each(|kind| self.add_enum(at, package, kind));
        payloads(bytes, 6).for_each(|service| {
            self.add_members(at, package, service);
        });
    }

    /// A message with its fields, nested types and oneofs.
    fn add_message(&mut self, at: usize, scope: &[u8], message: &'static [u8]) {
        let name = self.add_members(at, scope, message);
        payloads(message, 3).for_each(|nested| self.add_message(at, &name, nested));
        payloads(message, 4).for_each(|kind| self.add_enum(at, &name, kind));
        payloads(message, 8).for_each(|oneof| {
            self.add_symbol(at, &name, oneof);
        });
    }

    /// An enum; its values belong to the scope around it.
    fn add_enum(&mut self, at: usize, scope: &[u8], kind: &'static [u8]) {
        self.add_symbol(at, scope, kind);
        payloads(kind, 2).for_each(|value| {
            self.add_symbol(at, scope, value);
        });
    }

    /// A message with its fields, or a service with its methods: both have them as field 2.
    fn add_members(&mut self, at: usize, scope: &[u8], parent: &'static [u8]) -> Vec<u8> {
        let name = self.add_symbol(at, scope, parent);
        payloads(parent, 2).for_each(|member| {
            self.add_symbol(at, &name, member);
        });
        name
    }

    fn add_symbol(&mut self, at: usize, scope: &[u8], descriptor: &'static [u8]) -> Vec<u8> {
        let mut name = scope.to_vec();
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend_from_slice(payloads(descriptor, 1).next().unwrap_or_default());
        self.symbols.insert(name.clone(), at);
        name
    }

    /// A file and all that it imports, so that nobody has to ask again.
    fn with_dependencies(&self, at: usize) -> Vec<&'static [u8]> {
        let (mut order, mut next) = (vec![at], 0);
        while let Some(at) = order.get(next) {
            let imports = self.files[*at]
                .dependencies
                .iter()
                .filter_map(|name| self.names.get(name));
            let new: Vec<usize> = imports
                .copied()
                .filter(|import| !order.contains(import))
                .collect();
            order.extend(new);
            next += 1;
        }
        order.into_iter().map(|at| self.files[at].bytes).collect()
    }
}

/// Payloads of all fields of that number; our own descriptors are well formed.
fn payloads(message: &'static [u8], number: u32) -> impl Iterator<Item = &'static [u8]> {
    Fields::new(message)
        .filter_map(Result::ok)
        .filter(move |field| field.is(number))
        .map(|f| f.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(number: u8, text: &str) -> Bytes {
        let mut request = vec![number << 3 | 2, text.len() as u8];
        request.extend_from_slice(text.as_bytes());
        answer(&request).unwrap()
    }

    fn holds(bytes: &[u8], part: &str) -> bool {
        bytes
            .windows(part.len())
            .any(|window| window == part.as_bytes())
    }

    #[test]
    fn every_service_that_is_listed_can_be_described() {
        for service in SERVICES {
            assert!(
                index().symbols.contains_key(service.as_bytes()),
                "{service}"
            );
        }
    }

    #[test]
    fn a_symbol_brings_its_file_and_what_that_imports() {
        let files = ask(4, "inference.GRPCInferenceService.ModelInfer");

        assert!(holds(&files, "inference/grpc_service.proto"));
        assert!(holds(&files, "ModelEnsembling"));
    }

    #[test]
    fn nested_types_fields_and_enum_values_are_symbols() {
        for symbol in [
            "inference.ModelInferRequest.InferInputTensor",
            "inference.ModelInferRequest.id",
            "inference.TYPE_BOOL",
        ] {
            assert!(index().symbols.contains_key(symbol.as_bytes()), "{symbol}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let answer = ask(4, "inference.Nope");

        // error_response (7) { error_code (1): 5
        assert!(answer
            .windows(4)
            .any(|window| window[0] == 0x3a && window[2..] == [0x08, 0x05]));
    }
}
