//! TLS towards clients and towards Tritons: from PEM texts to sockets.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::client_certificate::OneName;
use crate::io::Io;
use crate::tls_socket::TlsSocket;
use crate::validity::Validity;

/// Why certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(pub String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// What is spoken inside TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// HTTP/2, which peers must agree to.
    H2,
    /// HTTP/1.1, which peers may leave unsaid.
    Http1,
}

impl Inside {
    fn name(self) -> &'static [u8] {
        match self {
            Self::H2 => b"h2",
            Self::Http1 => b"http/1.1",
        }
    }
}

/// The gateway's own certificate, and whose certificates clients must bring.
pub struct ServerTls {
    h2: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    not_after: i64,
}

impl ServerTls {
    /// Read a certificate chain and its key, and the certificates that those of clients must lead to
    /// (empty where clients need none), all in PEM.
    ///
    /// # Errors
    /// Something is no PEM, does not go together, or is not valid at this moment.
    pub fn new(cert: &[u8], key: &[u8], client_ca: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let (certified, validity) = certified(&provider, cert, key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused("", &error))?;
        let must_identify = !client_ca.is_empty();
        let builder = if must_identify {
            let roots = Arc::new(roots("client_ca", client_ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| refused("client_ca: ", &error))?;
            builder.with_client_cert_verifier(Arc::new(OneName::new(verifier)))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        if must_identify {
            // A resumed session would bring no certificate, and so outlive one that ran out.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = ring::Ticketer::new().map_err(|error| refused("", &error))?;
        }
        let speaking = |inside: Inside| {
            let mut config = config.clone();
            config.alpn_protocols = vec![inside.name().to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            h2: speaking(Inside::H2),
            http1: speaking(Inside::Http1),
            not_after: validity.until,
        })
    }

    /// Unix seconds after which the certificate is no longer valid.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    fn config(&self, inside: Inside) -> Arc<ServerConfig> {
        Arc::clone(match inside {
            Inside::H2 => &self.h2,
            Inside::Http1 => &self.http1,
        })
    }
}

/// How one backend is to be spoken to.
pub struct BackendTls {
    h2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    not_after: Option<i64>,
}

impl BackendTls {
    /// Read the certificates that the backend's must lead to, and the gateway's own certificate and key
    /// for it (empty where it asks for none), all in PEM. `server_name` is what the backend's certificate
    /// must be for; where it is empty, the host of its address.
    ///
    /// # Errors
    /// As for [`ServerTls::new`].
    pub fn new(ca: &[u8], cert: &[u8], key: &[u8], server_name: &str) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots("ca", ca)?);
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| refused("ca: ", &error))?;
        let own = if cert.is_empty() {
            None
        } else {
            Some(certified(&provider, cert, key)?)
        };
        let not_after = own.as_ref().map(|(_, validity)| validity.until);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused("", &error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match own {
            Some((own, _)) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
            None => builder.with_no_client_auth(),
        };
        let name = if server_name.is_empty() {
            None
        } else {
            let name = ServerName::try_from(server_name.to_owned());
            Some(name.map_err(|_| TlsError(format!("server_name: {server_name:?} is no name")))?)
        };
        let speaking = |inside: Inside| {
            let mut config = config.clone();
            config.alpn_protocols = vec![inside.name().to_vec()];
            Arc::new(config)
        };
        Ok(Self {
            h2: speaking(Inside::H2),
            http1: speaking(Inside::Http1),
            name,
            not_after,
        })
    }

    /// Unix seconds after which the gateway's own certificate for it is no longer valid, if it has one.
    #[must_use]
    pub fn not_after(&self) -> Option<i64> {
        self.not_after
    }
}

/// What all threads share of TLS; replaced while connections are open, which keep what they began with.
#[derive(Default)]
pub(crate) struct TlsState {
    front: ArcSwapOption<ServerTls>,
    backends: ArcSwap<HashMap<String, Arc<BackendTls>>>,
}

