//! What a path of the REST protocol names. Whatever is not in here is 404 and goes nowhere.

use http::Method;

/// Letters of a registry's name.
const MOST_REGISTRY: usize = 63;

/// A call of the REST protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// `/v2`
    ServerMetadata,
    /// `/v2/health/live`
    Live,
    /// `/v2/health/ready`
    Ready,
    /// `/v2/models/stats`
    AllStatistics,
    /// `/v2/repository/index`
    Index,
    /// `/v2/models/M[/versions/V]...`
    Model(ModelCall, Named),
    /// A call that `protocol.allow` opens, by the name of its gRPC method.
    Guarded(&'static str),
    /// `/webhooks/NAME`, by the name of a registry.
    Webhook(String),
}

/// What is asked about a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelCall {
    Metadata,
    Ready,
    Config,
    Statistics,
    Infer,
    Generate,
    GenerateStream,
}

/// The names in a path, unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// As `model_name`.
    pub(crate) model: Vec<u8>,
    /// As `model_version`; empty where the path has none.
    pub(crate) version: Vec<u8>,
}

/// Which methods a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
    Either,
}

impl Verb {
    pub(crate) fn takes(self, method: &Method) -> bool {
        match self {
            Self::Get => *method == Method::GET,
            Self::Post => *method == Method::POST,
            Self::Either => *method == Method::GET || *method == Method::POST,
        }
    }

    /// As the `Allow` header says it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Either => "GET, POST",
        }
    }
}

impl ModelCall {
    /// What follows the names in the path, with its slash.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Metadata => "",
            Self::Ready => "/ready",
            Self::Config => "/config",
            Self::Statistics => "/stats",
            Self::Infer => "/infer",
            Self::Generate => "/generate",
            Self::GenerateStream => "/generate_stream",
        }
    }

    /// Whether it runs the model.
    pub(crate) fn is_inference(self) -> bool {
        matches!(self, Self::Infer | Self::Generate | Self::GenerateStream)
    }

    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ready" => Self::Ready,
            "config" => Self::Config,
            "stats" => Self::Statistics,
            "infer" => Self::Infer,
            "generate" => Self::Generate,
            "generate_stream" => Self::GenerateStream,
            _ => return None,
        })
    }
}

/// The call of a path, and its methods. `None` where there is no such call.
pub(crate) fn parse(path: &str) -> Option<(Call, Verb)> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if segments.len() > 8 || segments.iter().any(|segment| is_crooked(segment)) {
        return None;
    }
    if let ["webhooks", registry] = segments[..] {
        let call = is_registry(registry).then(|| Call::Webhook(registry.to_owned()))?;
        return Some((call, Verb::Post));
    }
    let (first, rest) = segments.split_first()?;
    if *first != "v2" {
        return None;
    }
    Some(match rest {
        [] => (Call::ServerMetadata, Verb::Get),
        ["health", "live"] => (Call::Live, Verb::Get),
        ["health", "ready"] => (Call::Ready, Verb::Get),
        ["models", "stats"] => (Call::AllStatistics, Verb::Get),
        ["models", _, "trace", "setting"] => (Call::Guarded("TraceSetting"), Verb::Either),
        ["models", name, "versions", version, call @ ..] => model(name, version, call)?,
        ["models", name, call @ ..] => model(name, "", call)?,
        ["repository", "index"] => (Call::Index, Verb::Post),
        rest => return guarded(rest),
    })
}

/// Segments that mean another path to somebody else.
fn is_crooked(segment: &str) -> bool {
    let Some(plain) = unescape(segment) else {
        return true;
    };
    matches!(&plain[..], b"" | b"." | b"..") || plain.iter().any(|b| matches!(b, b'/' | b'\\'))
}

/// Whether a registry may be called so in the configuration.
fn is_registry(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MOST_REGISTRY).contains(&name.len()) && name.bytes().all(fits)
}

fn model(name: &str, version: &str, call: &[&str]) -> Option<(Call, Verb)> {
    let call = match call {
        [] => ModelCall::Metadata,
        [word] => ModelCall::of(word)?,
        _ => return None,
    };
    let named = Named {
        model: unescape(name)?,
        version: unescape(version)?,
    };
    let verb = if call.is_inference() {
        Verb::Post
    } else {
        Verb::Get
    };
    Some((Call::Model(call, named), verb))
}

fn guarded(rest: &[&str]) -> Option<(Call, Verb)> {
    let (method, verb) = match rest {
        ["repository", "models", _, "load"] => ("RepositoryModelLoad", Verb::Post),
        ["repository", "models", _, "unload"] => ("RepositoryModelUnload", Verb::Post),
        ["trace", "setting"] => ("TraceSetting", Verb::Either),
        ["logging"] => ("LogSettings", Verb::Either),
        ["systemsharedmemory", call @ ..] => shared_memory(
            call,
            [
                "SystemSharedMemoryStatus",
                "SystemSharedMemoryRegister",
                "SystemSharedMemoryUnregister",
            ],
        )?,
        ["cudasharedmemory", call @ ..] => shared_memory(
            call,
            [
                "CudaSharedMemoryStatus",
                "CudaSharedMemoryRegister",
                "CudaSharedMemoryUnregister",
            ],
        )?,
        _ => return None,
    };
    Some((Call::Guarded(method), verb))
}