impl TlsState {
    pub(crate) fn new(front: Option<ServerTls>) -> Self {
        Self {
            front: ArcSwapOption::from_pointee(front),
            backends: ArcSwap::default(),
        }
    }

    /// Take another certificate for connections that come from now on.
    pub(crate) fn set_front(&self, front: ServerTls) {
        self.front.store(Some(Arc::new(front)));
    }

    /// Speak TLS with the backend of that name from now on, or (`None`) plaintext.
    pub(crate) fn set_backend(&self, name: &str, tls: Option<BackendTls>) {
        let tls = tls.map(Arc::new);
        self.backends.rcu(|now| {
            let mut after = HashMap::clone(now);
            match &tls {
                Some(tls) => drop(after.insert(name.to_owned(), Arc::clone(tls))),
                None => drop(after.remove(name)),
            }
            after
        });
    }

    /// Whether the backend of that name is spoken to in TLS.
    pub(crate) fn has_backend(&self, name: &str) -> bool {
        self.backends.load().contains_key(name)
    }
}

/// A client's connection, after the TLS handshake where the gateway has a certificate.
///
/// # Errors
/// The handshake fails, or the client did not agree to what is spoken inside.
pub(crate) async fn accept(tls: &TlsState, tcp: TcpStream, inside: Inside) -> io::Result<Io> {
    let Some(front) = tls.front.load_full() else {
        return Io::new(tcp);
    };
    let acceptor = TlsAcceptor::from(front.config(inside));
    let stream = acceptor.accept(TlsSocket::new(tcp)?).await?;
    check_agreed(stream.get_ref().1.alpn_protocol(), inside)?;
    Ok(Io::tls(stream.into()))
}

/// A connection to a backend, after the TLS handshake where that backend has it.
///
/// # Errors
/// The handshake fails, or the backend did not agree to what is spoken inside.
pub(crate) async fn connect(
    tls: &TlsState,
    backend: &str,
    address: &str,
    tcp: TcpStream,
    inside: Inside,
) -> io::Result<Io> {
    let Some(back) = tls.backends.load().get(backend).cloned() else {
        return Io::new(tcp);
    };
    let name = match &back.name {
        Some(name) => name.clone(),
        None => host_of(address)?,
    };
    let config = match inside {
        Inside::H2 => &back.h2,
        Inside::Http1 => &back.http1,
    };
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(name, TlsSocket::new(tcp)?).await?;
    check_agreed(stream.get_ref().1.alpn_protocol(), inside)?;
    Ok(Io::tls(stream.into()))
}

fn check_agreed(agreed: Option<&[u8]>, inside: Inside) -> io::Result<()> {
    match agreed {
        Some(name) if name == inside.name() => Ok(()),
        None if inside == Inside::Http1 => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "TLS without an agreement (ALPN) on what is spoken inside",
        )),
    }
}

fn host_of(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}

fn refused(what: &str, error: &dyn fmt::Display) -> TlsError {
    TlsError(format!("{what}{error}"))
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(TlsError(format!("{key}: holds no certificate in PEM")))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError(format!("{key}: is no PEM: {error}"))),
    }
}

fn roots(key: &str, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(key, pem)? {
        store
            .add(certificate)
            .map_err(|error| refused(&format!("{key}: "), &error))?;
    }
    Ok(store)
}

fn certified(
    provider: &CryptoProvider,
    cert: &[u8],
    key: &[u8],
) -> Result<(CertifiedKey, Validity), TlsError> {
    let chain = certificates("cert", cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        TlsError("key: holds no private key in PEM that is not encrypted".to_owned())
    })?;
    let validity = chain
        .first()
        .and_then(|first| Validity::of(first))
        .ok_or_else(|| TlsError("cert: is no X.509 certificate".to_owned()))?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    if now > validity.until {
        return Err(TlsError("cert: is no longer valid".to_owned()));
    }
    if now < validity.from {
        return Err(TlsError("cert: is not valid yet".to_owned()));
    }
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError("cert and key do not belong together".to_owned())
        }
        error => refused("cert and key: ", &error),
    })?;
    Ok((certified, validity))
}