fn shared_memory(call: &[&str], methods: [&'static str; 3]) -> Option<(&'static str, Verb)> {
    let [status, register, unregister] = methods;
    Some(match call {
        ["status"] | ["region", _, "status"] => (status, Verb::Get),
        ["region", _, "register"] => (register, Verb::Post),
        ["unregister"] | ["region", _, "unregister"] => (unregister, Verb::Post),
        _ => return None,
    })
}

/// Undo percent-encoding; `None` where it is broken.
fn unescape(segment: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// A name of Triton's as a segment of a path. Triton does not undo percent-encoding, so that only what
/// could not stand in a path at all is escaped.
pub(crate) fn put_segment(out: &mut String, name: &str) {
    use std::fmt::Write as _;

    for byte in name.bytes() {
        if byte.is_ascii_graphic()
            && !matches!(byte, b'/' | b'?' | b'#' | b'%' | b'"' | b'<' | b'>')
        {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(model: &str, version: &str) -> Named {
        Named {
            model: model.into(),
            version: version.into(),
        }
    }

    #[test]
    fn calls_of_the_protocol() {
        use ModelCall::*;
        for (path, call) in [
            ("/v2", Call::ServerMetadata),
            ("/v2/health/live", Call::Live),
            ("/v2/health/ready", Call::Ready),
            ("/v2/models/stats", Call::AllStatistics),
            ("/v2/repository/index", Call::Index),
            ("/v2/models/m", Call::Model(Metadata, named("m", ""))),
            (
                "/v2/models/m/versions/7",
                Call::Model(Metadata, named("m", "7")),
            ),
            ("/v2/models/m/ready", Call::Model(Ready, named("m", ""))),
            (
                "/v2/models/m/versions/7/config",
                Call::Model(Config, named("m", "7")),
            ),
            (
                "/v2/models/m/stats",
                Call::Model(Statistics, named("m", "")),
            ),
            ("/v2/models/m/infer", Call::Model(Infer, named("m", ""))),
            (
                "/v2/models/m%40champion/infer",
                Call::Model(Infer, named("m@champion", "")),
            ),
            ("/v2/models/m@x/infer", Call::Model(Infer, named("m@x", ""))),
            (
                "/v2/models/m/versions/%40champion/generate",
                Call::Model(Generate, named("m", "@champion")),
            ),
            (
                "/v2/models/m/generate_stream",
                Call::Model(GenerateStream, named("m", "")),
            ),
            ("/v2/logging", Call::Guarded("LogSettings")),
            ("/v2/trace/setting", Call::Guarded("TraceSetting")),
            ("/v2/models/m/trace/setting", Call::Guarded("TraceSetting")),
            (
                "/v2/repository/models/m/load",
                Call::Guarded("RepositoryModelLoad"),
            ),
            (
                "/v2/cudasharedmemory/region/r/register",
                Call::Guarded("CudaSharedMemoryRegister"),
            ),
            ("/webhooks/a.B_9-", Call::Webhook("a.B_9-".to_owned())),
            (
                "/v2/systemsharedmemory/unregister",
                Call::Guarded("SystemSharedMemoryUnregister"),
            ),
        ] {
            assert_eq!(Some(call), parse(path).map(|(call, _)| call), "{path}");
        }
    }

    #[test]
    fn other_paths_are_none() {
        for path in [
            "",
            "/",
            "v2",
            "/v1",
            "/v2/",
            "//v2",
            "/v2//models/m",
            "/v2/models",
            "/v2/models/",
            "/v2/models/m/",
            "/v2/models/../repository/index",
            "/v2/models/%2e%2e/infer",
            "/v2/models/./infer",
            "/v2/models/a%2fb/infer",
            "/v2/models/a%2Fb/infer",
            "/v2/models/a%5cb/infer",
            "/v2/models/a%zz/infer",
            "/v2/models/a%2/infer",
            "/v2/models/m/versions",
            "/v2/models/m/versions//infer",
            "/v2/models/m/nope",
            "/v2/models/m/infer/x",
            "/v2/health",
            "/v2/health/live/x",
            "/metrics",
            "/webhooks",
            "/webhooks/",
            "/webhooks/..",
            "/webhooks/a/b",
            "/webhooks/a%2e",
            "/webhooks/a:b",
            "/v2/webhooks/a",
            "/invocations",
            "/V2/health/live",
        ] {
            assert_eq!(None, parse(path), "{path}");
        }
    }

    #[test]
    fn what_runs_a_model_is_posted() {
        let verb = |path| parse(path).unwrap().1;

        assert_eq!(Verb::Post, verb("/v2/models/m/infer"));
        assert_eq!(Verb::Post, verb("/webhooks/mine"));
        let name = "x".repeat(MOST_REGISTRY);
        assert!(parse(&format!("/webhooks/{name}")).is_some());
        assert!(parse(&format!("/webhooks/{name}x")).is_none());
        assert_eq!(Verb::Get, verb("/v2/models/m/ready"));
        assert!(!Verb::Get.takes(&Method::HEAD));
        assert!(Verb::Either.takes(&Method::POST));
    }

    #[test]
    fn names_of_triton_stay_as_they_are() {
        let mut out = String::new();

        put_segment(&mut out, "digits.3.0a1b2c3d");
        put_segment(&mut out, " é/%");

        assert_eq!("digits.3.0a1b2c3d%20%C3%A9%2F%25", out);
    }
}
